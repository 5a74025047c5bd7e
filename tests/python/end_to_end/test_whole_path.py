"""The whole path with the real programs: captures in, records in the Core's database out, and every book balances."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from harness.books import check_books, database_flows, total
from harness.core import Core
from harness.programs import Probe, dpi_probe

CORPUS = Path(__file__).parents[2] / "corpus"
CAPTURES = sorted(CORPUS.glob("*/input.pcap*"))


def test_every_flow_of_the_captures_is_in_the_database_once(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki).start()
    arguments = [argument for capture in CAPTURES for argument in ("-r", str(capture))]
    probe = Probe(shared_pki, tmp_path / "spool", core, *arguments).start()
    accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0
    assert total(accounts, "events_dropped") == 0

    core.indexed()
    read = dpi_probe("read", "--format", "ndjson", *CAPTURES, check=False)
    expected = Counter(
        (flow["flow_id"], flow["packets_fwd"], flow["bytes_rev"], flow.get("server_name"))
        for flow in map(json.loads, read.stdout.splitlines())
    )
    found = Counter(
        (flow["flow_id"], flow["packets_fwd"], flow["bytes_rev"], flow.get("server_name"))
        for flow in database_flows(core)
    )
    assert sum(found.values()) == total(accounts, "events_sealed") == sum(expected.values())
    assert found == expected

    (known,) = core.get("/v1/probes")["probes"]
    assert known["probe"] == "sensor/file"
    (chain,) = known["chains"]
    assert (chain["missing"], chain["forks"], chain["broken_links"]) == (0, 0, 0)
    assert chain["archived"] == total(accounts, "batches_acknowledged")
    assert core.stop() == 0
    verified = dpi_probe("verify", core.data / "archive", "--ca", shared_pki / "ca.pem")
    assert "0 failures" in verified.stdout or "hold" in verified.stdout, verified.stdout


def test_a_second_start_begins_a_chain_that_names_the_first(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki).start()
    for _ in range(2):
        Probe(shared_pki, tmp_path / "spool", core, "-r", CAPTURES[0]).start().finish()
    chains = core.get("/v1/probes")["probes"][0]["chains"]
    assert len(chains) == 2
    (later,) = [chain for chain in chains if "previous" in chain]
    assert later["previous"]["state"] == "whole"
    assert core.stop() == 0


def test_without_a_core_everything_stays_in_the_spool_and_is_delivered_later(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki)
    # The address is right, and nobody listens there yet.
    alone = Probe(shared_pki, tmp_path / "spool", core, "-r", CAPTURES[0], "--config", _impatient(tmp_path))
    accounts = alone.start().finish()
    check_books(accounts)
    assert total(accounts, "batches_spooled") == total(accounts, "batches_sealed") > 0
    assert dpi_probe("verify", tmp_path / "spool", "--ca", shared_pki / "ca.pem",
                     "--certificate", shared_pki / "probes/sensor.pem").returncode == 0  # fmt: skip
    core.start()
    accounts = Probe(shared_pki, tmp_path / "spool", core, "-r", CAPTURES[0]).start().finish()
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0
    core.indexed()
    probes = core.get("/v1/probes")["probes"]
    assert [chain["missing"] for chain in probes[0]["chains"]] == [0, 0]
    assert core.stop() == 0


def _impatient(folder: Path) -> Path:
    file = folder / "config.toml"
    file.write_text("shutdown_timeout_seconds = 0.5\n")
    return file
