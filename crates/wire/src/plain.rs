//! The frames that most are, read in one go: Ethernet II without tags, IPv4 without options and in one piece, TCP or UDP
//! outside of a tunnel, nothing cut short.
//!
//! This is the general way of [`crate::decode`] with everything left out that such a frame does not need: it costs a
//! third of it. Whatever else a frame is, or is wrong with it, only the general way tells; a property test holds the two
//! against each other.

use crate::checksum;
use crate::column::{Address, Mac};
use crate::decode::{Decoder, FrameMeta, LinkType, Packet};
use crate::flowkey::{FlowKey, steering};
use crate::malformed::Fault;
use crate::transport::{Tcp, Transport, protocol};
use crate::tunnel;

/// What stands before IP: two addresses and the `EtherType`.
const ETHERNET_BYTES: u32 = 14;
/// An IPv4 header without options.
const IPV4_BYTES: u32 = 20;

/// A TCP or UDP header and what follows it.
struct Segment<'a> {
    source_port: u16,
    destination_port: u16,
    transport: Transport,
    payload: &'a [u8],
    payload_length: u32,
    /// What the checksum covers; `None` where the sender computed none, or where it is not whole.
    checked: Option<&'a [u8]>,
}

/// The packet of a frame that is all of that; `None` where the general way must be gone.
#[inline]
pub(crate) fn decode<'a>(decoder: &Decoder, frame: &'a [u8], meta: &FrameMeta) -> Option<Packet<'a>> {
    if meta.link_type != LinkType::ETHERNET || meta.stripped_vlan.is_some() {
        return None;
    }
    let (head, rest) = frame.split_first_chunk::<34>()?;
    let (ethernet, network) = head.split_first_chunk::<14>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, 0x08, 0x00] = *ethernet else {
        return None;
    };
    let [
        0x45,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        ttl,
        protocol,
        _,
        _,
        a0,
        a1,
        a2,
        a3,
        b0,
        b1,
        b2,
        b3,
    ] = *network
    else {
        return None;
    };
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    let body_length = length.checked_sub(IPV4_BYTES)?;
    // Of the first byte, the fragment flag and the offset's high bits.
    let is_fragment = (f0 & 0x3f) | f1 != 0;
    if is_fragment || length > meta.wire_length.saturating_sub(ETHERNET_BYTES) {
        return None;
    }
    let body = rest.get(..body_length as usize).unwrap_or(rest);
    let segment = match protocol {
        protocol::TCP => tcp(body, body_length)?,
        protocol::UDP => udp(body, body_length)?,
        _ => return None,
    };

    let (source, destination) = ([a0, a1, a2, a3], [b0, b1, b2, b3]);
    let mut faults = 0;
    if !meta.checksum_offloaded {
        if !checksum::agrees(checksum::sum(network)) {
            faults |= Fault::BadIpChecksum.bit();
        }
        if decoder.verify_checksums
            && let Some(checked) = segment.checked
            && !checksum_agrees(source, destination, protocol, checked)
        {
            faults |= Fault::BadTransportChecksum.bit();
        }
    }

    let sender = (u32::from_be_bytes(source), segment.source_port);
    let receiver = (u32::from_be_bytes(destination), segment.destination_port);
    let from_high = sender > receiver;
    let ((low, low_port), (high, high_port)) = if from_high {
        (receiver, sender)
    } else {
        (sender, receiver)
    };
    let (low_address, high_address) = (Address::v4(low.to_be_bytes()), Address::v4(high.to_be_bytes()));
    let key = FlowKey {
        low_address,
        high_address,
        low_port,
        high_port,
        ip_protocol: protocol,
        ip_version: 4,
        scope: 0,
    };
    Some(Packet {
        key,
        hash: decoder.hasher.hash(&key),
        steering: steering(low_address, high_address),
        from_high,
        src_mac: Some(Mac([s0, s1, s2, s3, s4, s5])),
        dst_mac: Some(Mac([d0, d1, d2, d3, d4, d5])),
        vlans: [0; 4],
        vlan_count: 0,
        tunnels: [None; 4],
        tunnel_id: None,
        ttl,
        ip_length: length,
        fragment: None,
        transport: segment.transport,
        payload: segment.payload,
        payload_length: segment.payload_length,
        faults,
    })
}

/// [`crate::decode::steering_hash`] of such a frame; `None` where the general way must be gone.
#[inline]
pub(crate) fn steering_hash(frame: &[u8], link_type: LinkType) -> Option<u64> {
    let (head, body) = frame.split_first_chunk::<34>()?;
    let [
        ..,
        0x08,
        0x00,
        0x45,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        a0,
        a1,
        a2,
        a3,
        b0,
        b1,
        b2,
        b3,
    ] = *head
    else {
        return None;
    };
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    let is_whole = length >= IPV4_BYTES && length.saturating_sub(IPV4_BYTES) <= body.len() as u32;
    if link_type != LinkType::ETHERNET || !is_whole || (f0 & 0x3f) | f1 != 0 {
        return None;
    }
    let is_innermost = match protocol {
        protocol::TCP => true,
        protocol::UDP => {
            let [p0, p1, q0, q1] = *body.first_chunk()?;
            !tunnel::is_udp_tunnel(u16::from_be_bytes([p0, p1]), u16::from_be_bytes([q0, q1]))
        }
        _ => false,
    };
    is_innermost.then(|| steering(Address::v4([a0, a1, a2, a3]), Address::v4([b0, b1, b2, b3])))
}

#[inline]
fn tcp(body: &[u8], body_length: u32) -> Option<Segment<'_>> {
    let ([p0, p1, q0, q1], rest) = body.split_first_chunk::<4>()?;
    let (fixed, rest) = rest.split_first_chunk::<16>()?;
    let (mut tcp, header_length) = Tcp::parse(fixed);
    if header_length > body_length {
        return None;
    }
    let (options, payload) = rest.split_at_checked(header_length.checked_sub(20)? as usize)?;
    tcp.read_options(options);
    Some(Segment {
        source_port: u16::from_be_bytes([*p0, *p1]),
        destination_port: u16::from_be_bytes([*q0, *q1]),
        transport: Transport::Tcp(tcp),
        payload,
        payload_length: body_length.saturating_sub(header_length),
        checked: (body.len() == body_length as usize).then_some(body),
    })
}

#[inline]
fn udp(body: &[u8], body_length: u32) -> Option<Segment<'_>> {
    let (fixed, rest) = body.split_first_chunk::<8>()?;
    let [p0, p1, q0, q1, l0, l1, c0, c1] = *fixed;
    let (source_port, destination_port) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([q0, q1]));
    let stated = u16::from_be_bytes([l0, l1]);
    let payload_length = u32::from(stated).checked_sub(8)?;
    if u32::from(stated) > body_length || tunnel::is_udp_tunnel(source_port, destination_port) {
        return None;
    }
    let is_checked = (c0 | c1) != 0 && body.len() == body_length as usize;
    Some(Segment {
        source_port,
        destination_port,
        transport: Transport::Udp,
        payload: rest.get(..payload_length as usize).unwrap_or(rest),
        payload_length,
        checked: if is_checked {
            body.get(..usize::from(stated))
        } else {
            None
        },
    })
}

#[inline]
fn checksum_agrees(source: [u8; 4], destination: [u8; 4], protocol: u8, segment: &[u8]) -> bool {
    let [a, b, c, d] = (segment.len() as u32).to_be_bytes();
    let words = [source, destination, [a, b, c, d], [0, protocol, 0, 0]];
    let pseudo_header = words.into_iter().fold(0_u64, |sum, word| {
        sum.wrapping_add(u64::from(u32::from_ne_bytes(word)))
    });
    checksum::agrees(pseudo_header.wrapping_add(checksum::sum(segment)))
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "bytes that the test made"
)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// An Ethernet frame with IPv4 and the given segment, whose header checksum is right and its transport checksum 0.
    fn frame(protocol: u8, segment: &[u8]) -> Vec<u8> {
        let mut network = vec![
            0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7,
        ];
        let length = (network.len() + segment.len()) as u16;
        network[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = checksum::sum(&network) % 0xffff;
        network[10..12].copy_from_slice(&(!(sum as u16)).to_ne_bytes());
        [
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0],
            network.as_slice(),
            segment,
        ]
        .concat()
    }

    fn segment() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let payload = || prop::collection::vec(any::<u8>(), 0..80);
        let tcp =
            (any::<[u8; 8]>(), 5..=8_u8, 0..64_u8, payload()).prop_map(|(numbers, words, flags, payload)| {
                let ports = [0x9c, 0x40, 0x01, 0xbb];
                let options = [2, 4, 5, 0xb4, 3, 3, 7, 1, 1, 1, 1, 0];
                let fixed = [words << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
                let options = &options[..usize::from(words - 5) * 4];
                (6, [&ports[..], &numbers, &fixed, options, &payload].concat())
            });
        let udp = (
            prop::sample::select(vec![53, 4789, 4500_u16]),
            any::<[u8; 2]>(),
            payload(),
        )
            .prop_map(|(port, sum, payload)| {
                let length = (payload.len() + 8) as u16;
                let header = [[0x9c, 0x40], port.to_be_bytes(), length.to_be_bytes(), sum];
                (17, [header.concat(), payload].concat())
            });
        prop_oneof![tcp, udp]
    }

    proptest! {
        #[test]
        fn it_says_what_the_general_way_says(
            (protocol, segment) in segment(),
            padding in 0..8_usize,
            changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
            cut in prop::option::of(any::<Index>()),
            lost in 0..3_u32,
            checksum_offloaded: bool,
        ) {
            let mut bytes = frame(protocol, &segment);
            bytes.resize(bytes.len() + padding, 0);
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            let wire_length = bytes.len() as u32 - lost.min(1) * padding as u32;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let meta = FrameMeta {
                link_type: LinkType::ETHERNET,
                wire_length,
                stripped_vlan: None,
                checksum_offloaded,
            };
            if let Some(hash) = steering_hash(&bytes, LinkType::ETHERNET) {
                prop_assert_eq!(hash, crate::decode::steering_hash_any(&bytes, LinkType::ETHERNET));
            }
            let decoder = Decoder::default();
            if let Some(packet) = decode(&decoder, &bytes, &meta) {
                let general = decoder.decode_any(&bytes, &meta);
                prop_assert_eq!(format!("{:?}", Ok::<_, crate::malformed::Undecodable>(packet)), format!("{general:?}"));
            }
        }
    }

    #[test]
    fn most_frames_are_plain_and_the_others_are_not() {
        let decoder = Decoder::default();
        let of = |bytes: &[u8]| {
            let meta = FrameMeta {
                link_type: LinkType::ETHERNET,
                wire_length: 44,
                stripped_vlan: None,
                checksum_offloaded: false,
            };
            decode(&decoder, bytes, &meta).map(|packet| (packet.key.low_port, packet.payload.len()))
        };
        let datagram = [0x9c, 0x40, 0, 53, 0, 10, 0, 0, 1, 2];
        assert_eq!(of(&frame(17, &datagram)), Some((40_000, 2)));
        assert!(steering_hash(&frame(17, &datagram), LinkType::ETHERNET).is_some());
        let tunnel = [0x9c, 0x40, 0x12, 0xb5, 0, 10, 0, 0, 1, 2];
        assert_eq!(of(&frame(17, &tunnel)), None, "VXLAN");
        assert_eq!(steering_hash(&frame(17, &tunnel), LinkType::ETHERNET), None);
        assert_eq!(of(&frame(1, &datagram)), None, "ICMP");
        let mut fragment = frame(17, &datagram);
        fragment[20] = 0x20;
        assert_eq!(of(&fragment), None);
        assert_eq!(
            of(&frame(17, &datagram)[..43]),
            Some((40_000, 1)),
            "cut by the capture"
        );
        assert_eq!(of(&frame(17, &datagram)[..40]), None);
    }
}
