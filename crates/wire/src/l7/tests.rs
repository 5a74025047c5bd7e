//! What holds for every protocol of the table, and the tools with which each protocol's tests feed a session.

use super::{Context, Crypto, Input, Limit, Outcome, Protocol, Session, Status};
use crate::column::{Address, Column, Items, Members, Sink, Type};
use crate::flowkey::Direction;
use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use md5::Digest as _;
use proptest::prelude::*;
use std::fmt::Write as _;

/// The primitives by aws-lc-rs, as the probe has them.
pub(super) struct TestCrypto;

impl TestCrypto {
    fn key(key: &[u8; 16]) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_128_GCM, key).ok().map(LessSafeKey::new)
    }

    /// AES-128-GCM: ciphertext and tag.
    pub(super) fn seal(key: &[u8; 16], nonce: [u8; 12], associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut data = plaintext.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed =
            Self::key(key).map(|key| key.seal_in_place_append_tag(nonce, Aad::from(associated), &mut data));
        assert_eq!(sealed, Some(Ok(())));
        data
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

impl Crypto for TestCrypto {
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        array(digest::digest(&digest::SHA256, data).as_ref())
    }
    fn md5(&self, data: &[u8]) -> [u8; 16] {
        md5::Md5::digest(data).into()
    }
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> [u8; 32] {
        array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
    }
    fn aes128_header_mask(&self, key: &[u8; 16], sample: &[u8; 16]) -> [u8; 5] {
        HeaderProtectionKey::new(&AES_128, key)
            .and_then(|key| key.new_mask(sample))
            .unwrap_or_default()
    }
    fn aes128_gcm_open(
        &self,
        key: &[u8; 16],
        nonce: &[u8; 12],
        associated: &[u8],
        data: &mut [u8],
    ) -> Option<usize> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        Some(
            Self::key(key)?
                .open_in_place(nonce, Aad::from(associated), data)
                .ok()?
                .len(),
        )
    }
}

/// Bytes from hexadecimal text; white space is left out.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let value = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or_default() as u8;
    digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | value(digit)))
        .collect()
}

/// A session with the stream bytes of each direction that it has not consumed yet, as the flow stage keeps them.
pub(super) struct Feeder {
    pub(super) session: Session,
    context: Context,
    kept: [Vec<u8>; 2],
    /// The last status.
    pub(super) status: Status,
    /// The addresses of DNS answers, and how many there were beside these.
    pub(super) addresses: Vec<(String, Address)>,
    pub(super) omitted: u64,
}

impl Feeder {
    pub(super) fn tcp(src_port: u16, dst_port: u16) -> Self {
        Self::new(src_port, dst_port, true)
    }

    pub(super) fn udp(src_port: u16, dst_port: u16) -> Self {
        Self::new(src_port, dst_port, false)
    }

    fn new(src_port: u16, dst_port: u16, stream: bool) -> Self {
        let context = Context {
            direction: Direction::Forward,
            time: 0,
            src_port,
            dst_port,
            stream,
        };
        let (session, kept) = (Session::default(), <[Vec<u8>; 2]>::default());
        Self {
            session,
            context,
            kept,
            status: Status::Need(0),
            addresses: Vec::new(),
            omitted: 0,
        }
    }

    pub(super) fn forward(&mut self, bytes: &[u8]) -> Status {
        self.bytes(Direction::Forward, bytes)
    }

    pub(super) fn reverse(&mut self, bytes: &[u8]) -> Status {
        self.bytes(Direction::Reverse, bytes)
    }

    pub(super) fn bytes(&mut self, direction: Direction, bytes: &[u8]) -> Status {
        if !self.context.stream {
            return self.feed(direction, Input::Datagram(bytes)).status;
        }
        if !matches!(self.status, Status::Need(_)) {
            return self.status;
        }
        let side = super::side_of(direction);
        let mut all = std::mem::take(&mut self.kept[side]);
        all.extend_from_slice(bytes);
        let outcome = self.feed(direction, Input::Stream(&all));
        assert!(outcome.consumed <= all.len(), "more was consumed than there was");
        self.kept[side] = all.split_off(outcome.consumed);
        outcome.status
    }

    pub(super) fn gap(&mut self, direction: Direction, length: u64) -> Status {
        self.kept[super::side_of(direction)].clear();
        self.feed(direction, Input::Gap(length)).status
    }

    pub(super) fn end(&mut self) -> Status {
        self.feed(Direction::Forward, Input::End);
        self.feed(Direction::Reverse, Input::End).status
    }

    pub(super) fn feed(&mut self, direction: Direction, input: Input<'_>) -> Outcome {
        if !matches!(self.status, Status::Need(_)) {
            return Outcome {
                consumed: 0,
                status: self.status,
            };
        }
        self.context.direction = direction;
        let outcome = self.session.feed(input, &self.context, &TestCrypto);
        self.status = outcome.status;
        let mut learn = |name: &str, address| self.addresses.push((name.to_owned(), address));
        self.omitted += self.session.take_dns_addresses(&mut learn);
        outcome
    }

    /// The record struct of a protocol: names and values as text; empty if there is none.
    pub(super) fn record(&self, protocol: Protocol) -> Vec<(&'static str, String)> {
        let mut dump = Dump {
            columns: protocol.columns(),
            ..Dump::default()
        };
        if self.session.emit(protocol, &mut Place(&mut dump)) {
            assert!(dump.open.is_empty(), "a list or struct is not closed");
            assert_eq!(
                dump.fields.len(),
                protocol.columns().len(),
                "a value for each column"
            );
        }
        dump.fields
    }

    /// Everything that a session shows.
    pub(super) fn all(&self) -> String {
        let records: Vec<_> = Protocol::ALL
            .iter()
            .map(|&protocol| self.record(protocol))
            .collect();
        format!(
            "{:?} {:?} {:?} {} {records:?}",
            self.session.protocol(),
            self.session.server_name(),
            self.addresses,
            self.omitted
        )
    }
}

/// The value of a column in [`Feeder::record`].
pub(super) fn field<'a>(record: &'a [(&'static str, String)], name: &str) -> &'a str {
    record
        .iter()
        .find(|(column, _)| *column == name)
        .map_or("no such column", |(_, value)| value)
}

/// Writes a record as text and checks that its values come as its columns say.
#[derive(Default)]
struct Dump {
    columns: &'static [Column],
    fields: Vec<(&'static str, String)>,
    /// The lists and structs that are open inside the record, each with the number of values so far.
    open: Vec<(Type, usize)>,
    started: bool,
}

impl Dump {
    /// Accounts for one value; the type that is expected.
    fn next(&mut self) -> Column {
        let any = |kind| Column {
            name: "",
            kind,
            nullable: false,
            doc: "",
            work: None,
        };
        match self.open.last_mut() {
            Some((Type::List(kind), count)) => {
                *count += 1;
                any(**kind)
            }
            Some((Type::Struct(columns), count)) => {
                *count += 1;
                columns[*count - 1]
            }
            _ => {
                let column = self.columns[self.fields.len()];
                self.fields.push((column.name, String::new()));
                column
            }
        }
    }

    fn value(&mut self, kind: Type, text: &str) {
        let expected = self.next();
        assert_eq!(expected.kind, kind, "{}", expected.name);
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        let separate = matches!(self.open.last(), Some((_, count)) if *count > 1);
        let Some((_, field)) = self.fields.last_mut() else {
            return;
        };
        let _ = write!(field, "{}{text}", if separate { "," } else { "" });
    }
}

/// Where one value goes.
struct Place<'a>(&'a mut Dump);

/// The list or struct that is open, and what closes it; the record itself is not written as one.
struct Part<'a>(&'a mut Dump, Option<char>);

impl Part<'_> {
    fn close(self) {
        let Some(bracket) = self.1 else { return };
        let open = self.0.open.pop();
        if let Some((Type::Struct(columns), count)) = open {
            assert_eq!(columns.len(), count, "a value for each member");
        }
        if let Some((_, field)) = self.0.fields.last_mut() {
            field.push(bracket);
        }
    }
}

impl Members for Part<'_> {
    type Member<'a>
        = Place<'a>
    where
        Self: 'a;
    fn next(&mut self) -> Place<'_> {
        Place(self.0)
    }
    fn end(self) {
        self.close();
    }
}

impl Items for Part<'_> {
    type Item<'a>
        = Place<'a>
    where
        Self: 'a;
    fn next(&mut self) -> Place<'_> {
        Place(self.0)
    }
    fn end(self) {
        self.close();
    }
}

/// Values that are written as Rust does.
macro_rules! written {
    ($($method:ident $kind:ident $rust:ty;)+) => {$(
        fn $method(&mut self, value: $rust) {
            self.0.value(Type::$kind, &value.to_string());
        }
    )+};
}

impl Sink for Place<'_> {
    type Members<'a>
        = Part<'a>
    where
        Self: 'a;
    type Items<'a>
        = Part<'a>
    where
        Self: 'a;
    fn null(&mut self) {
        let expected = self.0.next();
        assert!(expected.nullable, "{} is never null", expected.name);
        self.0.write("null");
    }
    written! {
        bool Bool bool;
        u8 U8 u8;
        u16 U16 u16;
        u32 U32 u32;
        u64 U64 u64;
        i8 I8 i8;
        i64 I64 i64;
        f64 F64 f64;
        time Time i64;
    }
    fn text(&mut self, value: &str) {
        self.0.value(Type::Text, value);
    }
    fn address(&mut self, value: [u8; 16]) {
        self.0.value(Type::Address, &super::hex(&value));
    }
    fn mac(&mut self, value: [u8; 6]) {
        self.0.value(Type::Mac, &super::hex(&value));
    }
    fn items(&mut self, _: usize) -> Part<'_> {
        let kind = self.0.next().kind;
        assert!(matches!(kind, Type::List(_)));
        self.0.write("[");
        self.0.open.push((kind, 0));
        Part(self.0, Some(']'))
    }
    fn members(&mut self) -> Part<'_> {
        if !std::mem::replace(&mut self.0.started, true) {
            return Part(self.0, None);
        }
        let kind = self.0.next().kind;
        assert!(matches!(kind, Type::Struct(_)));
        self.0.write("{");
        self.0.open.push((kind, 0));
        Part(self.0, Some('}'))
    }
}

/// What each side says, in turns.
type Turns = Vec<(Direction, Vec<u8>)>;

/// A flow of each protocol that comes over streams, and of each way that a stream may go.
fn conversations() -> Vec<(Protocol, u16, Turns)> {
    use Direction::{Forward, Reverse};
    vec![
        (Protocol::Tls, 443, super::tls::tests::conversation()),
        (Protocol::Tls, 443, super::tls::tests::refusal()),
        (Protocol::Tls, 443, super::tls::tests::ssl_2_conversation()),
        (
            Protocol::Http,
            80,
            vec![
                (Forward, b"POST /a HTTP/1.1\r\nHost: example.org\r\nContent-Length: 4\r\n\r\nbodyGET /b HTTP/1.1\r\nUser-Agent: x\r\n  y\r\n\r\n".to_vec()),
                (Reverse, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1 404 Not Found\nContent-Type: text/html; x\n\nrest".to_vec()),
            ],
        ),
        (
            Protocol::Dns,
            53,
            vec![
                (Forward, super::dns::tests::framed(&[super::dns::tests::query("example.org"), super::dns::tests::query("example.net")])),
                (Reverse, super::dns::tests::framed(&[super::dns::tests::response("example.org", [192, 0, 2, 1])])),
            ],
        ),
        (
            Protocol::Llmnr,
            5355,
            vec![
                (Forward, super::dns::tests::framed(&[super::dns::tests::query("office")])),
                (Reverse, super::dns::tests::framed(&[super::dns::tests::response("office", [192, 0, 2, 2])])),
            ],
        ),
        (
            Protocol::Ssh,
            22,
            vec![
                (Reverse, b"Welcome\r\nSSH-2.0-OpenSSH_9.6 Debian\r\n".to_vec()),
                (Forward, [b"SSH-2.0-client\r\n", super::ssh::tests::offer(["a", "b", "c", "d", "e", "f", "g", "h"]).as_slice()].concat()),
                (Reverse, super::ssh::tests::offer(["h", "g", "f", "e", "d", "c", "b", "a"])),
            ],
        ),
        (
            Protocol::Http,
            3128,
            then_tls(vec![
                (Forward, b"CONNECT a.test:443 HTTP/1.1\r\n\r\n".to_vec()),
                (Reverse, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Http,
            3128,
            super::http1::tests::early_tunnel(),
        ),
        (
            Protocol::Http,
            8000,
            vec![
                (Forward, b"GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\n\r\n".to_vec()),
                (Reverse, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello".to_vec()),
                (Forward, b"\x81\x85\x01\x02\x03\x04igohn".to_vec()),
            ],
        ),
        (Protocol::Http, 80, super::http2::tests::upgrade()),
        (Protocol::Http2, 8080, super::http2::tests::conversation()),
        (Protocol::Http2, 8080, super::http2::tests::dns_conversation()),
        (
            Protocol::Socks,
            1080,
            then_tls(vec![
                (Forward, unhex("05 01 00")),
                (Reverse, unhex("05 00")),
                (Forward, [unhex("05 01 00 03 06").as_slice(), b"a.test\x01\xbb"].concat()),
                (Reverse, unhex("05 00 00 01 00000000 0000")),
            ]),
        ),
        (
            Protocol::Socks,
            1080,
            then_tls(vec![
                (Forward, unhex("05 02 00 02")),
                (Reverse, unhex("05 02")),
                (Forward, unhex("01 01 61 01 62")),
                (Reverse, unhex("01 00")),
                (Forward, unhex("05 02 00 01 c0000201 0014")),
                (Reverse, unhex("05 00 00 01 c0000202 ea60 05 00 00 01 c0000201 0014")),
            ]),
        ),
        (
            Protocol::Smtp,
            25,
            then_tls(vec![
                (Reverse, b"220-mail ESMTP\r\n220 hello\r\n".to_vec()),
                (Forward, b"EHLO me\r\nSTARTTLS\r\n".to_vec()),
                (Reverse, b"250 STARTTLS\r\n220 go\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Imap,
            143,
            then_tls(vec![
                (Reverse, b"* OK ready\r\n".to_vec()),
                (Forward, b"a1 STARTTLS\r\n".to_vec()),
                (Reverse, b"a1 OK go\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Imap,
            143,
            then_tls(vec![
                (Reverse, b"* OK ready\r\n".to_vec()),
                (Forward, b"a1 LOGIN {5}\r\nalice {11+}\r\nmy STORE pw\r\na2 LIST {3}\r\na\nb \"*\" MOVE\r\na3 STARTTLS\r\n".to_vec()),
                (Reverse, b"* LIST () {4}\r\n\x16\x03\x01x and more than what is kept of it\r\na3 OK go\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Pop3,
            110,
            then_tls(vec![
                (Reverse, b"+OK POP3 ready\r\n".to_vec()),
                (Forward, b"STLS\r\n".to_vec()),
                (Reverse, b"+OK go\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Ftp,
            21,
            then_tls(vec![
                (Reverse, b"220 (vsFTPd 3.0.5)\r\n".to_vec()),
                (Forward, b"\xff\xf4\xff\xf2ABOR\r\nAUTH TLS\r\n".to_vec()),
                (Reverse, b"226 aborted\r\n234 go\r\n".to_vec()),
            ]),
        ),
        (
            Protocol::Xmpp,
            5222,
            then_tls(vec![
                (Forward, b"<?xml version='1.0'?><stream:stream to='a.test'><starttls/>".to_vec()),
                (Reverse, b"<stream:stream from='a.test'><proceed/>".to_vec()),
            ]),
        ),
        (
            Protocol::Ldap,
            389,
            then_tls(vec![
                (Forward, super::ldap::tests::start_tls()),
                (Reverse, unhex("300c 020101 7807 0a0100 0400 0400")),
            ]),
        ),
        (
            Protocol::Postgresql,
            5432,
            then_tls(vec![
                (Forward, unhex("00000008 04d2162f")),
                (Reverse, b"S".to_vec()),
            ]),
        ),
        (
            Protocol::Postgresql,
            5432,
            vec![
                (Forward, unhex("00000008 04d21630")),
                (Reverse, b"G".to_vec()),
                (Forward, unhex("00000004 60820201")),
            ],
        ),
        (
            Protocol::Mysql,
            3306,
            then_tls(vec![
                (Reverse, super::mysql::tests::numbered(0, &[b"\x0a8.4.3\0".as_slice(), &[1; 60]].concat())),
                (Forward, super::mysql::tests::numbered(1, &[&[0, 0x0a], [0; 30].as_slice()].concat())),
            ]),
        ),
        (
            Protocol::Adb,
            5555,
            then_tls(vec![
                (Forward, super::adb::tests::message(*b"CNXN", b"host::features=shell_v2")),
                (Reverse, super::adb::tests::message(*b"STLS", b"")),
                (Forward, super::adb::tests::message(*b"STLS", b"")),
            ]),
        ),
    ]
}

/// The turns, and a TLS handshake behind them.
fn then_tls(mut turns: Turns) -> Turns {
    turns.extend(super::tls::tests::conversation());
    turns
}

#[test]
fn names_are_unique_and_fit_for_columns() {
    for (index, protocol) in Protocol::ALL.iter().enumerate() {
        assert_eq!(*protocol as usize, index);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(protocol.name().bytes().all(plain), "{}", protocol.name());
        assert!(
            Protocol::ALL
                .iter()
                .filter(|other| other.name() == protocol.name())
                .count()
                == 1
        );
        assert!(!protocol.doc().is_empty() && !protocol.category().is_empty());
        let columns = protocol.columns();
        assert!(
            columns
                .iter()
                .all(|column| column.name.bytes().all(plain) && !column.doc.is_empty())
        );
    }
}

#[test]
fn every_protocol_over_streams_has_a_conversation() {
    for protocol in Protocol::ALL.iter().filter(|protocol| protocol.comes_over(true)) {
        assert!(
            conversations().iter().any(|(of, _, _)| of == protocol),
            "{}",
            protocol.name()
        );
    }
}

#[test]
fn conversations_are_identified_on_any_port() {
    for (protocol, port, turns) in conversations() {
        // Only its port tells LLMNR from DNS.
        let port = if protocol == Protocol::Llmnr { port } else { 40_001 };
        let mut flow = Feeder::tcp(40_000, port);
        for (direction, bytes) in &turns {
            flow.bytes(*direction, bytes);
        }
        assert_eq!(flow.session.protocol().map(|(found, _)| found), Some(protocol));
        assert!(Protocol::ALL.iter().any(|&each| !flow.record(each).is_empty()));
    }
}

#[test]
fn every_end_of_a_conversation_is_final() {
    for (_, port, turns) in conversations() {
        let mut flow = Feeder::tcp(40_000, port);
        for (direction, bytes) in &turns {
            flow.bytes(*direction, bytes);
        }
        assert_eq!(flow.end(), Status::Done);
    }
}

#[test]
fn unknown_bytes_are_given_up() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    assert_eq!(
        flow.forward(b"\x00\x01\x02"),
        Status::Need(0),
        "the other side may tell"
    );
    assert_eq!(flow.reverse(b"\x00\x01\x02"), Status::GaveUp(Limit::Unidentified));
    let mut flow = Feeder::tcp(40_000, 40_001);
    assert_eq!(
        flow.forward(&vec![0xfe; 20_000]),
        Status::GaveUp(Limit::Unidentified),
        "one side alone, for long"
    );
    let mut flow = Feeder::udp(40_000, 40_001);
    let statuses: Vec<_> = (0..8).map(|_| flow.forward(b"\xfe\xfe")).collect();
    assert_eq!(statuses.last(), Some(&Status::GaveUp(Limit::Unidentified)));
    assert!(statuses.iter().take(7).all(|status| *status == Status::Need(0)));
    assert_eq!(flow.session.protocol(), None);
}

#[test]
fn a_session_is_small_while_it_searches() {
    assert!(size_of::<Session>() <= 48, "{} bytes", size_of::<Session>());
}

fn chunk_ends() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..60_usize, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A stream fed whole, byte by byte and at random cuts gives equal records.
    #[test]
    fn records_do_not_depend_on_cuts(which in any::<prop::sample::Index>(), lengths in chunk_ends(), flip in any::<Option<(prop::sample::Index, u8)>>()) {
        let mut all = conversations();
        let (_, port, mut turns) = all.swap_remove(which.index(all.len()));
        // A damaged conversation must give equal records too.
        if let Some((at, value)) = flip {
            let turn = at.index(turns.len());
            let offset = at.index(turns[turn].1.len());
            turns[turn].1[offset] = value;
        }
        let feed = |cut: &dyn Fn(usize) -> usize| {
            let mut flow = Feeder::tcp(40_000, port);
            for (direction, bytes) in &turns {
                let (mut rest, mut index) = (bytes.as_slice(), 0);
                while !rest.is_empty() {
                    let (head, tail) = rest.split_at(cut(index).min(rest.len()));
                    flow.bytes(*direction, head);
                    (rest, index) = (tail, index + 1);
                }
            }
            flow.end();
            flow.all()
        };
        let whole = feed(&|_| usize::MAX);
        prop_assert_eq!(&whole, &feed(&|_| 1));
        prop_assert_eq!(&whole, &feed(&|index| lengths[index % lengths.len()]));
    }

    /// Whatever comes, nothing panics, and no more is consumed than there was.
    #[test]
    fn arbitrary_bytes_are_survived(
        port in prop::sample::select(vec![21_u16, 22, 25, 53, 80, 110, 143, 389, 443, 1900, 3306, 5222, 5353, 5355, 5432, 9]),
        stream in any::<bool>(),
        inputs in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200), any::<u8>()), 0..20),
        first in 0..10_usize,
    ) {
        let mut flow = Feeder::new(40_000, port, stream);
        // Random bytes alone seldom get past identification.
        let start: &[u8] = [b"".as_slice(), b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03", b"GET / HTTP/1.1\r\n", b"SSH-2.0-", b"\xc0\x00\x00\x00\x01\x08", b"\x00\x00\x01\x00\x00\x01\x00\x01", b"\x16\xfe\xff\0\0\0\0\0\0\0\0\0\x80", b"\x30\x40\x02\x01\x01\x77", b"EHLO me\r\n", b"CONNECT a HTTP/1.1\r\n\r\n"][first];
        for (index, (reverse, bytes, kind)) in inputs.iter().enumerate() {
            let direction = if *reverse { Direction::Reverse } else { Direction::Forward };
            let bytes = if index == 0 { [start, bytes].concat() } else { bytes.clone() };
            match kind {
                0..=10 => flow.gap(direction, u64::from(*kind) * 100),
                _ => flow.bytes(direction, &bytes),
            };
        }
        flow.end();
        flow.all();
    }
}
