use proptest::prelude::*;

use super::*;

/// A reader that consumes a fixed share, and records every byte and gap once.
struct Recorder {
    seen: Vec<Option<u8>>,
    consumed: usize,
    share: usize,
    need: usize,
    ends: usize,
}

impl Recorder {
    fn new(share: usize, need: usize) -> Self {
        Self {
            seen: Vec::new(),
            consumed: 0,
            share,
            need,
            ends: 0,
        }
    }

    fn feed(&mut self, input: Input<'_>) -> Outcome {
        let mut consumed = 0;
        match input {
            Input::Stream(bytes) => {
                assert_eq!(self.ends, 0);
                let unread = &self.seen[self.consumed..];
                assert!(
                    bytes.iter().zip(unread).all(|(byte, seen)| Some(*byte) == *seen),
                    "the same bytes again"
                );
                self.seen.truncate(self.consumed);
                self.seen.extend(bytes.iter().copied().map(Some));
                consumed = bytes.len() * self.share / 4;
                self.consumed += consumed;
            }
            Input::Gap(length) => {
                self.seen.extend((0..length).map(|_| None));
                self.consumed = self.seen.len();
            }
            Input::End => self.ends += 1,
            Input::Datagram(_) => panic!("a stream has no datagrams"),
        }
        Outcome {
            consumed,
            status: Status::Need(self.need),
        }
    }
}

struct Harness {
    stream: Stream,
    budget: Budget,
    tally: Tally,
    recorder: Recorder,
}

impl Harness {
    fn new(limit: usize, per_direction: usize, recorder: Recorder) -> Self {
        let budget = Budget::new(limit, per_direction);
        Self {
            stream: Stream::default(),
            budget,
            tally: Tally::default(),
            recorder,
        }
    }

    fn run(
        &mut self,
        step: impl FnOnce(&mut Stream, &mut Sinks<'_, &mut dyn FnMut(Input<'_>) -> Outcome>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let Self {
            stream,
            budget,
            tally,
            recorder,
        } = self;
        let feed: &mut dyn FnMut(Input<'_>) -> Outcome = &mut |input| recorder.feed(input);
        step(stream, &mut Sinks { feed, budget, tally })
    }

    fn segment(&mut self, sequence: u32, payload: &[u8]) {
        self.flagged(sequence, payload, payload.len() as u32, false, false);
    }

    fn flagged(&mut self, sequence: u32, payload: &[u8], length: u32, syn: bool, fin: bool) {
        let segment = Segment {
            sequence,
            syn,
            fin,
            payload,
            length,
        };
        assert_eq!(self.run(|stream, sinks| stream.segment(segment, sinks)), Ok(()));
    }

    fn acknowledge(&mut self, acknowledgement: u32) {
        assert_eq!(
            self.run(|stream, sinks| stream.acknowledge(acknowledgement, sinks)),
            Ok(())
        );
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method's path is not general enough"
    )]
    fn finish(&mut self) {
        assert_eq!(self.run(|stream, sinks| stream.finish(sinks)), Ok(()));
    }

    /// Bytes as text, `?` where one is missing.
    fn text(&self) -> String {
        self.recorder
            .seen
            .iter()
            .map(|byte| byte.map_or('?', char::from))
            .collect()
    }
}

fn greedy() -> Harness {
    Harness::new(1 << 20, 1 << 16, Recorder::new(4, 0))
}

#[test]
fn syn_data_and_fin_in_order() {
    let mut harness = greedy();
    harness.flagged(u32::MAX - 2, b"fast", 4, true, false); // data in the SYN, and sequence numbers that wrap
    harness.segment(2, b"open");
    harness.flagged(6, b"!", 1, false, true);
    assert_eq!((harness.text().as_str(), harness.recorder.ends), ("fastopen!", 1));
    harness.segment(6, b"!");
    harness.finish();
    assert_eq!(
        (harness.text().as_str(), harness.recorder.ends),
        ("fastopen!", 1),
        "nothing after the end"
    );
}

#[test]
fn the_data_of_a_syn_are_read_as_far_as_they_are_taken() {
    let offer = || {
        let mut harness = greedy();
        harness.flagged(99, b"fake", 4, true, false);
        assert_eq!(harness.text(), "", "nobody has taken it yet");
        harness
    };
    // What the other side acknowledges.
    for (acknowledgement, expected) in [(100, "real"), (102, "fareal"), (104, "fakereal"), (9, "real")] {
        let mut harness = offer();
        harness.acknowledge(acknowledgement);
        let next = acknowledgement.max(100);
        harness.flagged(99, b"XXXX", 4, true, false);
        harness.segment(next, b"real");
        assert_eq!(harness.text(), expected, "{acknowledgement}");
        assert_eq!(harness.budget.used(), 0);
    }
    // Where the sender goes on, where nothing was seen of the other side.
    for (next, expected) in [(100, "real"), (104, "fakereal")] {
        let mut harness = offer();
        harness.segment(next, b"real");
        assert_eq!(harness.text(), expected, "{next}");
    }
    // Neither.
    let mut harness = offer();
    harness.finish();
    assert_eq!((harness.text().as_str(), harness.budget.used()), ("", 0));
    // Of data that were cut.
    let mut harness = greedy();
    harness.flagged(99, b"fa", 4, true, false);
    harness.acknowledge(103);
    harness.segment(103, b"real");
    assert_eq!((harness.text().as_str(), harness.budget.used()), ("fa?real", 0));
    // Without room they are a gap, if they were taken.
    let mut harness = Harness::new(1 << 20, EARLY_BYTES + 3, Recorder::new(4, 0));
    harness.flagged(99, b"fake", 4, true, false);
    harness.acknowledge(104);
    harness.segment(104, b"abc");
    assert_eq!(harness.text(), "????abc");
}

#[test]
fn retransmissions_overlaps_and_keep_alives() {
    let mut harness = greedy();
    harness.segment(100, b"abcd");
    harness.segment(100, b"XXXX");
    harness.segment(102, b"XXef");
    harness.segment(105, b"X"); // a keep-alive: the byte before the next one
    harness.segment(106, b"gh");
    assert_eq!(harness.text(), "abcdefgh");
}

#[test]
fn early_segments_wait_and_the_first_bytes_count() {
    let mut harness = greedy();
    harness.segment(100, b"ab");
    harness.segment(104, b"ef");
    harness.segment(103, b"dXXg");
    harness.segment(103, b"Y");
    assert_eq!(harness.text(), "ab");
    // "ef", and what it leaves of the other: "d" and "g".
    assert_eq!(harness.budget.stream_bytes(), 4);
    assert_eq!(harness.budget.used(), 4 + 3 * EARLY_BYTES);
    harness.segment(102, b"c");
    assert_eq!(harness.text(), "abcdefg");
    assert_eq!(harness.budget.used(), 0);
}

#[test]
fn a_hole_that_the_peer_acknowledges_is_a_gap() {
    let mut harness = greedy();
    harness.segment(100, b"ab");
    harness.segment(105, b"fg");
    harness.acknowledge(104);
    assert_eq!(harness.text(), "ab", "the hole is not acknowledged whole");
    harness.acknowledge(107);
    assert_eq!(harness.text(), "ab???fg");
    assert_eq!(harness.tally.stream_gap_bytes.get(GapReason::Acknowledged), 3);
    // An acknowledgement that came before the data: the hole is known at once.
    harness.acknowledge(110);
    harness.segment(109, b"jk");
    assert_eq!(harness.text(), "ab???fg??jk");
}

#[test]
fn a_cut_segment_is_a_gap() {
    let mut harness = greedy();
    harness.flagged(100, b"ab", 5, false, false);
    harness.segment(105, b"fg");
    harness.flagged(109, b"j", 3, false, false);
    harness.segment(107, b"hi");
    assert_eq!(harness.text(), "ab???fghij??");
    assert_eq!(harness.tally.stream_gaps.get(GapReason::Cut), 2);
}

#[test]
fn limits_make_gaps() {
    let mut harness = Harness::new(1 << 20, EARLY_BYTES + 8, Recorder::new(4, 0));
    harness.segment(100, b"a");
    harness.segment(110, b"01234567");
    harness.segment(120, b"z");
    assert_eq!(harness.text(), "a?????????01234567");
    harness.finish();
    assert_eq!(harness.text(), "a?????????01234567??z");
    assert_eq!(harness.tally.stream_gaps.get(GapReason::Memory), 1);
    assert_eq!(harness.tally.stream_gaps.get(GapReason::FlowEnd), 1);

    let mut harness = greedy();
    harness.segment(0, b"a");
    for segment in 1..=MAX_SEGMENTS as u32 + 1 {
        harness.segment(segment * 2, b"b");
    }
    assert_eq!(harness.stream.early.len(), MAX_SEGMENTS);
    assert_eq!(harness.text(), "a?b");
}

#[test]
fn segments_of_one_byte_take_what_they_take_in_memory() {
    let waiting = |limit, per_direction| {
        let mut harness = Harness::new(limit, per_direction, Recorder::new(4, 0));
        harness.segment(0, b"a");
        for segment in 1..=10 {
            harness.segment(segment * 2, b"b");
        }
        assert!(harness.budget.used() <= limit.min(per_direction));
        let waiting = harness.stream.early.len();
        harness.stream.reset(&mut harness.budget);
        assert_eq!(harness.budget.used(), 0);
        waiting
    };
    assert_eq!(waiting(4 * (EARLY_BYTES + 1), 1 << 20), 4);
    assert_eq!(waiting(1 << 20, 3 * (EARLY_BYTES + 1)), 3);
    // One that fills all holes between them is as many segments as there are holes.
    let mut harness = Harness::new(1 << 20, 5 * EARLY_BYTES + 20, Recorder::new(4, 0));
    harness.segment(0, b"a");
    for segment in 1..=3 {
        harness.segment(segment * 2, b"b");
    }
    harness.segment(2, b"BCBCBC");
    assert_eq!(
        (harness.text().as_str(), harness.budget.used()),
        ("a?bCbCbC", 0),
        "the hole before them is given up"
    );
}

#[test]
fn a_reader_that_never_consumes_is_stopped() {
    let mut harness = Harness::new(10, 100, Recorder::new(0, 0));
    harness.segment(0, b"0123456789");
    let more = Segment {
        sequence: 10,
        syn: false,
        fin: false,
        payload: b"x",
        length: 1,
    };
    assert_eq!(
        harness.run(|stream, sinks| stream.segment(more, sinks)),
        Err(Stop::Memory)
    );
    let Harness { stream, budget, .. } = &mut harness;
    stream.reset(budget);
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_reader_is_called_when_what_it_needs_is_there() {
    let mut harness = Harness::new(1 << 20, 1 << 16, Recorder::new(0, 4));
    harness.segment(0, b"a");
    harness.segment(1, b"b");
    assert_eq!(harness.text(), "a", "the first call says what it needs");
    harness.segment(2, b"cd");
    assert_eq!(harness.text(), "abcd");
}

#[test]
fn a_stray_fin_does_not_end_the_stream() {
    let mut harness = greedy();
    harness.segment(1000, b"abc");
    harness.flagged(500, b"", 0, false, true);
    harness.segment(1003, b"d");
    assert_eq!((harness.text().as_str(), harness.recorder.ends), ("abcd", 0));
}

proptest! {
    /// Random segments of a stream whose copies differ, against an array in which the first byte to arrive stays.
    #[test]
    fn agrees_with_the_naive_model(
        initial in any::<u32>(),
        segments in prop::collection::vec((0_usize..60, 1_usize..12, any::<u8>()), 1..60),
        share in 0_usize..5,
        need in 0_usize..9,
    ) {
        let mut harness = Harness::new(1 << 20, 1 << 16, Recorder::new(share, need));
        harness.flagged(initial.wrapping_sub(1), b"", 0, true, false);
        let mut model = [None; 72];
        let mut contiguous = 0;
        for (offset, length, byte) in segments {
            let bytes: Vec<u8> = (0..length).map(|index| byte.wrapping_add(index as u8)).collect();
            for (slot, byte) in model[offset..offset + length].iter_mut().zip(&bytes) {
                slot.get_or_insert(*byte);
            }
            harness.segment(initial.wrapping_add(offset as u32), &bytes);
            contiguous = model.iter().position(Option::is_none).unwrap_or(model.len());
            let known = harness.recorder.seen.len();
            prop_assert!(known <= contiguous);
            prop_assert_eq!(&harness.recorder.seen[..], &model[..known]);
            prop_assert!(contiguous - known < need.max(1), "no more is held back than the reader asked for");
        }
        harness.finish();
        let end = model.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if end > contiguous {
            // Held-back bytes before the first gap are lost to the reader; everything has its place.
            prop_assert!(harness.recorder.seen.len() <= end);
        } else if need == 0 {
            prop_assert_eq!(&harness.recorder.seen[..], &model[..end]);
        }
        prop_assert_eq!(harness.recorder.ends, 1);
        let Harness { stream, budget, .. } = &mut harness;
        stream.reset(budget);
        prop_assert_eq!(budget.used(), 0);
    }

    /// With small limits, acknowledgements, cuts and FINs anywhere: places stay right, limits hold, nothing leaks.
    #[test]
    fn limits_hold_whatever_comes(
        steps in prop::collection::vec((any::<u8>(), 0_u32..300, 0_usize..20, 0_u32..5), 1..80),
        share in 0_usize..5,
    ) {
        let (limit, per_direction) = (5 * EARLY_BYTES, 4 * EARLY_BYTES);
        let mut harness = Harness::new(limit, per_direction, Recorder::new(share, 0));
        for (action, offset, length, missing) in steps {
            let payload = vec![offset as u8; length];
            let segment = Segment {
                sequence: offset,
                syn: action % 16 == 0,
                fin: action % 16 == 1,
                payload: &payload,
                length: length as u32 + missing,
            };
            let result = if action % 4 == 2 {
                harness.run(|stream, sinks| stream.acknowledge(offset, sinks))
            } else {
                harness.run(|stream, sinks| stream.segment(segment, sinks))
            };
            let Stream { early, early_bytes, unread, .. } = &harness.stream;
            prop_assert!(harness.budget.used() <= limit);
            prop_assert!(memory_of(*early_bytes, early.len()) <= per_direction && unread.len() <= per_direction);
            prop_assert_eq!(harness.budget.used(), memory_of(*early_bytes + unread.len(), early.len()));
            if result.is_err() {
                prop_assert_eq!(result, Err(Stop::Memory));
                break;
            }
        }
        let Harness { stream, budget, .. } = &mut harness;
        stream.reset(budget);
        prop_assert_eq!(budget.used(), 0);
    }
}
