"""From an IP packet to the one inside it: the encapsulations of the corpus, each by the figure of its standard."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_IP_IN_IP, _IPV6_IN_IP, _UDP, _GRE, _L2TP, _MPLS_IN_IP = 4, 41, 17, 47, 115, 137
_TYPES_OF_IP = (0x0800, 0x86DD)
_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)

Found = tuple[list[str], int | None, list[int], int]
"""Names of the encapsulations, identifier of the inner-most, VLAN ids, and where the IP packet begins."""


def inside(protocol: int, body: bytes, length: int) -> Found | None:
    """What is inside a packet with this body, of which there are `length` bytes on the wire."""
    read = _PROTOCOLS.get(protocol)
    if read is None or not body:
        return None
    try:
        found = read(body)
        # A port and a header are a hint: the packet inside must fit.
        if found is not None and protocol == _UDP and not _fits(body, found[3], length):
            return None
    except (struct.error, IndexError):
        return None
    return found


def _fits(body: bytes, start: int, length: int) -> bool:
    version = body[start] >> 4
    if version == 4:
        (total,) = struct.unpack_from("!H", body, start + 2)
    else:
        total = struct.unpack_from("!H", body, start + 4)[0] + 40
    return start + total <= length


def _ethernet(body: bytes, start: int, names: list[str], identifier: int | None) -> Found | None:
    """An Ethernet frame with VLAN tags and service instances (IEEE 802.1ah)."""
    (kind,) = struct.unpack_from("!H", body, start + 12)
    return by_type(kind, body, start + 14, names, identifier)


def by_type(kind: int, body: bytes, start: int, names: list[str], identifier: int | None) -> Found | None:
    """What an EtherType announces, behind VLAN tags."""
    vlans: list[int] = []
    while kind in _VLAN_TYPES:
        tag, kind = struct.unpack_from("!HH", body, start)
        vlans.append(tag & 0x0FFF)
        start += 4
    found: Found | None = None
    if kind in _TYPES_OF_IP:
        found = names, identifier, [], start
    elif kind == 0x8847:
        found = _mpls(body, start, names)
    elif kind == 0x6558:
        found = _ethernet(body, start, names, identifier)
    elif kind == 0x8864:  # RFC 2516
        found = _ppp(body, start + 6, [*names, "pppoe"], struct.unpack_from("!H", body, start + 2)[0])
    elif kind == 0x88E7:  # IEEE 802.1ah
        found = _ethernet(body, start + 4, [*names, "pbb"], int.from_bytes(body[start + 1 : start + 4], "big"))
    elif kind == 0x880B:
        found = _ppp(body, start, names, identifier)
    return None if found is None else (found[0], found[1], [*vlans, *found[2]], found[3])


def _ppp(body: bytes, start: int, names: list[str], identifier: int | None) -> Found | None:
    if body[start : start + 2] == b"\xff\x03":
        start += 2
    (protocol,) = struct.unpack_from("!H", body, start)
    return (names, identifier, [], start + 2) if protocol in (0x0021, 0x0057) else None


def _mpls(body: bytes, start: int, names: list[str]) -> Found | None:
    """RFC 3032: labels to the bottom of the stack; then IP, or a pseudowire with or without control word (RFC 4448)."""
    while True:
        (entry,) = struct.unpack_from("!I", body, start)
        start += 4
        if entry & 0x100:
            break
    names, label = [*names, "mpls"], entry >> 12
    if body[start] >> 4 in (4, 6):
        return names, label, [], start
    for gap in (0, 4):
        (kind,) = struct.unpack_from("!H", body, start + gap + 12)
        if kind in (*_TYPES_OF_IP, *_VLAN_TYPES):
            return _ethernet(body, start + gap, names, label)
    return None


def _gre(body: bytes) -> Found | None:
    """RFC 2784 and 2890; RFC 2637 for version 1."""
    flags, kind = struct.unpack_from("!HH", body)
    start = 8 if flags & 0x8000 else 4
    key = None
    if flags & 0x2000:
        (key,) = struct.unpack_from("!I", body, start)
        start += 4
    start += 4 if flags & 0x1000 else 0
    if flags & 7 == 1:
        start += 4 if flags & 0x0080 else 0
        return _ppp(body, start, ["pptp"], None if key is None else key & 0xFFFF)
    if kind in (0x88BE, 0x22EB):
        return _erspan(body, start, kind, sequence=bool(flags & 0x1000))
    if kind == 0x883E:
        return ["wccp"], key, [], start + (0 if body[start] >> 4 == 4 else 4)
    # RFC 7637: a key alone, whose upper 24 bits are a virtual subnet that is not reserved.
    if kind == 0x6558 and flags == 0x2000 and key is not None and 0x1000 <= key >> 8 <= 0xFFFFFE:
        return _ethernet(body, start, ["nvgre"], key >> 8)
    return by_type(kind, body, start, ["gre"], key)


def _erspan(body: bytes, start: int, kind: int, *, sequence: bool) -> Found | None:
    if kind == 0x88BE and not sequence:
        return _ethernet(body, start, ["erspan"], None)
    session = struct.unpack_from("!I", body, start)[0] & 0x03FF
    header = 8
    if kind == 0x22EB:
        header = 20 if struct.unpack_from("!I", body, start + 8)[0] & 1 else 12
    return _ethernet(body, start + header, ["erspan"], session)


def _l2tp_v3(body: bytes, start: int) -> Found | None:
    (session,) = struct.unpack_from("!I", body, start)
    for gap in (4, 0, 8, 12, 16):
        frame = start + 4 + gap
        if body[frame + 12 : frame + 14] in (b"\x08\x00", b"\x86\xdd", b"\x81\x00") and session:
            return _ethernet(body, frame, ["l2tp"], session)
    return None


def _udp(body: bytes) -> Found | None:
    source, destination = struct.unpack_from("!HH", body)
    for port in (destination, source):
        if port in _PORTS:
            return _PORTS[port](body)
    return None


def _vxlan(body: bytes) -> Found | None:
    return _ethernet(body, 16, ["vxlan"], int.from_bytes(body[12:15], "big")) if body[8] == 0x08 else None


def _vxlan_gpe(body: bytes) -> Found | None:
    identifier = int.from_bytes(body[12:15], "big")
    if body[8] & 0xFC != 0x0C:
        return None
    return _ethernet(body, 16, ["vxlan"], identifier) if body[11] == 3 else (["vxlan"], identifier, [], 16)


def _geneve(body: bytes) -> Found | None:
    (kind,) = struct.unpack_from("!H", body, 10)
    return by_type(kind, body, 16 + (body[8] & 0x3F) * 4, ["geneve"], int.from_bytes(body[12:15], "big"))


def _gtp_u(body: bytes) -> Found | None:
    flags, message, _, identifier = struct.unpack_from("!BBHI", body, 8)
    if flags >> 4 != 3 or message != 255:
        return None
    start = 16
    if flags & 7:
        following = body[19] if flags & 4 else 0
        start = 20
        while following:
            size = body[start] * 4
            following = body[start + size - 1]
            start += size
    return ["gtpu"], identifier, [], start


def _teredo(body: bytes) -> Found | None:
    start = 8
    if body[start : start + 2] == b"\0\1":
        start += 13 + body[start + 2] + body[start + 3]
    if body[start : start + 2] == b"\0\0":
        start += 8
    return (["teredo"], None, [], start) if body[start] >> 4 == 6 else None


def _l2tp(body: bytes) -> Found | None:
    (flags,) = struct.unpack_from("!H", body, 8)
    if flags & 0x8000:
        return None
    if flags & 0x000F == 3:
        return _l2tp_v3(body, 12)
    start = 12 if flags & 0x4000 else 10
    (identifier,) = struct.unpack_from("!I", body, start)
    start += 4 + (4 if flags & 0x0800 else 0)
    if flags & 0x0200:
        start += 2 + struct.unpack_from("!H", body, start)[0]
    return _ppp(body, start, ["l2tp"], identifier)


def _lisp(body: bytes) -> Found | None:
    return ["lisp"], struct.unpack_from("!I", body, 12)[0] >> 8 if body[8] & 0x08 else None, [], 16


def _capwap(body: bytes) -> Found | None:
    if body[8] != 0 or body[10] & 1 or body[11] & 0x88:
        return None
    return _ethernet(body, 8 + (body[9] >> 3) * 4, ["capwap"], None)


def _tzsp(body: bytes) -> Found | None:
    start = 12
    while body[start] != 1:
        start += 1 if body[start] == 0 else 2 + body[start + 1]
    return _ethernet(body, start + 1, ["tzsp"], None)


_PROTOCOLS: dict[int, Callable[[bytes], Found | None]] = {
    _IP_IN_IP: lambda _: (["ipip"], None, [], 0),
    _IPV6_IN_IP: lambda _: (["ipip"], None, [], 0),
    _UDP: _udp,
    _GRE: _gre,
    _L2TP: lambda body: _l2tp_v3(body, 0),
    _MPLS_IN_IP: lambda body: _mpls(body, 0, []),
}

_PORTS: dict[int, Callable[[bytes], Found | None]] = {
    1701: _l2tp,
    2152: _gtp_u,
    3544: _teredo,
    4341: _lisp,
    4789: _vxlan,
    4790: _vxlan_gpe,
    5247: _capwap,
    6081: _geneve,
    6635: lambda body: _mpls(body, 8, []),
    8472: _vxlan,
    37008: _tzsp,
}
