//! The classic pcap format (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).
//!
//! A file header of 24 bytes, then records: seconds, fraction, captured length, wire length, bytes. The magic number
//! tells byte order, the unit of the fraction, and whether records carry the 8 more bytes of the "modified" variant.

use wire::decode::LinkType;

use super::pcapng::Endian;
use super::{FrameHeader, MAX_FRAME_BYTES};

/// Length of the file header.
pub(super) const FILE_HEADER_BYTES: usize = 24;

/// When looking for the next intact record, its time must be this near to the last good one: one day.
const NEAR_NS: i64 = 86_400 * 1_000_000_000;

/// No interface has frames near this length; a longer wire length is damage.
const MAX_WIRE_LENGTH: u32 = 1 << 28;

/// What the bytes at some place of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A frame, its `offset` counted from here.
    Frame {
        /// The frame.
        header: FrameHeader,
        /// Bytes of the whole record.
        consumed: usize,
    },
    /// Something to pass over, perhaps beyond the bytes at hand.
    Pass(u64),
    /// A whole record that contradicts itself: passed over and counted as damage.
    Bad(usize),
    /// The record is not complete yet.
    More,
    /// Not a record: the next one must be searched for.
    Broken,
    /// A section in a version of the format that is not known; nothing in it can be trusted.
    Version(u16, u16),
}

/// The state of reading a pcap file: what its header says.
#[derive(Clone, Debug)]
pub(super) struct Pcap {
    endian: Endian,
    fraction_ns: i64,
    record_header: usize,
    link_type: LinkType,
    frame_check_bytes: u32,
    version_minor: u16,
    last_time: Option<i64>,
}

/// Why a file header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotPcap {
    Magic,
    Version(u16, u16),
}

/// A record header.
struct Record {
    time: i64,
    captured: u32,
    wire: u32,
    plausible: bool,
}

impl Pcap {
    /// Reads the file header.
    pub(super) fn new(header: &[u8; FILE_HEADER_BYTES]) -> Result<Self, NotPcap> {
        let &[
            m0,
            m1,
            m2,
            m3,
            v0,
            v1,
            v2,
            v3,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            n0,
            n1,
            n2,
            n3,
        ] = header;
        let magic = [m0, m1, m2, m3];
        let (endian, value) = match magic {
            [0xa1, ..] => (Endian::Big, u32::from_be_bytes(magic)),
            [.., 0xa1] => (Endian::Little, u32::from_le_bytes(magic)),
            _ => return Err(NotPcap::Magic),
        };
        let (fraction_ns, record_header) = match value {
            0xa1b2_c3d4 => (1_000, 16),
            0xa1b2_3c4d => (1, 16),
            // The variant of A. Kuznetzov's patched libpcap: interface index, protocol and packet type follow.
            0xa1b2_cd34 => (1_000, 24),
            _ => return Err(NotPcap::Magic),
        };
        let (major, version_minor) = (endian.u16([v0, v1]), endian.u16([v2, v3]));
        if major != 2 {
            return Err(NotPcap::Version(major, version_minor));
        }
        let network = endian.u32([n0, n1, n2, n3]);
        // Bit 26: the upper four bits tell the length of the frame check sequence in units of 16 bits.
        let frame_check_bytes = if network & 0x0400_0000 == 0 {
            0
        } else {
            (network >> 28) * 2
        };
        Ok(Self {
            endian,
            fraction_ns,
            record_header,
            link_type: LinkType(network & 0x03ff_ffff),
            frame_check_bytes,
            version_minor,
            last_time: None,
        })
    }

    fn record(&self, bytes: &[u8]) -> Option<Record> {
        let &[s0, s1, s2, s3, f0, f1, f2, f3, c0, c1, c2, c3, w0, w1, w2, w3] = bytes.first_chunk::<16>()?;
        let (seconds, fraction) = (
            self.endian.u32([s0, s1, s2, s3]),
            self.endian.u32([f0, f1, f2, f3]),
        );
        let (mut captured, mut wire) = (
            self.endian.u32([c0, c1, c2, c3]),
            self.endian.u32([w0, w1, w2, w3]),
        );
        // The two lengths were the other way round before version 2.3, and either way in 2.3.
        if self.version_minor < 3 || (self.version_minor == 3 && captured > wire) {
            (captured, wire) = (wire, captured);
        }
        let time = i64::from(seconds) * 1_000_000_000 + i64::from(fraction) * self.fraction_ns;
        let plausible = captured > 0
            && captured <= MAX_FRAME_BYTES
            && wire >= captured
            && wire < MAX_WIRE_LENGTH
            && i64::from(fraction) * self.fraction_ns < 1_000_000_000;
        Some(Record {
            time,
            captured,
            wire,
            plausible,
        })
    }

    /// What the bytes are.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let Some(record) = self.record(bytes) else {
            return Step::More;
        };
        // A record without time and bytes is the start of a hole that was filled with zeros, as a crash leaves it behind.
        let is_hole = record.captured == 0 && record.time == 0;
        if is_hole || record.captured > MAX_FRAME_BYTES || record.wire >= MAX_WIRE_LENGTH {
            return Step::Broken;
        }
        let consumed = self.record_header + record.captured as usize;
        if bytes.len() < consumed {
            return Step::More;
        }
        // The time of a record without bytes is not to be believed: `find` would look for times near to it.
        if record.captured > 0 {
            self.last_time = Some(record.time);
        }
        let wire_length = record
            .wire
            .max(record.captured)
            .saturating_sub(self.frame_check_bytes);
        let header = FrameHeader {
            time: record.time,
            offset: self.record_header as u32,
            captured_length: record.captured.min(wire_length),
            wire_length,
            link_type: self.link_type,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: None,
        };
        Step::Frame { header, consumed }
    }

    /// Where the next intact record starts: one with a plausible header that is followed by another, or by the end.
    pub(super) fn find(&self, bytes: &[u8], at_end: bool) -> Option<usize> {
        (0..bytes.len()).find(|&start| {
            let here = bytes.get(start..).unwrap_or_default();
            let Some(record) = self.record(here) else {
                return false;
            };
            let near = |time: i64, other: i64| time.abs_diff(other) <= NEAR_NS.unsigned_abs();
            if !record.plausible || self.last_time.is_some_and(|last| !near(record.time, last)) {
                return false;
            }
            match here.get(self.record_header + record.captured as usize..) {
                Some([]) => at_end,
                Some(next) => self
                    .record(next)
                    .is_some_and(|next| next.plausible && near(next.time, record.time)),
                None => false,
            }
        })
    }
}
