//! A lock-free histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in nanoseconds, each inclusive; what is longer goes into one more bucket. The limits of the
/// budgets (1, 10, 50 and 100 ms) are among them, so that a bucket tells exactly whether one holds.
pub const BOUNDS_NS: [u64; 19] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Buckets, with the one of what is longer than every bound.
const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// What a histogram holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// How many durations lie in each bucket (not cumulative): one for each of [`BOUNDS_NS`], and one more.
    pub counts: Vec<u64>,
    /// The sum of all durations in seconds.
    pub sum_seconds: f64,
}

impl Distribution {
    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Counts durations. Anybody may write and read; nobody waits. A reader may see a duration in its bucket that is not in
/// the sum yet.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.add_sum(ns);
    }

    /// Counts the time from each of `times` until `now`, all in UTC nanoseconds; what lies ahead counts as no time.
    /// Neighbours are mostly alike, and the atomics are touched once for all: made for the frames of a block.
    pub fn observe_since(&self, now: i64, times: impl Iterator<Item = i64>) {
        let mut counts = [0_u64; BUCKETS];
        let mut sum = 0_u64;
        let (mut low, mut high, mut place) = (1, 0, 0);
        for time in times {
            let ns = u64::try_from(now.saturating_sub(time)).unwrap_or(0);
            if !(low..=high).contains(&ns) {
                place = bucket(ns);
                low = place
                    .checked_sub(1)
                    .and_then(|before| BOUNDS_NS.get(before))
                    .map_or(0, |bound| bound + 1);
                high = BOUNDS_NS.get(place).copied().unwrap_or(u64::MAX);
            }
            counts[place] += 1;
            sum = sum.saturating_add(ns);
        }
        for (total, count) in self.counts.iter().zip(counts) {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
        self.add_sum(sum);
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        Distribution {
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect(),
            sum_seconds: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }

    fn add_sum(&self, ns: u64) {
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// The bucket of a duration.
fn bucket(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(10));
        histogram.observe(Duration::from_nanos(10_000_001));
        histogram.observe(Duration::from_secs(61));
        let read = histogram.read();
        assert_eq!((read.counts[7], read.counts[8], read.counts[19]), (1, 1, 1));
        assert_eq!(read.count(), 3);
        assert!((read.sum_seconds - 61.020_000_001).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn many_at_once_count_as_each_alone(times in prop::collection::vec(-100_000_000_000_i64..100_000_000_000, 0..64)) {
            let (together, alone) = (Histogram::default(), Histogram::default());
            together.observe_since(0, times.iter().copied());
            for time in &times {
                alone.observe(Duration::from_nanos(u64::try_from(-time).unwrap_or(0)));
            }
            prop_assert_eq!(together.read(), alone.read());
        }
    }
}
