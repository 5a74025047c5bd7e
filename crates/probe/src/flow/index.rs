//! The hash index from keys to slots.
//!
//! Open addressing with linear probing over at least twice as many buckets as entries, and removal by shifting back:
//! no tombstones, so no rehashing pause ever, and look-ups touch one cache line nearly always. The hash comes with the
//! packet and is keyed there, so that nobody outside can make entries collide.

use super::memory::{ask_for, on_huge_pages};

/// An index of at most a fixed number of entries.
#[derive(Debug)]
pub struct Index {
    /// 0 where empty; else the tag in the upper half and slot + 1 in the lower.
    buckets: Vec<u64>,
    mask: usize,
}

/// The part of a key's hash that the index keeps.
pub fn tag_of(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

impl Index {
    /// An index for `capacity` entries. The memory is reserved at once and touched as it is used.
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.saturating_mul(2).next_power_of_two().max(16);
        let index = Self {
            buckets: vec![0; buckets],
            mask: buckets - 1,
        };
        on_huge_pages(&index.buckets);
        index
    }

    /// The slot with this tag for which `is_it` holds.
    #[inline]
    pub fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut bucket = tag as usize & self.mask;
        loop {
            let entry = self.buckets[bucket];
            if entry == 0 {
                return None;
            }
            let slot = (entry as u32).wrapping_sub(1);
            if (entry >> 32) as u32 == tag && is_it(slot) {
                return Some(slot);
            }
            bucket = (bucket + 1) & self.mask;
        }
    }

    /// Asks for the bucket of a tag.
    #[inline]
    pub fn prefetch(&self, tag: u32) {
        ask_for(&self.buckets, tag as usize & self.mask);
    }

    /// The slot that [`Index::find`] will most probably look at.
    #[inline]
    pub fn candidate(&self, tag: u32) -> Option<u32> {
        let entry = self.buckets[tag as usize & self.mask];
        (entry != 0).then(|| (entry as u32).wrapping_sub(1))
    }

    /// Adds a slot that is not in the index. There must be room, which the owner of the slots sees to.
    pub fn insert(&mut self, tag: u32, slot: u32) {
        let mut bucket = tag as usize & self.mask;
        while self.buckets[bucket] != 0 {
            bucket = (bucket + 1) & self.mask;
        }
        self.buckets[bucket] = u64::from(tag) << 32 | (u64::from(slot) + 1);
    }

    /// Takes a slot out.
    pub fn remove(&mut self, tag: u32, slot: u32) {
        let wanted = u64::from(tag) << 32 | (u64::from(slot) + 1);
        let mut hole = tag as usize & self.mask;
        while self.buckets[hole] != wanted {
            if self.buckets[hole] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        // Shift back what would not be found any more across the hole (Knuth, TAOCP vol. 3, §6.4, algorithm R).
        let mut next = hole;
        loop {
            next = (next + 1) & self.mask;
            let entry = self.buckets[next];
            if entry == 0 {
                break;
            }
            let home = (entry >> 32) as usize & self.mask;
            let from_home = next.wrapping_sub(home) & self.mask;
            let from_hole = next.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.buckets[hole] = entry;
                hole = next;
            }
        }
        self.buckets[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0_u32..12, any::<bool>()), 1..200)) {
            let mut index = Index::new(12);
            let mut oracle = HashMap::new();
            for (slot, insert) in steps {
                // Few tags, and some at the end of the buckets, so that runs collide and wrap.
                let tag = ((slot % 3) * 15) | ((slot & 1) << 20);
                if insert && oracle.insert(slot, tag).is_none() {
                    index.insert(tag, slot);
                } else if !insert && oracle.remove(&slot).is_some() {
                    index.remove(tag, slot);
                }
                for slot in 0..12 {
                    let tag = ((slot % 3) * 15) | ((slot & 1) << 20);
                    let expected = oracle.contains_key(&slot).then_some(slot);
                    prop_assert_eq!(index.find(tag, |found| found == slot), expected);
                }
            }
        }
    }
}
