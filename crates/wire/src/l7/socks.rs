//! SOCKS 4, 4a and 5 (RFC 1928, RFC 1929): what the client asks the proxy for, and the hand-over to what runs through it.
//!
//! Each direction is read by its own bytes, since what the proxy chose shows in what the client sends next. After the
//! client's request and the proxy's reply, of which BIND has two, the directions are handed over.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::flowkey::Direction;
use crate::text;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes that are kept of a host name, which has at most 255.
const MAX_HOST_BYTES: usize = 255;
/// The command after which the proxy replies twice.
const BIND: &str = "BIND";
/// The longest user id or host name of SOCKS 4, whose messages do not say their lengths.
const MAX_STRING_BYTES: usize = 255;

crate::record! {
    /// What a client asks a SOCKS proxy for.
    pub struct Record {
        /// Version of the protocol: 4 or 5.
        version: Option<u8>,
        /// Command: `CONNECT`, `BIND`, `UDP ASSOCIATE`.
        command: Option<&'static str>,
        /// Destination as the client names it: a host name or an address.
        host: Option<String>,
        /// Destination port.
        port: Option<u16>,
        /// Authentication method that the proxy chose (RFC 1928 §3): 0 none, 1 GSSAPI, 2 user name and password, 255 none acceptable. Null for SOCKS 4.
        method: Option<u8>,
        /// Reply of the proxy: 0 is success in SOCKS 5 (RFC 1928 §6), 90 in SOCKS 4. To `BIND` there are two, of which this is the last that was seen.
        reply: Option<u8>,
    }
}

/// Where a direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Before the first message.
    #[default]
    Greeting,
    /// After it: authentication may come before the request and its reply.
    Request,
    /// After the proxy's first reply to BIND: the second says that the host has connected.
    Bound,
    /// What runs through the proxy.
    Through,
    /// Nothing more is to be learned.
    Over,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Socks {
    record: Record,
    stages: [Stage; 2],
}

impl Dissect for Socks {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let mut outcome = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes),
            // The messages are short and come first: after a gap there is none of them.
            Input::Gap(_) => Outcome::none(Status::GaveUp(Limit::Gap)),
            Input::End => {
                self.set_stage(index, Stage::Over);
                Outcome::none(Status::Need(0))
            }
        };
        if matches!(outcome.status, Status::Need(_)) && self.stages == [Stage::Over; 2] {
            outcome.status = Status::Done;
        }
        outcome
    }

    fn confidence(&self) -> Confidence {
        if self.record.command.is_some() {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        self.record.host.as_deref()
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Socks {
            self.record.emit(sink);
        }
        protocol == Protocol::Socks
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.stages.get(side) == Some(&Stage::Through)
    }
}

impl Socks {
    fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(place) = self.stages.get_mut(index) {
            *place = stage;
        }
    }

    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut cursor = Cursor::new(bytes);
        loop {
            let consumed = bytes.len().saturating_sub(cursor.len());
            let outcome = |status| Outcome { consumed, status };
            let stage = match self.stages.get(index) {
                None | Some(Stage::Over) => return Outcome::all(bytes),
                Some(Stage::Through) => return outcome(Status::Need(0)),
                Some(stage) => *stage,
            };
            let read = if index == 0 {
                self.record.client_message(stage, &mut cursor)
            } else {
                self.record.proxy_message(stage, &mut cursor)
            };
            match read {
                Ok(Some(stage)) => self.set_stage(index, stage),
                Ok(None) => return outcome(Status::Malformed(Malformed::BadValue)),
                Err(Short) => return outcome(Status::Need(0)),
            }
        }
    }
}

impl Record {
    /// A message of the client, and the stage behind it; `None` if it is none.
    fn client_message(&mut self, stage: Stage, cursor: &mut Cursor<'_>) -> Result<Option<Stage>, Short> {
        let mut rest = *cursor;
        let next = match (rest.u8()?, stage) {
            (4, Stage::Greeting) => {
                let Some(request) = RequestOf4::parse(&mut rest)? else {
                    return Ok(None);
                };
                self.version = Some(4);
                self.command = Some(request.command);
                self.host = Some(request.host);
                self.port = Some(request.port);
                Stage::Through
            }
            (5, Stage::Greeting) => {
                let methods = rest.u8()?;
                rest.skip(methods.into())?;
                self.version = Some(5);
                Stage::Request
            }
            // RFC 1929 §2: user name and password, which are passed over.
            (1, Stage::Request) => {
                for _ in 0..2 {
                    let length = rest.u8()?;
                    rest.skip(length.into())?;
                }
                Stage::Request
            }
            (5, Stage::Request) => {
                let (command, _, kind) = (rest.u8()?, rest.u8()?, rest.u8()?);
                let (Some(command), Some(host)) = (command_name(command), address(kind, &mut rest)?) else {
                    return Ok(None);
                };
                let port = rest.u16()?;
                self.command = Some(command);
                self.host = Some(host);
                self.port = Some(port);
                Stage::Through
            }
            // Some other way to authenticate, which may encrypt what follows.
            (_, Stage::Request) => Stage::Over,
            _ => return Ok(None),
        };
        *cursor = rest;
        Ok(Some(next))
    }

    /// A message of the proxy, and the stage behind it; `None` if it is none.
    fn proxy_message(&mut self, stage: Stage, cursor: &mut Cursor<'_>) -> Result<Option<Stage>, Short> {
        const GRANTED_BY_4: u8 = 90;
        const GRANTED_BY_5: u8 = 0;
        let mut rest = *cursor;
        let next = match (rest.u8()?, stage) {
            (0, Stage::Greeting | Stage::Bound) => {
                let reply = rest.u8()?;
                rest.skip(6)?;
                self.reply = Some(reply);
                self.behind_reply(stage, reply == GRANTED_BY_4)
            }
            (5, Stage::Greeting) => {
                self.method = Some(rest.u8()?);
                Stage::Request
            }
            (1, Stage::Request) => {
                rest.skip(1)?;
                Stage::Request
            }
            (5, Stage::Request | Stage::Bound) => {
                let (reply, _, kind) = (rest.u8()?, rest.u8()?, rest.u8()?);
                if address(kind, &mut rest)?.is_none() {
                    return Ok(None);
                }
                rest.skip(2)?;
                self.reply = Some(reply);
                self.behind_reply(stage, reply == GRANTED_BY_5)
            }
            (_, Stage::Request) => Stage::Over,
            _ => return Ok(None),
        };
        *cursor = rest;
        Ok(Some(next))
    }

    /// The proxy's stage behind a reply that it gave in `stage`.
    fn behind_reply(&self, stage: Stage, granted: bool) -> Stage {
        if !granted {
            Stage::Over
        } else if self.command == Some(BIND) && stage != Stage::Bound {
            Stage::Bound
        } else {
            Stage::Through
        }
    }
}

/// A request of SOCKS 4 or 4a, behind its version.
struct RequestOf4 {
    command: &'static str,
    host: String,
    port: u16,
}

impl RequestOf4 {
    fn parse(cursor: &mut Cursor<'_>) -> Result<Option<Self>, Short> {
        let command = command_name(cursor.u8()?).filter(|name| *name != "UDP ASSOCIATE");
        let port = cursor.u16()?;
        let address = cursor.array::<4>()?;
        let Some(user) = string(cursor)? else {
            return Ok(None);
        };
        // SOCKS 4a: an address 0.0.0.x, x not 0, says that a host name follows.
        let host = if matches!(address, [0, 0, 0, last] if last != 0) {
            let Some(host) = string(cursor)? else {
                return Ok(None);
            };
            text::from_wire(host, MAX_HOST_BYTES)
        } else {
            Ipv4Addr::from(address).to_string()
        };
        let plain = user.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        let found = command.filter(|_| plain && port != 0 && !host.is_empty());
        Ok(found.map(|command| Self { command, host, port }))
    }
}

/// Text that ends with a zero byte; `None` if it is too long.
fn string<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Short> {
    let rest = cursor.rest();
    let seen = rest.get(..=MAX_STRING_BYTES).unwrap_or(rest);
    match seen.iter().position(|&byte| byte == 0) {
        Some(end) => {
            let text = cursor.take(end)?;
            cursor.skip(1)?;
            Ok(Some(text))
        }
        None if seen.len() > MAX_STRING_BYTES => Ok(None),
        None => Err(Short),
    }
}

/// An address of SOCKS 5 (RFC 1928 §5); `None` if it is of no known type.
fn address(kind: u8, cursor: &mut Cursor<'_>) -> Result<Option<String>, Short> {
    Ok(match kind {
        1 => Some(Ipv4Addr::from(cursor.array::<4>()?).to_string()),
        3 => {
            let length = cursor.u8()?;
            Some(text::from_wire(cursor.take(length.into())?, MAX_HOST_BYTES))
        }
        4 => Some(Ipv6Addr::from(cursor.array::<16>()?).to_string()),
        _ => None,
    })
}

fn command_name(command: u8) -> Option<&'static str> {
    Some(match command {
        1 => "CONNECT",
        2 => BIND,
        3 => "UDP ASSOCIATE",
        _ => return None,
    })
}

/// A greeting of a client and, off the ports of SOCKS, the message behind it, since the greeting alone may be anything.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    if hint.direction == Direction::Reverse {
        // Who opened the connection is the client. Off the ports its next message tells, for which a choice of method waits.
        return match bytes {
            [] | [5] | [5, _] => Verdict::More,
            _ => Verdict::No,
        };
    }
    let mut cursor = Cursor::new(bytes);
    match cursor.u8() {
        Ok(4) => match RequestOf4::parse(&mut cursor) {
            // Off its ports SOCKS 4a alone is unmistakable: its host name.
            Ok(Some(request))
                if hint.port || request.host.contains(|letter: char| letter.is_ascii_alphabetic()) =>
            {
                Verdict::Yes
            }
            Ok(_) => Verdict::No,
            Err(Short) => Verdict::More,
        },
        Ok(5) => greeting_of_5(&mut cursor, hint.port).unwrap_or(Verdict::More),
        Ok(_) => Verdict::No,
        Err(Short) => Verdict::More,
    }
}

/// The client's greeting behind its version: the number of methods and the methods.
fn greeting_of_5(cursor: &mut Cursor<'_>, port: bool) -> Result<Verdict, Short> {
    const KNOWN_METHODS: u8 = 9;
    let count = cursor.u8()?;
    if !(1..=KNOWN_METHODS).contains(&count) {
        return Ok(Verdict::No);
    }
    for _ in 0..count {
        // Those up to 9 are assigned, those from 128 on are for private use.
        if matches!(cursor.u8()?, 10..=127 | 255) {
            return Ok(Verdict::No);
        }
    }
    if port {
        return Ok(Verdict::Yes);
    }
    let next = cursor.u8()?;
    if next == 1 {
        // RFC 1929: a user name is never empty.
        return Ok(if cursor.u8()? > 0 {
            Verdict::Yes
        } else {
            Verdict::No
        });
    }
    let request = (next, cursor.u8()?, cursor.u8()?, cursor.u8()?);
    Ok(if matches!(request, (5, 1..=3, 0, 1 | 3 | 4)) {
        Verdict::Yes
    } else {
        Verdict::No
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field, unhex};

    #[test]
    fn version_5_hands_over_to_what_runs_through_it() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.forward(&unhex("05 01 02"));
        flow.reverse(&unhex("05 02"));
        flow.forward(&unhex("01 01 61 01 62"));
        flow.reverse(&unhex("01 00"));
        flow.forward(&[&[5, 1, 0, 3, 6], b"a.test".as_slice(), &[0x01, 0xbb]].concat());
        flow.reverse(&unhex("05 00 00 01 00000000 0000"));
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Socks, Confidence::Payload))
        );
        assert_eq!(flow.session.server_name(), Some("a.test"));
        let record = flow.record(Protocol::Socks);
        let expected = [
            ("version", "5"),
            ("command", "CONNECT"),
            ("host", "a.test"),
            ("port", "443"),
            ("method", "2"),
            ("reply", "0"),
        ];
        for (name, value) in expected {
            assert_eq!(field(&record, name), value, "{name}");
        }
        assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    }

    #[test]
    fn version_4_and_4a() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.forward(
            b"\x04\x01\x00\x50\x00\x00\x00\x01me\x00b.test\x00GET / HTTP/1.1\r\nHost: b.test\r\n\r\n",
        );
        flow.reverse(&unhex("00 5a 0000 00000000"));
        assert_eq!(field(&flow.record(Protocol::Socks), "host"), "b.test");
        assert_eq!(field(&flow.record(Protocol::Http), "transaction_count"), "1");
        let mut flow = Feeder::tcp(40_000, 1080);
        flow.forward(&unhex("04 01 0050 c0000201 00"));
        assert_eq!(field(&flow.record(Protocol::Socks), "host"), "192.0.2.1");
        flow.reverse(&unhex("00 5b 0000 00000000"));
        assert_eq!(field(&flow.record(Protocol::Socks), "reply"), "91");
    }

    #[test]
    fn a_choice_of_method_off_the_ports_waits_for_the_request() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.forward(&unhex("05 01 00"));
        flow.reverse(&unhex("05 00"));
        flow.forward(&unhex("05 01 00 01 c0000201 0050"));
        flow.reverse(&unhex("05 05 00 01 00000000 0000"));
        let record = flow.record(Protocol::Socks);
        for (name, value) in [("host", "192.0.2.1"), ("method", "0"), ("reply", "5")] {
            assert_eq!(field(&record, name), value, "{name}");
        }
        // Whatever other protocols say to two bytes.
        let hint = Hint {
            port: false,
            stream: true,
            direction: Direction::Reverse,
        };
        assert_eq!(identify(&[5, 0], hint), Verdict::More);
        assert_eq!(identify(&[5, 0, 0], hint), Verdict::No);
    }

    #[test]
    fn who_answers_is_no_client() {
        // A response of Microsoft SQL Server to a client on port 1080, and a proxy whose client's greeting was not seen.
        let mut flow = Feeder::tcp(1080, 1433);
        flow.forward(&unhex("12 01 002f 0000 00 00"));
        flow.reverse(&unhex("04 01 0025 0000 01 00 00"));
        assert_eq!(flow.session.protocol(), None);
        let mut flow = Feeder::tcp(1080, 40_000);
        flow.forward(&unhex("05 00"));
        flow.reverse(&[&[5, 1, 0, 3, 6], b"a.test".as_slice(), &[0, 80]].concat());
        assert_eq!(flow.session.protocol(), None);
    }

    #[test]
    fn bind_is_replied_to_twice() {
        let through = |request: &str, greeting: [&str; 2], replies: [&str; 2]| {
            let mut flow = Feeder::tcp(40_000, 1080);
            flow.forward(&unhex(greeting[0]));
            flow.reverse(&unhex(greeting[1]));
            flow.forward(&unhex(request));
            flow.reverse(&unhex(replies[0]));
            flow.reverse(&unhex(replies[1]));
            flow.forward(b"SSH-2.0-a\r\n");
            flow.reverse(b"SSH-2.0-b\r\n");
            let record = flow.record(Protocol::Socks);
            assert_eq!(field(&record, "command"), "BIND");
            let software = field(&flow.record(Protocol::Ssh), "server_software").to_owned();
            (software, field(&record, "reply").to_owned())
        };
        let (request, greeting) = ("05 02 00 01 01020304 0014", ["05 01 00", "05 00"]);
        let (bound, refused) = ("05 00 00 01 01020304 0014", "05 05 00 01 00000000 0000");
        let found = through(request, greeting, [bound, bound]);
        assert_eq!(found, ("b".to_owned(), "0".to_owned()));
        let (_, reply) = through(request, greeting, [bound, refused]);
        assert_eq!(reply, "5", "nobody connected");
        let bound = "00 5a 0014 01020304";
        let found = through("04 02 0014 01020304 00", ["", ""], [bound, bound]);
        assert_eq!(found, ("b".to_owned(), "90".to_owned()));
    }

    #[test]
    fn other_bytes_are_another_protocol() {
        for other in [
            "05 01 00 06 01",
            "05 00",
            "04 03 0050 c0000201 00",
            "05 01 00 05 09 00 01",
        ] {
            let mut flow = Feeder::tcp(40_000, 40_001);
            flow.forward(&unhex(other));
            assert_eq!(flow.session.protocol(), None, "{other}");
        }
        let mut flow = Feeder::tcp(40_000, 1080);
        flow.forward(&unhex("05 01 00"));
        assert_eq!(
            flow.forward(&unhex("05 07 00 01 c0000201 0050")),
            Status::Malformed(Malformed::BadValue),
            "no such command"
        );
    }
}
