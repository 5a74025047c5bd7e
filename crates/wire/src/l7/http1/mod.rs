//! HTTP/1.0 and HTTP/1.1 (RFC 9112): start lines and a few header fields of every transaction of a connection.
//!
//! The two directions are read apart, line by line. Bodies are passed over by their framing and never kept. Responses
//! are matched to requests in order, so that pipelining works; `matching.rs` says what becomes of that behind a gap.
//! After CONNECT and Upgrade the stream is handed over to the protocol that follows (RFC 9110 §7.8, §9.3.6).
//!
//! Lenient where servers are: a line may end in a bare LF, empty lines may stand before a start line, header fields may
//! be folded (RFC 9112 §2.2, §5.2).

mod line;
mod matching;
mod record;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
pub(super) mod tests;

use super::http2::Http2;
use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Sink, Value};
use crate::l7::find_byte;
use crate::l7::value::Text;
use line::{RequestLine, StatusLine, field, host_of_target, token_listed, trim};
pub(super) use line::{media_type, number};
use matching::{Matching, Waiting};
pub use record::{Record, Transaction};

/// The longest start line, field line or chunk size line.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// The longest first line by which a flow is identified: with empty lines before it, within what the search looks at.
const IDENTIFY_LINE_BYTES: usize = super::session::IDENTIFY_BYTES - 8;
/// Bytes of a message's header section.
const MAX_HEADER_BYTES: usize = 256 * 1024;
/// Bytes after a gap in which a start line is looked for.
const MAX_RESYNC_BYTES: usize = 256 * 1024;
/// Bytes that are kept of a host, a media type or a method.
pub(super) const MAX_NAME_BYTES: usize = 256;
/// Bytes that are kept of a path, a user agent or a referrer.
pub(super) const MAX_VALUE_BYTES: usize = 1024;

/// The dissector. What each packet looks at stands first.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Http {
    sides: [Side; 2],
    record: Record,
    /// What the record takes on the heap, so that this need not be summed up for every segment of a body.
    record_bytes: usize,
    /// Whether a line was read since that was summed up.
    read: bool,
    /// Requests without a final response, and which of them the next one answers.
    matching: Matching,
    /// The direction of the response that is still to come while the client already uses the tunnel.
    tunnel_answer: Option<usize>,
    /// What follows an upgrade to `h2c`; then the record is there.
    http2: Option<Box<Http2>>,
}

/// One direction of the connection.
#[derive(Clone, Debug, Default)]
struct Side {
    state: State,
    /// Facts of the message whose header section is being read.
    message: Message,
    /// Bytes of the unconsumed line that were already searched for its end.
    searched: usize,
    closed: bool,
    /// Whether requests may be missing since the last one.
    requests_missing: bool,
    /// Whether responses may be missing to requests that wait.
    responses_missing: bool,
}

/// Where a direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a start line.
    #[default]
    Start,
    /// In a header section, of which so many bytes were read.
    Header(usize),
    /// In a body or a chunk of which so many bytes are to come, then this.
    Skip(u64, AfterSkip),
    /// Before a chunk's size line.
    ChunkSize,
    /// After the last chunk.
    Trailer(usize),
    /// In a body that ends with the connection (RFC 9112 §6.3).
    UntilClose,
    /// After the header section of a CONNECT request: its response says what follows.
    Connect,
    /// After a gap: at the start of a line or not, so many bytes searched.
    Resync { line_start: bool, searched: usize },
    /// Nothing more is read.
    Stopped(Status),
}

/// What follows skipped bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterSkip {
    Message,
    ChunkSize,
}

/// Facts of one message that its header section gives.
#[derive(Clone, Debug, Default)]
struct Message {
    /// The transaction that the fields belong to, if it is listed.
    transaction: Option<usize>,
    /// The status code of a response; `None` for a request.
    status: Option<u16>,
    /// Whether it is a CONNECT request.
    connect: bool,
    /// The request that a response answers.
    answers: Waiting,
    content_length: Option<u64>,
    chunked: bool,
    /// Whether the host of a request is known: from its target, or from a Host field.
    has_host: bool,
    /// The field that a folded line continues.
    last_field: Field,
}

/// Fields that are kept or that decide framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    Host,
    UserAgent,
    Referer,
    Server,
    ContentType,
    ContentLength,
    TransferEncoding,
    Upgrade,
    #[default]
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        const FIELDS: [(&[u8], Field); 8] = [
            (b"host", Field::Host),
            (b"user-agent", Field::UserAgent),
            (b"referer", Field::Referer),
            (b"server", Field::Server),
            (b"content-type", Field::ContentType),
            (b"content-length", Field::ContentLength),
            (b"transfer-encoding", Field::TransferEncoding),
            (b"upgrade", Field::Upgrade),
        ];
        FIELDS
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map_or(Self::Other, |&(_, field)| field)
    }
}

impl Dissect for Http {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        if self.is_upgraded(index)
            && let Some(http2) = &mut self.http2
        {
            return http2.feed(input, context, crypto);
        }
        let outcome = match input {
            Input::Stream(bytes) => {
                let mut outcome = self.stream(index, bytes);
                if self.is_upgraded(index)
                    && let Some(http2) = &mut self.http2
                {
                    let behind = http2.feed(input.behind(outcome.consumed), context, crypto);
                    outcome.consumed = outcome.consumed.saturating_add(behind.consumed);
                    outcome.status = behind.status;
                }
                outcome
            }
            Input::Datagram(bytes) => self.datagram(index, bytes),
            Input::Gap(length) => {
                self.gap(index, length);
                Outcome::none(self.status())
            }
            Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.closed = true;
                }
                if self.tunnel_answer == Some(index) {
                    self.tunnel_answer = None;
                }
                self.matching.end(&mut self.record);
                Outcome::none(self.status())
            }
        };
        if std::mem::take(&mut self.read) {
            self.record_bytes = self.record.heap_bytes();
        }
        outcome
    }

    fn confidence(&self) -> Confidence {
        Confidence::Payload
    }

    fn server_name(&self) -> Option<&str> {
        match &self.http2 {
            Some(http2) => http2.server_name(),
            None => self.record.server_name(),
        }
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if let Some(http2) = &self.http2 {
            return http2.emit(protocol, sink);
        }
        if protocol == Protocol::Http {
            self.record.emit(sink);
        }
        protocol == Protocol::Http
    }

    fn release(&mut self) {
        self.sides = <[Side; 2]>::default();
        self.matching.end(&mut self.record);
        self.matching = Matching::default();
        if let Some(http2) = &mut self.http2 {
            http2.release();
        }
    }

    fn kept_bytes(&self) -> usize {
        let waiting = self.matching.heap_bytes();
        let http2 = self
            .http2
            .as_ref()
            .map_or(0, |http2| size_of::<Http2>().saturating_add(http2.kept_bytes()));
        self.record_bytes.saturating_add(waiting).saturating_add(http2)
    }

    fn handed_over(&self, side: usize) -> bool {
        self.http2.is_none() && self.is_upgraded(side)
    }
}

impl Http {
    /// Whether what comes next in a direction is the protocol that was switched to.
    fn is_upgraded(&self, side: usize) -> bool {
        // A message that was under way when the protocols were switched is read to its end.
        (self.record.upgraded || self.http2.is_some())
            && self.sides.get(side).is_some_and(|found| match found.state {
                State::Header(_) | State::Skip(..) | State::ChunkSize | State::Trailer(_) => false,
                State::Start => self.tunnel_answer != Some(side),
                State::UntilClose | State::Connect | State::Resync { .. } | State::Stopped(_) => true,
            })
    }

    /// Done when neither direction can bring more; the reason of the direction that was stopped, if one was.
    fn status(&self) -> Status {
        let ended = |side: &Side| side.closed || matches!(side.state, State::Stopped(_));
        if self.is_websocket() {
            return Status::Done;
        }
        if self.record.upgraded || !self.sides.iter().all(ended) {
            return Status::Need(0);
        }
        let stopped = self.sides.iter().find_map(|side| match side.state {
            State::Stopped(status) => Some(status),
            _ => None,
        });
        stopped.unwrap_or(Status::Done)
    }

    /// Whether frames of WebSocket follow (RFC 6455), of which nothing is shown.
    fn is_websocket(&self) -> bool {
        let to = self.record.upgraded_to.as_deref();
        self.record.upgraded && to.is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
    }

    /// A datagram is one message, whatever came before (SSDP). Its requests are not answered in order, or not at all.
    fn datagram(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        self.sides = <[Side; 2]>::default();
        self.matching = Matching::default();
        self.stream(index, bytes);
        self.sides = <[Side; 2]>::default();
        Outcome::all(bytes)
    }

    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            if rest.is_empty() {
                return Outcome {
                    consumed,
                    status: self.status(),
                };
            }
            let count = match side.state {
                State::Connect
                    if self.matching.is_lost() && rest.first().is_some_and(u8::is_ascii_alphabetic) =>
                {
                    // No response will tell.
                    side.state = State::Start;
                    0
                }
                State::Connect if rest.first().is_some_and(u8::is_ascii_alphabetic) => {
                    // A further request after a refusal, or the first words of the tunnel: the response tells.
                    return Outcome {
                        consumed,
                        status: self.status(),
                    };
                }
                State::Connect => {
                    // No request begins so: the tunnel is in use, though its response was not seen (yet).
                    self.record.upgraded = true;
                    let server = 1_usize.saturating_sub(index);
                    let may_answer = self.sides.get(server).is_some_and(|server| !server.closed);
                    self.tunnel_answer = may_answer.then_some(server);
                    return Outcome {
                        consumed,
                        status: self.status(),
                    };
                }
                State::Skip(left, after) => {
                    let count = left.min(rest.len() as u64);
                    side.skip_to(left.saturating_sub(count), after);
                    count as usize
                }
                State::UntilClose | State::Stopped(_) => rest.len(),
                State::Start if self.tunnel_answer == Some(index) && !line::may_begin_response(rest) => {
                    self.tunnel_answer = None;
                    0
                }
                State::Start
                | State::Header(_)
                | State::ChunkSize
                | State::Trailer(_)
                | State::Resync { .. } => {
                    let searched = side.searched.min(rest.len());
                    let end = find_byte(rest.get(searched..).unwrap_or_default(), b'\n');
                    let Some(end) = end.map(|end| end.saturating_add(searched)) else {
                        side.searched = rest.len();
                        if rest.len() < MAX_LINE_BYTES {
                            return Outcome {
                                consumed,
                                status: self.status(),
                            };
                        }
                        side.searched = 0;
                        side.overlong_line(MAX_LINE_BYTES);
                        consumed = consumed.saturating_add(MAX_LINE_BYTES);
                        continue;
                    };
                    side.searched = 0;
                    if end >= MAX_LINE_BYTES {
                        // Longer than would have been waited for, had the bytes come one by one.
                        side.overlong_line(MAX_LINE_BYTES);
                        consumed = consumed.saturating_add(MAX_LINE_BYTES);
                        continue;
                    }
                    let line = rest.get(..end).unwrap_or_default();
                    self.line(index, line.strip_suffix(b"\r").unwrap_or(line));
                    end.saturating_add(1)
                }
            };
            consumed = consumed.saturating_add(count);
            if self.is_upgraded(index) {
                return Outcome {
                    consumed,
                    status: self.status(),
                };
            }
        }
    }

    /// One line, without its end.
    fn line(&mut self, index: usize, line: &[u8]) {
        self.read = true;
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        match side.state {
            State::Start => {
                // RFC 9112 §2.2: empty lines before a start line are passed over.
                if !line.is_empty() && !self.start_line(index, line) {
                    self.stop(index, Status::Malformed(Malformed::BadValue));
                }
            }
            State::Resync { line_start, searched } => {
                // A response may begin where an unknown body ended, in the middle of a line.
                let response = line
                    .windows(7)
                    .position(|window| window == b"HTTP/1.")
                    .and_then(|at| line.get(at..));
                let found = (line_start && self.start_line(index, line))
                    || response.is_some_and(|line| {
                        StatusLine::parse(line).is_some() && self.start_line(index, line)
                    });
                if !found {
                    let searched = searched.saturating_add(line.len()).saturating_add(1);
                    self.resync(index, true, searched);
                }
            }
            State::Header(read) => {
                let read = read.saturating_add(line.len()).saturating_add(1);
                side.state = State::Header(read);
                if line.is_empty() {
                    self.end_of_header(index);
                } else if read > MAX_HEADER_BYTES {
                    self.stop(index, Status::GaveUp(Limit::MessageLength));
                } else {
                    self.field_line(index, line);
                }
            }
            State::ChunkSize => match line::chunk_size(line) {
                Some(0) => side.state = State::Trailer(0),
                // The line end behind the chunk's data is an empty line of either length: it is read as one.
                Some(size) => side.state = State::Skip(size, AfterSkip::ChunkSize),
                None if line.is_empty() => {}
                None => self.lose(index),
            },
            State::Trailer(read) => {
                let read = read.saturating_add(line.len()).saturating_add(1);
                side.state = if line.is_empty() {
                    State::Start
                } else {
                    State::Trailer(read)
                };
                if read > MAX_HEADER_BYTES {
                    self.stop(index, Status::GaveUp(Limit::MessageLength));
                }
            }
            State::Skip(..) | State::UntilClose | State::Connect | State::Stopped(_) => {}
        }
    }

    /// Takes a line as the start of a message; whether it is one.
    fn start_line(&mut self, index: usize, line: &[u8]) -> bool {
        let message = if let Some(status) = StatusLine::parse(line) {
            self.response(index, status.code)
        } else if let Some(request) = RequestLine::parse(line) {
            self.request(index, &request)
        } else {
            return false;
        };
        if let Some(side) = self.sides.get_mut(index) {
            side.state = State::Header(line.len());
            side.message = message;
        }
        true
    }

    fn request(&mut self, index: usize, request: &RequestLine<'_>) -> Message {
        let transaction = self.record.add_transaction();
        let mut has_host = false;
        if let Some(transaction) = transaction.and_then(|index| self.record.transactions.get_mut(index)) {
            let (host, path) = host_of_target(request.method, request.target);
            // RFC 9112 §3.2.2: the target decides where the request goes, whatever its Host field says.
            has_host = host.is_some_and(|host| !host.is_empty());
            transaction.method = Some(Text::from_wire(request.method, MAX_NAME_BYTES));
            transaction.path = Some(Text::from_wire(path, MAX_VALUE_BYTES));
            transaction.host = host.map(|host| Text::from_wire(host, MAX_NAME_BYTES));
        }
        let waiting = Waiting {
            transaction,
            head: request.method == b"HEAD",
            connect: request.method == b"CONNECT",
            ..Waiting::default()
        };
        let missing = self
            .sides
            .get_mut(index)
            .is_some_and(|side| std::mem::take(&mut side.requests_missing));
        self.matching.request(waiting, missing, &mut self.record);
        Message {
            transaction,
            connect: waiting.connect,
            has_host,
            ..Message::default()
        }
    }

    fn response(&mut self, index: usize, code: u16) -> Message {
        // RFC 9110 §15.2: interim responses precede the final one, but for 101, which is final for HTTP.
        let interim = (100..200).contains(&code) && code != 101;
        let answers = if interim {
            Waiting::default()
        } else {
            let missing = self
                .sides
                .get_mut(index)
                .is_some_and(|side| std::mem::take(&mut side.responses_missing));
            self.matching.response(missing, &mut self.record)
        };
        let transaction = answers.transaction;
        if let Some(transaction) = transaction.and_then(|index| self.record.transactions.get_mut(index)) {
            transaction.status = Some(code);
        }
        Message {
            transaction,
            status: Some(code),
            answers,
            ..Message::default()
        }
    }

    fn field_line(&mut self, index: usize, line: &[u8]) {
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        let message = &mut side.message;
        let (kind, value, folded) = if matches!(line.first(), Some(b' ' | b'\t')) {
            // RFC 9112 §5.2: an obsolete fold continues the value.
            (message.last_field, trim(line), true)
        } else {
            let Some((name, value)) = field(line) else { return };
            message.last_field = Field::of(name);
            if message.last_field == Field::Host && std::mem::replace(&mut message.has_host, true) {
                message.last_field = Field::Other;
            }
            (message.last_field, value, false)
        };
        if kind == Field::ContentType && value.contains(&b';') {
            // What a folded line continues are parameters.
            message.last_field = Field::Other;
        }
        match kind {
            // A list of equal numbers is one number (RFC 9110 §8.6).
            Field::ContentLength => message.content_length = number(value).or(message.content_length),
            Field::TransferEncoding => message.chunked |= token_listed(value, b"chunked"),
            _ => {}
        }
        let request = message.status.is_none();
        if kind == Field::Upgrade && message.status == Some(101) {
            self.record.upgraded_to = Some(Text::from_wire(value, MAX_NAME_BYTES));
        }
        let transaction = message
            .transaction
            .and_then(|index| self.record.transactions.get_mut(index))
            // A response may have been taken back meanwhile.
            .filter(|transaction| request || transaction.status == message.status);
        let Some(transaction) = transaction else { return };
        let place = match (kind, request) {
            (Field::Host, true) => &mut transaction.host,
            (Field::UserAgent, true) => &mut transaction.user_agent,
            (Field::Referer, true) => &mut transaction.referer,
            (Field::ContentType, true) => &mut transaction.request_content_type,
            (Field::Server, false) => &mut transaction.server,
            (Field::ContentType, false) => &mut transaction.response_content_type,
            (Field::ContentLength, true) => {
                transaction.request_content_length = message.content_length;
                return;
            }
            (Field::ContentLength, false) => {
                transaction.response_content_length = message.content_length;
                return;
            }
            _ => return,
        };
        let (value, limit) = match kind {
            Field::UserAgent | Field::Referer => (value, MAX_VALUE_BYTES),
            Field::ContentType => (media_type(value), MAX_NAME_BYTES),
            _ => (value, MAX_NAME_BYTES),
        };
        let value = Text::from_wire(value, limit);
        match place {
            Some(present) if folded && !present.is_empty() => {
                // Folding is rare, and the value is cut where it would have been cut on one line.
                if present.len().saturating_add(value.len()) < limit && !value.is_empty() {
                    *present = format!("{} {}", &**present, &*value).as_str().into();
                }
            }
            place => *place = Some(value),
        }
    }

    /// RFC 9112 §6.3: how long the body is.
    fn end_of_header(&mut self, index: usize) {
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        let message = &side.message;
        let Some(code) = message.status else {
            side.state = match message.content_length {
                // RFC 9110 §9.3.6: what follows the header section belongs to the tunnel.
                _ if message.connect => State::Connect,
                _ if message.chunked => State::ChunkSize,
                length => State::body(length.unwrap_or(0)),
            };
            return;
        };
        let answers = message.answers;
        let empty = answers.head || matches!(code, 100..=199 | 204 | 304);
        let tunnel = answers.connect && (200..300).contains(&code);
        side.state = match message.content_length {
            _ if empty || tunnel => State::Start,
            _ if message.chunked => State::ChunkSize,
            Some(length) => State::body(length),
            None => State::UntilClose,
        };
        if answers.connect {
            // A refusal takes back that the client has used the tunnel before it was answered.
            let is_used = self.tunnel_answer.take().is_some();
            self.record.upgraded &= tunnel || !is_used;
        }
        self.record.upgraded |= code == 101 || tunnel;
        let upgraded_to = self.record.upgraded_to.as_deref().unwrap_or_default();
        if code == 101 && upgraded_to.eq_ignore_ascii_case("h2c") {
            let record = std::mem::take(&mut self.record);
            self.http2 = Some(Box::new(Http2::upgraded(record, answers.transaction)));
        }
        let final_refusal = answers.connect && code >= 300;
        if let (true, Some(client)) = (final_refusal, self.sides.get_mut(1_usize.saturating_sub(index)))
            && client.state == State::Connect
        {
            client.state = State::Start;
        }
    }

    fn gap(&mut self, index: usize, length: u64) {
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        side.searched = 0;
        match side.state {
            State::Skip(left, after) if left >= length => side.skip_to(left.saturating_sub(length), after),
            State::UntilClose | State::Stopped(_) => {}
            _ => self.lose(index),
        }
    }

    /// It is not known where in a message a direction is, and whole messages may be missing.
    fn lose(&mut self, index: usize) {
        let waits = self.matching.waits();
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        side.requests_missing = true;
        // Nothing that is missing by now answers a request that is still to come.
        side.responses_missing |= waits;
        // Not the direction of the responses, as far as is known.
        if side.message.status.is_none() {
            self.matching.requests_missing(&mut self.record);
            self.read = true;
        }
        // What comes next may be the inside of a line, but a start line is unmistakable.
        self.resync(index, true, 0);
    }

    fn resync(&mut self, index: usize, line_start: bool, searched: usize) {
        if searched >= MAX_RESYNC_BYTES {
            self.stop(index, Status::GaveUp(Limit::Gap));
        } else if let Some(side) = self.sides.get_mut(index) {
            side.state = State::Resync { line_start, searched };
        }
    }

    fn stop(&mut self, index: usize, status: Status) {
        if let Some(side) = self.sides.get_mut(index) {
            side.state = State::Stopped(status);
        }
    }
}

impl State {
    fn body(length: u64) -> Self {
        if length == 0 {
            Self::Start
        } else {
            Self::Skip(length, AfterSkip::Message)
        }
    }
}

impl Side {
    fn skip_to(&mut self, left: u64, after: AfterSkip) {
        self.state = match after {
            _ if left > 0 => State::Skip(left, after),
            AfterSkip::Message => State::Start,
            AfterSkip::ChunkSize => State::ChunkSize,
        };
    }

    /// So many bytes without a line end.
    fn overlong_line(&mut self, bytes: usize) {
        self.state = match self.state {
            State::Resync { searched, .. } if searched < MAX_RESYNC_BYTES => State::Resync {
                line_start: false,
                searched: searched.saturating_add(bytes),
            },
            State::Resync { .. } => State::Stopped(Status::GaveUp(Limit::Gap)),
            _ => State::Stopped(Status::GaveUp(Limit::MessageLength)),
        };
    }
}

/// SSDP: a request with one of its methods, or a response; off its port, from which many devices answer, one that says what
/// was found (`UPnP` Device Architecture §1.3.3).
pub(super) fn identify_datagram(bytes: &[u8], hint: Hint) -> Verdict {
    let begins = |text: &[u8]| bytes.starts_with(text);
    let possible = begins(b"M-SEARCH") || begins(b"NOTIFY") || begins(b"HTTP/1.");
    if !possible {
        return Verdict::No;
    }
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let request = RequestLine::parse(line)
        .is_some_and(|request| [b"M-SEARCH".as_slice(), b"NOTIFY"].contains(&request.method));
    let response = StatusLine::parse(line).is_some() && (hint.port || says_what_was_found(bytes));
    if request || response {
        Verdict::Yes
    } else {
        Verdict::No
    }
}

/// A datagram with the status line and the fields that every response to a search has.
fn says_what_was_found(bytes: &[u8]) -> bool {
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let found = lines.next() == Some(b"HTTP/1.1 200 OK");
    let fields = || {
        lines
            .clone()
            .take_while(|line| !line.is_empty())
            .filter_map(field)
    };
    found
        && [b"ST".as_slice(), b"USN"]
            .iter()
            .all(|required| fields().any(|(name, _)| name.eq_ignore_ascii_case(required)))
}

/// A whole request or status line.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    // Some clients send an empty line before a request (RFC 9112 §2.2).
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    if start > 4 {
        return Verdict::No;
    }
    let bytes = bytes.get(start..).unwrap_or_default();
    // Methods and versions begin with a letter.
    if bytes.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
        return Verdict::No;
    }
    if line::is_unmistakable_request(bytes) {
        return Verdict::Yes;
    }
    let seen = bytes.get(..IDENTIFY_LINE_BYTES).unwrap_or(bytes);
    let Some(end) = find_byte(seen, b'\n') else {
        let possible = seen.len() < IDENTIFY_LINE_BYTES && line::may_begin_start_line(seen);
        return if possible { Verdict::More } else { Verdict::No };
    };
    let line = seen.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if StatusLine::parse(line).is_some() || RequestLine::parse(line).is_some() {
        Verdict::Yes
    } else {
        Verdict::No
    }
}
