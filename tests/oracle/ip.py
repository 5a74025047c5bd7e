"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers down to what they carry."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from tests.oracle.link import NoFlowError

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NOTHING, DESTINATION = 0, 43, 44, 51, 59, 60
MOBILITY, HOST_IDENTITY, SHIM6 = 135, 139, 140
_OWN_MESSAGE = {MOBILITY, HOST_IDENTITY, SHIM6}
_EXTENSIONS = {HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION} | _OWN_MESSAGE

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class Fragment:
    """The fragment fields of a packet that is a fragment."""

    identification: int
    offset: int
    length: int
    """Of what it carries of the datagram, on the wire."""
    more: bool


@dataclass
class Network:
    """An IP packet."""

    version: int
    source: Address
    destination: Address
    ttl: int
    protocol: int
    """Of the last header of the chain."""
    length: int
    """Of the whole packet on the wire."""
    stated: bool
    """Whether the header says it."""
    header: bytes
    """With options; of IPv4 only."""
    body: bytes
    """What was captured of what is behind the headers."""
    body_length: int
    fragment: Fragment | None = None
    cut: bool = False
    """Whether an extension header is not there in full."""
    addresses_final: bool = True
    """Whether the transport's checksum covers these addresses."""

    def pass_extensions(self) -> None:
        """Go behind the extension headers."""
        for _ in range(16):
            known = self.protocol == AUTHENTICATION or (self.version == 6 and self.protocol in _EXTENSIONS)
            if not known or (self.fragment is not None and self.fragment.offset):
                return
            if len(self.body) < 2:
                self.cut = True
                return
            following, size = self.body[0], (self.body[1] + 1) * 8
            if self.protocol == FRAGMENT:
                size = 8
            elif self.protocol == AUTHENTICATION:  # RFC 4302 §2.2
                size = (self.body[1] + 2) * 4
            if len(self.body) < size:
                self.cut = True
                return
            if self.protocol in _OWN_MESSAGE and following == NOTHING:
                return
            self._take_note()
            self.protocol, self.body = following, self.body[size:]
            self.body_length = max(self.body_length - size, 0)

    def _take_note(self) -> None:
        """What the extension header at the start of the body says."""
        if self.protocol == FRAGMENT:
            field, identification = struct.unpack_from("!HI", self.body, 2)
            if field & 0xFFF9:  # else RFC 6946
                self.fragment = Fragment(identification, field & 0xFFF8, max(self.body_length - 8, 0), bool(field & 1))
        elif self.protocol == ROUTING:
            self.addresses_final &= self.body[3] == 0
        elif self.protocol == DESTINATION:  # may hold the home address that replaces the source: RFC 6275 §6.3
            self.addresses_final = False


def parse(announced: int, data: bytes, start: int, room: int) -> Network:
    """The packet at `start`, for which there are `room` bytes on the wire."""
    version = data[start] >> 4
    if version not in (4, 6) or announced not in (0, version):
        raise NoFlowError
    return (_ipv4 if version == 4 else _ipv6)(data[start:], room)


def _ipv4(data: bytes, room: int) -> Network:
    first, _, total, identification, field, ttl, protocol, _, source, destination = struct.unpack_from(
        "!BBHHHBBH4s4s", data
    )
    header = (first & 0x0F) * 4
    length = total or max(room, header)
    captured = data[:length]
    if header < 20 or length < header or len(captured) < header:
        raise NoFlowError
    offset, more = (field & 0x1FFF) * 8, bool(field & 0x2000)
    network = Network(
        4,
        ipaddress.IPv4Address(source),
        ipaddress.IPv4Address(destination),
        ttl,
        protocol,
        length,
        bool(total),
        captured[:header],
        captured[header:],
        length - header,
        Fragment(identification, offset, length - header, more) if offset or more else None,
        addresses_final=not _source_routed(captured[20:header]),
    )
    if protocol == AUTHENTICATION:
        network.pass_extensions()
    return network


def _source_routed(options: bytes) -> bool:
    """RFC 791 §3.1: a loose or strict source route."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] in (131, 137):
            return True
        if options[at] == 1:
            at += 1
        elif at + 1 < len(options):
            at += max(options[at + 1], 2)
        else:
            break
    return False


def _ipv6(data: bytes, room: int) -> Network:
    _, payload, following, hops, source, destination = struct.unpack_from("!IHBB16s16s", data)
    stated = payload
    if payload == 0 and following == HOP_BY_HOP:
        stated = _jumbo(data[40:]) or 0
    is_stated = stated != 0 or following == NOTHING
    length = stated if is_stated else max(room - 40, 0)
    network = Network(
        6,
        ipaddress.IPv6Address(source),
        ipaddress.IPv6Address(destination),
        hops,
        following,
        length + 40,
        is_stated,
        b"",
        data[40 : 40 + length],
        length,
    )
    network.pass_extensions()
    return network


def _jumbo(options: bytes) -> int | None:
    """The payload length of a jumbogram: RFC 2675 §2."""
    if len(options) < 2 or len(options) < (options[1] + 1) * 8:
        return None
    end, at = (options[1] + 1) * 8, 2
    while at < end:
        if options[at] == 0:
            at += 1
            continue
        if at + 1 >= end:
            return None
        kind, size = options[at], options[at + 1]
        if kind == 0xC2 and size == 4:
            return int.from_bytes(options[at + 2 : at + 6], "big") if at + 6 <= end else None
        at += 2 + size
    return None
