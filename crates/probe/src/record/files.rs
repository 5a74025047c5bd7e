//! Capture files to record batches.
//!
//! An input's error ends that input only: it becomes a problem that names the file, and reading goes on with the next
//! one. Everything that can be read is metered and delivered.

use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{Feed, Reading, Shared, Stopped};
use super::{Layout, Limits};
use crate::capture::bpf::Filters;
use crate::capture::{CaptureError, FileSource, Next, OwnedFrames, Source as _};
use crate::counters::Counters;
use crate::engine;
use crate::flow::Settings;

/// What to read and how.
#[derive(Debug)]
pub struct Options {
    /// The capture files, in order; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    /// Which packets to read; `None`: all.
    pub filters: Option<Filters>,
    /// Stop after this many packets.
    pub count: Option<u64>,
    /// Whether an input that cannot be opened is a problem to report, not an error.
    pub keep_going: bool,
    /// Limits and timeouts of metering.
    pub settings: Settings,
    /// What batches look like.
    pub layout: Layout,
    /// When a batch is full.
    pub limits: Limits,
}

/// Inputs that have been looked at and not read yet.
pub struct Opened {
    options: Options,
    source: FileSource,
    bytes_total: Option<u64>,
    shared: Arc<Shared>,
}

/// Looks at the inputs: unless `keep_going`, one that cannot be read at all is an error.
pub fn open(mut options: Options) -> Result<Opened, CaptureError> {
    if !options.keep_going {
        let mut block = OwnedFrames::default();
        for path in &options.inputs {
            check(path, &mut block)?;
        }
    }
    let mut source = FileSource::new(options.inputs.clone());
    if let Some(filters) = options.filters.take() {
        source = source.with_filters(filters);
    }
    if let Some(count) = options.count {
        source = source.with_count(count);
    }
    let bytes_total = source.accounts().bytes_total;
    let shared = Arc::new(Shared::new(Counters::new(options.settings.workers)));
    let ended = Arc::clone(&shared);
    Ok(Opened {
        options,
        source: source.with_end(Arc::new(move || ended.inputs_ended())),
        bytes_total,
        shared,
    })
}

/// Reads the first block of a file to see whether it is a capture. What cannot be read twice is not looked at.
fn check(path: &Path, block: &mut OwnedFrames) -> Result<(), CaptureError> {
    let pipe = path
        .metadata()
        .is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    if path == Path::new("-") || pipe {
        return Ok(());
    }
    match FileSource::new(vec![path.to_owned()]).fill(block) {
        Err(error) if is_unreadable(&error) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether nothing of the file can be read, as opposed to some of it.
const fn is_unreadable(error: &CaptureError) -> bool {
    matches!(
        error,
        CaptureError::NotFound { .. }
            | CaptureError::Directory { .. }
            | CaptureError::FilePermission { .. }
            | CaptureError::Empty { .. }
            | CaptureError::NotACapture { .. }
            | CaptureError::UnsupportedVersion { .. }
            | CaptureError::Read { offset: 0, .. }
    )
}

impl Opened {
    /// What is known of the reading.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Size of all inputs in bytes as they are stored, where all are regular files.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// Starts reading on a thread of its own.
    pub fn start(self) -> io::Result<Reading> {
        let Self {
            options,
            source,
            shared,
            ..
        } = self;
        let Options {
            settings,
            layout,
            limits,
            ..
        } = options;
        Reading::start(layout, limits, shared, move |feed| read(source, &settings, feed))
    }
}

/// Meters the source's frames and feeds the flows.
fn read(source: FileSource, settings: &Settings, feed: &mut Feed) -> Result<(), Stopped> {
    let shared = Arc::clone(feed.shared());
    let mut taps = Taps {
        source,
        shared: Arc::clone(&shared),
        frames: 0,
    };
    let mut stopped = false;
    let result = engine::read(
        |block| Ok::<_, Infallible>(taps.fill(block)),
        settings,
        &settings.decoder(),
        shared.counters(),
        &mut |flow| {
            if feed.push(&flow).is_ok() {
                return ControlFlow::Continue(());
            }
            stopped = true;
            ControlFlow::Break(())
        },
    );
    match result {
        Ok(()) if stopped => Err(Stopped),
        Ok(()) => Ok(()),
        Err(error) => {
            shared.fail(error.to_string());
            Err(Stopped)
        }
    }
}

/// The source with what a reader wants to know.
struct Taps {
    source: FileSource,
    shared: Arc<Shared>,
    frames: u64,
}

impl Taps {
    /// Refills the block. Errors are noted as problems, each with its input's name.
    fn fill(&mut self, block: &mut OwnedFrames) -> Next {
        block.headers.clear();
        loop {
            let next = self.source.fill(block);
            self.frames += block.headers.len() as u64;
            self.shared.advance(self.source.accounts(), self.frames);
            match next {
                Ok(next) => return next,
                Err(error) => self.shared.problem(error.to_string()),
            }
        }
    }
}
