//! An interface that vanishes and comes back: its rings are opened anew, all together, because they are one fanout group.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{RingOptions, RingSource, open_rings};
use crate::capture::bpf::Program;
use crate::capture::{Accounts, CaptureError, Frames, Next, Source};
use crate::clock;

/// Time between two attempts to open the interface.
const RETRY: Duration = Duration::from_millis(100);

/// How long a worker without a ring rests before it says [`Next::Idle`].
const REST: Duration = Duration::from_millis(20);

/// What the sources of an interface have in common.
struct Shared {
    interface: String,
    /// But for the filter, which may have been changed since.
    options: RingOptions,
    cores: Vec<Option<usize>>,
    patience: Duration,
    absence: Mutex<Absence>,
}

/// The state while the interface is away.
#[derive(Default)]
struct Absence {
    /// Workers whose ring is closed. Only when all are, there is memory for new ones.
    without_ring: usize,
    since: Option<Instant>,
    tried: Option<Instant>,
    /// The filter that was asked for last: new rings are opened with it.
    filter: Option<Program>,
    /// New rings that their workers have not fetched yet.
    rings: Vec<Option<RingSource>>,
}

/// The ring of one worker, opened again with the others' when the interface was away.
pub struct LastingSource {
    number: usize,
    ring: Option<RingSource>,
    /// What the closed rings have done.
    accounts: Accounts,
    /// The filter that this worker was asked for last.
    filter: Option<Program>,
    shared: Arc<Shared>,
}

impl LastingSource {
    /// The rings that [`open_rings`] opened, in its order. An interface that is away for longer than `patience` ends the
    /// capture.
    pub fn all(
        interface: &str,
        options: &RingOptions,
        cores: &[Option<usize>],
        patience: Duration,
        rings: Vec<RingSource>,
    ) -> Vec<Self> {
        let shared = Arc::new(Shared {
            interface: interface.to_owned(),
            options: options.clone(),
            cores: cores.iter().copied().take(rings.len()).collect(),
            patience,
            absence: Mutex::new(Absence {
                filter: options.filter.clone(),
                ..Absence::default()
            }),
        });
        rings
            .into_iter()
            .enumerate()
            .map(|(number, ring)| Self {
                number,
                ring: Some(ring),
                accounts: Accounts::default(),
                filter: options.filter.clone(),
                shared: Arc::clone(&shared),
            })
            .collect()
    }

    fn close(&mut self) {
        if let Some(mut ring) = self.ring.take() {
            self.accounts = ring.accounts();
        }
        let mut absence = self.shared.absence();
        absence.without_ring += 1;
        absence.since.get_or_insert_with(clock::monotonic);
    }
}

impl Shared {
    fn absence(&self) -> MutexGuard<'_, Absence> {
        // Nothing panics between two changes that belong together.
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The new ring of a worker, once there is one. Whoever asks when it is time tries to open all.
    fn fetch(&self, number: usize) -> Result<Option<RingSource>, CaptureError> {
        let mut absence = self.absence();
        if let Some(ring) = absence.rings.get_mut(number).and_then(Option::take) {
            return Ok(Some(ring));
        }
        let is_time = absence.tried.is_none_or(|tried| clock::elapsed(tried) >= RETRY);
        if absence.without_ring < self.cores.len() || !is_time {
            return Ok(None);
        }
        absence.tried = Some(clock::monotonic());
        let options = RingOptions {
            filter: absence.filter.clone(),
            ..self.options.clone()
        };
        match open_rings(&self.interface, &options, &self.cores) {
            Ok(rings) => {
                absence.rings = rings.into_iter().map(Some).collect();
                absence.without_ring = 0;
                absence.since = None;
                tracing::info!(interface = %self.interface, "the interface is back");
                Ok(absence.rings.get_mut(number).and_then(Option::take))
            }
            Err(error) => {
                let away = absence.since.map_or(Duration::ZERO, clock::elapsed);
                if away < self.patience {
                    tracing::debug!(%error, "the interface cannot be opened yet");
                    return Ok(None);
                }
                Err(match error {
                    CaptureError::NoSuchInterface { interface, .. } => {
                        CaptureError::InterfaceGone { interface }
                    }
                    other => other,
                })
            }
        }
    }
}

impl Source for LastingSource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        if let Some(ring) = &mut self.ring {
            return match ring.next_block(take) {
                Err(CaptureError::InterfaceGone { interface }) => {
                    tracing::warn!(interface, patience = ?self.shared.patience, "the interface is gone; waiting for it");
                    self.close();
                    Ok(Next::Idle)
                }
                other => other,
            };
        }
        if self.shared.options.stop.load(Ordering::Relaxed) {
            return Ok(Next::End);
        }
        if let Some(mut ring) = self.shared.fetch(self.number)? {
            ring.go_on_from(&self.accounts);
            // Another worker may have opened the rings before this one was asked for another filter.
            ring.set_filter(self.filter.as_ref())?;
            self.ring = Some(ring);
        } else {
            thread::sleep(REST);
        }
        Ok(Next::Idle)
    }

    fn accounts(&mut self) -> Accounts {
        match &mut self.ring {
            Some(ring) => ring.accounts(),
            None => self.accounts.clone(),
        }
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        if let Some(ring) = &mut self.ring {
            ring.set_filter(filter)?;
        }
        self.shared.absence().filter = filter.cloned();
        self.filter = filter.cloned();
        Ok(())
    }

    fn queue(&self) -> (u64, u64) {
        // While the interface is away nothing waits, and the new ring will be as large.
        self.ring.as_ref().map_or((0, 0), Source::queue)
    }
}
