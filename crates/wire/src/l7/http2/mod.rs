//! HTTP/2 in the clear (RFC 9113): by prior knowledge, after an upgrade from HTTP/1.1, or through a tunnel.
//!
//! Header blocks are decoded and shown as transactions, as those of HTTP/1 are and in the same struct. Other frames are
//! passed over by their lengths, but for messages of DNS over HTTPS (RFC 8484). Once a header block cannot be decoded
//! its direction is lost, since later blocks build on it.

mod hpack;
mod huffman;

use super::http1::{self, MAX_NAME_BYTES, MAX_VALUE_BYTES};
use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    dns, side_of,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::Text;
use hpack::Decoder;
use std::collections::VecDeque;

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest header block; common servers refuse more than 16 or 32 KiB.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// The longest message of DNS that is read.
const MAX_DNS_BYTES: usize = 4096;
/// Streams whose transaction is remembered, until their response comes.
const MAX_STREAMS: usize = 128;
/// The media type of DNS over HTTPS (RFC 8484 §6).
const DNS_MESSAGE: &str = "application/dns-message";

/// Frame types (RFC 9113 §6).
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Frame flags.
mod flag {
    pub(super) const ACK: u8 = 0x01;
    pub(super) const END_HEADERS: u8 = 0x04;
    pub(super) const PADDED: u8 = 0x08;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// A frame header (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Header {
    fn parse(cursor: &mut Cursor<'_>) -> Result<Self, Short> {
        Ok(Self {
            length: cursor.u24()? as usize,
            kind: cursor.u8()?,
            flags: cursor.u8()?,
            stream: cursor.u32()? & 0x7fff_ffff,
        })
    }

    /// The frame's body without its padding (RFC 9113 §6.1).
    fn unpadded<'a>(&self, body: &'a [u8]) -> Result<Cursor<'a>, Short> {
        let mut cursor = Cursor::new(body);
        if self.flags & flag::PADDED == 0 {
            return Ok(cursor);
        }
        let padding = cursor.u8()?;
        let length = cursor.len().checked_sub(padding.into()).ok_or(Short)?;
        cursor.sub(length)
    }
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Side {
    decoder: Decoder,
    /// The header block that is not whole yet, and its stream.
    block: Vec<u8>,
    block_stream: u32,
    /// Bytes of the present frame that are still to be passed over.
    skip: usize,
    /// Whether frame boundaries or the header table are lost.
    lost: bool,
    closed: bool,
}

/// A stream whose transaction is known.
#[derive(Clone, Copy, Debug)]
struct Stream {
    number: u32,
    /// Its transaction, if that is listed.
    transaction: Option<usize>,
    /// Which directions carry a message of DNS.
    dns: [bool; 2],
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Http2 {
    record: http1::Record,
    /// What the record takes on the heap, so that this need not be summed up for every segment of a body.
    record_bytes: usize,
    sides: [Side; 2],
    /// Oldest first.
    streams: VecDeque<Stream>,
    /// The messages of DNS over HTTPS.
    dns: Option<Box<dns::Dns>>,
}

impl Dissect for Http2 {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let (consumed, reason) = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => match self.stream(index, bytes, context, crypto)
            {
                Ok(consumed) => (consumed, Status::Done),
                Err(status) => {
                    self.lose(index);
                    (bytes.len(), status)
                }
            },
            Input::Gap(length) => {
                self.gap(index, length);
                (0, Status::GaveUp(Limit::Gap))
            }
            Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.closed = true;
                }
                (0, Status::Done)
            }
        };
        let over = self.sides.iter().all(|side| side.closed || side.lost);
        let status = if over { reason } else { Status::Need(0) };
        Outcome { consumed, status }
    }

    fn confidence(&self) -> Confidence {
        Confidence::Payload
    }

    fn server_name(&self) -> Option<&str> {
        self.record.server_name()
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        match protocol {
            Protocol::Http => {
                self.record.emit(sink);
                true
            }
            Protocol::Dns => self.dns.as_ref().is_some_and(|dns| dns.emit(protocol, sink)),
            _ => false,
        }
    }

    fn release(&mut self) {
        self.sides = <[Side; 2]>::default();
        self.streams = VecDeque::new();
    }

    fn kept_bytes(&self) -> usize {
        let streams = self.streams.capacity().saturating_mul(size_of::<Stream>());
        let dns = self
            .dns
            .as_ref()
            .map_or(0, |dns| size_of::<dns::Dns>().saturating_add(dns.kept_bytes()));
        let sides = self.sides.iter().fold(streams, |sum, side| {
            sum.saturating_add(side.block.capacity())
                .saturating_add(side.decoder.heap_bytes())
        });
        sides.saturating_add(dns).saturating_add(self.record_bytes)
    }
}

impl Http2 {
    /// What follows an upgrade (RFC 7540 §3.2): the request that asked for it is answered on stream 1.
    pub(super) fn upgraded(record: http1::Record, transaction: Option<usize>) -> Self {
        let stream = Stream {
            number: 1,
            transaction,
            dns: [false; 2],
        };
        Self {
            record_bytes: record.heap_bytes(),
            record,
            streams: VecDeque::from([stream]),
            ..Self::default()
        }
    }

    fn lose(&mut self, index: usize) {
        if let Some(side) = self.sides.get_mut(index) {
            *side = Side {
                lost: true,
                closed: side.closed,
                ..Side::default()
            };
        }
    }

    fn gap(&mut self, index: usize, length: u64) {
        let left = self.sides.get(index).and_then(|side| {
            usize::try_from(length)
                .ok()
                .and_then(|length| side.skip.checked_sub(length))
        });
        match (left, self.sides.get_mut(index)) {
            (Some(left), Some(side)) => side.skip = left,
            _ => self.lose(index),
        }
    }

    fn stream(
        &mut self,
        index: usize,
        bytes: &[u8],
        context: &Context,
        crypto: &dyn Crypto,
    ) -> Result<usize, Status> {
        let mut cursor = Cursor::new(bytes);
        loop {
            let rest = cursor.rest();
            let consumed = bytes.len().saturating_sub(rest.len());
            let Some(side) = self.sides.get_mut(index) else {
                return Ok(bytes.len());
            };
            if side.lost {
                return Ok(bytes.len());
            }
            if rest.is_empty() {
                return Ok(consumed);
            }
            if side.skip > 0 {
                let count = side.skip.min(rest.len());
                side.skip = side.skip.saturating_sub(count);
                cursor = Cursor::new(rest.get(count..).unwrap_or_default());
                continue;
            }
            // No frame is as long as the preface's first bytes would say.
            let seen = rest.get(..PREFACE.len()).unwrap_or(rest);
            if seen == PREFACE {
                side.skip = PREFACE.len();
                continue;
            }
            if PREFACE.starts_with(seen) {
                return Ok(consumed);
            }
            let Ok(header) = Header::parse(&mut cursor) else {
                return Ok(consumed);
            };
            let carries_block = matches!(
                header.kind,
                frame::HEADERS | frame::PUSH_PROMISE | frame::CONTINUATION
            );
            let carries_dns = header.kind == frame::DATA
                && header.length <= MAX_DNS_BYTES
                && self.is_dns(header.stream, index);
            if !carries_block && !carries_dns {
                if let Some(side) = self.sides.get_mut(index) {
                    side.skip = header.length;
                }
                continue;
            }
            if header.length > MAX_BLOCK_BYTES {
                return Err(Status::GaveUp(Limit::MessageLength));
            }
            let Ok(body) = cursor.take(header.length) else {
                return Ok(consumed);
            };
            if carries_dns {
                let message = header.unpadded(body).map_err(Malformed::from)?;
                let dns = self.dns.get_or_insert_default();
                dns.feed(Input::Datagram(message.rest()), context, crypto);
            } else {
                self.header_frame(index, header, body)?;
            }
        }
    }

    fn is_dns(&self, stream: u32, index: usize) -> bool {
        let found = self.streams.iter().find(|known| known.number == stream);
        found.is_some_and(|known| known.dns.get(index) == Some(&true))
    }

    /// A frame that carries a part of a header block, all of it if nothing says otherwise (RFC 9113 §4.3).
    fn header_frame(&mut self, index: usize, header: Header, body: &[u8]) -> Result<(), Status> {
        let mut fragment = match header.kind {
            frame::CONTINUATION => Cursor::new(body),
            _ => header.unpadded(body).map_err(Malformed::from)?,
        };
        let mut stream = header.stream;
        if header.kind == frame::HEADERS && header.flags & flag::PRIORITY != 0 {
            fragment.skip(5).map_err(Malformed::from)?;
        }
        if header.kind == frame::PUSH_PROMISE {
            stream = fragment.u32().map_err(Malformed::from)? & 0x7fff_ffff;
        }
        let Some(side) = self.sides.get_mut(index) else {
            return Ok(());
        };
        if header.kind != frame::CONTINUATION {
            side.block.clear();
            side.block_stream = stream;
        }
        if side.block.len().saturating_add(fragment.len()) > MAX_BLOCK_BYTES {
            return Err(Status::GaveUp(Limit::MessageLength));
        }
        side.block.extend_from_slice(fragment.rest());
        if header.flags & flag::END_HEADERS == 0 {
            return Ok(());
        }
        let block = std::mem::take(&mut side.block);
        let stream = side.block_stream;
        let mut fields = Fields::default();
        side.decoder
            .decode(&block, |name, value| fields.add(name, value))?;
        self.message(index, stream, fields);
        self.record_bytes = self.record.heap_bytes();
        Ok(())
    }

    /// The header section of a request or a response; a trailer has neither method nor status.
    fn message(&mut self, index: usize, stream: u32, fields: Fields) {
        let is_dns = fields.content_type.as_deref() == Some(DNS_MESSAGE);
        if fields.method.is_some() {
            let transaction = self.record.add_transaction();
            if let Some(listed) = transaction.and_then(|place| self.record.transactions.get_mut(place)) {
                listed.method = fields.method;
                listed.host = fields.authority.or(fields.host);
                listed.path = fields.path;
                listed.user_agent = fields.user_agent;
                listed.referer = fields.referer;
                listed.request_content_type = fields.content_type;
                listed.request_content_length = fields.content_length;
            }
            self.remember(stream, transaction, index, is_dns);
        } else if let Some(status) = fields.status {
            // RFC 9110 §15.2: interim responses precede the final one.
            if (100..200).contains(&status) {
                return;
            }
            let known = self.streams.iter_mut().find(|known| known.number == stream);
            let transaction = if let Some(known) = known {
                if let Some(place) = known.dns.get_mut(index) {
                    *place = is_dns;
                }
                known.transaction
            } else {
                // The request was not seen.
                let transaction = self.record.add_transaction();
                self.remember(stream, transaction, index, is_dns);
                transaction
            };
            if let Some(listed) = transaction.and_then(|place| self.record.transactions.get_mut(place)) {
                listed.status = Some(status);
                listed.server = fields.server;
                listed.response_content_type = fields.content_type;
                listed.response_content_length = fields.content_length;
            }
        }
    }

    fn remember(&mut self, number: u32, transaction: Option<usize>, index: usize, is_dns: bool) {
        if self.streams.len() >= MAX_STREAMS {
            self.streams.pop_front();
        }
        let mut dns = [false; 2];
        if let Some(place) = dns.get_mut(index) {
            *place = is_dns;
        }
        self.streams.push_back(Stream {
            number,
            transaction,
            dns,
        });
    }
}

/// The fields of a header section that a record shows.
#[derive(Clone, Debug, Default)]
struct Fields {
    method: Option<Text<30>>,
    authority: Option<Text<30>>,
    path: Option<Text<30>>,
    status: Option<u16>,
    host: Option<Text<30>>,
    user_agent: Option<Text<30>>,
    referer: Option<Text<30>>,
    server: Option<Text<30>>,
    content_type: Option<Text<30>>,
    content_length: Option<u64>,
}

impl Fields {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        let short = || Some(Text::from_wire(value, MAX_NAME_BYTES));
        let long = || Some(Text::from_wire(value, MAX_VALUE_BYTES));
        // What may have been cut is no number.
        let number = || http1::number(value).filter(|_| value.len() < MAX_VALUE_BYTES);
        match name {
            b":method" => self.method = short(),
            b":authority" => self.authority = short(),
            b":path" => self.path = long(),
            b":status" => self.status = number().and_then(|code| u16::try_from(code).ok()),
            b"host" => self.host = short(),
            b"user-agent" => self.user_agent = long(),
            b"referer" => self.referer = long(),
            b"server" => self.server = short(),
            b"content-type" => {
                self.content_type = Some(Text::from_wire(http1::media_type(value), MAX_NAME_BYTES));
            }
            b"content-length" => self.content_length = number(),
            _ => {}
        }
    }
}

/// The client's preface, or a server's first frame: settings, which both must send first.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    const MAX_SETTINGS: u8 = 16;
    const KNOWN_SETTINGS: u8 = 16;
    let seen = bytes.get(..PREFACE.len()).unwrap_or(bytes);
    if seen == PREFACE {
        return Verdict::Yes;
    }
    if PREFACE.starts_with(seen) {
        return Verdict::More;
    }
    // RFC 9113 §6.5: six bytes each; the few that exist, on stream 0, and no acknowledgement.
    let front: Vec<Option<u8>> = (0..11).map(|place| bytes.get(place).copied()).collect();
    let fits = front.iter().enumerate().all(|(place, byte)| match (place, byte) {
        (_, None) | (10, _) => true,
        (2, Some(length)) => length % 6 == 0 && *length <= 6 * MAX_SETTINGS && *length > 0,
        (3, Some(kind)) => *kind == frame::SETTINGS,
        (4, Some(flags)) => flags & flag::ACK == 0 && *flags == 0,
        (_, Some(byte)) => *byte == 0,
    });
    match (fits, bytes.get(10)) {
        (true, None) => Verdict::More,
        (true, Some(setting)) if (1..=KNOWN_SETTINGS).contains(setting) => Verdict::Yes,
        _ => Verdict::No,
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
pub(super) mod tests {
    use super::*;
    use crate::flowkey::Direction::{self, Forward, Reverse};
    use crate::l7::tests::{Feeder, field, unhex};

    fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let length = &(body.len() as u32).to_be_bytes()[1..];
        [length, &[kind, flags], &stream.to_be_bytes(), body].concat()
    }

    fn settings() -> Vec<u8> {
        frame(frame::SETTINGS, 0, 0, &unhex("000300000064"))
    }

    /// `GET http://www.example.com/` of RFC 7541 appendix C.4.1.
    const REQUEST: &str = "828684418cf1e3c2e5f23a6ba0ab90f4ff";
    /// 200, then `server: x`.
    const RESPONSE: &str = "88 7601 78";

    /// A request in two frames, padded and with priority, and its response with a body.
    pub(in crate::l7) fn conversation() -> Vec<(Direction, Vec<u8>)> {
        let block = unhex(REQUEST);
        let first = [&[2], [0; 5].as_slice(), &block[..4], &[0, 0]].concat();
        let flags = flag::PADDED | flag::PRIORITY;
        let client = [
            PREFACE.to_vec(),
            settings(),
            frame(frame::HEADERS, flags, 1, &first),
            frame(frame::CONTINUATION, flag::END_HEADERS, 1, &block[4..]),
        ];
        let server = [
            settings(),
            frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE)),
            frame(frame::DATA, 1, 1, &[b'x'; 300]),
        ];
        vec![(Forward, client.concat()), (Reverse, server.concat())]
    }

    fn transactions(flow: &Feeder) -> String {
        field(&flow.record(Protocol::Http), "transactions").to_owned()
    }

    #[test]
    fn a_request_and_its_response() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        for (direction, bytes) in conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Http2, Confidence::Payload))
        );
        assert_eq!(flow.session.server_name(), Some("www.example.com"));
        assert_eq!(
            transactions(&flow),
            "[{GET,www.example.com,/,null,null,200,x,null,null,null,null}]"
        );
        assert!(flow.session.kept_bytes() > 0);
    }

    /// HTTP/1.1 that becomes HTTP/2; the response is the answer to the request that asked for it.
    pub(in crate::l7) fn upgrade() -> Vec<(Direction, Vec<u8>)> {
        let request = b"GET /a HTTP/1.1\r\nHost: b.test\r\nUpgrade: h2c\r\n\r\n".to_vec();
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n".to_vec();
        let response = frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE));
        let next = frame(frame::HEADERS, flag::END_HEADERS, 3, &unhex(REQUEST));
        vec![
            (Forward, request),
            (Reverse, [switch, settings(), response].concat()),
            (Forward, [PREFACE, &next].concat()),
        ]
    }

    #[test]
    fn an_upgrade_answers_the_request_that_asked_for_it() {
        let mut flow = Feeder::tcp(40_000, 80);
        for (direction, bytes) in upgrade() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(
            flow.session.protocol().map(|(found, _)| found),
            Some(Protocol::Http)
        );
        assert_eq!(field(&flow.record(Protocol::Http), "upgraded_to"), "h2c");
        assert_eq!(
            transactions(&flow),
            "[{GET,b.test,/a,null,null,200,x,null,null,null,null},{GET,www.example.com,/,null,null,null,null,null,null,null,null}]"
        );
    }

    #[test]
    fn long_values_are_shown_as_far_as_they_are_kept() {
        let mut flow = Feeder::tcp(40_000, 80);
        // A path of 1,500 bytes into the table and from it again; a number that is no number where it was cut.
        let path = [unhex("82 44 7f dd0a").as_slice(), &[b'p'; 1500]].concat();
        let length = [unhex("82 bf 0f0d 7f cd07").as_slice(), &[b'0'; 1099], b"5"].concat();
        let headers = |stream, block: &[u8]| frame(frame::HEADERS, flag::END_HEADERS, stream, block);
        flow.forward(&[PREFACE, &headers(1, &path), &headers(3, &[0x82, 0xbe])].concat());
        flow.forward(&headers(5, &[unhex("4001610162").as_slice(), &length].concat()));
        let row = format!(
            "{{GET,null,{},null,null,null,null,null,null,null,null}}",
            "p".repeat(1024)
        );
        assert_eq!(transactions(&flow), format!("[{row},{row},{row}]"));
    }

    #[test]
    fn dns_over_https_is_dns_too() {
        let mut flow = Feeder::tcp(40_000, 80);
        // content-type is entry 31 of the static table.
        let name = b"application/dns-message";
        let block = [unhex("83 86 84 5f 17").as_slice(), name].concat();
        let query = dns::tests::query("a.test");
        flow.forward(&[PREFACE, &frame(frame::HEADERS, flag::END_HEADERS, 1, &block)].concat());
        flow.forward(&frame(frame::DATA, 1, 1, &query));
        assert!(field(&flow.record(Protocol::Dns), "queries").contains("a.test"));
    }

    #[test]
    fn faults_lose_a_direction() {
        let mut flow = Feeder::tcp(40_000, 80);
        flow.forward(&[PREFACE, &frame(frame::HEADERS, flag::END_HEADERS, 1, &[0xff; 6])].concat());
        flow.reverse(&settings());
        let response = frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE));
        flow.reverse(&response);
        assert_eq!(
            transactions(&flow),
            "[{null,null,null,null,null,200,x,null,null,null,null}]"
        );
        flow.reverse(&frame(frame::DATA, 0, 1, &[0; 100])[..50]);
        assert_eq!(
            flow.gap(Reverse, 59),
            Status::Need(0),
            "inside a frame that is passed over"
        );
        flow.reverse(&response);
        assert_eq!(flow.gap(Reverse, 1), Status::GaveUp(Limit::Gap));
    }

    #[test]
    fn other_bytes_are_another_protocol() {
        assert_eq!(identify(b"PRI * HTTP/2", hint()), Verdict::More);
        assert_eq!(identify(b"PRI * HTTP/1", hint()), Verdict::No);
        assert_eq!(identify(&settings(), hint()), Verdict::Yes);
        assert_eq!(
            identify(&frame(frame::SETTINGS, 0, 0, &unhex("00ff00000064")), hint()),
            Verdict::No
        );
        assert_eq!(identify(&unhex("000006040100000000"), hint()), Verdict::No);
    }

    fn hint() -> Hint {
        Hint {
            port: false,
            stream: true,
            direction: Forward,
        }
    }
}
