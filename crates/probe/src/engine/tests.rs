//! Frames as bytes through whole readings.

use std::convert::Infallible;

use proptest::prelude::*;
use wire::decode::{Fragment, FrameMeta, LinkType, Packet, Transport};
use wire::malformed::Undecodable;

use super::*;
use crate::capture::FrameHeader;
use crate::counters::check_books;
use crate::flow::meter::tests::{Frame, SECOND};
use crate::flow::profile::ShedWork;
use crate::flow::tcp::{ACK, FIN, RST, SYN};
use crate::flow::{EndReason, LINGER_NS, Profile, Shed};

const ETHERNET: LinkType = LinkType(1);

/// The frame as Ethernet II and IPv4 bytes; checksums are left at what they are without a sum.
fn bytes(frame: &Frame) -> Vec<u8> {
    let mut transport = Vec::new();
    match frame.transport {
        Transport::Tcp(header) => {
            transport.extend(frame.source.1.to_be_bytes());
            transport.extend(frame.destination.1.to_be_bytes());
            transport.extend(header.sequence.to_be_bytes());
            transport.extend(header.acknowledgement.to_be_bytes());
            transport.extend((0x5000 | header.flags).to_be_bytes());
            transport.extend(header.window.to_be_bytes());
            transport.extend([0; 4]);
        }
        Transport::Udp => {
            transport.extend(frame.source.1.to_be_bytes());
            transport.extend(frame.destination.1.to_be_bytes());
            transport.extend((frame.payload.len() as u16 + 8).to_be_bytes());
            transport.extend([0; 2]);
        }
        Transport::Icmp { kind, code } => transport.extend([kind, code, 0, 0, 0, 0, 0, 0]),
        _ => {}
    }
    transport.extend(&frame.payload);
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
    let fragment = frame.fragment.unwrap_or(Fragment {
        identification: 0,
        offset: 0,
        length: 0,
        more: false,
    });
    bytes.extend([0x45, 0]);
    bytes.extend((transport.len() as u16 + 20).to_be_bytes());
    bytes.extend((fragment.identification as u16).to_be_bytes());
    bytes.extend(((fragment.offset as u16 / 8) | (u16::from(fragment.more) << 13)).to_be_bytes());
    bytes.extend([64, frame.ip_protocol, 0, 0]);
    bytes.extend(&frame.source.0.0[12..]);
    bytes.extend(&frame.destination.0.0[12..]);
    bytes.extend(transport);
    bytes
}

/// Frames in blocks of the given size.
fn blocks(frames: &[(i64, Vec<u8>)], size: usize) -> Vec<OwnedFrames> {
    let mut number = 1;
    frames
        .chunks(size)
        .map(|chunk| {
            let mut block = OwnedFrames {
                first_number: number,
                ..OwnedFrames::default()
            };
            number += chunk.len() as u64;
            for (time, frame) in chunk {
                block.headers.push(FrameHeader {
                    time: *time,
                    offset: block.bytes.len() as u32,
                    captured_length: frame.len() as u32,
                    wire_length: frame.len() as u32,
                    link_type: ETHERNET,
                    stripped_vlan: None,
                    checksum_offloaded: true,
                    clock: None,
                });
                block.bytes.extend(frame);
            }
            block
        })
        .collect()
}

/// A source that gives the blocks and then an end, or an error.
fn source<E>(
    blocks: Vec<OwnedFrames>,
    mut end: Option<E>,
) -> impl FnMut(&mut OwnedFrames) -> Result<Next, E> {
    let mut blocks = blocks.into_iter();
    move |block| match (blocks.next(), end.take()) {
        (Some(next), kept) => {
            end = kept;
            *block = next;
            Ok(Next::Block)
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Next::End),
    }
}

/// All records of a reading as text, and its counters; the books are checked.
fn records(frames: &[(i64, Vec<u8>)], size: usize, settings: &Settings) -> (Vec<String>, Counters) {
    records_of(blocks(frames, size), settings)
}

/// The same for several inputs, one after the other.
fn records_of_inputs(
    inputs: &[Vec<(i64, Vec<u8>)>],
    size: usize,
    settings: &Settings,
) -> (Vec<String>, Counters) {
    let mut all: Vec<OwnedFrames> = Vec::new();
    for input in inputs {
        let read = all
            .last()
            .map_or(0, |block| block.first_number + block.headers.len() as u64 - 1);
        let mut blocks = blocks(input, size);
        blocks[0].starts_input = true;
        for block in &mut blocks {
            block.first_number += read;
        }
        all.extend(blocks);
    }
    records_of(all, settings)
}

fn records_of(blocks: Vec<OwnedFrames>, settings: &Settings) -> (Vec<String>, Counters) {
    let frames: usize = blocks.iter().map(|block| block.headers.len()).sum();
    let counters = Counters::new(settings.workers);
    let mut records = Vec::new();
    let mut last = None;
    let fill = source::<Infallible>(blocks, None);
    let result = read(fill, settings, &Decoder::default(), &counters, &mut |flow| {
        assert!(
            last.replace(flow.order()) < Some(flow.order()),
            "in order, and none twice"
        );
        records.push(format!(
            "{} {} {:?} {:?}",
            flow.epoch, flow.export_time, flow.record, flow.session
        ));
        ControlFlow::Continue(())
    });
    assert!(result.is_ok());
    assert_eq!(check_books(&counters.ledger_entries()), Ok(()));
    assert_eq!(counters.total("frames_delivered"), frames as u64);
    assert_eq!(counters.total("flows_exported"), records.len() as u64);
    assert_eq!(
        counters.total("flows_active") + counters.total("frames_waiting"),
        0
    );
    // Seen by workers, and settled after the merge: this balances over all pages.
    let settled = ["attributed", "forgotten", "waiting"]
        .map(|how| counters.total(&format!("icmp_errors_{how}")))
        .iter()
        .sum::<u64>();
    assert_eq!(counters.total("icmp_errors"), settled);
    (records, counters)
}

fn settings(workers: usize) -> Settings {
    Settings {
        workers,
        ..Settings::for_memory(4 << 20)
    }
}

/// A frame between hosts 10.0.0.`source` and 10.0.0.`destination`.
fn between(source: u8, destination: u8, frame: Frame) -> Frame {
    let mut frame = frame;
    frame.source.0.0[15] = source;
    frame.destination.0.0[15] = destination;
    frame
}

/// Says that the frame's destination port is unreachable.
fn unreachable(frame: &Frame) -> Frame {
    let quoted = &bytes(frame)[14..];
    Frame::new(1, Transport::Icmp { kind: 3, code: 3 }, 0, 0)
        .back()
        .payload(quoted)
}

#[test]
fn every_icmp_error_is_attributed_forgotten_or_waiting() {
    let (known, early, unknown) = (Frame::udp(1, 53), Frame::udp(2, 53), Frame::udp(3, 53));
    let frames = |start: i64| {
        [
            &known,
            &unreachable(&known),
            &unreachable(&early),
            &early,
            &unreachable(&unknown),
        ]
        .iter()
        .zip(start..)
        .map(|(frame, second)| (second * SECOND, bytes(frame)))
        .collect::<Vec<_>>()
    };
    // The second input is of before the first: a new epoch.
    let inputs = [frames(1_000_000), frames(1_000)];
    for workers in 1..=2 {
        let (_, counters) = records_of_inputs(&inputs, 2, &settings(workers));
        let count = |account| counters.total(account);
        assert_eq!(count("icmp_errors"), 6);
        assert_eq!(count("icmp_errors_attributed"), 2);
        assert_eq!(
            count("icmp_errors_forgotten"),
            3,
            "two too early, one of an epoch before"
        );
        assert_eq!(count("icmp_errors_waiting"), 1);
    }
}

/// An answer of 10.0.0.1's resolver 10.0.0.9: x.example is 10.0.0.2.
fn answer() -> Frame {
    let mut message = vec![0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend(b"\x01x\x07example\x00\x00\x01\x00\x01");
    message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x02");
    between(1, 9, Frame::udp(4000, 53)).back().payload(&message)
}

fn question() -> Frame {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x01x\x07example\x00\x00\x01\x00\x01");
    between(1, 9, Frame::udp(4000, 53)).payload(&message)
}

#[test]
fn names_from_answers_reach_flows_of_other_workers() {
    let frames: Vec<_> = [
        (1, Frame::udp(5, 6)),
        (2, question()),
        (3, answer()),
        (4, Frame::udp(7, 8)),
        (5, between(3, 2, Frame::udp(7, 8))),
    ]
    .into_iter()
    .map(|(time, frame)| (time, bytes(&frame)))
    .collect();
    for workers in [1, 2, 7] {
        let (records, counters) = records(&frames, 2, &settings(workers));
        let named: Vec<_> = records
            .iter()
            .filter(|text| text.contains("server_name: Some(\"x.example\")"))
            .collect();
        assert_eq!(
            named.len(),
            2,
            "the question's own flow, and the later one of the same client: {records:#?}"
        );
        assert!(named.iter().any(|text| text.contains("src_port: 7")));
        assert_eq!(counters.total("names_learned"), 1);
    }
}

#[test]
fn nothing_is_read_with_bad_settings() {
    let fill = |_: &mut OwnedFrames| -> Result<Next, Infallible> { panic!("nothing is to be read") };
    let settings = Settings {
        idle_timeout_ns: -1,
        ..settings(1)
    };
    let mut sink = |_| ControlFlow::Continue(());
    let result = read(fill, &settings, &Decoder::default(), &Counters::new(1), &mut sink);
    assert!(matches!(
        result,
        Err(ReadError::Settings(SettingsError::IdleTimeout(-1)))
    ));
}

#[test]
fn what_was_read_before_an_error_is_delivered() {
    for workers in [1, 2] {
        let frames = [(1, bytes(&Frame::udp(1, 2))), (2, bytes(&Frame::udp(3, 4)))];
        let mut flows = 0;
        let counters = Counters::new(workers);
        let fill = source(blocks(&frames, 1), Some("broken at byte 99"));
        let result = read(
            fill,
            &settings(workers),
            &Decoder::default(),
            &counters,
            &mut |_| {
                flows += 1;
                ControlFlow::Continue(())
            },
        );
        assert_eq!(
            result.map_err(|error| error.to_string()),
            Err("broken at byte 99".to_owned())
        );
        assert_eq!(flows, 2);
        assert_eq!(check_books(&counters.ledger_entries()), Ok(()));
    }
}

#[test]
fn reading_stops_when_nobody_listens() {
    // Every frame ends a flow of its own, and there are more than all queues together hold.
    let frames: Vec<_> = (0..40_000_u32)
        .map(|number| {
            let mut frame = Frame::tcp(RST, number, 0);
            frame.source.1 = number as u16;
            (
                i64::from(number) * LINGER_NS,
                bytes(&between(number as u8, 200, frame)),
            )
        })
        .collect();
    for workers in [1, 3] {
        let mut flows = 0;
        let fill = source::<Infallible>(blocks(&frames, 100), None);
        let result = read(
            fill,
            &settings(workers),
            &Decoder::default(),
            &Counters::new(workers),
            &mut |_| {
                flows += 1;
                if flows == 10 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert!(result.is_ok());
        assert_eq!(flows, 10);
    }
}

#[test]
fn an_empty_source_has_no_flows() {
    for workers in [1, 2] {
        assert_eq!(records(&[], 1, &settings(workers)).0, Vec::<String>::new());
    }
}

/// A decoder with a bug: it panics at frames whose IP protocol is 99.
#[derive(Clone, Debug)]
struct Buggy(Decoder);

impl Decode for Buggy {
    fn decode<'a>(&self, frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable> {
        assert_ne!(frame.get(23), Some(&99), "the bug of this test");
        self.0.decode(frame, meta)
    }
}

#[test]
fn a_panic_costs_a_block_and_its_workers_flows_and_is_counted() {
    let bad = Frame::new(99, Transport::Other, 0, 0);
    let frames: Vec<_> = [
        Frame::udp(1, 2),
        Frame::udp(3, 4),
        bad,
        Frame::udp(5, 6),
        Frame::udp(7, 8),
    ]
    .iter()
    .enumerate()
    .map(|(number, frame)| (number as i64, bytes(frame)))
    .collect();
    for workers in [1, 2] {
        let counters = Counters::new(workers);
        let mut ports = Vec::new();
        let fill = source::<Infallible>(blocks(&frames, 2), None);
        let decoder = Buggy(Decoder::default());
        let result = read_with(fill, &settings(workers), &decoder, &counters, &mut |flow| {
            ports.push(flow.record.src_port);
            ControlFlow::Continue(())
        });
        assert!(result.is_ok());
        assert_eq!(ports, [7], "the block after it is metered");
        assert_eq!(check_books(&counters.ledger_entries()), Ok(()));
        let total = |account| counters.total(account);
        assert_eq!(
            (total("worker_panics"), total("frames_lost"), total("flows_lost")),
            (1, 2, 2)
        );
        assert_eq!((total("frames_delivered"), total("frames_metered")), (5, 3));
    }
}

#[test]
fn a_panic_of_the_sink_is_not_a_workers() {
    let frames = [(1, bytes(&Frame::udp(1, 2)))];
    let result = std::panic::catch_unwind(|| {
        let fill = source::<Infallible>(blocks(&frames, 1), None);
        let mut sink = |_| panic!("the sink's own");
        read(
            fill,
            &settings(1),
            &Decoder::default(),
            &Counters::new(1),
            &mut sink,
        )
    });
    assert!(result.is_err());
}

#[test]
fn a_live_worker_lets_time_pass_and_stops() {
    let page: Arc<Published> = Arc::default();
    let mut worker = Worker::new(&settings(1).share(), Decoder::new(7), Arc::clone(&page));
    let mut events = Vec::new();
    assert_eq!(worker.reached(), None);
    let block = blocks(&[(SECOND, bytes(&Frame::udp(1, 2))), (SECOND, vec![0; 20])], 2);
    worker.process(block[0].as_frames(), &mut |event| events.push(event));
    worker.advance(300 * SECOND, &mut |event| events.push(event));
    assert!(events.is_empty());
    worker.advance(302 * SECOND, &mut |event| events.push(event));
    assert_eq!(events.len(), 1);
    worker.process(block[0].as_frames(), &mut |event| events.push(event));
    worker.flush(&mut |event| events.push(event));
    assert_eq!(events.len(), 2);
    let tally = worker.tally();
    assert_eq!((tally.frames_delivered, tally.frames_metered), (4, 2));
    assert_eq!(tally.frames_undecodable.total(), 2);
    let mut outlet = Outlet::new(&settings(1), Arc::default());
    assert_eq!(
        events.into_iter().filter_map(|event| outlet.take(event)).count(),
        2
    );
}

#[test]
fn a_worker_changes_profile_and_timeouts_between_blocks() {
    let mut worker = Worker::new(&settings(1).share(), Decoder::new(7), Arc::default());
    let mut events = Vec::new();
    let block = blocks(
        &[
            (SECOND, bytes(&Frame::udp(1, 2))),
            (SECOND, bytes(&Frame::udp(3, 4))),
        ],
        2,
    );
    worker.process(block[0].as_frames(), &mut |event| events.push(event));
    worker.set_profile(Profile::Standard, Shed::Statistics);
    assert_eq!(
        worker.set_timeouts(SECOND, 0),
        Err(SettingsError::IdleTimeout(SECOND))
    );
    assert_eq!(worker.set_timeouts(SECOND, 100 * SECOND), Ok(()));
    let block = blocks(&[(2 * SECOND, bytes(&Frame::udp(1, 2)))], 1);
    worker.process(block[0].as_frames(), &mut |event| events.push(event));
    worker.advance(4 * SECOND, &mut |event| events.push(event));
    let shed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Flow(flow) => Some((flow.record.src_port, flow.record.packets_fwd, flow.record.shed)),
            Event::Answer(_) | Event::IcmpError(_) => None,
        })
        .collect();
    assert_eq!(shed, [(3, 1, None), (1, 2, Some("statistics"))]);
    worker.set_profile(Profile::Standard, Shed::Layer7);
    let block = blocks(&[(5 * SECOND, bytes(&Frame::udp(1, 2)))], 1);
    worker.process(block[0].as_frames(), &mut |_| ());
    worker.flush(&mut |_| ());
    let counted = |work| worker.tally().work_shed.get(work);
    assert_eq!((counted(ShedWork::Statistics), counted(ShedWork::Layer7)), (2, 1));
}

/// UDP frames of one pair of ports, a second apart, and every tenth of another host.
fn seconds(from: i64, count: i64) -> Vec<(i64, Vec<u8>)> {
    let frame = |second: i64| {
        let host = if second % 10 == 0 { 8 } else { 2 };
        bytes(&between(3, host, Frame::udp(5, 6)))
    };
    (0..count)
        .map(|second| ((from + second) * SECOND, frame(second)))
        .collect()
}

fn short(workers: usize) -> Settings {
    Settings {
        idle_timeout_ns: 20 * SECOND,
        active_timeout_ns: 45 * SECOND,
        ..settings(workers)
    }
}

/// How many records there are of each epoch and end reason.
fn reasons(records: &[String]) -> Vec<(String, &'static str, usize)> {
    let mut found: Vec<(String, &'static str, usize)> = Vec::new();
    for record in records {
        let epoch = record.split(' ').next().unwrap_or_default().to_owned();
        let reason = EndReason::ALL
            .iter()
            .find(|reason| record.contains(&format!("end_reason: {reason:?}")))
            .map_or("other", |reason| reason.name());
        match found.iter_mut().find(|(e, r, _)| (e, *r) == (&epoch, reason)) {
            Some((.., count)) => *count += 1,
            None => found.push((epoch, reason, 1)),
        }
    }
    found.sort();
    found
}

#[test]
fn timeouts_go_on_in_a_file_that_is_earlier_than_the_one_before() {
    let expected = [
        ("0".to_owned(), "active_timeout", 4),
        ("0".to_owned(), "forced_end", 1),
        ("1".to_owned(), "active_timeout", 4),
        ("1".to_owned(), "forced_end", 1),
    ];
    for workers in 1..=3 {
        let inputs = [seconds(10_000, 100), seconds(2_000, 100)];
        let (records, _) = records_of_inputs(&inputs, 7, &short(workers));
        assert_eq!(reasons(&records), expected);
    }
    // The next part of a capture, and one that overlaps, go on where the one before ended.
    for start in [10_100, 10_085] {
        let inputs = [seconds(10_000, 100), seconds(start, 20)];
        let (records, _) = records_of_inputs(&inputs, 7, &short(2));
        assert!(records.iter().all(|record| record.starts_with("0 ")));
    }
}

#[test]
fn timeouts_go_on_after_a_clock_that_was_set_back_or_far_ahead() {
    let before_it_is_noticed = i64::from(crate::clock::FRAMES_TO_TURN_BACK) - 1;
    let mut set_back = seconds(10_000, 100);
    set_back.extend(seconds(2_000, before_it_is_noticed + 100));
    let mut one_wrong = seconds(2_000, 100);
    one_wrong.push((4_000_000_000 * SECOND, bytes(&between(3, 9, Frame::udp(5, 6)))));
    one_wrong.extend(seconds(2_100, before_it_is_noticed + 100));
    for frames in [set_back, one_wrong] {
        let (expected, _) = records(&frames, 1000, &short(1));
        let after: Vec<_> = reasons(&expected)
            .into_iter()
            .filter(|(epoch, ..)| epoch == "1")
            .collect();
        assert_eq!(
            after,
            [
                ("1".to_owned(), "active_timeout", 3),
                ("1".to_owned(), "forced_end", 2)
            ],
            "of the last 100 frames, as in a file of their own"
        );
        for workers in 2..=3 {
            assert_eq!(records(&frames, 50, &short(workers)).0, expected);
        }
    }
}

/// What the records of all workers are, which are the same with any number of them.
fn agreed(frames: &[(i64, Vec<u8>)], settings: impl Fn(usize) -> Settings) -> Vec<String> {
    let (expected, _) = records(frames, 1000, &settings(1));
    for workers in [2, 3, 4] {
        assert_eq!(
            records(frames, 7, &settings(workers)).0,
            expected,
            "{workers} workers"
        );
    }
    expected
}

#[test]
fn fragments_that_are_given_up_at_one_moment_end_flows_in_order() {
    let hosts = (0..6).map(|number| (2 * number + 10, 2 * number + 11));
    let orphan = |source, destination, identification| {
        let fragment = Some(Fragment {
            identification,
            offset: 1480,
            length: 0,
            more: false,
        });
        let frame = Frame {
            transport: Transport::Other,
            fragment,
            ..Frame::udp(0, 0)
        };
        bytes(&between(source, destination, frame))
    };
    // One timestamp is far ahead, so that all datagrams are due at the same moment, and the flows of the first are idle.
    let other = |second| (second * SECOND, bytes(&Frame::udp(1, 2)));
    let mut frames = vec![other(2000)];
    for (round, start) in [(1, 0), (2, 400)] {
        for (source, destination) in hosts.clone() {
            let time = start * SECOND + i64::from(source);
            frames.push((time, orphan(source, destination, round)));
        }
    }
    frames.push(other(2031));
    let records = agreed(&frames, settings);
    assert_eq!(
        records
            .iter()
            .filter(|record| record.contains("IdleTimeout"))
            .count(),
        6
    );
}

/// Two sources merged, of which one is behind by so many seconds.
#[test]
fn workers_do_not_matter_where_a_source_lags() {
    for behind in [5, 19, 21, 30, 44, 46, 3600] {
        let frames: Vec<_> = seconds(10_000, 200)
            .into_iter()
            .zip(seconds(10_000 - behind, 200))
            .flat_map(|(on_time, (time, _))| {
                let late = between(1, 4, Frame::udp(7, 8));
                [on_time, (time, bytes(&late))]
            })
            .collect();
        let records = agreed(&frames, short);
        let late = records
            .iter()
            .filter(|record| record.contains("dst_port: 8"))
            .count();
        let clock_cuts = behind <= 20;
        let most = if clock_cuts {
            200 / (46 - behind) + 1
        } else {
            200 / 46 + 1
        };
        assert_eq!(late as i64, most, "{behind} seconds");
    }
}

/// Random traffic between few hosts, so that flows meet, end, and come back.
fn traffic() -> impl Strategy<Value = Vec<(i64, Vec<u8>)>> {
    let frame = (
        0_u8..10,
        1_u8..4,
        4_u8..7,
        0_u16..3,
        any::<u8>(),
        any::<bool>(),
        0_usize..30,
    );
    let step = prop_oneof![
        5 => 0_i64..SECOND,
        2 => 0..4 * SECOND,
        1 => 0..400 * SECOND,
        1 => -3 * SECOND..0,
        1 => Just(0),
    ];
    prop::collection::vec((step, frame), 1..120).prop_map(|steps| {
        let mut time = 1_700_000_000 * SECOND;
        let one = |(step, (kind, source, destination, port, detail, back, length))| {
            time += step;
            let payload = vec![detail; length];
            let frame: Frame = match kind {
                0..5 => {
                    let flags = [SYN, SYN | ACK, ACK, FIN | ACK, RST][usize::from(detail % 5)];
                    let mut frame = Frame::tcp(flags, u32::from(detail), u32::from(detail / 3));
                    frame.source.1 += port;
                    frame
                }
                5 => Frame::new(
                    1,
                    Transport::Icmp {
                        kind: detail,
                        code: 0,
                    },
                    0,
                    0,
                ),
                6 => question(),
                7 => answer(),
                8 => {
                    let offset = u32::from(detail % 3) * 8;
                    let more = detail % 2 == 0;
                    let fragment = Some(Fragment {
                        identification: u32::from(detail % 4),
                        offset,
                        length: 0,
                        more,
                    });
                    let transport = if offset == 0 {
                        Transport::Udp
                    } else {
                        Transport::Other
                    };
                    Frame {
                        transport,
                        fragment,
                        ..Frame::udp(port, 2000)
                    }
                }
                _ => Frame::udp(port, 2000),
            };
            let frame = if kind == 6 || kind == 7 {
                frame
            } else {
                between(source, destination, frame).payload(&payload)
            };
            let mut bytes = bytes(&if back && kind < 6 { frame.back() } else { frame });
            if detail == 77 {
                bytes.truncate(length);
            }
            (time, bytes)
        };
        steps.into_iter().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same records, byte for byte, with any number of workers and any cutting into blocks.
    #[test]
    fn workers_and_blocks_do_not_matter(frames in traffic(), size in 1_usize..50) {
        let (expected, _) = records(&frames, 1000, &short(1));
        for workers in 1..=3 {
            let (found, _) = records(&frames, size, &short(workers));
            prop_assert_eq!(&found, &expected, "{} workers", workers);
        }
    }

    /// Nor for files in any order of time.
    #[test]
    fn workers_and_blocks_do_not_matter_with_several_inputs(
        inputs in prop::collection::vec((traffic(), -1000_i64..1000), 2..5),
        size in 1_usize..50,
    ) {
        let moved = |(frames, seconds): (Vec<(i64, Vec<u8>)>, i64)| {
            let later = |(time, frame)| (time + seconds * SECOND, frame);
            frames.into_iter().map(later).collect()
        };
        let inputs: Vec<Vec<_>> = inputs.into_iter().map(moved).collect();
        let (expected, _) = records_of_inputs(&inputs, 1000, &short(1));
        for workers in 1..=3 {
            let (found, _) = records_of_inputs(&inputs, size, &short(workers));
            prop_assert_eq!(&found, &expected, "{} workers", workers);
        }
    }
}
