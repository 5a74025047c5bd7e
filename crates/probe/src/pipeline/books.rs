//! The accounts of all stages, as one ledger (design §9).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::interface::{self, InterfaceCounters};
use crate::capture::{Accounts, FrameClock, Way};
use crate::counters::{Account, Counters, Kind, LedgerEntry, Tally};
use crate::deliver::DeliverCounters;
use crate::flow;
use crate::seal::sealer::SealCounters;
use crate::spool::{Spool, SpoolCounters};

const fn account(name: &'static str, kind: Kind, doc: &'static str) -> Account {
    Account {
        name,
        reason: "",
        kind,
        doc,
        reason_doc: "",
    }
}

/// What the source says.
const SOURCE: [Account; 10] = [
    account(
        "source_frames_delivered",
        Kind::Counter,
        "Frames that the source handed over.",
    ),
    account(
        "source_frames_filtered",
        Kind::Counter,
        "Frames that the filter passed over, where the source can know it.",
    ),
    Account {
        reason: "ring_full",
        reason_doc: "The capture ring was full.",
        ..account(
            "source_frames_dropped",
            Kind::Counter,
            "Frames that were lost before they reached the probe, where the source can know it.",
        )
    },
    Account {
        reason: "left_in_ring",
        reason_doc: "AF_PACKET: the frame was in the ring, but it was not handed over before the capture ended or the interface was gone or changed its hardware type, or stood in a damaged block.",
        ..account(
            "source_frames_dropped",
            Kind::Counter,
            "Frames that were lost before they reached the probe, where the source can know it.",
        )
    },
    Account {
        reason: "no_buffer",
        reason_doc: "AF_XDP: no buffer was free, or the frame was larger than it may be.",
        ..account(
            "source_frames_dropped",
            Kind::Counter,
            "Frames that were lost before they reached the probe, where the source can know it.",
        )
    },
    Account {
        reason: "no_socket",
        reason_doc: "AF_XDP: the receive queue has no socket, for the interface has got more queues since the capture began. The host got the frame. The first worker counts for all.",
        ..account(
            "source_frames_dropped",
            Kind::Counter,
            "Frames that were lost before they reached the probe, where the source can know it.",
        )
    },
    account(
        "source_fill_ring_empty",
        Kind::Counter,
        "Times that the kernel wanted a buffer of an AF_XDP socket and there was none, where the source can know it. A frame that is dropped for it counts as `no_buffer` too, unless the card itself had to drop it.",
    ),
    account(
        "source_ring_freezes",
        Kind::Counter,
        "Times that the capture ring was full and the kernel stopped filling it, where the source can know it.",
    ),
    account(
        "source_blocks_damaged",
        Kind::Counter,
        "Blocks of the capture ring in which a frame was described that does not lie in them, where the source can know it. Any value but zero is a bug.",
    ),
    account(
        "source_bytes_skipped",
        Kind::Counter,
        "Bytes of broken records in capture files that were passed over.",
    ),
];
/// How the source gets its frames.
fn ways() -> impl Iterator<Item = (Way, Account)> {
    Way::ALL.iter().map(|&(way, reason, reason_doc)| {
        let account = Account {
            reason,
            reason_doc,
            ..account(
                "source_mode",
                Kind::Gauge,
                "1 for the way in which frames come now; live only.",
            )
        };
        (way, account)
    })
}

/// Which clocks stamped the frames.
fn clocks() -> impl Iterator<Item = Account> {
    FrameClock::ALL.iter().map(|&(_, reason, reason_doc)| Account {
        reason,
        reason_doc,
        ..account(
            "source_frames_stamped",
            Kind::Counter,
            "Frames that the source handed over, by the clock that stamped them; live only.",
        )
    })
}

/// What the builders of record batches say.
const RECORDS: [Account; 2] = [
    account(
        "records_building",
        Kind::Gauge,
        "Flow records in batches that are not full yet.",
    ),
    account(
        "records_unbuildable",
        Kind::Counter,
        "Flow records that could not be put into a batch. Any value but zero is a bug.",
    ),
];
/// What reporting on the probe itself says.
const EVENTS: [Account; 1] = [Account {
    reason: "queue_full",
    reason_doc: "Too many waited to be sealed.",
    ..account(
        "probe_events_lost",
        Kind::Counter,
        "Events about the probe itself that were logged but not sealed.",
    )
}];

/// An account of the books, and whether each worker has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The account.
    pub account: Account,
    /// Whether each worker has its own; a reader of files, and the thread that merges flows, count for the whole probe.
    pub of_worker: bool,
}

/// Every account of the books, in ledger order.
pub fn accounts() -> Vec<Declared> {
    let of_probe = |account| Declared {
        account,
        of_worker: false,
    };
    let mut accounts: Vec<Declared> = SOURCE.into_iter().map(of_probe).collect();
    accounts.extend(ways().map(|(_, account)| of_probe(account)));
    accounts.extend(clocks().map(of_probe));
    for source in &mut accounts {
        source.of_worker = true;
    }
    accounts.extend(interface::accounts().into_iter().map(of_probe));
    accounts.extend(Tally::accounts().into_iter().map(|account| Declared {
        account,
        of_worker: true,
    }));
    accounts.extend(RECORDS.into_iter().map(of_probe));
    accounts.extend(SealCounters::accounts().into_iter().map(of_probe));
    accounts.extend(SpoolCounters::accounts().into_iter().map(of_probe));
    accounts.extend(DeliverCounters::accounts().into_iter().map(of_probe));
    accounts.extend(EVENTS.into_iter().map(of_probe));
    accounts
}

/// The lines of declared accounts of the whole probe.
fn lines<const N: usize>(
    accounts: &[Account; N],
    values: [Option<u64>; N],
) -> impl Iterator<Item = LedgerEntry> {
    accounts
        .iter()
        .zip(values)
        .map(|(account, value)| LedgerEntry::of_probe(account.name, account.reason, value))
}

/// What every stage has counted since the start.
#[derive(Debug)]
pub struct Books {
    counters: Counters,
    sealing: Arc<SealCounters>,
    spool: Arc<Spool>,
    delivery: OnceLock<Arc<DeliverCounters>>,
    sources: Mutex<BTreeMap<Option<u32>, Accounts>>,
    records_building: AtomicU64,
    records_unbuildable: AtomicU64,
    events_lost: AtomicU64,
    interface: InterfaceCounters,
}

impl Books {
    pub(super) fn new(flow: &flow::Settings, sealing: Arc<SealCounters>, spool: Arc<Spool>) -> Self {
        Self {
            counters: Counters::new(flow.workers),
            sealing,
            spool,
            delivery: OnceLock::new(),
            sources: Mutex::default(),
            records_building: AtomicU64::new(0),
            records_unbuildable: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
            interface: InterfaceCounters::default(),
        }
    }

    pub(super) fn set_delivery(&self, counters: Arc<DeliverCounters>) {
        // Called once, at the start; a second value would be the same delivery's.
        let _ = self.delivery.set(counters);
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What a source has done so far: a worker's own, live, or the one that all workers share.
    pub(super) fn set_source(&self, worker: Option<u32>, accounts: Accounts) {
        self.sources().insert(worker, accounts);
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Option<u32>, Accounts>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of a worker's open batch were `before` and are `now`.
    pub(super) fn set_building(&self, before: usize, now: usize) {
        let change = (now as u64).wrapping_sub(before as u64);
        self.records_building.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn unbuildable(&self, records: usize) {
        self.records_unbuildable
            .fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn event_lost(&self) {
        self.events_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn interface(&self) -> &InterfaceCounters {
        &self.interface
    }

    /// Flow records that wait for their signature.
    pub fn events_waiting(&self) -> u64 {
        self.sealing.events_waiting()
    }

    /// What the sealing threads counted.
    pub(super) fn sealing(&self) -> &SealCounters {
        &self.sealing
    }

    /// Frames that all sources handed over, and those that were lost before; `None` where one cannot know it.
    pub(super) fn delivered_and_dropped(&self) -> (u64, Option<u64>) {
        let sources = self.sources();
        let dropped = sources.values().map(Accounts::lost).sum();
        (
            sources.values().map(|source| source.frames_delivered).sum(),
            dropped,
        )
    }

    /// How far the reading of files is: bytes read as they are stored, of how many where that is known, and frames.
    pub fn progress(&self) -> (u64, Option<u64>, u64) {
        let sources = self.sources();
        sources.get(&None).map_or((0, None, 0), |source| {
            (source.bytes_read, source.bytes_total, source.frames_delivered)
        })
    }

    /// Every account at this moment, in the order in which a packet meets them.
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let mut entries = Vec::new();
        for (&worker, source) in &*self.sources() {
            entries.extend(
                lines(
                    &SOURCE,
                    [
                        Some(source.frames_delivered),
                        source.frames_filtered,
                        source.kernel_drops,
                        source.left_in_ring,
                        source.buffer_drops,
                        source.passed_to_host,
                        source.fill_ring_empty,
                        source.ring_freezes,
                        source.damaged_blocks,
                        Some(source.bytes_skipped),
                    ],
                )
                .map(|entry| LedgerEntry { worker, ..entry }),
            );
            entries.extend(ways().map(|(way, account)| LedgerEntry {
                account: account.name,
                reason: account.reason,
                worker,
                value: source.way.map(|now| u64::from(now == way)),
            }));
            entries.extend(clocks().enumerate().map(|(at, account)| LedgerEntry {
                account: account.name,
                reason: account.reason,
                worker,
                value: source.stamped.map(|stamped| stamped[at]),
            }));
        }
        entries.extend(self.interface.ledger_entries());
        entries.extend(self.counters.ledger_entries());
        let count = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
        entries.extend(lines(
            &RECORDS,
            [count(&self.records_building), count(&self.records_unbuildable)],
        ));
        entries.extend(self.sealing.ledger_entries());
        entries.extend(self.spool.counters().ledger_entries());
        if let Some(delivery) = self.delivery.get() {
            entries.extend(delivery.ledger_entries());
        }
        entries.extend(lines(&EVENTS, [count(&self.events_lost)]));
        entries
    }
}
