"""Packets to flow records (design §5): keys, direction, when a record ends, and what a record holds.

The *clock* is the greatest time stamp that any frame of the input has carried so far, frames without a flow included.
A time-out ends a record when the clock is beyond its moment; the record is exported at that moment. At the 256th frame
in a row that is further behind the clock than the idle time-out, everything ends and the clock begins anew there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.oracle.decode import NoFlowError, Packet, decode
from tests.oracle.fragments import Fragments
from tests.oracle.record import Observation, make_record
from tests.oracle.segments import Segments, is_keep_alive

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.oracle.capture import Frame

SECOND = 1_000_000_000
LINGER = 5 * SECOND
"""How long a connection waits for its last ACK, and how long an ended one is remembered."""

FRAMES_TO_BEGIN_ANEW = 256
"""So many frames in a row that are far behind make the clock begin anew."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

Endpoint = tuple[bytes, int]
Key = tuple[int, int, Endpoint, Endpoint]


def later(a: int, b: int) -> bool:
    """Whether sequence number a lies after b, modulo 2^32 (RFC 9293 §3.4)."""
    return 0 < (a - b) % (1 << 32) < (1 << 31)


@dataclass
class Side:
    """What a TCP connection's direction is known to have sent, over all its records."""

    next_sequence: int | None = None
    """The sequence number after the highest one seen."""
    fin: bool = False
    """Whether a FIN was seen."""
    fin_acknowledged: bool = False
    """Whether the other side has acknowledged all that was sent, the FIN with it."""
    initial_window: int | None = None
    """Of its first segment that is not a RST."""
    segment_size: int | None = None
    """The maximum segment size option of its SYN."""


@dataclass
class Handshake:
    """The times of the opening segments."""

    syn: int | None = None
    syn_ack: int | None = None
    server_round_trip: int | None = None
    client_round_trip: int | None = None


@dataclass
class Flow:
    """A flow that is being metered, or a tombstone of one that has ended."""

    key: Key
    initiator: Endpoint
    basis: str
    first: Packet
    initial_sequence: int | None
    """TCP: of the initiator's SYN, where the flow begins with it or with its answer."""
    interim: int = 0
    seen: list[Observation] = field(default_factory=list)
    """The packets of the present record."""
    behind: bool = False
    """Whether the present record began further behind the clock than the idle time-out."""
    last_clock: int = 0
    deadline: int | None = None
    """TCP: when both FINs are seen, the moment to end without the last ACK; for a tombstone its end."""
    tombstone: bool = False
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    handshake: Handshake = field(default_factory=Handshake)
    segments: Segments = field(default_factory=Segments)
    simultaneous: bool = False
    """TCP: both sides sent a SYN."""
    reset: bool = False
    """TCP: a RST ended the connection."""
    icmp: tuple[int, int] | None = None
    """ICMP: type and code of the initiator's first packet that shows them."""
    discarded_first: bool = False
    """Whether every receiver discards its first packet."""
    reused: bool = False
    """TCP: its SYN came for the ports of a connection that was still remembered."""
    scopes: set[tuple[Any, ...]] = field(default_factory=set)
    chosen: tuple[tuple[bytes, int], int | None] | None = None
    """Source and tunnel identifier of the first packet whose tunnel has another identifier each way."""
    icmp_errors: int = 0
    """ICMP errors that quote it, since its last record left."""

    @property
    def discarded_only(self) -> bool:
        """TCP: whether it began with a packet that every receiver discards, and only such ones came since."""
        heard = any(side.next_sequence is not None for side in self.sides)
        return self.discarded_first and not self.tombstone and not heard

    def add_scope(self, packet: Packet, source: tuple[bytes, int]) -> None:
        """Note the VLANs and tunnels of a packet."""
        tunnel_id = packet.tunnel_id
        if packet.tunnels and packet.tunnels[-1] in ("gtpu", "l2tp", "mpls", "pptp"):
            # Each direction chooses its own: it tells flows of the same direction apart only.
            self.chosen = self.chosen or (source, tunnel_id)
            tunnel_id = tunnel_id if source == self.chosen[0] else self.chosen[1]
        vlans = tuple(vlan for vlan in packet.vlans if vlan)  # Priority tags name none.
        self.scopes.add((vlans, tuple(packet.tunnels), tunnel_id))


@dataclass
class Ended:
    """A finished record and when it leaves."""

    export_time: int
    record: dict[str, Any]
    epoch: int = 0
    """How often the clock had begun anew."""

    @property
    def order(self) -> tuple[int, int]:
        """Its place among the records."""
        return self.epoch, self.export_time


class Meter:
    """Meters the frames of one input."""

    def __init__(
        self, idle_timeout: int = 300 * SECOND, active_timeout: int = 1800 * SECOND, *, full: bool = False
    ) -> None:
        """Both time-outs are in nanoseconds; with `full`, the columns of that profile too."""
        self.idle_timeout, self.active_timeout, self.full = idle_timeout, active_timeout, full
        self.clock: int | None = None
        self.epoch = 0
        self._late = 0
        self.ended: list[Ended] = []
        self._flows: dict[Key, Flow] = {}
        self._fragments = Fragments()
        self._next_due: int | None = None

    def run(self, frames: Iterable[Frame]) -> list[dict[str, Any]]:
        """Meter all frames to the end of the input, and return the records by export time."""
        for frame in frames:
            self.frame(frame)
        self.finish()
        self.ended.sort(key=lambda ended: ended.order)
        return [ended.record for ended in self.ended]

    def frame(self, frame: Frame) -> None:
        """Meter one frame."""
        late = self.clock is not None and self.clock - frame.time_ns > self.idle_timeout
        self._late = self._late + 1 if late else 0
        if self._late == FRAMES_TO_BEGIN_ANEW:
            self.finish()
            self.clock, self._next_due, self._late = None, None, 0
            self.epoch += 1
        self.clock = frame.time_ns if self.clock is None else max(self.clock, frame.time_ns)
        self._expire()
        try:
            packet = decode(frame)
        except NoFlowError:
            return
        for ready in self._fragments.take(packet, self.clock):
            self._packet(ready)

    def finish(self) -> None:
        """The input has ended."""
        if self.clock is None:
            return
        for _, packets in self._fragments.give_up(None):
            for packet in packets:
                self._packet(packet)
        for flow in list(self._flows.values()):
            closing = self._limit(flow)[1] if flow.deadline is not None else "forced_end"
            self._end(flow, closing, self.clock)
        self._flows.clear()

    # When records end

    def _limit(self, flow: Flow) -> tuple[int, str]:
        """The next moment at which something ends, and what."""
        if flow.deadline is not None:
            return flow.deadline, "straggler" if flow.tombstone else "end_of_flow"
        idle = flow.last_clock + self.idle_timeout
        if flow.seen and not flow.behind:
            active = flow.seen[0].time_ns + self.active_timeout
            if active < idle:
                return active, "active_timeout"
        return idle, "idle_timeout"

    def _expire(self) -> None:
        """End what is due, in the order of its moments; orphaned fragments are metered at theirs."""
        clock = self._now()
        for moment, packets in self._fragments.give_up(clock):
            self._expire_flows(moment)
            self.clock = moment
            for packet in packets:
                self._packet(packet)
        self.clock = clock
        self._expire_flows(clock)

    def _expire_flows(self, clock: int) -> None:
        if self._next_due is not None and clock <= self._next_due:
            return
        for key, flow in list(self._flows.items()):
            while True:
                moment, reason = self._limit(flow)
                if clock <= moment:
                    break
                self._end(flow, reason, moment)
                if reason == "active_timeout":
                    continue
                if reason == "end_of_flow":
                    self._bury(flow, moment)
                    continue
                del self._flows[key]
                break
        # Deadlines only move away but for FINs, which reset this.
        self._next_due = min((self._limit(flow)[0] for flow in self._flows.values()), default=None)

    def _end(self, flow: Flow, reason: str, moment: int) -> None:
        """Export the present record, if it has packets."""
        if flow.seen:
            self.ended.append(Ended(moment, make_record(flow, reason, full=self.full), self.epoch))
            flow.seen, flow.icmp_errors = [], 0
            flow.segments.cut()
            flow.interim += 1

    def _bury(self, flow: Flow, moment: int) -> None:
        """What still comes for the key is a straggler."""
        flow.tombstone = True
        flow.deadline = moment + LINGER
        self._next_due = None if self._next_due is None else min(self._next_due, flow.deadline)

    def _now(self) -> int:
        assert self.clock is not None
        return self.clock

    # Packets

    def _packet(self, packet: Packet) -> None:
        source = (packet.source.packed, packet.source_port)
        destination = (packet.destination.packed, packet.destination_port)
        key = self._key(packet)
        flow = self._flows.get(key)
        discarded = self._is_discarded(packet)
        if flow is not None and flow.deadline is None and self._idle_for(flow, packet) > self.idle_timeout:
            self._end(flow, "idle_timeout", min(flow.last_clock + self.idle_timeout, self._now()))
            flow = None
        reused = False
        if flow is not None and not discarded and self._replaces(flow, packet):
            reused = not flow.discarded_only
            self._end(flow, "straggler" if flow.tombstone else "end_of_flow", self._now())
            flow = None
        if flow is None:
            flow = self._flows[key] = self._open(key, packet, source, destination)
            flow.discarded_first, flow.reused = discarded, reused
        else:
            self._cut(flow, packet)
        forward = source == flow.initiator
        observation = Observation(packet, forward)
        if packet.tcp is not None and not discarded:
            self._tcp(flow, packet, observation)
        if packet.part is not None:
            flow.segments.go_on(packet.part, forward=forward)
            side = flow.sides[0 if forward else 1]
            if side.next_sequence is not None and later(packet.part[1], side.next_sequence):
                side.next_sequence = packet.part[1]
        flow.add_scope(packet, source)
        self._count(flow, observation)
        if packet.quoted is not None and (blamed := self._flows.get(self._key(packet.quoted))) is not None:
            blamed.icmp_errors += 1
        flow.last_clock = self._now()
        if packet.tcp is not None and not discarded and not flow.tombstone:
            self._close(flow, packet)
        moment = self._limit(flow)[0] if flow.seen or flow.deadline is not None else None
        if moment is not None:
            self._next_due = moment if self._next_due is None else min(self._next_due, moment)

    @staticmethod
    def _key(packet: Packet) -> Key:
        ends = ((packet.source.packed, packet.source_port), (packet.destination.packed, packet.destination_port))
        low, high = sorted(ends)
        return packet.version, packet.protocol, low, high

    @staticmethod
    def _is_discarded(packet: Packet) -> bool:
        """Whether every receiver discards a packet: it counts, and nothing else is made of it.

        A wrong checksum does not tell it: in a file it may have been left to hardware.
        """
        if packet.tcp is not None and not packet.tcp.flags & (ACK | SYN | RST):
            return True  # RFC 9293 §3.10.7
        return packet.bad_header and packet.fragment is None

    @staticmethod
    def _idle_for(flow: Flow, packet: Packet) -> int:
        """How much later than the present record's latest time stamp the packet is by its own."""
        return max((packet.frame.time_ns - max(one.time_ns for one in flow.seen)) if flow.seen else 0, 0)

    def _cut(self, flow: Flow, packet: Packet) -> None:
        """End a record that the packet, by its own time stamp, is too late for: the clock is another source's."""
        lasts = packet.frame.time_ns - flow.seen[0].time_ns if flow.seen else 0
        if flow.deadline is None and lasts > self.active_timeout:
            self._end(flow, "active_timeout", self._now())

    def _count(self, flow: Flow, observation: Observation) -> None:
        """Add a packet to the present record."""
        if observation.forward and flow.icmp is None:
            flow.icmp = observation.packet.icmp
        if not flow.seen:
            flow.behind = self._now() - observation.time_ns > self.idle_timeout
        flow.seen.append(observation)

    def _open(self, key: Key, packet: Packet, source: Endpoint, destination: Endpoint) -> Flow:
        tcp = packet.tcp
        if tcp is None or not tcp.flags & SYN:
            return Flow(key, source, "first_packet", packet, None)
        # A RST counts as a packet and for its flags, and is not looked at otherwise.
        told = not tcp.flags & RST
        if tcp.flags & ACK:
            answered = (tcp.acknowledgement - 1) % (1 << 32)
            return Flow(key, destination, "syn_ack", packet, answered if told else None)
        return Flow(key, source, "syn", packet, tcp.sequence if told else None)

    def _replaces(self, flow: Flow, packet: Packet) -> bool:
        """Whether a segment opens a new connection on the ports of one that is over, or may be."""
        if packet.tcp is None or packet.tcp.flags & (SYN | RST | FIN) != SYN:
            return False
        if flow.discarded_only:
            return True
        answered = (packet.tcp.acknowledgement - 1) % (1 << 32)
        if flow.reset and not packet.tcp.flags & ACK:
            return True
        initial = answered if packet.tcp.flags & ACK else packet.tcp.sequence
        if initial == flow.initial_sequence:
            return False
        finished = any(side.fin for side in flow.sides)
        answered_both = all(side.next_sequence is not None for side in flow.sides)
        silent = answered_both and self._now() - flow.last_clock > LINGER
        return flow.tombstone or finished or silent

    def _tcp(self, flow: Flow, packet: Packet, observation: Observation) -> None:
        """Sequence numbers and handshake times."""
        tcp = packet.tcp
        assert tcp is not None
        flow.segments.see(packet, forward=observation.forward)
        if tcp.flags & RST:
            return
        length = packet.payload_length + bool(tcp.flags & SYN) + bool(tcp.flags & FIN)
        end = (tcp.sequence + length) % (1 << 32)
        side, other = flow.sides if observation.forward else flow.sides[::-1]
        if side.next_sequence is None:
            side.next_sequence, side.initial_window = end, tcp.window
        elif length > 0:
            observation.out_of_order = later(tcp.sequence, side.next_sequence)
            below = not observation.out_of_order and not later(end, side.next_sequence)
            observation.retransmission = below and not is_keep_alive(packet, side.next_sequence)
            # In an open connection a SYN is answered and dropped: RFC 9293 §3.10.7.4.
            dropped = tcp.flags & SYN and other.next_sequence is not None
            if later(end, side.next_sequence) and not dropped:
                side.next_sequence = end
        if tcp.flags & SYN and tcp.maximum_segment_size:  # an option of 0 announces nothing
            side.segment_size = tcp.maximum_segment_size
        side.fin |= bool(tcp.flags & FIN)
        if tcp.flags & ACK and other.fin and other.next_sequence is not None:
            other.fin_acknowledged |= not later(other.next_sequence, tcp.acknowledgement)
        self._handshake(flow, packet, forward=observation.forward)

    @staticmethod
    def _handshake(flow: Flow, packet: Packet, *, forward: bool) -> None:
        """Round trips, where the flow begins with its SYN."""
        tcp, times, time = packet.tcp, flow.handshake, packet.frame.time_ns
        assert tcp is not None
        kind = tcp.flags & (SYN | ACK)
        if flow.basis != "syn":
            return
        if kind == SYN and forward and times.syn is None:
            times.syn = time
        elif kind == SYN and not forward and times.syn is not None and times.syn_ack is None:
            flow.simultaneous = True
        elif kind == SYN | ACK and not forward and times.syn is not None and times.syn_ack is None:
            times.syn_ack = time
            times.server_round_trip = max(time - times.syn, 0)
        elif kind == ACK and forward and times.syn_ack is not None and times.client_round_trip is None:
            times.client_round_trip = max(time - times.syn_ack, 0)

    def _close(self, flow: Flow, packet: Packet) -> None:
        """End a connection with its closing segment, or set the time to wait for it."""
        assert packet.tcp is not None
        if packet.tcp.flags & RST:
            self._end(flow, "reset", self._now())
            flow.reset = True
            self._bury(flow, self._now())
        elif all(side.fin and side.fin_acknowledged for side in flow.sides):
            self._end(flow, "end_of_flow", self._now())
            self._bury(flow, self._now())
        elif all(side.fin for side in flow.sides) and flow.deadline is None:
            flow.deadline = self._now() + LINGER
