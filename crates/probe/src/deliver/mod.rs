//! Sealed batches to the Core over mutual TLS (`docs/formats/transport.md`).
//!
//! **In**: the spool. **Out**: acknowledged entries are deleted there, refused ones put away. **Owns**: one thread with the
//! HTTP client. **Never**: deletes anything without a receipt that was verified; gives up on a Core that is down (no limit
//! of tries, from 100 ms to 30 s between them); hammers one that is overloaded; touches capture.
//!
//! The oldest entry goes first; a few requests are in flight. After a failure everything waits, then one request goes
//! alone; with each that is answered, one more may follow. A Core that says that this probe is not trusted is asked again once a
//! minute, in case the operator changes his mind.

/// What an answer means.
pub mod answer;
mod backoff;
mod body;
mod counters;
mod pressure;
mod run;
#[cfg(test)]
mod tests;
mod window;
/// TLS 1.3 with certificates on both sides.
pub mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub use counters::{DeliverCounters, DeliverState};
pub use pressure::Pressure;
pub use tls::Identity;

use crate::seal::certificate::CertificateError;
use crate::seal::ledger::Event;
use crate::seal::sealer::Clock;
use crate::seal::sign::SignerError;
use crate::spool::{Disk, Spool};

/// Why delivery cannot start. The state: nothing was sent, the spool is as it was.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The Core's address cannot be used.
    #[error("CORE_API_URL: `{url}` is not usable: {reason}; it must be like https://core.example:8443")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Key or certificate of the probe.
    #[error(transparent)]
    Identity(#[from] SignerError),
    /// A certificate cannot be read.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// TLS cannot be set up with them.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// No thread or runtime.
    #[error("the delivery thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

/// How delivery works.
#[derive(Clone, Debug)]
pub struct DeliverSettings {
    /// Base address of the Core: `https://HOST[:PORT][/PATH]`.
    pub core_url: String,
    /// Requests in flight at a time.
    pub max_in_flight: usize,
    /// First wait after a failure.
    pub backoff_min: Duration,
    /// Longest wait after a failure.
    pub backoff_max: Duration,
    /// Wait after the Core said that this probe is not trusted.
    pub refused_interval: Duration,
    /// How long an entry rests that the disk did not give, the first time: then twice as long each time, up to a minute.
    pub unreadable_interval: Duration,
    /// Longest time for a connection to be made.
    pub connect_timeout: Duration,
    /// Longest time for a request and its answer, beside the time that the body may take on a slow line.
    pub request_timeout: Duration,
    /// An event of one name is reported at most once in this time.
    pub alarm_interval: Duration,
}

impl DeliverSettings {
    /// The documented behaviour towards the Core at `core_url`.
    pub fn new(core_url: impl Into<String>) -> Self {
        Self {
            core_url: core_url.into(),
            max_in_flight: 4,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            refused_interval: Duration::from_secs(60),
            unreadable_interval: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            alarm_interval: Duration::from_secs(60),
        }
    }
}

/// Receives what an operator should know; it becomes an event batch.
pub type Alarm = Arc<dyn Fn(Event) + Send + Sync>;

/// Does the work, and leaves behind what the runtime's own threads are at: a name server that does not answer holds
/// `getaddrinfo` for longer than a probe may take to end.
fn drive(runtime: Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
    runtime.shutdown_background();
}

/// The delivery thread.
pub struct Delivery {
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<()>,
    counters: Arc<DeliverCounters>,
    state: Arc<DeliverState>,
}

impl Delivery {
    /// Starts to deliver what is in `spool`.
    pub fn start<D: Disk + 'static>(
        spool: Arc<Spool<D>>,
        identity: &Identity,
        settings: DeliverSettings,
        clock: Clock,
        alarm: Alarm,
    ) -> Result<Self, DeliverError> {
        let (stop, stopped) = oneshot::channel();
        let counters = Arc::new(DeliverCounters::default());
        let state = Arc::new(DeliverState::default());
        let books = (Arc::clone(&counters), Arc::clone(&state));
        let worker = run::Worker::new(spool, identity, settings, clock, alarm, books)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let witness = counters::Witness(Arc::clone(&state));
        let thread = std::thread::Builder::new()
            .name("deliver".to_owned())
            .spawn(move || {
                let _witness = witness;
                drive(runtime, worker.run(stopped));
            })?;
        Ok(Self {
            stop,
            thread,
            counters,
            state,
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<DeliverCounters> {
        &self.counters
    }

    /// How it stands, and how long things take.
    pub fn state(&self) -> &Arc<DeliverState> {
        &self.state
    }

    /// Goes on until everything in the spool is acknowledged, for at most `drain`; then ends the thread. What is left stays in
    /// the spool for the next start.
    pub fn shutdown(self, drain: Duration) {
        // An error here means that the thread has ended already.
        let _ = self.stop.send(drain);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
