//! Where frames come from: capture files and AF_PACKET rings.

use wire::decode::LinkType;

/// A live interface through an AF_PACKET ring.
pub mod af_packet;
/// Filters for frames that the kernel does not filter for us.
pub mod bpf;

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
    /// Whether checksums may be unfinished because the sender left them to hardware (TP_STATUS_CSUMNOTREADY).
    pub checksum_offloaded: bool,
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

/// A block of frames that owns its bytes and is refilled.
#[derive(Clone, Debug, Default)]
pub struct OwnedFrames {
    /// See [`Frames::bytes`].
    pub bytes: Vec<u8>,
    /// See [`Frames::headers`].
    pub headers: Vec<FrameHeader>,
    /// See [`Frames::first_number`].
    pub first_number: u64,
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
