//! The spool against a model: random work, crashes and a full or failing disk, on a disk in memory that forgets what was
//! not synced.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::disk::{Disk, FileFacts};
use super::entry::accounted;
use super::{
    CALM, DiskTrouble, Entry, Form, LEDGER_SHARE, MANIFEST_SHARE, NotLoaded, Spool, SpoolSettings, Stored,
    Sync, WhenFull,
};
use crate::clock;
use crate::counters::LedgerEntry;
use crate::seal::SealedBatch;
use crate::seal::batch::Chain;
use crate::seal::fixtures::{NOW, batch, chains, signer};
use crate::seal::ledger::ledger_batch;
use crate::seal::manifest::Kind;

/// What a directory operation that is not yet durable did.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Unlink(PathBuf),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, file) => names.insert(path.clone(), *file),
            Self::Unlink(path) => names.remove(path),
        };
    }
}

#[derive(Debug, Default)]
struct Memory {
    files: Vec<(Vec<u8>, bool)>,
    /// Times of writing that were copied; others are the file's number.
    dates: BTreeMap<usize, i64>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    capacity: Option<usize>,
    /// Operations until one fails with `EIO`.
    fail_in: Option<u32>,
    /// A file that can neither be read nor renamed.
    bad: Option<PathBuf>,
    /// Whether no file can be read: descriptors or permissions are missing, or the server of a network disk is away.
    is_blind: bool,
}

impl Memory {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn date(&self, file: usize) -> i64 {
        self.dates.get(&file).copied().unwrap_or(file as i64)
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].0.len()).sum()
    }

    fn may_fail(&mut self) -> io::Result<()> {
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                Err(io::Error::other("injected"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn may_use(&self, path: &Path) -> io::Result<()> {
        if self.bad.as_deref() == Some(path) {
            return Err(io::Error::other("bad"));
        }
        Ok(())
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
struct MemoryDisk(Arc<Mutex<Memory>>);

impl MemoryDisk {
    /// Pulls the plug: of what was not synced, `luck` decides bit by bit what reached the disk.
    fn crash(&self, mut luck: u64) {
        let mut coin = || {
            luck = luck.rotate_left(1);
            luck & 1 == 1
        };
        let mut memory = self.0.lock().unwrap();
        let mut names = memory.durable_names.clone();
        for change in memory.changes.drain(..) {
            if coin() {
                change.apply(&mut names);
            }
        }
        for (content, synced) in &mut memory.files {
            if !*synced && coin() {
                content.truncate(content.len() / 2);
            }
            *synced = true;
        }
        memory.names.clone_from(&names);
        memory.durable_names = names;
        memory.capacity = None;
        memory.fail_in = None;
    }
}

impl Disk for MemoryDisk {
    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileFacts>> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let of_directory = memory
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        Ok(of_directory
            .map(|(name, file)| FileFacts {
                name: name.file_name().unwrap().to_str().unwrap().to_owned(),
                length: memory.files[*file].0.len() as u64,
                modified: memory.date(*file),
            })
            .collect())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        memory.may_use(path)?;
        if memory.is_blind {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let file = memory.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(memory.files[*file]
            .0
            .iter()
            .copied()
            .take(limit as usize)
            .collect())
    }

    fn write(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let room = memory
            .capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(memory.used()));
        let file = memory.files.len();
        memory
            .files
            .push((content[..content.len().min(room)].to_vec(), durable));
        memory.change(Change::Link(path.to_owned(), file));
        if content.len() > room {
            Err(ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn copy_date(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        let file_of = |path| memory.names.get(path).copied().ok_or(ErrorKind::NotFound);
        let (from, to) = (file_of(from)?, file_of(to)?);
        let date = memory.date(from);
        memory.dates.insert(to, date);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        memory.may_use(from)?;
        let file = *memory.names.get(from).ok_or(ErrorKind::NotFound)?;
        memory.change(Change::Link(to.to_owned(), file));
        memory.change(Change::Unlink(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        if !memory.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        memory.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let (durable, open) = memory
            .changes
            .drain(..)
            .partition(|change| change.path().parent() == Some(path));
        memory.changes = open;
        let durable: Vec<Change> = durable;
        for change in durable {
            change.apply(&mut memory.durable_names);
        }
        Ok(())
    }
}

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

/// What an account holds: of one reason, or of all.
fn counted(spool: &Spool<MemoryDisk>, account: &str, reason: Option<&str>) -> u64 {
    let entries = spool.counters().ledger_entries();
    let of_it =
        |entry: &&LedgerEntry| entry.account == account && reason.is_none_or(|reason| entry.reason == reason);
    entries
        .iter()
        .filter(of_it)
        .map(|entry| entry.value.unwrap())
        .sum()
}

/// A spool in memory that makes room by dropping the oldest.
fn spool_on(disk: &MemoryDisk, max_bytes: u64) -> Spool<MemoryDisk> {
    let settings = SpoolSettings {
        max_bytes,
        when_full: WhenFull::DropOldest,
        sync: Sync::EveryBatch,
    };
    Spool::open_on(disk.clone(), Path::new("/spool"), settings).unwrap()
}

/// What is left in a spool, from the oldest on.
fn left(spool: &Spool<MemoryDisk>) -> Vec<(Entry, Kind)> {
    std::iter::from_fn(|| spool.take_oldest(clock::monotonic()))
        .map(|entry| (entry, spool.load(&entry).unwrap().claims.kind))
        .collect()
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

#[test]
fn a_flood_leaves_manifests_of_what_it_pushed_out() {
    let spool = spool_on(&MemoryDisk::default(), 160 << 10);
    for sealed in &chains()[0] {
        assert!(matches!(spool.store(sealed), Stored::Batch));
    }
    let left = left(&spool);
    let seqs: Vec<u64> = left.iter().map(|(entry, _)| entry.seq).collect();
    let manifest = left.iter().find(|(entry, _)| entry.form == Form::Manifest);
    let oldest = manifest.unwrap().0.seq;
    assert!(
        (oldest..chains()[0].len() as u64).eq(seqs.iter().copied().filter(|seq| *seq >= oldest)),
        "the chain has no hole from the oldest manifest on: {seqs:?}"
    );
    assert_eq!(
        (chains()[0].len() - left.len()) as u64,
        counted(&spool, "manifests_lost", None)
    );
    assert_eq!(left.last().unwrap().0.form, Form::Batch);
}

#[test]
fn manifests_do_not_push_out_the_evidence() {
    let max = 128 << 10;
    let spool = spool_on(&MemoryDisk::default(), max);
    let sealed: Vec<_> = chains().iter().flatten().collect();
    for one in &sealed {
        assert!(matches!(spool.store(one), Stored::Batch));
    }
    // More manifests than would fill the spool.
    assert!(counted(&spool, "batches_dropped", None) > max / 4096);
    let left = left(&spool);
    let manifests = left
        .iter()
        .filter(|(entry, _)| entry.form == Form::Manifest)
        .count() as u64;
    assert!(
        (1..=max / MANIFEST_SHARE / 4096 + 1).contains(&manifests),
        "{manifests} manifests"
    );
    assert_eq!(
        manifests + counted(&spool, "manifests_lost", None),
        counted(&spool, "batches_dropped", None),
        "each that had to go too is counted"
    );
    // The newest batches of flow records, without a hole, take most of the room.
    let has_records = |sealed: &&&SealedBatch| sealed.claims.kind == Kind::Flow;
    let newest = sealed.iter().rev().filter(has_records);
    let survived = |sealed: &&&SealedBatch| {
        left.iter().any(|(entry, _)| {
            entry.form == Form::Batch && (entry.chain, entry.seq) == (sealed.claims.chain, sealed.claims.seq)
        })
    };
    let bytes: u64 = newest
        .take_while(survived)
        .map(|sealed| accounted(sealed.bytes.len() as u64))
        .sum();
    assert!(bytes > max / 2, "{bytes} bytes of the newest evidence");
}

#[test]
fn ledgers_stay_longest_within_their_share() {
    let (signer, mut chain) = (signer(), Chain::start(None).unwrap());
    let ledger: Vec<_> = (0..300)
        .map(|value| LedgerEntry::of_probe("frames_lost", "ring", Some(value * 7919)))
        .collect();
    let ledger = ledger_batch(NOW * 1_000_000_000, &ledger).unwrap();
    let max = 128 << 10;
    let spool = spool_on(&MemoryDisk::default(), max);
    for round in 0..24 {
        let (kind, rows) = if round % 12 == 0 {
            (Kind::Ledger, ledger.clone())
        } else {
            (Kind::Flow, batch(3, 2800))
        };
        let sealed = chain.seal(kind, &rows, NOW, &signer).unwrap();
        assert!(
            accounted(sealed.bytes.len() as u64) > accounted(1),
            "larger than a manifest"
        );
        assert!(matches!(spool.store(&sealed), Stored::Batch));
    }
    assert!(counted(&spool, "batches_dropped", None) > 0);
    let first = spool.take_oldest(clock::monotonic()).unwrap();
    assert_eq!(
        (first.seq, first.form),
        (0, Form::Batch),
        "the oldest ledger stays while records go"
    );
    spool.release(&first);
    // A long outage: ledgers alone would fill the spool.
    for _ in 0..24 {
        let sealed = chain.seal(Kind::Ledger, &ledger, NOW, &signer).unwrap();
        assert!(matches!(spool.store(&sealed), Stored::Batch));
    }
    let (ledgers, bytes) = {
        let state = spool.lock();
        (state.ledger_bytes, state.total_bytes())
    };
    assert!(ledgers <= 2 * max / LEDGER_SHARE, "{ledgers} of {bytes}");
    assert!(
        left(&spool)
            .iter()
            .any(|(entry, kind)| *kind == Kind::Flow && entry.form == Form::Batch)
    );
}

#[test]
fn what_cannot_be_read_when_it_must_go_is_put_away() {
    let stored = || {
        let disk = MemoryDisk::default();
        let spool = spool_on(&disk, 160 << 10);
        let mut rest = chains()[0].iter();
        while counted(&spool, "batches_dropped", None) == 0 {
            spool.store(rest.next().unwrap());
        }
        (disk, spool, rest)
    };
    let oldest = |spool: &Spool<MemoryDisk>| {
        let key = *spool.lock().batches.keys().next().unwrap();
        Entry {
            chain: key.chain,
            seq: key.seq,
            form: Form::Batch,
        }
    };
    let pending = |entry: &Entry| Path::new("/spool/pending").join(entry.file_name());
    let rejected = |entry: &Entry| Path::new("/spool/rejected").join(entry.file_name());
    let is_there = |disk: &MemoryDisk, path: &Path| disk.0.lock().unwrap().names.contains_key(path);
    let drop_one = |spool: &Spool<MemoryDisk>| {
        let _ = spool.drop_oldest(&mut spool.lock(), &spool.counters.dropped_full);
    };

    // The disk does not give it, this once.
    let (disk, spool, _) = stored();
    let batch = oldest(&spool);
    disk.0.lock().unwrap().fail_in = Some(0);
    drop_one(&spool);
    assert_eq!(counted(&spool, "batches_rejected", Some("unreadable")), 1);
    assert_eq!(counted(&spool, "batches_lost", None), 0);
    assert!(is_there(&disk, &rejected(&batch)) && !is_there(&disk, &pending(&batch)));
    assert_eq!(spool.counters().imbalance(), 0);

    // There is no manifest in it.
    let (disk, spool, _) = stored();
    let batch = oldest(&spool);
    disk.write(&pending(&batch), b"no batch", true).unwrap();
    drop_one(&spool);
    assert_eq!(counted(&spool, "batches_rejected", Some("unreadable")), 1);
    assert!(is_there(&disk, &rejected(&batch)));

    // It vanished.
    let (disk, spool, _) = stored();
    disk.remove(&pending(&oldest(&spool))).unwrap();
    drop_one(&spool);
    assert_eq!(counted(&spool, "batches_lost", Some("vanished")), 1);

    // It can neither be read nor put away: it stays, and the next makes room.
    let (disk, spool, mut rest) = stored();
    let (batch, dropped) = (oldest(&spool), counted(&spool, "batches_dropped", None));
    disk.0.lock().unwrap().bad = Some(pending(&batch));
    for _ in 0..4 {
        assert!(matches!(spool.store(rest.next().unwrap()), Stored::Batch));
    }
    assert!(counted(&spool, "batches_dropped", None) > dropped);
    assert_eq!(oldest(&spool), batch);
    assert!(is_there(&disk, &pending(&batch)));
    assert_eq!(spool.counters().imbalance(), 0);
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_who_only_looks() {
    let spool = spool_on(&MemoryDisk::default(), 1 << 20);
    spool.store(&chains()[0][0]);
    let busy = spool.lock();
    let expected = (busy.total_bytes(), busy.pending_events, 1);
    let (done, looked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let seen = (spool.fill().0, spool.pending_events(), spool.pending_entries());
            done.send(seen).unwrap();
        });
        let seen = looked.recv_timeout(Duration::from_secs(5));
        drop(busy);
        assert_eq!(seen, Ok(expected));
    });
}

#[test]
fn each_kind_of_disk_error_is_said_once() {
    let spool = spool_on(&MemoryDisk::default(), 1 << 20);
    let news = |kind: ErrorKind| spool.is_news(&kind.into());
    assert!(news(ErrorKind::ReadOnlyFilesystem) && news(ErrorKind::StorageFull));
    assert!(!news(ErrorKind::ReadOnlyFilesystem) && !news(ErrorKind::StorageFull));
    assert!(!news(ErrorKind::QuotaExceeded), "there is no space, as was said");
    let of_number = |number| spool.is_news(&io::Error::from_raw_os_error(number));
    assert!(of_number(libc::EIO) && of_number(libc::EMFILE) && !of_number(libc::EIO));
    spool.store(&chains()[0][0]);
    assert!(
        !news(ErrorKind::StorageFull),
        "one batch that it takes is not the end"
    );
    let now = clock::monotonic();
    assert_eq!(spool.overcome(now + CALM / 2), []);
    assert!(!news(ErrorKind::StorageFull));
    let overcome = spool.overcome(clock::monotonic() + CALM);
    assert!(overcome.contains(&DiskTrouble::Full) && overcome.len() == 4);
    assert_eq!(spool.overcome(clock::monotonic() + CALM), [], "it is told once");
    assert!(
        news(ErrorKind::ReadOnlyFilesystem),
        "the disk had worked for a while"
    );
}

#[test]
fn the_head_survives_a_restart() {
    let disk = MemoryDisk::default();
    let settings = SpoolSettings {
        max_bytes: 1 << 20,
        when_full: WhenFull::DropOldest,
        sync: Sync::EveryBatch,
    };
    let spool = Spool::open_on(disk.clone(), Path::new("/spool"), settings).unwrap();
    assert_eq!(spool.head(), None);
    for sealed in &chains()[0][..3] {
        spool.store(sealed);
    }
    let head = chains()[0][2].head();
    let reopened = || {
        Spool::open_on(disk.clone(), Path::new("/spool"), settings)
            .unwrap()
            .head()
    };
    assert_eq!(reopened(), Some(head));
    disk.write(Path::new("/spool/head.json"), b"{", false).unwrap();
    assert_eq!(reopened(), Some(head), "from the newest batch");
    disk.remove(Path::new("/spool/head.json")).unwrap();
    assert_eq!(reopened(), Some(head));
    let stale = super::entry::HeadFile::encode(&chains()[0][0].head());
    disk.write(Path::new("/spool/head.json"), &stale, false).unwrap();
    assert_eq!(reopened(), Some(head), "pending/ is newer");
}

#[test]
fn foreign_and_corrupt_files_are_put_aside() {
    let disk = MemoryDisk::default();
    let settings = SpoolSettings {
        max_bytes: 1 << 20,
        when_full: WhenFull::DropOldest,
        sync: Sync::EveryBatch,
    };
    let (first, second) = (&chains()[0][0], &chains()[0][1]);
    let entry = |sealed: &SealedBatch, form| Entry {
        chain: sealed.claims.chain,
        seq: sealed.claims.seq,
        form,
    };
    let path = |entry: Entry| Path::new("/spool/pending").join(entry.file_name());
    disk.write(Path::new("/spool/pending/README"), b"hello", false)
        .unwrap();
    disk.write(Path::new("/spool/tmp/7"), b"half", false).unwrap();
    disk.write(&path(entry(first, Form::Batch)), &first.bytes[..100], false)
        .unwrap();
    // A batch under another's name.
    disk.write(&path(entry(second, Form::Batch)), &chains()[0][2].bytes, false)
        .unwrap();
    let mut bytes = second.bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    disk.write(&path(entry(&chains()[0][3], Form::Batch)), &[], false)
        .unwrap();
    let spool = Spool::open_on(disk.clone(), Path::new("/spool"), settings).unwrap();
    assert!(spool.take_oldest(clock::monotonic()).is_none());
    assert_eq!(spool.put_away_at_start(), 3);
    assert_eq!(spool.counters().imbalance(), 0);
    let names: Vec<String> = disk
        .0
        .lock()
        .unwrap()
        .names
        .keys()
        .map(|p| p.display().to_string())
        .collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("/spool/rejected/"))
            .count(),
        6,
        "{names:?}"
    );
    assert!(names.contains(&"/spool/pending/README".to_owned()));
    assert!(
        !names.iter().any(|name| name.starts_with("/spool/tmp/")),
        "{names:?}"
    );

    // A bit that flips while the spool is open: the batch is put away, its manifest stays.
    spool.store(&chains()[1][0]);
    let mut bytes = chains()[1][0].bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    disk.write(&path(entry(&chains()[1][0], Form::Batch)), &bytes, false)
        .unwrap();
    let taken = spool.take_oldest(clock::monotonic()).unwrap();
    assert_eq!(spool.load(&taken).unwrap_err(), NotLoaded::Gone);
    let taken = spool.take_oldest(clock::monotonic()).unwrap();
    assert_eq!(taken.form, Form::Manifest);
    assert_eq!(
        spool.load(&taken).unwrap().bytes,
        chains()[1][0].manifest.as_bytes()
    );
    assert_eq!(spool.counters().imbalance(), 0);
}

#[test]
fn what_the_disk_does_not_give_at_start_is_kept() {
    let disk = MemoryDisk::default();
    let spool = spool_on(&disk, 1 << 20);
    for sealed in &chains()[0][..6] {
        assert!(matches!(spool.store(sealed), Stored::Batch));
    }
    let (events, bytes) = (spool.pending_events(), spool.fill().0);
    assert!(events > 0);
    disk.0.lock().unwrap().is_blind = true;
    let spool = spool_on(&disk, 1 << 20);
    assert_eq!(spool.fill().0, bytes);
    assert_eq!((spool.pending_entries(), spool.pending_events()), (6, 0));
    assert_eq!(
        (
            spool.put_away_at_start(),
            counted(&spool, "batches_rejected", None)
        ),
        (0, 0)
    );
    assert_eq!(counted(&spool, "spool_disk_errors", None), 6);
    disk.0.lock().unwrap().is_blind = false;
    let found = left(&spool);
    assert!(
        found
            .iter()
            .zip(&chains()[0][..6])
            .all(|((entry, _), sealed)| entry.seq == sealed.claims.seq)
    );
    assert_eq!(
        (found.len(), spool.pending_events()),
        (6, events),
        "known once they are read"
    );
    for (entry, _) in &found {
        spool.acknowledge(entry);
    }
    assert_eq!(counted(&spool, "events_acknowledged", None), events);
    let state = spool.lock();
    assert_eq!(
        (state.pending_bytes, state.ledger_bytes, state.pending_events),
        (0, 0, 0)
    );
}

#[test]
fn what_the_disk_does_not_give_rests_while_others_go() {
    let disk = MemoryDisk::default();
    let spool = spool_on(&disk, 1 << 20);
    for sealed in &chains()[0][..3] {
        assert!(matches!(spool.store(sealed), Stored::Batch));
    }
    let start = clock::monotonic();
    let second = Duration::from_secs(1);
    let take = |seconds| spool.take_oldest(start + seconds * second);
    let first = take(0).unwrap();
    let path = Path::new("/spool/pending").join(first.file_name());
    disk.0.lock().unwrap().bad = Some(path);
    assert_eq!(spool.load(&first).unwrap_err(), NotLoaded::Unreadable);
    let rest = |seconds| spool.rest(&first, start + seconds * second, 5 * second);
    assert_eq!(rest(0), 1);
    let other = take(4).unwrap();
    assert_eq!(other.seq, 1, "the others go meanwhile");
    assert_eq!(spool.next_rest_ends(start + 4 * second), Some(start + 5 * second));
    assert_eq!(take(5).unwrap(), first, "in its turn again");
    assert_eq!(spool.next_rest_ends(start + 5 * second), None);
    assert_eq!(spool.load(&first).unwrap_err(), NotLoaded::Unreadable);
    assert_eq!(rest(5), 1, "as long as nothing else is given, it may be the disk");
    assert_eq!(
        spool.next_rest_ends(start + 5 * second),
        Some(start + 15 * second),
        "longer each time"
    );
    spool.load(&other).unwrap();
    spool.acknowledge(&other);
    assert_eq!(take(15).unwrap(), first);
    assert_eq!(spool.load(&first).unwrap_err(), NotLoaded::Unreadable);
    assert_eq!(rest(15), 2);
    // The disk gives it again: what was is forgotten.
    disk.0.lock().unwrap().bad = None;
    assert_eq!(take(35).unwrap(), first);
    spool.load(&first).unwrap();
    spool.release(&first);
    assert_eq!(take(35).unwrap(), first);
    assert_eq!(rest(35), 1);
    assert_eq!(
        spool.next_rest_ends(start + 35 * second),
        Some(start + 40 * second)
    );
    // One that is gone does not rest.
    spool.acknowledge(&first);
    assert_eq!(spool.next_rest_ends(start), None);
    assert_eq!(take(40).unwrap().seq, 2);
    assert_eq!(take(40), None);
}

#[test]
fn a_manifest_beside_a_batch_that_was_not_read_stays_for_the_next_start() {
    let disk = MemoryDisk::default();
    let spool = spool_on(&disk, 1 << 20);
    let sealed = &chains()[0][0];
    spool.store(sealed);
    let entry = |form| Entry {
        chain: sealed.claims.chain,
        seq: 0,
        form,
    };
    let path = |form| Path::new("/spool/pending").join(entry(form).file_name());
    disk.write(&path(Form::Manifest), sealed.manifest.as_bytes(), true)
        .unwrap();
    let is_there = |form| disk.0.lock().unwrap().names.contains_key(&path(form));
    disk.0.lock().unwrap().bad = Some(path(Form::Batch));
    assert_eq!(spool_on(&disk, 1 << 20).pending_entries(), 1);
    assert!(is_there(Form::Batch) && is_there(Form::Manifest));
    disk.0.lock().unwrap().bad = None;
    assert_eq!(spool_on(&disk, 1 << 20).pending_entries(), 1);
    assert!(is_there(Form::Batch) && !is_there(Form::Manifest));
}

#[test]
fn files_of_others_below_the_directory_are_left_alone() {
    let disk = MemoryDisk::default();
    let name = Entry {
        chain: chains()[0][0].claims.chain,
        seq: 7,
        form: Form::Batch,
    }
    .file_name();
    let foreign = [
        "tmp/systemd-private-1",
        "tmp/12.log",
        "tmp/x9",
        "rejected/mail",
        "rejected/mail.reason",
    ];
    let ours = [
        "tmp/0".to_owned(),
        "tmp/18".to_owned(),
        format!("rejected/{name}"),
        format!("rejected/{name}.reason"),
    ];
    for part in foreign.into_iter().chain(ours.iter().map(String::as_str)) {
        let path = Path::new("/spool").join(part);
        disk.write(&path, &vec![b'x'; 40 << 10], true).unwrap();
    }
    // A quarter of it has room for none of what is in rejected/.
    let spool = spool_on(&disk, 64 << 10);
    let memory = disk.0.lock().unwrap();
    let is_there = |part: &str| memory.names.contains_key(&Path::new("/spool").join(part));
    assert!(foreign.into_iter().all(is_there), "{:?}", memory.names);
    assert!(!ours.iter().any(|part| is_there(part)), "{:?}", memory.names);
    drop(memory);
    assert_eq!(counted(&spool, "spool_foreign_files", None), 5);
    assert_eq!(spool.fill().0, 0);
}

#[test]
fn one_process_owns_a_spool() {
    let directory = tempfile::tempdir().unwrap();
    let settings = SpoolSettings {
        max_bytes: 1 << 20,
        when_full: WhenFull::DropOldest,
        sync: Sync::Never,
    };
    let path = directory.path().join("buffer");
    let spool = Spool::open(&path, settings).unwrap();
    assert!(matches!(
        Spool::open(&path, settings),
        Err(super::SpoolError::Locked { .. })
    ));
    assert!(matches!(spool.store(&chains()[0][0]), Stored::Batch));
    drop(spool);
    let spool = Spool::open(&path, settings).unwrap();
    let entry = spool.take_oldest(clock::monotonic()).unwrap();
    assert!(spool.load(&entry).unwrap().bytes == chains()[0][0].bytes);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(path.join("pending").join(entry.file_name()))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
