"""Random packets that meet every corner of metering: few endpoints, few sequence numbers, jumps in time.

Nothing of it looks like real traffic; it is for comparing two meters with each other.
"""

from __future__ import annotations

import ipaddress
import random
import struct

from tests.corpus.testbed import Record, write_pcap
from tests.oracle.checksum import internet_checksum

RAW_IP = 101
SECOND = 1_000_000_000
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
URG, ECE, CWR = 0x20, 0x40, 0x80

_FLAGS = (SYN, SYN, SYN | ACK, SYN | ACK, ACK, ACK, ACK | PSH, ACK | PSH, FIN | ACK, FIN | ACK, FIN, RST, RST | ACK, 0)
_MORE_FLAGS = (0, 0, 0, 0, URG, ECE, CWR, ECE | CWR)
# Few, since what is counted of windows is that they are closed, or the same as before.
_WINDOWS = (0, 0, 1000, 1000)
_STEPS = (0, 1, 1000, 1_000_000, SECOND, 4 * SECOND, 5 * SECOND, 5 * SECOND + 1, 29 * SECOND, 100 * SECOND)
_LEAPS = (
    300 * SECOND,
    300 * SECOND + 1,
    1500 * SECOND,
    1800 * SECOND,
    -SECOND,
    -3 * SECOND,
    -400 * SECOND,
    9000 * SECOND,
)


class Traffic:
    """A source of packets; the same seed gives the same packets."""

    def __init__(self, seed: int) -> None:
        """Choose what this capture is like: its pace, and how its packets are mixed."""
        self._random = random.Random(seed)
        self._hosts = [f"192.0.2.{number}" for number in (1, 2, 3)][: self._random.choice((2, 2, 3))]
        self._leap_chance = self._random.choice((0, 0.01, 0.05))
        self._steps = _STEPS[: self._random.randrange(3, len(_STEPS))]
        self._kinds = self._random.choices(("tcp", "udp", "fragment", "icmp", "other"), (8, 2, 2, 1, 1), k=4)
        self._sent = 0
        self._base = self._random.choice((1000, 0xFFFF_FFF0, 0x7FFF_FFF8))

    def capture(self, count: int) -> bytes:
        """A pcap file with nanoseconds of so many packets."""
        time = 1_700_000_000 * SECOND
        records = []
        for _ in range(count):
            leap = self._random.random() < self._leap_chance
            time += self._random.choice(_LEAPS if leap else self._steps)
            packet = self._packet()
            records.append(Record(time, packet, len(packet)))
        return write_pcap(records, link_type=RAW_IP, nanoseconds=True)

    def _packet(self) -> bytes:
        self._sent += 1
        kind = self._random.choice(self._kinds)
        source, destination = self._random.sample(self._hosts, 2)
        if kind == "tcp":
            return self._ip(source, destination, 6, self._tcp())
        if kind == "udp":
            return self._ip(source, destination, 17, self._udp())
        if kind == "icmp":
            body = bytes([self._random.choice((0, 3, 8, 11)), self._random.choice((0, 1)), 1, 2]) + bytes(8)
            return self._ip(source, destination, 1, body)
        if kind == "other":
            return self._ip(source, destination, 253, bytes(self._random.randrange(30)))
        first, more = self._random.choice(((0, True), (1, True), (2, True), (3, False)))
        if self._random.random() < 0.4:
            body = self._tcp() if first == 0 else bytes(32)
            return self._ip(source, destination, 6, body[:32].ljust(32, b"\0"), fragment=first * 4 | more << 13)
        body = self._udp() if first == 0 else bytes(16)
        return self._ip(source, destination, 17, body[:16].ljust(16, b"\0"), fragment=first * 2 | more << 13)

    def _ports(self) -> tuple[int, int]:
        ports = (40_000, 80) if self._random.random() < 0.9 else (40_001, 80)
        return ports if self._random.random() < 0.5 else (ports[1], ports[0])

    def _tcp(self) -> bytes:
        sequence, acknowledgement = (
            (self._base + self._random.choice((0, 1, 1, 2, 5, 6, 9, 12, 30))) % (1 << 32) for _ in range(2)
        )
        options = (
            b"\x02\x04" + struct.pack("!H", self._random.choice((536, 1460))) if self._random.random() < 0.3 else b""
        )
        offset = (20 + len(options)) // 4 << 4
        payload = bytes(self._random.choice((0, 0, 0, 0, 1, 1, 1, 4, 11)))
        flags = self._random.choice(_FLAGS) | self._random.choice(_MORE_FLAGS)
        window = self._random.choice(_WINDOWS)
        head = struct.pack("!HHIIBBHHH", *self._ports(), sequence, acknowledgement, offset, flags, window, 0, 0)
        return head + options + payload

    def _udp(self) -> bytes:
        payload = bytes(self._random.randrange(40))
        return struct.pack("!HHHH", *self._ports(), 8 + len(payload), 0) + payload

    def _ip(self, source: str, destination: str, protocol: int, body: bytes, *, fragment: int = 0) -> bytes:
        identification = self._sent // 12 * 2 + self._random.choice((0, 0, 1)) if fragment else 0
        ttl = self._random.choice((63, 64))
        addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), identification, fragment, ttl, protocol, 0) + addresses
        return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + body
