//! SSH identification strings (RFC 4253 §4.2): the smallest dissector, and the template for a new one.
//!
//! Each side sends one line `SSH-protoversion-softwareversion comments`; the server may send other lines before it.
//! Dissection ends when both lines were seen. What follows, the key exchange, is not read.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Sink, Value};
use crate::flowkey::Direction;
use crate::text;

/// RFC 4253 §4.2: the longest identification string, line end included.
const MAX_LINE_BYTES: usize = 255;
/// Lines that a server may send before its own (the RFC sets no number).
const MAX_LINES_BEFORE: u8 = 64;
/// How every identification string begins.
const PREFIX: &[u8] = b"SSH-";

crate::record! {
    /// The identification strings of an SSH connection.
    pub struct Record {
        /// Protocol version of the client: `2.0`; `1.99` means that 1.x is spoken too (RFC 4253 §5.1).
        client_version: Option<String>,
        /// Program of the client, such as `OpenSSH_9.6p1`.
        client_software: Option<String>,
        /// Comments behind the client's program, such as `Ubuntu-3ubuntu13`.
        client_comments: Option<String>,
        /// Protocol version of the server.
        server_version: Option<String>,
        /// Program of the server.
        server_software: Option<String>,
        /// Comments behind the server's program.
        server_comments: Option<String>,
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Ssh {
    record: Record,
    sides: [Side; 2],
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Lines before the identification string.
    lines_before: u8,
    /// Whether nothing more is to be learned from this direction.
    finished: bool,
}

impl Dissect for Ssh {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let mut outcome = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.lines(context.direction, bytes),
            // The identification strings are the first bytes: after a gap there are none.
            Input::Gap(_) | Input::End => {
                self.finish(context.direction);
                Outcome::none(Status::Need(0))
            }
        };
        if matches!(outcome.status, Status::Need(_)) && self.sides.iter().all(|side| side.finished) {
            outcome.status = Status::Done;
        }
        outcome
    }

    fn confidence(&self) -> Confidence {
        if self.record.client_software.is_some() && self.record.server_software.is_some() {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Ssh {
            self.record.emit(sink);
        }
        protocol == Protocol::Ssh
    }

    fn release(&mut self) {}
}

impl Ssh {
    /// Reads lines up to the identification string.
    fn lines(&mut self, direction: Direction, bytes: &[u8]) -> Outcome {
        let Some(side) = self.sides.get_mut(side_of(direction)) else {
            return Outcome::all(bytes);
        };
        let mut consumed: usize = 0;
        while !side.finished {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let seen = rest.get(..MAX_LINE_BYTES).unwrap_or(rest);
            let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
                let status = if seen.len() == MAX_LINE_BYTES {
                    Status::GaveUp(Limit::MessageLength)
                } else {
                    Status::Need(0)
                };
                return Outcome { consumed, status };
            };
            consumed = consumed.saturating_add(end).saturating_add(1);
            let line = rest.get(..end).unwrap_or_default();
            if let Some(identification) = line.strip_prefix(PREFIX) {
                side.finished = true;
                self.record.set(
                    direction,
                    identification.strip_suffix(b"\r").unwrap_or(identification),
                );
                break;
            }
            side.lines_before = side.lines_before.saturating_add(1);
            if side.lines_before > MAX_LINES_BEFORE {
                return Outcome {
                    consumed,
                    status: Status::Malformed(Malformed::BadValue),
                };
            }
        }
        Outcome::all(bytes)
    }

    fn finish(&mut self, direction: Direction) {
        if let Some(side) = self.sides.get_mut(side_of(direction)) {
            side.finished = true;
        }
    }
}

impl Record {
    /// Takes over `protoversion-softwareversion comments`. SSH clients connect, so the initiator is the client.
    fn set(&mut self, direction: Direction, identification: &[u8]) {
        let (identification, comments) = split(identification, b' ');
        let (version, software) = split(identification, b'-');
        let (version, software) = (
            Some(text::from_wire(version, MAX_LINE_BYTES)),
            software.map(to_text),
        );
        let comments = comments.map(to_text);
        match direction {
            Direction::Forward => {
                (self.client_version, self.client_software, self.client_comments) =
                    (version, software, comments);
            }
            Direction::Reverse => {
                (self.server_version, self.server_software, self.server_comments) =
                    (version, software, comments);
            }
        }
    }
}

/// What stands before the first `separator`, and what behind it, if there is one.
fn split(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |&byte| byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

fn to_text(bytes: &[u8]) -> String {
    text::from_wire(bytes, MAX_LINE_BYTES)
}

/// `SSH-1.` or `SSH-2.` at the front. A server that sends other lines first is known by its client.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    let matches = bytes.iter().zip(PREFIX).all(|(byte, expected)| byte == expected);
    match (
        matches,
        bytes.get(PREFIX.len()),
        bytes.get(PREFIX.len().saturating_add(1)),
    ) {
        (true, Some(b'1' | b'2'), Some(b'.')) => Verdict::Yes,
        (true, Some(b'1' | b'2') | None, None) => Verdict::More,
        _ => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

    #[test]
    fn both_strings_end_the_dissection() {
        let mut flow = Feeder::tcp(50_000, 22);
        assert_eq!(
            flow.reverse(b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n"),
            Status::Need(0)
        );
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Ssh, Confidence::Handshake))
        );
        assert_eq!(flow.forward(b"SSH-2.0-libssh2_1.11.0\r\n"), Status::Done);
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Ssh, Confidence::Payload))
        );
        let record = flow.record(Protocol::Ssh);
        assert_eq!(field(&record, "client_software"), "libssh2_1.11.0");
        assert_eq!(field(&record, "client_comments"), "null");
        assert_eq!(field(&record, "server_version"), "2.0");
        assert_eq!(field(&record, "server_software"), "OpenSSH_9.6p1");
        assert_eq!(field(&record, "server_comments"), "Ubuntu-3ubuntu13");
    }

    #[test]
    fn lines_before_the_servers_string_are_passed_over() {
        let mut flow = Feeder::tcp(50_000, 2022);
        flow.forward(b"SSH-2.0-client\n");
        flow.reverse(b"Authorised users only.\r\n\r\nSSH-1.99-Cisco-1.25\n");
        let record = flow.record(Protocol::Ssh);
        assert_eq!(field(&record, "server_version"), "1.99");
        assert_eq!(
            field(&record, "server_software"),
            "Cisco-1.25",
            "the software may contain a minus"
        );
    }

    #[test]
    fn limits_hold() {
        let mut flow = Feeder::tcp(50_000, 22);
        let long = [b"SSH-2.0-".as_slice(), &[b'x'; MAX_LINE_BYTES]].concat();
        assert_eq!(flow.forward(&long), Status::GaveUp(Limit::MessageLength));
        let mut flow = Feeder::tcp(50_000, 22);
        flow.forward(b"SSH-2.0-client\n");
        assert_eq!(
            flow.reverse(&[b'\n'; 100]),
            Status::Malformed(Malformed::BadValue)
        );
    }
}
