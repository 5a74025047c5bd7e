use super::store::ACCUMULATOR_BYTES;
use crate::flow::meter::tests::{Bench, Frame, SECOND};
use crate::flow::tcp::{ACK, RST, SYN};
use crate::flow::{Features, Profile, Shed};

fn full(change: impl FnOnce(&mut crate::flow::Settings)) -> Bench {
    Bench::new(|settings| {
        settings.profile = Profile::Full;
        change(settings);
    })
}

fn features(bench: &Bench) -> Vec<Option<Features>> {
    let flows = bench.flows();
    flows
        .iter()
        .map(|flow| flow.features.as_deref().cloned())
        .collect()
}

#[test]
fn only_the_full_profile_has_features() {
    for profile in [Profile::Minimal, Profile::Standard] {
        let mut bench = Bench::new(|settings| settings.profile = profile);
        for time in 0..3 {
            bench.at(time, &Frame::udp(1, 2).payload(b"x"));
        }
        bench.flush();
        assert_eq!(features(&bench), [None], "{profile}");
        assert_eq!(bench.meter.feature_bytes(), 0);
    }
}

#[test]
fn a_record_of_one_packet_takes_no_memory() {
    let mut bench = full(|_| {});
    bench.at(0, &Frame::tcp(RST | ACK, 1, 1).payload(b"four"));
    bench.flush();
    assert_eq!(bench.meter.feature_bytes(), 0);
    let [Some(found)] = &features(&bench)[..] else {
        panic!("one record with features");
    };
    assert_eq!(
        (found.tcp_rst_packets_fwd, found.payload_length_max_fwd),
        (Some(1), Some(4))
    );
    assert_eq!(found.header_length_min_fwd, Some(40));
}

#[test]
fn each_part_of_a_flow_has_its_own_and_memory_is_used_again() {
    let mut bench = full(|settings| {
        settings.idle_timeout_ns = 10 * SECOND;
        settings.active_timeout_ns = 10 * SECOND;
    });
    for part in 0..3 {
        for packet in 0..4 {
            bench.at(
                (part * 11 + packet) * SECOND,
                &Frame::tcp(ACK, 1, 1).payload(b"12"),
            );
        }
        let other = bench.clock;
        bench.at(other, &Frame::udp(1, 2));
    }
    bench.flush();
    let parts: Vec<_> = features(&bench)
        .into_iter()
        .flatten()
        .filter_map(|found| found.tcp_ack_packets_fwd)
        .collect();
    assert_eq!(parts, [4, 4, 4]);
    assert!(
        bench.meter.feature_bytes() <= 2 * ACCUMULATOR_BYTES,
        "{}",
        bench.meter.feature_bytes()
    );
}

#[test]
fn another_connection_on_the_same_ports_begins_anew() {
    let mut bench = full(|_| {});
    for sequence in [100, 900] {
        bench.at(1, &Frame::tcp(SYN, sequence, 0));
        bench.at(1, &Frame::tcp(SYN | ACK, 5, sequence + 1).back());
        bench.at(2, &Frame::tcp(RST, sequence + 1, 0));
    }
    bench.flush();
    for found in features(&bench) {
        let found = found.unwrap();
        assert_eq!(found.splt_tcp_flags, Some(vec![SYN, SYN | ACK, RST]));
        assert_eq!(
            (found.tcp_syn_packets_fwd, found.tcp_syn_packets_rev),
            (Some(1), Some(1))
        );
    }
}

#[test]
fn features_find_room_or_are_counted() {
    let mut bench = full(|settings| settings.memory_bytes = 2 * ACCUMULATOR_BYTES);
    for port in 1..=2 {
        for time in 0..3 {
            bench.at(time, &Frame::udp(port, 9));
        }
    }
    bench.flush();
    assert_eq!(bench.meter.tally().features_refused, 1);
    let found = features(&bench);
    assert_eq!(found.iter().flatten().count(), 1);
    assert!(bench.records().iter().all(|record| record.shed.is_none()));
}

#[test]
fn features_grow_within_the_shared_budget() {
    let mut bench = full(|settings| settings.memory_bytes = 64 * ACCUMULATOR_BYTES);
    for port in 1..=100 {
        bench.at(i64::from(port), &Frame::udp(port, 9));
        bench.at(i64::from(port), &Frame::udp(port, 9));
        bench.meter.settle();
    }
    let bytes = bench.meter.feature_bytes();
    assert!(
        (ACCUMULATOR_BYTES..=32 * ACCUMULATOR_BYTES).contains(&bytes),
        "{bytes}"
    );
    bench.flush();
    let computed = features(&bench).iter().flatten().count() as u64;
    assert_eq!(computed + bench.meter.tally().features_refused, 100);
}

#[test]
fn what_is_shed_for_a_while_has_no_features_and_gives_its_memory_back() {
    let mut bench = full(|_| {});
    for packet in 0..4 {
        let shed = if packet == 2 {
            Shed::Statistics
        } else {
            Shed::Nothing
        };
        bench.meter.set_duty(Profile::Full, shed);
        bench.at(packet, &Frame::udp(1, 2));
    }
    bench.at(5, &Frame::udp(3, 4));
    bench.at(5, &Frame::udp(3, 4));
    bench.flush();
    let found = features(&bench);
    assert_eq!(
        found.iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(bench.records()[0].shed, Some("statistics"));
    assert!(bench.meter.holds_no_features());
}
