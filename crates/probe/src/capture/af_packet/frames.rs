//! The frames of a ring block (`linux/if_packet.h`), as the kernel describes them: nothing that it says is trusted.

use wire::decode::LinkType;

use crate::capture::{FrameClock, FrameHeader};

/// Fields of `struct tpacket_block_desc` and `struct tpacket3_hdr` (`linux/if_packet.h`), in host byte order.
mod field {
    /// Number of frames in the block.
    pub(super) const FRAME_COUNT: usize = 12;
    /// Offset of the first frame in the block.
    pub(super) const FIRST_FRAME: usize = 16;
    /// Distance to the next frame.
    pub(super) const NEXT_OFFSET: usize = 0;
    pub(super) const SECONDS: usize = 4;
    pub(super) const NANOSECONDS: usize = 8;
    pub(super) const CAPTURED_LENGTH: usize = 12;
    pub(super) const WIRE_LENGTH: usize = 16;
    pub(super) const STATUS: usize = 20;
    /// Where the bytes start, from the frame's header.
    pub(super) const MAC_OFFSET: usize = 24;
    pub(super) const VLAN_TCI: usize = 32;
    /// `sll_hatype` of the `struct sockaddr_ll` behind the header.
    pub(super) const HARDWARE: usize = 56;
}

/// Size of `struct tpacket3_hdr`: no two frames are closer to each other.
const HEADER_BYTES: u32 = 48;

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|bytes| u16::from_ne_bytes(*bytes))
}

/// `TP_STATUS_TS_RAW_HARDWARE`: the card's clock stamped the frame.
const STAMPED_BY_HARDWARE: u32 = 1 << 31;

/// What an interface's frames are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Its hardware type (ARPHRD).
    pub(super) hardware: u16,
    /// The link type that stands for it.
    pub(super) link_type: LinkType,
}

/// What was seen in a block beside its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Frames that the card stamped.
    pub(super) by_card: u64,
    /// The hardware type that the interface has changed to: the frames from there on are of another kind, and not listed.
    pub(super) other_hardware: Option<u16>,
}

/// Lists the frames of a block; `None` where the block contradicts itself, after the frames before that. However many
/// frames the block claims to have, each is listed once.
pub(super) fn frames_of(
    block: &[u8],
    kind: Kind,
    headers: &mut Vec<FrameHeader>,
    seen: &mut Seen,
) -> Option<()> {
    let count = u32_at(block, field::FRAME_COUNT)?;
    let mut at = u32_at(block, field::FIRST_FRAME)?;
    for left in (0..count).rev() {
        let (header, hardware, next) = frame_at(block, at, kind.link_type)?;
        if hardware != kind.hardware {
            seen.other_hardware = Some(hardware);
            return Some(());
        }
        headers.push(header);
        seen.by_card += u64::from(header.clock == Some(FrameClock::Hardware));
        // The kernel gives no distance behind the last frame.
        if left > 0 {
            let end = header.offset.checked_add(header.captured_length)?;
            let start = at.checked_add(next)?;
            if next < HEADER_BYTES || start < end {
                return None;
            }
            at = start;
        }
    }
    Some(())
}

/// The frame at `at`, the hardware type of the interface when it came, and the distance to the next one.
fn frame_at(block: &[u8], at: u32, link_type: LinkType) -> Option<(FrameHeader, u16, u32)> {
    let frame = block.get(at as usize..)?;
    let status = u32_at(frame, field::STATUS)?;
    let stripped_vlan = if status & libc::TP_STATUS_VLAN_VALID == 0 {
        None
    } else {
        Some(u32_at(frame, field::VLAN_TCI)? as u16 & 0x0fff)
    };
    let seconds = i64::from(u32_at(frame, field::SECONDS)?);
    let header = FrameHeader {
        time: seconds * 1_000_000_000 + i64::from(u32_at(frame, field::NANOSECONDS)?),
        offset: at.checked_add(u32::from(u16_at(frame, field::MAC_OFFSET)?))?,
        captured_length: u32_at(frame, field::CAPTURED_LENGTH)?,
        // The tag was on the wire though it is not in the frame any more.
        wire_length: u32_at(frame, field::WIRE_LENGTH)?.saturating_add(if stripped_vlan.is_some() {
            4
        } else {
            0
        }),
        link_type,
        stripped_vlan,
        checksum_offloaded: status & (libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_CSUM_VALID) != 0,
        clock: Some(if status & STAMPED_BY_HARDWARE == 0 {
            FrameClock::Kernel
        } else {
            FrameClock::Hardware
        }),
    };
    let end = (header.offset as usize).checked_add(header.captured_length as usize)?;
    if end > block.len() {
        return None;
    }
    let hardware = u16_at(frame, field::HARDWARE)?;
    Some((header, hardware, u32_at(frame, field::NEXT_OFFSET)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capture::Frames;

    const ETHERNET: Kind = Kind {
        hardware: libc::ARPHRD_ETHER,
        link_type: LinkType::ETHERNET,
    };

    /// A block with `frames` as the kernel lays it out: block header, then for each a header of 48 bytes, the address
    /// structure of 20 and padding, and the bytes.
    fn block_of(frames: &[(&[u8], u32, u32)]) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[12..16].copy_from_slice(&(frames.len() as u32).to_ne_bytes());
        block[16..20].copy_from_slice(&48_u32.to_ne_bytes());
        for (bytes, status, vlan) in frames {
            let length = bytes.len() as u32;
            let next = 82 + length;
            for word in [next, 7, 9, length, length + 10, *status] {
                block.extend(word.to_ne_bytes());
            }
            block.extend(82_u16.to_ne_bytes());
            block.extend(96_u16.to_ne_bytes());
            block.extend([0; 4]);
            block.extend(vlan.to_ne_bytes());
            block.extend([0; 20]);
            block.extend(libc::ARPHRD_ETHER.to_ne_bytes());
            block.extend([0; 24]);
            block.extend(*bytes);
        }
        block
    }

    #[test]
    fn lists_frames_with_time_lengths_and_the_stripped_tag() {
        let tagged = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_CSUMNOTREADY;
        let block = block_of(&[(b"first", tagged, 0x2007), (b"second", STAMPED_BY_HARDWARE, 0)]);
        let (mut headers, mut seen) = (Vec::new(), Seen::default());
        assert_eq!(frames_of(&block, ETHERNET, &mut headers, &mut seen), Some(()));
        let expected = Seen {
            by_card: 1,
            other_hardware: None,
        };
        assert_eq!(seen, expected);
        let first = FrameHeader {
            time: 7_000_000_009,
            offset: 130,
            captured_length: 5,
            wire_length: 19,
            link_type: LinkType::ETHERNET,
            stripped_vlan: Some(7),
            checksum_offloaded: true,
            clock: Some(FrameClock::Kernel),
        };
        assert_eq!(headers[0], first);
        assert_eq!(headers[1].clock, Some(FrameClock::Hardware));
        assert_eq!((headers[1].wire_length, headers[1].stripped_vlan), (16, None));
        let frames = Frames {
            bytes: &block,
            headers: &headers,
            first_number: 4,
        };
        let seen: Vec<(u64, &[u8])> = frames.iter().map(|(number, _, bytes)| (number, bytes)).collect();
        assert_eq!(seen, [(4, &b"first"[..]), (5, &b"second"[..])]);
    }

    #[test]
    fn frames_of_another_hardware_type_are_not_taken_for_the_interface_s_first() {
        let mut block = block_of(&[(b"first", 0, 0), (b"second", 0, 0), (b"third", 0, 0)]);
        let at = 48 + 82 + b"first".len() + 56;
        block[at..at + 2].copy_from_slice(&libc::ARPHRD_IEEE80211_RADIOTAP.to_ne_bytes());
        let (mut headers, mut seen) = (Vec::new(), Seen::default());
        assert_eq!(frames_of(&block, ETHERNET, &mut headers, &mut seen), Some(()));
        assert_eq!(headers.len(), 1);
        assert_eq!(seen.other_hardware, Some(libc::ARPHRD_IEEE80211_RADIOTAP));
    }

    #[test]
    fn a_block_that_ends_early_keeps_the_frames_before() {
        let block = block_of(&[(b"first", 0, 0), (b"second", 0, 0)]);
        let mut headers = Vec::new();
        assert_eq!(
            frames_of(
                &block[..block.len() - 1],
                ETHERNET,
                &mut headers,
                &mut Seen::default()
            ),
            None
        );
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_frame_that_is_followed_by_itself_or_by_its_own_bytes_is_listed_once() {
        let whole = block_of(&[(b"first", 0, 0), (b"second", 0, 0), (b"third", 0, 0)]);
        for distance in [0_u32, 1, HEADER_BYTES - 1, HEADER_BYTES, 86, u32::MAX] {
            let mut block = whole.clone();
            block[12..16].copy_from_slice(&1_000_u32.to_ne_bytes());
            block[48..52].copy_from_slice(&distance.to_ne_bytes());
            let mut headers = Vec::new();
            assert_eq!(
                frames_of(&block, ETHERNET, &mut headers, &mut Seen::default()),
                None
            );
            assert_eq!(headers.len(), 1, "{distance}");
        }
    }

    /// A valid block in which some words are others.
    fn damaged_block() -> impl Strategy<Value = Vec<u8>> {
        let frame = (
            proptest::collection::vec(any::<u8>(), 0..40),
            prop_oneof![Just(0), Just(libc::TP_STATUS_VLAN_VALID), any::<u32>()],
            any::<u32>(),
        );
        let word = prop_oneof![0..8_u32, 0..600_u32, Just(100_000), any::<u32>(), Just(u32::MAX)];
        // Every second place is one of the words that say where frames are: of the block, or of a frame.
        let place = prop_oneof![
            any::<proptest::sample::Index>().prop_map(|place| (None, place)),
            (0..6_usize, any::<proptest::sample::Index>()).prop_map(|(frame, place)| (Some(frame), place)),
        ];
        let damage = proptest::collection::vec((place, word), 0..4);
        (proptest::collection::vec(frame, 0..6), damage).prop_map(|(frames, damage)| {
            let frames: Vec<_> = frames
                .iter()
                .map(|(bytes, status, vlan)| (&bytes[..], *status, *vlan))
                .collect();
            let mut block = block_of(&frames);
            let starts: Vec<usize> = frames
                .iter()
                .scan(48, |at, (bytes, ..)| {
                    let start = *at;
                    *at += 82 + bytes.len();
                    Some(start)
                })
                .collect();
            for ((frame, place), word) in damage {
                let at = match frame {
                    None => place.index(block.len() - 3),
                    Some(frame) => match starts.get(frame) {
                        None => [field::FRAME_COUNT, field::FIRST_FRAME][place.index(2)],
                        Some(start) => {
                            start
                                + [field::NEXT_OFFSET, field::CAPTURED_LENGTH, field::MAC_OFFSET]
                                    [place.index(3)]
                        }
                    },
                };
                block[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            }
            block
        })
    }

    proptest! {
        #[test]
        fn any_block_is_read_within_its_bounds_and_each_frame_once(block in damaged_block()) {
            let mut headers = Vec::new();
            let mut seen = Seen::default();
            let whole = frames_of(&block, ETHERNET, &mut headers, &mut seen);
            for header in &headers {
                prop_assert!(header.offset as usize + header.captured_length as usize <= block.len());
            }
            prop_assert!(headers.len() <= block.len().div_ceil(HEADER_BYTES as usize));
            let all = seen.other_hardware.is_some() || headers.len() as u32 == u32_at(&block, 12).unwrap_or(0);
            prop_assert!(whole.is_none() || all);
        }
    }
}
