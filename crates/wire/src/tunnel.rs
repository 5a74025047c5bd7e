//! Tunnels: from an IP packet to the one inside it.
//!
//! A port number is only a hint, so that everything carried in UDP must look like its protocol in every bit that the
//! protocol fixes, and the packet inside must fit; else the outer packet is metered as what it is.

use crate::checksum;
use crate::cursor::{Cursor, Short};
use crate::link::{Announced, Header};
use crate::net::Network;

/// An encapsulation around an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// IP in IP of any two versions (RFC 2003, 2473, 4213).
    IpInIp,
    /// Generic routing encapsulation (RFC 2784, 2890, 7637), and that of PPTP (RFC 2637).
    Gre,
    /// ERSPAN in GRE.
    Erspan,
    /// VXLAN (RFC 7348) and VXLAN-GPE.
    Vxlan,
    /// Geneve (RFC 8926).
    Geneve,
    /// GTP-U version 1 (3GPP TS 29.281).
    GtpU,
    /// Teredo (RFC 4380).
    Teredo,
    /// L2TP version 2 (RFC 2661).
    L2tp,
    /// `PPPoE` session (RFC 2516).
    Pppoe,
    /// MPLS (RFC 3032), also in IP and UDP (RFC 4023, 7510).
    Mpls,
    /// Ethernet in IP (RFC 3378, RFC 8986 §4.11).
    EtherIp,
    /// PIM register message (RFC 7761 §4.9.3).
    PimRegister,
}

impl Tunnel {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpInIp => "ipip",
            Self::Gre => "gre",
            Self::Erspan => "erspan",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::GtpU => "gtpu",
            Self::Teredo => "teredo",
            Self::L2tp => "l2tp",
            Self::Pppoe => "pppoe",
            Self::Mpls => "mpls",
            Self::EtherIp => "etherip",
            Self::PimRegister => "pim_register",
        }
    }

    /// Whether both directions carry the same identifier. TEIDs, L2TP sessions, PPTP call ids and MPLS labels are
    /// chosen by the receiver of each direction: they cannot be part of a bidirectional key.
    pub const fn has_symmetric_id(self) -> bool {
        !matches!(self, Self::GtpU | Self::L2tp | Self::Mpls)
    }
}

/// What is inside a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner<'a> {
    /// The encapsulation; `None` where its own header, which is read next, tells it (MPLS).
    pub(crate) tunnel: Option<Tunnel>,
    /// Its identifier.
    pub(crate) id: Option<u64>,
    /// The first header inside.
    pub(crate) header: Header,
    /// From the first header inside: a suffix of the outer packet's body.
    pub(crate) bytes: &'a [u8],
    /// What the packet inside must show to be believed.
    pub(crate) doubt: Doubt,
}

/// What the packet inside a tunnel must show to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing more: the IP protocol number announced the tunnel.
    None,
    /// Its length must fit into the outer packet: a port and a well-formed header announced the tunnel.
    Length,
    /// Its IPv4 header checksum must be right too: the tunnel's header is only half convincing.
    Checksum,
}

impl Doubt {
    /// Whether a packet with `room` bytes inside `outer` is to be believed.
    pub(crate) fn is_met(self, outer: &Network<'_>, inner: &Network<'_>, room: u32) -> bool {
        // Where the outer length is missing (segmentation offload), nothing can be compared.
        let fits = !outer.length_stated || (inner.length_stated && inner.length <= room);
        match self {
            Self::None => true,
            Self::Length => fits,
            Self::Checksum => fits && checksum::agrees(checksum::sum(inner.header)),
        }
    }
}

/// Looks into an IP packet. A fragment is never opened: its other fragments cannot be, and all must go one way.
#[inline]
pub(crate) fn open<'a>(outer: &Network<'a>) -> Option<Inner<'a>> {
    if outer.protocol == 6 || outer.fragment.is_some() || outer.chain_cut {
        return None;
    }
    match outer.protocol {
        17 => udp(outer),
        // 4: IPv4, 41: IPv6, 94: the older IP within IP.
        4 | 41 | 94 => Some(plain(
            Some(Tunnel::IpInIp),
            Header::Ip(Announced::Either),
            outer.body,
        )),
        47 => gre(outer.body).ok().flatten(),
        97 => {
            // RFC 3378 §3: version 3, the rest zero.
            let (header, bytes) = outer.body.split_first_chunk::<2>()?;
            (*header == [0x30, 0]).then(|| plain(Some(Tunnel::EtherIp), Header::Ethernet, bytes))
        }
        103 => {
            // PIM version 2, type 1; flags and reserved bits of 4 bytes.
            let (header, bytes) = outer.body.split_first_chunk::<8>()?;
            let [kind, ..] = *header;
            (kind == 0x21).then(|| plain(Some(Tunnel::PimRegister), Header::Ip(Announced::Either), bytes))
        }
        137 => Some(plain(None, Header::Mpls, outer.body)),
        143 => Some(plain(Some(Tunnel::EtherIp), Header::Ethernet, outer.body)),
        _ => None,
    }
}

fn plain(tunnel: Option<Tunnel>, header: Header, bytes: &[u8]) -> Inner<'_> {
    Inner {
        tunnel,
        id: None,
        header,
        bytes,
        doubt: Doubt::None,
    }
}

/// GRE: flags and version, protocol type, then the optional fields that the flags announce.
fn gre(body: &[u8]) -> Result<Option<Inner<'_>>, Short> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.u16()?;
    let protocol = cursor.u16()?;
    let (checksum, routing, key, sequence) = (
        flags & 0x8000 != 0,
        flags & 0x4000 != 0,
        flags & 0x2000 != 0,
        flags & 0x1000 != 0,
    );
    let version = flags & 0x07;
    // Source routes (RFC 1701) and unknown versions are not read.
    if routing || version > 1 {
        return Ok(None);
    }
    if checksum {
        cursor.skip(4)?;
    }
    let mut id = if key { Some(u64::from(cursor.u32()?)) } else { None };
    if sequence {
        cursor.skip(4)?;
    }
    if version == 1 {
        // RFC 2637 §4.1: the key holds the payload length and the call id, and an acknowledgement may follow.
        if flags & 0x0080 != 0 {
            cursor.skip(4)?;
        }
        if protocol != 0x880b || !sequence {
            return Ok(None);
        }
        id = id.map(|key| key & 0xffff);
        return Ok(Some(Inner {
            tunnel: Some(Tunnel::Gre),
            id,
            header: Header::Ppp,
            bytes: cursor.rest(),
            doubt: Doubt::None,
        }));
    }
    let (tunnel, header) = match protocol {
        // ERSPAN type I has neither sequence number nor header of its own; type II has 8 bytes, type III 12 and, with
        // the O bit, 8 more. The session id is the low 10 bits of the first word.
        0x88be if !sequence => (Tunnel::Erspan, Header::Ethernet),
        0x88be => {
            id = Some(u64::from(cursor.u32()? & 0x03ff));
            cursor.skip(4)?;
            (Tunnel::Erspan, Header::Ethernet)
        }
        0x22eb => {
            id = Some(u64::from(cursor.u32()? & 0x03ff));
            cursor.skip(4)?;
            if cursor.u32()? & 1 == 1 {
                cursor.skip(8)?;
            }
            (Tunnel::Erspan, Header::Ethernet)
        }
        // WCCP: version 2 puts four bytes before the packet.
        0x883e => {
            if !matches!(cursor.rest().first(), Some(0x40..=0x4f)) {
                cursor.skip(4)?;
            }
            (Tunnel::Gre, Header::Ip(Announced::V4))
        }
        other => (Tunnel::Gre, Header::EtherType(other)),
    };
    Ok(Some(Inner {
        tunnel: Some(tunnel),
        id,
        header,
        bytes: cursor.rest(),
        doubt: Doubt::None,
    }))
}

fn udp<'a>(outer: &Network<'a>) -> Option<Inner<'a>> {
    let mut cursor = Cursor::new(outer.body);
    let (source, destination) = (cursor.u16().ok()?, cursor.u16().ok()?);
    let length = cursor.u16().ok()?;
    let is = |port: u16| source == port || destination == port;
    // Nearly every datagram leaves here.
    if !(is(1701) || is(2152) || is(3544) || is(4789) || is(8472) || is(4790) || is(6081) || is(6635)) {
        return None;
    }
    cursor.skip(2).ok()?;
    let found = if is(4789) || is(8472) {
        vxlan(&mut cursor)
    } else if is(4790) {
        vxlan_gpe(&mut cursor)
    } else if is(6081) {
        geneve(&mut cursor)
    } else if is(2152) {
        gtp_u(&mut cursor, length.saturating_sub(8))
    } else if is(3544) {
        teredo(&mut cursor)
    } else if is(1701) {
        l2tp(&mut cursor)
    } else {
        Ok(Some((None, None, Header::Mpls, Doubt::Length)))
    };
    let (tunnel, id, header, doubt) = found.ok().flatten()?;
    Some(Inner {
        tunnel,
        id,
        header,
        bytes: cursor.rest(),
        doubt,
    })
}

type Found = Result<Option<(Option<Tunnel>, Option<u64>, Header, Doubt)>, Short>;

/// RFC 7348 §5: the I flag must be set; everything reserved is to be ignored by a receiver (the group policy extension
/// uses some of it), but a header in which it is not zero is less convincing.
fn vxlan(cursor: &mut Cursor<'_>) -> Found {
    let [flags, policy, group_high, group_low] = cursor.array::<4>()?;
    let id = cursor.u24()?;
    let reserved = cursor.u8()?;
    if flags & 0x08 == 0 {
        return Ok(None);
    }
    let is_plain = flags == 0x08 && (policy | group_high | group_low | reserved) == 0;
    let is_group_policy = flags == 0x88 && reserved == 0;
    let doubt = if is_plain || is_group_policy {
        Doubt::Length
    } else {
        Doubt::Checksum
    };
    Ok(Some((
        Some(Tunnel::Vxlan),
        Some(u64::from(id)),
        Header::Ethernet,
        doubt,
    )))
}

/// draft-ietf-nvo3-vxlan-gpe §3: version 0, I and P flags, next protocol.
fn vxlan_gpe(cursor: &mut Cursor<'_>) -> Found {
    let [flags, reserved, reserved_too, next] = cursor.array::<4>()?;
    let id = cursor.u24()?;
    if flags & 0xfc != 0x0c || (reserved | reserved_too) != 0 || cursor.u8()? != 0 {
        return Ok(None);
    }
    let header = match next {
        1 => Header::Ip(Announced::V4),
        2 => Header::Ip(Announced::V6),
        3 => Header::Ethernet,
        4 => Header::Nsh,
        5 => Header::Mpls,
        _ => return Ok(None),
    };
    Ok(Some((
        Some(Tunnel::Vxlan),
        Some(u64::from(id)),
        header,
        Doubt::Length,
    )))
}

/// RFC 8926 §3.4: version 0, options' length in words, O and C flags, `EtherType`, VNI.
fn geneve(cursor: &mut Cursor<'_>) -> Found {
    let [first, flags] = cursor.array::<2>()?;
    let protocol = cursor.u16()?;
    let id = cursor.u24()?;
    if first & 0xc0 != 0 || flags & 0x3f != 0 || cursor.u8()? != 0 || protocol < 0x0600 {
        return Ok(None);
    }
    cursor.skip(usize::from(first & 0x3f) << 2)?;
    Ok(Some((
        Some(Tunnel::Geneve),
        Some(u64::from(id)),
        Header::EtherType(protocol),
        Doubt::Length,
    )))
}

/// 3GPP TS 29.281 §5.1: version 1, protocol type GTP, message G-PDU (255), the length of what follows the 8 bytes.
fn gtp_u(cursor: &mut Cursor<'_>, datagram: u16) -> Found {
    let [flags, message] = cursor.array::<2>()?;
    let length = cursor.u16()?;
    if flags & 0xf0 != 0x30 || message != 0xff || length.checked_add(8) != Some(datagram) {
        return Ok(None);
    }
    let id = cursor.u32()?;
    if flags & 0x07 != 0 {
        cursor.skip(3)?;
        let mut next = cursor.u8()?;
        if flags & 0x04 == 0 {
            next = 0;
        }
        // §5.2.1: each extension header gives its length in words and, in its last byte, the type of the next.
        for _ in 0..8 {
            if next == 0 {
                break;
            }
            let length = usize::from(cursor.u8()?) << 2;
            let Some(content) = length.checked_sub(2) else {
                return Ok(None);
            };
            cursor.skip(content)?;
            next = cursor.u8()?;
        }
        if next != 0 {
            return Ok(None);
        }
    }
    Ok(Some((
        Some(Tunnel::GtpU),
        Some(u64::from(id)),
        Header::Ip(Announced::Either),
        Doubt::Length,
    )))
}

/// RFC 4380 §5.1.1: optional authentication (0001) and origin (0000) indications before an IPv6 packet.
fn teredo(cursor: &mut Cursor<'_>) -> Found {
    if cursor.rest().starts_with(&[0, 1]) {
        cursor.skip(2)?;
        let (client, value) = (cursor.u8()?, cursor.u8()?);
        // Client identifier, authentication value, an 8-byte nonce and the confirmation byte.
        cursor.skip(usize::from(client))?;
        cursor.skip(usize::from(value))?;
        cursor.skip(9)?;
    }
    if cursor.rest().starts_with(&[0, 0]) {
        cursor.skip(8)?;
    }
    Ok(Some((
        Some(Tunnel::Teredo),
        None,
        Header::Ip(Announced::V6),
        Doubt::Length,
    )))
}

/// RFC 2661 §3.1: data messages (T 0) of version 2 with their optional length, sequence and offset fields.
fn l2tp(cursor: &mut Cursor<'_>) -> Found {
    let flags = cursor.u16()?;
    // T, the reserved bits and the version.
    if flags & 0xb4ff != 0x0002 {
        return Ok(None);
    }
    if flags & 0x4000 != 0 {
        cursor.skip(2)?;
    }
    let id = cursor.u32()?;
    if flags & 0x0800 != 0 {
        cursor.skip(4)?;
    }
    if flags & 0x0200 != 0 {
        let offset = cursor.u16()?;
        cursor.skip(usize::from(offset))?;
    }
    Ok(Some((
        Some(Tunnel::L2tp),
        Some(u64::from(id)),
        Header::Ppp,
        Doubt::Length,
    )))
}
