//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with the extension headers behind them.

use crate::checksum;
use crate::column::Address;
use crate::cursor::{Cursor, Short};
use crate::decode::Fragment;
use crate::link::Announced;
use crate::malformed::Undecodable;

/// Extension headers that are passed over before the packet is taken as it stands.
const MAX_EXTENSIONS: usize = 16;

/// IP protocol numbers of headers that stand between IP and the transport.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const NONE: u8 = 59;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// An IP packet down to its transport header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<'a> {
    /// 4 or 6.
    pub(crate) version: u8,
    /// Source address.
    pub(crate) source: Address,
    /// Destination address.
    pub(crate) destination: Address,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// What `body` is: the protocol of the last header of the chain.
    pub(crate) protocol: u8,
    /// Length of the whole packet in bytes; the room in the frame where the header says 0.
    pub(crate) length: u32,
    /// Whether `length` stands in the header (not 0).
    pub(crate) length_stated: bool,
    /// The IPv4 header with options; empty for IPv6, which has no checksum.
    pub(crate) header: &'a [u8],
    /// What follows the headers, as far as captured and not beyond `length`.
    pub(crate) body: &'a [u8],
    /// Length of the body on the wire.
    pub(crate) body_length: u32,
    /// Where the packet is a fragment.
    pub(crate) fragment: Option<Fragment>,
    /// The captured bytes, or the packet, end inside the extension header that `protocol` names.
    pub(crate) chain_cut: bool,
    /// Whether the addresses are those of the transport's pseudo header: not so on the way of a source route
    /// (RFC 8200 §8.1) and not from a mobile node (RFC 6275 §11.3.1).
    pub(crate) addresses_final: bool,
}

/// Reads the IP header at the start of `bytes`, which has `room` bytes on the wire.
#[inline]
pub(crate) fn parse(announced: Announced, bytes: &[u8], room: u32) -> Result<Network<'_>, Undecodable> {
    let version = bytes.first().ok_or(Undecodable::TruncatedIp)? >> 4;
    match (version, announced) {
        (4, Announced::V4 | Announced::Either) => ipv4(bytes, room),
        (6, Announced::V6 | Announced::Either) => ipv6(bytes, room),
        _ => Err(Undecodable::BadIpVersion),
    }
}

/// The length of the packet at the start of `bytes`, if it ends within them and, in version 4, its header's checksum is
/// right.
pub(crate) fn well_formed_length(bytes: &[u8]) -> Option<usize> {
    let network = parse(Announced::Either, bytes, 0).ok()?;
    let length = Some(network.length as usize).filter(|length| *length <= bytes.len())?;
    let is_right = network.version == 6 || checksum::agrees(checksum::sum(network.header));
    (network.length_stated && is_right).then_some(length)
}

#[inline]
fn ipv4(bytes: &[u8], room: u32) -> Result<Network<'_>, Undecodable> {
    let fixed = bytes.first_chunk::<20>().ok_or(Undecodable::TruncatedIp)?;
    let [
        first,
        _,
        l0,
        l1,
        i0,
        i1,
        f0,
        f1,
        ttl,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *fixed;
    let header_length = u32::from(first & 0x0f) << 2;
    let stated = u32::from(u16::from_be_bytes([l0, l1]));
    // A total length of 0 is what segmentation offload leaves; the frame tells how long the packet is.
    let length = if stated == 0 {
        room.max(header_length)
    } else {
        stated
    };
    if header_length < 20 || length < header_length {
        return Err(Undecodable::BadIpHeaderLength);
    }
    let packet = bytes.get(..length as usize).unwrap_or(bytes);
    let (header, body) = packet
        .split_at_checked(header_length as usize)
        .ok_or(Undecodable::TruncatedIp)?;
    let flags = u16::from_be_bytes([f0, f1]);
    let (offset, more) = (u32::from(flags & 0x1fff) << 3, flags & 0x2000 != 0);
    let fragment = (offset != 0 || more).then(|| Fragment {
        identification: u32::from(u16::from_be_bytes([i0, i1])),
        offset,
        length: length.saturating_sub(header_length),
        more,
    });
    let mut network = Network {
        version: 4,
        source: Address::v4([s0, s1, s2, s3]),
        destination: Address::v4([d0, d1, d2, d3]),
        ttl,
        protocol,
        length,
        length_stated: stated != 0,
        header,
        body,
        body_length: length.saturating_sub(header_length),
        fragment,
        chain_cut: false,
        addresses_final: header_length == 20 || !is_source_routed(header),
    };
    if protocol == extension::AUTHENTICATION {
        network.pass_extensions();
    }
    Ok(network)
}

/// Whether an IPv4 header has a source route option (RFC 791 §3.1), loose 131 or strict 137.
fn is_source_routed(header: &[u8]) -> bool {
    let mut options = Cursor::new(header.get(20..).unwrap_or_default());
    while let Ok(kind) = options.u8() {
        match kind {
            131 | 137 => return true,
            0 => return false,
            1 => (),
            _ => {
                let length = usize::from(options.u8().unwrap_or_default());
                if options.skip(length.saturating_sub(2)).is_err() {
                    return false;
                }
            }
        }
    }
    false
}

fn ipv6(bytes: &[u8], room: u32) -> Result<Network<'_>, Undecodable> {
    let (fixed, rest) = bytes.split_first_chunk::<40>().ok_or(Undecodable::TruncatedIp)?;
    let mut cursor = Cursor::new(fixed);
    cursor.skip(4)?;
    let payload = u32::from(cursor.u16()?);
    let (protocol, ttl) = (cursor.u8()?, cursor.u8()?);
    let (source, destination) = (Address(cursor.array()?), Address(cursor.array()?));
    let jumbo = if payload == 0 && protocol == extension::HOP_BY_HOP {
        jumbo_payload(rest)
    } else {
        None
    };
    // Payload length 0 means nothing only where no header follows; else it is segmentation offload.
    let stated = jumbo.unwrap_or(payload);
    let stated_at_all = stated != 0 || protocol == extension::NONE;
    let body_length = if stated_at_all {
        stated
    } else {
        room.saturating_sub(40)
    };
    let mut network = Network {
        version: 6,
        source,
        destination,
        ttl,
        protocol,
        length: body_length.saturating_add(40),
        length_stated: stated_at_all,
        header: &[],
        body: rest.get(..body_length as usize).unwrap_or(rest),
        body_length,
        fragment: None,
        chain_cut: false,
        addresses_final: true,
    };
    network.pass_extensions();
    Ok(network)
}

/// The jumbo payload option (RFC 2675 §2) of the hop-by-hop options header at the start of `bytes`.
fn jumbo_payload(bytes: &[u8]) -> Option<u32> {
    let mut header = Cursor::new(bytes);
    let _next_header = header.u8().ok()?;
    let length = usize::from(header.u8().ok()?).checked_add(1)?.checked_mul(8)?;
    let mut options = header.sub(length.checked_sub(2)?).ok()?;
    while let Ok(kind) = options.u8() {
        if kind == 0 {
            continue;
        }
        let length = options.u8().ok()?;
        if kind == 0xc2 && length == 4 {
            return options.u32().ok();
        }
        options.skip(usize::from(length)).ok()?;
    }
    None
}

impl Network<'_> {
    /// Passes over the extension headers at the start of the body.
    fn pass_extensions(&mut self) {
        for _ in 0..MAX_EXTENSIONS {
            let is_extension = match self.protocol {
                extension::HOP_BY_HOP
                | extension::ROUTING
                | extension::FRAGMENT
                | extension::DESTINATION
                | extension::MOBILITY
                | extension::HOST_IDENTITY
                | extension::SHIM6 => self.version == 6,
                extension::AUTHENTICATION => true,
                _ => false,
            };
            if !is_extension || self.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return;
            }
            match self.pass_extension() {
                Ok(true) => (),
                Ok(false) => return,
                Err(Short) => {
                    self.chain_cut = true;
                    return;
                }
            }
        }
    }

    /// Passes over one extension header; false where it is the last.
    fn pass_extension(&mut self) -> Result<bool, Short> {
        let mut cursor = Cursor::new(self.body);
        let next = cursor.u8()?;
        let size = cursor.u8()?;
        let length = match self.protocol {
            extension::FRAGMENT => 8,
            // RFC 4302 §2.2: in words, less 2; all others in units of 8 bytes, less 1.
            extension::AUTHENTICATION => usize::from(size).wrapping_add(2) << 2,
            _ => usize::from(size).wrapping_add(1) << 3,
        };
        let mut header = Cursor::new(self.body).sub(length)?;
        header.skip(2)?;
        match self.protocol {
            extension::FRAGMENT => {
                let field = header.u16()?;
                let (offset, more) = (u32::from(field & 0xfff8), field & 1 != 0);
                // RFC 6946: offset 0 without more is a whole packet that merely has a fragment header.
                if offset != 0 || more {
                    self.fragment = Some(Fragment {
                        identification: header.u32()?,
                        offset,
                        length: self.body_length.saturating_sub(length as u32),
                        more,
                    });
                }
            }
            extension::ROUTING => {
                header.skip(1)?;
                let segments_left = header.u8()?;
                self.addresses_final &= segments_left == 0;
            }
            // It may hold the home address that replaces the source.
            extension::DESTINATION => self.addresses_final = false,
            // These carry their own message; what they are is the packet's protocol, unless something follows.
            extension::MOBILITY | extension::HOST_IDENTITY | extension::SHIM6 if next == extension::NONE => {
                return Ok(false);
            }
            _ => (),
        }
        self.protocol = next;
        self.body = self.body.get(length..).unwrap_or_default();
        self.body_length = self.body_length.saturating_sub(length as u32);
        Ok(true)
    }
}
