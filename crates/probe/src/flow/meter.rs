//! Packets to ended flows: the table, fragments and layer 7 put together.

use wire::decode::Packet;
use wire::flowkey::Direction;
use wire::l7::Crypto;

use super::disregard::Trust;
use super::facts::Answer;
use super::features;
use super::fragment::{FragmentLoss, Fragments, Part, Verdict, Waiting};
use super::icmp_error::IcmpError;
use super::layer7::Sessions;
use super::memory;
use super::path::Paths;
use super::profile::{Duty, Profile, Shed};
use super::splt::{SPLT_PACKETS, Sequences};
use super::state::{Flow, Hot, NO_ENTRY, Phase, Timeouts};
use super::table::{FlowTable, Local, TableFull};
use super::tcp_analysis::Analyses;
use super::{EndReason, EndedFlow, Order, Settings};
use crate::counters::Tally;

mod desk;

use desk::Desk;

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
            trust: Trust::new(settings.knows_offload),
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

    /// Flows that the table may hold now: less than at the start where sessions and the like take the memory.
    pub fn places(&self) -> usize {
        self.table.places()
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
            // What ends at one moment leaves in order, however many datagrams are given up then.
            while self.fragments.next_deadline() == fragments_due {
                let waiting = self
                    .fragments
                    .forget_oldest(FragmentLoss::Timeout, &mut self.desk.tally);
                self.meter_orphans(&waiting, Moment::orphans(fragments_due));
            }
            self.emit(sink);
        }
    }

    fn emit(&mut self, sink: &mut dyn FnMut(Event)) {
        self.events.sort_by_key(Event::order);
        self.events.drain(..).for_each(sink);
    }

    fn fragment(&mut self, packet: &Packet<'_>, seen: Seen, sink: &mut dyn FnMut(Event)) {
        self.desk.tally.fragments += 1;
        let Desk { trust, tally, .. } = &self.desk;
        if trust.is_beyond_frame(packet, tally.frames_metered) {
            let packet = self.fragments.endpoints_of(packet).claim(packet);
            self.meter(&packet, seen, Moment::at(seen), Content::Nothing);
            self.emit(sink);
            return;
        }
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

#[cfg(test)]
pub(crate) mod tests;
