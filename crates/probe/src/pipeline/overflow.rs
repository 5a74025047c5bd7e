//! A capture queue that grows under pressure: frames are moved from the kernel's ring into further memory.
//!
//! The kernel's ring cannot grow while it is in use. Copying a frame costs a fraction of metering it, so that a worker
//! that has fallen behind empties the ring first, and the kernel has room for what comes meanwhile. What was moved is
//! handed over before what is in the ring: the order is kept.

use std::collections::VecDeque;

use super::withheld::Withheld;
use crate::capture::bpf::Program;
use crate::capture::{Accounts, CaptureError, Frames, Next, OwnedFrames, Source};

/// Most blocks that were handed over and are kept to be filled again: while a worker is behind, one is moved for each
/// that it takes.
const SPARE_BLOCKS: usize = 4;

/// A source with further memory behind it.
pub(super) struct Overflow<'a> {
    source: &'a mut dyn Source,
    /// What was moved, oldest first.
    moved: VecDeque<OwnedFrames>,
    /// Its frames: the source counts them as handed over.
    waiting: Withheld,
    /// What it takes: frames and their headers.
    moved_bytes: usize,
    /// Blocks to fill again.
    spare: Vec<OwnedFrames>,
    /// The most bytes that it may ever take.
    most: usize,
    /// The most bytes that it may take now.
    limit: usize,
    growing: bool,
    /// What the source said when it was asked to move more.
    over: Option<Result<(), CaptureError>>,
}

impl<'a> Overflow<'a> {
    /// Of a source, with up to `most` bytes of further memory.
    pub(super) fn new(source: &'a mut dyn Source, most: usize) -> Self {
        Self {
            source,
            moved: VecDeque::new(),
            waiting: Withheld::default(),
            moved_bytes: 0,
            spare: Vec::new(),
            most,
            limit: 0,
            growing: false,
            over: None,
        }
    }

    /// From now on frames are moved when the source's own queue fills up, into `room` bytes.
    pub(super) fn grow(&mut self, room: usize) {
        self.growing = true;
        self.limit = self.most.min(room);
    }

    /// No more frames are moved. What was moved stays until it is handed over.
    pub(super) fn stop_growing(&mut self) {
        self.growing = false;
        self.spare = Vec::new();
    }

    pub(super) fn is_growing(&self) -> bool {
        self.growing
    }

    /// Keeps a block to fill it again.
    fn keep(&mut self, block: OwnedFrames) {
        if self.growing && self.spare.len() < SPARE_BLOCKS {
            self.spare.push(block);
        }
    }

    /// Moves blocks while more than half of the source's queue waits and there is room.
    fn relieve(&mut self) {
        while self.growing && self.over.is_none() && self.moved_bytes < self.limit {
            let (used, capacity) = self.source.queue();
            if used <= capacity / 2 {
                return;
            }
            let mut block = self.spare.pop().unwrap_or_default();
            block.headers.clear();
            block.bytes.clear();
            match self.source.next_block(&mut |frames| copy(frames, &mut block)) {
                Ok(Next::Block) if block.headers.is_empty() => self.keep(block),
                Ok(Next::Block) => {
                    self.moved_bytes += size(&block);
                    self.waiting.add(&block.headers);
                    self.moved.push_back(block);
                }
                Ok(Next::Idle) => return self.keep(block),
                Ok(Next::End) => self.over = Some(Ok(())),
                Err(error) => self.over = Some(Err(error)),
            }
        }
    }
}

/// What a moved block takes.
fn size(block: &OwnedFrames) -> usize {
    block.bytes.len() + size_of_val(&*block.headers)
}

/// Copies the frames of a block into an empty one, and of its bytes only theirs.
fn copy(frames: Frames<'_>, into: &mut OwnedFrames) {
    into.first_number = frames.first_number;
    into.headers.reserve_exact(frames.headers.len());
    into.bytes.reserve_exact(
        frames
            .headers
            .iter()
            .map(|header| header.captured_length as usize)
            .sum(),
    );
    for (_, header, bytes) in frames.iter() {
        let mut header = *header;
        header.offset = into.bytes.len() as u32;
        into.headers.push(header);
        into.bytes.extend_from_slice(bytes);
    }
}

impl Source for Overflow<'_> {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        self.relieve();
        if let Some(block) = self.moved.pop_front() {
            self.moved_bytes -= size(&block);
            self.waiting.remove(&block.headers);
            take(block.as_frames());
            self.keep(block);
            return Ok(Next::Block);
        }
        match self.over.take() {
            None => self.source.next_block(take),
            Some(Ok(())) => Ok(Next::End),
            Some(Err(error)) => Err(error),
        }
    }

    fn accounts(&mut self) -> Accounts {
        let mut accounts = self.source.accounts();
        self.waiting.leave_out_of(&mut accounts);
        accounts
    }

    fn queue(&self) -> (u64, u64) {
        let (used, capacity) = self.source.queue();
        let further = if self.growing {
            self.limit
        } else {
            self.moved_bytes
        };
        (used + self.moved_bytes as u64, capacity + further as u64)
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        self.source.set_filter(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{FrameClock, FrameHeader};
    use wire::decode::LinkType;

    /// What one of the ring's frames takes in further memory.
    const MOVED: usize = 100 + size_of::<FrameHeader>();

    /// Blocks of one frame of 100 bytes; the queue holds ten. The card stamps the even ones, the kernel the others.
    struct Ring {
        waiting: VecDeque<u64>,
        handed_over: u64,
    }

    impl Source for Ring {
        fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            let Some(number) = self.waiting.pop_front() else {
                return Ok(Next::End);
            };
            self.handed_over += 1;
            let mut bytes = [0xff; 120];
            bytes[20..].fill(number as u8);
            take(Frames {
                bytes: &bytes,
                headers: &[FrameHeader {
                    time: number as i64,
                    offset: 20,
                    captured_length: 100,
                    wire_length: 100,
                    link_type: LinkType::ETHERNET,
                    stripped_vlan: None,
                    checksum_offloaded: false,
                    clock: Some(FrameClock::ALL[usize::from(number % 2 == 1)].0),
                }],
                first_number: number,
            });
            Ok(Next::Block)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts {
                frames_delivered: self.handed_over,
                // They are numbered from one.
                stamped: Some([self.handed_over / 2, self.handed_over.div_ceil(2), 0]),
                ..Accounts::default()
            }
        }

        fn queue(&self) -> (u64, u64) {
            (self.waiting.len() as u64 * 100, 1000)
        }
    }

    /// The numbers of the frames of all blocks until the end, each checked for its bytes.
    fn drain(overflow: &mut Overflow<'_>, first: impl Fn(&mut Overflow<'_>)) -> Vec<u64> {
        let mut numbers = Vec::new();
        first(overflow);
        while overflow
            .next_block(&mut |frames| {
                for (number, _, bytes) in frames.iter() {
                    assert_eq!(bytes, [number as u8; 100]);
                    numbers.push(number);
                }
            })
            .unwrap()
            == Next::Block
        {
            let (accounts, came) = (overflow.accounts(), numbers.len() as u64);
            assert_eq!(accounts.frames_delivered, came);
            assert_eq!(accounts.stamped, Some([came / 2, came.div_ceil(2), 0]));
        }
        numbers
    }

    fn ring() -> Ring {
        Ring {
            waiting: (1..=10).collect(),
            handed_over: 0,
        }
    }

    #[test]
    fn without_pressure_nothing_is_moved() {
        let mut ring = ring();
        let mut overflow = Overflow::new(&mut ring, 300);
        assert_eq!(overflow.queue(), (1000, 1000));
        assert_eq!(drain(&mut overflow, |_| ()), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn under_pressure_the_ring_is_emptied_up_to_the_limit_and_the_order_kept() {
        let mut ring = ring();
        let mut overflow = Overflow::new(&mut ring, 3 * MOVED);
        overflow.grow(usize::MAX);
        let further = 3 * MOVED as u64;
        assert_eq!(overflow.queue(), (1000, 1000 + further));
        overflow.relieve();
        assert_eq!(overflow.source.queue().0, 700);
        assert_eq!(overflow.queue(), (700 + further, 1000 + further));
        let accounts = overflow.accounts();
        assert_eq!((accounts.frames_delivered, accounts.stamped), (0, Some([0; 3])));
        assert_eq!(drain(&mut overflow, |_| ()), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_is_moved_than_there_is_room_for() {
        let mut ring = ring();
        let mut overflow = Overflow::new(&mut ring, usize::MAX);
        overflow.grow(2 * MOVED);
        overflow.relieve();
        assert_eq!(overflow.source.queue().0, 800);
        assert_eq!(overflow.queue().1, 1000 + 2 * MOVED as u64);
        overflow.stop_growing();
        overflow.grow(0);
        overflow.relieve();
        assert_eq!(overflow.source.queue().0, 800);
    }

    #[test]
    fn what_was_moved_comes_out_after_the_pressure() {
        let mut ring = ring();
        let mut overflow = Overflow::new(&mut ring, usize::MAX);
        overflow.grow(usize::MAX);
        overflow.relieve();
        assert_eq!(overflow.source.queue().0, 500);
        overflow.stop_growing();
        let further = 5 * MOVED as u64;
        assert_eq!(overflow.queue(), (500 + further, 1000 + further));
        assert_eq!(drain(&mut overflow, |_| ()), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn while_it_grows_blocks_are_filled_again() {
        let mut ring = ring();
        let mut overflow = Overflow::new(&mut ring, 2 * MOVED);
        overflow.grow(usize::MAX);
        let mut take_one = || overflow.next_block(&mut |_| ()).unwrap();
        take_one();
        take_one();
        let steady = allocation_counter::measure(|| {
            take_one();
            take_one();
        });
        assert_eq!(steady.count_total, 0);
        assert!(!overflow.spare.is_empty());
        overflow.stop_growing();
        assert!(overflow.spare.is_empty());
    }
}
