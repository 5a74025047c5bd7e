//! The canonical flow key, its direction, its keyed hash, and the symmetric hash that steers packets to workers.

use crate::column::Address;

/// Which way a packet goes relative to a flow's initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the initiator (`src`) to the responder (`dst`).
    Forward,
    /// From the responder back to the initiator.
    Reverse,
}

/// What both directions of a flow have in common: the inner-most 5-tuple with the endpoints in a fixed order,
/// and the VLAN and tunnel scope where the user asked for these to join the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The lower endpoint's address.
    pub low_address: Address,
    /// The higher endpoint's address.
    pub high_address: Address,
    /// The lower endpoint's port; 0 where the protocol has none.
    pub low_port: u16,
    /// The higher endpoint's port; 0 where the protocol has none.
    pub high_port: u16,
    /// IANA protocol number.
    pub ip_protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Hash of the VLAN ids and tunnel ids that join the key; 0 where none do.
    pub scope: u32,
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`, and whether source is the *higher* endpoint.
    pub fn new(
        ip_version: u8,
        ip_protocol: u8,
        (source, source_port): (Address, u16),
        (destination, destination_port): (Address, u16),
    ) -> (Self, bool) {
        // One comparison of integers instead of a call to memcmp.
        let swapped = (u128::from_be_bytes(source.0), source_port)
            > (u128::from_be_bytes(destination.0), destination_port);
        let ((low_address, low_port), (high_address, high_port)) = if swapped {
            ((destination, destination_port), (source, source_port))
        } else {
            ((source, source_port), (destination, destination_port))
        };
        let key = Self {
            low_address,
            high_address,
            low_port,
            high_port,
            ip_protocol,
            ip_version,
            scope: 0,
        };
        (key, swapped)
    }
}

/// The upper and lower 64 bits of an address.
fn halves(address: Address) -> (u64, u64) {
    let value = u128::from_be_bytes(address.0);
    ((value >> 64) as u64, value as u64)
}

/// One step of `SplitMix64`: stretches a seed into independent words.
const fn split_mix(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, word ^ (word >> 31))
}

/// Hashes flow keys for tables.
///
/// The NH hash (RFC 4418 §5.2) over the key's six words, then a multilinear reduction to 64 bits. Both are universal:
/// whoever does not know the seed cannot choose keys that collide more often than by chance (about 2^-63 a pair).
/// So a probe takes a random seed, live and for files: who has made a file is as little trusted. No result depends on it.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    words: [u64; 6],
    reduce: [u128; 3],
}

impl KeyHasher {
    /// A seed that everybody knows: for tests and measurements, and for packets whose hash leads to no table.
    pub const FIXED_SEED: u64 = 0;

    /// A hasher with the given seed.
    #[expect(
        clippy::indexing_slicing,
        reason = "a constant array and an index below its length"
    )]
    pub const fn new(seed: u64) -> Self {
        let mut stream = [0_u64; 12];
        let mut state = seed;
        let mut index = 0;
        while index < stream.len() {
            (state, stream[index]) = split_mix(state);
            index = index.wrapping_add(1);
        }
        let [w0, w1, w2, w3, w4, w5, r0, r1, r2, r3, r4, r5] = stream;
        Self {
            words: [w0, w1, w2, w3, w4, w5],
            reduce: [wide(r0, r1), wide(r2, r3), wide(r4, r5)],
        }
    }

    /// The hash of the whole key. All 64 bits are equally good.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let [w0, w1, w2, w3, w4, w5] = self.words;
        let (low_upper, low_lower) = halves(key.low_address);
        let (high_upper, high_lower) = halves(key.high_address);
        let tuple = u64::from(key.low_port)
            | u64::from(key.high_port) << 16
            | u64::from(key.ip_protocol) << 32
            | u64::from(key.ip_version) << 40;
        let sum = multiply(low_upper.wrapping_add(w0), low_lower.wrapping_add(w1))
            .wrapping_add(multiply(high_upper.wrapping_add(w2), high_lower.wrapping_add(w3)))
            .wrapping_add(multiply(
                tuple.wrapping_add(w4),
                u64::from(key.scope).wrapping_add(w5),
            ));
        let [upper, lower, addend] = self.reduce;
        let reduced = upper
            .wrapping_mul(sum >> 64)
            .wrapping_add(lower.wrapping_mul(u128::from(sum as u64)))
            .wrapping_add(addend);
        // A bijection keeps that bound; it breaks up the regular steps that dense keys leave in a linear function.
        finish((reduced >> 64) as u64)
    }
}

const fn wide(upper: u64, lower: u64) -> u128 {
    (upper as u128) << 64 | lower as u128
}

fn multiply(a: u64, b: u64) -> u128 {
    u128::from(a).wrapping_mul(u128::from(b))
}

/// The steering hash: symmetric, over the addresses only, never 0. It has no seed and needs nothing beyond 64-bit
/// multiplication, so that an eBPF program computes the same value.
#[inline]
pub fn steering(one: Address, other: Address) -> u64 {
    let sum = spread(one).wrapping_add(spread(other));
    finish(sum).max(1)
}

/// The worker for a steering hash: an even share of the hash's range each; what has no hash (0) is the first one's.
#[inline]
pub fn worker_of(hash: u64, workers: usize) -> usize {
    (multiply(hash, workers as u64) >> 64) as usize
}

fn spread(address: Address) -> u64 {
    let (upper, lower) = halves(address);
    finish(upper.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lower)
}

const fn finish(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn key(last: u8, port: u16) -> FlowKey {
        FlowKey::new(
            4,
            6,
            (Address::v4([10, 0, 0, last]), port),
            (Address::v4([10, 0, 1, 1]), 443),
        )
        .0
    }

    #[test]
    fn both_directions_have_one_key() {
        let one = (Address::v4([10, 0, 0, 1]), 1234);
        let other = (Address::v4([10, 0, 0, 2]), 80);
        let (forward, from_high) = FlowKey::new(4, 6, one, other);
        let (reverse, back_from_high) = FlowKey::new(4, 6, other, one);
        assert_eq!(forward, reverse);
        assert!(!from_high && back_from_high);
        let same = Address::v4([10, 0, 0, 1]);
        let (talks_to_itself, high) = FlowKey::new(4, 6, (same, 2), (same, 1));
        assert_eq!(
            (talks_to_itself.low_port, high),
            (1, true),
            "ports order equal addresses"
        );
    }

    #[test]
    fn the_hash_covers_every_part_of_the_key_and_the_seed() {
        let base = key(1, 1);
        let mut keys = vec![base];
        for change in 0..7_u8 {
            let mut key = base;
            match change {
                0 => key.low_address.0[0] ^= 1,
                1 => key.high_address.0[15] ^= 1,
                2 => key.low_port ^= 1,
                3 => key.high_port ^= 1,
                4 => key.ip_protocol = 17,
                5 => key.ip_version = 6,
                _ => key.scope = 1,
            }
            keys.push(key);
        }
        let hasher = KeyHasher::new(KeyHasher::FIXED_SEED);
        let hashes: HashSet<u64> = keys.iter().map(|key| hasher.hash(key)).collect();
        assert_eq!(hashes.len(), keys.len());
        assert_ne!(hasher.hash(&base), KeyHasher::new(1).hash(&base));
    }

    #[test]
    fn low_bits_spread_dense_keys() {
        let hasher = KeyHasher::new(KeyHasher::FIXED_SEED);
        let buckets: HashSet<u64> = (0..=255)
            .flat_map(|last| (0..16).map(move |port| key(last, port)))
            .map(|key| hasher.hash(&key) & 0xfff)
            .collect();
        // 4,096 keys into 4,096 buckets: a random function fills 63 %.
        assert!(buckets.len() > 2_400, "{}", buckets.len());
    }

    #[test]
    fn steering_is_symmetric_and_spreads() {
        let workers: Vec<u64> = (0..=255)
            .map(|last| {
                let (one, other) = (Address::v4([10, 0, 0, last]), Address::v4([192, 0, 2, 1]));
                assert_eq!(steering(one, other), steering(other, one));
                steering(one, other) % 4
            })
            .collect();
        for worker in 0..4 {
            let share = workers.iter().filter(|&&w| w == worker).count();
            assert!(
                (30..=100).contains(&share),
                "worker {worker} got {share} of 256 pairs"
            );
        }
    }

    #[test]
    fn every_hash_has_a_worker_and_shares_are_even() {
        for workers in 1..9 {
            let chosen: Vec<usize> = (0..9000_u64)
                .map(|step| worker_of(step.wrapping_mul(u64::MAX / 9000), workers))
                .collect();
            let frames: Vec<u32> = (0..workers)
                .map(|worker| chosen.iter().filter(|&&one| one == worker).count() as u32)
                .collect();
            let even = 9000 / workers as u32;
            assert!(
                frames.iter().all(|share| share.abs_diff(even) < even / 10),
                "{frames:?}"
            );
            assert_eq!(worker_of(u64::MAX, workers), workers - 1);
        }
        assert_eq!(worker_of(0, 3), 0, "what has no hash is the first worker's");
    }
}
