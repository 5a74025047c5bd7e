"""The index in ClickHouse: tables, inserts, and what to do about those whose outcome is not known.

In: groups of archive entries in order. Out: their rows, each once. Owns: the tables.
Never: inserts a row of which it cannot tell that it is not there.

The table `batches` is written last, with the archive position of each entry, so its highest position says how far the
index has come. Rows beyond that may be there after a crash or a lost connection; before such entries are inserted
again, the rows that are there are counted, key by key (`settle`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import Error as ClickHouseError

from dpi_probe.core.archive import Place
from dpi_probe.core.columns import KEY_COLUMNS, quote
from dpi_probe.core.lock import take
from dpi_probe.core.schema import (
    BATCH_COLUMNS,
    BATCHES,
    KIND_TABLES,
    Rows,
    UnsupportedBatchError,
    as_stored,
    column_definition,
    columns_of,
    create_batches,
    create_table,
    declared,
    declared_kind,
    room_for_columns,
    room_for_tables,
    scalars_of,
)
from dpi_probe.core.settings import redact
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clickhouse_connect.driver.client import Client

    from dpi_probe.core.archive import Located
    from dpi_probe.core.manifest import Manifest

# A lost connection may leave an insert running on a server: how long to wait for it to end.
_STRAY_INSERT_SECONDS = 600
_STDERR = 2
_NO_CONTROL_GROUPS = re.compile(rb"Cannot use cgroups reader: .*?\(version [^)\n]*\)\n?", re.DOTALL)
# Of version 2 and version 1.
_CONTROL_GROUPS = (Path("/sys/fs/cgroup/cgroup.controllers"), Path("/sys/fs/cgroup/memory"))
# There is one engine in a process, and it writes that when it starts.
_engine_starts, _engine_runs = threading.Lock(), threading.Event()


# What ClickHouse says of values and types: these alone blame what was to be inserted. Whatever else it says (memory,
# disk, too many parts, read-only, a missing table) may have passed at the next try.
_CODES_OF_DATA = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        15,  # DUPLICATE_COLUMN
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        41,  # CANNOT_PARSE_DATETIME
        44,  # ILLEGAL_COLUMN
        53,  # TYPE_MISMATCH
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    }
)


_MEMORY_LIMIT_EXCEEDED = 241
# The same code is told where all queries together, or all of a user, take too much. The second is of older servers.
_OWN_LIMIT = re.compile(r"Query memory limit exceeded|Memory limit \(for query\) exceeded")


class DatabaseError(DpiProbeError):
    """The database cannot be opened or does not do what it is asked."""


class RefusedError(DatabaseError):
    """ClickHouse itself refused a statement, and its connection is sound."""

    def __init__(self, message: str, code: int) -> None:
        """Keep the message and ClickHouse's code of the exception."""
        super().__init__(message)
        self.code = code

    @property
    def of_data(self) -> bool:
        """Whether what was to be inserted is at fault, so that the next try ends likewise."""
        return self.code in _CODES_OF_DATA

    @property
    def of_size(self) -> bool:
        """Whether the insert alone took more memory than one may, whatever else the server has to do."""
        return self.code == _MEMORY_LIMIT_EXCEEDED and _OWN_LIMIT.search(str(self)) is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """The last entry that is indexed."""

    position: int
    place: Place
    manifest: bytes
    unindexed: int
    """Entries up to there whose records could not become rows."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """An archive entry, and why its records are not in the database, if they are not."""

    located: Located
    manifest: Manifest
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Probe, chain and seq."""
        return self.manifest.iss, self.manifest.chain.hex(), self.manifest.seq


@dataclass(frozen=True, slots=True)
class Decoded:
    """Archive entries in their order, and the rows of all of them."""

    entries: list[Indexed]
    rows: list[Rows]


def connect(
    dsn: str, *, memory_bytes: int, query_seconds: float | None = None, result_bytes: int | None = None
) -> Client:
    """Open the database that the DSN names: `chdb:///PATH`, `clickhouse://HOST/DATABASE`, `http(s)://…`.

    Raises:
        DatabaseError: it cannot be opened.
    """
    settings: dict[str, Any] = {"async_insert": 0, "max_memory_usage": memory_bytes, "max_insert_threads": 1}
    if query_seconds is not None:
        settings |= {"max_execution_time": query_seconds, "max_threads": 2}
    if result_bytes is not None:
        settings |= {"max_result_bytes": result_bytes, "result_overflow_mode": "throw"}
    scheme, _, rest = dsn.partition("://")
    options: dict[str, Any] = {}
    if scheme == "clickhouses":
        dsn, options = f"clickhouse://{rest}", {"secure": True}
    elif scheme in ("http", "https"):
        options = {"interface": scheme}
    try:
        with _without_trace() if scheme == "chdb" else contextlib.nullcontext():
            return clickhouse_connect.get_client(dsn=dsn, settings=settings, **options)
    except (ClickHouseError, OSError, ImportError, ValueError, TypeError) as error:
        if scheme != "chdb" and (system := _of_system(error)) is not None:
            raise DatabaseError(f"ClickHouse at {_server(dsn, options)} cannot be reached: {system}") from error
        reason = str(error).splitlines()[0]
        if scheme == "chdb" and "EmbeddedServer" in reason:
            reason = "the directory is in use by another process, or cannot be written"
        raise DatabaseError(f"database {redact(dsn)}: {reason}") from error


@contextlib.contextmanager
def _without_trace() -> Iterator[None]:
    """Within the block, what the engine writes about missing control groups does not reach standard error.

    It takes them for a hint of the free memory and does without, where none are mounted; but it says so with a stack
    trace, past its log and whatever its options are. Everything else follows when the block ends. Where there is
    nothing to leave out nothing is held back, for what an engine says that crashes would be lost.
    """
    if _engine_runs.is_set() or any(file.exists() for file in _CONTROL_GROUPS):
        yield
        return
    with _engine_starts:
        sys.stderr.flush()
        kept = os.dup(_STDERR)
        try:
            with os.fdopen(os.memfd_create("engine"), "w+b") as held:
                os.dup2(held.fileno(), _STDERR)
                try:
                    yield
                    _engine_runs.set()
                finally:
                    sys.stderr.flush()
                    os.dup2(kept, _STDERR)
                    held.seek(0)
                    with open(kept, "wb", closefd=False) as told:
                        told.write(_NO_CONTROL_GROUPS.sub(b"", held.read()))
        finally:
            os.close(kept)


def _of_system(error: BaseException | None) -> str | None:
    """What the system said where a connection failed: the library wraps it several times."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _told(error: BaseException) -> str:
    """What went wrong, in one line."""
    system = _of_system(error)
    return f"the server cannot be reached: {system}" if system is not None else str(error).splitlines()[0]


def _error(what: str, error: BaseException) -> DatabaseError:
    """The error to be raised for one of the client library."""
    message = f"{what}: {_told(error)}"
    code = error.code if isinstance(error, ClickHouseError) else None
    return DatabaseError(message) if code is None else RefusedError(message, code)


def _server(dsn: str, options: dict[str, Any]) -> str:
    """HOST:PORT of a DSN."""
    parts = urlsplit(dsn)
    secure = options.get("secure") or options.get("interface") == "https"
    host = parts.hostname or "localhost"
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or (8443 if secure else 8123)}"


@contextlib.contextmanager
def sole_writer(data_dir: Path, dsn: str) -> Iterator[None]:
    """Hold the right to write this archive's rows into a database.

    Raises:
        DatabaseError: another process of this data directory has it.
    """
    name = f"index-{hashlib.sha256(dsn.encode()).hexdigest()[:16]}.lock"
    try:
        descriptor = take(data_dir / name)
    except BlockingIOError as error:
        raise DatabaseError(
            f"database {redact(dsn)}: another process writes to it; stop the Core, or give another --database"
        ) from error
    except OSError as error:
        raise DatabaseError(f"{data_dir / name}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)


class Index:
    """Writes rows through one client."""

    def __init__(self, client: Client, core: str) -> None:
        """Make sure of the table `batches` and learn what tables there are.

        Raises:
            DatabaseError: the database refuses, or has a table of somebody else's by the name of `batches`.
        """
        self._client = client
        self._core = core
        self._tables: dict[str, dict[str, str]] = {}
        self._command(create_batches())
        self._read_tables()
        if BATCHES not in self._tables:
            raise DatabaseError(_NOT_OURS.format(BATCHES))

    def progress(self) -> Progress | None:
        """How far the index has come.

        Raises:
            DatabaseError: the database refuses.
        """
        rows = self._query(
            "SELECT position, segment, offset, length, manifest FROM batches WHERE core = {core:String} "
            "ORDER BY position DESC LIMIT 1",
            core=self._core,
        )
        if not rows:
            return None
        position, segment, offset, length, manifest = rows[0]
        digest = manifest if isinstance(manifest, str) else bytes(manifest).decode("ascii")
        (unindexed,) = self._query(
            "SELECT countIf(error != '') FROM batches WHERE core = {core:String}", core=self._core
        )[0]
        return Progress(position, Place(segment, offset, length), bytes.fromhex(digest), unindexed)

    def insert(self, group: list[Decoded], *, in_doubt: bool) -> int:
        """Put a group in, tables first and `batches` last; returns the number of rows.

        The group lies within one UTC day and is small enough for one part in each table. `in_doubt` says that rows of
        it may be there already; then each of its entries must have been decoded by itself.

        Raises:
            RefusedError: the database refused an insert; others before it may have succeeded.
            DatabaseError: an insert failed; what it left is not known, so the next try must say `in_doubt`.
        """
        if in_doubt:
            self._await_stray_inserts()
        by_table: dict[str, list[tuple[Decoded, pa.Table]]] = {}
        for decoded in group:
            for rows in decoded.rows:
                by_table.setdefault(rows.table, []).append((decoded, rows.data))
        total = 0
        for table, parts in by_table.items():
            chosen = [data for _, data in parts]
            if in_doubt and table in self._tables:
                chosen = self._settle(table, {_only(decoded.entries).key: data for decoded, data in parts})
            for data in _merged(chosen):
                self._insert(table, data)
                total += data.num_rows
        entries = [entry for decoded in group for entry in decoded.entries]
        recorded = self._recorded(entries) if in_doubt else set()
        missing = [entry for entry in entries if entry.located.entry.position not in recorded]
        self._insert(BATCHES, _batches(missing, self._core))
        return total

    def prepare(self, batch: list[Rows]) -> None:
        """Make the tables and columns that the rows need, once it is known that all of them may be.

        Raises:
            UnsupportedBatchError: a column has another type than is declared or than before, there would be too many
                that are not declared, or a protocol's table has the name of somebody else's.
            RefusedError: the database refuses a table or column.
            DatabaseError: the database cannot be asked, or has a table of somebody else's by the name of one that
                every Core has.
        """
        wanted = {rows.table: columns_of(rows) for rows in batch}
        self._check_room(wanted)
        for table, columns in wanted.items():
            self._check_columns(table, columns)
        for table, columns in wanted.items():
            missing = [name for name in columns if name not in self._tables.get(table, {})]
            if table not in self._tables:
                self._make(table, columns)
            present = self._tables[table]
            for name in missing:
                if name not in present:
                    definition = column_definition(table, name, columns[name])
                    self._command(f"ALTER TABLE {quote(table)} ADD COLUMN IF NOT EXISTS {definition}")
                    present[name] = self._columns(table)[name]
                # Another Core may have made it meanwhile.
                self._check_present(table, name, columns[name])

    def _check_room(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        """Refuse tables that are not declared beyond those that there may be."""
        undeclared = wanted.keys() - declared().keys()
        room = room_for_tables()
        present = self._tables.keys() - declared().keys() - {BATCHES}
        if undeclared - present and len(undeclared | present) > room:
            raise UnsupportedBatchError(
                f"table {min(undeclared - present)}: there would be more than {room} tables that are not declared"
            )

    def _check_columns(self, table: str, columns: Mapping[str, str]) -> None:
        """Refuse columns of another type than they must have, or beyond those that there may be."""
        present = self._tables.get(table, {})
        added = 0
        for name, kind in columns.items():
            expected = declared_kind(table, name)
            if expected is not None and _plain(as_stored(name, kind)) != _plain(expected):
                raise UnsupportedBatchError(f"column {table}.{name} is {expected}, and here {kind}")
            if name in present:
                self._check_present(table, name, kind)
            elif expected is None:
                added += scalars_of(kind)
        others = (kind for name, kind in present.items() if name not in KEY_COLUMNS and not declared_kind(table, name))
        room = room_for_columns(table)
        if added and sum(map(scalars_of, others)) + added > room:
            raise UnsupportedBatchError(
                f"table {table}: there would be more than {room} columns that are not declared, with members of tuples"
            )

    def _check_present(self, table: str, name: str, kind: str) -> None:
        """Refuse a type that is not the one of the database."""
        present = self._tables[table][name]
        if _plain(present) == _plain(as_stored(name, kind)):
            return
        message = f"column {table}.{name} is {present}, and here {kind}"
        if declared_kind(table, name) is not None:
            message += "; it was made by another version: rebuild the database with: dpi-probe core reindex"
        raise UnsupportedBatchError(message)

    def _make(self, table: str, columns: Mapping[str, str]) -> None:
        """Make a table of records."""
        self._command(create_table(table, columns))
        present = self._columns(table)
        # Where there was a table, nothing was made; a struct's name, which comes from a probe, may be anything.
        if not _is_ours(table, present):
            if table in KIND_TABLES.values():
                raise DatabaseError(_NOT_OURS.format(table))
            raise UnsupportedBatchError(f"table {table} of this database is not this Core's")
        self._tables[table] = present

    def withdraw(self, entry: Indexed) -> None:
        """Take out the rows of an entry wherever there are any.

        Raises:
            DatabaseError: the database refuses.
        """
        for table in self._tables:
            if table != BATCHES and self._count(table, [entry.key]):
                self._delete(table, [entry.key])

    def others(self) -> list[str]:
        """Names of other Cores of which there are batches; a Core has another name after its certificate says so.

        Raises:
            DatabaseError: the database refuses.
        """
        rows = self._query(
            "SELECT DISTINCT core FROM batches WHERE core != {core:String} ORDER BY core LIMIT 10", core=self._core
        )
        return [core for (core,) in rows]

    def drop(self) -> None:
        """Remove what this Core put in: whole tables where it is the only Core, else its rows.

        Raises:
            DatabaseError: the database refuses.
        """
        self._await_stray_inserts()
        # The batches go first: what is left after a crash in between counts for nothing, and `clear` takes it.
        tables = [BATCHES, *(name for name in self._tables if name != BATCHES)]
        shares = {table: self._shares(table) for table in tables}
        # Another Core believes that every table which it has seen is there, also one without its rows.
        alone = not any(others for _, others in shares.values())
        for table, (own, _) in shares.items():
            if alone:
                self._command(f"DROP TABLE IF EXISTS {quote(table)} SYNC")
            elif own:
                self._delete_own(table)
        self._command(create_batches())
        self._read_tables()

    def clear(self) -> None:
        """Take out rows of this Core where `batches` has none: a crash left them, in a first insert or in `drop`.

        Unlike `drop` it removes no table, for another Core may be beginning in the same database.

        Raises:
            DatabaseError: the database refuses.
        """
        self._await_stray_inserts()
        for table in self._tables:
            if table != BATCHES and self._shares(table)[0]:
                self._delete_own(table)

    def _shares(self, table: str) -> tuple[int, int]:
        """How many rows of a table are this Core's, and how many are others'."""
        own, others = self._query(
            f"SELECT countIf(core = {{core:String}}), countIf(core != {{core:String}}) FROM {quote(table)}",
            core=self._core,
        )[0]
        return own, others

    def _delete_own(self, table: str) -> None:
        self._command(
            f"ALTER TABLE {quote(table)} DELETE WHERE core = {{core:String}} SETTINGS mutations_sync = 2",
            core=self._core,
        )

    def _settle(self, table: str, parts: dict[tuple[str, str, int], pa.Table]) -> list[pa.Table]:
        """Of the parts, those whose rows are not there. Rows of a part that is there by halves are taken out first."""
        there = self._count(table, list(parts))
        halves = [key for key, data in parts.items() if 0 < there.get(key, 0) != data.num_rows]
        if halves:
            self._delete(table, halves)
        return [data for key, data in parts.items() if there.get(key, 0) != data.num_rows]

    def _count(self, table: str, keys: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], int]:
        """How many rows a table has of those keys of which it has any."""
        counted = self._query(
            f"SELECT probe, chain, seq, count() FROM {quote(table)} WHERE core = {{core:String}} "
            "AND (probe, chain, seq) IN {keys:Array(Tuple(String, String, UInt64))} GROUP BY probe, chain, seq",
            core=self._core,
            keys=keys,
        )
        return {(probe, chain, seq): count for probe, chain, seq, count in counted}

    def _delete(self, table: str, keys: list[tuple[str, str, int]]) -> None:
        """Take out the rows of keys."""
        self._command(
            f"ALTER TABLE {quote(table)} DELETE WHERE core = {{core:String}} "
            "AND (probe, chain, seq) IN {keys:Array(Tuple(String, String, UInt64))} SETTINGS mutations_sync = 2",
            core=self._core,
            keys=keys,
        )

    def _recorded(self, entries: list[Indexed]) -> set[int]:
        """The positions of those entries that the table `batches` has: its insert may have been the last."""
        rows = self._query(
            "SELECT position FROM batches WHERE core = {core:String} AND position IN {positions:Array(Int64)}",
            core=self._core,
            positions=[entry.located.entry.position for entry in entries],
        )
        return {position for (position,) in rows}

    def _await_stray_inserts(self) -> None:
        """Wait until no insert of this Core is running on the server: one that ends later would not be counted."""
        deadline = time.monotonic() + _STRAY_INSERT_SECONDS
        while self._query(
            "SELECT count() FROM system.processes WHERE startsWith(query_id, {prefix:String})",
            prefix=self._query_prefix,
        )[0][0]:
            if time.monotonic() > deadline:
                raise DatabaseError("an insert whose connection was lost is still running on the server")
            time.sleep(0.2)

    @property
    def _query_prefix(self) -> str:
        return f"dpi-core-{self._core}-"

    def _read_tables(self) -> None:
        rows = self._query("SELECT table, name, type FROM system.columns WHERE database = currentDatabase()")
        tables: dict[str, dict[str, str]] = {}
        for table, name, kind in rows:
            tables.setdefault(table, {})[name] = kind
        # Other tables of a shared database are not ours to touch.
        self._tables = {name: columns for name, columns in tables.items() if _is_ours(name, columns)}

    def _columns(self, table: str) -> dict[str, str]:
        rows = self._query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
            table=table,
        )
        return dict(rows)

    def _insert(self, table: str, data: pa.Table) -> None:
        if not data.num_rows:
            return
        try:
            self._client.insert_arrow(
                quote(table), data.combine_chunks(), settings={"query_id": f"{self._query_prefix}{time.time_ns()}"}
            )
        except (ClickHouseError, OSError) as error:
            raise _error(f"insert into {table}", error) from error

    def _query(self, sql: str, **parameters: Any) -> list[Any]:
        try:
            return list(self._client.query(sql, parameters=parameters).result_rows)
        except (ClickHouseError, OSError) as error:
            raise _error("database", error) from error

    def _command(self, sql: str, **parameters: Any) -> None:
        try:
            self._client.command(sql, parameters=parameters)
        except (ClickHouseError, OSError) as error:
            raise _error("database", error) from error


def _is_ours(table: str, columns: dict[str, str]) -> bool:
    """Whether a table is a Core's, by its columns."""
    return (BATCH_COLUMNS if table == BATCHES else KEY_COLUMNS).keys() <= columns.keys()


_NOT_OURS = "table {} is not this Core's; give it a database of its own"


def _plain(kind: str) -> str:
    """A type without what differs only in how it is written."""
    return kind.replace("`", "").replace(" ", "")


def _only(entries: list[Indexed]) -> Indexed:
    (entry,) = entries
    return entry


def _merged(tables: list[pa.Table]) -> list[pa.Table]:
    """Tables of one schema as one, in order."""
    merged: dict[pa.Schema, list[pa.Table]] = {}
    for table in tables:
        merged.setdefault(table.schema, []).append(table)
    return [pa.concat_tables(same) for same in merged.values()]


def _batches(group: list[Indexed], core: str) -> pa.Table:
    entries = [(entry.located.entry, entry.located.place, entry.manifest, entry.error) for entry in group]
    columns = {
        "core": pa.array([core] * len(entries), pa.string()),
        "position": pa.array([entry.position for entry, *_ in entries], pa.int64()),
        "probe": pa.array([manifest.iss for _, _, manifest, _ in entries], pa.string()),
        "chain": pa.array([manifest.chain.hex() for _, _, manifest, _ in entries], pa.string()),
        "seq": pa.array([manifest.seq for _, _, manifest, _ in entries], pa.uint64()),
        "kind": pa.array([manifest.kind for _, _, manifest, _ in entries], pa.string()),
        "record": pa.array([entry.kind.name.lower() for entry, *_ in entries], pa.string()),
        "rows": pa.array([manifest.rows for _, _, manifest, _ in entries], pa.uint32()),
        "manifest": pa.array([manifest.digest.hex().encode() for _, _, manifest, _ in entries], pa.binary(64)),
        "prev": pa.array(
            [manifest.prev.hex().encode() if manifest.prev else None for _, _, manifest, _ in entries], pa.binary(64)
        ),
        "sealed": pa.array([max(0, min(manifest.iat, 0xFFFFFFFF)) for _, _, manifest, _ in entries], pa.uint32()),
        "received": pa.array([entry.received_ns // 1_000_000 for entry, *_ in entries], pa.timestamp("ms", "UTC")),
        "segment": pa.array([place.segment for _, place, _, _ in entries], pa.uint32()),
        "offset": pa.array([place.offset for _, place, _, _ in entries], pa.uint64()),
        "length": pa.array([place.length for _, place, _, _ in entries], pa.uint64()),
        "error": pa.array([error for *_, error in entries], pa.string()),
    }
    return pa.table(columns)
