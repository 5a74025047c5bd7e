//! The health thread: the probe's own books and events become signed batches like its flows.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::Books;
use super::metrics::Instruments;
use super::watch::Watch;
use crate::clock;
use crate::deliver::Pressure;
use crate::seal::ledger::{Event, Severity, event_batch, ledger_batch};
use crate::seal::{Intake, Kind};
use crate::spool::OsDisk;

/// How often back-pressure and everything else that may suffer is looked at.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(100);
/// Over which time the drop rate is.
const DROPS_INTERVAL: Duration = Duration::from_secs(1);
/// Under pressure since more than the threshold; over when at or below this share of it, in percent: no flapping in between.
const RELEASE_SHARE: u64 = 80;

pub(super) struct Health {
    pub interval: Duration,
    pub intake: Intake,
    pub books: Arc<Books>,
    pub pressure: Arc<Pressure<OsDisk>>,
    pub instruments: Arc<Instruments>,
    pub events: Receiver<Event>,
    /// Of a live probe.
    pub watch: Option<Watch>,
}

impl Health {
    /// Reports every interval until `finished` is closed.
    pub fn run(&mut self, finished: &Receiver<()>) {
        let mut reported = clock::monotonic();
        let mut looked = reported;
        let mut under_pressure = false;
        loop {
            select! {
                recv(finished) -> _ => return self.drain(),
                recv(self.events) -> event => match event {
                    Ok(event) => self.seal_events(&[event]),
                    // Every sender is gone: without delivery there is none.
                    Err(_) => self.events = crossbeam_channel::never(),
                },
                default(PRESSURE_INTERVAL) => {}
            }
            under_pressure = self.look_at_pressure(under_pressure);
            if let Some(watch) = &mut self.watch {
                let events = watch.look();
                self.seal_events(&events);
            }
            if clock::elapsed(looked) >= DROPS_INTERVAL {
                looked = clock::monotonic();
                self.instruments.look_at_drops();
            }
            if clock::elapsed(reported) >= self.interval {
                reported = clock::monotonic();
                self.report();
            }
        }
    }

    /// Seals the books as they are now.
    pub fn report(&self) {
        match ledger_batch(clock::utc_now(), &self.books.ledger_entries()) {
            Ok(batch) => {
                // Few and small; it waits for a place rather than leave a hole in the books.
                self.intake.submit(Kind::Ledger, batch);
            }
            Err(error) => tracing::error!(%error, "the ledger cannot be made: a bug"),
        }
    }

    fn drain(&mut self) {
        self.seal_events(&self.events.try_iter().collect::<Vec<_>>());
    }

    fn seal_events(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        match event_batch(events) {
            Ok(batch) => {
                self.intake.submit(Kind::Event, batch);
            }
            Err(error) => tracing::error!(%error, "the event batch cannot be made: a bug"),
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
            self.seal_events(&[Event {
                time: clock::utc_now(),
                severity,
                name: event,
                detail,
            }]);
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
