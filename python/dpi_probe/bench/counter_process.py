"""Capture alone, in a process of its own: `python -m dpi_probe.bench.counter_process SPEC`.

SPEC is a JSON file: `interface`, `capture`, `memory_bytes`. On standard output there is one JSON object a line, as of
`probe_process`: since the start, frames, their bytes, and frames that were lost before. SIGTERM ends it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe import _native
from dpi_probe.bench.probe_process import SAMPLE_SECONDS, say
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from types import FrameType


def sample(counter: _native.CaptureCounter) -> dict[str, Any]:
    """What was counted so far."""
    frames, size, dropped = counter.counts()
    return {"time": time.monotonic(), "frames": frames, "bytes": size, "dropped": dropped}


def main(spec_file: Path) -> None:
    """Count until SIGTERM."""
    spec = json.loads(spec_file.read_text())
    over = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    counter = _native.CaptureCounter(spec["interface"], capture=spec["capture"], memory_bytes=spec["memory_bytes"])
    say(started=time.monotonic())
    while not over.wait(SAMPLE_SECONDS):
        say(sample=sample(counter))
    counter.stop()
    say(ended={**sample(counter), "description": counter.description()})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DpiProbeError as error:
        sys.stderr.write(f"dpi-probe: {error}\n")
        sys.exit(error.exit_status)
