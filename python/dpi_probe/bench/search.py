"""The highest rate without loss, by bisection (after RFC 2544 §26.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dpi_probe.bench import verdict
from dpi_probe.bench.run import observe
from dpi_probe.bench.scenarios import Scenario

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
    probe_cores: float
    latency_p99: float | None
    limits: tuple[str, ...]


def holds(result: dict[str, Any]) -> bool:
    """Whether a run lost nothing: no frame dropped or left unsent, no record dropped, and the books balance."""
    figures = result["figures"]
    reached = next(one for one in result["criteria"] if one["name"] == "throughput")["passed"]
    return bool(
        reached
        and figures["drop_ratio"] == 0
        and (figures["unsent_ratio"] or 0) < 0.001
        and not result["books"]["events_dropped"]
        and result["books"]["balanced"]
    )


def bisect(attempt: Callable[[int], bool], low: int, high: int, *, tolerance: float) -> int | None:
    """The highest rate between low and high for which `attempt` holds, within `tolerance` of itself.

    None where it does not hold even at `low`. Rates are halved on a logarithmic scale.
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


def search(
    plan: Plan,
    folder: Path,
    progress: Callable[[str, float], None],
    *,
    low: int,
    high: int,
    tolerance: float,
    command: str,
) -> dict[str, Any]:
    """Try rates; new flows grow with the rate, as in the scenario."""
    trials: list[Trial] = []
    machines: list[dict[str, Any]] = []
    flows_per_bit = plan.scenario.flows_per_second / plan.scenario.bits_per_second

    def attempt(rate: int) -> bool:
        scenario = Scenario("search", rate, max(1, round(rate * flows_per_bit)))
        observation = observe(
            replace(plan, scenario=scenario),
            folder / f"run-{len(trials)}",
            lambda what, share: progress(f"{rate / 1e9:.3g} Gbit/s: {what}", share),
            pki=folder / "pki",
        )
        result = verdict.judge(observation, command)
        machines.append(result["machine"])
        figures = result["figures"]
        trials.append(
            Trial(
                rate,
                holds(result),
                figures["drop_ratio"],
                figures["probe_cores"],
                figures["packet_latency_p99"],
                tuple(f"{limit['criterion']}: {limit['stage']}; {limit['because']}" for limit in result["limits"]),
            )
        )
        return trials[-1].held

    best = bisect(attempt, low, high, tolerance=tolerance)
    return {
        "format": verdict.FORMAT,
        "kind": "search",
        "command": command,
        "machine": machines[0],
        "plan": plan.to_json(),
        "highest_bits_per_second": best,
        "tolerance": tolerance,
        "trials": [trial.__dict__ for trial in trials],
    }
