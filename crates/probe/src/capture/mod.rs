//! Where frames come from: capture files and network interfaces, by AF_PACKET, AF_XDP or libpcap.
//!
//! **In**: capture files, standard input, network interfaces. **Out**: [`Frames`], blocks of frames in capture order.
//! **Owns**: file buffers and the kernel ring. **Never**: copies a frame more than once into a block (`AF_PACKET` lends the
//! ring's own, without a copy), waits for a later stage, or allocates what a length field asks for: no frame is longer than
//! [`MAX_FRAME_BYTES`], no block of a file or a ring longer than [`BLOCK_BYTES`], and a block of libpcap or AF_XDP that is so
//! long gets nothing more (by libpcap's last frame, or what AF_XDP takes from a queue at a time, it may be longer).

use std::collections::{BTreeMap, BTreeSet};

use wire::decode::{FrameMeta, LinkType};

mod error;
/// Classic BPF for capture files.
pub mod bpf;
mod input;
mod pcap;
mod pcapng;
/// Capture files: pcap and pcapng, compressed or not.
pub mod file;
/// Live capture over an `AF_PACKET` `TPACKET_V3` ring.
pub mod af_packet;
/// Live capture over `AF_XDP` sockets.
pub mod af_xdp;
/// Live capture through libpcap.
pub mod libpcap;
/// Live capture by whichever mode was asked for.
pub mod live;
/// Interfaces that vanish and come back.
pub mod lasting;
/// eBPF programs.
pub mod ebpf;
/// Cores for the workers.
pub mod cores;
/// What happens to an interface.
pub mod link;
/// What an interface's driver is asked.
mod device;
/// Where sysfs tells of an interface.
pub(crate) mod sysfs;

/// Frames from memory at an exact rate, for benches.
pub mod memory;
/// Frames that are counted and dropped, for benches.
pub mod count;

pub use af_packet::{RingOptions, RingSource, Timestamps};
pub use af_xdp::XdpSource;
pub use error::CaptureError;
pub use file::FileSource;
pub use input::Enough;
pub use libpcap::PcapSource;
pub use live::Mode;
pub use memory::MemorySource;

/// The most bytes captured of one frame: libpcap's largest snapshot length, 256 KiB.
pub const MAX_FRAME_BYTES: u32 = 262_144;

/// How many bytes of a file are read at a time, and with how many an [`OwnedFrames`] is full.
pub const BLOCK_BYTES: usize = 1 << 20;

/// What a source knows of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Timestamp in UTC nanoseconds.
    pub time: i64,
    /// Where its bytes start in the block.
    pub offset: u32,
    /// How many bytes were captured.
    pub captured_length: u32,
    /// Its length on the wire in bytes, without the frame check sequence.
    pub wire_length: u32,
    /// What its first byte is.
    pub link_type: LinkType,
    /// The VLAN id that the kernel took out of the frame, where it did.
    pub stripped_vlan: Option<u16>,
    /// Whether checksums need no look: the sender left them to hardware (`TP_STATUS_CSUMNOTREADY`), or the receiving
    /// hardware found them right (`TP_STATUS_CSUM_VALID`).
    pub checksum_offloaded: bool,
    /// Live only: which clock its timestamp is from.
    pub clock: Option<FrameClock>,
}

impl FrameHeader {
    /// What decoding needs.
    pub fn meta(&self) -> FrameMeta {
        FrameMeta {
            link_type: self.link_type,
            wire_length: self.wire_length,
            stripped_vlan: self.stripped_vlan,
            checksum_offloaded: self.checksum_offloaded,
        }
    }
}

/// A block of frames, borrowed from a source's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// The bytes that `offset` and `captured_length` point into. A header that points outside is a bug of the source.
    pub bytes: &'a [u8],
    /// The frames in capture order.
    pub headers: &'a [FrameHeader],
    /// Number of the first frame, counted from 1 over all inputs of this run.
    pub first_number: u64,
}

impl<'a> Frames<'a> {
    /// The frames: number, header and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &'a FrameHeader, &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        (self.first_number..)
            .zip(self.headers)
            .map(move |(number, header)| {
                let start = header.offset as usize;
                let end = start.saturating_add(header.captured_length as usize);
                (number, header, bytes.get(start..end).unwrap_or_default())
            })
    }
}

/// A block of frames that owns its bytes and is refilled. `bytes` may be longer than what the frames use.
#[derive(Clone, Debug, Default)]
pub struct OwnedFrames {
    /// See [`Frames::bytes`].
    pub bytes: Vec<u8>,
    /// See [`Frames::headers`].
    pub headers: Vec<FrameHeader>,
    /// See [`Frames::first_number`].
    pub first_number: u64,
    /// Whether its first frame is the first one of an input: of a file, or of standard input. All frames of a block
    /// are of one input.
    pub starts_input: bool,
}

impl OwnedFrames {
    /// The block as a view.
    pub fn as_frames(&self) -> Frames<'_> {
        Frames {
            bytes: &self.bytes,
            headers: &self.headers,
            first_number: self.first_number,
        }
    }
}

/// What [`Source::next_block`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A block was handed over.
    Block,
    /// Live only: nothing came within the block timeout; time may be advanced and the stop flag looked at.
    Idle,
    /// No further frames will come.
    End,
}

/// Which clock a frame's timestamp is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameClock {
    /// The network card's.
    Hardware,
    /// The kernel's, when the driver or the network stack had the frame.
    Kernel,
    /// This process's, when it took the frame.
    Probe,
}

impl FrameClock {
    /// All, in the order of [`Stamped`]: the name that the books have, and what it means.
    pub const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Hardware, "hardware", "The network card's."),
        (
            Self::Kernel,
            "kernel",
            "The kernel's, when the driver or the network stack had the frame.",
        ),
        (Self::Probe, "probe", "The probe's, when it took the frame."),
    ];
}

/// Frames by the clock that stamped them.
pub type Stamped = [u64; FrameClock::ALL.len()];

/// How a live source gets its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From an `AF_PACKET` ring.
    AfPacket,
    /// From `AF_XDP` sockets: the card writes frames where they are read.
    XdpZeroCopy,
    /// From `AF_XDP` sockets: the driver's frames are copied.
    XdpCopy,
    /// From `AF_XDP` sockets: the kernel's packets are copied, after it has made them, as for drivers that know nothing of XDP.
    XdpGeneric,
    /// Through libpcap.
    Pcap,
}

impl Way {
    /// All, by the name that the books have, and what it means.
    pub const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::AfPacket, "af_packet", "AF_PACKET rings."),
        (
            Self::XdpZeroCopy,
            "af_xdp_zero_copy",
            "AF_XDP; the card writes frames where they are read.",
        ),
        (
            Self::XdpCopy,
            "af_xdp_copy",
            "AF_XDP; the driver's frames are copied.",
        ),
        (
            Self::XdpGeneric,
            "af_xdp_generic",
            "AF_XDP; the kernel's packets are copied, after it has made them.",
        ),
        (Self::Pcap, "pcap", "libpcap."),
    ];
}

/// What a source has done so far, cumulative. What a kind of source cannot know is `None`, not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Live only: how the frames come now.
    pub way: Option<Way>,
    /// Frames handed over.
    pub frames_delivered: u64,
    /// Live only: the frames handed over, by the clock that stamped them.
    pub stamped: Option<Stamped>,
    /// Frames that the filter passed over.
    pub frames_filtered: Option<u64>,
    /// Frames that the kernel dropped because the ring was full.
    pub kernel_drops: Option<u64>,
    /// Frames that the kernel had put into an `AF_PACKET` ring and that were never handed over, known when the source has ended:
    /// the kernel kept them, or they stood in a damaged block.
    pub left_in_ring: Option<u64>,
    /// Frames for which the kernel had no free buffer of an `AF_XDP` socket, or that were larger than one.
    pub buffer_drops: Option<u64>,
    /// Frames of receive queues that have no `AF_XDP` socket: the interface has more queues than when the capture began.
    /// The host gets them. One of several sources has them all.
    pub passed_to_host: Option<u64>,
    /// Times that the kernel wanted a buffer of an `AF_XDP` socket and there was none.
    pub fill_ring_empty: Option<u64>,
    /// Times that the ring ran full.
    pub ring_freezes: Option<u64>,
    /// Blocks of the ring in which the kernel described a frame that does not lie in the block; that frame and those
    /// behind it are lost. Any is a bug.
    pub damaged_blocks: Option<u64>,
    /// Bytes read of the inputs, as stored (compressed).
    pub bytes_read: u64,
    /// Bytes of all inputs, as stored, where all are regular files.
    pub bytes_total: Option<u64>,
    /// Bytes of broken records that were passed over.
    pub bytes_skipped: u64,
    /// Files only: frames by link type, those among them that a filter passed over; at most 64 link types.
    pub link_types: BTreeMap<LinkType, u64>,
    /// Files only: the earliest and the latest timestamp, in UTC nanoseconds.
    pub span: Option<(i64, i64)>,
    /// Link types of frames that cannot be decoded, at most 64.
    pub unsupported_link_types: BTreeSet<LinkType>,
}

impl Accounts {
    /// Frames that were lost before they reached the source, where it can know it.
    pub fn lost(&self) -> Option<u64> {
        // A source without such buffers loses none for want of them.
        let others = [self.left_in_ring, self.buffer_drops, self.passed_to_host];
        Some(self.kernel_drops? + others.into_iter().flatten().sum::<u64>())
    }

    /// What a live source and the one before it have done together; what is not known of one is not known of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Self {
            way: self.way.or(other.way),
            frames_delivered: self.frames_delivered + other.frames_delivered,
            stamped: self.stamped.zip(other.stamped).map(|(one, other)| {
                let mut sums = one;
                for (sum, more) in sums.iter_mut().zip(other) {
                    *sum += more;
                }
                sums
            }),
            frames_filtered: sum(self.frames_filtered, other.frames_filtered),
            kernel_drops: sum(self.kernel_drops, other.kernel_drops),
            left_in_ring: sum(self.left_in_ring, other.left_in_ring),
            passed_to_host: sum(self.passed_to_host, other.passed_to_host),
            buffer_drops: sum(self.buffer_drops, other.buffer_drops),
            fill_ring_empty: sum(self.fill_ring_empty, other.fill_ring_empty),
            ring_freezes: sum(self.ring_freezes, other.ring_freezes),
            damaged_blocks: sum(self.damaged_blocks, other.damaged_blocks),
            ..Self::default()
        }
    }
}

/// Anything that frames come from.
pub trait Source {
    /// Hands over the next block. After an error the source may be asked again: a file's error ends that file only.
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError>;

    /// The books so far.
    fn accounts(&mut self) -> Accounts;

    /// Captures other frames from now on, `None` for all. None is lost meanwhile, but by [`PcapSource`]: libpcap lets no
    /// frame through for a moment while it changes the kernel's filter, and nobody counts those. Without effect after an
    /// error.
    fn set_filter(&mut self, _filter: Option<&bpf::Program>) -> Result<(), CaptureError> {
        Err(CaptureError::FilterFixed)
    }

    /// Bytes of the queue behind the source that hold frames which wait, and its size; zeros where there is none.
    fn queue(&self) -> (u64, u64) {
        (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Accounts;

    #[test]
    fn what_is_not_known_of_one_source_is_not_known_of_both() {
        let before = Accounts {
            frames_delivered: 5,
            kernel_drops: Some(1),
            left_in_ring: Some(7),
            ring_freezes: None,
            damaged_blocks: Some(2),
            ..Accounts::default()
        };
        let now = Accounts {
            frames_delivered: 1,
            kernel_drops: Some(2),
            left_in_ring: Some(0),
            ring_freezes: Some(3),
            damaged_blocks: Some(4),
            ..Accounts::default()
        };
        let expected = Accounts {
            frames_delivered: 6,
            kernel_drops: Some(3),
            left_in_ring: Some(7),
            ring_freezes: None,
            damaged_blocks: Some(6),
            ..Accounts::default()
        };
        assert_eq!(now.and(&before), expected);
    }
}
