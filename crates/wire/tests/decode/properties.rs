//! What holds for every frame, whatever its bytes.
use crate::frames::{ethernet, ipv4, ipv6, meta, tcp, udp, with_checksum};
use proptest::prelude::*;
use wire::decode::{Decoder, FrameMeta, LinkType, decode, steering_hash};

fn link_types() -> impl Strategy<Value = LinkType> {
    prop_oneof![
        4 => Just(LinkType::ETHERNET),
        4 => proptest::sample::select(LinkType::SUPPORTED),
        1 => any::<u32>().prop_map(LinkType),
    ]
}

/// A frame in which many headers stand on one another.
fn deep_frame() -> impl Strategy<Value = Vec<u8>> {
    let core = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|payload| ipv4(6, &tcp(0x12, &[2, 4, 5, 0xb4], &payload))),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|payload| ipv6(17, &udp(53, 4789, &payload))),
        any::<u16>().prop_map(|id| crate::frames::ipv4_fragment(17, id, 0x2001, &[1; 16])),
    ];
    core.prop_recursive(5, 8, 1, |inside| {
        (inside, 0..9_usize).prop_map(|(inside, layer)| {
            let is_v6 = inside[0] >> 4 == 6;
            let ether_type: u16 = if is_v6 { 0x86dd } else { 0x0800 };
            let frame = ethernet(ether_type, &inside);
            match layer {
                0 => ipv4(if is_v6 { 41 } else { 4 }, &inside),
                1 => ipv6(if is_v6 { 41 } else { 4 }, &inside),
                2 => ipv4(47, &[&[0x20, 0, 0x65, 0x58, 0, 0, 0, 1], &frame[..]].concat()),
                3 => ipv4(
                    17,
                    &udp(9, 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0], &frame[..]].concat()),
                ),
                4 => ipv6(
                    17,
                    &udp(9, 6081, &[&[0, 0, 0x65, 0x58, 0, 0, 1, 0], &frame[..]].concat()),
                ),
                5 => ipv6(
                    60,
                    &[&[if is_v6 { 41 } else { 4 }, 0, 1, 4, 0, 0, 0, 0], &inside[..]].concat(),
                ),
                6 => ipv4(137, &[&[0, 0, 0x11, 0x40], &inside[..]].concat()),
                7 => ipv4(17, &udp(3544, 3544, &inside)),
                _ => ipv4(
                    51,
                    &[
                        &[if is_v6 { 41 } else { 4 }, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],
                        &inside[..],
                    ]
                    .concat(),
                ),
            }
        })
    })
    .prop_map(|packet| ethernet(if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 }, &packet))
}

/// Everything that must hold for one frame.
fn holds(frame: &[u8], meta: &FrameMeta) -> Result<(), TestCaseError> {
    let steering = steering_hash(frame, meta.link_type);
    match decode(frame, meta) {
        Err(_) => prop_assert_eq!(steering, 0),
        Ok(packet) => {
            prop_assert_ne!(steering, 0);
            prop_assert_eq!(steering, packet.steering);
            prop_assert_eq!(Decoder::default().hasher.hash(&packet.key), packet.hash);
            prop_assert!(packet.payload.len() <= packet.payload_length as usize);
            prop_assert!(packet.payload_length <= packet.ip_length);
            prop_assert!(packet.vlan_count <= 4);
            let (low, high) = (packet.key.low_address, packet.key.high_address);
            prop_assert!((low, packet.key.low_port) <= (high, packet.key.high_port));
            let whole = frame.as_ptr_range();
            let part = packet.payload.as_ptr_range();
            prop_assert!(packet.payload.is_empty() || (whole.start <= part.start && part.end <= whole.end));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes(
        frame in proptest::collection::vec(any::<u8>(), 0..300),
        link_type in link_types(),
        wire_length in any::<u32>(),
        stripped_vlan in any::<Option<u16>>(),
        checksum_offloaded in any::<bool>(),
    ) {
        holds(&frame, &FrameMeta { link_type, wire_length, stripped_vlan, checksum_offloaded })?;
    }

    #[test]
    fn arbitrary_changes_to_valid_frames(
        frame in deep_frame(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
        link_type in link_types(),
    ) {
        let mut frame = frame;
        let wire_length = frame.len() as u32;
        for (index, value) in changes {
            let at = index.index(frame.len());
            frame[at] = value;
        }
        holds(&frame, &meta(LinkType::ETHERNET, wire_length))?;
        holds(&frame, &meta(link_type, wire_length))?;
        let cut = cut.index(frame.len());
        holds(&frame[..cut], &meta(LinkType::ETHERNET, wire_length))?;
    }

    #[test]
    fn both_directions_meet(payload in proptest::collection::vec(any::<u8>(), 0..20), a in any::<u16>(), b in any::<u16>()) {
        let forward = ipv4(17, &udp(a, b, &payload));
        let mut reverse = ipv4(17, &udp(b, a, &payload));
        reverse[15] = 2;
        reverse[19] = 1;
        let meta = meta(LinkType::RAW, forward.len() as u32);
        let (there, back) = (decode(&forward, &meta).unwrap(), decode(&reverse, &meta).unwrap());
        prop_assert_eq!(there.key, back.key);
        prop_assert_eq!((there.hash, there.steering), (back.hash, back.steering));
        prop_assert_ne!(there.from_high, back.from_high);
    }

    #[test]
    fn a_right_checksum_is_never_a_fault(payload in proptest::collection::vec(any::<u8>(), 0..200), six in any::<bool>()) {
        let version = if six { 6 } else { 4 };
        let segment = with_checksum(version, 6, 16, tcp(0x10, &[], &payload));
        let packet = if six { ipv6(6, &segment) } else { ipv4(6, &segment) };
        let decoded = decode(&packet, &meta(LinkType::RAW, packet.len() as u32)).unwrap();
        prop_assert_eq!(decoded.faults, 0);
    }
}
