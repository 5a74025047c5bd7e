"""Community ID v1, seed 0: https://github.com/corelight/community-id-spec."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING

from tests.oracle.decode import ICMP, ICMPV6, SCTP, TCP, UDP

if TYPE_CHECKING:
    from tests.oracle.decode import Address

_ICMP_PAIRS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_ICMPV6_PAIRS = {
    128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144, 139: 140,
    140: 139,
}  # fmt: skip


def community_id(
    protocol: int, source: Address, destination: Address, source_port: int, destination_port: int, *, icmp: bool = False
) -> str:
    """The identifier; for ICMP the ports are type and code."""
    one_way = False
    ports: tuple[int, int] | None = None
    if icmp and protocol in (ICMP, ICMPV6):
        pairs = _ICMP_PAIRS if protocol == ICMP else _ICMPV6_PAIRS
        other = pairs.get(source_port)
        one_way = other is None
        ports = (source_port, destination_port if other is None else other)
    elif protocol in (TCP, UDP, SCTP):
        ports = (source_port, destination_port)
    ends = [(source.packed, ports[0] if ports else 0), (destination.packed, ports[1] if ports else 0)]
    if not one_way and ends[0] > ends[1]:
        ends.reverse()
    data = b"\0\0" + ends[0][0] + ends[1][0] + struct.pack("!BB", protocol, 0)
    if ports:
        data += struct.pack("!HH", ends[0][1], ends[1][1])
    return "1:" + base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
