//! The capture thread: frames to flows to record batches, handed to the sealing thread.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use wire::decode::Decoder;

use super::Books;
use crate::capture::{FileSource, Next, OwnedFrames, RingSource, Source};
use crate::clock;
use crate::engine::{self, Outlet, Worker};
use crate::flow::{self, EndedFlow};
use crate::record::{Builder, Layout, Limits, RecordError};
use crate::seal::{Intake, Kind};

/// A batch is closed at this many rows or bytes before compression; the sealing thread halves what is still too large.
const LIMITS: Limits = Limits {
    rows: 8192,
    bytes: 4 << 20,
};
/// How often the kernel is asked what it dropped.
const ACCOUNTS_INTERVAL: Duration = Duration::from_secs(1);

/// An opened source.
pub(super) enum Opened {
    Ring(Box<RingSource>),
    Files(Box<FileSource>),
}

pub(super) struct Capture {
    pub flow: flow::Settings,
    pub linger: Duration,
    pub intake: Intake,
    pub books: Arc<Books>,
    pub stop: Arc<AtomicBool>,
}

impl Capture {
    /// Captures until the source ends or the stop flag is set; returns what could not be read.
    pub fn run(self, source: Opened) -> Vec<String> {
        match source {
            Opened::Ring(mut ring) => self.run_live(ring.as_mut()),
            Opened::Files(files) => self.run_files(*files),
        }
    }

    /// One ring, one worker, on this thread. Nothing here waits for a later stage.
    fn run_live(self, source: &mut dyn Source) -> Vec<String> {
        let page = self.books.counters().worker(0).unwrap_or_default();
        let mut worker = Worker::new(&self.flow.share(), Decoder::default(), page);
        let mut outlet = Outlet::new(&self.flow, self.books.counters().merge());
        let mut desk = Desk::new(&self.books, self.linger, |batch| {
            self.intake.offer(Kind::Flow, batch)
        });
        let mut problems = Vec::new();
        let mut asked = clock::monotonic();
        loop {
            let next = source.next_block(&mut |frames| {
                worker.process(frames, &mut |event| {
                    if let Some(ended) = outlet.take(event) {
                        desk.push(&ended);
                    }
                });
            });
            match next {
                Ok(Next::Block) => {}
                Ok(Next::Idle) => worker.advance(clock::utc_now(), &mut |event| {
                    if let Some(ended) = outlet.take(event) {
                        desk.push(&ended);
                    }
                }),
                Ok(Next::End) => break,
                Err(error) => {
                    problems.push(error.to_string());
                    break;
                }
            }
            desk.close_if_due();
            if clock::elapsed(asked) >= ACCOUNTS_INTERVAL {
                asked = clock::monotonic();
                outlet.publish();
                self.books.set_source(source.accounts());
            }
        }
        worker.flush(&mut |event| {
            if let Some(ended) = outlet.take(event) {
                desk.push(&ended);
            }
        });
        outlet.publish();
        self.books.set_source(source.accounts());
        desk.close();
        problems
    }

    /// Files: every queue blocks, and nothing is dropped.
    fn run_files(self, mut source: FileSource) -> Vec<String> {
        let mut problems = Vec::new();
        let mut desk = Desk::new(&self.books, self.linger, |batch| {
            self.intake.submit(Kind::Flow, batch)
        });
        let fill = |block: &mut OwnedFrames| -> Result<Next, Infallible> {
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    block.headers.clear();
                    return Ok(Next::End);
                }
                let next = source.fill(block);
                self.books.set_source(source.accounts());
                match next {
                    Ok(next) => return Ok(next),
                    // An error ends one file only.
                    Err(error) => problems.push(error.to_string()),
                }
            }
        };
        let read = engine::read(
            fill,
            &self.flow,
            &Decoder::default(),
            self.books.counters(),
            &mut |ended| {
                desk.push(&ended);
                ControlFlow::Continue(())
            },
        );
        desk.close();
        if let Err(error) = read {
            problems.push(error.to_string());
        }
        problems
    }
}

/// Collects ended flows into batches.
struct Desk<'a, F> {
    builder: Builder,
    linger: Duration,
    /// When the first record of the open batch came.
    opened: Option<Instant>,
    books: &'a Books,
    give: F,
}

impl<'a, F: FnMut(RecordBatch) -> bool> Desk<'a, F> {
    fn new(books: &'a Books, linger: Duration, give: F) -> Self {
        Self {
            builder: Builder::new(Layout::evidence(), LIMITS),
            linger,
            opened: None,
            books,
            give,
        }
    }

    fn push(&mut self, ended: &EndedFlow) {
        let before = self.builder.rows();
        let batch = self.builder.push(&ended.record, ended.session.as_deref());
        self.hand_over(batch, before + 1);
        if self.builder.rows() > 0 && self.opened.is_none() {
            self.opened = Some(clock::monotonic());
        }
    }

    fn close_if_due(&mut self) {
        if self
            .opened
            .is_some_and(|opened| clock::elapsed(opened) >= self.linger)
        {
            self.close();
        }
    }

    fn close(&mut self) {
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
        self.books.set_building(self.builder.rows());
        if self.builder.rows() == 0 {
            self.opened = None;
        }
    }
}
