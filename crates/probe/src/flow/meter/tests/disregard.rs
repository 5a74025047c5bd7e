//! What every receiver discards.

use super::*;

/// What is kept of a connection's state in its record, and how many packets were disregarded.
fn state_after(mut bench: Bench, frames: &[Frame]) -> (&'static str, u64, u32, u32, u64) {
    handshake(&mut bench, 0);
    for frame in frames {
        bench.at(60, frame);
    }
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(b"real"));
    bench.flush();
    let record = bench.records()[0];
    (
        record.end_reason.name(),
        record.packets_fwd + record.packets_rev,
        record.tcp_retransmissions_fwd.unwrap(),
        record.tcp_out_of_order_fwd.unwrap(),
        bench.meter.tally().packets_disregarded.total(),
    )
}

#[test]
fn what_every_receiver_discards_is_counted_and_changes_nothing() {
    let decoy = |flags| Frame::tcp(flags, 101, 501).payload(b"fake");
    for bench in [live, offline] {
        assert_eq!(
            state_after(bench(), &[decoy(ACK)]),
            ("forced_end", 5, 1, 0, 0),
            "taken"
        );
        for flags in [0, FIN, 0x08, FIN | 0x20 | 0x08] {
            assert_eq!(
                state_after(bench(), &[decoy(flags)]),
                ("forced_end", 5, 0, 0, 1),
                "{flags:#x}"
            );
        }
        for flags in [SYN, RST | 0x08, SYN | FIN] {
            let frame = Frame::tcp(flags, 101, 0);
            assert_eq!(state_after(bench(), &[frame]).4, 0, "{flags:#x}");
        }
    }
    for fault in [
        Fault::BadIpChecksum,
        Fault::BadTransportChecksum,
        Fault::IpLongerThanFrame,
    ] {
        assert_eq!(
            state_after(live(), &[decoy(ACK).with_fault(fault)]),
            ("forced_end", 5, 0, 0, 1)
        );
        let resets = [Frame::tcp(RST, 101, 0), Frame::tcp(RST, 501, 0).back()];
        assert_eq!(
            state_after(live(), &resets.map(|frame| frame.with_fault(fault))),
            ("forced_end", 6, 0, 0, 2)
        );
    }
}

#[test]
fn a_fault_is_no_decoy_in_a_file_or_a_tunnel() {
    for fault in [
        Fault::BadIpChecksum,
        Fault::BadTransportChecksum,
        Fault::IpLongerThanFrame,
    ] {
        let bad = || Frame::tcp(ACK, 101, 501).payload(b"data").with_fault(fault);
        assert_eq!(state_after(offline(), &[bad()]), ("forced_end", 5, 1, 0, 0));
        let inside = Frame {
            tunnel: Some(Tunnel::Vxlan),
            ..bad()
        };
        assert_eq!(state_after(live(), &[inside]), ("forced_end", 5, 1, 0, 0));
    }
}

#[test]
fn the_checksum_and_the_length_of_a_datagram_say_nothing_of_its_fragments() {
    for fault in [Fault::BadIpChecksum, Fault::BadTransportHeader] {
        let first = fragment(&Frame::udp(1, 2).payload(&[0; 8]), true).with_fault(fault);
        let mut bench = live();
        bench.at(0, &first);
        bench.flush();
        assert_eq!(bench.meter.tally().packets_disregarded.total(), 0);
    }
}

#[test]
fn what_is_disregarded_is_told() {
    let mut bench = live();
    handshake(&mut bench, 0);
    let reset = Frame::tcp(RST | ACK, 501, 101).back();
    bench.at(60, &reset.with_fault(Fault::BadTransportChecksum));
    bench.at(70, &Frame::tcp(FIN, 101, 0));
    let beyond = Frame::udp(1, 2).payload(b"x");
    bench.at(80, &beyond.clone().with_fault(Fault::BadTransportHeader));
    bench.at(90, &beyond.with_fault(Fault::IpLongerThanFrame));
    bench.flush();
    let tally = &bench.meter.tally().packets_disregarded;
    assert_eq!(
        Disregard::ALL
            .iter()
            .map(|reason| tally.get(*reason))
            .collect::<Vec<_>>(),
        [1, 1, 1, 1]
    );
    let record = bench
        .records()
        .into_iter()
        .find(|record| record.ip_protocol == 6)
        .unwrap();
    assert_eq!(
        (record.tcp_flags_fwd, record.tcp_flags_rev, record.checksum_errors),
        (Some(SYN | ACK | FIN), Some(SYN | ACK | RST), 1)
    );
}

#[test]
fn a_syn_that_is_discarded_opens_no_connection() {
    let mut bench = live();
    handshake(&mut bench, 0);
    bench.at(60, &Frame::tcp(FIN | ACK, 101, 501));
    bench.at(
        70,
        &Frame::tcp(SYN, 9000, 0).with_fault(Fault::BadTransportChecksum),
    );
    bench.flush();
    assert_eq!(bench.ends(), [("forced_end", 5)]);
}

/// Segments that are disregarded live.
fn decoys() -> Vec<Frame> {
    let flags = [SYN, SYN | ACK, ACK, FIN | ACK, RST];
    let mut decoys: Vec<_> = flags
        .map(|flags| Frame::tcp(flags, 77, 88).with_fault(Fault::BadTransportChecksum))
        .into();
    decoys.extend([0, 0x08].map(|flags| Frame::tcp(flags, 77, 0).payload(b"fake")));
    let unreadable = Frame::new(6, Transport::Other, 1000, 2000);
    decoys.push(unreadable.with_fault(Fault::BadTransportHeader));
    decoys
}

#[test]
fn a_connection_begins_with_the_first_segment_that_is_taken() {
    for decoy in decoys()
        .into_iter()
        .flat_map(|decoy| [decoy.clone(), decoy.back()])
    {
        let mut bench = live();
        bench.at(0, &decoy);
        bench.at(5, &Frame::tcp(0x08, 78, 0));
        handshake(&mut bench, 10);
        bench.at(70, &Frame::tcp(FIN | ACK, 101, 501));
        bench.at(80, &Frame::tcp(FIN | ACK, 501, 102).back());
        bench.at(90, &Frame::tcp(ACK, 102, 502));
        bench.flush();
        assert_eq!(
            bench.ends(),
            [("end_of_flow", 2), ("end_of_flow", 6)],
            "{decoy:?}"
        );
        let records = bench.records();
        assert_eq!(
            (records[0].direction_basis, records[0].src_port),
            (Basis::FirstPacket, decoy.source.1),
            "{decoy:?}"
        );
        let record = records[1];
        assert_eq!(
            (record.direction_basis, record.src_port, record.packets_rev),
            (Basis::Syn, 1000, 2),
            "{decoy:?}"
        );
        assert_eq!(
            (
                record.tcp_handshake_rtt_server_ns,
                record.tcp_handshake_rtt_client_ns,
                record.tcp_ports_reused
            ),
            (Some(30), Some(20), Some(false)),
            "{decoy:?}"
        );
    }
}

#[test]
fn a_syn_ack_after_what_is_disregarded_tells_the_initiator() {
    for decoy in decoys() {
        let mut bench = live();
        bench.at(0, &decoy);
        bench.at(10, &Frame::tcp(SYN | ACK, 500, 101).back());
        bench.at(20, &Frame::tcp(ACK, 101, 501));
        bench.flush();
        assert_eq!(bench.ends(), [("end_of_flow", 1), ("forced_end", 2)], "{decoy:?}");
        let record = bench.records()[1];
        assert_eq!(
            (record.direction_basis, record.src_port, record.tcp_ports_reused),
            (Basis::SynAck, 1000, Some(false)),
            "{decoy:?}"
        );
    }
}

#[test]
fn what_is_disregarded_first_cuts_no_connection_that_goes_on() {
    let mut bench = live();
    bench.at(0, &Frame::tcp(0x08, 101, 0));
    bench.at(10, &Frame::tcp(ACK, 101, 501));
    bench.at(20, &Frame::tcp(SYN, 7777, 0)); // a stray one on a live connection
    bench.flush();
    assert_eq!(bench.ends(), [("forced_end", 3)]);
    // Nothing tells that a segment whose header was not captured is not the SYN itself.
    let mut bench = live();
    bench.at(0, &Frame::new(6, Transport::Other, 1000, 2000));
    handshake(&mut bench, 10);
    bench.flush();
    assert_eq!(bench.ends(), [("forced_end", 4)]);
    // A RST that is taken ends what there was, as without the others.
    let mut bench = live();
    bench.at(0, &Frame::tcp(0x08, 101, 0));
    bench.at(10, &Frame::tcp(RST, 101, 0));
    handshake(&mut bench, 20);
    bench.flush();
    assert_eq!(bench.ends(), [("reset", 2), ("forced_end", 3)]);
    assert_eq!(bench.records()[1].tcp_ports_reused, Some(true));
}

#[test]
fn the_sequence_numbers_of_a_segment_without_ack_go_on_in_no_fragment() {
    let mut bench = offline();
    handshake(&mut bench, 0);
    let part = |offset: u32, more: bool| {
        let mut frame = Frame::tcp(0x08, 101, 0).payload(&[0; 32]);
        let length = if offset == 0 { 52 } else { 32 };
        if offset > 0 {
            frame.transport = Transport::Other;
        }
        frame.fragment = Some(Fragment {
            identification: 3,
            offset,
            length,
            more,
        });
        frame
    };
    bench.at(60, &part(0, true));
    bench.at(61, &part(52, false));
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(b"real"));
    bench.flush();
    assert_eq!(bench.records()[0].tcp_retransmissions_fwd, Some(0));
    assert_eq!(bench.meter.tally().packets_disregarded.total(), 1);
}
