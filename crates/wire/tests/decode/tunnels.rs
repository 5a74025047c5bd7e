//! Link layers and tunnels: the inner-most packet is found, and what only looks like a tunnel is left alone.
use crate::frames::{decode, ethernet, ipv4, ipv4_fragment, ipv6, meta, tcp, udp};
use wire::column::Mac;
use wire::decode::{Decoder, LinkType, Packet, Tunnel, steering_hash};
use wire::malformed::Undecodable;

/// The packet that stands inside: IPv6, TCP, port 80.
fn inner() -> Vec<u8> {
    ipv6(6, &tcp(0x18, &[], b"inside"))
}

fn check<'a>(link_type: LinkType, frame: &'a [u8], tunnels: &[Tunnel], id: Option<u64>) -> Packet<'a> {
    let packet = decode(link_type, frame).unwrap_or_else(|error| panic!("{error:?}: {frame:02x?}"));
    assert_eq!(
        (packet.key.ip_version, packet.key.ip_protocol),
        (6, 6),
        "{tunnels:?} {frame:02x?}"
    );
    assert_eq!(packet.payload, b"inside");
    assert_eq!(
        packet.tunnels.iter().flatten().copied().collect::<Vec<_>>(),
        tunnels
    );
    assert_eq!(packet.tunnel_id, id);
    assert_eq!(packet.steering, steering_hash(frame, link_type));
    packet
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn link_layers() {
    let inner = inner();
    let snap = [0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd];
    let cases: &[(LinkType, &[u8])] = &[
        (LinkType::ETHERNET, &ethernet(0x86dd, &[])),
        // The family in both byte orders and as different systems number it.
        (LinkType::NULL, &[30, 0, 0, 0]),
        (LinkType::NULL, &[0, 0, 0, 24]),
        (LinkType::LOOP, &[0, 0, 0, 28]),
        (LinkType::RAW, &[]),
        (LinkType::DLT_RAW, &[]),
        (LinkType::DLT_RAW_OPENBSD, &[]),
        (LinkType::ATM_CLIP, &[]),
        (LinkType::IPV6, &[]),
        // An IPv4 header, which the IPv6 packet follows.
        (LinkType::IPV4, &ipv4(41, &inner)[..20]),
        // Addresses of two bytes, and two bytes that Linux puts behind them; IPv6 (RFC 2497), not split, a sequence number.
        (LinkType::ARCNET_BSD, &[0x11, 0x12, 0xc4, 0, 0, 7]),
        (LinkType::ARCNET_LINUX, &[0x11, 0x12, 0, 0, 0xc4, 0, 0, 7]),
        // Outgoing, not compressed, room for a header of compressed TCP.
        (LinkType::SLIP, &join(&[&[1, 0x40], &[0; 14]])),
        // Asynchronous LLC frame.
        (
            LinkType::FDDI,
            &join(&[&[0x50, 2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9], &snap]),
        ),
        (LinkType::PPP, &[0xff, 0x03, 0x00, 0x57]),
        (LinkType::PPP, &[0x57]),
        (LinkType::PPP_HDLC, &[0x0f, 0x00, 0x86, 0xdd]),
        // Version and type 1, session data, session 0x1234, length, IPv6.
        (LinkType::PPP_ETHER, &[0x11, 0x00, 0x12, 0x34, 0, 68, 0x00, 0x57]),
        (LinkType::PPP_WITH_DIR, &[0x01, 0xff, 0x03, 0x00, 0x57]),
        (LinkType::C_HDLC_WITH_DIR, &[0x00, 0x0f, 0x00, 0x86, 0xdd]),
        (LinkType::FRELAY_WITH_DIR, &[0x01, 0x18, 0x41, 0x03, 0x8e]),
        (LinkType::C_HDLC, &[0x0f, 0x00, 0x86, 0xdd]),
        (LinkType::FRELAY, &[0x18, 0x41, 0x03, 0x8e]),
        (
            LinkType::FRELAY,
            &[0x18, 0x41, 0x03, 0x00, 0x80, 0, 0, 0, 0x86, 0xdd],
        ),
        (LinkType::FRELAY, &[0x18, 0x41, 0x86, 0xdd]),
        (LinkType::ATM_RFC1483, &[0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd]),
        // Linux cooked: sent to us, Ethernet, address of 6 bytes, two unused, protocol.
        (
            LinkType::LINUX_SLL,
            &[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 0x86, 0xdd],
        ),
        (
            LinkType::LINUX_SLL2,
            &[0x86, 0xdd, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0],
        ),
        (
            LinkType::NFLOG,
            &[10, 0, 0, 0, 5, 0, 10, 0, 99, 0, 0, 0, 8, 0, 9, 0],
        ),
        (LinkType::PPP_PPPD, &[0x01, 0x03, 0x00, 0x57]),
        (LinkType::MPLS, &[0, 0, 0x11, 0x40]),
        // ATM with LLC; token ring with four bytes of routing information.
        (
            LinkType::SUNATM,
            &[0x02, 0, 0, 100, 0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd],
        ),
        (
            LinkType::IEEE802_5,
            &[
                0x10, 0x40, 2, 0, 0, 0, 0, 8, 0x82, 0, 0, 0, 0, 9, 0x04, 0, 0, 1, 0xaa, 0xaa, 0x03, 0, 0, 0,
                0x86, 0xdd,
            ],
        ),
        (
            LinkType::IP_OVER_FC,
            &[
                0x10, 0, 2, 0, 0, 0, 0, 8, 0x10, 0, 2, 0, 0, 0, 0, 9, 0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd,
            ],
        ),
        (
            LinkType::APPLE_IP_OVER_IEEE1394,
            &[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 8, 0x86, 0xdd],
        ),
        (LinkType::IPOIB, &join(&[&[0; 40], &[0x86, 0xdd, 0, 0]])),
        // Juniper's header without extension, with one, and without a link layer: a protocol of four bytes stands there.
        (
            LinkType::JUNIPER_PPP,
            &[0x4d, 0x47, 0x43, 0x01, 0xff, 0x03, 0x00, 0x57],
        ),
        (
            LinkType::JUNIPER_CHDLC,
            &[0x4d, 0x47, 0x43, 0x81, 0, 3, 1, 1, 2, 0x0f, 0x00, 0x86, 0xdd],
        ),
        (LinkType::JUNIPER_ETHER, &[0x4d, 0x47, 0x43, 0x02, 6, 0, 0, 0]),
        (
            LinkType::JUNIPER_FRELAY,
            &[0x4d, 0x47, 0x43, 0x01, 0x18, 0x41, 0x03, 0x8e],
        ),
        // Family, security parameters index, flags: encrypted.
        (LinkType::ENC, &[24, 0, 0, 0, 0, 0, 0x10, 0x01, 0, 0, 0x08, 0]),
        // 61 bytes without the padding: family, pass, match, the interface, the rule set, four numbers, two ids of a rule.
        (
            LinkType::PFLOG,
            &join(&[&[61, 24, 0, 0], b"em0", &[0; 13 + 16], &[0xff; 24], &[1, 0, 0, 0]]),
        ),
        // Version 1, the family as Solaris numbers it, hook type, length, two interfaces, two zones.
        (
            LinkType::IPNET,
            &[
                1, 26, 0, 1, 0, 0, 0, 66, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
            ],
        ),
        // A received frame, Ethernet; padding, signal strength, the end.
        (
            LinkType::TZSP,
            &join(&[&[1, 0, 0, 1, 0, 10, 1, 0xc4, 1], &ethernet(0x86dd, &[])]),
        ),
        (LinkType::IEEE802_11, &data_frame([0x08, 0x02], &snap)),
        (
            LinkType::IEEE802_11_RADIOTAP,
            &join(&[&[0, 0, 8, 0, 0, 0, 0, 0], &data_frame([0x08, 0x02], &snap)]),
        ),
        (
            LinkType::IEEE802_11_PRISM,
            &join(&[&[0, 0, 0, 0x44], &[0; 140], &data_frame([0x08, 0x02], &snap)]),
        ),
        (
            LinkType::IEEE802_11_AVS,
            &join(&[
                &[0x80, 0x21, 0x10, 0x01, 0, 0, 0, 64],
                &[0; 56],
                &data_frame([0x08, 0x02], &snap),
            ]),
        ),
        (
            LinkType::PPI,
            &join(&[&[0, 0, 8, 0, 105, 0, 0, 0], &data_frame([0x08, 0x02], &snap)]),
        ),
        // An Endace record of IPv6 with one extension header.
        (
            LinkType::ERF,
            &[
                0, 0, 0, 0, 0, 0, 0, 0, 0x97, 0, 0, 80, 0, 0, 0, 60, 0x03, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        // One of HDLC over SONET: PPP.
        (
            LinkType::ERF_POS,
            &[
                0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 86, 0, 0, 0, 70, 0xff, 0x03, 0x00, 0x57,
            ],
        ),
        // Apple's metadata of 12 bytes, then raw IP as Apple numbers it.
        (LinkType::PKTAP, &[12, 0, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0]),
        (
            LinkType::DOCSIS,
            &join(&[&[0x01, 3, 0, 80, 1, 2, 3, 0xaa, 0xbb], &ethernet(0x86dd, &[])]),
        ),
        (
            LinkType::NETANALYZER,
            &join(&[&[0x40, 0x42, 0x10, 0], &ethernet(0x86dd, &[])]),
        ),
        // An express frame: preamble and SMD-E.
        (
            LinkType::ETHERNET_MPACKET,
            &join(&[&[0x55; 7], &[0xd5], &ethernet(0x86dd, &[])]),
        ),
        // From the switch: operation 0 and class, reason, port 3.
        (
            LinkType::DSA_TAG_BRCM,
            &[2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9, 0x00, 0, 0, 3, 0x86, 0xdd],
        ),
        (
            LinkType::NETANALYZER_TRANSPARENT,
            &join(&[&[0; 4], &[0x55; 7], &[0xd5], &ethernet(0x86dd, &[])]),
        ),
        (
            LinkType::ERF_ETH,
            &join(&[
                &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 80, 0, 0, 0, 60, 0, 0],
                &ethernet(0x86dd, &[]),
            ]),
        ),
        (
            LinkType::DSA_TAG_DSA,
            &join(&[&[2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9, 0xc0, 8, 0, 1, 0x86, 0xdd]]),
        ),
        (
            LinkType::DSA_TAG_EDSA,
            &join(&[&[
                2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9, 0xda, 0xda, 0, 0, 0xc0, 8, 0x10, 1, 0, 0, 0, 0, 0x86,
                0xdd,
            ]]),
        ),
        (
            LinkType::DSA_TAG_BRCM_PREPEND,
            &join(&[&[1, 2, 3, 4], &ethernet(0x86dd, &[])]),
        ),
    ];
    for (link_type, header) in cases {
        let frame = join(&[header, &inner]);
        let (tunnels, id): (&[Tunnel], _) = match *link_type {
            LinkType::MPLS => (&[Tunnel::Mpls], Some(1)),
            LinkType::PPP_ETHER => (&[Tunnel::Pppoe], Some(0x1234)),
            LinkType::IPV4 => (&[Tunnel::IpInIp], None),
            _ => (&[], None),
        };
        let packet = check(*link_type, &frame, tunnels, id);
        if matches!(*link_type, LinkType::LINUX_SLL | LinkType::LINUX_SLL2) {
            assert_eq!(
                (packet.src_mac, packet.dst_mac),
                (Some(Mac([2, 0, 0, 0, 0, 9])), None)
            );
        }
        for length in 0..header.len() {
            assert!(
                decode(*link_type, &frame[..length]).is_err(),
                "{link_type:?} cut at {length}"
            );
        }
    }
    for link_type in LinkType::SUPPORTED {
        assert!(link_type.is_supported() && link_type.name().is_some());
        assert!(
            cases.iter().any(|(of, _)| of == link_type),
            "{link_type} has no frame"
        );
        assert_ne!(
            decode(*link_type, &[0; 200]).map(|_| ()),
            Err(Undecodable::UnsupportedLinkType),
            "{link_type:?}"
        );
    }
}

#[test]
fn every_endace_record_of_hdlc_or_ethernet_is_read() {
    let inner = inner();
    let hdlc = [0xff, 0x03, 0x00, 0x57];
    let ethernet = join(&[&[0, 0], &ethernet(0x86dd, &[])]);
    let kinds = [(&hdlc[..], [1, 10, 15, 19]), (&ethernet, [2, 11, 16, 20])];
    for (link, kinds) in kinds {
        for kind in kinds {
            let header = [0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 90, 0, 0, 0, 74];
            check(LinkType::ERF, &join(&[&header, link, &inner]), &[], None);
        }
    }
    // Cells, channels, counters, metadata and padding are not read.
    for kind in [0, 3, 4, 12, 14, 17, 18, 27, 48] {
        let header = [0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 90, 0, 0, 0, 74];
        let frame = join(&[&header, &ethernet, &inner]);
        assert_eq!(
            decode(LinkType::ERF, &frame).map(|_| ()),
            Err(Undecodable::NotIp),
            "{kind}"
        );
    }
}

#[test]
fn vlans_and_802_3() {
    let inner = inner();
    let tags = [
        0x00, 0x64, 0x81, 0x00, 0xe0, 0xc8, 0x91, 0x00, 0x0f, 0xff, 0x86, 0xdd,
    ];
    let frame = ethernet(0x88a8, &join(&[&tags, &inner]));
    let packet = check(LinkType::ETHERNET, &frame, &[], None);
    assert_eq!(
        (packet.vlan_count, packet.vlans),
        (3, [100, 200, 4095, 0]),
        "priority bits are no part of the id"
    );
    let tags: Vec<u8> = (1..=6).flat_map(|id| [0, id, 0x81, 0x00]).collect();
    let frame = ethernet(0x8100, &join(&[&tags, &[0, 7, 0x86, 0xdd], &inner]));
    let packet = check(LinkType::ETHERNET, &frame, &[], None);
    assert_eq!(
        (packet.vlan_count, packet.vlans),
        (4, [1, 2, 3, 4]),
        "the outer-most four are kept"
    );
    // IEEE 802.3 with SNAP, and inside a VLAN.
    let snap = join(&[&[0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd], &inner]);
    check(LinkType::ETHERNET, &ethernet(snap.len() as u16, &snap), &[], None);
    let tagged = join(&[&[0, 7], &(snap.len() as u16).to_be_bytes(), &snap]);
    assert_eq!(
        check(LinkType::ETHERNET, &ethernet(0x8100, &tagged), &[], None).vlans[0],
        7
    );
    // More tags than anybody has.
    let endless = [0x00, 0x01, 0x81, 0x00].repeat(40);
    assert_eq!(
        decode(LinkType::ETHERNET, &ethernet(0x8100, &endless)).map(|_| ()),
        Err(Undecodable::TooManyHeaders)
    );
    for not_ip in [0x0806, 0x88cc, 0x8863, 0x0026] {
        let frame = ethernet(not_ip, &[0x42; 46]);
        assert_eq!(
            decode(LinkType::ETHERNET, &frame).map(|_| ()),
            Err(Undecodable::NotIp),
            "{not_ip:#06x}"
        );
        assert_eq!(steering_hash(&frame, LinkType::ETHERNET), 0);
    }
    // The network header must be what was announced.
    assert_eq!(
        decode(LinkType::ETHERNET, &ethernet(0x0800, &inner)).map(|_| ()),
        Err(Undecodable::BadIpVersion)
    );
}

#[test]
fn pppoe_mpls_and_other_tags_on_ethernet() {
    let inner = inner();
    let frame = ethernet(
        0x8864,
        &join(&[&[0x11, 0x00, 0x12, 0x34, 0, 70, 0x00, 0x57], &inner]),
    );
    check(LinkType::ETHERNET, &frame, &[Tunnel::Pppoe], Some(0x1234));
    // Two labels, 16 and 100 (bottom of stack).
    let labels = [0x00, 0x01, 0x00, 0x40, 0x00, 0x06, 0x41, 0x40];
    check(
        LinkType::ETHERNET,
        &ethernet(0x8847, &join(&[&labels, &inner])),
        &[Tunnel::Mpls],
        Some(100),
    );
    // An Ethernet pseudowire with control word.
    let wire = join(&[&labels, &[0, 0, 0, 1], &ethernet(0x86dd, &inner)]);
    check(
        LinkType::ETHERNET,
        &ethernet(0x8847, &wire),
        &[Tunnel::Mpls],
        Some(100),
    );
    // A control word whose sequence number is in use and whose flags are not zero; no control word, and addresses that
    // look like one: zeros; or like IP of either version.
    for word in [[0x00, 0x00, 0xab, 0xcd], [0x0f, 0x40, 0x00, 0x01]] {
        let wire = join(&[&labels, &word, &ethernet(0x86dd, &inner)]);
        check(
            LinkType::ETHERNET,
            &ethernet(0x8847, &wire),
            &[Tunnel::Mpls],
            Some(100),
        );
    }
    let addresses = [
        [0, 0, 0x0c, 1, 2, 3],
        [0x06, 1, 2, 3, 4, 5],
        [0x4c, 0, 0, 0, 0, 2],
        [0x45, 0, 0, 60, 0, 2],
        [0x60, 0, 0, 0, 0, 8],
        [0x6c, 0, 0, 0, 0xab, 0xcd],
    ];
    for address in addresses {
        let mut frame = ethernet(0x86dd, &inner);
        frame[..6].copy_from_slice(&address);
        let wire = join(&[&labels, &frame]);
        check(
            LinkType::ETHERNET,
            &ethernet(0x8847, &wire),
            &[Tunnel::Mpls],
            Some(100),
        );
    }
    // NSH: 6 words, next protocol IPv6.
    let nsh = join(&[&[0x0f, 0xc6, 0x01, 0x02], &[0; 20], &inner]);
    check(LinkType::ETHERNET, &ethernet(0x894f, &nsh), &[], None);
    // 802.1ah: I-tag, then a frame.
    check(
        LinkType::ETHERNET,
        &ethernet(0x88e7, &join(&[&[0xe0, 0, 0, 9], &ethernet(0x86dd, &inner)])),
        &[Tunnel::Pbb],
        Some(9),
    );
    // A high-availability ring: LAN A, size, sequence number.
    let ring = join(&[&[0x00, 0x58, 0, 1, 0x86, 0xdd], &inner]);
    check(LinkType::ETHERNET, &ethernet(0x892f, &ring), &[], None);
    // Inter-Switch Link: an address of 40 bits, VLAN 10, then the frame.
    let isl = join(&[
        &[0x01, 0x00, 0x0c, 0x00, 0x00, 0x00],
        &[2, 0, 0, 0, 0, 1],
        &(inner.len() as u16 + 26).to_be_bytes(),
        &[0xaa, 0xaa, 0x03, 0, 0, 0x0c, 0, 21, 0, 0, 0, 0],
        &ethernet(0x86dd, &inner),
    ]);
    let packet = check(LinkType::ETHERNET, &isl, &[], None);
    assert_eq!((packet.vlans[0], packet.vlan_count), (10, 1));
    // MACsec that is only authenticated, with SCI.
    let sec = join(&[&[0x20, 0, 0, 0, 0, 1], &[9; 8], &[0x86, 0xdd], &inner]);
    check(LinkType::ETHERNET, &ethernet(0x88e5, &sec), &[], None);
    let encrypted = join(&[&[0x2c, 0, 0, 0, 0, 1], &[9; 8], &[0x86, 0xdd], &inner]);
    assert_eq!(
        decode(LinkType::ETHERNET, &ethernet(0x88e5, &encrypted)).map(|_| ()),
        Err(Undecodable::NotIp)
    );
}

/// An 802.11 data frame: frame control, duration, three addresses, sequence control, then `rest`.
fn data_frame(control: [u8; 2], rest: &[u8]) -> Vec<u8> {
    join(&[&control, &[0, 0], &[1; 6], &[2; 6], &[3; 6], &[0, 0], rest])
}

#[test]
fn wireless_frames() {
    let body = join(&[&[0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd], &inner()]);
    // From the access point (from DS): destination is address 1, source address 3.
    let packet_bytes = data_frame([0x08, 0x02], &body);
    let packet = check(LinkType::IEEE802_11, &packet_bytes, &[], None);
    assert_eq!(
        (packet.dst_mac, packet.src_mac),
        (Some(Mac([1; 6])), Some(Mac([3; 6])))
    );
    // QoS data between access points: a fourth address, QoS control, HT control.
    let wds = data_frame([0x88, 0x83], &join(&[&[4; 6], &[0, 0], &[0; 4], &body]));
    assert_eq!(
        check(LinkType::IEEE802_11, &wds, &[], None).src_mac,
        Some(Mac([4; 6]))
    );
    // A-MSDU: the first subframe.
    let amsdu = data_frame([0x88, 0x02], &join(&[&[0x80, 0], &[9; 12], &[0, 90], &body]));
    check(LinkType::IEEE802_11, &amsdu, &[], None);
    // Radiotap with time and flags: 26 bytes of QoS header, padded to 28.
    let padded = data_frame([0x88, 0x02], &join(&[&[0, 0], &[0, 0], &body]));
    let radiotap = join(&[&[0, 0, 17, 0, 3, 0, 0, 0], &[7; 8], &[0x20], &padded]);
    check(LinkType::IEEE802_11_RADIOTAP, &radiotap, &[], None);
    let plain = join(&[&[0, 0, 8, 0, 0, 0, 0, 0], &packet_bytes]);
    check(LinkType::IEEE802_11_RADIOTAP, &plain, &[], None);
    let ppi = join(&[&[0, 0, 8, 0, 105, 0, 0, 0], &packet_bytes]);
    check(LinkType::PPI, &ppi, &[], None);
    check(
        LinkType::IEEE802_11_PRISM,
        &join(&[&[0; 144], &packet_bytes]),
        &[],
        None,
    );
    let avs = join(&[&[0x80, 0x21, 0x10, 0x01, 0, 0, 0, 64], &[0; 56], &packet_bytes]);
    check(LinkType::IEEE802_11_AVS, &avs, &[], None);
    // Beacon, null data, encrypted data, a later fragment.
    for control in [[0x80, 0x00], [0x48, 0x01], [0x08, 0x42]] {
        let frame = data_frame(control, &body);
        assert_eq!(
            decode(LinkType::IEEE802_11, &frame).map(|_| ()),
            Err(Undecodable::NotIp),
            "{control:02x?}"
        );
    }
    let mut fragment = data_frame([0x08, 0x02], &body);
    fragment[22] = 1;
    assert_eq!(
        decode(LinkType::IEEE802_11, &fragment).map(|_| ()),
        Err(Undecodable::NotIp)
    );
}

#[test]
fn tunnels_with_a_protocol_number() {
    let inner = inner();
    let gre = |header: &[u8], rest: &[u8]| ipv4(47, &join(&[header, rest]));
    let frame = ethernet(0x86dd, &inner);
    let cases: Vec<(Vec<u8>, Tunnel, Option<u64>)> = vec![
        (ipv4(41, &inner), Tunnel::IpInIp, None),
        (ipv6(41, &inner), Tunnel::IpInIp, None),
        (gre(&[0, 0, 0x86, 0xdd], &inner), Tunnel::Gre, None),
        // Checksum, key and sequence number.
        (
            gre(
                &[0xb0, 0, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 1],
                &inner,
            ),
            Tunnel::Gre,
            Some(77),
        ),
        // Ethernet in GRE with a key that is no virtual subnet, and NVGRE: 24 bits of subnet and 8 of flow in the key.
        (
            gre(&[0x20, 0, 0x65, 0x58, 0, 0, 5, 1], &frame),
            Tunnel::Gre,
            Some(0x501),
        ),
        (
            gre(&[0x20, 0, 0x65, 0x58, 0, 0x12, 0x34, 0x99], &frame),
            Tunnel::Nvgre,
            Some(0x1234),
        ),
        (
            gre(&[0x20, 0, 0x65, 0x58, 0xff, 0xff, 0xff, 0], &frame),
            Tunnel::Gre,
            Some(0xffff_ff00),
        ),
        // WCCP: with and without the redirect header.
        (
            ipv4(47, &join(&[&[0, 0, 0x88, 0x3e, 0, 0, 0, 0], &ipv4(41, &inner)])),
            Tunnel::Wccp,
            None,
        ),
        (
            ipv4(47, &join(&[&[0, 0, 0x88, 0x3e], &ipv4(41, &inner)])),
            Tunnel::Wccp,
            None,
        ),
        // Ethernet over IP: tunnel 7, little-endian, behind the length.
        (
            gre(&[0x20, 0x01, 0x64, 0x00, 0, 80, 7, 0], &frame),
            Tunnel::EtherIp,
            Some(7),
        ),
        // PPTP: key with payload length and call id, sequence and acknowledgement.
        (
            gre(
                &[
                    0x30, 0x81, 0x88, 0x0b, 0, 80, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0x03, 0x00, 0x57,
                ],
                &inner,
            ),
            Tunnel::Pptp,
            Some(9),
        ),
        (gre(&[0, 0, 0x88, 0xbe], &frame), Tunnel::Erspan, None),
        // ERSPAN II: session 100 of 0x1064.
        (
            gre(
                &[
                    0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0x01, 0x00, 0x64, 0, 0, 0, 0,
                ],
                &frame,
            ),
            Tunnel::Erspan,
            Some(100),
        ),
        // ERSPAN III with the optional subheader.
        (
            gre(
                &join(&[
                    &[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0x01, 0, 0x64],
                    &[0; 7],
                    &[1],
                    &[0; 8],
                ]),
                &frame,
            ),
            Tunnel::Erspan,
            Some(100),
        ),
        // An ERSPAN III whose frame type says IP.
        (
            gre(
                &[
                    0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0x01, 0, 0x64, 0, 0, 0, 0, 0, 0, 0x08, 0,
                ],
                &inner,
            ),
            Tunnel::Erspan,
            Some(100),
        ),
        (ipv4(97, &join(&[&[0x30, 0], &frame])), Tunnel::EtherIp, None),
        (ipv6(143, &frame), Tunnel::EtherIp, None),
        (
            ipv4(137, &join(&[&[0, 0, 0x11, 0x40], &inner])),
            Tunnel::Mpls,
            Some(1),
        ),
        (
            ipv4(103, &join(&[&[0x21, 0, 0, 0, 0, 0, 0, 0], &inner])),
            Tunnel::PimRegister,
            None,
        ),
    ];
    for (bytes, tunnel, id) in cases {
        if tunnel == Tunnel::Wccp {
            check(LinkType::RAW, &bytes, &[tunnel, Tunnel::IpInIp], id);
        } else {
            check(LinkType::RAW, &bytes, &[tunnel], id);
        }
    }
    // What a tunnel carries besides IP leaves the outer packet to be metered.
    for outer in [
        gre(&[0, 0, 0x00, 0x00], &[]),
        gre(&[0, 0, 0x65, 0x58], &ethernet(0x0806, &[0; 28])),
        ipv4(41, &[]),
    ] {
        let packet = decode(LinkType::RAW, &outer).unwrap();
        assert!(
            packet.key.ip_version == 4 && packet.tunnels == [None; 4],
            "{packet:?}"
        );
    }
}

/// The same frame with a UDP tunnel's header in front of `rest`.
fn in_udp(port: u16, header: &[u8], rest: &[u8]) -> Vec<u8> {
    ipv4(17, &udp(40_000, port, &join(&[header, rest])))
}

#[test]
fn tunnels_on_a_port() {
    let inner = inner();
    let frame = ethernet(0x86dd, &inner);
    let length = (inner.len() as u16).to_be_bytes();
    let longer = (inner.len() as u16 + 8).to_be_bytes();
    let cases: Vec<(Vec<u8>, Tunnel, Option<u64>)> = vec![
        (
            in_udp(4789, &[0x08, 0, 0, 0, 0, 1, 2, 0], &frame),
            Tunnel::Vxlan,
            Some(0x102),
        ),
        (
            in_udp(8472, &[0x88, 0, 0, 5, 0, 1, 2, 0], &frame),
            Tunnel::Vxlan,
            Some(0x102),
        ),
        (
            in_udp(4790, &[0x0c, 0, 0, 2, 0, 1, 2, 0], &inner),
            Tunnel::Vxlan,
            Some(0x102),
        ),
        // Geneve with one option word.
        (
            in_udp(6081, &[0x01, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 4], &frame),
            Tunnel::Geneve,
            Some(7),
        ),
        (
            in_udp(2152, &[0x30, 0xff, length[0], length[1], 0, 0, 0, 9], &inner),
            Tunnel::GtpU,
            Some(9),
        ),
        // GTP-U with an extension header (PDU session container).
        (
            in_udp(
                2152,
                &[
                    0x34, 0xff, longer[0], longer[1], 0, 0, 0, 9, 0, 0, 0, 0x85, 1, 0, 9, 0,
                ],
                &inner,
            ),
            Tunnel::GtpU,
            Some(9),
        ),
        (in_udp(3544, &[], &inner), Tunnel::Teredo, None),
        // Teredo with authentication and origin.
        (
            in_udp(
                3544,
                &join(&[&[0, 1, 0, 0], &[7; 8], &[0], &[0, 0, 1, 2, 3, 4, 5, 6]]),
                &inner,
            ),
            Tunnel::Teredo,
            None,
        ),
        // L2TP data with length and offset: tunnel 1, session 2.
        (
            in_udp(
                1701,
                &[0x42, 0x02, 0, 90, 0, 1, 0, 2, 0, 0, 0xff, 0x03, 0x00, 0x57],
                &inner,
            ),
            Tunnel::L2tp,
            Some(0x1_0002),
        ),
        (in_udp(6635, &[0, 0, 0x11, 0x40], &inner), Tunnel::Mpls, Some(1)),
        // GTP version 0: 20 bytes, the tunnel's identifier in the last 8.
        (
            in_udp(
                3386,
                &join(&[
                    &[0x1e, 0xff, length[0], length[1]],
                    &[0, 1, 0, 2, 0xff, 0xff, 0xff, 0xff],
                    &[1, 2, 3, 4, 5, 6, 7, 8],
                ]),
                &inner,
            ),
            Tunnel::GtpU,
            Some(0x0102_0304_0506_0708),
        ),
        // L2TP version 3 with the default sublayer, with cookie and sublayer, and with neither.
        (
            in_udp(1701, &[0, 3, 0, 0, 0, 0, 0, 5, 0x40, 0, 0, 1], &frame),
            Tunnel::L2tp,
            Some(5),
        ),
        (
            in_udp(1701, &[0, 3, 0, 0, 0, 0, 0, 5, 9, 8, 7, 6, 0x40, 0, 0, 1], &frame),
            Tunnel::L2tp,
            Some(5),
        ),
        (ipv4(115, &join(&[&[0, 0, 0, 5], &frame])), Tunnel::L2tp, Some(5)),
        (
            ipv4(
                115,
                &join(&[&[0, 0, 0, 5], &[9; 8], &[0xff, 0x03, 0x00, 0x57], &inner]),
            ),
            Tunnel::L2tp,
            Some(5),
        ),
        // LISP with a nonce and an instance id, and with an Ethernet frame (P bit).
        (
            in_udp(4341, &[0x88, 1, 2, 3, 0, 0, 9, 0xff], &inner),
            Tunnel::Lisp,
            Some(9),
        ),
        (
            in_udp(4341, &[0x04, 0, 0, 3, 0, 0, 0, 0], &frame),
            Tunnel::Lisp,
            None,
        ),
        // CAPWAP: two words, an 802.3 frame; three words, 802.11 with its frame control swapped.
        (
            in_udp(5247, &[0, 0x10, 0x02, 0, 0, 1, 0, 0], &frame),
            Tunnel::Capwap,
            None,
        ),
        (
            in_udp(
                5247,
                &join(&[
                    &[0, 0x18, 0x03, 0, 0, 1, 0, 0, 1, 2, 3, 4],
                    &[0x01, 0x08, 0, 0],
                    &[1; 6],
                    &[2; 6],
                    &[3; 6],
                    // The sequence number is 17, big-endian as the rest.
                    &[0x01, 0x10],
                    &[0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd],
                ]),
                &inner,
            ),
            Tunnel::Capwap,
            None,
        ),
        // A mirrored frame: padding, a tag (signal strength), the end.
        (
            in_udp(37008, &[1, 0, 0, 1, 0, 10, 1, 0xd0, 1], &frame),
            Tunnel::Tzsp,
            None,
        ),
        (
            in_udp(6080, &[0x01, 41, 0, 0, 1, 2, 3, 4], &inner),
            Tunnel::Gue,
            None,
        ),
        (in_udp(6080, &[], &inner), Tunnel::Gue, None),
    ];
    for (bytes, tunnel, id) in &cases {
        check(LinkType::RAW, bytes, &[*tunnel], *id);
        // Every first fragment stays with the outer packet, as the other fragments must.
        let mut fragment = bytes.clone();
        fragment[6] = 0x20;
        let packet = decode(LinkType::RAW, &fragment).unwrap();
        assert_eq!((packet.key.ip_version, packet.tunnels), (4, [None; 4]));
        let later = ipv4_fragment(17, 0, 0x0010, b"rest");
        assert_eq!(packet.steering, decode(LinkType::RAW, &later).unwrap().steering);
    }
}

#[test]
fn what_only_uses_a_tunnels_port_is_left_alone() {
    let inner = inner();
    let mut too_long = inner.clone();
    too_long[5] += 1;
    let frame = ethernet(0x86dd, &inner);
    let cases = [
        in_udp(4789, b"GET / HTTP/1.1 ", &frame),
        in_udp(4789, &[0x00, 0, 0, 0, 0, 1, 2, 0], &frame),
        in_udp(4789, &[0x08, 0, 0, 0, 0, 1, 2, 0], &ethernet(0x0806, &[0; 28])),
        in_udp(4789, &[0x08, 0, 0, 0, 0, 1, 2, 0], &ethernet(0x86dd, &too_long)),
        in_udp(4790, &[0x0c, 0, 0, 9, 0, 1, 2, 0], &inner),
        in_udp(6081, &[0x41, 0, 0x65, 0x58, 0, 0, 7, 0], &frame),
        in_udp(2152, &[0x30, 0xff, 0, 1, 0, 0, 0, 9], &inner),
        in_udp(2152, &[0x30, 0x01, 0, 62, 0, 0, 0, 9], &inner),
        in_udp(3544, &[], &too_long),
        in_udp(3544, &[], &ipv4(17, &udp(1, 2, b""))),
        in_udp(1701, &[0xc8, 0x02, 0, 90, 0, 1, 0, 2], &inner),
        // L2TP control, GTP' (billing), LISP and GUE with something else inside, CAPWAP's keep-alive and a fragment.
        in_udp(1701, &[0x80, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        in_udp(3386, &[0x0f, 0xff, 0, 0, 0, 0], &inner),
        in_udp(4341, &[0x88, 1, 2, 3, 0, 0, 9, 0xff], b"something else"),
        in_udp(6080, &[0x00, 6, 0, 0], &inner),
        in_udp(5247, &[0, 0x10, 0x02, 0x08, 0, 1, 0, 0], &frame),
        in_udp(5247, &[0, 0x10, 0x02, 0x80, 0, 1, 0, 0], &frame),
        in_udp(5247, &[1, 0, 0, 0], &frame),
        in_udp(37008, &[1, 5, 0, 0, 1], &frame),
        in_udp(53, &[0x08, 0, 0, 0, 0, 1, 2, 0], &frame),
    ];
    for bytes in cases {
        let packet = decode(LinkType::RAW, &bytes).unwrap();
        assert_eq!(
            (packet.key.ip_version, packet.key.ip_protocol),
            (4, 17),
            "{bytes:02x?}"
        );
        assert_eq!(
            (packet.tunnels, packet.tunnel_id),
            ([None; 4], None),
            "nothing of the attempt is left"
        );
    }
    // A header with reserved bits set needs a right checksum inside (RFC 7348: ignored on receipt).
    let mut inside = ipv4(17, &udp(1, 2, b"abc"));
    let odd = |inside: &[u8]| in_udp(4789, &[0x0f, 1, 2, 3, 0, 1, 2, 3], &ethernet(0x0800, inside));
    assert_eq!(
        decode(LinkType::RAW, &odd(&inside)).unwrap().tunnel_id,
        Some(0x102)
    );
    inside[8] ^= 1;
    assert_eq!(decode(LinkType::RAW, &odd(&inside)).unwrap().tunnel_id, None);
}

#[test]
fn tunnels_nest_up_to_a_limit() {
    let mut bytes = inner();
    for _ in 0..3 {
        bytes = ipv4(47, &join(&[&[0x20, 0, 0x86, 0xdd, 0, 0, 0, 3], &bytes]));
        bytes = ipv6(4, &bytes);
    }
    let packet = decode(LinkType::RAW, &bytes).unwrap();
    assert_eq!(packet.payload, b"inside");
    assert_eq!(
        packet.tunnels.map(|tunnel| tunnel.map(Tunnel::name)),
        [Some("ipip"), Some("gre"), Some("ipip"), Some("gre")],
        "the outer-most four are kept"
    );
    assert_eq!(packet.tunnel_id, Some(3), "of the inner-most one");
    let mut endless = inner();
    for _ in 0..40 {
        endless = ipv6(41, &endless);
    }
    let packet = decode(LinkType::RAW, &endless).unwrap();
    assert_eq!(packet.key.ip_protocol, 41, "metered at the limit");
    assert_eq!(packet.ip_length as usize, endless.len() - 8 * 40);
}

#[test]
fn scope_joins_the_key_only_when_asked() {
    let frame = |vlan: u8, vni: u8| {
        let inside = ethernet(0x86dd, &inner());
        let outer = in_udp(4789, &[0x08, 0, 0, 0, 0, 0, vni, 0], &inside);
        ethernet(0x8100, &join(&[&[0, vlan, 0x08, 0x00], &outer]))
    };
    let key = |decoder: &Decoder, frame: &[u8]| {
        decoder
            .decode(frame, &meta(LinkType::ETHERNET, frame.len() as u32))
            .unwrap()
            .key
    };
    let plain = Decoder::default();
    assert_eq!(key(&plain, &frame(1, 1)), key(&plain, &frame(2, 2)));
    let vlan = Decoder {
        key_vlan: true,
        ..Decoder::default()
    };
    assert_eq!(key(&vlan, &frame(1, 1)), key(&vlan, &frame(1, 2)));
    assert_ne!(key(&vlan, &frame(1, 1)), key(&vlan, &frame(2, 1)));
    let tunnel = Decoder {
        key_tunnel: true,
        ..Decoder::default()
    };
    assert_eq!(key(&tunnel, &frame(1, 1)), key(&tunnel, &frame(2, 1)));
    assert_ne!(key(&tunnel, &frame(1, 1)), key(&tunnel, &frame(1, 2)));
    assert_ne!(
        key(&tunnel, &frame(1, 1)),
        key(&tunnel, &ethernet(0x86dd, &inner()))
    );
    // The two directions of a GTP tunnel have different TEIDs: they stay one flow.
    let gtp = |teid: u8| {
        let length = (inner().len() as u16).to_be_bytes();
        ethernet(
            0x0800,
            &in_udp(2152, &[0x30, 0xff, length[0], length[1], 0, 0, 0, teid], &inner()),
        )
    };
    assert_eq!(key(&tunnel, &gtp(1)), key(&tunnel, &gtp(2)));
}
