//! Frames through decoding and metering: every one is accounted for, and nothing is kept at the end.

use probe::capture::{FrameHeader, Frames};
use probe::counters::Counters;
use probe::engine::Worker;
use probe::flow::{Profile, Settings};
use probe::flow::meter::Event;
use wire::decode::{Decoder, LinkType};
use wire::flowkey::KeyHasher;

/// IP packets with their times.
#[derive(Default)]
pub struct Traffic {
    bytes: Vec<u8>,
    headers: Vec<FrameHeader>,
}

impl Traffic {
    /// Adds a packet of which the capture has left out `missing` bytes.
    pub fn push(&mut self, time: i64, packet: &[u8], missing: u32) {
        let captured_length = packet.len() as u32;
        self.headers.push(FrameHeader {
            time,
            offset: self.bytes.len() as u32,
            captured_length,
            wire_length: captured_length + missing,
            link_type: LinkType::RAW,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: None,
        });
        self.bytes.extend_from_slice(packet);
    }
}

/// Meters it within small limits, so that they are met.
pub fn meter(traffic: &Traffic) {
    let settings = Settings {
        profile: Profile::Full,
        flows: 64,
        datagrams: 3,
        datagram_bytes: 1024,
        ..Settings::for_memory(1 << 20)
    };
    let counters = Counters::new(1);
    // A finding must be found again by the same input.
    let decoder = Decoder {
        hasher: KeyHasher::new(KeyHasher::FIXED_SEED),
        ..settings.decoder()
    };
    let mut worker = Worker::new(&settings, decoder, counters.worker(0).unwrap_or_default());
    let mut packets = 0;
    let mut sink = |event: Event| {
        if let Event::Flow(flow) = event {
            packets += flow.record.packets_fwd + flow.record.packets_rev;
        }
    };
    let frames = Frames {
        bytes: &traffic.bytes,
        headers: &traffic.headers,
        first_number: 1,
    };
    worker.process(frames, &mut sink);
    worker.flush(&mut sink);
    let tally = worker.tally();
    assert_eq!(tally.worker_panics, 0);
    assert_eq!(tally.frames_waiting, 0);
    assert_eq!(tally.frames_delivered, tally.frames_metered + tally.frames_undecodable.total());
    assert_eq!(packets, tally.frames_metered);
    probe::counters::check_books(&counters.ledger_entries()).expect("the books balance");
}
