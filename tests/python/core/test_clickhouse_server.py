"""The index on a ClickHouse server: the same Core over `clickhouse://`, with what can happen on the way.

The server is the current engine behind its HTTP interface (`harness/clickhouse_server.py`), a process of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from dpi_probe._pki import Authority
from dpi_probe.core.archive import Located, read_segment, segments
from dpi_probe.core.catalog import entry_manifest
from dpi_probe.core.database import Decoded, Index, Indexed, connect
from dpi_probe.core.schema import read_batch, rows_of
from harness.core import COMMAND, Core, free_port, wait_for
from harness.sealing import Probe, flow_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PASSWORD = "p@ss:/word"
HARNESS = Path(__file__).parents[1]
ROWS = 5


class Server:
    """A server process on a directory; it keeps its port when it is started again."""

    def __init__(self, path: Path) -> None:
        self.path, self.port = path, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, delay_inserts: float = 0) -> Self:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "harness.clickhouse_server", "--port", str(self.port), "--path", self.path,
                "--user", "core", "--password", PASSWORD, "--create", "evidence", "--create", "second",
                "--delay-inserts", str(delay_inserts),
            ],
            cwd=HARNESS,
        )  # fmt: skip
        wait_for(self.answers, "the database server to answer")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=10) as response:
                return response.read() == b"Ok.\n"
        except OSError:
            return False

    def dsn(self, database: str = "evidence", password: str = PASSWORD) -> str:
        return f"clickhouse://core:{urllib.parse.quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def rows(self, sql: str, database: str = "evidence") -> list[dict]:
        import clickhouse_connect

        client = clickhouse_connect.get_client(dsn=self.dsn(database))
        lines = client.raw_query(sql, fmt="JSONEachRow").splitlines()
        client.close()
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    if server.process is not None:
        server.kill()


def post(core: Core, batch: bytes) -> None:
    with core.client() as client:
        assert client.post("/v1/batches", batch).code in (200, 201)


def each_row_once(server: Server, batches: int, database: str = "evidence") -> None:
    """Every row of every batch is there once, in `flows` and in the table of its protocol."""
    keys = Counter(
        (row["chain"], row["seq"], row["row"]) for row in server.rows("SELECT chain, seq, row FROM flows", database)
    )
    assert set(keys.values()) <= {1}, "a row is there twice"
    assert len(keys) == ROWS * batches
    expected = sum(flow_table(ROWS, base=ROWS * at).column("tls").drop_null().length() for at in range(batches))
    tls = Counter((row["chain"], row["seq"], row["row"]) for row in server.rows("SELECT * FROM tls", database))
    assert set(tls.values()) <= {1}
    assert len(tls) == expected
    positions = [row["position"] for row in server.rows("SELECT position FROM batches ORDER BY position", database)]
    assert [int(position) for position in positions] == list(range(batches))


def sealed(probe: Probe) -> bytes:
    return probe.seal(flow_table(ROWS, base=ROWS * probe.seq))


def test_index_queries_and_reindex_over_the_network(
    server: Server, make_core: Callable[..., Core], probe: Probe, tmp_path: Path
) -> None:
    server.start()
    core = make_core("--database", server.dsn())
    for _ in range(3):
        post(core, sealed(probe))
    core.indexed()
    page = core.get("/v1/flows", ip="192.0.2.3")
    (flow,) = page["flows"]
    assert flow["start_time"] == "2025-10-09T08:53:20.000000003Z"
    assert (flow["src_ip"], flow["src_mac"], flow["vlan_ids"]) == ("192.0.2.3", "02:00:5e:00:53:ff", [3, 7])
    assert flow["flow_id"] == 2**63 + 3
    assert sum(row["flows"] for row in core.get("/v1/query/applications")["applications"]) == 3 * ROWS
    assert len(core.get("/v1/flows", server_name="*.example.com")["flows"]) == 7
    each_row_once(server, 3)

    # Another database of the server, while the Core runs; its own only after it has stopped.
    reindex = [COMMAND, "core", "reindex", "--data-dir", core.data, "--pki", core.pki, "--database"]
    done = subprocess.run([*reindex, server.dsn("second")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "indexed 3 batches, 22 rows\n"), done.stderr
    each_row_once(server, 3, "second")
    done = subprocess.run([*reindex, server.dsn()], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another process writes to it; stop the Core" in done.stderr
    assert core.stop() == 0
    assert PASSWORD not in core.log
    assert urllib.parse.quote(PASSWORD, safe="") not in core.log

    # Two Cores in one database: rebuilding the rows of one leaves those of the other.
    Authority.init(tmp_path / "pki2", core="second", probes=["sensor"])
    other = Core(tmp_path / "core2", tmp_path / "pki2", "--database", server.dsn()).start()
    post(other, Probe("sensor", other.pki).seal(flow_table(2)))
    other.indexed()
    assert other.stop() == 0
    done = subprocess.run([*reindex, server.dsn()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "indexed 3 batches, 22 rows\n"), done.stderr
    keys = server.rows("SELECT DISTINCT core, chain, seq, row FROM flows")
    assert len(keys) == 3 * ROWS + 2
    count = "SELECT core, toUInt32(count()) AS rows FROM flows GROUP BY core ORDER BY core"
    assert server.rows(count) == [{"core": "core", "rows": 3 * ROWS}, {"core": "second", "rows": 2}]


def test_ingest_goes_on_without_a_database_and_the_reason_is_shown(
    server: Server, make_core: Callable[..., Core], probe: Probe
) -> None:
    core = make_core("--database", server.dsn())
    post(core, sealed(probe))
    wait_for(lambda: "refused" in " ".join(core.get("/v1/health")["problems"]), "the reason to show")
    wait_for(lambda: core.log.count("trying again in") >= 2, "a second try")
    # A line for each try, and none of the libraries' own.
    told = [line for line in core.log.splitlines() if "refused" in line or "Exception" in line or "Retry" in line]
    assert all("trying again in" in line for line in told), told
    assert core.ask("/v1/flows")[0] == 503
    server.start()
    core.indexed()
    each_row_once(server, 1)
    assert core.stop() == 0

    core = make_core("--database", server.dsn(password="wrong"))
    wait_for(lambda: "516" in " ".join(core.get("/v1/health")["problems"]), "the wrong password to show")
    (problem,) = core.get("/v1/health")["problems"]
    assert "\n" not in problem
    assert "wrong" not in core.log
    core.kill()
    core = make_core("--database", server.dsn("nowhere"))
    wait_for(lambda: "nowhere does not exist" in " ".join(core.get("/v1/health")["problems"]), "the database's name")
    post(core, sealed(probe))


def test_an_insert_that_outlives_its_core_is_waited_for(
    server: Server, make_core: Callable[..., Core], probe: Probe
) -> None:
    server.start(delay_inserts=3)
    core = make_core("--database", server.dsn())
    post(core, sealed(probe))
    running = "SELECT count() AS n FROM system.processes WHERE startsWith(query_id, 'dpi-core-core-')"
    wait_for(lambda: int(server.rows(running)[0]["n"]) > 0, "the insert to begin")
    core.kill()
    core.start()
    core.indexed()
    each_row_once(server, 1)


def test_a_group_whose_answer_was_lost_is_there_once(
    server: Server, make_core: Callable[..., Core], probe: Probe
) -> None:
    server.start()
    core = make_core("--database", server.dsn())
    for _ in range(3):
        post(core, sealed(probe))
    core.indexed()
    assert core.stop() == 0
    archived = [
        item for number, path in segments(core.data / "archive") for item in read_segment(path, number, newest=True)
    ]
    (name,) = {row["core"] for row in server.rows("SELECT core FROM batches")}
    group = []
    for item in archived:
        assert isinstance(item, Located)
        manifest = entry_manifest(item.entry)
        batch = read_batch(item.entry.body, manifest, item.entry.received_ns)
        group.append(Decoded([Indexed(item, manifest)], rows_of([batch], name)))
    # As after an insert that reached the server to its end, while the answer did not reach the Core.
    Index(connect(server.dsn(), memory_bytes=1 << 30), name).insert(group, in_doubt=True)
    each_row_once(server, 3)


def test_kill_9_of_server_and_core_in_the_middle_of_inserts(
    server: Server, make_core: Callable[..., Core], probe: Probe
) -> None:
    moments = random.Random(7)
    # Most of a round's time some insert is under way.
    server.start(delay_inserts=0.5)
    core = make_core("--database", server.dsn())
    running = "SELECT count() AS n FROM system.processes WHERE startsWith(query_id, 'dpi-core-core-')"
    # The table may not be there yet.
    recorded = "SELECT coalesce(sum(total_rows), 0) AS n FROM system.tables WHERE name = 'batches'"

    def begun(batches: int) -> bool:
        # On a busy machine all inserts may be over before anybody looks.
        return any(int(server.rows(sql)[0]["n"]) >= least for sql, least in ((running, 1), (recorded, batches)))

    for number in range(4):
        for _ in range(2):
            post(core, sealed(probe))
        wait_for(lambda batches=2 * number + 2: begun(batches), "an insert")
        # Not a wait for something: the moment of the crash is what is random.
        time.sleep(moments.uniform(0, 1.2))
        if number % 3 != 1:
            server.kill()
        if number % 3 != 0:
            core.kill()
            core.start(wait=False)
        if number % 3 != 1:
            server.start(delay_inserts=0.5)
        core.wait()
    core.indexed()
    each_row_once(server, 8)
    assert core.stop() == 0
