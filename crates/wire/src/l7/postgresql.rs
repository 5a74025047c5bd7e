//! The frontend/backend protocol of PostgreSQL, version 3: how a session begins, and where it becomes TLS
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
//!
//! Queries and their results are not read: dissection ends when the server is ready for the first one.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of, starttls,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::text;

/// The longest startup message; the server refuses longer ones.
const MAX_STARTUP_BYTES: u32 = 10_000;
/// The longest message of the server before it is ready.
const MAX_MESSAGE_BYTES: u32 = 16 * 1024;
/// Bytes that are kept of a value.
const MAX_VALUE_BYTES: usize = 256;

/// What a startup message asks for, where it is no version.
mod request {
    pub(super) const CANCEL: u32 = 80_877_102;
    pub(super) const SSL: u32 = 80_877_103;
    pub(super) const GSSAPI: u32 = 80_877_104;
}

crate::record! {
    /// How a PostgreSQL session begins.
    pub struct Record {
        /// User name. Cut at 256 bytes.
        user: Option<String>,
        /// Database; the server takes the user's name where there is none.
        database: Option<String>,
        /// Program that the client names.
        application_name: Option<String>,
        /// Version of the server, as it reports it.
        server_version: Option<String>,
        /// Whether the client asked for TLS.
        ssl_requested: bool,
        /// Whether the stream became TLS; its handshake is in the struct `tls`.
        tls: bool,
    }
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    tls: bool,
    /// Nothing more is to be learned from it.
    finished: bool,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Postgresql {
    record: Record,
    sides: [Side; 2],
    /// The direction of the client. Known once a startup message was seen.
    client_side: Option<usize>,
    /// Answers of one byte that are expected of the server: to requests for TLS and GSSAPI encryption.
    answers_due: u8,
    /// Whether anything was seen of the server: then it is more than what a client asks for.
    server_spoke: bool,
}

impl Dissect for Postgresql {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let mut outcome = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes),
            // What begins a session is short: after a gap there is none of it.
            Input::Gap(_) => Outcome::none(Status::GaveUp(Limit::Gap)),
            Input::End => {
                self.finish(index);
                Outcome::none(Status::Need(0))
            }
        };
        if matches!(outcome.status, Status::Need(_)) && self.sides.iter().all(|side| side.finished) {
            outcome.status = Status::Done;
        }
        outcome
    }

    fn confidence(&self) -> Confidence {
        if self.server_spoke {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Postgresql {
            self.record.emit(sink);
        }
        protocol == Protocol::Postgresql
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl Postgresql {
    fn finish(&mut self, index: usize) {
        if let Some(side) = self.sides.get_mut(index) {
            side.finished = true;
        }
    }

    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            if side.finished {
                return Outcome::all(bytes);
            }
            side.tls |= starttls::begins(rest) == Some(true);
            self.record.tls |= side.tls;
            if side.tls || starttls::begins(rest).is_none() {
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            }
            let read = if self.client_side.is_none_or(|client| client == index) && is_startup(rest) {
                self.client_side = Some(index);
                self.startup(index, rest)
            } else {
                self.server(index, rest)
            };
            match read {
                Ok(count) => consumed = consumed.saturating_add(count),
                Err(Failure::Short) => {
                    return Outcome {
                        consumed,
                        status: Status::Need(0),
                    };
                }
                Err(Failure::Ended(status)) => return Outcome { consumed, status },
            }
        }
    }

    /// A message of the client before the session: length, code, and what belongs to that.
    fn startup(&mut self, index: usize, bytes: &[u8]) -> Result<usize, Failure> {
        let mut cursor = Cursor::new(bytes);
        let (length, code) = (cursor.u32()?, cursor.u32()?);
        let bad = Failure::Ended(Status::Malformed(Malformed::BadLength));
        let mut body = cursor.sub(length.checked_sub(8).ok_or(bad)? as usize)?;
        match code {
            request::SSL | request::GSSAPI => {
                self.record.ssl_requested |= code == request::SSL;
                self.answers_due = self.answers_due.saturating_add(1);
            }
            request::CANCEL => self.sides.iter_mut().for_each(|side| side.finished = true),
            _ => {
                while let (Some(name), Some(value)) = (string(&mut body), string(&mut body)) {
                    let value = || Some(text::from_wire(value, MAX_VALUE_BYTES));
                    match name {
                        b"user" => self.record.user = value(),
                        b"database" => self.record.database = value(),
                        b"application_name" => self.record.application_name = value(),
                        _ => {}
                    }
                }
                // What follows are passwords and queries.
                self.finish(index);
            }
        }
        Ok(length as usize)
    }

    /// An answer to a request, or a message of the server: type, length, body.
    fn server(&mut self, index: usize, bytes: &[u8]) -> Result<usize, Failure> {
        const READY: u8 = b'Z';
        const PARAMETER_STATUS: u8 = b'S';
        const ERROR: u8 = b'E';
        self.server_spoke = true;
        let mut cursor = Cursor::new(bytes);
        let kind = cursor.u8()?;
        if self.answers_due > 0 && matches!(kind, b'S' | b'N' | b'G') {
            self.answers_due = self.answers_due.saturating_sub(1);
            if kind == b'G' {
                // All that follows is encrypted by GSSAPI.
                self.sides.iter_mut().for_each(|side| side.finished = true);
            }
            return Ok(1);
        }
        let length = cursor.u32()?;
        if !kind.is_ascii_alphabetic() || !(4..=MAX_MESSAGE_BYTES).contains(&length) {
            return Err(Failure::Ended(Status::Malformed(Malformed::BadValue)));
        }
        let mut body = cursor.sub(length.saturating_sub(4) as usize)?;
        match kind {
            PARAMETER_STATUS => {
                if let (Some(b"server_version"), Some(value)) = (string(&mut body), string(&mut body)) {
                    self.record.server_version = Some(text::from_wire(value, MAX_VALUE_BYTES));
                }
            }
            READY | ERROR => self.finish(index),
            _ => {}
        }
        Ok(bytes.len().saturating_sub(cursor.len()))
    }
}

/// Why a message was not read.
enum Failure {
    Short,
    Ended(Status),
}

impl From<Short> for Failure {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// Text that ends with a zero byte.
fn string<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let end = cursor.rest().iter().position(|&byte| byte == 0)?;
    let text = cursor.take(end).ok()?;
    cursor.skip(1).ok()?;
    Some(text)
}

/// Whether the bytes may begin a startup message: its length is below 64 KiB, a message of the server begins with a letter.
fn is_startup(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes.get(1).is_none_or(|&byte| byte == 0)
}

/// A startup message; on its port also the server's request for authentication.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    const VERSION_3: [u32; 3] = [0x0003_0000, 0x0003_0001, 0x0003_0002];
    if hint.port && bytes.first() == Some(&b'R') {
        return match bytes.get(1..5) {
            Some([0, 0, 0, 8..=64]) => Verdict::Yes,
            Some(_) => Verdict::No,
            None => Verdict::More,
        };
    }
    if !is_startup(bytes) {
        return if bytes.is_empty() {
            Verdict::More
        } else {
            Verdict::No
        };
    }
    let mut cursor = Cursor::new(bytes);
    let Ok(length) = cursor.u32() else {
        return Verdict::More;
    };
    if !(8..=MAX_STARTUP_BYTES).contains(&length) {
        return Verdict::No;
    }
    let Ok(code) = cursor.u32() else {
        return Verdict::More;
    };
    let fits = match code {
        request::SSL | request::GSSAPI => length == 8,
        // The key has up to 256 bytes since version 3.2, before always 4.
        request::CANCEL => (16..=268).contains(&length),
        // The parameter `user` is required.
        _ => VERSION_3.contains(&code) && length >= 16,
    };
    if fits { Verdict::Yes } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field, unhex};

    fn startup() -> Vec<u8> {
        let parameters = b"user\0alice\0database\0shop\0application_name\0psql\0\0";
        let length = 8_u32.saturating_add(parameters.len() as u32);
        [&length.to_be_bytes(), unhex("00030000").as_slice(), parameters].concat()
    }

    #[test]
    fn a_session_begins_in_the_clear() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.forward(&unhex("00000008 04d2162f"));
        flow.reverse(b"N");
        flow.forward(&startup());
        flow.reverse(&unhex("52 00000008 00000000"));
        flow.reverse(&[unhex("53 00000018").as_slice(), b"server_version\x0017.2\0"].concat());
        assert_eq!(flow.reverse(&unhex("5a 00000005 49")), Status::Done);
        let record = flow.record(Protocol::Postgresql);
        let expected = [
            ("user", "alice"),
            ("database", "shop"),
            ("application_name", "psql"),
            ("server_version", "17.2"),
            ("ssl_requested", "true"),
            ("tls", "false"),
        ];
        for (name, value) in expected {
            assert_eq!(field(&record, name), value, "{name}");
        }
    }

    #[test]
    fn a_session_goes_on_in_tls() {
        let mut flow = Feeder::tcp(40_000, 5432);
        flow.forward(&unhex("00000008 04d2162f"));
        flow.reverse(b"S");
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Postgresql, Confidence::Payload))
        );
        assert_eq!(field(&flow.record(Protocol::Postgresql), "tls"), "true");
        assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    }

    #[test]
    fn faults_end_it() {
        let mut flow = Feeder::tcp(40_000, 5432);
        flow.forward(&startup());
        assert_eq!(
            flow.reverse(&unhex("52 7fffffff 00")),
            Status::Malformed(Malformed::BadValue)
        );
        let mut flow = Feeder::tcp(40_000, 5432);
        flow.forward(&unhex("00000008 04d2162f"));
        assert_eq!(
            flow.gap(crate::flowkey::Direction::Reverse, 5),
            Status::GaveUp(Limit::Gap)
        );
        let mut flow = Feeder::tcp(40_000, 5432);
        assert_eq!(
            flow.forward(&unhex("00000010 04d2162e 00000001 00000002")),
            Status::Done,
            "a request to cancel is all of its connection"
        );
    }

    #[test]
    fn encryption_by_gssapi_ends_it() {
        let token = [unhex("000000d7 60820201 06092a86").as_slice(), &[0x31; 207]].concat();
        let mut flow = Feeder::tcp(40_000, 5432);
        flow.forward(&unhex("00000008 04d21630"));
        flow.reverse(b"G");
        assert_eq!(flow.forward(&token), Status::Done);
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Postgresql, Confidence::Payload))
        );
        // Refused, the session goes on.
        let mut flow = Feeder::tcp(40_000, 5432);
        flow.forward(&unhex("00000008 04d21630"));
        flow.reverse(b"N");
        flow.forward(&startup());
        assert_eq!(field(&flow.record(Protocol::Postgresql), "user"), "alice");
    }

    #[test]
    fn keys_to_cancel_by_may_be_long() {
        for (key, expected) in [(3_u16, false), (4, true), (32, true), (256, true), (257, false)] {
            let length = u32::from(key).saturating_add(12);
            let request = [
                length.to_be_bytes().as_slice(),
                &unhex("04d2162e 00000001"),
                &vec![7; key.into()],
            ]
            .concat();
            let mut flow = Feeder::tcp(40_000, 40_001);
            assert_eq!(flow.forward(&request) == Status::Done, expected, "{key} bytes");
        }
    }
}
