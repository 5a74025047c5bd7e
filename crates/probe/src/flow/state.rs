//! One flow's state: the hot part that every packet touches, and the cold part that begins and ends touch.

use wire::column::{Sink, Type, Value};
use wire::decode::{Fragment, Packet, Transport};
use wire::flowkey::{Direction, FlowKey};
use wire::l7::{Confidence, Protocol};

use super::LINGER_NS;
use super::disregard::Disregard;
use super::path::PathId;
use super::profile::LeftOut;
use super::statistics::{Arrivals, Sum96, Summary};

/// No entry of a pool.
pub const NO_ENTRY: u32 = u32::MAX;

/// A flow's share of the table in bytes, without layer-7 state and SPLT: state, timer, and its index buckets.
pub const FLOW_BYTES: usize =
    size_of::<Hot>() + size_of::<Cold>() + super::expiry::TIMER_BYTES + 4 * size_of::<u64>();

/// What told the initiator (column `direction_basis`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// It sent a SYN.
    Syn,
    /// A SYN-ACK was sent to it.
    SynAck,
    /// It sent the first packet.
    #[default]
    FirstPacket,
}

impl Basis {
    /// The value of the column.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::FirstPacket => "first_packet",
        }
    }
}

impl Value for Basis {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self.name());
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It takes packets.
    #[default]
    Open,
    /// TCP: both FINs were seen; it ends with the ACK of the second, or [`LINGER_NS`] after it.
    Lingering,
    /// TCP: it has ended and was exported. Its key stays for [`LINGER_NS`]; what comes is a straggler.
    Tombstone,
}

/// The two timeouts.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// See [`super::Settings::idle_timeout_ns`].
    pub idle: i64,
    /// See [`super::Settings::active_timeout_ns`].
    pub active: i64,
    /// The clock when they were set: what they make due before ends then, so that records leave in order.
    pub since: i64,
}

/// What is known of one direction of the present record. What packets of the other direction look at too stands first,
/// then what every profile counts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Side {
    /// Packets.
    pub packets: u64,
    /// Latest timestamp of its packets.
    pub latest: i64,
    /// TCP: the sequence number after the highest one seen.
    pub sequence_end: u32,
    /// TCP: union of the flags, and what else is known ([`Side::BEGUN`], …).
    marks: u16,
    /// Smallest TTL or hop limit.
    pub ttl_min: u8,
    /// Largest TTL or hop limit.
    pub ttl_max: u8,
    /// Timestamp of its first packet.
    pub first: i64,
    /// Sum of IP lengths in bytes.
    pub bytes: u64,
    /// Sum of frame lengths in bytes.
    pub wire_bytes: u64,
    /// Sum of transport payload lengths in bytes.
    pub payload_bytes: u64,
    /// TCP: see column `tcp_retransmissions_fwd`.
    pub retransmissions: u32,
    /// TCP: see column `tcp_out_of_order_fwd`.
    pub out_of_order: u32,
    /// Smallest IP length in bytes.
    length_min: u32,
    /// Largest IP length in bytes.
    length_max: u32,
    /// Squares of the IP lengths.
    length_squares: Sum96,
    /// Times between its packets.
    arrivals: Arrivals,
}

impl Side {
    /// How much of it packets of the other direction look at, in bytes.
    pub(super) const SHARED_BYTES: usize = std::mem::offset_of!(Self, first);
    /// The nine TCP flags (RFC 9293 §3.1, RFC 3540).
    const FLAGS: u16 = 0x01ff;
    /// TCP: its first segment was a SYN.
    pub const OPENED: u16 = 1 << 9;
    /// The flow's first packet was disregarded; of the initiator's side only.
    pub const DISREGARDED_FIRST: u16 = 1 << 10;
    /// The present record began so far behind the clock that the clock does not cut it; of the responder's side only.
    pub const BEHIND: u16 = 1 << 10;
    /// TCP: payload was seen, or numbers were passed over.
    pub const DATA: u16 = 1 << 11;
    /// TCP: a RST has ended the connection; of the initiator's side only.
    pub const RESET: u16 = 1 << 12;
    /// TCP: a segment was seen, so that `sequence_end` and the initial window are known.
    pub const BEGUN: u16 = 1 << 13;
    /// TCP: a FIN was seen.
    pub const FIN: u16 = 1 << 14;
    /// TCP: its FIN was acknowledged.
    pub const FIN_ACKNOWLEDGED: u16 = 1 << 15;

    /// TCP: where the stream starts, where its SYN was seen and nothing after it.
    #[inline]
    pub fn stream_start(&self) -> Option<u32> {
        (self.is(Self::OPENED) && !self.is(Self::DATA)).then_some(self.sequence_end)
    }

    /// Whether this is known.
    #[inline]
    pub const fn is(&self, mark: u16) -> bool {
        self.marks & mark != 0
    }

    /// From now on this is known.
    #[inline]
    pub const fn mark(&mut self, mark: u16) {
        self.marks |= mark;
    }

    /// Adds to the union of the TCP flags.
    #[inline]
    pub const fn add_flags(&mut self, flags: u16) {
        self.marks |= flags & Self::FLAGS;
    }

    /// Union of the TCP flags.
    pub const fn flags(&self) -> u16 {
        self.marks & Self::FLAGS
    }

    #[inline]
    fn add(&mut self, packet: &Packet<'_>, time: i64, wire_length: u32) {
        if self.packets == 0 {
            self.first = time;
            self.latest = time;
            self.ttl_min = packet.ttl;
        } else {
            self.latest = self.latest.max(time);
            self.ttl_min = self.ttl_min.min(packet.ttl);
        }
        self.packets += 1;
        self.bytes += u64::from(packet.ip_length);
        self.wire_bytes += u64::from(wire_length);
        self.payload_bytes += u64::from(packet.payload_length);
        self.ttl_max = self.ttl_max.max(packet.ttl);
    }

    /// Statistics of a packet that is not added yet.
    #[inline]
    fn observe(&mut self, packet: &Packet<'_>, time: i64) {
        if self.packets == 0 {
            self.length_min = packet.ip_length;
        } else {
            self.arrivals.observe(self.latest, time);
            self.length_min = self.length_min.min(packet.ip_length);
        }
        self.length_squares.add_square(u64::from(packet.ip_length));
        self.length_max = self.length_max.max(packet.ip_length);
    }

    /// Statistics of the IP lengths; `None` without packets.
    pub fn lengths(&self) -> Option<Summary> {
        (self.packets > 0).then(|| {
            let (min, max) = (u64::from(self.length_min), u64::from(self.length_max));
            Summary::new(
                self.packets,
                u128::from(self.bytes),
                self.length_squares.exact(),
                min,
                max,
            )
        })
    }

    /// Statistics of the times between packets; `None` below two packets.
    pub fn intervals(&self) -> Option<Summary> {
        self.arrivals.summary(self.packets, self.first, self.latest)
    }

    /// What stays when the record is cut: the state of the TCP connection, not the counts.
    fn cut(&self) -> Self {
        Self {
            sequence_end: self.sequence_end,
            marks: self.marks & !Self::FLAGS,
            ..Self::default()
        }
    }
}

/// What every packet touches: five cache lines, of which a packet needs four.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Hot {
    /// The key.
    pub key: FlowKey,
    /// The part of the key's hash that the index keeps.
    pub(super) tag: u32,
    /// Clock at the last packet; in other phases than `Open`, clock at the beginning of the phase.
    pub seen: i64,
    /// Entry in the pool of layer-7 states.
    pub layer7: u32,
    /// Entry in the pool of packet sequences.
    pub splt: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// What told the initiator.
    pub basis: Basis,
    /// Yes or no ([`Hot::INITIATOR_HIGH`], …).
    marks: u8,
    /// The work that was left out for some packet of the present record.
    pub left_out: LeftOut,
    /// Times between packets of both directions.
    arrivals: Arrivals,
    /// Forward and reverse.
    pub sides: [Side; 2],
}

/// How far a TCP handshake has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handshake {
    /// Not at all, or not from its beginning.
    #[default]
    Unseen,
    /// The SYN. `handshake_time` is its timestamp.
    Syn,
    /// The SYN-ACK. `handshake_time` is its timestamp; the server's round trip is known.
    SynAck,
    /// The ACK after it. `handshake_time` is the client's round trip.
    Complete,
}

/// What begins and ends touch.
#[derive(Clone, Debug)]
pub struct Cold {
    /// Column `flow_id`.
    pub flow_id: u64,
    /// See [`Handshake`].
    pub handshake_time: i64,
    /// Column `tcp_handshake_rtt_server_ns`.
    pub server_rtt: u64,
    /// TCP: sequence number of the initiator's SYN.
    pub initial_sequence: u32,
    /// TCP: window of the first segment of each direction.
    pub initial_windows: [u16; 2],
    /// TCP: maximum segment size option of each direction's SYN; 0 where there was none.
    pub maximum_segment_sizes: [u16; 2],
    /// Column `interim_number`.
    pub interim_number: u32,
    /// Entry in the pool of features.
    pub features: u32,
    /// Column `fragments`.
    pub fragments: u32,
    /// Column `checksum_errors`.
    pub checksum_errors: u32,
    /// Entry in the pool of TCP analyses.
    pub analysis: u32,
    /// MAC addresses, VLANs and tunnels of the first packet.
    pub path: PathId,
    /// How far the handshake has been seen.
    pub handshake: Handshake,
    /// ICMP: type and code of the initiator's first packet that shows them: a fragment that came before the first of its
    /// datagram does not.
    pub icmp: Option<[u8; 2]>,
    /// What layer 7 said, where its state is gone already.
    pub protocol: Option<(Protocol, Confidence)>,
}

impl Default for Cold {
    fn default() -> Self {
        Self {
            flow_id: 0,
            handshake_time: 0,
            server_rtt: 0,
            initial_sequence: 0,
            initial_windows: [0; 2],
            maximum_segment_sizes: [0; 2],
            interim_number: 0,
            features: NO_ENTRY,
            fragments: 0,
            checksum_errors: 0,
            analysis: NO_ENTRY,
            path: PathId::NONE,
            handshake: Handshake::default(),
            icmp: None,
            protocol: None,
        }
    }
}

/// A flow in the table.
#[derive(Debug)]
pub struct Flow<'a> {
    /// What every packet touches.
    pub hot: &'a mut Hot,
    /// What begins and ends touch.
    pub cold: &'a mut Cold,
}

impl Hot {
    /// The initiator is the key's higher endpoint.
    pub const INITIATOR_HIGH: u8 = 1;
    /// The first packet of the present record went in reverse.
    pub const REVERSE_FIRST: u8 = 1 << 1;
    /// The first packet had neither VLAN nor tunnel.
    pub const PLAIN: u8 = 1 << 2;
    /// Packets came with more than one set of VLAN or tunnel ids.
    pub const AMBIGUOUS: u8 = 1 << 3;
    /// TCP: the ACK that completes the handshake has not been seen yet.
    pub const AWAITS_ACK: u8 = 1 << 5;
    /// Layer 7 wants no more of the flow.
    pub const LAYER7_OVER: u8 = 1 << 4;
    /// TCP: column `tcp_simultaneous_open`.
    pub const SIMULTANEOUS_OPEN: u8 = 1 << 6;
    /// TCP: column `tcp_ports_reused`.
    pub const PORTS_REUSED: u8 = 1 << 7;

    pub(super) fn new(key: FlowKey, tag: u32) -> Self {
        Self {
            key,
            tag,
            seen: i64::MIN,
            layer7: NO_ENTRY,
            splt: NO_ENTRY,
            phase: Phase::default(),
            basis: Basis::default(),
            marks: 0,
            left_out: LeftOut::default(),
            arrivals: Arrivals::default(),
            sides: [Side::default(); 2],
        }
    }

    /// Whether this is so.
    #[inline]
    pub const fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Says whether this is so.
    #[inline]
    pub fn mark(&mut self, mark: u8, is_so: bool) {
        self.marks = self.marks & !mark | if is_so { mark } else { 0 };
    }

    /// Says whether the present record, of which this is the first packet, begins behind the clock.
    #[inline]
    pub fn begin_record(&mut self, behind: bool) {
        let side = &mut self.sides[1];
        side.marks = side.marks & !Side::BEHIND | if behind { Side::BEHIND } else { 0 };
    }

    /// TCP: whether the flow began with a disregarded packet, and no segment was taken since.
    pub fn is_disregarded_only(&self) -> bool {
        self.phase == Phase::Open
            && self.sides[0].is(Side::DISREGARDED_FIRST)
            && !self.sides.iter().any(|side| side.is(Side::BEGUN))
    }

    /// Which way a packet goes.
    #[inline]
    pub fn direction(&self, packet: &Packet<'_>) -> Direction {
        if packet.from_high == self.is(Self::INITIATOR_HIGH) {
            Direction::Forward
        } else {
            Direction::Reverse
        }
    }

    /// One direction.
    #[inline]
    pub fn side(&self, direction: Direction) -> &Side {
        &self.sides[usize::from(direction == Direction::Reverse)]
    }

    /// Packets of the present record.
    #[inline]
    pub fn packets(&self) -> u64 {
        self.sides[0].packets + self.sides[1].packets
    }

    /// Timestamp of the first packet of the present record.
    #[inline]
    pub fn first(&self) -> i64 {
        self.sides[usize::from(self.is(Self::REVERSE_FIRST))].first
    }

    /// Latest timestamp of the present record.
    #[inline]
    pub fn latest(&self) -> i64 {
        let [forward, reverse] = &self.sides;
        match (forward.packets, reverse.packets) {
            (_, 0) => forward.latest,
            (0, _) => reverse.latest,
            _ => forward.latest.max(reverse.latest),
        }
    }

    /// Counts a packet, with its statistics or without.
    #[inline]
    pub fn add(
        &mut self,
        direction: Direction,
        packet: &Packet<'_>,
        time: i64,
        wire_length: u32,
        statistics: bool,
    ) {
        let first = self.packets() == 0;
        if first {
            self.mark(Self::REVERSE_FIRST, direction == Direction::Reverse);
        }
        if statistics {
            if !first {
                self.arrivals.observe(self.latest(), time);
            }
            self.sides[usize::from(direction == Direction::Reverse)].observe(packet, time);
        }
        self.sides[usize::from(direction == Direction::Reverse)].add(packet, time, wire_length);
    }

    /// The direction of the record's first packet.
    pub fn first_direction(&self) -> Direction {
        if self.is(Self::REVERSE_FIRST) {
            Direction::Reverse
        } else {
            Direction::Forward
        }
    }

    /// Statistics of the IP lengths of both directions; `None` without packets.
    pub fn lengths(&self) -> Option<Summary> {
        let [forward, reverse] = &self.sides;
        match (forward.lengths(), reverse.lengths()) {
            (Some(one), Some(other)) => Some(Summary::new(
                self.packets(),
                u128::from(forward.bytes) + u128::from(reverse.bytes),
                forward.length_squares.plus(reverse.length_squares),
                one.min.min(other.min),
                one.max.max(other.max),
            )),
            (one, other) => one.or(other),
        }
    }

    /// Statistics of the times between packets of both directions; `None` below two packets.
    pub fn intervals(&self) -> Option<Summary> {
        self.arrivals.summary(self.packets(), self.first(), self.latest())
    }

    /// When the flow is due if no further packet comes and it is not cut before.
    #[inline]
    pub fn idle_deadline(&self, timeouts: Timeouts) -> i64 {
        self.seen.saturating_add(match self.phase {
            Phase::Lingering | Phase::Tombstone => LINGER_NS,
            Phase::Open => return self.seen.saturating_add(timeouts.idle).max(timeouts.since),
        })
    }

    /// When the flow is due (see the table in [`super`]).
    #[inline]
    pub fn deadline(&self, timeouts: Timeouts) -> i64 {
        let idle = self.idle_deadline(timeouts);
        // The clock is another source's than that of a record far behind it: that one is cut by its own packets.
        if self.phase != Phase::Open || self.packets() == 0 || self.sides[1].is(Side::BEHIND) {
            return idle;
        }
        // Not in the past, where the timeouts were changed.
        idle.min(
            self.first()
                .saturating_add(timeouts.active)
                .max(self.seen)
                .max(timeouts.since),
        )
    }
}

impl Flow<'_> {
    /// Begins the next part of the flow, or its stragglers: the counts start anew.
    pub fn cut(&mut self) {
        let hot = &mut *self.hot;
        hot.sides = [hot.sides[0].cut(), hot.sides[1].cut()];
        hot.arrivals = Arrivals::default();
        hot.left_out = LeftOut::default();
        self.cold.fragments = 0;
        self.cold.checksum_errors = 0;
        self.cold.interim_number = self.cold.interim_number.saturating_add(1);
    }

    /// Counts what few packets have: fragments and checksum errors.
    pub fn count_faults(&mut self, fragment: Option<Fragment>, checksum_error: bool) {
        self.cold.fragments = self.cold.fragments.saturating_add(u32::from(fragment.is_some()));
        self.cold.checksum_errors = self
            .cold
            .checksum_errors
            .saturating_add(u32::from(checksum_error));
    }

    /// Takes the direction and what is only told at the beginning from the flow's first packet. The flags of one that
    /// is disregarded tell nothing.
    pub fn begin(&mut self, packet: &Packet<'_>, disregarded: Option<Disregard>, flow_id: u64) {
        let (basis, from_initiator) = match packet.transport {
            Transport::Tcp(tcp) if disregarded.is_none() => super::tcp::initiator(&tcp),
            _ => (Basis::FirstPacket, true),
        };
        self.hot.basis = basis;
        self.hot
            .mark(Hot::INITIATOR_HIGH, packet.from_high == from_initiator);
        self.hot.mark(Hot::PLAIN, packet.is_plain());
        if disregarded.is_some() {
            self.hot.sides[0].mark(Side::DISREGARDED_FIRST);
        }
        *self.cold = Cold {
            flow_id,
            ..Cold::default()
        };
        if let Transport::Icmp { kind, code } = packet.transport {
            self.cold.icmp = Some([kind, code]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::meter::tests::Frame;

    #[test]
    fn a_flow_fits_its_budget() {
        // Design §6: at most 400 B without layer-7 state and SPLT.
        let state = size_of::<Hot>() + size_of::<Cold>() + crate::flow::expiry::TIMER_BYTES;
        assert_eq!(size_of::<Hot>(), 5 * 64, "whole cache lines");
        assert!(
            state <= 400,
            "{} + {} + timer = {state}",
            size_of::<Hot>(),
            size_of::<Cold>()
        );
    }

    #[test]
    fn deadlines_are_the_earlier_of_the_two_timeouts() {
        let timeouts = Timeouts {
            idle: 10,
            active: 15,
            since: 0,
        };
        let mut hot = Hot::new(Frame::udp(1, 2).packet().key, 0);
        hot.seen = 100;
        assert_eq!(
            hot.deadline(timeouts),
            110,
            "without packets only idleness counts"
        );
        hot.add(Direction::Forward, &Frame::udp(1, 2).packet(), 98, 60, true);
        assert_eq!(hot.deadline(timeouts), 110);
        hot.seen = 105;
        assert_eq!(hot.deadline(timeouts), 113);
        hot.seen = 200;
        assert_eq!(hot.deadline(timeouts), 200, "not in the past");
        hot.begin_record(true);
        assert_eq!(hot.deadline(timeouts), 210, "of another source than the clock");
        hot.begin_record(false);
        assert_eq!(hot.deadline(timeouts), 200);
        hot.phase = Phase::Lingering;
        assert_eq!(hot.deadline(timeouts), 200 + LINGER_NS);
    }

    #[test]
    fn a_cut_leaves_where_the_stream_starts() {
        let mut side = Side {
            sequence_end: 101,
            ..Side::default()
        };
        assert_eq!(side.stream_start(), None);
        side.mark(Side::OPENED | Side::BEGUN);
        side.add_flags(0x1ff);
        assert_eq!(side.cut().flags(), 0);
        assert_eq!(side.cut().stream_start(), Some(101));
        side.mark(Side::DATA);
        assert_eq!(side.cut().stream_start(), None);
    }

    #[test]
    fn both_directions_together() {
        let mut hot = Hot::new(Frame::udp(1, 2).packet().key, 0);
        let frame = Frame::udp(1, 2);
        let packet = |ip_length| Packet {
            ip_length,
            ..frame.packet()
        };
        hot.add(Direction::Reverse, &packet(100), 1000, 114, true);
        hot.add(Direction::Forward, &packet(40), 1010, 60, true);
        hot.add(Direction::Forward, &packet(70), 1005, 84, true);
        let lengths = hot.lengths().unwrap();
        assert_eq!((lengths.min, lengths.max), (40, 100));
        assert_eq!(lengths.mean.to_bits(), 70.0_f64.to_bits());
        assert!((lengths.stddev.unwrap() - 600.0_f64.sqrt()).abs() < 1e-12);
        let intervals = hot.intervals().unwrap();
        assert_eq!((intervals.min, intervals.max), (0, 10));
        assert_eq!(intervals.mean.to_bits(), 5.0_f64.to_bits());
        assert_eq!((hot.first(), hot.latest()), (1000, 1010));
        assert_eq!(hot.side(Direction::Reverse).intervals(), None);
        assert_eq!(hot.side(Direction::Forward).wire_bytes, 144);
    }
}
