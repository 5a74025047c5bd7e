"""Processes of a bench that say what they do, one JSON object a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from dpi_probe._throwaway import WAIT_SECONDS, wait
from dpi_probe.errors import CapturePermissionError, DpiProbeError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


def child_of(module: str, spec: dict[str, Any], folder: Path, *, cpus: set[int] | None = None) -> Child:
    """A module of this package as a process, which is told the specification."""
    name = module.rpartition(".")[2]
    spec_file = folder / f"{name}.json"
    spec_file.write_text(json.dumps(spec))
    return Child(name, [sys.executable, "-m", module, str(spec_file)], folder, cpus=cpus)


class Child:
    """A program that runs and says what it does: `started`, `sample` again and again, and `ended`."""

    def __init__(self, name: str, command: list[str], folder: Path, *, cpus: set[int] | None = None) -> None:
        """Start it, on these CPUs only if they are named."""
        self.name = name
        self._log = folder / f"{self.name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        if cpus is not None:
            # Before it has other threads: they inherit it.
            os.sched_setaffinity(self.process.pid, cpus)
        self.started: float | None = None
        self.samples: list[dict[str, Any]] = []
        self.ended: dict[str, Any] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout is None:
            return
        for line in self.process.stdout:
            message = json.loads(line)
            if "sample" in message:
                self.samples.append(message["sample"])
            elif "ended" in message:
                self.ended = message["ended"]
            else:
                self.started = message["started"]

    def log(self) -> str:
        """What it said on standard error."""
        return self._log.read_text(errors="replace").strip()

    def check(self) -> None:
        """Raise what it failed with, if it has."""
        if self.process.poll() not in (None, 0):
            said = self.log().splitlines()[-1:] or ["it said nothing"]
            message = f"the bench's {self.name} ended with status {self.process.returncode}: {said[0]}"
            raise CapturePermissionError(message) if self.process.returncode == 5 else DpiProbeError(message)

    def wait_for_start(self) -> None:
        """Return once it works."""

        def started() -> bool:
            self.check()
            return self.started is not None

        wait(started, f"the bench's {self.name} to start")

    def finish(self, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Ask it to end; its last message."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            msg = f"the bench's {self.name} did not end within {seconds:.0f} s: {self.log()[-300:]}"
            raise DpiProbeError(msg) from None
        self._reader.join(seconds)
        self.check()
        if self.ended is None:
            msg = f"the bench's {self.name} ended without its books: {self.log()[-300:]}"
            raise DpiProbeError(msg)
        return self.ended

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
