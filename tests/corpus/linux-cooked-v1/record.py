"""tcpdump on the `any` device of the server: Linux cooked capture v1 (LINKTYPE_LINUX_SLL).

curl fetches a page over the wire, dig asks over IPv6, and a program on the server talks to another over the loopback
device, where every packet is seen twice (sent and received) and TCP checksums are left unfinished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.cooked import tcpdump
from tests.corpus.testbed.dns import start_dnsmasq
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_nginx(bed, "server { listen 80; }")
        start_dnsmasq(bed)
        with tcpdump(bed.server, output, ["-y", "LINUX_SLL", "-i", "any"]):
            bed.client.run(["curl", "--silent", "--resolve", "any.example:80:192.0.2.20", "http://any.example/"])
            bed.client.run(["dig", "@2001:db8:1::20", "www.corpus.example", "AAAA"])
            bed.server.run(["curl", "--silent", "http://127.0.0.1/index.html"])
            bed.quiet()
    return [version("tcpdump", "--version"), version("curl", "--version"), version("nginx", "-v")]
