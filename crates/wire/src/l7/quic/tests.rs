use super::*;
use crate::l7::tests::{Feeder, TestCrypto, field, unhex};
use crate::l7::tls::tests::message;
use proptest::prelude::*;
use version::VERSIONS;

/// RFC 9001 appendix A: the client's destination connection id.
const DESTINATION: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

/// RFC 9001 appendix A.2: the CRYPTO frame with the ClientHello.
const CLIENT_FRAME: &str = "
    060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010
    000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000000000330026
    0024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305030603
    0203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901
    100f088394c8f03e51570806048000ffff";

/// RFC 9001 appendix A.3: the server's Initial packet as sent.
const SERVER_INITIAL: &str = "
    cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c
    3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f5889
    1850abbdca3d20398c276456cbc42158407dd074ee";

fn version(number: u32) -> &'static Version {
    Version::find(number).unwrap_or_else(|| unreachable!("version {number:x} is in the table"))
}

/// A packet that `keys` seal: long header with the connection ids, a packet number of four bytes, frames.
fn seal(version: &Version, keys: &PacketKeys, ids: [&[u8]; 2], number: u32, frames: &[u8]) -> Vec<u8> {
    let mut packet = vec![if version.kind(0xd3) == Kind::Initial {
        0xd3
    } else {
        0xc3
    }];
    packet.extend_from_slice(&version.number.to_be_bytes());
    for id in ids {
        packet.push(id.len() as u8);
        packet.extend_from_slice(id);
    }
    packet.push(0); // no token
    let length = (frames.len() + 4 + 16) as u16 | 0x4000;
    packet.extend_from_slice(&length.to_be_bytes());
    let number_offset = packet.len();
    packet.extend_from_slice(&number.to_be_bytes());
    let sealed = keys.seal(&packet, number, frames);
    packet.extend_from_slice(&sealed);
    let sample: [u8; 16] = packet[number_offset + 4..number_offset + 20]
        .try_into()
        .unwrap_or_default();
    let mask = keys.mask(&sample);
    packet[0] ^= mask[0] & 0x0f;
    for (byte, mask) in packet[number_offset..number_offset + 4]
        .iter_mut()
        .zip(&mask[1..])
    {
        *byte ^= mask;
    }
    packet
}

fn keys(number: u32, destination: &[u8]) -> InitialKeys {
    InitialKeys::derive(version(number), destination, &TestCrypto)
}

/// A datagram of the client with these frames, padded to 1,200 bytes.
fn client(number: u32, destination: &[u8], packet_number: u32, frames: &[u8]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    frames.resize(1162, 0);
    seal(
        version(number),
        &keys(number, destination).client,
        [destination, &[]],
        packet_number,
        &frames,
    )
}

/// A CRYPTO frame.
fn crypto_frame(offset: u16, data: &[u8]) -> Vec<u8> {
    let (offset, length) = (offset | 0x4000, data.len() as u16 | 0x4000);
    [&[6], offset.to_be_bytes().as_slice(), &length.to_be_bytes(), data].concat()
}

fn client_hello() -> Vec<u8> {
    unhex(CLIENT_FRAME)[4..].to_vec()
}

#[test]
fn keys_of_rfc_9001_and_9369() {
    // RFC 9001 appendix A.1, RFC 9369 appendix A.1: key, iv and header protection key of client and server.
    let first = keys(1, &DESTINATION);
    assert_eq!(
        first.client.parts(),
        [
            "1f369613dd76d5467730efcbe3b1a22d",
            "fa044b2f42a3fd3b46fb255c",
            "9f50449e04a0e810283a1e9933adedd2"
        ]
    );
    assert_eq!(
        first.server.parts(),
        [
            "cf3a5331653c364c88f0f379b6067e37",
            "0ac1493ca1905853b0bba03e",
            "c206b8d9b9f0f37644430b490eeaa314"
        ]
    );
    let second = keys(0x6b33_43cf, &DESTINATION);
    assert_eq!(
        second.client.parts(),
        [
            "8b1a0bc121284290a29e0971b5cd045d",
            "91f73e2351d8fa91660e909f",
            "45b95e15235d6f45a6b19cbcb0294ba9"
        ]
    );
    assert_eq!(
        second.server.parts(),
        [
            "82db637861d55e1d011f19ea71d5d2a7",
            "dd13c276499c0249d3310652",
            "edf6d05c83121201b436e16877593c3a"
        ]
    );
}

#[test]
fn the_handshake_of_rfc_9001() {
    // Appendix A.2: packet number 2.
    let datagram = client(1, &DESTINATION, 2, &unhex(CLIENT_FRAME));
    let start = unhex(
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c0bab7df5976d27cd449f63300099f399",
    );
    assert_eq!(
        (datagram.len(), &datagram[..start.len()]),
        (1200, start.as_slice())
    );
    assert_eq!(
        datagram[1184..],
        unhex("e221af44860018ab0856972e194cd934"),
        "the tag"
    );

    let mut flow = Feeder::udp(40_000, 40_001);
    flow.forward(&datagram);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Quic, Confidence::Payload))
    );
    assert_eq!(flow.session.server_name(), Some("example.com"));
    assert_eq!(flow.reverse(&unhex(SERVER_INITIAL)), Status::Done);
    let record = flow.record(Protocol::Quic);
    assert_eq!(
        (field(&record, "version"), field(&record, "dcid")),
        ("1", "8394c8f03e515708")
    );
    assert_eq!(
        (field(&record, "scid"), field(&record, "server_scid")),
        ("", "f067a5502a4262b5")
    );
    let tls = flow.record(Protocol::Tls);
    assert_eq!(field(&tls, "alpn_offered"), "[alpn]");
    assert_eq!(
        (field(&tls, "version"), field(&tls, "cipher")),
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
    );
    assert!(
        field(&tls, "ja4").starts_with("q13d0211an_"),
        "{}",
        field(&tls, "ja4")
    );
}

#[test]
fn every_version_of_the_table_is_opened() {
    for version in VERSIONS {
        let number = version.number;
        let mut frame = unhex(CLIENT_FRAME);
        if version.google_frames {
            // Google's versions have CRYPTO frames of another type.
            frame[0] = 0x08;
        }
        let mut flow = Feeder::udp(40_000, 443);
        flow.forward(&client(number, &DESTINATION, 0, &frame));
        assert_eq!(flow.session.server_name(), Some("example.com"), "{number:08x}");
    }
}

/// What the texts say, in their own writing: versions and the salt of their initial secrets.
const SALTS: &[(&[u32], &str)] = &[
    // RFC 9001 §5.2; draft-ietf-quic-tls-33 and -34 §5.2.
    (
        &[1, 0xff00_0021, 0xff00_0022],
        "38762cf7f55934b34d179ae6a4c80cadccbb7f0a",
    ),
    // RFC 9369 §3.3.1.
    (&[0x6b33_43cf], "0dede3def700a6db819381be6e269dcbf9bd2ed9"),
    // The drafts of RFC 9369 from 01 on.
    (&[0x709a_50c4], "a707c203a59b47184a1d62ca570406ea7ae3e5d3"),
    // draft-ietf-quic-tls-29 to -32 §5.2; the reserved versions were most used with these.
    (
        &[0xff00_001d, 0xff00_001e, 0xff00_001f, 0xff00_0020, 0x0a0a_0a0a],
        "afbfec289993d24c9e9786f19c6111e04390a899",
    ),
    // draft-ietf-quic-tls-23 to -28 §5.2; mvfst's numbers for drafts of these.
    (
        &[
            0xff00_0017,
            0xff00_0018,
            0xff00_0019,
            0xff00_001a,
            0xff00_001b,
            0xff00_001c,
            0xface_b002,
            0xface_b00e,
        ],
        "c3eef712c72ebb5a11a7d2432bb46365bef9f502",
    ),
    // draft-ietf-quic-tls-22 §5.2; mvfst's number for it.
    (
        &[0xff00_0016, 0xface_b001],
        "7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a",
    ),
    // Google's T050, T051 and Q050, of which there is no text but its source.
    (&[0x5430_3530], "7ff579e5acd072915580304c43a2367c60488310"),
    (&[0x5430_3531], "7a4edef4e7ccee5fa4506c19124fc8ccda6e033d"),
    (&[0x5130_3530], "504574efd066fe2f9d945cfcdbd3a7f0d3b56b45"),
];

#[test]
fn salts_are_those_of_the_texts() {
    for version in VERSIONS {
        let salts: Vec<_> = SALTS
            .iter()
            .filter(|(numbers, _)| numbers.contains(&version.number))
            .map(|(_, salt)| unhex(salt))
            .collect();
        assert_eq!(salts, [version.salt.to_vec()], "{:08x}", version.number);
    }
    let declared: usize = SALTS.iter().map(|(numbers, _)| numbers.len()).sum();
    assert_eq!(declared, VERSIONS.len(), "no version is left out of the table");
    // draft-ietf-quic-transport §15: 0xff000000 and the number of the draft, by which records name it.
    for draft in 22..=34_u32 {
        assert_eq!(version::name(0xff00_0000 | draft), format!("draft-{draft}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A hello that comes in any CRYPTO frames, overlapping, in any order, several to a packet.
    #[test]
    fn records_do_not_depend_on_frames(
        cuts in proptest::collection::btree_set(1..241_u16, 0..12),
        overlap in 0..20_u16,
        keys in proptest::collection::vec(any::<u8>(), 13),
        together in 1..4_usize,
    ) {
        let hello = client_hello();
        let length = hello.len() as u16;
        prop_assert!(cuts.iter().all(|cut| *cut < length));
        let ends = cuts.iter().copied().chain([length]);
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let mut parts: Vec<_> = starts.zip(ends).zip(&keys).collect();
        parts.sort_by_key(|(_, key)| **key);
        let mut flow = Feeder::udp(40_000, 40_001);
        for (number, parts) in (0..).zip(parts.chunks(together)) {
            let frames: Vec<u8> = parts
                .iter()
                .flat_map(|((start, end), _)| {
                    let end = (end + overlap).min(length);
                    crypto_frame(*start, &hello[usize::from(*start)..usize::from(end)])
                })
                .collect();
            flow.forward(&client(1, &DESTINATION, number, &frames));
        }
        let mut whole = Feeder::udp(40_000, 40_001);
        whole.forward(&client(1, &DESTINATION, 0, &crypto_frame(0, &hello)));
        prop_assert_eq!(whole.session.server_name(), Some("example.com"));
        prop_assert_eq!(flow.all(), whole.all());
    }
}

#[test]
fn a_hello_over_several_datagrams_out_of_order() {
    let hello = client_hello();
    let mut flow = Feeder::udp(40_000, 443);
    // The end first, then PING and the overlapping middle, then the front.
    flow.forward(&client(1, &DESTINATION, 1, &crypto_frame(150, &hello[150..])));
    flow.forward(&client(
        1,
        &DESTINATION,
        2,
        &[vec![1], crypto_frame(40, &hello[40..160])].concat(),
    ));
    assert_eq!(flow.session.server_name(), None);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Quic, Confidence::Handshake))
    );
    flow.forward(&client(1, &DESTINATION, 0, &crypto_frame(0, &hello[..60])));
    assert_eq!(flow.session.server_name(), Some("example.com"));
}

#[test]
fn coalesced_packets_are_read_one_by_one() {
    let hello = client_hello();
    let keys = keys(1, &DESTINATION).client;
    let part = |number, from: usize, to: usize| {
        seal(
            version(1),
            &keys,
            [&DESTINATION, &[]],
            number,
            &crypto_frame(from as u16, &hello[from..to]),
        )
    };
    let mut flow = Feeder::udp(40_000, 443);
    flow.forward(&[part(0, 0, 100), part(1, 100, hello.len()), vec![0x40; 30]].concat());
    assert_eq!(flow.session.server_name(), Some("example.com"));
}

#[test]
fn after_a_retry_the_keys_are_new() {
    let hello = client_hello();
    let other = [0xaa; 8];
    let mut flow = Feeder::udp(40_000, 443);
    flow.forward(&client(1, &DESTINATION, 0, &crypto_frame(0, &hello[..50])));
    // Retry: type 3, version 1, empty destination, the new source id, token and tag.
    flow.reverse(&[unhex("f0 00000001 00 08"), other.to_vec(), vec![0x77; 30]].concat());
    flow.forward(&client(1, &other, 1, &crypto_frame(0, &hello)));
    assert_eq!(flow.session.server_name(), Some("example.com"));
    let record = flow.record(Protocol::Quic);
    assert_eq!(
        (field(&record, "retry"), field(&record, "dcid")),
        ("true", "8394c8f03e515708"),
        "the first id stays"
    );
}

#[test]
fn versions_are_negotiated() {
    let mut flow = Feeder::udp(40_000, 443);
    flow.forward(&client(0x1a2a_3a4a, &DESTINATION, 0, &[1]));
    flow.reverse(&unhex(
        "80 00000000 00 08 8394c8f03e515708 00000001 6b3343cf 1a1a1a1a",
    ));
    flow.forward(&client(1, &DESTINATION, 1, &unhex(CLIENT_FRAME)));
    let record = flow.record(Protocol::Quic);
    assert_eq!(field(&record, "negotiated_versions"), "[1,2,0x1a1a1a1a]");
    assert_eq!(field(&record, "version"), "1");
    assert_eq!(flow.session.server_name(), Some("example.com"));
    // RFC 9368: the server answers in version 2, with keys from the same connection id.
    let server_hello = [
        &[3, 3],
        [7; 32].as_slice(),
        &[0, 0x13, 0x01, 0, 0, 6, 0, 43, 0, 2, 3, 4],
    ]
    .concat();
    let frame = crypto_frame(0, &message(tls::SERVER_HELLO, &server_hello));
    let answer = seal(
        version(0x6b33_43cf),
        &keys(0x6b33_43cf, &DESTINATION).server,
        [&[], &[9; 4]],
        0,
        &frame,
    );
    assert_eq!(flow.reverse(&answer), Status::Done);
    assert_eq!(field(&flow.record(Protocol::Quic), "version"), "2");
}

#[test]
fn versions_are_listed_once() {
    let mut flow = Feeder::udp(40_000, 443);
    flow.forward(&client(0x1a2a_3a4a, &DESTINATION, 0, &[1]));
    let negotiation = unhex("80 00000000 00 08 8394c8f03e515708 00000001 6b3343cf");
    flow.reverse(&negotiation);
    flow.reverse(&negotiation);
    let record = flow.record(Protocol::Quic);
    assert_eq!(field(&record, "negotiated_versions"), "[1,2]");
}

#[test]
fn damaged_packets_change_nothing() {
    let mut datagram = client(1, &DESTINATION, 0, &unhex(CLIENT_FRAME));
    datagram[600] ^= 1;
    let mut flow = Feeder::udp(40_000, 443);
    assert_eq!(flow.forward(&datagram), Status::Need(0));
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Quic, Confidence::Handshake))
    );
    assert!(flow.record(Protocol::Tls).is_empty());
    flow.forward(&client(1, &DESTINATION, 1, &unhex(CLIENT_FRAME)));
    assert_eq!(flow.session.server_name(), Some("example.com"));
}

#[test]
fn limits_hold() {
    let mut flow = Feeder::udp(40_000, 443);
    let far = [&[6, 0x80, 0x0f, 0xff, 0xff, 4], b"data".as_slice()].concat();
    assert_eq!(
        flow.forward(&client(1, &DESTINATION, 0, &far)),
        Status::GaveUp(Limit::MessageLength)
    );
    let mut flow = Feeder::udp(40_000, 443);
    let statuses: Vec<_> = (0..64)
        .map(|number| flow.forward(&client(1, &DESTINATION, number, &[1])))
        .collect();
    assert_eq!(
        statuses.last(),
        Some(&Status::Done),
        "a hello is not waited for without end"
    );
    let mut flow = Feeder::udp(40_000, 443);
    let cut = [6, 0, 0x44, 0xff];
    let frames = [vec![0; 1158], cut.to_vec()].concat();
    assert_eq!(
        flow.forward(&client(1, &DESTINATION, 0, &frames)),
        Status::Malformed(Malformed::BadLength)
    );
}
