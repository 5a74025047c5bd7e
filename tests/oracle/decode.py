"""Frame to packet: link layer, VLAN tags, IPv4 and IPv6, transport header."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.oracle import tunnels
from tests.oracle.checksum import crc32c, internet_checksum

if TYPE_CHECKING:
    from tests.oracle.capture import Frame

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6 = 0, 43, 44, 51, 60, 135, 139, 140
ICMP_ERRORS = {ICMP: {3, 4, 5, 11, 12}, ICMPV6: {1, 2, 3, 4}}
EXTENSIONS = {HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6}

_IPV4, _IPV6 = 0x0800, 0x86DD

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_UNKNOWN: Address = ipaddress.IPv4Address(0)


class NoFlowError(Exception):
    """The frame has no IP packet that can be read."""


@dataclass
class Fragment:
    """The fragment fields of a packet that is a fragment."""

    identification: int
    offset: int
    more: bool


@dataclass
class Tcp:
    """The TCP header fields that metering uses."""

    sequence: int
    acknowledgement: int
    flags: int
    window: int
    maximum_segment_size: int | None


@dataclass
class Packet:
    """The inner-most IP packet of a frame."""

    frame: Frame
    version: int = 0
    protocol: int = 0
    source: Address = _UNKNOWN
    destination: Address = _UNKNOWN
    source_port: int = 0
    destination_port: int = 0
    source_mac: bytes | None = None
    destination_mac: bytes | None = None
    vlans: list[int] = field(default_factory=list)
    tunnels: list[str] = field(default_factory=list)
    tunnel_id: int | None = None
    ttl: int = 0
    ip_length: int = 0
    payload_length: int = 0
    fragment: Fragment | None = None
    tcp: Tcp | None = None
    icmp: tuple[int, int] | None = None
    quoted: Packet | None = None
    """What an ICMP error quotes."""
    bad_checksum: bool = False


def decode(frame: Frame) -> Packet:
    """Read a frame; :class:`NoFlowError` where it carries no IP."""
    packet = Packet(frame)
    data = frame.data
    try:
        kind, start = _link(packet, data)
        if kind < 0x0600 and data[start : start + 6] == b"\xaa\xaa\x03\x00\x00\x00":
            (kind,) = struct.unpack_from("!H", data, start + 6)
            start += 8
        found = tunnels.by_type(kind, data, start, [], None)
        if found is None:
            raise NoFlowError
        packet.tunnels, packet.tunnel_id, packet.vlans, start = found
        _ip(packet, data, start, frame.wire_length - start)
    except (struct.error, IndexError) as error:
        raise NoFlowError from error
    return packet


def _link(packet: Packet, data: bytes) -> tuple[int, int]:
    """EtherType and where its payload starts."""
    link_type = packet.frame.link_type
    if link_type == 1:
        packet.destination_mac, packet.source_mac = data[:6], data[6:12]
        return struct.unpack_from("!H", data, 12)[0], 14
    if link_type == 113:
        _, device, length, address, kind = struct.unpack_from("!HHH8sH", data)
        start = 16
    elif link_type == 276:
        kind, _, _, device, _, length, address = struct.unpack_from("!HHIHBB8s", data)
        start = 20
    elif link_type in (12, 14, 101, 228, 229):
        return {4: _IPV4, 6: _IPV6}.get(data[0] >> 4, 0), 0
    elif link_type in (0, 108):  # BSD loopback: a family that differs by system, but the IP version tells
        return {4: _IPV4, 6: _IPV6}.get(data[4] >> 4, 0), 4
    else:
        raise NoFlowError
    if length == 6 and device in (1, 772):
        packet.source_mac = address[:6]
    return kind, start


def _ip(packet: Packet, data: bytes, start: int, room: int) -> None:
    """The IP packet at `start`, for which the frame has `room` bytes on the wire."""
    version = data[start] >> 4
    if version == 4:
        _ipv4(packet, data, start, room)
    elif version == 6:
        _ipv6(packet, data, start, room)
    else:
        raise NoFlowError


def _ipv4(packet: Packet, data: bytes, start: int, room: int) -> None:
    (first, _, total, identification, fragment, ttl, protocol, _, source, destination) = struct.unpack_from(
        "!BBHHHBBH4s4s", data, start
    )
    header = (first & 0x0F) * 4
    if header < 20:
        raise NoFlowError
    length = total or room
    packet.version, packet.protocol, packet.ttl, packet.ip_length = 4, protocol, ttl, length
    packet.source, packet.destination = ipaddress.IPv4Address(source), ipaddress.IPv4Address(destination)
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    packet.fragment = Fragment(identification, offset, more) if offset or more else None
    captured = data[start : start + length]
    if len(captured) >= header and internet_checksum(captured[:header]) != 0:
        packet.bad_checksum = True
    body, left = captured[header:], length - header
    if protocol == AUTHENTICATION and packet.fragment is None and len(body) >= 8:  # RFC 4302 §2.2
        packet.protocol, size = body[0], (body[1] + 2) * 4
        body, left = body[size:], left - size
    _transport(packet, body, left, source + destination)


def _ipv6(packet: Packet, data: bytes, start: int, room: int) -> None:
    _, payload, following, hops, source, destination = struct.unpack_from("!IHBB16s16s", data, start)
    length = payload + 40 if payload else room
    packet.version, packet.ttl, packet.ip_length, packet.fragment = 6, hops, length, None
    packet.source, packet.destination = ipaddress.IPv6Address(source), ipaddress.IPv6Address(destination)
    body = data[start + 40 : start + length]
    left = length - 40
    while following in EXTENSIONS or following == FRAGMENT:
        if len(body) < 8:
            break
        if following == FRAGMENT:
            field_, identification = struct.unpack_from("!HI", body, 2)
            offset, more = field_ & 0xFFF8, bool(field_ & 1)
            if offset or more:
                packet.fragment = Fragment(identification, offset, more)
            size = 8
        else:
            size = (body[1] + 2) * 4 if following == AUTHENTICATION else (body[1] + 1) * 8
        if following == ROUTING and body[3] > 0:
            destination = b""  # the pseudo header has the final destination, which is in the routing header
        following, body, left = body[0], body[size:], left - size
        if packet.fragment is not None and packet.fragment.offset > 0:
            break
    packet.protocol = following
    _transport(packet, body, left, source + destination if destination else b"")


def _transport(packet: Packet, body: bytes, length: int, addresses: bytes) -> None:
    """`body` is what was captured of `length` bytes."""
    packet.payload_length = max(length, 0)
    whole = packet.fragment is None and len(body) == length
    if packet.fragment is not None and packet.fragment.offset > 0:
        return
    if packet.fragment is None and _open_tunnel(packet, body, length):
        return
    if packet.protocol in (TCP, UDP, SCTP) and len(body) >= 4:
        packet.source_port, packet.destination_port = struct.unpack_from("!HH", body)
    if packet.protocol == TCP and len(body) >= 20:
        _tcp(packet, body, length)
    elif packet.protocol == UDP and len(body) >= 8:
        (stated,) = struct.unpack_from("!H", body, 4)
        packet.payload_length = max(min(stated or length, length) - 8, 0) if stated >= 8 or not stated else 0
    elif packet.protocol == SCTP and len(body) >= 12:
        packet.payload_length = length - 12
    elif packet.protocol in (ICMP, ICMPV6) and len(body) >= 2:
        packet.icmp = (body[0], body[1])
        packet.payload_length = max(length - 8, 0)
        packet.quoted = _quoted(packet, body)
    if whole and addresses:
        packet.bad_checksum |= _wrong_checksum(packet, body, addresses)


def _open_tunnel(packet: Packet, body: bytes, length: int) -> bool:
    """Replace the packet by the one that is inside it, if there is one."""
    found = tunnels.inside(packet.protocol, body, length)
    if found is None:
        return False
    names, identifier, vlans, start = found
    inner = Packet(
        packet.frame,
        vlans=[*packet.vlans, *vlans],
        tunnels=[*packet.tunnels, *names],
        tunnel_id=identifier,
        source_mac=packet.source_mac,
        destination_mac=packet.destination_mac,
    )
    try:
        _ip(inner, body, start, length - start)
    except (NoFlowError, struct.error, IndexError):
        return False
    packet.__dict__.update(inner.__dict__)
    return True


def _quoted(error: Packet, body: bytes) -> Packet | None:
    """The packet that an ICMP error quotes, if its flow can be told: RFC 792, RFC 4443 §3."""
    packet, quoted = Packet(error.frame), body[8:]
    if body[0] not in ICMP_ERRORS[error.protocol]:
        return None
    try:
        if quoted[0] >> 4 != error.version:
            return None
        _ip(packet, quoted, 0, len(quoted))
    except (NoFlowError, struct.error, IndexError):
        return None
    return None if packet.fragment is not None and packet.fragment.offset > 0 else packet


def _tcp(packet: Packet, body: bytes, length: int) -> None:
    sequence, acknowledgement, offset_flags, window = struct.unpack_from("!IIHH", body, 4)
    header = (offset_flags >> 12) * 4
    if header < 20 or header > length:
        packet.payload_length = 0
        return
    packet.tcp = Tcp(sequence, acknowledgement, offset_flags & 0x01FF, window, _segment_size(body[20:header]))
    packet.payload_length = length - header


def _segment_size(options: bytes) -> int | None:
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == 0:
            return None
        if kind == 1:
            position += 1
            continue
        if position + 1 >= len(options) or options[position + 1] < 2:
            return None
        if kind == 2 and options[position + 1] == 4 and position + 4 <= len(options):
            return int.from_bytes(options[position + 2 : position + 4], "big")
        position += options[position + 1]
    return None


def _wrong_checksum(packet: Packet, body: bytes, addresses: bytes) -> bool:
    if packet.protocol == SCTP:
        return len(body) >= 12 and crc32c(body[:8] + bytes(4) + body[12:]) != int.from_bytes(body[8:12], "little")
    if packet.protocol == ICMP:
        return len(body) >= 8 and internet_checksum(body) != 0
    if packet.protocol not in (TCP, UDP, ICMPV6) or len(body) < 8:
        return False
    if packet.protocol == UDP:
        stated = int.from_bytes(body[4:6], "big")
        if packet.version == 4 and body[6:8] == b"\0\0":
            return False  # RFC 768: the sender made none
        if stated > len(body) or 0 < stated < 8:
            return False
        body = body[: stated or len(body)]
    pseudo = addresses + struct.pack("!II", len(body), packet.protocol)
    return internet_checksum(pseudo + body) != 0
