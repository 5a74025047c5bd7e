//! The classic pcap format (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).
//!
//! A file header of 24 bytes, then records: seconds, fraction, captured length, wire length, bytes. The magic number
//! tells byte order and the unit of the fraction. It does not tell how long the header of a record is: patched libpcaps
//! and Nokia's tcpdump put more fields behind the four and kept a magic number that others used. The first two records
//! tell it.

use wire::decode::LinkType;

use super::pcapng::Endian;
use super::{FrameHeader, MAX_FRAME_BYTES};

/// Length of the file header.
pub(super) const FILE_HEADER_BYTES: usize = 24;

/// When looking for the next intact record, its time must be this near to the last good one: one day.
const NEAR_NS: i64 = 86_400 * 1_000_000_000;

/// No interface has frames near this length; a longer wire length is damage.
const MAX_WIRE_LENGTH: u32 = 1 << 28;

/// Lengths of record headers that a magic number may stand for: the usual one, and others.
mod record_headers {
    /// `a1b2c3d4`: as specified; A. Kuznetzov's patch of 1999-04-17, with interface index, protocol and packet type; Nokia,
    /// with 4 bytes of its own.
    pub(super) const MICROSECONDS: (usize, &[usize]) = (16, &[24, 20]);
    /// `a1b23c4d`: as specified.
    pub(super) const NANOSECONDS: (usize, &[usize]) = (16, &[]);
    /// `a1b2cd34`: the same patch from 1999-10-29 on; that of 1999-09-15, with two more bytes for processors and padding.
    pub(super) const MODIFIED: (usize, &[usize]) = (24, &[28]);
}

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
    /// Something to pass over.
    Pass(usize),
    /// A block to pass over that goes on beyond the bytes at hand.
    PassBeyond {
        /// Its bytes.
        length: u64,
        /// The last of them, if it is intact.
        end: [u8; 4],
    },
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
    /// Other lengths that the record header may have, as long as the first records have not been seen.
    others: &'static [usize],
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

/// Whether two records may stand side by side.
fn is_near(time: i64, other: i64) -> bool {
    time.abs_diff(other) <= NEAR_NS.unsigned_abs()
}

/// Bytes of a record header that every variant has.
const COMMON_HEADER_BYTES: usize = 16;

/// A record header.
struct Record {
    time: i64,
    captured: u32,
    wire: u32,
    /// There are bytes, not more than there were, and every number is within its bounds.
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
        let (fraction_ns, (record_header, others)) = match value {
            0xa1b2_c3d4 => (1_000, record_headers::MICROSECONDS),
            0xa1b2_3c4d => (1, record_headers::NANOSECONDS),
            0xa1b2_cd34 => (1_000, record_headers::MODIFIED),
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
            others,
            link_type: LinkType(network & 0x03ff_ffff),
            frame_check_bytes,
            version_minor,
            last_time: None,
        })
    }

    fn record(&self, bytes: &[u8]) -> Option<Record> {
        let &[s0, s1, s2, s3, f0, f1, f2, f3, c0, c1, c2, c3, w0, w1, w2, w3] =
            bytes.first_chunk::<COMMON_HEADER_BYTES>()?;
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

    /// Tells from the first record, which `bytes` begin with, and from the second how long their headers are; false where
    /// more bytes are needed. It is the usual length unless that leads to no second record, and another one does.
    fn settle_record_header(&mut self, bytes: &[u8], first: &Record, at_end: bool) -> bool {
        let captured = first.captured as usize;
        let behind = |length: usize| bytes.get(length + captured..);
        let is_usual = !first.plausible
            || match behind(self.record_header) {
                // The file ends here; or it is a pipe whose only packet so far must not wait for another.
                Some([]) => true,
                Some(rest) => self.record(rest).map_or(at_end, |second| second.plausible),
                None => at_end,
            };
        if !is_usual {
            for &length in self.others {
                match behind(length).and_then(|rest| self.record(rest)) {
                    Some(second) if second.plausible && is_near(second.time, first.time) => {
                        self.record_header = length;
                        break;
                    }
                    None if !at_end => return false,
                    _ => (),
                }
            }
        }
        self.others = &[];
        true
    }

    /// What the bytes are; `at_end` if no others follow them.
    pub(super) fn step(&mut self, bytes: &[u8], at_end: bool) -> Step {
        let Some(record) = self.record(bytes) else {
            return Step::More;
        };
        if !self.others.is_empty() && !self.settle_record_header(bytes, &record, at_end) {
            return Step::More;
        }
        // A record without time and bytes is the start of a hole that was filled with zeros, as a crash leaves it behind.
        let is_hole = record.captured == 0 && record.time == 0;
        if is_hole || record.captured > MAX_FRAME_BYTES || record.wire >= MAX_WIRE_LENGTH {
            return Step::Broken;
        }
        if record.captured > record.wire {
            match self.leads_on(bytes, &record, at_end) {
                None => return Step::More,
                Some(false) => return Step::Broken,
                Some(true) => {}
            }
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

    /// Whether a record that claims more bytes than its frame had on the wire leads to another record, or to the end of the
    /// file. Some programs write such records; else one of its lengths is damaged, and one that is too large would swallow
    /// all records within it. None where more bytes are needed.
    fn leads_on(&self, bytes: &[u8], record: &Record, at_end: bool) -> Option<bool> {
        let behind = |length: u32| bytes.get(self.record_header + length as usize..);
        let next = |length| self.record(behind(length)?);
        match behind(record.captured) {
            Some(rest) if rest.len() >= COMMON_HEADER_BYTES => {}
            _ if at_end => {}
            _ => return None,
        }
        if next(record.wire).is_some_and(|next| next.plausible && is_near(next.time, record.time)) {
            return Some(false);
        }
        // The same program's next record may be like this one: `find` would take none of them.
        let is_record = |next: Record| next.captured <= MAX_FRAME_BYTES && next.wire < MAX_WIRE_LENGTH;
        Some(next(record.captured).is_none_or(is_record))
    }

    /// Where the next intact record starts: one with a plausible header that is followed by another, or by the end.
    pub(super) fn find(&self, bytes: &[u8], at_end: bool) -> Option<usize> {
        (0..bytes.len()).find(|&start| {
            let here = bytes.get(start..).unwrap_or_default();
            let Some(record) = self.record(here) else {
                return false;
            };
            if !record.plausible || self.last_time.is_some_and(|last| !is_near(record.time, last)) {
                return false;
            }
            match here.get(self.record_header + record.captured as usize..) {
                Some([]) => at_end,
                Some(next) => self
                    .record(next)
                    .is_some_and(|next| next.plausible && is_near(next.time, record.time)),
                None => false,
            }
        })
    }
}
