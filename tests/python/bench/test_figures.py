"""The arithmetic of benches: distributions, bisection, comparison, books, reports."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from dpi_probe import _throwaway
from dpi_probe._throwaway import work_folder
from dpi_probe.bench import books, compare, machine, peers, report, show, stages_of_threads, verdict
from dpi_probe.bench.processes import Use, use_of
from dpi_probe.bench.quantiles import Distribution
from dpi_probe.bench.run import Moment, Observation
from dpi_probe.bench.scenarios import SCENARIOS, Plan
from dpi_probe.bench.search import bisect, limit_of, most_attempts
from dpi_probe.cli import bench
from dpi_probe.cli.bench import RATE, command
from dpi_probe.errors import ConfigError, DpiProbeError
from harness.core import wait_for
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    durations = Distribution({0.001: 98, 0.01: 1, math.inf: 1}, total=0.2)
    assert durations.quantile(0.5) == 0.001
    assert durations.quantile(0.99) == 0.01
    assert durations.quantile(0.995) == math.inf
    assert durations.mean == pytest.approx(0.002)
    assert Distribution().quantile(0.99) is None
    assert Distribution().mean is None


def test_what_was_added_between_two_looks() -> None:
    before = Distribution({0.001: 5, 0.01: 2}, 0.5)
    after = Distribution({0.001: 5, 0.01: 4, 0.1: 1}, 0.9)
    added = after.since(before)
    assert added.counts == {0.01: 2, 0.1: 1}
    assert added.total == pytest.approx(0.4)
    assert Distribution.of_json(after.to_json()) == after


def test_a_metric_is_summed_over_its_labels() -> None:
    buckets = [(0.001, 3), (0.01, 5), (math.inf, 5)]
    family = {"name": "latency", "samples": [(["0"], (buckets, 0.1)), (["1"], (buckets, 0.2))]}
    metric = Distribution.of_metric([family, {"name": "other", "samples": []}], "latency")
    assert metric.counts == {0.001: 6, 0.01: 4, math.inf: 0}
    assert metric.total == pytest.approx(0.3)


@given(st.integers(100, 10**6))
def test_bisection_finds_the_highest_rate_that_holds(limit: int) -> None:
    tried: list[int] = []

    def attempt(rate: int) -> bool:
        tried.append(rate)
        return rate <= limit

    found = bisect(attempt, 100, 10**6, tolerance=0.05)
    assert found is not None
    assert found <= limit <= found * 1.06
    assert len(tried) <= most_attempts(100, 10**6, tolerance=0.05) == 10


def test_bisection_says_where_nothing_holds() -> None:
    assert bisect(lambda _rate: False, 1, 100, tolerance=0.1) is None


def test_what_kept_a_rate_from_being_without_loss() -> None:
    limits = [
        {"criterion": "packet latency p99", "stage": "seal", "because": "slow"},
        {"criterion": "throughput sustained, frames dropped", "stage": "record", "because": "busy"},
    ]
    result = {
        "books": {"wrong": [], "events_dropped": {}}, "limits": limits, "plan": {"source": "memory"},
        "machine": {"cpus": 2},
        "figures": {
            "probe_threads": {"dpi-worker-0": 0.7, "seal": 0.2}, "source_cores": 0.1, "drop_ratio": 0.01,
            "machine_cores": 1.0, "probe_cores": 0.9, "core_cores": 0.0,
        },
    }  # fmt: skip
    assert limit_of(result) == "record; busy"
    # Too few drops for the criterion, but drops.
    result["limits"] = limits[:1]
    assert limit_of(result) == "capture, decode, flow, layer 7, record; its thread was on a CPU for 70 % of the time"
    result["books"] = {"wrong": [], "events_dropped": {"seal_queue_full": 1234}}
    result["figures"] |= {"drop_ratio": 0.0, "machine_cores": 2.0}
    said = limit_of(result)
    assert said is not None
    assert said.startswith("seal; records dropped: seal_queue_full 1,234; the machine had no CPU left: of 2 cores")
    result["books"] = {"wrong": ["a = 1, but b = 2"], "events_dropped": {}}
    assert limit_of(result) == "the books do not balance: a = 1, but b = 2"


def test_a_comparison_gives_intervals_and_tells_noise_from_change() -> None:
    steady = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.02] * 4
    low, high = compare.interval(steady, steady[::-1]) or (0.0, 0.0)
    assert low <= 1 <= high
    low, high = compare.interval(steady, [2 * value for value in steady]) or (0.0, 0.0)
    assert 1.8 < low <= high < 2.2
    assert compare.interval([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="cannot be compared"):
        compare.compare({"kind": "run"}, {"kind": "stages"})


def test_runs_of_tools_are_compared_tool_by_tool() -> None:
    def result(name: str, *seconds: float) -> dict[str, object]:
        tools = [
            {"name": name, "cpu_seconds": list(seconds), "start_cpu_seconds": 0.5},
            {"name": "dpi-probe", "cpu_seconds": [1.5, 1.5, 1.5], "start_cpu_seconds": None},
        ]
        return {"kind": "peers", "machine": IDLE, "capture": {"packets": 1000}, "tools": tools}

    before, after = result("argus", 1.5, 1.6, 1.4), result("argus", 2.5, 2.6, 2.4)
    argus, ours = compare.compare(before, after)
    assert argus["what"] == "argus, packets a CPU second"
    assert argus["before"] == pytest.approx(1000, rel=0.01)
    assert argus["after"] == pytest.approx(500, rel=0.01)
    assert argus["verdict"] == "worse"
    assert ours["before"] == ours["after"]
    assert [line["what"] for line in compare.compare(before, result("tshark", 1.0))] == [ours["what"]]


IDLE = {**machine.fingerprint(), "cpus": 2, "load_before": [0.0, 0.0, 0.0]}


def run_result(**series: list[float | None]) -> dict[str, object]:
    """A run whose figures are steady but for those that are given; the first second is the warm-up."""
    steady = [1.0, 1.1, 0.9, 1.0] * 4
    known = {name: series.get(name, steady) for name, _, _ in compare.RUN_SERIES}
    times = [number / 4 - 1 for number in range(4 + len(steady))]
    warm_up = [1000.0] * 4
    return {
        "format": verdict.FORMAT, "kind": "run", "machine": IDLE,
        "plan": Plan(scenario=SCENARIOS["low"]).to_json(),
        "series": {"time": times, **{name: [*warm_up, *values] for name, values in known.items()}},
    }  # fmt: skip


def test_two_runs_are_compared_by_what_was_measured_after_the_warm_up(tmp_path: Path) -> None:
    nothing = [0.0] * 16
    before = run_result(drops_percent=nothing, latency_p99_ms=[None, 2.0, 4.0, None] * 4)
    after = run_result(
        gbps=[2.0, 2.2, 1.8, 2.0] * 4, probe_cores=[3.0, 3.3, 2.7, 3.0] * 4, drops_percent=nothing,
        latency_p99_ms=[1.0, None, None, 2.0] * 4, resident_mb=[None] * 16,
    )  # fmt: skip
    files = [tmp_path / name for name in ("before.json", "after.json")]
    for file, result in zip(files, (before, after), strict=True):
        file.write_text(json.dumps(result))
    done = CliRunner().invoke(command, ["compare", *map(str, files), "--json", str(tmp_path / "compared.json")])
    assert done.exit_code == 0, done.output
    lines = json.loads((tmp_path / "compared.json").read_text())
    assert [(line["what"], line["verdict"]) for line in lines] == [
        ("rate, Gbit/s", "better"),
        ("CPU of the probe's process, cores", "worse"),
        ("packet latency mean, ms", "no difference shown"),
        ("packet latency p99, ms", "better"),
        ("dropped frames, %", "no difference shown"),
        ("resident memory, MiB", "cannot be told"),
    ]
    for line, (was, now) in zip(lines, ((1, 2), (1, 3), (1, 1), (3, 1.5), (0, 0), (1, None)), strict=True):
        assert line["before"] == pytest.approx(was), line
        assert line["after"] == (None if now is None else pytest.approx(now)), line
        assert line["what"] in done.output
        assert line["verdict"] in done.output
    low, high = lines[0]["ratio"]
    assert 1.8 < low <= 2 <= high < 2.2
    assert "before.json" in done.output
    assert "warning" not in done.output
    after["plan"] = Plan(scenario=SCENARIOS["medium"], duration=15).to_json()
    files[1].write_text(json.dumps(after))
    said = CliRunner().invoke(command, ["compare", *map(str, files)]).output
    assert "warning: the plans differ (scenario low and medium, duration 10.0 and 15)" in said


QUIET = {"machine_cores": 1.0, "probe_cores": 0.5, "source_cores": 0.2, "core_cores": 0.2}


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize(
    ("load", "machine_cores", "warning"),
    [
        (0.9, 1.3, None),
        (1.6, 1.0, "the machine was busy before the {} (load 1.6 of 2 CPUs)"),
        (0.0, 1.9, "the machine was busy during the {} (other programs took 1.00 of 2 cores)"),
    ],
)
def test_nothing_is_better_or_worse_on_a_busy_machine(
    which: str, load: float, machine_cores: float, warning: str | None
) -> None:
    quiet, busy = {**run_result(), "figures": QUIET}, {**run_result(gbps=[4.0, 4.4, 3.6, 4.0] * 4), "figures": QUIET}
    busy |= {"machine": {**IDLE, "load_before": [load]}, "figures": {**QUIET, "machine_cores": machine_cores}}
    results = (busy, quiet) if which == "first" else (quiet, busy)
    rate, cores, *_ = compare.compare(*results)
    sure = "worse" if which == "first" else "better"
    assert rate["verdict"] == (compare.UNSURE if warning else sure)
    assert cores["verdict"] == "no difference shown"
    assert compare.warnings(*results) == ([warning.format(which)] if warning else [])


def test_nothing_dropped_before_and_after_is_no_difference() -> None:
    assert compare._line("drops", [0.0, 0.0], [0.0, 0.0], more_is_better=False)["verdict"] == "no difference shown"
    assert compare._line("drops", [0.0, 0.0], [], more_is_better=False)["verdict"] == "cannot be told"


@pytest.mark.parametrize("kind", ["run", "stages", "peers", "reader", "search"])
def test_a_damaged_result_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps({"format": verdict.FORMAT, "kind": kind, "stages": [{}], "machine": {}}))
    done = CliRunner().invoke(command, ["compare", str(file), str(file)])
    assert isinstance(done.exception, ConfigError)
    assert "not a whole result of a bench" in str(done.exception)


@pytest.mark.parametrize("content", [b"\xd4\xc3\xb2\xa1\x02\x00", b"{", b"[]", b"{}"])
def test_a_file_that_is_no_result_is_named_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "big.pcap"
    file.write_bytes(content)
    done = CliRunner().invoke(command, ["compare", str(file), str(file)])
    assert str(done.exception) == f"{file}: not a result of a bench; write one with --json"


@pytest.mark.parametrize(("dropped", "drawn"), [([0.0, 0.0, 0.0], False), ([0.0, None, 0.5], True)])
def test_drops_are_drawn_where_there_are_any(
    dropped: list[float | None], capsys: pytest.CaptureFixture[str], *, drawn: bool
) -> None:
    ones = [1.0, 1.0, 2.0]
    series = {
        "time": [0.0, 1.0, 2.0], "offered_gbps": ones, "gbps": ones, "drops_percent": dropped,
        "latency_p99_ms": ones, "latency_mean_ms": ones,
    }  # fmt: skip
    show._plots(Console(width=80), series)
    said = capsys.readouterr().out
    assert ("dropped frames, %" in said, "no frame was dropped at any time" in said) == (drawn, not drawn)


def test_nothing_covers_the_beginning_of_a_chart(capsys: pytest.CaptureFixture[str]) -> None:
    high, low = [3.0] * 8, [1.0] * 8
    series = {
        "time": [float(time) for time in range(8)], "offered_gbps": high, "gbps": low, "drops_percent": [0.0] * 8,
        "latency_p99_ms": high, "latency_mean_ms": low,
    }  # fmt: skip
    show._plots(Console(width=80), series)
    said = capsys.readouterr().out
    rows = [line.partition("┤")[2].removesuffix("│") for line in said.splitlines() if "┤" in line]
    # From edge to edge, in both charts.
    assert [set(row) for row in rows if "·" in row] == [{"·"}] * 2
    lines = [row for row in rows if row.strip() and "·" not in row]
    assert len(lines) == 2
    assert not any(" " in row for row in lines)
    for name in ("dots offered, line processed", "dots p99, line mean"):
        assert name in said


def test_a_capture_without_packets_compares_no_tools(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(peers.SHORTEST[:24])
    done = CliRunner().invoke(command, ["peers", str(empty)])
    assert isinstance(done.exception, DpiProbeError)
    assert "there is no packet in it" in str(done.exception)


def test_flows_of_argus_are_counted_once_each(tmp_path: Path) -> None:
    management, first, later = (0x83, 0x10, 32), (0x13, 0x10, 34), (0x13, 0x20, 34)
    records = [management, first, first, later, later, (0x83, 0x30, 32)]
    file = tmp_path / "out.argus"
    file.write_bytes(b"".join(struct.pack(">BBH", *one) + bytes(4 * (one[2] - 1)) for one in records))
    assert peers._argus_flows("", tmp_path) == 2
    file.write_bytes(bytes(128))
    assert peers._argus_flows("", tmp_path) is None


def test_flows_of_ipfixprobe_are_those_of_its_output() -> None:
    said = """Input stats:
  #      packets       parsed               bytes      dropped           qtime status
  0          100           90               12345            0             678     ok
SUM          100           90               12345            0             678

Output stats:
  #      biflows      packets          bytes (L4)      dropped status
  0           42           90               10000            0     ok
"""
    (ipfixprobe,) = (peer for peer in peers.PEERS if peer.name == "ipfixprobe")
    assert ipfixprobe.flows is not None
    assert ipfixprobe.flows(said, Path()) == 42


def test_a_tool_that_takes_too_long_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "child"
    # The time is up once there is a child, however slow the machine is.
    clock = SimpleNamespace(monotonic=lambda: 10.0 if written.exists() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(peers, "time", clock)
    command = ["sh", "-c", "sleep 600 & echo $! > new && mv new child; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        peers.run_tool(command, tmp_path, timeout=5)
    child = int(written.read_text())
    # Whoever inherits it may not have taken notice of its end yet.
    wait_for(lambda: not use_of(child).resident_bytes, "the child to end")


def entry(account: str, value: int, worker: int | None = None) -> dict[str, object]:
    return {"account": account, "reason": "", "worker": worker, "value": value}


def test_books_name_what_is_off() -> None:
    sound = [entry("source_frames_delivered", 5), entry("frames_delivered", 5), entry("frames_metered", 5)]
    assert books.imbalances(sound) == []
    (wrong,) = books.imbalances([*sound[:2], entry("frames_metered", 4)])
    assert wrong.startswith("frames_delivered = 5, but frames_metered")
    assert books.imbalances([entry("worker_panics", 1)]) == ["worker_panics = 1, a bug"]


def test_books_of_workers_that_make_up_for_each_other_are_off() -> None:
    def of(worker: int, delivered: int, metered: int) -> list[dict[str, object]]:
        own = {"frames_delivered": delivered, "frames_metered": metered, "flows_exported": 1, "flows_opened": 1}
        return [entry(account, value, worker) for account, value in own.items()]

    # What the probe counts as a whole is held against no single worker.
    whole = [entry("source_frames_delivered", 10), entry("events_exported", 2), entry("events_sealed", 2)]
    assert books.imbalances([*whole, *of(0, 5, 5), *of(1, 5, 5)]) == []
    lines = books.imbalances([*whole, *of(0, 5, 4), *of(1, 5, 6)])
    assert [line.split(",")[0] for line in lines] == [
        "worker 0: frames_delivered = 5",
        "worker 1: frames_delivered = 5",
    ]
    # Live, each worker has a source of its own.
    sources = [entry("source_frames_delivered", 4, 0), entry("source_frames_delivered", 6, 1)]
    lines = books.imbalances([*sources, *whole[1:], *of(0, 5, 5), *of(1, 5, 5)])
    assert [line.split(",")[0] for line in lines] == [
        "worker 0: source_frames_delivered = 4",
        "worker 1: source_frames_delivered = 6",
    ]


FIGURES = {
    "bits_per_second": 1e8, "flows_per_second": 1e3, "packet_latency_p99": 0.001, "packet_latency_mean": 0.0001,
    "export_latency_p99": 0.01, "wire_latency_p99": 0.01, "drop_ratio": 0.0, "shed_ratio": 0.0,
    "resident_bytes_max": 1 << 20, "probe_cores": 0.1,
}  # fmt: skip


def judged(figures: dict[str, float | None], *, with_core: bool = True) -> tuple[bool | None, dict[str, str]]:
    plan = Plan(scenario=SCENARIOS["low"], with_core=with_core)
    criteria = verdict._criteria(plan, {**FIGURES, **figures}, [], 2)
    return verdict.passed(criteria), {one["name"]: show.word(one) for one in criteria}


def test_what_was_not_measured_neither_passes_nor_fails() -> None:
    whole, words = judged({})
    assert whole is True
    assert set(words.values()) == {"PASS"}
    whole, words = judged({"export_latency_p99": None})
    assert whole is None
    assert words.pop("export") == "not measured"
    assert set(words.values()) == {"PASS"}
    whole, words = judged({"export_latency_p99": None, "drop_ratio": 0.5})
    assert whole is False
    assert (words["export"], words["drops"]) == ("not measured", "FAIL")


@pytest.mark.parametrize(
    ("p99", "shown", "passes"),
    [
        (0.05, "<= 50 ms", "PASS"),
        (0.1, "<= 100 ms", "FAIL"),
        (math.inf, "beyond the last bucket", "FAIL"),
        (None, "not measured", "not measured"),
    ],
)
def test_a_quantile_meets_a_budget_that_is_its_buckets_bound(p99: float | None, shown: str, passes: str) -> None:
    criteria = verdict._criteria(Plan(scenario=SCENARIOS["low"]), {**FIGURES, "wire_latency_p99": p99}, [], 2)
    (wire,) = (one for one in criteria if one["name"] == "transmission")
    assert (show.target(wire), show.measured(wire), show.word(wire)) == ("<= 50 ms", shown, passes)
    (mean,) = (one for one in criteria if one["name"] == "latency_mean")
    assert (show.target(mean), show.measured(mean)) == ("< 1 ms", "100 µs"), "a mean is no bound"


def late(share: float, frames: int = 100_000) -> Distribution:
    """Frames of which some are 50 ms late."""
    slow = round(share * frames)
    return Distribution({0.0001: frames - slow, 0.05: slow}, 0.0001 * (frames - slow) + 0.05 * slow)


def over_veth(captured: Distribution, sent: Distribution) -> Observation:
    def offer(durations: Distribution) -> dict[str, object]:
        counted = dict.fromkeys(
            ("frames_offered", "bytes_offered", "frames_taken", "bytes_taken", "frames_dropped"), durations.count
        )
        buckets = [(round(bound * 1e9), count) for bound, count in durations.counts.items()]
        return {**counted, "latency_buckets": buckets, "latency_sum_ns": round(durations.total * 1e9)}

    def sample(time: float, durations: Distribution) -> dict[str, object]:
        lags = ("packet_latency", "export_latency", "wire_latency", "receipt_latency", "seal_duration", "sign_duration")
        return {
            "time": time, "offer": None, "degradations": {}, "totals": {"frames_delivered": durations.count},
            "histograms": dict.fromkeys(lags, durations.to_json()),
        }  # fmt: skip

    nothing = Distribution()
    return Observation(
        Plan(scenario=SCENARIOS["low"], source="veth"), {"cpus": 2}, {}, 0.0, 1.0,
        moments=[Moment(time, Use(), 0.0, 0.0, 0.0) for time in (0.0, 1.0)],
        samples=[sample(0.0, nothing), sample(1.0, captured)],
        sender_samples=[{"time": time, "offer": offer(one)} for time, one in ((0.0, nothing), (1.0, sent))],
    )  # fmt: skip


def test_frames_late_in_one_part_or_the_other_are_all_late() -> None:
    # 1.8 of a hundred are 50.1 ms on their way, which the p99 of neither part shows.
    captured, sent = late(0.009), late(0.009)
    assert captured.quantile(0.99) == sent.quantile(0.99) == 0.0001
    true_p99 = 0.0501
    observation = over_veth(captured, sent)
    series = verdict._series(observation)
    figures = verdict._figures(observation, series)
    assert figures["packet_latency_p99"] >= true_p99
    assert series["latency_p99_ms"] == [pytest.approx(figures["packet_latency_p99"] * 1e3)]
    parts = figures["packet_latency_parts"]
    assert parts["sending_p99_5"] + parts["capture_p99_5"] == figures["packet_latency_p99"]


def test_what_is_late_less_often_than_a_p99_tells_is_not_shown() -> None:
    figures = verdict._figures(over_veth(late(0.004), late(0.004)), {"flows_active": []})
    assert figures["packet_latency_p99"] == pytest.approx(0.0002)
    # From memory there is one part, of which the p99 is known.
    assert verdict._packet_latency_p99(late(0.009), None) == 0.0001


@pytest.mark.parametrize(
    ("scenario", "rate", "flows"),
    [
        ("low", ">= 0.0995 Gbit/s", ">= 980/s"),
        ("medium", ">= 0.9950 Gbit/s", ">= 9,800/s"),
        ("peak", ">= 39.600 Gbit/s", ">= 392,000/s"),
    ],
)
def test_the_target_that_is_shown_is_the_one_that_is_applied(scenario: str, rate: str, flows: str) -> None:
    plan = Plan(scenario=SCENARIOS[scenario])
    for beside, passes in ((0, True), (-1e-9, False)):
        criteria = verdict._criteria(plan, FIGURES, [], 2)[:2]
        assert [show.target(one) for one in criteria] == [rate, flows]
        limits = {
            figure: one["target"] * (1 + beside)
            for figure, one in zip(("bits_per_second", "flows_per_second"), criteria, strict=True)
        }
        assert [one["passed"] for one in verdict._criteria(plan, {**FIGURES, **limits}, [], 2)[:2]] == [passes] * 2
    assert report._planned(criteria[1]) == f" of {plan.scenario.flows_per_second:,}/s"


def test_work_that_is_left_out_is_lost_too() -> None:
    samples = [
        {"time": float(time), "degradations": {"capture_queue": level, "storage": 3}}
        for time, level in enumerate([3, 0, 1, 2, 3, 3])
    ]
    assert verdict.shed_ratio(samples, (1.0, 4.0)) == 0.5
    assert verdict._degraded(samples, (1.0, 2.0)) == {
        "capture_queue": {"deepest_level": 1, "share_of_time": 0.5},
        "storage": {"deepest_level": 3, "share_of_time": 1.0},
    }
    whole, words = judged({"shed_ratio": 0.5})
    assert whole is False
    assert words["shed"] == "FAIL"


def test_what_does_not_apply_need_not_be_measured() -> None:
    whole, words = judged({"wire_latency_p99": None}, with_core=False)
    assert whole is True
    assert words["transmission"] == "n/a"


@pytest.mark.parametrize(("figure", "status"), [(0.01, 0), (None, 1), (0.2, 1)])
def test_the_exit_status_says_whether_all_was_shown(
    figure: float | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    criteria = verdict._criteria(Plan(scenario=SCENARIOS["low"]), {**FIGURES, "export_latency_p99": figure}, [], 2)
    result = {"criteria": criteria, "passed": verdict.passed(criteria)}
    monkeypatch.setattr(bench, "_run", lambda _plan, _keep: result)
    monkeypatch.setattr(show, "show", lambda _console, _result: None)
    monkeypatch.setattr(report, "page", lambda _results: "")
    done = CliRunner().invoke(command, ["low"])
    assert done.exit_code == status, done.output
    assert ("not measured" in done.stderr) == (figure is None)


def test_a_result_that_cannot_be_written_is_shown_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    criteria = verdict._criteria(Plan(scenario=SCENARIOS["low"]), FIGURES, [], 2)
    result = {"criteria": criteria, "passed": True}
    monkeypatch.setattr(bench, "_run", lambda _plan, _keep: result)
    monkeypatch.setattr(show, "show", lambda _console, _result: print("the table"))
    monkeypatch.setattr(report, "page", lambda _results: "the page")
    page = tmp_path / "page.html"
    done = CliRunner().invoke(command, ["low", "--json", "/dev/full", "--html", str(page)])
    assert done.stdout == "the table\n"
    assert page.read_text() == "the page"
    assert isinstance(done.exception, DpiProbeError)
    assert str(done.exception) == "cannot write /dev/full: No space left on device"
    assert done.exception.exit_status == 1


def test_the_busiest_stage_is_named_and_the_source_is_told_apart() -> None:
    before = Use(threads={"dpi-worker-0": 1.0, "seal": 1.0, "link": 0.0})
    after = Use(threads={"dpi-worker-0": 1.9, "seal": 1.2, "link": 0.0})
    shares = stages_of_threads.share_of_threads(before, after, 1.0)
    assert shares == pytest.approx({"dpi-worker-0": 0.9, "seal": 0.2})
    assert stages_of_threads.busiest(shares, 0.1, "memory")[0].startswith("capture")
    assert stages_of_threads.busiest(shares, 0.6, "memory") == ("source", 0.6)
    assert stages_of_threads.busiest({"main": 1.0}, 0.0, "veth") == ("none", 0.0)
    shares = {"seal": 0.9, "dpi-worker-0": 0.4, "health": 0.6, "lookout": 0.6, "link": 0.6, "deliver": 0.6}
    assert stages_of_threads.busiest(shares, 0.0, "veth")[0] == "seal, spool"
    assert stages_of_threads.busiest(shares, 0.0, "veth", to_record=True)[0].startswith("capture")


@pytest.mark.parametrize(
    ("name", "worker", "seal", "machine", "stage", "says"),
    [
        ("latency_p99", 0.9, 0.95, 2.0, "capture, decode, flow, layer 7, record", "no CPU left"),
        ("latency_p99", 0.1, 0.2, 1.9, "other programs", "they took 1.50 of 2 cores; the probe's thread"),
        ("export", 0.7, 0.1, 1.5, "capture, decode, flow, layer 7, record", "on a CPU for 70 %"),
        ("cpu", 0.7, 0.9, 1.8, "seal, spool", "on a CPU for 90 %"),
        ("transmission", 0.1, 0.2, 1.9, "other programs", "sealing takes 50.0 ms a batch"),
        ("transmission", 0.1, 0.9, 1.2, "seal", "of which 2.0 ms are the signature"),
    ],
)
def test_what_limited_a_criterion_is_where_its_time_went(
    name: str, worker: float, seal: float, machine: float, stage: str, says: str
) -> None:
    observation = Observation(Plan(scenario=SCENARIOS["low"]), {"cpus": 2}, {}, 0.0, 1.0, final={"books": []})
    figures = {
        "probe_threads": {"dpi-worker-0": worker, "seal": seal}, "probe_cores": worker + seal, "source_cores": 0.0,
        "core_cores": 0.1, "machine_cores": machine, "seal_duration_mean": 0.05, "sign_duration_mean": 0.002,
        "unsent_ratio": 0.0,
    }  # fmt: skip
    limited_by, because = verdict._limit(name, observation, figures, [])
    assert limited_by == stage
    assert says in because


@pytest.mark.parametrize(
    ("batches", "streams", "stage"),
    [
        (600, 100, "seal"),
        (100, 600, "layer 7"),
        (100, 100, "flow table, capture queue and the process itself"),
    ],
)
def test_too_much_memory_names_what_held_most_when_it_was_most(batches: int, streams: int, stage: str) -> None:
    def moment(time: float, mebibytes: int) -> Moment:
        return Moment(time, Use(resident_bytes=mebibytes << 20), 0.0, 0.0, 0.0)

    def sample(time: float, **sums: int) -> dict[str, object]:
        return {"time": time, "totals": sums}

    held = {"batch_bytes_waiting": batches << 20, "stream_bytes_buffered": streams << 20, "flows_active": 12_345}
    observation = Observation(
        Plan(scenario=SCENARIOS["low"]), {"cpus": 2}, {}, 10.0, 20.0,
        moments=[moment(11, 300), moment(13, 1100), moment(19, 200)],
        samples=[sample(11.1, flows_active=1), sample(13.1, **held), sample(19.1)],
    )  # fmt: skip
    criteria = verdict._criteria(observation.plan, {**FIGURES, "resident_bytes_max": 1100 << 20}, [], 2)
    (limit,) = verdict._limits(criteria, observation, FIGURES, [])
    assert (limit["criterion"], limit["stage"]) == ("resident memory", stage)
    said = f"of 1,100 MiB at 3.0 s, batches that waited for their signature held {batches} and TCP streams {streams}"
    assert limit["because"].startswith(f"{said}; 12,345 flows were active")


@pytest.mark.parametrize(("more", "end"), [([], ""), (["worker_panics = 1, a bug", "b"], "; and 2 more")])
def test_books_that_are_off_are_named_as_what_failed(more: list[str], end: str) -> None:
    observation = Observation(Plan(scenario=SCENARIOS["low"]), {"cpus": 2}, {}, 0.0, 1.0)
    off = "flows_opened = 3, but flows_active + flows_exported + flows_lost = 2"
    criteria = verdict._criteria(observation.plan, FIGURES, [off, *more], 2)
    (limit,) = verdict._limits(criteria, observation, FIGURES, [off, *more])
    assert limit == {"criterion": "books balance", "stage": "the books", "because": off + end}


@pytest.mark.parametrize(
    ("seconds", "shown"), [(2.5, "2.5 s"), (1.0, "1 s"), (0.999, "999 ms"), (0.001, "1 ms"), (2e-5, "20 µs")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert show.value(seconds, "s") == shown


@pytest.mark.parametrize(("text", "number"), [("500M", 500_000_000), ("10G", 10**10), ("1.5k", 1500), ("7", 7)])
def test_rates(text: str, number: int) -> None:
    assert RATE.convert(text, None, None) == number


@pytest.mark.parametrize("text", ["fast", "0", "-3M", ""])
def test_what_is_no_rate_is_refused(text: str) -> None:
    done = CliRunner().invoke(command, ["traffic", "--out", "x.pcap", "--rate", text])
    assert done.exit_code == 2
    assert "rate" in done.output or "above zero" in done.output


def test_charts_are_well_formed() -> None:
    series = {"time": [-1.0, 0.0, 1.0, 2.0], "gbps": [0.0, 1.0, 0.9, 1.0], "offered_gbps": [1.0, 1.0, None, 1.0]}
    chart = report._chart("Rate <of> all", (("offered_gbps", "offered"), ("gbps", "processed")), series)
    figure = ET.fromstring(chart.replace("&#9644;", ""))  # noqa: S314 - our own
    lines = figure.findall(".//polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 4]
    ticks = [line for line in figure.findall(".//line") if line.attrib["x1"] == line.attrib["x2"]]
    words = [text.text for text in figure.findall(".//text")]
    assert len(ticks) >= 3
    assert words[0] == "warm-up"
    assert {"0 s", "1 s", "2 s"} <= set(words)
    assert report._chart("nothing", (("gbps", "x"),), {"time": [0.0], "gbps": [1.0]}) == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_bench_that_is_ended_leaves_no_files(how: signal.Signals, tmp_path: Path) -> None:
    # Whoever runs the tests under nohup ignores SIGHUP, and so would the bench.
    heard = (
        "import runpy, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "runpy.run_module('dpi_probe', run_name='__main__')"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", heard, "bench", "stages", "--size-mb", "4096", "--repeat", "100"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.glob("dpi-probe-bench-*")) or bench.poll() is not None, "its folder")
        bench.send_signal(how)
        assert bench.wait(120) == 130
    finally:
        bench.kill()
        bench.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP"])
def test_a_second_signal_breaks_off_nothing_of_the_end(first: str) -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from dpi_probe.cli import bench\n"
        "bench.command.callback()\n"
        f"try: signal.raise_signal(signal.{first})\n"
        "except KeyboardInterrupt: print('ends')\n"
        "signal.raise_signal(signal.SIGTERM); signal.raise_signal(signal.SIGHUP); print('ended')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ends\nended\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_keeps_the_folder(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    really = shutil.rmtree

    def interrupted(folder: Path, **options: Any) -> None:
        signal.raise_signal(number)
        really(folder, **options)

    def break_off(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    before = signal.signal(number, break_off)
    try:
        with work_folder() as folder:
            (folder / "made").touch()
        assert signal.getsignal(number) is break_off
    finally:
        signal.signal(number, before)
    assert not folder.exists()


def test_a_core_that_is_waited_for_no_longer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    unwilling = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    )
    monkeypatch.setattr(_throwaway, "own_command", lambda: [sys.executable, "-c", unwilling])
    monkeypatch.setattr(_throwaway, "wait", lambda *_: None)
    with contextlib.ExitStack() as stack:
        core = stack.enter_context(_throwaway.running_core(tmp_path, tmp_path))
        wait_for(ready.exists, "a Core that does not end when it is told to")
        really = core.process.wait

        def interrupted(timeout: float | None = None) -> int:
            if timeout is not None:
                raise KeyboardInterrupt
            return really()

        monkeypatch.setattr(core.process, "wait", interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                stack.close()
            assert core.process.returncode == -signal.SIGKILL
        finally:
            core.process.kill()
            really()


def test_a_bench_under_nohup_outlives_its_terminal() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from dpi_probe.cli import bench; "
        "bench.command.callback(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("start", "cpu", "expected"),
    [
        (0.4, [0.45, 0.46, 0.47], True),
        (0.4, [0.38, 0.39, 0.39], True),
        (0.01, [1.0, 1.5, 2.2], True),
        (0.4, [4.0, 4.1, 4.3], False),
        (0.0, [0.30, 0.30, 0.31], False),
    ],
)
def test_a_capture_that_is_too_small_to_tell_anything_is_warned_of(
    start: float, cpu: list[float], *, expected: bool
) -> None:
    runs = peers.Runs("tool", "flows", start=start, uses=[peers.Use(one, one, 1, 5, "") for one in cpu])
    assert runs.within_noise is expected
    tool = peers._summary(runs, 1000, runs)
    result = {
        "machine": machine.fingerprint(),
        "capture": {"name": "x", "packets": 1000},
        "repeat": 3,
        "tools": [tool],
        "missing": [],
    }
    console = Console(record=True, width=120, file=io.StringIO())
    bench._show_peers(console, result)
    assert ("take a capture of 100,000 packets or more" in " ".join(console.export_text().split())) is expected


@pytest.mark.parametrize("verb", ["low", "search"])
def test_a_kept_folder_of_another_run_is_not_used_again(verb: str, tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    done = CliRunner().invoke(command, [verb, "--keep", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"--keep {tmp_path}: it exists and is not empty; the folder must be new"
    assert [one.name for one in tmp_path.iterdir()] == ["core"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_new_or_empty_folder_is_kept(tmp_path: Path, *, exists: bool) -> None:
    keep = tmp_path if exists else tmp_path / "new" / "folder"
    with work_folder(keep) as folder:
        (folder / "made").touch()
    assert (keep / "made").exists()


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (None, "0.1000 Gbit/s is too much for this machine"),
        (500_000_000, "highest rate without loss: 0.5000 Gbit/s (within 5 %)"),
        (10**9, "even --high, 1.000 Gbit/s, was without loss: the highest rate lies above it; give a higher one"),
    ],
)
def test_a_search_does_not_take_its_end_for_the_machines(best: int | None, said: str) -> None:
    result = {
        "machine": machine.fingerprint(), "trials": [], "limit": None, "tolerance": 0.05,
        "highest_bits_per_second": best,
    }  # fmt: skip
    console = Console(record=True, width=120, file=io.StringIO())
    bench._show_search(console, result, low=10**8, high=10**9)
    assert console.export_text().splitlines()[-1] == said


def test_no_word_of_the_peers_is_cut_on_a_terminal_of_80_columns() -> None:
    tools = [
        {
            "name": peer.name, "does": peer.does, "packets_per_cpu_second": 1_234_567.0, "ratio": 12.34,
            "peak_bytes": 1 << 30, "flows": None, "makes_flows": False, "within_noise": False, "failure": None,
        }
        for peer in (peers.ours(), *peers.PEERS)
    ]  # fmt: skip
    result = {
        "machine": machine.fingerprint(), "capture": {"name": "x", "packets": 1000}, "repeat": 3, "tools": tools,
        "missing": [],
    }  # fmt: skip
    console = Console(record=True, width=80, file=io.StringIO())
    bench._show_peers(console, result)
    said = console.export_text()
    assert "…" not in said
    for tool in tools:
        assert set(str(tool["does"]).split()) <= set(said.split())
    for text in ("ndpireader", "1,234,567", "1,024 MiB", "makes none", "12.34x", "CPU second", "faster by"):
        assert text in said


def test_no_name_of_a_comparison_is_cut_on_a_terminal_of_80_columns() -> None:
    line = {"what": "CPU of the probe's process, cores", "before": 1234.0, "after": 0.1234, "ratio": (0.515, 0.723)}
    names = ("before-a-change-of-the-flow-table.json", "after-a-change-of-the-flow-table.json")
    console = Console(record=True, width=80, file=io.StringIO())
    bench._show_comparison(console, [{**line, "verdict": compare.UNSURE}], [], names)
    said = " ".join(console.export_text().split())
    assert "…" not in said
    for text in (*names, "0.515 to 0.723", "1,234", "0.1234"):
        assert text in said
