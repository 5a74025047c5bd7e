"""`dpi-probe bench low`, short, with its books; speed is not asserted."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from harness.core import COMMAND, wait_for
from harness.programs import dpi_probe

if TYPE_CHECKING:
    from pathlib import Path

SHORT = ("--duration", "2", "--warm-up", "1", "--flow-timeout", "1")


@pytest.mark.parametrize("source", ["memory", "veth"])
def test_the_books_of_a_short_bench_balance(source: str, tmp_path: Path) -> None:
    result_file, page = tmp_path / "result.json", tmp_path / "report.html"
    done = dpi_probe("bench", "low", "--source", source, *SHORT, "--json", result_file, "--html", page, check=False)
    # Status 1: a criterion of speed was not met, which is not this test's concern.
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(result_file.read_text())
    books = result["books"]
    assert books["wrong"] == []
    totals = books["totals"]
    assert totals["frames_delivered"] > 1000
    assert totals["flows_exported"] == totals["events_sealed"] + totals["events_dropped"] > 500
    assert totals["batches_acknowledged"] == totals["batches_sealed"] == books["archived_batches"] > 0
    assert totals["packet_faults"] == totals["frames_undecodable"] == 0
    assert {criterion["name"] for criterion in result["criteria"]} >= {"throughput", "drops", "latency_p99", "books"}
    assert all(criterion["value"] is not None for criterion in result["criteria"])
    assert result["machine"]["cpus"] > 0
    assert "<svg" in page.read_text()
    assert "books balance" in done.stdout


@pytest.mark.parametrize("source", ["memory", "veth"])
def test_a_search_ends_and_names_the_limit(source: str, tmp_path: Path) -> None:
    result_file = tmp_path / "result.json"
    done = dpi_probe(
        "bench", "search", "--source", source, "--low", "1M", "--high", "100G", "--tolerance", "1", "--duration", "0.5",
        "--warm-up", "0.5", "--flow-timeout", "0.5", "--without-core", "--json", result_file, check=False,
    )  # fmt: skip
    # Status 1: even the lowest rate was too much.
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(result_file.read_text())
    trials = result["trials"]
    # Several trials over one pair: the books of each are its own.
    assert not any("books" in (trial["limit"] or "") for trial in trials), trials
    assert result["limit"] is not None, "no machine sustains the highest rate"
    assert "limited by" in done.stdout
    for number in range(1, len({trial["bits_per_second"] for trial in trials}) + 1):
        assert f"rate {number} of at most" in done.stderr
    assert sum(line.endswith((": held", ": lost")) for line in done.stderr.splitlines()) == len(trials)


def test_the_whole_probe_takes_turns_with_a_bare_ring(tmp_path: Path) -> None:
    result_file = tmp_path / "result.json"
    done = dpi_probe(
        "bench", "reader", "--frame-size", "imix", "--capture", "af_packet", "--capture", "af_xdp", "--repeat", "1",
        "--duration", "1", "--warm-up", "1", "--flow-timeout", "0.5", "--max-buffer-size-mb", "256",
        "--json", result_file, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(result_file.read_text())
    assert result["base"] == "bare ring"
    (size,) = result["sizes"]
    assert [(line["receiver"], line["capture"]) for line in size["receivers"]] == [
        ("bare ring", "af_packet"), ("capture alone", "af_packet"), ("whole probe", "af_packet"),
        ("capture alone", "af_xdp"), ("whole probe", "af_xdp"),
    ]  # fmt: skip
    for run in size["runs"]:
        assert run["frames_per_second"] > 0
        assert run["wrong"] == []
        assert run["frames_unaccounted"] == 0
    for line in size["receivers"]:
        assert line["ratio"] > 0
        assert ("limit" in line) == (line["receiver"] == "whole probe")
    assert "whole probe" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_bench_leaves_no_process_and_no_interface(how: signal.Signals, tmp_path: Path) -> None:
    before = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    with (tmp_path / "log").open("w") as log:
        bench = subprocess.Popen(
            [COMMAND, "bench", "low", "--source", "veth", "--duration", "600", "--keep", tmp_path / "work"],
            stdout=log, stderr=log,
        )  # fmt: skip

    def processes() -> list[str]:
        found = subprocess.run(
            ["pgrep", "-f", str(tmp_path / "work")], capture_output=True, text=True, check=False
        ).stdout.split()
        return [pid for pid in found if pid != str(bench.pid)]

    def running() -> bool:
        assert bench.poll() is None, (tmp_path / "log").read_text()
        return len(processes()) >= 3

    wait_for(running, "Core, probe and sender to run")
    bench.send_signal(how)
    if how is signal.SIGTERM:
        assert bench.wait(60) == 130, (tmp_path / "log").read_text()
        assert processes() == []
    else:
        # It cannot wait for them any more: they end by themselves.
        assert bench.wait(60) == -signal.SIGKILL
        wait_for(lambda: processes() == [], "the bench's processes to end after it")
    after = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert after == before
