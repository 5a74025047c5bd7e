"""Writing captures in every dialect of pcap and pcapng, and reading back the plain ones that the testbed wrote.

Formats: https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/ and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ETHERNET = 1
ByteOrder = Literal["<", ">"]

_MICROSECOND_MAGIC = 0xA1B2C3D4
_NANOSECOND_MAGIC = 0xA1B23C4D


@dataclass(frozen=True)
class Record:
    """One captured frame."""

    time_ns: int
    """UTC nanoseconds."""
    data: bytes
    """What was captured."""
    wire_length: int
    """Length on the wire in bytes."""
    interface: int = 0
    """Index of its interface (pcapng)."""

    def cut(self, snaplen: int) -> Record:
        """The record as a capture with this snap length holds it."""
        return Record(self.time_ns, self.data[:snaplen], self.wire_length, self.interface)


@dataclass(frozen=True)
class Interface:
    """A pcapng interface description."""

    link_type: int = ETHERNET
    snaplen: int = 0
    resolution: int = 6
    """if_tsresol: decimal exponent, or with the top bit set (0x80) a binary one."""
    offset_seconds: int = 0
    """if_tsoffset."""
    name: str = ""


def write_pcap(
    records: Iterable[Record],
    *,
    link_type: int = ETHERNET,
    snaplen: int = 262_144,
    order: ByteOrder = "<",
    nanoseconds: bool = False,
) -> bytes:
    """A pcap file. Timestamps are cut, not rounded, to the file's resolution."""
    magic, divisor = (_NANOSECOND_MAGIC, 1) if nanoseconds else (_MICROSECOND_MAGIC, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link_type)]
    for record in records:
        seconds, rest = divmod(record.time_ns, 1_000_000_000)
        parts.append(struct.pack(order + "IIII", seconds, rest // divisor, len(record.data), record.wire_length))
        parts.append(record.data)
    return b"".join(parts)


def read_frames(data: bytes) -> tuple[int, list[Record]]:
    """Link type and records of a whole, undamaged pcap file of either byte order and resolution."""
    orders: tuple[ByteOrder, ...] = ("<", ">")
    for order in orders:
        (magic,) = struct.unpack_from(order + "I", data)
        if magic in (_MICROSECOND_MAGIC, _NANOSECOND_MAGIC):
            break
    else:
        raise ValueError("not a pcap file")
    factor = 1 if magic == _NANOSECOND_MAGIC else 1000
    (link_type,) = struct.unpack_from(order + "I", data, 20)
    records = []
    position = 24
    while position < len(data):
        seconds, fraction, captured, wire = struct.unpack_from(order + "IIII", data, position)
        position += 16
        records.append(Record(seconds * 1_000_000_000 + fraction * factor, data[position : position + captured], wire))
        position += captured
    return link_type, records


def _block(order: ByteOrder, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def _option(order: ByteOrder, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section_header(order: ByteOrder = "<") -> bytes:
    """A section header block of unknown section length."""
    return _block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface_description(interface: Interface, order: ByteOrder = "<") -> bytes:
    """An interface description block."""
    options = b""
    if interface.name:
        options += _option(order, 2, interface.name.encode())
    if interface.resolution != 6:
        options += _option(order, 9, bytes([interface.resolution]))
    if interface.offset_seconds:
        options += _option(order, 14, struct.pack(order + "q", interface.offset_seconds))
    if options:
        options += _option(order, 0, b"")
    return _block(order, 1, struct.pack(order + "HHI", interface.link_type, 0, interface.snaplen) + options)


def enhanced_packet(record: Record, interface: Interface, order: ByteOrder = "<") -> bytes:
    """An enhanced packet block of that interface."""
    time = record.time_ns - interface.offset_seconds * 1_000_000_000
    if interface.resolution & 0x80:
        ticks = (time << (interface.resolution & 0x7F)) // 1_000_000_000
    else:
        ticks = time * 10**interface.resolution // 1_000_000_000
    captured = len(record.data)
    head = struct.pack(order + "IIIII", record.interface, ticks >> 32, ticks & 0xFFFFFFFF, captured, record.wire_length)
    return _block(order, 6, head + record.data)


def write_pcapng(sections: Sequence[tuple[Sequence[Interface], Sequence[Record]]], *, order: ByteOrder = "<") -> bytes:
    """A pcapng file of sections, each with its interfaces and records."""
    parts = []
    for interfaces, records in sections:
        parts.append(section_header(order))
        parts += [interface_description(interface, order) for interface in interfaces]
        parts += [enhanced_packet(record, interfaces[record.interface], order) for record in records]
    return b"".join(parts)
