//! The sealing thread: batches in through a bounded queue, sealed batches out in chain order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::batch::{COMPRESSION_LEVEL, Chain, SealError, SealedBatch};
use super::manifest::{Head, Kind};
use super::sign::Signer;
use crate::clock;
use crate::counters::accounts;
use crate::metrics::Histogram;

/// Wall-clock time in UTC nanoseconds, given by whoever starts a thread.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How the sealing thread works.
#[derive(Clone)]
pub struct SealerSettings {
    /// Batches that may wait for the thread.
    pub queue_batches: usize,
    /// Live: bytes of memory that batches in the queue may take. A batch that finds it empty is always taken.
    pub queue_bytes: u64,
    /// Wall-clock time, for `iat`.
    pub clock: Clock,
}

accounts! {
    /// What the sealing thread did. Events are rows of flow batches; rows of ledger and event batches are counted in
    /// `batches_sealed` alone. Events exported = sealed + waiting + dropped (by reason).
    SealCounters {
        /// Flow records that were handed to the sealing thread.
        Counter events_exported: events_offered;
        /// Flow records that were sealed.
        Counter events_sealed: events_sealed;
        /// Flow records that wait for their signature.
        Gauge events_waiting: events_waiting;
        /// Flow records that were not sealed.
        Counter events_dropped:
            dropped_queue_full = "seal_queue_full", "The queue of the sealing thread was full.",
            dropped_too_large = "too_large", "A single record is beyond the limits of a sealed batch.",
            dropped_failed = "seal_failed", "The batch could not be written or signed.",
            dropped_closed = "sealer_stopped", "The sealing thread had ended.";
        /// Batches of all kinds that wait for their signature.
        Gauge batches_waiting: batches_waiting;
        /// Bytes of memory that the batches in the queue take, without the one that is being sealed.
        Gauge batch_bytes_waiting: batch_bytes_waiting;
        /// Batches of all kinds that were sealed.
        Counter batches_sealed: batches_sealed;
        /// Bytes of the sealed batches.
        Counter bytes_sealed: bytes_sealed;
        /// Batches that were not sealed. Any value but zero is a bug, or a record beyond all limits.
        Counter seal_failures: failures;
    }
}

/// How long sealing takes. Writer: the sealing thread.
#[derive(Debug, Default)]
pub struct SealLatency {
    /// To hash, compress, sign and check one batch.
    pub sealing: Histogram,
    /// To make one RSA signature.
    pub signing: Histogram,
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

    /// Bytes of memory that the batches in the queue take.
    pub fn bytes_waiting(&self) -> u64 {
        self.batch_bytes_waiting.load(Ordering::Relaxed)
    }

    /// Batches sealed so far, of all kinds.
    pub fn batches_sealed(&self) -> u64 {
        self.batches_sealed.load(Ordering::Relaxed)
    }

    /// Bytes of the batches sealed so far.
    pub fn bytes_sealed(&self) -> u64 {
        self.bytes_sealed.load(Ordering::Relaxed)
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

struct Job {
    kind: Kind,
    batch: RecordBatch,
    /// What the batch takes in memory.
    bytes: u64,
    /// When it was handed over.
    given: Instant,
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
    queue_bytes: u64,
    counters: Arc<SealCounters>,
    latency: Arc<SealLatency>,
    compression_level: Arc<AtomicI32>,
}

impl Intake {
    /// Live: hands a batch over, or drops and counts it if the queue is full. Never blocks. Returns whether it was taken.
    pub fn offer(&self, kind: Kind, batch: RecordBatch) -> bool {
        let job = self.job(kind, batch);
        if !self.counters.reserve(job.bytes, self.queue_bytes) {
            add(&self.counters.dropped_queue_full, job.events());
            return false;
        }
        self.counters.begins_to_wait(&job);
        match self.queue.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(job)) => self.give_up(&job, &self.counters.dropped_queue_full),
            Err(TrySendError::Disconnected(job)) => self.give_up(&job, &self.counters.dropped_closed),
        }
    }

    /// From a file, and at the end of a capture: hands a batch over, and waits while the queue is full. Returns whether it
    /// was taken: false only once the thread has ended.
    pub fn submit(&self, kind: Kind, batch: RecordBatch) -> bool {
        let job = self.job(kind, batch);
        add(&self.counters.batch_bytes_waiting, job.bytes);
        self.counters.begins_to_wait(&job);
        match self.queue.send(job) {
            Ok(()) => true,
            Err(error) => self.give_up(&error.into_inner(), &self.counters.dropped_closed),
        }
    }

    /// The thread's counters.
    pub fn counters(&self) -> &Arc<SealCounters> {
        &self.counters
    }

    /// Asks for a level of zstd for the batches to come.
    pub fn set_compression_level(&self, level: i32) {
        self.compression_level.store(level, Ordering::Relaxed);
    }

    /// How long sealing takes.
    pub fn latency(&self) -> &Arc<SealLatency> {
        &self.latency
    }

    fn job(&self, kind: Kind, batch: RecordBatch) -> Job {
        let job = Job {
            kind,
            bytes: batch.get_array_memory_size() as u64,
            batch,
            given: clock::monotonic(),
        };
        add(&self.counters.events_offered, job.events());
        job
    }

    fn give_up(&self, job: &Job, reason: &AtomicU64) -> bool {
        self.counters.leaves_queue(job);
        self.counters.settle(job, reason);
        false
    }
}

impl SealCounters {
    /// Moves a whole job from waiting to `account`.
    fn settle(&self, job: &Job, account: &AtomicU64) {
        add(account, job.events());
        self.waits_no_more(job);
    }

    /// Takes room in the queue; refuses where there is too little, but never while the queue is empty.
    fn reserve(&self, bytes: u64, limit: u64) -> bool {
        self.batch_bytes_waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                let wanted = queued.saturating_add(bytes);
                (queued == 0 || wanted <= limit).then_some(wanted)
            })
            .is_ok()
    }

    /// Called before the batch is handed over, so that the books never show less than there is.
    fn begins_to_wait(&self, job: &Job) {
        add(&self.events_waiting, job.events());
        add(&self.batches_waiting, 1);
    }

    fn leaves_queue(&self, job: &Job) {
        self.batch_bytes_waiting.fetch_sub(job.bytes, Ordering::Relaxed);
    }

    fn waits_no_more(&self, job: &Job) {
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
        let latency = Arc::new(SealLatency::default());
        let compression_level = Arc::new(AtomicI32::new(COMPRESSION_LEVEL));
        let intake = Intake {
            queue,
            queue_bytes: settings.queue_bytes,
            counters: Arc::clone(&counters),
            latency: Arc::clone(&latency),
            compression_level: Arc::clone(&compression_level),
        };
        let worker = Worker {
            signer,
            chain,
            clock: settings.clock,
            counters,
            latency,
            compression_level,
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
    latency: Arc<SealLatency>,
    compression_level: Arc<AtomicI32>,
    output: F,
}

impl<F: FnMut(SealedBatch)> Worker<F> {
    fn run(mut self, jobs: &Receiver<Job>) -> Option<Head> {
        for job in jobs {
            self.counters.leaves_queue(&job);
            self.chain
                .set_compression_level(self.compression_level.load(Ordering::Relaxed));
            self.seal(job.kind, &job.batch, job.given);
            // Its rows were booked one part at a time; only the waiting side is left.
            self.counters.waits_no_more(&job);
        }
        self.chain.head()
    }

    /// Seals a batch; in halves if it is too large.
    fn seal(&mut self, kind: Kind, batch: &RecordBatch, given: Instant) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        let events = if kind == Kind::Flow { rows as u64 } else { 0 };
        let iat = (self.clock)().div_euclid(1_000_000_000);
        let began = clock::monotonic();
        // A panic in a library must not end the thread, and with it all evidence.
        let sealed = catch_unwind(AssertUnwindSafe(|| {
            self.chain.seal(kind, batch, iat, &self.signer)
        }));
        match sealed {
            Ok(Ok(mut sealed)) => {
                self.latency.sealing.observe(clock::elapsed(began));
                self.latency.signing.observe(sealed.signing);
                sealed.given = Some(given);
                add(&self.counters.events_sealed, events);
                add(&self.counters.batches_sealed, 1);
                add(&self.counters.bytes_sealed, sealed.bytes.len() as u64);
                (self.output)(sealed);
            }
            Ok(Err(SealError::TooLarge(_) | SealError::Rows(_))) if rows > 1 => {
                let half = rows / 2;
                self.seal(kind, &batch.slice(0, half), given);
                self.seal(kind, &batch.slice(half, rows - half), given);
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
