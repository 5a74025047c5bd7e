//! What delivery did.

use std::sync::atomic::{AtomicU64, Ordering};

use super::answer::Cause;
use crate::counters::LedgerEntry;

/// Cumulative since the start. Writer: the delivery thread.
#[derive(Debug, Default)]
pub struct DeliverCounters {
    pub(super) requests: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) forks: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) backpressure: AtomicU64,
    pub(super) server_errors: AtomicU64,
    pub(super) connection_errors: AtomicU64,
    pub(super) receipt_errors: AtomicU64,
    pub(super) abandoned: AtomicU64,
    pub(super) alarms_suppressed: AtomicU64,
    pub(super) in_flight: AtomicU64,
    /// 1 while the Core does not trust this probe.
    pub(super) is_refused: AtomicU64,
    /// Failures since the last success.
    pub(super) failures_in_a_row: AtomicU64,
}

impl DeliverCounters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn back_off(&self, cause: Cause) {
        let counter = match cause {
            Cause::Backpressure => &self.backpressure,
            Cause::Server => &self.server_errors,
            Cause::Connection => &self.connection_errors,
            Cause::Receipt => &self.receipt_errors,
        };
        Self::add(counter, 1);
    }

    /// Requests that wait for their answer.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the Core says that this probe is not trusted.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed) == 1
    }

    /// Failures since the last success.
    pub fn failures_in_a_row(&self) -> u64 {
        self.failures_in_a_row.load(Ordering::Relaxed)
    }

    /// The accounts: requests = answers (by kind) + connection errors + abandoned + in flight.
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        [
            ("delivery_requests", "", &self.requests),
            ("delivery_bytes_sent", "", &self.bytes_sent),
            ("delivery_answers", "acknowledged", &self.acknowledged),
            ("delivery_answers", "rejected", &self.rejected),
            ("delivery_answers", "fork", &self.forks),
            ("delivery_answers", "refused", &self.refused),
            ("delivery_answers", "backpressure", &self.backpressure),
            ("delivery_answers", "server_error", &self.server_errors),
            ("delivery_answers", "receipt_error", &self.receipt_errors),
            ("delivery_failures", "connection", &self.connection_errors),
            ("delivery_failures", "abandoned", &self.abandoned),
            ("delivery_alarms_suppressed", "", &self.alarms_suppressed),
            ("delivery_in_flight", "", &self.in_flight),
        ]
        .into_iter()
        .map(|(account, reason, value)| {
            LedgerEntry::of_probe(account, reason, Some(value.load(Ordering::Relaxed)))
        })
        .collect()
    }

    /// What the account of requests is off by; 0 when the books balance.
    pub fn imbalance(&self) -> i128 {
        let get = |counter: &AtomicU64| i128::from(counter.load(Ordering::Relaxed));
        let ended = [
            &self.acknowledged,
            &self.rejected,
            &self.forks,
            &self.refused,
            &self.backpressure,
            &self.server_errors,
            &self.receipt_errors,
            &self.connection_errors,
            &self.abandoned,
            &self.in_flight,
        ];
        get(&self.requests) - ended.into_iter().map(get).sum::<i128>()
    }
}
