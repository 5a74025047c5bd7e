//! The lookout thread: back-pressure, the drop rate and everything else that may suffer. It waits for nobody, so that a
//! probe whose disk hangs still relieves itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::metrics::Instruments;
use super::watch::Watch;
use crate::clock;
use crate::deliver::{Alarm, Pressure};
use crate::seal::ledger::{Event, Severity};
use crate::spool::OsDisk;

/// How often back-pressure and everything else that may suffer is looked at.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(100);
/// Over which time the drop rate is.
const DROPS_INTERVAL: Duration = Duration::from_secs(1);
/// Back-pressure begins above the threshold and is over at this share of it, in percent: no flapping in between.
const RELEASE_SHARE: u64 = 80;

pub(super) struct Lookout {
    pub pressure: Arc<Pressure<OsDisk>>,
    pub instruments: Arc<Instruments>,
    /// Of a live probe.
    pub watch: Option<Watch>,
    /// Takes what changed, without waiting.
    pub alarm: Alarm,
}

impl Lookout {
    /// Looks a few times a second until `finished` is closed.
    pub fn run(mut self, finished: &Receiver<()>) {
        let mut looked = clock::monotonic();
        let mut under_pressure = false;
        while finished.recv_timeout(PRESSURE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            under_pressure = self.look_at_pressure(under_pressure);
            if let Some(watch) = &mut self.watch {
                watch.look().into_iter().for_each(|event| (self.alarm)(event));
            }
            if clock::elapsed(looked) >= DROPS_INTERVAL {
                looked = clock::monotonic();
                self.instruments.look_at_drops();
            }
        }
    }

    fn look_at_pressure(&self, before: bool) -> bool {
        let outstanding = self.pressure.events_outstanding();
        let now = if before {
            outstanding > release(self.pressure.threshold())
        } else {
            self.pressure.is_under_pressure()
        };
        if now != before {
            let (event, severity) = if now {
                ("backpressure_began", Severity::Warning)
            } else {
                ("backpressure_ended", Severity::Info)
            };
            tracing::warn!(outstanding, threshold = self.pressure.threshold(), event);
            let detail = format!(
                "{outstanding} events are not acknowledged; the threshold is {}",
                self.pressure.threshold()
            );
            (self.alarm)(Event {
                time: clock::utc_now(),
                severity,
                name: event,
                detail,
            });
        }
        now
    }
}

/// Back-pressure is over with so many events or fewer.
fn release(threshold: u64) -> u64 {
    threshold.saturating_mul(RELEASE_SHARE) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_over_at_four_fifths_of_any_threshold() {
        for (threshold, expected) in [(0, 0), (1, 0), (50, 40), (199, 159), (1_000_000, 800_000)] {
            assert_eq!(release(threshold), expected);
        }
        assert!(release(u64::MAX) > 0);
    }
}
