"""The index on an engine in this process: what is in the tables after inserts, crashes and beside others' tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import OperationalError
from dpi_probe._flows import open_reader
from dpi_probe.core import indexer as module
from dpi_probe.core.archive import ArchiveWriter, Durable, Entry, Kind, Located, iter_entries
from dpi_probe.core.catalog import entry_manifest
from dpi_probe.core.columns import KEY_COLUMNS
from dpi_probe.core.database import DatabaseError, Decoded, Index, Indexed, connect
from dpi_probe.core.indexer import Indexer, Status
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.queries import Filters, Questions
from dpi_probe.core.schema import (
    CONTEXT_COLUMNS,
    NEVER_NULL,
    Batch,
    as_stored,
    columns_of,
    declared,
    read_batch,
    room_for_columns,
    room_for_tables,
    rows_of,
)
from harness.core import wait_for
from harness.sealing import START_NS, Probe, address, flow_table

from tests.corpus.cases import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

TLS, SSH = (next(case for case in cases() if case.name == name) for name in ("tls-versions", "ssh-session"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """There can be one in a process, on one directory."""
    client = connect(f"chdb://{tmp_path_factory.mktemp('engine')}/database", memory_bytes=1 << 30)
    yield client
    client.close()


@pytest.fixture
def client(engine: Client) -> Iterator[Client]:
    """Of a database without tables."""
    yield engine
    for (table,) in engine.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows:
        engine.command(f"DROP TABLE `{table}` SYNC")


def asked(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]


def archive(directory: Path, batches: list[bytes]) -> Durable:
    """An archive of sealed batches; returns its end."""
    writer = ArchiveWriter(directory, segment_max_bytes=1 << 20)
    for position, body in enumerate(batches):
        manifest = manifest_of(body)
        key = (manifest.iss, manifest.chain, manifest.seq)
        writer.append([Entry(Kind.BATCH, position, 10**9 + position, *key, manifest.digest, body, "")])
    end = writer.end
    writer.close()
    return end


def index_all(directory: Path, end: Durable, index: Index, core: str) -> list[Status]:
    """Run an indexer to the end, or until it says that something is wrong."""
    statuses: list[Status] = []
    indexer = Indexer(directory, core, lambda: index, statuses.append)
    indexer.extend(end)
    indexer.start()
    wait_for(lambda: statuses and (statuses[-1].error or statuses[-1].position == end.position), "the end")
    indexer.stop()
    return statuses


def crash_at_command(client: Client, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The connection is lost in this command, counted from 1; it is carried out before."""
    command, count = client.command, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        answer = command(*arguments, **options)
        if count == number:
            raise OperationalError("connection lost")
        return answer

    monkeypatch.setattr(client, "command", counted)


def test_rows_are_there_once_after_a_drop_that_a_crash_cut_short(
    tmp_path: Path, client: Client, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer are looked for in doubt than are there.
    monkeypatch.setattr(module, "GROUP_MAX_ENTRIES", 2)
    monkeypatch.setattr(module, "INSERT_INTERVAL_SECONDS", 0.0)
    end = archive(tmp_path, [probe.seal(flow_table(2)) for _ in range(7)])
    index_all(tmp_path, end, Index(client, "a"), "a")
    index = Index(client, "a")
    with monkeypatch.context() as crash:
        crash_at_command(client, crash, 1)
        with pytest.raises(DatabaseError, match="connection lost"):
            index.drop()
    assert asked(client, "SELECT count() FROM flows") == [(14,)], "the crash came before"
    index_all(tmp_path, end, Index(client, "a"), "a")
    assert asked(client, "SELECT seq, row, count() FROM flows GROUP BY ALL HAVING count() > 1") == []
    assert asked(client, "SELECT count() FROM flows") == [(14,)]
    assert asked(client, "SELECT count() FROM tls") == [(7,)]


def test_a_drop_leaves_the_rows_of_other_cores_also_where_batches_is_gone(
    tmp_path: Path, client: Client, probe: Probe
) -> None:
    end = archive(tmp_path, [probe.seal(flow_table(2))])
    for core in ("a", "b"):
        index_all(tmp_path, end, Index(client, core), core)
    client.command("DROP TABLE batches SYNC")
    index = Index(client, "a")
    index.drop()
    assert asked(client, "SELECT core, count() FROM flows GROUP BY core") == [("b", 2)]
    assert asked(client, "SELECT core, count() FROM tls GROUP BY core") == [("b", 1)]
    Index(client, "b").drop()
    assert asked(client, "SELECT name FROM system.tables WHERE database = currentDatabase()") == [("batches",)]


def test_nothing_is_taken_out_of_a_database_that_has_nothing_of_this_core(
    tmp_path: Path, client: Client, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = archive(tmp_path, [probe.seal(flow_table(2))])
    index_all(tmp_path, end, Index(client, "a"), "a")
    index = Index(client, "b")
    with monkeypatch.context() as crash:
        crash_at_command(client, crash, 1)
        index.clear()
    assert asked(client, "SELECT core, count() FROM flows GROUP BY core") == [("a", 2)]


def test_tables_that_another_core_may_know_are_not_dropped(tmp_path: Path, client: Client, probe: Probe) -> None:
    both = [probe.seal(flow_table(2)), probe.seal(flow_table(2))]
    index_all(tmp_path / "a", archive(tmp_path / "a", both[:1]), Index(client, "a"), "a")
    other = Index(client, "b")
    other_batches = [Probe("sensor", probe.pki).seal(flow_table(2).drop_columns("tls"))]
    index_all(tmp_path / "b", archive(tmp_path / "b", other_batches), other, "b")
    Index(client, "a").drop()
    assert asked(client, "SELECT core, count() FROM flows GROUP BY core") == [("b", 2)]
    assert asked(client, "SELECT count() FROM tls") == [(0,)]


def test_a_table_of_somebody_else_stays_as_it_is(tmp_path: Path, client: Client, probe: Probe) -> None:
    client.command("CREATE TABLE users (name String) ENGINE = MergeTree ORDER BY name")
    users = pa.array([{"name": "a"}, {"name": "b"}])
    end = archive(tmp_path, [probe.seal(flow_table(2).append_column("users", users)), probe.seal(flow_table(2))])
    statuses = index_all(tmp_path, end, Index(client, "a"), "a")
    assert (statuses[-1].unindexed, statuses[-1].error) == (1, None)
    columns = "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'users'"
    assert asked(client, columns) == [("name",)]
    assert asked(client, "SELECT seq, error FROM batches ORDER BY seq") == [
        (0, "table users of this database is not this Core's"),
        (1, ""),
    ]
    Index(client, "a").drop()
    assert asked(client, columns) == [("name",)]


@pytest.mark.parametrize("table", ["flows", "batches"])
def test_a_database_in_which_a_table_of_every_core_is_taken_gets_nothing(
    tmp_path: Path, client: Client, probe: Probe, table: str
) -> None:
    client.command(f"CREATE TABLE {table} (core String, probe String, chain String) ENGINE = MergeTree ORDER BY core")
    end = archive(tmp_path, [probe.seal(flow_table(2))])
    with pytest.raises(DatabaseError, match=f"table {table} is not this Core's; give it a database of its own"):
        raise DatabaseError(index_all(tmp_path, end, Index(client, "a"), "a")[-1].error)
    tables = "SELECT table, count() FROM system.columns WHERE database = currentDatabase() GROUP BY table"
    assert dict(asked(client, tables))[table] == 3


def test_an_archive_that_cannot_be_opened_now_is_no_other_archive(
    tmp_path: Path, client: Client, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than are looked for in doubt.
    monkeypatch.setattr(module, "GROUP_MAX_ENTRIES", 2)
    end = archive(tmp_path, [probe.seal(flow_table(2)) for _ in range(5)])
    index_all(tmp_path, end, Index(client, "a"), "a")
    (segment,) = tmp_path.glob("segment-*")
    aside = segment.rename(tmp_path / "aside")
    segment.symlink_to(segment.name)
    statuses: list[Status] = []
    indexer = Indexer(tmp_path, "a", lambda: Index(client, "a"), statuses.append)
    indexer.extend(end)
    indexer.start()
    wait_for(lambda: any(status.error for status in statuses), "the error")
    aside.rename(segment)
    wait_for(lambda: statuses[-1].error is None and statuses[-1].position == 5, "the next try")
    indexer.stop()
    assert asked(client, "SELECT count() FROM flows") == [(10,)]


def test_a_group_decoded_together_gives_the_rows_that_each_entry_gives(
    tmp_path: Path, client: Client, probe: Probe
) -> None:
    tables = [flow_table(3), flow_table(1, base=10).drop_columns("tls"), flow_table(8, base=20)]
    archive(tmp_path, [probe.seal(table) for table in tables])
    entries, batches = [], []
    for item in iter_entries(tmp_path):
        assert isinstance(item, Located)
        manifest = entry_manifest(item.entry)
        entries.append(Indexed(item, manifest))
        batches.append(read_batch(item.entry.body, manifest, item.entry.received_ns))
    joint = [Decoded(entries, rows_of(batches, "joint"))]
    single = [Decoded([entry], rows_of([batch], "single")) for entry, batch in zip(entries, batches, strict=True)]
    for core, group in (("joint", joint), ("single", single)):
        index = Index(client, core)
        for decoded in group:
            index.prepare(decoded.rows)
        assert index.insert(group, in_doubt=False) == 12 + 5
    for table, key, rows in (("flows", "seq, row", 12), ("tls", "seq, row", 5), ("batches", "position", 3)):
        found = client.query(f"SELECT * EXCEPT core, core FROM {table} ORDER BY {key}").result_rows  # noqa: S608
        of = {core: [row[:-1] for row in found if row[-1] == core] for core in ("joint", "single")}
        assert of["joint"] == of["single"]
        assert len(of["joint"]) == rows


@pytest.mark.parametrize("take_out", [Index.drop, Index.clear])
def test_nothing_is_taken_out_while_an_insert_is_running(
    tmp_path: Path,
    client: Client,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
    take_out: Callable[[Index], None],
) -> None:
    end = archive(tmp_path, [probe.seal(flow_table(2))])
    index_all(tmp_path, end, Index(client, "a"), "a")
    index = Index(client, "a")

    def running() -> None:
        raise DatabaseError("an insert is still running")

    monkeypatch.setattr(index, "_await_stray_inserts", running)
    with pytest.raises(DatabaseError, match="still running"):
        take_out(index)
    assert asked(client, "SELECT count() FROM flows") == [(2,)]
    assert asked(client, "SELECT count() FROM batches") == [(1,)]


def test_bytes_of_odd_widths_cost_only_the_rows_that_have_them(tmp_path: Path, client: Client, probe: Probe) -> None:
    """980 columns of 255 bytes took 2 GiB in every later insert, and the index stood still for all probes."""
    wide = flow_table(1)
    members = pa.array([{"token": b"abc\0", "tokens": [b"abcd", None]}], pa.struct(
        [("token", pa.binary(4)), ("tokens", pa.list_(pa.binary(4)))]
    ))  # fmt: skip
    wide = wide.append_column("odd", members).append_column("column", pa.array([b"x" * 255], pa.binary(255)))
    index_all(tmp_path, archive(tmp_path, [probe.seal(wide), probe.seal(flow_table(2))]), Index(client, "a"), "a")
    kinds = dict(asked(client, "SELECT name, type FROM system.columns WHERE table IN ('odd', 'flows')"))
    assert (kinds["column"], kinds["token"]) == ("Nullable(String)", "Nullable(String)")
    assert kinds["tokens"] == "Array(Nullable(String))"
    assert (kinds["src_ip"], kinds["src_mac"]) == ("IPv6", "Nullable(FixedString(6))")
    assert asked(client, "SELECT seq, column = repeat('x', 255) FROM flows ORDER BY seq, row") == [
        (0, 1),
        (1, None),
        (1, None),
    ]
    assert asked(client, "SELECT hex(token), arrayMap(x -> hex(x), tokens) FROM odd") == [
        ("61626300", ["61626364", None])
    ]


def test_a_batch_with_more_columns_than_a_table_may_have_is_told(tmp_path: Path, client: Client, probe: Probe) -> None:
    room = room_for_columns("flows")
    members = pa.struct([(f"member{at}", pa.uint8()) for at in range(room // 2 + 1)])
    tuples = pa.array([[None]], pa.list_(members))
    more = [flow_table(1).append_column("first", tuples), flow_table(1).append_column("second", tuples)]
    more.append(more[0].append_column("third", tuples))
    statuses = index_all(tmp_path, archive(tmp_path, [probe.seal(table) for table in more]), Index(client, "a"), "a")
    assert statuses[-1].unindexed == 2
    told = f"table flows: there would be more than {room} columns that are not declared, with members of tuples"
    assert asked(client, "SELECT seq, error FROM batches ORDER BY seq") == [(0, ""), (1, told), (2, told)]


def recorded(path: Path) -> pa.Table:
    """The flows of a capture, as a probe of this version seals them."""
    reader = open_reader([str(path)], profile="full", addresses="binary", protocols=None)
    return pa.RecordBatchReader.from_stream(reader).read_all()


def test_what_a_probe_of_this_version_seals_is_what_is_declared(probe: Probe) -> None:
    flows = recorded(TLS.capture).slice(0, 1)
    for field in flows.schema:
        if pa.types.is_struct(field.type):
            flows = replaced(flows, field.name, pa.array([{}], field.type))
    tables = rows_of([Batch(manifest_of(probe.seal()), 0, flows)], "core")
    found = {rows.table: {name: as_stored(name, kind) for name, kind in columns_of(rows).items()} for rows in tables}
    context = {name: NEVER_NULL[name] for name in CONTEXT_COLUMNS}
    for table, columns in declared().items():
        assert not columns.keys() & KEY_COLUMNS.keys(), "it would have another name in the database"
        assert table == "flows" or not columns.keys() & context.keys()
        if table not in ("ledger", "events"):
            assert found.pop(table) == {**context, **{name: column.kind for name, column in columns.items()}}
    assert found == {}


@pytest.mark.parametrize(
    ("kind", "table", "name", "values"),
    [
        ("flow", "flows", "end_reason", pa.array([1, 2], pa.uint64())),
        ("flow", "flows", "vlan_ids", pa.array(["a", "b"])),
        ("flow", "tls", "sni", pa.array([1, 2], pa.uint64())),
        ("flow", "tls", "further_hellos", pa.array([[{"sni": "a"}]] * 2)),
        ("ledger", "ledger", "value", pa.array(["a", "b"])),
    ],
)
def test_the_first_batch_does_not_say_of_what_type_a_declared_column_is(
    tmp_path: Path, client: Client, probe: Probe, kind: str, table: str, name: str, values: pa.Array
) -> None:
    if table == "tls":
        members = pa.array([{name: value} for value in values.to_pylist()], pa.struct([(name, values.type)]))
        odd, honest = replaced(flow_table(2), "tls", members), recorded(TLS.capture)
    elif table == "ledger":
        odd, honest = pa.table({name: values}), pa.table({name: pa.array([7], pa.uint64())})
    else:
        odd = flow_table(2).drop_columns([name] if name in flow_table(1).column_names else [])
        odd, honest = odd.append_column(name, values), recorded(TLS.capture)
    end = archive(tmp_path, [Probe("sensor", probe.pki).seal(odd, kind=kind), probe.seal(honest, kind=kind)])
    statuses = index_all(tmp_path, end, Index(client, "a"), "a")
    assert (statuses[-1].unindexed, statuses[-1].error) == (1, None)
    (error, nothing) = [error for (error,) in asked(client, "SELECT error FROM batches ORDER BY position")]
    assert nothing == ""
    assert error.startswith(f"column {table}.{name} is {declared()[table][name].kind}, and here "), error
    assert asked(client, f"SELECT uniqExact(chain) FROM {table}") == [(1,)]  # noqa: S608
    assert asked(client, f"SELECT DISTINCT chain FROM {table}") == [(probe.chain,)]  # noqa: S608


def test_columns_that_are_not_declared_take_no_room_from_those_that_are(
    tmp_path: Path, client: Client, probe: Probe
) -> None:
    one = pa.array([1], pa.uint8())
    room = room_for_columns("flows")
    junk = pa.table({f"junk{at}": one for at in range(room)})
    more = pa.table({"further": one})
    structs = pa.table({f"struct{at}": pa.array([{"a": 1}]) for at in range(room_for_tables())})
    further = pa.table({"another": pa.array([{"a": 1}])})
    tables = [junk, more, structs, further, recorded(TLS.capture), recorded(SSH.capture)]
    statuses = index_all(tmp_path, archive(tmp_path, [probe.seal(table) for table in tables]), Index(client, "a"), "a")
    assert (statuses[-1].unindexed, statuses[-1].error) == (2, None)
    assert asked(client, "SELECT seq, error FROM batches WHERE error != '' ORDER BY seq") == [
        (1, f"table flows: there would be more than {room} columns that are not declared, with members of tuples"),
        (3, f"table another: there would be more than {room_for_tables()} tables that are not declared"),
    ]
    for table in ("flows", "features", "tls", "ssh"):
        columns = f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}'"  # noqa: S608
        assert {name for (name,) in asked(client, columns)} >= declared()[table].keys()
    assert asked(client, "SELECT uniqExact(table) FROM system.columns WHERE database = currentDatabase()")[0][0] < 256


def test_a_batch_that_is_refused_makes_nothing(tmp_path: Path, client: Client, probe: Probe) -> None:
    structs = {"junk": pa.array([{"a": 1}]), "tls": pa.array([{"sni": 1}])}
    odd = pa.table({"column": pa.array([1], pa.uint8()), **structs})
    index_all(tmp_path, archive(tmp_path, [probe.seal(odd)]), Index(client, "a"), "a")
    assert asked(client, "SELECT name FROM system.tables WHERE database = currentDatabase()") == [("batches",)]


def test_a_column_that_an_earlier_version_made_otherwise_is_mended_by_a_reindex(
    tmp_path: Path, client: Client, probe: Probe
) -> None:
    end = archive(tmp_path, [probe.seal(flow_table(2).drop_columns("app")), probe.seal(flow_table(2))])
    index = Index(client, "a")
    index_all(tmp_path, end, index, "a")
    client.command("ALTER TABLE flows MODIFY COLUMN app Nullable(UInt64)")
    client.command("ALTER TABLE batches DELETE WHERE seq = 1 SETTINGS mutations_sync = 2")
    client.command("ALTER TABLE flows DELETE WHERE seq = 1 SETTINGS mutations_sync = 2")
    index_all(tmp_path, end, Index(client, "a"), "a")
    ((error,),) = asked(client, "SELECT error FROM batches WHERE seq = 1")
    assert error.startswith("column flows.app is Nullable(UInt64), and here LowCardinality(Nullable(String)); ")
    assert error.endswith("rebuild the database with: dpi-probe core reindex")
    index = Index(client, "a")
    index.drop()
    assert index_all(tmp_path, end, index, "a")[-1].unindexed == 0


def test_flows_are_found_by_time_and_address_whatever_the_first_batch_lacks(
    tmp_path: Path, client: Client, probe: Probe
) -> None:
    first = pa.table({"column": pa.array([1], pa.uint8())})
    index_all(tmp_path, archive(tmp_path, [probe.seal(first), probe.seal(flow_table(2))]), Index(client, "a"), "a")
    indexes = "SELECT name FROM system.data_skipping_indices WHERE table = 'flows' ORDER BY name"
    assert asked(client, indexes) == [("dst_ip_filter",), ("src_ip_filter",), ("start_time_range",)]
    assert asked(client, "SELECT count() FROM flows") == [(3,)]


def questions(tmp_path: Path, client: Client, probe: Probe, *tables: pa.Table) -> Questions:
    """What can be asked where these are indexed."""
    index_all(tmp_path, archive(tmp_path, [probe.seal(table) for table in tables]), Index(client, "a"), "a")
    return Questions(client, "a")


def ask(questions: Questions, name: str, **filters: Any) -> Any:
    return questions.ask(name, Filters(**filters).dump())


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def test_lists_of_addresses_and_bytes_read_as_people_write(tmp_path: Path, client: Client, probe: Probe) -> None:
    table = flow_table(2)
    mac = b"\xff\xfe\x01\x02\x03\x04"
    deep = pa.list_(pa.struct([("mac", pa.binary(6)), ("name", pa.string()), ("ip", pa.binary(16))]))
    lists = {
        "macs": pa.array([[mac, None], None], pa.list_(pa.binary(6))),
        "ips": pa.array([[address("192.0.2.1"), address("2001:db8::1"), None], []], pa.list_(pa.binary(16))),
        "times": pa.array([[10**9], []], pa.list_(pa.timestamp("ns", "UTC"))),
        "deep": pa.array([[{"mac": mac, "name": "::ffff:x", "ip": address("192.0.2.1")}], None], deep),
        "deeper": pa.array([[[mac]], None], pa.list_(pa.list_(pa.binary(6)))),
        "names": pa.array([[{"name": "::ffff:x"}], None], pa.list_(pa.struct([("name", pa.string())]))),
    }
    for name, values in lists.items():
        table = table.append_column(name, values)
    later, first = ask(questions(tmp_path, client, probe, table), "flows")["flows"]
    assert first["macs"] == ["ff:fe:01:02:03:04", None]
    assert first["ips"] == ["192.0.2.1", "2001:db8::1", None]
    assert first["times"] == ["1970-01-01T00:00:01.000000000Z"]
    assert first["names"] == [{"name": "::ffff:x"}]
    assert later["macs"] == later["ips"] == []
    assert not {"deep", "deeper"} & first.keys()


def test_text_that_is_no_utf_8_takes_nothing_else_away(tmp_path: Path, client: Client, probe: Probe) -> None:
    table = replaced(flow_table(2), "server_name", pa.array([b"a\xffb", None], pa.binary(3)))
    asking = questions(tmp_path, client, probe, table)
    assert [flow.get("server_name") for flow in ask(asking, "flows")["flows"]] == [None, "a\ufffdb"]
    assert [row["server_name"] for row in ask(asking, "server-names")["server_names"]] == ["a\ufffdb"]


def test_a_flow_from_an_address_to_itself_is_one(tmp_path: Path, client: Client, probe: Probe) -> None:
    table = flow_table(2)
    asking = questions(tmp_path, client, probe, replaced(table, "dst_ip", table.column("src_ip").combine_chunks()))
    talkers = ask(asking, "top-talkers")["talkers"]
    assert {row["ip"]: (row["flows"], row["bytes_sent"]) for row in talkers} == {
        "192.0.2.0": (1, 150),
        "192.0.2.1": (1, 151),
    }


def test_a_flow_of_many_records_is_one(tmp_path: Path, client: Client, probe: Probe) -> None:
    """One connection of 20 active timeouts and stragglers, and one whose batch has no numbers."""
    long = flow_table(20)
    same = {"flow_id": 2**63, "app": "tls", "server_name": "long.example.com", "src_ip": address("192.0.2.9")}
    for name, value in same.items():
        long = replaced(long, name, pa.array([value] * 20, long.schema.field(name).type))
    long = long.append_column("interim_number", pa.array(range(20), pa.uint32()))
    asking = questions(tmp_path, client, probe, long, flow_table(1))
    counts = {row["app"]: (row["flows"], row["records"]) for row in ask(asking, "applications")["applications"]}
    assert counts == {"tls": (1, 20), "dns": (1, 1)}
    (name,) = ask(asking, "server-names")["server_names"]
    assert (name["flows"], name["records"]) == (1, 20)
    talkers = {row["ip"]: (row["flows"], row["records"]) for row in ask(asking, "top-talkers")["talkers"]}
    # Of the 20, every third goes to the second.
    assert talkers == {"192.0.2.9": (1, 20), "192.0.2.0": (1, 1), "198.51.100.7": (2, 8), "2001:db8::1": (0, 13)}
    # It counts in the window in which it began, and in no other.
    halves = [{"until": START_NS + 10}, {"since": START_NS + 10}]
    (first,), (second,) = (ask(asking, "applications", app="tls", **half)["applications"] for half in halves)
    assert [(row["flows"], row["records"]) for row in (first, second)] == [(1, 10), (0, 10)]


def test_only_rows_of_this_core_count(tmp_path: Path, client: Client, probe: Probe) -> None:
    for core, count in (("a", 2), ("b", 5)):
        end = archive(tmp_path / core, [Probe("sensor", probe.pki).seal(flow_table(count))])
        index_all(tmp_path / core, end, Index(client, core), core)
    assert Index(client, "a").others() == ["b"]
    assert Index(client, "c").others() == ["a", "b"]
    for core, count in (("a", 2), ("b", 5)):
        asking = Questions(client, core)
        assert len(ask(asking, "flows")["flows"]) == count
        assert len(ask(asking, "flows", probe="sensor")["flows"]) == count
        assert sum(row["flows"] for row in ask(asking, "applications")["applications"]) == count
        assert sum(row["flows"] for row in ask(asking, "server-names")["server_names"]) == count // 2
        assert sum(row["flows"] for row in ask(asking, "top-talkers")["talkers"]) == 2 * count
