"""Large UDP datagrams (4,000, 1,472, 1,473 and 9,000 bytes) and their echoes, over IPv4 and IPv6: fragments in order.

1,472 bytes just fit a frame over IPv4; one byte more makes a second fragment of one byte.
A ping of 3,000 bytes does the same to ICMP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version
from tests.corpus.testbed.datagrams import exchange

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(ping="iputils-ping")
    with Testbed() as bed:
        for ip_version in (4, 6):
            exchange(bed, (4000, 1472, 1473, 9000), version=ip_version)
        for address in ("192.0.2.20", "2001:db8:1::20"):
            bed.client.run(["ping", "-n", "-c", "1", "-s", "3000", address])
        bed.quiet()
    bed.save(output)
    return [version("ping", "-V")]
