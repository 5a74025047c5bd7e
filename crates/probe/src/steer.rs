//! Which worker gets a frame.
//!
//! One rule everywhere: the symmetric hash of the inner-most IP addresses decides (`wire::decode::steering_hash`), so
//! that both directions of a flow, every fragment of its datagrams and its ICMP errors reach one worker. Frames without
//! an IP packet have no flow; the first worker counts them.

use wire::decode::steering_hash;

use crate::capture::OwnedFrames;
use crate::clock::PacketClock;

/// The worker for a steering hash: an even share of the hash's range each.
#[inline]
pub fn worker_of(hash: u64, workers: usize) -> usize {
    ((u128::from(hash) * workers as u128) >> 64) as usize
}

/// A block of frames for several workers, who share its bytes.
#[derive(Debug, Default)]
pub struct Block {
    /// The frames.
    pub frames: OwnedFrames,
    /// The file-wide packet clock at each frame: workers need it also for what frames of other workers say.
    pub clocks: Vec<i64>,
    /// The places of each worker's frames in the block.
    pub shares: Vec<Vec<u32>>,
}

impl Block {
    /// Shares the frames out, and moves the clock on.
    pub fn steer(&mut self, workers: usize, clock: &mut PacketClock) {
        let Self {
            frames,
            clocks,
            shares,
        } = self;
        clocks.clear();
        shares.resize_with(workers, Vec::new);
        shares.iter_mut().for_each(Vec::clear);
        for (place, header) in frames.headers.iter().enumerate() {
            clocks.push(clock.observe(header.time));
            let start = header.offset as usize;
            let bytes = frames
                .bytes
                .get(start..start.saturating_add(header.captured_length as usize));
            let hash = steering_hash(bytes.unwrap_or_default(), header.link_type);
            if let Some(share) = shares.get_mut(worker_of(hash, workers)) {
                share.push(place as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_has_a_worker_and_shares_are_even() {
        for workers in 1..9 {
            let mut frames = vec![0_u32; workers];
            for step in 0..9000_u64 {
                frames[worker_of(step.wrapping_mul(u64::MAX / 9000), workers)] += 1;
            }
            let even = 9000 / workers as u32;
            assert!(
                frames.iter().all(|share| share.abs_diff(even) < even / 10),
                "{frames:?}"
            );
            assert_eq!(worker_of(u64::MAX, workers), workers - 1);
        }
        assert_eq!(worker_of(0, 3), 0, "what has no IP packet is the first worker's");
    }
}
