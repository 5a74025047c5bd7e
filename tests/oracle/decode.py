"""Frame to packet: the inner-most IP packet and its transport header."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.oracle import ip, link, tunnels
from tests.oracle.checksum import crc32c, internet_checksum
from tests.oracle.ip import Address, Fragment, Network
from tests.oracle.link import NoFlowError, Way

if TYPE_CHECKING:
    from tests.oracle.capture import Frame

__all__ = ["ICMP", "ICMPV6", "SCTP", "TCP", "UDP", "Address", "Fragment", "NoFlowError", "Packet", "Tcp", "decode"]

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDP_LITE = 1, 6, 17, 33, 58, 132, 136
ICMP_ERRORS = {ICMP: {3, 4, 5, 11, 12}, ICMPV6: {1, 2, 3, 4}}

_MAX_TUNNELS, _TRACED = 8, 4
_UNKNOWN: Address = ipaddress.IPv4Address(0)


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
    payload: bytes = b""
    """What was captured of it."""
    fragment: Fragment | None = None
    tcp: Tcp | None = None
    icmp: tuple[int, int] | None = None
    quoted: Packet | None = None
    """What an ICMP error quotes."""
    part: tuple[int, int] | None = None
    """TCP: the sequence numbers that it, or fragments before it, add to the segment that its datagram is."""
    bad_header: bool = False
    """Whether a field of its transport header contradicts it, so that its receiver discards it."""
    bad_checksum: bool = False


def decode(frame: Frame) -> Packet:
    """Read a frame; :class:`NoFlowError` where it carries no IP."""
    way = Way()
    try:
        start, announced = link.first(frame.link_type, frame.data, 0, way)
        network = ip.parse(announced, frame.data, start, max(frame.wire_length - start, 0))
    except (struct.error, IndexError) as error:
        raise NoFlowError from error
    network, way = _inner_most(network, way)
    packet = _packet(frame, network)
    packet.source_mac, packet.destination_mac = way.source_mac, way.destination_mac
    packet.vlans, packet.tunnels, packet.tunnel_id = way.vlans[:_TRACED], way.tunnels[:_TRACED], way.tunnel_id
    packet.bad_checksum = (network.version == 4 and internet_checksum(network.header) != 0) or _wrong_checksum(network)
    return packet


def _inner_most(network: Network, way: Way) -> tuple[Network, Way]:
    for _ in range(_MAX_TUNNELS):
        if network.protocol == TCP or network.fragment is not None or network.cut:
            break
        found = tunnels.inside(network.protocol, network.body)
        if found is None:
            break
        further = way.copy()
        if found.name is not None:
            further.enter(found.name, found.identifier)
        try:
            start, announced = found.read(network.body, found.start, further)
            room = max(network.body_length - start, 0)
            inner = ip.parse(announced, network.body, start, room)
        except (struct.error, IndexError, NoFlowError):
            break
        # Where segmentation offload leaves no length, nothing can be compared.
        if found.must_fit and network.stated and (not inner.stated or inner.length > room):
            break
        if found.must_have_checksum and internet_checksum(inner.header) != 0xFFFF * (not inner.header):
            break
        network, way = inner, further
    return network, way


def _packet(frame: Frame, network: Network) -> Packet:
    packet = Packet(
        frame,
        network.version,
        network.protocol,
        network.source,
        network.destination,
        ttl=network.ttl,
        ip_length=network.length,
        payload_length=network.body_length,
        fragment=network.fragment,
    )
    if network.cut:
        packet.payload_length = 0
    elif network.fragment is None or network.fragment.offset == 0:
        _transport(packet, network.body, network.body_length)
    return packet


def _transport(packet: Packet, body: bytes, length: int) -> None:
    """`body` is what was captured of `length` bytes."""
    header = {TCP: 20, UDP: 8, DCCP: 12, SCTP: 12, UDP_LITE: 8, ICMP: 8, ICMPV6: 8}.get(packet.protocol, 0)
    packet.payload_length = max(length - header, 0)
    if packet.protocol in (TCP, UDP, DCCP, SCTP, UDP_LITE) and len(body) >= 4:
        packet.source_port, packet.destination_port = struct.unpack_from("!HH", body)
    if packet.protocol == TCP:
        _tcp(packet, body, length)
    elif packet.protocol == UDP and len(body) >= 8:
        (stated,) = struct.unpack_from("!H", body, 4)
        if 8 <= stated <= length:
            packet.payload_length = stated - 8
    elif packet.protocol == DCCP and len(body) >= 5:
        if 12 <= body[4] * 4 <= length:  # RFC 4340 §5.1
            packet.payload_length = length - body[4] * 4
    elif packet.protocol in (ICMP, ICMPV6) and len(body) >= 2:
        packet.icmp = (body[0], body[1])
        packet.quoted = _quoted(packet, body)
    start = 8 if packet.protocol == UDP else length - packet.payload_length
    packet.payload = body[start : start + packet.payload_length]


def _tcp(packet: Packet, body: bytes, length: int) -> None:
    if len(body) < 20:
        packet.bad_header = length < 20
        return
    sequence, acknowledgement, offset_flags, window = struct.unpack_from("!IIHH", body, 4)
    header = (offset_flags >> 12) * 4
    if header < 20 or header > length:
        packet.bad_header = True
        return
    options = body[20:header] if len(body) >= header else b""
    packet.tcp = Tcp(sequence, acknowledgement, offset_flags & 0x01FF, window, _segment_size(options))
    packet.payload_length = length - header


def _segment_size(options: bytes) -> int | None:
    """The last maximum segment size option: RFC 9293 §3.7.1."""
    position, found = 0, None
    while position < len(options):
        kind = options[position]
        if kind == 0:
            break
        if kind == 1:
            position += 1
            continue
        if position + 1 >= len(options) or options[position + 1] < 2:
            break
        size = options[position + 1]
        if kind == 2 and size == 4 and position + 4 <= len(options):
            found = int.from_bytes(options[position + 2 : position + 4], "big")
        position += size
    return found


def _quoted(error: Packet, body: bytes) -> Packet | None:
    """The packet that an ICMP error quotes, if its flow can be told: RFC 792, RFC 4443 §3."""
    if body[0] not in ICMP_ERRORS[error.protocol]:
        return None
    try:
        network = ip.parse(4 if error.protocol == ICMP else 6, body, 8, error.payload_length)
    except (NoFlowError, struct.error, IndexError):
        return None
    network, _ = _inner_most(network, Way())
    quoted = _packet(error.frame, network)
    return None if quoted.fragment is not None and quoted.fragment.offset > 0 else quoted


def _wrong_checksum(network: Network) -> bool:
    """Whether the transport's checksum can be told to be wrong."""
    body, protocol = network.body, network.protocol
    if network.fragment is not None or network.cut or len(body) != network.body_length:
        return False
    if protocol == SCTP:
        stated = int.from_bytes(body[8:12], "little")  # RFC 9653: 0 says nothing
        return len(body) >= 12 and stated != 0 and crc32c(body[:8] + bytes(4) + body[12:]) != stated
    if protocol == ICMP:
        return len(body) >= 4 and internet_checksum(body) != 0
    least = {TCP: 20, UDP: 8, ICMPV6: 4}.get(protocol)
    if least is None or len(body) < least or not network.addresses_final:
        return False
    if protocol == UDP:
        stated = int.from_bytes(body[4:6], "big")
        if body[6:8] == b"\0\0" or stated > len(body) or 0 < stated < 8:
            return False  # RFC 768 and 6936: the sender made none
        body = body[: stated or len(body)]
    addresses = network.source.packed + network.destination.packed
    return internet_checksum(addresses + struct.pack("!II", len(body), protocol) + body) != 0
