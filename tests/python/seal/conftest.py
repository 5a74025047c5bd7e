"""Chains sealed with the test PKI of `tests/vectors/pki`, laid out as spool, archive and export."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native
from dpi_probe._verify import Report, verify_paths
from dpi_probe.core.archive import ArchiveWriter, Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

VECTORS = Path(__file__).parents[2] / "vectors"
PKI = VECTORS / "pki"
NOW = 1_790_000_000


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The generator of the vectors: a sealer of its own."""
    return load_module(VECTORS / "make.py")


@pytest.fixture(scope="session")
def independent() -> ModuleType:
    """The second verifier."""
    return load_module(VECTORS.parent / "independent_verifier.py")


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    return lambda name: json.loads((VECTORS / f"{name}.json").read_text())


def der(name: str) -> bytes:
    return x509.load_pem_x509_certificate((PKI / f"{name}.pem").read_bytes()).public_bytes(Encoding.DER)


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def random_bytes(text: str) -> bytes:
    """Six bytes that do not compress: stored as they are, so that one record can be altered on disk."""
    return hashlib.sha256(text.encode()).digest()[:6]


def table(rows: int = 5, text: str = "record") -> pa.RecordBatch:
    texts = [f"{text}-{row}" for row in range(rows)]
    random = pa.array([random_bytes(item) for item in texts], pa.binary(6))
    return pa.record_batch({"n": pa.array(range(rows), pa.uint64()), "text": texts, "random": random})


@dataclass
class Sealed:
    """A sealed batch."""

    data: bytes
    manifest: str
    claims: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.claims['chain']}-{self.claims['seq']:016x}"


@dataclass
class Evidence:
    """One chain, and the layouts it can be written in."""

    make: ModuleType
    batches: list[Sealed] = field(default_factory=list)

    def seal(self, count: int, chain: str, before: Sealed | None = None, **claims: Any) -> list[Sealed]:
        """A chain of `count` batches."""
        made: list[Sealed] = []
        for seq in range(count):
            stated: dict[str, Any] = {"iss": "probe-1/eth0", "kind": "flow", "chain": chain, "seq": seq, "iat": NOW}
            last = made[-1] if made else before
            if last is not None:
                stated["prev"] = digest(last.manifest.encode())
            if before is not None and not made:
                stated |= {"prev_chain": before.claims["chain"], "prev_seq": before.claims["seq"]}
            made.append(self.one(table(text=f"{chain[:4]}-{seq}"), **(stated | claims)))
        return made

    def one(self, batch: pa.RecordBatch, probe: str = "probe", **stated: Any) -> Sealed:
        key = (PKI / f"{probe}.key").read_bytes()
        data = _native.seal_batch(self.make.plain_stream(batch), key, der(probe), stated)
        signed = _native.read_claims(data)
        return Sealed(data, signed["manifest"], dict(signed["claims"]))

    def whenever(self, batch: pa.RecordBatch, probe: str, **stated: Any) -> Sealed:
        """A batch of the sealer of the vectors, which does not ask whether the certificate is valid."""
        data, manifest = self.make.seal(batch, *self.make.load(probe), **stated)
        return Sealed(data, manifest, stated)

    def receipt(self, sealed: Sealed, typ: str = "dpi-receipt+jwt", **claims: Any) -> str:
        core_key, core_der = self.make.load("core")
        header = {"alg": "ES256", "typ": typ, "x5c": [base64.b64encode(core_der).decode()]}
        stated = {
            "v": 1, "iss": "core-1", "probe": sealed.claims["iss"], "chain": sealed.claims["chain"],
            "seq": sealed.claims["seq"], "manifest": digest(sealed.manifest.encode()), "iat": NOW,
        }  # fmt: skip
        if typ == "dpi-receipt+jwt":
            stated["status"] = "archived"
        return str(self.make.jws(header, stated | claims, core_key))

    def spool(self, directory: Path, batches: Iterable[Sealed], head: Sealed | None = None) -> Path:
        for part in ("pending", "rejected", "tmp"):
            (directory / part).mkdir(parents=True)
        for sealed in batches:
            (directory / "pending" / f"{sealed.name}.arrows").write_bytes(sealed.data)
        if head is not None:
            stated = {"v": 1, "chain": head.claims["chain"], "seq": head.claims["seq"]}
            (directory / "head.json").write_text(json.dumps({**stated, "manifest": digest(head.manifest.encode())}))
        return directory

    def certificates(self, directory: Path) -> None:
        (directory / "certificates").mkdir(parents=True, exist_ok=True)
        (directory / "ca.pem").write_bytes((PKI / "ca.pem").read_bytes())
        (directory / "certificates" / "probe.pem").write_bytes((PKI / "probe.pem").read_bytes())

    def entry(self, sealed: Sealed, position: int, kind: Kind = Kind.BATCH, body: bytes | None = None) -> Entry:
        manifest_hash = hashlib.sha256(sealed.manifest.encode()).digest()
        default = sealed.data if kind in {Kind.BATCH, Kind.FORK_BATCH} else sealed.manifest.encode()
        status = "archived" if kind is Kind.BATCH else "manifest_only"
        receipt = self.receipt(sealed, status=status) if kind in {Kind.BATCH, Kind.MANIFEST} else ""
        return Entry(
            kind, position, NOW * 10**9, sealed.claims["iss"], bytes.fromhex(sealed.claims["chain"]),
            sealed.claims["seq"], manifest_hash, default if body is None else body, receipt,
        )  # fmt: skip

    def archive(self, directory: Path, entries: list[Entry]) -> Path:
        writer = ArchiveWriter(directory, segment_max_bytes=1 << 28)
        writer.append(entries)
        self.certificates(directory)
        return directory

    def export(self, directory: Path, batches: Iterable[Sealed], heads: Iterable[Sealed] | None = None) -> Path:
        """An export; its heads name the last batch of each chain, unless they are given."""
        batches = list(batches)
        if heads is None:
            heads = {sealed.claims["chain"]: sealed for sealed in batches}.values()
        for sealed in batches:
            for part, suffix, data in (
                ("batches", "arrows", sealed.data),
                ("receipts", "jwt", self.receipt(sealed).encode()),
            ):
                path = directory / part / "probe-1%2Feth0" / f"{sealed.name}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        for sealed in heads:
            path = directory / "heads" / "probe-1%2Feth0" / f"{sealed.claims['chain']}.jwt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.receipt(sealed, "dpi-head+jwt"))
        self.certificates(directory)
        return directory


@pytest.fixture(scope="session")
def random() -> Callable[[str], bytes]:
    """What the column `random` holds for a text."""
    return random_bytes


@pytest.fixture(scope="session")
def evidence(make: ModuleType) -> Evidence:
    return Evidence(make)


@pytest.fixture(scope="session")
def chain(evidence: Evidence) -> list[Sealed]:
    """Ten batches of one chain."""
    return evidence.seal(10, "aa" * 16)


@pytest.fixture
def check() -> Callable[..., Report]:
    """Verifies under the test CA and certificates."""

    def run(*paths: Path, certificates: Iterable[str] = ("probe",)) -> Report:
        return verify_paths(paths, ca=PKI / "ca.pem", certificates=[PKI / f"{name}.pem" for name in certificates])

    return run
