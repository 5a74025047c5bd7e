"""ICMP errors from a router and a host: time exceeded, unreachable, fragmentation needed, packet too big.

The client sits one hop before a router behind which the path's MTU is 1,280 bytes.

1. traceroute over IPv4 and IPv6: time exceeded from the router, port unreachable from the server.
2. A datagram to a network that the router does not know: network unreachable.
3. A datagram of 1,400 bytes with Don't Fragment: fragmentation needed. Over IPv6: packet too big, and the next datagram
   goes in fragments.
4. A TCP upload of 20,000 bytes whose path MTU is found out on the way.

The packets that ICMP quotes are no flows of their own.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def send_datagram(bed: Testbed, address: tuple[str, int], length: int) -> None:
    """Send a datagram that must not be fragmented on its way, twice: the second meets the learned path MTU."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with bed.client.open_socket(family, socket.SOCK_DGRAM) as sender:
        if family == socket.AF_INET:
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        for _ in range(2):
            with contextlib.suppress(OSError):  # the ICMP error comes back as one
                sender.sendto(bytes(length), address)
            bed.quiet(0.1)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(traceroute="traceroute")
    with Testbed(router=True, mtu_behind_router=1280) as bed:
        sink = bed.server.listen(9000)
        bed.client.run(["traceroute", "-n", "-q", "1", "-N", "1", "-m", "3", "198.51.100.20"])
        bed.client.run(["traceroute", "-6", "-n", "-q", "1", "-N", "1", "-m", "3", "2001:db8:2::20"])
        send_datagram(bed, ("203.0.113.9", 7), 20)
        send_datagram(bed, ("198.51.100.20", 7), 1400)
        send_datagram(bed, ("2001:db8:2::20", 7), 1400)
        with bed.client.open_socket() as client:
            client.connect(("198.51.100.20", 9000))
            accepted, _ = sink.accept()
            client.sendall(bytes(20_000))
            client.shutdown(socket.SHUT_WR)
            while accepted.recv(65_536):
                pass
            accepted.close()
        sink.close()
        bed.quiet()
    bed.save(output)
    return [version("traceroute", "--version")]
