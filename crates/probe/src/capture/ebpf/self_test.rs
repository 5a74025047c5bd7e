//! What the steering program must do, tried out in this kernel before the first frame is captured.

use wire::decode::{LinkType, steering_hash};
use wire::flowkey::worker_of;

use super::LoadedProgram;
use super::steering::Link;

/// A frame that the program steers wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfTestError {
    /// The kernel did not run it.
    #[error("the kernel does not run the steering program: {0}")]
    NotRun(String),
    /// Not where it belongs.
    #[error("{frame} was steered to worker {got}, but belongs to worker {expected}")]
    Misled {
        /// What the frame is.
        frame: &'static str,
        /// The worker that it was given to.
        got: u32,
        /// The worker whose it is.
        expected: u32,
    },
}

/// Two hosts.
const ONE: [u8; 16] = *b"\xc0\x00\x02\x01aaaaaaaaaaaa";
const OTHER: [u8; 16] = *b"\xcb\x00\x71\x07bbbbbbbbbbbb";

fn ethernet(tags: &[u16], ether_type: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in tags {
        frame.extend([&tag.to_be_bytes()[..], &[0, 7]].concat());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(body);
    frame
}

/// IPv4; `fragment` is the field with flags and offset.
fn ip4(from: [u8; 16], to: [u8; 16], protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len()) as u16;
    let ([l0, l1], [f0, f1]) = (length.to_be_bytes(), fragment.to_be_bytes());
    let mut packet = vec![0x45, 0, l0, l1, 0, 9, f0, f1, 64, protocol, 0, 0];
    packet.extend(&from[..4]);
    packet.extend(&to[..4]);
    packet.extend(body);
    packet
}

fn ip6(from: [u8; 16], to: [u8; 16], next: u8, body: &[u8]) -> Vec<u8> {
    let [l0, l1] = (body.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, l0, l1, next, 64];
    packet.extend(from);
    packet.extend(to);
    packet.extend(body);
    packet
}

/// Frames that must all go to one worker.
type Together = Vec<(&'static str, Vec<u8>)>;

fn samples() -> [Together; 2] {
    const IP4: u16 = 0x0800;
    const IP6: u16 = 0x86dd;
    let segment = [&[0xc3, 0x50, 0x01, 0xbb][..], &[0; 16]].concat();
    let answer = [&[0x01, 0xbb, 0xc3, 0x50][..], &[0; 16]].concat();
    let plain = ip4(ONE, OTHER, 6, 0x4000, &segment);
    // VXLAN: a UDP header, the I flag, a network identifier, and the customer's frame.
    let inside = ethernet(&[], IP4, &plain);
    let udp_length = (inside.len() + 16) as u16;
    let vxlan = [
        &[0xc0, 0, 0x12, 0xb5][..],
        &udp_length.to_be_bytes(),
        &[0, 0],
        &[8, 0, 0, 0, 0, 0, 1, 0],
        &inside,
    ]
    .concat();
    let outer = |protocol, body: &[u8]| ip4([10; 16], [11; 16], protocol, 0, body);
    let gre = [&[0, 0, 0x08, 0][..], &plain].concat();
    let later_fragment = [&[17, 0, 0x05, 0xa8, 0, 0, 0, 9][..], &[0; 16]].concat();
    let first_fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &segment].concat();
    [
        vec![
            ("an IPv4 packet", ethernet(&[], IP4, &plain)),
            (
                "the answer to an IPv4 packet",
                ethernet(&[], IP4, &ip4(OTHER, ONE, 6, 0x4000, &answer)),
            ),
            (
                "a first IPv4 fragment",
                ethernet(&[], IP4, &ip4(ONE, OTHER, 17, 0x2000, &segment)),
            ),
            (
                "a later IPv4 fragment",
                ethernet(&[], IP4, &ip4(ONE, OTHER, 17, 0x00b9, &[0; 8])),
            ),
            (
                "a packet with two VLAN tags",
                ethernet(&[0x88a8, 0x8100], IP4, &plain),
            ),
            ("a packet in VXLAN", ethernet(&[], IP4, &outer(17, &vxlan))),
            ("a packet in GRE", ethernet(&[], IP4, &outer(47, &gre))),
            ("a packet in IPv4", ethernet(&[], IP4, &outer(4, &plain))),
        ],
        vec![
            (
                "an IPv6 packet",
                ethernet(&[], IP6, &ip6(ONE, OTHER, 6, &segment)),
            ),
            (
                "the answer to an IPv6 packet",
                ethernet(&[], IP6, &ip6(OTHER, ONE, 6, &answer)),
            ),
            (
                "a first IPv6 fragment",
                ethernet(&[], IP6, &ip6(ONE, OTHER, 44, &first_fragment)),
            ),
            (
                "a later IPv6 fragment",
                ethernet(&[], IP6, &ip6(ONE, OTHER, 44, &later_fragment)),
            ),
        ],
    ]
}

/// Runs the program for `workers` on sample frames: both directions and all fragments must reach one worker, the one that
/// the rule for files names.
pub fn run(program: &LoadedProgram, link: Link, workers: u32) -> Result<(), SelfTestError> {
    for together in samples() {
        let expected = together
            .first()
            .map_or(0, |(_, frame)| steering_hash(frame, LinkType::ETHERNET));
        let expected = worker_of(expected, workers as usize) as u32;
        for (name, frame) in together {
            // A tag stands in front of IP only where there is a link header.
            if link == Link::Ip && name.contains("VLAN") {
                continue;
            }
            let got = program
                .test_run(&frame)
                .map_err(|error| SelfTestError::NotRun(error.to_string()))?;
            if got != expected {
                return Err(SelfTestError::Misled {
                    frame: name,
                    got,
                    expected,
                });
            }
        }
    }
    Ok(())
}
