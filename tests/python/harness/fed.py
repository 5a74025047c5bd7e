"""A probe that runs for as long as a test wants, without an interface and without privileges."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from harness.metrics import Endpoint
from harness.programs import Probe

if TYPE_CHECKING:
    from pathlib import Path


class Fed:
    """A probe that reads a capture from a pipe, which stays open until the probe is to end."""

    def __init__(self, directory: Path, pki: Path, *arguments: str) -> None:
        self.probe = Probe(
            pki, directory / "spool", None,
            "-r", "-", *arguments,
        )  # fmt: skip
        with self.probe.log.open("a") as log:
            self.probe.process = subprocess.Popen(
                self.probe.command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        assert self.probe.process.stdin is not None
        self.input = self.probe.process.stdin
        self.endpoint = Endpoint(self.probe.spool)

    def finish(self, *, empty: bool = False) -> list[dict[str, object]]:
        """Close the pipe; one through which nothing came is told with status 3."""
        self.input.close()
        return self.probe.finish(*([3] if empty else []))
