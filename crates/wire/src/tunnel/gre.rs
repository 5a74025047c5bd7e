//! Generic routing encapsulation and what stands on it: NVGRE, ERSPAN, PPTP, WCCP, Ethernet over IP of one vendor.

use super::{Doubt, Inner, Tunnel};
use crate::cursor::{Cursor, Short};
use crate::link::{Announced, Header};

/// Virtual subnet identifiers below this one, and the last, are reserved (RFC 7637 §3.2): such a key is a plain one.
const FIRST_VIRTUAL_SUBNET: u32 = 0x1000;
const LAST_VIRTUAL_SUBNET: u32 = 0x00ff_fffe;

/// GRE: flags and version, protocol type, then the optional fields that the flags announce.
pub(super) fn gre(body: &[u8]) -> Result<Option<Inner<'_>>, Short> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.u16()?;
    let protocol = cursor.u16()?;
    let (checksum, routing, key, sequence) = (
        flags & 0x8000 != 0,
        flags & 0x4000 != 0,
        flags & 0x2000 != 0,
        flags & 0x1000 != 0,
    );
    // Source routes (RFC 1701) are not read.
    if routing {
        return Ok(None);
    }
    if checksum {
        cursor.skip(4)?;
    }
    let id = if key { Some(cursor.u32()?) } else { None };
    if sequence {
        cursor.skip(4)?;
    }
    let (tunnel, id, header) = match flags & 0x07 {
        0 => {
            let nothing_else = key && !checksum && !sequence;
            let (tunnel, own_id, header) = version_0(protocol, id, sequence, nothing_else, &mut cursor)?;
            (tunnel, own_id.or(id.map(u64::from)), header)
        }
        1 => match version_1(flags, protocol, id, sequence, &mut cursor)? {
            Some(found) => found,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Inner {
        tunnel: Some(tunnel),
        id,
        header,
        bytes: cursor.rest(),
        doubt: Doubt::None,
    }))
}

/// A tunnel, its identifier and what stands in it.
type Found = (Tunnel, Option<u64>, Header);

/// RFC 2784, 2890: the protocol type tells what is inside. The identifier is `None` where it is the key.
fn version_0(
    protocol: u16,
    key: Option<u32>,
    sequence: bool,
    key_only: bool,
    cursor: &mut Cursor<'_>,
) -> Result<Found, Short> {
    Ok(match protocol {
        // ERSPAN type I has neither sequence number nor header of its own; type II has 8 bytes, type III 12 and, with
        // the O bit, 8 more. The session id is the low 10 bits of the first word.
        0x88be if !sequence => (Tunnel::Erspan, None, Header::Ethernet),
        0x88be => {
            let id = u64::from(cursor.u32()? & 0x03ff);
            cursor.skip(4)?;
            (Tunnel::Erspan, Some(id), Header::Ethernet)
        }
        0x22eb => {
            let id = u64::from(cursor.u32()? & 0x03ff);
            cursor.skip(4)?;
            let last = cursor.u32()?;
            if last & 1 == 1 {
                cursor.skip(8)?;
            }
            // The frame type: 0 is Ethernet, 2 an IP packet.
            let header = if (last >> 10) & 0x1f == 2 {
                Header::Ip(Announced::Either)
            } else {
                Header::Ethernet
            };
            (Tunnel::Erspan, Some(id), header)
        }
        // RFC 7637 §3.2: a key, neither checksum nor sequence number; 24 bits of subnet and 8 of flow, which may
        // differ from packet to packet and is no part of the identifier.
        0x6558 if key_only => match key.map(|key| key >> 8) {
            Some(subnet @ FIRST_VIRTUAL_SUBNET..=LAST_VIRTUAL_SUBNET) => {
                (Tunnel::Nvgre, Some(u64::from(subnet)), Header::Ethernet)
            }
            _ => (Tunnel::Gre, None, Header::Ethernet),
        },
        // WCCP: version 2 puts four bytes before the packet.
        0x883e => {
            if !matches!(cursor.rest().first(), Some(0x40..=0x4f)) {
                cursor.skip(4)?;
            }
            (Tunnel::Wccp, None, Header::Ip(Announced::V4))
        }
        other => (Tunnel::Gre, None, Header::EtherType(other)),
    })
}

/// RFC 2637 §4.1: the key holds the payload length and the call id, and an acknowledgement may follow. The same form,
/// with a protocol type of its own and the identifier in the other byte order, is Ethernet over IP of `MikroTik`.
fn version_1(
    flags: u16,
    protocol: u16,
    key: Option<u32>,
    sequence: bool,
    cursor: &mut Cursor<'_>,
) -> Result<Option<Found>, Short> {
    let call = key.map(|key| key as u16);
    if flags & 0x0080 != 0 {
        cursor.skip(4)?;
    }
    Ok(match protocol {
        0x880b if sequence => Some((Tunnel::Pptp, call.map(u64::from), Header::Ppp)),
        0x6400 => Some((
            Tunnel::EtherIp,
            call.map(|id| u64::from(id.swap_bytes())),
            Header::Ethernet,
        )),
        _ => None,
    })
}
