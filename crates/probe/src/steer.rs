//! Which worker gets a frame.
//!
//! One rule everywhere: the symmetric hash of the inner-most IP addresses decides (`wire::decode::steering_hash`), so
//! that both directions of a flow, every fragment of its datagrams and its ICMP errors reach one worker. Frames without
//! an IP packet have no flow; the first worker counts them. Live, the same rule runs in the kernel
//! (`capture::ebpf::steering`).

use wire::decode::steering_hash;
pub use wire::flowkey::worker_of;

use crate::capture::OwnedFrames;
use crate::clock::PacketClock;

/// A place at which the packet clock was turned back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Place of the frame in its block.
    pub place: u32,
    /// The epoch that begins with it.
    pub epoch: u64,
    /// The clock at the end of the epoch before.
    pub ended: i64,
}

/// A block of frames for several workers, who share its bytes.
#[derive(Debug, Default)]
pub struct Block {
    /// The frames.
    pub frames: OwnedFrames,
    /// The input-wide packet clock at each frame: workers need it also for what frames of other workers say.
    pub clocks: Vec<i64>,
    /// Where in the block the clock was turned back, in order.
    pub turns: Vec<Turn>,
    /// The clock after the last frame.
    pub clock: Option<PacketClock>,
    /// The places of each worker's frames in the block.
    pub shares: Vec<Vec<u32>>,
}

impl Block {
    /// Shares the frames out, and moves the clock on.
    pub fn steer(&mut self, workers: usize, clock: &mut PacketClock) {
        let Self {
            frames,
            clocks,
            turns,
            clock: after,
            shares,
        } = self;
        clocks.clear();
        turns.clear();
        if frames.starts_input {
            clock.start_input();
        }
        let mut epoch = clock.epoch();
        shares.resize_with(workers, Vec::new);
        shares.iter_mut().for_each(Vec::clear);
        for (place, header) in frames.headers.iter().enumerate() {
            clocks.push(clock.observe(header.time));
            if clock.epoch() != epoch {
                epoch = clock.epoch();
                turns.push(Turn {
                    place: place as u32,
                    epoch,
                    ended: clock.ended(),
                });
            }
            let start = header.offset as usize;
            let bytes = frames
                .bytes
                .get(start..start.saturating_add(header.captured_length as usize));
            let hash = steering_hash(bytes.unwrap_or_default(), header.link_type);
            if let Some(share) = shares.get_mut(worker_of(hash, workers)) {
                share.push(place as u32);
            }
        }
        *after = Some(*clock);
    }
}
