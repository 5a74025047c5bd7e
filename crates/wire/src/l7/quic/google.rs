//! Google's versions of QUIC before TLS (Q0xx), as far as they are in the clear: the client's crypto handshake message
//! `CHLO`, which names the server and the program.
//!
//! Sources: "QUIC Wire Layout Specification" and "QUIC Crypto" of Chromium, revisions of 2016 and later. Up to Q043
//! packets have a public header of their own, Q044 to Q049 one that resembles RFC 8999, from Q050 on Initial packets.

use crate::cursor::{Cursor, Short};
use crate::l7::Limit;
use crate::l7::pieces::Pieces;

/// The longest `CHLO` that is kept.
const MAX_BYTES: usize = 8 * 1024;
/// Tags of one message (QUIC Crypto, "Handshake message format").
const MAX_TAGS: u16 = 128;
/// The stream of the crypto handshake.
const CRYPTO_STREAM: u64 = 1;
/// The tag of the client's message.
const TAG: &[u8; 4] = b"CHLO";
/// Bytes of the hash by which unencrypted packets are protected (FNV-1a of 128 bits, cut).
const HASH_BYTES: usize = 12;

/// A client's packet that is not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GooglePacket<'a> {
    /// The number behind the Q.
    pub(super) version: u16,
    pub(super) connection_id: &'a [u8],
    /// The frames.
    pub(super) payload: &'a [u8],
}

impl<'a> GooglePacket<'a> {
    /// Reads a packet that says its version, Q009 to Q049.
    pub(super) fn parse(datagram: &'a [u8]) -> Result<Self, Short> {
        let mut cursor = Cursor::new(datagram);
        let flags = cursor.u8()?;
        if flags & 0x80 == 0 {
            Self::public_header(flags, cursor)
        } else {
            Self::long_header(flags, cursor)
        }
    }

    /// Up to Q043: flags for version, reset, connection id and the length of the packet number.
    fn public_header(flags: u8, mut cursor: Cursor<'a>) -> Result<Self, Short> {
        let has_version = flags & 0x01 != 0;
        let reset = flags & 0x02 != 0;
        if !has_version || reset || flags & 0x40 != 0 {
            return Err(Short);
        }
        let connection_id = match flags & 0x0c {
            0x0c | 0x08 => cursor.take(8)?,
            0x00 => cursor.take(0)?,
            _ => return Err(Short),
        };
        let version = version(cursor.u32()?)
            .filter(|number| *number < 44)
            .ok_or(Short)?;
        let number_bytes = match flags & 0x30 {
            0x00 => 1,
            0x10 => 2,
            0x20 => 4,
            _ => 6,
        };
        cursor.skip(number_bytes)?;
        cursor.skip(HASH_BYTES)?;
        if version < 34 {
            cursor.skip(1)?; // private flags
        }
        let payload = cursor.rest();
        Ok(Self {
            version,
            connection_id,
            payload,
        })
    }

    /// Q044 to Q049: both connection id lengths in one byte, neither token nor length.
    fn long_header(flags: u8, mut cursor: Cursor<'a>) -> Result<Self, Short> {
        let version = version(cursor.u32()?)
            .filter(|number| (44..50).contains(number))
            .ok_or(Short)?;
        let lengths = cursor.u8()?;
        let length = |nibble: u8| usize::from(if nibble == 0 { 0 } else { nibble.saturating_add(3) });
        let connection_id = cursor.take(length(lengths >> 4))?;
        cursor.skip(length(lengths & 0x0f))?;
        cursor.skip(usize::from(flags & 0b11).saturating_add(1))?;
        cursor.skip(HASH_BYTES)?;
        let payload = cursor.rest();
        Ok(Self {
            version,
            connection_id,
            payload,
        })
    }

    /// Puts what the packet holds of the crypto stream in its place.
    pub(super) fn collect(&self, message: &mut Message) -> Result<(), Limit> {
        let mut cursor = Cursor::new(self.payload);
        // A frame of another type, or one that is cut short, ends what is read of the packet.
        while let Ok(Some(frame)) = self.stream_frame(&mut cursor) {
            if frame.stream == CRYPTO_STREAM {
                message.insert(frame.offset, frame.data)?;
            }
        }
        Ok(())
    }

    /// The next STREAM frame, 0b1fdoooss: with data length, length of the offset, length of the stream number.
    fn stream_frame(&self, cursor: &mut Cursor<'a>) -> Result<Option<StreamFrame<'a>>, Short> {
        const PING: u8 = 0x07;
        loop {
            let kind = cursor.u8()?;
            if kind & 0x80 == 0 {
                if kind == PING {
                    continue;
                }
                return Ok(None);
            }
            let stream = self.number(cursor, usize::from(kind & 0b11).saturating_add(1))?;
            let offset_bytes = match (kind >> 2) & 0b111 {
                0 => 0,
                more => usize::from(more).saturating_add(1),
            };
            let offset = self.number(cursor, offset_bytes)?;
            let data = if kind & 0x20 == 0 {
                cursor.take(cursor.len())?
            } else {
                let length = self.number(cursor, 2)?;
                // A datagram that was captured in part is read as far as it goes.
                let available = usize::try_from(length).unwrap_or(usize::MAX).min(cursor.len());
                cursor.take(available)?
            };
            return Ok(Some(StreamFrame { stream, offset, data }));
        }
    }

    /// Numbers are little-endian up to Q038, in network order from Q039 on.
    fn number(&self, cursor: &mut Cursor<'a>, bytes: usize) -> Result<u64, Short> {
        let bytes = cursor.take(bytes)?;
        let add = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        Ok(if self.version < 39 {
            bytes.iter().rev().fold(0, add)
        } else {
            bytes.iter().fold(0, add)
        })
    }
}

/// What has come of a client's message.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// Where in the stream it begins. A client that does not know the server's configuration sends one, is refused, and
    /// sends another behind it: a capture may begin with that.
    start: u64,
    pieces: Pieces,
}

impl Message {
    fn insert(&mut self, offset: u64, data: &[u8]) -> Result<(), Limit> {
        if self.pieces.is_empty() && data.starts_with(TAG) {
            self.start = offset;
        }
        match offset.checked_sub(self.start) {
            Some(offset) => self.pieces.insert(offset, data, MAX_BYTES),
            None => Ok(()),
        }
    }

    /// The bytes from its start up to the first that is missing.
    pub(super) fn front(&self) -> &[u8] {
        self.pieces.front()
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.pieces.heap_bytes()
    }
}

struct StreamFrame<'a> {
    stream: u64,
    offset: u64,
    data: &'a [u8],
}

/// The number of a version `Q0xx`.
fn version(number: u32) -> Option<u16> {
    let [b'Q', hundreds @ b'0', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = number.to_be_bytes() else {
        return None;
    };
    [hundreds, tens, ones].iter().try_fold(0_u16, |sum, digit| {
        sum.checked_mul(10)?.checked_add(digit.checked_sub(b'0')?.into())
    })
}

/// What a `CHLO` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientMessage<'a> {
    /// Tag SNI.
    pub(super) server_name: Option<&'a [u8]>,
    /// Tag UAID.
    pub(super) user_agent: Option<&'a [u8]>,
    /// Whether every value was there.
    pub(super) complete: bool,
}

impl<'a> ClientMessage<'a> {
    /// Reads the front of the crypto stream: the message tag, the number of pairs, their tags with the end of each
    /// value, then the values. Numbers are little-endian in every version.
    pub(super) fn parse(front: &'a [u8]) -> Result<Self, Short> {
        let mut cursor = Cursor::new(front);
        if cursor.array()? != *TAG {
            return Err(Short);
        }
        let count = u16::from_le_bytes(cursor.array()?);
        cursor.skip(2)?;
        if count > MAX_TAGS {
            return Err(Short);
        }
        let mut index = cursor.sub(usize::from(count).saturating_mul(8))?;
        let values = cursor.rest();
        let mut message = Self {
            complete: true,
            ..Self::default()
        };
        let mut start: usize = 0;
        while let (Ok(tag), Ok(end)) = (index.array::<4>(), index.array::<4>()) {
            let end = u32::from_le_bytes(end) as usize;
            match (&tag, values.get(start..end)) {
                (_, None) => message.complete = false,
                (b"SNI\0", value) => message.server_name = value,
                (b"UAID", value) => message.user_agent = value,
                _ => {}
            }
            start = end;
        }
        Ok(message)
    }
}

/// A client's packet of Q009 to Q049 that begins its crypto stream.
pub(super) fn is_client_packet(datagram: &[u8]) -> bool {
    let mut message = Message::default();
    GooglePacket::parse(datagram)
        .is_ok_and(|packet| packet.collect(&mut message).is_ok() && message.front().starts_with(TAG))
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
pub(super) mod tests {
    use super::*;

    /// A `CHLO` with padding, SNI "a.example" and UAID "Chrome/1".
    pub(in crate::l7::quic) fn client_message() -> Vec<u8> {
        let values: [(&[u8; 4], &[u8]); 3] = [
            (b"PAD\0", &[b'-'; 20]),
            (b"SNI\0", b"a.example"),
            (b"UAID", b"Chrome/1"),
        ];
        let mut bytes = b"CHLO\x03\x00\x00\x00".to_vec();
        let mut end = 0_u32;
        for (tag, value) in values {
            end += value.len() as u32;
            bytes.extend_from_slice(tag);
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for (_, value) in values {
            bytes.extend_from_slice(value);
        }
        bytes
    }

    /// A packet of that version with a STREAM frame for `range` of the message.
    pub(in crate::l7::quic) fn packet(version: u16, range: std::ops::Range<usize>) -> Vec<u8> {
        packet_at(version, 0, range)
    }

    /// The same of a message that begins at that offset of the stream.
    fn packet_at(version: u16, start_offset: usize, range: std::ops::Range<usize>) -> Vec<u8> {
        let name = format!("Q{version:03}");
        let start = if version < 44 {
            [&[0x09], [7; 8].as_slice(), name.as_bytes(), &[1]].concat()
        } else {
            [
                &[0xc3],
                name.as_bytes(),
                &[0x50],
                [7; 8].as_slice(),
                &[0, 0, 0, 1],
            ]
            .concat()
        };
        let number = |value: usize| {
            if version < 39 {
                (value as u16).to_le_bytes()
            } else {
                (value as u16).to_be_bytes()
            }
        };
        let private_flags: &[u8] = if version < 34 { &[0] } else { &[] };
        [
            start.as_slice(),
            &[0; HASH_BYTES],
            private_flags,
            &[0xa4, 1],
            &number(start_offset + range.start),
            &number(range.len()),
            &client_message()[range],
            &[0; 8],
        ]
        .concat()
    }

    #[test]
    fn every_layout_shows_the_message() {
        let whole = client_message();
        for number in [30, 37, 39, 43, 46] {
            let mut message = Message::default();
            let datagram = packet(number, 0..whole.len());
            assert!(is_client_packet(&datagram), "Q{number:03}");
            let found = GooglePacket::parse(&datagram).map(|found| (found.version, found.connection_id));
            assert_eq!(found, Ok((number, [7; 8].as_slice())));
            let collected = GooglePacket::parse(&datagram).map(|found| found.collect(&mut message));
            assert_eq!(collected, Ok(Ok(())));
            let expected = ClientMessage {
                server_name: Some(b"a.example"),
                user_agent: Some(b"Chrome/1"),
                complete: true,
            };
            assert_eq!(ClientMessage::parse(message.front()), Ok(expected));
        }
    }

    #[test]
    fn a_message_behind_one_that_was_not_seen_is_read() {
        let whole = client_message();
        let mut message = Message::default();
        for range in [0..30, 30..whole.len()] {
            let datagram = packet_at(46, 1024, range.clone());
            assert_eq!(is_client_packet(&datagram), range.start == 0);
            let found = GooglePacket::parse(&datagram).map(|packet| packet.collect(&mut message));
            assert_eq!(found, Ok(Ok(())));
        }
        assert!(message.heap_bytes() >= whole.len());
        let found = ClientMessage::parse(message.front());
        assert_eq!(
            found.map(|found| found.server_name),
            Ok(Some(b"a.example".as_slice()))
        );
        // What stands before it in the stream comes late: it is no part of it.
        let datagram = packet_at(46, 0, 0..30);
        let late = GooglePacket::parse(&datagram).map(|packet| packet.collect(&mut message));
        assert_eq!(late, Ok(Ok(())));
        assert_eq!(message.front(), whole);
    }

    #[test]
    fn other_packets_are_none() {
        assert!(!is_client_packet(b""));
        assert!(!is_client_packet(&[0x09; 40]), "no version");
        let datagram = packet(43, 4..20);
        assert!(!is_client_packet(&datagram), "not the start of the message");
        let whole = client_message();
        let cut = ClientMessage::parse(&whole[..60]);
        assert_eq!(
            cut.map(|message| (message.server_name, message.complete)),
            Ok((None, false))
        );
    }
}
