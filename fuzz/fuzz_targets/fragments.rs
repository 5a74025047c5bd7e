//! Fragments of IPv4 and IPv6 through decoding and metering: every frame is accounted for, and nothing is kept at the end.
#![no_main]

use probe::capture::{FrameHeader, Frames};
use probe::counters::Counters;
use probe::engine::Worker;
use probe::flow::meter::Event;
use probe::flow::Settings;
use wire::decode::LinkType;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (mut bytes, mut headers) = (Vec::new(), Vec::new());
    let mut time = 1_000_000_000_i64;
    let mut rest = data;
    // Each fragment: version and hosts, protocol, identification, offset and flags, seconds since the one before, length.
    while let Some((&[kind, protocol, identification, high, low, pause, length], payload)) = rest.split_first_chunk() {
        let (payload, behind) = payload.split_at(usize::from(length % 64).min(payload.len()));
        rest = behind;
        time += i64::from(pause % 16) * 4_000_000_000;
        let (from, to) = ([10, 0, 0, kind & 1], [10, 0, 0, 2 + (kind >> 1 & 1)]);
        let field = u16::from_be_bytes([high & 0x3f, low]);
        let start = bytes.len();
        if kind & 4 == 0 {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, identification % 4]);
            bytes.extend(field.to_be_bytes());
            bytes.extend([64, if protocol & 1 == 0 { 17 } else { protocol }, 0, 0]);
            bytes.extend(from);
            bytes.extend(to);
        } else {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((8 + payload.len() as u16).to_be_bytes());
            bytes.extend([44, 64]);
            for host in [from, to] {
                bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(host);
            }
            bytes.extend([if protocol & 1 == 0 { 17 } else { protocol }, 0]);
            bytes.extend((field << 3 | u16::from(high & 0x20 != 0)).to_be_bytes());
            bytes.extend([0, 0, 0, identification % 4]);
        }
        bytes.extend(payload);
        let captured_length = (bytes.len() - start) as u32;
        headers.push(FrameHeader {
            time,
            offset: start as u32,
            captured_length,
            wire_length: captured_length + u32::from(kind >> 7),
            link_type: LinkType::RAW,
            stripped_vlan: None,
            checksum_offloaded: false,
            clock: None,
        });
    }
    // Small limits, so that they are met.
    let settings = Settings {
        flows: 64,
        datagrams: 3,
        datagram_bytes: 256,
        ..Settings::for_memory(1 << 20)
    };
    let counters = Counters::new(1);
    let mut worker = Worker::new(&settings, settings.decoder(), counters.worker(0).unwrap_or_default());
    let mut packets = 0;
    let mut sink = |event: Event| {
        if let Event::Flow(flow) = event {
            packets += flow.record.packets_fwd + flow.record.packets_rev;
        }
    };
    let frames = Frames {
        bytes: &bytes,
        headers: &headers,
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
});
