//! Frames to ended flows in export order, with one worker or several.
//!
//! **In**: blocks of frames of a capture file, or of a ring. **Out**: [`EndedFlow`]s in the order of
//! [`crate::flow::Order`], names from DNS answers applied. **Owns**: workers, their queues and threads. **Never**: drops
//! a frame of a file (queues block), or keeps more than a few blocks and a few hundred flows between the stages.
//!
//! With one worker everything runs on the caller's thread. With more, one thread reads and steers, each worker has a
//! thread, and the caller's thread merges:
//!
//! ```text
//! read + steer ──▶ every worker gets every block, and meters its share ──▶ merge in order ──▶ facts ──▶ sink
//! ```
//!
//! The output is the same, byte for byte, with any number of workers: each worker's events come in order, a worker
//! says after each block how far it has got, and the merge gives an event out when every worker has got beyond it. Only
//! where a memory limit is hit (evictions, streams, sessions) may results differ, because each worker has its own share;
//! the counters tell whether that happened.
//!
//! It cannot come to a standstill: the merge waits for a worker only if that worker has not yet reported a block that
//! another one is working on, and then the block is in its queue.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use wire::decode::Decoder;

use crate::capture::{Next, OwnedFrames};
use crate::clock::PacketClock;
use crate::counters::{Counters, Published, Tally};
use crate::flow::facts::Facts;
use crate::flow::icmp_error::IcmpErrors;
use crate::flow::meter::Event;
use crate::flow::{EndedFlow, Settings, SettingsError};
use crate::steer::Block;

mod merge;
mod worker;

pub use merge::Report;
pub use worker::{Decode, Worker};

use merge::Merge;

/// Blocks that wait for a worker.
const QUEUED_BLOCKS: usize = 4;

/// Reports of a worker that wait for the merge.
const QUEUED_REPORTS: usize = 8;

/// Events of a report, unless a block has fewer.
const REPORT_EVENTS: usize = 256;

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// A setting is out of range; nothing was read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The source failed. Everything that it had handed over was metered and delivered.
    #[error(transparent)]
    Source(E),
    /// A thread could not be started; nothing was read.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Applies to events what flows learn from each other; the last step before a record leaves.
#[derive(Debug)]
pub struct Outlet {
    facts: Facts,
    errors: IcmpErrors,
    tally: Tally,
    page: Arc<Published>,
}

impl Outlet {
    /// An outlet that remembers as much as the settings allow, and counts on the page.
    pub fn new(settings: &Settings, page: Arc<Published>) -> Self {
        Self {
            facts: Facts::new(settings.names),
            errors: IcmpErrors::default(),
            tally: Tally::default(),
            page,
        }
    }

    /// Takes an event, in the order of events; returns the flow if it is one.
    pub fn take(&mut self, event: Event) -> Option<Box<EndedFlow>> {
        match event {
            Event::Flow(mut flow) => {
                self.facts.apply(&mut flow);
                self.errors.apply(&mut flow, &mut self.tally);
                Some(flow)
            }
            Event::Answer(answer) => {
                self.facts.learn(answer, &mut self.tally);
                None
            }
            Event::IcmpError(error) => {
                self.errors.keep(error, &mut self.tally);
                None
            }
        }
    }

    /// Shows what was counted.
    pub fn publish(&self) {
        self.page.publish(&self.tally);
    }
}

/// Reads a source to its end and hands every flow to `sink`, in order. `fill` refills a block, as
/// [`crate::capture::FileSource`] does; its error ends the reading after everything before it was delivered. `counters`
/// must have a page for every worker; they show the books while it runs and after it. If `sink` breaks, reading stops.
pub fn read<E: Send>(
    fill: impl FnMut(&mut OwnedFrames) -> Result<Next, E> + Send,
    settings: &Settings,
    decoder: &Decoder,
    counters: &Counters,
    sink: &mut dyn FnMut(Box<EndedFlow>) -> ControlFlow<()>,
) -> Result<(), ReadError<E>> {
    read_with(fill, settings, decoder, counters, sink)
}

fn read_with<E: Send, D: Decode + Clone + Send>(
    fill: impl FnMut(&mut OwnedFrames) -> Result<Next, E> + Send,
    settings: &Settings,
    decoder: &D,
    counters: &Counters,
    sink: &mut dyn FnMut(Box<EndedFlow>) -> ControlFlow<()>,
) -> Result<(), ReadError<E>> {
    settings.validate()?;
    let share = settings.share();
    let worker = |number| {
        Worker::new(
            &share,
            decoder.clone(),
            counters.worker(number).unwrap_or_default(),
        )
    };
    let outlet = Outlet::new(settings, counters.merge());
    if settings.workers == 1 {
        read_alone(fill, worker(0), outlet, sink)
    } else {
        let clock = PacketClock::new(settings.idle_timeout_ns);
        let workers = (0..settings.workers).map(worker).collect();
        read_together(fill, clock, workers, outlet, sink)
    }
}

/// One worker, on this thread.
fn read_alone<E, D: Decode>(
    mut fill: impl FnMut(&mut OwnedFrames) -> Result<Next, E>,
    mut worker: Worker<D>,
    mut outlet: Outlet,
    sink: &mut dyn FnMut(Box<EndedFlow>) -> ControlFlow<()>,
) -> Result<(), ReadError<E>> {
    let mut stopped = false;
    let mut deliver = |event| {
        if let (Some(flow), false) = (outlet.take(event), stopped) {
            stopped = sink(flow).is_break();
        }
        stopped
    };
    let mut block = OwnedFrames::default();
    let mut over = false;
    let result = loop {
        match fill(&mut block) {
            Ok(Next::Block) => {
                if block.starts_input {
                    worker.start_input();
                }
                worker.process(block.as_frames(), &mut |event| over = deliver(event));
            }
            Ok(Next::Idle) => {}
            Ok(Next::End) => break Ok(()),
            Err(error) => break Err(ReadError::Source(error)),
        }
        if over {
            break Ok(());
        }
    };
    if !over {
        worker.flush(&mut |event| over = deliver(event));
    }
    outlet.publish();
    result
}

/// Several workers, each on a thread of its own, and one thread that reads; this thread merges.
fn read_together<E: Send, D: Decode + Send>(
    fill: impl FnMut(&mut OwnedFrames) -> Result<Next, E> + Send,
    clock: PacketClock,
    workers: Vec<Worker<D>>,
    mut outlet: Outlet,
    sink: &mut dyn FnMut(Box<EndedFlow>) -> ControlFlow<()>,
) -> Result<(), ReadError<E>> {
    let stop = AtomicBool::new(false);
    let (recycle, recycled) = bounded(QUEUED_BLOCKS * 2);
    thread::scope(|scope| {
        let mut inputs = Vec::with_capacity(workers.len());
        let mut reports = Vec::with_capacity(workers.len());
        for (number, worker) in workers.into_iter().enumerate() {
            let (input, blocks) = bounded(QUEUED_BLOCKS);
            let (report, from_worker) = bounded(QUEUED_REPORTS);
            let recycle = recycle.clone();
            thread::Builder::new()
                .name(format!("dpi-worker-{number}"))
                .spawn_scoped(scope, move || work(worker, number, &blocks, &report, &recycle))
                .map_err(ReadError::Thread)?;
            inputs.push(input);
            reports.push(from_worker);
        }
        let stop = &stop;
        let reader = thread::Builder::new()
            .name("dpi-reader".to_owned())
            .spawn_scoped(scope, move || steer(fill, clock, &inputs, &recycled, stop))
            .map_err(ReadError::Thread)?;

        let mut merge = Merge::new(reports);
        while let Some(event) = merge.next() {
            if let Some(flow) = outlet.take(event)
                && sink(flow).is_break()
            {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        // Workers that still have something to say see that nobody listens, and end.
        drop(merge);
        outlet.publish();
        match reader.join() {
            Ok(result) => result.map_err(ReadError::Source),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The reading thread: every worker gets every block.
fn steer<E>(
    mut fill: impl FnMut(&mut OwnedFrames) -> Result<Next, E>,
    mut clock: PacketClock,
    inputs: &[Sender<Arc<Block>>],
    recycled: &Receiver<Block>,
    stop: &AtomicBool,
) -> Result<(), E> {
    while !stop.load(Ordering::Relaxed) {
        let mut block = recycled.try_recv().unwrap_or_default();
        match fill(&mut block.frames)? {
            Next::Block => {}
            Next::Idle => continue,
            Next::End => break,
        }
        block.steer(inputs.len(), &mut clock);
        let block = Arc::new(block);
        for input in inputs {
            // A worker ends before its input does only if nobody wants its flows any more.
            if input.send(Arc::clone(&block)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A worker's thread.
fn work<D: Decode>(
    mut worker: Worker<D>,
    number: usize,
    blocks: &Receiver<Arc<Block>>,
    report: &Sender<Report>,
    recycle: &Sender<Block>,
) {
    let mut events = Vec::new();
    let mut listening = true;
    let mut tell = |event: Option<Event>, worker_reached| {
        let full = events.len() + 1 >= REPORT_EVENTS;
        let done = event.is_none();
        events.extend(event);
        if full || done {
            let report_now = Report {
                events: std::mem::take(&mut events),
                reached: worker_reached,
            };
            listening = listening && report.send(report_now).is_ok();
        }
        listening
    };
    for block in blocks {
        worker.process_share(&block, number, &mut |event| {
            tell(Some(event), None);
        });
        if let Some(block) = Arc::into_inner(block) {
            // If the reader has blocks enough, this one goes.
            let _ = recycle.try_send(block);
        }
        if !tell(None, worker.reached()) {
            return;
        }
    }
    worker.flush(&mut |event| {
        tell(Some(event), None);
    });
    tell(None, None);
}

#[cfg(test)]
mod tests;
