//! The capture threads: frames to flows to record batches, handed to the sealing threads.

use std::cell::Cell;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::Books;
use super::config::{Configuration, Follower};
use super::desk::Desk;
use super::limit::{Limit, Limited};
use super::metrics::Instruments;
use super::overflow::Overflow;
use crate::capture::cores::Place;
use crate::capture::{FileSource, Next, OwnedFrames, Source, cores};
use crate::clock;
use crate::engine::{self, ReadError, Worker};
use crate::flow::facts::SharedFacts;
use crate::flow::meter::Event;
use crate::flow::{self, EndedFlow};
use crate::seal::{Intake, Kind};

/// How often the kernel is asked what it dropped.
const ACCOUNTS_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is noted how full queue and table are.
const GAUGES_INTERVAL: Duration = Duration::from_millis(10);

/// Where sealing is behind, reading waits for it anyway: what is due need not stay open.
const NOT_BEHIND: bool = false;

/// An opened source.
pub(super) enum Opened {
    /// A live source for each worker, and the place that it runs at.
    Live(Vec<(Box<dyn Source + Send>, Option<Place>)>),
    Files(Box<FileSource>),
}

pub(super) struct Capture {
    pub flow: flow::Settings,
    pub linger: Duration,
    pub intake: Intake,
    pub books: Arc<Books>,
    pub instruments: Arc<Instruments>,
    pub configuration: Arc<Configuration>,
    /// Whether there is memory for frames beside the source's own queue.
    pub queue_can_grow: bool,
    /// Live: how many frames all workers may take together.
    pub limit: Option<Limit>,
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
        let instruments = Arc::clone(&self.instruments);
        if let Opened::Live(sources) = &source {
            // Who is told that the probe captures finds the queues' capacities in the metrics.
            for (number, (source, _)) in sources.iter().enumerate() {
                let (used, capacity) = source.queue();
                instruments.worker(number).set_queue(used, capacity);
            }
        }
        instruments.set_capturing(true);
        let problems = match source {
            Opened::Live(sources) => self.run_live(sources),
            Opened::Files(files) => self.run_files(*files),
        };
        instruments.set_capturing(false);
        problems
    }

    /// Live: each worker has a thread, a source, a flow table and a builder of its own; they share only what they learn of
    /// names.
    fn run_live(&self, sources: Vec<(Box<dyn Source + Send>, Option<Place>)>) -> Vec<String> {
        let facts = SharedFacts::new(self.flow.names, self.books.counters().merge());
        let mut problems = Vec::new();
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (number, (mut source, place)) in sources.into_iter().enumerate() {
                let facts = &facts;
                let work = move || {
                    if let Some(place) = &place
                        && let Err(error) = cores::pin(place)
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
        let mut limited;
        let source: &mut dyn Source = match &self.limit {
            Some(limit) => {
                limited = Limited::new(source, limit);
                &mut limited
            }
            None => source,
        };
        // As much further memory as the ring has.
        let further = if self.queue_can_grow { source.queue().1 } else { 0 };
        let mut source = Overflow::new(source, usize::try_from(further).unwrap_or(usize::MAX));
        let page = self.books.counters().worker(number).unwrap_or_default();
        let metrics = self.instruments.worker(number);
        let mut follower = Follower::new(&self.configuration, number);
        let number = number as u32;
        // AF_PACKET tells it; AF_XDP and libpcap do not, and have no checksum looked at.
        let share = flow::Settings {
            knows_offload: true,
            ..self.flow.share()
        };
        let mut worker = Worker::new(&share, self.flow.decoder(), page);
        let is_over = Cell::new(false);
        let mut desk = Desk::live(&self.books, &metrics, self.linger, |batch| {
            // When nothing more is captured, waiting harms nobody.
            if is_over.get() {
                self.intake.submit(Kind::Flow, batch)
            } else {
                self.intake.offer(Kind::Flow, batch)
            }
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
        let mut looked = asked;
        let problem = loop {
            let next = source.next_block(&mut |frames| {
                worker.process(frames, &mut |event| take(&mut desk, event));
                let times = frames.headers.iter().map(|header| header.time);
                metrics.processed.observe_since(clock::utc_now(), times);
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
            if follower.follow(&mut worker, &mut source) {
                desk.set_linger(follower.has().linger(self.linger));
                match (follower.has().relief.queue_grows, source.is_growing()) {
                    (true, false) => source.grow(self.instruments.memory_room() / self.flow.workers.max(1)),
                    (false, true) => source.stop_growing(),
                    _ => {}
                }
            }
            desk.close_if_due(self.intake.is_behind());
            if clock::elapsed(looked) >= GAUGES_INTERVAL {
                looked = clock::monotonic();
                let (used, capacity) = source.queue();
                metrics.set_queue(used, capacity);
                metrics.set_table(worker.flows(), worker.places());
            }
            if clock::elapsed(asked) >= ACCOUNTS_INTERVAL {
                asked = clock::monotonic();
                facts.publish();
                self.books.set_source(Some(number), source.accounts());
            }
        };
        is_over.set(true);
        worker.flush(&mut |event| take(&mut desk, event));
        self.books.set_source(Some(number), source.accounts());
        desk.close();
        problem
    }

    /// Files: every queue blocks, and nothing is dropped.
    fn run_files(self, source: FileSource) -> Vec<String> {
        let stop = Arc::clone(&self.stop);
        let mut source = source.with_end(Arc::new(move || stop.load(Ordering::Relaxed)));
        let mut problems = Vec::new();
        let metrics = self.instruments.worker(0);
        let desk = Desk::of_files(&self.books, &metrics, self.linger, |batch| {
            self.intake.submit(Kind::Flow, batch)
        });
        // The batches of a file are full, or the file is over; a pipe may be silent for as long as it likes.
        let is_stream = source.accounts().bytes_total.is_none();
        let desk = WatchedDesk::new(desk);
        let fill = |block: &mut OwnedFrames| -> Result<Next, Infallible> {
            loop {
                let next = source.fill(block);
                self.books.set_source(None, source.accounts());
                match next {
                    Ok(next) => return Ok(next),
                    // An error ends one file only.
                    Err(error) => problems.push(error.to_string()),
                }
            }
        };
        let read = thread::scope(|scope| {
            let _over = IsOver(&desk);
            if is_stream {
                let thread = thread::Builder::new().name("dpi-linger".to_owned());
                thread
                    .spawn_scoped(scope, || desk.close_what_is_due())
                    .map_err(ReadError::Thread)?;
            }
            engine::read(
                fill,
                &self.flow,
                &self.flow.decoder(),
                self.books.counters(),
                &mut |ended| {
                    desk.push(&ended);
                    ControlFlow::Continue(())
                },
            )
        });
        desk.lock().close();
        if let Err(error) = read {
            problems.push(error.to_string());
        }
        problems
    }
}

/// A desk on which somebody keeps an eye while the thread that fills it waits for bytes.
struct WatchedDesk<'a, F> {
    desk: Mutex<Desk<'a, F>>,
    /// A batch was opened, or everything is over.
    changed: Condvar,
    is_over: AtomicBool,
}

impl<'a, F: FnMut(RecordBatch) -> bool> WatchedDesk<'a, F> {
    fn new(desk: Desk<'a, F>) -> Self {
        Self {
            desk: Mutex::new(desk),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk<'a, F>> {
        // A panic ends the probe; what is on the desk then is of no use.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, ended: &EndedFlow) {
        let mut desk = self.lock();
        let was_empty = desk.due_in(NOT_BEHIND).is_none();
        desk.push(ended);
        if was_empty && desk.due_in(NOT_BEHIND).is_some() {
            self.changed.notify_one();
        }
    }

    /// Hands over each batch whose first record has waited for long enough, until all is over.
    fn close_what_is_due(&self) {
        let mut desk = self.lock();
        while !self.is_over.load(Ordering::Relaxed) {
            desk.close_if_due(NOT_BEHIND);
            desk = match desk.due_in(NOT_BEHIND) {
                None => self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed
                        .wait_timeout(desk, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

/// Says that all is over, however it ends: whoever waits for the desk would wait for ever.
struct IsOver<'a, 'b, F: FnMut(RecordBatch) -> bool>(&'b WatchedDesk<'a, F>);

impl<F: FnMut(RecordBatch) -> bool> Drop for IsOver<'_, '_, F> {
    fn drop(&mut self) {
        // Under the lock, so that it cannot be between somebody's look at it and their wait.
        let _desk = self.0.lock();
        self.0.is_over.store(true, Ordering::Relaxed);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::capture::{Accounts, CaptureError, FrameHeader, Frames};
    use crate::counters::{LedgerEntry, check_books_at_the_end};
    use crate::pipeline::fixtures::Parts;
    use wire::decode::LinkType;

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

        fn queue(&self) -> (u64, u64) {
            (0, 4096)
        }
    }

    /// Delivers a frame so many times, and ends.
    struct Counted {
        frame: &'static [u8],
        frames: u64,
        delivered: u64,
    }

    impl Source for Counted {
        fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            if self.delivered == self.frames {
                return Ok(Next::End);
            }
            let header = FrameHeader {
                time: clock::utc_now(),
                offset: 0,
                captured_length: self.frame.len() as u32,
                wire_length: self.frame.len() as u32,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: false,
                clock: None,
            };
            take(Frames {
                bytes: self.frame,
                headers: &[header],
                first_number: self.delivered + 1,
            });
            self.delivered += 1;
            Ok(Next::Block)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts {
                frames_delivered: self.delivered,
                ..Accounts::default()
            }
        }

        fn queue(&self) -> (u64, u64) {
            (0, 4096)
        }
    }

    fn capture(parts: &Parts, stop: &Arc<AtomicBool>) -> Capture {
        Capture {
            books: Arc::clone(&parts.books),
            instruments: Arc::clone(&parts.instruments),
            configuration: Arc::clone(&parts.configuration),
            queue_can_grow: false,
            limit: None,
            flow: parts.flow.clone(),
            linger: Duration::from_secs(1),
            intake: parts.sealer.intake(),
            stop: Arc::clone(stop),
        }
    }

    #[test]
    fn a_worker_that_panics_ends_the_others() {
        let parts = Parts::of_workers(2);
        let stop = Arc::new(AtomicBool::new(false));
        let source = |panics| {
            let stop = Arc::clone(&stop);
            let source: Box<dyn Source + Send> = Box::new(Endless { panics, stop });
            (source, None)
        };
        let sources = Opened::Live(vec![source(false), source(true)]);
        // Without the end of the first worker this does not return.
        assert!(catch_unwind(AssertUnwindSafe(|| capture(&parts, &stop).run(sources))).is_err());
        assert!(stop.load(Ordering::Relaxed));
        // Told before the first block: this worker had none.
        assert_eq!(parts.instruments.worker(1).queue(), (0, 4096));
        parts.sealer.finish();
    }

    /// What each source delivered, at the end.
    fn delivered(entries: &[LedgerEntry]) -> Vec<(Option<u32>, Option<u64>)> {
        let lines = entries
            .iter()
            .filter(|entry| entry.account == "source_frames_delivered");
        lines.map(|entry| (entry.worker, entry.value)).collect()
    }

    #[test]
    fn the_books_of_each_live_worker_balance_at_the_end() {
        let parts = Parts::of_workers(2);
        let source = |frames| {
            let source: Box<dyn Source + Send> = Box::new(Counted {
                frame: &[0; 14],
                frames,
                delivered: 0,
            });
            (source, None)
        };
        // A worker that ends does not stop the other one before it has taken what there is.
        let sources = Opened::Live(vec![source(5), source(900)]);
        assert!(capture(&parts, &Arc::default()).run(sources).is_empty());
        let entries = parts.books.ledger_entries();
        assert_eq!(check_books_at_the_end(&entries), Ok(()));
        assert_eq!(delivered(&entries), [(Some(0), Some(5)), (Some(1), Some(900))]);
        parts.sealer.finish();
    }

    #[test]
    fn a_wrong_checksum_of_a_live_source_is_believed() {
        // Two MAC addresses, IPv4 with a header checksum of 0, UDP without one.
        const FRAME: &[u8] = &[
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1,
            10, 0, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0,
        ];
        let parts = Parts::of_workers(1);
        let source: Box<dyn Source + Send> = Box::new(Counted {
            frame: FRAME,
            frames: 3,
            delivered: 0,
        });
        let sources = Opened::Live(vec![(source, None)]);
        assert!(capture(&parts, &Arc::default()).run(sources).is_empty());
        let entries = parts.books.ledger_entries();
        let disregarded = entries
            .iter()
            .filter(|entry| entry.account == "packets_disregarded");
        assert_eq!(disregarded.filter_map(|entry| entry.value).sum::<u64>(), 3);
        parts.sealer.finish();
    }

    #[test]
    fn the_books_of_files_balance_at_the_end() {
        let parts = Parts::of_workers(2);
        let capture_file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/corpus/dns-dig/input.pcap"
        );
        let source = FileSource::new(vec![capture_file.into()]);
        let problems = capture(&parts, &Arc::default()).run(Opened::Files(Box::new(source)));
        assert!(problems.is_empty(), "{problems:?}");
        let entries = parts.books.ledger_entries();
        assert_eq!(check_books_at_the_end(&entries), Ok(()));
        assert_eq!(delivered(&entries), [(None, Some(55))]);
        parts.sealer.finish();
    }
}
