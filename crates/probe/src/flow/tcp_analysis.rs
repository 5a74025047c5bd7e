//! What the segments of a TCP connection tell beyond what every profile counts: duplicate and partial ACKs, zero
//! windows and the probes of them, keep-alives, and what the capture missed.
//!
//! A passive probe infers what endpoints know, so each count says in its column what it counts, with its source. Where
//! one direction only is seen (asymmetric routing), its ACKs tell what went the other way.

use slab::Slab;
use wire::decode::Tcp;
use wire::flowkey::Direction;

use super::fragment::Part;
use super::state::NO_ENTRY;
use super::tcp::{ACK, FIN, RST, SYN, is_after};

/// Memory of a connection's analysis in bytes, with what the slab says of its place.
pub const ANALYSIS_BYTES: usize = size_of::<Analysis>() + size_of::<usize>();

/// Gaps that are remembered of each direction; of older ones nothing more is learned.
const MAX_HOLES: usize = 4;

/// No window is larger (RFC 7323 §2.3). An acknowledgement number beyond this distance is not believed, so many numbers
/// passed over are no bytes that are missing, and what lies further back comes no more.
const MAX_WINDOW: u32 = 1 << 30;

/// What is counted of the segments that one direction sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// See column `tcp_duplicate_acks_fwd`.
    pub duplicate_acks: u32,
    /// See column `tcp_partial_acks_fwd`.
    pub partial_acks: u32,
    /// See column `tcp_zero_windows_fwd`.
    pub zero_windows: u32,
    /// See column `tcp_window_probes_fwd`.
    pub window_probes: u32,
    /// See column `tcp_keep_alives_fwd`.
    pub keep_alives: u32,
    /// See column `tcp_missed_bytes_fwd`.
    pub missed_bytes: u64,
}

impl Counts {
    fn miss(&mut self, bytes: u64) {
        self.missed_bytes = self.missed_bytes.saturating_add(bytes);
    }
}

/// Sequence numbers that were passed over, from `start` up to `end`.
#[derive(Clone, Copy, Debug, Default)]
struct Hole {
    start: u32,
    end: u32,
    /// It is counted as missed.
    missed: bool,
}

/// The stream that one direction sends, and what it says of the other.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    counts: Counts,
    holes: [Hole; MAX_HOLES],
    hole_count: u8,
    /// `next` is known.
    begun: bool,
    /// `acknowledgement` and `window` are known.
    acknowledges: bool,
    /// The sequence number after the highest one that was sent, or acknowledged by the other side.
    next: u32,
    /// Where the stream stood when a retransmission began a recovery (RFC 6582 §3.2, `recover`), until then.
    recover: Option<u32>,
    /// Of the latest segment.
    acknowledgement: u32,
    window: u16,
}

/// A connection.
#[derive(Clone, Copy, Debug, Default)]
struct Analysis {
    sides: [Side; 2],
}

/// There is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFull;

/// The connections of one worker.
#[derive(Debug)]
pub struct Analyses {
    entries: Slab<Analysis>,
    /// Most entries so far: memory is not given back.
    peak: usize,
    limit: usize,
}

impl Analyses {
    /// Room in so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self {
            entries: Slab::new(),
            peak: 0,
            limit: bytes / ANALYSIS_BYTES,
        }
    }

    /// Memory in bytes, also of what was given back.
    pub fn bytes(&self) -> usize {
        self.peak * ANALYSIS_BYTES
    }

    /// From now on takes at most so many bytes more.
    pub fn limit_growth(&mut self, bytes: usize) {
        self.limit = self.peak + bytes / ANALYSIS_BYTES;
    }

    /// Takes a segment into account. `entry` is the flow's.
    #[inline(never)]
    pub fn observe(
        &mut self,
        entry: &mut u32,
        direction: Direction,
        payload_length: u32,
        tcp: &Tcp,
    ) -> Result<(), PoolFull> {
        if *entry == NO_ENTRY {
            if self.entries.len() >= self.limit {
                return Err(PoolFull);
            }
            *entry = self.entries.insert(Analysis::default()) as u32;
            self.peak = self.peak.max(self.entries.len());
        }
        if let Some(analysis) = self.entries.get_mut(*entry as usize) {
            analysis.observe(direction, payload_length, tcp);
        }
        Ok(())
    }

    /// Takes into account what further fragments add to a segment. `entry` is the flow's.
    #[inline(never)]
    pub fn go_on(&mut self, entry: u32, direction: Direction, part: Part) {
        if let Some(analysis) = self.entries.get_mut(entry as usize) {
            let [forward, reverse] = &mut analysis.sides;
            let own = match direction {
                Direction::Forward => forward,
                Direction::Reverse => reverse,
            };
            // Where nothing was begun, the first fragment was of a connection before this one, or a RST.
            if own.begun {
                own.sent(part.start, part.end);
            }
        }
    }

    /// What was counted for the present record, which ends now: forward and reverse.
    pub fn counts(&mut self, entry: u32) -> Option<[Counts; 2]> {
        let analysis = self.entries.get_mut(entry as usize)?;
        analysis.settle();
        Some(analysis.sides.map(|side| side.counts))
    }

    /// The next record begins.
    pub fn cut(&mut self, entry: u32) {
        if let Some(analysis) = self.entries.get_mut(entry as usize) {
            for side in &mut analysis.sides {
                side.counts = Counts::default();
            }
        }
    }

    /// Gives back what a flow holds.
    pub fn release(&mut self, entry: &mut u32) {
        self.entries
            .try_remove(std::mem::replace(entry, NO_ENTRY) as usize);
    }
}

impl Analysis {
    fn observe(&mut self, direction: Direction, payload_length: u32, tcp: &Tcp) {
        // Whatever a RST carries, nobody answers it.
        if tcp.flags & RST != 0 {
            return;
        }
        let [forward, reverse] = &mut self.sides;
        let (own, peer) = match direction {
            Direction::Forward => (forward, reverse),
            Direction::Reverse => (reverse, forward),
        };
        let plain = tcp.flags & (SYN | FIN) == 0;
        let occupied = payload_length
            .wrapping_add(u32::from(tcp.flags & SYN != 0))
            .wrapping_add(u32::from(tcp.flags & FIN != 0));
        let end = tcp.sequence.wrapping_add(occupied);
        if plain && tcp.window == 0 {
            increase(&mut own.counts.zero_windows, true);
        }
        let keeps_alive = own.begun && is_keep_alive(tcp, payload_length, own.next);
        if keeps_alive {
            increase(&mut own.counts.keep_alives, true);
        } else if occupied > 0 {
            let probes =
                plain && payload_length == 1 && own.begun && tcp.sequence == own.next && peer.is_shut();
            increase(&mut own.counts.window_probes, probes);
            let again = own.begun && !is_after(end, own.next);
            let wanted = !peer.acknowledges || is_after(end, peer.acknowledgement);
            if again && wanted && own.recover.is_none() {
                own.recover = Some(own.next);
            }
            own.sent(tcp.sequence, end);
        } else if !own.begun {
            own.sent(tcp.sequence, end);
        }
        if tcp.flags & ACK != 0 {
            own.acknowledge(peer, plain && payload_length == 0 && !keeps_alive, tcp);
            own.window = tcp.window;
        }
    }

    /// What was passed over and is acknowledged by nobody who could be seen is taken as missed.
    fn settle(&mut self) {
        let [forward, reverse] = &mut self.sides;
        if !reverse.acknowledges {
            forward.miss_all();
        }
        if !forward.acknowledges {
            reverse.miss_all();
        }
    }
}

/// Counts, and stays at the largest number.
fn increase(counter: &mut u32, times: bool) {
    *counter = counter.saturating_add(u32::from(times));
}

/// A segment of at most one byte that begins just before the next expected sequence number `next`.
pub fn is_keep_alive(tcp: &Tcp, payload_length: u32, next: u32) -> bool {
    payload_length <= 1 && tcp.flags & (SYN | FIN | RST) == 0 && tcp.sequence == next.wrapping_sub(1)
}

impl Side {
    /// Whether it announced last that it has no room.
    fn is_shut(&self) -> bool {
        self.acknowledges && self.window == 0
    }

    /// Takes note of what it acknowledges of `peer`'s stream. `pure`: the segment does nothing else.
    fn acknowledge(&mut self, peer: &mut Self, pure: bool, tcp: &Tcp) {
        let number = tcp.acknowledgement;
        if self.acknowledges && !is_after(number, self.acknowledgement) {
            // RFC 5681 §2; the other direction may be out of sight, then it is taken to wait for an answer.
            let outstanding = !peer.begun || is_after(peer.next, number);
            let same = number == self.acknowledgement && tcp.window == self.window;
            increase(&mut self.counts.duplicate_acks, pure && outstanding && same);
            return;
        }
        if peer.begun && is_after(number, peer.next) && number.wrapping_sub(peer.next) > MAX_WINDOW {
            return;
        }
        self.acknowledges = true;
        self.acknowledgement = number;
        match peer.recover {
            Some(recover) if is_after(recover, number) => increase(&mut self.counts.partial_acks, true),
            _ => peer.recover = None,
        }
        peer.acknowledged(number);
    }

    /// It sent a segment that occupies sequence numbers up to `end`.
    fn sent(&mut self, sequence: u32, end: u32) {
        if !self.begun {
            self.begun = true;
            self.next = end;
            return;
        }
        if is_after(sequence, self.next) {
            self.pass_over(sequence, false);
        } else {
            self.fill(sequence, end);
        }
        if is_after(end, self.next) {
            self.move_to(end);
        }
    }

    /// The stream goes on to `next`. All holes that are remembered, and whatever is sent, then lie within half of the
    /// sequence numbers below it, so that any two of them can be compared.
    fn move_to(&mut self, next: u32) {
        self.next = next;
        let (holes, count) = (self.holes, usize::from(self.hole_count));
        self.hole_count = 0;
        for hole in &holes[..count] {
            if next.wrapping_sub(hole.end) <= MAX_WINDOW {
                self.remember(*hole);
            } else if !hole.missed {
                self.counts.miss(hole.length());
            }
        }
    }

    /// The other side has acknowledged everything before `number`: what was not seen of that, the capture missed
    /// (RFC 9293 §3.10.7.4: nobody acknowledges what was not sent).
    fn acknowledged(&mut self, number: u32) {
        if !self.begun {
            self.begun = true;
            self.next = number;
            return;
        }
        let missed = self
            .holes_mut()
            .iter_mut()
            .filter(|hole| !hole.missed && !is_after(hole.end, number));
        let mut bytes: u64 = 0;
        for hole in missed {
            hole.missed = true;
            bytes += hole.length();
        }
        self.counts.miss(bytes);
        if is_after(number, self.next) {
            self.pass_over(number, true);
            self.move_to(number);
        }
    }

    /// What lies between the highest sequence number and this one was not seen.
    fn pass_over(&mut self, until: u32, missed: bool) {
        let hole = Hole {
            start: self.next,
            end: until,
            missed,
        };
        if hole.length() >= u64::from(MAX_WINDOW) {
            return;
        }
        if missed {
            self.counts.miss(hole.length());
        }
        self.remember(hole);
    }

    fn remember(&mut self, hole: Hole) {
        let count = usize::from(self.hole_count);
        if count == MAX_HOLES {
            self.holes.copy_within(1.., 0);
            self.holes[MAX_HOLES - 1] = hole;
        } else {
            self.holes[count] = hole;
            self.hole_count += 1;
        }
    }

    /// What was passed over comes late, or once more.
    fn fill(&mut self, start: u32, end: u32) {
        let (holes, count) = (self.holes, usize::from(self.hole_count));
        self.hole_count = 0;
        for hole in &holes[..count] {
            let from = if is_after(start, hole.start) {
                start
            } else {
                hole.start
            };
            let to = if is_after(hole.end, end) { end } else { hole.end };
            if !is_after(to, from) {
                self.remember(*hole);
                continue;
            }
            if hole.missed {
                let filled = u64::from(to.wrapping_sub(from));
                self.counts.missed_bytes = self.counts.missed_bytes.saturating_sub(filled);
            }
            for (start, end) in [(hole.start, from), (to, hole.end)] {
                if start != end {
                    self.remember(Hole { start, end, ..*hole });
                }
            }
        }
    }

    fn miss_all(&mut self) {
        let mut bytes: u64 = 0;
        for hole in self.holes_mut().iter_mut().filter(|hole| !hole.missed) {
            hole.missed = true;
            bytes += hole.length();
        }
        self.counts.miss(bytes);
    }

    fn holes_mut(&mut self) -> &mut [Hole] {
        &mut self.holes[..usize::from(self.hole_count)]
    }
}

impl Hole {
    fn length(&self) -> u64 {
        u64::from(self.end.wrapping_sub(self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::meter::tests::{Bench, Frame, SECOND};
    use crate::flow::state::Basis;
    use crate::flow::{EndReason, FlowRecord, Profile};

    fn bench() -> Bench {
        Bench::new(|settings| settings.profile = Profile::Full)
    }

    /// A segment with `length` bytes of payload.
    fn segment(sequence: u32, acknowledgement: u32, length: usize) -> Frame {
        Frame::tcp(ACK, sequence, acknowledgement).payload(&vec![b'x'; length])
    }

    fn window(mut frame: Frame, window: u16) -> Frame {
        if let wire::decode::Transport::Tcp(header) = &mut frame.transport {
            header.window = window;
        }
        frame
    }

    /// Both sides' SYNs and the ACK: the initiator goes on at 101, the responder at 501.
    fn open(bench: &mut Bench) {
        bench.at(0, &Frame::tcp(SYN, 100, 0));
        bench.at(1, &Frame::tcp(SYN | ACK, 500, 101).back());
        bench.at(2, &Frame::tcp(ACK, 101, 501));
    }

    fn record(bench: &mut Bench) -> FlowRecord {
        bench.flush();
        (*bench.records().last().unwrap()).clone()
    }

    #[test]
    fn a_flood_of_segments_stays_at_the_largest_number() {
        let mut analysis = Analysis::default();
        for side in &mut analysis.sides {
            side.counts = Counts {
                duplicate_acks: u32::MAX,
                partial_acks: u32::MAX,
                zero_windows: u32::MAX,
                window_probes: u32::MAX,
                keep_alives: u32::MAX,
                missed_bytes: u64::MAX,
            };
        }
        let full = analysis.sides[0].counts;
        let header = |sequence, acknowledgement| Tcp {
            sequence,
            acknowledgement,
            flags: ACK,
            ..Tcp::default()
        };
        for (direction, payload, header) in [
            (Direction::Forward, 100, header(1000, 1)),
            // A hole, acknowledged; the same again; a zero window; its probe; a keep-alive.
            (Direction::Forward, 100, header(5000, 1)),
            (Direction::Reverse, 0, header(1, 5100)),
            (Direction::Reverse, 0, header(1, 5100)),
            (Direction::Forward, 1, header(5100, 1)),
            (Direction::Forward, 0, header(5100, 1)),
        ] {
            analysis.observe(direction, payload, &header);
        }
        analysis.settle();
        assert_eq!(analysis.sides.map(|side| side.counts), [full, full]);
    }

    #[test]
    fn what_comes_gigabytes_later_fills_no_hole() {
        let sent = |side: &mut Side, numbers: &mut u32, passed_over: u32, bytes: u32| {
            let start = numbers.wrapping_add(passed_over);
            *numbers = start.wrapping_add(bytes);
            side.sent(start, *numbers);
        };
        for (acknowledged, numbers_before) in [(true, 7_u32), (false, 7), (true, u32::MAX - 90)] {
            let (mut side, mut numbers) = (Side::default(), numbers_before);
            side.sent(numbers, numbers);
            sent(&mut side, &mut numbers, 0, 100);
            sent(&mut side, &mut numbers, 1000, 100);
            if acknowledged {
                side.acknowledged(numbers);
            }
            // Three times through all numbers.
            for _ in 0..12_000 {
                sent(&mut side, &mut numbers, 0, 1 << 20);
            }
            assert_eq!(side.counts.missed_bytes, 1000, "{acknowledged} {numbers_before}");
            // Numbers that begin anew are no bytes, and what was passed over then does not come late any more.
            sent(&mut side, &mut numbers, 1 << 30, 100);
            sent(&mut side, &mut numbers, (1 << 30) - 1, 100);
            sent(&mut side, &mut numbers, 0, 1 << 20);
            side.miss_all();
            assert_eq!(side.counts.missed_bytes, 1000 + (1 << 30) - 1);
        }
    }

    #[test]
    fn duplicate_and_partial_acks() {
        let mut bench = bench();
        open(&mut bench);
        for start in [101, 201, 301, 401] {
            bench.at(10, &segment(start, 501, 100));
        }
        // 101 and 301 were lost.
        for _ in 0..3 {
            bench.at(20, &Frame::tcp(ACK, 501, 101).back());
        }
        bench.at(30, &segment(101, 501, 100)); // fast retransmission
        bench.at(40, &Frame::tcp(ACK, 501, 301).back()); // up to the next hole
        bench.at(50, &segment(301, 501, 100));
        bench.at(60, &Frame::tcp(ACK, 501, 501).back()); // everything
        bench.at(70, &segment(501, 501, 100));
        bench.at(80, &Frame::tcp(ACK, 501, 601).back()); // after the recovery
        let record = record(&mut bench);
        assert_eq!(record.tcp_duplicate_acks_rev, Some(3));
        assert_eq!(record.tcp_partial_acks_rev, Some(1));
        assert_eq!(record.tcp_retransmissions_fwd, Some(2));
        assert_eq!(
            (record.tcp_duplicate_acks_fwd, record.tcp_partial_acks_fwd),
            (Some(0), Some(0))
        );
        assert_eq!(
            (record.tcp_missed_bytes_fwd, record.tcp_missed_bytes_rev),
            (Some(0), Some(0))
        );
    }

    #[test]
    fn what_repeats_an_ack_for_another_reason_is_no_duplicate() {
        let mut bench = bench();
        open(&mut bench);
        bench.at(10, &segment(101, 501, 100));
        bench.at(20, &Frame::tcp(ACK, 501, 201).back());
        bench.at(30, &Frame::tcp(ACK, 501, 201).back()); // nothing is outstanding
        bench.at(40, &segment(201, 501, 100));
        bench.at(50, &window(Frame::tcp(ACK, 501, 201).back(), 9)); // window update
        bench.at(60, &segment(501, 201, 10).back()); // has payload
        let record = record(&mut bench);
        assert_eq!(record.tcp_duplicate_acks_rev, Some(0));
    }

    #[test]
    fn zero_windows_and_their_probes() {
        let mut bench = bench();
        open(&mut bench);
        bench.at(10, &segment(101, 501, 100));
        bench.at(20, &window(Frame::tcp(ACK, 501, 201).back(), 0));
        bench.at(30, &segment(201, 501, 1)); // probe
        bench.at(40, &window(Frame::tcp(ACK, 501, 201).back(), 0));
        bench.at(50, &window(Frame::tcp(ACK, 501, 202).back(), 512));
        bench.at(60, &segment(202, 501, 1)); // a byte
        let record = record(&mut bench);
        assert_eq!(
            (record.tcp_zero_windows_fwd, record.tcp_zero_windows_rev),
            (Some(0), Some(2))
        );
        assert_eq!(
            (record.tcp_window_probes_fwd, record.tcp_window_probes_rev),
            (Some(1), Some(0))
        );
    }

    #[test]
    fn keep_alives_are_no_retransmissions() {
        let mut bench = bench();
        open(&mut bench);
        bench.at(10, &segment(101, 501, 100));
        bench.at(20, &Frame::tcp(ACK, 501, 201).back());
        bench.at(30, &segment(200, 501, 0));
        bench.at(40, &segment(200, 501, 1));
        bench.at(50, &Frame::tcp(ACK, 500, 201).back());
        let record = record(&mut bench);
        assert_eq!(
            (record.tcp_keep_alives_fwd, record.tcp_keep_alives_rev),
            (Some(2), Some(1))
        );
        assert_eq!(record.tcp_retransmissions_fwd, Some(0));
    }

    #[test]
    fn what_is_acknowledged_was_sent() {
        let mut bench = bench();
        open(&mut bench);
        bench.at(10, &segment(301, 501, 100)); // 101 to 300 are not there
        bench.at(20, &segment(151, 501, 50)); // a part of it comes late
        bench.at(30, &Frame::tcp(ACK, 501, 401).back());
        bench.at(40, &Frame::tcp(ACK, 501, 1000).back()); // 401 to 999 too
        bench.at(50, &segment(501, 501, 99)); // seen after its ACK
        bench.at(60, &Frame::tcp(ACK, 501, 0x7000_0000).back()); // not believed
        let record = record(&mut bench);
        assert_eq!(record.tcp_missed_bytes_fwd, Some(50 + 100 + 599 - 99));
        assert_eq!(record.tcp_missed_bytes_rev, Some(0));
    }

    #[test]
    fn one_direction_alone_tells_of_the_other() {
        let mut bench = bench();
        // Only the responder is seen, from the middle on: it acknowledges what went the other way.
        bench.at(0, &segment(501, 101, 100).back());
        bench.at(10, &segment(601, 1101, 100).back());
        bench.at(20, &segment(801, 1101, 100).back()); // 701 to 800 never come, and nobody tells why
        bench.at(30, &Frame::tcp(FIN | ACK, 901, 1101).back());
        bench.at(30 + 6 * SECOND, &Frame::tcp(SYN | ACK, 7000, 9001).back()); // ports used again
        bench.flush();
        let records = bench.records();
        let (first, second) = (records[0], records[1]);
        assert_eq!(
            (first.direction_basis, first.src_port, first.end_reason),
            (Basis::FirstPacket, 2000, EndReason::EndOfFlow)
        );
        assert_eq!((first.packets_fwd, first.packets_rev), (4, 0));
        assert_eq!(
            (first.tcp_missed_bytes_fwd, first.tcp_missed_bytes_rev),
            (Some(100), Some(1000))
        );
        assert_eq!(
            (first.tcp_out_of_order_fwd, first.tcp_handshake_rtt_server_ns),
            (Some(1), None)
        );
        assert_eq!(
            (second.direction_basis, second.src_port, second.packets_rev),
            (Basis::SynAck, 1000, 1)
        );
        assert_eq!(
            (first.tcp_ports_reused, second.tcp_ports_reused),
            (Some(false), Some(true))
        );
    }

    #[test]
    fn both_may_open() {
        let mut bench = bench();
        bench.at(0, &Frame::tcp(SYN, 100, 0));
        bench.at(1, &Frame::tcp(SYN, 500, 0).back());
        bench.at(2, &Frame::tcp(SYN | ACK, 100, 501));
        bench.at(3, &Frame::tcp(SYN | ACK, 500, 101).back());
        bench.at(4, &segment(101, 501, 10));
        let record = record(&mut bench);
        assert_eq!(
            (record.tcp_simultaneous_open, record.src_port, record.packets_rev),
            (Some(true), 1000, 2)
        );
        assert_eq!(record.tcp_handshake_rtt_server_ns, Some(3));
    }

    #[test]
    fn counts_are_of_the_record() {
        let mut bench = Bench::new(|settings| {
            settings.profile = Profile::Full;
            settings.active_timeout_ns = 10 * SECOND;
            settings.idle_timeout_ns = 10 * SECOND;
        });
        open(&mut bench);
        bench.at(10, &segment(100, 501, 0));
        bench.at(9 * SECOND, &segment(100, 501, 0));
        bench.at(11 * SECOND, &segment(100, 501, 0));
        bench.flush();
        let counts: Vec<_> = bench
            .records()
            .iter()
            .map(|record| record.tcp_keep_alives_fwd)
            .collect();
        assert_eq!(counts, [Some(2), Some(1)]);
    }

    #[test]
    fn a_full_pool_is_counted() {
        let mut analyses = Analyses::new(ANALYSIS_BYTES);
        let (mut one, mut other) = (NO_ENTRY, NO_ENTRY);
        let tcp = Tcp::default();
        let observe =
            |analyses: &mut Analyses, entry: &mut u32| analyses.observe(entry, Direction::Forward, 0, &tcp);
        assert_eq!(observe(&mut analyses, &mut one), Ok(()));
        assert_eq!(observe(&mut analyses, &mut other), Err(PoolFull));
        assert_eq!(analyses.counts(other), None);
        analyses.release(&mut one);
        assert_eq!(observe(&mut analyses, &mut other), Ok(()));
        assert_eq!(analyses.bytes(), ANALYSIS_BYTES);
    }
}
