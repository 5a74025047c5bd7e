//! The lookout thread: back-pressure, the drop rate, everything else that may suffer, and threads that are there no more. It waits for nobody, so that a
//! probe whose disk hangs still relieves itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::metrics::{Instruments, Vital};
use super::watch::Watch;
use crate::clock;
use crate::deliver::{Alarm, Pressure};
use crate::seal::Intake;
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
    /// Tells how the sealing threads are.
    pub intake: Intake,
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
            self.look_at_threads();
        }
    }

    /// Nobody waits for these threads before the probe ends: that one panicked would not be noticed.
    fn look_at_threads(&self) {
        let threads = [
            (Vital::Seal, self.intake.has_lost_a_thread()),
            (Vital::Deliver, self.instruments.delivery_has_panicked()),
        ];
        for (thread, has_panicked) in threads {
            if !has_panicked || !self.instruments.note_panicked(thread) {
                continue;
            }
            let detail = format!(
                "a thread that {} has ended by a panic, a bug; start the probe again",
                thread.meaning()
            );
            tracing::error!(event = "thread_panicked", "{detail}");
            (self.alarm)(Event {
                time: clock::utc_now(),
                severity: Severity::Error,
                name: "thread_panicked",
                detail,
            });
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
    use std::sync::Mutex;

    use super::*;
    use crate::metrics::Value;
    use crate::pipeline::fixtures::Parts;
    use crate::seal::Kind;
    use crate::seal::fixtures::{batch, clock_that_ends_the_thread};

    #[test]
    fn a_sealing_thread_that_panicked_is_told_once() {
        let parts = Parts::with_clock(clock_that_ends_the_thread());
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&told);
        let lookout = Lookout {
            pressure: Arc::clone(&parts.pressure),
            instruments: Arc::clone(&parts.instruments),
            watch: None,
            intake: parts.sealer.intake(),
            alarm: Arc::new(move |event: Event| events.lock().unwrap().push(event)),
        };
        lookout.look_at_threads();
        assert_eq!(*told.lock().unwrap(), []);
        assert!(lookout.intake.submit(Kind::Flow, batch(3, 0)));
        while !lookout.intake.has_lost_a_thread() {
            std::thread::yield_now();
        }
        lookout.look_at_threads();
        lookout.look_at_threads();
        let told = told.lock().unwrap();
        assert_eq!((told.len(), told[0].name), (1, "thread_panicked"));
        assert!(told[0].detail.contains("seals"), "{}", told[0].detail);
        let families = parts.instruments.families();
        let family = families
            .iter()
            .find(|family| family.metric.name == "dpi_probe_thread_panicked");
        let shown: Vec<_> = family
            .unwrap()
            .samples
            .iter()
            .map(|sample| &sample.value)
            .collect();
        assert!(
            matches!(shown[..], [Value::Number(1.0), Value::Number(0.0)]),
            "{shown:?}"
        );
    }

    #[test]
    fn pressure_is_over_at_four_fifths_of_any_threshold() {
        for (threshold, expected) in [(0, 0), (1, 0), (50, 40), (199, 159), (1_000_000, 800_000)] {
            assert_eq!(release(threshold), expected);
        }
        assert!(release(u64::MAX) > 0);
    }
}
