//! The accounts of all stages, as one ledger (design §9).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::interface::InterfaceCounters;
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

    /// Every account at this moment, in the order in which a packet meets them.
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let mut entries = Vec::new();
        for (&worker, source) in &*self.sources() {
            let mut entry = |account, reason, value| {
                entries.push(LedgerEntry {
                    account,
                    reason,
                    worker,
                    value,
                });
            };
            entry("source_frames_delivered", "", Some(source.frames_delivered));
            entry("source_frames_filtered", "", source.frames_filtered);
            entry("source_frames_dropped", "ring_full", source.kernel_drops);
            entry("source_ring_freezes", "", source.ring_freezes);
            entry("source_blocks_damaged", "", source.damaged_blocks);
            entry("source_bytes_skipped", "", Some(source.bytes_skipped));
        }
        entries.extend(self.interface.ledger_entries());
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
