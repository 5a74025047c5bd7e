//! Traffic on an interface, by AF_PACKET.

mod offload;
mod socket;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use self::offload::Head;
use self::socket::{BATCH, SendSocket};
use super::{Cycle, Offer, OfferBooks};
use crate::clock;

/// Shortest sleep: what is due meanwhile is sent together.
const NAP: Duration = Duration::from_micros(50);

/// Why frames cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TransmitError {
    /// The socket.
    #[error("{interface}: cannot be opened to send: {source}")]
    Open {
        /// The interface.
        interface: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Sending, other than for lack of room.
    #[error("{interface}: sending failed: {source}")]
    Send {
        /// The interface.
        interface: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// When frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// When they are due.
    Schedule,
    /// As fast as the interface takes them, in the order in which they are due.
    FlatOut,
}

/// Sends traffic on an interface. A frame that cannot be sent in time is sent late, and its lateness counted.
pub struct Transmitter {
    interface: String,
    socket: SendSocket,
    has_super_frames: bool,
    offer: Offer,
    books: Arc<OfferBooks>,
    refused: AtomicU64,
    /// For so many nanoseconds of the schedule there is a batch of frames.
    batch_ns: u64,
}

impl Transmitter {
    /// Opens the interface. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str, cycle: Cycle, books: Arc<OfferBooks>) -> Result<Self, TransmitError> {
        let has_super_frames = cycle.has_super_frames();
        let socket = SendSocket::open(interface, has_super_frames).map_err(|source| TransmitError::Open {
            interface: interface.to_owned(),
            source,
        })?;
        let shape = cycle.shape();
        Ok(Self {
            batch_ns: shape.period_ns.saturating_mul(BATCH as u64) / shape.frames.max(1),
            interface: interface.to_owned(),
            socket,
            has_super_frames,
            offer: Offer::new(cycle, u64::MAX, u64::MAX, Arc::clone(&books)),
            books,
            refused: AtomicU64::new(0),
        })
    }

    /// Frames that the kernel had no room for (`ENOBUFS`), or did not take until the end.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Sends until `stop` is set. What is due and not sent then stays unsent. Only a [`Pace::Schedule`] has latencies.
    pub fn run(&mut self, pace: Pace, stop: &AtomicBool) -> Result<(), TransmitError> {
        let begun = clock::monotonic();
        let now = || u64::try_from(clock::elapsed(begun).as_nanos()).unwrap_or(u64::MAX);
        let mut taken = Vec::with_capacity(BATCH);
        let mut heads = Vec::with_capacity(BATCH);
        while !stop.load(Ordering::Relaxed) {
            match pace {
                Pace::Schedule => self.offer.advance(now()),
                Pace::FlatOut if self.offer.waiting() == 0 => {
                    self.offer
                        .advance(self.offer.next_due().saturating_add(self.batch_ns));
                }
                Pace::FlatOut => {}
            }
            self.offer.take(u64::MAX, BATCH, &mut taken);
            if taken.is_empty() {
                if pace == Pace::FlatOut {
                    // Of flows that have not begun yet.
                    continue;
                }
                let wait = Duration::from_nanos(self.offer.next_due().saturating_sub(now()));
                std::thread::sleep(wait.clamp(NAP, Duration::from_millis(20)));
                continue;
            }
            let frames = taken.iter().map(|due| self.offer.frame(due));
            heads.clear();
            if self.has_super_frames {
                heads.extend(frames.clone().map(Head::of));
            }
            let mut done = 0;
            while let Some(rest) = taken.get(done..).filter(|rest| !rest.is_empty()) {
                let parts = frames.clone().enumerate().skip(done).map(|(index, frame)| {
                    let head = heads.get(index);
                    let in_head = head.map_or(0, Head::frame_bytes);
                    [
                        head.map_or(&[][..], Head::bytes),
                        frame.get(in_head..).unwrap_or_default(),
                    ]
                });
                match self.socket.send(parts) {
                    Ok(sent) => done += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if stop.load(Ordering::Relaxed) {
                            self.refused.fetch_add(rest.len() as u64, Ordering::Relaxed);
                            return Ok(());
                        }
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        done += 1;
                    }
                    Err(source) => {
                        return Err(TransmitError::Send {
                            interface: self.interface.clone(),
                            source,
                        });
                    }
                }
            }
            if pace == Pace::FlatOut {
                continue;
            }
            let sent = now();
            for due in &taken {
                self.books.latencies.record(sent.saturating_sub(due.at));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Settings;

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let settings = Settings {
            cycle_bytes: 256 << 10,
            ..Settings::default()
        };
        let cycle = Cycle::build(&settings).expect("possible");
        let error = Transmitter::open("nosuchif0", cycle, Arc::default())
            .err()
            .expect("there is no such interface");
        assert!(error.to_string().starts_with("nosuchif0: "), "{error}");
    }
}
