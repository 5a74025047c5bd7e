//! L2TP version 3: sessions whose header lengths only the control connection tells.
//!
//! A cookie of 0, 4 or 8 bytes and a sublayer of 0 or 4 bytes stand between the session id and the frame
//! (RFC 3931 §4.1, §4.6), and the frame is of the type that was agreed on. Each combination is looked at, the most usual
//! first; what is found must be an IP packet that fits, with the right header checksum.

use super::{Doubt, Inner, Tunnel};
use crate::cursor::Cursor;
use crate::link::{Announced, Header, is_ethernet_at};

/// Bytes between the session id and the frame: the default sublayer alone, nothing, then with cookies.
const GAPS: [usize; 5] = [4, 0, 8, 12, 16];

/// RFC 3931 §4.1.1: over IP (protocol 115) a session id of 0 is a control message.
pub(super) fn over_ip(body: &[u8]) -> Option<Inner<'_>> {
    session(body)
}

/// RFC 3931 §4.1.2: over UDP flags (T 0) and version 3, then reserved bits.
pub(super) fn over_udp<'a>(cursor: &mut Cursor<'a>) -> Option<Inner<'a>> {
    if cursor.u32().ok()? >> 16 != 0x0003 {
        return None;
    }
    session(cursor.rest())
}

fn session(body: &[u8]) -> Option<Inner<'_>> {
    let mut cursor = Cursor::new(body);
    let id = cursor.u32().ok().filter(|id| *id != 0)?;
    let bytes = cursor.rest();
    let (header, gap) = GAPS
        .iter()
        .find_map(|&gap| is_ethernet_at(bytes, gap).then_some((Header::Ethernet, gap)))
        .or_else(|| {
            GAPS.iter()
                .find_map(|&gap| Some((point_to_point(bytes.get(gap..)?)?, gap)))
        })?;
    Some(Inner {
        tunnel: Some(Tunnel::L2tp),
        id: Some(u64::from(id)),
        header,
        bytes: bytes.get(gap..)?,
        doubt: Doubt::Checksum,
    })
}

/// PPP, Cisco HDLC or IP itself, by its first bytes.
fn point_to_point(bytes: &[u8]) -> Option<Header> {
    match bytes {
        [0xff, 0x03, 0x00, 0x21 | 0x57, ..] => Some(Header::Ppp),
        [0x0f, 0x00, 0x08, 0x00, ..] | [0x0f, 0x00, 0x86, 0xdd, ..] => {
            Some(Header::Link(crate::link::LinkType::C_HDLC))
        }
        [0x45, ..] => Some(Header::Ip(Announced::V4)),
        [0x60, ..] => Some(Header::Ip(Announced::V6)),
        _ => None,
    }
}
