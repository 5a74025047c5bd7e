"""kill -9 at random moments: every sealed batch is archived once and indexed once."""

from __future__ import annotations

import random
import time
from pathlib import Path

from dpi_probe import _native
from dpi_probe.core.archive import Damage, Located, iter_entries
from harness.books import check_books, database_flows, total, wait_until_indexed
from harness.programs import Authority, Core, Probe

CAPTURES = sorted((Path(__file__).parents[2] / "corpus").glob("*/input.pcap*"))
ROUNDS = 20


def archived(core: Core) -> list[tuple[str, str, int]]:
    """(probe, chain, seq) of every batch in the archive."""
    items = list(iter_entries(core.data / "archive"))
    assert not [item for item in items if isinstance(item, Damage)]
    return [(i.entry.probe, i.entry.chain.hex(), i.entry.seq) for i in items if isinstance(i, Located)]


def claims_of(core: Core) -> list[_native.Claims]:
    """The manifests' claims of every batch in the archive."""
    items = iter_entries(core.data / "archive")
    return [_native.read_claims(item.entry.body)["claims"] for item in items if isinstance(item, Located)]


def test_nothing_is_lost_or_doubled_when_probe_and_core_are_killed(tmp_path: Path) -> None:
    dice = random.Random(20_260_101)
    authority = Authority(tmp_path / "pki")
    core = Core(authority, tmp_path / "core").start()
    spool = tmp_path / "spool"
    sealed: set[tuple[str, int]] = set()
    arguments = [argument for capture in CAPTURES for argument in ("-r", str(capture))]
    for number in range(ROUNDS):
        probe = Probe(authority, spool, core, *arguments).start()
        # The first rounds kill the probe in delivery, the later ones the Core in commit or insert, some both.
        time.sleep(dice.uniform(0.2, 1.6))
        victim = dice.choice(["probe", "core", "both"]) if number else "both"
        if victim in ("core", "both"):
            core.kill()
        if victim in ("probe", "both"):
            probe.kill()
        sealed |= pending(spool)
        if victim in ("core", "both"):
            core.start(wait=False)
        if victim == "core":
            assert probe.process is not None
            probe.process.terminate()
            probe.process.wait(60)
    core.wait()
    accounts = Probe(authority, spool, core, *arguments).start().finish(3)
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0, "the last probe delivers what the others left"
    wait_until_indexed(core)

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
