//! What the spool did with every batch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::LedgerEntry;

macro_rules! spool_counters {
    ($($(#[doc = $doc:literal])+ $field:ident: $account:literal, $reason:literal;)+) => {
        /// Cumulative since the spool was opened. Writer: whoever holds the spool's lock.
        #[derive(Debug, Default)]
        pub struct SpoolCounters { $($(#[doc = $doc])+ pub $field: AtomicU64,)+ }

        impl SpoolCounters {
            /// The accounts. Batches found + offered = acknowledged + spooled + dropped + rejected + lost.
            pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
                vec![$(LedgerEntry::of_probe($account, $reason, Some(self.$field.load(Ordering::Relaxed))),)+]
            }
        }
    };
}

spool_counters! {
    /// Batches that lay in the spool when it was opened.
    found: "spool_batches_found", "";
    /// Sealed batches that were handed to the spool.
    offered: "spool_batches_offered", "";
    /// Batches whose receipt was verified.
    acknowledged: "batches_acknowledged", "";
    /// Batches that wait for their receipt.
    spooled: "batches_spooled", "";
    /// Batches of which only the manifest was kept because the spool was full.
    dropped_full: "batches_dropped", "spool_full";
    /// Batches of which only the manifest was kept because the disk refused them.
    dropped_disk: "batches_dropped", "disk_error";
    /// Batches of which only the manifest was kept because the file was damaged.
    dropped_damaged: "batches_dropped", "damaged";
    /// Batches that the Core refused for good.
    rejected: "batches_rejected", "refused";
    /// Files in `pending/` whose manifest could not be read.
    rejected_unreadable: "batches_rejected", "unreadable";
    /// Batches of which not even the manifest could be kept.
    lost: "batches_lost", "disk_error";
    /// Batches whose file vanished.
    vanished: "batches_lost", "vanished";
    /// Manifests of dropped batches that lay in the spool when it was opened.
    manifests_found: "spool_manifests_found", "";
    /// Manifests of dropped batches whose receipt was verified.
    manifests_acknowledged: "manifests_acknowledged", "";
    /// Manifests of dropped batches that wait for their receipt.
    manifests_spooled: "manifests_spooled", "";
    /// Manifests of dropped batches that the Core refused for good.
    manifests_rejected: "manifests_rejected", "";
    /// Manifests of dropped batches that had to go too, or vanished: holes that no signature covers.
    manifests_lost: "manifests_lost", "";
    /// Refused files that had to make room.
    rejected_removed: "spool_rejected_removed", "";
    /// Files of other names, left alone.
    foreign: "spool_foreign_files", "";
    /// Times that `head.json` could not be written or was damaged.
    head_errors: "spool_head_errors", "";
    /// File operations that failed.
    disk_errors: "spool_disk_errors", "";
}

impl SpoolCounters {
    /// What the account of batches is off by; 0 when the books balance.
    pub fn imbalance(&self) -> i128 {
        let get = |counter: &AtomicU64| i128::from(counter.load(Ordering::Relaxed));
        let came = get(&self.found) + get(&self.offered);
        let went = [
            &self.acknowledged,
            &self.spooled,
            &self.dropped_full,
            &self.dropped_disk,
            &self.dropped_damaged,
            &self.rejected,
            &self.rejected_unreadable,
            &self.lost,
            &self.vanished,
        ];
        came - went.into_iter().map(get).sum::<i128>()
    }
}
