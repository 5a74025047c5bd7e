//! Frames from memory, offered at an exact rate: for benches, where neither file nor network shall be the limit.
//!
//! It behaves as a ring does: frames that are due wait in a queue of bounded size, come in blocks that are handed over
//! when they are full or half a millisecond old, and are dropped, counted, where the queue is full. Everything runs on
//! the thread that asks for blocks; what that costs is measured ([`OfferBooks::source_cpu_ns`]), so that it can be
//! taken off the cost of the probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wire::decode::LinkType;

use super::{Accounts, CaptureError, FrameHeader, Frames, Next, Source};
use crate::clock;
use crate::traffic::{Cycle, Due, Offer, OfferBooks};

/// Bytes of a block, as in the ring.
const BLOCK_BYTES: u64 = super::af_packet::RING_BLOCK_BYTES as u64;
/// Frames of a block.
const BLOCK_FRAMES: usize = 4096;
/// A block is handed over when its oldest frame has waited for so long.
const HOLD: Duration = Duration::from_micros(500);
/// How long [`Source::next_block`] waits before it says [`Next::Idle`].
const IDLE: Duration = Duration::from_millis(20);

/// A paced source of frames from memory.
pub struct MemorySource {
    offer: Offer,
    queue_bytes: u64,
    begun: Option<Begun>,
    stop: Arc<AtomicBool>,
    books: Arc<OfferBooks>,
    taken: Vec<Due>,
    headers: Vec<FrameHeader>,
}

/// When the offer began.
#[derive(Clone, Copy)]
struct Begun {
    monotonic: Instant,
    utc: i64,
}

impl MemorySource {
    /// Offers the cycle's frames from the first call of [`Source::next_block`] until `stop` is set; at most `queue_bytes`
    /// of them wait.
    pub fn new(cycle: Cycle, queue_bytes: u64, stop: Arc<AtomicBool>, books: Arc<OfferBooks>) -> Self {
        Self {
            offer: Offer::new(cycle, queue_bytes, u64::MAX, Arc::clone(&books)),
            queue_bytes,
            begun: None,
            stop,
            books,
            taken: Vec::with_capacity(BLOCK_FRAMES),
            headers: Vec::with_capacity(BLOCK_FRAMES),
        }
    }

    /// Nanoseconds since the offer began.
    fn now(begun: Begun) -> u64 {
        u64::try_from(clock::elapsed(begun.monotonic).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Hands over the oldest block.
    fn hand_over(&mut self, begun: Begun, take: &mut dyn FnMut(Frames<'_>)) {
        let first_number = self.books.frames_taken.load(Ordering::Relaxed) + 1;
        self.measured(|source| {
            source.offer.take(BLOCK_BYTES, BLOCK_FRAMES, &mut source.taken);
            source.headers.clear();
            source.headers.extend(source.taken.iter().map(|due| FrameHeader {
                // The time of the offer, not of the handing over: what was late shows.
                time: begun.utc.saturating_add_unsigned(due.at),
                offset: due.offset,
                captured_length: due.length,
                wire_length: due.length,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: false,
                clock: None,
            }));
        });
        take(Frames {
            bytes: self.offer.bytes(),
            headers: &self.headers,
            first_number,
        });
        let processed = Self::now(begun);
        for due in &self.taken {
            self.books.latencies.record(processed.saturating_sub(due.at));
        }
    }

    /// Runs something and counts its CPU time as the source's own.
    fn measured(&mut self, work: impl FnOnce(&mut Self)) {
        let before = clock::thread_cpu();
        work(self);
        let spent = clock::thread_cpu().saturating_sub(before);
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.books.source_cpu_ns.fetch_add(spent, Ordering::Relaxed);
    }
}

impl Source for MemorySource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        let begun = *self.begun.get_or_insert_with(|| Begun {
            monotonic: clock::monotonic(),
            utc: clock::utc_now(),
        });
        let called = Self::now(begun);
        loop {
            let now = Self::now(begun);
            let stopped = self.stop.load(Ordering::Relaxed);
            if !stopped {
                self.measured(|source| source.offer.advance(now));
            }
            let ripe = match self.offer.oldest() {
                None if stopped => return Ok(Next::End),
                None => self.offer.next_due().saturating_add(nanoseconds(HOLD)),
                Some(_) if stopped || self.offer.waiting() >= BLOCK_BYTES => now,
                Some(oldest) => oldest.saturating_add(nanoseconds(HOLD)),
            };
            if ripe <= now && self.offer.oldest().is_some() {
                self.hand_over(begun, take);
                return Ok(Next::Block);
            }
            if now >= called.saturating_add(nanoseconds(IDLE)) {
                return Ok(Next::Idle);
            }
            let wait = ripe.saturating_sub(now).min(nanoseconds(IDLE)).max(1_000);
            std::thread::sleep(Duration::from_nanos(wait));
        }
    }

    fn accounts(&mut self) -> Accounts {
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Accounts {
            frames_delivered: of(&self.books.frames_taken),
            kernel_drops: Some(of(&self.books.frames_dropped)),
            bytes_read: of(&self.books.bytes_taken),
            ..Accounts::default()
        }
    }

    fn queue(&self) -> (u64, u64) {
        (self.offer.waiting(), self.queue_bytes)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Settings;

    fn source(queue_bytes: u64) -> (MemorySource, Arc<AtomicBool>, Arc<OfferBooks>) {
        let settings = Settings {
            cycle_bytes: 1 << 20,
            ..Settings::default()
        };
        let (stop, books): (Arc<AtomicBool>, Arc<OfferBooks>) = (Arc::default(), Arc::default());
        let cycle = Cycle::build(&settings).expect("possible");
        (
            MemorySource::new(cycle, queue_bytes, Arc::clone(&stop), Arc::clone(&books)),
            stop,
            books,
        )
    }

    /// Takes what waits, after the stop.
    fn drain(source: &mut MemorySource) -> u64 {
        let mut frames = 0;
        while source
            .next_block(&mut |block| frames += block.headers.len() as u64)
            .expect("memory does not fail")
            != Next::End
        {}
        frames
    }

    #[test]
    fn frames_carry_the_time_of_their_offer_and_nothing_is_handed_over_early() {
        let (mut source, stop, books) = source(64 << 20);
        let (mut frames, mut last, mut number) = (0, 0, 0_u64);
        while frames < 500 {
            source
                .next_block(&mut |block| {
                    let now = clock::utc_now();
                    assert_eq!(block.first_number, number + 1);
                    number += block.headers.len() as u64;
                    for header in block.headers {
                        // The wall clock may be set meanwhile; a second is no frame's delay here.
                        assert!(header.time >= last && header.time <= now + 1_000_000_000);
                        last = header.time;
                        frames += 1;
                    }
                })
                .expect("memory does not fail");
        }
        stop.store(true, Ordering::Relaxed);
        frames += drain(&mut source);
        let accounts = source.accounts();
        assert_eq!(accounts.frames_delivered, frames);
        let offered = books.frames_offered.load(Ordering::Relaxed);
        assert_eq!(
            offered,
            accounts.frames_delivered + accounts.kernel_drops.unwrap_or(0)
        );
        let counted: u64 = books.latencies.buckets().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, frames);
    }

    #[test]
    fn a_receiver_that_does_not_come_loses_what_the_queue_cannot_hold() {
        let (mut source, stop, books) = source(20_000);
        let mut frames = 0;
        while books.frames_dropped.load(Ordering::Relaxed) == 0 {
            source
                .next_block(&mut |block| {
                    frames += block.headers.len() as u64;
                    // Longer than 100 Mbit/s need to fill the queue.
                    std::thread::sleep(Duration::from_millis(10));
                })
                .expect("memory does not fail");
        }
        stop.store(true, Ordering::Relaxed);
        frames += drain(&mut source);
        let accounts = source.accounts();
        assert_eq!(accounts.frames_delivered, frames);
        assert_eq!(
            Some(books.frames_offered.load(Ordering::Relaxed) - frames),
            accounts.kernel_drops
        );
    }
}
