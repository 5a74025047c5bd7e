//! Whether the probe is under back-pressure (`BACKPRESSURE_THRESHOLD`, design §4).

use std::sync::Arc;

use crate::seal::sealer::SealCounters;
use crate::spool::{Disk, Spool};

/// Counts the events that are sealed or waiting but not yet acknowledged, wherever they are.
#[derive(Debug)]
pub struct Pressure<D: Disk> {
    sealing: Arc<SealCounters>,
    spool: Arc<Spool<D>>,
    threshold: u64,
}

impl<D: Disk> Pressure<D> {
    /// Watches sealing threads and spool; `threshold` is in events.
    pub fn new(sealing: Arc<SealCounters>, spool: Arc<Spool<D>>, threshold: u64) -> Self {
        Self {
            sealing,
            spool,
            threshold,
        }
    }

    /// Events that are sealed or waiting but not acknowledged.
    pub fn events_outstanding(&self) -> u64 {
        self.sealing.events_waiting() + self.spool.pending_events()
    }

    /// `BACKPRESSURE_THRESHOLD` in events.
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Whether there are more of them than `BACKPRESSURE_THRESHOLD`.
    pub fn is_under_pressure(&self) -> bool {
        self.events_outstanding() > self.threshold
    }
}
