//! Live capture through libpcap, which is loaded at run time: for devices that are no network interfaces of the kernel
//! (`any`, `usbmon0`, cards with a library of their own), and systems without the modes above.
//!
//! Frames are copied once, from the library's buffer into a block. One worker only: libpcap shares nothing out.

mod library;

use std::ffi::c_int;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use wire::decode::LinkType;

use self::library::{Failure, Handle, Library, Wishes, status};
use super::af_packet::{check_filter, interfaces, this_program};
use super::bpf::Program;
use super::{
    Accounts, BLOCK_BYTES, CaptureError, FrameClock, FrameHeader, MAX_FRAME_BYTES, Next, OwnedFrames,
    RingOptions, Source, Way,
};
use crate::clock;

/// After this time frames are handed over though libpcap has room for more (design §6).
const BUFFER_TIMEOUT_MS: c_int = 1;

/// How long [`Source::next_block`] waits before it says [`Next::Idle`].
const IDLE_TIMEOUT_MS: c_int = 20;

/// How long frames are waited for once the capture is to stop.
const DRAIN: Duration = Duration::from_millis(10);

/// How long frames that came before are handed over then.
const LONGEST_DRAIN: Duration = Duration::from_secs(1);

/// Frames of a block.
const BLOCK_FRAMES: usize = 1024;

/// Frames from an interface, through libpcap.
pub struct PcapSource {
    interface: String,
    /// Of the network interface; none of other devices.
    index: Option<u32>,
    handle: Handle,
    link_type: LinkType,
    /// See [`RingOptions::filter_link_type`].
    filter_link_type: Option<LinkType>,
    block: OwnedFrames,
    accounts: Accounts,
    /// The library's own count when it was last asked.
    dropped: u32,
    /// What failed behind the frames of the latest block.
    failed: Option<CaptureError>,
    snaplen: u32,
    buffer_bytes: usize,
    stop: Arc<AtomicBool>,
    draining: Option<Draining>,
}

/// The end of a capture. The library goes on to capture, so that its buffer may never be empty.
#[derive(Clone, Copy)]
struct Draining {
    since: Instant,
    /// The same in UTC nanoseconds.
    began: i64,
    /// What the library's buffer may still hold.
    bytes_left: usize,
    is_over: bool,
}

impl Draining {
    fn new(buffer_bytes: usize) -> Self {
        Self {
            since: clock::monotonic(),
            began: clock::utc_now(),
            bytes_left: buffer_bytes,
            is_over: false,
        }
    }

    /// Notes a frame; whether it came before the end. All that did are taken with the first one that did not, or with as
    /// many bytes as the buffer has, where the device's clock is not that of the host.
    fn note(&mut self, time: i64, bytes: usize) -> bool {
        self.bytes_left = self.bytes_left.saturating_sub(bytes.max(1));
        let came_before = time <= self.began;
        self.is_over |= !came_before || self.bytes_left == 0;
        came_before
    }
}

/// The link type (LINKTYPE number) of one of libpcap's own numbers (`pcap/dlt.h`): on Linux, all others are the same.
const fn link_type_of(own: c_int) -> LinkType {
    LinkType(match own {
        11 => 100,
        12 => 101,
        same => same as u32,
    })
}

fn open(interface: &str, options: &RingOptions, libraries: &[PathBuf]) -> Result<Handle, CaptureError> {
    let library = Library::load(libraries).map_err(|reason| CaptureError::NoLibpcap {
        interface: interface.to_owned(),
        reason,
    })?;
    tracing::debug!("{}", library.version());
    let wishes = Wishes {
        snaplen: options.snaplen,
        promiscuous: options.promiscuous,
        buffer_bytes: options.bytes,
        timeout_ms: BUFFER_TIMEOUT_MS,
    };
    Handle::open(&Arc::new(library), interface, &wishes).map_err(|failure| match failure.status {
        status::PERMISSION_DENIED | status::PROMISCUOUS_PERMISSION_DENIED => {
            CaptureError::CapturePermission {
                interface: interface.to_owned(),
                program: this_program(),
            }
        }
        status::NO_SUCH_DEVICE => CaptureError::NoSuchInterface {
            interface: interface.to_owned(),
            available: interfaces().unwrap_or_else(|error| format!("(not known: {error})")),
        },
        status::INTERFACE_NOT_UP => CaptureError::InterfaceDown {
            interface: interface.to_owned(),
            why: "libpcap opens only what is up",
        },
        _ => failed(interface, "opening it", failure),
    })
}

fn index_of(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// Whether an interface was set up by somebody, whatever its carrier. It counts as up where that cannot be known.
fn is_up(interface: &str) -> bool {
    match getifaddrs() {
        Ok(mut all) => {
            all.any(|one| one.interface_name == interface && one.flags.contains(InterfaceFlags::IFF_UP))
        }
        Err(error) => {
            tracing::warn!(interface, %error, "whether the interface is up cannot be known");
            true
        }
    }
}

/// Whether a failure to read is one that opening the interface again may mend: the network interface vanished or was set
/// down, be it only for a moment. `before`, `now`: its index, none of what is no network interface.
fn may_come_back(before: Option<u32>, now: Option<u32>, is_up: bool, said: &str) -> bool {
    // Before 1.10 libpcap takes it for the end ("The interface went down"), from then on it waits by itself.
    before.is_some() && (before != now || !is_up || said.starts_with("The interface "))
}

fn failed(interface: &str, action: &'static str, failure: Failure) -> CaptureError {
    CaptureError::Ring {
        interface: interface.to_owned(),
        action,
        source: io::Error::other(failure.message),
    }
}

/// The link type with which frames come: what a filter must be compiled for.
pub fn link_type(interface: &str, libraries: &[PathBuf]) -> Result<LinkType, CaptureError> {
    let options = RingOptions {
        bytes: BLOCK_BYTES,
        promiscuous: false,
        ..RingOptions::default()
    };
    Ok(link_type_of(open(interface, &options, libraries)?.link_type()))
}

impl PcapSource {
    /// Starts to capture. `libraries`: names and paths of libpcap, of which the first that can be loaded is used.
    pub fn open(interface: &str, options: &RingOptions, libraries: &[PathBuf]) -> Result<Self, CaptureError> {
        let mut handle = open(interface, options, libraries)?;
        let link_type = link_type_of(handle.link_type());
        let filter = options.filter.as_ref();
        check_filter(interface, filter, options.filter_link_type, link_type)?;
        if let Some(filter) = filter {
            handle
                .set_filter(filter)
                .map_err(|failure| failed(interface, "attaching the filter", failure))?;
        }
        Ok(Self {
            interface: interface.to_owned(),
            index: index_of(interface),
            link_type,
            filter_link_type: options.filter_link_type,
            handle,
            block: OwnedFrames::default(),
            accounts: Accounts {
                way: Some(Way::Pcap),
                stamped: Some([0; 3]),
                kernel_drops: Some(0),
                ..Accounts::default()
            },
            dropped: 0,
            failed: None,
            snaplen: options.snaplen,
            buffer_bytes: options.bytes,
            stop: Arc::clone(&options.stop),
            draining: None,
        })
    }

    /// Moves what waits into the block, as much as a block holds.
    fn fill(&mut self) -> Result<(), CaptureError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let (block, link_type, draining) = (&mut self.block, self.link_type, &mut self.draining);
        while block.bytes.len() < BLOCK_BYTES
            && block.headers.len() < BLOCK_FRAMES
            && !draining.is_some_and(|draining| draining.is_over)
        {
            let next = self.handle.next(|header, bytes| {
                let bytes = bytes.get(..MAX_FRAME_BYTES as usize).unwrap_or(bytes);
                if let Some(draining) = draining.as_mut() {
                    draining.note(header.time, bytes.len());
                }
                block.headers.push(FrameHeader {
                    time: header.time,
                    offset: block.bytes.len() as u32,
                    captured_length: bytes.len() as u32,
                    wire_length: header.wire_length,
                    link_type,
                    // The library puts it back into the frame.
                    stripped_vlan: None,
                    // It does not tell whether a sender left checksums to hardware.
                    checksum_offloaded: true,
                    clock: Some(FrameClock::Kernel),
                });
                block.bytes.extend_from_slice(bytes);
            });
            match next {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(failure) => {
                    let now = index_of(&self.interface);
                    let error = if may_come_back(self.index, now, is_up(&self.interface), &failure.message) {
                        CaptureError::InterfaceGone {
                            interface: self.interface.clone(),
                        }
                    } else {
                        failed(&self.interface, "reading from libpcap", failure)
                    };
                    if block.headers.is_empty() {
                        return Err(error);
                    }
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the rest of what came before the end without handing it over: the books have it as dropped.
    fn drop_rest(&mut self, mut draining: Draining) -> Result<(), CaptureError> {
        let mut dropped = 0;
        while !draining.is_over {
            match self
                .handle
                .next(|header, bytes| draining.note(header.time, bytes.len()))
            {
                Ok(Some(came_before)) => dropped += u64::from(came_before),
                Ok(None) => break,
                Err(failure) => return Err(failed(&self.interface, "reading from libpcap", failure)),
            }
        }
        self.accounts.kernel_drops = self.accounts.kernel_drops.map(|drops| drops + dropped);
        Ok(())
    }
}

impl Source for PcapSource {
    fn next_block(&mut self, take: &mut dyn FnMut(super::Frames<'_>)) -> Result<Next, CaptureError> {
        if self.draining.is_none() && self.stop.load(Ordering::Relaxed) {
            self.draining = Some(Draining::new(self.buffer_bytes));
        }
        self.block.bytes.clear();
        self.block.headers.clear();
        if let Some(draining) = self.draining {
            if !draining.is_over && clock::elapsed(draining.since) >= LONGEST_DRAIN {
                self.drop_rest(draining)?;
                self.draining = Some(Draining {
                    is_over: true,
                    ..draining
                });
                return Ok(Next::End);
            }
            if draining.is_over {
                return Ok(Next::End);
            }
        }
        self.fill()?;
        if self.block.headers.is_empty() {
            self.handle.wait(if self.draining.is_some() {
                BUFFER_TIMEOUT_MS
            } else {
                IDLE_TIMEOUT_MS
            });
            self.fill()?;
        }
        if self.block.headers.is_empty() {
            let is_over = |draining: Draining| clock::elapsed(draining.since) >= DRAIN;
            return Ok(if self.draining.is_some_and(is_over) {
                Next::End
            } else {
                Next::Idle
            });
        }
        self.block.first_number = self.accounts.frames_delivered + 1;
        self.accounts.frames_delivered += self.block.headers.len() as u64;
        // The library was not asked for another clock.
        self.accounts.stamped = Some([0, self.accounts.frames_delivered, 0]);
        take(self.block.as_frames());
        Ok(Next::Block)
    }

    fn accounts(&mut self) -> Accounts {
        match self.handle.dropped() {
            Ok(dropped) => {
                let more = u64::from(dropped.wrapping_sub(self.dropped));
                self.dropped = dropped;
                self.accounts.kernel_drops = self.accounts.kernel_drops.map(|drops| drops + more);
            }
            // From here on the number is not known any more, and the books must say so.
            Err(failure) => {
                if self.accounts.kernel_drops.take().is_some() {
                    tracing::error!(
                        interface = %self.interface,
                        "libpcap does not say how many frames were dropped: {}",
                        failure.message
                    );
                }
            }
        }
        self.accounts.clone()
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        check_filter(&self.interface, filter, self.filter_link_type, self.link_type)?;
        let all = Program::accept_all(self.snaplen);
        self.handle
            .set_filter(filter.unwrap_or(&all))
            .map_err(|failure| failed(&self.interface, "attaching the filter", failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_one_line_that_says_what_to_install() {
        let libraries = [PathBuf::from("libpcap-of-nobody.so.9")];
        let error = link_type("lo", &libraries)
            .expect_err("no such library")
            .to_string();
        assert!(
            error.starts_with("lo: --capture pcap needs libpcap, which cannot be loaded"),
            "{error}"
        );
        assert!(error.contains("apt install libpcap0.8"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn a_library_that_is_another_is_refused() {
        let error = link_type("lo", &[PathBuf::from("libc.so.6")])
            .expect_err("no libpcap")
            .to_string();
        assert!(error.contains("pcap_lib_version"), "{error}");
    }

    #[test]
    fn an_interface_that_vanished_or_is_down_may_come_back() {
        let said = "some words";
        assert!(!may_come_back(Some(3), Some(3), true, said));
        assert!(may_come_back(Some(3), None, false, said), "removed");
        assert!(may_come_back(Some(3), Some(4), true, said), "another of its name");
        assert!(may_come_back(Some(3), Some(3), false, said), "down");
        let went_down = "The interface went down";
        assert!(may_come_back(Some(3), Some(3), true, went_down), "up again");
        assert!(!may_come_back(None, None, false, went_down), "usbmon0");
    }

    #[test]
    fn a_capture_ends_with_the_first_frame_that_came_after_its_end() {
        let mut draining = Draining::new(1000);
        let began = draining.began;
        assert!(draining.note(began - 1, 60) && draining.note(began, 60));
        assert!(!draining.is_over);
        assert!(!draining.note(began + 1, 60));
        assert!(draining.is_over);
        // A device whose clock is slow.
        let mut draining = Draining::new(1000);
        let frames = (1..100).find(|_| {
            draining.note(0, 60);
            draining.is_over
        });
        assert_eq!(frames, Some(17), "as many as the buffer may have held");
    }

    #[test]
    fn link_types_have_their_public_numbers() {
        assert_eq!(
            [1, 12, 11, 113].map(link_type_of).map(|link| link.0),
            [1, 101, 100, 113]
        );
    }
}
