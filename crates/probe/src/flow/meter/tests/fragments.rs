//! Fragments, and the datagrams that they are of.

use super::*;

#[test]
fn fragments_count_for_their_datagrams_flow() {
    for order in [[true, false], [false, true]] {
        let mut bench = Bench::new(|_| {});
        bench.at(0, &Frame::udp(7, 9).payload(b"before"));
        for (number, first) in order.into_iter().enumerate() {
            bench.at(
                10 + number as i64,
                &fragment(&Frame::udp(7, 9).payload(b"01234567"), first),
            );
        }
        bench.flush();
        assert_eq!(bench.ends(), [("forced_end", 3)]);
        assert_eq!(bench.records()[0].fragments, 2);
        assert_eq!(bench.meter.tally().datagrams_reassembled, 1);
    }
}

#[test]
fn a_fragment_longer_than_its_frame_is_none_of_its_datagram() {
    let pieces = [true, false].map(|first| fragment(&Frame::udp(7, 9).payload(b"01234567"), first));
    for (decoy, expected) in [(0, 1), (1, 2)] {
        let mut bench = live();
        let fake = Frame {
            payload: b"decoyed!".to_vec(),
            ..pieces[decoy].clone()
        };
        let fake = fake.with_fault(Fault::IpLongerThanFrame);
        bench.at(0, &fake);
        bench.at(10, &pieces[0]);
        bench.at(15, &fake);
        bench.at(20, &pieces[1]);
        bench.flush();
        assert_eq!(bench.meter.tally().datagrams_reassembled, 1);
        assert_eq!(bench.meter.tally().packets_disregarded.total(), 2);
        // A later one that comes before the first is of nobody.
        assert_eq!(bench.flows().len(), expected);
    }
}

#[test]
fn the_type_of_an_icmp_message_is_its_first_fragments() {
    let echo = Frame::new(1, Transport::Icmp { kind: 8, code: 0 }, 0, 0).payload(b"01234567");
    let id_after = |frames: &[Frame]| {
        let mut bench = Bench::new(|_| {});
        for (time, frame) in frames.iter().enumerate() {
            bench.at(time as i64, frame);
        }
        bench.flush();
        assert_eq!(bench.flows().len(), 1);
        bench.records()[0].community_id
    };
    let whole = id_after(std::slice::from_ref(&echo));
    let (first, second) = (fragment(&echo, true), fragment(&echo, false));
    assert_eq!(id_after(&[first.clone(), second.clone()]), whole);
    assert_eq!(id_after(&[second.clone(), first]), whole);
    // What the other side sends is another type.
    let answer = Frame::new(1, Transport::Icmp { kind: 0, code: 0 }, 0, 0).back();
    assert_eq!(id_after(&[echo, answer.clone()]), whole);
    // Given up after a while, and then a message that shows its type.
    let mut bench = Bench::new(|_| {});
    bench.at(0, &second);
    bench.at(31 * SECOND, &answer);
    bench.at(
        32 * SECOND,
        &Frame::new(1, Transport::Icmp { kind: 8, code: 0 }, 0, 0),
    );
    bench.flush();
    assert_eq!(bench.ends(), [("forced_end", 3)]);
    assert_eq!(bench.records()[0].community_id, whole);
}

#[test]
fn orphaned_fragments_are_a_flow_without_ports() {
    let mut bench = Bench::new(|_| {});
    bench.at(5, &fragment(&Frame::udp(7, 9).payload(b"x"), false));
    bench.at(10, &fragment(&Frame::udp(7, 9).payload(b"x"), false));
    bench.at(31 * SECOND, &Frame::udp(1, 2));
    assert_eq!(bench.meter.tally().frames_metered, 3);
    bench.at(332 * SECOND, &Frame::udp(1, 2));
    assert_eq!(bench.ends()[0], ("idle_timeout", 2));
    assert_eq!(
        bench.export_times()[0],
        5 + 330 * SECOND,
        "idle since it was metered"
    );
    let record = bench.records()[0];
    assert_eq!((record.src_port, record.start_time.0), (0, 5));
    bench.at(333 * SECOND, &fragment(&Frame::udp(7, 9).payload(b"x"), false));
    bench.flush();
}
