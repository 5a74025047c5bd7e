"""tcpdump on a tun device: packets without any link layer (LINKTYPE_RAW), IPv4 and IPv6.

The client's route to 203.0.113.0/24 and 2001:db8:9::/64 goes into a tun device; a program at its other end turns every
UDP datagram round by swapping the addresses and ports (which keeps every checksum right).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.cooked import tcpdump

if TYPE_CHECKING:
    from pathlib import Path

TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x0001 | 0x1000
EXCHANGES = 6


def turn_round(device: int) -> None:
    """Sends what comes back to where it came from, so often."""
    answered = 0
    while answered < EXCHANGES:
        packet = os.read(device, 2000)
        if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP:
            addresses, rest = packet[:12] + packet[16:20] + packet[12:16], packet[20:]
        elif packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP:
            addresses, rest = packet[:8] + packet[24:40] + packet[8:24], packet[40:]
        else:
            continue
        os.write(device, addresses + rest[2:4] + rest[:2] + rest[4:])
        answered += 1


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        with bed.client.entered():
            device = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", b"tun0", IFF_TUN_NO_PI))
        bed.client.ip("link", "set", "tun0", "up")
        bed.client.ip("addr", "add", "203.0.113.1/24", "dev", "tun0")
        bed.client.ip("addr", "add", "2001:db8:9::1/64", "dev", "tun0", "nodad")
        far_end = threading.Thread(target=turn_round, args=(device,))
        far_end.start()
        with tcpdump(bed.client, output, ["-i", "tun0"]):
            for family, address in ((socket.AF_INET, "203.0.113.9"), (socket.AF_INET6, "2001:db8:9::9")):
                with bed.client.open_socket(family, socket.SOCK_DGRAM) as sender:
                    sender.connect((address, 7000))
                    for length in (1, 500, 1200):
                        sender.send(bytes(length))
                        sender.recv(2000)
        far_end.join()
        os.close(device)
    return [version("tcpdump", "--version"), "the testbed's own sender"]
