//! The steering program in the kernel and the steering rule for files give every frame to the same worker.
//! Needs root: `cargo test -p probe --features root-tests`.
#![cfg(feature = "root-tests")]
#![allow(missing_docs)]

use std::sync::LazyLock;

use probe::capture::ebpf::LoadedProgram;
use probe::capture::ebpf::self_test::{self, SelfTestError};
use probe::capture::ebpf::steering::{self, Link};
use proptest::prelude::*;
use wire::column::Address;
use wire::decode::{LinkType, steering_hash};
use wire::flowkey::worker_of;

/// So many that the worker's number shows the upper half of the hash.
const MANY: u32 = u32::MAX;

static ETHERNET: LazyLock<LoadedProgram> =
    LazyLock::new(|| steering::load(Link::Ethernet, MANY).expect("root may load a program"));

/// An IP packet without what it carries.
#[derive(Clone, Debug)]
struct Ip {
    version: u8,
    addresses: ([u8; 16], [u8; 16]),
    options: u8,
    /// Extension headers of IPv6 (protocol number, length in units of 8 bytes beyond the first).
    extensions: Vec<(u8, u8)>,
    fragment: bool,
    /// Segmentation offload leaves the length out.
    unstated: bool,
}

/// What stands in front of an IP packet.
#[derive(Clone, Debug)]
enum Below {
    Plain,
    Tags(Vec<u16>),
    Mpls(u8),
    Pppoe,
    /// An Ethernet pseudowire: whether it has a control word with a sequence number, or the customer's destination address.
    Pseudowire(Option<u16>, [u8; 6]),
}

/// A tunnel.
#[derive(Clone, Debug)]
enum Tunnel {
    IpInIp,
    Gre { flags: u16, ethernet: bool },
    Erspan(u8),
    Vxlan { port: u16, group_policy: bool },
    Geneve { options: u8, ethernet: bool },
    Gtp { extensions: Option<Vec<u8>> },
}

#[derive(Clone, Debug)]
struct Frame {
    bytes: Vec<u8>,
    /// Where the IP packets start, outer-most first.
    packets: Vec<usize>,
}

fn ip() -> impl Strategy<Value = Ip> {
    (
        prop_oneof![3 => Just(4_u8), 2 => Just(6)],
        any::<([u8; 16], [u8; 16])>(),
        0_u8..4,
        prop::collection::vec((prop::sample::select(vec![0_u8, 43, 60, 44]), 0_u8..3), 0..3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(version, addresses, options, extensions, fragment, unstated)| Ip {
                version,
                addresses,
                options,
                // A jumbogram is steered by its own addresses, whatever is in it.
                unstated: unstated && extensions.first().is_none_or(|&(number, _)| number != 0),
                extensions,
                fragment,
            },
        )
}

fn below() -> impl Strategy<Value = Below> {
    prop_oneof![
        4 => Just(Below::Plain),
        3 => prop::collection::vec(prop::sample::select(vec![0x8100_u16, 0x88a8, 0x9100]), 1..4).prop_map(Below::Tags),
        1 => (1_u8..=4).prop_map(Below::Mpls),
        1 => Just(Below::Pppoe),
        2 => (
            prop::option::of(prop::sample::select(vec![0_u16, 1, 0x0800, 0x86dd])),
            prop::sample::select(vec![[2_u8, 0, 0, 0, 0, 2], [0; 6], [0, 0, 0x5e, 0, 1, 2], [0, 0x50, 0x56, 1, 2, 3]]),
        )
            .prop_map(|(word, address)| Below::Pseudowire(word, address)),
    ]
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    prop_oneof![
        Just(Tunnel::IpInIp),
        (
            prop::sample::select(vec![0_u16, 0x2000, 0x8000, 0xb000, 0x3000]),
            any::<bool>()
        )
            .prop_map(|(flags, ethernet)| Tunnel::Gre { flags, ethernet }),
        (1_u8..=4).prop_map(Tunnel::Erspan),
        (prop::sample::select(vec![4789_u16, 8472]), any::<bool>())
            .prop_map(|(port, group_policy)| Tunnel::Vxlan { port, group_policy }),
        (0_u8..4, any::<bool>()).prop_map(|(options, ethernet)| Tunnel::Geneve { options, ethernet }),
        prop::option::of(prop::collection::vec(1_u8..3, 0..3))
            .prop_map(|extensions| Tunnel::Gtp { extensions }),
    ]
}

/// What an IP packet announces: `EtherType`.
fn ether_type(packet: &Ip) -> u16 {
    if packet.version == 4 { 0x0800 } else { 0x86dd }
}

/// An IP packet around `body`; the positions of the packets in it, beginning with itself.
fn packet(ip: &Ip, protocol: u8, body: &Frame) -> Frame {
    let mut bytes = Vec::new();
    let (source, destination) = ip.addresses;
    if ip.version == 4 {
        let words = 5 + ip.options;
        let length = usize::from(words) * 4 + body.bytes.len();
        let length = if ip.unstated { 0 } else { length as u16 };
        bytes.extend([0x40 | words, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 7, if ip.fragment { 0x20 } else { 0 }, 0, 64, protocol, 0, 0]);
        bytes.extend(&source[..4]);
        bytes.extend(&destination[..4]);
        bytes.extend(vec![1; usize::from(ip.options) * 4]);
    } else {
        let mut extensions = Vec::new();
        let mut next = protocol;
        for &(number, units) in ip.extensions.iter().rev() {
            let units = if number == 44 { 0 } else { units };
            let mut header = vec![0; 8 + usize::from(units) * 8];
            header[..2].copy_from_slice(&[next, units]);
            if number == 44 {
                header[1] = 0;
                header[3] = u8::from(ip.fragment);
            }
            extensions.splice(0..0, header);
            next = number;
        }
        let length = extensions.len() + body.bytes.len();
        let length = if ip.unstated { 0 } else { length as u16 };
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(extensions);
    }
    let start = bytes.len();
    let mut packets = vec![0];
    packets.extend(body.packets.iter().map(|place| place + start));
    bytes.extend(&body.bytes);
    Frame { bytes, packets }
}

/// Bytes in front of a frame.
fn prepend(header: &[u8], frame: &Frame) -> Frame {
    Frame {
        bytes: [header, &frame.bytes].concat(),
        packets: frame.packets.iter().map(|place| place + header.len()).collect(),
    }
}

/// What stands between the `EtherType` and IP, and the `EtherType` that announces it.
fn link(below: &Below, ip: &Ip, packet: &Frame) -> (u16, Frame) {
    match below {
        Below::Plain => (ether_type(ip), packet.clone()),
        Below::Tags(tags) => {
            let mut next = ether_type(ip);
            let mut frame = packet.clone();
            for &tag in tags.iter().rev() {
                frame = prepend(&[&[0, 9][..], &next.to_be_bytes()].concat(), &frame);
                next = tag;
            }
            (next, frame)
        }
        Below::Mpls(count) => {
            let mut frame = packet.clone();
            for label in 0..*count {
                frame = prepend(&[0, 1, u8::from(label == 0), 64], &frame);
            }
            (0x8847, frame)
        }
        Below::Pseudowire(word, address) => {
            let customer = [&address[..], &[2, 0, 0, 0, 0, 1], &ether_type(ip).to_be_bytes()].concat();
            let mut frame = prepend(&customer, packet);
            if let Some(sequence) = word {
                frame = prepend(&[&[0, 0][..], &sequence.to_be_bytes()].concat(), &frame);
            }
            (0x8847, prepend(&[0, 1, 1, 64], &frame))
        }
        Below::Pppoe => {
            let protocol: u16 = if ip.version == 4 { 0x0021 } else { 0x0057 };
            let length = (packet.bytes.len() as u16 + 2).to_be_bytes();
            let header = [&[0x11, 0, 0, 1][..], &length, &protocol.to_be_bytes()].concat();
            (0x8864, prepend(&header, packet))
        }
    }
}

fn ethernet((ether_type, frame): &(u16, Frame)) -> Frame {
    let header = [
        &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..],
        &ether_type.to_be_bytes(),
    ]
    .concat();
    prepend(&header, frame)
}

/// A datagram from a port that is no tunnel's.
fn udp(port: u16, frame: &Frame) -> Frame {
    datagram((0xc000, port), frame)
}

fn datagram((source, destination): (u16, u16), frame: &Frame) -> Frame {
    let length = (frame.bytes.len() as u16 + 8).to_be_bytes();
    let header = [
        &source.to_be_bytes()[..],
        &destination.to_be_bytes(),
        &length,
        &[0, 0],
    ]
    .concat();
    prepend(&header, frame)
}

/// Puts a packet into a tunnel: the protocol number and what the outer packet carries.
fn encapsulate(tunnel: &Tunnel, below: &Below, ip: &Ip, inner: &Frame) -> (u8, Frame) {
    let framed = link(below, ip, inner);
    match tunnel {
        Tunnel::IpInIp => (if ip.version == 4 { 4 } else { 41 }, inner.clone()),
        Tunnel::Gre {
            flags,
            ethernet: true,
        } => {
            let optional = vec![0; (flags >> 12).count_ones() as usize * 4];
            let header = [&flags.to_be_bytes()[..], &[0x65, 0x58], &optional].concat();
            (47, prepend(&header, &ethernet(&framed)))
        }
        Tunnel::Gre { flags, .. } => {
            let optional = vec![0; (flags >> 12).count_ones() as usize * 4];
            let header = [&flags.to_be_bytes()[..], &framed.0.to_be_bytes(), &optional].concat();
            (47, prepend(&header, &framed.1))
        }
        Tunnel::Erspan(kind) => {
            let header = match kind {
                1 => vec![0, 0, 0x88, 0xbe],
                2 => [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1][..], &[0x10; 8]].concat(),
                3 => [&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1][..], &[0x20; 11], &[0]].concat(),
                _ => [&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1][..], &[0x20; 11], &[1], &[0; 8]].concat(),
            };
            (47, prepend(&header, &ethernet(&framed)))
        }
        Tunnel::Vxlan { port, group_policy } => {
            let header = if *group_policy {
                [0x88, 0, 0, 7, 0, 0, 5, 0]
            } else {
                [8, 0, 0, 0, 0, 0, 5, 0]
            };
            (17, udp(*port, &prepend(&header, &ethernet(&framed))))
        }
        Tunnel::Geneve {
            options,
            ethernet: true,
        } => {
            let header = [
                &[*options, 0, 0x65, 0x58, 0, 0, 5, 0][..],
                &vec![0; usize::from(*options) * 4],
            ]
            .concat();
            (17, udp(6081, &prepend(&header, &ethernet(&framed))))
        }
        Tunnel::Geneve { options, .. } => {
            let kind = framed.0.to_be_bytes();
            let header = [
                &[*options, 0][..],
                &kind,
                &[0, 0, 5, 0],
                &vec![0; usize::from(*options) * 4],
            ]
            .concat();
            (17, udp(6081, &prepend(&header, &framed.1)))
        }
        Tunnel::Gtp { extensions } => {
            let mut optional = Vec::new();
            let mut flags = 0x30;
            if let Some(extensions) = extensions {
                flags |= 0x04;
                optional.extend([0, 0, 0]);
                for &words in extensions {
                    optional.push(0x85);
                    optional.push(words);
                    optional.extend(vec![0; usize::from(words) * 4 - 2]);
                }
                optional.push(0);
            }
            let length = ((optional.len() + inner.bytes.len()) as u16).to_be_bytes();
            let header = [&[flags, 0xff][..], &length, &[0, 0, 0, 1], &optional].concat();
            (17, udp(2152, &prepend(&header, inner)))
        }
    }
}

/// A frame with up to as many tunnels as the program looks into.
fn frame() -> impl Strategy<Value = Frame> {
    let layers = prop::collection::vec((tunnel(), below(), ip()), 0..=steering::TUNNELS);
    (
        ip(),
        below(),
        layers,
        prop::sample::select(vec![6_u8, 17, 1, 132]),
    )
        .prop_map(|(inner, below, layers, protocol)| {
            let payload = Frame {
                bytes: vec![0x11; 40],
                packets: Vec::new(),
            };
            // The program counts a pseudowire as a tunnel.
            let mut room = steering::TUNNELS - layers.len();
            let mut fitting = |below| match below {
                Below::Pseudowire(..) if room == 0 => Below::Plain,
                Below::Pseudowire(..) => {
                    room -= 1;
                    below
                }
                other => other,
            };
            let (mut ip, mut below) = (inner, fitting(below));
            let mut frame = packet(&ip, protocol, &payload);
            for (tunnel, outer_below, outer) in layers {
                let (protocol, body) = encapsulate(&tunnel, &below, &ip, &frame);
                frame = packet(&outer, protocol, &body);
                (ip, below) = (outer, fitting(outer_below));
            }
            ethernet(&link(&below, &ip, &frame))
        })
}

fn expected(frame: &[u8]) -> u32 {
    worker_of(steering_hash(frame, LinkType::ETHERNET), MANY as usize) as u32
}

/// What the addresses of the IP packet at `place` say.
fn by_packet(frame: &[u8], place: usize) -> Option<u32> {
    let bytes = frame.get(place..)?;
    let (source, destination) = match bytes.first()? >> 4 {
        4 => (
            Address::v4(*bytes.get(12..)?.first_chunk()?),
            Address::v4(*bytes.get(16..)?.first_chunk()?),
        ),
        6 => (
            Address(*bytes.get(8..)?.first_chunk()?),
            Address(*bytes.get(24..)?.first_chunk()?),
        ),
        _ => return None,
    };
    let hash = wire::flowkey::steering(source, destination);
    Some(worker_of(hash, MANY as usize) as u32)
}

/// Ports of tunnels that the program opens, of some that it does not, and of none.
const PORTS: [u16; 9] = [4789, 8472, 6081, 2152, 4790, 1701, 3544, 53, 50_000];

/// A datagram in a tunnel's form between any two ports, and where its outer packet says that it goes.
fn between_ports() -> impl Strategy<Value = (Frame, u32)> {
    let port = || prop::sample::select(PORTS.to_vec());
    (ip(), ip(), tunnel(), port(), port()).prop_map(|(mut outer, inner, tunnel, source, destination)| {
        (outer.fragment, outer.unstated, outer.extensions) = (false, false, Vec::new());
        let payload = Frame {
            bytes: vec![0x11; 40],
            packets: Vec::new(),
        };
        let inside = packet(&inner, 6, &payload);
        let (protocol, mut body) = encapsulate(&tunnel, &Below::Plain, &inner, &inside);
        if protocol == 17 {
            body.bytes.drain(..8);
            for place in &mut body.packets {
                *place -= 8;
            }
            body = datagram((source, destination), &body);
        }
        let frame = ethernet(&link(&Below::Plain, &outer, &packet(&outer, protocol, &body)));
        let by_outer = by_packet(&frame.bytes, frame.packets[0]).unwrap_or(0);
        (frame, by_outer)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The destination port says which tunnel it is, and the source port only where the destination's is none. A tunnel that
    /// the program does not open is steered by the addresses around it.
    #[test]
    fn ports_are_looked_at_in_the_file_reader_s_order((frame, by_outer) in between_ports()) {
        let got = ETHERNET.test_run(&frame.bytes).unwrap();
        let closed = |at: usize| {
            let ports = frame.bytes.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
            matches!(ports, Some(4790 | 1701 | 3544))
        };
        let is_ip4 = frame.bytes[14] >> 4 == 4;
        let udp = 14 + if is_ip4 { usize::from(frame.bytes[14] & 0x0f) * 4 } else { 40 };
        let is_udp = frame.bytes[if is_ip4 { 23 } else { 20 }] == 17;
        if is_udp && (closed(udp) || closed(udp + 2)) {
            prop_assert!(got == by_outer || got == expected(&frame.bytes), "{:02x?}", frame.bytes);
        } else {
            prop_assert_eq!(got, expected(&frame.bytes), "{:02x?}", frame.bytes);
        }
    }

    #[test]
    fn the_kernel_and_the_file_reader_agree(frame in frame()) {
        prop_assert_eq!(ETHERNET.test_run(&frame.bytes).unwrap(), expected(&frame.bytes), "{:02x?}", frame.bytes);
    }

    /// However broken a frame is, it is steered by a packet that it carries: the one that is metered, or one around it.
    #[test]
    fn a_broken_frame_is_steered_by_a_packet_that_the_file_reader_sees_too(
        frame in frame(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = frame.bytes.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            // The test run takes no frame whose first IP header is cut.
            bytes.truncate(14 + 40 + cut.index(bytes.len() - 14 - 40));
        }
        let got = ETHERNET.test_run(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut around: Vec<u32> = frame.packets.iter().filter_map(|&place| by_packet(&bytes, place)).collect();
        if let Some(metered) = around.iter().position(|&worker| worker == expected(&bytes)) {
            around.truncate(metered + 1);
        }
        // An address in front of a packet may begin with the digit of an IP version now: see the limits of the program.
        let in_place_of_ip = frame.packets.iter().filter_map(|&place| by_packet(&bytes, place.checked_sub(14)?));
        around.extend(in_place_of_ip);
        let allowed = [&[0, expected(&bytes)][..], &around].concat();
        prop_assert!(allowed.contains(&got), "{got} is not in {allowed:?}: {bytes:02x?}");
    }
}

#[test]
fn frames_without_ip_go_to_the_first_worker() {
    for frame in [
        // ARP, an 802.3 length, a lone tag.
        [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat(),
        [&[0xff; 12][..], &[0x00, 0x26, 0x42, 0x42, 3], &[0; 35]].concat(),
        [&[0xff; 12][..], &[0x81, 0x00]].concat(),
    ] {
        assert_eq!(ETHERNET.test_run(&frame).unwrap(), 0);
    }
}

#[test]
fn every_number_of_workers_gets_the_share_that_files_give() {
    for workers in [1_u32, 2, 3, 7, 64] {
        let program = steering::load(Link::Ethernet, workers).unwrap();
        for last in 0..=255 {
            let mut frame = [
                &[2; 12][..],
                &[0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0],
            ]
            .concat();
            frame.extend([192, 0, 2, 1, 198, 51, 100, last]);
            let hash = steering_hash(&frame, LinkType::ETHERNET);
            assert_eq!(
                program.test_run(&frame).unwrap() as usize,
                worker_of(hash, workers as usize)
            );
        }
    }
}

#[test]
fn frames_that_start_with_ip_are_steered_too() {
    let program = steering::load(Link::Ip, MANY).unwrap();
    for (frame, _) in [(sample(4), 4), (sample(6), 6)] {
        assert_eq!(program.test_run(&frame).unwrap(), expected(&frame));
    }
}

#[test]
fn the_self_test_passes_the_program_that_is_loaded() {
    for link in [Link::Ethernet, Link::Ip] {
        for workers in [2, 3, 64, MANY] {
            let program = steering::load(link, workers).unwrap();
            assert_eq!(self_test::run(&program, link, workers), Ok(()), "{link:?}");
        }
    }
}

#[test]
fn the_self_test_finds_a_program_for_another_number_of_workers() {
    let program = steering::load(Link::Ethernet, MANY).unwrap();
    let error = self_test::run(&program, Link::Ethernet, 2);
    let Err(SelfTestError::Misled { frame, got, expected }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(frame, "an IPv4 packet", "the first frame of all");
    assert!(expected < 2 && got >= 2, "{got} {expected}");
}

#[test]
fn the_self_test_finds_a_program_for_another_link_layer() {
    // What starts with IP has no tags in front of it.
    let program = steering::load(Link::Ip, MANY).unwrap();
    let error = self_test::run(&program, Link::Ethernet, MANY);
    let Err(SelfTestError::Misled { frame, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(frame, "a packet with two VLAN tags");
}

fn sample(version: u8) -> Vec<u8> {
    let ip = Ip {
        version,
        addresses: ([1; 16], [2; 16]),
        options: 0,
        extensions: Vec::new(),
        fragment: false,
        unstated: false,
    };
    let payload = Frame {
        bytes: vec![0; 20],
        packets: Vec::new(),
    };
    ethernet(&link(&Below::Plain, &ip, &packet(&ip, 6, &payload))).bytes
}
