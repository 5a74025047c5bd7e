//! Decoding packets and updating their flows allocates nothing once everything is warm.

use std::sync::Arc;

use probe::capture::{FrameHeader, OwnedFrames};
use probe::engine::Worker;
use probe::flow::{Profile, Settings};
use wire::decode::{Decoder, LinkType};

/// Ethernet II, IPv4, and a TCP segment (RFC 9293 §3.1) or UDP datagram of one of the flows.
fn frame(flow: u8, tcp: bool, sequence: u32, back: bool) -> Vec<u8> {
    let payload = [0x5a; 700];
    let (ports, hosts) = if back {
        ([0x03, 0xe7, 0x9c, flow], [2, 1])
    } else {
        ([0x9c, flow, 0x03, 0xe7], [1, 2])
    };
    let mut transport = ports.to_vec();
    if tcp {
        transport.extend(sequence.to_be_bytes());
        // Acknowledgement 1; header length 5 words, PSH and ACK; window, checksum, urgent pointer.
        transport.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(payload);
    let mut frame = vec![
        2, 0, 0, 0, 0, hosts[1], 2, 0, 0, 0, 0, hosts[0], 0x08, 0x00, 0x45, 0,
    ];
    frame.extend((transport.len() as u16 + 20).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, if tcp { 6 } else { 17 }, 0, 0]);
    frame.extend([10, 0, 0, hosts[0], 10, 0, 0, hosts[1]]);
    frame.extend(transport);
    frame
}

/// One packet of each of 80 flows, all of round number `round`.
fn block(round: u32) -> OwnedFrames {
    let mut block = OwnedFrames {
        first_number: u64::from(round) * 80 + 1,
        ..OwnedFrames::default()
    };
    for flow in 0..80 {
        let bytes = frame(
            flow,
            flow % 2 == 0,
            round * 700,
            flow % 2 == 1 && round.is_multiple_of(3),
        );
        block.headers.push(FrameHeader {
            time: i64::from(round) * 1_000_000 + i64::from(flow),
            offset: block.bytes.len() as u32,
            captured_length: bytes.len() as u32,
            wire_length: bytes.len() as u32,
            link_type: LinkType::ETHERNET,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: None,
        });
        block.bytes.extend(bytes);
    }
    block
}

#[test]
fn a_warm_worker_allocates_nothing() {
    allocates_nothing(Profile::Standard);
}

#[test]
fn a_warm_worker_allocates_nothing_for_features() {
    allocates_nothing(Profile::Full);
}

fn allocates_nothing(profile: Profile) {
    let settings = Settings {
        profile,
        ..Settings::for_memory(8 << 20)
    };
    let mut worker = Worker::new(&settings, Decoder::default(), Arc::default());
    let mut events = 0;
    // Until every sequence of packets is full, and layer 7 has seen enough of every flow.
    let warm: Vec<_> = (0..40).map(block).collect();
    let measured: Vec<_> = (40..60).map(block).collect();
    let before = allocation_counter::measure(|| {
        for block in &warm {
            worker.process(block.as_frames(), &mut |_| events += 1);
        }
    });
    assert!(before.count_total > 0, "the counter counts");
    let steady = allocation_counter::measure(|| {
        for block in &measured {
            worker.process(block.as_frames(), &mut |_| events += 1);
        }
    });
    assert_eq!((steady.count_total, events), (0, 0));
    assert_eq!(worker.tally().frames_metered, 60 * 80);
    assert_eq!(worker.tally().flows_active, 80);
}
