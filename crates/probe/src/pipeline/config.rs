//! Configuration that changes while the probe runs: snapshots that each worker loads once a block (RCU).
//!
//! A worker that sees a new snapshot takes over what differs, between two blocks, so that no packet is lost and none is
//! metered half by the old and half by the new.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::degradation::Relief;
use crate::capture::Source;
use crate::capture::bpf::Program;
use crate::clock;
use crate::engine::Worker;
use crate::flow::{self, Profile, SettingsError};

/// No idle timeout gets shorter than this under pressure, unless it was chosen shorter: 1 s.
const LEAST_IDLE_NS: i64 = 1_000_000_000;
/// How long a change may take until every worker has it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the operator may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changeable {
    /// See [`flow::Settings::idle_timeout_ns`].
    pub idle_timeout_ns: i64,
    /// See [`flow::Settings::active_timeout_ns`].
    pub active_timeout_ns: i64,
    /// How much is computed.
    pub profile: Profile,
    /// Frames to capture; `None` for all.
    pub filter: Option<Program>,
}

/// Why a change was not made. Everything is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A value is out of range.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Capture files are read with one configuration: their records must not depend on when it changed.
    #[error("this probe reads capture files; only the configuration of a live probe can be changed")]
    Files,
    /// A worker could not take it over.
    #[error("{0}")]
    Refused(String),
    /// The probe has ended, or a worker is stuck.
    #[error("the workers did not take the configuration over within {} s", PATIENCE.as_secs())]
    NotTaken,
}

/// The configuration at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Counts the snapshots.
    pub number: u64,
    /// What the operator chose.
    pub chosen: Changeable,
    /// What is asked for under pressure.
    pub relief: Relief,
}

impl Snapshot {
    /// The idle timeout in force.
    pub(super) fn idle_timeout_ns(&self) -> i64 {
        let chosen = self.chosen.idle_timeout_ns;
        (chosen / self.relief.idle_divisor).max(LEAST_IDLE_NS.min(chosen))
    }

    /// How long a record waits for its batch to fill, where `chosen` is the setting.
    pub(super) fn linger(&self, chosen: Duration) -> Duration {
        chosen.max(self.relief.linger)
    }
}

/// The present snapshot, and how far the workers are.
#[derive(Debug)]
pub(super) struct Configuration {
    /// What workers and sources are set up with.
    initial: Arc<Snapshot>,
    current: ArcSwap<Snapshot>,
    /// The number that each worker has taken over.
    taken: Vec<AtomicU64>,
    /// Whoever puts a choice in force holds this.
    changing: Mutex<()>,
    /// What the workers said against a snapshot.
    objections: Mutex<Vec<String>>,
}

impl Configuration {
    pub(super) fn new(flow: &flow::Settings, filter: Option<Program>) -> Self {
        let initial = Arc::new(Snapshot {
            number: 0,
            chosen: Changeable {
                idle_timeout_ns: flow.idle_timeout_ns,
                active_timeout_ns: flow.active_timeout_ns,
                profile: flow.profile,
                filter,
            },
            relief: Relief::default(),
        });
        Self {
            current: ArcSwap::new(Arc::clone(&initial)),
            initial,
            taken: (0..flow.workers).map(|_| AtomicU64::new(0)).collect(),
            changing: Mutex::default(),
            objections: Mutex::default(),
        }
    }

    pub(super) fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts the operator's choice in force, and waits until every worker has it. If one cannot take it, all go back.
    pub(super) fn choose(&self, chosen: &Changeable) -> Result<(), ChangeError> {
        let check = flow::Settings {
            idle_timeout_ns: chosen.idle_timeout_ns,
            active_timeout_ns: chosen.active_timeout_ns,
            ..flow::Settings::default()
        };
        check.validate()?;
        let _changing = lock(&self.changing);
        let before = self.load().chosen.clone();
        lock(&self.objections).clear();
        let taken = self.store(|snapshot| snapshot.chosen = chosen.clone());
        let waited = self.wait_for(taken);
        let objection = lock(&self.objections).pop();
        let error = match (objection, waited) {
            (Some(objection), _) => ChangeError::Refused(objection),
            (None, false) => ChangeError::NotTaken,
            (None, true) => return Ok(()),
        };
        self.store(|snapshot| snapshot.chosen = before.clone());
        Err(error)
    }

    /// Asks for what relieves pressure; the workers take it over with their next block.
    pub(super) fn relieve(&self, relief: Relief) {
        self.store(|snapshot| snapshot.relief = relief);
    }

    /// Replaces the snapshot by a changed one; returns its number.
    fn store(&self, change: impl Fn(&mut Snapshot)) -> u64 {
        let before = self.current.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.number += 1;
            change(&mut next);
            next
        });
        before.number + 1
    }

    fn wait_for(&self, number: u64) -> bool {
        let start = clock::monotonic();
        loop {
            if self
                .taken
                .iter()
                .all(|taken| taken.load(Ordering::Acquire) >= number)
            {
                return true;
            }
            if clock::elapsed(start) >= PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's view of the configuration.
#[derive(Debug)]
pub(super) struct Follower {
    configuration: Arc<Configuration>,
    worker: usize,
    has: Arc<Snapshot>,
}

impl Follower {
    /// Of a worker and source that were set up with the first configuration, which may have changed since.
    pub(super) fn new(configuration: &Arc<Configuration>, worker: usize) -> Self {
        Self {
            has: Arc::clone(&configuration.initial),
            configuration: Arc::clone(configuration),
            worker,
        }
    }

    /// The configuration that the worker has.
    pub(super) fn has(&self) -> &Snapshot {
        &self.has
    }

    /// Between two blocks: takes over what is new. True if anything was.
    pub(super) fn follow(&mut self, worker: &mut Worker, source: &mut dyn Source) -> bool {
        let current = self.configuration.current.load();
        if current.number == self.has.number {
            return false;
        }
        let (has, now) = (&self.has, &**current);
        let timeouts = |snapshot: &Snapshot| (snapshot.idle_timeout_ns(), snapshot.chosen.active_timeout_ns);
        if timeouts(has) != timeouts(now) {
            let (idle, active) = timeouts(now);
            if let Err(error) = worker.set_timeouts(idle, active) {
                lock(&self.configuration.objections).push(error.to_string());
            }
        }
        worker.set_profile(now.chosen.profile, now.relief.shed);
        if has.chosen.filter != now.chosen.filter
            && let Err(error) = source.set_filter(now.chosen.filter.as_ref())
        {
            lock(&self.configuration.objections).push(error.to_string());
        }
        self.has = Arc::clone(&current);
        if let Some(taken) = self.configuration.taken.get(self.worker) {
            taken.store(self.has.number, Ordering::Release);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Accounts, CaptureError, Frames, Next};
    use wire::decode::Decoder;

    /// Takes the filters that it is given, or none.
    struct Obedient(bool, Vec<Option<Program>>);

    impl Source for Obedient {
        fn next_block(&mut self, _: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            Ok(Next::Idle)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts::default()
        }

        fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
            if !self.0 {
                return Err(CaptureError::FilterFixed);
            }
            self.1.push(filter.cloned());
            Ok(())
        }
    }

    fn run(
        obedient: bool,
        change: impl FnOnce(&Configuration) -> Result<(), ChangeError>,
    ) -> (Result<(), ChangeError>, Obedient, Arc<Snapshot>) {
        let settings = flow::Settings::for_memory(1 << 20);
        let configuration = Arc::new(Configuration::new(&settings, None));
        let mut source = Obedient(obedient, Vec::new());
        let result = std::thread::scope(|scope| {
            let (done, ended) = std::sync::mpsc::channel::<()>();
            let (configuration, source) = (&configuration, &mut source);
            scope.spawn(move || {
                let mut follower = Follower::new(configuration, 0);
                let mut worker = Worker::new(&settings, Decoder::default(), Arc::default());
                while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    follower.follow(&mut worker, source);
                    std::thread::yield_now();
                }
                follower.follow(&mut worker, source);
            });
            let result = change(configuration);
            drop(done);
            result
        });
        (result, source, configuration.load())
    }

    fn chosen(idle_timeout_ns: i64) -> Changeable {
        Changeable {
            idle_timeout_ns,
            active_timeout_ns: 1_800_000_000_000,
            profile: Profile::Minimal,
            filter: Some(Program::accept_all(96)),
        }
    }

    #[test]
    fn a_change_is_in_force_when_the_call_returns() {
        let (result, source, snapshot) = run(true, |configuration| configuration.choose(&chosen(7)));
        result.unwrap();
        assert_eq!(source.1, [Some(Program::accept_all(96))]);
        assert_eq!(snapshot.chosen, chosen(7));
    }

    #[test]
    fn a_worker_that_starts_after_a_change_takes_it_over() {
        let settings = flow::Settings::for_memory(1 << 20);
        let configuration = Arc::new(Configuration::new(&settings, None));
        let number = configuration.store(|snapshot| snapshot.chosen = chosen(7));
        let mut source = Obedient(true, Vec::new());
        let mut worker = Worker::new(&settings, Decoder::default(), Arc::default());
        assert!(Follower::new(&configuration, 0).follow(&mut worker, &mut source));
        assert_eq!(source.1, [Some(Program::accept_all(96))]);
        assert!(configuration.wait_for(number));
    }

    #[test]
    fn what_a_worker_cannot_take_is_taken_back() {
        let (result, _, snapshot) = run(false, |configuration| configuration.choose(&chosen(7)));
        assert!(result.unwrap_err().to_string().contains("filter"));
        assert_eq!(snapshot.chosen.idle_timeout_ns, 300_000_000_000);
        assert_eq!(snapshot.chosen.filter, None);
    }

    #[test]
    fn a_value_out_of_range_changes_nothing() {
        let (result, source, snapshot) = run(true, |configuration| configuration.choose(&chosen(0)));
        assert!(matches!(result, Err(ChangeError::Settings(_))));
        assert_eq!((source.1.len(), snapshot.number), (0, 0));
    }

    #[test]
    fn pressure_shortens_the_idle_timeout_but_not_below_a_second() {
        let snapshot = |idle_timeout_ns, idle_divisor| Snapshot {
            number: 0,
            chosen: chosen(idle_timeout_ns),
            relief: Relief {
                idle_divisor,
                ..Relief::default()
            },
        };
        assert_eq!(snapshot(8_000_000_000, 4).idle_timeout_ns(), 2_000_000_000);
        assert_eq!(snapshot(8_000_000_000, 64).idle_timeout_ns(), 1_000_000_000);
        assert_eq!(snapshot(5, 64).idle_timeout_ns(), 5, "a shorter one was chosen");
    }
}
