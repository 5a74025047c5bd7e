//! The accumulators of one worker.
//!
//! A flow holds the number of its accumulator. Both accumulators and lists of bursts are boxes that are used again by
//! the next flow, so that nothing is allocated once there are enough; how many there may be follows from the memory budget.

use slab::Slab;
use wire::flowkey::Direction;

use super::Features;
use super::accumulator::{Accumulator, Bursts, Observed};
use crate::flow::splt::PoolFull;
use crate::flow::state::{Hot, NO_ENTRY};

/// What the allocator and the pool add to a box, about.
const OVERHEAD: usize = 32;

/// Memory of an accumulator in bytes, without lists of bursts.
pub const ACCUMULATOR_BYTES: usize = size_of::<Accumulator>() + OVERHEAD;

/// Memory of a list of bursts in bytes.
const BURSTS_BYTES: usize = size_of::<<Bursts as std::ops::Deref>::Target>() + OVERHEAD;

const TCP: u8 = 6;

/// Memory that can be given out.
#[derive(Debug)]
pub(super) struct Room {
    /// Boxed as they are in use: giving them back is not to copy them.
    #[expect(clippy::vec_box, reason = "the boxes are what is reused")]
    accumulators: Vec<Box<Accumulator>>,
    bursts: Vec<Bursts>,
    /// Memory of all boxes, in use or not, and how much that may be.
    bytes: usize,
    limit: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            accumulators: Vec::new(),
            bursts: Vec::new(),
            bytes: 0,
            limit,
        }
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), PoolFull> {
        let after = self.bytes.saturating_add(bytes);
        if after > self.limit {
            return Err(PoolFull);
        }
        self.bytes = after;
        Ok(())
    }

    fn accumulator(&mut self) -> Result<Box<Accumulator>, PoolFull> {
        if let Some(mut spare) = self.accumulators.pop() {
            *spare = Accumulator::default();
            return Ok(spare);
        }
        self.reserve(ACCUMULATOR_BYTES)?;
        Ok(Box::default())
    }

    /// An empty list of bursts.
    pub(super) fn bursts(&mut self) -> Result<Bursts, PoolFull> {
        if let Some(spare) = self.bursts.pop() {
            return Ok(spare);
        }
        self.reserve(BURSTS_BYTES)?;
        Ok(Bursts::default())
    }
}

/// The features of the records of one worker.
#[derive(Debug)]
pub struct Store {
    entries: Slab<Box<Accumulator>>,
    room: Room,
}

impl Store {
    /// Accumulators may take so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: Slab::new(),
            room: Room::new(limit),
        }
    }

    /// Memory in bytes, also of what was given back.
    pub fn bytes(&self) -> usize {
        self.room.bytes
    }

    /// From now on takes at most so many bytes more.
    pub fn limit_growth(&mut self, bytes: usize) {
        self.room.limit = self.room.bytes.saturating_add(bytes);
    }

    /// Whether no flow holds any.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a packet of a record into account that is not the record's first, and not yet counted in `hot`; all of them,
    /// in turn. `entry` is the flow's. Where there is no room, the record has no features.
    pub fn observe(&mut self, entry: &mut u32, hot: &Hot, packet: &Observed) -> Result<(), PoolFull> {
        if *entry == NO_ENTRY {
            let mut accumulator = self.room.accumulator()?;
            accumulator.observe(&first(hot), &mut self.room)?;
            *entry = self.entries.insert(accumulator) as u32;
        }
        let accumulator = self.entries.get_mut(*entry as usize).ok_or(PoolFull)?;
        let observed = accumulator.observe(packet, &mut self.room);
        if observed.is_err() {
            self.release(entry);
        }
        observed
    }

    /// Gives back what a flow holds; the features of its record, which has at least one packet.
    pub fn take(&mut self, entry: &mut u32, hot: &Hot) -> Option<Box<Features>> {
        let is_tcp = hot.key.ip_protocol == TCP;
        if hot.packets() == 1 {
            // The record's only packet: what there is to know of it is in its sums.
            let mut accumulator = Accumulator::default();
            accumulator.observe(&first(hot), &mut self.room).ok()?;
            return Some(Box::new(accumulator.features(is_tcp)));
        }
        let features = self.entries.get(*entry as usize)?.features(is_tcp);
        self.release(entry);
        Some(Box::new(features))
    }

    /// Gives back what a flow holds.
    #[inline]
    pub fn release(&mut self, entry: &mut u32) {
        if *entry == NO_ENTRY {
            return;
        }
        let number = std::mem::replace(entry, NO_ENTRY);
        if let Some(mut accumulator) = self.entries.try_remove(number as usize) {
            self.room.bursts.extend(accumulator.take_bursts());
            self.room.accumulators.push(accumulator);
        }
    }
}

/// The record's first packet, of which all is known as long as it is the only one.
fn first(hot: &Hot) -> Observed {
    let direction = hot.first_direction();
    let side = hot.side(direction);
    Observed {
        direction,
        time: side.first,
        payload_length: side.payload_bytes as u32,
        header_length: side.bytes.saturating_sub(side.payload_bytes) as u32,
        flags: side.flags(),
    }
}

impl Observed {
    /// What features need of a packet.
    pub fn new(packet: &wire::decode::Packet<'_>, direction: Direction, time: i64) -> Self {
        let flags = match packet.transport {
            wire::decode::Transport::Tcp(header) => header.flags,
            _ => 0,
        };
        Self {
            direction,
            time,
            payload_length: packet.payload_length,
            header_length: packet.ip_length.saturating_sub(packet.payload_length),
            flags,
        }
    }
}
