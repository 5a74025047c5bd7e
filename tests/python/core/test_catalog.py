"""The cache over the archive, at its limits."""

from __future__ import annotations

import dataclasses
import functools
import sqlite3
from typing import TYPE_CHECKING

import pytest
from dpi_probe import _native
from dpi_probe.core.archive import ArchiveWriter, Durable, Entry, Kind, Place
from dpi_probe.core.catalog import Catalog, CatalogError, Stored
from dpi_probe.core.jose import unb64url
from dpi_probe.core.manifest import manifest_of
from harness.sealing import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dpi_probe.core.catalog import Chain


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A new one."""
    catalog = Catalog(tmp_path / "catalog.sqlite", writable=True)
    yield catalog
    catalog.close()


def stored(pki: Path, seq: int) -> Stored:
    """An entry of a chain of its own."""
    manifest = dataclasses.replace(manifest_of(Probe("sensor", pki).seal()), seq=seq)
    return Stored(manifest, Kind.BATCH, Place(0, 36, 1000), 1)


def chains_of(catalog: Catalog) -> list[Chain]:
    """All chains that a catalog knows."""
    return [chain for state in catalog.probes() for chain in catalog.chains(state.probe, 1000)]


def test_heads_far_off_do_not_overflow_the_sum(catalog: Catalog, shared_pki: Path) -> None:
    catalog.add([stored(shared_pki, 1 << 62) for _ in range(2)], Durable(0, 36, 2))
    totals = catalog.totals()
    assert totals["missing"] == 1 << 63
    assert {type(value) for value in totals.values()} == {int}


def test_what_it_cannot_keep_is_its_own_error_and_leaves_nothing(catalog: Catalog, shared_pki: Path) -> None:
    with pytest.raises(CatalogError, match="too large"):
        catalog.add([stored(shared_pki, 0), stored(shared_pki, (1 << 63) - 1)], Durable(0, 36, 2))
    assert chains_of(catalog) == []
    assert catalog.covered() is None


@pytest.fixture
def filled(tmp_path: Path, shared_pki: Path) -> Path:
    """The file of a catalog that knows something."""
    path = tmp_path / "catalog.sqlite"
    catalog = Catalog(path, writable=True)
    catalog.add([stored(shared_pki, 0)], Durable(0, 1036, 1))
    catalog.close()
    return path


def test_a_lock_is_told_and_takes_nothing_away(filled: Path) -> None:
    before = filled.read_bytes()
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CatalogError, match="locked"):
        Catalog(filled, writable=True)
    other.execute("ROLLBACK")
    other.close()
    assert filled.read_bytes() == before
    catalog = Catalog(filled, writable=True)
    assert catalog.covered() == Durable(0, 1036, 1)
    catalog.close()


def test_a_full_disk_is_told_and_takes_nothing_away(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled.read_bytes()

    class Full(sqlite3.Connection):
        """Its disk has no room for the shared memory of the log."""

        def execute(self, *_: object) -> sqlite3.Cursor:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
            raise error

    with monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Full))
        with pytest.raises(CatalogError, match="disk I/O error"):
            Catalog(filled, writable=True)
    assert filled.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "a page", "another version"])
def test_what_is_damaged_or_of_another_version_is_made_again(filled: Path, damage: str) -> None:
    content = bytearray(filled.read_bytes())
    if damage == "no database":
        content[:16] = b"not a database.."
    elif damage == "a page":
        content[100:4096] = b"\xff" * 3996
    else:
        content[60:64] = (99).to_bytes(4, "big")
    filled.write_bytes(content)
    catalog = Catalog(filled, writable=True)
    assert catalog.covered() is None
    assert chains_of(catalog) == []
    catalog.close()


def test_an_archive_with_a_position_that_it_cannot_keep_is_read_to_its_end(
    tmp_path: Path, catalog: Catalog, probe: Probe
) -> None:
    batches = [probe.seal(), Probe("sensor", probe.pki).seal(seq=(1 << 63) - 1, prev="A" * 43), probe.seal()]
    writer = ArchiveWriter(tmp_path / "archive", segment_max_bytes=1 << 20)
    for position, body in enumerate(batches):
        claims = _native.read_claims(body)
        digest = unb64url(claims["manifest_digest"])
        key = (claims["claims"]["iss"], bytes.fromhex(claims["claims"]["chain"]), claims["claims"]["seq"])
        writer.append([Entry(Kind.BATCH, position, 1, *key, digest, body, "")])
    writer.close()
    assert catalog.catch_up(tmp_path / "archive", {"sensor": [probe.der]}) == 1, "it counts as damage"
    assert [(chain.archived, chain.head_seq) for chain in chains_of(catalog)] == [(2, 1)]
    assert catalog.covered() == writer.end


def test_what_no_probe_signed_is_not_taken_in(tmp_path: Path, catalog: Catalog, probe: Probe) -> None:
    honest, altered = (manifest_of(probe.seal()) for _ in range(2))
    head, claims, signature = altered.token.split(".")
    forged = manifest_of(f"{head}.{claims}.{'A' * len(signature)}".encode())
    writer = ArchiveWriter(tmp_path / "archive", segment_max_bytes=1 << 20)
    for position, manifest in enumerate((honest, forged)):
        key = (manifest.iss, manifest.chain, manifest.seq)
        writer.append([Entry(Kind.MANIFEST, position, 1, *key, manifest.digest, manifest.token.encode(), "")])
    writer.close()
    other = Probe("other", probe.pki)
    assert catalog.catch_up(tmp_path / "archive", {"sensor": [probe.der], "other": [other.der]}) == 1
    assert [(chain.manifest_only, chain.head_seq) for chain in chains_of(catalog)] == [(1, 0)]
    # The certificate of another probe is not one of this probe's.
    again = Catalog(tmp_path / "again.sqlite", writable=True)
    assert again.catch_up(tmp_path / "archive", {"other": [probe.der]}) == 2
    again.close()


def test_a_catalog_that_lacks_entries_for_want_of_a_certificate_is_rebuilt(tmp_path: Path, probe: Probe) -> None:
    writer = ArchiveWriter(tmp_path / "archive", segment_max_bytes=1 << 20)
    other = Probe("other", probe.pki)
    for position, manifest in enumerate(manifest_of(one.seal()) for one in (other, probe)):
        key = (manifest.iss, manifest.chain, manifest.seq)
        writer.append([Entry(Kind.MANIFEST, position, 1, *key, manifest.digest, manifest.token.encode(), "")])
    writer.close()
    path = tmp_path / "catalog.sqlite"
    found = []
    for certificates in ({"sensor": [probe.der]}, {"sensor": [probe.der], "other": [other.der]}, {}):
        catalog = Catalog(path, writable=True)
        damaged = catalog.catch_up(tmp_path / "archive", certificates)
        found.append((damaged, sorted(chain.probe for chain in chains_of(catalog))))
        catalog.close()
    assert found == [(1, ["sensor"]), (0, ["other", "sensor"]), (0, ["other", "sensor"])]


@pytest.mark.parametrize("name", ["a#b", "a%41b", "a?mode=rw", "a b", "ä"])
def test_the_name_of_its_directory_is_of_no_matter(tmp_path: Path, shared_pki: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    path = tmp_path / name / "catalog.sqlite"
    made = Catalog(path, writable=True)
    made.add([stored(shared_pki, 0)], Durable(0, 1036, 1))
    made.close()
    catalog = Catalog(path)
    assert catalog.covered() == Durable(0, 1036, 1)
    with pytest.raises(CatalogError, match="readonly"):
        catalog.add([], Durable(0, 2000, 2))
    catalog.close()
