"""kill -9 at random moments: every sealed batch is archived once and indexed once."""

from __future__ import annotations

import random
import time
from pathlib import Path

from dpi_probe import _native
from dpi_probe.core.archive import Damage, Located, iter_entries
from harness.books import check_books, database_flows, total
from harness.core import Core, wait_for
from harness.programs import Probe

CAPTURES = sorted((Path(__file__).parents[2] / "corpus").glob("*/input.pcap*"))
ROUNDS = 24


def archived(core: Core) -> list[tuple[str, str, int]]:
    """(probe, chain, seq) of every batch in the archive."""
    items = list(iter_entries(core.data / "archive"))
    assert not [item for item in items if isinstance(item, Damage)]
    return [(i.entry.probe, i.entry.chain.hex(), i.entry.seq) for i in items if isinstance(i, Located)]


def claims_of(core: Core) -> list[_native.Claims]:
    """The manifests' claims of every batch in the archive."""
    items = iter_entries(core.data / "archive")
    return [_native.read_claims(item.entry.body)["claims"] for item in items if isinstance(item, Located)]


def entries(core: Core) -> int:
    """How many entries the archive has; 0 while the Core does not answer."""
    try:
        return int(core.ask("/v1/health")[1]["archive"]["entries"])
    except OSError:
        return 0


def runs(probe: Probe) -> bool:
    """That the probe runs, or has ended as it should: 3, since the corpus holds a capture that was cut."""
    assert probe.process is not None
    assert probe.process.poll() in (None, 0, 3), probe.log.read_text()
    return True


def is_inserting(core: Core, before: int) -> bool:
    """Whether the database is open and something new is archived, which is being inserted or just was."""
    _, health = core.ask("/v1/health")
    return health["status"] == "ok" and health["archive"]["entries"] > before


def test_nothing_is_lost_or_doubled_when_probe_and_core_are_killed(shared_pki: Path, tmp_path: Path) -> None:
    dice = random.Random(20_260_101)
    core = Core(tmp_path / "core", shared_pki).start()
    spool = tmp_path / "spool"
    sealed: set[tuple[str, int]] = set()
    arguments = [argument for capture in CAPTURES for argument in ("-r", str(capture))]
    for number in range(ROUNDS):
        core.wait()
        before = entries(core)
        probe = Probe(shared_pki, spool, core, *arguments).start()
        assert probe.process is not None
        # Not waits for something: the moment of the crash is what is random.
        if number % 3 == 0:
            # The probe, while it reads, seals and delivers; now and then the Core with it.
            time.sleep(dice.uniform(0.2, 1.6))
            if number % 2:
                core.kill()
            probe.kill()
        elif number % 3 == 1:
            # The Core, while it commits.
            wait_for(lambda: runs(probe) and entries(core) > before, "something to be archived")  # noqa: B023
            time.sleep(dice.uniform(0, 0.1))
            core.kill()
        else:
            # The Core, while its database process inserts.
            wait_for(lambda: runs(probe) and is_inserting(core, before), "the database to open")  # noqa: B023
            time.sleep(dice.uniform(0, 0.5))
            core.kill()
        sealed |= pending(spool)
        assert core.process is not None
        if core.process.poll() is not None:
            core.start(wait=False)
        if probe.process.poll() is None:
            probe.process.terminate()
            probe.process.wait(100)
    core.wait()
    accounts = Probe(shared_pki, spool, core, *arguments).start().finish(3)
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0, "the last probe delivers what the others left"
    core.indexed()

    kept = archived(core)
    assert len(kept) == len(set(kept)), "no batch is archived twice"
    assert sealed <= {(chain, seq) for _, chain, seq in kept}, "no sealed batch is lost"
    for chain in core.get("/v1/probes")["probes"][0]["chains"]:
        assert chain["missing"] == 0
        assert chain["forks"] == 0
    rows = database_flows(core)
    keys = [(row["probe"], row["chain"], row["seq"], row["row"]) for row in rows]
    assert len(keys) == len(set(keys)), "no record is indexed twice"
    flow_rows = sum(claims["rows"] for claims in claims_of(core) if claims["kind"] == "flow")
    assert len(rows) == flow_rows, "every record of every archived batch is indexed"
    assert core.stop() == 0


def pending(spool: Path) -> set[tuple[str, int]]:
    """Chain and position of the batches that wait in the spool."""
    names = [path.stem.rsplit("-", 1) for path in (spool / "pending").glob("*.arrows")]
    return {(chain, int(seq, 16)) for chain, seq in names}
