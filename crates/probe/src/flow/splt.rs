//! The first packets' lengths, directions and times.
//!
//! Most flows have few packets, so that a sequence takes memory as it grows: chunks of one cache line for
//! [`CHUNK_PACKETS`] packets each, in a pool of fixed size. A flow holds the number of its latest chunk, which knows the
//! one before.

use wire::flowkey::Direction;

use super::memory::{ask_for, on_huge_pages};
use super::state::NO_ENTRY;

/// How many packets are recorded.
pub const SPLT_PACKETS: usize = 20;

/// Packets of a chunk.
pub const CHUNK_PACKETS: usize = 5;
const _: () = assert!(SPLT_PACKETS.is_multiple_of(CHUNK_PACKETS));

/// Memory of a chunk in bytes.
pub const CHUNK_BYTES: usize = size_of::<Chunk>();

/// Bits of `link` that say which packets went in reverse; the rest is the number of the chunk before.
const DIRECTION_BITS: u32 = CHUNK_PACKETS as u32;

/// Stands for no chunk in `link`.
const NO_CHUNK: u32 = u32::MAX >> DIRECTION_BITS;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Chunk {
    intervals: [u64; CHUNK_PACKETS],
    lengths: [u32; CHUNK_PACKETS],
    link: u32,
}

/// The sequence of a record, taken out of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splt {
    /// Column `splt_lengths`.
    pub lengths: Vec<u32>,
    /// Column `splt_directions`.
    pub directions: Vec<i8>,
    /// Column `splt_times_ns`.
    pub intervals: Vec<u64>,
}

/// One packet of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which way it went.
    pub direction: Direction,
    /// Its IP length in bytes.
    pub length: u32,
    /// The nanoseconds by which it is later than all before.
    pub interval: u64,
}

impl Step {
    /// Its value in column `splt_directions`.
    pub const fn sign(&self) -> i8 {
        match self.direction {
            Direction::Forward => 1,
            Direction::Reverse => -1,
        }
    }
}

/// There is no room for another chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFull;

/// The sequences of one worker.
#[derive(Debug)]
pub struct Sequences {
    chunks: Vec<Chunk>,
    /// The latest chunk that was given back; its `link` leads to the others.
    free: u32,
    used: usize,
    capacity: usize,
    /// Chunks that there may be now.
    limit: usize,
}

impl Sequences {
    /// Room for this many chunks. The memory is touched as it is used.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(NO_CHUNK as usize);
        let chunks = Vec::with_capacity(capacity);
        on_huge_pages(&chunks);
        Self {
            chunks,
            free: NO_CHUNK,
            used: 0,
            capacity,
            limit: capacity,
        }
    }

    /// Memory in bytes, also of what was given back.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES
    }

    /// From now on takes at most so many bytes more, and never more than at the start.
    pub fn limit_growth(&mut self, bytes: usize) {
        self.limit = (self.chunks.len() + bytes / CHUNK_BYTES).min(self.capacity);
    }

    /// Asks for the memory of a flow's latest chunk.
    #[inline]
    pub fn prefetch(&self, entry: u32) {
        ask_for(&self.chunks, entry as usize);
    }

    /// Adds packet number `position` of a record, from 0, at most [`SPLT_PACKETS`] of them, all in turn. `entry` is the
    /// flow's.
    #[inline]
    pub fn push(&mut self, entry: &mut u32, position: usize, step: Step) -> Result<(), PoolFull> {
        let place = position % CHUNK_PACKETS;
        if place == 0 {
            let before = if *entry == NO_ENTRY { NO_CHUNK } else { *entry };
            *entry = self.allocate(before)?;
        }
        if let Some(chunk) = self.chunks.get_mut(*entry as usize) {
            chunk.lengths[place] = step.length;
            chunk.intervals[place] = step.interval;
            chunk.link |= u32::from(step.direction == Direction::Reverse) << place;
        }
        Ok(())
    }

    /// Gives back what a flow holds; the first `packets` of it as columns.
    pub fn take(&mut self, entry: &mut u32, packets: usize) -> Option<Splt> {
        let latest = std::mem::replace(entry, NO_ENTRY);
        self.chunks.get(latest as usize)?;
        let packets = packets.min(SPLT_PACKETS);
        // Whole chunks at a time, whose size is known, and then each column at once.
        let mut lengths = [0; SPLT_PACKETS];
        let mut directions = [1; SPLT_PACKETS];
        let mut intervals = [0; SPLT_PACKETS];
        let mut number = latest;
        // The latest chunk first: the one that holds the last packet.
        let mut start = packets.saturating_sub(1) / CHUNK_PACKETS * CHUNK_PACKETS;
        while let Some(chunk) = self.chunks.get_mut(number as usize) {
            lengths[start..start + CHUNK_PACKETS].copy_from_slice(&chunk.lengths);
            intervals[start..start + CHUNK_PACKETS].copy_from_slice(&chunk.intervals);
            for (place, direction) in directions[start..start + CHUNK_PACKETS].iter_mut().enumerate() {
                *direction = 1 - 2 * (chunk.link >> place & 1) as i8;
            }
            let before = chunk.link >> DIRECTION_BITS;
            chunk.link = self.free << DIRECTION_BITS;
            self.free = number;
            self.used -= 1;
            number = before;
            start = start.saturating_sub(CHUNK_PACKETS);
        }
        Some(Splt {
            lengths: lengths[..packets].to_vec(),
            directions: directions[..packets].to_vec(),
            intervals: intervals[..packets].to_vec(),
        })
    }

    /// Whether no flow holds any.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn allocate(&mut self, before: u32) -> Result<u32, PoolFull> {
        let link = before << DIRECTION_BITS;
        self.used += 1;
        if let Some(chunk) = self.chunks.get_mut(self.free as usize) {
            let number = self.free;
            self.free = chunk.link >> DIRECTION_BITS;
            chunk.link = link;
            return Ok(number);
        }
        if self.chunks.len() >= self.limit {
            self.used -= 1;
            return Err(PoolFull);
        }
        self.chunks.push(Chunk {
            intervals: [0; CHUNK_PACKETS],
            lengths: [0; CHUNK_PACKETS],
            link,
        });
        Ok((self.chunks.len() - 1) as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(packet: usize) -> Step {
        Step {
            direction: if packet.is_multiple_of(3) {
                Direction::Reverse
            } else {
                Direction::Forward
            },
            length: 100 + packet as u32,
            interval: packet as u64,
        }
    }

    #[test]
    fn a_chunk_is_a_cache_line() {
        assert_eq!(CHUNK_BYTES, 64);
    }

    proptest! {
        /// Flows grow, end and begin in any order, and each gets back what it put in.
        #[test]
        fn what_goes_in_comes_out(turns in prop::collection::vec((0_usize..4, 0_u8..12), 1..200)) {
            let mut sequences = Sequences::new(64);
            let mut flows = [(NO_ENTRY, 0_usize); 4];
            for (flow, action) in turns {
                let (entry, packets) = &mut flows[flow];
                if action > 0 && *packets < SPLT_PACKETS {
                    prop_assert_eq!(sequences.push(entry, *packets, step(*packets)), Ok(()));
                    *packets += 1;
                } else {
                    let count = std::mem::take(packets);
                    let found = sequences.take(entry, count);
                    let steps = || (0..count).map(step);
                    let expected = (count > 0).then(|| Splt {
                        lengths: steps().map(|step| step.length).collect(),
                        directions: steps().map(|step| step.sign()).collect(),
                        intervals: steps().map(|step| step.interval).collect(),
                    });
                    prop_assert_eq!(found, expected);
                }
            }
            for (entry, packets) in &mut flows {
                sequences.take(entry, *packets);
            }
            prop_assert!(sequences.is_empty());
        }
    }

    #[test]
    fn a_full_pool_says_so_and_takes_again_what_was_given_back() {
        let mut sequences = Sequences::new(1);
        let (mut one, mut other) = (NO_ENTRY, NO_ENTRY);
        assert_eq!(sequences.push(&mut one, 0, step(0)), Ok(()));
        assert_eq!(sequences.push(&mut other, 0, step(0)), Err(PoolFull));
        assert!(other == NO_ENTRY && sequences.take(&mut other, 1).is_none());
        assert!(sequences.take(&mut one, 1).is_some());
        assert_eq!(sequences.push(&mut other, 0, step(7)), Ok(()));
        assert_eq!(sequences.take(&mut other, 1).unwrap().lengths, [107]);
    }
}
