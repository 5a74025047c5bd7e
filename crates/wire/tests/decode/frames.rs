//! Builds frames for tests, byte by byte as the standards' figures show them.

use wire::decode::{Decoder, FrameMeta, LinkType, Packet};
use wire::malformed::Undecodable;

/// The RFC 1071 checksum, word by word as the RFC describes it: independent of the crate's own.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Ethernet II.
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(protocol, 0, 0, payload)
}

/// An IPv4 fragment: identification and the flags-and-offset field as they stand in the header.
pub fn ipv4_fragment(protocol: u8, identification: u16, flags_and_offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0x00];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend(identification.to_be_bytes());
    packet.extend(flags_and_offset.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet from `2001:db8::1` to `2001:db8::2`; `payload` begins with what `next_header` names.
pub fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

/// A UDP datagram without checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP segment from port 1234 to 80 with sequence number 1 and acknowledgement number 2, without checksum.
pub fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
    segment.push(((20 + options.len() as u8) / 4) << 4);
    segment.push(flags);
    segment.extend([0x20, 0x00, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// Puts the right checksum over pseudo header and `segment` at `at`, for the addresses of [`ipv4`] or [`ipv6`].
pub fn with_checksum(version: u8, protocol: u8, at: usize, mut segment: Vec<u8>) -> Vec<u8> {
    let mut covered = if version == 4 {
        vec![10, 0, 0, 1, 10, 0, 0, 2]
    } else {
        ipv6(0, &[])[8..40].to_vec()
    };
    covered.extend([0, protocol]);
    covered.extend((segment.len() as u16).to_be_bytes());
    covered.extend(&segment);
    let sum = checksum(&covered);
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Decodes a frame that was captured whole.
pub fn decode(link_type: LinkType, frame: &[u8]) -> Result<Packet<'_>, Undecodable> {
    Decoder::default().decode(frame, &meta(link_type, frame.len() as u32))
}

/// What a source knows of a frame.
pub fn meta(link_type: LinkType, wire_length: u32) -> FrameMeta {
    FrameMeta {
        link_type,
        wire_length,
        stripped_vlan: None,
        checksum_offloaded: false,
    }
}
