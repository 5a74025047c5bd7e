//! The capture threads: frames to flows to record batches, handed to the sealing thread.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use super::Books;
use crate::capture::{FileSource, Next, OwnedFrames, Source, cores};
use crate::clock;
use crate::engine::{self, Worker};
use crate::flow::facts::SharedFacts;
use crate::flow::meter::Event;
use crate::flow::{self, EndedFlow};
use crate::record::{Builder, Layout, Limits, RecordError};
use crate::seal::{Intake, Kind};

/// A batch is closed at this many rows or bytes before compression; the sealing thread halves what is still too large.
pub(super) const LIMITS: Limits = Limits {
    rows: 8192,
    bytes: 4 << 20,
};
/// How often the kernel is asked what it dropped.
const ACCOUNTS_INTERVAL: Duration = Duration::from_secs(1);

/// An opened source.
pub(super) enum Opened {
    /// A live source for each worker, and the core that it runs on.
    Live(Vec<(Box<dyn Source + Send>, Option<usize>)>),
    Files(Box<FileSource>),
}

pub(super) struct Capture {
    pub flow: flow::Settings,
    pub linger: Duration,
    pub intake: Intake,
    pub books: Arc<Books>,
    pub stop: Arc<AtomicBool>,
}

/// Ends all workers when one ends, however it does: one alone cannot tell both directions of a flow, and after a panic
/// nobody else would end the others.
struct StopAll<'a>(&'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Capture {
    /// Captures until the source ends or the stop flag is set; returns what could not be read.
    pub fn run(self, source: Opened) -> Vec<String> {
        match source {
            Opened::Live(sources) => self.run_live(sources),
            Opened::Files(files) => self.run_files(*files),
        }
    }

    /// Live: each worker has a thread, a source, a flow table and a builder of its own; they share only what they learn of
    /// names.
    fn run_live(&self, sources: Vec<(Box<dyn Source + Send>, Option<usize>)>) -> Vec<String> {
        let facts = SharedFacts::new(self.flow.names, self.books.counters().merge());
        let mut problems = Vec::new();
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (number, (mut source, core)) in sources.into_iter().enumerate() {
                let facts = &facts;
                let work = move || {
                    if let Some(core) = core
                        && let Err(error) = cores::pin(core)
                    {
                        tracing::warn!(worker = number, %error, "the worker runs wherever the scheduler puts it");
                    }
                    self.work(number, source.as_mut(), facts)
                };
                let thread = thread::Builder::new().name(format!("dpi-worker-{number}"));
                match thread.spawn_scoped(scope, work) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => {
                        problems.push(format!("worker {number} cannot start: {error}"));
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
            for worker in workers {
                match worker.join() {
                    Ok(problem) => problems.extend(problem),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        facts.publish();
        // Every ring of an interface that fails says the same.
        problems.dedup();
        problems
    }

    /// One worker, on its thread, until its source ends. Nothing here waits for a later stage.
    fn work(&self, number: usize, source: &mut dyn Source, facts: &SharedFacts) -> Option<String> {
        let _stop_all = StopAll(&self.stop);
        let page = self.books.counters().worker(number).unwrap_or_default();
        let number = number as u32;
        let mut worker = Worker::new(&self.flow.share(), self.flow.decoder(), page);
        let mut desk = Desk::new(&self.books, self.linger, |batch| {
            self.intake.offer(Kind::Flow, batch)
        });
        let take = |desk: &mut Desk<'_, _>, event| match event {
            Event::Flow(mut flow) => {
                facts.apply(&mut flow);
                desk.push(&flow);
            }
            Event::Answer(answer) => facts.learn(answer),
            Event::IcmpError(error) => facts.note(error),
        };
        let mut asked = clock::monotonic();
        let problem = loop {
            let next = source.next_block(&mut |frames| {
                worker.process(frames, &mut |event| take(&mut desk, event));
            });
            match next {
                Ok(Next::Block) => {}
                Ok(Next::Idle) => worker.advance(clock::utc_now(), &mut |event| take(&mut desk, event)),
                Ok(Next::End) => break None,
                Err(error) => {
                    // The others end while this one exports what it has.
                    self.stop.store(true, Ordering::Relaxed);
                    break Some(error.to_string());
                }
            }
            desk.close_if_due();
            if clock::elapsed(asked) >= ACCOUNTS_INTERVAL {
                asked = clock::monotonic();
                facts.publish();
                self.books.set_source(Some(number), source.accounts());
            }
        };
        worker.flush(&mut |event| take(&mut desk, event));
        self.books.set_source(Some(number), source.accounts());
        desk.close();
        problem
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
                self.books.set_source(None, source.accounts());
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
            &self.flow.decoder(),
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
    /// Records in the open batch, as the books have them.
    building: usize,
    books: &'a Books,
    give: F,
}

impl<'a, F: FnMut(RecordBatch) -> bool> Desk<'a, F> {
    fn new(books: &'a Books, linger: Duration, give: F) -> Self {
        Self {
            builder: Builder::new(Layout::evidence(), LIMITS),
            linger,
            opened: None,
            building: 0,
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
        let rows = self.builder.rows();
        self.books.set_building(self.building, rows);
        self.building = rows;
        if self.builder.rows() == 0 {
            self.opened = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::capture::{Accounts, CaptureError, Frames};
    use crate::seal::fixtures::{NOW, signer};
    use crate::seal::{Chain, Sealer, SealerSettings};
    use crate::spool::{self, Spool, SpoolSettings, WhenFull};

    /// Goes on until it is stopped, or panics at once.
    struct Endless {
        panics: bool,
        stop: Arc<AtomicBool>,
    }

    impl Source for Endless {
        fn next_block(&mut self, _: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            assert!(!self.panics, "a bug in a source");
            thread::sleep(Duration::from_millis(1));
            let stopped = self.stop.load(Ordering::Relaxed);
            Ok(if stopped { Next::End } else { Next::Idle })
        }

        fn accounts(&mut self) -> Accounts {
            Accounts::default()
        }
    }

    #[test]
    fn a_worker_that_panics_ends_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let spool = SpoolSettings {
            max_bytes: 1 << 20,
            when_full: WhenFull::DropOldest,
            sync: spool::Sync::Never,
        };
        let spool = Arc::new(Spool::open(directory.path(), spool).unwrap());
        let settings = SealerSettings {
            queue_batches: 1,
            clock: Arc::new(|| NOW * 1_000_000_000),
        };
        let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, |_| ()).unwrap();
        let flow = flow::Settings {
            workers: 2,
            ..flow::Settings::for_memory(1 << 20)
        };
        let stop = Arc::new(AtomicBool::new(false));
        let capture = Capture {
            books: Arc::new(Books::new(&flow, Arc::clone(sealer.intake().counters()), spool)),
            flow,
            linger: Duration::from_secs(1),
            intake: sealer.intake(),
            stop: Arc::clone(&stop),
        };
        let source = |panics| {
            let stop = Arc::clone(&stop);
            let source: Box<dyn Source + Send> = Box::new(Endless { panics, stop });
            (source, None)
        };
        let sources = Opened::Live(vec![source(false), source(true)]);
        // Without the end of the first worker this does not return.
        assert!(catch_unwind(AssertUnwindSafe(|| capture.run(sources))).is_err());
        assert!(stop.load(Ordering::Relaxed));
        sealer.finish();
    }
}
