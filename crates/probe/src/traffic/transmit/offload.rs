//! Super-frames: what a packet socket is told of how a frame is to be cut into segments, and which checksum is left out.

use crate::traffic::cycle::FULL_FRAME_BYTES;
use crate::traffic::frame::{fold, sum};

/// `struct virtio_net_hdr` (`linux/virtio_net.h`), which a socket with `PACKET_VNET_HDR` takes in front of each frame.
const OFFLOAD_BYTES: usize = 10;
const TCP: u8 = 6;
const VLAN: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// The first byte of an IPv4 header without options.
const IPV4_NO_OPTIONS: u8 = 0x45;
const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Where the checksum stands in TCP's header.
const CHECKSUM: usize = 16;
const VLAN_TAG_BYTES: usize = 4;
/// Ethernet with a VLAN tag, IPv6, and the longest TCP header.
const HEADERS_BYTES: usize = 18 + 40 + 60;
const HEAD_BYTES: usize = OFFLOAD_BYTES + HEADERS_BYTES;

/// What is sent in front of (the rest of) a frame.
#[derive(Debug)]
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES],
    length: usize,
}

impl Head {
    /// The head of a frame. A frame of TCP that is longer than Ethernet's is to be cut: its headers are part of the head,
    /// with the sum of the pseudo-header only for a checksum (`CHECKSUM_PARTIAL` of `linux/skbuff.h`).
    pub(super) fn of(frame: &[u8]) -> Self {
        Self::of_super_frame(frame).unwrap_or(Self {
            bytes: [0; HEAD_BYTES],
            length: OFFLOAD_BYTES,
        })
    }

    fn of_super_frame(frame: &[u8]) -> Option<Self> {
        if frame.len() <= FULL_FRAME_BYTES + VLAN_TAG_BYTES {
            return None;
        }
        let ip = if frame.get(12..14)? == VLAN { 18 } else { 14 };
        let ipv6 = match (frame.get(ip - 2..ip)?.try_into().ok()?, *frame.get(ip)?) {
            (IPV4, IPV4_NO_OPTIONS) => false,
            (IPV6, _) => true,
            _ => return None,
        };
        if *frame.get(ip + if ipv6 { 6 } else { 9 })? != TCP {
            return None;
        }
        let transport = ip + if ipv6 { 40 } else { 20 };
        let addresses = frame.get(if ipv6 { ip + 8 } else { ip + 12 }..transport)?;
        let payload = transport + usize::from(frame.get(transport + 12)? >> 4) * 4;
        let segment = FULL_FRAME_BYTES.checked_sub(payload - (ip - 14))?;
        let tcp_bytes = (frame.len() - transport) as u64;
        let pseudo_header = fold(sum(addresses) + u64::from(TCP) + tcp_bytes);
        let mut head = Self {
            bytes: [0; HEAD_BYTES],
            length: OFFLOAD_BYTES + payload,
        };
        let (offload, headers) = head.bytes.split_at_mut(OFFLOAD_BYTES);
        offload[0] = NEEDS_CHECKSUM;
        offload[1] = if ipv6 { GSO_TCP6 } else { GSO_TCP4 };
        // Of the host's byte order: length of the headers, bytes of a segment, where the checksum's range and it begin.
        for (place, value) in [payload, segment, transport, CHECKSUM].into_iter().enumerate() {
            let value = u16::try_from(value).ok()?.to_ne_bytes();
            offload
                .get_mut(2 + place * 2..4 + place * 2)?
                .copy_from_slice(&value);
        }
        headers.get_mut(..payload)?.copy_from_slice(frame.get(..payload)?);
        let checksum = transport + CHECKSUM;
        headers
            .get_mut(checksum..checksum + 2)?
            .copy_from_slice(&pseudo_header.to_be_bytes());
        Some(head)
    }

    /// How many bytes of the frame are part of the head.
    pub(super) fn frame_bytes(&self) -> usize {
        self.length - OFFLOAD_BYTES
    }

    /// The bytes to send.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Cycle, FrameSize, Settings};

    #[test]
    fn a_head_says_how_to_cut_its_frame() {
        let settings = Settings {
            frame_size: FrameSize::Super,
            flows_per_second: 100,
            vlan_share: 0.5,
            ipv6_share: 0.5,
            cycle_bytes: 8 << 20,
            ..Settings::default()
        };
        let mut cycle = Cycle::build(&settings).expect("possible");
        let mut long = 0;
        for index in 0..cycle.slots().len() {
            cycle.patch(index, 1);
            let slot = cycle.slots()[index];
            let frame = &cycle.bytes()[slot.offset as usize..][..slot.length as usize];
            let head = Head::of(frame);
            if frame.len() <= 1518 {
                assert_eq!((head.bytes(), head.frame_bytes()), ([0; 10].as_slice(), 0));
                continue;
            }
            long += 1;
            let (offload, headers) = head.bytes().split_at(OFFLOAD_BYTES);
            let [length, segment, start, offset] =
                [2, 4, 6, 8].map(|at| usize::from(u16::from_ne_bytes([offload[at], offload[at + 1]])));
            let ipv6 = start >= 54;
            assert_eq!(offload[..2], [1, if ipv6 { 4 } else { 1 }]);
            assert_eq!((length, head.frame_bytes()), (start + 32, start + 32));
            assert_eq!(segment, 1500 - 32 - if ipv6 { 40 } else { 20 });
            assert_eq!(offset, 16);
            assert_eq!(headers[..start + 16], frame[..start + 16]);
            assert_eq!(headers[start + 18..], frame[start + 18..length]);
            // With the rest of the segment, the sum is that of the frame as it was made.
            let segment = [&headers[start..], &frame[length..]].concat();
            assert_eq!(
                (!fold(sum(&segment))).to_be_bytes(),
                frame[start + 16..start + 18]
            );
        }
        assert!(long > 20, "{long}");
    }

    #[test]
    fn what_is_no_tcp_of_ip_is_sent_as_it_is() {
        let jumbo = Settings {
            frame_size: FrameSize::Jumbo,
            cycle_bytes: 1 << 20,
            ..Settings::default()
        };
        let jumbo = Cycle::build(&jumbo).expect("possible");
        let datagrams = jumbo.slots().iter().filter_map(|slot| {
            let frame = &jumbo.bytes()[slot.offset as usize..][..slot.length as usize];
            let ip = if frame[12..14] == VLAN { 18 } else { 14 };
            let next = frame[ip + if frame[ip] >> 4 == 6 { 6 } else { 9 }];
            (frame.len() > 9_000 && next == 17).then(|| frame.to_vec())
        });
        let mut frames = vec![vec![0; 2_000], vec![0xff; 2_000], vec![0x6f; 2_000]];
        frames.extend(datagrams);
        assert!(frames.len() > 20, "{}", frames.len());
        for frame in frames {
            let head = Head::of(&frame);
            assert_eq!((head.bytes(), head.frame_bytes()), ([0; 10].as_slice(), 0));
        }
    }
}
