//! Capture by AF_XDP in a network namespace of its own. Needs root: `cargo test -p probe --features root-tests`.
#![cfg(feature = "root-tests")]
#![allow(missing_docs)]

mod namespace;

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use namespace::{cable, in_namespace, ip, promiscuity};
use probe::capture::bpf::{Instruction, Program};
use probe::capture::{CaptureError, Next, RingOptions, Source, Way, XdpSource, af_xdp};
use wire::decode::{Decoder, Transport};

/// What the test's datagrams begin with: everything else on the wire is the kernel's own.
const MARK: &[u8] = b"dpi-probe XDP test";

/// How often a source may be idle before the test takes it that nothing more comes.
const PATIENCE: u32 = 25;

fn send(count: usize, bytes: usize) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    for n in 0..count {
        let mut payload = [MARK, &n.to_be_bytes()].concat();
        payload.resize(bytes.max(payload.len()), 7);
        socket.send_to(&payload, "192.0.2.2:9").expect("sent");
    }
}

/// Numbers, wire lengths and times of the test's datagrams that come until nothing comes any more.
fn collect(source: &mut XdpSource, count: usize) -> Vec<(usize, u32, i64)> {
    let decoder = Decoder::default();
    let (mut got, mut idle) = (Vec::new(), 0);
    while got.len() < count && idle < PATIENCE {
        let next = source.next_block(&mut |frames| {
            for (_, header, bytes) in frames.iter() {
                let Ok(packet) = decoder.decode(bytes, &header.meta()) else {
                    continue;
                };
                if packet.transport == Transport::Udp && packet.payload.starts_with(MARK) {
                    let number = packet.payload[MARK.len()..].first_chunk().expect("a number");
                    got.push((usize::from_be_bytes(*number), header.wire_length, header.time));
                    assert_eq!(packet.faults, 0);
                    assert_eq!(header.captured_length, header.wire_length);
                }
            }
        });
        if next.expect("the interface stays") == Next::Idle {
            idle += 1;
        }
    }
    got
}

fn open(options: &RingOptions) -> Result<XdpSource, CaptureError> {
    let mut opened = af_xdp::open("far", options, &[None], false)?;
    Ok(opened.sources.remove(0))
}

fn options() -> RingOptions {
    RingOptions {
        bytes: 8 << 20,
        ..RingOptions::default()
    }
}

#[test]
fn every_frame_comes_once_in_order_and_with_the_time_at_which_it_came() {
    in_namespace(|| {
        cable("");
        let mut source = open(&options()).expect("opens");
        let before = probe::clock::utc_now();
        send(2_000, 0);
        let after = probe::clock::utc_now();
        // What the probe does until it looks must not be in the times.
        thread::sleep(std::time::Duration::from_millis(50));
        let got = collect(&mut source, 2_000);
        let numbers: Vec<usize> = got.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, (0..2_000).collect::<Vec<_>>());
        let slack = 5_000_000;
        for (_, length, time) in got {
            assert_eq!(length as usize, 14 + 20 + 8 + MARK.len() + 8);
            assert!(
                (before - slack..after + slack).contains(&time),
                "{before} {time} {after}"
            );
        }
        let accounts = source.accounts();
        assert_eq!(accounts.stamped, Some([0, accounts.frames_delivered, 0]));
        // A veth has native XDP, and no zero-copy.
        assert_eq!(accounts.way, Some(Way::XdpCopy));
        assert_eq!(
            (
                accounts.kernel_drops,
                accounts.buffer_drops,
                accounts.frames_filtered
            ),
            (Some(0), Some(0), Some(0))
        );
        assert_eq!((accounts.damaged_blocks, accounts.ring_freezes), (Some(0), None));
    });
}

#[test]
fn a_driver_without_xdp_is_captured_from_in_generic_mode() {
    in_namespace(|| {
        ip("link add near address 02:00:00:00:00:01 type veth peer name port");
        // A macvlan has no XDP of its own.
        ip("link add far link port address 02:00:00:00:00:02 type macvlan mode passthru");
        for name in ["near", "port", "far"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 192.0.2.1/24 dev near");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
        let mut opened = af_xdp::open("far", &options(), &[None], false).expect("opens");
        assert!(
            opened.description.contains("generic mode") && opened.description.contains("not copy"),
            "{}",
            opened.description
        );
        let source = &mut opened.sources[0];
        send(300, 0);
        assert_eq!(collect(source, 300).len(), 300);
        assert_eq!(source.accounts().way, Some(Way::XdpGeneric));
    });
}

#[test]
fn frames_that_are_larger_than_a_buffer_come_whole() {
    in_namespace(|| {
        cable("mtu 9000");
        ip("link set far mtu 9000");
        let mut source = open(&options()).expect("opens");
        send(500, 8_900);
        let got = collect(&mut source, 500);
        assert_eq!(got.len(), 500);
        assert!(got.iter().all(|(_, length, _)| *length == 14 + 20 + 8 + 8_900));
        assert_eq!(source.accounts().buffer_drops, Some(0));
    });
}

#[test]
fn what_finds_no_room_is_counted() {
    in_namespace(|| {
        cable("");
        let options = RingOptions {
            bytes: 1 << 20,
            ..RingOptions::default()
        };
        let mut source = open(&options).expect("opens");
        // 512 buffers, and nobody looks.
        send(5_000, 0);
        let got = collect(&mut source, usize::MAX);
        let accounts = source.accounts();
        let lost = accounts.lost().expect("known");
        assert!(lost > 0);
        // The kernel's own frames may be among the lost ones, not among those that came.
        assert!(got.len() as u64 + lost >= 5_000, "{} {accounts:?}", got.len());
        assert!(accounts.frames_delivered + lost >= 5_000);
        // There is room again.
        send(100, 0);
        assert_eq!(collect(&mut source, 100).len(), 100);
    });
}

#[test]
fn the_filter_is_run_and_counts_what_it_passes_over() {
    in_namespace(|| {
        cable("");
        // ldh [12]; jeq #0x800; ldb [23]; jeq #17; ret #60; ret #0.
        let code = [
            (0x28, 0, 0, 12),
            (0x15, 0, 3, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 1, 6),
            (6, 0, 0, 60),
            (6, 0, 0, 0),
        ];
        let instructions = code
            .iter()
            .map(|&(code, jump_true, jump_false, operand)| Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            });
        let tcp = Program::new(instructions.collect()).expect("valid");
        let filter = Some(tcp);
        let mut source = open(&RingOptions { filter, ..options() }).expect("opens");
        send(50, 0);
        assert_eq!(collect(&mut source, 50).len(), 0);
        assert!(source.accounts().frames_filtered >= Some(50));
        source.set_filter(None).expect("set");
        send(50, 0);
        assert_eq!(collect(&mut source, 50).len(), 50);
    });
}

#[test]
fn traffic_that_the_filter_passes_over_leaves_the_source_idle() {
    in_namespace(|| {
        cable("");
        let filter = Some(Program::accept_all(0));
        let mut source = open(&RingOptions { filter, ..options() }).expect("opens");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // It ends by itself too, where an assertion below fails.
                for _ in 0..10_000 {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    send(10, 0);
                }
            });
            // So that the frames have no pause but the sender's own.
            while source.accounts().frames_filtered < Some(1_000) {
                let next = source.next_block(&mut |_| unreachable!("nothing passes"));
                // Only then are flows looked at that have timed out.
                assert_eq!(next.expect("it stays"), Next::Idle);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(source.accounts().frames_delivered, 0);
    });
}

#[test]
fn several_queues_are_all_read() {
    in_namespace(|| {
        ip(
            "link add near address 02:00:00:00:00:01 numtxqueues 4 numrxqueues 4 type veth peer name far address 02:00:00:00:00:02 numtxqueues 4 numrxqueues 4",
        );
        ip("link set near up");
        ip("link set far up");
        ip("address add 192.0.2.1/24 dev near");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
        let mut opened = af_xdp::open("far", &options(), &[None], false).expect("opens");
        assert!(
            opened.description.contains("with 4 receive queue(s)"),
            "{}",
            opened.description
        );
        for _ in 0..40 {
            // A port of its own each time: another queue.
            send(10, 0);
        }
        let got = collect(&mut opened.sources[0], 400);
        assert_eq!(got.len(), 400);
        // One after the other was sent, whatever queue it went to: the order of time.
        assert!(got.is_sorted_by_key(|(_, _, time)| *time));
        let in_order: Vec<usize> = got.iter().map(|(number, ..)| *number).collect();
        assert_eq!(
            in_order,
            (0..400).map(|frame| frame % 10).collect::<Vec<_>>(),
            "the ten frames of each port follow each other"
        );
        drop(opened);
        let error = af_xdp::open("far", &options(), &[const { None }; 5], false)
            .err()
            .map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("can have 4 worker(s) at most, not 5"), "{error}");
    });
}

#[test]
fn an_interface_that_the_host_uses_is_refused_unless_it_is_dedicated() {
    in_namespace(|| {
        cable("");
        let refused = || {
            open(&options())
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        ip("address add 198.51.100.1/24 dev far");
        let said = refused();
        assert!(
            said.contains("the interface has an address (198.51.100.1)"),
            "{said}"
        );
        assert!(said.contains("--dedicated"), "{said}");
        assert!(af_xdp::open("far", &options(), &[None], true).is_ok());
        ip("address flush dev far");
        ip("route add 203.0.113.0/24 dev far");
        let said = refused();
        assert!(said.contains("a route (203.0.113.0/24)"), "{said}");
        ip("route del 203.0.113.0/24 dev far");
        ip("link add bridge0 type bridge");
        ip("link set far master bridge0");
        let said = refused();
        assert!(said.contains("a master"), "{said}");
        ip("link set far nomaster");
        // What a VLAN is to it too: an interface that gets its frames from it.
        ip("link add link far name upper type macvlan mode bridge");
        let said = refused();
        assert!(said.contains("an interface on top of it (upper"), "{said}");
        ip("link delete upper");
        assert!(open(&options()).is_ok());
    });
}

/// Whether an XDP program is attached to `far`.
fn is_attached() -> bool {
    let shown = Command::new("ip")
        .args(["link", "show", "far"])
        .output()
        .expect("iproute2");
    String::from_utf8_lossy(&shown.stdout).contains("xdp")
}

#[test]
fn the_stop_flag_gives_the_frames_back_to_the_host_and_hands_over_what_came() {
    in_namespace(|| {
        cable("");
        let stop = Arc::new(AtomicBool::new(false));
        let options = RingOptions {
            stop: Arc::clone(&stop),
            ..options()
        };
        let mut source = open(&options).expect("opens");
        assert!(is_attached());
        send(500, 0);
        stop.store(true, Ordering::Relaxed);
        let mut frames = 0;
        while source
            .next_block(&mut |block| frames += block.headers.len())
            .expect("it stays")
            != Next::End
        {}
        assert!(frames >= 500);
        assert!(!is_attached());
    });
}

#[test]
fn an_interface_is_promiscuous_only_where_that_is_wished_and_only_as_long_as_the_capture() {
    in_namespace(|| {
        cable("");
        for promiscuous in [true, false] {
            assert_eq!(promiscuity("far"), 0);
            let source = open(&RingOptions {
                promiscuous,
                ..options()
            })
            .expect("opens");
            assert_eq!(promiscuity("far") > 0, promiscuous);
            drop(source);
            assert_eq!(promiscuity("far"), 0);
        }
    });
}

#[test]
fn a_removed_interface_ends_the_capture() {
    in_namespace(|| {
        cable("");
        let mut source = open(&options()).expect("opens");
        ip("link set far down");
        assert_eq!(collect(&mut source, 1).len(), 0);
        ip("link set far up");
        ip("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
        let came = (0..PATIENCE).any(|_| {
            send(1, 0);
            !collect(&mut source, 1).is_empty()
        });
        assert!(came);
        ip("link delete near");
        let error = (0..PATIENCE).find_map(|_| source.next_block(&mut |_| ()).err());
        assert!(
            matches!(&error, Some(CaptureError::InterfaceGone { interface }) if interface == "far"),
            "{error:?}"
        );
    });
}
