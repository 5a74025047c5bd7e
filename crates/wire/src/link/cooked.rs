//! Headers that an operating system or a capture device puts before a packet.

use super::{Announced, Header, LinkType, ether_type_or_length};
use crate::cursor::Cursor;
use crate::decode::Trace;
use crate::malformed::Undecodable;

/// The BSD address families: IPv4 is 2 everywhere, IPv6 has a number of its own on each system.
pub(super) fn address_family(family: u32) -> Result<Header, Undecodable> {
    match family {
        2 => Ok(Header::Ip(Announced::V4)),
        10 | 23 | 24 | 26 | 28 | 30 => Ok(Header::Ip(Announced::V6)),
        _ => Err(Undecodable::NotIp),
    }
}

/// Linux cooked capture (<https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>): the protocol field is an
/// `EtherType` but for a few device types, none of which carries IP.
fn cooked(device: u16, protocol: u16) -> Result<Header, Undecodable> {
    match (device, protocol) {
        // Netlink, and 802.11 with radiotap, where the field means something else.
        (824, _) => Err(Undecodable::NotIp),
        (803, _) => Ok(Header::Link(LinkType::IEEE802_11_RADIOTAP)),
        (_, 0x0004) => Ok(Header::Llc),
        (_, protocol) => Ok(Header::EtherType(protocol)),
    }
}

pub(super) fn sll<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    cursor.skip(2)?;
    let device = cursor.u16()?;
    let length = cursor.u16()?;
    let address = cursor.array::<6>()?;
    cursor.skip(2)?;
    sender(device, length, address, trace);
    cooked(device, cursor.u16()?)
}

pub(super) fn sll2<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    let protocol = cursor.u16()?;
    cursor.skip(6)?;
    let device = cursor.u16()?;
    cursor.skip(1)?;
    let length = u16::from(cursor.u8()?);
    let address = cursor.array::<6>()?;
    cursor.skip(2)?;
    sender(device, length, address, trace);
    cooked(device, protocol)
}

/// A cooked header has the sender's address only; ARPHRD 1 is Ethernet, 772 the loopback.
fn sender<T: Trace>(device: u16, length: u16, address: [u8; 6], trace: &mut T) {
    if matches!(device, 1 | 772) && length == 6 {
        trace.macs(address, None);
    }
}

/// Netfilter log: a family, then attributes in the host's byte order (little-endian assumed); 9 is the packet.
pub(super) fn nflog(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let family = cursor.u8()?;
    cursor.skip(3)?;
    for _ in 0..32 {
        let length = usize::from(u16::from_le_bytes(cursor.array()?));
        let kind = u16::from_le_bytes(cursor.array()?);
        if kind & 0x7fff == 9 {
            return address_family(u32::from(family));
        }
        let value = length.checked_sub(4).ok_or(Undecodable::NotIp)?;
        cursor.skip(value.next_multiple_of(4))?;
    }
    Err(Undecodable::TooManyHeaders)
}

/// Apple's packet metadata, little-endian: the length of the header, the type of what follows it, its link type.
pub(super) fn pktap(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let length = u32::from_le_bytes(cursor.array()?) as usize;
    let _record_type = cursor.u32()?;
    let link_type = LinkType(u32::from_le_bytes(cursor.array()?));
    cursor.skip(length.checked_sub(12).ok_or(Undecodable::NotIp)?)?;
    Ok(Header::Link(link_type))
}

/// An Endace record header: time (8 bytes), type, flags, record length, loss counter, wire length; then extension
/// headers of 8 bytes as long as the top bit of the type, or of the extension before, is set.
pub(super) fn erf(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    cursor.skip(8)?;
    let kind = cursor.u8()?;
    cursor.skip(7)?;
    let mut extended = kind & 0x80 != 0;
    for _ in 0..16 {
        if !extended {
            break;
        }
        let [first, ..] = cursor.array::<8>()?;
        extended = first & 0x80 != 0;
    }
    match kind & 0x7f {
        // HDLC over SONET: plain, with a colour, with one of the stream module, with a colour and a hash. What follows the
        // header is the same.
        1 | 10 | 15 | 19 => Ok(Header::Link(LinkType::PPP_HDLC)),
        // Ethernet: the same four, behind an offset byte and a padding byte.
        2 | 11 | 16 | 20 => {
            cursor.skip(2)?;
            Ok(Header::Ethernet)
        }
        22 => Ok(Header::Ip(Announced::V4)),
        23 => Ok(Header::Ip(Announced::V6)),
        _ => Err(Undecodable::NotIp),
    }
}

/// Juniper: a magic number, flags, perhaps an extension with its length; then the link layer's header, unless a flag
/// says that it was taken off: then there are four bytes of protocol in its place.
pub(super) fn juniper(cursor: &mut Cursor<'_>, link_type: LinkType) -> Result<Header, Undecodable> {
    if cursor.u24()? != 0x004d_4743 {
        return Err(Undecodable::NotIp);
    }
    let flags = cursor.u8()?;
    if flags & 0x80 != 0 {
        let length = cursor.u16()?;
        cursor.skip(usize::from(length))?;
    }
    if flags & 0x02 != 0 {
        cursor.skip(4)?;
        return Ok(Header::Ip(Announced::Either));
    }
    Ok(match link_type {
        LinkType::JUNIPER_ETHER => Header::Ethernet,
        LinkType::JUNIPER_PPP => Header::Ppp,
        LinkType::JUNIPER_FRELAY => Header::Link(LinkType::FRELAY),
        _ => Header::Link(LinkType::C_HDLC),
    })
}

/// Broadcom's switch tag of 4 bytes behind the addresses.
pub(super) fn broadcom<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    let destination = cursor.array::<6>()?;
    trace.macs(cursor.array::<6>()?, Some(destination));
    cursor.skip(4)?;
    Ok(ether_type_or_length(cursor.u16()?))
}

/// Marvell's switch tag of 4 bytes, 8 where the extension bit is set: in place of an 802.1Q tag, or behind an
/// `EtherType` of its own and two bytes (`with_type`).
pub(super) fn marvell<T: Trace>(
    cursor: &mut Cursor<'_>,
    with_type: bool,
    trace: &mut T,
) -> Result<Header, Undecodable> {
    let destination = cursor.array::<6>()?;
    trace.macs(cursor.array::<6>()?, Some(destination));
    if with_type {
        cursor.skip(4)?;
    }
    let [_, _, priority, _] = cursor.array::<4>()?;
    if priority & 0x10 != 0 {
        cursor.skip(4)?;
    }
    Ok(ether_type_or_length(cursor.u16()?))
}

/// IEEE 802.3br §99.3: a preamble and a start delimiter; express frames and whole preemptable ones can be told by it.
pub(super) fn mpacket(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [.., delimiter] = cursor.array::<8>()?;
    // SMD-E; everything else begins or continues a frame that may come in parts.
    if delimiter == 0xd5 {
        Ok(Header::Ethernet)
    } else {
        Err(Undecodable::NotIp)
    }
}

/// DOCSIS MAC: frame control, a parameter, the length, perhaps an extended header, a check sequence; then the frame of
/// a packet data unit (type 0).
pub(super) fn docsis(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [control, parameter, _, _] = cursor.array::<4>()?;
    if control & 0xfe != 0 {
        return Err(Undecodable::NotIp);
    }
    if control & 1 != 0 {
        cursor.skip(usize::from(parameter))?;
    }
    cursor.skip(2)?;
    Ok(Header::Ethernet)
}
