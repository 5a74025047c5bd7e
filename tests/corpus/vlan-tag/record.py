"""An HTTP transfer and a ping on a trunk: every frame carries one 802.1Q tag (VLAN 100, priority 3).

The hosts sit on access ports: the wire puts the tags on what it records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(ping="iputils-ping")
    with Testbed() as bed:
        bed.wire.tags = b"\x81\x00\x60\x64"
        start_nginx(bed, "server { listen 80; }")
        bed.client.run(["curl", "--silent", "--resolve", "tagged.example:80:192.0.2.20", "http://tagged.example/"])
        bed.client.run(["ping", "-n", "-c", "2", "-i", "0.05", "2001:db8:1::20"])
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("nginx", "-v"), version("ping", "-V")]
