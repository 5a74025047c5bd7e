//! The sealing threads: batches in through a bounded queue, sealed batches out in chain order.
//!
//! Several threads hash, write and compress different batches at once. Whoever takes a batch out of the queue takes a
//! number with it, and signs when that number's turn has come: the chain is in the order of the queue, however long each
//! batch took. A thread holds one batch at a time, so that what is in work is bounded by the number of threads.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::batch::{COMPRESSION_LEVEL, Chain, Draft, Leaves, Position, Press, SealError, SealedBatch};
use super::manifest::{Head, Kind};
use super::sign::Signer;
use crate::clock;
use crate::counters::accounts;
use crate::metrics::Histogram;

/// Wall-clock time in UTC nanoseconds, given by whoever starts a thread.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How the sealing threads work.
#[derive(Clone)]
pub struct SealerSettings {
    /// How many threads seal; at least one.
    pub threads: usize,
    /// Batches that may wait for a thread.
    pub queue_batches: usize,
    /// Bytes of memory that batches in the queue may take. A batch that finds it empty is always taken.
    pub queue_bytes: u64,
    /// Wall-clock time, for `iat`.
    pub clock: Clock,
}

accounts! {
    /// What the sealing threads did. Events are rows of flow batches; rows of ledger and event batches are counted in
    /// `batches_sealed` alone. Events exported = sealed + waiting + dropped (by reason).
    SealCounters {
        /// Flow records that were handed to the sealing threads.
        Counter events_exported: events_offered;
        /// Flow records that were sealed.
        Counter events_sealed: events_sealed;
        /// Flow records that wait for their signature.
        Gauge events_waiting: events_waiting;
        /// Flow records that were not sealed.
        Counter events_dropped:
            dropped_queue_full = "seal_queue_full", "The queue of the sealing threads was full.",
            dropped_too_large = "too_large", "A single record is beyond the limits of a sealed batch.",
            dropped_failed = "seal_failed", "The batch could not be written or signed.",
            dropped_closed = "sealer_stopped", "The sealing threads had ended.";
        /// Batches of all kinds that wait for their signature.
        Gauge batches_waiting: batches_waiting;
        /// Bytes of memory that the batches in the queue take, without those that are being sealed.
        Gauge batch_bytes_waiting: batch_bytes_waiting;
        /// Batches of all kinds that were sealed.
        Counter batches_sealed: batches_sealed;
        /// Bytes of the sealed batches.
        Counter bytes_sealed: bytes_sealed;
        /// Batches that were not sealed. Any value but zero is a bug, or a record beyond all limits.
        Counter seal_failures: failures;
    }
}

/// While the queue is full, how often it is looked at by who waits.
const ROOM_INTERVAL: Duration = Duration::from_millis(1);

/// How long sealing takes. Writers: the sealing threads.
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
        self.events_of(self.batch.num_rows())
    }

    /// As how many events so many of its rows count.
    fn events_of(&self, rows: usize) -> u64 {
        if self.kind == Kind::Flow { rows as u64 } else { 0 }
    }
}

/// The entrance to the sealing threads; every worker holds one.
#[derive(Clone)]
pub struct Intake {
    queue: Sender<Job>,
    queue_bytes: u64,
    threads: u64,
    counters: Arc<SealCounters>,
    latency: Arc<SealLatency>,
    compression_level: Arc<AtomicI32>,
    lives: Arc<Lives>,
}

/// The threads that have not ended. They end when every entrance is gone; before that, only by a panic.
#[derive(Debug)]
struct Lives(AtomicUsize);

/// One of them.
struct Life(Arc<Lives>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

impl Lives {
    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
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
            Err(TrySendError::Full(job)) => self.does_not_fit(&job, &self.counters.dropped_queue_full),
            Err(TrySendError::Disconnected(job)) => self.does_not_fit(&job, &self.counters.dropped_closed),
        }
    }

    /// From a file, and at the end of a capture: hands a batch over, and waits while the queue is full. Returns whether it
    /// was taken: false only once the threads have ended.
    pub fn submit(&self, kind: Kind, batch: RecordBatch) -> bool {
        let job = self.job(kind, batch);
        self.counters.begins_to_wait(&job);
        // Threads that live empty the queue, however long it takes.
        while !self.counters.reserve(job.bytes, self.queue_bytes) {
            if self.lives.count() == 0 {
                return self.give_up(&job, &self.counters.dropped_closed);
            }
            std::thread::sleep(ROOM_INTERVAL);
        }
        match self.queue.send(job) {
            Ok(()) => true,
            Err(error) => self.does_not_fit(&error.into_inner(), &self.counters.dropped_closed),
        }
    }

    /// See [`Sealer::has_lost_a_thread`].
    pub fn has_lost_a_thread(&self) -> bool {
        (self.lives.count() as u64) < self.threads
    }

    /// What the threads counted.
    pub fn counters(&self) -> &Arc<SealCounters> {
        &self.counters
    }

    /// Whether sealing lags behind: every thread has a batch, and another one waits.
    pub fn is_behind(&self) -> bool {
        self.counters.is_behind(self.threads)
    }

    /// Asks for a level of zstd for the batches to come. While sealing is behind, none stronger than the usual one is used.
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

    /// Gives up a batch that had taken room in the queue.
    fn does_not_fit(&self, job: &Job, reason: &AtomicU64) -> bool {
        self.counters.leaves_queue(job);
        self.give_up(job, reason)
    }

    fn give_up(&self, job: &Job, reason: &AtomicU64) -> bool {
        self.counters.settle(job.events(), reason);
        self.counters.waits_no_more();
        false
    }
}

impl SealCounters {
    /// Whether more batches wait, or are in work, than there are threads.
    fn is_behind(&self, threads: u64) -> bool {
        self.batches_waiting() > threads
    }

    /// Moves events from waiting to `account`: both at once, so that books that are read meanwhile balance.
    fn settle(&self, events: u64, account: &AtomicU64) {
        add(account, events);
        self.events_waiting.fetch_sub(events, Ordering::Relaxed);
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

    fn waits_no_more(&self) {
        self.batches_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sealing threads.
pub struct Sealer {
    intake: Intake,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Sealer {
    /// Starts the threads. Each sealed batch goes to `output`, in chain order; `output` may block, which makes the queue
    /// fill up and live batches drop, counted.
    pub fn start(
        signer: Signer,
        chain: Chain,
        settings: SealerSettings,
        output: impl FnMut(SealedBatch) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = bounded(settings.queue_batches.max(1));
        let threads = settings.threads.max(1);
        let intake = Intake {
            queue,
            queue_bytes: settings.queue_bytes,
            threads: threads as u64,
            counters: Arc::default(),
            latency: Arc::default(),
            compression_level: Arc::new(AtomicI32::new(COMPRESSION_LEVEL)),
            lives: Arc::new(Lives(AtomicUsize::new(threads))),
        };
        let shared = Arc::new(Shared {
            taken: Mutex::new(0),
            expected: Mutex::new(chain.position(Kind::Flow, 0)),
            turn: Mutex::new(Turn {
                number: 0,
                chain,
                output: Box::new(output),
            }),
            next_turn: Condvar::new(),
            signer,
            threads: threads as u64,
            clock: settings.clock,
            counters: Arc::clone(&intake.counters),
            latency: Arc::clone(&intake.latency),
            compression_level: Arc::clone(&intake.compression_level),
        });
        let threads = (0..threads)
            .map(|number| {
                let (shared, jobs) = (Arc::clone(&shared), jobs.clone());
                let life = Life(Arc::clone(&intake.lives));
                std::thread::Builder::new()
                    .name(if threads == 1 {
                        "seal".to_owned()
                    } else {
                        format!("seal-{number}")
                    })
                    .spawn(move || {
                        // Before it, so that who sees no life left sees the queue closed too.
                        let _life = life;
                        let jobs = jobs;
                        shared.work(&jobs);
                    })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            intake,
            shared,
            threads,
        })
    }

    /// A further entrance.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// Whether a thread has ended, and with it the batch that it had; only a panic ends one while there is an entrance.
    pub fn has_lost_a_thread(&self) -> bool {
        self.intake.has_lost_a_thread()
    }

    /// Closes this entrance and waits until everything that was handed over is sealed. The threads end when the last
    /// [`Intake`] is gone. Returns the head of the chain, `None` if nothing was ever sealed.
    pub fn finish(self) -> Option<Head> {
        drop(self.intake);
        let ends: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        for end in ends {
            if let Err(panic) = end {
                std::panic::resume_unwind(panic);
            }
        }
        lock(&self.shared.turn).chain.head()
    }
}

/// What the threads share.
struct Shared {
    /// How many jobs have been taken out of the queue. Held while waiting for one: the queue and the numbers then have one
    /// order.
    taken: Mutex<u64>,
    /// Where the next batch to be signed will stand.
    expected: Mutex<Position>,
    turn: Mutex<Turn>,
    next_turn: Condvar,
    signer: Signer,
    threads: u64,
    clock: Clock,
    counters: Arc<SealCounters>,
    latency: Arc<SealLatency>,
    compression_level: Arc<AtomicI32>,
}

/// What one thread at a time has, in the order of the queue.
struct Turn {
    /// Whose turn it is.
    number: u64,
    chain: Chain,
    output: Box<dyn FnMut(SealedBatch) + Send>,
}

/// A thread's turn. The next one's begins with its end, however it ends.
struct MyTurn<'a> {
    turn: MutexGuard<'a, Turn>,
    next_turn: &'a Condvar,
}

impl Drop for MyTurn<'_> {
    fn drop(&mut self) {
        self.turn.number += 1;
        self.next_turn.notify_all();
    }
}

/// What can be done of a job before its turn.
struct Prepared {
    leaves: Leaves,
    /// Its parts in order, each with its rows.
    drafts: Vec<(Range<usize>, Result<Draft, SealError>)>,
    /// How long it took.
    took: Duration,
}

/// A chain's state is changed only once a batch is sealed, and numbers are whole: both hold after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn work(&self, jobs: &Receiver<Job>) {
        let mut press = Press::default();
        while let Some((number, job)) = self.take(jobs) {
            self.counters.leaves_queue(&job);
            press.set_level(self.level());
            let prepared = catch(|| self.prepare(&job, &mut press));
            if prepared.is_none() {
                press = Press::default();
            }
            let mut mine = self.await_turn(number);
            match prepared {
                Some(Ok(prepared)) => self.seal(&mut mine.turn, &job, prepared, &mut press),
                Some(Err(error)) => self.lost(&job, job.batch.num_rows(), &error),
                None => self.lost_by_panic(&job, job.batch.num_rows()),
            }
            drop(mine);
            // Its rows were booked one part at a time.
            self.counters.waits_no_more();
        }
    }

    fn take(&self, jobs: &Receiver<Job>) -> Option<(u64, Job)> {
        let mut taken = lock(&self.taken);
        let job = jobs.recv().ok()?;
        let number = *taken;
        *taken += 1;
        Some((number, job))
    }

    fn await_turn(&self, number: u64) -> MyTurn<'_> {
        let mut turn = lock(&self.turn);
        while turn.number != number {
            turn = self.next_turn.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        MyTurn {
            turn,
            next_turn: &self.next_turn,
        }
    }

    /// The level of zstd for the next batch.
    fn level(&self) -> i32 {
        let wanted = self.compression_level.load(Ordering::Relaxed);
        if self.counters.is_behind(self.threads) {
            wanted.min(COMPRESSION_LEVEL)
        } else {
            wanted
        }
    }

    fn now(&self) -> i64 {
        (self.clock)().div_euclid(1_000_000_000)
    }

    /// Where the next batch of a kind will most likely stand.
    fn expected(&self, kind: Kind) -> Position {
        Position {
            kind,
            iat: self.now(),
            ..*lock(&self.expected)
        }
    }

    /// Everything that can be done before the batch's turn.
    fn prepare(&self, job: &Job, press: &mut Press) -> Result<Prepared, SealError> {
        let began = clock::monotonic();
        let leaves = Leaves::of(&job.batch)?;
        let drafts = if job.batch.num_rows() == 0 {
            Vec::new()
        } else {
            press.drafts(&job.batch, &leaves, &self.expected(job.kind), &self.signer)
        };
        Ok(Prepared {
            leaves,
            drafts,
            took: clock::elapsed(began),
        })
    }

    /// Signs what was prepared and hands it over.
    fn seal(&self, turn: &mut Turn, job: &Job, prepared: Prepared, press: &mut Press) {
        let took = prepared.took / u32::try_from(prepared.drafts.len()).unwrap_or(u32::MAX).max(1);
        let mut waiting = VecDeque::from(prepared.drafts);
        while let Some((rows, draft)) = waiting.pop_front() {
            let began = clock::monotonic();
            let (chain, iat) = (&mut turn.chain, self.now());
            match catch(|| draft.and_then(|draft| chain.sign(draft, iat, &self.signer))) {
                Some(Ok(mut sealed)) => {
                    *lock(&self.expected) = chain.position(job.kind, iat);
                    self.latency.sealing.observe(took + clock::elapsed(began));
                    self.latency.signing.observe(sealed.signing);
                    sealed.given = Some(job.given);
                    add(&self.counters.batches_sealed, 1);
                    add(&self.counters.bytes_sealed, sealed.bytes.len() as u64);
                    // What stands behind it counts what it cannot store; here a panic only must not end the thread.
                    if catch(|| (turn.output)(sealed)).is_none() {
                        tracing::error!("storing a sealed batch panicked: a bug; the chain has a hole here");
                    }
                    // Storing takes as long as the disk does; until then they wait.
                    self.counters
                        .settle(job.events_of(rows.len()), &self.counters.events_sealed);
                }
                // It was at the limit, and its manifest has come out longer than expected.
                Some(Err(SealError::TooLarge(_))) if rows.len() > 1 => {
                    let half = rows.start + rows.len() / 2;
                    for half in [half..rows.end, rows.start..half] {
                        let again = catch(|| {
                            let (mut drafts, expected) = (Vec::new(), self.expected(job.kind));
                            let (leaves, rows) = (&prepared.leaves, half.clone());
                            press.draft(&job.batch, leaves, rows, &expected, &self.signer, &mut drafts);
                            drafts
                        });
                        if let Some(drafts) = again {
                            drafts.into_iter().rev().for_each(|one| waiting.push_front(one));
                        } else {
                            // What it was at may be half done.
                            *press = Press::default();
                            self.lost_by_panic(job, half.len());
                        }
                    }
                }
                Some(Err(error)) => self.lost(job, rows.len(), &error),
                None => self.lost_by_panic(job, rows.len()),
            }
        }
    }

    fn lost(&self, job: &Job, rows: usize, error: &SealError) {
        let reason = match error {
            SealError::TooLarge(_) => &self.counters.dropped_too_large,
            _ => &self.counters.dropped_failed,
        };
        self.counters.settle(job.events_of(rows), reason);
        add(&self.counters.failures, 1);
        tracing::error!(kind = job.kind.name(), rows, %error, "a batch was not sealed, its records are lost");
    }

    fn lost_by_panic(&self, job: &Job, rows: usize) {
        self.counters
            .settle(job.events_of(rows), &self.counters.dropped_failed);
        add(&self.counters.failures, 1);
        tracing::error!(
            kind = job.kind.name(),
            rows,
            "sealing panicked: a bug; the batch's records are lost"
        );
    }
}

/// `None` after a panic: one in a library must not end the thread, and with it all evidence.
fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}
