//! The health thread: the probe's own books and events become signed batches like its flows.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::Books;
use crate::clock;
use crate::seal::ledger::{Event, event_batch, ledger_batch};
use crate::seal::{Intake, Kind};

pub(super) struct Health {
    pub interval: Duration,
    pub intake: Intake,
    pub books: Arc<Books>,
    pub events: Receiver<Event>,
}

impl Health {
    /// Reports every interval until `finished` is closed. Waits for the sealing threads where they are behind.
    pub fn run(&mut self, finished: &Receiver<()>) {
        let mut reported = clock::monotonic();
        loop {
            select! {
                recv(finished) -> _ => return,
                recv(self.events) -> event => match event {
                    Ok(event) => self.seal_events(&[event]),
                    // Every sender is gone.
                    Err(_) => self.events = crossbeam_channel::never(),
                },
                default(self.interval.saturating_sub(clock::elapsed(reported))) => {}
            }
            if clock::elapsed(reported) >= self.interval {
                reported = clock::monotonic();
                self.report();
            }
        }
    }

    /// Seals what is left of the events, and the books as they are now. Whoever has something to tell after this counts
    /// it as lost.
    pub fn finish(mut self) {
        let events: Vec<_> = mem::replace(&mut self.events, crossbeam_channel::never())
            .try_iter()
            .collect();
        self.seal_events(&events);
        self.report();
    }

    fn report(&self) {
        match ledger_batch(clock::utc_now(), &self.books.ledger_entries()) {
            Ok(batch) => {
                // Few and small; it waits for a place rather than leave a hole in the books.
                self.intake.submit(Kind::Ledger, batch);
            }
            Err(error) => tracing::error!(%error, "the ledger cannot be made: a bug"),
        }
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
}
