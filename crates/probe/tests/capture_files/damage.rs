//! Damaged files: what is lost is told, and nothing else is lost.

use super::*;

#[test]
fn a_file_that_ends_early_gives_everything_before() {
    for whole in [pcap(9), pcapng(9)] {
        let (complete, _) = read(&whole);
        let cut = &whole[..whole.len() - 2];
        let (frames, errors) = read(cut);
        assert_eq!(frames[..], complete[..8]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains("cut short in the middle of a record at byte "),
            "{errors:?}"
        );
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(&whole).expect("compressed");
        let gzip = gzip.finish().expect("compressed");
        let (frames, errors) = read(&gzip[..gzip.len() - 20]);
        assert_eq!(frames[..], complete[..frames.len()]);
        assert!(
            frames.len() >= 7 && errors.len() == 1 && errors[0].contains("cut short"),
            "{errors:?}"
        );
    }
    let (frames, errors) = read(&pcap(0));
    assert!(
        frames.is_empty() && errors.is_empty(),
        "a capture without packets is a capture"
    );
    assert!(read(&pcap(0)[..20]).1[0].contains("cut short within its file header"));
    assert!(read(&pcapng(1)[..20]).1[0].contains("cut short within its file header"));
}

#[test]
fn reading_goes_on_behind_a_broken_record() {
    // 40 frames of 200 bytes, all equally long: the 11th record starts at a known place.
    let frame = |n: u32| vec![n as u8; 200];
    let mut classic = pcap_header(Order::Little, MICROSECONDS, 1);
    let mut modern = [section(Order::Little), interface(Order::Little, 1, 0, &[])].concat();
    let (mut classic_at, mut modern_at) = (0, 0);
    for n in 0..40 {
        if n == 10 {
            (classic_at, modern_at) = (classic.len(), modern.len());
        }
        classic.extend(record(Order::Little, 1_700_000_000, n, 200, &[], &frame(n)));
        modern.extend(enhanced(Order::Little, 0, u64::from(n), 200, &frame(n)));
    }
    let noise = |seed: u32| -> Vec<u8> {
        let step = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        };
        std::iter::repeat_n((), 300)
            .scan(seed, |state, ()| step(state))
            .collect()
    };
    let timeless = record(Order::Little, 5, 0, 60, &[], &[]);
    let cases: [(&str, Vec<u8>, usize); 13] = [
        (
            "a length that is too large",
            patch(&classic, classic_at + 8, &[0xff; 4]),
            39,
        ),
        ("garbage put in", splice(&classic, classic_at, &[0xee; 333]), 40),
        ("a hole of zeros", splice(&classic, classic_at, &[0; 300]), 40),
        ("a page of zeros", splice(&classic, classic_at, &[0; 4096]), 40),
        ("a record zeroed", patch(&classic, classic_at, &[0; 216]), 39),
        ("ones put in", splice(&classic, classic_at, &[0xff; 300]), 40),
        ("noise put in", splice(&classic, classic_at, &noise(1)), 40),
        ("other noise put in", splice(&classic, classic_at, &noise(2)), 40),
        (
            "garbage behind a record without bytes that says 1970",
            splice(&classic, classic_at, &[&timeless[..], &[0xee; 333]].concat()),
            41,
        ),
        (
            "a record overwritten",
            patch(&classic, classic_at, &[0xff; 216]),
            39,
        ),
        (
            "a block length that is too large",
            patch(&modern, modern_at + 4, &[0xff; 4]),
            39,
        ),
        (
            "a block length that differs behind",
            patch(&modern, modern_at + 4, &[0x08, 0x01, 0, 0]),
            39,
        ),
        (
            "garbage between blocks",
            splice(&modern, modern_at, &[0xee; 77]),
            40,
        ),
    ];
    for (case, bytes, expected) in cases {
        let files = Files::new();
        let mut source = FileSource::new(vec![files.add("x", &bytes)]);
        let (frames, errors) = drain(&mut source);
        assert_eq!(frames.len(), expected, "{case}: {errors:?}");
        assert_eq!(
            frames.iter().filter(|frame| frame.bytes.len() == 200).count(),
            expected.min(40),
            "{case}"
        );
        let at = match case {
            _ if bytes.starts_with(&[0x0a]) => modern_at,
            "garbage behind a record without bytes that says 1970" => classic_at + timeless.len(),
            _ => classic_at,
        };
        assert!(
            errors[0].contains(&format!("broken record at byte {at}; 1 damaged place(s)")),
            "{case}: {errors:?}"
        );
        assert_eq!(errors.len(), 1, "{case}: {errors:?}");
        assert!(source.accounts().bytes_skipped > 0);
    }
    // Many places: the first eight are named.
    for (count, named) in [
        (2, "broken records at bytes 456, 928; 2 damaged place(s)"),
        (
            11,
            "broken records at bytes 456, 928, 1400, 1872, 2344, 2816, 3288, 3760 and 3 more; 11 damaged place(s)",
        ),
    ] {
        let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
        for number in 0..2 * count + 2 {
            if number > 0 && number % 2 == 0 {
                bytes.extend([0xff; 40]);
            }
            bytes.extend(record(Order::Little, 1_600_000_000, number, 200, &[], &[7; 200]));
        }
        let (frames, errors) = read(&bytes);
        assert_eq!(frames.len(), 2 * count as usize + 2);
        assert!(errors[0].contains(named), "{errors:?}");
    }
    // Nothing intact behind it.
    let lost = [&classic[..classic_at], &vec![0xee; 900_000]].concat();
    let (frames, errors) = read(&lost);
    assert_eq!(frames.len(), 10);
    assert!(errors[0].contains("no intact one in the "), "{errors:?}");
}

/// A section with `count` frames of 1,000 bytes, and `put_in` in front of the sixth. With it, where that starts.
fn pcapng_around(put_in: &[u8], count: u32) -> (Vec<u8>, usize) {
    let mut bytes = [section(Order::Little), interface(Order::Little, 1, 0, &[])].concat();
    let mut start = 0;
    for n in 0..count {
        if n == 5 {
            start = bytes.len();
            bytes.extend(put_in);
        }
        bytes.extend(enhanced(Order::Little, 0, u64::from(n), 1000, &[n as u8; 1000]));
    }
    (bytes, start)
}

#[test]
fn a_damaged_length_of_a_block_that_is_passed_over_swallows_no_packets() {
    const FRAMES: u32 = 4000;
    let statistics = block(Order::Little, 5, &[0; 12]);
    let packet = enhanced(Order::Little, 0, 0, 1000, &[0; 1000]).len();
    // The last one leads to the start of a packet: nothing else would tell that it is wrong.
    for length in [0x8_0018, 0x10_0018, 0x7fff_fffc, 24 + 1500 * packet] {
        // Statistics, names, a custom block, and one of unknown type.
        for kind in [5, 4, 0x0bad, 0x7777] {
            if kind == 0x7777 && length > 16 << 20 {
                continue;
            }
            let mut damaged = patch(&statistics, 4, &(length as u32).to_le_bytes());
            damaged[..4].copy_from_slice(&Order::Little.u32(kind));
            let (bytes, start) = pcapng_around(&damaged, FRAMES);
            let (frames, errors) = read(&bytes);
            assert_eq!(frames.len(), FRAMES as usize, "{kind} {length}: {errors:?}");
            let expected =
                format!("broken record at byte {start}; 1 damaged place(s) with 24 bytes were passed over");
            assert!(
                errors.len() == 1 && errors[0].contains(&expected),
                "{kind} {length}: {errors:?}"
            );
        }
    }
}

#[test]
fn a_long_block_that_is_passed_over_must_end_as_it_began() {
    const FRAMES: u32 = 4000;
    let long = block(Order::Little, 10, &vec![b'k'; 3 << 20]);
    let length = long.len();
    let (whole, start) = pcapng_around(&long, FRAMES);
    let (complete, errors) = read(&whole);
    assert_eq!((complete.len(), errors.len()), (FRAMES as usize, 0), "{errors:?}");
    let drip = Drip(std::io::Cursor::new(whole.clone()), 65_535);
    let (frames, errors) = drain(&mut FileSource::from_reader("a pipe", drip).expect("a capture"));
    assert!(frames == complete && errors.is_empty(), "{errors:?}");

    let damaged_end = patch(&whole, start + length - 4, &[0xff; 4]);
    let (frames, errors) = read(&damaged_end);
    assert_eq!(frames, complete);
    let told = |bytes: usize| {
        format!("broken record at byte {start}; 1 damaged place(s) with {bytes} bytes were passed over")
    };
    assert!(
        errors.len() == 1 && errors[0].contains(&told(length)),
        "{errors:?}"
    );

    // Nobody can know how long it is: what it swallows is told. The packet in whose middle it ends is searched behind.
    let packet = enhanced(Order::Little, 0, 0, 1000, &[0; 1000]).len();
    let short = [&block(Order::Little, 5, &[0; 12])[..20], &[0xff; 4]].concat();
    let passed = 24 + 1500 * packet;
    let short = patch(&short, 4, &(passed as u32).to_le_bytes());
    let (bytes, at) = pcapng_around(&short, FRAMES);
    assert_eq!(at, start);
    let (frames, errors) = read(&bytes);
    assert_eq!(frames.len(), FRAMES as usize - 1500);
    assert!(
        errors.len() == 1 && errors[0].contains(&told(passed)),
        "{errors:?}"
    );

    // The file ends in it: its start is named.
    let (frames, errors) = read(&whole[..start + (2 << 20)]);
    assert_eq!(frames, complete[..5]);
    let cut = format!("cut short in the middle of a record at byte {start};");
    assert!(errors.len() == 1 && errors[0].contains(&cut), "{errors:?}");
}

#[test]
fn a_damaged_interface_description_keeps_its_number() {
    let description = interface(Order::Little, 1, 0, &[]);
    let last = description.len() - 1;
    let too_short = block(Order::Little, 1, &[1, 0, 0, 0]);
    for damaged in [
        patch(&description, last, &[0x80]),
        patch(&description, 4, &[0xff; 4]),
        too_short,
    ] {
        let mut bytes = [section(Order::Little), damaged].concat();
        // Nanoseconds.
        bytes.extend(interface(Order::Little, 101, 0, &[(9, &[9])]));
        for n in 0..3 {
            bytes.extend(enhanced(Order::Little, 0, n, 20, b"of the damaged one"));
            bytes.extend(enhanced(Order::Little, 1, n, 20, b"of the next"));
        }
        let (frames, errors) = read(&bytes);
        let seen: Vec<_> = frames
            .iter()
            .map(|f| (f.time, f.link_type, &f.bytes[..]))
            .collect();
        let expected: Vec<_> = (0..3).map(|n| (n, 101, &b"of the next"[..])).collect();
        assert_eq!(seen, expected, "{errors:?}");
        assert!(
            errors.len() == 1 && errors[0].contains("4 damaged place(s)"),
            "{errors:?}"
        );
    }
}

#[test]
fn the_interfaces_of_a_section_whose_header_is_damaged_are_not_added_to_those_before() {
    let mut bytes = pcapng(2);
    let damaged = patch(&section(Order::Little), 8, &[0xff]);
    bytes.extend(damaged);
    bytes.extend(interface(Order::Little, 101, 0, &[]));
    bytes.extend(enhanced(Order::Little, 0, 9, 20, b"of the second section"));
    let (frames, errors) = read(&bytes);
    let link_types: Vec<_> = frames.iter().map(|frame| frame.link_type).collect();
    assert_eq!(link_types, [1, 1, 101], "{errors:?}");
    assert!(errors[0].contains("1 damaged place(s)"), "{errors:?}");
}

#[test]
fn a_captured_length_that_is_damaged_swallows_no_packets() {
    const FRAMES: u32 = 5000;
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
    let (mut start, record_bytes) = (0, 16 + 72);
    for n in 0..FRAMES {
        if n == 2000 {
            start = bytes.len();
        }
        bytes.extend(record(
            Order::Little,
            1_700_000_000 + n / 1000,
            n % 1000,
            72,
            &[],
            &[n as u8; 72],
        ));
    }
    // The second one leads to the start of a record.
    for captured in [72 + (1_u32 << 17), 72 + 1000 * record_bytes] {
        let damaged = patch(&bytes, start + 8, &captured.to_le_bytes());
        let (frames, errors) = read(&damaged);
        assert_eq!(frames.len(), FRAMES as usize - 1, "{captured}: {errors:?}");
        let expected = format!(
            "broken record at byte {start}; 1 damaged place(s) with {record_bytes} bytes were passed over"
        );
        assert!(
            errors.len() == 1 && errors[0].contains(&expected),
            "{captured}: {errors:?}"
        );
    }
    // It is the length on the wire that is damaged: the frame is whole.
    let (frames, errors) = read(&patch(&bytes, start + 12, &8_u32.to_le_bytes()));
    assert_eq!((frames.len(), errors.len()), (FRAMES as usize, 0), "{errors:?}");
}

#[test]
fn programs_that_write_more_bytes_than_a_frame_had_are_read() {
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
    for n in 0..5_u32 {
        // Days lie between them.
        let seconds = 1_600_000_000 + n * 300_000;
        bytes.extend(record(Order::Little, seconds, n, 60, &[], &[n as u8; 64]));
    }
    let (complete, errors) = read(&bytes);
    assert_eq!((complete.len(), errors.len()), (5, 0), "{errors:?}");
    assert!(complete.iter().all(|frame| frame.wire_length == 64));
    let drip = Drip(std::io::Cursor::new(bytes.clone()), 7);
    let (frames, errors) = drain(&mut FileSource::from_reader("a pipe", drip).expect("a capture"));
    assert!(frames == complete && errors.is_empty(), "{errors:?}");
    // Cut within the header of the last one.
    let (frames, errors) = read(&bytes[..bytes.len() - 64 - 9]);
    assert_eq!(frames, complete[..4]);
    assert!(errors.len() == 1 && errors[0].contains("cut short"), "{errors:?}");
    // One of days before the others, one with too many microseconds, one without bytes.
    let odd: [(u32, u32, &[u8]); 3] = [
        (1_500_000_000, 0, &[9; 64]),
        (1_600_000_001, 1_000_001, &[9; 64]),
        (1_600_000_001, 0, &[]),
    ];
    for (seconds, fraction, data) in odd {
        let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
        for n in 0..6 {
            if n == 3 {
                bytes.extend(record(
                    Order::Little,
                    seconds,
                    fraction,
                    60 * u32::from(!data.is_empty()),
                    &[],
                    data,
                ));
            } else {
                bytes.extend(record(
                    Order::Little,
                    1_600_000_000 + n,
                    n,
                    60,
                    &[],
                    &[n as u8; 64],
                ));
            }
        }
        let (frames, errors) = read(&bytes);
        assert_eq!(
            (frames.len(), errors.len()),
            (6, 0),
            "{seconds} {fraction}: {errors:?}"
        );
    }
}

#[test]
fn a_frame_of_an_interface_that_was_not_described_is_counted_as_damage() {
    let mut bytes = pcapng(1);
    for _ in 0..50_000 {
        bytes.extend(enhanced(Order::Little, 7, 0, 20, b"unknown interface"));
    }
    bytes.extend(enhanced(Order::Little, 0, 9, 20, b"known"));
    let (frames, errors) = read(&bytes);
    assert_eq!(frames.len(), 2);
    assert!(errors[0].contains("50000 damaged place(s)"), "{errors:?}");
}
