//! What layer 7 gets of packets, and what it may keep.

use super::*;
use crate::flow::layer7;

/// A DNS answer: www.example.com is 10.0.0.2.
fn dns_answer() -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend(b"\x03www\x07example\x03com\x00\x00\x01\x00\x01");
    message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x02");
    message
}

#[test]
fn dns_answers_become_facts() {
    let mut bench = Bench::new(|_| {});
    bench.at(0, &Frame::udp(4000, 53).payload(&dns_query()));
    bench.at(10, &Frame::udp(4000, 53).back().payload(&dns_answer()));
    let answers: Vec<_> = bench
        .events
        .iter()
        .filter_map(|event| {
            if let Event::Answer(answer) = event {
                Some(answer.clone())
            } else {
                None
            }
        })
        .collect();
    let expected = Answer {
        epoch: 0,
        clock: 10,
        frame: 2,
        time: 10,
        client: A,
        address: B,
        name: "www.example.com".into(),
    };
    assert_eq!(answers, [expected]);
    bench.flush();
    let record = bench.records()[0];
    assert_eq!(
        (record.app, record.server_name.as_deref()),
        (Some("dns"), Some("www.example.com"))
    );
    assert_ne!(record.app_confidence, AppConfidence::Port);
    assert!(bench.flows()[0].session.is_some());
}

/// A DNS answer: this host of example.com has so many addresses, which end in its number.
fn dns_answer_of(host: u8, addresses: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 0x81, 0x80, 0, 1, 0, addresses, 0, 0, 0, 0];
    message.push(4);
    message.extend(format!("h{host:03}").bytes());
    message.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
    for number in 0..addresses {
        message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x01");
        message.extend([number, host]);
    }
    message
}

/// The names of the answers that were told.
fn learned(bench: &Bench) -> Vec<&str> {
    let answers = bench.events.iter();
    answers
        .filter_map(|event| match event {
            Event::Answer(answer) => Some(&*answer.name),
            _ => None,
        })
        .collect()
}

#[test]
fn a_resolver_that_asks_from_one_port_learns_all_names() {
    let mut bench = Bench::new(|_| {});
    for host in 0..200 {
        let answer = dns_answer_of(host, 1);
        bench.at(i64::from(host), &Frame::udp(53, 53).back().payload(&answer));
    }
    let expected: Vec<_> = (0..200).map(|host| format!("h{host:03}.example.com")).collect();
    assert_eq!(learned(&bench), expected);
    assert_eq!(bench.meter.tally().names_refused, 0);
    bench.at(200, &Frame::udp(53, 53).back().payload(&dns_answer_of(200, 70)));
    assert_eq!(learned(&bench).len(), 264);
    assert_eq!(bench.meter.tally().names_refused, 6);
}

#[test]
fn names_that_come_with_the_end_of_a_flow_are_counted() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    let answer = dns_answer_of(1, 1);
    let framed = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
    let stream = framed.repeat(3);
    // Ten bytes are missing in the middle of the second message.
    let (head, tail) = (framed.len() + 10, framed.len() + 20);
    let at = |place: usize| Frame::tcp(ACK, 501 + place as u32, 101).back();
    bench.at(60, &at(0).payload(&stream[..head]));
    bench.at(70, &at(tail).payload(&stream[tail..]));
    assert_eq!(learned(&bench).len(), 1);
    bench.flush();
    assert_eq!((learned(&bench).len(), bench.meter.tally().names_refused), (1, 1));
}

fn dns_query() -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x03www\x07example\x03com\x00\x00\x01\x00\x01");
    message
}

#[test]
fn layer_7_reads_streams_in_any_order_and_over_fragments() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(
        60,
        &Frame::tcp(ACK, 111, 501).payload(b"HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    );
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(b"GET /path "));
    bench.at(
        80,
        &Frame::tcp(ACK, 501, 140)
            .back()
            .payload(b"HTTP/1.1 204 No Content\r\n\r\n"),
    );
    bench.flush();
    let record = bench.records()[0];
    assert_eq!(
        (record.app, record.server_name.as_deref()),
        (Some("http"), Some("a.example"))
    );

    let mut bench = Bench::new(|_| {});
    let answer = dns_answer();
    let mut pieces = [&answer[..16], &answer[16..]].map(|piece| Frame::udp(4000, 53).back().payload(piece));
    pieces[0].fragment = Some(Fragment {
        identification: 9,
        offset: 0,
        length: 24,
        more: true,
    });
    pieces[1].fragment = Some(Fragment {
        identification: 9,
        offset: 24,
        length: answer.len() as u32 - 16,
        more: false,
    });
    pieces[1].transport = Transport::Other;
    (pieces[1].source.1, pieces[1].destination.1) = (0, 0);
    bench.at(0, &Frame::udp(4000, 53).payload(&dns_query()));
    bench.at(1, &pieces[1]);
    bench.at(2, &pieces[0]);
    assert!(matches!(&bench.events[..], [Event::Answer(answer)] if &*answer.name == "www.example.com"));
    bench.flush();
    assert_eq!(bench.ends(), [("forced_end", 3)]);
}

/// The client's ACK tells that the rest of an answer was there, and releases it.
#[test]
fn an_answer_that_an_acknowledgement_releases_is_the_clients() {
    let answer = dns_answer_of(1, 1);
    let framed = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
    let stream = framed.repeat(3);
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    // Some of the second was not captured.
    let (head, tail) = (framed.len() + 10, framed.len() + 20);
    let at = |place: usize| Frame::tcp(ACK, 501 + place as u32, 101).back();
    bench.at(60, &at(0).payload(&stream[..head]));
    bench.at(70, &at(tail).payload(&stream[tail..]));
    assert_eq!(learned(&bench).len(), 1);
    bench.at(80, &Frame::tcp(ACK, 101, 501 + stream.len() as u32));
    let clients: Vec<_> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Answer(answer) => Some(answer.client),
            _ => None,
        })
        .collect();
    assert_eq!(clients, [A, A]);
    bench.flush();
}

/// What a server says later may look like what it begins with, and holds names.
#[test]
fn a_greeting_is_known_only_where_the_start_of_the_stream_was_seen() {
    let greeting_is_kept = |handshake_seen: bool| {
        let mut bench = Bench::new(|_| {});
        if handshake_seen {
            handshake(&mut bench, 0);
        }
        let line = b"220 bob@example.org, welcome to ESMTP\r\n";
        bench.at(60, &Frame::tcp(ACK, 501, 101).back().payload(line));
        bench.at(70, &Frame::tcp(ACK, 101, 540).payload(b"EHLO me\r\n"));
        bench.flush();
        assert_eq!(bench.records()[0].app, Some("smtp"));
        format!("{:?}", bench.flows()[0].session).contains("bob@example.org")
    };
    assert!(greeting_is_kept(true));
    assert!(!greeting_is_kept(false));
}

#[test]
fn a_cut_before_the_first_payload_leaves_the_start_of_the_stream() {
    let mut bench = Bench::new(|settings| {
        settings.idle_timeout_ns = 60 * SECOND;
        settings.active_timeout_ns = 60 * SECOND;
    });
    handshake(&mut bench, 0);
    bench.at(50 * SECOND, &Frame::tcp(ACK, 100, 501)); // a keep-alive
    let line = b"220 bob@example.org, welcome to ESMTP\r\n";
    bench.at(70 * SECOND, &Frame::tcp(ACK, 501, 101).back().payload(line));
    bench.at(71 * SECOND, &Frame::tcp(ACK, 101, 540).payload(b"EHLO me\r\n"));
    bench.flush();
    assert_eq!(bench.ends(), [("active_timeout", 4), ("forced_end", 2)]);
    assert!(format!("{:?}", bench.flows()[1].session).contains("bob@example.org"));
}

/// A segment of HTTP in three fragments, and what follows it.
#[test]
fn a_tcp_segment_in_fragments_is_one_segment() {
    let text = b"GET / HTTP/1.1\r\nHost: fragments.example\r\n\r\n";
    let piece = |flags, from: usize, to: usize| {
        let length = (to - from) as u32 + if from == 0 { 20 } else { 0 };
        let mut frame = Frame::tcp(flags, 101, 501).payload(&text[from..to]);
        frame.fragment = Some(Fragment {
            identification: 7,
            offset: if from == 0 { 0 } else { from as u32 + 20 },
            length,
            more: to < text.len(),
        });
        if from > 0 {
            (frame.source.1, frame.destination.1) = (0, 0);
            frame.transport = Transport::Other;
        }
        frame
    };
    let end = 101 + text.len() as u32;
    for (flags, order) in [
        (ACK, [0, 1, 2]),
        (ACK, [2, 1, 0]),
        (ACK | FIN, [0, 1, 2]),
        (ACK | FIN, [0, 2, 1]),
    ] {
        let mut bench = Bench::new(|settings| settings.profile = Profile::Full);
        bench.at(0, &Frame::tcp(SYN, 100, 0));
        bench.at(1, &Frame::tcp(SYN | ACK, 500, 101).back());
        bench.at(2, &Frame::tcp(ACK, 101, 501));
        let cuts = [0, 12, 28, text.len()];
        for (time, part) in order.into_iter().enumerate() {
            bench.at(3 + time as i64, &piece(flags, cuts[part], cuts[part + 1]));
        }
        let is_last = flags & FIN != 0;
        bench.at(10, &Frame::tcp(ACK, 501, end + u32::from(is_last)).back());
        // The FIN behind the last fragment ends the stream, as that of the other direction does.
        bench.at(10, &Frame::tcp(ACK | FIN, 501, end + u32::from(is_last)).back());
        assert_eq!(
            bench.meter.tally().sessions_done,
            u64::from(is_last && order[0] == 0),
            "{flags:#x} {order:?}"
        );
        if !is_last {
            bench.at(
                11,
                &Frame::tcp(ACK, end, 501).payload(b"GET /next HTTP/1.1\r\n\r\n"),
            );
        }
        bench.flush();
        let record = bench.records()[0];
        assert_eq!(
            (
                record.fragments,
                record.tcp_retransmissions_fwd,
                record.tcp_out_of_order_fwd,
                record.tcp_missed_bytes_fwd
            ),
            (3, Some(0), Some(0), Some(0)),
            "{flags:#x} {order:?}"
        );
        if order == [0, 1, 2] {
            assert_eq!(record.server_name.as_deref(), Some("fragments.example"));
        }
    }
}

#[test]
fn interim_records_carry_what_was_learned_so_far() {
    let mut bench = Bench::new(|settings| {
        settings.idle_timeout_ns = 10;
        settings.active_timeout_ns = 20;
    });
    for time in 0..30 {
        bench.at(time, &Frame::udp(4000, 53).payload(&dns_query()));
    }
    bench.flush();
    assert_eq!(bench.ends(), [("active_timeout", 21), ("forced_end", 9)]);
    for flow in bench.flows() {
        assert_eq!(flow.record.app, Some("dns"));
        assert!(flow.session.is_some());
    }
}

#[test]
fn sessions_are_bounded() {
    let mut bench = Bench::new(|settings| settings.sessions = 2);
    for port in 1..=4 {
        bench.at(i64::from(port), &Frame::udp(port, 53).payload(&dns_query()));
    }
    let tally = bench.meter.tally();
    assert_eq!(
        (
            tally.sessions_opened,
            tally.sessions_refused,
            tally.sessions_active
        ),
        (2, 2, 2)
    );
    bench.flush();
    let refused = bench
        .records()
        .iter()
        .filter(|record| record.app_confidence == AppConfidence::Port)
        .count();
    assert_eq!(refused, 2);
}

#[test]
fn the_text_of_sessions_is_bounded() {
    let limit = 4 * layer7::SESSION_BYTES;
    let mut bench = Bench::new(|settings| {
        settings.session_bytes = limit;
        // No room is left to grow into.
        settings.memory_bytes = 0;
    });
    // A query for a name of 4 labels of 60 bytes.
    let query = |number: u8| {
        let mut message = vec![0, number, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for _ in 0..4 {
            message.push(60);
            message.extend([b'a' + number % 26; 60]);
        }
        message.extend(b"\x00\x00\x01\x00\x01");
        message
    };
    for number in 0..60 {
        bench.at(i64::from(number), &Frame::udp(4000, 53).payload(&query(number)));
    }
    let bytes = bench.meter.desk.sessions.bytes();
    assert!((limit..limit + 4096).contains(&bytes), "{bytes}");
    assert_eq!(bench.meter.tally().sessions_out_of_memory, 1);
    bench.at(100, &Frame::udp(4001, 53).payload(&query(1)));
    assert_eq!(bench.meter.tally().sessions_refused, 1);
    bench.flush();
    assert_eq!(bench.meter.desk.sessions.bytes(), 0);
    assert_eq!(bench.records()[0].app, Some("dns"), "what was learned stays");
}

/// A DTLS record with a fragment of a ClientHello: number, length of the whole, offset, data.
fn dtls_fragment(number: u8, length: u32, offset: u32, data: &[u8]) -> Vec<u8> {
    let u24 = |value: u32| value.to_be_bytes()[1..].to_vec();
    let size = u24(data.len() as u32);
    let fragment = [&[1], &*u24(length), &[0, number], &u24(offset), &size, data].concat();
    let header = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, number];
    [&header, &(fragment.len() as u16).to_be_bytes()[..], &fragment].concat()
}

#[test]
fn unfinished_messages_are_of_what_was_received() {
    let mut bench = Bench::new(|settings| {
        settings.session_bytes = 1 << 20;
        settings.memory_bytes = 0;
    });
    let datagram: Vec<u8> = (0..4)
        .flat_map(|number| dtls_fragment(number, 32_768, 32_767, &[0]))
        .collect();
    for port in 0..50 {
        bench.at(i64::from(port), &Frame::udp(4000 + port, 443).payload(&datagram));
    }
    let bytes = bench.meter.desk.sessions.bytes();
    assert!(
        (50 * (layer7::SESSION_BYTES + 256)..50 * 4096).contains(&bytes),
        "{bytes}"
    );
    assert_eq!(bench.meter.tally().sessions_opened, 50);
    assert_eq!(bench.meter.tally().sessions_out_of_memory, 0);
    bench.flush();
    assert_eq!(bench.meter.desk.sessions.bytes(), 0);
}

#[test]
fn unfinished_messages_are_bounded_and_given_back() {
    let limit = 16 * layer7::SESSION_BYTES;
    let mut bench = Bench::new(|settings| {
        settings.session_bytes = limit;
        settings.memory_bytes = 0;
    });
    // Nothing of it is in a record.
    for number in 0_u32..30 {
        let datagram = dtls_fragment(0, 32_768, 1 + number * 1000, &[0; 1000]);
        bench.at(i64::from(number), &Frame::udp(4000, 443).payload(&datagram));
    }
    assert_eq!(bench.meter.tally().sessions_out_of_memory, 1);
    let bytes = bench.meter.desk.sessions.bytes();
    assert!(bytes < 4 * layer7::SESSION_BYTES, "{bytes}");
    bench.at(
        100,
        &Frame::udp(4001, 443).payload(&dtls_fragment(0, 2000, 0, &[0; 9])),
    );
    assert_eq!(bench.meter.tally().sessions_refused, 0, "there is room again");
    bench.flush();
    assert_eq!(bench.meter.desk.sessions.bytes(), 0);
    assert_eq!(bench.records()[0].app, Some("dtls"), "what was learned stays");
}

#[test]
fn layer_7_is_not_shown_what_every_receiver_discards() {
    let (first, second) = REAL.split_at(30);
    let name_after = |mut bench: Bench, decoy: Frame| {
        handshake(&mut bench, 0);
        bench.at(60, &decoy.payload(FAKE));
        // Out of order: the stream starts after its SYN, whatever came since.
        bench.at(70, &Frame::tcp(ACK, 131, 501).payload(second));
        bench.at(80, &Frame::tcp(ACK, 101, 501).payload(first));
        bench.flush();
        bench.records()[0].server_name.clone()
    };
    let decoy = |flags| Frame::tcp(flags, 101, 501);
    let real = Some("real.example".to_owned());
    assert_ne!(name_after(live(), decoy(ACK)), real);
    assert_eq!(name_after(live(), decoy(0x08)), real);
    assert_eq!(name_after(offline(), decoy(0x08)), real);
    for fault in [
        Fault::BadIpChecksum,
        Fault::BadTransportChecksum,
        Fault::IpLongerThanFrame,
    ] {
        assert_eq!(name_after(live(), decoy(ACK).with_fault(fault)), real);
    }
    // A SYN in an open connection, and what a SYN carries of which the answer takes nothing.
    for flags in [SYN, SYN | 0x08, SYN | ACK, SYN | ACK | FIN] {
        for sequence in [100, 101, 5000, 1 << 31] {
            let decoy = || Frame::tcp(flags, sequence, 501);
            assert_eq!(name_after(offline(), decoy()), real, "{flags:#x} {sequence}");
        }
    }
}

const FAKE: &[u8] = b"GET /public HTTP/1.1\r\nHost: fake.example\r\n\r\n";
const REAL: &[u8] = b"GET /secret HTTP/1.1\r\nHost: real.example\r\n\r\n";

/// What is called the server after these frames and a request.
fn name_after(frames: &[Frame], next: u32) -> Option<String> {
    let mut bench = offline();
    for (time, frame) in frames.iter().enumerate() {
        bench.at(time as i64, frame);
    }
    bench.at(60, &Frame::tcp(ACK, next, 501).payload(REAL));
    bench.flush();
    assert_eq!(bench.flows().len(), 1);
    bench.records()[0].server_name.clone()
}

#[test]
fn a_syn_without_payload_in_an_open_connection_hides_nothing() {
    let open = [
        Frame::tcp(SYN, 100, 0),
        Frame::tcp(SYN | ACK, 500, 101).back(),
        Frame::tcp(ACK, 101, 501),
    ];
    for stray in [
        Frame::tcp(SYN, 5000, 0),
        Frame::tcp(SYN | ACK, 5000, 501),
        Frame::tcp(SYN | ACK, 5000, 501).back(),
        Frame::tcp(FIN | ACK, 5000, 501),
    ] {
        let frames = [&open[..], std::slice::from_ref(&stray)].concat();
        assert_eq!(
            name_after(&frames, 101).as_deref(),
            Some("real.example"),
            "{stray:?}"
        );
        // Picked up midway.
        assert_eq!(
            name_after(&frames[2..], 101).as_deref(),
            Some("real.example"),
            "{stray:?}"
        );
    }
    // With payload, where the start of the stream was not seen.
    let midway = [Frame::tcp(ACK, 101, 501), Frame::tcp(SYN, 5000, 0).payload(FAKE)];
    assert_eq!(name_after(&midway, 101).as_deref(), Some("real.example"));
}

/// The number that it takes is that of the first byte.
#[test]
fn a_syn_with_fin_before_the_real_one_hides_no_byte() {
    let mut bench = offline();
    bench.at(0, &Frame::tcp(SYN | FIN, 100, 0));
    handshake(&mut bench, 10);
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(REAL));
    bench.flush();
    assert!(format!("{:?}", bench.flows()[0].session).contains("\"GET\""));
}

#[test]
fn what_a_syn_carries_is_read_if_the_answer_takes_it() {
    let end = 101 + FAKE.len() as u32;
    let frames = |acknowledged| {
        [
            Frame::tcp(SYN, 100, 0).payload(FAKE),
            Frame::tcp(SYN | ACK, 500, acknowledged).back(),
            Frame::tcp(ACK, acknowledged, 501),
        ]
    };
    assert_eq!(name_after(&frames(101), 101).as_deref(), Some("real.example"));
    assert_eq!(name_after(&frames(end), end).as_deref(), Some("fake.example"));
}

#[test]
fn the_fragments_of_a_syn_in_an_open_connection_are_not_read() {
    let mut frames = vec![
        Frame::tcp(SYN, 100, 0),
        Frame::tcp(SYN | ACK, 500, 101).back(),
        Frame::tcp(ACK, 101, 501),
    ];
    for (from, to) in [(0, 12), (12, FAKE.len())] {
        let mut frame = Frame::tcp(SYN | ACK, 100, 501).payload(&FAKE[from..to]);
        frame.fragment = Some(Fragment {
            identification: 7,
            offset: if from == 0 { 0 } else { from as u32 + 20 },
            length: (to - from) as u32 + if from == 0 { 20 } else { 0 },
            more: from == 0,
        });
        if from > 0 {
            (frame.source.1, frame.destination.1) = (0, 0);
            frame.transport = Transport::Other;
        }
        frames.push(frame);
    }
    assert_eq!(name_after(&frames, 101).as_deref(), Some("real.example"));
}

#[test]
fn layer_7_reads_a_file_whose_checksums_are_wrong() {
    let mut bench = offline();
    handshake(&mut bench, 0);
    let request = Frame::tcp(ACK, 101, 501).payload(b"GET / HTTP/1.1\r\nHost: edited.example\r\n\r\n");
    bench.at(60, &request.with_fault(Fault::BadTransportChecksum));
    bench.flush();
    assert_eq!(bench.records()[0].server_name.as_deref(), Some("edited.example"));
}

#[test]
fn an_answer_that_nobody_takes_teaches_no_name() {
    let names_after = |mut bench: Bench, answer: Frame| {
        bench.at(0, &Frame::udp(4000, 53).payload(&dns_query()));
        bench.at(1, &answer.payload(&dns_answer()));
        let count = bench
            .events
            .iter()
            .filter(|event| matches!(event, Event::Answer(_)))
            .count();
        bench.flush();
        count
    };
    let answer = || Frame::udp(4000, 53).back();
    let bad_checksum = || answer().with_fault(Fault::BadTransportChecksum);
    assert_eq!(names_after(live(), answer()), 1);
    assert_eq!(names_after(live(), bad_checksum()), 0);
    assert_eq!(names_after(offline(), bad_checksum()), 1);
    let beyond = answer().with_fault(Fault::BadTransportHeader);
    assert_eq!(names_after(live(), beyond), 0);
    let beyond = answer().with_fault(Fault::BadTransportHeader);
    assert_eq!(names_after(offline(), beyond), 1);
}

#[test]
fn an_icmp_error_that_nobody_takes_blames_no_flow() {
    let mut bench = live();
    let mut error = Frame::new(1, Transport::Icmp { kind: 3, code: 3 }, 0, 0);
    error.payload = vec![
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 0, 2, 0, 1, 0, 8, 0, 0,
    ];
    bench.at(0, &error);
    bench.at(1, &error.with_fault(Fault::BadTransportChecksum));
    assert_eq!(bench.meter.tally().icmp_errors, 1);
}
