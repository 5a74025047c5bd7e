"""kill -9 at random moments: what was acknowledged is archived once and indexed once."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from dpi_probe.core.archive import Damage, Kind, Located, iter_entries
from harness.core import COMMAND, Core, wait_for
from harness.sealing import Probe, flow_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUNDS = 5
SENDERS = 3
ROWS = 5


class Sender(threading.Thread):
    """Delivers the batches of one chain in order, as a probe does: what is not acknowledged is sent again."""

    def __init__(self, core: Core, probe: Probe) -> None:
        super().__init__(daemon=True)
        self.core, self.probe = core, probe
        self.acknowledged: dict[int, str] = {}
        self.sealed: list[bytes] = []
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set() or len(self.acknowledged) < len(self.sealed):
            try:
                self.deliver()
            except OSError:
                # The Core is down; the port changes with the next start.
                time.sleep(0.01)

    def deliver(self) -> None:
        with self.core.client() as client:
            while not self.ending.is_set() or len(self.acknowledged) < len(self.sealed):
                seq = len(self.acknowledged)
                if seq == len(self.sealed):
                    self.sealed.append(self.probe.seal(flow_table(ROWS, base=ROWS * seq)))
                answer = client.post("/v1/batches", self.sealed[seq])
                assert answer.code in (200, 201), answer
                self.acknowledged[seq] = answer.body["receipt"]


def check_archive(core: Core, senders: list[Sender]) -> int:
    """Every acknowledged batch lies in the archive once, byte for byte, with the receipt that was given."""
    items = list(iter_entries(core.data / "archive"))
    assert not [item for item in items if isinstance(item, Damage)]
    entries = [item.entry for item in items if isinstance(item, Located)]
    assert [entry.position for entry in entries] == list(range(len(entries)))
    assert {entry.kind for entry in entries} == {Kind.BATCH}
    keys = Counter((entry.chain.hex(), entry.seq) for entry in entries)
    assert set(keys.values()) == {1}
    by_key = {(entry.chain.hex(), entry.seq): entry for entry in entries}
    for sender in senders:
        for seq, receipt in sender.acknowledged.items():
            entry = by_key[sender.probe.chain, seq]
            assert entry.body == sender.sealed[seq]
            assert entry.receipt == receipt
    return len(entries)


def test_kill_9_at_random_moments(make_core: Callable[..., Core], shared_pki: Path) -> None:
    core = make_core()
    senders = [Sender(core, Probe("sensor", shared_pki)) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    moments = random.Random(2)
    for _ in range(ROUNDS):
        before = sum(len(sender.acknowledged) for sender in senders)
        wait_for(lambda: sum(len(sender.acknowledged) for sender in senders) > before + 3, "deliveries")  # noqa: B023
        # Not a wait for something: the moment of the crash is what is random.
        time.sleep(moments.uniform(0, 1.5))
        core.kill()
        core.start()
    for sender in senders:
        sender.ending.set()
    for sender in senders:
        sender.join(timeout=60)
        assert not sender.is_alive()
    core.indexed()
    count = check_archive(core, senders)
    assert count == sum(len(sender.sealed) for sender in senders)
    flows: Counter[tuple[str, int, int]] = Counter()
    path = "/v1/flows?limit=1000"
    while path:
        page = core.get(path)
        flows.update((flow["chain"], flow["seq"], flow["row"]) for flow in page["flows"])
        path = f"/v1/flows?limit=1000&cursor={page['next']}" if page["next"] else ""
    assert set(flows.values()) == {1}
    assert len(flows) == ROWS * count
    answer = core.get("/v1/probes")
    assert answer["next"] is None
    assert sum(chain["archived"] for found in answer["probes"] for chain in found["chains"]) == count
    assert core.stop() == 0


def test_catalog_can_be_thrown_away(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    batches = [probe.seal() for _ in range(3)]
    fork = Probe("sensor", probe.pki, chain=probe.chain).seal(flow_table(2))
    with core.client() as client:
        first = [client.post("/v1/batches", batch) for batch in batches]
        assert client.post("/v1/batches", fork).code == 409
    before = core.get("/v1/probes")
    assert core.stop() == 0
    for path in core.data.glob("catalog.sqlite*"):
        path.unlink()
    core.start()
    assert core.get("/v1/probes")["probes"][0]["chains"] == before["probes"][0]["chains"]
    with core.client() as client:
        again = [client.post("/v1/batches", batch) for batch in batches]
        assert client.post("/v1/batches", fork).code == 409
    assert [answer.code for answer in again] == [200] * 3
    assert [answer.body for answer in again] == [answer.body for answer in first]


def test_torn_append_is_taken_away_and_sent_again(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    batches = [probe.seal() for _ in range(2)]
    with core.client() as client:
        assert client.post("/v1/batches", batches[0]).code == 201
    core.kill()
    (segment,) = (core.data / "archive").glob("*.dpa")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[36:1000])
    core.start()
    assert "took away 964 bytes" in core.log
    with core.client() as client:
        assert [client.post("/v1/batches", batch).code for batch in batches] == [200, 201]
    core.indexed()


def test_evidence_that_was_taken_away_is_reported(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    batches = [probe.seal() for _ in range(2)]
    with core.client() as client:
        for batch in batches:
            assert client.post("/v1/batches", batch).code == 201
    assert core.stop() == 0
    (segment,) = (core.data / "archive").glob("*.dpa")
    segment.write_bytes(segment.read_bytes()[:-50])
    core.start()
    assert "acknowledged evidence is gone" in core.log
    health = core.get("/v1/health")
    assert health["status"] == "degraded"
    assert core.metric("dpi_core_archive_lost") == 1
    with core.client() as client:
        # What is left is not archived again; what is gone is, if its probe still has it.
        assert [client.post("/v1/batches", batch).code for batch in batches] == [200, 201]


def test_an_archive_whose_volume_is_not_mounted_is_not_begun_anew(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    batch = probe.seal()
    with core.client() as client:
        assert client.post("/v1/batches", batch).code == 201
    assert core.stop() == 0
    archive, aside = core.data / "archive", core.data / "aside"
    archive.rename(aside)
    archive.mkdir(mode=0o700)
    arguments = ["core", "--data-dir", core.data, "--pki", core.pki, "--admin-port", "0", "--listen", "127.0.0.1:0"]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    # Not 2: systemd is to try again.
    assert done.returncode == 1, done.stderr
    assert "holds no segment, but 1 records that lay there were acknowledged; is its volume mounted?" in done.stderr
    assert list(archive.glob("segment-*")) == []
    shutil.rmtree(archive)
    aside.rename(archive)
    core.start()
    with core.client() as client:
        assert [client.post("/v1/batches", one).code for one in (batch, probe.seal())] == [200, 201]
