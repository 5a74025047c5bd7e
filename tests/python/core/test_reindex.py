"""The database again, from the archive alone: whose signatures count."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe._pki import Authority, load_certificate
from dpi_probe.core.archive import ArchiveWriter, Durable, Entry, Kind
from dpi_probe.core.manifest import manifest_of
from harness.core import COMMAND
from harness.sealing import Probe

if TYPE_CHECKING:
    from pathlib import Path


def archive(data: Path, batches: list[bytes], *, segment_max_bytes: int = 1 << 20) -> list[Durable]:
    """An archive of sealed batches; where it ends behind each."""
    writer = ArchiveWriter(data / "archive", segment_max_bytes=segment_max_bytes)
    ends = []
    for body in batches:
        manifest = manifest_of(body)
        key = (manifest.iss, manifest.chain, manifest.seq)
        writer.append([Entry(Kind.BATCH, writer.next_position, 10**18, *key, manifest.digest, body, "")])
        ends.append(writer.end)
    writer.close()
    return ends


def keep(data: Path, *certificates: Path) -> None:
    """Put certificates beside the archive, by their names in the order of the arguments."""
    (data / "archive" / "certificates").mkdir()
    for number, path in enumerate(certificates):
        (data / "archive" / "certificates" / f"{number}.pem").write_bytes(path.read_bytes())


def reindex(data: Path, pki: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "core", "reindex", "--data-dir", data, "--pki", pki],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_what_another_authority_issued_is_not_indexed(tmp_path: Path, probe: Probe, shared_pki: Path) -> None:
    data = tmp_path / "data"
    foreign = tmp_path / "foreign"
    Authority.init(foreign, probes=["sensor"])
    forger = Probe("sensor", foreign)
    archive(data, [probe.seal(), forger.seal(), probe.seal()])
    keep(data, probe.certificate_path, forger.certificate_path)
    done = reindex(data, shared_pki)
    assert done.returncode == 4, done.stderr
    authority = load_certificate(shared_pki / "ca.pem", "CA certificate").subject.rfc4514_string()
    passed_over = f"{data}/archive/certificates/1.pem: not issued by {authority}; what it signed cannot be verified"
    assert passed_over in done.stderr
    assert f"chain {forger.chain} seq 0: not indexed: does not verify" in done.stderr
    assert "1 entry of the archive could not be indexed" in done.stderr
    assert done.stdout == "indexed 3 batches, 9 rows\n"


def test_another_authority_than_the_archives_changes_nothing(tmp_path: Path, probe: Probe, shared_pki: Path) -> None:
    data = tmp_path / "data"
    Authority.init(tmp_path / "foreign")
    archive(data, [probe.seal()])
    keep(data, probe.certificate_path)
    kept = load_certificate(shared_pki / "ca.pem", "CA certificate").public_bytes(Encoding.PEM)
    (data / "archive" / "ca.pem").write_bytes(kept)
    done = reindex(data, tmp_path / "foreign")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not the authority of the archive" in done.stderr
    assert not (data / "database").exists()
