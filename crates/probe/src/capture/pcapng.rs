//! The pcapng format (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>).
//!
//! A file is a row of blocks: type, total length, body, total length again. Section headers set the byte order and
//! forget all interfaces; interface descriptions give link type and time resolution; packet blocks hold the frames.
//! Everything else (names, statistics, secrets, custom blocks) is passed over.

use wire::decode::LinkType;

use super::pcap::Step;
use super::{BLOCK_BYTES, FrameHeader, MAX_FRAME_BYTES};

/// Byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endian {
    Little,
    Big,
}

impl Endian {
    pub(super) const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// Block types.
mod block {
    pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
    /// Obsolete, still written by old programs.
    pub(super) const PACKET: u32 = 2;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const NAME_RESOLUTION: u32 = 4;
    pub(super) const INTERFACE_STATISTICS: u32 = 5;
    pub(super) const ENHANCED_PACKET: u32 = 6;
    pub(super) const JOURNAL_EXPORT: u32 = 9;
    pub(super) const SECRETS: u32 = 10;
    pub(super) const CUSTOM: u32 = 0x0bad;
    pub(super) const CUSTOM_NO_COPY: u32 = 0x4000_0bad;
}

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Blocks that are read must be in memory whole: a frame and 64 KiB of options.
const MAX_READ_BLOCK: usize = MAX_FRAME_BYTES as usize + 65_536;

/// Blocks of unknown type are passed over up to this length; longer ones are taken for damage.
const MAX_UNKNOWN_BLOCK: u32 = 16 << 20;

/// Interfaces that are remembered in a section.
const MAX_INTERFACES: usize = 65_536;

/// How the ticks of an interface become nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticks {
    /// Nanoseconds a tick.
    Multiply(u64),
    /// Ticks a nanosecond.
    Divide(u64),
    /// Ticks a second as a power of two.
    Binary(u32),
}

impl Ticks {
    /// The option `if_tsresol`: a negative power of 10, or of 2 where the top bit is set.
    fn of_resolution(resolution: u8) -> Self {
        let exponent = u32::from(resolution & 0x7f);
        if resolution & 0x80 != 0 {
            Self::Binary(exponent)
        } else if exponent <= 9 {
            Self::Multiply(10_u64.pow(9 - exponent))
        } else {
            Self::Divide(10_u64.checked_pow(exponent - 9).unwrap_or(u64::MAX))
        }
    }

    /// Saturating, since hostile ticks can be any number.
    fn nanoseconds(self, ticks: u64) -> i64 {
        let value = match self {
            Self::Multiply(factor) => ticks.checked_mul(factor),
            Self::Divide(divisor) => ticks.checked_div(divisor),
            Self::Binary(exponent) => (u128::from(ticks) * 1_000_000_000)
                .checked_shr(exponent)
                .and_then(|value| u64::try_from(value).ok()),
        };
        value
            .and_then(|value| i64::try_from(value).ok())
            .unwrap_or(i64::MAX)
    }
}

/// What an interface description says.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: LinkType,
    snaplen: u32,
    ticks: Ticks,
    offset_ns: i64,
    frame_check_bytes: u32,
}

/// The state of reading a pcapng file.
#[derive(Clone, Debug)]
pub(super) struct Pcapng {
    endian: Endian,
    /// None for a description that is damaged: its number is taken all the same.
    interfaces: Vec<Option<Interface>>,
    last_time: i64,
}

/// Type and total length of a block, and the byte order it is in.
#[derive(Clone, Copy, Debug)]
struct Envelope {
    kind: u32,
    length: u32,
    endian: Endian,
}

impl Envelope {
    fn is_sane(self) -> bool {
        self.length >= 12 && self.length.is_multiple_of(4)
    }

    fn is_known(self) -> bool {
        matches!(
            self.kind,
            block::SECTION_HEADER
                | block::INTERFACE_DESCRIPTION
                | block::PACKET
                | block::SIMPLE_PACKET
                | block::NAME_RESOLUTION
                | block::INTERFACE_STATISTICS
                | block::ENHANCED_PACKET
                | block::JOURNAL_EXPORT
                | block::SECRETS
                | block::CUSTOM
                | block::CUSTOM_NO_COPY
        )
    }

    fn is_read(self) -> bool {
        matches!(
            self.kind,
            block::SECTION_HEADER
                | block::INTERFACE_DESCRIPTION
                | block::PACKET
                | block::SIMPLE_PACKET
                | block::ENHANCED_PACKET
        )
    }

    /// The body, if the length behind it is the same as the one before it.
    fn body(self, bytes: &[u8]) -> Option<&[u8]> {
        let whole = bytes.get(..self.length as usize)?;
        let (rest, trailer) = whole.split_last_chunk::<4>()?;
        if self.endian.u32(*trailer) == self.length {
            rest.get(8..)
        } else {
            None
        }
    }
}

/// The byte order of a section header, from its magic number.
fn section_endian(bytes: &[u8]) -> Option<Endian> {
    match bytes.get(8..)?.first_chunk::<4>()? {
        [0x1a, 0x2b, 0x3c, 0x4d] => Some(Endian::Big),
        [0x4d, 0x3c, 0x2b, 0x1a] => Some(Endian::Little),
        _ => None,
    }
}

/// The options of a block: code and value, padded to 4 bytes.
fn options(endian: Endian, mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[c0, c1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
        let (code, length) = (endian.u16([c0, c1]), usize::from(endian.u16([l0, l1])));
        if code == 0 {
            return None;
        }
        let value = rest.get(..length)?;
        bytes = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}

/// The option `if_fcslen`: the draft counts bits, programs write bytes too, and no frame check sequence has more than 8 of
/// them.
fn frame_check_bytes(length: u8) -> u32 {
    let bytes = if length > 8 { length / 8 } else { length };
    u32::from(bytes.min(8))
}

impl Pcapng {
    /// Before the first section header; the byte order is that header's.
    pub(super) fn new() -> Self {
        Self {
            endian: Endian::Little,
            interfaces: Vec::new(),
            last_time: 0,
        }
    }

    fn envelope(&self, bytes: &[u8]) -> Option<Envelope> {
        let &[k0, k1, k2, k3, l0, l1, l2, l3] = bytes.first_chunk::<8>()?;
        let kind = self.endian.u32([k0, k1, k2, k3]);
        let endian = if kind == block::SECTION_HEADER {
            if bytes.len() < 12 {
                return None;
            }
            // With another magic number it is not a section header; length 0 then says that it is broken.
            let Some(endian) = section_endian(bytes) else {
                return Some(Envelope {
                    kind,
                    length: 0,
                    endian: self.endian,
                });
            };
            endian
        } else {
            self.endian
        };
        Some(Envelope {
            kind,
            length: endian.u32([l0, l1, l2, l3]),
            endian,
        })
    }

    /// What the bytes are; `at_end` if no others follow them.
    pub(super) fn step(&mut self, bytes: &[u8], at_end: bool) -> Step {
        let Some(envelope) = self.envelope(bytes) else {
            return Step::More;
        };
        if !envelope.is_sane() {
            return Step::Broken;
        }
        let length = envelope.length as usize;
        if length > MAX_READ_BLOCK
            && (envelope.is_read() || (!envelope.is_known() && envelope.length > MAX_UNKNOWN_BLOCK))
        {
            return Step::Broken;
        }
        if bytes.len() < length {
            if at_end || bytes.len() < BLOCK_BYTES {
                return Step::More;
            }
            return self.pass_beyond(envelope, bytes);
        }
        let Some(body) = envelope.body(bytes) else {
            return Step::Broken;
        };
        match envelope.kind {
            block::SECTION_HEADER => self.section(envelope, body),
            block::INTERFACE_DESCRIPTION => {
                let interface = self.interface(body);
                if self.add_interface(interface) && interface.is_some() {
                    Step::Pass(length)
                } else {
                    Step::Bad(length)
                }
            }
            block::ENHANCED_PACKET | block::PACKET => self.packet(envelope.kind, body, length),
            block::SIMPLE_PACKET => self.simple_packet(body, length),
            _ => Step::Pass(length),
        }
    }

    /// The next number of the section is this interface's, if there is one.
    fn add_interface(&mut self, interface: Option<Interface>) -> bool {
        let has_room = self.interfaces.len() < MAX_INTERFACES;
        if has_room {
            self.interfaces.push(interface);
        }
        has_room
    }

    /// A block that is longer than all bytes at hand. Where it ends among them by the length behind it, and another block
    /// starts there, the length in front is damaged: to pass over so many bytes would lose everything in them.
    fn pass_beyond(&self, envelope: Envelope, bytes: &[u8]) -> Step {
        let (words, _) = bytes.as_chunks::<4>();
        let ends_at = |length: usize| {
            let next = || self.envelope(bytes.get(length..)?);
            next().is_some_and(|next| next.is_sane() && next.is_known())
        };
        let mut lengths = (1..).zip(words).map(|(count, word)| (count * 4, word));
        let found = lengths.find(|&(length, word)| {
            length >= 12 && envelope.endian.u32(*word) as usize == length && ends_at(length)
        });
        match (found, words.get(1)) {
            (Some((length, _)), _) => Step::Bad(length),
            (None, Some(end)) => Step::PassBeyond {
                length: u64::from(envelope.length),
                end: *end,
            },
            (None, None) => Step::More,
        }
    }

    /// Notes what the broken block in front of `bytes`, which is passed over, would have changed.
    pub(super) fn leave_out(&mut self, bytes: &[u8]) {
        match self.envelope(bytes).map(|envelope| envelope.kind) {
            Some(block::INTERFACE_DESCRIPTION) => {
                self.add_interface(None);
            }
            // The interfaces that follow are those of a new section.
            Some(block::SECTION_HEADER) => self.interfaces.clear(),
            _ => {}
        }
    }

    fn section(&mut self, envelope: Envelope, body: &[u8]) -> Step {
        let Some(&[_, _, _, _, v0, v1, v2, v3]) = body.first_chunk::<8>() else {
            return Step::Broken;
        };
        let (major, minor) = (envelope.endian.u16([v0, v1]), envelope.endian.u16([v2, v3]));
        if major != 1 {
            return Step::Version(major, minor);
        }
        self.endian = envelope.endian;
        self.interfaces.clear();
        Step::Pass(envelope.length as usize)
    }

    fn interface(&self, body: &[u8]) -> Option<Interface> {
        let (&[t0, t1, _, _, s0, s1, s2, s3], rest) = body.split_first_chunk::<8>()?;
        let mut interface = Interface {
            link_type: LinkType(u32::from(self.endian.u16([t0, t1]))),
            snaplen: self.endian.u32([s0, s1, s2, s3]),
            ticks: Ticks::of_resolution(6),
            offset_ns: 0,
            frame_check_bytes: 0,
        };
        for (code, value) in options(self.endian, rest) {
            match (code, value) {
                // if_tsresol, if_fcslen, if_tsoffset.
                (9, &[resolution]) => interface.ticks = Ticks::of_resolution(resolution),
                (13, &[length]) => interface.frame_check_bytes = frame_check_bytes(length),
                (14, value) => {
                    if let Ok(bytes) = <[u8; 8]>::try_from(value) {
                        let seconds = match self.endian {
                            Endian::Little => i64::from_le_bytes(bytes),
                            Endian::Big => i64::from_be_bytes(bytes),
                        };
                        interface.offset_ns = seconds.saturating_mul(1_000_000_000);
                    }
                }
                _ => (),
            }
        }
        Some(interface)
    }

    fn packet(&mut self, kind: u32, body: &[u8], length: usize) -> Step {
        let Some((
            &[
                i0,
                i1,
                i2,
                i3,
                h0,
                h1,
                h2,
                h3,
                l0,
                l1,
                l2,
                l3,
                c0,
                c1,
                c2,
                c3,
                w0,
                w1,
                w2,
                w3,
            ],
            rest,
        )) = body.split_first_chunk::<20>()
        else {
            return Step::Bad(length);
        };
        let endian = self.endian;
        // The obsolete block has a 16-bit interface and a 16-bit drop count in the first word.
        let index = if kind == block::PACKET {
            u32::from(endian.u16([i0, i1]))
        } else {
            endian.u32([i0, i1, i2, i3])
        };
        let captured = endian.u32([c0, c1, c2, c3]);
        let Some(mut interface) = self.interfaces.get(index as usize).copied().flatten() else {
            return Step::Bad(length);
        };
        if captured as usize > rest.len() || captured > MAX_FRAME_BYTES {
            return Step::Bad(length);
        }
        let behind = rest
            .get((captured as usize).next_multiple_of(4)..)
            .unwrap_or_default();
        // epb_flags, which the obsolete block has too: the length of the frame check sequence in bytes, 0 where it is not
        // told.
        let flags = options(endian, behind).find_map(|(code, value)| match (code, value) {
            (2, &[f0, f1, f2, f3]) => Some(endian.u32([f0, f1, f2, f3])),
            _ => None,
        });
        if let Some(bytes @ 1..) = flags.map(|flags| (flags >> 5) & 0xf) {
            interface.frame_check_bytes = bytes;
        }
        let ticks = u64::from(endian.u32([h0, h1, h2, h3])) << 32 | u64::from(endian.u32([l0, l1, l2, l3]));
        self.last_time = interface
            .ticks
            .nanoseconds(ticks)
            .saturating_add(interface.offset_ns);
        self.frame(&interface, captured, endian.u32([w0, w1, w2, w3]), 28, length)
    }

    /// A simple packet block has no time: it gets that of the packet before it.
    fn simple_packet(&mut self, body: &[u8], length: usize) -> Step {
        let (Some((wire, rest)), Some(interface)) = (
            body.split_first_chunk::<4>(),
            self.interfaces.first().copied().flatten(),
        ) else {
            return Step::Bad(length);
        };
        let wire = self.endian.u32(*wire);
        let snaplen = if interface.snaplen == 0 {
            u32::MAX
        } else {
            interface.snaplen
        };
        let captured = wire.min(snaplen).min(rest.len() as u32);
        if captured > MAX_FRAME_BYTES {
            return Step::Bad(length);
        }
        self.frame(&interface, captured, wire, 12, length)
    }

    fn frame(&self, interface: &Interface, captured: u32, wire: u32, offset: u32, consumed: usize) -> Step {
        let wire_length = wire.max(captured).saturating_sub(interface.frame_check_bytes);
        let header = FrameHeader {
            time: self.last_time,
            offset,
            captured_length: captured.min(wire_length),
            wire_length,
            link_type: interface.link_type,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: None,
        };
        Step::Frame { header, consumed }
    }

    /// Where the next intact block of a known type starts.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).find(|&start| {
            let here = bytes.get(start..).unwrap_or_default();
            self.envelope(here).is_some_and(|envelope| {
                envelope.is_sane()
                    && envelope.is_known()
                    && envelope.length as usize <= MAX_READ_BLOCK
                    && envelope.body(here).is_some()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ticks;

    #[test]
    fn every_resolution_becomes_nanoseconds() {
        assert_eq!(Ticks::of_resolution(6).nanoseconds(1_500_000), 1_500_000_000);
        assert_eq!(Ticks::of_resolution(9).nanoseconds(7), 7);
        assert_eq!(Ticks::of_resolution(0).nanoseconds(3), 3_000_000_000);
        assert_eq!(Ticks::of_resolution(12).nanoseconds(5_999), 5);
        assert_eq!(
            Ticks::of_resolution(0x8a).nanoseconds(512),
            500_000_000,
            "2^-10 seconds"
        );
        assert_eq!(Ticks::of_resolution(0xff).nanoseconds(u64::MAX), 0);
        assert_eq!(Ticks::of_resolution(127).nanoseconds(u64::MAX), 1);
        assert_eq!(
            Ticks::of_resolution(0).nanoseconds(u64::MAX),
            i64::MAX,
            "saturates"
        );
    }
}
