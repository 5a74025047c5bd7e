//! What one worker notes about its own work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Histogram;
use crate::flow::FlowRecord;

/// What was exported of one application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// Flow records.
    pub flows: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions, as `bytes_fwd` and `bytes_rev` count them.
    pub bytes: u64,
}

/// One worker's latencies and gauges. Writer: the thread that runs the worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// From the capture timestamp of a frame to the end of the processing of its block. Live only.
    pub processed: Histogram,
    /// From the completion of a flow (its `export_time`) to its record leaving the builder. Live only.
    pub exported: Histogram,
    queue_used: AtomicU64,
    queue_capacity: AtomicU64,
    /// The largest share of the queue that was full since somebody asked, in millionths.
    queue_peak: AtomicU64,
    table_flows: AtomicU64,
    table_places: AtomicU64,
    applications: Mutex<BTreeMap<&'static str, Application>>,
}

impl WorkerMetrics {
    /// Notes how many bytes of the capture queue hold frames that wait, and how large it is.
    pub fn set_queue(&self, used: u64, capacity: u64) {
        self.queue_used.store(used, Ordering::Relaxed);
        self.queue_capacity.store(capacity, Ordering::Relaxed);
        let share = used.saturating_mul(1_000_000) / capacity.max(1);
        self.queue_peak.fetch_max(share, Ordering::Relaxed);
    }

    /// Bytes of the capture queue that hold frames that wait, and its size; zeros where there is no such queue.
    pub fn queue(&self) -> (u64, u64) {
        (
            self.queue_used.load(Ordering::Relaxed),
            self.queue_capacity.load(Ordering::Relaxed),
        )
    }

    /// The largest share of the capture queue that was full since the last call.
    pub fn take_queue_peak(&self) -> f64 {
        self.queue_peak.swap(0, Ordering::Relaxed) as f64 / 1e6
    }

    /// Notes how many places of the flow table are taken, and how many there may be now.
    pub fn set_table(&self, flows: usize, places: usize) {
        self.table_flows.store(flows as u64, Ordering::Relaxed);
        self.table_places.store(places as u64, Ordering::Relaxed);
    }

    /// Places of the flow table that are taken (flows, and the keys of connections that have just ended), and how many
    /// there may be now.
    pub fn table(&self) -> (u64, u64) {
        (
            self.table_flows.load(Ordering::Relaxed),
            self.table_places.load(Ordering::Relaxed),
        )
    }

    /// Adds what a batch of records holds.
    pub fn add_applications(&self, batch: &mut BTreeMap<&'static str, Application>) {
        let mut total = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((app, more)) = batch.pop_first() {
            let entry = total.entry(app).or_default();
            entry.flows += more.flows;
            entry.packets += more.packets;
            entry.bytes += more.bytes;
        }
    }

    /// What was exported of each application; records without one are under the empty name.
    pub fn applications(&self) -> BTreeMap<&'static str, Application> {
        self.applications
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Application {
    /// Counts a record.
    pub fn add(&mut self, record: &FlowRecord) {
        self.flows += 1;
        self.packets += record.packets_fwd + record.packets_rev;
        self.bytes += record.bytes_fwd + record.bytes_rev;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_add_up_over_batches() {
        let metrics = WorkerMetrics::default();
        let record = FlowRecord {
            packets_fwd: 2,
            packets_rev: 1,
            bytes_fwd: 100,
            bytes_rev: 50,
            ..FlowRecord::default()
        };
        for _ in 0..2 {
            let mut batch = BTreeMap::new();
            batch
                .entry("dns")
                .or_insert_with(Application::default)
                .add(&record);
            metrics.add_applications(&mut batch);
            assert!(batch.is_empty());
        }
        let expected = Application {
            flows: 2,
            packets: 6,
            bytes: 300,
        };
        assert_eq!(metrics.applications(), BTreeMap::from([("dns", expected)]));
    }
}
