//! The sealing threads: order, accounts, and what they do with what cannot be sealed.

use std::sync::OnceLock;

use super::*;
use crate::seal::fixtures::clock_that_ends_the_thread;
use crate::seal::sealer::{SealCounters, SealerSettings};
use crate::seal::{Intake, SealedBatch, jws};

struct Collected {
    batches: Vec<SealedBatch>,
    counters: Vec<LedgerEntry>,
}

impl Collected {
    fn value(&self, account: &str, reason: &str) -> u64 {
        self.counters
            .iter()
            .find(|e| e.account == account && e.reason == reason)
            .unwrap()
            .value
            .unwrap()
    }
}

fn run_sealer(queue_batches: usize, feed: impl FnOnce(&Intake)) -> Collected {
    run_sealers(1, queue_batches, feed)
}

fn run_sealers(threads: usize, queue_batches: usize, feed: impl FnOnce(&Intake)) -> Collected {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let output = Arc::clone(&batches);
    let settings = SealerSettings {
        threads,
        queue_batches,
        queue_bytes: 1 << 30,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let chain = Chain::start(None).unwrap();
    let sealer = Sealer::start(signer(), chain, settings, move |sealed| {
        output.lock().unwrap().push(sealed);
    })
    .unwrap();
    let intake = sealer.intake();
    let counters = Arc::clone(intake.counters());
    feed(&intake);
    drop(intake);
    let head = sealer.finish();
    let batches = std::mem::take(&mut *batches.lock().unwrap());
    assert_eq!(
        head.map(|head| head.seq + 1).unwrap_or_default(),
        batches.len() as u64
    );
    let collected = Collected {
        batches,
        counters: counters.ledger_entries(),
    };
    let dropped: u64 = collected
        .counters
        .iter()
        .filter(|e| e.account == "events_dropped")
        .map(|e| e.value.unwrap())
        .sum();
    let sealed = collected.value("events_sealed", "");
    assert_eq!(
        collected.value("events_exported", ""),
        sealed + dropped + collected.value("events_waiting", "")
    );
    assert_eq!(
        collected.value("events_waiting", "") + collected.value("batches_waiting", ""),
        0
    );
    collected
}

#[test]
fn from_a_file_nothing_is_dropped() {
    let collected = run_sealer(1, |intake| {
        for rows in 1..20 {
            assert!(intake.submit(Kind::Flow, batch(rows, 5)));
        }
        assert!(
            intake.submit(Kind::Flow, batch(0, 0)),
            "an empty batch is no work"
        );
    });
    assert_eq!(
        collected.value("events_sealed", ""),
        (1..20).sum::<usize>() as u64
    );
    assert!(
        collected
            .batches
            .iter()
            .zip(0..)
            .all(|(sealed, seq)| sealed.claims.seq == seq)
    );
}

#[test]
fn the_books_balance_while_a_batch_is_stored() {
    let shown = Arc::new(OnceLock::<Arc<SealCounters>>::new());
    let books = Arc::new(Mutex::new(Vec::new()));
    let (counters, seen) = (Arc::clone(&shown), Arc::clone(&books));
    let settings = SealerSettings {
        threads: 1,
        queue_batches: 8,
        queue_bytes: 1 << 30,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, move |_| {
        let entries = counters.get().unwrap().ledger_entries();
        let of = |account: &str| {
            let entry = entries.iter().find(|entry| entry.account == account);
            entry.unwrap().value.unwrap()
        };
        let settled = (of("events_sealed"), of("events_waiting"));
        seen.lock().unwrap().push(settled);
    })
    .unwrap();
    let intake = sealer.intake();
    assert!(shown.set(Arc::clone(intake.counters())).is_ok());
    // In two parts.
    let rows = MAX_ROWS + 2;
    assert!(intake.submit(Kind::Flow, batch(rows, 0)));
    drop(intake);
    sealer.finish();
    let half = rows as u64 / 2;
    assert_eq!(*books.lock().unwrap(), [(0, 2 * half), (half, half)]);
}

#[test]
fn live_a_full_queue_drops_and_counts() {
    let mut taken = 0;
    let collected = run_sealer(2, |intake| {
        // Far more than two seconds of signing, offered in a moment.
        for _ in 0..200 {
            taken += u64::from(intake.offer(Kind::Flow, batch(3, 0)));
        }
    });
    assert_eq!(collected.value("events_sealed", ""), taken * 3);
    assert_eq!(
        collected.value("events_dropped", "seal_queue_full"),
        (200 - taken) * 3
    );
    assert!((1..200).contains(&taken), "{taken} of 200 were taken");
}

/// A sealer whose queue may take so many bytes. Each batch is stored once something comes on the channel, or when it is gone.
fn held_up(queue_bytes: u64) -> (Sealer, std::sync::mpsc::Sender<()>) {
    let settings = SealerSettings {
        threads: 1,
        queue_batches: 100,
        queue_bytes,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let (go_on, wait) = std::sync::mpsc::channel();
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, move |_| {
        let _ = wait.recv();
    });
    (sealer.unwrap(), go_on)
}

#[test]
fn live_a_queue_that_takes_too_much_memory_drops_and_counts() {
    let bytes = batch(10, 0).get_array_memory_size() as u64;
    let (sealer, go_on) = held_up(2 * bytes);
    let intake = sealer.intake();
    let offer = || intake.offer(Kind::Flow, batch(10, 0));
    assert!(offer());
    // The one that is being sealed is in the queue no more.
    while intake.counters().bytes_waiting() > 0 {
        std::thread::yield_now();
    }
    assert_eq!([offer(), offer(), offer()], [true, true, false]);
    assert_eq!(intake.counters().bytes_waiting(), 2 * bytes);
    drop(go_on);
    let counters = Arc::clone(intake.counters());
    drop(intake);
    sealer.finish();
    let value = |account: &str, reason: &str| {
        let entries = counters.ledger_entries();
        let entry = entries
            .iter()
            .find(|e| e.account == account && e.reason == reason);
        entry.unwrap().value.unwrap()
    };
    assert_eq!(value("events_sealed", ""), 30);
    assert_eq!(value("events_dropped", "seal_queue_full"), 10);
    assert_eq!(
        (value("events_waiting", ""), value("batch_bytes_waiting", "")),
        (0, 0)
    );
}

#[test]
fn too_large_batches_are_sealed_in_parts_and_too_large_records_are_counted() {
    let collected = run_sealer(1, |intake| {
        intake.submit(Kind::Flow, batch(MAX_ROWS + 1, 0));
        intake.submit(Kind::Flow, batch(30, 100_000));
        intake.submit(Kind::Flow, batch(1, 2 * MAX_STREAM_BYTES));
        intake.submit(Kind::Flow, batch(1, 10));
    });
    assert_eq!(collected.value("events_sealed", ""), MAX_ROWS as u64 + 1 + 30 + 1);
    assert_eq!(collected.value("events_dropped", "too_large"), 1);
    for sealed in &collected.batches {
        assert!(sealed.bytes.len() <= MAX_STREAM_BYTES);
        verify_batch(&sealed.bytes, &trusted()).unwrap();
    }
}

#[test]
fn what_does_not_compress_is_split_before_it_is_written() {
    let mut press = Press::default();
    let expected = Position {
        kind: Kind::Flow,
        chain: ChainId([1; 16]),
        seq: 0,
        previous: None,
        iat: NOW,
    };
    let mut drafts = |records: &RecordBatch| {
        let leaves = Leaves::of(records).unwrap();
        let drafts = press.drafts(records, &leaves, &expected, &signer());
        let mut next = 0;
        let mut lengths = Vec::new();
        for (rows, draft) in drafts {
            assert_eq!(rows.start, next, "the parts are in order and without holes");
            next = rows.end;
            let sealed = draft.unwrap().sign(&expected, &signer()).unwrap();
            let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
            assert_eq!(verified.leaves, leaf_hashes(records).unwrap()[rows]);
            lengths.push(sealed.bytes.len());
        }
        assert_eq!(next, records.num_rows());
        lengths
    };
    // 3 MiB of text of 95 characters: 2.5 MiB compressed. Nothing is known of it yet: halves, and their halves.
    let records = batch(1500, 2000);
    assert_eq!(drafts(&records).len(), 4);
    // Now it is: three parts.
    let lengths = drafts(&records);
    assert_eq!(lengths.len(), 3);
    assert!(
        lengths.iter().all(|length| *length > MAX_STREAM_BYTES * 3 / 4),
        "{lengths:?}"
    );
    // What compresses well is put together again after a while.
    let zeros = {
        let text = StringArray::from_iter_values((0..1500).map(|_| "0".repeat(2000)));
        let column: ArrayRef = Arc::new(text);
        RecordBatch::try_from_iter([("text", column)]).unwrap()
    };
    let counts: Vec<usize> = (0..20).map(|_| drafts(&zeros).len()).collect();
    assert_eq!((counts[0], counts[19]), (3, 1), "{counts:?}");
}

#[test]
fn several_threads_keep_the_order_and_the_chain() {
    // Batches of very different cost, some of which are sealed in parts, so that later ones are ready first. The chain
    // passes the positions at which the manifest gets longer.
    let sizes: Vec<usize> = (0..130)
        .map(|number| if number % 40 == 7 { 6000 } else { 1 + number % 5 })
        .chain([MAX_ROWS + 1, 1, 2])
        .collect();
    let numbered = |first: u64, rows: usize| {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::UInt64, false)]));
        let column = Arc::new(UInt64Array::from_iter_values(first..first + rows as u64));
        RecordBatch::try_new(schema, vec![column]).unwrap()
    };
    let total: usize = sizes.iter().sum();
    let collected = run_sealers(3, 2, |intake| {
        let mut next = 0;
        for &rows in &sizes {
            assert!(intake.submit(Kind::Flow, numbered(next, rows)));
            next += rows as u64;
        }
    });
    assert_eq!(collected.value("events_sealed", ""), total as u64);
    assert_eq!(collected.value("batches_sealed", ""), sizes.len() as u64 + 1);
    let (mut next, mut before) = (0, None);
    for (sealed, seq) in collected.batches.iter().zip(0..) {
        let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
        assert_eq!(
            (verified.signed.claims.seq, verified.signed.claims.prev),
            (seq, before)
        );
        before = Some(verified.signed.manifest_digest);
        for &number in verified.batch.column(0).as_primitive::<UInt64Type>().values() {
            assert_eq!(number, next, "batch {seq}");
            next += 1;
        }
    }
    assert_eq!(next, total as u64);
}

#[test]
fn what_one_of_several_threads_cannot_seal_holds_up_nobody() {
    let collected = run_sealers(3, 4, |intake| {
        for number in 0..20 {
            let length = if number % 6 == 2 { 2 * MAX_STREAM_BYTES } else { 10 };
            assert!(intake.submit(Kind::Flow, batch(1, length)));
            assert!(intake.submit(Kind::Flow, batch(0, 0)));
        }
    });
    assert_eq!(collected.value("events_dropped", "too_large"), 3);
    assert_eq!(collected.value("events_sealed", ""), 17);
    assert!(
        collected
            .batches
            .iter()
            .zip(0..)
            .all(|(sealed, seq)| sealed.claims.seq == seq)
    );
}

#[test]
fn a_draft_is_signed_wherever_it_comes_to_stand() {
    let records = batch(40, 20);
    let leaves = leaf_hashes(&records).unwrap();
    let (signer, trusted) = (signer(), trusted());
    let position = |seq, previous| Position {
        kind: Kind::Flow,
        chain: ChainId([1; 16]),
        seq,
        previous,
        iat: NOW,
    };
    let head = Head {
        chain: ChainId([2; 16]),
        seq: 7,
        manifest: jws::Digest([3; 32]),
    };
    let places = [
        position(0, None),
        position(0, Some(head)),
        position(9, Some(head)),
        position(10, Some(head)),
    ];
    for expected in places {
        for found in places {
            let mut press = Press::default();
            let draft = Draft::new(&records, &leaves, &expected, &signer, &mut press).unwrap();
            let sealed = draft.sign(&found, &signer).unwrap();
            let verified = verify_batch(&sealed.bytes, &trusted).unwrap();
            assert_eq!(verified.signed.claims.seq, found.seq);
            assert_eq!(
                verified.signed.claims.prev,
                found.previous.map(|head| head.manifest)
            );
            assert_eq!(verified.leaves, leaves);
        }
    }
}

#[test]
fn who_waits_for_the_queue_waits_for_its_memory_too() {
    let bytes = batch(10, 0).get_array_memory_size() as u64;
    let (sealer, go_on) = held_up(2 * bytes);
    let intake = sealer.intake();
    let counters = Arc::clone(intake.counters());
    let feeder = std::thread::spawn({
        let intake = intake.clone();
        move || (0..10).all(|_| intake.submit(Kind::Flow, batch(10, 0)))
    });
    for _ in 0..10 {
        // One is being stored, two are in the queue, and one waits in front of it.
        while counters.bytes_waiting() < 2 * bytes && !feeder.is_finished() {
            std::thread::yield_now();
        }
        assert!(counters.bytes_waiting() <= 2 * bytes);
        go_on.send(()).unwrap();
    }
    assert!(feeder.join().unwrap());
    // Larger than all that the queue may take: it goes alone.
    drop(go_on);
    assert!(intake.submit(Kind::Flow, batch(1000, 0)));
    drop(intake);
    sealer.finish();
    assert_eq!(counters.events_waiting() + counters.bytes_waiting(), 0);
}

#[test]
fn once_every_thread_has_ended_nobody_waits_for_them() {
    let settings = SealerSettings {
        threads: 1,
        queue_batches: 100,
        queue_bytes: 1,
        clock: clock_that_ends_the_thread(),
    };
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, |_| ()).unwrap();
    let intake = sealer.intake();
    let counters = Arc::clone(intake.counters());
    assert!(!intake.has_lost_a_thread());
    assert!(intake.submit(Kind::Flow, batch(10, 0)));
    // This one may find room before the thread has ended, the next one does not.
    let taken = u64::from(intake.submit(Kind::Flow, batch(10, 0)));
    assert!(!intake.submit(Kind::Flow, batch(7, 0)));
    assert!(intake.has_lost_a_thread() && sealer.has_lost_a_thread());
    assert!(!intake.offer(Kind::Flow, batch(7, 0)));
    let entries = counters.ledger_entries();
    let value = |account: &str, reason: &str| {
        let of_it = |entry: &&LedgerEntry| entry.account == account && entry.reason == reason;
        entries.iter().find(of_it).unwrap().value.unwrap()
    };
    let dropped = value("events_dropped", "sealer_stopped") + value("events_dropped", "seal_queue_full");
    assert_eq!(
        value("events_waiting", ""),
        10 + 10 * taken,
        "what the thread had is in no other account"
    );
    assert_eq!(dropped, 14 + 10 * (1 - taken));
    drop(intake);
    let finish = std::panic::AssertUnwindSafe(|| sealer.finish());
    assert!(std::panic::catch_unwind(finish).is_err());
}

#[test]
fn while_sealing_is_behind_nothing_is_compressed_harder() {
    let records = {
        let numbers = (0..4000_u64).map(|n| (n * n / 7) % 1_000 * 1_000_003);
        let column: ArrayRef = Arc::new(UInt64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    };
    let settings = SealerSettings {
        threads: 1,
        queue_batches: 10,
        queue_bytes: 1 << 30,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let (came, arrivals) = std::sync::mpsc::channel::<usize>();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, move |sealed| {
        came.send(sealed.bytes.len() - sealed.manifest.len()).unwrap();
        let _ = wait.recv();
    })
    .unwrap();
    let intake = sealer.intake();
    intake.set_compression_level(19);
    assert!(intake.offer(Kind::Flow, records.clone()));
    let alone = arrivals.recv().unwrap();
    for _ in 0..3 {
        assert!(intake.offer(Kind::Flow, records.clone()));
    }
    drop(go_on);
    let lengths: Vec<usize> = (0..3).map(|_| arrivals.recv().unwrap()).collect();
    drop(intake);
    sealer.finish();
    // Levels make a difference of hundreds of bytes here; the paddings beside manifests of other lengths, of a few.
    let like_the_first: Vec<bool> = lengths.iter().map(|length| length.abs_diff(alone) < 64).collect();
    assert_eq!(
        like_the_first,
        [false, false, true],
        "the last one waits for nobody: {alone} {lengths:?}"
    );
}

#[test]
fn sealing_is_behind_when_every_thread_has_a_batch_and_another_waits() {
    let settings = SealerSettings {
        threads: 2,
        queue_batches: 10,
        queue_bytes: 1 << 30,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, move |_| {
        let _ = wait.recv();
    })
    .unwrap();
    let intake = sealer.intake();
    let mut behind = Vec::new();
    for _ in 0..4 {
        behind.push(intake.is_behind());
        assert!(intake.offer(Kind::Flow, batch(1, 0)));
    }
    assert_eq!(behind, [false, false, false, true]);
    drop(go_on);
    while intake.counters().batches_waiting() > 0 {
        std::thread::yield_now();
    }
    assert!(!intake.is_behind());
    drop(intake);
    assert_eq!(sealer.finish().map(|head| head.seq), Some(3));
}

#[test]
fn an_output_that_panics_ends_neither_the_thread_nor_the_stop() {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let output = Arc::clone(&stored);
    let settings = SealerSettings {
        threads: 1,
        queue_batches: 8,
        queue_bytes: 1 << 30,
        clock: Arc::new(|| NOW * 1_000_000_000),
    };
    let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, move |sealed| {
        assert_ne!(sealed.claims.seq, 1, "a bug in what stores batches");
        output.lock().unwrap().push(sealed.claims.seq);
    })
    .unwrap();
    let intake = sealer.intake();
    let counters = Arc::clone(intake.counters());
    for rows in 1..=3 {
        assert!(intake.submit(Kind::Flow, batch(rows, 1)));
    }
    drop(intake);
    assert_eq!(sealer.finish().map(|head| head.seq), Some(2));
    assert_eq!(*stored.lock().unwrap(), [0, 2]);
    let waiting = |entry: &LedgerEntry| entry.account == "events_waiting" && entry.value == Some(0);
    assert!(counters.ledger_entries().iter().any(waiting));
}
