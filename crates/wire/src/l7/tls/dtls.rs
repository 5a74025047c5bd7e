//! DTLS 1.0, 1.2 and 1.3 (RFC 4347, 6347, 9147): the handshake of TLS in datagrams.
//!
//! Each datagram holds records, each record handshake fragments that say where in which message they belong, so that
//! fragments may come in any order, twice, or never. What they show is in the record of TLS.

use super::fingerprint::Carrier;
use super::{CLIENT_HELLO, ClientHello, Record, SERVER_HELLO, ServerHello, content, message};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::pieces::Pieces;
use crate::l7::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Malformed, Outcome, Protocol, Status, Verdict, side_of,
};

/// Datagrams of a flow that are looked at; what was not seen by then is not waited for any longer.
const MAX_DATAGRAMS: u16 = 256;
/// Messages of one direction that may be incomplete at the same time.
const MAX_OPEN_MESSAGES: usize = 4;
/// The longest handshake message that is put together.
const MAX_MESSAGE_BYTES: usize = 32 * 1024;
/// Encrypted records of one direction after which a missed hello is not waited for any longer.
const MAX_ENCRYPTED_RECORDS: u8 = 16;
/// Message numbers that are remembered, so that a repetition is not read again. A handshake has some ten.
const MAX_REMEMBERED: u16 = 64;

/// The record header (RFC 6347 §4.1): type, version, epoch, sequence number, length.
const HEADER_BYTES: usize = 13;
/// The longest record body, as in TLS.
const MAX_RECORD_BYTES: u16 = super::MAX_RECORD_BYTES;
/// `tls12_cid` (RFC 9146 §4): an encrypted record with a connection id.
const CONNECTION_ID: u8 = 25;

/// A record with its header in the clear.
#[derive(Clone, Copy, Debug)]
struct PlainRecord<'a> {
    kind: u8,
    epoch: u16,
    body: &'a [u8],
}

impl<'a> PlainRecord<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Short> {
        let (kind, version, epoch) = (cursor.u8()?, cursor.u16()?, cursor.u16()?);
        cursor.skip(6)?; // sequence number
        // The length of a record with a connection id stands behind an id of unknown length.
        if !is_version(version) || !matches!(kind, content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA) {
            return Err(Short);
        }
        let length = cursor.u16()?;
        let rest = cursor.rest();
        // A datagram that was captured in part is read as far as it goes.
        let body = rest.get(..length.into()).unwrap_or(rest);
        if length > MAX_RECORD_BYTES {
            return Err(Short);
        }
        cursor.skip(body.len())?;
        Ok(Self { kind, epoch, body })
    }
}

/// RFC 4347, RFC 6347; 0x0100 is what OpenSSL and Cisco sent before RFC 4347 was final.
fn is_version(version: u16) -> bool {
    matches!(version, 0xfeff | 0xfefd | 0x0100)
}

/// A handshake message of which not everything is there.
#[derive(Clone, Debug)]
struct OpenMessage {
    number: u16,
    kind: u8,
    length: usize,
    pieces: Pieces,
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Side {
    open: Vec<OpenMessage>,
    /// The numbers of the messages that were read, one bit each.
    read: u64,
    encrypted_records: u8,
    closed: bool,
}

impl Side {
    fn was_read(&self, number: u16) -> bool {
        number >= MAX_REMEMBERED || self.read & (1_u64 << number) != 0
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct Dtls {
    record: Record,
    sides: [Side; 2],
    /// The direction in which a ServerHello came.
    server_side: Option<usize>,
    server_hello: bool,
    /// Nothing more of the server's handshake is in the clear.
    server_complete: bool,
    /// The client has encrypted something since the server's hello, or one of them has sent a fatal alert.
    answered: bool,
    datagrams: u16,
}

impl Dissect for Dtls {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let bytes = match input {
            Input::Datagram(bytes) | Input::Stream(bytes) => bytes,
            Input::Gap(_) => return Outcome::none(Status::Need(0)),
            Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.closed = true;
                }
                let closed = self.sides.iter().all(|side| side.closed) || self.is_complete();
                return Outcome::none(if closed { Status::Done } else { Status::Need(0) });
            }
        };
        self.datagrams = self.datagrams.saturating_add(1);
        let status = match self.datagram(index, bytes, crypto) {
            Err(status) => status,
            Ok(()) if self.is_complete() || self.datagrams >= MAX_DATAGRAMS => Status::Done,
            Ok(()) => Status::Need(0),
        };
        Outcome {
            consumed: bytes.len(),
            status,
        }
    }

    fn confidence(&self) -> Confidence {
        if self.record.has_client_hello() == self.server_hello {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        self.record.sni.as_deref()
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        let seen = self.record.has_client_hello() || self.record.has_server_hello();
        if protocol == Protocol::Tls && seen {
            self.record.emit(sink);
        }
        protocol == Protocol::Tls && seen
    }

    fn release(&mut self) {
        self.sides = <[Side; 2]>::default();
    }

    fn kept_bytes(&self) -> usize {
        let messages = self.sides.iter().flat_map(|side| &side.open);
        messages.fold(self.record.heap_bytes(), |sum, message| {
            sum.saturating_add(size_of::<OpenMessage>())
                .saturating_add(message.pieces.heap_bytes())
        })
    }
}

impl Dtls {
    fn is_complete(&self) -> bool {
        let enough = |side: &Side| side.encrypted_records >= MAX_ENCRYPTED_RECORDS;
        let client = self
            .server_side
            .and_then(|server| self.sides.get(1_usize.saturating_sub(server)));
        let answered = self.answered || client.is_none_or(|side| side.closed);
        (self.is_settled() && answered) || self.sides.iter().any(enough)
    }

    /// Whether nothing more but an alert is to come that is shown.
    fn is_settled(&self) -> bool {
        self.server_complete && self.record.has_client_hello()
    }

    fn datagram(&mut self, index: usize, bytes: &[u8], crypto: &dyn Crypto) -> Result<(), Status> {
        let mut cursor = Cursor::new(bytes);
        // RFC 9147 §4: the unified header of an encrypted record begins with 001; what else is not a record (RFC 7983)
        // belongs to a protocol that shares the port.
        while cursor.rest().first().is_some_and(|first| first & 0xe0 != 0x20) {
            let Ok(record) = PlainRecord::parse(&mut cursor) else {
                return Ok(());
            };
            if record.epoch > 0 || record.kind == content::APPLICATION_DATA {
                self.encrypted(index);
                continue;
            }
            match record.kind {
                content::HANDSHAKE if self.is_settled() => {}
                content::HANDSHAKE => self.fragments(index, record.body, crypto)?,
                content::ALERT => {
                    if let &[level, description] = record.body {
                        self.record.alert.get_or_insert(description);
                        self.answered |= level == 2;
                    }
                }
                content::CHANGE_CIPHER_SPEC => self.encrypts(index),
                _ => {}
            }
        }
        if !cursor.is_empty() {
            self.encrypted(index);
        }
        if self.is_settled() {
            for side in &mut self.sides {
                side.open = Vec::new();
            }
        }
        Ok(())
    }

    fn encrypted(&mut self, index: usize) {
        if let Some(side) = self.sides.get_mut(index) {
            side.encrypted_records = side.encrypted_records.saturating_add(1);
        }
        self.encrypts(index);
    }

    /// What comes in a direction is encrypted from here on.
    fn encrypts(&mut self, index: usize) {
        if self.server_hello && self.server_side == Some(index) {
            self.server_complete = true;
        } else if self.server_hello {
            self.answered = true;
        }
    }

    /// The body of a handshake record: fragments (RFC 6347 §4.2.2).
    fn fragments(&mut self, index: usize, body: &[u8], crypto: &dyn Crypto) -> Result<(), Status> {
        let bad_length = |Short| Status::Malformed(Malformed::BadLength);
        let mut cursor = Cursor::new(body);
        while !cursor.is_empty() {
            let Ok(fragment) = Fragment::parse(&mut cursor) else {
                return Ok(());
            };
            let Some(side) = self.sides.get_mut(index) else {
                return Ok(());
            };
            if side.was_read(fragment.number) || fragment.length > MAX_MESSAGE_BYTES {
                continue;
            }
            if fragment.data.len() == fragment.length {
                side.read |= 1_u64 << fragment.number;
                self.message(index, fragment.kind, fragment.data, crypto)
                    .map_err(bad_length)?;
                continue;
            }
            let Some(place) = side.place(&fragment) else {
                continue;
            };
            let Some(message) = side.open.get_mut(place) else {
                continue;
            };
            message
                .pieces
                .insert(fragment.offset, fragment.data, message.length)
                .map_err(Status::GaveUp)?;
            if message.pieces.front().len() == message.length {
                let message = side.open.swap_remove(place);
                side.read |= 1_u64 << fragment.number;
                self.message(index, message.kind, message.pieces.front(), crypto)
                    .map_err(bad_length)?;
            }
        }
        Ok(())
    }

    fn message(&mut self, index: usize, kind: u8, body: &[u8], crypto: &dyn Crypto) -> Result<(), Short> {
        match kind {
            CLIENT_HELLO => {
                let hello = ClientHello::parse_datagram(body)?;
                self.record.add_client_hello(&hello, Carrier::Dtls, crypto);
            }
            SERVER_HELLO if !self.server_hello => {
                let hello = ServerHello::parse(body)?;
                self.record.set_server_hello(&hello, crypto);
                self.server_side = Some(index);
                self.server_hello = !hello.is_retry();
                self.server_complete = hello.encrypts();
            }
            message::CERTIFICATE if self.server_side == Some(index) => {
                self.record.read_certificate_message(body, crypto)?;
                self.server_complete = true;
            }
            message::SERVER_KEY_EXCHANGE | message::SERVER_HELLO_DONE if self.server_side == Some(index) => {
                self.server_complete = true;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Side {
    /// The place of the fragment's message among the open ones; `None` if there are too many, or if its length is
    /// another than that of an earlier fragment.
    fn place(&mut self, fragment: &Fragment<'_>) -> Option<usize> {
        let found = self
            .open
            .iter()
            .position(|message| message.number == fragment.number);
        if let Some(place) = found {
            let message = self.open.get(place)?;
            return (message.length == fragment.length && message.kind == fragment.kind).then_some(place);
        }
        if self.open.len() >= MAX_OPEN_MESSAGES {
            return None;
        }
        self.open.push(OpenMessage {
            number: fragment.number,
            kind: fragment.kind,
            length: fragment.length,
            pieces: Pieces::default(),
        });
        self.open.len().checked_sub(1)
    }
}

/// A fragment of a handshake message (RFC 6347 §4.2.2).
#[derive(Clone, Copy, Debug)]
struct Fragment<'a> {
    kind: u8,
    /// Of the whole message.
    length: usize,
    /// The message's number in its direction.
    number: u16,
    offset: u64,
    data: &'a [u8],
}

impl<'a> Fragment<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Short> {
        let (kind, length, number) = (cursor.u8()?, cursor.u24()?, cursor.u16()?);
        let (offset, size) = (cursor.u24()?, cursor.u24()?);
        let data = cursor.take(size as usize)?;
        let fits = offset.checked_add(size).is_some_and(|end| end <= length);
        if kind > message::HIGHEST || !fits {
            return Err(Short);
        }
        Ok(Self {
            kind,
            length: length as usize,
            number,
            offset: offset.into(),
            data,
        })
    }
}

/// A record whose header says DTLS; a handshake record must hold a fragment of a known message type.
pub(in crate::l7) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    let mut cursor = Cursor::new(bytes);
    let with_connection_id = bytes.first() == Some(&CONNECTION_ID) && bytes.get(1..3) == Some(&[0xfe, 0xfd]);
    let Ok(record) = PlainRecord::parse(&mut cursor) else {
        return if with_connection_id && bytes.len() > HEADER_BYTES {
            Verdict::Yes
        } else {
            Verdict::No
        };
    };
    let plausible = match record.kind {
        content::HANDSHAKE if record.epoch == 0 => {
            record.body.first().is_some_and(|kind| *kind <= message::HIGHEST)
        }
        content::ALERT if record.epoch == 0 => record.body.len() == 2,
        content::CHANGE_CIPHER_SPEC => record.body.len() <= 3,
        _ => !record.body.is_empty(),
    };
    if plausible { Verdict::Yes } else { Verdict::No }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests {
    use super::*;
    use crate::l7::Limit;
    use crate::l7::tests::{Feeder, field, unhex};
    use proptest::prelude::*;

    /// A handshake record with one fragment of `body`.
    fn fragment(kind: u8, number: u16, body: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
        let length = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
        let part = &body[range.clone()];
        let fragment = [
            vec![kind],
            length(body.len()),
            number.to_be_bytes().to_vec(),
            length(range.start),
            length(part.len()),
            part.to_vec(),
        ]
        .concat();
        let header = [content::HANDSHAKE, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, number as u8].to_vec();
        [header, (fragment.len() as u16).to_be_bytes().to_vec(), fragment].concat()
    }

    /// DTLS 1.2, one cipher, `server_name` "a.example", with a cookie of that length.
    fn client_hello(cookie: usize) -> Vec<u8> {
        [
            unhex("fefd"),
            vec![0x11; 32],
            vec![0, cookie as u8],
            vec![0xcc; cookie],
            unhex("0002 c02b 01 00 0012"),
            unhex("0000 000e 000c 00 0009"),
            b"a.example".to_vec(),
        ]
        .concat()
    }

    fn server_hello() -> Vec<u8> {
        [unhex("fefd"), vec![0x22; 32], unhex("00 c02b 00")].concat()
    }

    #[test]
    fn connectivity_checks_before_it_do_not_hide_it() {
        // A STUN binding request: type, length, magic cookie, transaction id.
        let check = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
        let mut flow = Feeder::udp(40_000, 40_001);
        for _ in 0..20 {
            assert_eq!(flow.forward(check), Status::Need(0));
        }
        let hello = client_hello(0);
        flow.forward(&fragment(CLIENT_HELLO, 0, &hello, 0..hello.len()));
        assert_eq!(
            flow.session.protocol().map(|(found, _)| found),
            Some(Protocol::Dtls)
        );
        let mut flow = Feeder::udp(40_000, 40_001);
        let last = (0..64).map(|_| flow.forward(check)).last();
        assert_eq!(last, Some(Status::GaveUp(Limit::Unidentified)), "not for ever");
    }

    #[test]
    fn a_handshake_with_cookie_and_fragments_in_any_order() {
        let mut flow = Feeder::udp(40_000, 40_001);
        let first = client_hello(0);
        flow.forward(&fragment(CLIENT_HELLO, 0, &first, 0..first.len()));
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Dtls, Confidence::Handshake))
        );
        flow.reverse(&fragment(3, 0, &[0xfe, 0xff, 2, 0xcc, 0xcc], 0..5));
        let second = client_hello(2);
        flow.forward(&fragment(CLIENT_HELLO, 1, &second, 20..second.len()));
        flow.forward(&fragment(CLIENT_HELLO, 1, &second, 20..second.len()));
        flow.forward(&fragment(CLIENT_HELLO, 1, &second, 0..30));
        let hello = server_hello();
        let done = [
            fragment(SERVER_HELLO, 1, &hello, 0..hello.len()),
            fragment(message::SERVER_HELLO_DONE, 2, &[], 0..0),
        ]
        .concat();
        assert_eq!(flow.reverse(&done), Status::Need(0));
        // ClientKeyExchange is not put together any more.
        flow.forward(&fragment(16, 2, &[4; 33], 0..20));
        assert_eq!(flow.forward(&change_cipher_spec()), Status::Done);
        assert_eq!(flow.session.server_name(), Some("a.example"));
        let record = flow.record(Protocol::Tls);
        assert_eq!(field(&record, "version"), "DTLSv1.2");
        assert!(
            field(&record, "ja4").starts_with("dd2d010100_"),
            "{}",
            field(&record, "ja4")
        );
        assert!(field(&record, "ja3_string").starts_with("65277,49195,0"));
        assert!(field(&record, "further_hellos").contains("a.example"));
    }

    fn change_cipher_spec() -> Vec<u8> {
        [
            &[content::CHANGE_CIPHER_SPEC, 0xfe, 0xff],
            [0; 8].as_slice(),
            &[0, 1, 1],
        ]
        .concat()
    }

    #[test]
    fn the_alert_that_refuses_a_certificate_is_seen() {
        let (client, server) = (client_hello(0), server_hello());
        let hellos = || {
            let mut flow = Feeder::udp(40_000, 40_001);
            flow.forward(&fragment(CLIENT_HELLO, 0, &client, 0..client.len()));
            flow.reverse(&fragment(SERVER_HELLO, 0, &server, 0..server.len()));
            flow.reverse(&fragment(message::SERVER_HELLO_DONE, 1, &[], 0..0));
            flow
        };
        let mut flow = hellos();
        let alert = [&[content::ALERT, 0xfe, 0xff], [0; 8].as_slice(), &[0, 2, 2, 48]].concat();
        assert_eq!(flow.forward(&alert), Status::Done);
        assert_eq!(field(&flow.record(Protocol::Tls), "alert"), "48");
        // What the server encrypts does not end it, what the client encrypts does.
        let mut flow = hellos();
        assert_eq!(flow.reverse(&change_cipher_spec()), Status::Need(0));
        assert_eq!(flow.forward(&[0x2f, 1, 2, 3]), Status::Done);
    }

    #[test]
    fn repetitions_and_contradictions_are_passed_over() {
        let mut flow = Feeder::udp(40_000, 443);
        let hello = client_hello(0);
        flow.forward(&fragment(CLIENT_HELLO, 0, &hello, 0..hello.len()));
        flow.forward(&fragment(CLIENT_HELLO, 0, &hello, 0..hello.len()));
        assert_eq!(field(&flow.record(Protocol::Tls), "further_hellos"), "[]");
        // Another length under the same number, and a message that ends behind its length.
        flow.forward(&fragment(CLIENT_HELLO, 1, &hello, 0..10));
        flow.forward(&fragment(CLIENT_HELLO, 1, &client_hello(1), 10..20));
        let mut beyond = fragment(CLIENT_HELLO, 2, &hello, 0..10);
        beyond[HEADER_BYTES + 8] = 0xff;
        assert_eq!(flow.forward(&beyond), Status::Need(0));
    }

    #[test]
    fn an_announced_length_takes_no_room() {
        let mut flow = Feeder::udp(40_000, 443);
        let body = vec![0; MAX_MESSAGE_BYTES];
        let last = MAX_MESSAGE_BYTES - 1..MAX_MESSAGE_BYTES;
        let datagram: Vec<u8> = (0..MAX_OPEN_MESSAGES as u16)
            .flat_map(|number| fragment(CLIENT_HELLO, number, &body, last.clone()))
            .collect();
        assert!(datagram.len() < 128);
        assert_eq!(flow.forward(&datagram), Status::Need(0));
        let kept = flow.session.kept_bytes();
        assert!(
            (size_of::<Dtls>()..size_of::<Dtls>() + 2048).contains(&kept),
            "{kept}"
        );
        // What is received is counted, and given back.
        flow.forward(&fragment(CLIENT_HELLO, 0, &body, 0..8192));
        assert!(flow.session.kept_bytes() >= kept + 8192);
        flow.session.release();
        assert_eq!(flow.session.kept_bytes(), size_of::<Dtls>());
    }

    proptest! {
        /// A message that comes whole, and one that comes in any parts, overlapping, in any order, several to a datagram.
        #[test]
        fn records_do_not_depend_on_fragments(
            cuts in proptest::collection::btree_set(1..64_usize, 0..12),
            overlap in 0..10_usize,
            keys in proptest::collection::vec(any::<u8>(), 13),
            together in 1..4_usize,
        ) {
            let hello = client_hello(2);
            prop_assert!(cuts.iter().all(|cut| *cut < hello.len()));
            let ends = cuts.iter().copied().chain([hello.len()]);
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let mut parts: Vec<_> = starts.zip(ends).zip(&keys).collect();
            parts.sort_by_key(|(_, key)| **key);
            let mut flow = Feeder::udp(40_000, 40_001);
            for parts in parts.chunks(together) {
                let datagram: Vec<u8> = parts
                    .iter()
                    .flat_map(|((start, end), _)| {
                        fragment(CLIENT_HELLO, 0, &hello, *start..(end + overlap).min(hello.len()))
                    })
                    .collect();
                flow.forward(&datagram);
            }
            let mut whole = Feeder::udp(40_000, 40_001);
            whole.forward(&fragment(CLIENT_HELLO, 0, &hello, 0..hello.len()));
            prop_assert_eq!(whole.session.server_name(), Some("a.example"));
            prop_assert_eq!(flow.all(), whole.all());
        }
    }

    #[test]
    fn encrypted_records_alone_end_it() {
        let mut flow = Feeder::udp(40_000, 40_001);
        let record = [&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 4], [7; 4].as_slice()].concat();
        let last = (0..MAX_ENCRYPTED_RECORDS).map(|_| flow.forward(&record)).last();
        assert_eq!(last, Some(Status::Done));
        assert_eq!(
            flow.session.protocol().map(|(protocol, _)| protocol),
            Some(Protocol::Dtls)
        );
        assert!(flow.record(Protocol::Tls).is_empty(), "there is nothing to show");
    }
}
