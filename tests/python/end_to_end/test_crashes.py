"""kill -9 in mid-delivery, in mid-commit and in mid-insert: every sealed batch is archived once and indexed once."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe import _native
from dpi_probe.core.archive import Damage, Located, iter_entries
from harness.books import check_books, database_flows, total
from harness.core import Core, wait_for
from harness.programs import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTURES = sorted((Path(__file__).parents[2] / "corpus").glob("tls-*/input.pcap*"))


def archived(core: Core) -> list[tuple[str, str, int]]:
    """(probe, chain, seq) of every batch in the archive."""
    items = list(iter_entries(core.data / "archive"))
    assert not [item for item in items if isinstance(item, Damage)]
    return [(i.entry.probe, i.entry.chain.hex(), i.entry.seq) for i in items if isinstance(i, Located)]


def claims_of(core: Core) -> list[_native.Claims]:
    """The manifests' claims of every batch in the archive."""
    items = iter_entries(core.data / "archive")
    return [_native.read_claims(item.entry.body)["claims"] for item in items if isinstance(item, Located)]


def pending(spool: Path) -> set[tuple[str, int]]:
    """Chain and position of the batches that wait in the spool."""
    names = [path.stem.rsplit("-", 1) for path in (spool / "pending").glob("*.arrows")]
    return {(chain, int(seq, 16)) for chain, seq in names}


def kind_of(batch: Path) -> str | None:
    """The kind of a sealed batch in a spool; None if it is gone."""
    try:
        return _native.read_claims(batch.read_bytes())["claims"]["kind"]
    except FileNotFoundError:
        return None


@contextmanager
def frozen(*processes: int) -> Iterator[None]:
    """Nothing moves in these processes within the block: what is seen there is what a kill in it leaves behind."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
        wait_for(lambda process=process: state_of(process) in "TtZX", "a process to stand still")
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def state_of(process: int) -> str:
    """The letter of its state; `X` where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


class Scene:
    """A Core, and a probe that always has something to deliver: it is started again whenever it has ended."""

    def __init__(self, pki: Path, folder: Path) -> None:
        self.pki = pki
        self.core = Core(folder / "core", pki).start()
        self.spool = folder / "spool"
        self.dice = random.Random(20_260_101)
        settings = folder / "probe.toml"
        settings.write_text("health_report_interval_seconds = 0.1\nshutdown_timeout_seconds = 600\n")
        self.arguments = ["--config", settings, *(word for capture in CAPTURES for word in ("-r", capture))]
        self.probe: Probe | None = None
        self.sealed: set[tuple[str, int]] = set()

    def running_probe(self) -> int:
        """The process id of the probe, which is started if there is none."""
        if self.probe_has_ended():
            self.probe = Probe(self.pki, self.spool, self.core, *self.arguments).start()
        assert self.probe is not None
        assert self.probe.process is not None
        return self.probe.process.pid

    def probe_has_ended(self) -> bool:
        """Whether there is no probe; one that ended by itself ended well."""
        if self.probe is None or self.probe.process is None:
            return True
        ended = self.probe.process.poll()
        assert ended in (None, 0, -signal.SIGKILL), self.probe.log.read_text()
        return ended is not None

    def kill_probe(self) -> None:
        self.sealed |= pending(self.spool)
        assert self.probe is not None
        self.probe.kill()

    def core_processes(self) -> list[int]:
        """The service, and the process of its database, if it has started."""
        assert self.core.process is not None
        service = self.core.process.pid
        try:
            children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
        except FileNotFoundError:
            children = []
        return [service, *map(int, children)]

    def kill_core(self) -> None:
        self.sealed |= pending(self.spool)
        assert self.core.process is not None
        assert self.core.process.poll() is None, self.core.log
        self.core.kill()
        self.core.start()

    def has_flows_pending(self) -> bool:
        return any(kind_of(batch) == "flow" for batch in (self.spool / "pending").glob("*.arrows"))

    def some_time(self, at_most: float) -> None:
        """Not a wait for something: the moment of the crash is what is random."""
        time.sleep(self.dice.uniform(0, at_most))

    def in_mid_request(self) -> bool:
        """The probe dies while it waits for the answer of a Core that goes on with the request."""
        wait_for(self.probe_has_ended, "the last probe to end")
        with frozen(*self.core_processes()):
            wait_for(lambda: self.running_probe() and self.has_flows_pending(), "flows to deliver")
            self.some_time(0.1)
            self.kill_probe()
        return True

    def in_mid_delivery(self) -> bool:
        """The probe dies at any moment at which something waits for its receipt."""
        wait_for(lambda: self.running_probe() and pending(self.spool), "something to deliver")
        self.some_time(0.05)
        with frozen(process := self.running_probe()):
            if not pending(self.spool) or state_of(process) in "ZX":
                return False
            self.kill_probe()
            return True

    def in_mid_commit(self) -> bool:
        """The Core dies between an append to its archive and the receipt's arrival."""
        before = self.archive_bytes()
        wait_for(lambda: self.running_probe() and self.archive_bytes() > before, "the Core to append", pause=0.001)
        with frozen(self.running_probe(), *self.core_processes()):
            keys = {(chain, seq) for _, chain, seq in archived(self.core)}
            if not keys & pending(self.spool):
                return False
            self.kill_core()
            return True

    def in_mid_insert(self) -> bool:
        """The Core dies within moments of its database's going on to what it has not inserted yet."""
        wait_for(lambda: len(self.core_processes()) > 1 and self.health()["status"] == "ok", "the database to open")
        with frozen(*self.core_processes()[1:]):
            wait_for(lambda: self.running_probe() and self.lags(), "something to insert")
        self.some_time(0.1)
        self.kill_core()
        return True

    def health(self) -> Any:
        return self.core.ask("/v1/health")[1]

    def lags(self) -> bool:
        health = self.health()
        return bool(health["index"]["entries"] < health["archive"]["entries"])

    def archive_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.core.data / "archive").glob("segment-*.dpa"))


def test_nothing_is_lost_or_doubled_when_probe_and_core_are_killed(shared_pki: Path, tmp_path: Path) -> None:
    scene = Scene(shared_pki, tmp_path)
    core = scene.core
    moments = [
        moment
        for moment, count in (
            (scene.in_mid_request, 4),
            (scene.in_mid_delivery, 4),
            (scene.in_mid_commit, 7),
            (scene.in_mid_insert, 7),
        )
        for _ in range(count)
    ]
    scene.dice.shuffle(moments)
    for moment in moments:
        # A moment that was missed is no crash: it is tried again.
        wait_for(moment, "a crash")
    assert len(moments) >= 20

    core.wait()
    if scene.probe is not None and scene.probe.process is not None and scene.probe.process.poll() is None:
        scene.probe.finish()
    last = Probe(shared_pki, scene.spool, core, "-r", CAPTURES[0]).start()
    accounts = last.finish()
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0, "the last probe delivers what the others left"
    core.indexed()

    kept = archived(core)
    assert len(kept) == len(set(kept)), "no batch is archived twice"
    assert scene.sealed <= {(chain, seq) for _, chain, seq in kept}, "no sealed batch is lost"
    for chain in core.get("/v1/probes")["probes"][0]["chains"]:
        assert chain["missing"] == 0
        assert chain["forks"] == 0
    rows = database_flows(core)
    keys = [(row["probe"], row["chain"], row["seq"], row["row"]) for row in rows]
    assert len(keys) == len(set(keys)), "no record is indexed twice"
    flow_rows = sum(claims["rows"] for claims in claims_of(core) if claims["kind"] == "flow")
    assert len(rows) == flow_rows, "every record of every archived batch is indexed"
    assert core.stop() == 0
