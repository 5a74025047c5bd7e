//! Tunnels in UDP, told by a port and believed by their headers.

use super::{Doubt, Inner, Tunnel, l2tp};
use crate::cursor::{Cursor, Short};
use crate::link::{self, Announced, Header, MacHeader};
use crate::net::Network;

/// A tunnel's registered ports, and Linux's first port for VXLAN and OTV (8472).
mod port {
    pub(super) const L2TP: u16 = 1701;
    pub(super) const GTP_U: u16 = 2152;
    pub(super) const GTP_V0: u16 = 3386;
    pub(super) const TEREDO: u16 = 3544;
    pub(super) const LISP: u16 = 4341;
    pub(super) const VXLAN: u16 = 4789;
    pub(super) const VXLAN_GPE: u16 = 4790;
    pub(super) const CAPWAP: u16 = 5247;
    pub(super) const GUE: u16 = 6080;
    pub(super) const GENEVE: u16 = 6081;
    pub(super) const MPLS: u16 = 6635;
    pub(super) const VXLAN_LINUX: u16 = 8472;
    pub(super) const TZSP: u16 = 37008;
}

/// Whether a port is one of a tunnel's. Nearly every port leaves at the first comparison of its range.
#[inline]
pub(super) const fn is_tunnel(number: u16) -> bool {
    matches!(
        number,
        port::L2TP
            | port::GTP_U
            | port::GTP_V0
            | port::TEREDO
            | port::LISP
            | port::VXLAN
            | port::VXLAN_GPE
            | port::CAPWAP
            | port::GUE
            | port::GENEVE
            | port::MPLS
            | port::VXLAN_LINUX
            | port::TZSP
    )
}

#[inline]
pub(super) fn udp<'a>(outer: &Network<'a>) -> Option<Inner<'a>> {
    let mut cursor = Cursor::new(outer.body);
    let (source, destination) = (cursor.u16().ok()?, cursor.u16().ok()?);
    // Nearly every datagram leaves here. The destination is the port that tunnels are sent to; where it tells nothing,
    // the source is looked at (GTP-U, Teredo, L2TP and CAPWAP answer from it).
    if is_tunnel(destination) {
        on_port(destination, cursor)
    } else if is_tunnel(source) {
        on_port(source, cursor)
    } else {
        None
    }
}

#[cold]
fn on_port(number: u16, mut cursor: Cursor<'_>) -> Option<Inner<'_>> {
    let length = cursor.u16().ok()?;
    cursor.skip(2).ok()?;
    let found = match number {
        port::VXLAN | port::VXLAN_LINUX => vxlan(&mut cursor),
        port::VXLAN_GPE => vxlan_gpe(&mut cursor),
        port::GENEVE => geneve(&mut cursor),
        port::GTP_U => gtp_u(&mut cursor, length.saturating_sub(8)),
        port::GTP_V0 => gtp_v0(&mut cursor, length.saturating_sub(8)),
        port::TEREDO => teredo(&mut cursor),
        port::L2TP if matches!(cursor.rest(), [_, version, ..] if version & 0x0f == 3) => {
            return l2tp::over_udp(&mut cursor);
        }
        port::L2TP => l2tp_v2(&mut cursor),
        port::LISP => lisp(&mut cursor),
        port::CAPWAP => capwap(&mut cursor),
        port::GUE => gue(&mut cursor),
        // A mirrored frame.
        port::TZSP => Ok(link::tzsp(&mut cursor)
            .ok()
            .map(|header| (Some(Tunnel::Tzsp), None, header, Doubt::Length))),
        _ => Ok(Some((None, None, Header::Mpls, Doubt::Length))),
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
fn l2tp_v2(cursor: &mut Cursor<'_>) -> Found {
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

/// GSM 09.60 §6: version 0 of GTP, whose header of 20 bytes ends in the tunnel's identifier of 64 bits; T-PDU (255).
fn gtp_v0(cursor: &mut Cursor<'_>, datagram: u16) -> Found {
    let [flags, message] = cursor.array::<2>()?;
    let length = cursor.u16()?;
    if flags & 0xf0 != 0x10 || message != 0xff || length.checked_add(20) != Some(datagram) {
        return Ok(None);
    }
    cursor.skip(8)?;
    let id = cursor.u64()?;
    Ok(Some((
        Some(Tunnel::GtpU),
        Some(id),
        Header::Ip(Announced::Either),
        Doubt::Length,
    )))
}

/// RFC 9300 §5.1: flags, nonce or map version (24 bits), instance id and locator status bits. With the P bit
/// (draft-ietf-lisp-gpe §3) the last byte of the first word names what follows.
fn lisp(cursor: &mut Cursor<'_>) -> Found {
    let [flags, _, _, next] = cursor.array::<4>()?;
    let instance = cursor.u32()?;
    let header = match (flags & 0x04 != 0, next) {
        (false, _) => Header::Ip(Announced::Either),
        (true, 1) => Header::Ip(Announced::V4),
        (true, 2) => Header::Ip(Announced::V6),
        (true, 3) => Header::Ethernet,
        (true, 4) => Header::Nsh,
        _ => return Ok(None),
    };
    // The I bit: the instance id stands in the upper 24 bits.
    let id = (flags & 0x08 != 0).then_some(u64::from(instance >> 8));
    Ok(Some((Some(Tunnel::Lisp), id, header, Doubt::Checksum)))
}

/// RFC 5415 §4.3: version 0 and type 0 (not DTLS), the header's length in words, radio, binding, and whether the frame
/// is a native one (T) of that binding or 802.3. A fragment (F) is not opened, as no IP fragment is.
fn capwap(cursor: &mut Cursor<'_>) -> Found {
    let [preamble, length, binding, flags] = cursor.array::<4>()?;
    let words = usize::from(length >> 3);
    if preamble != 0 || words < 2 {
        return Ok(None);
    }
    let (is_native, is_fragment, is_keep_alive) = (binding & 0x01 != 0, flags & 0x80 != 0, flags & 0x08 != 0);
    if is_fragment || is_keep_alive {
        return Ok(None);
    }
    cursor.skip((words << 2).saturating_sub(4))?;
    let header = if is_native {
        // Binding 1 is IEEE 802.11 (RFC 5416 §8).
        if (binding >> 1) & 0x1f != 1 {
            return Ok(None);
        }
        Header::Ieee80211(MacHeader::PerhapsSwapped)
    } else {
        Header::Ethernet
    };
    Ok(Some((Some(Tunnel::Capwap), None, header, Doubt::Length)))
}

/// draft-ietf-intarea-gue §3: version 0 with the header's length in words and an IP protocol number, or version 1, which
/// is an IP packet itself.
fn gue(cursor: &mut Cursor<'_>) -> Found {
    let header = match cursor.rest() {
        [0x40..=0x4f | 0x60..=0x6f, ..] => Header::Ip(Announced::Either),
        // Version 0, no control message.
        [first @ 0..=0x1f, protocol, ..] => {
            let header = match protocol {
                4 => Header::Ip(Announced::V4),
                41 => Header::Ip(Announced::V6),
                137 => Header::Mpls,
                143 => Header::Ethernet,
                _ => return Ok(None),
            };
            cursor.skip(usize::from(*first).wrapping_add(1) << 2)?;
            header
        }
        _ => return Ok(None),
    };
    Ok(Some((Some(Tunnel::Gue), None, header, Doubt::Checksum)))
}
