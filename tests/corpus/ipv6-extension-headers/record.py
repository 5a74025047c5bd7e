"""UDP over IPv6 with hop-by-hop options, destination options, a routing header, all three, and with a fragment header.

The client's kernel adds the headers; the server's answers have none. The last datagrams are 3,000 bytes long, so that
destination options stand before and after the fragment header.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.datagrams import exchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # next header, length, PadN of four bytes
ROUTER_ALERT = bytes([0, 0, 5, 2, 0, 0, 1, 0])


def headers(
    *, hop_by_hop: bool = False, destination: bool = False, before_routing: bool = False
) -> Callable[[socket.socket], None]:
    """A function that sets these on a socket."""

    def prepare(sender: socket.socket) -> None:
        if hop_by_hop:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, ROUTER_ALERT)
        if before_routing:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDRDSTOPTS, PADDING)
        if destination:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, PADDING)

    return prepare


def routed(sender: socket.socket) -> None:
    """Adds a segment routing header (type 4, RFC 8754) whose only segment is the destination."""
    segment = ipaddress.IPv6Address("2001:db8:1::20").packed
    sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, struct.pack("!BBBBBBH", 0, 2, 4, 0, 0, 0, 0) + segment)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.server.run(
            ["sysctl", "-q", "net.ipv6.conf.all.seg6_enabled=1", "net.ipv6.conf.eth0.seg6_enabled=1"], check=False
        )
        exchange(bed, (100,), port=7001, prepare=headers(hop_by_hop=True), version=6)
        exchange(bed, (100,), port=7002, prepare=headers(destination=True), version=6)
        exchange(bed, (100,), port=7003, prepare=routed, version=6, answer=False)
        exchange(bed, (100,), port=7004, prepare=headers(hop_by_hop=True, destination=True), version=6)
        exchange(bed, (3000,), port=7005, prepare=headers(hop_by_hop=True, destination=True), version=6)
        bed.quiet()
    bed.save(output)
    return ["the testbed's own sender; Linux IPv6"]
