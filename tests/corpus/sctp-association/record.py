"""An SCTP association carries 50 messages: INIT, COOKIE, DATA and SACK chunks, SHUTDOWN."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install

if TYPE_CHECKING:
    from pathlib import Path

TSCTP = "/usr/lib/usrsctp/tsctp"


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(**{TSCTP: "libusrsctp-examples"})
    raw = ["-E", "0", "-U", "0", "-p", "5001"]
    with Testbed() as bed:
        bed.server.start([TSCTP, *raw, "-L", "192.0.2.20"], stdout=subprocess.DEVNULL)
        bed.quiet(0.5)
        bed.client.run([TSCTP, *raw, "-n", "50", "-l", "400", "-L", "192.0.2.10", "192.0.2.20"])
        bed.quiet()
    bed.save(output)
    return ["tsctp of usrsctp 0.9.5 (raw IP, in user space)"]
