//! Layer-7 sessions of flows.
//!
//! A session is made when a flow's first payload comes, and its streams are given back as soon as nothing more is to be
//! learned; what was learned stays until the flow is exported. The memory of sessions with what they have learned and what
//! they keep of unfinished messages, and the bytes that their streams keep, are bounded; flows that find no room go
//! without, which is counted.

use slab::Slab;
use wire::column::Address;
use wire::flowkey::Direction;
use wire::l7::{Confidence, Context, Crypto, Input, Protocol, Session, Status, Visitor};

use super::fragment::Part;
use super::reassembly::{Budget, Segment, Sinks, Stop, Stream};
use super::state::NO_ENTRY;
use super::{Settings, tcp};
use crate::counters::Tally;

/// What a session with its streams takes in memory, about, without what its dissectors and its streams keep.
pub const SESSION_BYTES: usize = 1024;

/// Streams kept for the next flow.
const SPARE_STREAMS: usize = 1024;

/// Nothing (more) is to be learned, and nothing was.
const OVER: u32 = NO_ENTRY - 1;

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Layer7 {
    session: Session,
    /// TCP, while the session wants more: forward and reverse.
    streams: Option<Box<[Stream; 2]>>,
    /// Its share of [`Sessions::bytes`].
    bytes: usize,
}

/// The memory of a session: of all that it has learned and of what it keeps of unfinished messages, about.
fn weigh(session: &Session) -> usize {
    SESSION_BYTES + session.kept_bytes()
}

/// Asks for the memory of a dissector, as far as so many bytes.
struct Prefetch(usize);

/// What most packets look at of a dissector.
const FED_BYTES: usize = 512;

impl Visitor for Prefetch {
    #[inline]
    fn visit<T>(&mut self, state: &T) {
        let bytes = self.0.min(size_of::<T>());
        super::memory::ask_for_head(std::slice::from_ref(state), 0, bytes);
    }
}

/// What is fed to a session, beside its context.
#[derive(Clone, Copy, Debug)]
pub enum Load<'a> {
    /// A UDP payload.
    Datagram(&'a [u8]),
    /// A TCP segment with its acknowledgement.
    Segment(Segment<'a>, Option<u32>),
}

/// Whether layer 7 wants to see more of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It does.
    More,
    /// It never will.
    NoMore,
}

/// The sessions of one worker.
pub struct Sessions {
    entries: Slab<Layer7>,
    /// Boxed as they are in use: giving them back is not to copy them.
    #[expect(clippy::vec_box, reason = "the boxes are what is reused")]
    spare: Vec<Box<[Stream; 2]>>,
    budget: Budget,
    capacity: usize,
    /// What all sessions take in memory, about, and how much that may be.
    bytes: usize,
    limit: usize,
    crypto: &'static (dyn Crypto + Sync),
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            entries,
            spare: _,
            budget,
            capacity,
            bytes,
            limit,
            crypto: _,
        } = self;
        formatter
            .debug_struct("Sessions")
            .field("active", &entries.len())
            .field("budget", budget)
            .field("capacity", capacity)
            .field("bytes", bytes)
            .field("limit", limit)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    /// Room as the settings say.
    pub fn new(settings: &Settings, crypto: &'static (dyn Crypto + Sync)) -> Self {
        let capacity = settings.sessions.min(OVER as usize);
        Self {
            entries: Slab::new(),
            spare: Vec::new(),
            budget: Budget::new(settings.stream_bytes, settings.stream_bytes_per_direction),
            capacity,
            bytes: 0,
            limit: settings.session_bytes,
            crypto,
        }
    }

    /// Asks for the memory of a session.
    #[inline]
    pub(super) fn prefetch(&self, entry: u32) {
        if let Some(layer7) = self.entries.get(entry as usize) {
            super::memory::ask_for(std::slice::from_ref(layer7), 0);
        }
    }

    /// Asks for the streams of a session, and for its dissector if that will be `fed`.
    #[inline]
    pub(super) fn prefetch_streams(&self, entry: u32, fed: bool) {
        if let Some(layer7) = self.entries.get(entry as usize) {
            if let Some(streams) = &layer7.streams {
                super::memory::ask_for(std::slice::from_ref(&**streams), 0);
            }
            if fed {
                layer7.session.show_to(&mut Prefetch(FED_BYTES));
            }
        }
    }

    /// What all sessions take in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// From now on sessions may take so much.
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Feeds the session of a flow. `entry` is the flow's; `starts` says where each direction's stream starts, where its
    /// SYN was seen and nothing after it, for a session that begins with this; `learn` is told the names and addresses of
    /// new DNS answers, each with the direction in which it went.
    /// A flow that layer 7 wants no more of is not fed again.
    pub fn feed(
        &mut self,
        entry: &mut u32,
        load: Load<'_>,
        starts: [Option<u32>; 2],
        context: Context,
        tally: &mut Tally,
        learn: &mut dyn FnMut(Direction, &str, Address),
    ) -> Wish {
        self.open(entry, load, starts, tally);
        let (crypto, budget) = (self.crypto, &mut self.budget);
        let Some(layer7) = self.entries.get_mut(*entry as usize) else {
            return if *entry == OVER { Wish::NoMore } else { Wish::More };
        };
        // Most segments of a long flow: nothing comes of them unless something waits for what they acknowledge.
        if let (Load::Segment(segment, acknowledgement), Some(streams)) = (load, &mut layer7.streams)
            && segment.is_bare()
        {
            let [forward, reverse] = &mut **streams;
            let peer = match context.direction {
                Direction::Forward => reverse,
                Direction::Reverse => forward,
            };
            if !acknowledgement.is_some_and(|acknowledgement| peer.note(acknowledgement)) {
                return Wish::More;
            }
        }
        // Most segments without payload only acknowledge: then nothing was learned, and the session is not looked at.
        let mut fed = false;
        let result = match load {
            Load::Datagram(bytes) => {
                fed = true;
                match layer7
                    .session
                    .feed(Input::Datagram(bytes), &context, crypto)
                    .status
                {
                    Status::Need(_) => Ok(()),
                    status => Err(Stop::Reader(status)),
                }
            }
            Load::Segment(segment, acknowledgement) => {
                let Layer7 {
                    session,
                    streams: Some(streams),
                    ..
                } = layer7
                else {
                    return Wish::NoMore;
                };
                let [forward, reverse] = &mut **streams;
                let (own, peer, from_peer) = match context.direction {
                    Direction::Forward => (forward, reverse, Direction::Reverse),
                    Direction::Reverse => (reverse, forward, Direction::Forward),
                };
                // What the sender acknowledges it has received before it sent this.
                let acknowledged = acknowledgement.map_or(Ok(()), |acknowledgement| {
                    let context = Context {
                        direction: from_peer,
                        ..context
                    };
                    let feed = |input: Input<'_>| {
                        fed = true;
                        session.feed(input, &context, crypto)
                    };
                    let result = peer.acknowledge(acknowledgement, &mut Sinks { feed, budget, tally });
                    if fed {
                        let mut learn = |name: &str, address| learn(from_peer, name, address);
                        tally.names_refused += session.take_dns_addresses(&mut learn);
                    }
                    result
                });
                acknowledged.and_then(|()| {
                    let feed = |input: Input<'_>| {
                        fed = true;
                        session.feed(input, &context, crypto)
                    };
                    own.segment(segment, &mut Sinks { feed, budget, tally })
                })
            }
        };
        tally.stream_bytes_buffered = self.budget.stream_bytes() as u64;
        if result.is_ok() && !fed {
            return Wish::More;
        }
        let mut learn = |name: &str, address| learn(context.direction, name, address);
        tally.names_refused += layer7.session.take_dns_addresses(&mut learn);
        // Each time: a few bytes may bring much, such as an index into a header table.
        let weight = weigh(&layer7.session);
        let grown = weight > layer7.bytes;
        self.bytes = self.bytes - std::mem::replace(&mut layer7.bytes, weight) + weight;
        let result = if grown && self.bytes > self.limit {
            result.and(Err(Stop::Memory))
        } else {
            result
        };
        let wish = match result {
            Ok(()) => Wish::More,
            Err(stop) => {
                self.stop(entry, stop, tally);
                Wish::NoMore
            }
        };
        tally.stream_bytes_buffered = self.budget.stream_bytes() as u64;
        wish
    }

    /// The session of a flow that goes on, as it is now.
    pub fn snapshot(&self, entry: u32) -> Option<Box<Session>> {
        let session = &self.entries.get(entry as usize)?.session;
        session.protocol().map(|_| Box::new(session.clone()))
    }

    /// Takes the session of a flow that ends: it is fed what its streams still keep, and the end of both.
    pub fn close(&mut self, entry: &mut u32, context: Context, tally: &mut Tally) -> Option<Box<Session>> {
        let mut layer7 = self.entries.try_remove(std::mem::replace(entry, OVER) as usize)?;
        self.bytes -= layer7.bytes;
        // It may have rested for long, and all of it is read for the record.
        layer7.session.show_to(&mut Prefetch(usize::MAX));
        if let Some(mut streams) = layer7.streams.take() {
            for (stream, direction) in streams.iter_mut().zip([Direction::Forward, Direction::Reverse]) {
                let context = Context { direction, ..context };
                let feed = |input: Input<'_>| layer7.session.feed(input, &context, self.crypto);
                if let Err(stop) = stream.finish(&mut Sinks {
                    feed,
                    budget: &mut self.budget,
                    tally,
                }) {
                    count(stop, tally);
                    break;
                }
            }
            self.give_back(streams);
        }
        // What the streams still kept comes too late to be told of.
        let mut late = 0;
        tally.names_refused += layer7.session.take_dns_addresses(&mut |_, _| late += 1);
        tally.names_refused += late;
        tally.sessions_active = self.entries.len() as u64;
        tally.stream_bytes_buffered = self.budget.stream_bytes() as u64;
        layer7.session.protocol().map(|_| Box::new(layer7.session))
    }

    /// Makes the state of a flow, if this is the first that layer 7 may learn from.
    fn open(&mut self, entry: &mut u32, load: Load<'_>, starts: [Option<u32>; 2], tally: &mut Tally) {
        if *entry != NO_ENTRY {
            return;
        }
        let streams = match load {
            Load::Datagram([]) => return,
            Load::Datagram(_) => None,
            // What has no payload is not worth a session: where the stream starts, the flow remembers.
            Load::Segment(segment, _) if segment.length == 0 => return,
            Load::Segment(..) => {
                let mut streams = self.spare.pop().unwrap_or_default();
                for (stream, start) in streams.iter_mut().zip(starts) {
                    stream.start(start);
                }
                Some(streams)
            }
        };
        if self.entries.len() >= self.capacity || self.bytes.saturating_add(SESSION_BYTES) > self.limit {
            tally.sessions_refused += 1;
            *entry = OVER;
            return;
        }
        let mut session = Session::default();
        // The data of a SYN (RFC 7413) are the first of its stream, and the other one is yet to start.
        if let Load::Segment(Segment { syn: false, .. }, _) = load {
            for (start, direction) in starts.into_iter().zip([Direction::Forward, Direction::Reverse]) {
                if start.is_none() {
                    session.missed_start(direction);
                }
            }
        }
        let layer7 = Layer7 {
            session,
            streams,
            bytes: SESSION_BYTES,
        };
        self.bytes += SESSION_BYTES;
        *entry = self.entries.insert(layer7) as u32;
        tally.sessions_opened += 1;
        tally.sessions_active = self.entries.len() as u64;
    }

    /// The session wants no more: its streams go; the session too if nothing was learned.
    fn stop(&mut self, entry: &mut u32, stop: Stop, tally: &mut Tally) {
        count(stop, tally);
        let Some(layer7) = self.entries.get_mut(*entry as usize) else {
            return;
        };
        let learned = layer7.session.protocol().is_some();
        if let Some(streams) = layer7.streams.take() {
            self.give_back(streams);
        }
        if stop == Stop::Memory
            && let Some(layer7) = self.entries.get_mut(*entry as usize)
        {
            layer7.session.release();
            let weight = weigh(&layer7.session);
            self.bytes = self.bytes - std::mem::replace(&mut layer7.bytes, weight) + weight;
        }
        if !learned {
            self.bytes -= self.entries.remove(*entry as usize).bytes;
            *entry = OVER;
            tally.sessions_active = self.entries.len() as u64;
        }
    }

    fn give_back(&mut self, mut streams: Box<[Stream; 2]>) {
        streams
            .iter_mut()
            .for_each(|stream| stream.reset(&mut self.budget));
        if self.spare.len() < SPARE_STREAMS {
            self.spare.push(streams);
        }
    }
}

/// What a session says of its flow's protocol.
pub fn protocol_of(session: Option<&Session>) -> Option<(Protocol, Confidence)> {
    session.and_then(Session::protocol)
}

/// What a TCP packet gives to layer 7.
pub fn segment_of<'a>(packet: &wire::decode::Packet<'a>, header: &wire::decode::Tcp) -> Load<'a> {
    let segment = Segment {
        sequence: header.sequence,
        syn: header.flags & tcp::SYN != 0,
        // The FIN of a segment in fragments stands behind the last of them.
        fin: header.flags & tcp::FIN != 0 && packet.fragment.is_none(),
        payload: packet.payload,
        length: packet.payload_length,
    };
    Load::Segment(
        segment,
        (header.flags & tcp::ACK != 0).then_some(header.acknowledgement),
    )
}

/// What a further fragment of a TCP segment gives to layer 7.
pub fn part_of<'a>(packet: &wire::decode::Packet<'a>, part: Part) -> Load<'a> {
    let is_last = packet.fragment.is_some_and(|fragment| !fragment.more);
    let data_end = part.start.wrapping_add(packet.payload_length);
    let segment = Segment {
        sequence: part.start,
        syn: false,
        // The segment's FIN is the one sequence number that its data does not take.
        fin: is_last && part.end == data_end.wrapping_add(1),
        payload: packet.payload,
        length: packet.payload_length,
    };
    Load::Segment(segment, None)
}

fn count(stop: Stop, tally: &mut Tally) {
    match stop {
        Stop::Reader(Status::Malformed(reason)) => tally.sessions_malformed.add(reason, 1),
        Stop::Reader(Status::GaveUp(limit)) => tally.sessions_given_up.add(limit, 1),
        Stop::Reader(Status::Done | Status::Need(_)) => tally.sessions_done += 1,
        Stop::Memory => tally.sessions_out_of_memory += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_one_cache_line() {
        let mut entries = Slab::new();
        let place = |entries: &mut Slab<Layer7>| {
            let layer7 = Layer7 {
                session: Session::default(),
                streams: None,
                bytes: 0,
            };
            let key = entries.insert(layer7);
            std::ptr::from_ref(&entries[key]).addr()
        };
        entries.reserve(2);
        assert_eq!(place(&mut entries).abs_diff(place(&mut entries)), 64);
    }
}
