"""IP fragments: each to the flow of its datagram, whose ports only the first fragment has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.oracle.decode import Packet

TIMEOUT = 30_000_000_000
"""How long the fragments of a datagram are kept together, in nanoseconds of the clock."""
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


def _part(first: Packet, packet: Packet, ready: list[Packet]) -> tuple[int, int] | None:
    """What the segment of which `first` is the first fragment gains by those that are counted now."""
    if first.tcp is None or first.fragment is None or packet.fragment is None:
        return None
    if not first.tcp.flags & (ACK | SYN | RST):
        return None  # Nobody takes the segment.
    fragments = [one.fragment for one in ready if one.fragment is not None]
    start = first.fragment.length if packet is first else packet.fragment.offset
    end = max(fragment.offset + fragment.length for fragment in fragments)
    if end <= start:
        return None
    header = first.fragment.length - first.payload_length
    origin = first.tcp.sequence + bool(first.tcp.flags & SYN) - header
    return (origin + start) % (1 << 32), (origin + end + bool(first.tcp.flags & FIN)) % (1 << 32)


@dataclass
class _Datagram:
    deadline: int
    first: Packet | None = None
    waiting: list[Packet] = field(default_factory=list)


class Fragments:
    """Datagrams of which fragments have come."""

    def __init__(self) -> None:
        """None so far."""
        self._datagrams: dict[tuple[object, ...], _Datagram] = {}

    def take(self, packet: Packet, clock: int) -> list[Packet]:
        """The packets that can be metered now, in order: those that waited for their first fragment stand before it."""
        fragment = packet.fragment
        if fragment is None:
            return [packet]
        # RFC 791 §3.2; RFC 8200 §4.5, where the protocol is not among them: later fragments need not name it.
        protocol = packet.protocol if packet.version == 4 else None
        key = (packet.source, packet.destination, protocol, fragment.identification)
        known = self._datagrams.get(key)
        if known is not None and fragment.offset == 0 and known.first is not None:
            ports = (known.first.source_port, known.first.destination_port)
            if ports != (packet.source_port, packet.destination_port):
                del self._datagrams[key]  # The identification is used again.
        datagram = self._datagrams.setdefault(key, _Datagram(clock + TIMEOUT))
        if fragment.offset == 0:
            datagram.first = packet
            ready = [*datagram.waiting, packet]
            datagram.waiting = []
        elif datagram.first is None:
            datagram.waiting.append(packet)
            return []
        else:
            ready = [packet]
        packet.part = _part(datagram.first, packet, ready)
        for one in ready:
            one.protocol = datagram.first.protocol
            one.source_port, one.destination_port = datagram.first.source_port, datagram.first.destination_port
        return ready

    def give_up(self, clock: int | None) -> list[tuple[int, list[Packet]]]:
        """Forget the datagrams whose time is up (all, without a clock): when it was, and what waited in vain."""
        due = [
            (datagram.deadline, key)
            for key, datagram in self._datagrams.items()
            if clock is None or clock > datagram.deadline
        ]
        return [(deadline, self._datagrams.pop(key).waiting) for deadline, key in sorted(due, key=lambda one: one[0])]
