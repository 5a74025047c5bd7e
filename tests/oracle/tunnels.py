"""From an IP packet to the one inside it: each encapsulation by the figure of its standard.

A port and a header in UDP are a hint: the packet inside must fit, and its IPv4 header checksum must be right where the
header says little.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.oracle import link
from tests.oracle.link import NoFlowError, is_ethernet_at, u16, u32

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.oracle.link import Place, Way

    Reader = Callable[[bytes, int, Way], Place]


@dataclass
class Inside:
    """What an IP packet seems to have inside."""

    name: str | None
    """None where its own header, which is read next, tells the encapsulation."""
    identifier: int | None
    read: Reader
    start: int
    must_fit: bool = False
    must_have_checksum: bool = False


def inside(protocol: int, body: bytes) -> Inside | None:
    """What is inside a packet with this body."""
    read = _PROTOCOLS.get(protocol)
    if read is None:
        return None
    try:
        return read(body)
    except (struct.error, IndexError, NoFlowError):
        return None


_EITHER, _IPV4, _IPV6 = link.ip(0), link.ip(4), link.ip(6)


def _by_type(kind: int) -> Reader:
    return lambda body, start, way: link.by_type(kind, body, start, way)


def _in_ip(name: str | None, read: Reader, start: int = 0) -> Callable[[bytes], Inside | None]:
    return lambda _: Inside(name, None, read, start)


def _ether_ip(body: bytes) -> Inside | None:
    """RFC 3378 §3."""
    return Inside("etherip", None, link.ethernet, 2) if body[:2] == b"\x30\0" else None


def _pim(body: bytes) -> Inside | None:
    """RFC 7761 §4.9.3."""
    return Inside("pim_register", None, _EITHER, 8) if body[0] == 0x21 and len(body) >= 8 else None


def _gre(body: bytes) -> Inside | None:
    """RFC 2784 and 2890; RFC 2637 for version 1."""
    flags, kind = struct.unpack_from("!HH", body)
    if flags & 0x4000:
        return None
    start = 8 if flags & 0x8000 else 4
    key = None
    if flags & 0x2000:
        key = u32(body, start)
        start += 4
    start += 4 if flags & 0x1000 else 0
    if flags & 7 == 1:
        start += 4 if flags & 0x0080 else 0
        call = None if key is None else key & 0xFFFF
        if kind == 0x880B and flags & 0x1000:
            return Inside("pptp", call, link.ppp, start)
        if kind == 0x6400:
            return Inside("etherip", None if call is None else call >> 8 | (call & 0xFF) << 8, link.ethernet, start)
        return None
    if flags & 7:
        return None
    return _gre_version_0(body, start, flags, kind, key)


def _gre_version_0(body: bytes, start: int, flags: int, kind: int, key: int | None) -> Inside:
    if kind == 0x88BE and not flags & 0x1000:
        return Inside("erspan", key, link.ethernet, start)
    if kind in (0x88BE, 0x22EB):
        header = 8 if kind == 0x88BE else 20 if u32(body, start + 8) & 1 else 12
        # Type III tells what is inside: 2 is IP.
        is_ip = kind == 0x22EB and u32(body, start + 8) >> 10 & 0x1F == 2
        read = link.ip(0) if is_ip else link.ethernet
        return Inside("erspan", u32(body, start) & 0x03FF, read, start + header)
    if kind == 0x883E:
        return Inside("wccp", key, _IPV4, start + (0 if body[start] >> 4 == 4 else 4))
    # RFC 7637: a key alone, whose upper 24 bits are a virtual subnet that is not reserved.
    if kind == 0x6558 and flags & 0xB000 == 0x2000 and key is not None and 0x1000 <= key >> 8 <= 0xFFFFFE:
        return Inside("nvgre", key >> 8, link.ethernet, start)
    return Inside("gre", key, _by_type(kind), start)


def _l2tp_v3(body: bytes, start: int) -> Inside | None:
    """RFC 3931 §4.1: what stands between the session and the frame is agreed elsewhere."""
    session = u32(body, start)
    start += 4
    gaps = (4, 0, 8, 12, 16)
    if session == 0:
        return None
    for gap in gaps:
        if is_ethernet_at(body, start + gap):
            return Inside("l2tp", session, link.ethernet, start + gap, must_fit=True, must_have_checksum=True)
    heads: list[tuple[bytes, Reader]] = [
        (b"\xff\x03\0\x21", link.ppp),
        (b"\xff\x03\0\x57", link.ppp),
        (b"\x0f\0\x08\0", link.hdlc),
        (b"\x0f\0\x86\xdd", link.hdlc),
        (b"\x45", _IPV4),
        (b"\x60", _IPV6),
    ]
    for gap in gaps:
        for head, read in heads:
            if body.startswith(head, start + gap):
                return Inside("l2tp", session, read, start + gap, must_fit=True, must_have_checksum=True)
    return None


def _udp(body: bytes) -> Inside | None:
    source, destination, length = struct.unpack_from("!HHH", body)
    _ = u16(body, 6)
    read = _PORTS.get(destination) or _PORTS.get(source)
    if read is None:
        return None
    found = read(body, max(length - 8, 0))
    if found is not None:
        found.must_fit = True
    return found


def _vxlan(body: bytes, _: int) -> Inside | None:
    """RFC 7348 §5; also with the group policy extension."""
    flags, policy, group, identifier = struct.unpack_from("!BBHI", body, 8)
    if not flags & 8:
        return None
    reserved = identifier & 0xFF
    clean = reserved == 0 and (flags == 0x88 or (flags == 0x08 and not policy and not group))
    return Inside("vxlan", identifier >> 8, link.ethernet, 16, must_have_checksum=not clean)


def _vxlan_gpe(body: bytes, _: int) -> Inside | None:
    flags, reserved, following, identifier = struct.unpack_from("!BHBI", body, 8)
    read = {1: _IPV4, 2: _IPV6, 3: link.ethernet, 4: link.nsh, 5: link.mpls}.get(following)
    if flags & 0xFC != 0x0C or reserved or identifier & 0xFF or read is None:
        return None
    return Inside("vxlan", identifier >> 8, read, 16)


def _geneve(body: bytes, _: int) -> Inside | None:
    """RFC 8926 §3.4."""
    first, flags, kind, identifier = struct.unpack_from("!BBHI", body, 8)
    if first & 0xC0 or flags & 0x3F or identifier & 0xFF or kind < 0x0600:
        return None
    return Inside("geneve", identifier >> 8, _by_type(kind), 16 + (first & 0x3F) * 4)


def _gtp_u(body: bytes, datagram: int) -> Inside | None:
    """3GPP TS 29.281 §5."""
    flags, message, length, identifier = struct.unpack_from("!BBHI", body, 8)
    if flags >> 4 != 3 or message != 255 or length + 8 != datagram:
        return None
    start = 16
    if flags & 7:
        following = body[19] if flags & 4 else 0
        start = 20
        while following:
            size = body[start] * 4
            if size == 0:
                return None
            following = body[start + size - 1]
            start += size
    return Inside("gtpu", identifier, _EITHER, start)


def _gtp_v0(body: bytes, datagram: int) -> Inside | None:
    """GSM 09.60 §6."""
    flags, message, length, identifier = struct.unpack_from("!BBH8xQ", body, 8)
    if flags >> 4 != 1 or message != 255 or length + 20 != datagram:
        return None
    return Inside("gtpu", identifier, _EITHER, 28)


def _teredo(body: bytes, _: int) -> Inside | None:
    """RFC 4380 §5.1.1."""
    start = 8
    if body[start : start + 2] == b"\0\1":
        start += 13 + body[start + 2] + body[start + 3]
    if body[start : start + 2] == b"\0\0":
        start += 8
    return Inside("teredo", None, _IPV6, start)


def _l2tp(body: bytes, _: int) -> Inside | None:
    """RFC 2661 §3.1, RFC 3931 §4.1.2."""
    flags = u16(body, 8)
    if flags & 0x000F == 3:
        return _l2tp_v3(body, 12) if flags == 3 else None
    if flags & 0xB4FF != 2:
        return None
    start = 12 if flags & 0x4000 else 10
    identifier = u32(body, start)
    start += 8 if flags & 0x0800 else 4
    if flags & 0x0200:
        start += 2 + u16(body, start)
    return Inside("l2tp", identifier, link.ppp, start)


def _lisp(body: bytes, _: int) -> Inside | None:
    """RFC 9300 §5.1, draft-ietf-lisp-gpe §3."""
    flags, following, instance = struct.unpack_from("!B2xBI", body, 8)
    read: Reader | None = _EITHER
    if flags & 4:
        read = {1: _IPV4, 2: _IPV6, 3: link.ethernet, 4: link.nsh}.get(following)
    if read is None:
        return None
    return Inside("lisp", instance >> 8 if flags & 8 else None, read, 16, must_have_checksum=True)


def _capwap(body: bytes, _: int) -> Inside | None:
    """RFC 5415 §4.3."""
    preamble, length, binding, flags = struct.unpack_from("!BBBB", body, 8)
    words = length >> 3
    if preamble or words < 2 or flags & 0x88:
        return None
    read: Reader = link.ethernet
    if binding & 1:
        if binding >> 1 & 0x1F != 1:
            return None
        read = _wireless
    return Inside("capwap", None, read, 8 + words * 4)


def _wireless(body: bytes, start: int, way: Way) -> Place:
    return link.wireless(body, start, way, swapped=True)


def _gue(body: bytes, _: int) -> Inside | None:
    """draft-ietf-intarea-gue §3: version 0, or version 1, which is IP itself."""
    first, protocol = body[8], body[9]
    if first >> 4 in (4, 6):
        return Inside("gue", None, _EITHER, 8, must_have_checksum=True)
    read = {4: _IPV4, 41: _IPV6, 137: link.mpls, 143: link.ethernet}.get(protocol)
    if first > 0x1F or read is None:
        return None
    return Inside("gue", None, read, 8 + (first + 1) * 4, must_have_checksum=True)


def _tzsp(_: bytes, __: int) -> Inside | None:
    return Inside("tzsp", None, link.tzsp, 8)


def _mpls(_: bytes, __: int) -> Inside | None:
    return Inside(None, None, link.mpls, 8)


_PROTOCOLS: dict[int, Callable[[bytes], Inside | None]] = {
    4: _in_ip("ipip", _EITHER),
    41: _in_ip("ipip", _EITHER),
    94: _in_ip("ipip", _EITHER),
    17: _udp,
    47: _gre,
    97: _ether_ip,
    103: _pim,
    115: lambda body: _l2tp_v3(body, 0),
    137: _in_ip(None, link.mpls),
    143: _in_ip("etherip", link.ethernet),
}

_PORTS: dict[int, Callable[[bytes, int], Inside | None]] = {
    1701: _l2tp,
    2152: _gtp_u,
    3386: _gtp_v0,
    3544: _teredo,
    4341: _lisp,
    4789: _vxlan,
    4790: _vxlan_gpe,
    5247: _capwap,
    6080: _gue,
    6081: _geneve,
    6635: _mpls,
    8472: _vxlan,
    37008: _tzsp,
}
