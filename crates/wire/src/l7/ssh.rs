//! SSH identification strings (RFC 4253 §4.2) and the algorithms that each side offers (§7.1).
//!
//! Each side sends one line `SSH-protoversion-softwareversion comments`; the server may send other lines before it. Then
//! come binary packets, of which the first that says `SSH_MSG_KEXINIT` is read: from its lists come HASSH and
//! hasshServer (<https://github.com/salesforce/hassh>). Dissection ends when both sides' were seen; nothing later is in
//! the clear.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    find_byte, side_of,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::{Digest, Text};

/// RFC 4253 §4.2: the longest identification string, line end included.
const MAX_LINE_BYTES: usize = 255;
/// Lines that a server may send before its own (the RFC sets no number).
const MAX_LINES_BEFORE: u8 = 64;
/// RFC 4253 §6.1: the longest packet that every implementation takes.
const MAX_PACKET_BYTES: u32 = 35_000;
/// Packets before SSH_MSG_KEXINIT that are passed over (SSH_MSG_IGNORE, SSH_MSG_DEBUG).
const MAX_PACKETS_BEFORE: u8 = 8;
/// Bytes that are kept of a fingerprint's string. Clients offer some 1,000.
const MAX_STRING_BYTES: usize = 4096;
/// How every identification string begins.
const PREFIX: &[u8] = b"SSH-";
/// Ports of servers, for flows of which the beginning was not seen.
const SERVER_PORTS: [u16; 2] = [22, 2222];

crate::record! {
    /// The identification strings and the offered algorithms of an SSH connection.
    pub struct Record {
        /// Protocol version of the client: `2.0`; `1.99` means that 1.x is spoken too (RFC 4253 §5.1).
        client_version: Option<Text<22>>,
        /// Program of the client, such as `OpenSSH_9.6p1`.
        client_software: Option<Text<30>>,
        /// Comments behind the client's program, such as `Ubuntu-3ubuntu13`.
        client_comments: Option<Text<30>>,
        /// Protocol version of the server.
        server_version: Option<Text<22>>,
        /// Program of the server.
        server_software: Option<Text<30>>,
        /// Comments behind the server's program.
        server_comments: Option<Text<30>>,
        /// HASSH: MD5 of `hassh_string`, all of it.
        hassh: Option<Digest<16>>,
        /// Key exchange methods; ciphers, MACs and compression from client to server, as the client offers them. Cut at 4,096 bytes.
        hassh_string: Option<Text<22>>,
        /// hasshServer: MD5 of `hassh_server_string`, all of it.
        hassh_server: Option<Digest<16>>,
        /// Key exchange methods; ciphers, MACs and compression from server to client, as the server offers them. Cut at 4,096 bytes.
        hassh_server_string: Option<Text<22>>,
        /// Types of host keys that the server has, in order of preference. Cut at 4,096 bytes.
        server_host_key_algorithms: Option<Text<22>>,
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Ssh {
    record: Record,
    sides: [Side; 2],
}

/// Whether a side speaks SSH 1 (RFC 4253 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version1 {
    /// It does not, as far as is known.
    #[default]
    No,
    /// Beside 2.0.
    Also,
    /// And nothing else.
    Only,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Lines before the identification string.
    lines_before: u8,
    /// Whether packets follow: the identification string was seen, or is past.
    identified: bool,
    version_1: Version1,
    /// Packets before SSH_MSG_KEXINIT.
    packets_before: u8,
    /// Whether nothing more is to be learned from this direction.
    finished: bool,
}

impl Dissect for Ssh {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let mut outcome = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes, context, crypto),
            // What is read stands at the front: after a gap there is none of it.
            Input::Gap(_) | Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.finished = true;
                }
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

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }
}

/// Whether direction `index` comes from the client: the initiator, unless only its port is one of a server.
fn is_client(index: usize, context: &Context) -> bool {
    let is_server = |port: u16| SERVER_PORTS.contains(&port);
    let turned = is_server(context.src_port) && !is_server(context.dst_port);
    (index == 0) != turned
}

impl Ssh {
    fn stream(&mut self, index: usize, bytes: &[u8], context: &Context, crypto: &dyn Crypto) -> Outcome {
        let client = is_client(index, context);
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            if side.finished {
                return Outcome::all(bytes);
            }
            let step = if side.identified {
                side.packet(rest, client, &mut self.record, crypto)
            } else {
                side.line(rest, client, &mut self.record)
            };
            match step {
                Ok(count) => consumed = consumed.saturating_add(count),
                Err(status) => return Outcome { consumed, status },
            }
            // RFC 4253 §5: who speaks both versions speaks 1.x to a peer that has no other, and that has no SSH_MSG_KEXINIT.
            if self.sides.iter().any(|side| side.version_1 == Version1::Only) {
                self.sides
                    .iter_mut()
                    .for_each(|side| side.finished |= side.version_1 != Version1::No);
            }
        }
    }
}

impl Side {
    /// A line up to the identification string; its length.
    fn line(&mut self, bytes: &[u8], client: bool, record: &mut Record) -> Result<usize, Status> {
        if bytes.first() == Some(&0) {
            // RFC 4253 §4.2, §6: no line has a zero byte, and the length of every packet begins with one. The string was
            // passed over before the other direction told what the flow is.
            self.identified = true;
            return Ok(0);
        }
        let seen = bytes.get(..MAX_LINE_BYTES).unwrap_or(bytes);
        let Some(end) = find_byte(seen, b'\n') else {
            return Err(if seen.len() == MAX_LINE_BYTES {
                Status::GaveUp(Limit::MessageLength)
            } else {
                Status::Need(0)
            });
        };
        let line = seen.get(..end).unwrap_or_default();
        if let Some(identification) = line.strip_prefix(PREFIX) {
            self.identified = true;
            self.version_1 = match identification {
                [b'1', b'.', b'9', b'9', ..] => Version1::Also,
                [b'1', b'.', ..] => Version1::Only,
                _ => Version1::No,
            };
            record.set_identification(
                client,
                identification.strip_suffix(b"\r").unwrap_or(identification),
            );
        } else {
            self.lines_before = self.lines_before.saturating_add(1);
            if self.lines_before > MAX_LINES_BEFORE {
                return Err(Status::Malformed(Malformed::BadValue));
            }
        }
        Ok(end.saturating_add(1))
    }

    /// A binary packet in the clear (RFC 4253 §6); its length.
    fn packet(
        &mut self,
        bytes: &[u8],
        client: bool,
        record: &mut Record,
        crypto: &dyn Crypto,
    ) -> Result<usize, Status> {
        const KEXINIT: u8 = 20;
        let mut cursor = Cursor::new(bytes);
        let Ok(length) = cursor.u32() else {
            return Err(Status::Need(4));
        };
        if length > MAX_PACKET_BYTES {
            return Err(Status::Malformed(Malformed::BadLength));
        }
        let whole = (length as usize).saturating_add(4);
        let Ok(mut packet) = cursor.sub(length as usize) else {
            return Err(Status::Need(whole));
        };
        let bad_length = |Short| Status::Malformed(Malformed::BadLength);
        packet.skip(1).map_err(bad_length)?; // padding length
        if packet.u8().map_err(bad_length)? == KEXINIT {
            let offer = Offer::parse(packet).map_err(bad_length)?;
            record.set_offer(client, &offer, crypto);
            self.finished = true;
        }
        self.packets_before = self.packets_before.saturating_add(1);
        self.finished |= self.packets_before > MAX_PACKETS_BEFORE;
        Ok(whole)
    }
}

/// The lists of SSH_MSG_KEXINIT (RFC 4253 §7.1), comma-separated, of one direction where there are two.
struct Offer<'a> {
    key_exchange: &'a [u8],
    host_keys: &'a [u8],
    /// From client to server, then from server to client.
    ciphers: [&'a [u8]; 2],
    macs: [&'a [u8]; 2],
    compression: [&'a [u8]; 2],
}

impl<'a> Offer<'a> {
    /// Reads behind the message number.
    fn parse(mut cursor: Cursor<'a>) -> Result<Self, Short> {
        cursor.skip(16)?; // cookie
        let mut list = || {
            let length = cursor.u32()?;
            cursor.take(length as usize)
        };
        Ok(Self {
            key_exchange: list()?,
            host_keys: list()?,
            ciphers: [list()?, list()?],
            macs: [list()?, list()?],
            compression: [list()?, list()?],
        })
    }

    /// What is hashed of the offer.
    fn fingerprint(&self, client: bool) -> Vec<u8> {
        let [to_server, to_client] = [0, 1].map(|index: usize| {
            [self.ciphers, self.macs, self.compression]
                .map(|lists| lists.get(index).copied().unwrap_or_default())
        });
        let [ciphers, macs, compression] = if client { to_server } else { to_client };
        [self.key_exchange, ciphers, macs, compression].join(&b';')
    }
}

impl Record {
    /// Takes over `protoversion-softwareversion comments`.
    fn set_identification(&mut self, client: bool, identification: &[u8]) {
        let (identification, comments) = split(identification, b' ');
        let (version, software) = split(identification, b'-');
        let (version, software) = (
            Some(Text::from_wire(version, MAX_LINE_BYTES)),
            software.map(to_text),
        );
        let comments = comments.map(to_text);
        if client {
            (self.client_version, self.client_software, self.client_comments) = (version, software, comments);
        } else {
            (self.server_version, self.server_software, self.server_comments) = (version, software, comments);
        }
    }

    /// Takes over the algorithms that one side offers.
    fn set_offer(&mut self, client: bool, offer: &Offer<'_>, crypto: &dyn Crypto) {
        let fingerprint = offer.fingerprint(client);
        let hash = Some(Digest(crypto.md5(&fingerprint)));
        let string = Some(Text::from_wire(&fingerprint, MAX_STRING_BYTES));
        if client {
            (self.hassh, self.hassh_string) = (hash, string);
        } else {
            (self.hassh_server, self.hassh_server_string) = (hash, string);
            self.server_host_key_algorithms = Some(Text::from_wire(offer.host_keys, MAX_STRING_BYTES));
        }
    }
}

/// What stands before the first `separator`, and what behind it, if there is one.
fn split(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |&byte| byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

fn to_text(bytes: &[u8]) -> Text<30> {
    Text::from_wire(bytes, MAX_LINE_BYTES)
}

/// `SSH-1.` or `SSH-2.` at the front.
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

/// The same behind the lines that a server may send before it. They may be any text, so this is for its ports, once no other
/// protocol may be there; elsewhere the client tells.
pub(super) fn identify_behind_lines(bytes: &[u8], hint: Hint) -> Verdict {
    // Bytes from 128 on may be UTF-8.
    let is_text = |byte: u8| matches!(byte, b'\t' | b'\r' | b' '..);
    let mut rest = bytes;
    for _ in 0..MAX_LINES_BEFORE {
        match identify(rest, hint) {
            Verdict::No if !rest.starts_with(PREFIX) => {}
            verdict => return verdict,
        }
        let seen = rest.get(..MAX_LINE_BYTES).unwrap_or(rest);
        let end = find_byte(seen, b'\n');
        let line = seen.get(..end.unwrap_or(seen.len())).unwrap_or_default();
        // Without an early end, so that it is done many bytes at a time: the lines come again with every segment.
        if !line.iter().fold(true, |all, &byte| all & is_text(byte)) {
            return Verdict::No;
        }
        match end.and_then(|end| rest.get(end.saturating_add(1)..)) {
            Some(behind) => rest = behind,
            None if seen.len() < MAX_LINE_BYTES => return Verdict::More,
            None => return Verdict::No,
        }
    }
    identify(rest, hint)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

    /// SSH_MSG_KEXINIT with these lists, the others empty.
    pub(in crate::l7) fn offer(lists: [&str; 8]) -> Vec<u8> {
        let mut payload = vec![20];
        payload.extend_from_slice(&[7; 16]);
        for list in lists.into_iter().chain(["", ""]) {
            payload.extend_from_slice(&(list.len() as u32).to_be_bytes());
            payload.extend_from_slice(list.as_bytes());
        }
        payload.extend_from_slice(&[0; 5]);
        let length = (payload.len() as u32).saturating_add(5);
        [&length.to_be_bytes(), [4].as_slice(), &payload, &[0; 4]].concat()
    }

    const LISTS: [&str; 8] = [
        "kex", "ssh-rsa", "enc-up", "enc-down", "mac-up", "mac-down", "none", "zlib",
    ];

    #[test]
    fn both_offers_end_the_dissection() {
        let mut flow = Feeder::tcp(50_000, 22);
        flow.reverse(b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n");
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Ssh, Confidence::Handshake))
        );
        flow.forward(b"SSH-2.0-libssh2_1.11.0\r\n");
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Ssh, Confidence::Payload))
        );
        flow.forward(&offer(LISTS));
        assert_eq!(flow.reverse(&offer(LISTS)), Status::Done);
        let record = flow.record(Protocol::Ssh);
        let expected = [
            ("client_software", "libssh2_1.11.0"),
            ("client_comments", "null"),
            ("server_version", "2.0"),
            ("server_software", "OpenSSH_9.6p1"),
            ("server_comments", "Ubuntu-3ubuntu13"),
            ("hassh_string", "kex;enc-up;mac-up;none"),
            ("hassh_server_string", "kex;enc-down;mac-down;zlib"),
            // md5sum of these strings.
            ("hassh", "b24bd9679b2d538c6045b028c2e0dc7c"),
            ("hassh_server", "62c3aaa5253739a5ce75b4d85ba39881"),
            ("server_host_key_algorithms", "ssh-rsa"),
        ];
        for (name, value) in expected {
            assert_eq!(field(&record, name), value, "{name}");
        }
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

    /// What is learned of a server that speaks first, in these segments, before its client.
    fn server_first(port: u16, segments: &[&[u8]]) -> (Status, Vec<(&'static str, String)>) {
        let mut flow = Feeder::tcp(50_000, port);
        for segment in segments {
            flow.reverse(segment);
        }
        flow.forward(b"SSH-2.0-client\r\n");
        flow.forward(&offer(LISTS));
        flow.reverse(&offer(LISTS));
        (flow.status, flow.record(Protocol::Ssh))
    }

    #[test]
    fn a_server_may_send_lines_before_its_client_speaks() {
        let banner = "Nur für Befugte\tx\r\n\r\n".as_bytes();
        let line = b"SSH-2.0-server\r\n".as_slice();
        let many = [b"x\n".repeat(MAX_LINES_BEFORE.into()).as_slice(), line].concat();
        for segments in [
            [[banner, line].concat().as_slice(), b""],
            [banner, line],
            [&many, b""],
        ] {
            let (status, record) = server_first(22, &segments);
            assert_eq!(status, Status::Done);
            assert_eq!(field(&record, "server_software"), "server");
            assert_eq!(field(&record, "hassh_server"), "62c3aaa5253739a5ce75b4d85ba39881");
        }
        let mut flow = Feeder::tcp(50_000, 22);
        flow.reverse(&[banner, line].concat());
        assert!(flow.session.protocol().is_some(), "the server alone");
        // Off its ports the string is past when the client tells, but not the offer.
        let (status, record) = server_first(2022, &[banner, line]);
        assert_eq!(status, Status::Done);
        assert_eq!(field(&record, "server_host_key_algorithms"), "ssh-rsa");
    }

    #[test]
    fn text_on_its_ports_keeps_no_other_protocol_waiting() {
        use crate::flowkey::Direction::{Forward, Reverse};
        let found = |direction, bytes: &[u8]| {
            let mut flow = Feeder::tcp(50_000, 22);
            flow.bytes(direction, bytes);
            flow.session.protocol().map(|(found, _)| found)
        };
        assert_eq!(found(Reverse, b"220 FTP ready\r\n"), Some(Protocol::Ftp));
        assert_eq!(found(Reverse, b"+OK POP3 ready\r\n"), Some(Protocol::Pop3));
        assert_eq!(found(Reverse, b"* OK ready\r\n"), Some(Protocol::Imap));
        assert_eq!(found(Forward, b"GET / HTTP/1.1\r\n\r\n"), Some(Protocol::Http));
        let mut flow = Feeder::tcp(50_000, 22);
        flow.reverse(b"220 hello\r\n");
        flow.forward(b"EHLO me\r\n");
        assert_eq!(
            flow.session.protocol().map(|(found, _)| found),
            Some(Protocol::Smtp)
        );
    }

    #[test]
    fn lines_that_no_string_follows_are_given_up() {
        let longest = [b"x".repeat(MAX_LINE_BYTES.saturating_sub(1)).as_slice(), b"\n"].concat();
        let lines = longest.repeat(MAX_LINES_BEFORE.into());
        for (last, more) in [
            (b"SSH-2".as_slice(), true),
            (b"S", true),
            (b"x", false),
            (b"SSH-3", false),
        ] {
            let mut flow = Feeder::tcp(50_000, 22);
            flow.forward(b"\x00\x01\x02");
            let status = flow.reverse(&[lines.as_slice(), last].concat());
            assert_eq!(
                status == Status::Need(0),
                more,
                "{}",
                String::from_utf8_lossy(last)
            );
        }
        for other in [
            b"a\nSSH-3.0-x\n".as_slice(),
            b"a\nbcdef\x07",
            &[b'x'; MAX_LINE_BYTES],
        ] {
            let mut flow = Feeder::tcp(50_000, 22);
            flow.forward(b"\x00\x01\x02");
            assert_eq!(flow.reverse(other), Status::GaveUp(Limit::Unidentified));
        }
    }

    #[test]
    fn the_port_tells_the_server_where_the_beginning_was_not_seen() {
        let mut flow = Feeder::tcp(22, 50_000);
        flow.forward(b"SSH-2.0-server\r\n");
        assert_eq!(field(&flow.record(Protocol::Ssh), "server_software"), "server");
    }

    #[test]
    fn version_1_has_no_offer() {
        let mut flow = Feeder::tcp(50_000, 22);
        flow.reverse(b"SSH-1.5-old\n");
        assert_eq!(flow.forward(b"SSH-1.5-older\n"), Status::Done);
        // Who speaks both speaks 1.5 then: a packet of SSH 1 has a length without its padding.
        let public_key = [&[0, 0, 1, 11], [0; 5].as_slice(), &[2], &[0xaa; 266]].concat();
        for server_first in [true, false] {
            let mut flow = Feeder::tcp(50_000, 22);
            if server_first {
                flow.reverse(b"SSH-1.99-OpenSSH_3\n");
            }
            flow.forward(b"SSH-1.5-PuTTY\n");
            if !server_first {
                flow.reverse(b"SSH-1.99-OpenSSH_3\n");
            }
            assert_eq!(flow.reverse(&public_key), Status::Done);
            assert_eq!(field(&flow.record(Protocol::Ssh), "client_software"), "PuTTY");
            assert_eq!(field(&flow.record(Protocol::Ssh), "server_software"), "OpenSSH_3");
        }
        // A client that has 2.0 alone leaves, but not before it has made its offer.
        let mut flow = Feeder::tcp(50_000, 22);
        flow.reverse(b"SSH-1.5-old\n");
        flow.forward(b"SSH-2.0-client\n");
        assert_eq!(flow.forward(&offer(LISTS)), Status::Done);
        assert_eq!(
            field(&flow.record(Protocol::Ssh), "hassh"),
            "b24bd9679b2d538c6045b028c2e0dc7c"
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
        let mut flow = Feeder::tcp(50_000, 22);
        assert_eq!(
            flow.forward(b"SSH-2.0-client\n\x00\x01\x00\x00"),
            Status::Malformed(Malformed::BadLength),
            "65,536 bytes"
        );
    }
}
