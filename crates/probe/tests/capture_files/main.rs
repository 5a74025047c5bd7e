//! Capture files: every variant of both formats, and every kind of damage.
#![allow(missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use probe::capture::bpf::{Filters, Instruction, Program};
use probe::capture::{CaptureError, FileSource, FrameHeader, MAX_FRAME_BYTES, Next, OwnedFrames, Source};
use proptest::prelude::*;
use tempfile::TempDir;
use wire::decode::LinkType;

mod damage;
mod filters;

/// A frame as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    number: u64,
    time: i64,
    wire_length: u32,
    link_type: u32,
    bytes: Vec<u8>,
}

/// All frames and the messages of all errors.
fn drain(source: &mut FileSource) -> (Vec<Seen>, Vec<String>) {
    let mut block = OwnedFrames::default();
    let (mut frames, mut errors) = (Vec::new(), Vec::new());
    loop {
        match source.fill(&mut block) {
            Ok(Next::End) => return (frames, errors),
            Ok(_) => frames.extend(block.as_frames().iter().map(|(number, header, bytes)| {
                let FrameHeader {
                    time,
                    wire_length,
                    link_type,
                    ..
                } = *header;
                Seen {
                    number,
                    time,
                    wire_length,
                    link_type: link_type.0,
                    bytes: bytes.to_vec(),
                }
            })),
            Err(error) => errors.push(error.to_string()),
        }
        assert!(errors.len() < 100, "errors without end");
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a temporary directory"))
    }

    fn add(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn read(&self, bytes: &[u8]) -> (Vec<Seen>, Vec<String>) {
        drain(&mut FileSource::new(vec![self.add("capture", bytes)]))
    }
}

fn read(bytes: &[u8]) -> (Vec<Seen>, Vec<String>) {
    Files::new().read(bytes)
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        if matches!(self, Self::Little) {
            value.to_le_bytes()
        } else {
            value.to_be_bytes()
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        if matches!(self, Self::Little) {
            value.to_le_bytes()
        } else {
            value.to_be_bytes()
        }
    }
}

/// The file header of a pcap file.
fn pcap_header(order: Order, magic: u32, network: u32) -> Vec<u8> {
    let mut bytes = order.u32(magic).to_vec();
    bytes.extend(order.u16(2));
    bytes.extend(order.u16(4));
    for word in [0, 0, 65_535, network] {
        bytes.extend(order.u32(word));
    }
    bytes
}

/// A record of a pcap file; `extra` stands between header and bytes in the modified variant.
fn record(order: Order, seconds: u32, fraction: u32, wire: u32, extra: &[u8], frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [seconds, fraction, frame.len() as u32, wire] {
        bytes.extend(order.u32(word));
    }
    bytes.extend(extra);
    bytes.extend(frame);
    bytes
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const MODIFIED: u32 = 0xa1b2_cd34;

/// A little-endian file with `count` frames, the nth of which has n bytes of value n.
fn pcap(count: u8) -> Vec<u8> {
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
    for n in 1..=count {
        bytes.extend(record(
            Order::Little,
            1_700_000_000,
            u32::from(n),
            100 + u32::from(n),
            &[],
            &vec![n; n.into()],
        ));
    }
    bytes
}

/// A block of a pcapng file.
fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = order.u32(kind).to_vec();
    let length = order.u32(12 + body.len().next_multiple_of(4) as u32);
    bytes.extend(length);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(length);
    bytes
}

fn section(order: Order) -> Vec<u8> {
    let mut body = order.u32(0x1a2b_3c4d).to_vec();
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

/// Each option is code and value.
fn add_options(order: Order, body: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    for (code, value) in options {
        body.extend(order.u16(*code));
        body.extend(order.u16(value.len() as u16));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
}

/// An interface; each option is code and value.
fn interface(order: Order, link_type: u16, snaplen: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = order.u16(link_type).to_vec();
    body.extend([0, 0]);
    body.extend(order.u32(snaplen));
    add_options(order, &mut body, options);
    block(order, 1, &body)
}

/// A packet of the first interface; each option is code and value.
fn enhanced_with(order: Order, frame: &[u8], options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [0, 0, 0, frame.len() as u32, frame.len() as u32] {
        body.extend(order.u32(word));
    }
    body.extend(frame);
    body.resize(body.len().next_multiple_of(4), 0);
    add_options(order, &mut body, options);
    block(order, 6, &body)
}

fn enhanced(order: Order, interface: u32, ticks: u64, wire: u32, frame: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [
        interface,
        (ticks >> 32) as u32,
        ticks as u32,
        frame.len() as u32,
        wire,
    ] {
        body.extend(order.u32(word));
    }
    body.extend(frame);
    block(order, 6, &body)
}

/// A file with one interface and `count` frames.
fn pcapng(count: u8) -> Vec<u8> {
    let mut bytes = section(Order::Little);
    bytes.extend(interface(Order::Little, 1, 0, &[]));
    for n in 1..=count {
        bytes.extend(enhanced(
            Order::Little,
            0,
            1_700_000_000_000_000 + u64::from(n),
            99,
            &vec![n; n.into()],
        ));
    }
    bytes
}

fn patch(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn splice(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    [&bytes[..at], with, &bytes[at..]].concat()
}

#[test]
fn pcap_in_all_its_variants() {
    for order in [Order::Little, Order::Big] {
        // The specification's two; of A. Kuznetzov's patches those of 1999-10-29, 1999-09-15 and 1999-04-17; Nokia's.
        for (magic, fraction_ns, extra) in [
            (MICROSECONDS, 1_000, 0),
            (0xa1b2_3c4d, 1, 0),
            (MODIFIED, 1_000, 8),
            (MODIFIED, 1_000, 12),
            (MICROSECONDS, 1_000, 8),
            (MICROSECONDS, 1_000, 4),
        ] {
            let mut bytes = pcap_header(order, magic, 113);
            bytes.extend(record(order, 1_600_000_007, 5, 60, &vec![9; extra], b"first"));
            bytes.extend(record(order, 1_600_000_008, 6, 6, &vec![9; extra], b"second"));
            let (frames, errors) = read(&bytes);
            assert!(errors.is_empty(), "{errors:?}");
            let expected = [
                Seen {
                    number: 1,
                    time: 1_600_000_007_000_000_000 + 5 * fraction_ns,
                    wire_length: 60,
                    link_type: 113,
                    bytes: b"first".to_vec(),
                },
                Seen {
                    number: 2,
                    time: 1_600_000_008_000_000_000 + 6 * fraction_ns,
                    wire_length: 6,
                    link_type: 113,
                    bytes: b"second".to_vec(),
                },
            ];
            assert_eq!(frames, expected, "{order:?} {magic:#x} {extra}");
            // From a pipe it comes in pieces. One that ends where an ordinary first record would is not among them: such
            // a record is not held back.
            for piece in [22, 33, 1000] {
                let reader = Drip(std::io::Cursor::new(bytes.clone()), piece);
                let mut source = FileSource::from_reader("pipe", reader).expect("a capture");
                let (frames, errors) = drain(&mut source);
                assert!(errors.is_empty(), "{errors:?}");
                assert_eq!(frames, expected, "{order:?} {magic:#x} {extra} by {piece}");
            }
        }
    }
}

#[test]
fn the_first_frame_of_an_ordinary_pipe_does_not_wait_for_the_second() {
    /// Gives what there is, and fails where a pipe would wait.
    struct Open(Vec<u8>);
    impl Read for Open {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "more was asked for");
            let count = buffer.len().min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }
    let mut source = FileSource::from_reader("pipe", Open(pcap(1))).expect("a capture");
    let mut block = OwnedFrames::default();
    assert!(matches!(source.fill(&mut block), Ok(Next::Block)));
    assert_eq!(block.headers.len(), 1);
}

/// Bytes that might be taken for records, and any others.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (0..3_u32, 0..40_u32).prop_map(|(seconds, length)| record(
            Order::Little,
            1_600_000_000 + seconds,
            0,
            length,
            &[],
            &vec![0; length as usize]
        )),
        // What lengths look like, for a header that begins in the one before.
        (1..40_u32, 40..60_u32)
            .prop_map(|(captured, wire)| { [captured.to_le_bytes(), wire.to_le_bytes()].concat() }),
        proptest::collection::vec(any::<u8>(), 1..30),
    ];
    proptest::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever is in the frames of a file, it is read as what it is: as specified, or as one of the variants.
    #[test]
    fn contents_do_not_tell_the_variant(
        frames in proptest::collection::vec((0..100_u32, 0..1_000_000_u32, contents()), 1..6),
        first_second in prop_oneof![Just(0), Just(1_600_000_000)],
        extra in contents(),
        variant in 0..6_usize,
    ) {
        let (magic, length) = [
            (MICROSECONDS, 0),
            (0xa1b2_3c4d, 0),
            (MODIFIED, 8),
            (MODIFIED, 12),
            (MICROSECONDS, 8),
            (MICROSECONDS, 4),
        ][variant];
        // A variant that is not the usual one of its magic number is told by two records, and by its time, which must
        // not pass for a length.
        prop_assume!(variant < 3 || (frames.len() > 1 && first_second > 0));
        let extra: Vec<u8> = extra.iter().copied().cycle().take(length).collect();
        let mut bytes = pcap_header(Order::Little, magic, 1);
        for (seconds, fraction, frame) in &frames {
            let seconds = first_second + *seconds;
            bytes.extend(record(Order::Little, seconds, *fraction, frame.len() as u32, &extra, frame));
        }
        let (seen, errors) = read(&bytes);
        prop_assert!(errors.is_empty(), "{:?}", errors);
        let seen: Vec<_> = seen.into_iter().map(|frame| frame.bytes).collect();
        let expected: Vec<_> = frames.into_iter().map(|(_, _, frame)| frame).collect();
        prop_assert_eq!(seen, expected);
    }

    /// An ordinary file of one record, wherever the second is cut.
    #[test]
    fn a_file_that_is_cut_stays_what_it_is(frame in contents(), next in contents(), cut in 1..16_usize) {
        let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
        bytes.extend(record(Order::Little, 1_600_000_000, 0, frame.len() as u32, &[], &frame));
        bytes.extend(&record(Order::Little, 1_600_000_000, 0, next.len() as u32, &[], &next)[..cut]);
        let (seen, errors) = read(&bytes);
        prop_assert_eq!(seen.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>(), [frame]);
        prop_assert!(errors.len() == 1 && errors[0].contains("in the middle of a record"), "{:?}", errors);
    }
}

#[test]
fn the_frame_check_sequence_is_not_part_of_a_frame() {
    // Bit 26: there is one; the upper four bits: 2 units of 16 bits.
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 0x2400_0001);
    bytes.extend(record(Order::Little, 0, 0, 9, &[], b"frame\0\0\0\0"));
    bytes.extend(record(Order::Little, 0, 0, 9, &[], b"fra"));
    let (frames, _) = read(&bytes);
    assert_eq!(
        frames
            .iter()
            .map(|f| (f.wire_length, &f.bytes[..]))
            .collect::<Vec<_>>(),
        [(5, &b"frame"[..]), (5, b"fra")]
    );
    let mut bytes = section(Order::Big);
    bytes.extend(interface(Order::Big, 1, 0, &[(13, &[4])]));
    bytes.extend(enhanced(Order::Big, 0, 0, 9, b"frame\0\0\0\0"));
    let (frames, _) = read(&bytes);
    assert_eq!((frames[0].wire_length, &frames[0].bytes[..]), (5, &b"frame"[..]));
}

#[test]
fn a_packet_s_flags_and_its_interface_tell_the_frame_check_sequence() {
    let frame = b"frame\0\0\0\0";
    for order in [Order::Little, Order::Big] {
        // Without one; in bits, and in bytes.
        for (of_interface, left) in [(0, 9), (32, 5), (16, 7), (4, 5), (8, 1), (255, 1)] {
            let mut bytes = section(order);
            bytes.extend(interface(order, 1, 0, &[(13, &[of_interface])]));
            bytes.extend(enhanced(order, 0, 0, 9, frame));
            let flags = |flags: u32| order.u32(flags);
            let mut expected = vec![left];
            let mut add = |options: &[(u16, &[u8])], left: usize| {
                bytes.extend(enhanced_with(order, frame, options));
                expected.push(left);
            };
            // Bits 5 to 8. Inbound is no length; a comment may stand before, and what is behind the end is no option.
            add(&[(2, &flags(1))], left);
            add(&[(2, &flags(4 << 5 | 2))], 5);
            add(&[(1, b"five!"), (2, &flags(2 << 5))], 7);
            add(&[(0, b""), (2, &flags(2 << 5))], left);
            add(&[(2, b"\xff")], left);
            add(&[(2, &flags(u32::MAX))], 0);
            // An option that goes beyond the block.
            let cut = enhanced_with(order, frame, &[(2, &flags(4 << 5))]);
            let length = order.u16(400);
            bytes.extend(patch(&cut, 42, &length));
            expected.push(left);
            let (frames, errors) = read(&bytes);
            assert!(errors.is_empty(), "{errors:?}");
            let lengths: Vec<_> = frames.iter().map(|frame| frame.bytes.len()).collect();
            assert_eq!(lengths, expected, "{order:?} {of_interface}");
        }
    }
}

#[test]
fn pcapng_with_sections_interfaces_and_blocks_of_all_kinds() {
    let mut bytes = Vec::new();
    for order in [Order::Little, Order::Big] {
        let seconds: [u8; 8] = if matches!(order, Order::Little) {
            1_000_i64.to_le_bytes()
        } else {
            1_000_i64.to_be_bytes()
        };
        bytes.extend(section(order));
        bytes.extend(interface(order, 1, 0, &[(2, b"eth0"), (0, b"")]));
        // Nanoseconds with an offset of 1,000 s; and 2^-10 s.
        bytes.extend(interface(order, 101, 4, &[(9, &[9]), (14, &seconds)]));
        bytes.extend(interface(order, 113, 0, &[(9, &[0x8a])]));
        bytes.extend(enhanced(order, 0, 2_000_003, 60, b"micro"));
        bytes.extend(block(order, 4, b"names"));
        bytes.extend(enhanced(order, 1, 5, 60, b"nano"));
        bytes.extend(block(order, 0x0bad, b"custom"));
        bytes.extend(enhanced(order, 2, 512, 60, b"binary"));
        bytes.extend(block(order, 0x7777, &[1; 100]));
        // The obsolete packet block: interface 0, 9 drops, time, lengths.
        let mut old = order.u16(0).to_vec();
        old.extend(order.u16(9));
        for word in [0, 4_000_000, 3, 70] {
            old.extend(order.u32(word));
        }
        old.extend(b"old");
        bytes.extend(block(order, 2, &old));
        // The simple packet block: only a length.
        let mut simple = order.u32(6).to_vec();
        simple.extend(b"simple");
        bytes.extend(block(order, 3, &simple));
        bytes.extend(block(order, 10, &[7; 3000]));
        bytes.extend(block(order, 5, &[0; 12]));
    }
    let (frames, errors) = read(&bytes);
    assert!(errors.is_empty(), "{errors:?}");
    let one: Vec<(i64, u32, u32, &[u8])> = vec![
        (2_000_003_000, 60, 1, b"micro"),
        (1_000_000_000_005, 60, 101, b"nano"),
        (500_000_000, 60, 113, b"binary"),
        (4_000_000_000, 70, 1, b"old"),
        // The time of the packet before.
        (4_000_000_000, 6, 1, b"simple"),
    ];
    let seen: Vec<_> = frames
        .iter()
        .map(|f| (f.time, f.wire_length, f.link_type, &f.bytes[..]))
        .collect();
    assert_eq!(seen, [one.clone(), one].concat());
}

#[test]
fn compressed_files_and_several_in_a_row() {
    let files = Files::new();
    let (small, large) = (pcap(3), pcapng(200));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&large).expect("compressed");
    let gzip = gzip.finish().expect("compressed");
    // A gzip file may have several members, a zstd file several frames.
    let mut members = flate2::write::GzEncoder::new(gzip.clone(), flate2::Compression::fast());
    members.write_all(&large[28..]).expect("compressed");
    let members = members.finish().expect("compressed");
    let zstd = zstd::encode_all(&small[..], 3).expect("compressed");
    let paths = vec![
        files.add("a.pcap", &small),
        files.add("b.pcapng.gz", &gzip),
        files.add("c.pcap.zst", &zstd),
        files.add("d.gz", &members),
    ];
    let total: u64 = paths
        .iter()
        .map(|path| fs::metadata(path).expect("there").len())
        .sum();
    let mut source = FileSource::new(paths);
    assert_eq!(source.accounts().bytes_total, Some(total));
    let (frames, errors) = drain(&mut source);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(frames.len(), 3 + 200 + 3 + 400);
    assert!(
        frames.iter().map(|frame| frame.number).eq(1..=606),
        "numbers go on over all files"
    );
    let accounts = source.accounts();
    assert_eq!((accounts.bytes_read, accounts.frames_delivered), (total, 606));
    assert_eq!((accounts.bytes_skipped, accounts.kernel_drops), (0, None));
}

#[test]
fn compressed_files_with_something_around_the_data() {
    let small = pcap(3);
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).expect("compressed");
        gzip.finish().expect("compressed")
    };
    let zstd = zstd::encode_all(&small[..], 3).expect("compressed");
    let (first, second) = (gzip(&small[..30]), gzip(&small[30..]));
    // Zeros at the end, also more than are read at once, and fewer than a header; and between members.
    for zeros in [1, 9, 512, 600_000] {
        let padding = vec![0; zeros];
        for bytes in [
            [&first[..], &second, &padding].concat(),
            [&first[..], &padding, &second].concat(),
        ] {
            let (frames, errors) = read(&bytes);
            assert_eq!((frames.len(), errors.len()), (3, 0), "{zeros}: {errors:?}");
        }
    }
    let (frames, errors) = read(&[&gzip(&small)[..], &[0; 20], b"rubbish behind it"].concat());
    assert_eq!(frames.len(), 3);
    assert!(
        errors.len() == 1 && errors[0].contains("invalid gzip header"),
        "{errors:?}"
    );
    // Skippable frames, of every number.
    for number in 0x50..=0x5f_u8 {
        let skippable = [&[number, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"size"].concat();
        let (frames, errors) = read(&[&skippable[..], &skippable, &zstd, &skippable].concat());
        assert_eq!((frames.len(), errors.len()), (3, 0), "{number:#x}: {errors:?}");
    }
}

#[test]
fn records_that_lie_across_blocks_stay_whole() {
    // Frames of growing size over several read blocks.
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 1);
    let sizes: Vec<usize> = (0..60).map(|n| 1 + n * 1_499 % 70_000).collect();
    for (n, size) in sizes.iter().enumerate() {
        bytes.extend(record(
            Order::Little,
            n as u32,
            0,
            *size as u32,
            &[],
            &vec![n as u8; *size],
        ));
    }
    bytes.extend(record(
        Order::Little,
        60,
        0,
        MAX_FRAME_BYTES,
        &[],
        &vec![60; MAX_FRAME_BYTES as usize],
    ));
    let (frames, errors) = read(&bytes);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(frames.len(), 61);
    for (n, frame) in frames.iter().enumerate() {
        let size = sizes.get(n).copied().unwrap_or(MAX_FRAME_BYTES as usize);
        assert!(
            frame.bytes.len() == size && frame.bytes.iter().all(|byte| *byte == n as u8),
            "frame {n}"
        );
    }
}

#[test]
fn a_count_ends_the_input_at_that_frame() {
    let files = Files::new();
    let paths = vec![files.add("one", &pcap(5)), files.add("two", &pcap(5)[..60])];
    for (count, expected) in [(0, 0), (3, 3), (5, 5)] {
        let mut source = FileSource::new(paths.clone()).with_count(count);
        let (frames, errors) = drain(&mut source);
        // The second file, which is cut, is not looked at.
        assert_eq!((frames.len() as u64, errors.len()), (expected, 0), "{errors:?}");
        let accounts = source.accounts();
        assert_eq!(accounts.frames_delivered, expected);
        assert_eq!(accounts.link_types.values().sum::<u64>(), expected);
    }
}

#[test]
fn what_is_no_capture_is_told_in_one_line() {
    let files = Files::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"just text\n").expect("compressed");
    let gzip = gzip.finish().expect("compressed");
    let nothing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let nothing = nothing.finish().expect("compressed");
    let zstd = zstd::encode_all(&pcap(1)[..], 3).expect("compressed");
    let directory = files.0.path().to_owned();
    let mut version = pcap(1);
    version[4] = 9;
    let mut section_version = pcapng(1);
    section_version[12] = 2;
    let cases: Vec<(PathBuf, &str)> = vec![
        (directory.join("missing"), "no such file"),
        (directory, "is a directory"),
        (files.add("empty", b""), "the file is empty"),
        (
            files.add("text", b"hello\nworld, this is a longer text file\n"),
            "it looks like text;",
        ),
        (files.add("empty.gz", &nothing), "the file is empty"),
        (files.add("cut.zst", &zstd[..12]), "reading failed at byte 0: "),
        (files.add("short", b"hi"), "it looks like text;"),
        (
            files.add("json", b"{\"a\": 1, \"b\": [1, 2, 3], \"c\": null}"),
            "it looks like JSON",
        ),
        (
            files.add("text.gz", &gzip),
            "it looks like text (compressed with gzip)",
        ),
        (
            files.add("zip", b"PK\x03\x04 and so on and so on and so on"),
            "a zip archive",
        ),
        (files.add("binary", &[0xfe; 64]), "other binary data"),
        (
            files.add("version", &version),
            "pcap version 9.4 is not supported",
        ),
        (
            files.add("section", &section_version),
            "pcapng version 2.0 is not supported",
        ),
    ];
    let mut source = FileSource::new(cases.iter().map(|(path, _)| path.clone()).collect());
    let (frames, errors) = drain(&mut source);
    assert!(frames.is_empty());
    assert_eq!(errors.len(), cases.len(), "{errors:#?}");
    for (error, (path, text)) in errors.iter().zip(&cases) {
        assert!(
            error.starts_with(&path.display().to_string()) && error.contains(text),
            "{error} should say {text}"
        );
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn link_types_that_cannot_be_read_are_named() {
    let mut bytes = pcap_header(Order::Little, MICROSECONDS, 195);
    bytes.extend(record(Order::Little, 1, 1, 5, &[], b"zigbe"));
    let files = Files::new();
    let mut source = FileSource::new(vec![files.add("zigbee", &bytes)]);
    let (frames, errors) = drain(&mut source);
    assert_eq!(frames.len(), 1, "delivered all the same: decoding counts it");
    assert!(
        errors[0].contains("link type LINKTYPE_IEEE802_15_4_WITHFCS (195) is not supported"),
        "{errors:?}"
    );
    let accounts = source.accounts();
    assert!(accounts.unsupported_link_types.contains(&LinkType(195)));
    assert_eq!(accounts.link_types.get(&LinkType(195)), Some(&1), "{accounts:?}");
    assert!(accounts.span.is_some_and(|(first, last)| first <= last));
    // With a supported interface beside it, it is only counted.
    let mut bytes = section(Order::Little);
    bytes.extend(interface(Order::Little, 195, 0, &[]));
    bytes.extend(interface(Order::Little, 1, 0, &[]));
    bytes.extend(enhanced(Order::Little, 0, 1, 5, b"zigbe"));
    bytes.extend(enhanced(Order::Little, 1, 1, 5, b"ether"));
    let mut source = FileSource::new(vec![files.add("both", &bytes)]);
    let (frames, errors) = drain(&mut source);
    assert_eq!((frames.len(), errors.len()), (2, 0));
    assert_eq!(source.accounts().unsupported_link_types.len(), 1);
}

/// Gives its bytes in pieces of a few.
struct Drip(std::io::Cursor<Vec<u8>>, usize);

impl Read for Drip {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn a_stream_gives_the_same_frames_whatever_its_pieces() {
    for whole in [pcap(60), pcapng(60)] {
        let (expected, _) = read(&whole);
        for piece in [1, 7, 4096] {
            let reader = Drip(std::io::Cursor::new(whole.clone()), piece);
            let mut source = FileSource::from_reader("a pipe", reader).expect("a capture");
            let (frames, errors) = drain(&mut source);
            assert_eq!(frames, expected);
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(source.accounts().bytes_total, None);
        }
    }
    let error = FileSource::from_reader("a pipe", &b"text, no more"[..])
        .err()
        .map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.starts_with("a pipe: not a capture file, it looks like text;")));
}

#[test]
fn a_source_hands_over_blocks() {
    let files = Files::new();
    let mut source: Box<dyn Source> = Box::new(FileSource::new(vec![
        files.add("x", &pcapng(5)),
        Path::new("/").to_owned(),
    ]));
    let mut frames = 0;
    let mut take = |block: probe::capture::Frames<'_>| frames += block.headers.len();
    assert_eq!(source.next_block(&mut take).expect("frames"), Next::Block);
    assert!(matches!(
        source.next_block(&mut take),
        Err(CaptureError::Directory { .. })
    ));
    assert_eq!(source.next_block(&mut take).expect("the end"), Next::End);
    assert_eq!(frames, 5);
}

/// What holds for the outcome of reading any bytes.
fn holds(bytes: &[u8]) -> Result<(), TestCaseError> {
    let files = Files::new();
    let mut source = FileSource::new(vec![files.add("any", bytes)]);
    let (frames, errors) = drain(&mut source);
    prop_assert!(errors.iter().all(|error| !error.contains('\n')));
    prop_assert!(
        frames
            .iter()
            .all(|frame| frame.bytes.len() <= MAX_FRAME_BYTES as usize)
    );
    prop_assert!(
        frames
            .iter()
            .all(|frame| frame.bytes.len() <= frame.wire_length as usize)
    );
    prop_assert_eq!(source.accounts().frames_delivered, frames.len() as u64);
    prop_assert!(frames.iter().map(|frame| frame.bytes.len()).sum::<usize>() <= bytes.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_behind_a_header(
        modern in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let start = if modern { pcapng(2) } else { pcap(2) };
        holds(&[start, bytes.clone()].concat())?;
        holds(&bytes)?;
    }

    #[test]
    fn any_change_to_a_file(
        modern in any::<bool>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = if modern { pcapng(30) } else { pcap(30) };
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        holds(&bytes)?;
        holds(&bytes[..cut.index(bytes.len())])?;
    }
}
