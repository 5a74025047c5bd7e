"""When the indexer inserts, and what it makes of several batches at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pytest
from dpi_probe.core import indexer as module
from dpi_probe.core.archive import ArchiveWriter, Durable, Entry, Kind
from dpi_probe.core.database import RefusedError
from dpi_probe.core.indexer import Indexer, Status
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.schema import UnsupportedBatchError, read_batch, rows_of
from harness.core import wait_for
from harness.sealing import flow_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dpi_probe.core.database import Decoded, Index, Indexed
    from dpi_probe.core.schema import Rows
    from harness.sealing import Probe

# Lives as long as anything that was made in it.
COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())


def archived(writer: ArchiveWriter, body: bytes) -> Durable:
    """Behind a sealed batch that goes into the archive."""
    manifest = manifest_of(body)
    position = writer.next_position
    writer.append(
        [Entry(Kind.BATCH, position, position, manifest.iss, manifest.chain, manifest.seq, manifest.digest, body, "")]
    )
    return writer.end


class Refusing:
    """In the database's place: refuses what has rows of seq 1, with one code or one after another."""

    def __init__(self, *codes: int, message: str = "code {}") -> None:
        self.codes = list(codes)
        self.message = message
        self.tried: list[tuple[list[int], bool]] = []
        self.inserted: dict[int, tuple[int, str]] = {}
        self.withdrawn: list[int] = []

    def progress(self) -> None:
        """Nothing is indexed."""

    def clear(self) -> None:
        """Nothing is left over."""

    def prepare(self, batch: list[Rows]) -> None:
        """There is nothing to be made."""

    def withdraw(self, entry: Indexed) -> None:
        self.withdrawn.append(entry.manifest.seq)

    def insert(self, group: list[Decoded], *, in_doubt: bool) -> int:
        seqs = [entry.manifest.seq for decoded in group for entry in decoded.entries]
        self.tried.append((seqs, in_doubt))
        if self.codes and any(1 in rows.data.column("seq").to_pylist() for decoded in group for rows in decoded.rows):
            code = self.codes[0] if len(self.codes) == 1 else self.codes.pop(0)
            if code:
                raise RefusedError(self.message.format(code), code)
        for decoded in group:
            for entry in decoded.entries:
                self.inserted[entry.manifest.seq] = (sum(rows.data.num_rows for rows in decoded.rows), entry.error)
        return 0


class Recorder:
    """In the database's place: the number of entries of each insert."""

    def __init__(self, on_insert: Callable[[], None]) -> None:
        self.groups: list[int] = []
        self._on_insert = on_insert

    def progress(self) -> None:
        """Nothing is indexed."""

    def clear(self) -> None:
        """Nothing is left over."""

    def prepare(self, batch: list[Rows]) -> None:
        """There is nothing to be made."""

    def insert(self, group: list[Decoded], *, in_doubt: bool) -> int:
        assert in_doubt, "after a start it is not known what is there"
        self.groups.append(sum(len(decoded.entries) for decoded in group))
        self._on_insert()
        return 0


def test_batches_gather_between_inserts_until_a_group_is_whole(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INSERT_INTERVAL_SECONDS", 3600.0)
    monkeypatch.setattr(module, "GROUP_MAX_ENTRIES", 4)
    writer = ArchiveWriter(tmp_path, segment_max_bytes=1 << 20)

    first, *rest = [archived(writer, probe.seal()) for _ in range(7)]
    statuses: list[Status] = []
    # Two wait from the moment of the first insert on, which do not make a group.
    recorder = Recorder(lambda: indexer.extend(rest[1]) if len(recorder.groups) == 1 else None)
    indexer = Indexer(tmp_path, "core", lambda: cast("Index", recorder), statuses.append)
    indexer.start()
    indexer.extend(first)
    wait_for(lambda: statuses and statuses[-1].position == 1, "the first entry, which does not wait")
    indexer.extend(rest[-1])
    wait_for(lambda: statuses[-1].position == 5, "a group")
    indexer.stop()
    writer.close()
    assert recorder.groups == [1, 4]
    assert [status.error for status in statuses if status.error] == []


def index_all(directory: Path, database: object, end: Durable) -> list[Status]:
    """Run an indexer until everything in the archive is indexed; what it says."""
    statuses: list[Status] = []
    indexer = Indexer(directory, "core", lambda: cast("Index", database), statuses.append)
    indexer.extend(end)
    indexer.start()
    wait_for(lambda: statuses and statuses[-1].position == end.position, "the end")
    indexer.stop()
    return statuses


def index_three(tmp_path: Path, probe: Probe, database: Refusing) -> list[Status]:
    """What an indexer says that finds three batches of two flows on the first of which one has a `tls`."""
    writer = ArchiveWriter(tmp_path, segment_max_bytes=1 << 20)
    *_, end = [archived(writer, probe.seal(flow_table(2))) for _ in range(3)]
    writer.close()
    return index_all(tmp_path, database, end)


def test_an_entry_that_is_refused_for_its_data_is_passed_over(tmp_path: Path, probe: Probe) -> None:
    database = Refusing(53)
    statuses = index_three(tmp_path, probe, database)
    assert database.tried == [([0, 1, 2], True), ([0], True), ([1], True), ([1], True), ([2], True)]
    assert database.inserted == {0: (3, ""), 1: (0, "code 53"), 2: (3, "")}
    assert database.withdrawn == [1], "the rows that went into other tables before"
    assert [status.error for status in statuses if status.error] == []
    assert (statuses[-1].unindexed, statuses[-1].failures) == (1, 0)


# Memory limit, too many parts, not enough space, read-only, no such table.
@pytest.mark.parametrize("code", [241, 252, 243, 164, 60])
def test_an_entry_that_is_refused_for_the_state_of_the_database_is_tried_again(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    database = Refusing(code, code, code, 0)
    statuses = index_three(tmp_path, probe, database)
    alone = [([1], True)] * 3
    assert database.tried == [([0, 1, 2], True), ([0], True), *alone, ([2], True)]
    assert database.inserted == {0: (3, ""), 1: (3, ""), 2: (3, "")}
    assert (statuses[-1].unindexed, statuses[-1].failures) == (0, 3)


def test_an_entry_that_alone_takes_too_much_memory_is_passed_over_after_a_few_tries(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    message = "Code: {}. DB::Exception: Query memory limit exceeded: would use 2.00 GiB, maximum: 2.00 GiB."
    database = Refusing(241, message=message)
    statuses = index_three(tmp_path, probe, database)
    alone = [([1], True)] * 3
    assert database.tried == [([0, 1, 2], True), ([0], True), *alone, ([1], True), ([2], True)]
    assert database.inserted == {0: (3, ""), 1: (0, message.format(241)), 2: (3, "")}
    assert database.withdrawn == [1]
    # `core reindex` gives up where the database itself fails.
    assert [status.error for status in statuses if status.error] == []
    assert (statuses[-1].unindexed, statuses[-1].failures) == (1, 2)


def test_an_entry_goes_on_waiting_while_tries_fail(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    statuses = index_three(tmp_path, probe, Refusing(252, 252, 252, 0))
    failed = [status for status in statuses if status.error]
    assert [status.position for status in failed] == [0, 1, 1]
    # Each is archived at the nanosecond of its position; of the second it is known once it was read.
    assert [status.waiting_since_ns for status in failed] == [0, 1, 1]
    assert [status.waiting_since_ns for status in statuses if status.position == 3] == [None]


class Joint:
    """In the database's place: what is decoded together, and how large it is."""

    def __init__(self) -> None:
        self.groups: list[tuple[bool, list[list[tuple[int, str]]]]] = []
        self.bytes = 0
        self._types: dict[tuple[str, str], pa.DataType] = {}

    def progress(self) -> None:
        """Nothing is indexed."""

    def clear(self) -> None:
        """Nothing is left over."""

    def prepare(self, batch: list[Rows]) -> None:
        for rows in batch:
            for field in rows.data.schema:
                if self._types.setdefault((rows.table, field.name), field.type) != field.type:
                    raise UnsupportedBatchError(f"{rows.table}.{field.name} is {field.type}")

    def insert(self, group: list[Decoded], *, in_doubt: bool) -> int:
        taken = [[(entry.manifest.seq, entry.error) for entry in decoded.entries] for decoded in group]
        self.groups.append((in_doubt, taken))
        self.bytes = sum(rows.data.nbytes for decoded in group for rows in decoded.rows)
        return 0


def index_joint(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, tables: list[pa.Table]
) -> tuple[Joint, list[Status]]:
    """Three batches in doubt, as after every start, and then a group of three that is not."""
    monkeypatch.setattr(module, "GROUP_MAX_ENTRIES", 3)
    writer = ArchiveWriter(tmp_path, segment_max_bytes=1 << 20)
    *_, end = [archived(writer, probe.seal(table)) for table in [flow_table(2)] * 3 + tables]
    writer.close()
    database = Joint()
    statuses = index_all(tmp_path, database, end)
    assert [status.error for status in statuses if status.error] == []
    assert database.groups[0] == (True, [[(seq, "")] for seq in range(3)])
    assert len(database.groups) == 2
    return database, statuses


def changed(name: str, values: pa.Array) -> pa.Table:
    """Two flows with other values in one column."""
    table = flow_table(2)
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (changed("app", pa.array([1, 2], pa.uint32())), "flows.app is uint32"),
        (changed("tls", pa.array([{"sni": 1, "version": 2}, None])), "tls.sni is int64"),
    ],
    ids=["column", "struct"],
)
def test_a_group_whose_batches_do_not_go_together_is_taken_one_by_one(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, odd: pa.Table, reason: str
) -> None:
    database, statuses = index_joint(tmp_path, probe, monkeypatch, [flow_table(2), odd, flow_table(2)])
    assert database.groups[1] == (False, [[(3, "")], [(4, reason)], [(5, "")]])
    assert statuses[-1].unindexed == 1


def test_batches_of_one_shape_are_taken_together(tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    # A probe that met no TLS leaves the column out.
    database, _ = index_joint(
        tmp_path, probe, monkeypatch, [flow_table(2), flow_table(2).drop_columns("tls"), flow_table(4)]
    )
    assert database.groups[1] == (False, [[(3, ""), (4, ""), (5, "")]])


def test_columns_of_one_batch_cost_the_others_nothing(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = pa.table({"flag": [True] * 8192})
    wide = pa.table({f"column{at}": pa.array([at], pa.int64()) for at in range(200)})
    # As nulls, 200 columns of 16,385 rows: 26 MB.
    database, _ = index_joint(tmp_path, probe, monkeypatch, [flag, wide, flag])
    assert database.groups[1] == (False, [[(3, "")], [(4, "")], [(5, "")]])
    assert database.bytes < 4 << 20


def test_a_struct_costs_only_the_rows_that_have_it(probe: Probe) -> None:
    members = {f"member{at}": at for at in range(200)}
    flag = pa.table({"flag": [True] * 8192})
    wide = pa.table({"flag": [True], "wide": pa.array([members])})
    bodies = [probe.seal(table) for table in (flag, wide, flag)]
    batches = [read_batch(body, manifest_of(body), 0) for body in bodies]
    before = pa.default_memory_pool()
    pa.set_memory_pool(COUNTED)
    try:
        rows = {rows.table: rows.data for rows in rows_of(batches, "core")}
    finally:
        pa.set_memory_pool(before)
    assert rows["wide"].column("member7").to_pylist() == [7]
    # As nulls, 200 members of 16,384 rows: 26 MB.
    assert COUNTED.max_memory() < 8 << 20


def test_rows_count_with_their_keys_in_the_memory_of_a_group(probe: Probe) -> None:
    structs = {f"struct{at}": pa.array([{"flag": True}] * 1000) for at in range(10)}
    table = pa.table({"flag": [True] * 1000, **structs})
    batch = probe.seal(table)
    assert table.nbytes < 10_000
    assert read_batch(batch, manifest_of(batch), 0).row_bytes > 1_000_000


def test_batches_taken_together_give_the_rows_that_each_gives(probe: Probe) -> None:
    tables = [flow_table(3), flow_table(1, base=10), flow_table(8, base=20), flow_table(2, base=30)]
    # As of a probe that met no TLS, so that its batch has no such column; or other things too.
    tables[1] = tables[1].drop_columns("tls")
    tables[2] = tables[2].add_column(3, "ssh", [[{"seq": 5, "flow_id": at} if at == 3 else None for at in range(8)]])
    bodies = [probe.seal(table) for table in tables]
    batches = [read_batch(body, manifest_of(body), at * 1_000_000_000) for at, body in enumerate(bodies)]
    together = {rows.table: rows.data for rows in rows_of(batches, "core")}
    each: dict[str, list[pa.Table]] = {}
    for batch in batches:
        for rows in rows_of([batch], "core"):
            each.setdefault(rows.table, []).append(rows.data)
    assert list(together) == ["flows", "tls", "ssh"]
    assert together["flows"].column("seq").to_pylist() == [0] * 3 + [1] + [2] * 8 + [3] * 2
    assert together["flows"].column("row").to_pylist() == [0, 1, 2, 0, *range(8), 0, 1]
    assert together["tls"].column("seq").to_pylist() == [0] + [2] * 4 + [3]
    assert together["tls"].column("row").to_pylist() == [1, 1, 3, 5, 7, 1]
    assert [together["ssh"].column(name).to_pylist() for name in ("seq", "row", "seq_", "flow_id_")] == [
        [2],
        [3],
        [5],
        [3],
    ]
    assert together == {table: pa.concat_tables(parts) for table, parts in each.items()}


def test_names_that_would_meet_are_refused(probe: Probe) -> None:
    numbers = pa.array([1, 2], pa.uint64())
    keys = flow_table(2).append_column("seq", numbers).append_column("seq_", numbers)
    members = pa.array(
        [{"flow_id": 1, "flow_id_": 2}] * 2, pa.struct([(n, pa.uint64()) for n in ("flow_id", "flow_id_")])
    )
    struct = pa.array([{"a": 1}] * 2, pa.struct([("a", pa.uint64())]))
    tables = flow_table(2).append_column("flows", struct).append_column("flows_", struct)
    for table, what in (
        (tables, "two structs would have one table, flows_"),
        (keys, "flows: two columns would have one name beside the keys"),
        (flow_table(2).append_column("odd", members), "struct odd: two members would have one name"),
    ):
        body = probe.seal(table)
        with pytest.raises(UnsupportedBatchError, match=what):
            rows_of([read_batch(body, manifest_of(body), 0)], "core")
