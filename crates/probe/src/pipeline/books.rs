//! The accounts of all stages, as one ledger (design §9).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::capture::Accounts;
use crate::counters::{Counters, LedgerEntry};
use crate::deliver::DeliverCounters;
use crate::flow;
use crate::seal::sealer::SealCounters;
use crate::spool::Spool;

/// What every stage has counted since the start.
#[derive(Debug)]
pub struct Books {
    counters: Counters,
    sealing: Arc<SealCounters>,
    spool: Arc<Spool>,
    delivery: OnceLock<Arc<DeliverCounters>>,
    source: Mutex<Accounts>,
    records_building: AtomicU64,
    records_unbuildable: AtomicU64,
    events_lost: AtomicU64,
}

impl Books {
    pub(super) fn new(flow: &flow::Settings, sealing: Arc<SealCounters>, spool: Arc<Spool>) -> Self {
        Self {
            counters: Counters::new(flow.workers),
            sealing,
            spool,
            delivery: OnceLock::new(),
            source: Mutex::default(),
            records_building: AtomicU64::new(0),
            records_unbuildable: AtomicU64::new(0),
            events_lost: AtomicU64::new(0),
        }
    }

    pub(super) fn set_delivery(&self, counters: Arc<DeliverCounters>) {
        // Called once, at the start; a second value would be the same delivery's.
        let _ = self.delivery.set(counters);
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn set_source(&self, accounts: Accounts) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    pub(super) fn set_building(&self, records: usize) {
        self.records_building.store(records as u64, Ordering::Relaxed);
    }

    pub(super) fn unbuildable(&self, records: usize) {
        self.records_unbuildable
            .fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn event_lost(&self) {
        self.events_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Flow records that wait for their signature.
    pub fn events_waiting(&self) -> u64 {
        self.sealing.events_waiting()
    }

    /// The source's own accounts.
    pub fn source(&self) -> Accounts {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every account at this moment, in the order in which a packet meets them.
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let source = self.source();
        let mut entries = vec![
            LedgerEntry::of_probe("source_frames_delivered", "", Some(source.frames_delivered)),
            LedgerEntry::of_probe("source_frames_filtered", "", source.frames_filtered),
            LedgerEntry::of_probe("source_frames_dropped", "ring_full", source.kernel_drops),
            LedgerEntry::of_probe("source_bytes_skipped", "", Some(source.bytes_skipped)),
        ];
        entries.extend(self.counters.ledger_entries());
        entries.extend([
            LedgerEntry::of_probe(
                "records_building",
                "",
                Some(self.records_building.load(Ordering::Relaxed)),
            ),
            LedgerEntry::of_probe(
                "records_unbuildable",
                "",
                Some(self.records_unbuildable.load(Ordering::Relaxed)),
            ),
        ]);
        entries.extend(self.sealing.ledger_entries());
        entries.extend(self.spool.counters().ledger_entries());
        if let Some(delivery) = self.delivery.get() {
            entries.extend(delivery.ledger_entries());
        }
        entries.push(LedgerEntry::of_probe(
            "probe_events_lost",
            "queue_full",
            Some(self.events_lost.load(Ordering::Relaxed)),
        ));
        entries
    }
}
