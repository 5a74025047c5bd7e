//! Traffic for benches as Python objects.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use probe::pipeline::stages::{StageSettings, measure};
use probe::traffic::transmit::{Pace, TransmitError, Transmitter};
use probe::traffic::{Cycle, FrameSize, OfferBooks, Settings, Shape, write_capture};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Class, python_error};
use crate::pipeline::class_of;

/// What traffic to make. Equal values make equal traffic.
#[pyclass(frozen, module = "dpi_probe._native")]
pub struct Traffic {
    pub settings: Settings,
}

pub fn build(settings: &Settings) -> PyResult<Cycle> {
    Cycle::build(settings).map_err(|error| python_error(Class::Config, error))
}

#[pymethods]
impl Traffic {
    /// Checks the values; nothing is made yet.
    #[new]
    #[pyo3(signature = (*, seed, bits_per_second, flows_per_second, frame_size, ipv6_share, vlan_share, cycle_bytes))]
    fn new(
        seed: u64,
        bits_per_second: u64,
        flows_per_second: u64,
        frame_size: &str,
        ipv6_share: f64,
        vlan_share: f64,
        cycle_bytes: usize,
    ) -> PyResult<Self> {
        let frame_size = FrameSize::named(frame_size).ok_or_else(|| {
            let known = FrameSize::NAMES.join(", ");
            python_error(
                Class::Config,
                format!("frame size {frame_size:?}: allowed: {known}"),
            )
        })?;
        Ok(Self {
            settings: Settings {
                seed,
                bits_per_second,
                flows_per_second,
                frame_size,
                ipv6_share,
                vlan_share,
                cycle_bytes,
                ..Settings::default()
            },
        })
    }

    /// What the traffic comes out as.
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let shape = py.detach(|| build(&self.settings))?.shape();
        shape_dict(py, &shape)
    }

    /// Writes the flows that begin within so many seconds to a pcap file; returns frames and bytes. `progress` is called
    /// with the seconds of traffic that are written. A file that is not whole does not stay.
    #[pyo3(signature = (path, seconds, progress=None))]
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        seconds: f64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, u64)> {
        let duration = Duration::try_from_secs_f64(seconds)
            .map_err(|error| python_error(Class::Config, format!("{seconds} s is not a time: {error}")))?;
        py.detach(|| {
            let cycle = build(&self.settings)?;
            let failed = |error: std::io::Error| {
                python_error(
                    Class::Failure,
                    format!("{}: cannot be written: {error}", path.display()),
                )
            };
            let file = File::create(&path).map_err(failed)?;
            let is_file = file.metadata().map_err(failed)?.is_file();
            let mut output = BufWriter::with_capacity(1 << 20, file);
            let mut interrupted = None;
            let written = write_capture(cycle, duration, &mut output, &mut |time| {
                let told = Python::attach(|py| {
                    py.check_signals()?;
                    progress
                        .as_ref()
                        .map_or(Ok(()), |tell| tell.call1(py, (time.as_secs_f64(),)).map(drop))
                });
                told.map_err(|error| {
                    interrupted = Some(error);
                    std::io::ErrorKind::Interrupted.into()
                })
            });
            // What is still in the buffer must not be written to a file that goes.
            let (file, _) = output.into_parts();
            drop(file);
            match written {
                Ok(written) => Ok((written.frames, written.bytes)),
                Err(error) => {
                    let removed = if is_file {
                        std::fs::remove_file(&path)
                    } else {
                        Ok(())
                    };
                    Err(interrupted.unwrap_or_else(|| {
                        let left = removed.err().map(|error| format!(", nor removed: {error}"));
                        failed(std::io::Error::other(format!(
                            "{error}{}",
                            left.unwrap_or_default()
                        )))
                    }))
                }
            }
        })
    }
}

/// What each stage costs over so many bytes of frames, in nanoseconds over all of them.
#[pyfunction]
#[pyo3(signature = (traffic, *, size, memory_bytes, certificate, key, probe_id, spool_directory))]
#[allow(clippy::too_many_arguments)] // one for each setting
pub fn measure_stages<'py>(
    py: Python<'py>,
    traffic: PyRef<'_, Traffic>,
    size: u64,
    memory_bytes: usize,
    certificate: PathBuf,
    key: PathBuf,
    probe_id: String,
    spool_directory: PathBuf,
) -> PyResult<Bound<'py, PyDict>> {
    let settings = StageSettings {
        traffic: traffic.settings.clone(),
        bytes: size,
        memory_bytes,
        certificate: &certificate,
        key: &key,
        probe_id: &probe_id,
        spool_directory: &spool_directory,
    };
    let costs = py
        .detach(|| measure(&settings))
        .map_err(|error| python_error(class_of(&error), error))?;
    let dict = PyDict::new(py);
    for (name, count) in [
        ("frames", costs.frames),
        ("flows", costs.flows),
        ("batches", costs.batches),
    ] {
        dict.set_item(name, count)?;
    }
    for (name, time) in [
        ("decode", costs.decode),
        ("decode_flow", costs.decode_flow),
        ("decode_flow_layer7", costs.decode_flow_layer7),
        ("record", costs.record),
        ("seal", costs.seal),
        ("spool", costs.spool),
    ] {
        dict.set_item(name, time.as_nanos())?;
    }
    Ok(dict)
}

fn shape_dict<'py>(py: Python<'py>, shape: &Shape) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("mean_frame_bytes", shape.mean_frame_bytes())?;
    dict.set_item("frames_per_second", shape.frames_per_second())?;
    dict.set_item("flows_per_second", shape.flows_per_second())?;
    dict.set_item("cycle_frames", shape.frames)?;
    dict.set_item("cycle_flows", shape.flows)?;
    dict.set_item("cycle_seconds", shape.period_ns as f64 / 1e9)?;
    Ok(dict)
}

/// What one of the books counts.
type Count = fn(&OfferBooks) -> &AtomicU64;

/// The books of an offer, summed up over its sources.
pub fn offer_dict<'py>(py: Python<'py>, offers: &[Arc<OfferBooks>]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counters: [(&str, Count); 7] = [
        ("frames_offered", |books| &books.frames_offered),
        ("bytes_offered", |books| &books.bytes_offered),
        ("frames_taken", |books| &books.frames_taken),
        ("bytes_taken", |books| &books.bytes_taken),
        ("frames_dropped", |books| &books.frames_dropped),
        ("bytes_waiting", |books| &books.bytes_waiting),
        ("source_cpu_ns", |books| &books.source_cpu_ns),
    ];
    for (name, counter) in counters {
        let sum: u64 = offers
            .iter()
            .map(|books| counter(books).load(Ordering::Relaxed))
            .sum();
        dict.set_item(name, sum)?;
    }
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for (bound, count) in offers.iter().flat_map(|books| books.latencies.buckets()) {
        *buckets.entry(bound).or_default() += count;
    }
    dict.set_item("latency_buckets", buckets.into_iter().collect::<Vec<_>>())?;
    let sum: u64 = offers.iter().map(|books| books.latencies.sum_ns()).sum();
    dict.set_item("latency_sum_ns", sum)?;
    Ok(dict)
}

/// Traffic that is being sent on an interface.
#[pyclass(frozen, module = "dpi_probe._native")]
pub struct TrafficSender {
    stop: Arc<AtomicBool>,
    books: Arc<OfferBooks>,
    thread: Mutex<Option<JoinHandle<Result<u64, TransmitError>>>>,
}

#[pymethods]
impl TrafficSender {
    /// Opens the interface and begins to send, on a thread of its own: each frame when it is due, or `flat_out`.
    #[new]
    #[pyo3(signature = (interface, traffic, *, flat_out = false))]
    fn new(py: Python<'_>, interface: &str, traffic: PyRef<'_, Traffic>, flat_out: bool) -> PyResult<Self> {
        let books = Arc::new(OfferBooks::default());
        let stop = Arc::new(AtomicBool::new(false));
        let settings = traffic.settings.clone();
        let mut transmitter = py.detach(|| {
            Transmitter::open(interface, build(&settings)?, Arc::clone(&books)).map_err(|error| {
                let class = match &error {
                    TransmitError::Open { source, .. }
                        if source.kind() == std::io::ErrorKind::PermissionDenied =>
                    {
                        Class::CapturePermission
                    }
                    _ => Class::Capture,
                };
                python_error(class, error)
            })
        })?;
        let stopped = Arc::clone(&stop);
        let pace = if flat_out { Pace::FlatOut } else { Pace::Schedule };
        let thread = std::thread::Builder::new()
            .name("dpi-traffic".to_owned())
            .spawn(move || {
                transmitter.run(pace, &stopped)?;
                Ok(transmitter.refused())
            })
            .map_err(|error| python_error(Class::Failure, format!("a thread cannot start: {error}")))?;
        Ok(Self {
            stop,
            books,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What was offered so far, and when it was sent.
    fn offer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        offer_dict(py, std::slice::from_ref(&self.books))
    }

    /// Ends sending; returns how many frames the kernel had no room for.
    fn stop(&self, py: Python<'_>) -> PyResult<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(0) };
        match py.detach(|| thread.join()) {
            Ok(result) => result.map_err(|error| python_error(Class::Failure, error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
