"""From the Arrow schema of a sealed batch to ClickHouse tables.

A batch of kind `flow` gives rows to `flows` and, for each protocol struct in it, to a table of the protocol's name.
Types and definitions of the columns that this version knows come from the schema declaration (`_native.schema()`): no
batch gives such a name another type. Those of others come from the batch, so that a newer probe's columns need no newer
Core; they are checked, quoted and bounded, and take no room from those that are declared.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dpi_probe import _native
from dpi_probe.core.columns import KEY_COLUMNS, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dpi_probe.core.manifest import Kind, Manifest

KIND_TABLES: Mapping[Kind, str] = {"flow": "flows", "ledger": "ledger", "event": "events"}
BATCHES = "batches"
# Those that are declared have their places, whatever else there is.
MAX_TABLES = 256
# Of a row in whichever table: the key columns, which are the same for all rows of a batch and so take little in it.
_KEY_BYTES = 128
# An insert has memory for its rows times all columns of the table, also those of which its batches know nothing. Ours
# has about a hundred; they have their places likewise.
MAX_COLUMNS = 512
# A batch is many small columns: handing them to other threads takes three times the processor time of decoding them.
_ON_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)
# A leading underscore is ClickHouse's: `_part`, `_row_exists`.
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_ADDRESS_BYTES, _MAC_BYTES = 16, 6
# Few distinct values, asked for by name: a dictionary makes them small and fast.
_LOW_CARDINALITY = frozenset(
    {"app", "app_confidence", "category", "end_reason", "direction_basis", "account", "reason", "severity", "event"}
)
# What rows of a protocol's table repeat of their flow, so that most questions need no join.
CONTEXT_COLUMNS = ("flow_id", "start_time", "src_ip", "dst_ip")
BATCH_COLUMNS: dict[str, tuple[str, str]] = {
    "core": KEY_COLUMNS["core"],
    "position": ("Int64", "Number of the entry in the Core's archive."),
    "probe": KEY_COLUMNS["probe"],
    "chain": KEY_COLUMNS["chain"],
    "seq": KEY_COLUMNS["seq"],
    "kind": ("LowCardinality(String)", "What the records are: flow, ledger or event."),
    "record": ("LowCardinality(String)", "batch, manifest (its probe dropped the batch), fork_batch, fork_manifest."),
    "rows": ("UInt32", "Records that the manifest states."),
    "manifest": ("FixedString(64)", "SHA-256 of the manifest, hexadecimal."),
    "prev": ("Nullable(FixedString(64))", "SHA-256 of the manifest before, as the probe states it."),
    "sealed": ("DateTime('UTC')", "When the probe sealed it, by its own clock."),
    "received": KEY_COLUMNS["received"],
    "segment": ("UInt32", "Segment of the archive."),
    "offset": ("UInt64", "Offset of the entry in it, in bytes."),
    "length": ("UInt64", "Length of the entry, in bytes."),
    "error": ("String", "Why its records are not in the database; empty if they are."),
}


class UnsupportedBatchError(ValueError):
    """The batch's schema cannot become tables."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of a sealed batch."""

    manifest: Manifest
    received_ns: int
    table: pa.Table

    @property
    def row_bytes(self) -> int:
        """About how much memory its rows take."""
        table = self.table
        structs = [table.column(at) for at, field in enumerate(table.schema) if _is_struct(field)]
        count = table.num_rows + sum(table.num_rows - column.null_count for column in structs)
        return int(table.get_total_buffer_size() + count * _KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows for one table."""

    table: str
    data: pa.Table


def text(value: str) -> str:
    """A string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def read_batch(batch: bytes, manifest: Manifest, received_ns: int) -> Batch:
    """The records of a sealed batch, which was verified before.

    Raises:
        UnsupportedBatchError: it does not decode.
    """
    try:
        with pa.ipc.open_stream(batch, options=_ON_ONE_THREAD) as stream:
            table = stream.read_all().replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise UnsupportedBatchError(f"does not decode: {error}") from error
    if table.num_rows != manifest.rows:
        raise UnsupportedBatchError(f"{table.num_rows} rows, and {manifest.rows} in the manifest")
    return Batch(manifest, received_ns, table)


def shape_of(batch: Batch) -> tuple[object, ...]:
    """What batches must have in common for `rows_of`: the kind, and every column that is no struct.

    A column that one of them lacks would be null for the rows of all others: gigabytes for a few small batches.
    """
    plain = ((field.name, field.type, field.nullable) for field in batch.table.schema if not _is_struct(field))
    return (batch.manifest.kind, *plain)


def rows_of(batches: Sequence[Batch], core: str) -> list[Rows]:
    """The rows that batches of one shape give to each table. They may differ in which structs they have.

    Raises:
        UnsupportedBatchError: no tables can be made of the schema of one of them, or two do not go together.
    """
    kind = batches[0].manifest.kind
    having: dict[str, list[Batch]] = {}
    for batch in batches:
        names = batch.table.column_names
        if len(set(names)) != len(names):
            raise UnsupportedBatchError("two columns have one name")
        for field in batch.table.schema:
            if _is_struct(field):
                having.setdefault(field.name, []).append(batch)
    if kind != "flow" and having:
        raise UnsupportedBatchError(f"a {kind} batch with a struct column")
    plain = [field.name for field in batches[0].table.schema if not _is_struct(field)]
    counts = [batch.table.num_rows for batch in batches]
    numbers = {count: pa.array(range(count), pa.uint32()) for count in counts}
    rows = pa.concat_arrays([numbers[count] for count in counts])
    own = KIND_TABLES[kind]
    found = [Rows(own, _checked(own, _keys(batches, counts, rows, core), _joined(batches, plain)))]
    context = [name for name in CONTEXT_COLUMNS if name in plain]
    for name, some in having.items():
        table = _joined(some, [*context, name])
        column = table.pop(name).combine_chunks()
        present = column.is_valid()
        own = _name(name)
        if own in (*KIND_TABLES.values(), BATCHES):
            own += "_"
        if any(own == other.table for other in found):
            raise UnsupportedBatchError(f"two structs would have one table, {own}")
        columns = _members(name, column, context)
        # Before the keys are made: those of the rows without this struct would be most of the memory.
        counts = [batch.table.num_rows - batch.table.column(name).null_count for batch in some]
        rows = pa.concat_arrays([numbers[batch.table.num_rows] for batch in some]).filter(present)
        if len(rows):
            chosen = pa.table({**table, **columns}).filter(present)
            keys = _keys(some, counts, rows, core)
            found.append(Rows(own, _checked(own, keys, dict(zip(chosen.column_names, chosen.columns, strict=True)))))
    return found


def _is_struct(field: pa.Field) -> bool:
    return bool(pa.types.is_struct(field.type))


def _members(name: str, column: pa.StructArray, taken: Sequence[str]) -> dict[str, pa.Array]:
    """The members of a struct by the names of their columns, beside those that are taken."""
    names = [f"{field.name}_" if field.name in taken else field.name for field in column.type]
    if len(set(names)) != len(names):
        raise UnsupportedBatchError(f"struct {name}: two members would have one name")
    return dict(zip(names, column.flatten(), strict=True))


def _joined(batches: Sequence[Batch], names: Sequence[str]) -> dict[str, pa.Array]:
    """Columns that all of the batches have, one after another."""
    try:
        table = pa.concat_tables([batch.table.select(names) for batch in batches]).combine_chunks()
    except pa.ArrowException as error:
        raise UnsupportedBatchError(f"schemas that do not go together: {error}") from error
    return dict(zip(table.column_names, table.columns, strict=True))


def _keys(batches: Sequence[Batch], counts: Sequence[int], rows: pa.Array, core: str) -> dict[str, Any]:
    """The key columns of rows of the batches: how many of each, and their numbers in it."""

    def repeated(kind: pa.DataType, values: Iterable[object]) -> pa.ChunkedArray:
        chunks = [pa.repeat(pa.scalar(value, kind), count) for value, count in zip(values, counts, strict=True)]
        return pa.chunked_array(chunks, kind)

    return {
        "core": repeated(pa.string(), [core] * len(batches)),
        "probe": repeated(pa.string(), (batch.manifest.iss for batch in batches)),
        "chain": repeated(pa.string(), (batch.manifest.chain.hex() for batch in batches)),
        "seq": repeated(pa.uint64(), (batch.manifest.seq for batch in batches)),
        "row": rows,
        "received": repeated(pa.timestamp("ms", "UTC"), (batch.received_ns // 1_000_000 for batch in batches)),
    }


def _checked(table: str, keys: Mapping[str, Any], columns: Mapping[str, Any]) -> pa.Table:
    if len(columns) > MAX_COLUMNS:
        raise UnsupportedBatchError(f"{table}: more than {MAX_COLUMNS} columns")
    named = {(f"{name}_" if name in keys else _name(name)): column for name, column in columns.items()}
    if len(named) != len(columns):
        raise UnsupportedBatchError(f"{table}: two columns would have one name beside the keys")
    try:
        stored = {
            name: column if (kind := _stored(column.type)) == column.type else column.cast(kind)
            for name, column in named.items()
        }
    except pa.ArrowException as error:
        raise UnsupportedBatchError(f"{table}: {error}") from error
    return pa.table({**keys, **stored})


def _stored(arrow: pa.DataType) -> pa.DataType:
    """The type without fixed widths, but for those of addresses and MAC addresses.

    A FixedString takes its whole width in every row, also in those of batches that have no such column.
    """
    if pa.types.is_list(arrow):
        return pa.list_(arrow.value_field.with_type(_stored(arrow.value_type)))
    if pa.types.is_struct(arrow):
        return pa.struct([field.with_type(_stored(field.type)) for field in arrow])
    if pa.types.is_fixed_size_binary(arrow) and arrow.byte_width not in (_ADDRESS_BYTES, _MAC_BYTES):
        return pa.binary()
    return arrow


def _name(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise UnsupportedBatchError(f"{name!r} cannot name a table or column")
    return name


def columns_of(rows: Rows) -> dict[str, str]:
    """The ClickHouse type of each column that is not among the keys.

    Raises:
        UnsupportedBatchError: a type has no counterpart.
    """
    return {
        field.name: clickhouse_type(field.type, name=field.name)
        for field in rows.data.schema
        if field.name not in KEY_COLUMNS
    }


def scalars_of(kind: str) -> int:
    """How many columns of scalars a ClickHouse type is stored as: the members of tuples count, as every column does."""
    return max(1, kind.count("Nullable("))


def clickhouse_type(arrow: pa.DataType, *, name: str = "", nested: bool = False) -> str:
    """The ClickHouse type of an Arrow type of the format; every scalar may be null.

    Lists and structs cannot be null in ClickHouse: a list that is null is stored as empty, and every member of a
    struct may be null, since a null in a tuple would silently become the type's zero.

    Raises:
        UnsupportedBatchError: the type has no counterpart.
    """
    if pa.types.is_list(arrow):
        return f"Array({clickhouse_type(arrow.value_type, nested=True)})"
    if pa.types.is_struct(arrow):
        members = ", ".join(f"{quote(_name(field.name))} {clickhouse_type(field.type, nested=True)}" for field in arrow)
        return f"Tuple({members})"
    scalar = _scalar(arrow)
    if name in _LOW_CARDINALITY and scalar == "String" and not nested:
        return "LowCardinality(Nullable(String))"
    return f"Nullable({scalar})"


def _scalar(arrow: pa.DataType) -> str:
    if pa.types.is_boolean(arrow):
        return "Bool"
    if pa.types.is_integer(arrow):
        return str(arrow).replace("uint", "UInt").replace("int", "Int")
    if pa.types.is_float64(arrow):
        return "Float64"
    if pa.types.is_string(arrow) or pa.types.is_binary(arrow):
        return "String"
    if arrow == pa.timestamp("ns", "UTC"):
        return "DateTime64(9, 'UTC')"
    if pa.types.is_fixed_size_binary(arrow):
        return "IPv6" if arrow.byte_width == _ADDRESS_BYTES else f"FixedString({arrow.byte_width})"
    raise UnsupportedBatchError(f"Arrow type {arrow} has no counterpart")


# Columns whose values are needed to order and find rows are never null in a batch and have plain types.
NEVER_NULL = {"start_time": "DateTime64(9, 'UTC')", "src_ip": "IPv6", "dst_ip": "IPv6", "flow_id": "UInt64"}


# docs/formats/sealed-batch.md §8.
_RECORDS_OF_THE_PROBE = (
    ("ledger", "time", "time", "When the account stood so, UTC."),
    ("ledger", "account", "text", "Name of the account; cumulative since the start of the chain."),
    ("ledger", "reason", "text", "Its part, where the account is split; else empty."),
    ("ledger", "worker", "uint32", "The worker whose account it is; null: the probe's."),
    ("ledger", "value", "uint64", "The count; null where the capture mode cannot know it."),
    ("events", "time", "time", "When it happened, UTC."),
    ("events", "severity", "text", "info, warning or error."),
    ("events", "event", "text", "What happened, in a fixed vocabulary."),
    ("events", "detail", "text", "One sentence for people."),
)


@dataclass(frozen=True, slots=True)
class Declared:
    """A column that this version knows."""

    kind: str
    """Its ClickHouse type."""
    doc: str


@functools.cache
def declared() -> dict[str, dict[str, Declared]]:
    """The declared columns of each table by their names."""
    found: dict[str, dict[str, Declared]] = {}
    columns = [
        *({"table": table, "name": name, "type": kind, "doc": doc} for table, name, kind, doc in _RECORDS_OF_THE_PROBE),
        *_native.schema(),
    ]
    for column in columns:
        table, name = ("flows" if column["table"] == "flow" else column["table"]), column["name"]
        kind = as_stored(name, clickhouse_type(_stored(_declared_type(column)), name=name))
        found.setdefault(table, {})[name] = Declared(kind, column["doc"])
    return found


# Others have the names that Arrow gives them.
_DECLARED_SCALARS = {
    "text": pa.string(),
    "time": pa.timestamp("ns", "UTC"),
    "address": pa.binary(_ADDRESS_BYTES),
    "mac": pa.binary(_MAC_BYTES),
}


def _declared_type(column: Mapping[str, Any]) -> pa.DataType:
    """The Arrow type of a column of the declaration, as sealed batches have it (docs/reference/records.md)."""
    kind = column["type"]
    if kind == "list":
        return pa.list_(_declared_type(column["item"]))
    if kind == "struct":
        return pa.struct([(member["name"], _declared_type(member)) for member in column["members"]])
    return _DECLARED_SCALARS.get(kind) or pa.type_for_alias(kind)


def declared_kind(table: str, name: str) -> str | None:
    """The ClickHouse type that a column must have; None if any will do, for this version does not know the column."""
    column = declared().get(table, {}).get(name)
    return NEVER_NULL.get(name) if column is None else column.kind


def as_stored(name: str, kind: str) -> str:
    """The type that a column of this type has in the database, where it is not null if it never is."""
    plain = NEVER_NULL.get(name)
    return plain if plain is not None and kind == f"Nullable({plain})" else kind


def room_for_tables() -> int:
    """How many tables of structs that are not declared there may be."""
    return MAX_TABLES - len({BATCHES, *declared()})


def room_for_columns(table: str) -> int:
    """How many columns, with the members of tuples, a table may have beside those that are declared."""
    return MAX_COLUMNS - sum(scalars_of(column.kind) for column in declared().get(table, {}).values())


def create_table(table: str, columns: Mapping[str, str]) -> str:
    """The statement that makes a table of records."""
    indexes = []
    if table not in (KIND_TABLES["ledger"], KIND_TABLES["event"]):
        # The first batch may lack these columns, and their indexes are made with the table or never.
        columns = {**{name: NEVER_NULL[name] for name in CONTEXT_COLUMNS}, **columns}
        indexes = ["INDEX start_time_range start_time TYPE minmax GRANULARITY 1"]
        indexes += [f"INDEX {name}_filter {name} TYPE bloom_filter GRANULARITY 4" for name in ("src_ip", "dst_ip")]
    lines = [f"{quote(name)} {kind} COMMENT {text(doc)}" for name, (kind, doc) in KEY_COLUMNS.items()]
    lines += [column_definition(table, name, kind) for name, kind in columns.items()]
    lines += indexes
    return _create(table, lines, "probe, chain, seq, row")


def create_batches() -> str:
    """The statement that makes the table of batches, which also says how far the index has come."""
    lines = [f"{quote(name)} {kind} COMMENT {text(doc)}" for name, (kind, doc) in BATCH_COLUMNS.items()]
    return _create(BATCHES, lines, "core, position")


def column_definition(table: str, name: str, kind: str) -> str:
    """A column as CREATE and ALTER write it."""
    column = declared().get(table, {}).get(name)
    comment = "" if column is None else f" COMMENT {text(column.doc)}"
    return f"{quote(name)} {as_stored(name, kind)}{comment}"


def _create(table: str, lines: list[str], order: str) -> str:
    # ClickHouse does not fsync by itself; without these a power cut takes rows that count as indexed.
    durable = "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1"
    body = ",\n  ".join(lines)
    return (
        f"CREATE TABLE IF NOT EXISTS {quote(table)} (\n  {body}\n) ENGINE = MergeTree "
        f"PARTITION BY toDate(received) ORDER BY ({order}) SETTINGS {durable}"
    )
