"""From the archive into the database, and what can be asked of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from dpi_probe._flows import open_reader
from dpi_probe._pki import Authority
from harness.core import COMMAND, Core, wait_for
from harness.sealing import START_NS, Probe, flow_table

from tests.corpus.cases import cases

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.sealing import Client

FLOWS = 40


@pytest.fixture(scope="module")
def filled(lasting_core: Core, shared_pki: Path) -> Core:
    """40 flows in 4 batches of one probe."""
    probe = Probe("sensor", shared_pki)
    with lasting_core.client() as client:
        for at in range(4):
            assert client.post("/v1/batches", probe.seal(flow_table(10, base=10 * at))).code == 201
    lasting_core.indexed()
    return lasting_core


def in_database(path: Path, *statements: str) -> list[list[list[object]]]:
    """Rows of each statement, asked in a process of its own: an embedded database has one owner."""
    program = """
import json, sys, clickhouse_connect
client = clickhouse_connect.get_client(dsn="chdb://" + sys.argv[1])
for statement in sys.argv[2:]:
    print(json.dumps([list(row) for row in client.query(statement).result_rows], default=str))
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), *statements], capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def post(client: Client, batch: bytes) -> None:
    assert client.post("/v1/batches", batch).code == 201


def test_flow_reads_as_people_write(filled: Core) -> None:
    code, page = filled.ask("/v1/flows?community_id=1:1%3D")
    assert code == 200
    assert page["next"] is None
    (flow,) = page["flows"]
    assert flow["start_time"] == "2025-10-09T08:53:20.000000001Z"
    assert (flow["src_ip"], flow["dst_ip"]) == ("192.0.2.1", "2001:db8::1")
    assert flow["src_mac"] == "02:00:5e:00:53:ff"
    assert flow["flow_id"] == 2**63 + 1
    assert flow["vlan_ids"] == [1, 7]
    assert (flow["probe"], flow["seq"], flow["row"]) == ("sensor", 0, 1)


def test_pages_hold_every_flow_once_newest_first(filled: Core) -> None:
    seen, path = [], "/v1/flows?limit=7"
    while path:
        page = filled.get(path)
        assert len(page["flows"]) <= 7
        seen += [flow["flow_id"] - 2**63 for flow in page["flows"]]
        path = f"/v1/flows?limit=7&cursor={page['next']}" if page["next"] else ""
    assert seen == list(reversed(range(FLOWS)))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("app=tls", [row for row in range(FLOWS) if row % 2]),
        ("app=nothing", []),
        ("server_name=host3.example.com", [3]),
        ("server_name=*.example.com", [row for row in range(FLOWS) if row % 2]),
        ("server_name=*.example.net", []),
        ("ip=192.0.2.5", [5]),
        ("ip=192.0.2.4/31", [4, 5]),
        ("ip=2001:db8::/32", [row for row in range(FLOWS) if row % 3]),
        ("ip=198.51.100.7", [row for row in range(FLOWS) if row % 3 == 0]),
        ("port=53", [row for row in range(FLOWS) if row % 2 == 0]),
        ("port=40006", [6]),
        ("probe=sensor&app=dns&port=40006", [6]),
        ("probe=other", []),
        (f"since=2025-10-09T08:53:20.000000035Z&until={START_NS // 10**9}.000000037", [35, 36]),
        ("since=2025-10-09T10:53:20.000000038%2B02:00", [38, 39]),
        ("app=' OR 1=1 --", []),
        ("app=%5C' OR 1=1", []),
    ],
)
def test_filters(filled: Core, query: str, expected: list[int]) -> None:
    code, page = filled.ask(f"/v1/flows?limit=1000&{query.replace(' ', '%20')}")
    assert code == 200
    assert sorted(flow["flow_id"] - 2**63 for flow in page["flows"]) == expected


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "port=65536", "port=-1", "ip=300.1.1.1", "ip=1.2.3.4/33", "since=yesterday",
        "since=2025-13-01", "until=9999999999", "ip=fe80::1%25eth0",
        "cursor=x", "cursor=WzFd", "nonsense=1", "app=a&app=b", "app=" + "a" * 600, "category=web",
    ],
)  # fmt: skip
def test_bad_queries_400_with_one_sentence(filled: Core, query: str) -> None:
    code, body = filled.ask(f"/v1/flows?{query}")
    assert (code, body["status"]) == (400, "BAD_QUERY")
    assert "\n" not in body["detail"]


@pytest.mark.parametrize("path", ["/nosuch", "/v1/nosuch", "/"])
def test_what_there_is_not_is_told_like_every_other_error(filled: Core, path: str) -> None:
    code, body = filled.ask(path)
    assert (code, body["status"]) == (404, "NOT_FOUND")
    assert body["detail"].startswith(f"there is no {path};")


def test_another_method_is_told_what_there_is(filled: Core) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", filled.admin_port, timeout=30)
    connection.request("DELETE", "/v1/flows")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "GET,HEAD")
    body = json.loads(answer.read())
    connection.close()
    assert body == {"status": "METHOD_NOT_ALLOWED", "detail": "/v1/flows takes GET, HEAD"}


@pytest.mark.parametrize("path", ["/v1/flows", "/v1/probes", "/v1/health", "/metrics", "/v1/nothing"])
def test_a_web_page_under_another_name_reads_nothing(filled: Core, path: str) -> None:
    """DNS rebinding: its name is an address of the loopback now, and that name is what the browser sends."""
    for host in ("evil.example", f"evil.example:{filled.admin_port}", "localhost.evil.example", "192.0.2.1", ""):
        assert ask_as(filled, path, host) == (403, "FORBIDDEN"), host


def test_health_and_metrics_are_answered_by_every_name_of_the_loopback(filled: Core) -> None:
    for path in ("/v1/health", "/metrics"):
        for host in (f"127.0.0.1:{filled.admin_port}", "localhost", "LOCALHOST:1", "[::1]:8444", "127.0.0.2"):
            assert ask_as(filled, path, host)[0] == 200, host
        # A simple health check.
        with socket.create_connection(("127.0.0.1", filled.admin_port), timeout=30) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert connection.makefile("rb").readline().split()[1] == b"200"


@pytest.mark.parametrize("path", ["/v1/flows", "/metrics"])
def test_a_web_page_of_another_place_asks_nothing(filled: Core, path: str) -> None:
    """An image or a form of a page: it cannot read the answer, but the database would have to work."""
    for name, value in (
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://["),
        ("Origin", f"http://evil.example:{filled.admin_port}"),
    ):
        assert ask_as(filled, path, "localhost", **{name: value}) == (403, "FORBIDDEN"), value
    for name, value in (
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Origin", f"http://127.0.0.1:{filled.admin_port}"),
    ):
        assert ask_as(filled, path, "localhost", **{name: value})[0] == 200, value


def ask_as(core: Core, path: str, host: str, **headers: str) -> tuple[int, str | None]:
    """Code and status of the answer to a request with this `Host`, and other headers."""
    connection = http.client.HTTPConnection("127.0.0.1", core.admin_port, timeout=30)
    try:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body)["status"] if body.startswith(b'{"status') else None
    finally:
        connection.close()


def test_sums(filled: Core) -> None:
    answer = filled.get("/v1/query/applications")
    assert [(row["app"], row["flows"]) for row in answer["applications"]] == [("tls", 20), ("dns", 20)]
    assert sum(row["bytes"] for row in answer["applications"]) == sum(100 + row + 50 for row in range(FLOWS))
    assert sum(row["packets"] for row in answer["applications"]) == sum(3 + row for row in range(FLOWS))
    answer = filled.get("/v1/query/top-talkers?limit=2")
    assert [row["ip"] for row in answer["talkers"]] == ["2001:db8::1", "198.51.100.7"]
    assert answer["talkers"][1]["bytes_received"] == sum(100 + row for row in range(0, FLOWS, 3))
    assert answer["talkers"][1]["bytes_sent"] == 50 * 14
    answer = filled.get("/v1/query/server-names?limit=1000")
    assert len(answer["server_names"]) == 20
    assert all(row["app"] == "tls" for row in answer["server_names"])


def test_health_and_metrics(filled: Core) -> None:
    code, health = filled.ask("/v1/health")
    assert (code, health["status"], health["problems"]) == (200, "ok", [])
    assert health["index"]["lag_batches"] == 0
    assert filled.metric("dpi_core_archived_rows_total") == FLOWS
    assert filled.metric("dpi_core_index_rows_total") >= FLOWS
    assert filled.metric("dpi_core_database_up") == 1


def test_tables_of_protocols_ledger_events_and_batches(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    ledger = pa.table(
        {
            "time": pa.array([START_NS] * 2, pa.timestamp("ns", "UTC")),
            "account": ["frames", "frames"],
            "reason": ["", "checksum"],
            "worker": pa.array([None, 0], pa.uint32()),
            "value": pa.array([10, None], pa.uint64()),
        }
    )
    later = ledger.set_column(4, "value", pa.array([12, 3], pa.uint64()))
    event = pa.table(
        {
            "time": pa.array([START_NS], pa.timestamp("ns", "UTC")),
            "severity": ["warning"], "event": ["flow_table_full"], "detail": ["it's full \\ 'x'"],
        }
    )  # fmt: skip
    with core.client() as client:
        post(client, probe.seal(flow_table(4)))
        post(client, probe.seal(ledger, kind="ledger"))
        post(client, probe.seal(event, kind="event"))
        post(client, probe.seal(later, kind="ledger"))
    core.indexed()
    answer = core.get("/v1/probes?probe=sensor")
    books = {(row["account"], row.get("reason")): row.get("value") for row in answer["probes"][0]["books"]}
    assert books == {("frames", ""): 12, ("frames", "checksum"): 3}
    assert core.stop() == 0
    tls, events, ledgers, batches = in_database(
        core.data / "database",
        "SELECT probe, chain, seq, row, flow_id, toString(src_ip), sni, version FROM tls ORDER BY row",
        "SELECT severity, event, detail FROM events",
        "SELECT seq, account, reason, worker, value FROM ledger ORDER BY seq, row",
        "SELECT position, seq, kind, record, rows, error FROM batches ORDER BY position",
    )
    key = ["sensor", probe.chain, 0]
    assert tls == [
        [*key, 1, 2**63 + 1, "::ffff:192.0.2.1", "host1.example.com", None],
        [*key, 3, 2**63 + 3, "::ffff:192.0.2.3", "host3.example.com", None],
    ]
    assert events == [["warning", "flow_table_full", "it's full \\ 'x'"]]
    assert ledgers == [
        [1, "frames", "", None, 10], [1, "frames", "checksum", 0, None],
        [3, "frames", "", None, 12], [3, "frames", "checksum", 0, 3],
    ]  # fmt: skip
    kinds = ["flow", "ledger", "event", "ledger"]
    assert batches == [[at, at, kinds[at], "batch", [4, 2, 1, 2][at], ""] for at in range(4)]


def test_features_have_a_table_of_their_own(make_core: Callable[..., Core], probe: Probe) -> None:
    case = next(case for case in cases() if case.name == "http1-keep-alive")
    reader = open_reader([str(case.capture)], profile="full", addresses="binary", protocols=[])
    flows = pa.RecordBatchReader.from_stream(reader).read_all()
    expected = flows.column("features").combine_chunks().to_pylist()
    core = make_core()
    with core.client() as client:
        post(client, probe.seal(flows))
    core.indexed()
    assert core.stop() == 0
    members = [
        "payload_length_mean",
        "tcp_syn_packets_fwd",
        "burst_bytes_rev",
        "idle_min_ns",
        "payload_length_histogram_fwd",
    ]
    rows, comments = in_database(
        core.data / "database",
        "SELECT row, payload_length_mean, tcp_syn_packets_fwd, burst_bytes_rev, idle_min_ns,"
        " payload_length_histogram_fwd FROM features ORDER BY row",
        "SELECT comment FROM system.columns WHERE table = 'features' AND name = 'subflows'",
    )
    assert rows == [[at, *(expected[at][name] for name in members)] for at in range(len(expected))]
    assert comments[0][0].startswith("Parts of the record")


def test_newer_columns_are_added_and_changed_types_are_reported(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    newer = flow_table(2, base=5).append_column("dscp", pa.array([46, None], pa.uint8()))
    older = flow_table(2, base=9)
    at = older.schema.get_field_index("app")
    changed = older.set_column(at, "app", pa.array([1, 2], pa.uint32()))
    with core.client() as client:
        for table in (flow_table(2), newer, changed, older):
            post(client, probe.seal(table))
    core.indexed(but=1)
    page = core.get("/v1/flows")
    assert [(flow["seq"], flow.get("dscp")) for flow in page["flows"]] == [
        (3, None),
        (3, None),
        (1, None),
        (1, 46),
        (0, None),
        (0, None),
    ]
    assert "column flows.app is LowCardinality(Nullable(String)), and here Nullable(UInt32)" in core.log
    problem = "index: 1 archived batch is not in the database; the log and `error` in the table `batches` say why"
    for _ in range(2):
        assert core.get("/v1/health")["problems"] == [problem]
        assert core.metric("dpi_core_unindexed_batches") == 1
        # What is not there does not come by a restart.
        assert core.stop() == 0
        core.start().indexed(but=1)


def test_hostile_names_stay_out_of_sql(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    base = flow_table(2)
    name = "x` UInt8) ENGINE=Memory; DROP TABLE batches; --"
    struct = pa.array([{"a`b": 1}, None], pa.struct([("a`b", pa.uint8())]))
    shadow = pa.array(
        [{"seq": 7, "flow_id": 8, "row": 9}] * 2, pa.struct([(n, pa.uint64()) for n in ("seq", "flow_id", "row")])
    )
    with core.client() as client:
        post(client, probe.seal(base.append_column(name, pa.array([1, 2], pa.uint8()))))
        post(client, probe.seal(base.append_column("odd", struct)))
        post(client, probe.seal(base.append_column("batches", shadow)))
    core.indexed(but=2)
    page = core.get("/v1/flows")
    assert {flow["seq"] for flow in page["flows"]} == {2}
    assert core.stop() == 0
    (rows,) = in_database(core.data / "database", "SELECT seq, row, flow_id, seq_, flow_id_, row_ FROM batches_")
    assert rows == [[2, 0, 2**63, 7, 8, 9], [2, 1, 2**63 + 1, 7, 8, 9]]


def test_what_the_database_refuses_holds_up_nothing(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()

    def changed(name: str, values: pa.Array) -> pa.Table:
        table = flow_table(2)
        at = table.schema.get_field_index(name)
        return table.append_column(name, values) if at < 0 else table.set_column(at, name, values)

    # ClickHouse takes no tuple of two members of one name; nothing before the database looks into lists.
    twins = pa.StructArray.from_arrays([pa.array([1, 2])] * 2, ["twin", "twin"])
    tables = [
        changed("flow_id", pa.array(["a", "b"])),
        changed("start_time", pa.array(["now", "then"])),
        changed("_row_exists", pa.array([1, 0], pa.uint8())),
        changed("twins", pa.ListArray.from_arrays([0, 1, 2], twins)),
    ]
    with core.client() as client:
        # None of them stands alone, so that what is refused is a group.
        core.indexed()
        for table in tables:
            post(client, probe.seal(flow_table(2)))
            post(client, probe.seal(table))
        post(client, probe.seal(flow_table(2)))
    core.indexed(but=4)
    assert core.get("/v1/health")["archive"]["entries"] == 9
    assert core.metric("dpi_core_index_failures_total") == 0, core.log
    assert core.stop() == 0
    done = subprocess.run(
        [COMMAND, "core", "reindex", "--data-dir", core.data, "--pki", core.pki],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 entries of the archive could not be indexed" in done.stderr, done
    flows, errors = in_database(
        core.data / "database",
        "SELECT seq, count() FROM flows GROUP BY seq ORDER BY seq",
        "SELECT seq, error FROM batches WHERE error != '' ORDER BY seq",
    )
    assert flows == [[seq, 2] for seq in (0, 2, 4, 6, 8)]
    reasons = ["flow_id is UInt64", "start_time is DateTime64", "'_row_exists' cannot name", "Duplicate name"]
    assert [seq for seq, _ in errors] == [1, 3, 5, 7]
    assert all(reason in str(error) for reason, (_, error) in zip(reasons, errors, strict=True))


def test_callers_that_went_away_hold_up_nobody(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    with core.client() as client:
        for at in range(3):
            post(client, probe.seal(flow_table(3000, base=3000 * at)))
    core.indexed()
    begun = time.monotonic()
    core.get("/v1/flows", limit=1000)
    one = time.monotonic() - begun
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", core.admin_port), timeout=30) as connection:
            connection.sendall(b"GET /v1/flows?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    # At most as many as the Core takes at a time are still in its hands.
    begun = time.monotonic()
    wait_for(lambda: core.ask("/v1/flows", limit=1)[0] == 200, "an answer", pause=0.2)
    assert time.monotonic() - begun < max(30.0, 40 * one)


def test_rows_of_an_earlier_name_do_not_count_and_are_told(make_core: Callable[..., Core], own_pki: Path) -> None:
    core = make_core(pki=own_pki)
    probe = Probe("sensor", own_pki)
    ledger = pa.table(
        {
            "time": pa.array([START_NS], pa.timestamp("ns", "UTC")),
            "account": ["packets"],
            "reason": [""],
            "worker": pa.array([None], pa.uint32()),
            "value": pa.array([7], pa.uint64()),
        }
    )
    with core.client() as client:
        post(client, probe.seal(flow_table(3)))
        post(client, probe.seal(ledger, kind="ledger"))
    core.indexed()
    assert "other Cores" not in core.log
    assert core.stop() == 0
    Authority(own_pki).issue_core("renamed", renew=True)
    core.start()
    core.indexed()
    assert len(core.get("/v1/flows")["flows"]) == 3
    assert sum(row["flows"] for row in core.get("/v1/query/applications")["applications"]) == 3
    assert sum(row["flows"] for row in core.get("/v1/query/top-talkers")["talkers"]) == 6
    assert sum(row["flows"] for row in core.get("/v1/query/server-names")["server_names"]) == 1
    assert [account["value"] for account in core.get("/v1/probes")["probes"][0]["books"]] == [7]
    assert "it also holds rows of other Cores (core), which no answer of this one (renamed) counts" in core.log


def test_restart_goes_on_where_it_was(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    batches = [probe.seal() for _ in range(4)]
    with core.client() as client:
        first = [client.post("/v1/batches", batch) for batch in batches[:2]]
    assert core.stop() == 0
    assert "stopped" in core.log
    core.start()
    with core.client() as client:
        again = [client.post("/v1/batches", batch) for batch in batches]
    assert [answer.code for answer in again] == [200, 200, 201, 201]
    assert [answer.body["receipt"] for answer in again[:2]] == [answer.body["receipt"] for answer in first]
    core.indexed()
    answer = core.get("/v1/query/applications")
    assert sum(row["flows"] for row in answer["applications"]) == 12


def test_database_of_another_archive_is_not_written_to(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    with core.client() as client:
        post(client, probe.seal())
    core.indexed()
    assert core.stop() == 0
    for path in [*(core.data / "archive").glob("*.dpa"), core.data / "catalog.sqlite"]:
        path.unlink()
    core.start()
    with core.client() as client:
        post(client, probe.seal())
    wait_for(lambda: core.get("/v1/health")["status"] == "degraded", "the mismatch to show")
    wait_for(lambda: "core reindex" in " ".join(core.get("/v1/health")["problems"]), "the reason")


@pytest.mark.parametrize(("setting", "nice"), [("", 19), ("0", 0)])
def test_the_database_stands_back_but_never_starves(make_core: Callable[..., Core], setting: str, nice: int) -> None:
    core = make_core(CORE_DATABASE_NICE=setting)
    core.indexed()
    assert core.process is not None
    children = Path(f"/proc/{core.process.pid}/task/{core.process.pid}/children").read_text().split()
    threads = [int(entry.name) for entry in Path(f"/proc/{children[0]}/task").iterdir()]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    # SCHED_IDLE gets nothing where the processors are busy.
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_OTHER}
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {max(nice, own)}
    assert os.getpriority(os.PRIO_PROCESS, core.process.pid) == own


def test_database_process_that_dies_is_started_again(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    with core.client() as client:
        post(client, probe.seal())
        core.indexed()
        assert core.process is not None
        children = Path(f"/proc/{core.process.pid}/task/{core.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        # Ingest does not notice.
        post(client, probe.seal())
    wait_for(lambda: core.metric("dpi_core_database_restarts_total") == 1, "the restart to be counted")
    core.indexed()
    page = core.get("/v1/flows")
    assert len(page["flows"]) == 6


def test_an_answer_that_is_too_large_is_told_and_nothing_ends(make_core: Callable[..., Core], probe: Probe) -> None:
    """Long text packs into a batch of a few kilobytes, and JSON writes one such byte as six."""
    table = flow_table(2)
    # The first alone is too much as JSON, both together are for the database.
    names = ["\x01" * (12 << 20), "x" * (60 << 20)]
    core = make_core()
    with core.client() as client:
        for at, name in enumerate(names):
            row = table.slice(at, 1)
            column = row.schema.get_field_index("server_name")
            post(client, probe.seal(row.set_column(column, "server_name", pa.array([name]))))
    core.indexed()
    detail = "the answer is larger than 64 MiB; ask for fewer flows"
    for query in ({"app": "dns"}, {}):
        assert core.ask("/v1/flows", **query) == (503, {"status": "UNAVAILABLE", "detail": detail})
    (flow,) = core.get("/v1/flows", app="tls")["flows"]
    assert flow["server_name"] == names[1]
    assert core.metric("dpi_core_database_restarts_total") == 0
    assert "Traceback" not in core.log
