//! The client/server protocol of MySQL and MariaDB, version 10: how a session begins, and where it becomes TLS
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>).
//!
//! Queries are not read: dissection ends with the client's login.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of, starttls,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::text;

/// The longest packet of the connection phase.
const MAX_PACKET_BYTES: usize = 4096;
/// Bytes of a server's greeting in which its version must end.
const IDENTIFY_BYTES: usize = 128;
/// Bytes that are kept of a value.
const MAX_VALUE_BYTES: usize = 256;
/// Bytes of a packet's header: length in three bytes, little-endian, and sequence number.
const HEADER_BYTES: usize = 4;
/// Bytes of a request for TLS: the login packet up to the user name.
const SSL_REQUEST_BYTES: usize = 32;

/// Capability flags.
mod capability {
    pub(super) const CONNECT_WITH_DB: u32 = 0x0000_0008;
    pub(super) const PROTOCOL_41: u32 = 0x0000_0200;
    pub(super) const SSL: u32 = 0x0000_0800;
    pub(super) const SECURE_CONNECTION: u32 = 0x0000_8000;
    pub(super) const PLUGIN_AUTH_LENENC: u32 = 0x0020_0000;
}

crate::record! {
    /// How a MySQL session begins.
    pub struct Record {
        /// Version of the server, as it greets. Cut at 256 bytes.
        server_version: Option<String>,
        /// User name.
        user: Option<String>,
        /// Database that the client chose when it logged in.
        database: Option<String>,
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
    finished: bool,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Mysql {
    record: Record,
    sides: [Side; 2],
}

impl Dissect for Mysql {
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
        if self.record.server_version.is_some() && (self.record.user.is_some() || self.record.ssl_requested) {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Mysql {
            self.record.emit(sink);
        }
        protocol == Protocol::Mysql
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl Mysql {
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
            // Lengths are little-endian: a packet that begins as a TLS record of version 3.1 or later would be longer
            // than any of the connection phase.
            let begins_tls = starttls::begins(rest) == Some(true) && rest.get(2) != Some(&0);
            side.tls |= begins_tls && !side.finished;
            self.record.tls |= side.tls;
            let outcome = |status| Outcome { consumed, status };
            if side.tls {
                return outcome(Status::Need(0));
            }
            if side.finished {
                return Outcome::all(bytes);
            }
            let Ok((packet, whole)) = packet(rest) else {
                return outcome(Status::Need(0));
            };
            let Some(packet) = packet else {
                return outcome(Status::Malformed(Malformed::BadLength));
            };
            // The sequence number is 0 for the greeting and counts on from there.
            let read = match packet.sequence {
                0 => self.greeting(packet.body),
                1 => self.login(index, packet.body),
                2 if self.record.ssl_requested => self.login(index, packet.body),
                _ => {
                    self.finish(index);
                    Ok(())
                }
            };
            if read.is_err() {
                return outcome(Status::Malformed(Malformed::BadLength));
            }
            consumed = consumed.saturating_add(whole);
        }
    }

    /// Protocol version, server version, and what the client needs to log in.
    fn greeting(&mut self, body: &[u8]) -> Result<(), Short> {
        let mut cursor = Cursor::new(body);
        if cursor.u8()? == 10 {
            let version = string(&mut cursor)?;
            self.record.server_version = Some(text::from_wire(version, MAX_VALUE_BYTES));
        }
        Ok(())
    }

    /// A request for TLS or the login itself.
    fn login(&mut self, index: usize, body: &[u8]) -> Result<(), Short> {
        let mut cursor = Cursor::new(body);
        let flags = u32::from_le_bytes(cursor.array()?);
        if flags & capability::PROTOCOL_41 == 0 {
            self.finish(index);
            return Ok(());
        }
        if flags & capability::SSL != 0 && body.len() == SSL_REQUEST_BYTES {
            self.record.ssl_requested = true;
            return Ok(());
        }
        self.finish(index);
        cursor.skip(SSL_REQUEST_BYTES.saturating_sub(4))?;
        self.record.user = Some(text::from_wire(string(&mut cursor)?, MAX_VALUE_BYTES));
        // The proof of the password is passed over.
        if flags & capability::PLUGIN_AUTH_LENENC != 0 {
            let length = encoded_length(&mut cursor)?;
            cursor.skip(length)?;
        } else if flags & capability::SECURE_CONNECTION != 0 {
            let length = cursor.u8()?;
            cursor.skip(length.into())?;
        } else {
            string(&mut cursor)?;
        }
        if flags & capability::CONNECT_WITH_DB != 0 {
            self.record.database = Some(text::from_wire(string(&mut cursor)?, MAX_VALUE_BYTES));
        }
        Ok(())
    }
}

struct Packet<'a> {
    sequence: u8,
    body: &'a [u8],
}

/// The next packet and its whole length; `None` if it is longer than any of the connection phase.
fn packet(bytes: &[u8]) -> Result<(Option<Packet<'_>>, usize), Short> {
    let mut cursor = Cursor::new(bytes);
    let [a, b, c] = cursor.array::<3>()?;
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    if length > MAX_PACKET_BYTES {
        return Ok((None, 0));
    }
    let sequence = cursor.u8()?;
    let body = cursor.take(length)?;
    Ok((
        Some(Packet { sequence, body }),
        length.saturating_add(HEADER_BYTES),
    ))
}

/// A length-encoded integer. 0xfb and 0xff begin something else, and the eight bytes behind 0xfe would be a length of which
/// there is no packet.
fn encoded_length(cursor: &mut Cursor<'_>) -> Result<usize, Short> {
    match cursor.u8()? {
        short @ 0..=0xfa => Ok(short.into()),
        0xfc => Ok(u16::from_le_bytes(cursor.array()?).into()),
        0xfd => {
            let [a, b, c] = cursor.array()?;
            Ok(u32::from_le_bytes([a, b, c, 0]) as usize)
        }
        0xfb | 0xfe | 0xff => Err(Short),
    }
}

/// Text that ends with a zero byte.
fn string<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Short> {
    let end = cursor.rest().iter().position(|&byte| byte == 0).ok_or(Short)?;
    let text = cursor.take(end)?;
    cursor.skip(1)?;
    Ok(text)
}

/// The server's greeting: sequence number 0, protocol version 10, a version in printable characters. Proxies and builds put
/// spaces into theirs.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    let mut cursor = Cursor::new(bytes);
    let length = match cursor.array::<3>() {
        Ok([low, high, 0]) => usize::from(u16::from_le_bytes([low, high])),
        Err(Short) => return Verdict::More,
        Ok(_) => return Verdict::No,
    };
    if !(32..=MAX_PACKET_BYTES).contains(&length) {
        return Verdict::No;
    }
    let (Ok(sequence), Ok(first)) = (cursor.u8(), cursor.u8()) else {
        return Verdict::More;
    };
    if sequence == 1 && hint.port {
        // The client's login, where the greeting was not seen: its maximum packet size is a power of two.
        let flags = u16::from_le_bytes([first, bytes.get(5).copied().unwrap_or_default()]);
        return match bytes.get(8..12) {
            None => Verdict::More,
            Some([_, _, 0..=64, 0..=64]) if u32::from(flags) & capability::PROTOCOL_41 != 0 => Verdict::Yes,
            Some(_) => Verdict::No,
        };
    }
    if sequence != 0 || first != 10 {
        return Verdict::No;
    }
    let seen = cursor.rest().get(..IDENTIFY_BYTES).unwrap_or(cursor.rest());
    let version = seen.split(|&byte| byte == 0).next().unwrap_or_default();
    if !version.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        Verdict::No
    } else if version.len() < seen.len() {
        let digits = version.first().is_some_and(u8::is_ascii_digit) && version.contains(&b'.');
        if digits { Verdict::Yes } else { Verdict::No }
    } else if seen.len() < IDENTIFY_BYTES {
        Verdict::More
    } else {
        Verdict::No
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

    pub(in crate::l7) fn numbered(sequence: u8, body: &[u8]) -> Vec<u8> {
        let [low, high, ..] = (body.len() as u32).to_le_bytes();
        [&[low, high, 0, sequence], body].concat()
    }

    fn greeting() -> Vec<u8> {
        numbered(0, &[b"\x0a8.4.3\0".as_slice(), &[1; 60]].concat())
    }

    /// Capabilities and the fixed fields of a login.
    fn fixed(flags: u32) -> Vec<u8> {
        [&flags.to_le_bytes(), [0, 0, 0, 1, 45].as_slice(), &[0; 23]].concat()
    }

    #[test]
    fn a_login_in_the_clear() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.reverse(&greeting());
        let flags = capability::PROTOCOL_41 | capability::CONNECT_WITH_DB | capability::SECURE_CONNECTION;
        let login = [fixed(flags).as_slice(), b"alice\0", &[2, 7, 7], b"shop\0"].concat();
        flow.forward(&numbered(1, &login));
        flow.reverse(&numbered(2, &[0, 0, 0, 2, 0, 0, 0]));
        assert_eq!(flow.status, Status::Done);
        let record = flow.record(Protocol::Mysql);
        let expected = [
            ("server_version", "8.4.3"),
            ("user", "alice"),
            ("database", "shop"),
            ("ssl_requested", "false"),
        ];
        for (name, value) in expected {
            assert_eq!(field(&record, name), value, "{name}");
        }
    }

    #[test]
    fn a_version_may_have_spaces() {
        for version in ["5.5.5-10.0.0 2.1.4-maxscale", "6.3.2 c296dc7c8@24062616 dev"] {
            let mut flow = Feeder::tcp(40_000, 40_001);
            flow.reverse(&numbered(
                0,
                &[b"\x0a", version.as_bytes(), &[0], &[1; 60]].concat(),
            ));
            assert_eq!(field(&flow.record(Protocol::Mysql), "server_version"), version);
        }
    }

    #[test]
    fn proofs_of_any_length_are_passed_over() {
        let login = |flags: u32, proof: &[u8]| {
            let mut flow = Feeder::tcp(40_000, 3306);
            flow.reverse(&greeting());
            let flags = capability::PROTOCOL_41 | capability::CONNECT_WITH_DB | flags;
            let login = [fixed(flags).as_slice(), b"alice\0", proof, b"shop\0"].concat();
            let status = flow.forward(&numbered(1, &login));
            let record = flow.record(Protocol::Mysql);
            assert_eq!(field(&record, "user"), "alice");
            (status, field(&record, "database").to_owned())
        };
        let proof = |length: &[u8], count: usize| [length, vec![b'p'; count].as_slice()].concat();
        let encoded = capability::PLUGIN_AUTH_LENENC | capability::SECURE_CONNECTION;
        for (length, count) in [
            ([0].as_slice(), 0),
            (&[0xfa], 250),
            (&[0xfc, 0x2c, 0x01], 300),
            (&[0xfd, 0x2c, 0x01, 0x00], 300),
        ] {
            let (status, database) = login(encoded, &proof(length, count));
            assert_eq!(
                (status, database.as_str()),
                (Status::Need(0), "shop"),
                "{length:02x?}"
            );
        }
        for length in [0xfb, 0xfe, 0xff] {
            let (status, database) = login(encoded, &proof(&[length], 255));
            assert_eq!(status, Status::Malformed(Malformed::BadLength), "{length:02x}");
            assert_eq!(database, "null");
        }
        let (_, database) = login(capability::SECURE_CONNECTION, &proof(&[0xfc], 252));
        assert_eq!(database, "shop", "one byte without the capability");
    }

    #[test]
    fn a_session_goes_on_in_tls() {
        let mut flow = Feeder::tcp(40_000, 3306);
        flow.reverse(&greeting());
        flow.forward(&numbered(1, &fixed(capability::PROTOCOL_41 | capability::SSL)));
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        let record = flow.record(Protocol::Mysql);
        assert_eq!(field(&record, "ssl_requested"), "true");
        assert_eq!(field(&record, "tls"), "true");
        assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    }

    #[test]
    fn faults_end_it() {
        let mut flow = Feeder::tcp(40_000, 3306);
        flow.reverse(&greeting());
        assert_eq!(
            flow.forward(&[0, 0, 1, 1]),
            Status::Malformed(Malformed::BadLength),
            "65,536 bytes"
        );
        let mut flow = Feeder::tcp(40_000, 3306);
        flow.reverse(&greeting());
        let flags = capability::PROTOCOL_41;
        assert_eq!(
            flow.forward(&numbered(1, &fixed(flags))),
            Status::Malformed(Malformed::BadLength),
            "a login without a user"
        );
    }
}
