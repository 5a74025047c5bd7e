//! Serial lines and the networks before Ethernet: PPP, HDLC, Frame Relay, ATM, ARCNET, token ring, 802.2 LLC.

use super::{Announced, Header};
use crate::cursor::Cursor;
use crate::decode::Trace;
use crate::malformed::Undecodable;

pub(super) fn ppp(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let mut first = cursor.u8()?;
    if first == 0xff {
        // RFC 1662 §3.1: address and control field.
        cursor.skip(1)?;
        first = cursor.u8()?;
    }
    // RFC 1661 §6.5: an odd first byte is a compressed protocol field.
    let protocol = if first & 1 == 1 {
        u16::from(first)
    } else {
        u16::from_be_bytes([first, cursor.u8()?])
    };
    match protocol {
        0x0021 => Ok(Header::Ip(Announced::V4)),
        0x0057 => Ok(Header::Ip(Announced::V6)),
        0x0281 | 0x0283 => Ok(Header::Mpls),
        0x0031 => bridged(cursor),
        _ => Err(Undecodable::NotIp),
    }
}

/// RFC 3518 §4.2: flags with the length of padding, the MAC type, perhaps a LAN identifier, then an Ethernet frame.
fn bridged(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [flags, kind] = cursor.array::<2>()?;
    if flags & 0x40 != 0 {
        cursor.skip(4)?;
    }
    // IEEE 802.3 with canonical addresses.
    if kind == 1 {
        Ok(Header::Ethernet)
    } else {
        Err(Undecodable::NotIp)
    }
}

/// PPP or Cisco HDLC: the first byte tells.
pub(super) fn ppp_or_hdlc(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    if matches!(cursor.rest().first(), Some(0x0f | 0x8f)) {
        hdlc(cursor)
    } else {
        Ok(Header::Ppp)
    }
}

/// Cisco HDLC: unicast 0f or broadcast 8f, control 00, `EtherType`.
pub(super) fn hdlc(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    cursor.skip(2)?;
    Ok(Header::EtherType(cursor.u16()?))
}

/// RFC 2427 on a Q.922 address of two to four bytes; or Cisco's encapsulation, an `EtherType`.
pub(super) fn frame_relay(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let mut address_ends = false;
    for _ in 0..4 {
        if cursor.u8()? & 1 == 1 {
            address_ends = true;
            break;
        }
    }
    if !address_ends {
        return Err(Undecodable::NotIp);
    }
    let control = cursor.u8()?;
    if control != 0x03 {
        return Ok(Header::EtherType(u16::from_be_bytes([control, cursor.u8()?])));
    }
    let mut identifier = cursor.u8()?;
    if identifier == 0 {
        identifier = cursor.u8()?;
    }
    match identifier {
        0xcc => Ok(Header::Ip(Announced::V4)),
        0x8e => Ok(Header::Ip(Announced::V6)),
        0x80 => match cursor.u24()? {
            0 => Ok(Header::EtherType(cursor.u16()?)),
            0x00_80c2 => match cursor.u16()? {
                0x0001 | 0x0007 => Ok(Header::Ethernet),
                _ => Err(Undecodable::NotIp),
            },
            _ => Err(Undecodable::NotIp),
        },
        _ => Err(Undecodable::NotIp),
    }
}

/// ARCNET: addresses, then a system code: RFC 1201 (with a split flag and a sequence number) or RFC 1051.
pub(super) fn arcnet(cursor: &mut Cursor<'_>, addresses: usize) -> Result<Header, Undecodable> {
    cursor.skip(addresses)?;
    let code = cursor.u8()?;
    match code {
        0xf0 => return Ok(Header::Ip(Announced::V4)),
        0xd4 | 0xc4 => (),
        _ => return Err(Undecodable::NotIp),
    }
    // RFC 1201 §2.1: a split flag of ff marks an exception packet, whose real header follows. An odd flag, or an even
    // one above 0, belongs to a packet in several frames: only the first (odd) has the IP header.
    let mut flag = cursor.u8()?;
    if flag == 0xff {
        cursor.skip(3)?;
        flag = cursor.u8()?;
    }
    if flag != 0 && flag & 1 == 0 {
        return Err(Undecodable::NotIp);
    }
    cursor.skip(2)?;
    Ok(Header::Ip(if code == 0xd4 {
        Announced::V4
    } else {
        Announced::V6
    }))
}

/// Solaris ATM: flags whose low bits tell the traffic (1: LAN emulation, 2: LLC), virtual path, virtual channel.
pub(super) fn sun_atm(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [flags, _, _, _] = cursor.array::<4>()?;
    match flags & 0x0f {
        // The LAN emulation client's identifier stands before the frame.
        1 => {
            cursor.skip(2)?;
            Ok(Header::Ethernet)
        }
        2 => Ok(Header::Llc),
        _ => Err(Undecodable::NotIp),
    }
}

/// IEEE 802.5: access control, frame control (01: an LLC frame), addresses, and routing information where the top bit
/// of the source address says so.
pub(super) fn token_ring<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    let [_, control] = cursor.array::<2>()?;
    let destination = cursor.array::<6>()?;
    let mut source = cursor.array::<6>()?;
    if control & 0xc0 != 0x40 {
        return Err(Undecodable::NotIp);
    }
    let [first, ..] = &mut source;
    let is_routed = *first & 0x80 != 0;
    *first &= 0x7f;
    trace.macs(source, Some(destination));
    if is_routed {
        let length = usize::from(cursor.u8()? & 0x1f);
        cursor.skip(length.checked_sub(1).ok_or(Undecodable::NotIp)?)?;
    }
    Ok(Header::Llc)
}
