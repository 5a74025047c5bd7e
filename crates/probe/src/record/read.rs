//! From ended flows to record batches on another thread.
//!
//! **In**: a job that pushes ended flows into a [`Feed`], on a thread of its own.
//! **Out**: record batches, at most [`QUEUE`] waiting: a slow reader slows the job, and nothing is dropped.
//! **Owns**: the thread, the queue, and what is told while it runs ([`Shared`]).
//! **Never**: blocks after it was cancelled; a reader that goes away ends the job at its next flow or block.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Builder, Layout, Limits, RecordError};
use crate::capture::Accounts;
use crate::counters::Counters;
use crate::flow::EndedFlow;

/// Batches that wait for their reader.
pub const QUEUE: usize = 4;

/// What is known of a reading while it runs and after it.
#[derive(Debug)]
pub struct Shared {
    stop: AtomicBool,
    end_inputs: AtomicBool,
    bytes_read: AtomicU64,
    frames: AtomicU64,
    filtered: AtomicU64,
    source: Mutex<Accounts>,
    problems: Mutex<Vec<String>>,
    failure: Mutex<Option<String>>,
    counters: Counters,
}

impl Shared {
    /// Nothing has been read yet; the job counts on `counters`.
    pub fn new(counters: Counters) -> Self {
        Self {
            stop: AtomicBool::new(false),
            end_inputs: AtomicBool::new(false),
            bytes_read: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            source: Mutex::default(),
            problems: Mutex::default(),
            failure: Mutex::default(),
            counters,
        }
    }

    /// The books, at any moment.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the reader has gone away: the job ends as soon as it sees it.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells the job to end.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Tells the job to take no further frames and to deliver what it has, as at the end of the inputs.
    pub fn end_inputs(&self) {
        self.end_inputs.store(true, Ordering::Relaxed);
    }

    /// Whether no further frames are wanted.
    pub fn inputs_ended(&self) -> bool {
        self.end_inputs.load(Ordering::Relaxed) || self.stopped()
    }

    /// Notes how far the inputs have been read, and how many frames were taken from them.
    pub fn advance(&self, accounts: Accounts, frames: u64) {
        self.bytes_read.store(accounts.bytes_read, Ordering::Relaxed);
        self.frames.store(frames, Ordering::Relaxed);
        self.filtered
            .store(accounts.frames_filtered.unwrap_or(0), Ordering::Relaxed);
        *lock(&self.source) = accounts;
    }

    /// The books of the inputs so far.
    pub fn source(&self) -> Accounts {
        lock(&self.source).clone()
    }

    /// Frames that the filter passed over.
    pub fn filtered(&self) -> u64 {
        self.filtered.load(Ordering::Relaxed)
    }

    /// Bytes of the inputs read so far (compressed bytes where they are), and frames taken from them.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.bytes_read.load(Ordering::Relaxed),
            self.frames.load(Ordering::Relaxed),
        )
    }

    /// Notes what could not be read: one line that names the input.
    pub fn problem(&self, text: String) {
        lock(&self.problems).push(text);
    }

    /// What could not be read so far.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.problems).clone()
    }

    /// Notes what ended the job before its end. The first one counts.
    pub fn fail(&self, text: String) {
        lock(&self.failure).get_or_insert(text);
    }

    /// What ended the job before its end.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }
}

/// A poisoned lock only guards values that are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reader went away: the job should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Where a job puts ended flows.
pub struct Feed {
    builder: Builder,
    batches: Sender<RecordBatch>,
    shared: Arc<Shared>,
}

impl Feed {
    /// What is shared with the reader.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Adds a flow. Blocks while the queue is full.
    pub fn push(&mut self, ended: &EndedFlow) -> Result<(), Stopped> {
        let full = self
            .builder
            .push(&ended.record, ended.features.as_deref(), ended.session.as_deref());
        self.hand_over(full)
    }

    /// Hands over the last batch.
    fn finish(&mut self) -> Result<(), Stopped> {
        let last = self.builder.finish();
        self.hand_over(last)
    }

    fn hand_over(&mut self, batch: Result<Option<RecordBatch>, RecordError>) -> Result<(), Stopped> {
        if self.shared.stopped() {
            return Err(Stopped);
        }
        match batch {
            Ok(None) => Ok(()),
            // Fails only when the reader is gone.
            Ok(Some(batch)) => self.batches.send(batch).map_err(|_| Stopped),
            Err(error) => {
                self.shared.fail(error.to_string());
                Err(Stopped)
            }
        }
    }
}

/// What [`Reading::next`] found.
#[derive(Clone, Debug)]
pub enum Step {
    /// The next batch.
    Batch(RecordBatch),
    /// None within the time given.
    Wait,
    /// There will be no more.
    End,
}

/// A job that runs on its own thread, and the batches that come out of it.
#[derive(Debug)]
pub struct Reading {
    schema: SchemaRef,
    batches: Receiver<RecordBatch>,
    shared: Arc<Shared>,
}

impl Reading {
    /// Starts the job. A panic in it is reported as its failure.
    pub fn start(
        layout: Layout,
        limits: Limits,
        shared: Arc<Shared>,
        job: impl FnOnce(&mut Feed) -> Result<(), Stopped> + Send + 'static,
    ) -> std::io::Result<Self> {
        let schema = layout.full_schema();
        let (sender, batches) = crossbeam_channel::bounded(QUEUE);
        let feed = Feed {
            builder: Builder::new(layout, limits),
            batches: sender,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("dpi-read".to_owned())
            .spawn(move || {
                // Moved in here, so that the queue closes when the thread ends, however it ends.
                let mut feed = feed;
                let guard = FailOnPanic(Arc::clone(&feed.shared));
                // `Stopped` needs no word: either the reader went away, or the failure is noted.
                if job(&mut feed).is_ok() && feed.finish().is_err() {
                    feed.shared.cancel();
                }
                drop(guard);
            })?;
        Ok(Self {
            schema,
            batches,
            shared,
        })
    }

    /// The schema of the batches if all protocols occur; with a fixed set that of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// What is known of the reading.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The next batch, waiting for at most `patience`.
    pub fn next(&self, patience: Duration) -> Step {
        match self.batches.recv_timeout(patience) {
            Ok(batch) => Step::Batch(batch),
            Err(RecvTimeoutError::Timeout) => Step::Wait,
            Err(RecvTimeoutError::Disconnected) => Step::End,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The thread is not waited for: it may sit in a read of standard input. It ends at its next step.
        self.shared.cancel();
    }
}

struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0
                .fail("the reading thread panicked; please report this".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowRecord;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn ended(flow_id: u64) -> EndedFlow {
        EndedFlow {
            epoch: 0,
            export_time: 0,
            closing_frame: u64::MAX,
            scope: 0,
            record: FlowRecord {
                flow_id,
                ..FlowRecord::default()
            },
            features: None,
            session: None,
        }
    }

    fn start(job: impl FnOnce(&mut Feed) -> Result<(), Stopped> + Send + 'static) -> Reading {
        let limits = Limits {
            rows: 10,
            bytes: usize::MAX,
        };
        let shared = Arc::new(Shared::new(Counters::new(1)));
        Reading::start(Layout::evidence(), limits, shared, job).unwrap()
    }

    fn rows(reading: &Reading) -> usize {
        let mut rows = 0;
        loop {
            match reading.next(PATIENCE) {
                Step::Batch(batch) => rows += batch.num_rows(),
                Step::End => return rows,
                Step::Wait => panic!("nothing came"),
            }
        }
    }

    #[test]
    fn every_flow_comes_out_though_the_queue_is_short() {
        let reading = start(|feed| (0..1234).try_for_each(|id| feed.push(&ended(id))));
        assert_eq!(rows(&reading), 1234);
        assert_eq!(reading.shared().failure(), None);
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_job() {
        let (told, ended_with) = crossbeam_channel::bounded(1);
        let reading = start(move |feed| {
            let result = (0..).try_for_each(|id| feed.push(&ended(id)));
            told.send(result).unwrap();
            result
        });
        assert!(matches!(reading.next(PATIENCE), Step::Batch(_)));
        drop(reading);
        assert_eq!(ended_with.recv_timeout(PATIENCE), Ok(Err(Stopped)));
    }

    #[test]
    fn a_panic_is_told_and_earlier_batches_are_delivered() {
        let reading = start(|feed| {
            (0..25).try_for_each(|id| feed.push(&ended(id)))?;
            panic!("on purpose");
        });
        assert_eq!(rows(&reading), 20);
        let failure = reading.shared().failure().unwrap();
        assert!(failure.contains("panicked"), "{failure}");
    }
}
