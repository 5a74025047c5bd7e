//! The sealing thread: batches in through a bounded queue, sealed batches out in chain order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::batch::{Chain, SealError, SealedBatch};
use super::manifest::{Head, Kind};
use super::sign::Signer;
use crate::counters::LedgerEntry;

/// Wall-clock time in UTC nanoseconds, given by whoever starts a thread.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How the sealing thread works.
#[derive(Clone)]
pub struct SealerSettings {
    /// Batches that may wait for the thread.
    pub queue_batches: usize,
    /// Wall-clock time, for `iat`.
    pub clock: Clock,
}

/// What the sealing thread did. Events are rows of flow batches; rows of ledger and event batches are counted in
/// `batches_sealed` alone.
#[derive(Debug, Default)]
pub struct SealCounters {
    events_offered: AtomicU64,
    events_sealed: AtomicU64,
    events_waiting: AtomicU64,
    batches_waiting: AtomicU64,
    batches_sealed: AtomicU64,
    bytes_sealed: AtomicU64,
    dropped_queue_full: AtomicU64,
    dropped_too_large: AtomicU64,
    dropped_failed: AtomicU64,
    dropped_closed: AtomicU64,
    failures: AtomicU64,
}

impl SealCounters {
    /// Flow records that wait for their signature.
    pub fn events_waiting(&self) -> u64 {
        self.events_waiting.load(Ordering::Relaxed)
    }

    /// Batches that wait for their signature: above 50 the probe is degraded (design §6).
    pub fn batches_waiting(&self) -> u64 {
        self.batches_waiting.load(Ordering::Relaxed)
    }

    /// Batches sealed so far, of all kinds.
    pub fn batches_sealed(&self) -> u64 {
        self.batches_sealed.load(Ordering::Relaxed)
    }

    /// Bytes of the batches sealed so far.
    pub fn bytes_sealed(&self) -> u64 {
        self.bytes_sealed.load(Ordering::Relaxed)
    }

    /// The accounts: events exported = sealed + waiting + dropped (by reason).
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        [
            ("events_exported", "", &self.events_offered),
            ("events_sealed", "", &self.events_sealed),
            ("events_waiting", "", &self.events_waiting),
            ("events_dropped", "seal_queue_full", &self.dropped_queue_full),
            ("events_dropped", "too_large", &self.dropped_too_large),
            ("events_dropped", "seal_failed", &self.dropped_failed),
            ("events_dropped", "sealer_stopped", &self.dropped_closed),
            ("batches_waiting", "", &self.batches_waiting),
            ("batches_sealed", "", &self.batches_sealed),
            ("bytes_sealed", "", &self.bytes_sealed),
            ("seal_failures", "", &self.failures),
        ]
        .into_iter()
        .map(|(account, reason, value)| {
            LedgerEntry::of_probe(account, reason, Some(value.load(Ordering::Relaxed)))
        })
        .collect()
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

struct Job {
    kind: Kind,
    batch: RecordBatch,
}

impl Job {
    /// Rows that count as events.
    fn events(&self) -> u64 {
        if self.kind == Kind::Flow {
            self.batch.num_rows() as u64
        } else {
            0
        }
    }
}

/// The entrance to the sealing thread; every worker holds one.
#[derive(Clone)]
pub struct Intake {
    queue: Sender<Job>,
    counters: Arc<SealCounters>,
}

impl Intake {
    /// Live: hands a batch over, or drops and counts it if the queue is full. Never blocks. Returns whether it was taken.
    pub fn offer(&self, kind: Kind, batch: RecordBatch) -> bool {
        let job = self.count(kind, batch);
        match self.queue.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(job)) => self.give_up(&job, &self.counters.dropped_queue_full),
            Err(TrySendError::Disconnected(job)) => self.give_up(&job, &self.counters.dropped_closed),
        }
    }

    /// From a file: hands a batch over, and waits while the queue is full. Returns whether it was taken: false only
    /// once the thread has ended.
    pub fn submit(&self, kind: Kind, batch: RecordBatch) -> bool {
        let job = self.count(kind, batch);
        match self.queue.send(job) {
            Ok(()) => true,
            Err(error) => self.give_up(&error.into_inner(), &self.counters.dropped_closed),
        }
    }

    /// The thread's counters.
    pub fn counters(&self) -> &Arc<SealCounters> {
        &self.counters
    }

    /// Counts the batch as waiting before it is handed over, so that the books never show less than there is.
    fn count(&self, kind: Kind, batch: RecordBatch) -> Job {
        let job = Job { kind, batch };
        add(&self.counters.events_offered, job.events());
        add(&self.counters.events_waiting, job.events());
        add(&self.counters.batches_waiting, 1);
        job
    }

    fn give_up(&self, job: &Job, reason: &AtomicU64) -> bool {
        self.counters.settle(job, reason);
        false
    }
}

impl SealCounters {
    /// Moves a whole job from waiting to `account`.
    fn settle(&self, job: &Job, account: &AtomicU64) {
        add(account, job.events());
        self.events_waiting.fetch_sub(job.events(), Ordering::Relaxed);
        self.batches_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sealing thread.
pub struct Sealer {
    intake: Intake,
    thread: JoinHandle<Option<Head>>,
}

impl Sealer {
    /// Starts the thread. Each sealed batch goes to `output`, in chain order; `output` may block, which makes the queue
    /// fill up and live batches drop, counted.
    pub fn start(
        signer: Signer,
        chain: Chain,
        settings: SealerSettings,
        output: impl FnMut(SealedBatch) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = bounded(settings.queue_batches.max(1));
        let counters = Arc::new(SealCounters::default());
        let intake = Intake {
            queue,
            counters: Arc::clone(&counters),
        };
        let worker = Worker {
            signer,
            chain,
            clock: settings.clock,
            counters,
            output,
        };
        let thread = std::thread::Builder::new()
            .name("seal".to_owned())
            .spawn(move || worker.run(&jobs))?;
        Ok(Self { intake, thread })
    }

    /// A further entrance.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// Closes this entrance and waits until everything that was handed over is sealed. The thread ends when the last
    /// [`Intake`] is gone. Returns the head of the chain, `None` if nothing was ever sealed.
    pub fn finish(self) -> Option<Head> {
        drop(self.intake);
        match self.thread.join() {
            Ok(head) => head,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct Worker<F> {
    signer: Signer,
    chain: Chain,
    clock: Clock,
    counters: Arc<SealCounters>,
    output: F,
}

impl<F: FnMut(SealedBatch)> Worker<F> {
    fn run(mut self, jobs: &Receiver<Job>) -> Option<Head> {
        for job in jobs {
            self.seal(job.kind, &job.batch);
            // Its rows were booked one part at a time; only the waiting side is left.
            self.counters
                .events_waiting
                .fetch_sub(job.events(), Ordering::Relaxed);
            self.counters.batches_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.chain.head()
    }

    /// Seals a batch; in halves if it is too large.
    fn seal(&mut self, kind: Kind, batch: &RecordBatch) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        let events = if kind == Kind::Flow { rows as u64 } else { 0 };
        let iat = (self.clock)().div_euclid(1_000_000_000);
        // A panic in a library must not end the thread, and with it all evidence.
        let sealed = catch_unwind(AssertUnwindSafe(|| {
            self.chain.seal(kind, batch, iat, &self.signer)
        }));
        match sealed {
            Ok(Ok(sealed)) => {
                add(&self.counters.events_sealed, events);
                add(&self.counters.batches_sealed, 1);
                add(&self.counters.bytes_sealed, sealed.bytes.len() as u64);
                (self.output)(sealed);
            }
            Ok(Err(SealError::TooLarge(_) | SealError::Rows(_))) if rows > 1 => {
                let half = rows / 2;
                self.seal(kind, &batch.slice(0, half));
                self.seal(kind, &batch.slice(half, rows - half));
            }
            Ok(Err(error)) => {
                let reason = match &error {
                    SealError::TooLarge(_) => &self.counters.dropped_too_large,
                    _ => &self.counters.dropped_failed,
                };
                add(reason, events);
                add(&self.counters.failures, 1);
                tracing::error!(kind = kind.name(), rows, %error, "a batch was not sealed, its records are lost");
            }
            Err(_) => {
                add(&self.counters.dropped_failed, events);
                add(&self.counters.failures, 1);
                tracing::error!(
                    kind = kind.name(),
                    rows,
                    "sealing panicked: a bug; the batch's records are lost"
                );
            }
        }
    }
}
