"""The sender of a bench over a veth pair, in a process of its own: `python -m dpi_probe.bench.sender_process SPEC`.

On standard output there is one JSON object a line, as of `probe_process`. SIGTERM ends it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe import _native
from dpi_probe.bench.probe_process import SAMPLE_SECONDS, say
from dpi_probe.bench.scenarios import Plan
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from types import FrameType


def main(spec_file: Path) -> None:
    """Send until SIGTERM."""
    spec = json.loads(spec_file.read_text())
    plan = Plan.from_json(spec["plan"])
    over = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    sender = _native.TrafficSender(spec["interface"], plan.traffic(), flat_out=spec.get("flat_out", False))
    say(started=time.monotonic())
    while not over.wait(SAMPLE_SECONDS):
        say(sample={"time": time.monotonic(), "offer": sender.offer()})
    refused = sender.stop()
    say(ended={"time": time.monotonic(), "offer": sender.offer(), "refused": refused})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DpiProbeError as error:
        sys.stderr.write(f"dpi-probe: {error}\n")
        sys.exit(error.exit_status)
