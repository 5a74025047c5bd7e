//! Random traffic against a slow model that keeps every packet in a list.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::flow::fragment::PIECE_BYTES;
use crate::flow::reassembly::EARLY_BYTES;

/// UDP flows of the model: packets in order, split by the two timeouts.
fn expected(packets: &[(i64, u16, bool)], idle: i64, active: i64) -> Vec<(i64, u16, &'static str, u64, i64)> {
    let mut open: HashMap<u16, Vec<i64>> = HashMap::new();
    let mut ended = Vec::new();
    let mut clock = 0;
    let mut last: HashMap<u16, i64> = HashMap::new();
    let settle = |open: &mut HashMap<u16, Vec<i64>>, last: &mut HashMap<u16, i64>, clock: i64| {
        let mut ended = Vec::new();
        for (port, times) in open.iter_mut().filter(|(_, times)| !times.is_empty()) {
            let idle_at = last[port] + idle;
            let active_at = times[0] + active;
            if idle_at.min(active_at) < clock {
                let reason = if idle_at <= active_at {
                    "idle_timeout"
                } else {
                    "active_timeout"
                };
                ended.push((
                    idle_at.min(active_at),
                    *port,
                    reason,
                    times.len() as u64,
                    times[0],
                ));
                times.clear();
            }
        }
        ended
    };
    for (time, port, _) in packets {
        clock = clock.max(*time);
        ended.extend(settle(&mut open, &mut last, clock));
        open.entry(*port).or_default().push(*time);
        last.insert(*port, *time);
    }
    for (port, times) in open.into_iter().filter(|(_, times)| !times.is_empty()) {
        ended.push((clock, port, "forced_end", times.len() as u64, times[0]));
    }
    ended.sort_unstable();
    ended
}

proptest! {
    #[test]
    fn timeouts_agree_with_the_model(
        steps in prop::collection::vec((0_i64..40, 1_u16..6, any::<bool>()), 1..120),
        idle in 1_i64..60,
        longer in 0_i64..60,
        scale in prop_oneof![Just(1), Just(SECOND)],
    ) {
        let (idle, active) = (idle * scale, (idle + longer) * scale);
        let mut time = 0;
        let packets: Vec<_> = steps
            .into_iter()
            .map(|(step, port, back)| {
                time += step * scale;
                (time, port, back)
            })
            .collect();
        let mut bench = Bench::new(|settings| {
            settings.idle_timeout_ns = idle;
            settings.active_timeout_ns = active;
        });
        for (time, port, back) in &packets {
            let frame = Frame::udp(*port, 99);
            bench.at(*time, &if *back { frame.back() } else { frame });
        }
        bench.flush();
        let mut found: Vec<_> = bench
            .flows()
            .iter()
            .map(|flow| {
                let record = &flow.record;
                let port = record.src_port.min(record.dst_port);
                let packets = record.packets_fwd + record.packets_rev;
                (flow.export_time, port, record.end_reason.name(), packets, record.start_time.0)
            })
            .collect();
        found.sort_unstable();
        prop_assert_eq!(found, expected(&packets, idle, active));
    }

    /// Whatever comes, every packet is in exactly one record, the books balance, and nothing is left behind.
    #[test]
    fn the_books_balance_whatever_comes(
        steps in prop::collection::vec(
            (-3_i64..20, 0_u8..12, any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)),
            1..150,
        ),
        flows in 1_usize..6,
    ) {
        let mut bench = Bench::new(|settings| {
            settings.flows = flows;
            settings.knows_offload = flows % 2 == 0;
            settings.sessions = 3;
            settings.stream_bytes = 3 * EARLY_BYTES;
            settings.stream_bytes_per_direction = 2 * EARLY_BYTES;
            settings.datagrams = 2;
            settings.datagram_bytes = 2 * PIECE_BYTES + 20;
        });
        let mut time = 0;
        let count = steps.len() as u64;
        for (step, kind, number, detail, payload) in steps {
            time += step * SECOND;
            let mut frame = match kind {
                0..6 => {
                    let flags = u16::from(detail & 0x17);
                    Frame::tcp(flags, u32::from(number), u32::from(detail))
                }
                6..8 => Frame::udp(u16::from(number % 4), 53),
                8 => Frame::new(1, Transport::Icmp { kind: number, code: detail }, 0, 0),
                _ => {
                    let frame = fragment(&Frame::udp(u16::from(number % 2), 53), detail % 2 == 0);
                    let fragment = Fragment {
                        identification: u32::from(number % 3),
                        offset: if detail % 2 == 0 { 0 } else { u32::from(detail) / 8 * 8 + 8 },
                        length: payload.len() as u32 + if detail % 2 == 0 { 8 } else { 0 },
                        more: detail % 3 != 0,
                    };
                    Frame { fragment: Some(fragment), ..frame }
                }
            };
            frame.payload = payload;
            frame.faults = number & detail & 0x1f;
            frame.tunnel = (detail >> 6 == 1).then_some(Tunnel::Gre);
            frame.vlan = (detail == 3).then_some(4);
            bench.at(time, &if number % 2 == 0 { frame } else { frame.back() });
            prop_assert!(bench.meter.flows() <= flows);
        }
        bench.flush();
        let metered: u64 = bench.ends().iter().map(|(_, packets)| packets).sum();
        prop_assert_eq!(metered, count);
        prop_assert_eq!(bench.meter.tally().frames_metered, count);
        for record in bench.records() {
            prop_assert!(record.start_time <= record.end_time);
            let packets = record.packets_fwd + record.packets_rev;
            prop_assert_eq!(record.splt_lengths.as_ref().map(Vec::len), Some(packets.min(20) as usize));
        }
    }
}
