//! The whole probe as a Python object.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use probe::capture::bpf::Program;
use probe::capture::live::{self, Interface, Mode};
use probe::capture::{CaptureError, RingOptions, cores};
use probe::counters::LedgerEntry;
use probe::deliver::{DeliverError, DeliverSettings};
use probe::flow;
use probe::metrics::{BOUNDS_NS, Family, Metric, Value};
use probe::pipeline::memory::Shares;
use probe::pipeline::{ChangeError, Changeable, Input, PipelineError, Settings};
use probe::spool::{SpoolSettings, Sync, WhenFull};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use wire::decode::LinkType;

use crate::error::{Class, python_error};
use crate::read::{Compiled, filters, key_parts};
use crate::traffic::{Traffic, offer_dict};

pub fn class_of(error: &PipelineError) -> Class {
    match error {
        PipelineError::Capture(error) if error.is_capture_permission() => Class::CapturePermission,
        PipelineError::Capture(
            CaptureError::NoSuchCore { .. }
            | CaptureError::TooFewCores { .. }
            | CaptureError::TooManyWorkers { .. },
        ) => Class::Config,
        PipelineError::Capture(_) => Class::Capture,
        PipelineError::Deliver(DeliverError::Tls(_) | DeliverError::Thread(_)) => Class::Transport,
        PipelineError::Flow(_)
        | PipelineError::Signer(_)
        | PipelineError::Deliver(_)
        | PipelineError::Traffic(_) => Class::Config,
        PipelineError::Spool(_) => Class::Spool,
        PipelineError::Seal(_) | PipelineError::Thread(_) | PipelineError::Record(_) => Class::Failure,
    }
}

/// A running probe. Made by `dpi_probe.Probe`.
#[pyclass(frozen, module = "dpi_probe._native")]
pub struct Pipeline {
    pipeline: probe::pipeline::Pipeline,
}

#[pymethods]
impl Pipeline {
    /// Opens everything and starts; every setting is given.
    #[new]
    #[pyo3(signature = (
        *, interface, capture, dedicated, libpcap, files, count, filter, promiscuous, timestamps, idle_timeout_ns,
        active_timeout_ns, profile, flow_key, workers,
        cores,
        interface_wait_seconds, memory_bytes, probe_id, certificate, key, ca, spool_directory, spool_bytes, spool_when_full, spool_fsync, core_url,
        seal_threads, linger_seconds, health_interval_seconds, shutdown_timeout_seconds, backpressure_threshold, traffic=None,
    ))]
    #[allow(clippy::too_many_arguments)] // one for each setting
    fn new(
        py: Python<'_>,
        interface: Option<String>,
        capture: &str,
        dedicated: bool,
        libpcap: Vec<PathBuf>,
        files: Vec<PathBuf>,
        count: Option<u64>,
        filter: Option<Vec<(u32, Compiled)>>,
        promiscuous: bool,
        timestamps: &str,
        idle_timeout_ns: i64,
        active_timeout_ns: i64,
        profile: &str,
        flow_key: Vec<String>,
        workers: Option<usize>,
        cores: Vec<usize>,
        interface_wait_seconds: f64,
        memory_bytes: usize,
        probe_id: String,
        certificate: PathBuf,
        key: PathBuf,
        ca: PathBuf,
        spool_directory: PathBuf,
        spool_bytes: u64,
        spool_when_full: &str,
        spool_fsync: &str,
        core_url: Option<String>,
        seal_threads: usize,
        linger_seconds: f64,
        health_interval_seconds: f64,
        shutdown_timeout_seconds: f64,
        backpressure_threshold: u64,
        traffic: Option<PyRef<'_, Traffic>>,
    ) -> PyResult<Self> {
        let mode = capture_mode(capture)?;
        let exact = workers.is_some() || !cores.is_empty();
        let places = match &interface {
            Some(name) => cores::plan(name, workers, &cores, flow::MAX_WORKERS).map_err(capture_error)?,
            // A file is read as fast as it can be: where its workers run is the scheduler's business.
            None => vec![None; workers.unwrap_or(1)],
        };
        let workers = places.len();
        let shares = Shares::of(memory_bytes);
        let input = match (interface, traffic) {
            (Some(name), _) => Input::Interface(Interface {
                mode,
                options: RingOptions {
                    bytes: shares.ring,
                    promiscuous,
                    timestamps: timestamps
                        .parse()
                        .map_err(|error| python_error(Class::Config, error))?,
                    filter: filter.map(only).transpose()?,
                    ..RingOptions::default()
                },
                name,
                dedicated,
                libpcap,
                places,
                exact,
                patience: seconds(interface_wait_seconds)?,
            }),
            (None, Some(traffic)) => Input::Traffic {
                settings: traffic.settings.clone(),
                queue_bytes: shares.ring as u64,
            },
            (None, None) => Input::Files {
                paths: files,
                filters: filter.map(filters).transpose()?,
            },
        };
        let (key_vlan, key_tunnel) = key_parts(flow_key)?;
        let settings = Settings {
            input,
            count,
            flow: flow::Settings {
                idle_timeout_ns,
                active_timeout_ns,
                profile: profile
                    .parse()
                    .map_err(|error| python_error(Class::Config, error))?,
                key_vlan,
                key_tunnel,
                workers,
                ..flow::Settings::for_memory(shares.metering)
            },
            probe_id,
            certificate,
            key,
            ca,
            spool_directory,
            spool: SpoolSettings {
                max_bytes: spool_bytes,
                when_full: match spool_when_full {
                    "drop_newest" => WhenFull::DropNewest,
                    _ => WhenFull::DropOldest,
                },
                sync: if spool_fsync == "never" {
                    Sync::Never
                } else {
                    Sync::EveryBatch
                },
            },
            deliver: core_url.map(DeliverSettings::new),
            seal_threads,
            linger: seconds(linger_seconds)?,
            health_interval: seconds(health_interval_seconds)?,
            shutdown_timeout: seconds(shutdown_timeout_seconds)?,
            backpressure_threshold,
            memory_bytes: memory_bytes as u64,
        };
        let pipeline = py
            .detach(|| probe::pipeline::Pipeline::start(settings))
            .map_err(|error| python_error(class_of(&error), error))?;
        Ok(Self { pipeline })
    }

    /// Asks the probe to end; returns at once.
    fn stop(&self) {
        self.pipeline.stop();
    }

    /// Whether the probe has ended by itself or after `stop`.
    fn is_finished(&self) -> bool {
        self.pipeline.is_finished()
    }

    /// Waits for the end; returns what could not be read of the inputs, one line each.
    fn join(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.pipeline.join())
            .map(|outcome| outcome.problems)
            .unwrap_or_default()
    }

    /// What the traffic of a bench has offered, or nothing.
    fn offer<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let offers = self.pipeline.offers();
        (!offers.is_empty()).then(|| offer_dict(py, offers)).transpose()
    }

    /// Puts other timeouts, another profile and another filter in force; `detail` says who changed what, for the signed event.
    fn configure(
        &self,
        py: Python<'_>,
        idle_timeout_ns: i64,
        active_timeout_ns: i64,
        profile: &str,
        filter: Option<Vec<(u32, Compiled)>>,
        detail: String,
    ) -> PyResult<()> {
        let program = filter.map(only).transpose()?;
        let chosen = Changeable {
            idle_timeout_ns,
            active_timeout_ns,
            profile: profile
                .parse()
                .map_err(|error| python_error(Class::Config, error))?,
            filter: program,
        };
        py.detach(|| self.pipeline.configure(&chosen, detail))
            .map_err(|error| {
                let class = match error {
                    ChangeError::NotTaken => Class::Failure,
                    _ => Class::Config,
                };
                python_error(class, error)
            })
    }

    /// How far the reading of files is: bytes read as they are stored, of how many where that is known, and packets.
    fn progress(&self) -> (u64, Option<u64>, u64) {
        self.pipeline.books().progress()
    }

    /// Whether frames are being taken from the input.
    fn is_capturing(&self) -> bool {
        self.pipeline.is_capturing()
    }

    /// Every metric at this moment: a list of {name, kind, help, labels, samples}. A sample is (label values, value); the
    /// value of a histogram is ([(upper bound in seconds, cumulative count)], sum in seconds).
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let families = py.detach(|| self.pipeline.metrics());
        families.iter().map(|family| shown(py, family)).collect()
    }

    /// The books at this moment: a list of {account, reason, worker, value}.
    fn accounts<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.pipeline
            .books()
            .ledger_entries()
            .iter()
            .map(|entry| account(py, entry))
            .collect()
    }
}

/// The filter's program for the frames of an interface, which all have one link type.
fn only(compiled: Vec<(u32, Compiled)>) -> PyResult<Program> {
    let link_type = compiled.first().map(|(link_type, _)| LinkType(*link_type));
    filters(compiled)?
        .get(link_type.unwrap_or(LinkType::ETHERNET))
        .cloned()
        .map_err(|message| python_error(Class::Config, message))
}

pub fn capture_mode(name: &str) -> PyResult<Mode> {
    name.parse().map_err(|error| python_error(Class::Config, error))
}

pub fn capture_error(error: CaptureError) -> PyErr {
    let error = PipelineError::Capture(error);
    python_error(class_of(&error), error)
}

fn account<'py>(py: Python<'py>, entry: &LedgerEntry) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("account", entry.account)?;
    dict.set_item("reason", entry.reason)?;
    dict.set_item("worker", entry.worker)?;
    dict.set_item("value", entry.value)?;
    Ok(dict)
}

fn declared<'py>(py: Python<'py>, metric: &Metric) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &metric.name)?;
    dict.set_item("kind", metric.kind.name())?;
    dict.set_item("help", &metric.help)?;
    dict.set_item("labels", metric.labels)?;
    Ok(dict)
}

fn shown<'py>(py: Python<'py>, family: &Family) -> PyResult<Bound<'py, PyDict>> {
    let dict = declared(py, &family.metric)?;
    let samples = PyList::empty(py);
    for sample in &family.samples {
        match &sample.value {
            Value::Number(number) => samples.append((&sample.labels, number))?,
            Value::Distribution(distribution) => {
                let bounds = BOUNDS_NS.iter().map(|bound| *bound as f64 / 1e9);
                let mut below = 0;
                let buckets: Vec<(f64, u64)> = bounds
                    .chain([f64::INFINITY])
                    .zip(&distribution.counts)
                    .map(|(bound, count)| {
                        below += count;
                        (bound, below)
                    })
                    .collect();
                samples.append((&sample.labels, (buckets, distribution.sum_seconds)))?;
            }
        }
    }
    dict.set_item("samples", samples)?;
    Ok(dict)
}

/// Every metric that a running probe shows: a list of {name, kind, help, labels}.
#[pyfunction]
pub fn metric_table(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let metrics = probe::pipeline::metrics();
    metrics.iter().map(|metric| declared(py, metric)).collect()
}

fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| python_error(Class::Config, format!("{value} s is not a time: {error}")))
}

/// The link type (LINKTYPE number) of an interface's frames: what a filter must be compiled for.
#[pyfunction]
pub fn interface_link_type(
    py: Python<'_>,
    interface: &str,
    capture: &str,
    libpcap: Vec<PathBuf>,
) -> PyResult<u32> {
    let mode = capture_mode(capture)?;
    let link_type = py.detach(|| live::link_type(interface, mode, &libpcap));
    Ok(link_type.map_err(capture_error)?.0)
}

/// Writes a line to the data plane's log (error, warning, info, debug).
#[pyfunction]
pub fn log(level: &str, message: &str) {
    match level {
        "error" => tracing::error!("{message}"),
        "warning" => tracing::warn!("{message}"),
        "debug" => tracing::debug!("{message}"),
        _ => tracing::info!("{message}"),
    }
}

/// Standard error, one whole line at a time. A line that cannot be written there is lost: it must not end the thread that
/// has something to say, and with it evidence. On a terminal the line takes the place of a progress bar, which is drawn again
/// below it.
struct Lines {
    terminal: bool,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        // Carriage return, and erase the line (ECMA-48 EL).
        let before: &[u8] = if self.terminal { b"\r\x1b[2K" } else { b"" };
        // There is nobody left to tell of an error.
        let _ = stderr.write_all(before).and_then(|()| stderr.write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the data plane's log to standard error, from `level` on (error, warning, info, debug). The first call counts.
#[pyfunction]
pub fn log_to_stderr(level: &str) {
    let level = match level {
        "error" => tracing::Level::ERROR,
        "warning" => tracing::Level::WARN,
        "debug" => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let terminal = io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    // Fails only if a log is set up already, which then goes on.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || Lines { terminal })
        // It would say so on standard error, and panic where that cannot be written.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_target(false)
        .try_init();
}
