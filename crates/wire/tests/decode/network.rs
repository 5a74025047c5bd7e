//! IPv4, IPv6 and transport headers of whole, cut and contradictory packets.
use crate::frames::{decode, ethernet, ipv4, ipv4_fragment, ipv6, meta, tcp, udp, with_checksum};
use wire::column::{Address, Mac};
use wire::decode::{Decoder, Fault, Fragment, LinkType, Packet, Transport, steering_hash};
use wire::malformed::Undecodable;

const RAW: LinkType = LinkType::RAW;

fn has(packet: &Packet<'_>, fault: Fault) -> bool {
    packet.faults & fault.bit() != 0
}

/// (source port, destination port), whichever way the key stands.
fn ports(packet: &Packet<'_>) -> (u16, u16) {
    if packet.from_high {
        (packet.key.high_port, packet.key.low_port)
    } else {
        (packet.key.low_port, packet.key.high_port)
    }
}

#[test]
fn a_dns_query_by_hand() {
    #[rustfmt::skip]
    let frame = [
        // Ethernet: destination, source, EtherType IPv4.
        0x00, 0x1b, 0x21, 0x00, 0x00, 0x02, 0x00, 0x1b, 0x21, 0x00, 0x00, 0x01, 0x08, 0x00,
        // IPv4: version 4, header 5 words; total length 32; id 1; no fragment; TTL 63; UDP; checksum.
        0x45, 0x00, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0x3f, 0x11, 0xf8, 0xa7,
        // 192.0.2.1 to 198.51.100.2... (RFC 5737)
        0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33, 0x64, 0x02,
        // UDP: 40000 to 53, length 12, no checksum; payload.
        0x9c, 0x40, 0x00, 0x35, 0x00, 0x0c, 0x00, 0x00, 0xde, 0xad, 0xbe, 0xef,
        // Ethernet padding up to 60 bytes.
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let sum = crate::frames::checksum(&[&frame[14..24], &[0, 0], &frame[26..34]].concat());
    let mut frame = frame;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let packet = decode(LinkType::ETHERNET, &frame).unwrap();
    assert_eq!(
        packet.addresses(),
        (Address::v4([192, 0, 2, 1]), Address::v4([198, 51, 100, 2]))
    );
    assert_eq!(ports(&packet), (40_000, 53));
    assert_eq!(
        (packet.key.ip_version, packet.key.ip_protocol, packet.ttl),
        (4, 17, 63)
    );
    assert_eq!(packet.transport, Transport::Udp);
    assert_eq!(
        (packet.ip_length, packet.payload_length),
        (32, 4),
        "padding is not part of the packet"
    );
    assert_eq!(packet.payload, [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(packet.src_mac, Some(Mac([0x00, 0x1b, 0x21, 0, 0, 1])));
    assert_eq!(packet.dst_mac, Some(Mac([0x00, 0x1b, 0x21, 0, 0, 2])));
    assert_eq!(
        (packet.vlan_count, packet.tunnels, packet.fragment, packet.faults),
        (0, [None; 4], None, 0)
    );
}

#[test]
fn a_syn_with_options() {
    // MSS 1460, no operation, window scale 7, end.
    let options = [2, 4, 0x05, 0xb4, 1, 3, 3, 7, 0, 0, 0, 0];
    let bytes = ipv4(6, &with_checksum(4, 6, 16, tcp(0x02, &options, b"early")));
    let packet = decode(RAW, &bytes).unwrap();
    let Transport::Tcp(header) = packet.transport else {
        panic!("{:?}", packet.transport)
    };
    assert_eq!(
        (
            header.sequence,
            header.acknowledgement,
            header.flags,
            header.window
        ),
        (1, 2, 0x02, 0x2000)
    );
    assert_eq!(
        (header.maximum_segment_size, header.window_scale),
        (Some(1460), Some(7))
    );
    assert_eq!(
        (packet.payload, packet.payload_length, packet.faults),
        (&b"early"[..], 5, 0)
    );
    // Accurate ECN: the ninth flag is the low bit of the byte before.
    let mut bytes = ipv4(6, &tcp(0x10, &[], b""));
    bytes[20 + 12] |= 1;
    let Transport::Tcp(header) = decode(RAW, &bytes).unwrap().transport else {
        panic!("not TCP")
    };
    assert_eq!(header.flags, 0x110);
}

#[test]
fn options_that_lie_about_their_length_end_the_options() {
    for options in [[2, 0, 5, 0xb4], [2, 40, 5, 0xb4], [2, 1, 5, 0xb4], [3, 4, 9, 9]] {
        let bytes = ipv4(6, &tcp(0x02, &options, b"x"));
        let packet = decode(RAW, &bytes).unwrap();
        let Transport::Tcp(header) = packet.transport else {
            panic!("not TCP")
        };
        assert_eq!((header.maximum_segment_size, header.window_scale), (None, None));
        assert_eq!(packet.payload, b"x");
    }
}

#[test]
fn every_checksum_is_verified_and_a_wrong_one_is_only_a_fault() {
    let icmp = |kind: u8| vec![kind, 0, 0, 0, 0, 1, 0, 2, 9, 9, 9];
    let icmp_sum = crate::frames::checksum(&icmp(8));
    let mut echo = icmp(8);
    echo[2..4].copy_from_slice(&icmp_sum.to_be_bytes());
    let right: Vec<(u8, Vec<u8>)> = vec![
        (4, ipv4(17, &with_checksum(4, 17, 6, udp(1, 2, b"abc")))),
        (4, ipv4(6, &with_checksum(4, 6, 16, tcp(0x10, &[], b"abcd")))),
        (4, ipv4(1, &echo)),
        (6, ipv6(17, &with_checksum(6, 17, 6, udp(1, 2, b"abc")))),
        (6, ipv6(6, &with_checksum(6, 6, 16, tcp(0x10, &[], b"")))),
        (6, ipv6(58, &with_checksum(6, 58, 2, icmp(128)))),
    ];
    for (version, bytes) in right {
        assert_eq!(
            decode(RAW, &bytes).unwrap().faults,
            0,
            "IPv{version} {bytes:02x?}"
        );
        let mut wrong = bytes.clone();
        *wrong.last_mut().unwrap() ^= 0x01;
        let packet = decode(RAW, &wrong).unwrap();
        assert_eq!(packet.faults, Fault::BadTransportChecksum.bit());
        let mut offloaded = meta(RAW, wrong.len() as u32);
        offloaded.checksum_offloaded = true;
        assert_eq!(Decoder::default().decode(&wrong, &offloaded).unwrap().faults, 0);
        let trusting = Decoder {
            verify_checksums: false,
            ..Decoder::default()
        };
        assert_eq!(
            trusting
                .decode(&wrong, &meta(RAW, wrong.len() as u32))
                .unwrap()
                .faults,
            0
        );
        // A byte less captured than sent: nothing can be said.
        let cut = &wrong[..wrong.len() - 1];
        let packet = Decoder::default()
            .decode(cut, &meta(RAW, wrong.len() as u32))
            .unwrap();
        assert!(!has(&packet, Fault::BadTransportChecksum));
    }
    let mut wrong = ipv4(17, &udp(1, 2, b""));
    wrong[8] = 63;
    assert_eq!(decode(RAW, &wrong).unwrap().faults, Fault::BadIpChecksum.bit());
}

#[test]
fn dccp_and_udp_lite_have_ports() {
    // RFC 4340 §5.1: a header of 16 bytes; RFC 3828 §3.1: a checksum that covers 8 bytes.
    let dccp = [&[0x13, 0x89, 0, 80, 4], [0; 11].as_slice(), b"data"].concat();
    let udp_lite = [&[0x13, 0x89, 0, 80, 0, 8, 1, 2], b"data".as_slice()].concat();
    for (protocol, header, body) in [(33, 16, dccp), (136, 8, udp_lite)] {
        let bytes = ipv4(protocol, &body);
        let packet = decode(RAW, &bytes).unwrap();
        assert_eq!((ports(&packet), packet.transport), ((5001, 80), Transport::Other));
        assert_eq!(
            (packet.payload, packet.payload_length, packet.faults),
            (&b"data"[..], 4, 0)
        );
        for length in 0..header {
            let cut = ipv4(protocol, &body[..length]);
            let packet = decode(RAW, &cut).unwrap();
            assert!(has(&packet, Fault::BadTransportHeader), "{protocol} {length}");
            assert_eq!(ports(&packet), if length < 4 { (0, 0) } else { (5001, 80) });
        }
    }
    let short = [&[0x13, 0x89, 0, 80, 2], [0; 11].as_slice()].concat();
    assert!(has(
        &decode(RAW, &ipv4(33, &short)).unwrap(),
        Fault::BadTransportHeader
    ));
}

#[test]
fn sctp_has_ports_and_crc32c() {
    // RFC 9260 §3.1: ports, verification tag, checksum; here with CRC32c over "123456789" known to be e3069283, so that
    // the header is checked by recomputing what a wrong byte changes.
    let mut bytes = vec![0x0b, 0x59, 0x0b, 0x58, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 4];
    let packet_bytes = ipv4(132, &bytes);
    let packet = decode(RAW, &packet_bytes).unwrap();
    assert_eq!(
        (ports(&packet), packet.transport),
        ((2905, 2904), Transport::Sctp)
    );
    assert_eq!(
        (packet.payload, packet.faults),
        (&[3, 0, 0, 4][..], 0),
        "checksum 0 is not computed"
    );
    // Bit by bit, as RFC 9260 appendix A defines it.
    let mut crc = u32::MAX;
    for byte in &bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    bytes[8..12].copy_from_slice(&(!crc).to_le_bytes());
    assert_eq!(decode(RAW, &ipv4(132, &bytes)).unwrap().faults, 0);
    bytes[15] ^= 1;
    assert_eq!(
        decode(RAW, &ipv4(132, &bytes)).unwrap().faults,
        Fault::BadTransportChecksum.bit()
    );
}

#[test]
fn icmp_errors_are_flows_of_their_own() {
    let quoted = ipv4(17, &udp(1, 2, b"lost"));
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(quoted);
    let bytes = ipv4(1, &error);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(packet.transport, Transport::Icmp { kind: 3, code: 3 });
    assert_eq!((packet.key.ip_protocol, ports(&packet)), (1, (0, 0)));
    assert_eq!(packet.payload_length, 32);
    let of_the_quoted = decode(RAW, &ipv4(17, &udp(1, 2, b"lost"))).unwrap().key;
    assert_eq!(packet.quoted(), Some(of_the_quoted));
}

#[test]
fn an_icmp_error_tells_the_flow_that_it_quotes() {
    let icmp = |kind: u8, quoted: &[u8]| ipv4(1, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat());
    let quoted_by = |bytes: &[u8]| decode(RAW, bytes).unwrap().quoted();
    let lost = ipv4(6, &tcp(0x02, &[], &[7; 100]));
    let key = decode(RAW, &lost).unwrap().key;
    // Header and 8 bytes are what RFC 792 asks for at least.
    assert_eq!(quoted_by(&icmp(11, &lost[..28])), Some(key));
    assert_eq!(quoted_by(&icmp(5, &lost)), Some(key));
    let six = ipv6(17, &udp(5, 6, b"x"));
    let too_big = ipv6(58, &[&[2, 0, 0, 0, 0, 0, 5, 0], &six[..]].concat());
    assert_eq!(quoted_by(&too_big), Some(decode(RAW, &six).unwrap().key));
    // A quoted tunnel: the flow inside is the one that was metered.
    assert_eq!(quoted_by(&icmp(3, &ipv4(4, &lost)[..48])), Some(key));
    // An echo and its answer, a packet that is too short, the wrong version, a later fragment, no ICMP at all.
    for bytes in [
        icmp(8, &lost),
        icmp(0, &lost),
        icmp(3, &lost[..12]),
        icmp(3, &six),
        icmp(3, &ipv4_fragment(17, 1, 0x0010, b"rest....")),
        lost,
    ] {
        assert_eq!(quoted_by(&bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn fragments_keep_their_place_and_only_the_first_has_ports() {
    let datagram = udp(5, 6, &[7; 24]);
    let first = ipv4_fragment(17, 0xbeef, 0x2000, &datagram[..16]);
    let packet = decode(RAW, &first).unwrap();
    assert_eq!(
        packet.fragment,
        Some(Fragment {
            identification: 0xbeef,
            offset: 0,
            length: 16,
            more: true
        })
    );
    assert_eq!((ports(&packet), packet.payload.len()), ((5, 6), 8));
    assert_eq!(packet.faults, 0, "the UDP length is that of the whole datagram");
    let last = ipv4_fragment(17, 0xbeef, 0x0002, &datagram[16..]);
    let rest = decode(RAW, &last).unwrap();
    assert_eq!(
        rest.fragment,
        Some(Fragment {
            identification: 0xbeef,
            offset: 16,
            length: 16,
            more: false
        })
    );
    assert_eq!(
        (ports(&rest), rest.transport, rest.payload),
        ((0, 0), Transport::Other, &datagram[16..])
    );
    assert_eq!(packet.steering, rest.steering);

    // IPv6: next header, reserved, offset and M, identification.
    let mut first = vec![17, 0, 0x00, 0x01, 0, 0, 0xab, 0xcd];
    first.extend(&datagram[..16]);
    let bytes = ipv6(44, &first);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(
        packet.fragment,
        Some(Fragment {
            identification: 0xabcd,
            offset: 0,
            length: 16,
            more: true
        })
    );
    assert_eq!((packet.key.ip_protocol, ports(&packet)), (17, (5, 6)));
    let mut last = vec![17, 0, 0x00, 0x10, 0, 0, 0xab, 0xcd];
    last.extend(&datagram[16..]);
    let bytes = ipv6(44, &last);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(
        packet.fragment,
        Some(Fragment {
            identification: 0xabcd,
            offset: 16,
            length: 16,
            more: false
        })
    );
    assert_eq!((packet.key.ip_protocol, packet.transport), (17, Transport::Other));

    // RFC 6946: a fragment header on a whole datagram.
    let mut atomic = vec![17, 0, 0, 0, 0, 0, 0, 1];
    atomic.extend(with_checksum(6, 17, 6, datagram));
    let bytes = ipv6(44, &atomic);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(
        (packet.fragment, ports(&packet), packet.faults),
        (None, (5, 6), 0)
    );
}

#[test]
fn extension_headers_are_passed_over() {
    let datagram = udp(5, 6, b"abc");
    // Hop-by-hop (router alert, padding), routing with segments left, destination options, authentication (4 + 2 words).
    let chain: [(u8, &[u8]); 4] = [
        (0, &[43, 0, 5, 2, 0, 0, 1, 0]),
        (43, &[60, 0, 4, 1, 0, 0, 0, 0]),
        (60, &[51, 1, 1, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0]),
        (
            51,
            &[
                17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
            ],
        ),
    ];
    let mut payload: Vec<u8> = chain.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    payload.extend(&datagram);
    let bytes = ipv6(0, &payload);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(
        (packet.key.ip_protocol, ports(&packet), packet.payload),
        (17, (5, 6), &b"abc"[..])
    );
    assert_eq!(packet.ip_length as usize, 40 + payload.len());
    // Cut inside the second header: what is known is metered under that header's number.
    let packet = Decoder::default()
        .decode(&bytes[..50], &meta(RAW, bytes.len() as u32))
        .unwrap();
    assert_eq!((packet.key.ip_protocol, packet.transport), (43, Transport::Other));
    assert!(has(&packet, Fault::TruncatedTransport));
    // AH on IPv4.
    let mut payload = chain[3].1.to_vec();
    payload.extend(&datagram);
    let bytes = ipv4(51, &payload);
    let packet = decode(RAW, &bytes).unwrap();
    assert_eq!(packet.key.ip_protocol, 17);
    assert!(
        packet.is_plain(),
        "the header is part of the chain, no encapsulation"
    );
    // No next header; a mobility header is a message of its own.
    assert_eq!(decode(RAW, &ipv6(59, &[])).unwrap().key.ip_protocol, 59);
    assert_eq!(
        decode(RAW, &ipv6(135, &[59, 0, 0, 0, 0, 0, 0, 0]))
            .unwrap()
            .key
            .ip_protocol,
        135
    );
    // A chain without end ends.
    let endless: Vec<u8> = [60, 0, 1, 4, 0, 0, 0, 0].repeat(100);
    assert_eq!(
        decode(RAW, &ipv6(60, &endless)).unwrap().transport,
        Transport::Other
    );
}

#[test]
fn the_length_comes_from_the_frame_where_the_header_has_none() {
    let mut segmented = ipv4(17, &udp(1, 2, &[0; 100]));
    segmented[2..4].copy_from_slice(&[0, 0]);
    let packet = decode(RAW, &segmented).unwrap();
    assert_eq!((packet.ip_length, packet.payload_length), (128, 100));
    // RFC 2675: payload length 0 and a jumbo payload option of 8 + 8 + 3 bytes.
    let mut jumbo = ipv6(0, &[17, 0, 0xc2, 4, 0, 0, 0, 19]);
    jumbo[4..6].copy_from_slice(&[0, 0]);
    jumbo.extend(udp(1, 2, b"abc"));
    jumbo.extend(b"padding");
    let packet = decode(RAW, &jumbo).unwrap();
    assert_eq!(
        (packet.ip_length, ports(&packet), packet.payload),
        (59, (1, 2), &b"abc"[..])
    );
    // Longer than the frame: the header's word counts.
    let mut long = ipv4(17, &udp(1, 2, b"abc"));
    long[3] += 100;
    let packet = decode(RAW, &long).unwrap();
    assert_eq!(packet.ip_length, 131);
    assert!(has(&packet, Fault::IpLongerThanFrame));
    let stripped = wire::decode::FrameMeta {
        stripped_vlan: Some(5),
        ..meta(LinkType::ETHERNET, 49)
    };
    let frame = ethernet(0x0800, &ipv4(17, &udp(1, 2, b"abc")));
    let packet = Decoder::default().decode(&frame, &stripped).unwrap();
    assert_eq!((packet.faults, packet.vlan_count, packet.vlans[0]), (0, 1, 5));
}

#[test]
fn a_wire_length_below_what_was_captured_hides_no_inner_packet() {
    // IP within IP, the outer length left to segmentation offload.
    let mut bytes = ipv4(94, &ipv6(59, &[]));
    bytes[2..4].copy_from_slice(&[0, 0]);
    for wire_length in [0, bytes.len() as u32 - 4, bytes.len() as u32] {
        for stripped_vlan in [None, Some(47)] {
            let meta = wire::decode::FrameMeta {
                stripped_vlan,
                ..meta(RAW, wire_length)
            };
            let packet = Decoder::default().decode(&bytes, &meta).unwrap();
            assert_eq!(packet.key.ip_version, 6);
            assert_eq!(packet.steering, steering_hash(&bytes, RAW));
        }
    }
}

#[test]
fn a_cut_packet_is_read_as_far_as_it_goes() {
    let bytes = ipv4(6, &tcp(0x10, &[1, 1, 1, 1], b"payload"));
    let at = |length: usize| {
        Decoder::default()
            .decode(&bytes[..length], &meta(RAW, bytes.len() as u32))
            .map(|packet| {
                (
                    ports(&packet),
                    matches!(packet.transport, Transport::Tcp(_)),
                    packet.payload_length,
                    packet.faults,
                )
            })
    };
    let cut = Fault::TruncatedTransport.bit();
    assert_eq!(at(0), Err(Undecodable::TruncatedIp));
    assert_eq!(at(19), Err(Undecodable::TruncatedIp));
    assert_eq!(at(20), Ok(((0, 0), false, 11, cut)));
    assert_eq!(at(24), Ok(((1234, 80), false, 11, cut)));
    assert_eq!(
        at(40),
        Ok(((1234, 80), true, 7, cut)),
        "the fixed part of the header is enough"
    );
    assert_eq!(at(44), Ok(((1234, 80), true, 7, 0)));
}

#[test]
fn headers_that_contradict_the_packet_are_faults() {
    let bad = Fault::BadTransportHeader.bit();
    for offset in [0x40, 0xf0] {
        let mut bytes = ipv4(6, &tcp(0x04, &[], b"abc"));
        bytes[20 + 12] = offset;
        let packet = decode(RAW, &bytes).unwrap();
        assert_eq!(
            (packet.transport, ports(&packet)),
            (Transport::Other, (1234, 80)),
            "no state from such a segment"
        );
        assert!(has(&packet, Fault::BadTransportHeader));
    }
    let packet_bytes = ipv4(17, &[0, 1, 0, 2, 0]);
    let packet = decode(RAW, &packet_bytes).unwrap();
    assert_eq!(
        (packet.transport, ports(&packet), packet.faults),
        (Transport::Other, (1, 2), bad)
    );
    let mut long = udp(1, 2, b"abc");
    long[5] = 200;
    assert!(has(
        &decode(RAW, &ipv4(17, &long)).unwrap(),
        Fault::BadTransportHeader
    ));
    let mut short = udp(1, 2, b"abcdef");
    short[5] = 11;
    let bytes = ipv4(17, &short);
    assert_eq!(
        decode(RAW, &bytes).unwrap().payload,
        b"abc",
        "IP may carry more than UDP"
    );
}

#[test]
fn broken_ip_headers_are_undecodable() {
    let good = ipv4(17, &udp(1, 2, b""));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        decode(RAW, &bytes).map(|_| ())
    };
    assert_eq!(with(0, 0x44), Err(Undecodable::BadIpHeaderLength));
    assert_eq!(with(0, 0x75), Err(Undecodable::BadIpVersion));
    assert_eq!(with(3, 19), Err(Undecodable::BadIpHeaderLength));
    assert_eq!(with(0, 0x4f), Err(Undecodable::BadIpHeaderLength));
    assert_eq!(
        decode(LinkType::IPV6, &good).map(|_| ()),
        Err(Undecodable::BadIpVersion)
    );
    assert_eq!(
        decode(LinkType(147), &good).map(|_| ()),
        Err(Undecodable::UnsupportedLinkType)
    );
    assert_eq!(steering_hash(&good[..19], RAW), 0);
}
