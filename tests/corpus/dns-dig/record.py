"""dig asks dnsmasq over UDP: A, AAAA, CNAME, TXT, SRV, MX, PTR, NXDOMAIN, no data, and a name that is refused.

One question goes over IPv6 and one over TCP; the last asks two questions over one TCP connection (`+keepopen`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.dns import start_dnsmasq

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_dnsmasq(bed)
        for question in (
            ["www.corpus.example", "A"],
            ["www.corpus.example", "AAAA"],
            ["alias.corpus.example", "A"],
            ["text.corpus.example", "TXT"],
            ["_ldap._tcp.corpus.example", "SRV"],
            ["corpus.example", "MX"],
            ["-x", "192.0.2.80"],
            ["missing.corpus.example", "A"],
            ["text.corpus.example", "A"],
            ["elsewhere.test", "A"],
            ["www.corpus.example", "A", "+tcp"],
            ["www.corpus.example", "A", "alias.corpus.example", "AAAA", "+tcp", "+keepopen"],
        ):
            bed.client.run(["dig", "@192.0.2.20", *question])
        bed.client.run(["dig", "@2001:db8:1::20", "www.corpus.example", "AAAA"])
        bed.quiet()
    bed.save(output)
    return [version("dig", "-v"), version("dnsmasq", "--version")]
