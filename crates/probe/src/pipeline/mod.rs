//! The whole probe: the only place that knows all stages; starts their threads and ends them in order.
//!
//! **In**: settings. **Out**: sealed batches in the spool, delivered to the Core. **Owns**: the stop flag, the threads,
//! the books. **Never**: lets a later stage hold up live capture.
//!
//! ```text
//! a thread per worker: ring ─▶ worker ─▶ builder ──queue──▶ seal threads ▶ spool ◀── deliver thread ═▶ Core
//! health thread: events, and the books every HEALTH_REPORT_INTERVAL_SECONDS ───▲
//!    ▲──queue── lookout thread: what suffers, and its relief
//!    ▲──queue── link thread: what happens to the interface
//! ```
//!
//! The end, in order: capture stops and every open flow is exported; what waits is sealed; the last books are sealed;
//! delivery goes on until everything is acknowledged, for at most SHUTDOWN_TIMEOUT_SECONDS; the rest stays in the spool.

mod books;
mod capture;
mod config;
mod degradation;
mod desk;
#[cfg(test)]
mod fixtures;
mod health;
mod interface;
mod limit;
mod lookout;
pub mod memory;
mod metrics;
mod overflow;
/// What each stage costs.
pub mod stages;
mod watch;
mod withheld;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::capture::bpf::Filters;
use crate::capture::cores::{self, Place};
use crate::capture::link::LinkWatch;
use crate::capture::live::{self, Interface};
use crate::capture::{CaptureError, FileSource, MemorySource, RingOptions, Source, sysfs};
use crate::clock;
use crate::counters::LedgerEntry;
use crate::deliver::{Alarm, DeliverError, DeliverSettings, Delivery, Identity, Pressure};
use crate::flow;
use crate::metrics::Family;
use crate::record::RecordError;
use crate::seal::ledger::{Event, Severity};
use crate::seal::sealer::Clock;
use crate::seal::{Chain, SealError, Sealer, SealerSettings, Signer, SignerError};
use crate::spool::{Spool, SpoolError, SpoolSettings, Stored};
use crate::traffic::{self, Cycle, OfferBooks, TrafficError};

pub use books::{Books, Declared, accounts};
pub use config::{ChangeError, Changeable};
pub use metrics::declared as metrics;

use config::Configuration;
use limit::Limit;
use memory::Shares;
use metrics::{Fixed, Instruments};
use watch::Watch;

/// Batches that may wait for their signature: above this a live probe drops, counted.
const SEAL_QUEUE_BATCHES: usize = 64;
/// The same where files are read, which wait instead.
const SEAL_QUEUE_BATCHES_OF_FILES: usize = 4;
/// Events about the probe itself that may wait to be sealed.
const EVENT_QUEUE: usize = 256;

/// Where frames come from.
#[derive(Debug)]
pub enum Input {
    /// A network interface. The stop flag is replaced by the pipeline's.
    Interface(Interface),
    /// Capture files, in this order.
    Files {
        /// The paths; `-` is standard input.
        paths: Vec<PathBuf>,
        /// Which frames to read; `None`: all.
        filters: Option<Filters>,
    },
    /// Traffic from memory at an exact rate, treated as live: for benches.
    Traffic {
        /// What traffic.
        settings: traffic::Settings,
        /// Bytes of frames that may wait: what the ring is for an interface.
        queue_bytes: u64,
    },
}

/// What a probe needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Where frames come from.
    pub input: Input,
    /// End after this many frames; `None`: with the input.
    pub count: Option<u64>,
    /// Limits and timeouts of metering.
    pub flow: flow::Settings,
    /// Name in the manifests.
    pub probe_id: String,
    /// The probe's certificate, PEM.
    pub certificate: PathBuf,
    /// The probe's private key, PEM.
    pub key: PathBuf,
    /// The CA of the Core, PEM. Needed to deliver.
    pub ca: PathBuf,
    /// The spool's directory.
    pub spool_directory: PathBuf,
    /// How the spool works.
    pub spool: SpoolSettings,
    /// Where and how to deliver; `None`: seal and spool only.
    pub deliver: Option<DeliverSettings>,
    /// Threads that seal.
    pub seal_threads: usize,
    /// Longest time that a record waits for its batch to fill, where sealing is not behind.
    pub linger: Duration,
    /// Time between two ledgers.
    pub health_interval: Duration,
    /// Longest time that a stopping probe waits for receipts.
    pub shutdown_timeout: Duration,
    /// Events sealed or waiting but not acknowledged, above which the probe is under back-pressure.
    pub backpressure_threshold: u64,
    /// Bound of the resident memory of the process, in bytes.
    pub memory_bytes: u64,
}

/// Why a probe cannot start. Nothing was captured.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The interface or a file.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The limits of metering.
    #[error(transparent)]
    Flow(#[from] flow::SettingsError),
    /// Key or certificate.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The way to the Core.
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    /// The buffer directory.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The chain.
    #[error("no new chain can be begun: {0}")]
    Seal(#[from] SealError),
    /// Flow records could not be put into a batch.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The traffic of a bench.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// A thread.
    #[error("a thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

/// How a probe ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What could not be read of the inputs, one line each.
    pub problems: Vec<String>,
    /// The final books.
    pub ledger: Vec<LedgerEntry>,
}

/// A running probe.
pub struct Pipeline {
    stop: Arc<AtomicBool>,
    books: Arc<Books>,
    offers: Vec<Arc<OfferBooks>>,
    instruments: Arc<Instruments>,
    /// Of a live probe.
    configuration: Option<Arc<Configuration>>,
    alarm: Alarm,
    supervisor: Mutex<Option<JoinHandle<Outcome>>>,
}

impl Pipeline {
    /// Opens everything and starts the threads. What is wrong with keys, certificates, directory or interface shows here.
    pub fn start(mut settings: Settings) -> Result<Self, PipelineError> {
        settings.flow.validate()?;
        let clock: Clock = Arc::new(clock::utc_now);
        let now = clock::utc_now().div_euclid(1_000_000_000);
        let signer = Signer::load(&settings.certificate, &settings.key, &settings.probe_id, now)?;
        let identity = match &settings.deliver {
            Some(_) => Some(Identity::load(
                &settings.ca,
                &settings.certificate,
                &settings.key,
            )?),
            None => None,
        };
        // A name that is wrong makes no directories.
        if let Input::Interface(interface) = &settings.input {
            live::link_type(&interface.name, interface.mode, &interface.libpcap)?;
        }
        // Before the rings: what lies in a full spool takes seconds to read, and the first random number tens of milliseconds
        // to make, in which they would overflow.
        let spool = Arc::new(Spool::open(&settings.spool_directory, settings.spool)?);
        let chain = Chain::start(spool.head())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (interface, filter) = match &settings.input {
            Input::Interface(interface) => (Some(interface.name.clone()), interface.options.filter.clone()),
            Input::Files { .. } | Input::Traffic { .. } => (None, None),
        };
        let is_live = !matches!(settings.input, Input::Files { .. });
        // Frames from memory wait in a queue of the size that the bench asks for.
        let queue_can_grow = interface.is_some();
        let mut link = None;
        let mut presence = None;
        let mut description = None;
        let mut offers = Vec::new();
        let source = match settings.input {
            Input::Interface(interface) => {
                let name = sysfs::own_name(&interface.name);
                if name != interface.name {
                    tracing::info!(
                        interface = name,
                        "{} is an alternative name of it",
                        interface.name
                    );
                }
                let live = live::open(Interface {
                    name: name.clone(),
                    options: RingOptions {
                        stop: Arc::clone(&stop),
                        ..interface.options
                    },
                    ..interface
                })?;
                settings.flow.workers = live.sources.len();
                tracing::info!(
                    interface = name,
                    workers = live.sources.len(),
                    cores = cores::list_of(&live.places),
                    "capturing with {}",
                    live.description
                );
                let watch = LinkWatch::new(&name).map_err(|source| CaptureError::Ring {
                    interface: name.clone(),
                    action: "listening to changes of the interface",
                    source,
                })?;
                link = Some((watch, name));
                presence = live.presence();
                description = Some(live.description);
                let sources = live
                    .sources
                    .into_iter()
                    .map(|source| Box::new(source) as Box<dyn Source + Send>);
                capture::Opened::Live(sources.zip(live.places).collect())
            }
            Input::Files { paths, filters } => {
                let source = FileSource::new(paths).with_count(settings.count.unwrap_or(u64::MAX));
                capture::Opened::Files(Box::new(match filters {
                    Some(filters) => source.with_filters(filters),
                    None => source,
                }))
            }
            Input::Traffic {
                settings: traffic,
                queue_bytes,
            } => {
                let workers = settings.flow.workers;
                let mut sources: Vec<(Box<dyn Source + Send>, Option<Place>)> = Vec::new();
                for worker in 0..workers {
                    let cycle = Cycle::build(&traffic.share(worker as u32, workers as u32))?;
                    let books = Arc::new(OfferBooks::default());
                    offers.push(Arc::clone(&books));
                    let queue_bytes = queue_bytes / workers as u64;
                    let source = MemorySource::new(cycle, queue_bytes, Arc::clone(&stop), books);
                    sources.push((Box::new(source), None));
                }
                capture::Opened::Live(sources)
            }
        };
        // Now it is known how many workers there are.
        let configuration = Arc::new(Configuration::new(&settings.flow, filter));
        tracing::info!(
            probe = settings.probe_id,
            chain = %chain.id(),
            spool = %settings.spool_directory.display(),
            pending = spool.pending_entries(),
            "a new chain begins"
        );

        let (events, event_queue) = crossbeam_channel::bounded(EVENT_QUEUE);
        let seal_queue_batches = match &source {
            capture::Opened::Live(_) => SEAL_QUEUE_BATCHES,
            capture::Opened::Files(_) => SEAL_QUEUE_BATCHES_OF_FILES,
        };
        // What further threads have in work is no longer in the queue, but in memory.
        let in_work = (settings.seal_threads as u64 - 1) * 2 * desk::LIMITS.bytes as u64;
        let seal_queue_bytes = (Shares::of(settings.memory_bytes as usize).seal_queue as u64)
            .saturating_sub(in_work)
            .max(desk::LIMITS.bytes as u64);
        let sealer_settings = SealerSettings {
            threads: settings.seal_threads,
            queue_batches: seal_queue_batches,
            queue_bytes: seal_queue_bytes,
            clock: Arc::clone(&clock),
        };
        let store = Arc::clone(&spool);
        let mut lost = 0_u64;
        let sealer = Sealer::start(signer, chain, sealer_settings, move |sealed| {
            match store.store(&sealed) {
                Stored::Lost(error) => {
                    // Said once in a row; the account `batches_lost` has them all.
                    if lost == 0 {
                        tracing::error!(%error, "the chain has a hole here");
                    }
                    lost += 1;
                }
                Stored::Batch | Stored::ManifestOnly if lost > 0 => {
                    tracing::error!(batches = lost, "the hole in the chain ends here");
                    lost = 0;
                }
                Stored::Batch | Stored::ManifestOnly => {}
            }
        })?;
        let books = Arc::new(Books::new(
            &settings.flow,
            Arc::clone(sealer.intake().counters()),
            Arc::clone(&spool),
        ));
        let alarm: Alarm = {
            let books = Arc::clone(&books);
            Arc::new(move |event| {
                if events.try_send(event).is_err() {
                    books.event_lost();
                }
            })
        };
        if let Some(detail) = description {
            alarm(Event {
                time: clock::utc_now(),
                severity: Severity::Info,
                name: "capture_started",
                detail,
            });
        }
        if spool.put_away_at_start() > 0 {
            alarm(Event {
                time: clock::utc_now(),
                severity: Severity::Error,
                name: "batch_unreadable",
                detail: format!(
                    "damaged files of the spool that were put away at the start: {}",
                    spool.put_away_at_start()
                ),
            });
        }
        let delivery = match (settings.deliver, identity) {
            (Some(deliver), Some(identity)) => Some(Delivery::start(
                Arc::clone(&spool),
                &identity,
                deliver,
                Arc::clone(&clock),
                Arc::clone(&alarm),
            )?),
            _ => None,
        };
        if let Some(delivery) = &delivery {
            books.set_delivery(Arc::clone(delivery.counters()));
        }
        let pressure = Arc::new(Pressure::new(
            Arc::clone(sealer.intake().counters()),
            Arc::clone(&spool),
            settings.backpressure_threshold,
        ));
        let instruments = Arc::new(Instruments::new(
            Fixed {
                probe: settings.probe_id,
                interface: interface.unwrap_or_default(),
                workers: settings.flow.workers,
                flows_per_worker: settings.flow.share().flows,
                seal_queue_batches,
                seal_queue_bytes,
                memory_bytes: settings.memory_bytes,
                linger: settings.linger,
            },
            Arc::clone(&books),
            Arc::clone(sealer.intake().latency()),
            Arc::clone(&spool),
            Arc::clone(&pressure),
            Arc::clone(&configuration),
        ));
        if let Some(presence) = presence {
            instruments.set_presence(presence);
        }
        if let Some(delivery) = &delivery {
            instruments.set_delivery(Arc::clone(delivery.state()));
        }
        let capture = capture::Capture {
            flow: settings.flow,
            linger: settings.linger,
            intake: sealer.intake(),
            books: Arc::clone(&books),
            instruments: Arc::clone(&instruments),
            configuration: Arc::clone(&configuration),
            queue_can_grow,
            limit: settings.count.map(Limit::new),
            stop: Arc::clone(&stop),
        };
        let health = health::Health {
            interval: settings.health_interval,
            intake: sealer.intake(),
            books: Arc::clone(&books),
            events: event_queue,
        };
        let lookout = lookout::Lookout {
            pressure,
            instruments: Arc::clone(&instruments),
            watch: is_live.then(|| {
                Watch::new(
                    Arc::clone(&instruments),
                    Arc::clone(&configuration),
                    sealer.intake(),
                )
            }),
            intake: sealer.intake(),
            alarm: Arc::clone(&alarm),
        };
        if let Some((_, name)) = &link {
            books.interface().watch_drops(name);
        }
        let supervisor = Supervisor {
            link,
            alarm: Arc::clone(&alarm),
            stop: Arc::clone(&stop),
            source,
            capture,
            health,
            lookout,
            sealer,
            delivery,
            spool,
            shutdown_timeout: settings.shutdown_timeout,
        };
        let supervisor_books = Arc::clone(&books);
        let thread = std::thread::Builder::new()
            .name("dpi-supervisor".to_owned())
            .spawn(move || supervisor.run(&supervisor_books))?;
        Ok(Self {
            stop,
            books,
            offers,
            instruments,
            configuration: is_live.then_some(configuration),
            alarm,
            supervisor: Mutex::new(Some(thread)),
        })
    }

    /// Asks the probe to end. Returns at once; a second call changes nothing.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the probe has ended.
    pub fn is_finished(&self) -> bool {
        self.lock().as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end. `None` if somebody else has waited already.
    pub fn join(&self) -> Option<Outcome> {
        let thread = self.lock().take()?;
        match thread.join() {
            Ok(outcome) => Some(outcome),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// What the traffic of a bench has offered to each worker; nothing for other inputs.
    pub fn offers(&self) -> &[Arc<OfferBooks>] {
        &self.offers
    }

    /// The books at this moment.
    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Puts another configuration in force without losing a packet (but see [`crate::capture::Source::set_filter`] for
    /// libpcap), and returns when every worker has it. After an error everything is as before. `detail` says in one sentence
    /// who changed what; it becomes a signed event.
    pub fn configure(&self, chosen: &Changeable, detail: String) -> Result<(), ChangeError> {
        let configuration = self.configuration.as_ref().ok_or(ChangeError::Files)?;
        configuration.choose(chosen)?;
        tracing::info!("{detail}");
        (self.alarm)(Event {
            time: clock::utc_now(),
            severity: Severity::Info,
            name: "configuration_changed",
            detail,
        });
        Ok(())
    }

    /// Every metric at this moment.
    pub fn metrics(&self) -> Vec<Family> {
        self.instruments.families()
    }

    /// Whether frames are being taken from the input: false before the start, once the probe ends, and while its interface
    /// is down or gone, or cannot be opened.
    pub fn is_capturing(&self) -> bool {
        self.instruments.is_capturing() && !self.stop.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<Outcome>>> {
        // The handle is taken whole or not at all: it holds after a panic too.
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread does.
type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs the stages from first to last, and ends them in the same order.
struct Supervisor {
    /// What is listened to, and the interface's name.
    link: Option<(LinkWatch, String)>,
    alarm: Alarm,
    stop: Arc<AtomicBool>,
    source: capture::Opened,
    capture: capture::Capture,
    health: health::Health,
    lookout: lookout::Lookout,
    sealer: Sealer,
    delivery: Option<Delivery>,
    spool: Arc<Spool>,
    shutdown_timeout: Duration,
}

impl Supervisor {
    fn run(self, books: &Books) -> Outcome {
        let (finish, finished) = crossbeam_channel::bounded::<()>(0);
        let Self {
            link,
            alarm,
            stop,
            source,
            capture,
            mut health,
            lookout,
            sealer,
            delivery,
            spool,
            shutdown_timeout,
        } = self;
        // They go on until the capture is over and everything that it gave is sealed.
        let mut beside: Vec<(&str, Work<'_>)> = vec![
            ("health", Box::new(|| health.run(&finished))),
            ("lookout", Box::new(|| lookout.run(&finished))),
        ];
        if let Some((watch, name)) = link {
            let (alarm, stop) = (&alarm, &stop);
            let watch = move || interface::watch(watch, &name, books, alarm, stop);
            beside.push(("link", Box::new(watch)));
        }
        let mut problems = Vec::new();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (name, work) in beside {
                let thread = std::thread::Builder::new().name(name.to_owned());
                match thread.spawn_scoped(scope, work) {
                    Ok(thread) => threads.push((name, thread)),
                    Err(error) => {
                        problems.push(format!("thread {name} cannot start: {error}"));
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
            problems.extend(capture.run(source));
            wait_until_sealed(books, &sealer);
            drop(finish);
            for (name, thread) in threads {
                if thread.join().is_err() {
                    tracing::error!(
                        "thread {name} panicked: a bug; what it has to tell of this chain ends early"
                    );
                }
            }
        });
        // The last books: everything that was captured is sealed by now, so that they are final but for delivery.
        health.finish();
        problems.extend(finish_evidence(sealer, delivery, shutdown_timeout, &spool));
        Outcome {
            problems,
            ledger: books.ledger_entries(),
        }
    }
}

/// Seals the rest, delivers what there is time for, and leaves the spool to others. Returns which of these a panic has cut
/// short.
fn finish_evidence(
    sealer: Sealer,
    delivery: Option<Delivery>,
    shutdown_timeout: Duration,
    spool: &Spool,
) -> Vec<String> {
    let sealed = catch_unwind(AssertUnwindSafe(|| sealer.finish()));
    let delivered = catch_unwind(AssertUnwindSafe(|| {
        if let Some(delivery) = delivery {
            delivery.shutdown(shutdown_timeout);
        }
    }));
    // Whoever still has the books of this run must not keep others from the directory.
    spool.unlock();
    let panicked = [(sealed.is_err(), "seals"), (delivered.is_err(), "delivers")];
    panicked
        .iter()
        .filter(|(has_panicked, _)| *has_panicked)
        .map(|(_, what)| format!("a thread that {what} has panicked, a bug: the log has it"))
        .collect()
}

/// Returns when no record waits for its signature. Sealing threads always get on; the records of one that has ended by a
/// panic would wait for ever.
fn wait_until_sealed(books: &Books, sealer: &Sealer) {
    while books.events_waiting() > 0 && !sealer.has_lost_a_thread() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::pipeline::fixtures::Parts;
    use crate::seal::Kind;
    use crate::seal::fixtures::{PROBE, batch, clock_that_ends_the_thread, pki};
    use crate::spool::{self, WhenFull};

    #[test]
    fn records_that_a_sealing_thread_took_with_it_are_not_waited_for() {
        let parts = Parts::with_clock(clock_that_ends_the_thread());
        assert!(parts.sealer.intake().submit(Kind::Flow, batch(3, 0)));
        wait_until_sealed(&parts.books, &parts.sealer);
        assert_eq!(parts.books.events_waiting(), 3);
    }

    #[test]
    fn a_sealing_thread_that_panicked_neither_hides_the_problems_nor_keeps_the_spool() {
        let parts = Parts::with_clock(clock_that_ends_the_thread());
        assert!(parts.sealer.intake().submit(Kind::Flow, batch(3, 0)));
        wait_until_sealed(&parts.books, &parts.sealer);
        let directory = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            max_bytes: 1 << 20,
            when_full: WhenFull::DropOldest,
            sync: spool::Sync::Never,
        };
        let spool = Spool::open(directory.path(), settings).unwrap();
        let problems = finish_evidence(parts.sealer, None, Duration::ZERO, &spool);
        assert_eq!(
            problems,
            ["a thread that seals has panicked, a bug: the log has it"]
        );
        assert!(Spool::open(directory.path(), settings).is_ok());
    }

    /// Why a probe on this interface does not start.
    fn refusal(interface: &str, mode: live::Mode, spool: &Path) -> PipelineError {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, pem: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        let started = Pipeline::start(Settings {
            input: Input::Interface(Interface {
                name: interface.to_owned(),
                mode,
                dedicated: false,
                libpcap: Vec::new(),
                options: RingOptions::default(),
                places: vec![None],
                exact: true,
                patience: Duration::ZERO,
            }),
            count: None,
            flow: flow::Settings::for_memory(1 << 20),
            probe_id: PROBE.to_owned(),
            certificate: file("probe.pem", pki!("probe.pem")),
            key: file("probe.key", pki!("probe.key")),
            ca: file("ca.pem", pki!("ca.pem")),
            spool_directory: spool.to_owned(),
            spool: SpoolSettings {
                max_bytes: 1 << 20,
                when_full: WhenFull::DropOldest,
                sync: spool::Sync::Never,
            },
            deliver: None,
            seal_threads: 1,
            linger: Duration::ZERO,
            health_interval: Duration::from_secs(60),
            shutdown_timeout: Duration::ZERO,
            backpressure_threshold: 1,
            memory_bytes: 128 << 20,
        });
        started.err().unwrap()
    }

    #[test]
    fn a_start_that_fails_for_its_interface_leaves_no_directories() {
        let directory = tempfile::tempdir().unwrap();
        let spool = directory.path().join("typo/x");
        for mode in [
            live::Mode::Auto,
            live::Mode::AfPacket,
            live::Mode::AfXdp,
            live::Mode::Pcap,
        ] {
            let refusal = refusal("nosuchif0", mode, &spool);
            assert!(matches!(refusal, PipelineError::Capture(_)), "{refusal}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[cfg(feature = "root-tests")]
    #[test]
    fn the_spool_is_read_before_frames_can_wait_for_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The host uses this interface, so that AF_XDP refuses it once it is opened.
        let refusal_of = |spool: &Path| refusal("lo", live::Mode::AfXdp, spool);
        let spool_first = refusal_of(file.path());
        assert!(matches!(spool_first, PipelineError::Spool(_)), "{spool_first}");
        let directory = tempfile::tempdir().unwrap();
        let then_the_interface = refusal_of(directory.path());
        assert!(
            matches!(then_the_interface, PipelineError::Capture(_)),
            "{then_the_interface}"
        );
    }
}
