"""A chrony client asks a chrony server for the time four times and prints the offset; no clock is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(chronyd="chrony")
    with Testbed() as bed:
        server = bed.write(
            "server.conf",
            "local stratum 8\nallow all\ncmdport 0\n"
            f"bindcmdaddress {bed.directory}/s.sock\npidfile {bed.directory}/s.pid\n",
        )
        client = bed.write(
            "client.conf",
            "server 192.0.2.20 iburst\ncmdport 0\n"
            f"bindcmdaddress {bed.directory}/c.sock\npidfile {bed.directory}/c.pid\n",
        )
        bed.server.start(["chronyd", "-d", "-x", "-u", "root", "-f", server], udp_port=123)
        bed.client.run(["chronyd", "-Q", "-t", "20", "-u", "root", "-f", client])
        bed.quiet()
    bed.save(output)
    return [version("chronyd", "--version")]
