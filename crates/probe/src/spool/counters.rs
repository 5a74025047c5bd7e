//! What the spool did with every batch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::accounts;

accounts! {
    /// Cumulative since the spool was opened. Writer: whoever holds the spool's lock.
    /// Batches found + offered = acknowledged + spooled + dropped + rejected + lost.
    SpoolCounters {
        /// Batches that lay in the spool when it was opened.
        Counter spool_batches_found: found;
        /// Sealed batches that were handed to the spool.
        Counter spool_batches_offered: offered;
        /// Batches whose receipt was verified.
        Counter batches_acknowledged: acknowledged;
        /// Flow records that were transmitted: those of batches that went out to the Core. One that goes out again counts once.
        Counter events_transmitted: events_transmitted;
        /// Flow records in batches whose receipt was verified.
        Counter events_acknowledged: events_acknowledged;
        /// Batches that wait for their receipt.
        Gauge batches_spooled: spooled;
        /// Batches of which only the manifest was kept.
        Counter batches_dropped:
            dropped_full = "spool_full", "The spool was full.",
            dropped_disk = "disk_error", "The disk refused them.",
            dropped_damaged = "damaged", "The file was damaged.";
        /// Batches that were put away: they will not be delivered.
        Counter batches_rejected:
            rejected = "refused", "The Core refused them for good.",
            rejected_unreadable = "unreadable", "The file or its manifest could not be read.";
        /// Batches of which nothing is left.
        Counter batches_lost:
            lost = "disk_error", "Not even the manifest could be kept.",
            vanished = "vanished", "The file vanished.";
        /// Manifests of dropped batches that lay in the spool when it was opened.
        Counter spool_manifests_found: manifests_found;
        /// Manifests of dropped batches whose receipt was verified.
        Counter manifests_acknowledged: manifests_acknowledged;
        /// Manifests of dropped batches that wait for their receipt.
        Gauge manifests_spooled: manifests_spooled;
        /// Manifests of dropped batches that the Core refused for good.
        Counter manifests_rejected: manifests_rejected;
        /// Manifests of dropped batches that had to go too, or vanished: holes that no signature covers.
        Counter manifests_lost: manifests_lost;
        /// Refused files that had to make room.
        Counter spool_rejected_removed: rejected_removed;
        /// Files of other names, left alone.
        Counter spool_foreign_files: foreign;
        /// Times that `head.json` could not be written or was damaged.
        Counter spool_head_errors: head_errors;
        /// File operations that failed.
        Counter spool_disk_errors: disk_errors;
    }
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
