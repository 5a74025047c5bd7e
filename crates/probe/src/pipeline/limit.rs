//! At most so many frames of all live workers together.

use std::sync::atomic::{AtomicU64, Ordering};

use super::withheld::Withheld;
use crate::capture::bpf::Program;
use crate::capture::{Accounts, CaptureError, Frames, Next, Source};

/// How many frames may still be taken, shared by the workers.
#[derive(Debug)]
pub(super) struct Limit {
    left: AtomicU64,
}

impl Limit {
    pub(super) fn new(count: u64) -> Self {
        Self {
            left: AtomicU64::new(count),
        }
    }

    fn is_reached(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Of so many frames, how many may be taken.
    fn take(&self, wanted: usize) -> usize {
        // The closure always gives a value, so that there is one before the change.
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted as u64))
            })
            .unwrap_or_default();
        usize::try_from(left).map_or(wanted, |left| left.min(wanted))
    }
}

/// A source that ends when the limit is reached. Frames beyond it, of the block in which that happens, count as never
/// handed over: they came after the end.
pub(super) struct Limited<'a> {
    source: &'a mut dyn Source,
    limit: &'a Limit,
    beyond: Withheld,
}

impl<'a> Limited<'a> {
    pub(super) fn new(source: &'a mut dyn Source, limit: &'a Limit) -> Self {
        Self {
            source,
            limit,
            beyond: Withheld::default(),
        }
    }
}

impl Source for Limited<'_> {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        if self.limit.is_reached() {
            return Ok(Next::End);
        }
        let (limit, beyond) = (self.limit, &mut self.beyond);
        self.source.next_block(&mut |frames| {
            let (headers, rest) = frames.headers.split_at(limit.take(frames.headers.len()));
            beyond.add(rest);
            take(Frames { headers, ..frames });
        })
    }

    fn accounts(&mut self) -> Accounts {
        let mut accounts = self.source.accounts();
        self.beyond.leave_out_of(&mut accounts);
        accounts
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        self.source.set_filter(filter)
    }

    fn queue(&self) -> (u64, u64) {
        self.source.queue()
    }
}

#[cfg(test)]
mod tests {
    use wire::decode::LinkType;

    use super::*;
    use crate::capture::{FrameClock, FrameHeader};

    /// Blocks of ten frames without bytes, for ever; the kernel has stamped seven of them, and the card three.
    #[derive(Default)]
    struct Endless {
        delivered: u64,
    }

    impl Source for Endless {
        fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            let stamped_by = |clock| FrameHeader {
                time: 0,
                offset: 0,
                captured_length: 0,
                wire_length: 60,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: false,
                clock: Some(clock),
            };
            let mut headers = [stamped_by(FrameClock::Kernel); 10];
            headers[7..].fill(stamped_by(FrameClock::Hardware));
            take(Frames {
                bytes: &[],
                headers: &headers,
                first_number: self.delivered + 1,
            });
            self.delivered += 10;
            Ok(Next::Block)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts {
                frames_delivered: self.delivered,
                stamped: Some([self.delivered / 10 * 3, self.delivered / 10 * 7, 0]),
                ..Accounts::default()
            }
        }
    }

    #[test]
    fn all_workers_together_take_exactly_so_many() {
        let limit = Limit::new(1234);
        let taken: Vec<(u64, Accounts)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut endless = Endless::default();
                        let mut source = Limited::new(&mut endless, &limit);
                        let mut taken = 0;
                        while source
                            .next_block(&mut |frames| taken += frames.headers.len() as u64)
                            .unwrap()
                            != Next::End
                        {}
                        (taken, source.accounts())
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().map(|(taken, _)| taken).sum::<u64>(), 1234);
        for (taken, accounts) in taken {
            assert_eq!(accounts.frames_delivered, taken);
            let [by_card, by_kernel, by_probe] = accounts.stamped.unwrap();
            assert_eq!((by_card + by_kernel, by_probe), (taken, 0));
            // Whole blocks, and the beginning of one.
            assert_eq!(by_card, taken / 10 * 3 + (taken % 10).saturating_sub(7));
        }
    }
}
