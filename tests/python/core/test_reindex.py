"""The database again, from the archive alone: how far it is read, and whose signatures count."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe._pki import Authority, load_certificate
from dpi_probe.core.archive import ArchiveWriter, Durable, Entry, Kind
from dpi_probe.core.catalog import Catalog, CatalogError
from dpi_probe.core.lock import locked
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.reindex import _end
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


def remember(data: Path, end: Durable) -> None:
    """A catalog that reaches up to there."""
    catalog = Catalog(data / "catalog.sqlite", writable=True)
    catalog.add([], end)
    catalog.close()


def reindex(data: Path, pki: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "core", "reindex", "--data-dir", data, "--pki", pki],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_catalog_that_a_power_cut_set_back_leaves_no_batch_out(
    tmp_path: Path, probe: Probe, shared_pki: Path
) -> None:
    ends = archive(tmp_path, [probe.seal() for _ in range(6)])
    keep(tmp_path, probe.certificate_path)
    remember(tmp_path, ends[2])
    done = reindex(tmp_path, shared_pki)
    assert (done.returncode, done.stdout) == (0, f"indexed 6 batches, {6 * 3 + 3 * 1 + 3 * 2} rows\n"), done.stderr


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["one segment", "a segment each"])
@pytest.mark.parametrize("known", [None, 0, 3, 5])
def test_where_no_core_runs_everything_that_is_whole_counts(
    tmp_path: Path, probe: Probe, known: int | None, size: int
) -> None:
    ends = archive(tmp_path, [probe.seal() for _ in range(6)], segment_max_bytes=size)
    if known is not None:
        remember(tmp_path, ends[known])
    (*_, newest) = sorted((tmp_path / "archive").glob("*.dpa"))
    whole = newest.read_bytes()
    # Cut by a crash, and no receipt was given.
    newest.write_bytes(whole + whole[36:900])
    assert _end(tmp_path) == ends[-1]
    with locked(tmp_path):
        """It is free again."""


def test_damage_behind_the_catalog_ends_nothing(tmp_path: Path, probe: Probe) -> None:
    ends = archive(tmp_path, [probe.seal() for _ in range(4)])
    remember(tmp_path, ends[1])
    (segment,) = (tmp_path / "archive").glob("*.dpa")
    content = bytearray(segment.read_bytes())
    content[ends[2].offset - 10] ^= 1
    segment.write_bytes(content)
    assert _end(tmp_path) == ends[3]


def test_segments_that_the_catalog_knows_and_that_are_gone_are_not_made_good_by_others(
    tmp_path: Path, probe: Probe
) -> None:
    *_, end = archive(tmp_path, [probe.seal() for _ in range(3)], segment_max_bytes=1)
    remember(tmp_path, end)
    (tmp_path / "archive" / "segment-0000000002.dpa").unlink()
    assert _end(tmp_path) == end


def test_while_a_core_runs_only_what_it_knows_to_be_on_disk_counts(tmp_path: Path, probe: Probe) -> None:
    ends = archive(tmp_path, [probe.seal() for _ in range(4)])
    with locked(tmp_path):
        remember(tmp_path, ends[1])
        assert _end(tmp_path) == ends[1]
        (tmp_path / "catalog.sqlite").write_bytes(b"damaged")
        with pytest.raises(CatalogError):
            _end(tmp_path)
    assert _end(tmp_path) == ends[3]


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
