use proptest::prelude::*;

use Direction::{Forward, Reverse};

use super::*;

const SECOND: i64 = 1_000_000_000;

/// Packets as (seconds, direction, payload length).
fn features(packets: &[(f64, Direction, u32)]) -> Features {
    let mut accumulator = Accumulator::default();
    let mut room = Room::new(usize::MAX);
    for (seconds, direction, payload_length) in packets {
        let packet = Observed {
            direction: *direction,
            time: (seconds * SECOND as f64) as i64,
            payload_length: *payload_length,
            header_length: 40,
            flags: 0x12,
        };
        accumulator.observe(&packet, &mut room).unwrap();
    }
    accumulator.features(true)
}

#[test]
fn one_packet_has_lengths_and_no_times() {
    let one = features(&[(7.0, Reverse, 20)]);
    assert_eq!((one.payload_length_min, one.payload_length_max_fwd), (20, None));
    assert_eq!(one.payload_length_stddev_rev, Some(0.0));
    assert_eq!(
        (one.payload_length_dispersion, one.payload_length_switching_ratio),
        (None, None)
    );
    assert_eq!((one.subflows, one.idle_min_ns, one.active_max_ns), (1, None, 0));
    assert_eq!(
        (one.tcp_syn_packets_fwd, one.tcp_syn_packets_rev),
        (Some(0), Some(1))
    );
    assert_eq!(
        (one.splt_payload_lengths, one.splt_tcp_flags),
        (vec![20], Some(vec![0x12]))
    );
    assert_eq!(
        (one.header_length_min_fwd, one.header_length_min_rev),
        (None, Some(40))
    );
}

#[test]
fn bulks_end_with_the_other_directions_payload_or_a_second_without() {
    let bulk = |gap: f64| (0..5).map(move |number| (f64::from(number) * gap, Forward, 100));
    let of = |packets: &[(f64, Direction, u32)]| {
        let found = features(packets);
        (
            found.bulks_fwd,
            found.bulk_packets_fwd,
            found.bulk_bytes_fwd,
            found.bulk_duration_fwd_ns,
        )
    };
    let second: Vec<_> = bulk(1.0).collect();
    assert_eq!(
        of(&second),
        (1, 5, 500, 4_000_000_000),
        "a second apart is together"
    );
    let longer: Vec<_> = bulk(1.1).collect();
    assert_eq!(of(&longer), (0, 0, 0, 0));
    let mut acknowledged = second.clone();
    acknowledged.insert(3, (2.5, Reverse, 0));
    assert_eq!(
        of(&acknowledged),
        (1, 5, 500, 4_000_000_000),
        "an acknowledgement is no payload"
    );
    acknowledged[3].2 = 1;
    assert_eq!(of(&acknowledged), (0, 0, 0, 0));
}

#[test]
fn bursts_are_of_one_direction_whatever_the_other_sends() {
    let mut packets = vec![
        (0.0, Forward, 1),
        (0.5, Reverse, 9),
        (0.9, Forward, 2),
        (1.8, Forward, 3),
    ];
    packets.extend([(2.8, Forward, 4), (9.0, Forward, 0), (9.0, Reverse, 8)]);
    let found = features(&packets);
    assert_eq!(
        (found.bursts_fwd, found.bursts_rev),
        (1, 0),
        "a second apart is not together"
    );
    assert_eq!(
        (found.burst_packets_fwd, found.burst_bytes_fwd),
        (vec![3], vec![6])
    );
    assert_eq!(
        (found.burst_starts_fwd_ns, found.burst_ends_fwd_ns),
        (vec![0], vec![1_800_000_000])
    );
    assert_eq!(found.payload_interval_histogram_fwd, [0, 0, 0, 0, 0, 0, 3, 0]);
    assert_eq!(found.payload_interval_histogram_rev, [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(found.payload_length_histogram_fwd, [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((found.payload_packets_fwd, found.payload_packets_rev), (4, 2));
}

#[test]
fn the_first_bursts_are_listed_and_all_are_counted() {
    let packets: Vec<_> = (0..60)
        .map(|number| (f64::from(number / 3 * 10), Reverse, 1 + number as u32 / 3))
        .collect();
    let found = features(&packets);
    assert_eq!(
        (found.bursts_rev, found.burst_bytes_rev.len()),
        (20, BURSTS_LISTED)
    );
    assert_eq!(
        (found.burst_bytes_rev[14], found.burst_starts_rev_ns[14]),
        (45, 140_000_000_000)
    );
}

#[test]
fn subflows_and_active_periods_are_apart_by_their_limits() {
    let found = features(&[
        (0.0, Forward, 0),
        (1.0, Reverse, 0),
        (2.5, Forward, 0),
        (7.5, Forward, 0),
        (13.0, Forward, 0),
    ]);
    assert_eq!(found.subflows, 4);
    assert_eq!((found.idle_periods, found.idle_max_ns), (1, Some(5_500_000_000)));
    assert_eq!((found.active_min_ns, found.active_max_ns), (0, 7_500_000_000));
    assert_eq!(found.relative_time_mean_ns.to_bits(), 4_800_000_000_f64.to_bits());
}

#[test]
fn bins_begin_at_powers_of_two() {
    let bin = |value| {
        let mut histogram = [0; BINS];
        count(&mut histogram, value);
        histogram.iter().position(|count| *count == 1).unwrap()
    };
    let found = [0, 15, 16, 31, 32, 127, 128, 1023, 1024, u64::MAX].map(bin);
    assert_eq!(found, [0, 0, 1, 1, 2, 3, 4, 6, 7, 7]);
}

#[test]
fn a_burst_that_finds_no_room_says_so() {
    let mut room = Room::new(0);
    let mut accumulator = Accumulator::default();
    let mut at = |seconds: i64| {
        let packet = Observed {
            direction: Forward,
            time: seconds * SECOND,
            payload_length: 1,
            header_length: 28,
            flags: 0,
        };
        accumulator.observe(&packet, &mut room)
    };
    assert!([0, 0, 0].into_iter().all(|seconds| at(seconds).is_ok()));
    assert_eq!(at(10), Err(PoolFull));
}

#[test]
fn lengths_of_a_mebibyte_have_no_kurtosis() {
    let found = features(&[
        (0.0, Forward, u32::MAX),
        (0.0, Forward, u32::MAX),
        (0.0, Reverse, 0),
    ]);
    assert_eq!(found.payload_length_kurtosis, None);
    assert_eq!(found.payload_length_max, u32::MAX);
    let below = features(&[(0.0, Forward, KURTOSIS_LENGTH_LIMIT - 1), (0.0, Reverse, 0)]);
    assert_eq!(below.payload_length_kurtosis, Some(1.0));
}

proptest! {
    #[test]
    fn kurtosis_agrees_with_the_textbook(values in prop::collection::vec(0_u64..1 << 20, 2..60), base in 0_u64..1 << 19) {
        // Once widely spread, once close together and far from zero.
        for values in [values.clone(), values.iter().map(|value| base + value % 3).collect()] {
            let count = values.len() as f64;
            let powers = [1, 2, 3, 4].map(|power| values.iter().map(|value| u128::from(*value).pow(power)).sum());
            let mean = values.iter().sum::<u64>() as f64 / count;
            let moment = |power| values.iter().map(|value| (*value as f64 - mean).powi(power)).sum::<f64>() / count;
            let (second, fourth) = (moment(2), moment(4));
            if second > 1e-9 {
                let expected = fourth / (second * second);
                let found = kurtosis(values.len() as u64, powers);
                prop_assert!((found - expected).abs() <= 1e-6 * expected, "{found} {expected}");
            }
        }
    }
}
