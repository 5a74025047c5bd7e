"""A throw-away authority and Core, for the demo and for benches."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpi_probe import _direct
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_SECONDS = 120.0
COMPLAINT = "dpi-probe: "
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec nothing may be that takes a lock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@contextmanager
def work_folder(keep: Path | None = None, *, verb: str = "bench") -> Iterator[Path]:
    """A folder for authority, Core and spool; it goes with the block unless it is to be kept.

    Raises:
        ConfigError: there is something in the folder that is to be kept.
    """
    # An archive of another run would be counted as this one's.
    if keep is not None and keep.is_dir() and any(keep.iterdir()):
        msg = f"--keep {keep}: it exists and is not empty; the folder must be new"
        raise ConfigError(msg)
    folder = keep or Path(tempfile.mkdtemp(prefix=f"dpi-probe-{verb}-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if keep is None:
            with _undisturbed():
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Within the block no Ctrl-C breaks anything off, nor any other signal by which a bench or the demo ends."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class RunningCore:
    """A Core in a process of its own."""

    url: str
    admin_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        """A JSON answer of the admin port."""
        with _direct.get(self.admin_url + path, 30) as answer:
            return json.load(answer)

    def is_up(self) -> bool:
        """Whether the admin port answers; an error with the log's end if the process is gone."""
        if self.process.poll() is not None:
            msg = f"the Core ended with status {self.process.returncode}: {self.log.read_text().strip()[-300:]}"
            raise DpiProbeError(msg)
        try:
            return bool(self.get("/v1/health")["status"] != "failed")
        except (OSError, urllib.error.URLError):
            return False

    def wait_until_open(self) -> None:
        """Return when the database is open."""
        health: dict[str, Any] = {}

        def is_open() -> bool:
            health.update(self.get("/v1/health"))
            return not any(problem.startswith("database:") for problem in health["problems"])

        wait(is_open, "the Core's database to open", state=lambda: "; ".join(health["problems"]))

    def wait_until_indexed(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Return when everything that is archived is in the database; `tell` hears how far it is, and what is wrong."""
        health: dict[str, Any] = {}

        def state() -> str:
            how_far = f"{health['index']['entries']} of {health['archive']['entries']} batches are indexed"
            return "; ".join([how_far, *health["problems"]])

        def is_indexed() -> bool:
            health.update(self.get("/v1/health"))
            tell(state())
            return bool(health["archive"]["entries"] and health["index"]["entries"] == health["archive"]["entries"])

        wait(is_indexed, "the Core to index the batches", state=state)


@contextmanager
def running_core(folder: Path, pki: Path, **environment: str) -> Iterator[RunningCore]:
    """A Core on free ports of the loopback, with its data below `folder`; it ends with the block.

    `environment` adds to what it inherits: its settings.
    """
    port, admin_port = free_port(), free_port()
    log = folder / "core.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*own_command(), "core", "--pki", pki, "--data-dir", folder / "core", "--listen", f"127.0.0.1:{port}",
             "--admin-port", str(admin_port)],
            stdout=output, stderr=output, env={**os.environ, **environment},
            preexec_fn=_end_with_the_parent,  # noqa: PLW1509 - it makes one system call and takes no lock
        )  # fmt: skip
    core = RunningCore(f"https://localhost:{port}", f"http://127.0.0.1:{admin_port}", process, log)
    try:
        wait(core.is_up, "the Core to answer")
        yield core
    finally:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except BaseException:
            # A second Ctrl-C, or it does not end: it must not outlive whoever started it.
            process.kill()
            process.wait()
            raise


def _end_with_the_parent() -> None:
    """Between fork and exec: a Core whose bench was killed must not stay behind, with its ports and files."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def make_authority(pki: Path, probe: str) -> None:
    """A certificate authority with a Core certificate for the loopback and a probe's."""
    run_command("pki", "init", str(pki), "--dns", "localhost", "--ip", "127.0.0.1", "--probe", probe)


def wait(
    condition: Callable[[], bool],
    what: str,
    seconds: float | None = None,
    *,
    state: Callable[[], str] = lambda: "",
) -> None:
    """Return once the condition holds; an error that names `what`, and what the `state` is, after so many seconds."""
    seconds = WAIT_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            msg = f"waited {seconds:.0f} s in vain for {what}" + (f": {said}" if (said := state()) else "")
            raise DpiProbeError(msg)
        time.sleep(0.05)


def own_command() -> list[str]:
    """What starts this very program."""
    return [sys.executable, "-m", "dpi_probe"]


def run_command(*arguments: str, statuses: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run one of this program's commands to its end; an error with what it said on another exit status than these."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run([*own_command(), *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in statuses:
        said = "; ".join(complaints(done)) or (done.stderr or done.stdout).strip()[-400:]
        msg = f"`dpi-probe {arguments[0]}` ended with status {done.returncode}, not {statuses[0]}: {said}"
        raise DpiProbeError(msg)
    return done


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command said went wrong, without its name in front and its log."""
    return [line.removeprefix(COMPLAINT) for line in done.stderr.splitlines() if line.startswith(COMPLAINT)]


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
