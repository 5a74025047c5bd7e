"""Two results beside each other: intervals, not single numbers."""

from __future__ import annotations

import random
import statistics
from typing import Any

from dpi_probe.bench import verdict

RESAMPLES = 2000
CONFIDENCE = 0.95
# What is compared of a run's series, and whether more is better.
RUN_SERIES = (
    ("gbps", "rate, Gbit/s", True),
    ("probe_cores", "CPU of the probe's process, cores", False),
    ("latency_mean_ms", "packet latency mean, ms", False),
    ("latency_p99_ms", "packet latency p99, ms", False),
    ("drops_percent", "dropped frames, %", False),
    ("resident_mb", "resident memory, MiB", False),
)
# Samples are taken four times a second and depend on their neighbours: they are resampled second by second.
BLOCK = 4
UNSURE = "unsure: the machine was busy"
# A load of this share of the CPUs before a run says that something else ran.
LOADED = 0.5


def interval(before: list[float], after: list[float], seed: int = 1) -> tuple[float, float] | None:
    """The confidence interval of the ratio of the means, after over before, by a block bootstrap.

    None where there is too little, or nothing to divide by.
    """
    if min(len(before), len(after)) < 2 or statistics.fmean(before) == 0:
        return None
    dice = random.Random(seed)  # noqa: S311 - a resampling must be the same each time, not secret
    ratios = []
    for _ in range(RESAMPLES):
        base = statistics.fmean(_resample(before, dice))
        if base:
            ratios.append(statistics.fmean(_resample(after, dice)) / base)
    ratios.sort()
    if not ratios:
        return None
    tail = (1 - CONFIDENCE) / 2
    return ratios[int(tail * len(ratios))], ratios[min(int((1 - tail) * len(ratios)), len(ratios) - 1)]


def _resample(values: list[float], dice: random.Random) -> list[float]:
    block = BLOCK if len(values) >= 2 * BLOCK else 1
    sample: list[float] = []
    while len(sample) < len(values):
        start = dice.randrange(len(values) - block + 1)
        sample += values[start : start + block]
    return sample[: len(values)]


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each figure: what it was, what it is, and the interval of the ratio.

    Nothing is better or worse where the machine was busy: the interval does not know of what ran beside.

    Raises:
        ValueError: the results are of different kinds.
    """
    lines = _lines(before, after)
    if _busy(before) or _busy(after):
        for line in lines:
            if line["verdict"] in ("better", "worse"):
                line["verdict"] = UNSURE
    return lines


def _lines(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    if before.get("kind") != after.get("kind"):
        msg = f"a result of kind {before.get('kind')!r} cannot be compared with one of kind {after.get('kind')!r}"
        raise ValueError(msg)
    if before["kind"] == "run":
        return [
            _line(title, _measured(before, name), _measured(after, name), more_is_better=more)
            for name, title, more in RUN_SERIES
        ]
    if before["kind"] == "stages":
        others = {stage["stage"]: stage for stage in after["stages"]}
        return [
            _line(
                f"{stage['stage']}, ns a packet",
                stage["runs_ns_per_packet"],
                others[stage["stage"]]["runs_ns_per_packet"],
                more_is_better=False,
            )
            for stage in before["stages"]
            if stage["stage"] in others
        ]
    if before["kind"] == "peers":
        others = {tool["name"]: _rates(tool, after["capture"]["packets"]) for tool in after["tools"]}
        return [
            _line(
                f"{tool['name']}, packets a CPU second",
                _rates(tool, before["capture"]["packets"]),
                others[tool["name"]],
                more_is_better=True,
            )
            for tool in before["tools"]
            if tool["name"] in others
        ]
    if before["kind"] == "reader":
        mine, others = _turns(before), _turns(after)
        return [
            _line(f"{title}, frames/s", rates, others[title], more_is_better=True)
            for title, rates in mine.items()
            if title in others
        ]
    if before["kind"] == "search":
        rates = [[(result["highest_bits_per_second"] or 0) / 1e9] for result in (before, after)]
        return [_line("highest rate without loss, Gbit/s", *rates, more_is_better=True)]
    msg = f"results of kind {before['kind']!r} cannot be compared"
    raise ValueError(msg)


def warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Why the comparison may mislead."""
    found = []
    one, other = before["machine"], after["machine"]
    if one["id"] != other["id"]:
        changed = [name for name in ("cpu", "cpus", "memory_mb", "kernel", "hypervisor") if one[name] != other[name]]
        found.append(f"the machines differ ({', '.join(changed)})")
    for name, result in (("first", before), ("second", after)):
        found += [f"the machine was busy {when} the {name} ({how_much})" for when, how_much in _busy(result)]
    for name in ("plan", "setting", "capture"):
        if changed := _differences(before.get(name) or {}, after.get(name) or {}):
            found.append(f"the {name}s differ ({', '.join(changed)})")
    return found


def _busy(result: dict[str, Any]) -> list[tuple[str, str]]:
    """When something else ran on the machine, and how much."""
    found = []
    cpus, load = result["machine"]["cpus"], result["machine"]["load_before"][0]
    if load > LOADED * cpus:
        found.append(("before", f"load {load:.1f} of {cpus} CPUs"))
    if "figures" in result:
        others = verdict.other_cores(result["figures"])
        if others >= verdict.OTHERS * cpus:
            found.append(("during", f"other programs took {others:.2f} of {cpus} cores"))
    return found


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, and how."""
    found = []
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            # A scenario of another name has other rates: the name says it all.
            is_named = one.get("name") != other.get("name")
            found += [f"{name} {one.get('name')} and {other.get('name')}"] if is_named else _differences(one, other)
        elif one != other:
            found.append(f"{name} {one} and {other}")
    return found


def _measured(result: dict[str, Any], name: str) -> list[float]:
    series = result["series"]
    pairs = zip(series["time"], series[name], strict=True)
    return [value for time, value in pairs if time >= 0 and value is not None]


def _turns(result: dict[str, Any]) -> dict[str, list[float]]:
    """Frames a second in each turn, of each receiver and frame size."""
    turns: dict[str, list[float]] = {}
    for row in result["sizes"]:
        for run in row["runs"]:
            title = f"{run['receiver']} by {run['capture']}, frames of {row['frame_size']}"
            turns.setdefault(title, []).append(run["frames_per_second"])
    return turns


def _rates(tool: dict[str, Any], packets: int) -> list[float]:
    """Packets a CPU second of each run, what the tool's start takes left out."""
    start = tool["start_cpu_seconds"] or 0.0
    return [packets / (used - start) for used in tool["cpu_seconds"] if used > start]


def _line(title: str, before: list[float], after: list[float], *, more_is_better: bool) -> dict[str, Any]:
    ratio = interval(before, after)
    if ratio is None:
        is_same = before and after and {*before, *after} == {0.0}
        said = "no difference shown" if is_same else "cannot be told"
    elif ratio[0] <= 1 <= ratio[1]:
        said = "no difference shown"
    else:
        said = "better" if (ratio[0] > 1) == more_is_better else "worse"
    return {
        "what": title,
        "before": statistics.fmean(before) if before else None,
        "after": statistics.fmean(after) if after else None,
        "ratio": ratio,
        "verdict": said,
    }
