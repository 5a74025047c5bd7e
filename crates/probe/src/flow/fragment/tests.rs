//! Fragments made by hand, in any order.

use super::*;
use crate::flow::meter::tests::Frame;

fn seen(clock: i64) -> Seen {
    Seen {
        time: clock,
        clock,
        frame: clock as u64,
        wire_length: 100,
    }
}

/// A fragment of datagram 1 with `payload` at `offset` of the IP payload.
fn fragment(frame: &Frame, offset: u32, more: bool) -> Packet<'_> {
    let whole = frame.packet();
    // The first has a transport header of 8 bytes.
    let length = whole.payload_length + if offset == 0 { 8 } else { 0 };
    let packet = Packet {
        fragment: Some(Fragment {
            identification: 1,
            offset,
            length,
            more,
        }),
        ..whole
    };
    if offset == 0 {
        return packet;
    }
    let (source, destination) = packet.addresses();
    let (key, from_high) = FlowKey::new(4, packet.key.ip_protocol, (source, 0), (destination, 0));
    Packet {
        key,
        from_high,
        hash: 0,
        transport: Transport::Other,
        ..packet
    }
}

fn payload_of(verdict: Verdict) -> (usize, Option<Vec<u8>>) {
    match verdict {
        Verdict::Waits => (usize::MAX, None),
        Verdict::Counts {
            released, payload, ..
        } => (released.len(), payload),
    }
}

#[test]
fn in_order_fragments_make_a_datagram() {
    let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
    let (one, two) = (
        Frame::udp(10, 20).payload(b"01234567"),
        Frame::udp(10, 20).payload(b"89"),
    );
    let first = fragments.push(&fragment(&one, 0, true), seen(1), &mut tally);
    assert!(matches!(&first, Verdict::Counts { endpoints, .. } if endpoints.key == one.packet().key));
    let last = fragments.push(&fragment(&two, 16, false), seen(2), &mut tally);
    assert!(matches!(&last, Verdict::Counts { endpoints, .. } if endpoints.key == one.packet().key));
    assert_eq!(payload_of(last), (0, Some(b"0123456789".to_vec())));
    assert_eq!((fragments.bytes, tally.datagrams_reassembled), (0, 1));
    let kept = |datagram: &Datagram| datagram.pieces.capacity();
    assert_eq!(fragments.datagrams.values().map(kept).sum::<usize>(), 0);
    // A repetition still belongs to the flow, and makes nothing twice.
    assert_eq!(
        payload_of(fragments.push(&fragment(&two, 16, false), seen(3), &mut tally)),
        (0, None)
    );
}

#[test]
fn fragments_before_the_first_wait_for_it() {
    let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
    let (one, two) = (
        Frame::udp(10, 20).payload(b"01234567"),
        Frame::udp(10, 20).payload(b"89"),
    );
    assert_eq!(
        payload_of(fragments.push(&fragment(&two, 16, false), seen(1), &mut tally)).0,
        usize::MAX
    );
    assert_eq!(tally.frames_waiting, 1);
    let first = fragments.push(&fragment(&one, 0, true), seen(2), &mut tally);
    assert_eq!(payload_of(first), (1, Some(b"0123456789".to_vec())));
    assert_eq!(tally.frames_waiting, 0);
}

#[test]
fn ipv6_fragments_may_hide_their_protocol() {
    let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
    let six = |mut packet: Packet<'static>, ip_protocol| {
        packet.key.ip_version = 6;
        packet.key.ip_protocol = ip_protocol;
        packet
    };
    let one = Frame::udp(10, 20).payload(b"01234567").leak();
    let two = Frame::udp(10, 20).payload(b"89").leak();
    // Next header of the fragment header: destination options, whose 8 bytes stand before the UDP header.
    let with_options = |packet: Packet<'static>| Packet {
        fragment: packet.fragment.map(|fragment| Fragment {
            length: fragment.length + 8,
            ..fragment
        }),
        ..packet
    };
    let later = six(fragment(two, 24, false), 60);
    assert!(matches!(
        fragments.push(&later, seen(1), &mut tally),
        Verdict::Waits
    ));
    let first = six(with_options(fragment(one, 0, true)), 17);
    let first = fragments.push(&first, seen(2), &mut tally);
    assert_eq!(payload_of(first), (1, Some(b"0123456789".to_vec())));
    // A fragment that lies among the headers.
    let mut others = Fragments::new(8, 1000);
    let mut losses = Tally::default();
    let inside = six(fragment(two, 8, false), 60);
    others.push(&inside, seen(2), &mut losses);
    others.push(
        &six(with_options(fragment(one, 0, true)), 17),
        seen(2),
        &mut losses,
    );
    assert_eq!(losses.datagrams_lost.get(FragmentLoss::Overlap), 1);

    // The same of another protocol than UDP: attributed, not kept.
    let of_another = |offset, length, more| {
        Some(Fragment {
            identification: 2,
            offset,
            length,
            more,
        })
    };
    let later = Packet {
        fragment: of_another(28, 2, false),
        ..later
    };
    fragments.push(&later, seen(3), &mut tally);
    let first = Packet {
        fragment: of_another(0, 28, true),
        transport: Transport::Tcp(wire::decode::Tcp::default()),
        ..six(fragment(one, 0, true), 6)
    };
    assert_eq!(payload_of(fragments.push(&first, seen(4), &mut tally)).0, 1);
    assert_eq!((fragments.bytes, tally.datagrams_lost.total()), (0, 0));
}

#[test]
fn what_waits_too_long_is_given_back() {
    let (mut fragments, mut tally) = (Fragments::new(1, 1000), Tally::default());
    let two = Frame::udp(10, 20).payload(b"89");
    fragments.push(&fragment(&two, 16, false), seen(5), &mut tally);
    assert_eq!(fragments.next_deadline(), 5 + TIMEOUT_NS);
    assert_eq!(
        fragments.forget_oldest(FragmentLoss::Timeout, &mut tally).len(),
        1
    );
    assert_eq!(
        (fragments.next_deadline(), fragments.bytes, tally.frames_waiting),
        (i64::MAX, 0, 0)
    );
    assert_eq!(tally.datagrams_lost.get(FragmentLoss::Timeout), 1);
    assert!(fragments.is_empty());
    fragments.push(&fragment(&two, 16, false), seen(5), &mut tally);
    assert_eq!(
        fragments.make_room(&mut tally).len(),
        1,
        "one datagram is all that there is room for"
    );
    assert_eq!(tally.datagrams_lost.get(FragmentLoss::TableFull), 1);
}

#[test]
fn overlaps_cuts_and_floods_are_given_up_and_counted() {
    let lost = |pieces: &[(&'static [u8], u32, bool)], loss| {
        let (mut fragments, mut tally) = (Fragments::new(8, 100 + 2 * PIECE_BYTES), Tally::default());
        for (payload, offset, more) in pieces {
            let frame = Frame::udp(10, 20).payload(payload);
            assert_eq!(
                payload_of(fragments.push(&fragment(&frame, *offset, *more), seen(1), &mut tally)).1,
                None
            );
        }
        assert_eq!(
            tally.datagrams_lost.get(loss),
            1,
            "{loss:?}: {:?}",
            tally.datagrams_lost
        );
        assert_eq!((fragments.bytes, tally.datagrams_lost.total()), (0, 1));
    };
    lost(
        &[(b"0123456789", 0, true), (b"xx", 16, false)],
        FragmentLoss::Overlap,
    );
    lost(&[(b"xx", 16, false), (b"yy", 24, true)], FragmentLoss::Overlap);
    lost(&[(b"yy", 24, true), (b"xx", 16, false)], FragmentLoss::Overlap);
    lost(&[(b"x", 65_600, true)], FragmentLoss::Overlap);
    lost(
        &[(&[7; 90], 0, true), (&[7; 90], 200, true)],
        FragmentLoss::Memory,
    );

    let (mut fragments, mut tally) = (Fragments::new(8, 1 << 20), Tally::default());
    let frame = Frame::udp(10, 20).payload(b"01234567");
    let cut = Packet {
        payload_length: 9,
        ..fragment(&frame, 0, true)
    };
    fragments.push(&cut, seen(1), &mut tally);
    assert_eq!(tally.datagrams_lost.get(FragmentLoss::Cut), 1);

    let (mut fragments, mut tally) = (Fragments::new(40, 1 << 20), Tally::default());
    for offset in 1..=MAX_FRAGMENTS as u32 {
        let verdict = fragments.push(&fragment(&frame, offset * 8 + 8, true), seen(1), &mut tally);
        assert!(matches!(verdict, Verdict::Waits));
    }
    let verdict = fragments.push(&fragment(&frame, 65_000, true), seen(1), &mut tally);
    assert!(matches!(verdict, Verdict::Counts { .. }), "no more wait");
    assert_eq!(tally.datagrams_lost.get(FragmentLoss::TooManyFragments), 1);
    assert_eq!(tally.frames_waiting, MAX_FRAGMENTS as u64);
}

#[test]
fn fragments_that_cannot_wait_are_a_loss_of_their_datagram() {
    let (mut fragments, mut tally) = (Fragments::new(40, 1 << 20), Tally::default());
    let frame = Frame::tcp(0x10, 1, 1).payload(b"01234567");
    for place in 1..=MAX_FRAGMENTS as u32 + 3 {
        fragments.push(&fragment(&frame, place * 8, true), seen(1), &mut tally);
    }
    assert_eq!(tally.frames_waiting, MAX_FRAGMENTS as u64);
    fragments.forget_oldest(FragmentLoss::Timeout, &mut tally);
    assert_eq!(
        (
            tally.datagrams_lost.get(FragmentLoss::TooManyFragments),
            tally.datagrams_lost.total()
        ),
        (1, 1)
    );
}

#[test]
fn fragments_that_wait_are_bounded_together() {
    let (mut fragments, mut tally) = (Fragments::new(3, 1 << 20), Tally::default());
    let frame = Frame::udp(10, 20).payload(b"01234567");
    let of = |identification, offset: u32| {
        let packet = fragment(&frame, offset, true);
        let fragment = packet.fragment.map(|fragment| Fragment {
            identification,
            ..fragment
        });
        Packet { fragment, ..packet }
    };
    let mut push = |packet: &Packet<'_>, clock| {
        let forgotten = fragments.make_room(&mut tally).len();
        fragments.push(packet, seen(clock), &mut tally);
        (forgotten, fragments.waiting)
    };
    // The oldest has none that waits: its first fragment came first.
    assert_eq!(push(&of(1, 0), 1), (0, 0));
    for place in 1..=12 {
        assert_eq!(push(&of(2, place * 8 + 8), 2), (0, place as usize));
    }
    assert_eq!(push(&of(3, 16), 3), (12, 1), "four for each of three datagrams");
    assert_eq!(push(&of(3, 0), 3), (0, 0), "released");
    assert_eq!(tally.frames_waiting, 0);
    assert_eq!(tally.datagrams_lost.get(FragmentLoss::Memory), 2);
    assert_eq!(fragments.datagrams.len(), 1);
    assert_eq!(fragments.bytes, 2 * (8 + PIECE_BYTES));
}

#[test]
fn an_identification_is_used_again() {
    let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
    let old = Frame::udp(10, 20).payload(b"01234567");
    let new = Frame::udp(11, 20).payload(b"76543210");
    let rest = Frame::udp(11, 20).payload(b"!");
    fragments.push(&fragment(&old, 0, true), seen(1), &mut tally);
    fragments.push(&fragment(&new, 0, true), seen(2), &mut tally);
    let verdict = fragments.push(&fragment(&rest, 16, false), seen(3), &mut tally);
    assert_eq!(payload_of(verdict), (0, Some(b"76543210!".to_vec())));
    assert_eq!(fragments.deadlines.len(), 1);
}

#[test]
fn an_identification_of_the_same_flow_has_its_time_again() {
    let (one, two) = (
        Frame::udp(10, 20).payload(b"01234567"),
        Frame::udp(10, 20).payload(b"89"),
    );
    let tcp = Frame::tcp(0x10, 101, 1).payload(b"0123");
    for (first, second, reassembled) in [(&one, &two, 2), (&tcp, &tcp, 0)] {
        let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
        for (clock, frame, offset) in [
            (1, first, 0),
            (2, second, 16),
            (TIMEOUT_NS - 5, first, 0),
            (TIMEOUT_NS + 5, second, 16),
        ] {
            while fragments.next_deadline() < clock {
                fragments.forget_oldest(FragmentLoss::Timeout, &mut tally);
            }
            let verdict = fragments.push(&fragment(frame, offset, offset == 0), seen(clock), &mut tally);
            assert!(
                matches!(&verdict, Verdict::Counts { endpoints, .. } if endpoints.key == first.packet().key),
                "at {clock}: {verdict:?}"
            );
        }
        assert_eq!(fragments.next_deadline(), 2 * TIMEOUT_NS - 5);
        assert_eq!((fragments.datagrams.len(), fragments.bytes), (1, 0));
        assert_eq!(
            (tally.datagrams_reassembled, tally.datagrams_lost.total()),
            (reassembled, 0)
        );
    }
}

#[test]
fn fragments_go_on_with_a_tcp_segment() {
    // A header of 20 bytes and 4 of 28 bytes of payload; number 101 is that of the first.
    let segment = |flags| Frame::tcp(flags, 101, 1).payload(b"0123").leak();
    let piece = |flags, offset, length, more| {
        let frame = segment(flags);
        Packet {
            fragment: Some(Fragment {
                identification: 1,
                offset,
                length,
                more,
            }),
            ..fragment(frame, offset, more)
        }
    };
    let part_of = |verdict| match verdict {
        Verdict::Counts { part, .. } => part,
        Verdict::Waits => panic!("it waits"),
    };
    let part = |start, end| {
        Some(Part {
            start,
            end,
            of_syn: false,
        })
    };
    let mut tally = Tally::default();
    // In order: the first alone adds nothing, the others what they carry, and the FIN.
    let mut fragments = Fragments::new(8, 1000);
    let mut push = |piece: &Packet<'_>| part_of(fragments.push(piece, seen(1), &mut tally));
    assert_eq!(push(&piece(0x10, 0, 24, true)), None);
    assert_eq!(push(&piece(0x10, 24, 16, true)), part(105, 121));
    assert_eq!(push(&piece(0x10, 40, 8, false)), part(121, 129));
    assert_eq!(push(&piece(0x11, 0, 24, true)), None, "the identification again");
    assert_eq!(push(&piece(0x11, 24, 8, false)), part(105, 114));
    // Last first: all that has waited counts with the first, behind what that holds itself.
    let mut fragments = Fragments::new(8, 1000);
    for later in [piece(0x10, 40, 8, false), piece(0x10, 24, 16, true)] {
        let verdict = fragments.push(&later, seen(1), &mut tally);
        assert!(matches!(verdict, Verdict::Waits));
    }
    let first = part_of(fragments.push(&piece(0x10, 0, 24, true), seen(1), &mut tally));
    assert_eq!(first, part(105, 129));
}
