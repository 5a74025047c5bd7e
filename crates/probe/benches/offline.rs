//! What reading costs: frames of `tests/corpus`, held in memory, decoded alone and metered to records.
//!
//! `cargo bench -p probe`. Figures of a shared machine are for comparison within one run only.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::PathBuf;

use divan::Bencher;
use divan::counter::ItemsCount;
use probe::capture::{FileSource, Next, OwnedFrames};
use probe::counters::Counters;
use probe::engine;
use probe::flow::Settings;
use wire::decode::Decoder;

fn main() {
    divan::main();
}

/// Every frame of the project's own captures, in blocks.
fn blocks() -> Vec<OwnedFrames> {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let mut captures: Vec<PathBuf> = std::fs::read_dir(corpus)
        .expect("tests/corpus is part of the repository")
        .filter_map(|case| {
            let case = case.ok()?.path();
            ["input.pcap", "input.pcapng"]
                .map(|name| case.join(name))
                .into_iter()
                .find(|path| path.is_file())
        })
        .collect();
    captures.sort();
    let mut source = FileSource::new(captures);
    let mut blocks = Vec::new();
    loop {
        let mut block = OwnedFrames::default();
        match source.fill(&mut block) {
            Ok(Next::End) => return blocks,
            Ok(_) => blocks.push(block),
            // A capture of the corpus that is cut short on purpose ends with its error.
            Err(_) => {}
        }
    }
}

fn frames(blocks: &[OwnedFrames]) -> usize {
    blocks.iter().map(|block| block.headers.len()).sum()
}

/// Headers, key, hash and checksums of every frame.
#[divan::bench]
fn decode(bencher: Bencher) {
    let blocks = blocks();
    let decoder = Decoder::default();
    bencher.counter(ItemsCount::new(frames(&blocks))).bench_local(|| {
        blocks
            .iter()
            .flat_map(|block| block.as_frames().iter())
            .filter(|(_, header, frame)| decoder.decode(frame, &header.meta()).is_ok())
            .count()
    });
}

/// Frames to ended flows: decode, table, statistics, reassembly, layer 7.
#[divan::bench(args = [1, 2])]
fn meter(bencher: Bencher, workers: usize) {
    let blocks = blocks();
    let settings = Settings {
        workers,
        ..Settings::for_memory(64 << 20)
    };
    bencher.counter(ItemsCount::new(frames(&blocks))).bench_local(|| {
        let mut waiting = blocks.iter();
        let mut flows = 0;
        let fill = |block: &mut OwnedFrames| -> Result<Next, Infallible> {
            waiting.next().map_or(Ok(Next::End), |next| {
                block.clone_from(next);
                Ok(Next::Block)
            })
        };
        let counters = Counters::new(workers);
        engine::read(fill, &settings, &Decoder::default(), &counters, &mut |_| {
            flows += 1;
            ControlFlow::Continue(())
        })
        .expect("frames in memory can be read");
        flows
    });
}
