//! Link layers: from a frame's first byte to its network header.
//!
//! Each header is one step of a bounded loop; a step takes its bytes from the cursor and says what comes next.

use crate::cursor::{Cursor, Short};
use crate::decode::{Trace, Tunnel};
use crate::malformed::Undecodable;
use crate::net;

/// The link types of capture files.
mod types;
/// IEEE 802.11.
mod wireless;
/// Serial lines and older networks.
mod serial;
/// Headers of operating systems and capture devices.
mod cooked;

pub use types::LinkType;
pub(crate) use wireless::{MacHeader, tzsp};

/// What an IP header was announced as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Either: the version field decides.
    Either,
}

/// The header that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The first header of a frame of this link type.
    Link(LinkType),
    /// Ethernet II or IEEE 802.3.
    Ethernet,
    /// What an `EtherType` announces.
    EtherType(u16),
    /// IEEE 802.2 LLC, SNAP among it.
    Llc,
    /// IEEE 802.11 MAC header.
    Ieee80211(MacHeader),
    /// PPP, starting at its protocol field or at FF 03.
    Ppp,
    /// MPLS label stack.
    Mpls,
    /// Network service header (RFC 8300).
    Nsh,
    /// IP.
    Ip(Announced),
}

/// Headers below IP that are passed over before giving up: tags, labels and nested links together.
const MAX_HEADERS: usize = 16;

/// Below this, the field behind the addresses of an Ethernet frame is a length (IEEE 802.3 §3.2.6).
const FIRST_ETHER_TYPE: u16 = 0x0600;

impl From<Short> for Undecodable {
    fn from(_: Short) -> Self {
        Self::TruncatedLink
    }
}

/// Passes over all headers below IP. The bytes returned are a suffix of `bytes` and start at the IP header.
#[inline]
pub(crate) fn to_network<'a, T: Trace>(
    mut header: Header,
    bytes: &'a [u8],
    trace: &mut T,
) -> Result<(Announced, &'a [u8]), Undecodable> {
    let mut cursor = Cursor::new(bytes);
    for _ in 0..MAX_HEADERS {
        header = match header {
            Header::Ip(announced) => return Ok((announced, cursor.rest())),
            Header::Ethernet | Header::Link(LinkType::ETHERNET) => ethernet(&mut cursor, trace)?,
            Header::EtherType(number) => ether_type(number, &mut cursor, trace)?,
            Header::Link(link_type) => link(link_type, &mut cursor, trace)?,
            Header::Llc => llc(&mut cursor)?,
            Header::Ieee80211(form) => wireless::ieee80211(&mut cursor, form, trace)?,
            Header::Ppp => serial::ppp(&mut cursor)?,
            Header::Mpls => mpls(&mut cursor, trace)?,
            Header::Nsh => nsh(&mut cursor)?,
        };
    }
    Err(Undecodable::TooManyHeaders)
}

#[inline]
fn ethernet<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    let destination = cursor.array::<6>()?;
    let source = cursor.array::<6>()?;
    trace.macs(source, Some(destination));
    let field = cursor.u16()?;
    if field >= FIRST_ETHER_TYPE {
        Ok(Header::EtherType(field))
    } else {
        ieee802_3(destination, cursor, trace)
    }
}

/// IEEE 802.3; but the destination of Cisco's Inter-Switch Link begins with a fixed address of 40 bits. Its header of
/// 26 bytes holds a VLAN id, and an Ethernet frame follows where the frame type in the destination's low bits is 0.
#[cold]
fn ieee802_3<T: Trace>(
    destination: [u8; 6],
    cursor: &mut Cursor<'_>,
    trace: &mut T,
) -> Result<Header, Undecodable> {
    match destination {
        [0x01 | 0x03, 0x00, 0x0c, 0x00, 0x00, kind] => {
            // SNAP and the high bits of the source.
            cursor.skip(6)?;
            let tag = cursor.u16()?;
            cursor.skip(4)?;
            if kind >> 4 != 0 {
                return Err(Undecodable::NotIp);
            }
            trace.vlan((tag >> 1) & 0x0fff);
            Ok(Header::Ethernet)
        }
        _ => Ok(Header::Llc),
    }
}

fn ether_type_or_length(field: u16) -> Header {
    if field >= FIRST_ETHER_TYPE {
        Header::EtherType(field)
    } else {
        Header::Llc
    }
}

#[inline]
fn ether_type<T: Trace>(number: u16, cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    Ok(match number {
        0x0800 => Header::Ip(Announced::V4),
        0x86dd => Header::Ip(Announced::V6),
        // IEEE 802.1Q and 802.1ad tags, and the numbers that were used before 802.1ad.
        0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => {
            trace.vlan(cursor.u16()? & 0x0fff);
            ether_type_or_length(cursor.u16()?)
        }
        0x8847 | 0x8848 => Header::Mpls,
        0x8864 => pppoe(cursor, trace)?,
        0x880b => Header::Ppp,
        // Transparent Ethernet bridging (RFC 1701).
        0x6558 => Header::Ethernet,
        // IEEE 802.1ah §9.7: the I-tag with the service instance in its low 24 bits, then the customer's frame.
        0x88e7 => {
            let tag = cursor.u32()?;
            trace.tunnel(Tunnel::Pbb, Some(u64::from(tag & 0x00ff_ffff)));
            Header::Ethernet
        }
        // IEEE 802.1BR E-tag.
        0x893f => {
            cursor.skip(6)?;
            ether_type_or_length(cursor.u16()?)
        }
        // VN-tag; and path, size and sequence number of a high-availability seamless ring (IEC 62439-3 §5.7).
        0x8926 | 0x892f => {
            cursor.skip(4)?;
            ether_type_or_length(cursor.u16()?)
        }
        // Cisco FabricPath: tag, then the customer's frame.
        0x8903 => {
            cursor.skip(2)?;
            Header::Ethernet
        }
        0x88e5 => macsec(cursor)?,
        0x894f => Header::Nsh,
        0x22f3 => trill(cursor)?,
        _ => return Err(Undecodable::NotIp),
    })
}

/// RFC 2516 §4: version and type 1, code 0 (session data).
fn pppoe<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    if cursor.u16()? != 0x1100 {
        return Err(Undecodable::NotIp);
    }
    let session = cursor.u16()?;
    cursor.skip(2)?;
    trace.tunnel(Tunnel::Pppoe, Some(u64::from(session)));
    Ok(Header::Ppp)
}

/// IEEE 802.1AE §9.3: only frames that are authenticated but not encrypted can be read.
fn macsec(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let control = cursor.u8()?;
    if control & 0x0c != 0 {
        return Err(Undecodable::NotIp);
    }
    cursor.skip(5)?;
    if control & 0x20 != 0 {
        cursor.skip(8)?;
    }
    Ok(ether_type_or_length(cursor.u16()?))
}

/// RFC 6325 §3: flags with the options' length in words, two nicknames, options, the customer's frame.
fn trill(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let flags = cursor.u16()?;
    cursor.skip(4)?;
    cursor.skip(usize::from((flags >> 6) & 0x1f) << 2)?;
    Ok(Header::Ethernet)
}

/// RFC 8300 §2.2: the length of the whole header in words, and the next protocol.
fn nsh(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let words = usize::from(cursor.u16()? & 0x3f);
    cursor.skip(1)?;
    let next = cursor.u8()?;
    cursor.skip((words << 2).saturating_sub(4))?;
    match next {
        1 => Ok(Header::Ip(Announced::V4)),
        2 => Ok(Header::Ip(Announced::V6)),
        3 => Ok(Header::Ethernet),
        5 => Ok(Header::Mpls),
        _ => Err(Undecodable::NotIp),
    }
}

fn llc(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    match cursor.array::<3>()? {
        // SNAP (IEEE 802 §9.2.3) with the OUI of RFC 1042 or of IEEE 802.1H; others are private.
        [0xaa, 0xaa, 0x03] => match cursor.u24()? {
            0x00_0000 | 0x00_00f8 => Ok(Header::EtherType(cursor.u16()?)),
            // Bridged Ethernet (RFC 2684 §5.2), with and without frame check sequence; two bytes of padding.
            0x00_80c2 => match cursor.u16()? {
                0x0001 | 0x0007 => {
                    cursor.skip(2)?;
                    Ok(Header::Ethernet)
                }
                _ => Err(Undecodable::NotIp),
            },
            _ => Err(Undecodable::NotIp),
        },
        // IP directly on LLC.
        [0x06, 0x06, 0x03] => Ok(Header::Ip(Announced::V4)),
        _ => Err(Undecodable::NotIp),
    }
}

/// RFC 3032. What an MPLS stack carries is not announced: the first nibble tells (RFC 4928 §3).
fn mpls<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    // The label of the bottom of the stack names the service.
    let mut bottom = cursor.u32()?;
    for _ in 1..MAX_HEADERS {
        if bottom & 0x100 != 0 {
            break;
        }
        bottom = cursor.u32()?;
    }
    if bottom & 0x100 == 0 {
        return Err(Undecodable::TooManyHeaders);
    }
    trace.tunnel(Tunnel::Mpls, Some(u64::from(bottom >> 12)));
    let bytes = cursor.rest();
    match bytes.first().ok_or(Undecodable::TruncatedLink)? >> 4 {
        // RFC 8469: so does the frame of a pseudowire without control word whose first address begins with such a digit.
        4 | 6 if is_ethernet_in_place_of_ip(bytes) => Ok(Header::Ethernet),
        4 => Ok(Header::Ip(Announced::V4)),
        6 => Ok(Header::Ip(Announced::V6)),
        // RFC 4385 §5: an associated channel.
        1 => Err(Undecodable::NotIp),
        // RFC 4448 §4.6: a pseudowire's control word begins with four zero bits; so do many MAC addresses. Where the
        // frame stands shows by its `EtherType`.
        0 if !is_ethernet_at(bytes, 0) && is_ethernet_at(bytes, 4) => {
            cursor.skip(4)?;
            Ok(Header::Ethernet)
        }
        0 if bytes.starts_with(&[0, 0]) && !is_ethernet_at(bytes, 0) => {
            cursor.skip(4)?;
            Ok(Header::Ethernet)
        }
        _ => Ok(Header::Ethernet),
    }
}

/// Whether bytes that begin with an IP version's digit are an Ethernet frame: then a packet stands behind its `EtherType`,
/// or behind that of a tag, and ends where the frame does. Read as IP they are no packet, or one that ends before.
fn is_ethernet_in_place_of_ip(bytes: &[u8]) -> bool {
    let end_of = |offset: usize| {
        let length = net::well_formed_length(bytes.get(offset..)?)?;
        Some(offset.saturating_add(length))
    };
    is_ethernet_at(bytes, 0)
        && end_of(14)
            .or_else(|| end_of(18))
            .is_some_and(|end| Some(end) > end_of(0))
}

/// Whether an Ethernet header with an `EtherType` that leads on to IP stands at `offset`.
pub(crate) fn is_ethernet_at(bytes: &[u8], offset: usize) -> bool {
    let field = offset.saturating_add(12);
    match bytes.get(field..field.saturating_add(2)) {
        Some(&[high, low]) => matches!(
            u16::from_be_bytes([high, low]),
            0x0800 | 0x86dd | 0x8100 | 0x88a8 | 0x9100 | 0x8847 | 0x8848 | 0x8864
        ),
        _ => false,
    }
}

/// The first header of each link type but Ethernet.
fn link<T: Trace>(
    link_type: LinkType,
    cursor: &mut Cursor<'_>,
    trace: &mut T,
) -> Result<Header, Undecodable> {
    match link_type {
        LinkType::NULL | LinkType::LOOP => {
            let family = cursor.u32()?;
            // NULL is in the byte order of whoever wrote the file; families are small numbers.
            cooked::address_family(if family > 0xffff {
                family.swap_bytes()
            } else {
                family
            })
        }
        LinkType::RAW | LinkType::DLT_RAW | LinkType::DLT_RAW_OPENBSD | LinkType::ATM_CLIP => {
            Ok(Header::Ip(Announced::Either))
        }
        LinkType::IPV4 => Ok(Header::Ip(Announced::V4)),
        LinkType::IPV6 => Ok(Header::Ip(Announced::V6)),
        LinkType::LINUX_SLL => cooked::sll(cursor, trace),
        LinkType::LINUX_SLL2 => cooked::sll2(cursor, trace),
        LinkType::PPP | LinkType::PPP_HDLC => serial::ppp_or_hdlc(cursor),
        LinkType::PPP_ETHER => pppoe(cursor, trace),
        LinkType::PPP_WITH_DIR => {
            cursor.skip(1)?;
            serial::ppp_or_hdlc(cursor)
        }
        LinkType::PPP_PPPD => {
            // The address byte tells the direction; the control byte follows.
            cursor.skip(2)?;
            Ok(Header::Ppp)
        }
        LinkType::C_HDLC => serial::hdlc(cursor),
        LinkType::C_HDLC_WITH_DIR => {
            cursor.skip(1)?;
            serial::hdlc(cursor)
        }
        LinkType::FRELAY => serial::frame_relay(cursor),
        LinkType::FRELAY_WITH_DIR => {
            cursor.skip(1)?;
            serial::frame_relay(cursor)
        }
        LinkType::MPLS => Ok(Header::Mpls),
        LinkType::IEEE802_11 => Ok(Header::Ieee80211(MacHeader::Plain)),
        LinkType::IEEE802_11_RADIOTAP => wireless::radiotap(cursor),
        LinkType::IEEE802_11_PRISM | LinkType::IEEE802_11_AVS => wireless::prism(cursor),
        LinkType::PPI => wireless::ppi(cursor),
        LinkType::TZSP => tzsp(cursor),
        LinkType::IPOIB => {
            // RFC 4391 §6: what stands for the global routing header, then an `EtherType` and two reserved bytes.
            cursor.skip(40)?;
            let number = cursor.u16()?;
            cursor.skip(2)?;
            Ok(Header::EtherType(number))
        }
        LinkType::FDDI => {
            cursor.skip(1)?;
            let destination = cursor.array::<6>()?;
            trace.macs(cursor.array::<6>()?, Some(destination));
            Ok(Header::Llc)
        }
        LinkType::IEEE802_5 => serial::token_ring(cursor, trace),
        LinkType::IP_OVER_FC => {
            // RFC 2625 §3.3: two addresses of 8 bytes, the lower 6 of which are a MAC address.
            cursor.skip(2)?;
            let destination = cursor.array::<6>()?;
            cursor.skip(2)?;
            trace.macs(cursor.array::<6>()?, Some(destination));
            Ok(Header::Llc)
        }
        LinkType::APPLE_IP_OVER_IEEE1394 => {
            cursor.skip(16)?;
            Ok(Header::EtherType(cursor.u16()?))
        }
        LinkType::ATM_RFC1483 => Ok(Header::Llc),
        LinkType::SUNATM => serial::sun_atm(cursor),
        LinkType::ARCNET_BSD => serial::arcnet(cursor, 2),
        LinkType::ARCNET_LINUX => serial::arcnet(cursor, 4),
        LinkType::SLIP => {
            cursor.skip(16)?;
            Ok(Header::Ip(Announced::Either))
        }
        LinkType::ENC => {
            cursor.skip(12)?;
            Ok(Header::Ip(Announced::Either))
        }
        LinkType::PFLOG => {
            let length = usize::from(cursor.u8()?).next_multiple_of(4);
            cursor.skip(length.saturating_sub(1))?;
            Ok(Header::Ip(Announced::Either))
        }
        LinkType::IPNET => {
            cursor.skip(24)?;
            Ok(Header::Ip(Announced::Either))
        }
        LinkType::NFLOG => cooked::nflog(cursor),
        LinkType::PKTAP => cooked::pktap(cursor),
        LinkType::ERF | LinkType::ERF_ETH | LinkType::ERF_POS => cooked::erf(cursor),
        LinkType::JUNIPER_ETHER
        | LinkType::JUNIPER_PPP
        | LinkType::JUNIPER_FRELAY
        | LinkType::JUNIPER_CHDLC => cooked::juniper(cursor, link_type),
        LinkType::DOCSIS => cooked::docsis(cursor),
        LinkType::NETANALYZER_TRANSPARENT => {
            cursor.skip(4)?;
            cooked::mpacket(cursor)
        }
        LinkType::ETHERNET_MPACKET => cooked::mpacket(cursor),
        LinkType::DSA_TAG_BRCM => cooked::broadcom(cursor, trace),
        LinkType::NETANALYZER | LinkType::DSA_TAG_BRCM_PREPEND => {
            cursor.skip(4)?;
            Ok(Header::Ethernet)
        }
        LinkType::DSA_TAG_DSA => cooked::marvell(cursor, false, trace),
        LinkType::DSA_TAG_EDSA => cooked::marvell(cursor, true, trace),
        _ => Err(Undecodable::UnsupportedLinkType),
    }
}
