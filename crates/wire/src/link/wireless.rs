//! IEEE 802.11 frames and the headers that capturing programs put before them.

use super::{Header, LinkType};
use crate::cursor::{Cursor, Short};
use crate::decode::Trace;
use crate::malformed::Undecodable;

/// How an 802.11 MAC header differs from the standard's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MacHeader {
    /// Not at all.
    Plain,
    /// It is padded to a multiple of 4 bytes (radiotap says so).
    Padded,
    /// Its fields of 16 bits may be big-endian, as some controllers send them (CAPWAP).
    PerhapsSwapped,
}

/// IEEE 802.11-2020 §9.3.2: data frames that are not encrypted.
pub(super) fn ieee80211<T: Trace>(
    cursor: &mut Cursor<'_>,
    form: MacHeader,
    trace: &mut T,
) -> Result<Header, Undecodable> {
    let before = cursor.len();
    let [mut control, mut flags] = cursor.array::<2>()?;
    // Version 0 and type 2 stand in the low four bits of a data frame's first byte.
    let swapped = form == MacHeader::PerhapsSwapped && control & 0x0f != 0x08;
    if swapped {
        (control, flags) = (flags, control);
    }
    let (version, kind, subtype) = (control & 0x03, (control >> 2) & 0x03, control >> 4);
    // Management and control frames, and data frames without data (subtype bit 2), carry no IP.
    if version != 0 || kind != 2 || subtype & 0x04 != 0 || flags & 0x40 != 0 {
        return Err(Undecodable::NotIp);
    }
    cursor.skip(2)?;
    let (first, second, third) = (cursor.array::<6>()?, cursor.array::<6>()?, cursor.array::<6>()?);
    let sequence = cursor.u16()?;
    // A later fragment (the low bits of the first byte, the field being little-endian) has no LLC header.
    if sequence & (if swapped { 0x000f } else { 0x0f00 }) != 0 {
        return Err(Undecodable::NotIp);
    }
    // §9.3.2.1, table 9-30: which address is whose depends on the two DS bits.
    let (destination, source) = match flags & 0x03 {
        0 => (first, second),
        1 => (third, second),
        2 => (first, third),
        _ => (third, cursor.array::<6>()?),
    };
    trace.macs(source, Some(destination));
    let mut aggregated = false;
    if subtype & 0x08 != 0 {
        let [quality, _] = cursor.array::<2>()?;
        aggregated = quality & 0x80 != 0;
        if flags & 0x80 != 0 {
            cursor.skip(4)?;
        }
    }
    if form == MacHeader::Padded {
        // Without padding the header is an even number of bytes.
        cursor.skip(before.saturating_sub(cursor.len()) & 2)?;
    }
    if aggregated {
        // A-MSDU: the first subframe is read.
        cursor.skip(14)?;
    }
    Ok(Header::Llc)
}

/// Radiotap (<https://www.radiotap.org>), little-endian: of its fields only the flag matters that says that the MAC
/// header is padded to a multiple of 4 bytes.
pub(super) fn radiotap(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [_, _, low, high] = cursor.array::<4>()?;
    let length = usize::from(u16::from_le_bytes([low, high]));
    let mut fields = cursor.sub(length.checked_sub(4).ok_or(Undecodable::NotIp)?)?;
    let padded = radiotap_flags(&mut fields).is_ok_and(|flags| flags & 0x20 != 0);
    Ok(Header::Ieee80211(if padded {
        MacHeader::Padded
    } else {
        MacHeader::Plain
    }))
}

/// The flags field of a radiotap header, which starts with one or more presence words; 0 where it is absent.
fn radiotap_flags(fields: &mut Cursor<'_>) -> Result<u8, Short> {
    let present = u32::from_le_bytes(fields.array()?);
    let mut word = present;
    // The fields start 4 bytes into the header plus the presence words.
    let mut offset = 8_usize;
    while word & 0x8000_0000 != 0 {
        word = u32::from_le_bytes(fields.array()?);
        offset = offset.wrapping_add(4);
    }
    if present & 0x02 == 0 {
        return Ok(0);
    }
    if present & 0x01 != 0 {
        // The 64-bit time is aligned to its size.
        fields.skip(offset & 4)?;
        fields.skip(8)?;
    }
    fields.u8()
}

/// Per-packet information: flags, length and the link type, little-endian.
pub(super) fn ppi(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [_, _, low, high] = cursor.array::<4>()?;
    let link_type = LinkType(u32::from_le_bytes(cursor.array()?));
    let length = usize::from(u16::from_le_bytes([low, high]));
    cursor.skip(length.checked_sub(8).ok_or(Undecodable::NotIp)?)?;
    Ok(Header::Link(link_type))
}

/// A Prism header of 144 bytes, or an AVS header that carries its length.
pub(super) fn prism(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    // The AVS magic names its version in the low bits; the length that follows counts from the magic.
    if cursor.u32()? & 0xffff_f000 == 0x8021_1000 {
        let length = cursor.u32()? as usize;
        cursor.skip(length.checked_sub(8).ok_or(Undecodable::NotIp)?)?;
    } else {
        cursor.skip(140)?;
    }
    Ok(Header::Ieee80211(MacHeader::Plain))
}

/// Tazmen Sniffer Protocol: version 1, type, encapsulated protocol, then tags up to the end tag (1); 0 is padding.
pub(crate) fn tzsp(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [version, kind] = cursor.array::<2>()?;
    let protocol = cursor.u16()?;
    // Received packets and packets for transmission; all else has no frame.
    if version != 1 || kind > 1 {
        return Err(Undecodable::NotIp);
    }
    for _ in 0..64 {
        match cursor.u8()? {
            0 => (),
            1 => {
                return Ok(match protocol {
                    1 => Header::Ethernet,
                    18 => Header::Ieee80211(MacHeader::Plain),
                    119 => Header::Link(LinkType::IEEE802_11_PRISM),
                    127 => Header::Link(LinkType::IEEE802_11_AVS),
                    _ => return Err(Undecodable::NotIp),
                });
            }
            _ => {
                let length = cursor.u8()?;
                cursor.skip(usize::from(length))?;
            }
        }
    }
    Err(Undecodable::TooManyHeaders)
}
