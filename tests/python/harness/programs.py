"""The real programs as processes: an authority, a Core and a probe, each in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COMMAND = str(Path(sys.executable).with_name("dpi-probe"))
WAIT_SECONDS = 120.0


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The condition's first true value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            msg = f"waited {seconds:.0f} s in vain for {what}"
            raise AssertionError(msg)
        time.sleep(0.02)


def dpi_probe(*arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS * 2,
        **options,
    )
    if check and done.returncode != 0:
        msg = f"dpi-probe {' '.join(map(str, arguments))}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        raise AssertionError(msg)
    return done


class Authority:
    """Certificates made by `dpi-probe pki`."""

    def __init__(self, directory: Path, probes: Iterable[str] = ("sensor",)) -> None:
        self.directory = directory
        names = [flag for name in probes for flag in ("--probe", name)]
        dpi_probe("pki", "init", directory, "--dns", "localhost", "--ip", "127.0.0.1", *names)

    def probe_flags(self, name: str = "sensor") -> list[str]:
        """The flags that give `dpi-probe run` its certificate."""
        return [
            f"--probe-cert-path={self.directory}/probes/{name}.pem",
            f"--probe-key-path={self.directory}/probes/{name}.key",
            f"--ca-cert-path={self.directory}/ca.pem",
        ]


class Core:
    """A Core process that can be killed and started again on the same data and ports."""

    def __init__(self, authority: Authority, data: Path) -> None:
        self.authority, self.data = authority, data
        self.port, self.admin_port = free_port(), free_port()
        self.process: subprocess.Popen[str] | None = None
        self.log = data.with_suffix(".log")

    @property
    def url(self) -> str:
        """Where probes deliver."""
        return f"https://localhost:{self.port}"

    def start(self, *, wait: bool = True) -> Core:
        """Start the process, and by default wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    COMMAND, "core", "--pki", self.authority.directory, "--data-dir", self.data,
                    "--listen", f"127.0.0.1:{self.port}", "--admin-port", str(self.admin_port),
                ],
                stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Return when it answers."""
        wait_for(self._alive, "the Core to answer")

    def _alive(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            msg = f"the Core ended with status {self.process.returncode}:\n{self.log.read_text()}"
            raise AssertionError(msg)
        try:
            self.get("/v1/health")
        except OSError:
            return False
        return True

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of the admin interface."""
        text = urllib.parse.urlencode(query)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}?{text}", timeout=30) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """SIGKILL to the Core and everything it started."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(WAIT_SECONDS)


class Probe:
    """A probe process."""

    def __init__(
        self, authority: Authority, spool: Path, core: Core | None, *arguments: str | Path, name: str = "sensor"
    ) -> None:
        self.spool = spool
        self.report = spool.with_suffix(".report.json")
        delivery = [f"--core-api-url={core.url}"] if core else []
        self.command = [
            COMMAND, "run", *authority.probe_flags(name), f"--buffer-dir={spool}", f"--report={self.report}", *delivery,
            *map(str, arguments),
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None
        self.log = spool.with_suffix(".log")

    def start(self) -> Probe:
        """Start the process."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, text=True, start_new_session=True)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def finish(self, *statuses: int) -> list[dict[str, Any]]:
        """Wait for the end, check that the exit status is 0 or one of `statuses`, and give the final accounts."""
        assert self.process is not None
        ended = self.process.wait(WAIT_SECONDS * 2)
        assert ended in (0, *statuses), f"the probe ended with status {ended}:\n{self.log.read_text()}"
        accounts: list[dict[str, Any]] = json.loads(self.report.read_text())
        return accounts

    def pending(self) -> list[Path]:
        """Batches that wait for a receipt."""
        return sorted((self.spool / "pending").glob("*.arrows"))
