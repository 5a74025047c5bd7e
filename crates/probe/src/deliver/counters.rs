//! What delivery did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::answer::Cause;
use crate::counters::accounts;
use crate::metrics::Histogram;

accounts! {
    /// Cumulative since the start. Writer: the delivery thread.
    /// Requests = answers (by kind) + connection errors + abandoned + in flight.
    DeliverCounters {
        /// Requests to the Core that were begun.
        Counter delivery_requests: requests;
        /// Bytes of batches and manifests in them.
        Counter delivery_bytes_sent: bytes_sent;
        /// Answers of the Core.
        Counter delivery_answers:
            acknowledged = "acknowledged", "A receipt that was verified.",
            rejected = "rejected", "The batch is refused for good.",
            forks = "fork", "Another batch is archived in its place. An alarm.",
            refused = "refused", "The Core does not trust this probe.",
            backpressure = "backpressure", "The Core is overloaded.",
            server_errors = "server_error", "The Core failed.",
            receipt_errors = "receipt_error", "A receipt that does not hold.";
        /// Requests that got no answer.
        Counter delivery_failures:
            connection_errors = "connection", "No connection, or it broke.",
            abandoned = "abandoned", "The probe ended first; the batch stays in the spool.";
        /// Events of delivery that were not reported because one of the same name just was.
        Counter delivery_alarms_suppressed: alarms_suppressed;
        /// Requests that wait for their answer.
        Gauge delivery_in_flight: in_flight;
    }
}

/// How delivery stands. Writer: the delivery thread.
#[derive(Debug, Default)]
pub struct DeliverState {
    /// 1 while the Core does not trust this probe.
    pub(super) is_refused: AtomicU64,
    /// Failures since the last success.
    pub(super) failures_in_a_row: AtomicU64,
    has_panicked: AtomicBool,
    /// From a batch being handed to sealing to its first request going out.
    pub sent: Histogram,
    /// From a request going out to its receipt being verified.
    pub receipts: Histogram,
}

impl DeliverState {
    /// Whether the Core says that this probe is not trusted.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed) == 1
    }

    /// Whether the thread has ended by a panic: a bug, and nothing more is delivered.
    pub fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Relaxed)
    }

    /// Failures since the last success.
    pub fn failures_in_a_row(&self) -> u64 {
        self.failures_in_a_row.load(Ordering::Relaxed)
    }
}

/// Notes how the delivery thread ends: nobody waits for it while the probe runs.
pub(super) struct Witness(pub(super) Arc<DeliverState>);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.has_panicked.store(true, Ordering::Relaxed);
        }
    }
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
