//! Live capture over AF_XDP sockets, for interfaces that serve capture alone.
//!
//! A program in front of the host's network stack gives every frame of a receive queue to the socket of that queue; the
//! host never sees it. Frames are copied once, from the memory that the card or the kernel writes to into a block, so that
//! its buffers are free again before a frame is metered (docs/decisions/0013).

mod host;
mod socket;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::SocketError};
use wire::decode::LinkType;

pub use self::host::Tie;
use self::socket::{Binding, Piece, Queue, Size, Statistics};
use super::af_packet::{Promiscuity, this_program};
use super::bpf::Program;
use super::cores::{self, Place};
use super::device::Device;
use super::ebpf::{AttachMode, Attachment, Counter, Map, redirect};
use super::{
    Accounts, BLOCK_BYTES, CaptureError, FrameClock, FrameHeader, Frames, MAX_FRAME_BYTES, Next, OwnedFrames,
    RingOptions, Source, Way, af_packet, sysfs,
};
use crate::clock;

/// Pieces of frames that are taken from a queue at a time; their chunks are given back together.
const BATCH: u32 = 256;

/// How long [`Source::next_block`] waits before it says [`Next::Idle`].
const IDLE_TIMEOUT: Duration = Duration::from_millis(20);

/// That time once the capture is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1);

/// How long frames are still handed over once the capture is to stop.
const DRAIN: Duration = Duration::from_millis(10);

/// How long a source that had to wait leaves further frames to gather after the first: the kernel wakes up who waits for
/// every frame, on the processor that receives, which takes it longer than the frame itself.
const GATHER: Duration = Duration::from_micros(200);

/// Queues with fewer chunks than this have no room for what gathers at a few million frames a second.
const GATHER_CHUNKS: u32 = 2048;

/// How long the kernel may take to free a queue whose socket was closed.
const RELEASE: Duration = Duration::from_secs(2);

/// What the kernel keeps free in front of a frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;

/// What may stand around a packet of the MTU's size: Ethernet, two VLAN tags, frame check sequence.
const AROUND: u32 = 14 + 8 + 4;

/// The least number of chunks with which a queue works.
const MIN_CHUNKS: u32 = 256;

/// How frames may reach the sockets, best first, and what that is called.
const WAYS: [(Way, &str); 3] = [
    (Way::XdpZeroCopy, "zero-copy"),
    (Way::XdpCopy, "copy"),
    (Way::XdpGeneric, "generic"),
];

/// What is the same for all workers.
struct Common {
    /// Detached at the end, or when the process ends, however it does.
    attachment: Mutex<Option<Attachment>>,
    /// Frames of receive queues that have no socket, because the card got them later: the host has them.
    passed: Counter,
    _promiscuity: Option<Promiscuity>,
}

impl Common {
    /// Takes no more frames away from the host.
    fn detach(&self) {
        // Taken whole or not at all.
        self.attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Frames from receive queues of an interface.
pub struct XdpSource {
    interface: String,
    queues: Vec<(Queue, Partial)>,
    /// The queue that is looked at first.
    first: usize,
    common: Arc<Common>,
    /// Whether it tells what is common to all workers.
    tells_common: bool,
    block: OwnedFrames,
    accounts: Accounts,
    filter: Program,
    snaplen: u32,
    stop: Arc<AtomicBool>,
    draining: Option<Instant>,
    /// See [`GATHER`].
    gathers: bool,
}

/// A frame of which not all pieces have come yet.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    wire_length: u32,
    stamp: Option<u64>,
}

/// Sockets that capture from an interface.
pub struct Opened {
    /// One for each worker.
    pub sources: Vec<XdpSource>,
    /// How frames reach them, and why in no better way.
    pub description: String,
}

/// How many receive queues an interface has: what its driver says, else what sysfs does; one where nobody tells.
fn receive_queues(interface: &str) -> io::Result<u32> {
    let told = Device::new(interface)?.receive_queues();
    let shown = || queues_in(&sysfs::directory_of(interface)?);
    Ok(told.or_else(shown).unwrap_or(1))
}

/// How many receive queues an interface's directory of sysfs shows.
fn queues_in(directory: &Path) -> Option<u32> {
    let receiving = fs::read_dir(directory.join("queues"))
        .ok()?
        .filter_map(Result::ok)
        .filter(|queue| queue.file_name().as_encoded_bytes().starts_with(b"rx-"));
    u32::try_from(receiving.count()).ok().filter(|&count| count > 0)
}

/// The memory of each of so many queues.
fn size(bytes: usize, queues: u32, mtu: u32) -> Size {
    let chunk_bytes = if mtu + AROUND + HEADROOM <= 2048 {
        2048
    } else {
        4096
    };
    let most = bytes / queues as usize / chunk_bytes as usize;
    let most = u32::try_from(most).unwrap_or(1 << 31).max(1);
    Size {
        chunk_bytes,
        // The greatest power of two that is not more.
        chunks: 1 << most.ilog2(),
    }
}

/// The memory with which so many queues work.
fn least_bytes(chunk_bytes: u32, queues: u32) -> usize {
    // More than 32 bits have it where a card has thousands of queues.
    [MIN_CHUNKS, chunk_bytes, queues]
        .map(|factor| factor as usize)
        .into_iter()
        .fold(1, usize::saturating_mul)
}

/// Starts to capture with a worker at each of `places`, that share the interface's receive queues among them; the memory of
/// a queue is set up at its worker's place. The host gets no frame of the interface any more: if it has a use for them, this
/// is refused unless `dedicated`.
pub fn open(
    interface: &str,
    options: &RingOptions,
    places: &[Option<Place>],
    dedicated: bool,
) -> Result<Opened, CaptureError> {
    let failed = |action: &'static str| {
        move |source: io::Error| CaptureError::Ring {
            interface: interface.to_owned(),
            action,
            source,
        }
    };
    let link_type = af_packet::link_type(interface)?;
    if link_type != LinkType::ETHERNET {
        return Err(CaptureError::NotForXdp {
            interface: interface.to_owned(),
            link_type: link_type.0,
        });
    }
    let index =
        if_nametoindex(interface).map_err(|errno| failed("looking at the interface")(errno.into()))?;
    let host = host::look(index).map_err(failed("looking at the interface's use"))?;
    if let Some(tie) = host.tie.filter(|_| !dedicated) {
        return Err(CaptureError::NotDedicated {
            interface: interface.to_owned(),
            tie,
        });
    }
    let workers = places.len();
    let queues = receive_queues(interface).map_err(failed("counting the receive queues"))?;
    if workers > queues as usize {
        return Err(CaptureError::TooManyWorkers {
            interface: interface.to_owned(),
            mode: "AF_XDP, with a receive queue for each,",
            workers,
            most: queues as usize,
        });
    }
    let size = size(options.bytes, queues, host.mtu);
    if size.chunks < MIN_CHUNKS {
        return Err(CaptureError::RingTooSmall {
            interface: interface.to_owned(),
            bytes: options.bytes,
            least: least_bytes(size.chunk_bytes, queues),
        });
    }
    let promiscuity = if options.promiscuous {
        Some(Promiscuity::new(interface).map_err(failed("switching to promiscuous mode"))?)
    } else {
        None
    };
    let (attached, way, reasons) = attach(interface, index, queues, size, places)?;
    let common = Arc::new(Common {
        attachment: Mutex::new(Some(attached.attachment)),
        passed: attached.passed,
        _promiscuity: promiscuity,
    });
    let mut sources: Vec<XdpSource> = (0..workers)
        .map(|number| {
            XdpSource::new(
                interface,
                options,
                way,
                &common,
                number == 0,
                size.chunks >= GATHER_CHUNKS,
            )
        })
        .collect();
    for (number, queue) in attached.sockets.into_iter().enumerate() {
        sources[worker_of(number, workers)]
            .queues
            .push((queue, Partial::default()));
    }
    let name = WAYS
        .iter()
        .find(|(each, _)| *each == way)
        .map_or("", |(_, name)| name);
    let mut description = format!("AF_XDP in {name} mode, with {queues} receive queue(s)");
    if !reasons.is_empty() {
        description = format!("{description}; not {}", reasons.join(", not "));
    }
    Ok(Opened { sources, description })
}

/// The program at its place, and what it gives frames to.
struct Attached {
    attachment: Attachment,
    passed: Counter,
    sockets: Vec<Queue>,
}

/// Opens a socket for each queue and attaches the program, in the best way that there is.
fn attach(
    interface: &str,
    index: u32,
    queues: u32,
    size: Size,
    places: &[Option<Place>],
) -> Result<(Attached, Way, Vec<String>), CaptureError> {
    let mut reasons = Vec::new();
    let mut last = None;
    for (way, name) in WAYS {
        // Before Linux 6.6 every frame must fit into a chunk; some drivers still need that.
        for in_fragments in [true, false] {
            match attach_by(index, queues, size, way, in_fragments, places) {
                Ok(attached) => return Ok((attached, way, reasons)),
                Err((action, error)) => {
                    match error.raw_os_error() {
                        Some(libc::EPERM) => {
                            return Err(CaptureError::XdpPermission {
                                interface: interface.to_owned(),
                                program: this_program(),
                            });
                        }
                        Some(libc::ENOBUFS) => {
                            return Err(CaptureError::LockedMemory {
                                interface: interface.to_owned(),
                                bytes: u64::from(size.chunk_bytes)
                                    * u64::from(size.chunks)
                                    * u64::from(queues),
                            });
                        }
                        // Somebody else's socket or program: no other way helps.
                        Some(libc::EBUSY) => {
                            return Err(CaptureError::Ring {
                                interface: interface.to_owned(),
                                action,
                                source: error,
                            });
                        }
                        _ => {}
                    }
                    let fragments = if in_fragments { " in fragments" } else { "" };
                    reasons.push(format!("{name}{fragments} ({action}: {error})"));
                    last = Some((action, error));
                }
            }
        }
    }
    let (action, error) = last.unwrap_or(("setting up AF_XDP", io::ErrorKind::Unsupported.into()));
    tracing::error!(interface, ?reasons, "AF_XDP works in no way");
    Err(CaptureError::Ring {
        interface: interface.to_owned(),
        action,
        source: error,
    })
}

/// Which of the workers has a receive queue.
const fn worker_of(queue: usize, workers: usize) -> usize {
    queue % workers
}

/// Where a receive queue's worker runs.
fn place_of(queue: u32, places: &[Option<Place>]) -> Option<&Place> {
    places.get(worker_of(queue as usize, places.len()))?.as_ref()
}

type Failed = (&'static str, io::Error);

fn attach_by(
    index: u32,
    queues: u32,
    size: Size,
    way: Way,
    in_fragments: bool,
    places: &[Option<Place>],
) -> Result<Attached, Failed> {
    let because = |action: &'static str| move |error: io::Error| (action, error);
    let mut mark = [0; 8];
    aws_lc_rs::rand::fill(&mut mark).map_err(|_| ("drawing a number", io::Error::other("no randomness")))?;
    let mark = u64::from_ne_bytes(mark);
    let map = Map::of_sockets(queues).map_err(because("making the map of sockets"))?;
    let passed = Counter::new("dpi_passed").map_err(because("making a counter"))?;
    let program =
        redirect::load(&map, &passed, mark, in_fragments).map_err(because("loading the redirect program"))?;
    let binding = Binding {
        zero_copy: way == Way::XdpZeroCopy,
        in_fragments,
    };
    let mut sockets = Vec::with_capacity(queues as usize);
    for queue in 0..queues {
        let socket = cores::run_at(place_of(queue, places), || {
            open_queue(index, queue, binding, size, mark)
        })
        .map_err(because("running where the worker will"))?
        .map_err(because("opening a socket"))?;
        map.set(queue, socket.as_fd().as_raw_fd())
            .map_err(because("entering a socket in the map"))?;
        sockets.push(socket);
    }
    let mode = if way == Way::XdpGeneric {
        AttachMode::Generic
    } else {
        AttachMode::Native
    };
    // From here on frames come, and every queue has its socket.
    let attachment = program
        .attach(index, mode)
        .map_err(because("attaching the redirect program"))?;
    Ok(Attached {
        attachment,
        passed,
        sockets,
    })
}

/// Opens the socket of a queue. The kernel frees a queue some time after its socket was closed.
fn open_queue(index: u32, queue: u32, binding: Binding, size: Size, mark: u64) -> io::Result<Queue> {
    let asked = clock::monotonic();
    loop {
        match Queue::open(index, queue, binding, size, mark) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && clock::elapsed(asked) < RELEASE => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// What the kernel has counted of several queues.
fn sum(all: &[Statistics]) -> Statistics {
    Statistics {
        dropped: all.iter().map(|one| one.dropped).sum(),
        ring_full: all.iter().map(|one| one.ring_full).sum(),
        fill_ring_empty: all.iter().map(|one| one.fill_ring_empty).sum(),
    }
}

impl XdpSource {
    fn new(
        interface: &str,
        options: &RingOptions,
        way: Way,
        common: &Arc<Common>,
        tells_common: bool,
        gathers: bool,
    ) -> Self {
        let all = Program::accept_all(options.snaplen);
        Self {
            interface: interface.to_owned(),
            queues: Vec::new(),
            first: 0,
            common: Arc::clone(common),
            tells_common,
            block: OwnedFrames::default(),
            accounts: Accounts {
                way: Some(way),
                stamped: Some([0; 3]),
                frames_filtered: Some(0),
                passed_to_host: Some(0),
                ..Accounts::default()
            },
            filter: options.filter.clone().unwrap_or(all),
            snaplen: options.snaplen,
            stop: Arc::clone(&options.stop),
            draining: None,
            gathers,
        }
    }

    /// Moves what waits in the queues into the block, a batch of each, in the order of time. Returns whether anything
    /// waited.
    fn fill(&mut self) -> bool {
        self.block.bytes.clear();
        self.block.headers.clear();
        let to_utc = clock::monotonic_to_utc();
        let (block, filter) = (&mut self.block, &self.filter);
        let (mut filtered, mut taken) = (0, 0);
        // Each queue is the first one in its turn.
        let count = self.queues.len();
        self.first = (self.first + 1) % count.max(1);
        let (behind, before) = self.queues.split_at_mut(self.first);
        for (queue, partial) in before.iter_mut().chain(behind) {
            if block.bytes.len() >= BLOCK_BYTES {
                break;
            }
            taken += queue.receive(BATCH, |piece| {
                let passed = add(block, filter, partial, to_utc, &piece);
                filtered += u64::from(!passed);
            });
        }
        if count > 1 {
            // Of one queue they are in order. Headers hold offsets, so that the bytes may stay where they are; where times
            // are equal, the place keeps the order of the queues. A stable sort would allocate.
            block
                .headers
                .sort_unstable_by_key(|header| (header.time, header.offset));
        }
        self.accounts.frames_filtered = self.accounts.frames_filtered.map(|before| before + filtered);
        if let Some([_, kernel, probe]) = &mut self.accounts.stamped {
            let by_probe = self
                .block
                .headers
                .iter()
                .filter(|header| header.clock == Some(FrameClock::Probe))
                .count() as u64;
            *kernel += self.block.headers.len() as u64 - by_probe;
            *probe += by_probe;
        }
        taken > 0
    }

    fn failed(&self, action: &'static str, source: io::Error) -> CaptureError {
        CaptureError::Ring {
            interface: self.interface.clone(),
            action,
            source,
        }
    }

    /// Waits for frames.
    fn wait(&self, timeout: Duration) -> Result<(), CaptureError> {
        let mut sockets: Vec<PollFd<'_>> = self
            .queues
            .iter()
            .map(|(queue, _)| PollFd::new(queue.as_fd(), PollFlags::POLLIN))
            .collect();
        // Up, so that no time is left when it has passed.
        let timeout = timeout.as_micros().div_ceil(1_000);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        match poll(&mut sockets, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.failed("waiting for frames", errno.into())),
        }
    }

    /// An interface that went down comes back, one that was removed does not: its sockets are unbound, which they tell when
    /// they are asked, and not by poll(2).
    fn look_at_state(&self) -> Result<(), CaptureError> {
        for (queue, _) in &self.queues {
            let error = getsockopt(queue, SocketError)
                .map_err(|errno| self.failed("asking for the socket's error", errno.into()))?;
            match error {
                0 => {}
                libc::ENETDOWN | libc::ENODEV | libc::ENXIO => {
                    return Err(CaptureError::InterfaceGone {
                        interface: self.interface.clone(),
                    });
                }
                code => return Err(self.failed("receiving", io::Error::from_raw_os_error(code))),
            }
        }
        Ok(())
    }

    /// What the kernel has counted of this source's queues, and the frames of queues without a socket.
    fn statistics(&self) -> io::Result<(Statistics, u64)> {
        let all: io::Result<Vec<_>> = self.queues.iter().map(|(queue, _)| queue.statistics()).collect();
        let passed = if self.tells_common {
            self.common.passed.read()?
        } else {
            0
        };
        Ok((sum(&all?), passed))
    }
}

/// Adds a piece of a frame to the block, once the frame is whole. False if the filter passed the frame over.
fn add(
    block: &mut OwnedFrames,
    filter: &Program,
    partial: &mut Partial,
    to_utc: i64,
    piece: &Piece<'_>,
) -> bool {
    let start = block.bytes.len();
    let is_first = partial.wire_length == 0;
    let wire_length = partial.wire_length.saturating_add(piece.bytes.len() as u32);
    let stamp = if is_first { piece.stamp } else { partial.stamp };
    let room = MAX_FRAME_BYTES as usize - partial.bytes.len();
    let bytes = piece.bytes.get(..room).unwrap_or(piece.bytes);
    if piece.continues {
        partial.bytes.extend_from_slice(bytes);
        partial.wire_length = wire_length;
        partial.stamp = stamp;
        return true;
    }
    block.bytes.extend_from_slice(&partial.bytes);
    block.bytes.extend_from_slice(bytes);
    partial.bytes.clear();
    partial.wire_length = 0;
    let frame = block.bytes.get(start..).unwrap_or_default();
    let keep = filter.run(frame, wire_length).min(frame.len() as u32);
    block.bytes.truncate(start + keep as usize);
    if keep == 0 {
        return false;
    }
    block.headers.push(FrameHeader {
        time: stamp.map_or_else(clock::utc_now, |stamp| to_utc.saturating_add_unsigned(stamp)),
        offset: start as u32,
        captured_length: keep,
        wire_length,
        link_type: LinkType::ETHERNET,
        // A tag that the hardware takes out is not told.
        stripped_vlan: None,
        // Nor is whether checksums were looked at.
        checksum_offloaded: true,
        clock: Some(match stamp {
            Some(_) => FrameClock::Kernel,
            None => FrameClock::Probe,
        }),
    });
    true
}

impl Source for XdpSource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        if self.draining.is_none() && self.stop.load(Ordering::Relaxed) {
            self.common.detach();
            self.draining = Some(clock::monotonic());
        }
        let timeout = if self.draining.is_some() {
            DRAIN_TIMEOUT
        } else {
            IDLE_TIMEOUT
        };
        let mut asked = None;
        loop {
            let came = self.fill();
            if !self.block.headers.is_empty() {
                self.block.first_number = self.accounts.frames_delivered + 1;
                self.accounts.frames_delivered += self.block.headers.len() as u64;
                take(self.block.as_frames());
                return Ok(Next::Block);
            }
            if !came && self.draining.is_some_and(|since| clock::elapsed(since) >= DRAIN) {
                return Ok(Next::End);
            }
            let left = timeout.saturating_sub(clock::elapsed(*asked.get_or_insert_with(clock::monotonic)));
            // Also where frames keep coming that the filter passes over: flows must time out meanwhile.
            if left.is_zero() {
                self.look_at_state()?;
                return Ok(Next::Idle);
            }
            if !came {
                self.wait(left)?;
                if self.gathers && self.draining.is_none() {
                    thread::sleep(GATHER);
                }
            }
        }
    }

    fn accounts(&mut self) -> Accounts {
        match self.statistics() {
            Ok((statistics, passed)) => {
                if passed > 0 && self.accounts.passed_to_host == Some(0) {
                    tracing::warn!(
                        interface = %self.interface,
                        "frames go to the host, of receive queues that it got after the capture began: restart the probe"
                    );
                }
                self.accounts.passed_to_host = Some(passed);
                self.accounts.kernel_drops = Some(statistics.ring_full);
                self.accounts.buffer_drops = Some(statistics.dropped);
                self.accounts.fill_ring_empty = Some(statistics.fill_ring_empty);
            }
            // From here on the numbers are not known any more, and the books must say so.
            Err(error) => {
                if self.accounts.kernel_drops.is_some() {
                    tracing::error!(interface = %self.interface, %error, "the kernel's drop count cannot be read");
                }
                self.accounts.kernel_drops = None;
                self.accounts.buffer_drops = None;
                self.accounts.passed_to_host = None;
                self.accounts.fill_ring_empty = None;
            }
        }
        self.accounts.damaged_blocks = Some(self.queues.iter().map(|(queue, _)| queue.damaged()).sum());
        self.accounts.clone()
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        self.filter = filter
            .cloned()
            .unwrap_or_else(|| Program::accept_all(self.snaplen));
        Ok(())
    }

    fn queue(&self) -> (u64, u64) {
        self.queues.iter().fold((0, 0), |(used, capacity), (queue, _)| {
            let (waiting, entries) = queue.waiting();
            let bytes = u64::from(queue.chunk_bytes());
            (
                used + u64::from(waiting) * bytes,
                capacity + u64::from(entries) * bytes,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_out_in_powers_of_two() {
        let chunks = |bytes, queues, mtu| {
            let size = size(bytes, queues, mtu);
            (size.chunk_bytes, size.chunks)
        };
        assert_eq!(chunks(128 << 20, 1, 1500), (2048, 65_536));
        assert_eq!(chunks(128 << 20, 3, 1500), (2048, 16_384));
        assert_eq!(chunks(128 << 20, 1, 9000), (4096, 32_768));
        assert_eq!(chunks(0, 8, 1500), (2048, 1));
        // 4 GiB.
        assert_eq!(least_bytes(4096, 4096), 1 << 32);
    }

    #[test]
    fn a_queue_is_set_up_where_its_worker_runs() {
        let places = [Some(Place::core(3)), None, Some(Place::core(5))];
        let of = |queue| place_of(queue, &places);
        let expected = [places[0].as_ref(), None, places[2].as_ref()];
        assert_eq!([of(0), of(1), of(2)], expected);
        assert_eq!([of(3), of(4), of(5)], expected);
    }

    #[test]
    fn sysfs_tells_the_receive_queues() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(queues_in(directory.path()), None);
        for name in ["rx-0", "tx-0", "rx-1", "tx-1", "rx-2"] {
            fs::create_dir_all(directory.path().join("queues").join(name)).unwrap();
        }
        assert_eq!(queues_in(directory.path()), Some(3));
    }

    #[test]
    fn a_frame_in_pieces_is_one_frame() {
        let mut block = OwnedFrames::default();
        let mut partial = Partial::default();
        let all = Program::accept_all(MAX_FRAME_BYTES);
        let mut give = |bytes: &[u8], stamp, continues, filter: &Program| {
            let piece = Piece {
                bytes,
                stamp,
                continues,
            };
            add(&mut block, filter, &mut partial, 1_000, &piece)
        };
        assert!(give(b"whole", Some(1), false, &all));
        assert!(give(b"fi", Some(2), true, &all));
        assert!(give(b"r", Some(9), true, &all));
        assert!(give(b"st", None, false, &all));
        assert!(!give(b"not wanted", Some(3), false, &Program::accept_all(0)));
        assert!(give(b"cut short", Some(4), false, &Program::accept_all(3)));
        let frames: Vec<_> = block
            .as_frames()
            .iter()
            .map(|(_, header, bytes)| (header.time, header.wire_length, bytes.to_vec()))
            .collect();
        let expected = [
            (1_001, 5, b"whole".to_vec()),
            (1_002, 5, b"first".to_vec()),
            (1_004, 9, b"cut".to_vec()),
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn a_frame_of_many_pieces_is_cut_and_its_length_is_not() {
        let mut block = OwnedFrames::default();
        let mut partial = Partial::default();
        let all = Program::accept_all(u32::MAX);
        let bytes = vec![7; 100_000];
        for continues in [true, true, true, false] {
            let piece = Piece {
                bytes: &bytes,
                stamp: None,
                continues,
            };
            assert!(add(&mut block, &all, &mut partial, 0, &piece));
        }
        assert_eq!(block.headers[0].wire_length, 400_000);
        assert_eq!(block.headers[0].captured_length, MAX_FRAME_BYTES);
    }
}
