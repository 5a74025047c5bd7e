"""Which stage a thread of the probe runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpi_probe.bench.processes import Use

# Beginnings of thread names; Linux cuts names to 15 characters.
STAGES = (
    ("dpi-supervisor", "capture, decode, flow, layer 7, record"),
    ("dpi-worker", "capture, decode, flow, layer 7, record"),
    ("seal", "seal, spool"),
    ("deliver", "deliver"),
    ("health", "health report"),
    ("lookout", "degradations"),
    ("link", "changes of the interface"),
    ("main", "sampling"),
)


def stage_of(thread: str) -> str:
    """The stage, or the thread's own name where it is none of the probe's."""
    return next((stage for begin, stage in STAGES if thread.startswith(begin)), thread)


def share_of_threads(before: Use, after: Use, seconds: float) -> dict[str, float]:
    """The share of the time in which the threads of each name were on a CPU."""
    shares = {
        name: (spent - before.threads.get(name, 0.0)) / max(seconds, 1e-9) for name, spent in after.threads.items()
    }
    return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0}


def busiest(shares: dict[str, float], source: float, kind: str, *, to_record: bool = False) -> tuple[str, float]:
    """The stage whose threads were busiest, and how busy. The memory source runs on the capture thread.

    With `to_record` only those that a packet passes until its flow's record is made: what comes later holds up neither.
    """
    work: dict[str, float] = {}
    for thread, share in shares.items():
        if thread != "main" and not (to_record and "record" not in stage_of(thread)):
            work[stage_of(thread)] = work.get(stage_of(thread), 0.0) + share
    if not work:
        return "none", 0.0
    stage = max(work, key=lambda name: work[name])
    if kind == "memory" and stage.startswith("capture") and source > work[stage] / 2:
        return "source", source
    return stage, work[stage]
