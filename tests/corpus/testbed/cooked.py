"""Captures that the wire cannot make: those of a host's own devices, with tcpdump."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from tests.corpus.testbed.network import wait_until
from tests.corpus.testbed.programs import apt_install

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.corpus.testbed.network import Host


@contextlib.contextmanager
def tcpdump(host: Host, output: Path, options: Sequence[str], expression: str = "") -> Iterator[None]:
    """Capture on a host while the body runs, with timestamps in nanoseconds."""
    apt_install(tcpdump="tcpdump")
    log = output.with_suffix(".log")
    command = [
        "tcpdump",
        "-Z",
        "root",
        "-n",
        "-U",
        "--immediate-mode",
        "--nano",
        "-w",
        str(output),
        *options,
        expression,
    ]
    with log.open("wb") as messages:
        process = subprocess.Popen(["ip", "netns", "exec", host.namespace, *command], stderr=messages)
        try:
            wait_until(lambda: b"listening on" in log.read_bytes(), "tcpdump to listen")
            yield
        finally:
            process.terminate()
            process.wait(10)
            log.unlink()
