//! The spool against a model: random work, crashes and a full or failing disk.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Store,
    NextChain,
    Deliver(Verdict),
    Crash(u64),
    /// The same, and when the spool is opened again the disk gives no file.
    CrashBlind(u64),
    DiskFull(usize),
    DiskError(u32),
    DiskWell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Acknowledge,
    Reject,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verdict =
        prop_oneof![3 => Just(Verdict::Acknowledge), 1 => Just(Verdict::Reject), 1 => Just(Verdict::Release)];
    let step = prop_oneof![
        8 => Just(Step::Store),
        1 => Just(Step::NextChain),
        5 => verdict.prop_map(Step::Deliver),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => any::<u64>().prop_map(Step::CrashBlind),
        1 => (0usize..60_000).prop_map(Step::DiskFull),
        1 => (0u32..6).prop_map(Step::DiskError),
        1 => Just(Step::DiskWell),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the model knows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// `store` said that it is there.
    Stored,
    /// It was acknowledged or rejected: gone, or there again after a crash.
    Settled,
    /// `store` said that it, or all but its manifest, is not there.
    NotStored,
}

/// The batch that an entry is of, and its place among all.
fn sealed_of(entry: &Entry) -> ((usize, usize), &'static SealedBatch) {
    let chain = chains()
        .iter()
        .position(|chain| chain[0].claims.chain == entry.chain)
        .unwrap();
    ((chain, entry.seq as usize), &chains()[chain][entry.seq as usize])
}

struct Model {
    disk: MemoryDisk,
    settings: SpoolSettings,
    spool: Spool<MemoryDisk>,
    chain: usize,
    next: usize,
    fates: BTreeMap<(usize, usize), Fate>,
    /// Whether the disk has failed since: then more may be damaged than the policy says, but never uncounted.
    disturbed: bool,
    /// Entries that left by the policy or were lost: by the counters of all lives so far.
    gone_before: u64,
    /// The bound; above it what a crash brought back, until it is delivered.
    allowed: u64,
}

impl Model {
    fn new(settings: SpoolSettings) -> Self {
        let disk = MemoryDisk::default();
        let spool = Spool::open_on(disk.clone(), Path::new("/spool"), settings).unwrap();
        Self {
            disk,
            settings,
            spool,
            chain: 0,
            next: 0,
            fates: BTreeMap::new(),
            disturbed: false,
            gone_before: 0,
            allowed: settings.max_bytes,
        }
    }

    /// Batches that are no longer whole although `store` said so: dropped, damaged or lost, all counted.
    fn gone(&self) -> u64 {
        let dropped = counted(&self.spool, "batches_dropped", None);
        let lost = counted(&self.spool, "batches_lost", None);
        let unreadable = counted(&self.spool, "batches_rejected", Some("unreadable"));
        self.gone_before + dropped + lost + unreadable
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Store => {
                let Some(sealed) = chains()[self.chain].get(self.next) else {
                    return;
                };
                let fate = match self.spool.store(sealed) {
                    Stored::Batch => Fate::Stored,
                    Stored::ManifestOnly | Stored::Lost(_) => Fate::NotStored,
                };
                self.fates.insert((self.chain, self.next), fate);
                self.next += 1;
            }
            Step::NextChain if self.chain + 1 < chains().len() => {
                self.chain += 1;
                self.next = 0;
            }
            Step::NextChain => {}
            Step::Deliver(verdict) => self.deliver(*verdict),
            Step::Crash(luck) => self.crash(*luck),
            Step::CrashBlind(luck) => {
                self.disk.0.lock().unwrap().is_blind = true;
                self.crash(*luck);
                self.disk.0.lock().unwrap().is_blind = false;
                assert_eq!(self.gone(), self.gone_before, "what was not read is not judged");
            }
            Step::DiskFull(room) => {
                self.disturbed = true;
                let mut memory = self.disk.0.lock().unwrap();
                memory.capacity = Some(memory.used() + room);
            }
            Step::DiskError(operations) => {
                self.disturbed = true;
                self.disk.0.lock().unwrap().fail_in = Some(*operations);
            }
            Step::DiskWell => {
                let mut memory = self.disk.0.lock().unwrap();
                memory.capacity = None;
                memory.fail_in = None;
            }
        }
    }

    fn crash(&mut self, luck: u64) {
        self.gone_before = self.gone();
        self.disk.crash(luck);
        self.spool = Spool::open_on(self.disk.clone(), Path::new("/spool"), self.settings).unwrap();
        self.allowed = self.settings.max_bytes.max(self.spool.fill().0);
    }

    fn deliver(&mut self, verdict: Verdict) {
        let Some(entry) = self.spool.take_oldest(clock::monotonic()) else {
            return;
        };
        let (place, sealed) = sealed_of(&entry);
        let loaded = match self.spool.load(&entry) {
            Ok(loaded) => loaded,
            Err(error) => {
                assert!(
                    self.disturbed || self.settings.sync == Sync::Never,
                    "an entry was damaged on a sound disk"
                );
                let now = clock::monotonic();
                match (error, verdict) {
                    (NotLoaded::Gone, _) => {}
                    (_, Verdict::Reject) => {
                        self.spool.give_up(&entry, "the disk does not give it");
                    }
                    (_, Verdict::Acknowledge) => {
                        self.spool.rest(&entry, now, Duration::ZERO);
                    }
                    (_, Verdict::Release) => self.spool.release(&entry),
                }
                return;
            }
        };
        let expected = if entry.form == Form::Batch {
            &sealed.bytes[..]
        } else {
            sealed.manifest.as_bytes()
        };
        assert!(loaded.bytes == expected, "{entry:?} has other bytes");
        assert_eq!(loaded.head, sealed.head());
        match verdict {
            Verdict::Acknowledge => self.spool.acknowledge(&entry),
            Verdict::Reject => self.spool.reject(&entry, "the Core\nsaid no"),
            Verdict::Release => return self.spool.release(&entry),
        }
        self.fates.insert(place, Fate::Settled);
    }

    fn check(&self) {
        assert_eq!(
            self.spool.counters().imbalance(),
            0,
            "{:?}",
            self.spool.counters()
        );
        let (bytes, _) = self.spool.fill();
        let state = self.spool.lock();
        assert_eq!(bytes, state.total_bytes());
        // Between two steps nothing is in flight: each entry may be handed out, or rests.
        assert_eq!(state.in_flight, []);
        assert_eq!(
            state.free.len() + state.resting.len(),
            state.batches.len() + state.manifests.len()
        );
        drop(state);
        assert!(bytes <= self.allowed, "{bytes} of {}", self.allowed);
    }

    /// Takes everything out, in order, and compares with what the model knows.
    fn finish(mut self) {
        self.step(&Step::DiskWell);
        let mut found = BTreeMap::new();
        let mut order = Vec::new();
        while let Some(entry) = self.spool.take_oldest(clock::monotonic()) {
            if self.spool.load(&entry).is_err() {
                assert!(
                    self.disturbed || self.settings.sync == Sync::Never,
                    "an entry was damaged on a sound disk"
                );
                continue;
            }
            let (place, _) = sealed_of(&entry);
            order.push(place);
            found.insert(place, entry.form);
            self.spool.acknowledge(&entry);
        }
        if !self.disturbed {
            assert!(order.is_sorted(), "{order:?}");
        }
        let missing = self
            .fates
            .iter()
            .filter(|(place, fate)| **fate == Fate::Stored && found.get(*place) != Some(&Form::Batch));
        if self.settings.sync == Sync::EveryBatch {
            let (missing, gone) = (missing.count() as u64, self.gone());
            assert!(
                missing <= gone,
                "{missing} batches are missing, {gone} are accounted for"
            );
        }
        assert_eq!(self.spool.pending_events(), 0);
        assert_eq!(self.spool.pending_entries(), 0);
        assert_eq!(self.spool.counters().imbalance(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_goes_uncounted(
        steps in steps(),
        max_kib in prop_oneof![Just(24u64), Just(64), Just(4096)],
        drop_newest: bool,
        sync: bool,
    ) {
        let settings = SpoolSettings {
            max_bytes: max_kib * 1024,
            when_full: if drop_newest { WhenFull::DropNewest } else { WhenFull::DropOldest },
            sync: if sync { Sync::EveryBatch } else { Sync::Never },
        };
        let mut model = Model::new(settings);
        for step in &steps {
            model.step(step);
            model.check();
        }
        model.finish();
    }
}

#[test]
fn a_chain_of_which_only_manifests_are_left_stays_the_older_one() {
    let mut model = Model::new(SpoolSettings {
        max_bytes: 24 * 1024,
        when_full: WhenFull::DropOldest,
        sync: Sync::EveryBatch,
    });
    let [store, rejected] = [Step::Store, Step::Deliver(Verdict::Reject)];
    let first = [store.clone(), store.clone(), rejected, Step::NextChain];
    let second = [store.clone(), store.clone(), store, Step::Crash(0)];
    for step in first.iter().chain(&second) {
        model.step(step);
        model.check();
    }
    model.finish();
}
