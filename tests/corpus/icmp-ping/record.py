"""ping over IPv4 and IPv6: four echoes of 56 bytes, two of 1,200 bytes, and one to an address that nobody has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(ping="iputils-ping")
    with Testbed() as bed:
        for address in ("192.0.2.20", "2001:db8:1::20"):
            bed.client.run(["ping", "-n", "-c", "4", "-i", "0.05", address])
            bed.client.run(["ping", "-n", "-c", "2", "-i", "0.05", "-s", "1200", address])
        bed.client.run(["ping", "-n", "-c", "1", "-W", "1", "192.0.2.77"], check=False)
        bed.quiet()
    bed.save(output)
    return [version("ping", "-V")]
