//! Capture files to record batches.

use std::path::PathBuf;
use std::sync::Arc;

use super::read::{Reading, Shared};
use super::{Layout, Limits};

/// Most worker threads.
pub const WORKERS_MAX: usize = 256;

/// Compiles a packet filter for a link type.
pub trait Filter: Send {
    /// The classic BPF program as (code, jt, jf, k), or why there is none.
    fn program(&self, link_type: u32) -> Result<Vec<(u16, u8, u8, u32)>, String>;
}

/// What to read and how.
pub struct Options {
    /// The capture files, in order; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    /// Which packets to read; `None`: all.
    pub filter: Option<Box<dyn Filter>>,
    /// Stop after this many packets.
    pub count: Option<u64>,
    /// Whether an input that cannot be opened is a problem to report, not an error.
    pub keep_going: bool,
    /// Worker threads.
    pub workers: usize,
    /// Idle timeout in nanoseconds.
    pub idle_timeout_ns: i64,
    /// Active timeout in nanoseconds.
    pub active_timeout_ns: i64,
    /// What batches look like.
    pub layout: Layout,
    /// When a batch is full.
    pub limits: Limits,
}

/// Opened inputs.
pub struct Opened {
    options: Options,
    shared: Arc<Shared>,
}

/// Opens the inputs.
pub fn open(options: Options) -> Result<Opened, String> {
    Ok(Opened {
        options,
        shared: Arc::default(),
    })
}

impl Opened {
    /// What is told while reading.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Size of all inputs in bytes.
    pub fn bytes_total(&self) -> Option<u64> {
        None
    }

    /// Starts reading.
    pub fn start(self) -> std::io::Result<Reading> {
        Reading::start(self.options.layout, self.options.limits, self.shared, |_| Ok(()))
    }
}
