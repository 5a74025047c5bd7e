//! HTTP/2 in the clear (RFC 9113): by prior knowledge, after an upgrade from HTTP/1.1, or through a tunnel.
//!
//! Header blocks are decoded and shown as transactions, as those of HTTP/1 are and in the same struct. Other frames are
//! passed over by their lengths, but for messages of DNS over HTTPS (RFC 8484), which may come in several of them. Once a
//! header block cannot be decoded its direction is lost, since later blocks build on it.
//!
//! Of the streams in flight only those are remembered that a response still adds to: it answers a transaction that is
//! listed, or a message of DNS is to come. Numbers of streams rise (RFC 9113 §5.1.1), so that the highest one tells of
//! any other whether its request was seen.

mod hpack;
mod huffman;

use super::http1::{self, MAX_NAME_BYTES, MAX_VALUE_BYTES};
use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    dns, side_of,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::{Few, Text};
use hpack::Decoder;

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest header block; common servers refuse more than 16 or 32 KiB.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
/// The longest message of DNS that is read.
const MAX_DNS_BYTES: usize = 4096;
/// Bytes that are kept of all unfinished messages of DNS.
const MAX_KEPT_DNS_BYTES: usize = 64 * 1024;
/// Streams that are remembered for their messages of DNS alone.
const MAX_DNS_STREAMS: usize = 128;
/// What padding adds to a frame (RFC 9113 §6.1).
const MAX_PADDING_BYTES: usize = 256;
/// The media type of DNS over HTTPS (RFC 8484 §6).
const DNS_MESSAGE: &[u8] = b"application/dns-message";

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
    pub(super) const END_STREAM: u8 = 0x01;
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

    /// Whether the sender has nothing more to say on the stream: of DATA and HEADERS.
    fn ends_stream(&self) -> bool {
        self.flags & flag::END_STREAM != 0
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
    /// Whether the stream's direction ends with that block.
    block_ends: bool,
    /// Bytes of the present frame that are still to be passed over.
    skip: usize,
    /// Whether frame boundaries or the header table are lost.
    lost: bool,
    closed: bool,
}

/// A stream of which something is to come that is shown.
#[derive(Clone, Debug)]
struct Stream {
    number: u32,
    /// Its transaction, if that is listed and not answered yet.
    transaction: Option<usize>,
    /// In the directions that carry a message of DNS: what has come of it.
    dns: [Option<Vec<u8>>; 2],
}

impl Stream {
    fn is_over(&self) -> bool {
        self.transaction.is_none() && self.dns.iter().all(Option::is_none)
    }

    /// Nothing more of its message of DNS in a direction is read.
    fn end_dns(&mut self, index: usize) {
        if let Some(message) = self.dns.get_mut(index) {
            *message = None;
        }
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Http2 {
    record: http1::Record,
    /// What the record takes on the heap, so that this need not be summed up for every segment of a body.
    record_bytes: usize,
    sides: [Side; 2],
    /// Those that were heard of last come last.
    streams: Vec<Stream>,
    /// The highest stream on which a request was seen, of those that a server opens (even) and of a client's (odd).
    requested: [u32; 2],
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
        self.streams = Vec::new();
    }

    fn kept_bytes(&self) -> usize {
        let streams = self.streams.capacity().saturating_mul(size_of::<Stream>());
        let streams = streams.saturating_add(self.kept_dns_bytes());
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
        let mut http2 = Self {
            record_bytes: record.heap_bytes(),
            record,
            requested: [0, 1],
            ..Self::default()
        };
        http2.remember(Stream {
            number: 1,
            transaction,
            dns: [None, None],
        });
        http2
    }

    fn lose(&mut self, index: usize) {
        if let Some(side) = self.sides.get_mut(index) {
            *side = Side {
                lost: true,
                closed: side.closed,
                ..Side::default()
            };
        }
        for stream in &mut self.streams {
            stream.end_dns(index);
        }
        self.streams.retain(|stream| !stream.is_over());
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
            let dns = (header.kind == frame::DATA).then(|| self.dns_stream(header.stream, index));
            let dns = dns.flatten();
            if let Some(place) = dns
                && header.length > MAX_DNS_BYTES.saturating_add(MAX_PADDING_BYTES)
            {
                self.end_dns(place, index);
            } else if let Some(place) = dns {
                let Ok(body) = cursor.take(header.length) else {
                    return Ok(consumed);
                };
                let part = header.unpadded(body).map_err(Malformed::from)?;
                self.dns_part(place, index, part.rest(), header.ends_stream(), context, crypto);
                continue;
            }
            if !carries_block {
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
            if let Some(ended) = self.header_frame(index, header, body)?
                && let Some(place) = self.dns_stream(ended, index)
            {
                self.dns_part(place, index, &[], true, context, crypto);
            }
        }
    }

    /// The place of a stream that carries a message of DNS in a direction.
    fn dns_stream(&self, number: u32, index: usize) -> Option<usize> {
        self.streams
            .iter()
            .position(|known| known.number == number && known.dns.get(index).is_some_and(Option::is_some))
    }

    /// A part of a stream's message of DNS, the last one or not. A message that is too long is not read.
    fn dns_part(
        &mut self,
        place: usize,
        index: usize,
        part: &[u8],
        last: bool,
        context: &Context,
        crypto: &dyn Crypto,
    ) {
        let room = MAX_KEPT_DNS_BYTES.saturating_sub(self.kept_dns_bytes());
        let kept = self
            .streams
            .get_mut(place)
            .and_then(|stream| stream.dns.get_mut(index));
        let Some(Some(kept)) = kept else { return };
        let length = kept.len().saturating_add(part.len());
        let mut message = part;
        let mut fits = length <= MAX_DNS_BYTES;
        if fits && (!last || !kept.is_empty()) && !part.is_empty() {
            fits = part.len() <= room;
            if fits {
                kept.reserve_exact(part.len());
                kept.extend_from_slice(part);
            }
        }
        if !kept.is_empty() {
            message = kept;
        }
        if fits && last && !message.is_empty() {
            let dns = self.dns.get_or_insert_default();
            dns.feed(Input::Datagram(message), context, crypto);
        }
        if last || !fits {
            self.end_dns(place, index);
        }
    }

    /// Nothing more of a stream's message of DNS is read.
    fn end_dns(&mut self, place: usize, index: usize) {
        if let Some(stream) = self.streams.get_mut(place) {
            stream.end_dns(index);
            if stream.is_over() {
                self.streams.remove(place);
            }
        }
    }

    fn kept_dns_bytes(&self) -> usize {
        let messages = self.streams.iter().flat_map(|stream| &stream.dns).flatten();
        messages.fold(0, |sum, message| sum.saturating_add(message.capacity()))
    }

    /// A frame that carries a part of a header block, all of it if nothing says otherwise (RFC 9113 §4.3). The stream
    /// whose direction has ended with that block, if one has.
    fn header_frame(&mut self, index: usize, header: Header, body: &[u8]) -> Result<Option<u32>, Status> {
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
            return Ok(None);
        };
        if header.kind != frame::CONTINUATION {
            side.block.clear();
            side.block_stream = stream;
            side.block_ends = header.kind == frame::HEADERS && header.ends_stream();
        }
        if side.block.len().saturating_add(fragment.len()) > MAX_BLOCK_BYTES {
            return Err(Status::GaveUp(Limit::MessageLength));
        }
        side.block.extend_from_slice(fragment.rest());
        if header.flags & flag::END_HEADERS == 0 {
            return Ok(None);
        }
        let block = std::mem::take(&mut side.block);
        let (stream, ends) = (side.block_stream, side.block_ends);
        let mut fields = Fields::default();
        side.decoder
            .decode(&block, |name, value| fields.add(name, value))?;
        self.message(index, stream, &fields);
        self.record_bytes = self.record.heap_bytes();
        Ok(ends.then_some(stream))
    }

    /// The header section of a request or a response; a trailer has neither method nor status.
    fn message(&mut self, index: usize, number: u32, fields: &Fields) {
        let media_type = fields.content_type.as_deref().map(http1::media_type);
        let mut dns = [None, None];
        if let Some(place) = dns.get_mut(index)
            && media_type.is_some_and(|name| name.eq_ignore_ascii_case(DNS_MESSAGE))
        {
            *place = Some(Vec::new());
        }
        let requested = usize::from(number % 2 == 1);
        if fields.method.is_some() {
            if let Some(highest) = self.requested.get_mut(requested) {
                *highest = number.max(*highest);
            }
            let transaction = self.record.add_transaction();
            if let Some(listed) = transaction.and_then(|place| self.record.transactions.get_mut(place)) {
                let host = fields.authority.as_deref().or(fields.host.as_deref());
                listed.method = text(fields.method.as_deref(), MAX_NAME_BYTES);
                listed.host = text(host, MAX_NAME_BYTES);
                listed.path = text(fields.path.as_deref(), MAX_VALUE_BYTES);
                listed.user_agent = text(fields.user_agent.as_deref(), MAX_VALUE_BYTES);
                listed.referer = text(fields.referer.as_deref(), MAX_VALUE_BYTES);
                listed.request_content_type = text(media_type, MAX_NAME_BYTES);
                listed.request_content_length = fields.content_length();
            }
            self.remember(Stream {
                number,
                transaction,
                dns,
            });
        } else if let Some(status) = fields.status() {
            // RFC 9110 §15.2: interim responses precede the final one.
            if (100..200).contains(&status) {
                return;
            }
            let known = self.streams.iter().position(|known| known.number == number);
            let mut stream = known.map_or_else(
                || Stream {
                    number,
                    transaction: None,
                    dns: [None, None],
                },
                |place| self.streams.remove(place),
            );
            let is_seen = known.is_some() || self.requested.get(requested) >= Some(&number);
            let transaction = if is_seen {
                stream.transaction.take()
            } else {
                self.record.add_transaction()
            };
            if let (Some(place), Some(own)) = (stream.dns.get_mut(index), dns.get_mut(index)) {
                *place = own.take();
            }
            self.remember(stream);
            if let Some(listed) = transaction.and_then(|place| self.record.transactions.get_mut(place)) {
                listed.status = Some(status);
                listed.server = text(fields.server.as_deref(), MAX_NAME_BYTES);
                listed.response_content_type = text(media_type, MAX_NAME_BYTES);
                listed.response_content_length = fields.content_length();
            }
        }
    }

    /// Remembers a stream if anything of it is to come. There are never more of them with a transaction than are listed.
    fn remember(&mut self, stream: Stream) {
        if stream.is_over() {
            return;
        }
        let is_for_dns = |stream: &Stream| stream.transaction.is_none();
        if is_for_dns(&stream)
            && self.streams.iter().filter(|known| is_for_dns(known)).count() >= MAX_DNS_STREAMS
            && let Some(oldest) = self.streams.iter().position(is_for_dns)
        {
            self.streams.remove(oldest);
        }
        self.streams.push(stream);
    }
}

/// The first bytes of a field's value.
type Kept = Few<u8, 30>;

/// The fields of a header section that a record shows: of each the first, as it came. An index of one byte may stand for
/// a long value, any number of times; text is made of it only where a record shows it.
#[derive(Clone, Debug, Default)]
struct Fields {
    method: Option<Kept>,
    authority: Option<Kept>,
    path: Option<Kept>,
    status: Option<Kept>,
    host: Option<Kept>,
    user_agent: Option<Kept>,
    referer: Option<Kept>,
    server: Option<Kept>,
    content_type: Option<Kept>,
    content_length: Option<Kept>,
}

impl Fields {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        let (place, limit) = match name {
            b":method" => (&mut self.method, MAX_NAME_BYTES),
            b":authority" => (&mut self.authority, MAX_NAME_BYTES),
            b":path" => (&mut self.path, MAX_VALUE_BYTES),
            b":status" => (&mut self.status, MAX_VALUE_BYTES),
            b"host" => (&mut self.host, MAX_NAME_BYTES),
            b"user-agent" => (&mut self.user_agent, MAX_VALUE_BYTES),
            b"referer" => (&mut self.referer, MAX_VALUE_BYTES),
            b"server" => (&mut self.server, MAX_NAME_BYTES),
            b"content-type" => (&mut self.content_type, MAX_VALUE_BYTES),
            b"content-length" => (&mut self.content_length, MAX_VALUE_BYTES),
            _ => return,
        };
        if place.is_none() {
            *place = Some(Kept::from(value.get(..limit).unwrap_or(value)));
        }
    }

    fn status(&self) -> Option<u16> {
        number(self.status.as_deref()).and_then(|code| u16::try_from(code).ok())
    }

    fn content_length(&self) -> Option<u64> {
        number(self.content_length.as_deref())
    }
}

fn text(value: Option<&[u8]>, limit: usize) -> Option<Text<30>> {
    value.map(|value| Text::from_wire(value, limit))
}

/// What may have been cut is no number.
fn number(value: Option<&[u8]>) -> Option<u64> {
    value
        .filter(|value| value.len() < MAX_VALUE_BYTES)
        .and_then(http1::number)
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
pub(super) mod tests;
