//! At most so many frames of all live workers together.

use std::sync::atomic::{AtomicU64, Ordering};

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
/// handed over: they came after the end. Only the count of frames by clock still has them, for a frame does not say which
/// clock stamped it.
pub(super) struct Limited<'a> {
    source: &'a mut dyn Source,
    limit: &'a Limit,
    beyond: u64,
}

impl<'a> Limited<'a> {
    pub(super) fn new(source: &'a mut dyn Source, limit: &'a Limit) -> Self {
        Self {
            source,
            limit,
            beyond: 0,
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
            *beyond += rest.len() as u64;
            take(Frames { headers, ..frames });
        })
    }

    fn accounts(&mut self) -> Accounts {
        let mut accounts = self.source.accounts();
        accounts.frames_delivered = accounts.frames_delivered.saturating_sub(self.beyond);
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
    use crate::capture::FrameHeader;

    /// Blocks of ten frames without bytes, for ever.
    #[derive(Default)]
    struct Endless {
        delivered: u64,
    }

    impl Source for Endless {
        fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            let header = FrameHeader {
                time: 0,
                offset: 0,
                captured_length: 0,
                wire_length: 60,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: false,
            };
            take(Frames {
                bytes: &[],
                headers: &[header; 10],
                first_number: self.delivered + 1,
            });
            self.delivered += 10;
            Ok(Next::Block)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts {
                frames_delivered: self.delivered,
                ..Accounts::default()
            }
        }
    }

    #[test]
    fn all_workers_together_take_exactly_so_many() {
        let limit = Limit::new(1234);
        let taken: Vec<(u64, u64)> = std::thread::scope(|scope| {
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
                        (taken, source.accounts().frames_delivered)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().map(|(taken, _)| taken).sum::<u64>(), 1234);
        assert!(taken.iter().all(|(taken, accounted)| taken == accounted));
    }
}
