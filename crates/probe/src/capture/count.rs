//! Frames that are counted and dropped: what capture alone reaches on an interface, for benches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{CaptureError, Next, Source};
use crate::clock;

/// How often the source is asked what was lost.
const ACCOUNTS_INTERVAL: Duration = Duration::from_millis(100);

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Counted {
    frames: AtomicU64,
    bytes: AtomicU64,
    lost: Mutex<Option<u64>>,
}

impl Counted {
    /// Frames that the source handed over.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Their bytes on the wire.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Frames that were lost before the source had them, where it can know it; a tenth of a second old at most.
    pub fn lost(&self) -> Option<u64> {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_lost(&self, lost: Option<u64>) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = lost;
    }
}

/// Counts a source's frames to its end.
pub fn count(source: &mut dyn Source, counted: &Counted) -> Result<(), CaptureError> {
    let mut asked = clock::monotonic();
    counted.set_lost(source.accounts().lost());
    let result = loop {
        let next = source.next_block(&mut |frames| {
            let bytes: u64 = frames
                .headers
                .iter()
                .map(|header| u64::from(header.wire_length))
                .sum();
            counted
                .frames
                .fetch_add(frames.headers.len() as u64, Ordering::Relaxed);
            counted.bytes.fetch_add(bytes, Ordering::Relaxed);
        });
        match next {
            Ok(Next::Block | Next::Idle) => {}
            Ok(Next::End) => break Ok(()),
            Err(error) => break Err(error),
        }
        if clock::elapsed(asked) >= ACCOUNTS_INTERVAL {
            asked = clock::monotonic();
            counted.set_lost(source.accounts().lost());
        }
    };
    counted.set_lost(source.accounts().lost());
    result
}
