//! Ended flows to record batches: where a worker hands its records over to be sealed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use super::Books;
use crate::clock;
use crate::flow::EndedFlow;
use crate::metrics::{Application, WorkerMetrics};
use crate::record::{Builder, Layout, Limits, RecordError};

/// A batch is closed at this many rows or bytes before compression; the sealing threads split what is still too large.
pub(super) const LIMITS: Limits = Limits {
    rows: 8192,
    bytes: 4 << 20,
};

/// How many times the linger a batch stays open while sealing is behind.
const BEHIND: u32 = 4;
/// How long it stays open then at most: no longer than a record may take to be exported (design §1).
const BEHIND_AT_MOST: Duration = Duration::from_millis(100);

/// How long the first record of a batch waits.
fn patience(linger: Duration, behind: bool) -> Duration {
    if behind {
        linger.max((linger * BEHIND).min(BEHIND_AT_MOST))
    } else {
        linger
    }
}

/// Collects ended flows into batches.
pub(super) struct Desk<'a, F> {
    builder: Builder,
    linger: Duration,
    /// When the first record of the open batch came.
    opened: Option<Instant>,
    /// Records in the open batch, as the books have them.
    building: usize,
    books: &'a Books,
    metrics: &'a WorkerMetrics,
    /// Live: when each flow of the open batch was complete, in UTC nanoseconds.
    completed: Option<Vec<i64>>,
    /// What the open batch holds of each application.
    applications: BTreeMap<&'static str, Application>,
    give: F,
}

impl<'a, F: FnMut(RecordBatch) -> bool> Desk<'a, F> {
    /// A desk whose records are told how long they took.
    pub(super) fn live(books: &'a Books, metrics: &'a WorkerMetrics, linger: Duration, give: F) -> Self {
        Self {
            completed: Some(Vec::with_capacity(LIMITS.rows)),
            ..Self::of_files(books, metrics, linger, give)
        }
    }

    /// A desk for files: their time is not now.
    pub(super) fn of_files(books: &'a Books, metrics: &'a WorkerMetrics, linger: Duration, give: F) -> Self {
        Self {
            builder: Builder::new(Layout::evidence(), LIMITS),
            linger,
            opened: None,
            building: 0,
            books,
            metrics,
            completed: None,
            applications: BTreeMap::new(),
            give,
        }
    }

    /// How long a record waits for its batch to fill.
    pub(super) fn set_linger(&mut self, linger: Duration) {
        self.linger = linger;
    }

    /// Adds a flow, and hands the batch over if it is full with it.
    pub(super) fn push(&mut self, ended: &EndedFlow) {
        let before = self.builder.rows();
        if let Some(completed) = &mut self.completed {
            completed.push(ended.export_time);
        }
        self.applications
            .entry(ended.record.app.unwrap_or_default())
            .or_default()
            .add(&ended.record);
        let batch = self
            .builder
            .push(&ended.record, ended.features.as_deref(), ended.session.as_deref());
        self.hand_over(batch, before + 1);
        if self.builder.rows() > 0 && self.opened.is_none() {
            self.opened = Some(clock::monotonic());
        }
    }

    /// How long the first record of the open batch may still wait; nothing where none is open. While sealing is `behind`,
    /// the batch would only wait on: it stays open, so that one signature covers more records the more of them there are.
    pub(super) fn due_in(&self, behind: bool) -> Option<Duration> {
        let patience = patience(self.linger, behind);
        self.opened
            .map(|opened| patience.saturating_sub(clock::elapsed(opened)))
    }

    /// Hands the batch over if its first record has waited for long enough.
    pub(super) fn close_if_due(&mut self, behind: bool) {
        if self.due_in(behind) == Some(Duration::ZERO) {
            self.close();
        }
    }

    /// Hands over what there is.
    pub(super) fn close(&mut self) {
        let rows = self.builder.rows();
        let batch = self.builder.finish();
        self.hand_over(batch, rows);
    }

    fn hand_over(&mut self, batch: Result<Option<RecordBatch>, RecordError>, rows: usize) {
        match batch {
            // Whether it is taken or dropped is counted at the intake.
            Ok(Some(batch)) => {
                (self.give)(batch);
            }
            Ok(None) => {}
            Err(error) => {
                self.books.unbuildable(rows);
                tracing::error!(%error, rows, "records are lost");
            }
        }
        let rows = self.builder.rows();
        self.books.set_building(self.building, rows);
        self.building = rows;
        if self.builder.rows() == 0 {
            self.opened = None;
            if let Some(completed) = &mut self.completed {
                let now = clock::utc_now();
                self.metrics.exported.observe_since(now, completed.drain(..));
            }
            self.metrics.add_applications(&mut self.applications);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_open_while_sealing_is_behind() {
        let ms = Duration::from_millis;
        assert_eq!(patience(ms(20), false), ms(20));
        assert_eq!(patience(ms(20), true), ms(80));
        assert_eq!(patience(ms(50), true), ms(100));
        assert_eq!(patience(ms(400), true), ms(400), "already longer");
    }
}
