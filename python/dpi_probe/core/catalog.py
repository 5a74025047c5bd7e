"""The catalog: which batches are archived, and where. A cache over the archive in SQLite.

In: entries that are on disk in the archive. Out: what is known of a key, the state of each chain.
Owns: `DATA_DIR/catalog.sqlite`. Never: knows something that the archive does not; it can be deleted and is rebuilt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dpi_probe import _native
from dpi_probe.core.archive import (
    Damage,
    Durable,
    Entry,
    Kind,
    Located,
    Place,
    read_segment,
    segments,
)
from dpi_probe.core.manifest import ManifestError, manifest_of
from dpi_probe.errors import DpiProbeError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dpi_probe.core.manifest import Manifest

logger = logging.getLogger(__name__)

# Raised when the tables change; a catalog of another version is rebuilt.
VERSION = 2
_CATCH_UP_ENTRIES = 1000
_TABLES = """
CREATE TABLE entries (
    probe TEXT NOT NULL, chain BLOB NOT NULL, seq INTEGER NOT NULL, manifest BLOB NOT NULL, prev BLOB,
    kind INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (probe, chain, seq, manifest)
) WITHOUT ROWID;
CREATE TABLE chains (
    probe TEXT NOT NULL, chain BLOB NOT NULL, archived INTEGER NOT NULL, manifest_only INTEGER NOT NULL,
    forks INTEGER NOT NULL, broken_links INTEGER NOT NULL, rows INTEGER NOT NULL,
    head_seq INTEGER NOT NULL, head_manifest BLOB NOT NULL, prev_chain BLOB, prev_seq INTEGER, prev BLOB,
    first_received INTEGER NOT NULL, last_received INTEGER NOT NULL,
    PRIMARY KEY (probe, chain)
) WITHOUT ROWID;
CREATE TABLE covered (
    id INTEGER PRIMARY KEY CHECK (id = 0), segment INTEGER NOT NULL, offset INTEGER NOT NULL, position INTEGER NOT NULL,
    incomplete INTEGER NOT NULL
);
"""


class CatalogError(DpiProbeError):
    """The catalog cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Known:
    """An entry of one key (probe, chain, seq)."""

    manifest: bytes
    kind: Kind
    place: Place


@dataclass(frozen=True, slots=True)
class ProbeState:
    """What there is of a probe."""

    probe: str
    chains: int
    last_received: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that was archived, as the catalog takes it in."""

    manifest: Manifest
    kind: Kind
    place: Place
    received_ns: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The state of one chain of one probe."""

    probe: str
    chain: bytes
    archived: int
    """Batches that are archived whole."""
    manifest_only: int
    """Batches that the probe had to drop and of which only the manifest is archived."""
    forks: int
    """Other manifests under a key that was taken."""
    broken_links: int
    """Neighbours of which the later does not name the earlier in `prev`."""
    rows: int
    head_seq: int
    head_manifest: bytes
    prev_chain: bytes | None
    prev_seq: int | None
    prev: bytes | None
    first_received: int
    last_received: int

    @property
    def missing(self) -> int:
        """Positions up to the head of which nothing is archived."""
        return max(0, self.head_seq + 1 - self.archived - self.manifest_only)


_CHAIN = ", ".join(field.name for field in fields(Chain))


class Catalog:
    """One connection to the catalog. Only the committer's writes."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Open the catalog; a writable one is made if it is missing, damaged or of another version.

        Raises:
            CatalogError: it cannot be opened.
        """
        self.path = path
        try:
            if writable:
                self._database = self._open_writable()
            else:
                self._database = sqlite3.connect(
                    f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, check_same_thread=False
                )
        except sqlite3.Error as error:
            raise CatalogError(f"catalog {path}: {error}") from error

    def _open_writable(self) -> sqlite3.Connection:
        database = self._open_present()
        if database is not None:
            return database
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        database = self._connect()
        database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        self.path.chmod(0o600)
        return database

    def _open_present(self) -> sqlite3.Connection | None:
        """The catalog as it is, or None where it must be made again."""
        database = None
        try:
            database = self._connect()
            if database.execute("PRAGMA user_version").fetchone() == (VERSION,):
                if (True,) not in database.execute("SELECT incomplete FROM covered").fetchall():
                    return database
                logger.warning(
                    "catalog %s: it lacks entries whose certificate was not there; it is rebuilt from the archive",
                    self.path,
                )
        except sqlite3.DatabaseError as error:
            if database is not None:
                database.close()
            # A full disk or a lock says nothing about the file.
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            logger.warning("catalog %s: %s; it is rebuilt from the archive", self.path, error)
            return None
        database.close()
        return None

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # A power cut may take the last transactions, which are read from the archive again, but damages nothing.
            database.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def covered(self) -> Durable | None:
        """How far into the archive the catalog reaches."""
        row = self._row("SELECT segment, offset, position FROM covered", ())
        return None if row is None else Durable(*row)

    def find(self, probe: str, chain: bytes, seq: int) -> list[Known]:
        """What is archived under a key: the accepted entry and its forks."""
        rows = self._rows(
            "SELECT manifest, kind, segment, offset, length FROM entries WHERE probe = ? AND chain = ? AND seq = ?",
            (probe, chain, seq),
        )
        return [Known(row[0], Kind(row[1]), Place(*row[2:])) for row in rows]

    def probes(self, after: str = "") -> Iterator[ProbeState]:
        """The state of every probe behind `after`, by their ids; read one by one, as they are asked for."""
        rows = self._lazily(
            "SELECT probe, count(*), max(last_received) FROM chains WHERE probe > ? GROUP BY probe ORDER BY probe",
            (after,),
        )
        return (ProbeState(*row) for row in rows)

    def probe(self, probe: str) -> ProbeState | None:
        """The state of one probe, or None if there is no chain of it."""
        row = self._row(
            "SELECT probe, count(*), max(last_received) FROM chains WHERE probe = ? GROUP BY probe", (probe,)
        )
        return None if row is None else ProbeState(*row)

    def chain(self, probe: str, chain: bytes) -> Chain | None:
        """The state of one chain."""
        row = self._row(f"SELECT {_CHAIN} FROM chains WHERE probe = ? AND chain = ?", (probe, chain))
        return None if row is None else Chain(*row)

    def chains(self, probe: str, limit: int, before: Chain | None = None) -> list[Chain]:
        """The state of a probe's newest chains, the last that began first; of those that began before another."""
        where = "" if before is None else "AND (first_received, chain) < (?, ?)"
        point = () if before is None else (before.first_received, before.chain)
        rows = self._rows(
            f"SELECT {_CHAIN} FROM chains WHERE probe = ? {where} ORDER BY first_received DESC, chain DESC LIMIT ?",
            (probe, *point, limit),
        )
        return [Chain(*row) for row in rows]

    def gaps(self, probe: str, chain: bytes, limit: int) -> list[tuple[int, int]]:
        """The first `limit` ranges of positions, both ends included, of which nothing is archived."""
        rows = self._rows(
            """SELECT before + 1, seq - 1 FROM (
                 SELECT seq, lag(seq, 1, -1) OVER (ORDER BY seq) AS before FROM (
                   SELECT DISTINCT seq FROM entries WHERE probe = ? AND chain = ? AND kind IN (1, 2)))
               WHERE seq > before + 1 ORDER BY seq LIMIT ?""",
            (probe, chain, limit),
        )
        return [(row[0], row[1]) for row in rows]

    def totals(self) -> dict[str, int]:
        """Sums over all chains, for metrics."""
        row = self._row(
            """SELECT count(DISTINCT probe), count(*), coalesce(sum(archived), 0), coalesce(sum(manifest_only), 0),
                      coalesce(sum(forks), 0), coalesce(sum(broken_links), 0),
                      total(max(0, head_seq + 1 - archived - manifest_only)), coalesce(sum(rows), 0)
               FROM chains""",
            (),
        )
        names = ("probes", "chains", "archived", "manifest_only", "forks", "broken_links", "missing", "rows")
        # `total` is a float: `sum` fails where heads far off, which any probe may state, pass 63 bits.
        return {name: int(value) for name, value in zip(names, row or (0,) * len(names), strict=True)}

    def add(self, stored: Iterable[Stored], durable: Durable, *, incomplete: bool = False) -> None:
        """Take in entries that are on disk, all or none. `incomplete`: before `durable` are others that it lacks.

        Raises:
            CatalogError: the catalog cannot be written.
        """
        try:
            with self._transaction() as database:
                for entry in stored:
                    _insert(database, entry)
                database.execute(
                    """INSERT INTO covered VALUES (0, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
                       segment = excluded.segment, offset = excluded.offset, position = excluded.position,
                       incomplete = max(incomplete, excluded.incomplete)""",
                    (durable.segment, durable.offset, durable.position, incomplete),
                )
        except (sqlite3.Error, OverflowError) as error:
            raise CatalogError(f"catalog {self.path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def lost(self, directory: Path) -> str | None:
        """What the catalog knew to be on disk and the archive does not hold any more, in words."""
        covered = self.covered()
        if covered is None:
            return None
        present = dict(segments(directory))
        missing = [number for number in range(covered.segment + 1) if number not in present]
        if missing:
            return f"{len(missing)} segments are missing, the first is number {missing[0]}"
        size = present[covered.segment].stat().st_size
        if size < covered.offset:
            return f"{present[covered.segment]} is {covered.offset - size} bytes shorter than what was acknowledged"
        return None

    def catch_up(self, directory: Path, certificates: Mapping[str, Sequence[bytes]]) -> int:
        """Take in what the archive holds behind `covered`; returns the number of damaged places found.

        `certificates` are those of each probe by its name (DER). What none of them signed counts as damage: it was not
        archived by a Core, which verifies first. So does what is of a certificate that is not among them; but then the
        catalog is rebuilt at the next start, when it may be there.

        Raises:
            ArchiveError: a segment cannot be read.
            CatalogError: the catalog cannot be written.
        """
        covered = self.covered() or Durable(0, 0, 0)
        damaged, pending, incomplete = 0, [], False
        files = segments(directory)
        for number, path in files:
            if number < covered.segment:
                continue
            start = covered.offset if number == covered.segment else 0
            for item in read_segment(path, number, newest=number == files[-1][0], start=start):
                if isinstance(item, Damage):
                    damaged += 1
                    logger.error("archive %s: at offset %d: %s", path, item.offset, item.reason)
                elif isinstance(item, Located):
                    try:
                        manifest = _signed_manifest(item.entry, certificates)
                    except (ManifestError, VerificationError) as error:
                        damaged += 1
                        incomplete |= getattr(error, "check", None) == "certificate"
                        logger.error("archive %s: at offset %d: %s", path, item.place.offset, error)
                        continue
                    pending.append(Stored(manifest, item.entry.kind, item.place, item.entry.received_ns))
                    covered = Durable(number, item.place.end, item.entry.position + 1)
                    if len(pending) >= _CATCH_UP_ENTRIES:
                        self.add(pending, covered, incomplete=incomplete)
                        pending = []
        if pending or incomplete:
            self.add(pending, covered, incomplete=incomplete)
        return damaged

    def _rows(self, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return list(self._lazily(sql, parameters))

    def _lazily(self, sql: str, parameters: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(sql, parameters)
        except sqlite3.Error as error:
            raise CatalogError(f"catalog {self.path}: {error}") from error

    def _row(self, sql: str, parameters: tuple[Any, ...]) -> tuple[Any, ...] | None:
        rows = self._rows(sql, parameters)
        return rows[0] if rows else None


def entry_manifest(entry: Entry) -> Manifest:
    """The manifest of an archive entry.

    Raises:
        ManifestError: the body is not what the entry says.
    """
    manifest = manifest_of(entry.body)
    if (manifest.iss, manifest.chain, manifest.seq, manifest.digest) != (
        entry.probe,
        entry.chain,
        entry.seq,
        entry.manifest_hash,
    ):
        raise ManifestError("the record's key is not that of its manifest")
    return manifest


def _signed_manifest(entry: Entry, certificates: Mapping[str, Sequence[bytes]]) -> Manifest:
    """The manifest of an archive entry, its signature checked.

    Raises:
        ManifestError: the body is not what the entry says.
        VerificationError: the signature does not hold.
    """
    manifest = entry_manifest(entry)
    # The manifest alone: nothing else of a batch comes into the catalog, and one of a whole archive is built this way.
    _native.verify_manifest(manifest.token, list(certificates.get(entry.probe.partition("/")[0], ())))
    return manifest


def _insert(database: sqlite3.Connection, stored: Stored) -> None:
    manifest = stored.manifest
    key = (manifest.iss, manifest.chain)
    before = database.execute(
        "SELECT kind FROM entries WHERE probe = ? AND chain = ? AND seq = ? AND manifest = ?",
        (*key, manifest.seq, manifest.digest),
    ).fetchone()
    place = stored.place
    database.execute(
        "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, manifest.seq, manifest.digest, manifest.prev, stored.kind, place.segment, place.offset, place.length),
    )
    # An entry that is archived again (its first place was lost), or a batch after its own manifest, is counted once.
    counts = {kind: int(stored.kind == kind) - int(before == (kind,)) for kind in Kind}
    forks = counts[Kind.FORK_BATCH] + counts[Kind.FORK_MANIFEST]
    accepted = stored.kind in (Kind.BATCH, Kind.MANIFEST)
    broken = _broken_links(database, manifest) if accepted and before is None else 0
    database.execute(
        """INSERT INTO chains VALUES (?, ?, 0, 0, 0, 0, 0, -1, x'', NULL, NULL, NULL, ?, ?)
           ON CONFLICT DO NOTHING""",
        (*key, stored.received_ns, stored.received_ns),
    )
    database.execute(
        """UPDATE chains SET archived = archived + ?, manifest_only = manifest_only + ?, forks = forks + ?,
           broken_links = broken_links + ?, rows = rows + ?, last_received = max(last_received, ?)
           WHERE probe = ? AND chain = ?""",
        (
            counts[Kind.BATCH],
            counts[Kind.MANIFEST],
            forks,
            broken,
            manifest.rows * counts[Kind.BATCH],
            stored.received_ns,
            *key,
        ),
    )
    if accepted:
        database.execute(
            "UPDATE chains SET head_seq = ?, head_manifest = ? WHERE probe = ? AND chain = ? AND head_seq < ?",
            (manifest.seq, manifest.digest, *key, manifest.seq),
        )
        if manifest.seq == 0:
            database.execute(
                "UPDATE chains SET prev_chain = ?, prev_seq = ?, prev = ? WHERE probe = ? AND chain = ?",
                (manifest.prev_chain, manifest.prev_seq, manifest.prev, *key),
            )


def _broken_links(database: sqlite3.Connection, manifest: Manifest) -> int:
    """How many of the links to the neighbours that are archived do not hold."""
    broken = 0
    query = "SELECT manifest, prev FROM entries WHERE probe = ? AND chain = ? AND seq = ? AND kind IN (1, 2)"
    if manifest.seq > 0:
        row = database.execute(query, (manifest.iss, manifest.chain, manifest.seq - 1)).fetchone()
        broken += int(row is not None and row[0] != manifest.prev)
    row = database.execute(query, (manifest.iss, manifest.chain, manifest.seq + 1)).fetchone()
    return broken + int(row is not None and row[1] != manifest.digest)
