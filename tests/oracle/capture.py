"""Reading pcap and pcapng files: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_MAX_FRAME, _MAX_WIRE = 262_144, 1 << 28
"""A record that states more is damage."""

_RECORD_HEADERS = {0xA1B2C3D4: (16, 24, 20), 0xA1B23C4D: (16,), 0xA1B2CD34: (24, 28)}
"""Lengths of the records' headers by magic number, the usual one first: patched programs added fields and kept it."""

_SECTION_HEADER, _INTERFACE, _PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6


@dataclass(frozen=True)
class Frame:
    """A captured frame."""

    number: int
    time_ns: int
    link_type: int
    data: bytes
    wire_length: int


@dataclass
class _Interface:
    link_type: int
    snaplen: int
    ticks_per_second: int = 1_000_000
    offset_seconds: int = 0

    def time_ns(self, ticks: int) -> int:
        """Nanoseconds of a count of ticks, cut off below."""
        return self.offset_seconds * 1_000_000_000 + ticks * 1_000_000_000 // self.ticks_per_second


def read(path: Path) -> Iterator[Frame]:
    """Every frame of a capture file, in order.

    A truncated file ends where its last whole record ends; behind a damaged record of a pcap file the next one is
    searched for.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    records = _pcapng(data) if data[:4] == b"\x0a\x0d\x0d\x0a" else _pcap(data)
    for number, (time_ns, link_type, captured, wire_length) in enumerate(records, 1):
        yield Frame(number, time_ns, link_type, captured, wire_length)


def _pcap(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    for order in "<>":
        (magic,) = struct.unpack_from(order + "I", data)
        if magic in _RECORD_HEADERS:
            break
    else:
        raise ValueError("neither pcap nor pcapng")
    factor = 1 if magic == 0xA1B23C4D else 1000
    (link_type,) = struct.unpack_from(order + "I", data, 20)
    file = _Pcap(data, order, factor)
    file.header = file.header_length(_RECORD_HEADERS[magic])
    position: int | None = 24
    last = None
    while position is not None and position + 16 <= len(data):
        time_ns, captured, wire = file.record(position)
        if captured > _MAX_FRAME or wire >= _MAX_WIRE or (captured > wire and not file.goes_on(position)):
            position = file.search(position + 1, last)
            continue
        position += file.header
        if position + captured > len(data):
            return
        yield time_ns, link_type & 0xFFFF, data[position : position + captured], max(wire, captured)
        position += captured
        last = time_ns


@dataclass
class _Pcap:
    data: bytes
    order: str
    factor: int
    header: int = 16
    """Length of a record's header in bytes."""

    def header_length(self, lengths: tuple[int, ...]) -> int:
        """The first of these that leads from the first record to a second one; else the first."""
        usual, *others = lengths
        if len(self.data) < 40 or not self._plausible(24, None):
            return usual
        time_ns, captured, _ = self.record(24)

        def leads_on(length: int, near: int | None) -> bool:
            following = 24 + length + captured
            return following + 16 <= len(self.data) and self._plausible(following, near)

        if 24 + usual + captured + 16 > len(self.data) or leads_on(usual, None):
            return usual
        return next((length for length in others if leads_on(length, time_ns)), usual)

    def record(self, position: int) -> tuple[int, int, int]:
        """Time, captured length and length on the wire."""
        seconds, fraction, captured, wire = struct.unpack_from(self.order + "IIII", self.data, position)
        return seconds * _SECOND + fraction * self.factor, captured, wire

    def goes_on(self, position: int) -> bool:
        """Whether a record that states more bytes than its frame had leads to another record, or to the end.

        If not, or if its length on the wire does, its captured length is damaged.
        """
        time_ns, captured, wire = self.record(position)
        behind = position + self.header
        if behind + wire + 16 <= len(self.data) and self._plausible(behind + wire, time_ns):
            return False
        following = behind + captured
        if following + 16 > len(self.data):
            return True
        _, next_captured, next_wire = self.record(following)
        return next_captured <= _MAX_FRAME and next_wire < _MAX_WIRE

    def search(self, position: int, last: int | None) -> int | None:
        """The next record behind damage: one that looks like one and is followed by another, or by the end."""
        for start in range(position, len(self.data) - 16):
            if not self._plausible(start, last):
                continue
            time_ns, captured, _ = self.record(start)
            following = start + self.header + captured
            if following == len(self.data):
                return start
            if following + 16 <= len(self.data) and self._plausible(following, time_ns):
                return start
        return None

    def _plausible(self, position: int, near: int | None) -> bool:
        time_ns, captured, wire = self.record(position)
        _, fraction = struct.unpack_from(self.order + "II", self.data, position)
        return (
            0 < captured <= _MAX_FRAME
            and captured <= wire < _MAX_WIRE
            and fraction * self.factor < _SECOND
            and (near is None or abs(time_ns - near) <= _DAY)
        )


def _pcapng(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    interfaces: list[_Interface] = []
    order = "<"
    position = 0
    while position + 12 <= len(data):
        kind = data[position : position + 4]
        if kind == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[position + 8 : position + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        number, length = struct.unpack_from(order + "II", data, position)
        if length < 12 or position + length > len(data):
            return
        body = data[position + 8 : position + length - 4]
        position += length
        if number == _INTERFACE:
            interfaces.append(_interface(body, order))
        elif number == _ENHANCED_PACKET:
            index, high, low, captured, wire = struct.unpack_from(order + "IIIII", body)
            interface = interfaces[index]
            yield interface.time_ns(high << 32 | low), interface.link_type, body[20 : 20 + captured], wire
        elif number == _PACKET:
            index, _, high, low, captured, wire = struct.unpack_from(order + "HHIIII", body)
            interface = interfaces[index]
            yield interface.time_ns(high << 32 | low), interface.link_type, body[20 : 20 + captured], wire
        elif number == _SIMPLE_PACKET:
            (wire,) = struct.unpack_from(order + "I", body)
            interface = interfaces[0]
            captured = min(wire, interface.snaplen or wire)
            yield 0, interface.link_type, body[4 : 4 + captured], wire


def _interface(body: bytes, order: str) -> _Interface:
    link_type, _, snaplen = struct.unpack_from(order + "HHI", body)
    interface = _Interface(link_type, snaplen)
    position = 8
    while position + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, position)
        value = body[position + 4 : position + 4 + length]
        position += 4 + length + -length % 4
        if code == 0:
            break
        if code == 9:
            interface.ticks_per_second = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == 14:
            (interface.offset_seconds,) = struct.unpack(order + "q", value)
    return interface
