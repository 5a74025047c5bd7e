//! The spool, on a disk in memory.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use self::memory::MemoryDisk;
use super::disk::Disk;
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

mod memory;
mod model;

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
