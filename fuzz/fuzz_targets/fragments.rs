//! Fragments of IPv4 and IPv6 through decoding and metering: every frame is accounted for, and nothing is kept at the end.
#![no_main]

mod meter_support;

use meter_support::{Traffic, meter};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut traffic = Traffic::default();
    let mut time = 1_000_000_000_i64;
    let mut rest = data;
    // Each fragment: version and hosts, protocol, identification, offset and flags, seconds since the one before, length.
    while let Some((&[kind, protocol, identification, high, low, pause, length], payload)) = rest.split_first_chunk() {
        let (payload, behind) = payload.split_at(usize::from(length % 64).min(payload.len()));
        rest = behind;
        time += i64::from(pause % 16) * 4_000_000_000;
        let protocol = match protocol % 4 {
            0 => 6,
            1 => 58,
            2 => protocol,
            _ => 17,
        };
        let (from, to) = ([10, 0, 0, kind & 1], [10, 0, 0, 2 + (kind >> 1 & 1)]);
        let field = u16::from_be_bytes([high & 0x3f, low]);
        let mut bytes = Vec::new();
        if kind & 4 == 0 {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, identification % 4]);
            bytes.extend(field.to_be_bytes());
            bytes.extend([64, protocol, 0, 0]);
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
            bytes.extend([protocol, 0]);
            bytes.extend((field << 3 | u16::from(high & 0x20 != 0)).to_be_bytes());
            bytes.extend([0, 0, 0, identification % 4]);
        }
        bytes.extend(payload);
        traffic.push(time, &bytes, u32::from(kind >> 7));
    }
    meter(&traffic);
});
