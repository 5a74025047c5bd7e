//! What sealing costs: batches of real records, by batch size and level of compression.
//!
//! `cargo bench --workspace --bench seal -- CAPTURE [--rows N,N…] [--levels N,N…] [--repeat N]` reads the capture to record
//! batches as a probe builds them, seals each of them once for every size and level, and prints a line of JSON for each:
//! CPU time an event, events a CPU second, sealed bytes an event. The combinations take turns, so that what else the machine
//! does falls on all of them alike; the median of the repetitions counts. `--parts` prints what the parts of sealing cost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arrow::array::RecordBatch;
use probe::clock;
use probe::flow::Settings;
use probe::record::files::{self, Options};
use probe::record::read::Step;
use probe::record::{Layout, Limits};
use probe::seal::batch::leaf_hashes;
use probe::seal::{Certificate, Chain, Kind, Signer, merkle};

const KEY: &[u8] = include_bytes!("../../../tests/vectors/pki/probe.key");
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/vectors/pki/probe.pem");
/// A time at which the certificate is valid, in seconds since 1970.
const NOW: i64 = 1_790_000_000;
/// Bytes of a batch before compression, as in the pipeline.
const BATCH_BYTES: usize = 4 << 20;

struct Arguments {
    file: PathBuf,
    rows: Vec<usize>,
    levels: Vec<i32>,
    repeat: usize,
    parts: bool,
}

fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        file: PathBuf::new(),
        rows: vec![200, 2000, 8192],
        levels: vec![1, 3],
        repeat: 3,
        parts: false,
    };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = given.next() {
        let mut value = || given.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--rows" => arguments.rows = list(&value()?)?,
            "--levels" => arguments.levels = list(&value()?)?,
            "--repeat" => arguments.repeat = value()?.parse()?,
            "--parts" => arguments.parts = true,
            option if option.starts_with('-') => bail!("{option} is not known"),
            file => arguments.file = PathBuf::from(file),
        }
    }
    Ok((arguments.file != PathBuf::new()).then_some(arguments))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// The capture's records in batches of up to `rows`.
fn batches(file: &Path, rows: usize) -> Result<Vec<RecordBatch>> {
    let reading = files::open(Options {
        inputs: vec![file.to_path_buf()],
        filters: None,
        count: None,
        keep_going: true,
        settings: Settings::for_memory(256 << 20),
        layout: Layout::evidence(),
        limits: Limits {
            rows,
            bytes: BATCH_BYTES,
        },
    })?
    .start()?;
    let mut batches = Vec::new();
    loop {
        match reading.next(Duration::from_secs(1)) {
            Step::Batch(batch) => batches.push(batch),
            Step::Wait => {}
            Step::End => return Ok(batches),
        }
    }
}

/// CPU time of this thread.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = clock::thread_cpu();
    let result = work();
    (clock::thread_cpu().saturating_sub(before), result)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    // `cargo bench` runs every target: without a file there is nothing to measure.
    let Some(arguments) = arguments()? else {
        eprintln!(
            "usage: cargo bench --workspace --bench seal -- CAPTURE [--rows N,N] [--levels N,N] [--repeat N] [--parts]"
        );
        return Ok(());
    };
    let signer = Signer::new(KEY, Certificate::from_pem(CERTIFICATE)?, "probe-1/eth0", NOW)?;
    let inputs = arguments
        .rows
        .iter()
        .map(|&rows| Ok((rows, batches(&arguments.file, rows)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut results = vec![(Vec::new(), 0_u64, 0_u64); inputs.len() * arguments.levels.len()];
    for _ in 0..arguments.repeat {
        let mut result = results.iter_mut();
        for (_, batches) in &inputs {
            for &level in &arguments.levels {
                let mut chain = Chain::start(None)?;
                chain.set_compression_level(level);
                let (mut sealed_bytes, mut sealed_batches) = (0, 0);
                let (cpu, outcome) = timed(|| {
                    batches.iter().try_for_each(|batch| {
                        chain.seal_in_parts(Kind::Flow, batch, NOW, &signer, &mut |sealed| {
                            sealed_bytes += sealed.bytes.len() as u64;
                            sealed_batches += 1;
                        })
                    })
                });
                outcome?;
                let (times, bytes, count) = result.next().context("a result for each combination")?;
                times.push(cpu.as_nanos() as f64);
                (*bytes, *count) = (sealed_bytes, sealed_batches);
            }
        }
    }
    let mut result = results.into_iter();
    for (rows, batches) in &inputs {
        let events: usize = batches.iter().map(RecordBatch::num_rows).sum();
        for level in &arguments.levels {
            let (times, bytes, count) = result.next().context("a result for each combination")?;
            let ns = median(times) / events.max(1) as f64;
            println!(
                "{{\"rows\": {rows}, \"level\": {level}, \"events\": {events}, \"batches\": {count}, \"ns_per_event\": {ns:.0}, \
                 \"events_per_cpu_second\": {:.0}, \"bytes_per_event\": {:.1}}}",
                1e9 / ns,
                bytes as f64 / events.max(1) as f64,
            );
        }
        if arguments.parts {
            parts(*rows, batches, events, arguments.repeat)?;
        }
    }
    Ok(())
}

/// Leaves and tree alone.
fn parts(rows: usize, batches: &[RecordBatch], events: usize, repeat: usize) -> Result<()> {
    let (mut leaves_ns, mut root_ns) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        let (cpu, leaves) = timed(|| batches.iter().map(leaf_hashes).collect::<Result<Vec<_>, _>>());
        let leaves = leaves?;
        leaves_ns.push(cpu.as_nanos() as f64);
        let (cpu, _) = timed(|| {
            leaves
                .iter()
                .map(|leaves| merkle::root(leaves))
                .collect::<Vec<_>>()
        });
        root_ns.push(cpu.as_nanos() as f64);
    }
    let events = events.max(1) as f64;
    println!(
        "{{\"rows\": {rows}, \"leaves_ns_per_event\": {:.0}, \"tree_ns_per_event\": {:.0}}}",
        median(leaves_ns) / events,
        median(root_ns) / events,
    );
    Ok(())
}
