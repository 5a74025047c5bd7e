"""The whole probe beside the least that a capture can do, in turns on the same veth pair.

The sender sends as fast as it can. Three receivers take turns: a bare TPACKET_V3 ring whose frames are counted and
nothing else (tpacket_reader.c, compiled when the bench runs), the probe's own capture whose frames are counted and
dropped, and the whole probe with spool, but without a Core, which is not the probe's cost. The sender has a CPU of its
own where there are two, and with it the kernel's part of receiving, which a veth pair does on the sender's CPU; the
receivers have the others.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe import _native
from dpi_probe._throwaway import make_authority, wait
from dpi_probe.bench import books, machine, processes, veth
from dpi_probe.bench.children import Child, child_of
from dpi_probe.bench.run import DRAIN_SECONDS, PROBE_NAME, SAMPLE_SECONDS, probe_settings
from dpi_probe.bench.scenarios import MTU, Plan, Scenario
from dpi_probe.bench.stages_of_threads import busiest, share_of_threads
from dpi_probe.bench.verdict import FORMAT, MEBIBYTE, shed_ratio
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).with_name("tpacket_reader.c")
# The whole probe is to reach so much of what the bare reader reaches.
TARGET = 0.85
# A probe that dropped no more than this had no more to reach.
LOST_NOTHING = 0.001
# One new flow for so many bytes, as in the scenarios. Of super-frames, a flow has several.
FLOW_BYTES, SUPER_FRAMES_FLOW_BYTES = 12_500, 500_000
CALIBRATION_SECONDS = 1.5

BARE, ALONE, WHOLE = "bare ring", "capture alone", "whole probe"


@dataclass(frozen=True)
class Receiver:
    """What receives, and by which capture mode."""

    what: str
    capture: str = "af_packet"


@dataclass(frozen=True)
class Setting:
    """What is the same for all runs."""

    duration: float
    """Seconds that are measured."""
    warm_up: float
    repeat: int
    memory_mb: int
    flow_timeout: float
    flows_per_second: int | None
    """None: one for `FLOW_BYTES`, or `SUPER_FRAMES_FLOW_BYTES`."""
    seed: int
    sender_cpus: set[int] | None
    receiver_cpus: set[int] | None
    """None, both: there is only one CPU."""


def share_cpus() -> tuple[set[int] | None, set[int] | None]:
    """The sender's CPU, and those of whoever receives."""
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else (None, None)


def compile_bare_ring(folder: Path) -> tuple[Path | None, str]:
    """The bare reader as a program; else nothing, and why."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None, "no C compiler was found (apt-get install gcc libc6-dev)"
    program = folder / "tpacket_reader"
    done = subprocess.run([compiler, "-O2", "-o", program, SOURCE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None, f"{compiler} failed: {done.stderr.strip()[-300:]}"
    return program, ""


def _plan(setting: Setting, size: str, capture: str, bits_per_second: int) -> Plan:
    flow_bytes = SUPER_FRAMES_FLOW_BYTES if size == "super" else FLOW_BYTES
    flows = setting.flows_per_second or max(1, round(bits_per_second / 8 / flow_bytes))
    return Plan(
        scenario=Scenario("reader", bits_per_second, flows, drops_allowed=True),
        source="veth", capture=capture, frame_size=size, duration=setting.duration, warm_up=setting.warm_up,
        seed=setting.seed, with_core=False, flow_timeout=setting.flow_timeout, memory_mb=setting.memory_mb,
    )  # fmt: skip


@dataclass
class _Bench:
    setting: Setting
    folder: Path
    pki: Path
    program: Path | None
    runs: int = 0

    def start(self, receiver: Receiver, plan: Plan, folder: Path) -> Child:
        """The receiver, which captures when this returns."""
        cpus = self.setting.receiver_cpus
        memory = self.setting.memory_mb * MEBIBYTE
        if receiver.what == BARE:
            ring_mib = _native.capture_ring_bytes(memory) // MEBIBYTE
            child = Child("tpacket_reader", [str(self.program), veth.PROBE, str(ring_mib)], folder, cpus=cpus)
        elif receiver.what == ALONE:
            spec = {"interface": veth.PROBE, "capture": receiver.capture, "memory_bytes": memory}
            child = child_of("dpi_probe.bench.counter_process", spec, folder, cpus=cpus)
        else:
            spec = {"plan": plan.to_json(), "settings": probe_settings(plan, folder, self.pki, None)}
            child = child_of("dpi_probe.bench.probe_process", spec, folder, cpus=cpus)
        try:
            child.wait_for_start()
        except BaseException:
            child.__exit__(None, None, None)
            raise
        return child

    def run(self, receiver: Receiver, plan: Plan, warm_up: float, duration: float) -> dict[str, Any]:
        """One receiver under a sender that sends as fast as it can."""
        folder = self.folder / f"run-{self.runs}"
        folder.mkdir()
        self.runs += 1
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            child = stack.enter_context(self.start(receiver, plan, folder))
            spec = {"plan": plan.to_json(), "interface": veth.FEED, "flat_out": True}
            cpus = self.setting.sender_cpus
            sender = stack.enter_context(child_of("dpi_probe.bench.sender_process", spec, folder, cpus=cpus))
            sender.wait_for_start()
            _sleep(warm_up, (child, sender))
            begin = time.monotonic()
            before, sender_before = (processes.use_of(one.process.pid) for one in (child, sender))
            _sleep(duration, (child, sender))
            end = time.monotonic()
            after, sender_after = (processes.use_of(one.process.pid) for one in (child, sender))
            sent = sender.finish()
            _wait_for_the_last_frame(child)
            final = child.finish(DRAIN_SECONDS)
            figures = _figures(receiver, (begin, end), child, final, sender, sent, (before, after))
            spent = sender_after.cpu_seconds - sender_before.cpu_seconds
            return {**figures, "sender_cores": spent / (end - begin)}


def _sleep(seconds: float, children: tuple[Child, ...]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for child in children:
            child.check()
        time.sleep(min(left, SAMPLE_SECONDS))


def _counts(sample: dict[str, Any]) -> dict[str, Any]:
    """Frames and frames dropped, whoever says it."""
    totals = sample.get("totals")
    if totals is None:
        return sample
    return {
        "time": sample["time"],
        "frames": totals.get("frames_delivered", 0),
        "dropped": totals.get("source_frames_dropped", 0),
        "flows": totals.get("flows_opened", 0),
    }


def _wait_for_the_last_frame(child: Child) -> None:
    def quiet() -> bool:
        child.check()
        last = [_counts(sample)["frames"] for sample in child.samples[-3:]]
        return len(last) == 3 and len(set(last)) == 1

    wait(quiet, "the last frames")


def _within(samples: list[dict[str, Any]], window: tuple[float, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The samples nearest to the begin and the end."""
    first, last = (min(samples, key=lambda sample, at=at: abs(sample["time"] - at)) for at in window)  # type: ignore[misc]
    if first is last:
        msg = "the bench took too few samples; measure for longer"
        raise DpiProbeError(msg)
    return first, last


def _figures(
    receiver: Receiver,
    window: tuple[float, float],
    child: Child,
    final: dict[str, Any],
    sender: Child,
    sent: dict[str, Any],
    use: tuple[processes.Use, processes.Use],
) -> dict[str, Any]:
    first, last = (_counts(sample) for sample in _within(child.samples, window))
    early, late = _within(sender.samples, window)
    seconds, sender_seconds = last["time"] - first["time"], late["time"] - early["time"]
    frames = last["frames"] - first["frames"]
    dropped = (last["dropped"] or 0) - (first["dropped"] or 0)
    offered = {name: late["offer"][name] - early["offer"][name] for name in ("frames_taken", "bytes_taken")}
    mean = offered["bytes_taken"] / max(offered["frames_taken"], 1)
    whole = _counts(final)
    ended = sent["offer"]["frames_taken"] - sent["refused"]
    unaccounted = ended - whole["frames"] - (whole["dropped"] or 0)
    return {
        "receiver": receiver.what,
        "capture": receiver.capture,
        "frames_per_second": frames / seconds,
        "bits_per_second": frames * mean * 8 / seconds,
        "mean_frame_bytes": mean,
        "drop_ratio": dropped / max(frames + dropped, 1),
        "shed_ratio": shed_ratio(child.samples, window),
        "sent_frames_per_second": offered["frames_taken"] / sender_seconds,
        "flows_per_second": (last["flows"] - first["flows"]) / seconds if "flows" in last else None,
        # Of the whole run: frames that were sent, and neither came nor were counted as dropped.
        "frames_sent": ended,
        "frames_unaccounted": unaccounted,
        "cores": (use[1].cpu_seconds - use[0].cpu_seconds) / (window[1] - window[0]),
        "threads": share_of_threads(use[0], use[1], window[1] - window[0]),
        "wrong": [*(books.imbalances(final["books"]) if "books" in final else []), *_unaccounted(unaccounted)],
        "ways": _ways(final),
    }


def _unaccounted(frames: int) -> list[str]:
    """What is wrong where frames were lost of which nobody knows, or came though nobody sent them."""
    if frames > 0:
        return [f"frames sent that neither came nor were counted as dropped: {frames:,}"]
    return [f"frames that came or were dropped, but were not sent: {-frames:,}"] if frames else []


def _ways(final: dict[str, Any]) -> list[str]:
    return [one["reason"] for one in final.get("books", []) if one["account"] == "source_mode" and one["value"]]


def measure(
    sizes: tuple[str, ...],
    captures: tuple[str, ...],
    setting: Setting,
    folder: Path,
    progress: Callable[[str, float], None],
    *,
    command: str,
) -> dict[str, Any]:
    """All receivers, in turns, for each size. This process must be in the bench's namespace already."""
    fingerprint = machine.fingerprint()
    progress("making keys and certificates", 0.0)
    pki = folder / "pki"
    make_authority(pki, PROBE_NAME)
    program, reason = compile_bare_ring(folder)
    base = Receiver(BARE if program else ALONE)
    receivers = [base] if program else []
    for capture in captures:
        receivers += [Receiver(ALONE, capture), Receiver(WHOLE, capture)]
    if base not in receivers:
        receivers.insert(0, base)
    bench = _Bench(setting, folder, pki, program)
    # Until the rate is known, a rate of new flows of its own may be more than it has room for.
    as_in_scenarios = replace(setting, flows_per_second=None)
    rows, total = [], len(sizes) * setting.repeat * len(receivers)
    for number, size in enumerate(sizes):
        veth.set_mtu(MTU[size])
        progress(f"frames of {size}: how many can be sent", number / len(sizes))
        guess = bench.run(base, _plan(as_in_scenarios, size, base.capture, 10**9), 0.5, CALIBRATION_SECONDS)
        bits = max(10**6, round(guess["bits_per_second"]))
        runs: list[dict[str, Any]] = []
        for turn in range(setting.repeat):
            for receiver in receivers:
                done = (number * setting.repeat * len(receivers) + len(runs)) / total
                progress(f"frames of {size}: {receiver.what} by {receiver.capture}, turn {turn + 1}", done)
                plan = _plan(setting, size, receiver.capture, bits)
                # Only the probe has flows that must begin to end first.
                warm_up = setting.warm_up if receiver.what == WHOLE else min(setting.warm_up, 1.0)
                runs.append({"turn": turn, **bench.run(receiver, plan, warm_up, setting.duration)})
        rows.append(_row(size, bits, setting, base, receivers, runs))
    return {
        "format": FORMAT,
        "kind": "reader",
        "command": command,
        "machine": fingerprint,
        "target": TARGET,
        "base": base.what,
        "no_bare_ring": reason or None,
        "setting": {
            **{name: value for name, value in asdict(setting).items() if not name.endswith("_cpus")},
            "sender_cpus": sorted(setting.sender_cpus or ()),
            "receiver_cpus": sorted(setting.receiver_cpus or ()),
        },
        "sizes": rows,
        "passed": _all_passed(rows),
    }


def _all_passed(rows: list[dict[str, Any]]) -> bool | None:
    """None if none failed, but not all was shown, or nothing was judged.

    False where the books of any receiver are off: what the probe is compared with must be right as well.
    """
    if any(line["wrong"] for row in rows for line in row["receivers"]):
        return False
    verdicts = [line["passed"] for row in rows for line in row["receivers"] if "passed" in line and _judged(line)]
    return False if False in verdicts else None if None in verdicts or not verdicts else True


def _row(
    size: str, bits: int, setting: Setting, base: Receiver, receivers: list[Receiver], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """What all runs of a size come to."""

    def of(receiver: Receiver) -> list[dict[str, Any]]:
        return [run for run in runs if (run["receiver"], run["capture"]) == (receiver.what, receiver.capture)]

    names = ("frames_per_second", "bits_per_second", "drop_ratio", "sent_frames_per_second", "flows_per_second",
             "cores", "sender_cores", "mean_frame_bytes")  # fmt: skip
    lines: list[dict[str, Any]] = []
    reached = [run["frames_per_second"] for run in of(base)]
    for receiver in receivers:
        mine = of(receiver)
        line: dict[str, Any] = {"receiver": receiver.what, "capture": receiver.capture}
        line |= {name: _median([run[name] for run in mine]) for name in names}
        # A median would pass over work that was left out in less than half of the turns.
        line["shed_ratio"] = max((run["shed_ratio"] for run in mine), default=0.0)
        # Turn by turn, so that load that comes and goes meets both.
        ratios = [run["frames_per_second"] / bare for run, bare in zip(mine, reached, strict=True) if bare]
        line |= {"ratio": _median(ratios), "wrong": [fault for run in mine for fault in run["wrong"]]}
        if receiver.what == WHOLE:
            line["ways"] = mine[-1]["ways"]
            line["passed"] = _passed(line)
            line["limit"] = _limit(line, mine)
        lines.append(line)
    return {
        "frame_size": size,
        "offered_bits_per_second": bits,
        "offered_flows_per_second": _plan(setting, size, "auto", bits).scenario.flows_per_second,
        "receivers": lines,
        "runs": runs,
    }


def _median(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _judged(line: dict[str, Any]) -> bool:
    """Whether the target is for it: XDP on a veth pair has no card's help, only more for the sender's CPU to do."""
    return bool(line["capture"] == "af_packet" or line["wrong"])


def _passed(line: dict[str, Any]) -> bool | None:
    """None: it is not judged, or took all that was sent, which was less than the bare ring got: nothing was shown."""
    if not _judged(line):
        return None
    if line["wrong"] or line["shed_ratio"]:
        return False
    if line["ratio"] is not None and line["ratio"] >= TARGET:
        return True
    return None if line["drop_ratio"] <= LOST_NOTHING else False


def _limit(line: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """What kept it from reaching more."""
    if line["shed_ratio"]:
        return f"its own CPU: statistics or layer 7 were left out for {100 * line['shed_ratio']:.0f} % of a turn"
    if line["drop_ratio"] <= LOST_NOTHING:
        said = "the sender's CPU, which does the kernel's part of receiving too: next to nothing was dropped"
        if line["passed"] is None and _judged(line):
            said += (
                ", but less was sent than to the bare ring: the sender had only "
                f"{100 * line['sender_cores']:.0f} % of it, because something else ran; measure again"
            )
        return said
    stage, share = busiest(runs[-1]["threads"], 0.0, "veth")
    return f"{stage}: {100 * share:.0f} % of a CPU, of {100 * line['cores']:.0f} % that the whole process had"
