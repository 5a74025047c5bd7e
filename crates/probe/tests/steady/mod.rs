//! A worker that has seen the beginning of every flow and meters on, its allocations counted.

use std::sync::Arc;

use allocation_counter::AllocationInfo;
use probe::capture::{FrameHeader, OwnedFrames};
use probe::engine::Worker;
use probe::flow::{Profile, Settings};
use wire::decode::{Decoder, LinkType};

/// Flows, of which each block has one packet.
pub const FLOWS: u8 = 80;

/// Blocks until every sequence of packets is full, and layer 7 has seen enough of every flow.
const WARM_UP: u32 = 40;

/// Blocks that are counted.
const STEADY: u32 = 20;

/// What the worker did.
pub struct Metered {
    pub warm_up: AllocationInfo,
    pub steady: AllocationInfo,
    /// Packets of the steady blocks.
    pub steady_packets: u64,
}

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

/// One packet of each flow, all of round number `round`.
fn block(round: u32) -> OwnedFrames {
    let mut block = OwnedFrames {
        first_number: u64::from(round) * u64::from(FLOWS) + 1,
        ..OwnedFrames::default()
    };
    for flow in 0..FLOWS {
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

/// Meters the warm-up and then the steady blocks; every packet must be metered in a flow that stays open.
pub fn meter(profile: Profile) -> Metered {
    let settings = Settings {
        profile,
        ..Settings::for_memory(8 << 20)
    };
    let mut worker = Worker::new(&settings, Decoder::default(), Arc::default());
    let mut records = 0;
    let mut process = |rounds: std::ops::Range<u32>| {
        let blocks: Vec<_> = rounds.map(block).collect();
        allocation_counter::measure(|| {
            for block in &blocks {
                worker.process(block.as_frames(), &mut |_| records += 1);
            }
        })
    };
    let warm_up = process(0..WARM_UP);
    let steady = process(WARM_UP..WARM_UP + STEADY);
    let tally = worker.tally();
    assert_eq!(
        tally.frames_metered,
        u64::from(WARM_UP + STEADY) * u64::from(FLOWS)
    );
    assert_eq!((tally.flows_active, records), (u64::from(FLOWS), 0));
    Metered {
        warm_up,
        steady,
        steady_packets: u64::from(STEADY) * u64::from(FLOWS),
    }
}
