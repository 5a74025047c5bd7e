//! Live capture: an AF_PACKET socket with a `TPACKET_V3` ring.
//!
//! The kernel fills blocks of shared memory with frames; a block is handed on as it lies there and given back when the
//! caller has looked at it. Passive by construction: nothing is ever sent, and no frame is taken from the host.

mod frames;
mod interface;
mod ring;

use std::fs;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wire::decode::LinkType;

use self::frames::{Kind, Seen, frames_of};
pub use self::interface::link_type;
pub(super) use self::interface::{Promiscuity, interfaces};
use self::interface::{UNKNOWN_HARDWARE, link_of, probe, steering_link};
use self::ring::{PacketSocket, Ring};
use super::bpf::Program;
use super::cores::{self, Place};
use super::device::Device;
use super::ebpf::steering;
use super::ebpf::{LoadedProgram, self_test};
use super::{Accounts, CaptureError, FrameClock, FrameHeader, Frames, MAX_FRAME_BYTES, Next, Source, Way};
use crate::clock;

/// Size of a ring block, a power of two (the kernel allocates no other). At low rates every millisecond with traffic uses up
/// a block, so that many small ones last longer than few large ones; at 1 Gbit/s a small one is full before its time is
/// over. The largest usual frame (64 KiB with segmentation offload) must fit, for what does not is cut.
pub const RING_BLOCK_BYTES: usize = 128 * 1024;

/// The least number of blocks with which a ring works.
const MIN_BLOCKS: usize = 8;

/// After this time a block with frames in it is handed over though it is not full (design §6).
const BLOCK_TIMEOUT_MS: u32 = 1;

/// How long [`Source::next_block`] waits before it says [`Next::Idle`].
const IDLE_TIMEOUT_MS: i32 = 20;

/// That time once the socket receives nothing more.
const DRAIN_TIMEOUT_MS: i32 = 10;

/// How long frames that are in the ring are waited for once the socket receives nothing more. The kernel hands a block over
/// that is not full when its timer has run out once or twice, and the timer may be one of whole ticks, of up to 10 ms each.
const DRAIN: Duration = Duration::from_millis(100);

/// Which clock is asked to stamp frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// The kernel's.
    #[default]
    Kernel,
    /// The network card's, where it has one that stamps every frame; else the kernel's. Frames that this host sends have the
    /// kernel's in any case.
    Hardware,
}

impl FromStr for Timestamps {
    type Err = UnknownClock;

    fn from_str(name: &str) -> Result<Self, UnknownClock> {
        match name {
            "kernel" => Ok(Self::Kernel),
            "hardware" => Ok(Self::Hardware),
            _ => Err(UnknownClock(name.to_owned())),
        }
    }
}

/// There is no such clock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: there is no such clock; there are: kernel, hardware")]
pub struct UnknownClock(String);

/// A card's clock that is further from UTC than this is wrong: frames do not wait so long in a ring.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// How to capture.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Memory for the ring in bytes; rounded down to whole blocks.
    pub bytes: usize,
    /// The most bytes to capture of a frame, where there is no filter; a filter's program says so itself.
    pub snaplen: u32,
    /// Whether to receive frames for other stations too.
    pub promiscuous: bool,
    /// Which clock stamps frames.
    pub timestamps: Timestamps,
    /// Frames to capture, compiled for [`link_type`] of the interface; `None` for all.
    pub filter: Option<Program>,
    /// The link type that the interface had when filters were compiled for it; `None` where it is sure to have it still.
    pub filter_link_type: Option<LinkType>,
    /// Once set, the source hands over what the ring holds and ends.
    pub stop: Arc<AtomicBool>,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            snaplen: MAX_FRAME_BYTES,
            promiscuous: true,
            timestamps: Timestamps::Kernel,
            filter: None,
            filter_link_type: None,
            stop: Arc::default(),
        }
    }
}

/// Refuses a filter that was compiled for frames of another link type: it would look at the wrong bytes.
pub(super) fn check_filter(
    interface: &str,
    filter: Option<&Program>,
    compiled_for: Option<LinkType>,
    link_type: LinkType,
) -> Result<(), CaptureError> {
    match compiled_for {
        Some(compiled_for) if filter.is_some() && compiled_for != link_type => {
            Err(CaptureError::FilterOfOtherLinkType {
                interface: interface.to_owned(),
                link_type,
                compiled_for,
            })
        }
        _ => Ok(()),
    }
}

/// Frames from a network interface.
pub struct RingSource {
    interface: String,
    socket: PacketSocket,
    ring: Ring,
    next: usize,
    kind: Kind,
    headers: Vec<FrameHeader>,
    accounts: Accounts,
    snaplen: u32,
    /// See [`RingOptions::filter_link_type`].
    filter_link_type: Option<LinkType>,
    stop: Arc<AtomicBool>,
    /// Frames that the kernel has put into the ring.
    received: u64,
    draining: bool,
    /// The hardware type that the interface has instead of the one at the start: its frames are other ones.
    other_hardware: Option<u16>,
    /// The interface is gone, or another.
    gone: bool,
    /// When it was first seen that nothing more is received and the ring has nothing to hand over.
    silent: Option<Instant>,
    /// See [`DRAIN`].
    drain: Duration,
    /// Nothing more is asked for: what the ring still holds is lost.
    ended: bool,
}

/// The program behind this process, for a message about its capabilities.
pub(super) fn this_program() -> String {
    fs::read_link("/proc/self/exe").map_or_else(
        |_| "$(readlink -f $(which python3))".to_owned(),
        |path| path.display().to_string(),
    )
}

/// How many rings this many bytes are enough for.
pub const fn most_rings(bytes: usize) -> usize {
    bytes / (MIN_BLOCKS * RING_BLOCK_BYTES)
}

/// How many bytes each of so many rings has, of this many for all.
pub fn ring_bytes(bytes: usize, rings: usize) -> usize {
    bytes / rings.max(1) / RING_BLOCK_BYTES * RING_BLOCK_BYTES
}

/// Starts to capture on an interface with a ring for each of `places`, set up there where one is named. Both
/// directions of a flow and every fragment come to one ring; `options.bytes` is the memory of all rings together.
pub fn open_rings(
    interface: &str,
    options: &RingOptions,
    places: &[Option<Place>],
) -> Result<Vec<RingSource>, CaptureError> {
    open_rings_with(interface, options, places, BLOCK_TIMEOUT_MS)
}

fn open_rings_with(
    interface: &str,
    options: &RingOptions,
    places: &[Option<Place>],
    block_timeout_ms: u32,
) -> Result<Vec<RingSource>, CaptureError> {
    let failed = |action: &'static str| {
        move |source: io::Error| CaptureError::Ring {
            interface: interface.to_owned(),
            action,
            source,
        }
    };
    let unsteered = |action: &'static str| {
        move |source: io::Error| CaptureError::Steering {
            interface: interface.to_owned(),
            action,
            source,
        }
    };
    let blocks = ring_bytes(options.bytes, places.len()) / RING_BLOCK_BYTES;
    if blocks < MIN_BLOCKS {
        return Err(CaptureError::RingTooSmall {
            interface: interface.to_owned(),
            bytes: options.bytes,
            least: MIN_BLOCKS * RING_BLOCK_BYTES * places.len(),
        });
    }
    let (_, index, hardware) = probe(interface)?;
    let (link_type, cooked) = link_of(hardware);
    check_filter(
        interface,
        options.filter.as_ref(),
        options.filter_link_type,
        link_type,
    )?;
    let is_loopback = hardware == libc::ARPHRD_LOOPBACK;
    let program = if places.len() > 1 {
        Some(steering_program(interface, hardware, places.len())?)
    } else {
        None
    };
    let filter = options
        .filter
        .clone()
        .unwrap_or_else(|| Program::accept_all(options.snaplen));
    let by_hardware = options.timestamps == Timestamps::Hardware && is_stamped_by_hardware(interface);
    let mut group = None;
    let mut sources = Vec::with_capacity(places.len());
    for place in places {
        let (socket, ring) = cores::run_at(place.as_ref(), || {
            let socket = PacketSocket::open(cooked).map_err(failed("opening a packet socket"))?;
            // Everything is in place before the first frame can come.
            let first_filter = if program.is_some() {
                Program::accept_all(0)
            } else {
                filter.clone()
            };
            socket
                .attach(&first_filter)
                .map_err(failed("attaching the filter"))?;
            if by_hardware {
                socket
                    .take_hardware_stamps()
                    .map_err(failed("asking for hardware timestamps"))?;
            }
            let ring = Ring::new(&socket, RING_BLOCK_BYTES, blocks, block_timeout_ms)
                .map_err(failed("setting up the capture ring"))?;
            Ok::<_, CaptureError>((socket, ring))
        })
        .map_err(failed("running where the worker will"))??;
        if is_loopback {
            // A frame on the loopback is sent and received: count it once.
            socket
                .ignore_outgoing()
                .map_err(failed("leaving out frames that are sent (Linux 4.20)"))?;
        }
        socket
            .bind(index, libc::ETH_P_ALL)
            .map_err(failed("binding to the interface"))?;
        if let Some(program) = &program {
            let joined = socket.join_fanout(group, is_loopback).map_err(|error| {
                // Before Linux 6.13 a socket that does not receive is refused. Why it does not, it knows itself: whether
                // the interface is down may have changed since.
                if error.raw_os_error() == Some(libc::EINVAL) && is_of_interface_down(&socket) {
                    CaptureError::InterfaceDown {
                        interface: interface.to_owned(),
                        why: "this kernel (before Linux 6.13) lets only one worker (WORKERS=1) wait on it",
                    }
                } else {
                    unsteered("joining the fanout group")(error)
                }
            })?;
            if group.is_none() {
                socket
                    .set_fanout_program(program)
                    .map_err(unsteered("setting the steering program"))?;
            }
            group = Some(joined);
        }
        if options.promiscuous && !cooked && !is_loopback {
            socket
                .join_promiscuous(index)
                .map_err(failed("switching to promiscuous mode"))?;
        }
        sources.push(RingSource {
            interface: interface.to_owned(),
            socket,
            ring,
            next: 0,
            kind: Kind { hardware, link_type },
            headers: Vec::new(),
            accounts: Accounts {
                way: Some(Way::AfPacket),
                stamped: Some([0; 3]),
                kernel_drops: Some(0),
                left_in_ring: Some(0),
                ring_freezes: Some(0),
                damaged_blocks: Some(0),
                ..Accounts::default()
            },
            snaplen: options.snaplen,
            filter_link_type: options.filter_link_type,
            stop: Arc::clone(&options.stop),
            received: 0,
            draining: false,
            other_hardware: None,
            gone: false,
            silent: None,
            drain: DRAIN,
            ended: false,
        });
    }
    if program.is_some() {
        // As long as the group grows, a frame may go to another socket than later: until now every socket refused all.
        for source in &sources {
            source
                .socket
                .attach(&filter)
                .map_err(failed("attaching the filter"))?;
        }
    }
    Ok(sources)
}

/// Whether a socket receives nothing because its interface is down. Clears the socket's error.
fn is_of_interface_down(socket: &PacketSocket) -> bool {
    matches!(socket.take_error(), Ok(Some(error)) if error.raw_os_error() == Some(libc::ENETDOWN))
}

/// Has the card stamp every frame that it receives. Where it does not, that is said, and the kernel does.
fn is_stamped_by_hardware(interface: &str) -> bool {
    match Device::new(interface).and_then(|device| device.stamp_received()) {
        Ok(()) => {
            tracing::info!(interface, "the card stamps received frames");
            true
        }
        Err(error) => {
            tracing::warn!(interface, %error, "the card does not stamp received frames: the kernel does");
            false
        }
    }
}

/// The last timestamp of a block that is the card's; frames that this host sends have the kernel's.
fn last_by_card(headers: &[FrameHeader]) -> Option<i64> {
    let by_card = |header: &&FrameHeader| header.clock == Some(FrameClock::Hardware);
    headers.iter().rfind(by_card).map(|header| header.time)
}

/// Records are in UTC: a card's clock that is not must be told.
fn compare_clocks(interface: &str, card: i64) {
    let difference = Duration::from_nanos(card.abs_diff(clock::utc_now()));
    if difference > CLOCK_TOLERANCE {
        tracing::warn!(
            interface,
            ?difference,
            "the card's clock is not set to UTC: timestamps are wrong by that much (phc2sys sets it)"
        );
    }
}

/// Loads the program that shares frames out to `workers` sockets, and tries it.
fn steering_program(interface: &str, hardware: u16, workers: usize) -> Result<LoadedProgram, CaptureError> {
    let Some(link) = steering_link(hardware) else {
        return Err(CaptureError::NotSteerable {
            interface: interface.to_owned(),
            hardware,
        });
    };
    let count = workers as u32;
    let program = steering::load(link, count).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => CaptureError::SteeringPermission {
            interface: interface.to_owned(),
            workers,
            program: this_program(),
        },
        _ => CaptureError::Steering {
            interface: interface.to_owned(),
            action: "loading the steering program",
            source,
        },
    })?;
    self_test::run(&program, link, count).map_err(|source| CaptureError::SelfTest {
        interface: interface.to_owned(),
        source,
    })?;
    Ok(program)
}

impl RingSource {
    /// Starts to capture on an interface with one ring.
    pub fn open(interface: &str, options: &RingOptions) -> Result<Self, CaptureError> {
        let mut sources = open_rings(interface, options, &[None])?;
        Ok(sources.remove(0))
    }

    /// The link type of the frames.
    pub fn link_type(&self) -> LinkType {
        self.kind.link_type
    }

    /// How many bytes of memory the ring has.
    pub fn ring_bytes(&self) -> usize {
        self.ring.block_count() * RING_BLOCK_BYTES
    }

    fn failed(&self, action: &'static str, source: io::Error) -> CaptureError {
        CaptureError::Ring {
            interface: self.interface.clone(),
            action,
            source,
        }
    }

    /// Hands over the next block if the kernel has filled it.
    fn hand_over(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> bool {
        let (headers, kind) = (&mut self.headers, self.kind);
        let mut seen = Seen::default();
        let first_number = self.accounts.frames_delivered + 1;
        let taken = self.ring.with_block(self.next, |bytes| {
            headers.clear();
            let whole = frames_of(bytes, kind, headers, &mut seen).is_some();
            if !headers.is_empty() {
                take(Frames {
                    bytes,
                    headers,
                    first_number,
                });
            }
            (headers.len() as u64, whole)
        });
        let Some((count, whole)) = taken else {
            return false;
        };
        if let Some([by_card, by_kernel, _]) = &mut self.accounts.stamped {
            if *by_card == 0
                && seen.by_card > 0
                && let Some(card) = last_by_card(&self.headers)
            {
                compare_clocks(&self.interface, card);
            }
            *by_card += seen.by_card;
            *by_kernel += count - seen.by_card;
        }
        self.other_hardware = self.other_hardware.or(seen.other_hardware);
        if !whole {
            self.accounts.damaged_blocks = self.accounts.damaged_blocks.map(|blocks| blocks + 1);
        }
        self.next = (self.next + 1) % self.ring.block_count();
        self.accounts.frames_delivered += count;
        true
    }

    /// An interface that went down comes back; one that was removed, or is of another hardware type, must be opened anew.
    /// `failed`: the socket reports an error.
    fn look_at_state(&mut self, failed: bool) -> Result<(), CaptureError> {
        let error = if failed {
            self.socket
                .take_error()
                .map_err(|source| self.failed("asking for the socket's error", source))?
        } else {
            None
        };
        let (index, hardware) = self
            .socket
            .bound_to()
            .map_err(|source| self.failed("looking at the interface", source))?;
        if index > 0 && ![UNKNOWN_HARDWARE, self.kind.hardware].contains(&hardware) {
            self.other_hardware.get_or_insert(hardware);
        }
        if index <= 0 || self.other_hardware.is_some() {
            return Err(CaptureError::InterfaceGone {
                interface: self.interface.clone(),
            });
        }
        match error {
            None => Ok(()),
            Some(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {
                // Every worker sees it; the event `interface_down` tells it once.
                tracing::debug!(interface = %self.interface, "the interface is down; waiting for it to come up");
                Ok(())
            }
            Some(error) => Err(self.failed("receiving", error)),
        }
    }

    /// Receives nothing more, so that what the ring holds is all there is.
    fn start_draining(&mut self) -> Result<(), CaptureError> {
        // A program that returns 0 rejects every frame.
        self.socket
            .attach(&Program::accept_all(0))
            .map_err(|source| self.failed("ending the capture", source))?;
        self.draining = true;
        Ok(())
    }

    /// Takes what the kernel has counted since it was last asked.
    fn take_statistics(&mut self) {
        match self.socket.take_statistics() {
            Ok(statistics) => {
                let add = |sum: Option<u64>, more: u32| Some(sum? + u64::from(more));
                let accounts = &mut self.accounts;
                accounts.kernel_drops = add(accounts.kernel_drops, statistics.drops);
                accounts.ring_freezes = add(accounts.ring_freezes, statistics.freezes);
                self.received += u64::from(statistics.received);
            }
            // From here on the numbers are not known any more, and the books must say so.
            Err(error) => {
                if self.accounts.kernel_drops.take().is_some() {
                    tracing::error!(interface = %self.interface, %error, "the kernel's counts cannot be read");
                }
                self.accounts.left_in_ring = None;
                self.accounts.ring_freezes = None;
            }
        }
    }

    /// Frames that the kernel has put into the ring and that were not handed over.
    fn outstanding(&self) -> u64 {
        self.received.saturating_sub(self.accounts.frames_delivered)
    }

    /// Whether all that was received is handed over, or was waited for in vain; asked when nothing more is received and the
    /// ring has nothing to hand over.
    fn is_drained(&mut self) -> bool {
        self.take_statistics();
        let since = *self.silent.get_or_insert_with(clock::monotonic);
        self.outstanding() == 0 || clock::elapsed(since) >= self.drain
    }

    fn next(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        if !self.draining && (self.stop.load(Ordering::Relaxed) || self.other_hardware.is_some()) {
            self.start_draining()?;
        }
        if self.hand_over(take) {
            return Ok(Next::Block);
        }
        let timeout = if self.draining || self.gone {
            DRAIN_TIMEOUT_MS
        } else {
            IDLE_TIMEOUT_MS
        };
        let failed = self
            .socket
            .wait(timeout)
            .map_err(|source| self.failed("waiting for frames", source))?;
        if self.hand_over(take) {
            return Ok(Next::Block);
        }
        // An interface that was down when it was removed reports no error: whether it is there is asked whenever it is
        // silent.
        let state = self.look_at_state(failed);
        if matches!(state, Err(CaptureError::InterfaceGone { .. })) {
            // What the ring still holds comes first; the block in use is closed by its timer.
            if !self.gone || !self.is_drained() {
                self.gone = true;
                return Ok(Next::Idle);
            }
            if let Some(now) = self.other_hardware {
                tracing::warn!(
                    interface = %self.interface,
                    before = self.kind.hardware,
                    now,
                    "the interface has another hardware type (linux/if_arp.h): it is opened anew"
                );
            }
        }
        state?;
        Ok(if self.draining && self.is_drained() {
            Next::End
        } else {
            Next::Idle
        })
    }
}

impl Source for RingSource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        let next = self.next(take);
        self.ended |= matches!(next, Ok(Next::End) | Err(_));
        next
    }

    fn accounts(&mut self) -> Accounts {
        self.take_statistics();
        if self.ended {
            let outstanding = self.outstanding();
            self.accounts.left_in_ring = self.accounts.left_in_ring.map(|_| outstanding);
        }
        self.accounts.clone()
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        check_filter(
            &self.interface,
            filter,
            self.filter_link_type,
            self.kind.link_type,
        )?;
        if self.draining {
            // Nothing more is received, and that is how it stays.
            return Ok(());
        }
        let filter = filter
            .cloned()
            .unwrap_or_else(|| Program::accept_all(self.snaplen));
        // The kernel puts it in the place of the one before at once (SO_ATTACH_FILTER, socket(7)).
        self.socket
            .attach(&filter)
            .map_err(|source| self.failed("attaching the filter", source))
    }

    fn queue(&self) -> (u64, u64) {
        // The kernel fills blocks in turn: those that wait are the ones from the next on.
        let blocks = self.ring.block_count();
        let (mut waiting, mut free) = (0, blocks + 1);
        while free - waiting > 1 {
            let middle = usize::midpoint(waiting, free);
            if self.ring.is_waiting(self.next + middle - 1) {
                waiting = middle;
            } else {
                free = middle;
            }
        }
        (
            (waiting * RING_BLOCK_BYTES) as u64,
            (blocks * RING_BLOCK_BYTES) as u64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_wrong_with_an_interface_or_a_budget() {
        let error = link_type("nosuchif0").unwrap_err().to_string();
        assert!(
            error.starts_with("nosuchif0: no such network interface; there are: lo"),
            "{error}"
        );
        let options = RingOptions {
            bytes: 1 << 19,
            ..RingOptions::default()
        };
        let error = RingSource::open("lo", &options)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains("1048576 are needed"), "{error}");
        assert_eq!(
            [1 << 19, 1 << 20, (2 << 20) - 1, 64 << 20].map(most_rings),
            [0, 1, 1, 64]
        );
    }

    #[test]
    fn only_frames_that_begin_alike_in_both_directions_are_shared_out() {
        assert!(matches!(
            steering_link(libc::ARPHRD_LOOPBACK),
            Some(steering::Link::Ethernet)
        ));
        assert!(matches!(
            steering_link(libc::ARPHRD_NONE),
            Some(steering::Link::Ip)
        ));
        // IP over InfiniBand: what is sent begins with a header, what is received does not.
        assert!(steering_link(libc::ARPHRD_INFINIBAND).is_none());
        let error = steering_program("ib0", libc::ARPHRD_INFINIBAND, 2)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("hardware type 32 "), "{error}");
        assert!(steering_link(libc::ARPHRD_IEEE80211_RADIOTAP).is_none());
    }

    #[test]
    fn the_clock_of_the_card_is_read_from_a_frame_that_it_stamped() {
        let frame = |time, clock| FrameHeader {
            time,
            offset: 0,
            captured_length: 0,
            wire_length: 0,
            link_type: LinkType::ETHERNET,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: Some(clock),
        };
        let headers = [
            frame(1, FrameClock::Hardware),
            frame(2, FrameClock::Hardware),
            frame(3, FrameClock::Kernel),
        ];
        assert_eq!(last_by_card(&headers), Some(2));
        assert_eq!(last_by_card(&headers[2..]), None);
    }

    /// Runs `test` in a network namespace of its own, with a source for its loopback that hands a block over after
    /// `block_timeout_ms` if it is not full.
    #[cfg(feature = "root-tests")]
    fn with_loopback(block_timeout_ms: u32, test: impl FnOnce(RingSource) + Send + 'static) {
        in_namespace(move || {
            let mut up = std::process::Command::new("ip");
            assert!(up.args(["link", "set", "lo", "up"]).status().unwrap().success());
            let options = RingOptions::default();
            let mut sources = open_rings_with("lo", &options, &[None], block_timeout_ms).expect("opens");
            let source = sources.remove(0);
            let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..50 {
                receiver.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
            }
            options.stop.store(true, Ordering::Relaxed);
            test(source);
        });
    }

    #[cfg(feature = "root-tests")]
    fn in_namespace(test: impl FnOnce() + Send + 'static) {
        use nix::sched::{CloneFlags, unshare};

        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
            test();
        })
        .join()
        .expect("the test in the namespace");
    }

    #[test]
    #[cfg(feature = "root-tests")]
    fn the_kernel_knows_after_which_time_it_hands_a_block_over() {
        let handed_over_after = || {
            let mut sockets = std::process::Command::new("ss");
            let shown = sockets.args(["--packet", "--extended"]).output().unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            let (_, ring) = shown.split_once("ring_rx(").expect("the one ring");
            let (_, timer) = ring.split_once("tmo:").expect("its timer");
            timer.split(',').next().map(str::to_owned)
        };
        with_loopback(200, move |_source| {
            assert_eq!(handed_over_after().as_deref(), Some("200"));
        });
        in_namespace(move || {
            let _source = RingSource::open("lo", &RingOptions::default()).expect("opens");
            // Design §6: latency is bounded by it.
            assert_eq!(handed_over_after().as_deref(), Some("1"));
        });
    }

    #[test]
    #[cfg(feature = "root-tests")]
    fn the_end_waits_for_the_block_that_is_not_full() {
        // Longer than a wait, and much shorter than the bound.
        with_loopback(200, |mut source| {
            source.drain = Duration::from_secs(600);
            while source.next_block(&mut |_| ()).expect("the interface stays") != Next::End {}
            let accounts = source.accounts();
            assert_eq!((accounts.frames_delivered, accounts.left_in_ring), (50, Some(0)));
        });
    }

    #[test]
    #[cfg(feature = "root-tests")]
    fn frames_that_the_kernel_does_not_hand_over_in_time_are_counted() {
        // An hour.
        with_loopback(3_600_000, |mut source| {
            assert_eq!(source.accounts().left_in_ring, Some(0), "they may still come");
            while source.next_block(&mut |_| ()).expect("the interface stays") != Next::End {}
            let accounts = source.accounts();
            assert_eq!((accounts.frames_delivered, accounts.left_in_ring), (0, Some(50)));
            assert_eq!((accounts.kernel_drops, accounts.lost()), (Some(0), Some(50)));
        });
    }
}
