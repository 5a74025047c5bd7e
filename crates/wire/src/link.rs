//! Link layers: from a frame's first byte to its network header.
//!
//! Each header is one step of a bounded loop; a step takes its bytes from the cursor and says what comes next.

use crate::cursor::{Cursor, Short};
use crate::decode::{Trace, Tunnel};
use crate::malformed::Undecodable;

/// A LINKTYPE number as in pcap and pcapng files (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkType(pub u32);

/// Declares the link types that are read, each with its LINKTYPE number and name.
macro_rules! link_types {
    ($($(#[doc = $doc:literal])+ $constant:ident = $number:literal, $name:literal;)+) => {
        impl LinkType {
            $($(#[doc = $doc])+ pub const $constant: Self = Self($number);)+

            /// Every link type that is read.
            pub const SUPPORTED: &'static [Self] = &[$(Self::$constant,)+];

            /// The registered name of a link type that is read.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)+
                    _ => None,
                }
            }
        }
    };
}

link_types! {
    /// BSD loopback: the address family in the writer's byte order.
    NULL = 0, "NULL";
    /// Ethernet.
    ETHERNET = 1, "ETHERNET";
    /// ARCNET as in BSD.
    ARCNET_BSD = 7, "ARCNET_BSD";
    /// SLIP with a 16-byte header of the capturing library.
    SLIP = 8, "SLIP";
    /// PPP, with or without HDLC framing.
    PPP = 9, "PPP";
    /// FDDI.
    FDDI = 10, "FDDI";
    /// Raw IP, as some systems number it in files.
    DLT_RAW = 12, "RAW";
    /// Raw IP, as OpenBSD numbers it.
    DLT_RAW_OPENBSD = 14, "RAW";
    /// PPP in HDLC-like framing (RFC 1662), or Cisco HDLC.
    PPP_HDLC = 50, "PPP_HDLC";
    /// PPP over Ethernet, starting at its own header.
    PPP_ETHER = 51, "PPP_ETHER";
    /// ATM, LLC encapsulation (RFC 1483).
    ATM_RFC1483 = 100, "ATM_RFC1483";
    /// Raw IPv4 or IPv6.
    RAW = 101, "RAW";
    /// Cisco HDLC.
    C_HDLC = 104, "C_HDLC";
    /// IEEE 802.11.
    IEEE802_11 = 105, "IEEE802_11";
    /// Linux classical IP over ATM.
    ATM_CLIP = 106, "ATM_CLIP";
    /// Frame Relay.
    FRELAY = 107, "FRELAY";
    /// OpenBSD loopback: the address family in network order.
    LOOP = 108, "LOOP";
    /// OpenBSD encapsulated IP.
    ENC = 109, "ENC";
    /// Linux cooked capture.
    LINUX_SLL = 113, "LINUX_SLL";
    /// OpenBSD packet filter log.
    PFLOG = 117, "PFLOG";
    /// IEEE 802.11 behind a Prism header.
    IEEE802_11_PRISM = 119, "IEEE802_11_PRISM";
    /// IEEE 802.11 behind a radiotap header.
    IEEE802_11_RADIOTAP = 127, "IEEE802_11_RADIOTAP";
    /// ARCNET as in Linux.
    ARCNET_LINUX = 129, "ARCNET_LINUX";
    /// IEEE 802.11 behind an AVS header.
    IEEE802_11_AVS = 163, "IEEE802_11_AVS";
    /// Per-packet information, then the link type that it names.
    PPI = 192, "PPI";
    /// PPP behind a direction byte.
    PPP_WITH_DIR = 204, "PPP_WITH_DIR";
    /// Cisco HDLC behind a direction byte.
    C_HDLC_WITH_DIR = 205, "C_HDLC_WITH_DIR";
    /// Frame Relay behind a direction byte.
    FRELAY_WITH_DIR = 206, "FRELAY_WITH_DIR";
    /// Solaris ipnet.
    IPNET = 226, "IPNET";
    /// Raw IPv4.
    IPV4 = 228, "IPV4";
    /// Raw IPv6.
    IPV6 = 229, "IPV6";
    /// Linux netfilter log.
    NFLOG = 239, "NFLOG";
    /// Linux cooked capture, version 2.
    LINUX_SLL2 = 276, "LINUX_SLL2";
    /// Ethernet with a Broadcom switch tag behind the addresses.
    DSA_TAG_BRCM = 281, "DSA_TAG_BRCM";
    /// Ethernet behind a Broadcom switch tag.
    DSA_TAG_BRCM_PREPEND = 282, "DSA_TAG_BRCM_PREPEND";
}

impl LinkType {
    /// Whether frames of this link type can be decoded.
    pub const fn is_supported(self) -> bool {
        self.name().is_some()
    }
}

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
    Ieee80211 {
        /// Whether the MAC header is padded to a multiple of 4 bytes.
        padded: bool,
    },
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
            Header::Ieee80211 { padded } => ieee80211(&mut cursor, padded, trace)?,
            Header::Ppp => ppp(&mut cursor)?,
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
    Ok(ether_type_or_length(cursor.u16()?))
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
        // IEEE 802.1ah: the I-tag, then the customer's frame.
        0x88e7 => {
            cursor.skip(4)?;
            Header::Ethernet
        }
        // IEEE 802.1BR E-tag.
        0x893f => {
            cursor.skip(6)?;
            ether_type_or_length(cursor.u16()?)
        }
        // VN-tag.
        0x8926 => {
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

fn ppp(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
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
        _ => Err(Undecodable::NotIp),
    }
}

/// PPP or Cisco HDLC: the first byte tells.
fn ppp_or_hdlc(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    if matches!(cursor.rest().first(), Some(0x0f | 0x8f)) {
        hdlc(cursor)
    } else {
        Ok(Header::Ppp)
    }
}

/// Cisco HDLC: unicast 0f or broadcast 8f, control 00, `EtherType`.
fn hdlc(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    cursor.skip(2)?;
    Ok(Header::EtherType(cursor.u16()?))
}

/// RFC 2427 on a Q.922 address of two to four bytes; or Cisco's encapsulation, an `EtherType`.
fn frame_relay(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
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
    match cursor.rest().first().ok_or(Undecodable::TruncatedLink)? >> 4 {
        4 => Ok(Header::Ip(Announced::V4)),
        6 => Ok(Header::Ip(Announced::V6)),
        // RFC 4448 §4.6: the control word of an Ethernet pseudowire.
        0 => {
            if cursor.rest().starts_with(&[0, 0]) {
                cursor.skip(4)?;
            }
            Ok(Header::Ethernet)
        }
        // RFC 4385 §5: an associated channel.
        1 => Err(Undecodable::NotIp),
        _ => Ok(Header::Ethernet),
    }
}

/// IEEE 802.11-2020 §9.3.2: data frames that are not encrypted.
fn ieee80211<T: Trace>(cursor: &mut Cursor<'_>, padded: bool, trace: &mut T) -> Result<Header, Undecodable> {
    let before = cursor.len();
    let [control, flags] = cursor.array::<2>()?;
    let (version, kind, subtype) = (control & 0x03, (control >> 2) & 0x03, control >> 4);
    // Management and control frames, and data frames without data (subtype bit 2), carry no IP.
    if version != 0 || kind != 2 || subtype & 0x04 != 0 || flags & 0x40 != 0 {
        return Err(Undecodable::NotIp);
    }
    cursor.skip(2)?;
    let (first, second, third) = (cursor.array::<6>()?, cursor.array::<6>()?, cursor.array::<6>()?);
    let sequence = cursor.u16()?;
    // A later fragment (the low bits of the first byte, the field being little-endian) has no LLC header.
    if sequence & 0x0f00 != 0 {
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
    if padded {
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
fn radiotap(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [_, _, low, high] = cursor.array::<4>()?;
    let length = usize::from(u16::from_le_bytes([low, high]));
    let mut fields = cursor.sub(length.checked_sub(4).ok_or(Undecodable::NotIp)?)?;
    let padded = radiotap_flags(&mut fields).is_ok_and(|flags| flags & 0x20 != 0);
    Ok(Header::Ieee80211 { padded })
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
fn ppi(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    let [_, _, low, high] = cursor.array::<4>()?;
    let link_type = LinkType(u32::from_le_bytes(cursor.array()?));
    let length = usize::from(u16::from_le_bytes([low, high]));
    cursor.skip(length.checked_sub(8).ok_or(Undecodable::NotIp)?)?;
    Ok(Header::Link(link_type))
}

/// A Prism header of 144 bytes, or an AVS header that carries its length.
fn prism(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
    // The AVS magic names its version in the low bits; the length that follows counts from the magic.
    if cursor.u32()? & 0xffff_f000 == 0x8021_1000 {
        let length = cursor.u32()? as usize;
        cursor.skip(length.checked_sub(8).ok_or(Undecodable::NotIp)?)?;
    } else {
        cursor.skip(140)?;
    }
    Ok(Header::Ieee80211 { padded: false })
}

/// The BSD address families: IPv4 is 2 everywhere, IPv6 has a number of its own on each system.
fn address_family(family: u32) -> Result<Header, Undecodable> {
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

fn sll<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
    cursor.skip(2)?;
    let device = cursor.u16()?;
    let length = cursor.u16()?;
    let address = cursor.array::<6>()?;
    cursor.skip(2)?;
    sender(device, length, address, trace);
    cooked(device, cursor.u16()?)
}

fn sll2<T: Trace>(cursor: &mut Cursor<'_>, trace: &mut T) -> Result<Header, Undecodable> {
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
fn nflog(cursor: &mut Cursor<'_>) -> Result<Header, Undecodable> {
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

/// ARCNET: addresses, then a system code: RFC 1201 (with a split flag and a sequence number) or RFC 1051.
fn arcnet(cursor: &mut Cursor<'_>, addresses: usize) -> Result<Header, Undecodable> {
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
            address_family(if family > 0xffff {
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
        LinkType::LINUX_SLL => sll(cursor, trace),
        LinkType::LINUX_SLL2 => sll2(cursor, trace),
        LinkType::PPP | LinkType::PPP_HDLC => ppp_or_hdlc(cursor),
        LinkType::PPP_ETHER => pppoe(cursor, trace),
        LinkType::PPP_WITH_DIR => {
            cursor.skip(1)?;
            ppp_or_hdlc(cursor)
        }
        LinkType::C_HDLC => hdlc(cursor),
        LinkType::C_HDLC_WITH_DIR => {
            cursor.skip(1)?;
            hdlc(cursor)
        }
        LinkType::FRELAY => frame_relay(cursor),
        LinkType::FRELAY_WITH_DIR => {
            cursor.skip(1)?;
            frame_relay(cursor)
        }
        LinkType::IEEE802_11 => Ok(Header::Ieee80211 { padded: false }),
        LinkType::IEEE802_11_RADIOTAP => radiotap(cursor),
        LinkType::IEEE802_11_PRISM | LinkType::IEEE802_11_AVS => prism(cursor),
        LinkType::PPI => ppi(cursor),
        LinkType::FDDI => {
            cursor.skip(1)?;
            let destination = cursor.array::<6>()?;
            trace.macs(cursor.array::<6>()?, Some(destination));
            Ok(Header::Llc)
        }
        LinkType::ATM_RFC1483 => Ok(Header::Llc),
        LinkType::ARCNET_BSD => arcnet(cursor, 2),
        LinkType::ARCNET_LINUX => arcnet(cursor, 4),
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
        LinkType::NFLOG => nflog(cursor),
        LinkType::DSA_TAG_BRCM => {
            let destination = cursor.array::<6>()?;
            trace.macs(cursor.array::<6>()?, Some(destination));
            cursor.skip(4)?;
            Ok(ether_type_or_length(cursor.u16()?))
        }
        LinkType::DSA_TAG_BRCM_PREPEND => {
            cursor.skip(4)?;
            Ok(Header::Ethernet)
        }
        _ => Err(Undecodable::UnsupportedLinkType),
    }
}
