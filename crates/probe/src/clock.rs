//! The only place where the machine's clocks are read (`clippy.toml` forbids it elsewhere).
//!
//! Metering and layer 7 run on packet time, which is an argument everywhere, so that replaying a capture gives the
//! same records. What really concerns this machine (when a live flow has been silent for long enough, how old a
//! batch is, when to try a delivery again) asks here.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::ClockId;

/// UTC nanoseconds since 1970-01-01 by the machine's wall clock: comparable with the timestamps of live packets.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn utc_now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// A clock that never goes back: for intervals, rates and deadlines of this machine.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The time since `earlier`, zero if that lies ahead.
pub fn elapsed(earlier: Instant) -> Duration {
    monotonic().saturating_duration_since(earlier)
}

/// CPU time that the calling thread has used since it started.
pub fn thread_cpu() -> Duration {
    // Cannot fail on Linux, where every thread has this clock.
    ClockId::CLOCK_THREAD_CPUTIME_ID
        .now()
        .map(Duration::from)
        .unwrap_or_default()
}

/// File-wide packet time: the latest timestamp that any frame has carried so far. Late frames do not turn it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketClock(i64);

impl Default for PacketClock {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

impl PacketClock {
    /// Takes notice of a frame's timestamp and returns the time now.
    pub fn observe(&mut self, time: i64) -> i64 {
        self.0 = self.0.max(time);
        self.0
    }

    /// The latest timestamp so far; `i64::MIN` before the first.
    pub fn now(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_time_never_goes_back() {
        let mut clock = PacketClock::default();
        assert_eq!(clock.observe(-5), -5);
        assert_eq!(clock.observe(7), 7);
        assert_eq!(clock.observe(3), 7, "a late frame does not turn it back");
        assert_eq!(clock.now(), 7);
    }

    #[test]
    fn wall_time_is_after_this_was_written() {
        assert!(utc_now() > 1_700_000_000_000_000_000);
        assert!(elapsed(monotonic()) < Duration::from_secs(3600));
    }
}
