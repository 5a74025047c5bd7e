//! Live capture in a network namespace of its own. Needs root: `cargo test -p probe --features root-tests`.
#![cfg(feature = "root-tests")]
#![allow(missing_docs)]

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use probe::capture::bpf::{Instruction, Program};
use probe::capture::{CaptureError, Next, RingOptions, RingSource, Source, af_packet};
use wire::decode::{Decoder, LinkType, Transport};

/// What the test's datagrams begin with: everything else on the wire is the kernel's own.
const MARK: &[u8] = b"dpi-probe live test";

/// How often a source may be idle before the test takes it that nothing more comes.
const PATIENCE: u32 = 25;

/// Runs `test` in a fresh network namespace. A namespace is a thread's, so that the tests do not see one another.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        test();
    })
    .join()
    .expect("the test in the namespace");
}

fn ip(arguments: &str) {
    let done = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is installed");
    assert!(
        done.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Two ends of a cable; what is sent to 192.0.2.2 comes out at `far`, where nobody answers.
fn cable() {
    ip("link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02");
    ip("link set near up");
    ip("link set far up");
    ip("address add 192.0.2.1/24 dev near");
    ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
}

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
        cable();
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
        assert_eq!(source.damaged_blocks(), 0);
    });
}

#[test]
fn a_vlan_tag_that_the_kernel_takes_out_is_put_back() {
    in_namespace(|| {
        cable();
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
        cable();
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
        cable();
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
        cable();
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
        cable();
        let mut source = RingSource::open("far", &RingOptions::default()).expect("opens");
        send(1, "192.0.2.2:9");
        assert_eq!(collect(&mut source, 1).len(), 1);
        ip("link set far down");
        assert_eq!(collect(&mut source, 1).len(), 0);
        ip("link set far up");
        ip("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
        send(1, "192.0.2.2:9");
        assert_eq!(collect(&mut source, 1).len(), 1);
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
