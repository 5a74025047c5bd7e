use super::*;
use crate::flowkey::Direction;
use crate::l7::hex;
use crate::l7::tests::{Feeder, TestCrypto, field, unhex};

/// A certificate made for this test: issuer `CN=Test CA,DC=example`, subject `CN=www.example.org,O=Example\, Ltd.,C=DE`,
/// from 2024-02-29 12:00 to 2050-01-01, serial 0x1a2b3c, four alternative names.
const CERTIFICATE: &str = "
    308201b130820156a00302010202031a2b3c300a06082a8648ce3d040302302b31173015060a0992268993f22c64011916076578616d706c65
    3110300e06035504030c07546573742043413020170d3234303232393132303030305a180f32303530303130313030303030305a303f310b30
    0906035504061302444531163014060355040a0c0d4578616d706c652c204c74642e3118301606035504030c0f7777772e6578616d706c652e
    6f72673059301306072a8648ce3d020106082a8648ce3d030107034200042fd29d4a0a2579af32cae7f561b9946ca2c1f863bbb935fffe5a0b
    69884ea677d430e8e8682bb81e964e28b0258e9f03d0a8235ec9f1c7121e198ab72dfa9186a3533051300c0603551d130101ff040230003041
    0603551d11043a3038820f7777772e6578616d706c652e6f7267820d2a2e6578616d706c652e6e65748704c0000201871020010db800000000
    0000000000000001300a06082a8648ce3d0403020349003046022100d0e45c7a9575f62687656fbb5de00a7f1e497a9bfb3cebfed015dff037
    4996a4022100f18f46d5c06a2c5c127b1b98a1befb1b1185559fd89cdc5346cced0382396989";

/// A value behind its length in two bytes.
fn vector16(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes(), body].concat()
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [number.to_be_bytes().to_vec(), vector16(body)].concat()
}

fn server_name_extension(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0], vector16(name).as_slice()].concat()))
}

fn alpn_extension(name: &[u8]) -> Vec<u8> {
    extension(16, &vector16(&[&[name.len() as u8], name].concat()))
}

/// The body of a ClientHello.
fn client_hello(version: u16, ciphers: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
    [
        version.to_be_bytes().to_vec(),
        vec![0x11; 32],
        vec![0],
        vector16(&u16s(ciphers)),
        vec![1, 0],
        vector16(&extensions.concat()),
    ]
    .concat()
}

/// The body of a ServerHello.
fn server_hello(random: &[u8; 32], cipher: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    let cipher = cipher.to_be_bytes();
    [
        &[3, 3],
        random.as_slice(),
        &[0],
        &cipher,
        &[0],
        &vector16(&extensions.concat()),
    ]
    .concat()
}

pub(in crate::l7) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], vector16(body).as_slice()].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    record(content::HANDSHAKE, &message(kind, body))
}

fn certificate_message() -> Vec<u8> {
    let der = unhex(CERTIFICATE);
    let length = |value: usize| (value as u32).to_be_bytes()[1..].to_vec();
    let entry = [length(der.len()), der].concat();
    message(message::CERTIFICATE, &[length(entry.len()), entry].concat())
}

fn simple_client_hello() -> Vec<u8> {
    let extensions = [server_name_extension(b"www.example.org"), alpn_extension(b"h2")];
    handshake(CLIENT_HELLO, &client_hello(0x0303, &[0xc02f], &extensions))
}

/// A TLS 1.2 handshake up to where the client encrypts; the server's certificate spans two records.
pub(in crate::l7) fn conversation() -> Vec<(Direction, Vec<u8>)> {
    let server = message(
        SERVER_HELLO,
        &server_hello(&[7; 32], 0xc02f, &[alpn_extension(b"h2")]),
    );
    let both = [server, certificate_message()].concat();
    let records = both
        .chunks(300)
        .map(|chunk| record(content::HANDSHAKE, chunk))
        .collect::<Vec<_>>()
        .concat();
    vec![
        (Direction::Forward, simple_client_hello()),
        (Direction::Reverse, records),
        (Direction::Forward, client_answer()),
    ]
}

/// `ClientKeyExchange`, `ChangeCipherSpec`, and an encrypted Finished.
fn client_answer() -> Vec<u8> {
    const CLIENT_KEY_EXCHANGE: u8 = 16;
    [
        handshake(CLIENT_KEY_EXCHANGE, &[4; 33]),
        record(content::CHANGE_CIPHER_SPEC, &[1]),
        record(content::HANDSHAKE, &[0xee; 40]),
    ]
    .concat()
}

/// The same, but the client does not accept the certificate.
pub(in crate::l7) fn refusal() -> Vec<(Direction, Vec<u8>)> {
    let mut turns = conversation();
    turns[2].1 = record(content::ALERT, &[2, 48]);
    turns
}

/// A hello that chooses TLS 1.3, and what stands behind it in the same flight.
fn tls_1_3_flight() -> Vec<u8> {
    let hello = server_hello(&[7; 32], 0x1301, &[extension(43, &[3, 4])]);
    let encrypted = |length| record(content::APPLICATION_DATA, &vec![0xee; length]);
    [
        handshake(SERVER_HELLO, &hello),
        record(content::CHANGE_CIPHER_SPEC, &[1]),
        encrypted(23),
        encrypted(833),
        encrypted(281),
        encrypted(69),
    ]
    .concat()
}

#[test]
fn a_handshake_ends_when_the_client_encrypts() {
    for flight in [conversation().swap_remove(1).1, tls_1_3_flight()] {
        let mut flow = Feeder::tcp(40_000, 443);
        flow.forward(&simple_client_hello());
        assert_eq!(flow.reverse(&flight), Status::Need(0));
        let kept = flow.session.kept_bytes();
        // Of handshake messages, whole or not, nothing more is kept.
        let beginning = message(message::CERTIFICATE, &[0; 9000]);
        let beginning = record(content::HANDSHAKE, &beginning[..8000]);
        for direction in [Direction::Forward, Direction::Reverse] {
            assert_eq!(flow.bytes(direction, &beginning[..100]), Status::Need(0));
            flow.bytes(direction, &beginning[100..]);
        }
        assert_eq!(flow.session.kept_bytes(), kept);
        assert_eq!(
            flow.forward(&record(content::CHANGE_CIPHER_SPEC, &[1])),
            Status::Done
        );
        assert_eq!(field(&flow.record(Protocol::Tls), "alert"), "null");
        // A client that goes away, or of which nothing more can be read.
        let mut flow = Feeder::tcp(40_000, 443);
        flow.forward(&simple_client_hello());
        flow.reverse(&flight);
        assert_eq!(flow.forward(b"GET / HTTP/1.1\r\n"), Status::Done);
        let mut flow = Feeder::tcp(40_000, 443);
        flow.forward(&simple_client_hello());
        flow.reverse(&flight);
        assert_eq!(flow.feed(Direction::Forward, Input::End).status, Status::Done);
    }
}

#[test]
fn a_resumed_handshake_ends_when_the_client_encrypts() {
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    let finished = [
        record(content::CHANGE_CIPHER_SPEC, &[1]),
        record(content::HANDSHAKE, &[0xee; 40]),
    ]
    .concat();
    let hello = handshake(SERVER_HELLO, &server_hello(&[7; 32], 0xc02f, &[]));
    assert_eq!(flow.reverse(&[hello, finished.clone()].concat()), Status::Need(0));
    assert_eq!(flow.forward(&finished), Status::Done);
}

#[test]
fn the_alert_that_refuses_a_certificate_is_seen() {
    let alert = record(content::ALERT, &[2, 48]);
    for flight in [conversation().swap_remove(1).1, tls_1_3_flight()] {
        let mut flow = Feeder::tcp(40_000, 443);
        flow.forward(&simple_client_hello());
        flow.reverse(&flight);
        assert_eq!(flow.forward(&alert), Status::Done);
        assert_eq!(field(&flow.record(Protocol::Tls), "alert"), "48");
    }
    // After a HelloRetryRequest the client has sent a ChangeCipherSpec already.
    let retry_random: [u8; 32] = TestCrypto.sha256(b"HelloRetryRequest");
    let retry = server_hello(&retry_random, 0x1301, &[extension(43, &[3, 4])]);
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    flow.reverse(&handshake(SERVER_HELLO, &retry));
    flow.forward(&[record(content::CHANGE_CIPHER_SPEC, &[1]), simple_client_hello()].concat());
    flow.reverse(&tls_1_3_flight());
    flow.forward(&alert);
    assert_eq!(field(&flow.record(Protocol::Tls), "alert"), "48");
}

#[test]
fn a_server_alone_is_not_followed_for_long() {
    let mut flow = Feeder::tcp(40_000, 443);
    assert_eq!(flow.reverse(&tls_1_3_flight()), Status::Done);
    // Nor is one whose client says no more.
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    flow.reverse(&tls_1_3_flight());
    let data = record(content::APPLICATION_DATA, &[0xee; 100]);
    let last = (0..MAX_ENCRYPTED_RECORDS - 4).map(|_| flow.reverse(&data)).last();
    assert_eq!(last, Some(Status::Done));
}

#[test]
fn a_handshake_with_a_certificate() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    for (direction, bytes) in conversation() {
        assert_eq!(flow.status, Status::Need(0));
        flow.bytes(direction, &bytes);
    }
    assert_eq!(flow.status, Status::Done);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Tls, Confidence::Payload))
    );
    assert_eq!(flow.session.server_name(), Some("www.example.org"));
    let record = flow.record(Protocol::Tls);
    let expected = [
        ("version", "TLSv1.2"),
        ("cipher", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("sni", "www.example.org"),
        ("alpn", "h2"),
        ("alpn_offered", "[h2]"),
        ("client_versions", "[TLSv1.2]"),
        ("ech", "false"),
        ("hello_retry_request", "false"),
        ("certificate_subject", "CN=www.example.org,O=Example\\, Ltd.,C=DE"),
        ("certificate_issuer", "CN=Test CA,DC=example"),
        (
            "certificate_names",
            "[www.example.org,*.example.net,192.0.2.1,2001:db8::1]",
        ),
        ("certificate_names_omitted", "0"),
        ("certificate_not_before", "1709208000000000000"),
        ("certificate_not_after", "2524608000000000000"),
        ("certificate_serial", "1a2b3c"),
        (
            "certificate_sha256",
            "65f067aaaa0cb65ad394255463bcd2096a42a39cde98a5dad1eacaece36f39b6",
        ),
        ("alert", "null"),
    ];
    for (name, value) in expected {
        assert_eq!(field(&record, name), value, "{name}");
    }
}

#[test]
fn ja3_and_ja3s_of_their_publication() {
    // The string and digest of https://github.com/salesforce/ja3, README.
    let ciphers = [47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4];
    let extensions = [
        server_name_extension(b"a"),
        extension(10, &vector16(&u16s(&[23, 24, 25]))),
        extension(11, &[1, 0]),
    ];
    let body = client_hello(769, &ciphers, &extensions);
    let mut record = Record::default();
    record.add_client_hello(
        &ClientHello::parse(&body).unwrap_or_default(),
        Carrier::Tcp,
        &TestCrypto,
    );
    assert_eq!(
        record.ja3_string.as_deref(),
        Some("769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0")
    );
    assert_eq!(
        record.ja3.map(|digest| hex(&digest.0)).as_deref(),
        Some("ada70206e40642a3e4461f35503241d5")
    );

    let extensions: Vec<_> = [65281, 0, 11, 35, 5, 16]
        .iter()
        .map(|&number| extension(number, &[]))
        .collect();
    let mut body = server_hello(&[7; 32], 47, &extensions);
    body[1] = 1; // TLS 1.0
    record.set_server_hello(&ServerHello::parse(&body).unwrap_or_default(), &TestCrypto);
    assert_eq!(record.ja3s_string.as_deref(), Some("769,47,65281-0-11-35-5-16"));
    assert_eq!(
        record.ja3s.map(|digest| hex(&digest.0)).as_deref(),
        Some("836ce314215654b5b1f85f97c73e506f"),
        "as md5sum says"
    );
}

#[test]
fn long_fingerprint_strings_are_hashed_whole_and_kept_in_part() {
    let ciphers: Vec<u16> = (0x1000..0x1500).collect();
    let extensions: Vec<_> = (0x1000..0x1500).map(|number| extension(number, &[])).collect();
    let decimal = (0x1000..0x1500)
        .map(|number| number.to_string())
        .collect::<Vec<_>>();
    let list = decimal.join("-");
    let ja3_string = format!("771,{list},{list},,");
    let ja3s_string = format!("771,47,{list}");
    let mut record = Record::default();
    let body = client_hello(0x0303, &ciphers, &extensions);
    record.add_client_hello(
        &ClientHello::parse(&body).unwrap_or_default(),
        Carrier::Tcp,
        &TestCrypto,
    );
    let body = server_hello(&[7; 32], 47, &extensions);
    record.set_server_hello(&ServerHello::parse(&body).unwrap_or_default(), &TestCrypto);
    assert_eq!(record.ja3, Some(Digest(TestCrypto.md5(ja3_string.as_bytes()))));
    assert_eq!(record.ja3s, Some(Digest(TestCrypto.md5(ja3s_string.as_bytes()))));
    assert_eq!(record.ja3_string.as_deref(), ja3_string.get(..4096));
    assert_eq!(record.ja3s_string.as_deref(), ja3s_string.get(..4096));
}

/// The ClientHello of the example in the technical details of JA4, with GREASE as Chrome sends it.
fn ja4_example() -> Vec<u8> {
    let numbers = [
        0x0a0a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
    ];
    let signatures = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
    let extensions = numbers.map(|number| match number {
        0x0000 => server_name_extension(b"example.org"),
        0x0010 => alpn_extension(b"h2"),
        0x000d => extension(number, &vector16(&u16s(&signatures))),
        0x002b => extension(
            number,
            &[&[6], u16s(&[0x2a2a, 0x0304, 0x0303]).as_slice()].concat(),
        ),
        _ => extension(number, &[]),
    });
    let ciphers = [
        0x4a4a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
        0x009c, 0x009d, 0x002f, 0x0035,
    ];
    client_hello(0x0303, &ciphers, &extensions)
}

fn ja4_of(body: &[u8], carrier: Carrier) -> String {
    let hello = ClientHello::parse(body).unwrap_or_default();
    let mut scratch = b"what was there before".to_vec();
    fingerprint::ja4(&hello, carrier, &TestCrypto, &mut scratch).to_string()
}

#[test]
fn ja4_of_its_specification() {
    assert_eq!(
        ja4_of(&ja4_example(), Carrier::Tcp),
        "t13d1516h2_8daaf6152771_e5627efa2ab1"
    );
    assert_eq!(
        ja4_of(&ja4_example(), Carrier::Quic),
        "q13d1516h2_8daaf6152771_e5627efa2ab1"
    );
    let empty = client_hello(0x0301, &[], &[]);
    assert_eq!(
        ja4_of(&empty, Carrier::Tcp),
        "t10i000000_000000000000_000000000000"
    );
    let many = client_hello(0x0300, &(0..150).collect::<Vec<_>>(), &[]);
    assert!(
        ja4_of(&many, Carrier::Tcp).starts_with("ts3i990000_"),
        "counts stop at 99"
    );
}

#[test]
fn ja4_of_odd_application_protocols() {
    // The cases of the specification, section "ALPN Extension Value".
    let cases: [(&[u8], &str); 9] = [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"h", "hh"),
        (b"", "00"),
        (&[0xab], "ab"),
        (&[0xab, 0xcd], "ad"),
        (&[0x30, 0xab], "3b"),
        (&[0x30, 0x31, 0xab, 0xcd], "3d"),
        (&[0x30, 0xab, 0xcd, 0x31], "01"),
    ];
    for (name, expected) in cases {
        let ja4 = ja4_of(&client_hello(0x0303, &[1], &[alpn_extension(name)]), Carrier::Tcp);
        assert_eq!(&ja4[8..10], expected, "{name:02x?}");
    }
}

#[test]
fn tls_1_3_with_a_retry() {
    let versions = extension(43, &[2, 3, 4]);
    let hello = |shares: &[u16]| {
        let shares: Vec<u8> = shares
            .iter()
            .flat_map(|group| [&group.to_be_bytes(), [0, 1].as_slice(), &[9]].concat())
            .collect();
        let ech = extension(0xfe0d, &[0]);
        handshake(
            CLIENT_HELLO,
            &client_hello(
                0x0303,
                &[0x1301],
                &[versions.clone(), extension(51, &vector16(&shares)), ech],
            ),
        )
    };
    let retry_random: [u8; 32] = TestCrypto.sha256(b"HelloRetryRequest");
    let server = |random: &[u8; 32], share: &[u8]| {
        handshake(
            SERVER_HELLO,
            &server_hello(random, 0x1301, &[extension(43, &[3, 4]), extension(51, share)]),
        )
    };
    let change = record(content::CHANGE_CIPHER_SPEC, &[1]);
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&hello(&[0x2a2a, 0x11ec]));
    flow.reverse(&[server(&retry_random, &[0, 23]), change.clone()].concat());
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Tls, Confidence::Handshake))
    );
    flow.forward(&[change, hello(&[23])].concat());
    flow.reverse(&server(&[7; 32], &[0, 23, 0, 1, 9]));
    assert_eq!(
        flow.forward(&record(content::APPLICATION_DATA, &[0xee; 53])),
        Status::Done
    );
    let record = flow.record(Protocol::Tls);
    assert_eq!(field(&record, "version"), "TLSv1.3");
    assert_eq!(field(&record, "hello_retry_request"), "true");
    assert_eq!(field(&record, "ech"), "true");
    assert_eq!(
        field(&record, "client_key_shares"),
        "[10794,4588]",
        "of the first hello"
    );
    assert_eq!(field(&record, "server_key_share"), "23");
    assert_eq!(field(&record, "further_hellos").matches('{').count(), 1);
}

#[test]
fn a_large_hello_over_several_records() {
    let padding = extension(21, &vec![0; 20_000]);
    let body = client_hello(
        0x0303,
        &[0x1301],
        &[padding, server_name_extension(b"far.example.org")],
    );
    let message = message(CLIENT_HELLO, &body);
    let mut flow = Feeder::tcp(40_000, 40_001);
    for chunk in message.chunks(16_000) {
        flow.forward(&record(content::HANDSHAKE, chunk));
    }
    assert_eq!(flow.session.server_name(), Some("far.example.org"));
}

/// A handshake message that shows nothing.
const KEY_UPDATE: u8 = 24;

#[test]
fn messages_are_the_same_in_records_of_any_length() {
    let long = message(KEY_UPDATE, &[0x55; 700]);
    let hello = |name: &[u8]| {
        let extensions = [server_name_extension(name)];
        message(CLIENT_HELLO, &client_hello(0x0303, &[0xc02f], &extensions))
    };
    let messages = [
        hello(b"first.example"),
        long.clone(),
        hello(b"second.example"),
        long,
        hello(b"third.example"),
    ]
    .concat();
    for size in (1..12).chain([300, 700, 704, 705, messages.len()]) {
        let mut flow = Feeder::tcp(40_000, 443);
        for chunk in messages.chunks(size) {
            flow.forward(&record(content::HANDSHAKE, chunk));
        }
        let record = flow.record(Protocol::Tls);
        assert_eq!(field(&record, "sni"), "first.example", "{size}");
        let further = field(&record, "further_hellos");
        assert_eq!(further.matches('{').count(), 2, "{size}: {further}");
        assert!(further.contains("third.example"), "{size}: {further}");
    }
}

#[test]
fn what_is_kept_of_a_message_is_not_copied_at_every_record() {
    let mut tls = Tls::default();
    let mut lengths = Vec::new();
    let mut moves = 0;
    for byte in message(KEY_UPDATE, &[0x55; 4096]) {
        let before = tls.sides[0].message.capacity();
        assert_eq!(tls.handshake(0, &[byte], &TestCrypto), Ok(()));
        moves += usize::from(tls.sides[0].message.capacity() != before);
        lengths.push(tls.sides[0].message.len());
    }
    assert_eq!(lengths, (1..4100).chain([0]).collect::<Vec<_>>());
    assert!(moves < 20, "the buffer was made anew {moves} times");
    assert_eq!(tls.kept_bytes(), 0, "nothing is kept of what was read");
}

/// A hello in the format of SSL 2.0, and its answer in TLS.
pub(in crate::l7) fn ssl_2_conversation() -> Vec<(Direction, Vec<u8>)> {
    // RFC 5246 appendix E.2: length 0x802e, ClientHello, version 3.1, ciphers 21, session 0, challenge 16.
    let mut hello = unhex("802e 01 0301 0015 0000 0010 00002f 000035 000005 00000a 010080 0700c0 000004");
    hello.extend_from_slice(&[0x55; 16]);
    let answer = handshake(SERVER_HELLO, &server_hello(&[7; 32], 0x002f, &[]));
    vec![(Direction::Forward, hello), (Direction::Reverse, answer)]
}

#[test]
fn an_ssl_2_hello() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    for (direction, bytes) in ssl_2_conversation() {
        flow.bytes(direction, &bytes);
    }
    let record = flow.record(Protocol::Tls);
    assert_eq!(field(&record, "client_versions"), "[TLSv1.0]");
    assert_eq!(field(&record, "client_ciphers"), "[47,53,5,10,4]");
    assert_eq!(
        (field(&record, "cipher"), field(&record, "ja4")),
        ("TLS_RSA_WITH_AES_128_CBC_SHA", "null")
    );
}

#[test]
fn alerts_end_a_handshake() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    flow.forward(&simple_client_hello());
    assert_eq!(flow.reverse(&record(content::ALERT, &[2, 40])), Status::Done);
    assert_eq!(field(&flow.record(Protocol::Tls), "alert"), "40");
}

#[test]
fn mid_stream_records_are_recognised() {
    let data = record(content::APPLICATION_DATA, &[0xee; 100]);
    let mut flow = Feeder::tcp(40_000, 443);
    flow.reverse(&data);
    assert_eq!(
        flow.session.protocol().map(|(protocol, _)| protocol),
        Some(Protocol::Tls),
        "on its port by one record"
    );
    let mut flow = Feeder::tcp(40_000, 40_001);
    flow.reverse(&data);
    assert_eq!(flow.session.protocol(), None);
    flow.reverse(&data);
    assert_eq!(
        flow.session.protocol().map(|(protocol, _)| protocol),
        Some(Protocol::Tls),
        "elsewhere by two"
    );
    for _ in 0..20 {
        flow.reverse(&data);
    }
    assert_eq!(flow.status, Status::Done, "hellos are not waited for without end");
}

#[test]
fn gaps() {
    // Within a record that is passed over, at a record's end, and in a handshake message.
    let data = record(content::APPLICATION_DATA, &[0xee; 1000]);
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    flow.forward(&data[..100]);
    flow.gap(Direction::Forward, 900);
    flow.forward(&data[1000..]);
    assert_eq!(
        flow.reverse(&handshake(SERVER_HELLO, &server_hello(&[7; 32], 1, &[]))),
        Status::Need(0)
    );
    flow.gap(Direction::Reverse, 500);
    flow.reverse(&record(content::HANDSHAKE, &certificate_message()));
    flow.forward(&data);
    assert_eq!(
        flow.status,
        Status::Done,
        "records are found again where they begin behind the gap"
    );
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    for direction in [Direction::Forward, Direction::Reverse] {
        flow.gap(direction, 10);
        flow.bytes(direction, &[0x99; 10]);
    }
    assert_eq!(flow.status, Status::GaveUp(Limit::Gap));
}

#[test]
fn limits_hold() {
    let mut flow = Feeder::tcp(40_000, 443);
    let endless = [[CLIENT_HELLO, 0xff, 0xff, 0xff].as_slice(), &[3, 3], &[0; 100]].concat();
    assert_eq!(
        flow.forward(&record(content::HANDSHAKE, &endless)),
        Status::GaveUp(Limit::MessageLength)
    );
    let mut flow = Feeder::tcp(40_000, 443);
    flow.forward(&simple_client_hello());
    assert_eq!(
        flow.forward(b"GET / HTTP/1.1\r\n"),
        Status::Need(0),
        "the server may still say hello"
    );
    assert_eq!(
        flow.reverse(b"HTTP/1.1 200 OK\r\n"),
        Status::Malformed(Malformed::BadValue)
    );
    // A certificate that is not one has its digest, and nothing else.
    assert_eq!(
        Certificate::parse(&[0x30, 0x82, 0xff, 0xff]),
        Certificate::default()
    );
}
