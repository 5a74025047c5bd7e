//! Capture alone as a Python object, for benches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use probe::capture::count::{Counted, count};
use probe::capture::live::{self, Interface};
use probe::capture::{CaptureError, RingOptions, Source};
use probe::pipeline::memory::Shares;
use pyo3::prelude::*;

use crate::error::{Class, python_error};
use crate::pipeline::{capture_error, capture_mode};

/// Frames of an interface that are being counted and dropped.
#[pyclass(frozen, module = "dpi_probe._native")]
pub struct CaptureCounter {
    stop: Arc<AtomicBool>,
    counted: Arc<Counted>,
    description: String,
    thread: Mutex<Option<JoinHandle<Result<(), CaptureError>>>>,
}

#[pymethods]
impl CaptureCounter {
    /// Opens the interface as a probe with this bound of memory does, and begins to count on a thread of its own.
    #[new]
    #[pyo3(signature = (interface, *, capture, memory_bytes))]
    fn new(py: Python<'_>, interface: &str, capture: &str, memory_bytes: usize) -> PyResult<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let interface = Interface {
            name: interface.to_owned(),
            mode: capture_mode(capture)?,
            dedicated: false,
            libpcap: Vec::new(),
            options: RingOptions {
                bytes: Shares::of(memory_bytes).ring,
                stop: Arc::clone(&stop),
                ..RingOptions::default()
            },
            places: vec![None],
            exact: true,
            patience: Duration::ZERO,
        };
        let mut live = py.detach(|| live::open(interface)).map_err(capture_error)?;
        let counted = Arc::new(Counted::default());
        let (mut source, counts) = (live.sources.remove(0), Arc::clone(&counted));
        let thread = std::thread::Builder::new()
            .name("dpi-count".to_owned())
            .spawn(move || count(&mut source as &mut dyn Source, &counts))
            .map_err(|error| python_error(Class::Failure, format!("a thread cannot start: {error}")))?;
        Ok(Self {
            stop,
            counted,
            description: live.description,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// How frames are captured, for people.
    fn description(&self) -> &str {
        &self.description
    }

    /// Frames that came, their bytes on the wire, and frames that were lost before, where that is known.
    fn counts(&self) -> (u64, u64, Option<u64>) {
        (self.counted.frames(), self.counted.bytes(), self.counted.lost())
    }

    /// Ends the capture, and raises what it failed with.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        match py.detach(|| thread.join()) {
            Ok(result) => result.map_err(capture_error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Bytes of the capture rings of a probe with this bound of memory.
#[pyfunction]
pub fn capture_ring_bytes(memory_bytes: usize) -> usize {
    Shares::of(memory_bytes).ring
}
