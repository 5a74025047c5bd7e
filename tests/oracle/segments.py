"""TCP segments, looked at one by one: what profile `full` counts of each direction.

The stream of a direction is a list of the ranges that are missing from it; every definition is that of the column of
its name (docs/reference/records.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.oracle.decode import Packet

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
COUNTS = ("duplicate_acks", "partial_acks", "zero_windows", "window_probes", "keep_alives", "missed_bytes")
MOST_GAPS = 4
MOST_WINDOW = 1 << 30


def distance(later: int, earlier: int) -> int:
    """How far a sequence number lies behind another one, modulo 2^32; negative if before."""
    return (later - earlier + (1 << 31)) % (1 << 32) - (1 << 31)


def is_keep_alive(packet: Packet, following: int | None) -> bool:
    """Whether a segment repeats the byte before the next expected number `following`, or claims to."""
    tcp = packet.tcp
    assert tcp is not None
    if following is None or tcp.flags & (FIN | SYN | RST) or packet.payload_length > 1:
        return False
    return distance(tcp.sequence, following) == -1


@dataclass
class Gap:
    """Sequence numbers that were passed over."""

    start: int
    size: int
    missed: bool


@dataclass
class Stream:
    """What one direction has sent, and what it has said of the other."""

    following: int | None = None
    """The next expected sequence number."""
    gaps: list[Gap] = field(default_factory=list)
    recover: int | None = None
    acknowledged: int | None = None
    """The highest acknowledgement number that it sent."""
    window: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def passed_over(self, until: int, *, missed: bool) -> None:
        """Nothing was seen between the next expected number and `until`."""
        assert self.following is not None
        gap = Gap(self.following, distance(until, self.following), missed)
        if gap.size >= MOST_WINDOW:
            return  # The numbers begin anew.
        self.counts["missed_bytes"] += gap.size * missed
        self.gaps = [*self.gaps, gap][-MOST_GAPS:]

    def move_to(self, following: int) -> None:
        """The stream goes on: what is missing further back than a window will not come."""
        self.following = following
        far = [gap for gap in self.gaps if (following - gap.start - gap.size) % (1 << 32) > MOST_WINDOW]
        self.counts["missed_bytes"] += sum(gap.size for gap in far if not gap.missed)
        self.gaps = [gap for gap in self.gaps if gap not in far]

    def came_late(self, start: int, end: int) -> None:
        """Take a range out of all gaps."""
        left: list[Gap] = []
        for gap in self.gaps:
            low = max(distance(start, gap.start), 0)
            high = min(distance(end, gap.start), gap.size)
            if low >= high:
                left.append(gap)
                continue
            if gap.missed:
                self.counts["missed_bytes"] = max(self.counts["missed_bytes"] - (high - low), 0)
            parts = [(gap.start, low), ((gap.start + high) % (1 << 32), gap.size - high)]
            left += [Gap(at, size, gap.missed) for at, size in parts if size]
        self.gaps = left[-MOST_GAPS:]

    def missing(self, *, before: int | None = None) -> None:
        """Gaps, those that end before a number or all, will not be filled."""
        for gap in self.gaps:
            if not gap.missed and (before is None or distance(before, gap.start) >= gap.size):
                gap.missed = True
                self.counts["missed_bytes"] += gap.size


@dataclass
class Segments:
    """Both directions of a connection."""

    forward: Stream = field(default_factory=Stream)
    reverse: Stream = field(default_factory=Stream)

    def see(self, packet: Packet, *, forward: bool) -> None:
        """Count a segment."""
        tcp = packet.tcp
        assert tcp is not None
        if tcp.flags & RST:
            return
        own, other = (self.forward, self.reverse) if forward else (self.reverse, self.forward)
        plain = not tcp.flags & (SYN | FIN)
        own.counts["zero_windows"] += plain and tcp.window == 0
        keeps_alive = is_keep_alive(packet, own.following)
        if keeps_alive:
            own.counts["keep_alives"] += 1
        else:
            self._data(own, other, packet)
        if tcp.flags & ACK:
            self._acknowledge(own, other, packet, pure=plain and not packet.payload_length and not keeps_alive)
            own.window = tcp.window

    def go_on(self, part: tuple[int, int], *, forward: bool) -> None:
        """Further fragments of a segment that was seen."""
        own = self.forward if forward else self.reverse
        start, end = part
        if own.following is None:
            return  # The first one was of a connection before this one, or a RST.
        if distance(start, own.following) > 0:
            own.passed_over(start, missed=False)
        else:
            own.came_late(start, end)
        if distance(end, own.following) > 0:
            own.move_to(end)

    @staticmethod
    def _data(own: Stream, other: Stream, packet: Packet) -> None:
        tcp = packet.tcp
        assert tcp is not None
        length = packet.payload_length + bool(tcp.flags & SYN) + bool(tcp.flags & FIN)
        end = (tcp.sequence + length) % (1 << 32)
        if own.following is None:
            own.following = end
            return
        if not length:
            return
        shut = other.acknowledged is not None and other.window == 0
        byte = packet.payload_length == 1 and not tcp.flags & (SYN | FIN)
        own.counts["window_probes"] += shut and byte and tcp.sequence == own.following
        again = distance(end, own.following) <= 0
        wanted = other.acknowledged is None or distance(end, other.acknowledged) > 0
        if again and wanted and own.recover is None:
            own.recover = own.following
        if distance(tcp.sequence, own.following) > 0:
            own.passed_over(tcp.sequence, missed=False)
        else:
            own.came_late(tcp.sequence, end)
        if distance(end, own.following) > 0:
            own.move_to(end)

    @staticmethod
    def _acknowledge(own: Stream, other: Stream, packet: Packet, *, pure: bool) -> None:
        tcp = packet.tcp
        assert tcp is not None
        number = tcp.acknowledgement
        if own.acknowledged is not None and distance(number, own.acknowledged) <= 0:
            outstanding = other.following is None or distance(other.following, number) > 0
            same = number == own.acknowledged and tcp.window == own.window
            own.counts["duplicate_acks"] += pure and outstanding and same
            return
        if other.following is not None and distance(number, other.following) > MOST_WINDOW:
            return
        own.acknowledged = number
        if other.recover is not None and distance(other.recover, number) > 0:
            own.counts["partial_acks"] += 1
        else:
            other.recover = None
        if other.following is None:
            other.following = number
            return
        other.missing(before=number)
        if distance(number, other.following) > 0:
            other.passed_over(number, missed=True)
            other.move_to(number)

    def columns(self) -> dict[str, int]:
        """The columns of the record that ends now."""
        for own, other in ((self.forward, self.reverse), (self.reverse, self.forward)):
            if other.acknowledged is None:
                own.missing()
        sides = (("fwd", self.forward), ("rev", self.reverse))
        return {f"tcp_{name}_{suffix}": side.counts[name] for suffix, side in sides for name in COUNTS}

    def cut(self) -> None:
        """The next record begins."""
        for side in (self.forward, self.reverse):
            side.counts = dict.fromkeys(COUNTS, 0)
