"""The probe of a bench, in a process of its own: `python -m dpi_probe.bench.probe_process SPEC`.

SPEC is a JSON file: the `plan`, and the `settings` of the probe. On standard output there is one JSON object a line:
`{"started": …}`, samples, and `{"ended": …}` with the final books. SIGTERM ends it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe._probe import Probe
from dpi_probe.bench import books
from dpi_probe.bench.quantiles import Distribution
from dpi_probe.bench.scenarios import Plan
from dpi_probe.config import load
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from types import FrameType

SAMPLE_SECONDS = 0.25
HISTOGRAMS = ("packet_latency", "export_latency", "wire_latency", "seal_duration", "sign_duration", "receipt_latency")


def say(**message: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def sample(probe: Probe) -> dict[str, Any]:
    """Where the probe stands."""
    accounts = probe.accounts()
    metrics = probe.metrics()
    return {
        "time": time.monotonic(),
        "totals": books.totals(accounts),
        "offer": probe.offer(),
        "degradations": {
            labels[0]: level
            for family in metrics
            if family["name"] == "dpi_probe_degradation_level"
            for labels, level in family["samples"]
        },
        "histograms": {
            name: Distribution.of_metric(metrics, f"dpi_probe_{name}_seconds").to_json() for name in HISTOGRAMS
        },
    }


def main(spec_file: Path) -> None:
    """Run the probe until SIGTERM."""
    spec = json.loads(spec_file.read_text())
    plan = Plan.from_json(spec["plan"])
    traffic = plan.traffic() if plan.source == "memory" else None
    probe = Probe(settings=load(spec["settings"]), traffic=traffic)

    def stop(_number: int, _frame: FrameType | None) -> None:
        probe.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    probe.start()
    say(started=time.monotonic())
    due = time.monotonic()
    while probe.is_running():
        say(sample=sample(probe))
        due += SAMPLE_SECONDS
        while probe.is_running() and (wait := due - time.monotonic()) > 0:
            time.sleep(min(wait, 0.05))
    problem = None
    try:
        probe.join()
    except DpiProbeError as error:
        problem = str(error)
    say(ended={**sample(probe), "books": probe.accounts(), "problem": problem})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DpiProbeError as error:
        sys.stderr.write(f"dpi-probe: {error}\n")
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The bench is gone, and nobody waits for what is still to be delivered, as the end of Python would.
        os._exit(1)
