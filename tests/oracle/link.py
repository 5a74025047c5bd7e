"""From the first byte of a frame to its IP packet: link types (tcpdump.org/linktypes.html), headers behind them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.oracle.checksum import internet_checksum

if TYPE_CHECKING:
    from collections.abc import Callable

Place = tuple[int, int]
"""Where the IP packet begins, and the version that it was announced as: 4, 6, or 0 for either."""

_VLAN_TYPES = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
_LEADS_TO_IP = (0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864)


class NoFlowError(Exception):
    """The frame has no IP packet that can be read."""


@dataclass
class Way:
    """What is passed on the way to the inner-most IP packet."""

    tunnels: list[str] = field(default_factory=list)
    tunnel_id: int | None = None
    vlans: list[int] = field(default_factory=list)
    source_mac: bytes | None = None
    destination_mac: bytes | None = None

    def copy(self) -> Way:
        """The same way, to go on from."""
        return replace(self, tunnels=[*self.tunnels], vlans=[*self.vlans])

    def enter(self, tunnel: str, identifier: int | None) -> None:
        """Pass an encapsulation."""
        self.tunnels.append(tunnel)
        self.tunnel_id = identifier

    def addresses(self, source: bytes, destination: bytes | None) -> None:
        """Pass a header with MAC addresses; those of the outer-most are kept."""
        if self.source_mac is None and not self.tunnels:
            self.source_mac, self.destination_mac = source, destination


def u16(data: bytes, at: int) -> int:
    """A big-endian number."""
    return int(struct.unpack_from("!H", data, at)[0])


def u32(data: bytes, at: int) -> int:
    """A big-endian number."""
    return int(struct.unpack_from("!I", data, at)[0])


def first(link_type: int, data: bytes, start: int, way: Way) -> Place:
    """A frame of this link type."""
    read = LINK_TYPES.get(link_type)
    if read is None:
        raise NoFlowError
    return read(data, start, way)


def ip(version: int, skip: int = 0) -> Callable[[bytes, int, Way], Place]:
    """An IP packet of this version behind so many bytes."""
    return lambda _, start, __: (start + skip, version)


def behind(skip: int, read: Callable[[bytes, int, Way], Place]) -> Callable[[bytes, int, Way], Place]:
    """Another header behind so many bytes."""
    return lambda data, start, way: read(data, start + skip, way)


def ethernet(data: bytes, start: int, way: Way) -> Place:
    """Ethernet II, IEEE 802.3, or Cisco's inter-switch link."""
    kind = u16(data, start + 12)
    way.addresses(data[start + 6 : start + 12], data[start : start + 6])
    if kind < 0x0600 and data[start : start + 5] in (b"\x01\0\x0c\0\0", b"\x03\0\x0c\0\0"):
        if data[start + 5] >> 4:
            raise NoFlowError
        way.vlans.append(u16(data, start + 20) >> 1 & 0x0FFF)
        return ethernet(data, start + 26, way)
    return type_or_length(kind, data, start + 14, way)


def type_or_length(kind: int, data: bytes, start: int, way: Way) -> Place:
    """What stands behind the addresses."""
    return by_type(kind, data, start, way) if kind >= 0x0600 else llc(data, start, way)


def by_type(kind: int, data: bytes, start: int, way: Way) -> Place:
    """What an EtherType announces."""
    if kind in _VLAN_TYPES:
        way.vlans.append(u16(data, start) & 0x0FFF)
        return type_or_length(u16(data, start + 2), data, start + 4, way)
    read = _ETHER_TYPES.get(kind)
    if read is None:
        raise NoFlowError
    return read(data, start, way)


def tagged(size: int) -> Callable[[bytes, int, Way], Place]:
    """A tag of so many bytes, then another type."""
    return lambda data, start, way: type_or_length(u16(data, start + size), data, start + size + 2, way)


def _pppoe(data: bytes, start: int, way: Way) -> Place:
    """RFC 2516 §4: session data."""
    if u16(data, start) != 0x1100:
        raise NoFlowError
    way.enter("pppoe", u16(data, start + 2))
    return ppp(data, start + 6, way)


def _pbb(data: bytes, start: int, way: Way) -> Place:
    way.enter("pbb", u32(data, start) & 0xFFFFFF)
    return ethernet(data, start + 4, way)


def _macsec(data: bytes, start: int, way: Way) -> Place:
    """IEEE 802.1AE §9.3: readable where nothing is encrypted or changed."""
    control = data[start]
    if control & 0x0C:
        raise NoFlowError
    return tagged(14 if control & 0x20 else 6)(data, start, way)


def _trill(data: bytes, start: int, way: Way) -> Place:
    return ethernet(data, start + 6 + (u16(data, start) >> 6 & 0x1F) * 4, way)


def nsh(data: bytes, start: int, way: Way) -> Place:
    """RFC 8300 §2.2."""
    read = {1: ip(4), 2: ip(6), 3: ethernet, 5: mpls}.get(data[start + 3])
    if read is None:
        raise NoFlowError
    return read(data, start + max((u16(data, start) & 0x3F) * 4, 4), way)


def llc(data: bytes, start: int, way: Way) -> Place:
    """IEEE 802.2, with SNAP or with IP itself."""
    head = data[start : start + 3]
    if head == b"\x06\x06\x03":
        return start + 3, 4
    if head != b"\xaa\xaa\x03":
        raise NoFlowError
    owner, kind = data[start + 3 : start + 6], u16(data, start + 6)
    if owner in (b"\0\0\0", b"\0\0\xf8"):
        return by_type(kind, data, start + 8, way)
    if owner == b"\0\x80\xc2" and kind in (1, 7):  # RFC 2684 §5.2
        return ethernet(data, start + 10, way)
    raise NoFlowError


def mpls(data: bytes, start: int, way: Way) -> Place:
    """RFC 3032: labels to the bottom of the stack; then IP, or a pseudowire with or without control word (RFC 4448)."""
    while not u32(data, start) & 0x100:
        start += 4
    way.enter("mpls", u32(data, start) >> 12)
    start += 4
    nibble = data[start] >> 4
    if nibble in (4, 6) and not _is_ethernet_in_place_of_ip(data[start:]):
        return start, nibble
    if nibble == 1:  # RFC 4385 §5
        raise NoFlowError
    plain = is_ethernet_at(data, start)
    if nibble == 0 and not plain and (is_ethernet_at(data, start + 4) or data[start : start + 2] == b"\0\0"):
        start += 4
    return ethernet(data, start, way)


def _is_ethernet_in_place_of_ip(data: bytes) -> bool:
    """RFC 8469: whether an IP packet stands behind an Ethernet header and ends behind what reading IP here gives."""
    ends = [start + length for start in (14, 18) if (length := _packet_length(data[start:]))]
    return is_ethernet_at(data, 0) and bool(ends) and ends[0] > _packet_length(data)


def _packet_length(data: bytes) -> int:
    """Of the IP packet there, if it ends within the data and its checksum, in version 4, is right; else 0."""
    version = data[0] >> 4 if data else 0
    if version == 6 and len(data) >= 40:
        length = u16(data, 4) + 40 if u16(data, 4) or data[6] == 59 else 0
        return length if length <= len(data) else 0
    header = (data[0] & 0x0F) * 4 if version == 4 else 0
    if not 20 <= header <= len(data) or not header <= u16(data, 2) <= len(data):
        return 0
    return u16(data, 2) if internet_checksum(data[:header]) == 0 else 0


def is_ethernet_at(data: bytes, start: int) -> bool:
    """Whether an Ethernet header that leads to IP stands there."""
    return len(data) >= start + 14 and u16(data, start + 12) in _LEADS_TO_IP


def ppp(data: bytes, start: int, way: Way) -> Place:
    """RFC 1661 §2, RFC 1662 §3.1."""
    if data[start] == 0xFF:
        start += 2
    if data[start] & 1:
        protocol, start = data[start], start + 1
    else:
        protocol, start = u16(data, start), start + 2
    if protocol == 0x0031:  # RFC 3518 §4.2
        flags, kind = data[start], data[start + 1]
        if kind != 1:
            raise NoFlowError
        return ethernet(data, start + (6 if flags & 0x40 else 2), way)
    read = {0x0021: ip(4), 0x0057: ip(6), 0x0281: mpls, 0x0283: mpls}.get(protocol)
    if read is None:
        raise NoFlowError
    return read(data, start, way)


def hdlc(data: bytes, start: int, way: Way) -> Place:
    """Cisco HDLC."""
    return by_type(u16(data, start + 2), data, start + 4, way)


def _ppp_or_hdlc(data: bytes, start: int, way: Way) -> Place:
    return (hdlc if data[start] in (0x0F, 0x8F) else ppp)(data, start, way)


def frame_relay(data: bytes, start: int, way: Way) -> Place:
    """RFC 2427, or Cisco's encapsulation."""
    end = next((at + 1 for at in range(start, start + 4) if data[at] & 1), None)
    if end is None:
        raise NoFlowError
    if data[end] != 3:
        return by_type(u16(data, end), data, end + 2, way)
    at = end + 2 if data[end + 1] == 0 else end + 1
    identifier = data[at]
    if identifier == 0x80:
        owner, kind = data[at + 1 : at + 4], u16(data, at + 4)
        if owner == b"\0\0\0":
            return by_type(kind, data, at + 6, way)
        if owner == b"\0\x80\xc2" and kind in (1, 7):
            return ethernet(data, at + 6, way)
    if identifier not in (0xCC, 0x8E):
        raise NoFlowError
    return at + 1, 4 if identifier == 0xCC else 6


def _null(data: bytes, start: int, way: Way) -> Place:
    """The address family is in the byte order of the writer, and a small number."""
    family = u32(data, start)
    if family > 0xFFFF:
        (family,) = struct.unpack_from("<I", data, start)
    return _family(family)(data, start + 4, way)


def _family(family: int) -> Callable[[bytes, int, Way], Place]:
    if family == 2:
        return ip(4)
    if family in (10, 23, 24, 26, 28, 30):
        return ip(6)
    raise NoFlowError


def _cooked(data: bytes, start: int, way: Way) -> Place:
    _, device, length, address, kind = struct.unpack_from("!HHH8sH", data, start)
    return _by_device(device, length, address, kind)(data, start + 16, way)


def _cooked_2(data: bytes, start: int, way: Way) -> Place:
    kind, _, _, device, _, length, address = struct.unpack_from("!HHIHBB8s", data, start)
    return _by_device(device, length, address, kind)(data, start + 20, way)


def _by_device(device: int, length: int, address: bytes, kind: int) -> Callable[[bytes, int, Way], Place]:
    def read(data: bytes, start: int, way: Way) -> Place:
        if length == 6 and device in (1, 772):
            way.addresses(address[:6], None)
        if device == 824:
            raise NoFlowError
        if device == 803:
            return _radiotap(data, start, way)
        return llc(data, start, way) if kind == 4 else by_type(kind, data, start, way)

    return read


def wireless(data: bytes, start: int, way: Way, *, padded: bool = False, swapped: bool = False) -> Place:
    """IEEE 802.11-2020 §9.3.2: a data frame that is not encrypted; `swapped`: perhaps with big-endian fields."""
    control, flags = data[start], data[start + 1]
    swapped = swapped and control & 0x0F != 0x08
    if swapped:
        control, flags = flags, control
    subtype = control >> 4
    if control & 0x0F != 0x08 or subtype & 4 or flags & 0x40:
        raise NoFlowError
    one, two, three = (data[start + at : start + at + 6] for at in (4, 10, 16))
    sequence = u16(data, start + 22)
    if sequence & (0x000F if swapped else 0x0F00):
        raise NoFlowError
    size = 24
    destination, source = {0: (one, two), 1: (three, two), 2: (one, three)}.get(flags & 3, (three, b""))
    if flags & 3 == 3:
        source, size = data[start + 24 : start + 30], 30
    way.addresses(source, destination)
    aggregate = False
    if subtype & 8:
        aggregate = bool(data[start + size] & 0x80)
        size += 6 if flags & 0x80 else 2
    if padded:
        size += size & 2
    return llc(data, start + size + (14 if aggregate else 0), way)


def _radiotap(data: bytes, start: int, way: Way) -> Place:
    """https://www.radiotap.org: the flags field may say that the header behind is padded."""
    (length,) = struct.unpack_from("<H", data, start + 2)
    if length < 4 or len(data) < start + length:
        raise NoFlowError
    return wireless(data, start + length, way, padded=bool(_radiotap_flags(data[start : start + length]) & 0x20))


def _radiotap_flags(header: bytes) -> int:
    try:
        (present,) = struct.unpack_from("<I", header, 4)
        at = 8
        while header[at - 1] & 0x80:
            at += 4
            _ = header[at - 1]
        if not present & 2:
            return 0
        return header[at + at % 8 + 8 if present & 1 else at]
    except (struct.error, IndexError):
        return 0


def _prism(data: bytes, start: int, way: Way) -> Place:
    size = u32(data, start + 4) if u32(data, start) & 0xFFFFF000 == 0x80211000 else 144
    if size < 8:
        raise NoFlowError
    return wireless(data, start + size, way)


def _ppi(data: bytes, start: int, way: Way) -> Place:
    length, link_type = struct.unpack_from("<HI", data, start + 2)
    if length < 8:
        raise NoFlowError
    return first(link_type, data, start + length, way)


def tzsp(data: bytes, start: int, way: Way) -> Place:
    """Tazmen Sniffer Protocol, version 1: received and transmitted packets."""
    if data[start] != 1 or data[start + 1] > 1:
        raise NoFlowError
    read = {1: ethernet, 18: wireless, 119: _prism, 127: _prism}.get(u16(data, start + 2))
    start += 4
    while data[start] != 1:
        start += 1 if data[start] == 0 else 2 + data[start + 1]
    if read is None:
        raise NoFlowError
    return read(data, start + 1, way)


def _arcnet(addresses: int) -> Callable[[bytes, int, Way], Place]:
    """RFC 1051 and RFC 1201."""

    def read(data: bytes, start: int, _: Way) -> Place:
        start += addresses
        code, start = data[start], start + 1
        if code == 0xF0:
            return start, 4
        if code not in (0xD4, 0xC4):
            raise NoFlowError
        if data[start] == 0xFF:
            start += 4
        if data[start] and not data[start] & 1:
            raise NoFlowError
        return start + 3, 4 if code == 0xD4 else 6

    return read


def _sun_atm(data: bytes, start: int, way: Way) -> Place:
    kind = data[start] & 0x0F
    if kind == 1:
        return ethernet(data, start + 6, way)
    if kind == 2:
        return llc(data, start + 4, way)
    raise NoFlowError


def _token_ring(data: bytes, start: int, way: Way) -> Place:
    destination, source = data[start + 2 : start + 8], bytearray(data[start + 8 : start + 14])
    if data[start + 1] & 0xC0 != 0x40 or len(source) < 6:
        raise NoFlowError
    routed = source[0] & 0x80
    source[0] &= 0x7F
    way.addresses(bytes(source), destination)
    return llc(data, start + 14 + (max(data[start + 14] & 0x1F, 1) if routed else 0), way)


def _fddi(data: bytes, start: int, way: Way) -> Place:
    way.addresses(data[start + 7 : start + 13], data[start + 1 : start + 7])
    return llc(data, start + 13, way)


def _fibre_channel(data: bytes, start: int, way: Way) -> Place:
    """RFC 2625 §3.3."""
    way.addresses(data[start + 10 : start + 16], data[start + 2 : start + 8])
    return llc(data, start + 16, way)


def _firewall_log(data: bytes, start: int, _: Way) -> Place:
    return start + max((data[start] + 3) // 4 * 4, 1), 0


def _nflog(data: bytes, start: int, way: Way) -> Place:
    family, start = data[start], start + 4
    while True:
        length, kind = struct.unpack_from("<HH", data, start)
        if kind & 0x7FFF == 9:
            return _family(family)(data, start + 4, way)
        if length < 4:
            raise NoFlowError
        start += (length + 3) // 4 * 4


def _pktap(data: bytes, start: int, way: Way) -> Place:
    length, _, link_type = struct.unpack_from("<III", data, start)
    if length < 12:
        raise NoFlowError
    return first(link_type, data, start + length, way)


def _endace(data: bytes, start: int, way: Way) -> Place:
    kind, start = data[start + 8], start + 16
    more = kind & 0x80
    while more:
        more, start = data[start] & 0x80, start + 8
    kind &= 0x7F
    if kind in (1, 10, 15):
        return _ppp_or_hdlc(data, start, way)
    if kind in (2, 11, 20):
        return ethernet(data, start + 2, way)
    if kind in (22, 23):
        return start, 4 if kind == 22 else 6
    raise NoFlowError


def _juniper(read: Callable[[bytes, int, Way], Place]) -> Callable[[bytes, int, Way], Place]:
    def juniper(data: bytes, start: int, way: Way) -> Place:
        if data[start : start + 3] != b"MGC":
            raise NoFlowError
        flags, start = data[start + 3], start + 4
        if flags & 0x80:
            start += 2 + u16(data, start)
        return (start, 0) if flags & 2 else read(data, start, way)

    return juniper


def _switch_tag(size: int, *, extended: bool) -> Callable[[bytes, int, Way], Place]:
    """A tag of so many bytes behind the addresses, the last four of which may say that there are four more."""

    def read(data: bytes, start: int, way: Way) -> Place:
        way.addresses(data[start + 6 : start + 12], data[start : start + 6])
        end = start + 12 + size
        return tagged(4 if extended and data[end - 2] & 0x10 else 0)(data, end, way)

    return read


def _preamble(data: bytes, start: int, way: Way) -> Place:
    """IEEE 802.3br §99.3: a frame that comes in one piece."""
    if data[start + 7] != 0xD5:
        raise NoFlowError
    return ethernet(data, start + 8, way)


def _docsis(data: bytes, start: int, way: Way) -> Place:
    control, extended = data[start], data[start + 1]
    if control & 0xFE:
        raise NoFlowError
    return ethernet(data, start + 6 + (extended if control & 1 else 0), way)


_ETHER_TYPES: dict[int, Callable[[bytes, int, Way], Place]] = {
    0x0800: ip(4), 0x86DD: ip(6), 0x8847: mpls, 0x8848: mpls, 0x8864: _pppoe, 0x880B: ppp, 0x6558: ethernet,
    0x88E7: _pbb, 0x893F: tagged(6), 0x8926: tagged(4), 0x892F: tagged(4), 0x8903: behind(2, ethernet),
    0x88E5: _macsec, 0x894F: nsh, 0x22F3: _trill,
}  # fmt: skip


def _infiniband(data: bytes, start: int, way: Way) -> Place:
    """RFC 4391 §6: 40 bytes for the global routing header, an EtherType, two reserved bytes."""
    return by_type(u16(data, start + 40), data, start + 44, way)


LINK_TYPES: dict[int, Callable[[bytes, int, Way], Place]] = {
    0: _null, 1: ethernet, 6: _token_ring, 7: _arcnet(2), 8: ip(0, 16), 9: _ppp_or_hdlc, 10: _fddi, 12: ip(0),
    14: ip(0), 50: _ppp_or_hdlc, 51: _pppoe, 100: llc, 101: ip(0), 104: hdlc, 105: wireless, 106: ip(0),
    107: frame_relay, 108: _null, 109: ip(0, 12), 113: _cooked, 117: _firewall_log, 119: _prism, 122: _fibre_channel,
    123: _sun_atm, 127: _radiotap, 128: tzsp, 129: _arcnet(4), 138: tagged(16), 143: _docsis, 163: _prism,
    166: behind(2, ppp), 175: _endace, 176: _endace, 178: _juniper(ethernet), 179: _juniper(ppp),
    180: _juniper(frame_relay), 181: _juniper(hdlc), 192: _ppi, 197: _endace, 204: behind(1, _ppp_or_hdlc),
    205: behind(1, hdlc), 206: behind(1, frame_relay), 219: mpls, 226: ip(0, 24), 228: ip(4), 229: ip(6), 239: _nflog,
    240: behind(4, ethernet), 241: behind(4, _preamble), 242: _infiniband, 258: _pktap, 274: _preamble, 276: _cooked_2,
    281: _switch_tag(4, extended=False), 282: behind(4, ethernet), 284: _switch_tag(4, extended=True),
    285: _switch_tag(8, extended=True),
}  # fmt: skip
