"""IP packets that are neither TCP nor UDP: IGMP, ESP (50), an experimental protocol (253), and IPv4 options.

1. The client joins the multicast group 233.252.0.1 (IGMP, with the router alert option) and sends two datagrams to it.
2. Raw sockets exchange packets of protocol 253 and 50, over IPv4 and IPv6.
3. UDP with a record-route option: an IPv4 header of 40 bytes.
4. UDP to the subnet's broadcast address.
5. UDP-Lite (136).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.datagrams import exchange

if TYPE_CHECKING:
    from pathlib import Path

GROUP = "233.252.0.1"
UDP_LITE = 136


def multicast(bed: Testbed) -> None:
    """Join, send, leave."""
    with bed.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        membership = socket.inet_aton(GROUP) + socket.inet_aton("192.0.2.10")
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.10"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        for text in (b"first", b"second"):
            sender.sendto(text, (GROUP, 7000))
        bed.quiet()


def raw(bed: Testbed, protocol: int, version: int) -> None:
    """A packet there and one back."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    addresses = ("192.0.2.10", "192.0.2.20") if version == 4 else ("2001:db8:1::10", "2001:db8:1::20")
    with (
        bed.client.open_socket(family, socket.SOCK_RAW, protocol) as left,
        bed.server.open_socket(family, socket.SOCK_RAW, protocol) as right,
    ):
        left.sendto(b"\x00\x00\x10\x01\x00\x00\x00\x01" + bytes(40), (addresses[1], 0))
        right.recv(2000)
        right.sendto(b"\x00\x00\x20\x02\x00\x00\x00\x01" + bytes(24), (addresses[0], 0))
        left.recv(2000)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        multicast(bed)
        for protocol in (253, 50):
            for version in (4, 6):
                raw(bed, protocol, version)
        record_route = bytes([7, 19, 4]) + bytes(16) + b"\x01"
        exchange(
            bed,
            (64,),
            port=7003,
            prepare=lambda sender: sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, record_route),
        )
        with bed.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(b"to all", ("192.0.2.255", 7004))
        with bed.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM, UDP_LITE) as sender:
            sender.sendto(b"lite", ("192.0.2.20", 7005))
        bed.quiet()
    bed.save(output)
    return ["the testbed's own sender; Linux"]
