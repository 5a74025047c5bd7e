//! Packets to ended flows: the table, fragments and layer 7 put together.

use std::sync::Arc;

use wire::column::Address;
use wire::decode::{Packet, Tcp, Transport};
use wire::flowkey::Direction;
use wire::l7::{Context, Crypto};
use wire::malformed::{Fault, Reason};

use super::export::{self, Parts};
use super::facts::Answer;
use super::features::{self, Observed};
use super::fragment::{FragmentLoss, Fragments, Part, Verdict, Waiting};
use super::icmp_error::IcmpError;
use super::layer7::{self, Load, Sessions, Wish};
use super::memory;
use super::path::Paths;
use super::profile::{Duty, LeftOut, Profile, Shed, Work};
use super::splt::{PoolFull, SPLT_PACKETS, Sequences, Step};
use super::state::{Flow, Hot, NO_ENTRY, Phase, Side, Timeouts};
use super::table::{FlowTable, Local, Next, TableFull};
use super::tcp::{self, RST, Transition};
use super::tcp_analysis::Analyses;
use super::{EndReason, EndedFlow, Order, Settings};
use crate::counters::Tally;

const UDP: u8 = 17;

/// When and where a packet was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its timestamp in UTC nanoseconds.
    pub time: i64,
    /// The input-wide packet clock: the latest timestamp up to and including this frame's.
    pub clock: i64,
    /// Its frame number.
    pub frame: u64,
    /// Its frame's length on the wire in bytes.
    pub wire_length: u32,
}

/// What metering gives out, in the order of [`Event::order`].
#[derive(Clone, Debug)]
pub enum Event {
    /// A record is complete.
    Flow(Box<EndedFlow>),
    /// A DNS answer was seen.
    Answer(Answer),
    /// An ICMP error was seen.
    IcmpError(IcmpError),
}

impl Event {
    /// Its place among all events.
    pub fn order(&self) -> Order {
        match self {
            Self::Flow(flow) => flow.order(),
            Self::Answer(answer) => answer.order(),
            Self::IcmpError(error) => error.order(),
        }
    }
}

/// The moment at which a record ends.
#[derive(Clone, Copy, Debug)]
struct Moment {
    time: i64,
    /// The frame that ends it; else see [`EndedFlow::closing_frame`].
    frame: u64,
}

impl Moment {
    fn at(seen: Seen) -> Self {
        Self {
            time: seen.clock,
            frame: seen.frame,
        }
    }

    fn timeout(time: i64) -> Self {
        Self {
            time,
            frame: u64::MAX,
        }
    }

    /// When fragments are given up: before the timeouts of the same moment.
    fn orphans(time: i64) -> Self {
        Self {
            time,
            frame: u64::MAX - 1,
        }
    }
}

/// What of a packet goes to layer 7.
#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    /// What the packet says.
    Own,
    /// A datagram that was put together from fragments.
    Datagram(&'a [u8]),
    /// What the packet says, and what it or fragments before it add to a TCP segment.
    Part(Part),
    /// Nothing.
    Nothing,
}

/// Meters the packets of one worker.
#[derive(Debug)]
pub struct Meter<T: FlowTable = Local> {
    table: T,
    desk: Desk,
    fragments: Fragments,
    /// See [`Settings::memory_bytes`].
    memory_bytes: usize,
    /// Events of the present frame.
    events: Vec<Event>,
}

/// All that metering needs beside the table itself.
#[derive(Debug)]
struct Desk {
    /// See [`EndedFlow::epoch`].
    epoch: u64,
    timeouts: Timeouts,
    duty: Duty,
    sessions: Sessions,
    sequences: Sequences,
    features: features::Store,
    analyses: Analyses,
    paths: Paths,
    tally: Tally,
}

impl Meter<Local> {
    /// A meter with limits for one worker (see [`Settings::share`]).
    pub fn new(settings: &Settings, crypto: &'static (dyn Crypto + Sync)) -> Self {
        let timeouts = Timeouts {
            idle: settings.idle_timeout_ns,
            active: settings.active_timeout_ns,
            since: i64::MIN,
        };
        Self::with_table(Local::new(settings.flows, timeouts), settings, crypto)
    }
}

impl<T: FlowTable> Meter<T> {
    /// A meter over the given table.
    pub fn with_table(table: T, settings: &Settings, crypto: &'static (dyn Crypto + Sync)) -> Self {
        let timeouts = Timeouts {
            idle: settings.idle_timeout_ns,
            active: settings.active_timeout_ns,
            since: i64::MIN,
        };
        let desk = Desk {
            epoch: 0,
            timeouts,
            duty: Duty::new(settings.profile, Shed::Nothing),
            sessions: Sessions::new(settings, crypto),
            sequences: Sequences::new(settings.sequence_chunks),
            features: features::Store::new(settings.memory_bytes / 2),
            analyses: Analyses::new(settings.memory_bytes / 8),
            paths: Paths::default(),
            tally: Tally::default(),
        };
        let fragments = Fragments::new(settings.datagrams, settings.datagram_bytes);
        Self {
            table,
            desk,
            fragments,
            memory_bytes: settings.memory_bytes,
            events: Vec::new(),
        }
    }

    /// From the next packet on does what the profile asks for, less what is shed.
    pub fn set_duty(&mut self, profile: Profile, shed: Shed) {
        self.desk.duty = Duty::new(profile, shed);
    }

    /// From the next packet on uses other timeouts. What they make due by now ends at `clock`, not in the past.
    pub fn set_timeouts(&mut self, idle: i64, active: i64, clock: i64) {
        self.desk.timeouts = Timeouts {
            idle,
            active,
            since: clock,
        };
        self.table.set_timeouts(self.desk.timeouts);
    }

    /// Between blocks: does a bounded part of what a change of the timeouts left to do.
    pub fn settle(&mut self) {
        self.table.settle();
        self.share_memory();
    }

    /// Flows, sequences of packets, features, analyses of TCP and sessions share one budget: each may grow into what the
    /// others do not use, but all but the flows not beyond a part of it.
    fn share_memory(&mut self) {
        let (flows, sequences, features, analyses, sessions) = (
            self.table.bytes(),
            self.desk.sequences.bytes(),
            self.desk.features.bytes(),
            self.desk.analyses.bytes(),
            self.desk.sessions.bytes(),
        );
        let free = self
            .memory_bytes
            .saturating_sub(flows + sequences + features + analyses + sessions);
        self.table.limit_growth(free);
        self.desk
            .sequences
            .limit_growth(free.min((self.memory_bytes / 8).saturating_sub(sequences)));
        self.desk
            .features
            .limit_growth(free.min((self.memory_bytes / 2).saturating_sub(features)));
        self.desk
            .analyses
            .limit_growth(free.min((self.memory_bytes / 8).saturating_sub(analyses)));
        self.desk
            .sessions
            .set_limit((sessions + free).min(self.memory_bytes / 2));
    }

    /// What was counted so far.
    pub fn tally(&self) -> &Tally {
        &self.desk.tally
    }

    /// To count what metering does not see: frames delivered, undecodable, ….
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.desk.tally
    }

    /// Flows in the table, tombstones included.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// Memory of features in bytes.
    #[cfg(test)]
    pub(crate) fn feature_bytes(&self) -> usize {
        self.desk.features.bytes()
    }

    /// Whether no flow holds memory of features.
    #[cfg(test)]
    pub(crate) fn holds_no_features(&self) -> bool {
        self.desk.features.is_empty()
    }

    /// Asks for the memory that leads to the flow of a packet of this batch.
    #[inline]
    pub fn prefetch_bucket(&self, packet: &Packet<'_>) {
        self.table.prefetch_bucket(packet.hash);
    }

    /// Asks for the memory of that flow.
    #[inline]
    pub fn prefetch_flow(&self, packet: &Packet<'_>) {
        self.table.prefetch_flow(packet.hash);
    }

    /// Asks for the rest of what the packet touches: its direction, the sequence of the flow's packets, its session.
    #[inline]
    pub fn prefetch_state(&self, packet: &Packet<'_>) {
        let Some(hot) = self.table.peek(packet.hash) else {
            return;
        };
        let reverse = hot.direction(packet) == Direction::Reverse;
        memory::ask_for(&hot.sides, usize::from(reverse));
        if packet.faults != 0 {
            self.table.prefetch_cold(packet.hash);
        }
        if hot.splt != NO_ENTRY && hot.packets() < SPLT_PACKETS as u64 {
            self.desk.sequences.prefetch(hot.splt);
        }
        if hot.layer7 != NO_ENTRY && !hot.is(Hot::LAYER7_OVER) {
            self.desk.sessions.prefetch(hot.layer7);
        }
    }

    /// Asks for the streams of that session.
    #[inline]
    pub fn prefetch_streams(&self, packet: &Packet<'_>) {
        if let Some(hot) = self.table.peek(packet.hash)
            && hot.layer7 != NO_ENTRY
            && !hot.is(Hot::LAYER7_OVER)
        {
            let fed = packet.payload_length > 0;
            self.desk.sessions.prefetch_streams(hot.layer7, fed);
        }
    }

    /// Meters a packet.
    #[inline]
    pub fn packet(&mut self, packet: &Packet<'_>, seen: Seen, sink: &mut dyn FnMut(Event)) {
        self.advance(seen.clock, sink);
        match packet.fragment {
            // A fragment that is the whole datagram (RFC 6946) is none.
            Some(fragment) if fragment.offset > 0 || fragment.more => self.fragment(packet, seen, sink),
            _ => self.meter(packet, seen, Moment::at(seen), Content::Own),
        }
        if !self.events.is_empty() {
            self.emit(sink);
        }
    }

    /// Ends what is due before `clock`.
    #[inline]
    pub fn advance(&mut self, clock: i64, sink: &mut dyn FnMut(Event)) {
        if clock > self.table.quiet_until().min(self.fragments.next_deadline()) {
            self.expire(clock, sink);
        }
    }

    /// Ends everything. What has not come to its own end is `forced_end` at `clock`.
    pub fn flush(&mut self, clock: i64, sink: &mut dyn FnMut(Event)) {
        self.advance(clock, sink);
        while !self.fragments.is_empty() {
            let waiting = self
                .fragments
                .forget_oldest(FragmentLoss::InputEnd, &mut self.desk.tally);
            self.meter_orphans(&waiting, Moment::orphans(clock));
        }
        self.emit(sink);
        let Self {
            table, desk, events, ..
        } = self;
        table.drain(|mut flow| {
            let reason = match flow.hot.phase {
                Phase::Open => EndReason::ForcedEnd,
                Phase::Lingering => EndReason::EndOfFlow,
                Phase::Tombstone => EndReason::Straggler,
            };
            desk.end(&mut flow, reason, Moment::timeout(clock), events);
            events.drain(..).for_each(&mut *sink);
        });
    }

    /// The clock was turned back, and `ended` is where it stood: ends everything as at the end of the input, and begins
    /// the epoch with an empty table.
    pub fn turn_back(&mut self, ended: i64, epoch: u64, sink: &mut dyn FnMut(Event)) {
        self.flush(ended, sink);
        self.begin_epoch(epoch);
    }

    /// What comes is of this epoch. The table must be empty.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.desk.epoch = epoch;
        // When the timeouts were last set is a moment of the epoch before.
        self.desk.timeouts.since = i64::MIN;
        self.table.set_timeouts(self.desk.timeouts);
    }

    /// The epoch of what comes.
    pub fn epoch(&self) -> u64 {
        self.desk.epoch
    }

    /// Gives everything up without records: for a worker whose state cannot be trusted any more.
    pub fn lose(self) -> Tally {
        let mut tally = self.desk.tally;
        tally.flows_lost += std::mem::take(&mut tally.flows_active);
        tally.frames_lost += std::mem::take(&mut tally.frames_waiting);
        tally.sessions_active = 0;
        tally.stream_bytes_buffered = 0;
        tally
    }

    fn expire(&mut self, clock: i64, sink: &mut dyn FnMut(Event)) {
        loop {
            let fragments_due = self.fragments.next_deadline();
            let Self {
                table, desk, events, ..
            } = self;
            table.expire(clock.min(fragments_due), |mut flow, deadline| {
                let next = desk.due(&mut flow, deadline, events);
                events.drain(..).for_each(&mut *sink);
                next
            });
            if fragments_due >= clock {
                return;
            }
            let waiting = self
                .fragments
                .forget_oldest(FragmentLoss::Timeout, &mut self.desk.tally);
            self.meter_orphans(&waiting, Moment::orphans(fragments_due));
            self.emit(sink);
        }
    }

    fn emit(&mut self, sink: &mut dyn FnMut(Event)) {
        self.events.sort_by_key(Event::order);
        self.events.drain(..).for_each(sink);
    }

    fn fragment(&mut self, packet: &Packet<'_>, seen: Seen, sink: &mut dyn FnMut(Event)) {
        self.desk.tally.fragments += 1;
        let waiting = self.fragments.make_room(&mut self.desk.tally);
        self.meter_orphans(&waiting, Moment::at(seen));
        match self.fragments.push(packet, seen, &mut self.desk.tally) {
            Verdict::Waits => {}
            Verdict::Counts {
                released,
                endpoints,
                payload,
                part,
            } => {
                let now = Moment::at(seen);
                for Waiting {
                    packet,
                    seen: earlier,
                } in &released
                {
                    let earlier = Seen {
                        clock: seen.clock,
                        ..*earlier
                    };
                    self.meter(&endpoints.claim(packet), earlier, now, Content::Nothing);
                }
                let content = match (&payload, part) {
                    (Some(datagram), _) => Content::Datagram(datagram),
                    (None, Some(part)) => Content::Part(part),
                    (None, None) if packet.key.ip_protocol == UDP => Content::Nothing,
                    (None, None) => Content::Own,
                };
                self.meter(&endpoints.claim(packet), seen, now, content);
            }
        }
        self.emit(sink);
    }

    /// Counts fragments whose first fragment did not come, for a flow with ports 0.
    fn meter_orphans(&mut self, waiting: &[Waiting], now: Moment) {
        for Waiting { packet, seen } in waiting {
            self.meter(
                packet,
                Seen {
                    clock: now.time,
                    ..*seen
                },
                now,
                Content::Nothing,
            );
        }
    }

    fn meter(&mut self, packet: &Packet<'_>, seen: Seen, now: Moment, content: Content<'_>) {
        let Self {
            table, desk, events, ..
        } = self;
        loop {
            let visit =
                |flow: Flow<'_>, fresh| ((), desk.take(flow, fresh, packet, seen, now, content, events));
            if let Err(TableFull) = table.with(&packet.key, packet.hash, visit) {
                let evicted = table.evict(|mut flow| {
                    let reason = match flow.hot.phase {
                        Phase::Tombstone => EndReason::Straggler,
                        Phase::Open | Phase::Lingering => EndReason::LackOfResources,
                    };
                    desk.end(&mut flow, reason, now, events);
                });
                assert!(evicted, "a table that is full holds a flow");
            } else {
                return;
            }
        }
    }
}

impl Desk {
    /// Takes a packet into its flow.
    #[expect(
        clippy::too_many_arguments,
        reason = "called from one place, for every packet"
    )]
    #[inline]
    fn take(
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
        let mut next = Next::Keep;
        if fresh {
            self.begin(&mut flow, packet, seen);
        } else if let Some(reason) = self.is_another(&flow, header, seen) {
            self.end(&mut flow, reason, now, events);
            *flow.hot = Hot::new(flow.hot.key, flow.hot.tag);
            self.begin(&mut flow, packet, seen);
            flow.hot.mark(Hot::PORTS_REUSED, reason != EndReason::IdleTimeout);
            next = Next::Reschedule;
        } else if flow.hot.phase == Phase::Open
            && flow.hot.packets() > 0
            && seen.time.saturating_sub(flow.hot.first()) > self.timeouts.active
        {
            self.cut(&mut flow, EndReason::ActiveTimeout, now, events);
        }

        let direction = flow.hot.direction(packet);
        // A first segment with payload starts the streams after their SYNs, whichever segment that is.
        let starts = if flow.hot.layer7 == NO_ENTRY && packet.payload_length > 0 {
            flow.hot.sides.each_ref().map(Side::stream_start)
        } else {
            [None; 2]
        };
        self.count(&mut flow, packet, direction, seen);
        let transition = header.map_or(Transition::Continue, |header| {
            if self.duty.work.has(Work::TCP) {
                self.analyse(&mut flow, direction, packet, header);
            }
            tcp::observe(&mut flow, direction, packet, header, seen.time)
        });
        if let Content::Part(part) = content {
            self.go_on(&mut flow, direction, part);
        }
        if flow.hot.phase == Phase::Tombstone {
            return next;
        }
        if flow.hot.phase == Phase::Open {
            flow.hot.seen = seen.clock;
        }
        if let Transport::Icmp { .. } = packet.transport
            && let Some(quoted) = packet.quoted()
        {
            self.tally.icmp_errors += 1;
            events.push(Event::IcmpError(IcmpError::new(quoted, self.epoch, seen)));
        }
        if self.duty.work.has(Work::LAYER7) && !flow.hot.is(Hot::LAYER7_OVER) {
            self.learn(
                &mut flow, packet, header, direction, starts, seen, content, events,
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
        let header = header.filter(|header| header.flags & tcp::SYN != 0)?;
        tcp::is_new_connection(flow, header, seen.clock).then_some(match phase {
            Phase::Open | Phase::Lingering => EndReason::EndOfFlow,
            Phase::Tombstone => EndReason::Straggler,
        })
    }

    fn begin(&mut self, flow: &mut Flow<'_>, packet: &Packet<'_>, seen: Seen) {
        flow.begin(packet, export::flow_id(&packet.key, seen.time, seen.frame));
        flow.hot.seen = seen.clock;
        flow.cold.path = self.paths.hold(packet);
        self.tally.link_paths_overflowed += u64::from(flow.cold.path == super::path::PathId::NONE);
    }

    /// Counters, statistics and sequence of packets.
    #[inline]
    fn count(&mut self, flow: &mut Flow<'_>, packet: &Packet<'_>, direction: Direction, seen: Seen) {
        self.tally.frames_metered += 1;
        let Duty { work, left_out } = self.duty;
        let hot = &mut *flow.hot;
        hot.left_out.add(left_out);
        let packets = hot.packets();
        if packets == 0 {
            self.tally.flows_opened += 1;
            self.tally.flows_active += 1;
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
        let checksums = Fault::BadIpChecksum.bit() | Fault::BadTransportChecksum.bit();
        flow.count_faults(packet.fragment, packet.faults & checksums != 0);
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
        starts: [Option<u32>; 2],
        seen: Seen,
        content: Content<'_>,
        events: &mut Vec<Event>,
    ) {
        let load = match (content, header, packet.transport) {
            (Content::Datagram(datagram), ..) => Load::Datagram(datagram),
            (Content::Own | Content::Part(_), Some(header), _) if header.flags & RST == 0 => {
                layer7::segment_of(packet, header)
            }
            (Content::Part(part), None, _) => layer7::part_of(packet, part),
            (Content::Own, _, Transport::Udp) => Load::Datagram(packet.payload),
            _ => return,
        };
        let context = Self::context(flow.hot, direction, seen.time);
        // Who gets the answer is who asked, whichever of the two was seen first.
        let (_, client) = packet.addresses();
        let Seen {
            time, clock, frame, ..
        } = seen;
        let epoch = self.epoch;
        let mut last: Option<Arc<str>> = None;
        let mut learn = |name: &str, address: Address| {
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
    fn due(&mut self, flow: &mut Flow<'_>, deadline: i64, events: &mut Vec<Event>) -> Next {
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
    fn end(&mut self, flow: &mut Flow<'_>, reason: EndReason, moment: Moment, events: &mut Vec<Event>) {
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

#[cfg(test)]
pub(crate) mod tests;
