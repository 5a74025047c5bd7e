"""What each stage costs: nanoseconds for a packet and for a flow."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from dpi_probe import _native
from dpi_probe.bench import machine, verdict
from dpi_probe.bench.run import PROBE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dpi_probe._native import StageCosts

# Stage, what it is measured by, and what it is less of.
STAGES: tuple[tuple[str, str, str | None], ...] = (
    ("decode", "decode", None),
    ("flow", "decode_flow", "decode"),
    ("layer 7", "decode_flow_layer7", "decode_flow"),
    ("record", "record", None),
    ("seal", "seal", None),
    ("spool", "spool", None),
)


def costs_of(measured: StageCosts) -> dict[str, float]:
    """Nanoseconds of each stage over all frames."""
    raw: dict[str, Any] = dict(measured)
    return {name: float(raw[with_it] - (raw[without] if without else 0)) for name, with_it, without in STAGES}


def measure(
    traffic: _native.Traffic,
    folder: Path,
    pki: Path,
    progress: Callable[[str, float], None],
    *,
    size: int,
    repeat: int,
    memory_mb: int,
    command: str,
) -> dict[str, Any]:
    """Run all stages several times; the median of each."""
    before = machine.fingerprint()
    runs: list[StageCosts] = []
    for number in range(repeat):
        progress(f"stages, run {number + 1} of {repeat}", number / repeat)
        runs.append(
            _native.measure_stages(
                traffic,
                size=size,
                memory_bytes=memory_mb << 20,
                certificate=pki / f"probes/{PROBE_NAME}.pem",
                key=pki / f"probes/{PROBE_NAME}.key",
                probe_id=PROBE_NAME,
                spool_directory=folder / f"spool-{number}",
            )
        )
    costs = [costs_of(run) for run in runs]
    frames, flows = runs[0]["frames"], runs[0]["flows"]
    return {
        "format": verdict.FORMAT,
        "kind": "stages",
        "command": command,
        "machine": before,
        "traffic": dict(traffic.shape()),
        "frames": frames,
        "flows": flows,
        "batches": runs[0]["batches"],
        "stages": [
            {
                "stage": name,
                "clock": "wall" if name == "spool" else "cpu",
                "ns_per_packet": statistics.median(one[name] for one in costs) / frames,
                "ns_per_flow": statistics.median(one[name] for one in costs) / max(flows, 1),
                "runs_ns_per_packet": [one[name] / frames for one in costs],
            }
            for name, _, _ in STAGES
        ],
    }
