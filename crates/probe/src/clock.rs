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

/// What has to be added to a time of the kernel's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds, to get UTC.
pub fn monotonic_to_utc() -> i64 {
    // Cannot fail on Linux, which always has this clock.
    let monotonic = ClockId::CLOCK_MONOTONIC
        .now()
        .map(Duration::from)
        .unwrap_or_default();
    utc_now().saturating_sub(i64::try_from(monotonic.as_nanos()).unwrap_or(i64::MAX))
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

/// So many frames in a row must be far behind the clock to turn it back in the middle of an input.
pub const FRAMES_TO_TURN_BACK: u32 = 256;

/// Input-wide packet time: the latest timestamp that any frame has carried so far.
///
/// Late frames do not turn it back, as long as they are no more behind it than its tolerance. Where time really begins
/// anew, it is turned back, and a new *epoch* begins: at the first frame of an input that is further behind (files
/// given out of order), and at the last of [`FRAMES_TO_TURN_BACK`] such frames in a row (a machine's clock that was
/// set, captures that were joined, one timestamp far in the future). A single wrong timestamp in the past does nothing.
/// All this follows from the sequence of frames alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketClock {
    now: i64,
    tolerance: i64,
    /// Frames in a row that were further behind than the tolerance.
    behind: u32,
    epoch: u64,
    ended: i64,
}

impl PacketClock {
    /// A clock for frames that may be late by `tolerance` nanoseconds.
    pub fn new(tolerance: i64) -> Self {
        Self {
            now: i64::MIN,
            tolerance,
            behind: 0,
            epoch: 0,
            ended: i64::MIN,
        }
    }

    /// Takes notice of a frame's timestamp and returns the time now.
    #[inline]
    pub fn observe(&mut self, time: i64) -> i64 {
        if time >= self.now {
            self.now = time;
            self.behind = 0;
        } else {
            self.observe_late(time);
        }
        self.now
    }

    fn observe_late(&mut self, time: i64) {
        if self.now.saturating_sub(time) <= self.tolerance {
            self.behind = 0;
            return;
        }
        self.behind += 1;
        if self.behind >= FRAMES_TO_TURN_BACK {
            self.ended = self.now;
            self.now = time;
            self.behind = 0;
            self.epoch += 1;
        }
    }

    /// The next frame is the first one of an input.
    pub fn start_input(&mut self) {
        self.behind = FRAMES_TO_TURN_BACK - 1;
    }

    /// The latest timestamp of the epoch so far; `i64::MIN` before the first.
    pub fn now(self) -> i64 {
        self.now
    }

    /// How often it was turned back.
    pub fn epoch(self) -> u64 {
        self.epoch
    }

    /// The time at the end of the epoch before this one.
    pub fn ended(self) -> i64 {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_time_never_goes_back() {
        let mut clock = PacketClock::new(10);
        clock.start_input();
        assert_eq!(clock.observe(-5), -5);
        assert_eq!(clock.observe(7), 7);
        assert_eq!(clock.observe(3), 7, "a late frame does not turn it back");
        for _ in 0..2 * FRAMES_TO_TURN_BACK {
            assert_eq!(clock.observe(-3), 7, "nor do many within the tolerance");
        }
        for round in 1..2 * FRAMES_TO_TURN_BACK {
            let late = round % FRAMES_TO_TURN_BACK != 0;
            assert_eq!(clock.observe(if late { -4 } else { 6 }), 7, "nor do single ones");
        }
        assert_eq!((clock.now(), clock.epoch()), (7, 0));
    }

    #[test]
    fn time_that_begins_anew_turns_it_back() {
        let mut clock = PacketClock::new(10);
        clock.observe(1_000);
        for _ in 1..FRAMES_TO_TURN_BACK {
            assert_eq!(clock.observe(5), 1_000);
        }
        assert_eq!(clock.observe(6), 6);
        assert_eq!((clock.now(), clock.ended(), clock.epoch()), (6, 1_000, 1));
        clock.observe(2_000);
        clock.start_input();
        assert_eq!(
            clock.observe(1_990),
            2_000,
            "an input that goes on, a little late"
        );
        clock.start_input();
        assert_eq!(clock.observe(3_000), 3_000, "one that is later");
        assert_eq!(clock.observe(-7), 3_000);
        clock.start_input();
        assert_eq!(clock.observe(i64::MIN), i64::MIN, "one that is earlier");
        assert_eq!((clock.ended(), clock.epoch()), (3_000, 2));
    }

    #[test]
    fn wall_time_is_after_this_was_written() {
        assert!(utc_now() > 1_700_000_000_000_000_000);
        assert!(elapsed(monotonic()) < Duration::from_secs(3600));
    }
}
