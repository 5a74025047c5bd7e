//! What is done to a flow when a packet of it comes, or its time is over; everything that metering needs beside the table.

use std::sync::Arc;

use wire::column::Address;
use wire::decode::{Packet, Tcp, Transport};
use wire::flowkey::Direction;
use wire::l7::Context;
use wire::malformed::{Fault, Reason as _};

use super::{Content, Event, Moment, Seen, UDP};
use crate::counters::Tally;
use crate::flow::disregard::{Disregard, Trust, disregard};
use crate::flow::export::{self, Parts};
use crate::flow::facts::Answer;
use crate::flow::features::{self, Observed};
use crate::flow::fragment::Part;
use crate::flow::icmp_error::IcmpError;
use crate::flow::layer7::{self, Load, Sessions, Wish};
use crate::flow::path::Paths;
use crate::flow::profile::{Duty, LeftOut, ShedWork, Work};
use crate::flow::splt::{PoolFull, SPLT_PACKETS, Sequences, Step};
use crate::flow::state::{Flow, Hot, NO_ENTRY, Phase, Side, Timeouts};
use crate::flow::table::Next;
use crate::flow::tcp::{self, RST, SYN, Transition};
use crate::flow::tcp_analysis::Analyses;
use crate::flow::{EndReason, EndedFlow};

/// All that metering needs beside the table itself.
#[derive(Debug)]
pub(super) struct Desk {
    /// See [`EndedFlow::epoch`].
    pub(super) epoch: u64,
    pub(super) timeouts: Timeouts,
    pub(super) duty: Duty,
    pub(super) trust: Trust,
    pub(super) sessions: Sessions,
    pub(super) sequences: Sequences,
    pub(super) features: features::Store,
    pub(super) analyses: Analyses,
    pub(super) paths: Paths,
    pub(super) tally: Tally,
}

/// What was known of a flow before a packet that goes to layer 7.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// TCP: where the streams start, if layer 7 begins with this packet.
    starts: [Option<u32>; 2],
    /// TCP: the packet's direction had a segment.
    begun: bool,
}

impl Desk {
    /// Takes a packet into its flow.
    #[expect(
        clippy::too_many_arguments,
        reason = "called from one place, for every packet"
    )]
    #[inline]
    pub(super) fn take(
        &mut self,
        mut flow: Flow<'_>,
        fresh: bool,
        packet: &Packet<'_>,
        seen: Seen,
        now: Moment,
        content: Content<'_>,
        events: &mut Vec<Event>,
    ) -> Next {
        let header = if let Transport::Tcp(header) = &packet.transport {
            Some(header)
        } else {
            None
        };
        let disregarded = disregard(packet, header, &mut self.trust, self.tally.frames_metered);
        // The segment as the state of the connection sees it.
        let taken = header.filter(|_| disregarded.is_none());
        let mut next = Next::Keep;
        if fresh {
            self.begin(&mut flow, packet, disregarded, seen);
        } else if let Some(reason) = self.is_another(&flow, taken, seen) {
            // Before a connection's first segment that is taken there is none whose ports could be used again.
            let reused = reason != EndReason::IdleTimeout && !flow.hot.is_disregarded_only();
            self.end(&mut flow, reason, now, events);
            *flow.hot = Hot::new(flow.hot.key, flow.hot.tag);
            self.begin(&mut flow, packet, disregarded, seen);
            flow.hot.mark(Hot::PORTS_REUSED, reused);
            next = Next::Reschedule;
        } else if flow.hot.phase == Phase::Open
            && flow.hot.packets() > 0
            && seen.time.saturating_sub(flow.hot.first()) > self.timeouts.active
        {
            self.cut(&mut flow, EndReason::ActiveTimeout, now, events);
        }

        let direction = flow.hot.direction(packet);
        // A first segment with payload starts the streams after their SYNs, whichever segment that is.
        let before = Before {
            starts: if flow.hot.layer7 == NO_ENTRY && packet.payload_length > 0 {
                flow.hot.sides.each_ref().map(Side::stream_start)
            } else {
                [None; 2]
            },
            begun: flow.hot.side(direction).is(Side::BEGUN),
        };
        if self.count(&mut flow, packet, direction, seen) {
            // What was set when the record before was cut is later than when this one may be due.
            next = Next::Reschedule;
        }
        let side = &mut flow.hot.sides[usize::from(direction == Direction::Reverse)];
        side.add_flags(header.map_or(0, |header| header.flags));
        let transition = taken.map_or(Transition::Continue, |header| {
            if self.duty.work.has(Work::TCP) {
                self.analyse(&mut flow, direction, packet, header);
            }
            tcp::observe(&mut flow, direction, packet, header, seen.time)
        });
        if let Some(reason) = disregarded {
            self.tally.packets_disregarded.add(reason, 1);
        }
        if let Content::Part(part) = content {
            self.go_on(&mut flow, direction, part);
        }
        if flow.hot.phase == Phase::Tombstone {
            return next;
        }
        if flow.hot.phase == Phase::Open {
            flow.hot.seen = seen.clock;
        }
        if disregarded.is_some() {
            return next;
        }
        if let Transport::Icmp { kind, code } = packet.transport {
            if direction == Direction::Forward {
                flow.cold.icmp.get_or_insert([kind, code]);
            }
            if let Some(quoted) = packet.quoted() {
                self.tally.icmp_errors += 1;
                events.push(Event::IcmpError(IcmpError::new(quoted, self.epoch, seen)));
            }
        }
        if self.duty.work.has(Work::LAYER7) && !flow.hot.is(Hot::LAYER7_OVER) {
            self.learn(
                &mut flow, packet, header, direction, before, seen, content, events,
            );
        }
        match transition {
            Transition::Continue => return next,
            Transition::Linger => {
                flow.hot.phase = Phase::Lingering;
                flow.hot.seen = seen.clock;
            }
            Transition::Close => self.bury(&mut flow, EndReason::EndOfFlow, now, events),
            Transition::Reset => self.bury(&mut flow, EndReason::Reset, now, events),
        }
        Next::Reschedule
    }

    /// Whether the packet belongs to another flow than the one that has its key; if so, why that one ended.
    #[inline]
    fn is_another(&self, flow: &Flow<'_>, header: Option<&Tcp>, seen: Seen) -> Option<EndReason> {
        let phase = flow.hot.phase;
        if phase == Phase::Open
            && flow.hot.packets() > 0
            && seen.time.saturating_sub(flow.hot.latest()) > self.timeouts.idle
        {
            return Some(EndReason::IdleTimeout);
        }
        let header = header.filter(|header| header.flags & SYN != 0)?;
        tcp::is_new_connection(flow, header, seen.clock).then_some(match phase {
            Phase::Open | Phase::Lingering => EndReason::EndOfFlow,
            Phase::Tombstone => EndReason::Straggler,
        })
    }

    fn begin(
        &mut self,
        flow: &mut Flow<'_>,
        packet: &Packet<'_>,
        disregarded: Option<Disregard>,
        seen: Seen,
    ) {
        let flow_id = export::flow_id(&packet.key, seen.time, seen.frame);
        flow.begin(packet, disregarded, flow_id);
        flow.hot.seen = seen.clock;
        flow.cold.path = self.paths.hold(packet);
        self.tally.link_paths_overflowed += u64::from(!self.paths.is_whole(flow.cold.path));
    }

    /// Counters, statistics and sequence of packets. Whether the packet is its record's first.
    #[inline]
    fn count(&mut self, flow: &mut Flow<'_>, packet: &Packet<'_>, direction: Direction, seen: Seen) -> bool {
        self.tally.frames_metered += 1;
        let Duty { work, left_out } = self.duty;
        let hot = &mut *flow.hot;
        hot.left_out.add(left_out);
        let packets = hot.packets();
        if packets == 0 {
            self.tally.flows_opened += 1;
            self.tally.flows_active += 1;
            hot.begin_record(seen.clock.saturating_sub(seen.time) > self.timeouts.idle);
        } else if packets < SPLT_PACKETS as u64 && !hot.left_out.has(Work::SPLT) {
            self.add_to_sequence(hot, packet, direction, seen.time);
        }
        if packets > 0 && !hot.left_out.has(Work::FEATURES) {
            self.add_to_features(flow, packet, direction, seen.time);
        }
        flow.hot.add(
            direction,
            packet,
            seen.time,
            seen.wire_length,
            work.has(Work::STATISTICS),
        );
        if packet.faults != 0 || packet.fragment.is_some() {
            self.count_faults(flow, packet);
        }
        let both_plain = flow.hot.is(Hot::PLAIN) && packet.is_plain();
        if !both_plain && !flow.hot.is(Hot::AMBIGUOUS) && self.paths.differs(flow.cold.path, packet) {
            flow.hot.mark(Hot::AMBIGUOUS, true);
        }
        packets == 0
    }

    fn add_to_sequence(&mut self, hot: &mut Hot, packet: &Packet<'_>, direction: Direction, time: i64) {
        let latest = hot.latest();
        let interval = if time > latest { time.abs_diff(latest) } else { 0 };
        let position = hot.packets() as usize;
        let mut result = Ok(());
        if position == 1 {
            // The record's second packet: the first is known from its sums.
            let direction = hot.first_direction();
            let first = Step {
                direction,
                length: hot.side(direction).bytes as u32,
                interval: 0,
            };
            result = self.sequences.push(&mut hot.splt, 0, first);
        }
        let step = Step {
            direction,
            length: packet.ip_length,
            interval,
        };
        result = result.and_then(|()| self.sequences.push(&mut hot.splt, position, step));
        if result == Err(PoolFull) {
            hot.left_out.add(LeftOut::SPLT);
            self.tally.sequences_refused += 1;
        }
    }

    /// A packet that is not its record's first. Not inlined: only profile `full` comes here.
    #[inline(never)]
    fn add_to_features(&mut self, flow: &mut Flow<'_>, packet: &Packet<'_>, direction: Direction, time: i64) {
        let observed = Observed::new(packet, direction, time);
        let entry = &mut flow.cold.features;
        if self.features.observe(entry, flow.hot, &observed) == Err(PoolFull) {
            flow.hot.left_out.add(LeftOut::FEATURES);
            self.tally.features_refused += 1;
        }
    }

    fn analyse(&mut self, flow: &mut Flow<'_>, direction: Direction, packet: &Packet<'_>, header: &Tcp) {
        let entry = &mut flow.cold.analysis;
        let observed = self
            .analyses
            .observe(entry, direction, packet.payload_length, header);
        if observed.is_err() {
            flow.hot.left_out.add(LeftOut::TCP);
            self.tally.tcp_analyses_refused += 1;
        }
    }

    /// Further fragments of a TCP segment.
    #[cold]
    fn go_on(&mut self, flow: &mut Flow<'_>, direction: Direction, part: Part) {
        let number = usize::from(direction == Direction::Reverse);
        tcp::go_on(&mut flow.hot.sides[number], part);
        if self.duty.work.has(Work::TCP) {
            self.analyses.go_on(flow.cold.analysis, direction, part);
        }
    }

    fn count_faults(&mut self, flow: &mut Flow<'_>, packet: &Packet<'_>) {
        let mut left = packet.faults;
        while left != 0 {
            if let Some(fault) = Fault::EVERY.get(left.trailing_zeros() as usize) {
                self.tally.packet_faults.add(*fault, 1);
            }
            left &= left - 1;
        }
        flow.count_faults(packet.fragment, packet.faults & Fault::CHECKSUMS != 0);
    }

    /// Gives the packet's payload to layer 7.
    #[expect(
        clippy::too_many_arguments,
        reason = "called from one place, for every packet"
    )]
    #[inline]
    fn learn(
        &mut self,
        flow: &mut Flow<'_>,
        packet: &Packet<'_>,
        header: Option<&Tcp>,
        direction: Direction,
        before: Before,
        seen: Seen,
        content: Content<'_>,
        events: &mut Vec<Event>,
    ) {
        let Before { starts, begun } = before;
        // The receiver of a connection that is open drops a SYN with all that it carries (RFC 9293 §3.10.7.4).
        let is_read = |flags| flags & (RST | SYN) == 0 || (flags & RST == 0 && !begun);
        let load = match (content, header, packet.transport) {
            (Content::Datagram(datagram), ..) => Load::Datagram(datagram),
            (Content::Own | Content::Part(_), Some(header), _) if is_read(header.flags) => {
                layer7::segment_of(packet, header)
            }
            (Content::Part(part), None, _) if !part.of_syn => layer7::part_of(packet, part),
            (Content::Own, _, Transport::Udp) => Load::Datagram(packet.payload),
            _ => return,
        };
        let context = Self::context(flow.hot, direction, seen.time);
        let (source, destination) = packet.addresses();
        let Seen {
            time, clock, frame, ..
        } = seen;
        let epoch = self.epoch;
        let mut last: Option<Arc<str>> = None;
        let mut learn = |sent: Direction, name: &str, address: Address| {
            // Who gets the answer is who asked, whichever of the two was seen first.
            let client = if sent == direction { destination } else { source };
            // The addresses of one answer come one after the other.
            let name = match &last {
                Some(last) if **last == *name => Arc::clone(last),
                _ => Arc::clone(last.insert(name.into())),
            };
            events.push(Event::Answer(Answer {
                epoch,
                clock,
                frame,
                time,
                client,
                address,
                name,
            }));
        };
        let fed = self.sessions.feed(
            &mut flow.hot.layer7,
            load,
            starts,
            context,
            &mut self.tally,
            &mut learn,
        );
        flow.hot.mark(Hot::LAYER7_OVER, fed == Wish::NoMore);
    }

    fn context(hot: &Hot, direction: Direction, time: i64) -> Context {
        let ((_, src_port), (_, dst_port)) = export::endpoints(&hot.key, hot.is(Hot::INITIATOR_HIGH));
        Context {
            direction,
            time,
            src_port,
            dst_port,
            stream: hot.key.ip_protocol != UDP,
        }
    }

    /// A flow's deadline has passed.
    pub(super) fn due(&mut self, flow: &mut Flow<'_>, deadline: i64, events: &mut Vec<Event>) -> Next {
        let moment = Moment::timeout(deadline);
        match flow.hot.phase {
            Phase::Open if flow.hot.idle_deadline(self.timeouts) <= deadline => {
                self.end(flow, EndReason::IdleTimeout, moment, events);
                Next::Remove
            }
            Phase::Open => {
                self.cut(flow, EndReason::ActiveTimeout, moment, events);
                Next::Keep
            }
            Phase::Lingering => {
                self.bury(flow, EndReason::EndOfFlow, moment, events);
                Next::Keep
            }
            Phase::Tombstone => {
                self.end(flow, EndReason::Straggler, moment, events);
                Next::Remove
            }
        }
    }

    /// Exports what there is as a part of the flow, which goes on.
    fn cut(&mut self, flow: &mut Flow<'_>, reason: EndReason, moment: Moment, events: &mut Vec<Event>) {
        let session = self.sessions.snapshot(flow.hot.layer7);
        self.export(flow, reason, moment, session, events);
        flow.cut();
        self.analyses.cut(flow.cold.analysis);
    }

    /// Exports the flow; its key stays for stragglers.
    fn bury(&mut self, flow: &mut Flow<'_>, reason: EndReason, moment: Moment, events: &mut Vec<Event>) {
        let session = self.close_session(flow);
        self.export(flow, reason, moment, session, events);
        flow.cut();
        self.analyses.cut(flow.cold.analysis);
        flow.hot.phase = Phase::Tombstone;
        if reason == EndReason::Reset {
            flow.hot.sides[0].mark(Side::RESET);
        }
        flow.hot.seen = moment.time;
    }

    /// Exports the flow if it has packets, and frees everything that it holds.
    pub(super) fn end(
        &mut self,
        flow: &mut Flow<'_>,
        reason: EndReason,
        moment: Moment,
        events: &mut Vec<Event>,
    ) {
        let session = self.close_session(flow);
        self.export(flow, reason, moment, session, events);
        self.analyses.release(&mut flow.cold.analysis);
        self.paths.release(flow.cold.path);
    }

    fn close_session(&mut self, flow: &mut Flow<'_>) -> Option<Box<wire::l7::Session>> {
        let context = Self::context(flow.hot, Direction::Forward, flow.hot.latest());
        let session = self
            .sessions
            .close(&mut flow.hot.layer7, context, &mut self.tally);
        flow.cold.protocol = layer7::protocol_of(session.as_deref()).or(flow.cold.protocol);
        session
    }

    fn export(
        &mut self,
        flow: &mut Flow<'_>,
        reason: EndReason,
        moment: Moment,
        session: Option<Box<wire::l7::Session>>,
        events: &mut Vec<Event>,
    ) {
        let packets = flow.hot.packets() as usize;
        let splt = self.sequences.take(&mut flow.hot.splt, packets);
        if flow.hot.packets() == 0 {
            return;
        }
        let features = if flow.hot.left_out.has(Work::FEATURES) {
            self.features.release(&mut flow.cold.features);
            None
        } else {
            self.features.take(&mut flow.cold.features, flow.hot)
        };
        // Made where it stays: it is too large to be moved about.
        let mut ended = Box::<EndedFlow>::default();
        export::fill(
            &mut ended.record,
            flow.hot,
            flow.cold,
            reason,
            Parts {
                path: self.paths.get(flow.cold.path),
                splt,
                analysis: self.analyses.counts(flow.cold.analysis),
                session: session.as_deref(),
                protocol: layer7::protocol_of(session.as_deref()).or(flow.cold.protocol),
            },
        );
        self.tally.flows_exported.add(reason, 1);
        for work in ShedWork::ALL {
            let count = u64::from(flow.hot.left_out.has_shed(*work));
            self.tally.work_shed.add(*work, count);
        }
        self.tally.flows_active -= 1;
        ended.epoch = self.epoch;
        ended.export_time = moment.time;
        ended.closing_frame = moment.frame;
        ended.scope = flow.hot.key.scope;
        ended.features = features;
        ended.session = session;
        events.push(Event::Flow(ended));
    }
}
