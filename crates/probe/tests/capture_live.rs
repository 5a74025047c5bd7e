//! Live capture in a network namespace of its own. Needs root: `cargo test -p probe --features root-tests`.
#![cfg(feature = "root-tests")]
#![allow(missing_docs)]

mod namespace;
mod tap;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use namespace::{cable, in_namespace, ip, promiscuity};
use probe::capture::bpf::{Instruction, Program};
use probe::capture::lasting::LastingSource;
use probe::capture::link::{LinkChange, LinkWatch};
use probe::capture::live::{self, Interface};
use probe::capture::{
    CaptureError, Mode, Next, PcapSource, RingOptions, RingSource, Source, Timestamps, af_packet,
};
use probe::clock;
use tap::Tap;
use wire::decode::{Decoder, LinkType, Transport};
use wire::flowkey::worker_of;

/// What the test's datagrams begin with: everything else on the wire is the kernel's own.
const MARK: &[u8] = b"dpi-probe live test";

/// What libpcap is called.
fn libpcap() -> Vec<PathBuf> {
    ["libpcap.so.1", "libpcap.so.0.8"].map(PathBuf::from).to_vec()
}

/// How often a source may be idle before the test takes it that nothing more comes.
const PATIENCE: u32 = 25;

/// A datagram of the test as it was captured.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    payload: Vec<u8>,
    wire_length: u32,
    captured_length: u32,
    vlan: Option<u16>,
    faults: u8,
}

/// Takes one block; the test's datagrams are added to `got`.
fn take(source: &mut RingSource, got: &mut Vec<Got>) -> Result<Next, CaptureError> {
    let decoder = Decoder::default();
    source.next_block(&mut |frames| {
        for (_, header, bytes) in frames.iter() {
            assert!(
                header.time > 1_600_000_000_000_000_000,
                "nanoseconds since 1970: {}",
                header.time
            );
            let Ok(packet) = decoder.decode(bytes, &header.meta()) else {
                continue;
            };
            if packet.transport == Transport::Udp && packet.payload.starts_with(MARK) {
                got.push(Got {
                    payload: packet.payload.to_vec(),
                    wire_length: header.wire_length,
                    captured_length: header.captured_length,
                    vlan: (packet.vlan_count > 0).then_some(packet.vlans[0]),
                    faults: packet.faults,
                });
            }
        }
    })
}

/// Takes blocks until `count` datagrams came, or nothing comes any more.
fn collect(source: &mut RingSource, count: usize) -> Vec<Got> {
    let (mut got, mut idle) = (Vec::new(), 0);
    while got.len() < count && idle < PATIENCE {
        if take(source, &mut got).expect("the interface stays") == Next::Idle {
            idle += 1;
        }
    }
    got
}

/// A filter for datagrams to `port` in IPv4 without options, `snaplen` bytes of each.
fn to_port(port: u32, snaplen: u32) -> Program {
    // ldh [36]; jeq #port; ret #snaplen; ret #0.
    let code = [
        (0x28, 0, 0, 36),
        (0x15, 0, 1, port),
        (0x06, 0, 0, snaplen),
        (0x06, 0, 0, 0),
    ];
    let instructions = code
        .iter()
        .map(|&(code, jump_true, jump_false, operand)| Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        })
        .collect();
    Program::new(instructions).expect("valid")
}

fn send(count: usize, address: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    for n in 0..count {
        let payload = [MARK, &n.to_be_bytes()].concat();
        socket.send_to(&payload, address).expect("sent");
    }
}

#[test]
fn every_datagram_on_the_cable_comes_once_and_in_order() {
    in_namespace(|| {
        cable("");
        assert_eq!(af_packet::link_type("far").expect("there"), LinkType::ETHERNET);
        let mut source = RingSource::open(
            "far",
            &RingOptions {
                bytes: 8 << 20,
                ..RingOptions::default()
            },
        )
        .expect("opens");
        assert_eq!(source.ring_bytes(), 8 << 20);
        send(2_000, "192.0.2.2:9");
        let got = collect(&mut source, 2_000);
        let numbers: Vec<Vec<u8>> = got
            .iter()
            .map(|datagram| datagram.payload[MARK.len()..].to_vec())
            .collect();
        assert_eq!(
            numbers,
            (0..2_000_usize)
                .map(|n| n.to_be_bytes().to_vec())
                .collect::<Vec<_>>()
        );
        let length = (14 + 20 + 8 + MARK.len() + 8) as u32;
        for datagram in &got {
            // The sender leaves the checksum to the hardware, of which there is none: that must not be a fault.
            assert_eq!(
                (datagram.wire_length, datagram.captured_length, datagram.faults),
                (length, length, 0)
            );
        }
        let accounts = source.accounts();
        assert!(accounts.frames_delivered >= 2_000);
        assert_eq!((accounts.kernel_drops, accounts.frames_filtered), (Some(0), None));
        assert_eq!(accounts.damaged_blocks, Some(0));
    });
}

#[test]
fn a_card_without_a_clock_leaves_timestamps_to_the_kernel() {
    in_namespace(|| {
        cable("");
        for timestamps in [Timestamps::Kernel, Timestamps::Hardware] {
            let options = RingOptions {
                timestamps,
                ..RingOptions::default()
            };
            let mut source = RingSource::open("far", &options).expect("opens");
            send(20, "192.0.2.2:9");
            assert_eq!(collect(&mut source, 20).len(), 20);
            let accounts = source.accounts();
            assert_eq!(accounts.stamped, Some([0, accounts.frames_delivered, 0]));
        }
    });
}

#[test]
fn a_vlan_tag_that_the_kernel_takes_out_is_put_back() {
    in_namespace(|| {
        cable("");
        let mut source = RingSource::open("far", &RingOptions::default()).expect("opens");
        // Ethernet with priority 5 and VLAN 77; IPv4 with UDP and no transport checksum.
        let total = (20 + 8 + MARK.len()) as u8;
        let mut frame = vec![
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0xa0, 77, 0x08, 0x00,
        ];
        frame.extend([
            0x45, 0, 0, total, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame.extend([0, 9, 0, 9, 0, total - 20, 0, 0]);
        frame.extend(MARK);
        let bytes = format!("{frame:?}");
        let program = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                       s.bind(('near', 0)); s.send(bytes(map(int, sys.argv[1].strip('[]').split(', '))))";
        let sent = Command::new("python3")
            .args(["-c", program, &bytes])
            .status()
            .expect("Python is installed");
        assert!(sent.success());
        let got = collect(&mut source, 1);
        assert_eq!(got.len(), 1);
        assert_eq!(
            (got[0].vlan, got[0].wire_length),
            (Some(77), frame.len() as u32),
            "the tag was on the wire"
        );
    });
}

#[test]
fn the_kernel_runs_the_filter_and_cuts_frames() {
    in_namespace(|| {
        cable("");
        let filter = Some(to_port(10, 62));
        let mut source = RingSource::open(
            "far",
            &RingOptions {
                filter,
                ..RingOptions::default()
            },
        )
        .expect("opens");
        send(5, "192.0.2.2:9");
        send(5, "192.0.2.2:10");
        let got = collect(&mut source, 10);
        assert_eq!(got.len(), 5);
        assert!(
            got.iter()
                .all(|datagram| datagram.captured_length == 62 && datagram.wire_length == 69),
            "{got:?}"
        );
    });
}

#[test]
fn a_packet_on_the_loopback_counts_once() {
    in_namespace(|| {
        ip("link set lo up");
        let mut source = RingSource::open("lo", &RingOptions::default()).expect("opens");
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
        send(300, &receiver.local_addr().expect("bound").to_string());
        assert_eq!(collect(&mut source, usize::MAX).len(), 300);
    });
}

#[test]
fn a_full_ring_drops_and_counts() {
    in_namespace(|| {
        cable("");
        // The kernel's own frames would drop too.
        let filter = Some(to_port(9, 65_535));
        let options = RingOptions {
            bytes: 1 << 20,
            filter,
            ..RingOptions::default()
        };
        let mut source = RingSource::open("far", &options).expect("opens");
        // More than a megabyte, and nobody looks at the ring.
        send(20_000, "192.0.2.2:9");
        let dropped = source.accounts().kernel_drops.expect("known");
        assert!(dropped > 0);
        let got = collect(&mut source, usize::MAX);
        let after = source.accounts().kernel_drops.expect("known");
        assert_eq!(
            got.len() as u64 + after,
            20_000,
            "nothing is lost without being counted"
        );
    });
}

#[test]
fn the_stop_flag_ends_the_capture_with_everything_handed_over() {
    in_namespace(|| {
        cable("");
        let stop = Arc::new(AtomicBool::new(false));
        let options = RingOptions {
            stop: Arc::clone(&stop),
            ..RingOptions::default()
        };
        let mut source = RingSource::open("far", &options).expect("opens");
        send(500, "192.0.2.2:9");
        stop.store(true, Ordering::Relaxed);
        let mut got = Vec::new();
        while take(&mut source, &mut got).expect("the interface stays") != Next::End {}
        assert_eq!(got.len(), 500);
        assert_eq!(source.accounts().left_in_ring, Some(0));
        // What is sent after that is not captured.
        send(5, "192.0.2.2:9");
        assert_eq!(
            take(&mut source, &mut got).expect("the interface stays"),
            Next::End
        );
        assert_eq!(got.len(), 500);
    });
}

#[test]
fn an_interface_that_goes_down_is_waited_for_and_one_that_vanishes_ends_the_capture() {
    in_namespace(|| {
        cable("");
        let mut source = RingSource::open("far", &RingOptions::default()).expect("opens");
        send(1, "192.0.2.2:9");
        assert_eq!(collect(&mut source, 1).len(), 1);
        ip("link set far down");
        assert_eq!(collect(&mut source, 1).len(), 0);
        ip("link set far up");
        ip("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
        // The kernel tells the carrier's return by a worker of its own, and drops what is sent before.
        let came = (0..PATIENCE).any(|_| {
            send(1, "192.0.2.2:9");
            !collect(&mut source, 1).is_empty()
        });
        assert!(came);
        ip("link delete near");
        let mut got = Vec::new();
        let error = (0..PATIENCE).find_map(|_| take(&mut source, &mut got).err());
        let Some(CaptureError::InterfaceGone { interface }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(interface, "far");
    });
}

#[test]
fn an_interface_is_promiscuous_only_where_that_is_wished_and_only_as_long_as_the_capture() {
    in_namespace(|| {
        cable("");
        for (promiscuous, rings) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
            let options = RingOptions {
                promiscuous,
                ..RingOptions::default()
            };
            assert_eq!(promiscuity("far"), 0);
            let sources = af_packet::open_rings("far", &options, &vec![None; rings]).expect("opens");
            assert_eq!(promiscuity("far") > 0, promiscuous, "{rings} rings");
            drop(sources);
            assert_eq!(promiscuity("far"), 0, "{rings} rings");
        }
    });
}

#[test]
fn a_tunnel_interface_gives_ip_packets() {
    in_namespace(|| {
        ip("tuntap add mode tun name tun0");
        assert_eq!(af_packet::link_type("tun0").expect("there"), LinkType::RAW);
        assert_eq!(
            RingSource::open("tun0", &RingOptions::default())
                .expect("opens")
                .link_type(),
            LinkType::RAW
        );
    });
}

/// Frames that came to a ring: steering hash and whether it is a fragment.
fn steered(source: &mut RingSource, seen: &mut Vec<(u64, bool)>) -> Next {
    let decoder = Decoder::default();
    source
        .next_block(&mut |frames| {
            for (_, header, bytes) in frames.iter() {
                if let Ok(packet) = decoder.decode(bytes, &header.meta())
                    && packet.key.ip_protocol == 17
                {
                    seen.push((packet.steering, packet.fragment.is_some()));
                }
            }
        })
        .expect("the interface stays")
}

/// Takes from all rings until nothing comes any more; what came to each.
fn steered_to(sources: &mut [RingSource]) -> Vec<Vec<(u64, bool)>> {
    let mut seen = vec![Vec::new(); sources.len()];
    let mut idle = 0;
    while idle < 3 {
        idle += 1;
        for (source, seen) in sources.iter_mut().zip(&mut seen) {
            while steered(source, seen) == Next::Block {
                idle = 0;
            }
        }
    }
    seen
}

#[test]
fn several_rings_share_the_frames_by_the_steering_rule() {
    in_namespace(|| {
        cable("");
        // Frames that come in at `far`, and frames that `far` sends itself: both directions of a conversation.
        ip("address add 198.51.100.1/24 dev far");
        for last in 10..74 {
            ip(&format!(
                "neighbour add 192.0.2.{last} lladdr 02:00:00:00:00:02 dev near"
            ));
            ip(&format!(
                "neighbour add 198.51.100.{last} lladdr 02:00:00:00:00:01 dev far"
            ));
        }
        let mut sources = af_packet::open_rings(
            "far",
            &RingOptions {
                bytes: 12 << 20,
                ..RingOptions::default()
            },
            &[const { None }; 3],
        )
        .expect("opens");
        assert!(sources.iter().all(|source| source.ring_bytes() == 4 << 20));
        let near = UdpSocket::bind("192.0.2.1:0").expect("a port");
        let far = UdpSocket::bind("198.51.100.1:0").expect("a port");
        for last in 10..74 {
            let there = (Ipv4Addr::new(192, 0, 2, last), 9);
            near.send_to(MARK, there).expect("sent");
            // Three fragments.
            near.send_to(&[0; 4000], there).expect("sent");
            if last < 42 {
                far.send_to(MARK, (Ipv4Addr::new(198, 51, 100, last), 9))
                    .expect("sent");
            }
        }
        let seen = steered_to(&mut sources);
        for (worker, seen) in seen.iter().enumerate() {
            assert!(!seen.is_empty(), "worker {worker} got nothing");
            for &(hash, _) in seen {
                assert_eq!(worker_of(hash, 3), worker);
            }
        }
        let all: Vec<_> = seen.concat();
        assert_eq!(all.len(), 64 * 4 + 32);
        assert_eq!(all.iter().filter(|(_, is_fragment)| *is_fragment).count(), 64 * 3);
        for source in &mut sources {
            let accounts = source.accounts();
            assert_eq!((accounts.kernel_drops, accounts.ring_freezes), (Some(0), Some(0)));
        }
    });
}

#[test]
fn several_rings_on_the_loopback_count_a_packet_once() {
    in_namespace(|| {
        ip("link set lo up");
        let mut sources =
            af_packet::open_rings("lo", &RingOptions::default(), &[const { None }; 2]).expect("opens");
        for last in 1..=100 {
            let address = Ipv4Addr::new(127, 0, 0, last);
            let receiver = UdpSocket::bind((address, 0)).expect("a port");
            send(1, &receiver.local_addr().expect("bound").to_string());
        }
        let seen = steered_to(&mut sources);
        assert_eq!(seen.concat().len(), 100);
        assert!(seen.iter().all(|seen| seen.len() > 20), "both have a share");
    });
}

#[test]
fn a_full_ring_is_one_worker_s_account() {
    in_namespace(|| {
        cable("");
        let stop = Arc::new(AtomicBool::new(false));
        let options = RingOptions {
            bytes: 2 << 20,
            filter: Some(to_port(9, 65_535)),
            stop: Arc::clone(&stop),
            ..RingOptions::default()
        };
        let mut sources = af_packet::open_rings("far", &options, &[const { None }; 2]).expect("opens");
        // All of one pair of addresses.
        send(20_000, "192.0.2.2:9");
        let dropped: Vec<u64> = sources
            .iter_mut()
            .map(|source| source.accounts().kernel_drops.expect("known"))
            .collect();
        let seen = steered_to(&mut sources);
        let worker = seen.iter().position(|seen| !seen.is_empty()).expect("somebody's");
        assert!(dropped[worker] > 0 && dropped[1 - worker] == 0, "{dropped:?}");
        assert_eq!(seen[worker].len() as u64 + dropped[worker], 20_000);
        assert!(sources[worker].accounts().ring_freezes > Some(0));
        // What the group gave to the other one, the filter refused or found no room is not waited for.
        stop.store(true, Ordering::Relaxed);
        for source in &mut sources {
            while source.next_block(&mut |_| ()).expect("the interface stays") != Next::End {}
            assert_eq!(source.accounts().left_in_ring, Some(0));
        }
    });
}

/// Captures from `far`, with as many workers as asked for.
fn lasting(options: RingOptions, workers: usize, patience: Duration) -> Vec<LastingSource> {
    lasting_by(Mode::Auto, options, workers, patience)
}

fn lasting_by(mode: Mode, options: RingOptions, workers: usize, patience: Duration) -> Vec<LastingSource> {
    let interface = Interface {
        name: "far".to_owned(),
        mode,
        dedicated: false,
        libpcap: libpcap(),
        options,
        places: vec![None; workers],
        exact: true,
        patience,
    };
    live::open(interface).expect("opens").sources
}

/// Takes from all sources until `wanted` holds, or a bound is reached.
fn take_until(sources: &mut [LastingSource], mut wanted: impl FnMut(&[usize]) -> bool) -> bool {
    let mut counts = vec![0; sources.len()];
    for _ in 0..200 {
        for (source, count) in sources.iter_mut().zip(&mut counts) {
            source
                .next_block(&mut |frames| *count += frames.headers.len())
                .expect("the interface is waited for");
        }
        if wanted(&counts) {
            return true;
        }
    }
    false
}

#[test]
fn a_vanished_interface_is_waited_for_and_captured_from_again() {
    in_namespace(|| {
        cable("");
        let options = RingOptions {
            bytes: 4 << 20,
            filter: Some(to_port(9, 65_535)),
            ..RingOptions::default()
        };
        let mut sources = lasting(options, 2, Duration::from_secs(60));
        let mut watch = LinkWatch::new("far").expect("listens");
        send(1, "192.0.2.2:9");
        assert!(take_until(&mut sources, |counts| counts.iter().sum::<usize>() == 1));
        ip("link set far name other");
        ip("link set other mtu 4000");
        // A ring that has told that the interface is down tells nothing more when it is removed.
        ip("link set other down");
        assert!(take_until(&mut sources, |_| true));
        ip("link delete near");
        assert!(take_until(&mut sources, |_| true));
        cable("");
        assert!(take_until(&mut sources, |counts| {
            send(1, "192.0.2.2:9");
            counts.iter().sum::<usize>() > 0
        }));
        let delivered: u64 = sources
            .iter_mut()
            .map(|source| source.accounts().frames_delivered)
            .sum();
        assert!(delivered >= 2, "the books go on");
        let mut changes = Vec::new();
        while !changes.contains(&"back") {
            let more = watch.changes(5000).expect("listens");
            assert!(!more.is_empty(), "{changes:?}");
            changes.extend(more.iter().map(LinkChange::name));
        }
        let told: Vec<_> = ["renamed", "mtu", "gone", "back"]
            .into_iter()
            .filter(|name| changes.contains(name))
            .collect();
        assert_eq!(told, ["renamed", "mtu", "gone", "back"], "{changes:?}");
    });
}

/// Kernels before 6.13 refuse several rings as long as the interface is down.
#[test]
fn several_workers_wait_for_an_interface_that_is_down() {
    in_namespace(|| {
        cable("");
        ip("link set far down");
        let options = RingOptions {
            bytes: 4 << 20,
            filter: Some(to_port(9, 65_535)),
            ..RingOptions::default()
        };
        let mut sources = lasting(options, 2, Duration::from_secs(60));
        let wait = |sources: &mut [LastingSource]| {
            let mut turns = 0;
            take_until(sources, |_| {
                turns += 1;
                turns == 10
            })
        };
        for round in ["at the start", "when it is back"] {
            assert!(wait(&mut sources));
            ip("link set far up");
            let came = take_until(&mut sources, |counts| {
                send(1, "192.0.2.2:9");
                counts.iter().sum::<usize>() > 0
            });
            assert!(came, "{round}");
            ip("link delete near");
            assert!(wait(&mut sources));
            cable("");
            ip("link set far down");
        }
    });
}

#[test]
fn libpcap_waits_for_an_interface_that_is_down() {
    in_namespace(|| {
        cable("");
        ip("link set far down");
        let link_type = live::link_type("far", Mode::Pcap, &libpcap());
        assert_eq!(link_type.expect("the same as when it is up"), LinkType::ETHERNET);
        let options = RingOptions {
            bytes: 4 << 20,
            filter: Some(to_port(9, 65_535)),
            ..RingOptions::default()
        };
        let mut sources = lasting_by(Mode::Pcap, options, 1, Duration::ZERO);
        let presence = sources[0].presence();
        let mut turns = 0;
        assert!(take_until(&mut sources, |_| {
            turns += 1;
            turns == 10
        }));
        assert!(!presence.is_whole());
        ip("link set far up");
        assert!(take_until(&mut sources, |counts| {
            send(1, "192.0.2.2:9");
            counts[0] > 0
        }));
        assert!(presence.is_whole());
    });
}

#[test]
fn libpcap_says_once_that_an_interface_is_down() {
    in_namespace(|| {
        cable("");
        ip("link set far down");
        let opened = PcapSource::open("far", &RingOptions::default(), &libpcap());
        let said = opened.err().expect("it is down").to_string();
        assert_eq!(
            said,
            "far: the interface is down, and libpcap opens only what is up; set it up (`ip link set far up`)"
        );
    });
}

#[test]
fn a_stop_ends_libpcap_though_frames_keep_coming() {
    in_namespace(|| {
        cable("");
        let options = RingOptions {
            // At the rate below it would take many seconds to fill it.
            bytes: 128 << 20,
            ..RingOptions::default()
        };
        let mut source = PcapSource::open("far", &options, &libpcap()).expect("opens");
        let ended = AtomicBool::new(false);
        let (mut last, mut asked) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Bounded, so that a failure is not waited for.
                let began = clock::monotonic();
                while !ended.load(Ordering::Relaxed) && clock::elapsed(began) < Duration::from_secs(20) {
                    // More than is taken below, and not more than is taken in the time that a stop has.
                    send(50, "192.0.2.2:9");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut began = None;
            loop {
                let next = source.next_block(&mut |frames| {
                    last = frames.headers.last().map_or(last, |header| header.time);
                    // More comes than is taken.
                    thread::sleep(Duration::from_millis(30));
                });
                match next.expect("the interface stays") {
                    Next::End => break,
                    Next::Block if began.is_none() => {
                        asked = clock::utc_now();
                        options.stop.store(true, Ordering::Relaxed);
                        began = Some(clock::monotonic());
                    }
                    _ => {}
                }
            }
            ended.store(true, Ordering::Relaxed);
            assert!(began.is_some_and(|began| clock::elapsed(began) < Duration::from_secs(3)));
        });
        assert!(
            last >= asked,
            "everything that came before the stop is handed over"
        );
        assert_eq!(source.accounts().lost(), Some(0));
    });
}

/// A datagram of the test behind an Ethernet header, and one behind those of radiotap and IEEE 802.11.
fn frames_of_two_kinds() -> [Vec<u8>; 2] {
    let ethernet = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5][..], MARK].concat();
    let wireless = [&[0, 0, 8, 0, 0, 0, 0, 0, 8, 2, 0, 0][..], &[0; 26], MARK].concat();
    [ethernet, wireless]
}

#[test]
fn an_interface_of_another_hardware_type_is_opened_anew() {
    in_namespace(|| {
        let mut tap = Tap::new("far");
        let [ethernet, wireless] = frames_of_two_kinds();
        let mut sources = lasting(RingOptions::default(), 1, Duration::from_secs(60));
        let change = |tap: &Tap, hardware| {
            ip("link set far down");
            tap.set_hardware(hardware);
            ip("link set far up");
        };
        // All of it before anybody looks.
        (0..50).for_each(|_| tap.receive(&ethernet));
        change(&tap, libc::ARPHRD_IEEE80211_RADIOTAP);
        (0..40).for_each(|_| tap.receive(&wireless));
        let mut seen = [0; 2];
        for turn in 0..500 {
            if seen[1] > 0 {
                break;
            }
            if turn > 20 {
                tap.receive(&wireless);
            }
            let take = &mut |frames: probe::capture::Frames<'_>| {
                for (_, header, bytes) in frames.iter().filter(|(.., bytes)| bytes.ends_with(MARK)) {
                    let expected = if bytes[0] == 0 {
                        LinkType::IEEE802_11_RADIOTAP
                    } else {
                        LinkType::ETHERNET
                    };
                    assert_eq!(header.link_type, expected);
                    seen[usize::from(bytes[0] == 0)] += 1;
                }
            };
            sources[0].next_block(take).expect("it is opened anew");
        }
        assert!(seen[0] == 50 && seen[1] > 0, "{seen:?}");
        let left = sources[0].accounts().left_in_ring;
        assert!(left >= Some(40), "what the old ring had is counted: {left:?}");
    });
}

#[test]
fn a_filter_is_not_used_for_frames_of_another_hardware_type() {
    in_namespace(|| {
        let tap = Tap::new("far");
        let options = RingOptions {
            filter: Some(to_port(9, 65_535)),
            ..RingOptions::default()
        };
        let mut sources = lasting(options, 1, Duration::from_secs(600));
        ip("link set far down");
        tap.set_hardware(libc::ARPHRD_IEEE80211_RADIOTAP);
        let error = (0..100).find_map(|_| sources[0].next_block(&mut |_| ()).err());
        let said = error.expect("an end").to_string();
        assert!(
            said.starts_with(
                "far: the interface's frames have link type LINKTYPE_IEEE802_11_RADIOTAP (127) now"
            ),
            "{said}"
        );
    });
}

#[test]
fn an_interface_that_stays_away_ends_the_capture() {
    in_namespace(|| {
        cable("");
        let mut sources = lasting(RingOptions::default(), 1, Duration::ZERO);
        ip("link delete near");
        let error = (0..PATIENCE * 4).find_map(|_| sources[0].next_block(&mut |_| ()).err());
        assert!(matches!(error, Some(CaptureError::InterfaceGone { interface }) if interface == "far"));
    });
}

#[test]
fn super_frames_are_right_to_the_byte() {
    const BYTES: usize = 8 << 20;
    in_namespace(|| {
        ip("link set lo mtu 1500 up");
        let mut source = RingSource::open("lo", &RingOptions::default()).expect("opens");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            std::io::copy(&mut stream, &mut std::io::sink()).expect("received")
        });
        let sender = thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
            stream.write_all(&vec![7; BYTES]).expect("sent");
        });
        let decoder = Decoder::default();
        let (mut payload, mut ip_bytes, mut wire_bytes, mut frames, mut headers, mut largest) =
            (0_u64, 0, 0, 0, 0, 0);
        let (mut stream_bytes, mut stream_end) = (0_u64, None);
        let mut idle = 0;
        while idle < 3 {
            let next = source.next_block(&mut |block| {
                for (_, header, bytes) in block.iter() {
                    let packet = decoder.decode(bytes, &header.meta()).expect("only IP here");
                    let destination = if packet.from_high {
                        packet.key.low_port
                    } else {
                        packet.key.high_port
                    };
                    if packet.key.ip_protocol != 6 || destination != port {
                        continue;
                    }
                    assert_eq!(packet.faults, 0);
                    let Transport::Tcp(tcp) = packet.transport else {
                        panic!("a TCP header: {packet:?}");
                    };
                    if packet.payload_length > 0 {
                        // A slow machine sends some of it twice: on the wire, but not more of the stream.
                        let end = tcp.sequence.wrapping_add(packet.payload_length);
                        let reached = *stream_end.get_or_insert(tcp.sequence);
                        let new = end.wrapping_sub(reached) as i32;
                        if new > 0 {
                            stream_bytes += new as u64;
                            stream_end = Some(end);
                        }
                    }
                    frames += 1;
                    payload += u64::from(packet.payload_length);
                    ip_bytes += u64::from(packet.ip_length);
                    headers += u64::from(packet.ip_length - packet.payload_length);
                    wire_bytes += u64::from(header.wire_length);
                    largest = largest.max(header.wire_length);
                }
            });
            // While they are at it, a pause is not the end.
            let finished = sender.is_finished() && receiver.is_finished();
            idle = if next.expect("the interface stays") == Next::Idle && finished {
                idle + 1
            } else {
                0
            };
        }
        sender.join().expect("the sender");
        assert_eq!(receiver.join().expect("the receiver"), BYTES as u64);
        assert_eq!(source.accounts().kernel_drops, Some(0));
        assert!(
            largest > 20_000,
            "segmentation is left to the hardware that is not there: {largest}"
        );
        assert_eq!(stream_bytes, BYTES as u64);
        assert_eq!(
            (ip_bytes, wire_bytes),
            (payload + headers, payload + headers + 14 * frames)
        );
    });
}
