"""The real programs as processes: any command, and a probe; the Core is in `core`."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from harness.books import check_books
from harness.core import COMMAND, WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from harness.core import Core


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


class Probe:
    """A probe process."""

    def __init__(
        self,
        pki: Path,
        spool: Path,
        core: Core | None,
        *arguments: str | Path,
        name: str = "sensor",
        beside: Path | None = None,
    ) -> None:
        """`beside` is where log and report go; default: beside the spool."""
        self.spool = spool
        beside = beside or spool
        self.report, self.log = beside.with_suffix(".report.json"), beside.with_suffix(".log")
        delivery = [f"--core-api-url={core.url}"] if core else []
        self.command = [
            COMMAND, "run", f"--buffer-dir={spool}", f"--report={self.report}", f"--ca-cert-path={pki}/ca.pem",
            f"--probe-cert-path={pki}/probes/{name}.pem", f"--probe-key-path={pki}/probes/{name}.key",
            *delivery, *map(str, arguments),
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

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

    def finish(self, status: int = 0) -> list[dict[str, Any]]:
        """Wait for the end, check exit status and books, and give the final accounts."""
        assert self.process is not None
        ended = self.process.wait(WAIT_SECONDS * 2)
        assert ended == status, f"the probe ended with status {ended}:\n{self.log.read_text()}"
        accounts: list[dict[str, Any]] = json.loads(self.report.read_text())
        check_books(accounts)
        return accounts

    def pending(self) -> list[Path]:
        """Batches that wait for a receipt."""
        return sorted((self.spool / "pending").glob("*.arrows"))
