//! When frames are due, and what becomes of those that wait.
//!
//! The schedule runs on by the clock whether anybody takes frames or not. A frame that is due joins a queue of bounded
//! size, as it would in a NIC's or the kernel's ring; where the queue is full it is dropped and counted. Latency counts
//! from the moment at which a frame was due, so that a receiver that falls behind cannot hide it by slowing the sender
//! ("coordinated omission").

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Cycle;

/// Buckets of each power of two.
const PARTS: u64 = 8;
/// Powers of two, from 1 ns to 584 years.
const POWERS: usize = 64;

/// Durations in nanoseconds, in buckets whose bounds lie an eighth of a power of two apart: a quantile is off by at
/// most 12.5 %. One writer, any number of readers.
#[derive(Debug)]
pub struct Latencies {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: (0..POWERS * PARTS as usize).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }
}

fn bucket(ns: u64) -> usize {
    if ns < PARTS {
        return ns as usize;
    }
    let power = u64::from(ns.ilog2());
    ((power - 2) * PARTS + (ns >> (power - 3)) - PARTS) as usize
}

/// The largest duration of a bucket.
fn bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let power = bucket / PARTS + 2;
    let next = u128::from(bucket % PARTS + PARTS + 1) << (power - 3);
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

impl Latencies {
    /// Counts a duration. Only one thread may write.
    pub fn record(&self, ns: u64) {
        if let Some(count) = self.counts.get(bucket(ns)) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.sum.store(
            self.sum.load(Ordering::Relaxed).wrapping_add(ns),
            Ordering::Relaxed,
        );
    }

    /// The sum of all durations in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The buckets that are not empty: the longest duration that goes into one, and how many did.
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        self.counts
            .iter()
            .enumerate()
            .map(|(bucket, count)| (bound(bucket), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// What was offered, and what became of it. Cumulative.
#[derive(Debug, Default)]
pub struct OfferBooks {
    /// Frames that were due.
    pub frames_offered: AtomicU64,
    /// Their bytes.
    pub bytes_offered: AtomicU64,
    /// Frames that were handed over.
    pub frames_taken: AtomicU64,
    /// Their bytes.
    pub bytes_taken: AtomicU64,
    /// Frames that found the queue full.
    pub frames_dropped: AtomicU64,
    /// Bytes that wait in the queue.
    pub bytes_waiting: AtomicU64,
    /// CPU time in nanoseconds that the source itself took: schedule, queue and patching.
    pub source_cpu_ns: AtomicU64,
    /// From the moment at which a frame was due to the end of its processing (memory), or to its sending (interface).
    pub latencies: Latencies,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// A frame that was taken out of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it was due, in nanoseconds since the offer began.
    pub at: u64,
    /// Where its bytes start in [`Offer::bytes`].
    pub offset: u32,
    /// How many they are.
    pub length: u32,
}

/// Frames next to each other that wait.
#[derive(Clone, Copy, Debug)]
struct Run {
    round: u64,
    next: usize,
    end: usize,
}

/// A cycle on a schedule, with a queue.
#[derive(Debug)]
pub struct Offer {
    cycle: Cycle,
    round: u64,
    next: usize,
    queue: VecDeque<Run>,
    waiting: u64,
    capacity: u64,
    /// No flow begins from here on, in nanoseconds since the offer began.
    end: u64,
    books: Arc<OfferBooks>,
}

impl Offer {
    /// A schedule whose queue holds at most `capacity` bytes, and on which no flow begins after `end` nanoseconds.
    pub fn new(cycle: Cycle, capacity: u64, end: u64, books: Arc<OfferBooks>) -> Self {
        Self {
            cycle,
            round: 0,
            next: 0,
            queue: VecDeque::new(),
            waiting: 0,
            capacity,
            end,
            books,
        }
    }

    /// The frames' bytes. Those of a frame hold until the next call of [`Self::take`].
    pub fn bytes(&self) -> &[u8] {
        self.cycle.bytes()
    }

    /// A frame that was taken last.
    pub fn frame(&self, due: &Due) -> &[u8] {
        let start = due.offset as usize;
        let end = start + due.length as usize;
        self.bytes().get(start..end).unwrap_or_default()
    }

    /// Whether every flow has come to its end.
    pub fn is_over(&self) -> bool {
        let period = self.cycle.shape().period_ns;
        self.queue.is_empty()
            && self.end != u64::MAX
            && self.round > self.end / period + self.cycle.laps() + 1
    }

    /// When the next frame is due, in nanoseconds since the offer began.
    pub fn next_due(&self) -> u64 {
        self.due(self.round, self.next)
    }

    /// When the oldest frame that waits was due.
    pub fn oldest(&self) -> Option<u64> {
        self.queue.front().map(|run| self.due(run.round, run.next))
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    fn due(&self, round: u64, index: usize) -> u64 {
        let position = self.cycle.slots().get(index).map_or(0, |slot| slot.position);
        round
            .saturating_mul(self.cycle.shape().period_ns)
            .saturating_add(position)
    }

    /// Lets what is due at `now` join the queue.
    pub fn advance(&mut self, now: u64) {
        let (mut frames, mut bytes, mut dropped) = (0, 0, 0);
        let slots = self.cycle.slots();
        let period = self.cycle.shape().period_ns;
        let mut run: Option<Run> = None;
        loop {
            let start = self.round.saturating_mul(period);
            if start > now {
                break;
            }
            let Some(slot) = slots.get(self.next) else {
                self.queue.extend(run.take());
                self.round += 1;
                self.next = 0;
                continue;
            };
            if start + slot.position > now {
                break;
            }
            let index = self.next;
            self.next += 1;
            if !self.cycle.occupied(slot, self.round, self.end) {
                self.queue.extend(run.take());
                continue;
            }
            let length = u64::from(slot.length);
            frames += 1;
            bytes += length;
            if self.waiting + length > self.capacity {
                dropped += 1;
                self.queue.extend(run.take());
                continue;
            }
            self.waiting += length;
            match &mut run {
                Some(run) => run.end = index + 1,
                None => {
                    run = Some(Run {
                        round: self.round,
                        next: index,
                        end: index + 1,
                    });
                }
            }
        }
        self.queue.extend(run);
        add(&self.books.frames_offered, frames);
        add(&self.books.bytes_offered, bytes);
        add(&self.books.frames_dropped, dropped);
    }

    /// Takes frames out of the queue, oldest first, as long as they fit `bytes` and `frames` (one at least), and gives
    /// them their clients.
    pub fn take(&mut self, bytes: u64, frames: usize, taken: &mut Vec<Due>) {
        taken.clear();
        let mut sum = 0;
        while let Some(run) = self.queue.front_mut() {
            let (round, index) = (run.round, run.next);
            let Some(slot) = self.cycle.slots().get(index).copied().filter(|_| index < run.end) else {
                self.queue.pop_front();
                continue;
            };
            let length = u64::from(slot.length);
            if !taken.is_empty() && (sum + length > bytes || taken.len() >= frames) {
                break;
            }
            // A slot whose bytes are handed out already would change under the hands of whoever has them.
            if taken.first().is_some_and(|first| slot.offset <= first.offset) {
                break;
            }
            run.next += 1;
            sum += length;
            self.cycle.patch(index, round);
            taken.push(Due {
                at: self.due(round, index),
                offset: slot.offset,
                length: slot.length,
            });
        }
        self.waiting -= sum;
        add(&self.books.frames_taken, taken.len() as u64);
        add(&self.books.bytes_taken, sum);
        self.books.bytes_waiting.store(self.waiting, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Settings;
    use proptest::prelude::*;

    fn offer(capacity: u64, end: u64) -> Offer {
        let settings = Settings {
            cycle_bytes: 1 << 20,
            ..Settings::default()
        };
        let cycle = Cycle::build(&settings).expect("possible");
        Offer::new(cycle, capacity, end, Arc::default())
    }

    fn balance(offer: &Offer) -> (u64, u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (
            of(&offer.books.frames_offered),
            of(&offer.books.frames_taken),
            of(&offer.books.frames_dropped),
        )
    }

    #[test]
    fn everything_that_is_offered_is_taken_or_dropped() {
        let mut offer = offer(100_000, u64::MAX);
        let mut taken = Vec::new();
        let mut last = 0;
        for step in 1..400_u64 {
            // Every tenth time the receiver is late.
            offer.advance(step * if step % 10 == 0 { 4_000_000 } else { 3_000_000 });
            for _ in 0..3 {
                offer.take(32_768, 64, &mut taken);
                for due in &taken {
                    assert!(due.at >= last && due.at <= step * 4_000_000);
                    last = due.at;
                }
            }
        }
        while offer.waiting() > 0 {
            offer.take(32_768, 64, &mut taken);
        }
        let (offered, took, dropped) = balance(&offer);
        assert_eq!(offered, took + dropped);
        assert!(took > 1000 && dropped > 0, "{took} taken, {dropped} dropped");
    }

    #[test]
    fn an_offer_with_an_end_brings_every_flow_to_its_end() {
        let mut offer = offer(u64::MAX, 200_000_000);
        let mut taken = Vec::new();
        let mut now = 0;
        while !offer.is_over() {
            now += 10_000_000;
            offer.advance(now);
            offer.take(u64::MAX, usize::MAX, &mut taken);
            assert!(now < 60_000_000_000, "it does not end");
        }
        let shape = offer.cycle.shape();
        let (offered, took, dropped) = balance(&offer);
        assert_eq!((offered, dropped), (took, 0));
        let expected = shape.frames as f64 * 200e6 / shape.period_ns as f64;
        assert!(
            (took as f64 / expected - 1.0).abs() < 0.5,
            "{took} frames, some {expected} expected"
        );
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_goes_into_it(ns in any::<u64>()) {
            let place = bucket(ns);
            prop_assert!(place < POWERS * PARTS as usize);
            prop_assert!(ns <= bound(place));
            prop_assert!(place == 0 || ns > bound(place - 1));
            prop_assert!(bound(place) as f64 <= ns as f64 * 1.126 + 1.0);
        }
    }
}
