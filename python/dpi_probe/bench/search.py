"""The highest rate without loss, by bisection (after RFC 2544 §26.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dpi_probe.bench import verdict
from dpi_probe.bench.run import observe
from dpi_probe.bench.scenarios import Scenario
from dpi_probe.bench.stages_of_threads import busiest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dpi_probe.bench.scenarios import Plan


@dataclass(frozen=True)
class Trial:
    """One rate, and whether it was without loss."""

    bits_per_second: int
    held: bool
    drop_ratio: float
    unsent_ratio: float | None
    """Over veth: the share of what was due that could not be sent in time."""
    records_dropped: int
    probe_cores: float
    other_cores: float
    """What was neither the probe's, nor the source's, nor the Core's: something else ran on the machine."""
    latency_p99: float | None
    limit: str | None
    """Where it did not hold: which stage was the limit, and what says so."""


# A rate that lost no more than this is tried once more: a moment in which something else ran may have been the reason.
NARROWLY = 0.01


def holds(result: dict[str, Any]) -> bool:
    """Whether a run lost nothing: no frame dropped or unsent, no record dropped, no work left out; books balance."""
    figures = result["figures"]
    reached = next(one for one in result["criteria"] if one["name"] == "throughput")["passed"]
    return bool(
        reached
        and figures["drop_ratio"] == 0
        and figures["shed_ratio"] == 0
        and (figures["unsent_ratio"] or 0) < 0.001
        and not result["books"]["events_dropped"]
        and result["books"]["balanced"]
    )


def bisect(attempt: Callable[[int], bool], low: int, high: int, *, tolerance: float) -> int | None:
    """The highest rate between low and high for which `attempt` holds, within `tolerance` of itself.

    None where it does not hold even at `low`. Rates are halved on a logarithmic scale, so that at most `most_attempts`
    are needed.
    """
    if not attempt(low):
        return None
    if attempt(high):
        return high
    while high / low > 1 + tolerance:
        middle = round(math.sqrt(low * high))
        if attempt(middle):
            low = middle
        else:
            high = middle
    return low


def most_attempts(low: int, high: int, *, tolerance: float) -> int:
    """How many rates `bisect` tries at most."""
    halvings = math.log2(max(math.log(high / low) / math.log(1 + tolerance), 1))
    return 2 + math.ceil(halvings)


def limit_of(result: dict[str, Any]) -> str | None:
    """What kept a run from being without loss: not what made it slow."""
    wrong: list[str] = result["books"]["wrong"]
    if wrong:
        return f"the books do not balance: {wrong[0]}"
    figures, dropped = result["figures"], result["books"]["events_dropped"]
    if dropped and not figures["drop_ratio"]:
        said = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()))
        return f"seal; records dropped: {said}{verdict.saturation(figures, result['machine']['cpus'])}"
    for limit in result["limits"]:
        if any(
            what in limit["criterion"] for what in ("throughput sustained", "frames dropped", "time with work left out")
        ):
            return f"{limit['stage']}; {limit['because']}"
    # Less than the criterion of drops allows.
    stage, share = busiest(figures["probe_threads"], figures["source_cores"], result["plan"]["source"])
    return (
        f"{stage}; its thread was on a CPU for {100 * share:.0f} % of the time"
        f"{verdict.saturation(figures, result['machine']['cpus'])}"
    )


def search(
    plan: Plan,
    folder: Path,
    progress: Callable[[str, float], None],
    *,
    low: int,
    high: int,
    tolerance: float,
    command: str,
    tell: Callable[[Trial], None],
) -> dict[str, Any]:
    """Try rates; new flows grow with the rate, as in the scenario. `tell` hears of each trial when it is over."""
    trials: list[Trial] = []
    machines: list[dict[str, Any]] = []
    most = most_attempts(low, high, tolerance=tolerance)
    flows_per_bit = plan.scenario.flows_per_second / plan.scenario.bits_per_second

    def attempt(rate: int) -> bool:
        trial = run(rate)
        if not trial.held and trial.drop_ratio <= NARROWLY:
            tell(trial)
            trial = run(rate)
        tell(trial)
        return trial.held

    def run(rate: int) -> Trial:
        scenario = Scenario("search", rate, max(1, round(rate * flows_per_bit)))
        number = f"rate {len({trial.bits_per_second for trial in trials} | {rate})} of at most {most}"
        observation = observe(
            replace(plan, scenario=scenario),
            folder / f"run-{len(trials)}",
            lambda what, share: progress(f"{number}, {rate / 1e9:.3g} Gbit/s: {what}", share),
            pki=folder / "pki",
        )
        result = verdict.judge(observation, command)
        machines.append(result["machine"])
        figures = result["figures"]
        held = holds(result)
        ours = figures["probe_cores"] + figures["source_cores"] + figures["core_cores"]
        trial = Trial(
            rate,
            held,
            figures["drop_ratio"],
            figures["unsent_ratio"],
            sum(result["books"]["events_dropped"].values()),
            figures["probe_cores"],
            max(figures["machine_cores"] - ours, 0.0),
            figures["packet_latency_p99"],
            None if held else limit_of(result),
        )
        trials.append(trial)
        return trial

    best = bisect(attempt, low, high, tolerance=tolerance)
    above = [trial for trial in trials if not trial.held and (best is None or trial.bits_per_second > best)]
    nearest = min(above, key=lambda trial: trial.bits_per_second, default=None)
    return {
        "format": verdict.FORMAT,
        "kind": "search",
        "command": command,
        "machine": machines[0],
        "plan": plan.to_json(),
        "highest_bits_per_second": best,
        "limited_at_bits_per_second": nearest.bits_per_second if nearest else None,
        "limit": nearest.limit if nearest else None,
        "tolerance": tolerance,
        "trials": [trial.__dict__ for trial in trials],
    }
