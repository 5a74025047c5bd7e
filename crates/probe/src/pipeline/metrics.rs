//! Everything that a running probe shows, as metrics (`docs/reference/metrics.md`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wire::malformed::Reason as _;

use super::Books;
use super::books::accounts;
use super::config::Configuration;
use super::degradation::{Change, Suffering};
use crate::capture::lasting::Presence;
use crate::clock;
use crate::deliver::{DeliverState, Pressure};
use crate::metrics::{
    Application, Distribution, Family, Histogram, Metric, MetricKind, Sample, Value, WorkerMetrics,
    of_accounts, of_entries, resident_bytes,
};
use crate::seal::sealer::SealLatency;
use crate::spool::{OsDisk, Spool};

/// Declares the metrics beside the books: name, kind, labels, definition.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $kind:ident $id:ident = $name:literal [$($label:literal),*],)+) => {
        #[derive(Clone, Copy)]
        enum Id { $($id,)+ }

        impl Id {
            const ALL: &[Self] = &[$(Self::$id,)+];

            fn metric(self) -> Metric {
                match self {
                    $(Self::$id => Metric {
                        name: concat!("dpi_probe_", $name).to_owned(),
                        kind: MetricKind::$kind,
                        help: concat!($($help,)+).trim().to_owned(),
                        labels: &[$($label),*],
                    },)+
                }
            }
        }
    };
}

metrics! {
    /// 1; the labels say which program, probe and interface this is.
    Gauge Info = "info" ["version", "probe", "interface"],
    /// When the probe was started, in seconds since 1970.
    Gauge StartTime = "start_time_seconds" [],
    /// 1 while frames are taken from the interface or the files; 0 while the probe ends, and while the interface is down or
    /// gone, or cannot be opened.
    Gauge Capturing = "capturing" [],
    /// 1 while the interface is there and receives, 0 while it is gone, down or without carrier. Live only, and without a
    /// sample where the kernel does not tell.
    Gauge InterfaceUp = "interface_up" [],
    /// Bytes of the capture queue that hold frames which wait.
    Gauge CaptureQueueUsed = "capture_queue_used_bytes" ["worker"],
    /// Size of the capture queue in bytes.
    Gauge CaptureQueueCapacity = "capture_queue_capacity_bytes" ["worker"],
    /// Share of the frames on the wire that were lost before they reached the probe, over the last second. Without a
    /// sample where the source cannot know it.
    Gauge FrameDropRatio = "frame_drop_ratio" [],
    /// Places of the flow table that are taken: flows, and the keys of connections that have just ended.
    Gauge TableUsed = "flow_table_used_flows" ["worker"],
    /// Places of the flow table, as many as there may be now: it shares its memory with layer 7 and with what else is kept of
    /// flows, and has fewer the more they take.
    Gauge TableCapacity = "flow_table_capacity_flows" ["worker"],
    /// Flow records exported of each application. Records without one have an empty `app`.
    Counter ApplicationFlows = "application_flows" ["app"],
    /// Packets of the flow records exported of each application.
    Counter ApplicationPackets = "application_packets" ["app"],
    /// Bytes of IP packets of the flow records exported of each application.
    Counter ApplicationBytes = "application_bytes" ["app"],
    /// Batches that may wait for their signature.
    Gauge SealQueueCapacity = "seal_queue_capacity_batches" [],
    /// Bytes of the spool on disk that count against its bound.
    Gauge SpoolUsed = "spool_used_bytes" [],
    /// Bound of the spool in bytes (MAX_SPOOL_SIZE_MB).
    Gauge SpoolCapacity = "spool_capacity_bytes" [],
    /// Flow records sealed or waiting but not acknowledged.
    Gauge EventsOutstanding = "events_outstanding" [],
    /// How many flow records without a receipt put the probe under back-pressure (BACKPRESSURE_THRESHOLD).
    Gauge BackpressureThreshold = "backpressure_threshold_events" [],
    /// 1 while more flow records wait for a receipt than BACKPRESSURE_THRESHOLD.
    Gauge Backpressure = "backpressure" [],
    /// 1 while the Core does not trust this probe.
    Gauge DeliveryRefused = "delivery_refused" [],
    /// Requests to the Core that failed since the last one that did not.
    Gauge DeliveryFailures = "delivery_failures_in_a_row" [],
    /// 1 once a thread that seals (`seal`) or delivers (`deliver`) has ended by a panic: what it did is not done until the
    /// probe is started again. Any value but zero is a bug.
    Gauge ThreadPanicked = "thread_panicked" ["thread"],
    /// How far the probe goes to relieve itself of what it suffers; 0 is well.
    Gauge DegradationLevel = "degradation_level" ["degradation"],
    /// Times that the probe began to suffer of each degradation.
    Counter Degradations = "degradations" ["degradation"],
    /// The idle timeout in force, in seconds: that of FLOW_TIMEOUT_SECONDS, or a shorter one under pressure. Live only.
    Gauge IdleTimeout = "idle_timeout_seconds" [],
    /// How long a record waits for its batch to fill, in seconds: SEAL_LINGER_SECONDS, or longer in a degradation.
    Gauge SealLinger = "seal_linger_seconds" [],
    /// The level of zstd with which batches are compressed, unless other batches wait: then at most 1.
    Gauge CompressionLevel = "compression_level" [],
    /// Resident memory of the process in bytes.
    Gauge ResidentMemory = "resident_memory_bytes" [],
    /// Bound of the resident memory in bytes (MAX_BUFFER_SIZE_MB).
    Gauge MemoryBudget = "memory_budget_bytes" [],
    /// From the capture timestamp of a frame to the end of the processing of its block; each frame counts. Live only.
    Histogram PacketLatency = "packet_latency_seconds" ["worker"],
    /// From the completion of a flow to its record leaving the builder in a batch; each record counts. Live only.
    Histogram ExportLatency = "export_latency_seconds" ["worker"],
    /// From a batch being handed to sealing to its first request to the Core going out; each batch counts.
    Histogram WireLatency = "wire_latency_seconds" [],
    /// The time that it takes to hash, compress, sign and check a batch.
    Histogram SealDuration = "seal_duration_seconds" [],
    /// The time that it takes to make an RSA signature.
    Histogram SignDuration = "sign_duration_seconds" [],
    /// From a request to the Core going out to its receipt being verified.
    Histogram ReceiptLatency = "receipt_latency_seconds" [],
}

/// Every metric that a probe can show: those of the books, then the others.
pub fn declared() -> Vec<Metric> {
    let accounts: Vec<_> = accounts().iter().map(|declared| declared.account).collect();
    let mut metrics = of_accounts(&accounts);
    metrics.extend(Id::ALL.iter().map(|id| id.metric()));
    metrics
}

/// Threads without which evidence stays behind, and whose end nobody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vital {
    Seal,
    Deliver,
}

impl Vital {
    const EVERY: [(Self, &str); 2] = [(Self::Seal, "seal"), (Self::Deliver, "deliver")];

    /// What it does.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Seal => "seals",
            Self::Deliver => "delivers",
        }
    }
}

/// What does not change while the probe runs.
#[derive(Debug)]
pub(super) struct Fixed {
    pub probe: String,
    pub interface: String,
    pub workers: usize,
    pub flows_per_worker: usize,
    pub seal_queue_batches: usize,
    pub seal_queue_bytes: u64,
    pub memory_bytes: u64,
    pub linger: Duration,
}

/// Everything that is shown of a running probe.
#[derive(Debug)]
pub(super) struct Instruments {
    fixed: Fixed,
    started: i64,
    books: Arc<Books>,
    workers: Vec<Arc<WorkerMetrics>>,
    sealing: Arc<SealLatency>,
    spool: Arc<Spool>,
    pressure: Arc<Pressure<OsDisk>>,
    delivery: OnceLock<Arc<DeliverState>>,
    /// Of an interface.
    presence: OnceLock<Presence>,
    capturing: AtomicBool,
    drops: DropRate,
    configuration: Arc<Configuration>,
    levels: [Level; Suffering::EVERY.len()],
    panicked: [AtomicBool; Vital::EVERY.len()],
}

/// How a degradation stands.
#[derive(Debug, Default)]
struct Level {
    now: AtomicU64,
    began: AtomicU64,
}

impl Instruments {
    pub(super) fn new(
        fixed: Fixed,
        books: Arc<Books>,
        sealing: Arc<SealLatency>,
        spool: Arc<Spool>,
        pressure: Arc<Pressure<OsDisk>>,
        configuration: Arc<Configuration>,
    ) -> Self {
        let workers: Vec<Arc<WorkerMetrics>> = (0..fixed.workers).map(|_| Arc::default()).collect();
        for worker in &workers {
            // Until it tells itself.
            worker.set_table(0, fixed.flows_per_worker);
        }
        Self {
            workers,
            fixed,
            started: clock::utc_now(),
            books,
            sealing,
            spool,
            pressure,
            delivery: OnceLock::new(),
            presence: OnceLock::new(),
            capturing: AtomicBool::new(false),
            drops: DropRate::default(),
            configuration,
            levels: Default::default(),
            panicked: Default::default(),
        }
    }

    pub(super) fn set_level(&self, what: Suffering, change: Change) {
        let level = &self.levels[what.index()];
        level.now.store(u64::from(change.to), Ordering::Relaxed);
        if change.from == 0 {
            level.began.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The largest share of a worker's capture queue that was full since the last call.
    pub(super) fn take_queue_peak(&self) -> f64 {
        let peaks = self.workers.iter().map(|worker| worker.take_queue_peak());
        peaks.fold(0.0, f64::max)
    }

    /// The share of the fullest worker's flow table that is taken, and how many places of all are.
    pub(super) fn table_fill(&self) -> (f64, u64) {
        let tables = || self.workers.iter().map(|worker| worker.table());
        let shares = tables().map(|(flows, places)| flows as f64 / places.max(1) as f64);
        (shares.fold(0.0, f64::max), tables().map(|(flows, _)| flows).sum())
    }

    /// Batches that wait for their signature, and the share of the memory given to them that they take.
    pub(super) fn seal_queue(&self) -> (u64, f64) {
        let counters = self.books.sealing();
        let share = counters.bytes_waiting() as f64 / self.fixed.seal_queue_bytes.max(1) as f64;
        (counters.batches_waiting(), share)
    }

    /// The share of the spool that is used.
    pub(super) fn spool_fill(&self) -> f64 {
        let (used, capacity) = self.spool.fill();
        used as f64 / capacity.max(1) as f64
    }

    /// Bytes by which resident memory is below its bound; none where the kernel does not say.
    pub(super) fn memory_room(&self) -> usize {
        resident_bytes().map_or(0, |bytes| self.fixed.memory_bytes.saturating_sub(bytes) as usize)
    }

    /// What a worker notes; a worker that was not announced notes for nobody.
    pub(super) fn worker(&self, number: usize) -> Arc<WorkerMetrics> {
        self.workers.get(number).cloned().unwrap_or_default()
    }

    pub(super) fn set_delivery(&self, state: Arc<DeliverState>) {
        // Called once, at the start; a second value would be the same delivery's.
        let _ = self.delivery.set(state);
    }

    pub(super) fn set_presence(&self, presence: Presence) {
        // Called once, at the start.
        let _ = self.presence.set(presence);
    }

    /// Whether the delivery thread has ended by a panic.
    pub(super) fn delivery_has_panicked(&self) -> bool {
        self.delivery.get().is_some_and(|state| state.has_panicked())
    }

    /// Notes that a thread has ended by a panic; whether that was not known.
    pub(super) fn note_panicked(&self, thread: Vital) -> bool {
        !self.panicked[thread as usize].swap(true, Ordering::Relaxed)
    }

    pub(super) fn set_capturing(&self, capturing: bool) {
        // Who sees it sees the capacities that were set before.
        self.capturing.store(capturing, Ordering::Release);
    }

    /// Whether frames are taken: not while the interface is known to be away, nor while a worker has no source.
    pub(super) fn is_capturing(&self) -> bool {
        self.capturing.load(Ordering::Acquire)
            && self.books.interface().receives() != Some(false)
            && self.presence.get().is_none_or(Presence::is_whole)
    }

    /// Works out the drop rate since the last time. Called once a second by one thread.
    pub(super) fn look_at_drops(&self) {
        let (delivered, dropped) = self.books.delivered_and_dropped();
        self.drops.look(delivered, dropped);
    }

    /// Every metric as it is now.
    pub(super) fn families(&self) -> Vec<Family> {
        let declared: Vec<_> = accounts().iter().map(|declared| declared.account).collect();
        let mut families = of_entries(of_accounts(&declared), &self.books.ledger_entries());
        let applications = self.applications();
        families.extend(Id::ALL.iter().map(|id| Family {
            metric: id.metric(),
            samples: self.samples(*id, &applications),
        }));
        families
    }

    fn samples(&self, id: Id, applications: &BTreeMap<&'static str, Application>) -> Vec<Sample> {
        let fixed = &self.fixed;
        let delivery = self.delivery.get();
        let (spool_used, spool_capacity) = self.spool.fill();
        match id {
            Id::Info => vec![Sample {
                labels: vec![
                    env!("CARGO_PKG_VERSION").to_owned(),
                    fixed.probe.clone(),
                    fixed.interface.clone(),
                ],
                value: Value::Number(1.0),
            }],
            Id::StartTime => one(self.started as f64 / 1e9),
            Id::Capturing => one(f64::from(self.is_capturing())),
            Id::InterfaceUp => self
                .books
                .interface()
                .receives()
                .map(|up| one(f64::from(up)))
                .unwrap_or_default(),
            Id::CaptureQueueUsed => self.of_workers(|worker| worker.queue().0),
            Id::CaptureQueueCapacity => self.of_workers(|worker| worker.queue().1),
            Id::FrameDropRatio => self.drops.ratio().map(one).unwrap_or_default(),
            Id::TableUsed => self.of_workers(|worker| worker.table().0),
            Id::TableCapacity => self.of_workers(|worker| worker.table().1),
            Id::ApplicationFlows => of_applications(applications, |application| application.flows),
            Id::ApplicationPackets => of_applications(applications, |application| application.packets),
            Id::ApplicationBytes => of_applications(applications, |application| application.bytes),
            Id::SealQueueCapacity => one(fixed.seal_queue_batches as f64),
            Id::SpoolUsed => one(spool_used as f64),
            Id::SpoolCapacity => one(spool_capacity as f64),
            Id::EventsOutstanding => one(self.pressure.events_outstanding() as f64),
            Id::BackpressureThreshold => one(self.pressure.threshold() as f64),
            Id::Backpressure => one(f64::from(self.pressure.is_under_pressure())),
            Id::DeliveryRefused => one(delivery.map_or(0.0, |state| f64::from(state.is_refused()))),
            Id::DeliveryFailures => one(delivery.map_or(0.0, |state| state.failures_in_a_row() as f64)),
            Id::ThreadPanicked => {
                let sample = |(thread, name): (Vital, &str)| Sample {
                    labels: vec![name.to_owned()],
                    value: Value::Number(f64::from(self.panicked[thread as usize].load(Ordering::Relaxed))),
                };
                Vital::EVERY.into_iter().map(sample).collect()
            }
            Id::DegradationLevel => self.of_levels(|level| &level.now),
            Id::Degradations => self.of_levels(|level| &level.began),
            Id::IdleTimeout => one(self.configuration.load().idle_timeout_ns() as f64 / 1e9),
            Id::SealLinger => one(self.configuration.load().linger(fixed.linger).as_secs_f64()),
            Id::CompressionLevel => one(f64::from(self.configuration.load().relief.compression_level)),
            Id::ResidentMemory => resident_bytes()
                .map(|bytes| one(bytes as f64))
                .unwrap_or_default(),
            Id::MemoryBudget => one(fixed.memory_bytes as f64),
            Id::PacketLatency => self.histograms(|worker| &worker.processed),
            Id::ExportLatency => self.histograms(|worker| &worker.exported),
            Id::WireLatency => delivery.map(|state| histogram(&state.sent)).unwrap_or_default(),
            Id::SealDuration => histogram(&self.sealing.sealing),
            Id::SignDuration => histogram(&self.sealing.signing),
            Id::ReceiptLatency => delivery
                .map(|state| histogram(&state.receipts))
                .unwrap_or_default(),
        }
    }

    fn of_workers(&self, value: impl Fn(&WorkerMetrics) -> u64) -> Vec<Sample> {
        let sample = |(number, worker): (usize, &Arc<WorkerMetrics>)| Sample {
            labels: vec![number.to_string()],
            value: Value::Number(value(worker) as f64),
        };
        self.workers.iter().enumerate().map(sample).collect()
    }

    fn of_levels(&self, value: impl Fn(&Level) -> &AtomicU64) -> Vec<Sample> {
        let sample = |(what, level): (&Suffering, &Level)| Sample {
            labels: vec![what.label().to_owned()],
            value: Value::Number(value(level).load(Ordering::Relaxed) as f64),
        };
        Suffering::EVERY.iter().zip(&self.levels).map(sample).collect()
    }

    fn histograms(&self, of: impl Fn(&WorkerMetrics) -> &Histogram) -> Vec<Sample> {
        let sample = |(number, worker): (usize, &Arc<WorkerMetrics>)| Sample {
            labels: vec![number.to_string()],
            value: Value::Distribution(of(worker).read()),
        };
        self.workers.iter().enumerate().map(sample).collect()
    }

    /// What was exported of each application by all workers.
    fn applications(&self) -> BTreeMap<&'static str, Application> {
        let mut all: BTreeMap<&'static str, Application> = BTreeMap::new();
        for worker in &self.workers {
            for (app, more) in worker.applications() {
                let entry = all.entry(app).or_default();
                entry.flows += more.flows;
                entry.packets += more.packets;
                entry.bytes += more.bytes;
            }
        }
        all
    }
}

fn one(value: f64) -> Vec<Sample> {
    vec![Sample {
        labels: Vec::new(),
        value: Value::Number(value),
    }]
}

fn histogram(histogram: &Histogram) -> Vec<Sample> {
    let read: Distribution = histogram.read();
    vec![Sample {
        labels: Vec::new(),
        value: Value::Distribution(read),
    }]
}

fn of_applications(
    applications: &BTreeMap<&'static str, Application>,
    value: impl Fn(&Application) -> u64,
) -> Vec<Sample> {
    applications
        .iter()
        .map(|(app, application)| Sample {
            labels: vec![(*app).to_owned()],
            value: Value::Number(value(application) as f64),
        })
        .collect()
}

/// The share of frames that were lost between two looks.
#[derive(Debug)]
struct DropRate {
    delivered: AtomicU64,
    dropped: AtomicU64,
    /// The bits of the ratio; not a number where it is not known.
    ratio: AtomicU64,
}

impl Default for DropRate {
    fn default() -> Self {
        Self {
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ratio: AtomicU64::new(f64::NAN.to_bits()),
        }
    }
}

impl DropRate {
    fn look(&self, delivered: u64, dropped: Option<u64>) {
        let before = self.delivered.swap(delivered, Ordering::Relaxed);
        let ratio = dropped.map_or(f64::NAN, |dropped| {
            let lost = dropped.saturating_sub(self.dropped.swap(dropped, Ordering::Relaxed));
            let came = delivered.saturating_sub(before);
            lost as f64 / (lost + came).max(1) as f64
        });
        self.ratio.store(ratio.to_bits(), Ordering::Relaxed);
    }

    fn ratio(&self) -> Option<f64> {
        let ratio = f64::from_bits(self.ratio.load(Ordering::Relaxed));
        (!ratio.is_nan()).then_some(ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::CaptureError;
    use crate::capture::lasting::{LastingSource, Open};
    use crate::pipeline::fixtures::Parts;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let metrics = declared();
        let mut names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        for metric in &metrics {
            let name = &metric.name;
            assert!(name.starts_with("dpi_probe_"), "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            assert!(
                !name.ends_with("_total"),
                "{name}: the samples of a counter get it"
            );
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
            if metric.kind == MetricKind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "every name is declared once");
    }

    #[test]
    fn a_probe_whose_interface_cannot_be_opened_is_not_capturing() {
        let parts = Parts::of_workers(1);
        let instruments = &parts.instruments;
        instruments.set_capturing(true);
        assert!(instruments.is_capturing());
        let open: Open = Box::new(|_| {
            Err(CaptureError::InterfaceDown {
                interface: "eth0".to_owned(),
                why: "this is a test",
            })
        });
        let sources = LastingSource::all("eth0", 1, None, &Arc::default(), Duration::ZERO, open).unwrap();
        instruments.set_presence(sources[0].presence());
        assert!(!instruments.is_capturing());
        let families = instruments.families();
        let capturing = families
            .iter()
            .find(|family| family.metric.name == "dpi_probe_capturing");
        let shown = &capturing.unwrap().samples[0].value;
        assert!(matches!(shown, Value::Number(0.0)), "{shown:?}");
        parts.sealer.finish();
    }

    #[test]
    fn the_drop_rate_is_that_of_the_last_look_and_unknown_is_not_zero() {
        let drops = DropRate::default();
        assert_eq!(drops.ratio(), None);
        drops.look(100, Some(0));
        assert_eq!(drops.ratio(), Some(0.0));
        drops.look(175, Some(25));
        assert_eq!(drops.ratio(), Some(0.25));
        drops.look(175, Some(25));
        assert_eq!(drops.ratio(), Some(0.0), "nothing came, nothing was lost");
        drops.look(200, None);
        assert_eq!(drops.ratio(), None);
    }
}
