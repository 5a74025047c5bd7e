//! What tests of several stages need: a probe's parts around its capture, with a spool that is gone afterwards.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::Books;
use super::config::Configuration;
use super::metrics::{Fixed, Instruments};
use crate::deliver::Pressure;
use crate::flow;
use crate::seal::fixtures::{NOW, signer};
use crate::seal::sealer::Clock;
use crate::seal::{Chain, Sealer, SealerSettings};
use crate::spool::{self, OsDisk, Spool, SpoolSettings, WhenFull};

/// Everything but the capture.
pub(super) struct Parts {
    pub flow: flow::Settings,
    pub sealer: Sealer,
    pub books: Arc<Books>,
    pub configuration: Arc<Configuration>,
    pub instruments: Arc<Instruments>,
    pub pressure: Arc<Pressure<OsDisk>>,
    _directory: TempDir,
}

impl Parts {
    /// For so many workers, with small flow tables.
    pub(super) fn of_workers(workers: usize) -> Self {
        let flow = flow::Settings {
            workers,
            ..flow::Settings::for_memory(1 << 20)
        };
        let flows_per_worker = flow.share().flows;
        Self::with_tables(flow, flows_per_worker)
    }

    /// The instruments take it that a worker's table has `flows_per_worker` places, until it tells itself.
    pub(super) fn with_tables(flow: flow::Settings, flows_per_worker: usize) -> Self {
        Self::with(flow, flows_per_worker, Arc::new(|| NOW * 1_000_000_000))
    }

    /// For one worker; sealing asks this clock.
    pub(super) fn with_clock(clock: Clock) -> Self {
        let flow = flow::Settings {
            workers: 1,
            ..flow::Settings::for_memory(1 << 20)
        };
        Self::with(flow, 1, clock)
    }

    fn with(flow: flow::Settings, flows_per_worker: usize, clock: Clock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = SpoolSettings {
            max_bytes: 1 << 20,
            when_full: WhenFull::DropOldest,
            sync: spool::Sync::Never,
        };
        let spool = Arc::new(Spool::open(directory.path(), spool).unwrap());
        let settings = SealerSettings {
            threads: 1,
            queue_batches: 1,
            queue_bytes: 1 << 20,
            clock,
        };
        let sealer = Sealer::start(signer(), Chain::start(None).unwrap(), settings, |_| ()).unwrap();
        let intake = sealer.intake();
        let counters = Arc::clone(intake.counters());
        let books = Arc::new(Books::new(&flow, Arc::clone(&counters), Arc::clone(&spool)));
        let configuration = Arc::new(Configuration::new(&flow, None));
        let fixed = Fixed {
            probe: "sensor".to_owned(),
            interface: "eth0".to_owned(),
            workers: flow.workers,
            flows_per_worker,
            seal_queue_batches: 1,
            seal_queue_bytes: 1 << 20,
            memory_bytes: 1 << 30,
            linger: Duration::from_secs(1),
        };
        let pressure = Arc::new(Pressure::new(counters, Arc::clone(&spool), 1000));
        let latency = Arc::clone(intake.latency());
        let instruments = Arc::new(Instruments::new(
            fixed,
            Arc::clone(&books),
            latency,
            spool,
            Arc::clone(&pressure),
            Arc::clone(&configuration),
        ));
        Self {
            flow,
            sealer,
            books,
            configuration,
            instruments,
            pressure,
            _directory: directory,
        }
    }
}
