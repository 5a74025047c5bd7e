//! Frames of every link type: what decoding promises holds for any bytes.
#![no_main]

use wire::decode::{Decoder, FrameMeta, LinkType, steering_hash};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Link type, wire length beyond what was captured, and settings; then the frame.
    let Some((&[link, longer, settings], frame)) = data.split_first_chunk::<3>() else {
        return;
    };
    let link_type = LinkType::SUPPORTED[usize::from(link) % LinkType::SUPPORTED.len()];
    let meta = FrameMeta {
        link_type,
        wire_length: frame.len() as u32 + u32::from(longer),
        stripped_vlan: (settings & 1 != 0).then_some(u16::from(settings)),
        checksum_offloaded: settings & 2 != 0,
    };
    let decoder = Decoder {
        key_vlan: settings & 4 != 0,
        key_tunnel: settings & 8 != 0,
        ..Decoder::default()
    };
    let steering = steering_hash(frame, link_type);
    match decoder.decode(frame, &meta) {
        Err(_) => assert_eq!(steering, 0),
        Ok(packet) => {
            assert_eq!(steering, packet.steering);
            assert_eq!(packet.hash, decoder.hasher.hash(&packet.key));
            assert!(packet.payload.len() <= packet.payload_length as usize);
            assert!(packet.payload_length <= packet.ip_length);
        }
    }
});
