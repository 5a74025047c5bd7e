//! How long to wait after a failure: exponential, with jitter, so that many probes do not come back together.

use std::time::Duration;

/// Longest `Retry-After` that is honoured: a Core cannot put a probe to sleep for good.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// How long to wait because the Core asked for it.
pub(super) fn honoured(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
}

/// Counts failures in a row.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Something failed: how long to wait. `random` is uniform over its range; `retry_after` is what the Core asked for.
    pub(super) fn next(&mut self, random: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = self
            .min
            .saturating_mul(1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let full = doubled.min(self.max);
        let half = full / 2;
        let jittered = half
            + full
                .saturating_sub(half)
                .mul_f64(f64::from(random) / f64::from(u32::MAX));
        jittered.max(honoured(retry_after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let waits: Vec<_> = (0..12)
            .map(|_| backoff.next(u32::MAX, None).as_millis())
            .collect();
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000
            ]
        );
        backoff.reset();
        assert_eq!(backoff.next(0, None), Duration::from_millis(50));
    }

    #[test]
    fn retry_after_is_a_lower_bound_and_has_one_itself() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        assert_eq!(
            backoff.next(0, Some(Duration::from_secs(7))),
            Duration::from_secs(7)
        );
        assert_eq!(
            backoff.next(0, Some(Duration::from_secs(1 << 40))),
            MAX_RETRY_AFTER
        );
    }

    proptest! {
        #[test]
        fn waits_stay_in_the_upper_half_of_the_range(failures in 0u32..100, random: u32) {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
            for _ in 0..failures {
                backoff.next(0, None);
            }
            let full = Duration::from_millis(100).saturating_mul(2u32.saturating_pow(failures)).min(Duration::from_secs(30));
            let wait = backoff.next(random, None);
            prop_assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
    }
}
