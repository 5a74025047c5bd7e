//! TCP connections through decoding, metering, reassembly and layer 7: segments that overlap, overtake and are missing.
#![no_main]

mod meter_support;

use meter_support::{Traffic, meter};

/// Of protocols that begin with the client, with the server, and of none.
const PORTS: [u16; 8] = [80, 443, 22, 25, 53, 3306, 1080, 9];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut traffic = Traffic::default();
    let mut time = 1_000_000_000_i64;
    // Where each of two connections stands, client and server.
    let mut next = [[0xffff_ff00_u32, 0x7fff_ff00]; 2];
    let mut rest = data;
    // Each segment: connection, direction, port and cut, flags, signed distance from what is next, window, pause, length.
    while let Some((&[kind, flags, distance, window, pause, high, low], payload)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high & 7, low]));
        let (payload, behind) = payload.split_at(length.min(payload.len()));
        rest = behind;
        time += match pause >> 6 {
            0 => i64::from(pause) * 1_000_000,
            1 => i64::from(pause & 0x3f) * 1_000_000_000,
            _ => 0,
        };
        let (connection, from_server) = (usize::from(kind & 1), kind & 2 != 0);
        let ports = (40_000 + u16::from(kind & 1), PORTS[usize::from(kind >> 2 & 7)]);
        let (own, peer) = if from_server { (1, 0) } else { (0, 1) };
        let sequence = next[connection][own].wrapping_add_signed(i32::from(distance as i8) * i32::from(kind >> 5 & 1));
        let (source, destination) = if from_server { (ports.1, ports.0) } else { ports };
        let hosts = if from_server { [[10, 0, 0, 2], [10, 0, 0, 1]] } else { [[10, 0, 0, 1], [10, 0, 0, 2]] };
        let mut packet = vec![0x45, 0];
        packet.extend((40 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(hosts.concat());
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(next[connection][peer].to_be_bytes());
        packet.extend([0x50, flags]);
        packet.extend((u16::from(window) << 6).to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(payload);
        let counted = payload.len() as u32 + u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0);
        let end = sequence.wrapping_add(counted);
        if end.wrapping_sub(next[connection][own]) < 1 << 31 {
            next[connection][own] = end;
        }
        // A capture that cuts long packets.
        let captured = if kind & 0x40 == 0 { packet.len() } else { packet.len().min(80) };
        traffic.push(time, &packet[..captured], (packet.len() - captured) as u32);
    }
    meter(&traffic);
});
