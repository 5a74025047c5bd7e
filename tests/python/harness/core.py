"""A Core in processes of its own, which tests start, ask, kill and start again on the same data and ports."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.sealing import Client

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = str(Path(sys.executable).with_name("dpi-probe"))
WAIT_SECONDS = 120.0
# Below the range from which the kernel gives ports to connections (ip_local_port_range).
PORTS = range(12_000, 32_000)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS, *, pause: float = 0.02) -> Any:
    """The condition's first true value, looked at with a `pause` between; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(pause)


def free_port() -> int:
    """A TCP port of the loopback interface on which nobody listens, and which no connection is given."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Core:
    """`dpi-probe core` on a data directory, with further options and environment variables."""

    def __init__(self, data: Path, pki: Path, *options: str, **environment: str) -> None:
        self.data, self.pki, self.options, self.environment = data, pki, options, environment
        self.port, self.admin_port = free_port(), free_port()
        self.log_path = data.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where probes deliver."""
        return f"https://localhost:{self.port}"

    @property
    def log(self) -> str:
        """What it said since its first start."""
        return self.log_path.read_text()

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and by default wait until it answers."""
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [
                    COMMAND, "core", "--data-dir", self.data, "--pki", self.pki,
                    "--listen", f"127.0.0.1:{self.port}", "--admin-port", str(self.admin_port), *self.options,
                ],
                stdout=log, stderr=log, start_new_session=True,
                # Tests wait for the index, on machines that do other things too.
                env={**os.environ, "CORE_DATABASE_NICE": "0", **self.environment},
            )  # fmt: skip
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Return when it answers, as far as it has to: with its database or without."""
        wait_for(self._answers, "the Core to answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            self.ask("/v1/health")
        except OSError:
            return False
        return True

    def ask(self, path: str, **query: Any) -> tuple[int, Any]:
        """Status and body of an answer of the admin port."""
        text = f"?{urllib.parse.urlencode(query)}" if query else ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}{text}", timeout=30) as response:
                body = response.read()
                return response.status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def get(self, path: str, **query: Any) -> Any:
        """The body of an answer of 200."""
        code, body = self.ask(path, **query)
        assert code == 200, body
        return body

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def client(self, probe: str = "sensor") -> Client:
        """A connection with the certificate of a probe."""
        return Client(self.port, self.pki, self.pki / "probes" / f"{probe}.pem")

    def indexed(self, *, but: int = 0) -> None:
        """Wait until the database holds everything that is archived, `but` so many entries that cannot become rows."""
        wait_for(lambda: self._caught_up(but), "the index to catch up")

    def _caught_up(self, but: int) -> bool:
        health = self.get("/v1/health")
        index, archive = health["index"], health["archive"]
        expected = (archive["entries"], but, "degraded" if but else "ok")
        return (index["entries"], index["unindexed"], health["status"]) == expected

    def kill(self) -> None:
        """SIGKILL to the service and to the database process."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)
