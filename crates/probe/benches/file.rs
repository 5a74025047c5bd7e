//! A capture file to record batches, as `dpi_probe.read` does it, and what that costs.
//!
//! `cargo bench -p probe --bench file -- FILE [--workers N] [--profile NAME] [--repeat N]` prints a line of JSON for each pass:
//! CPU seconds (user and system, all threads), packets, records, nanoseconds a packet, peak resident memory.
//! `bench/file_to_records.py` runs it in turns with a bare C loop over the same file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use probe::flow::{Profile, Settings};
use probe::record::files::{self, Options};
use probe::record::read::Step;
use probe::record::{Layout, Limits};

struct Arguments {
    file: PathBuf,
    workers: usize,
    repeat: usize,
    memory_mb: Option<usize>,
    profile: Profile,
}

fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        file: PathBuf::new(),
        workers: 1,
        repeat: 1,
        memory_mb: None,
        profile: Profile::default(),
    };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = given.next() {
        let mut value = || given.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--workers" => arguments.workers = value()?.parse()?,
            "--repeat" => arguments.repeat = value()?.parse()?,
            "--memory-mb" => arguments.memory_mb = Some(value()?.parse()?),
            "--profile" => arguments.profile = value()?.parse()?,
            option if option.starts_with('-') => bail!("{option} is not known"),
            file => arguments.file = PathBuf::from(file),
        }
    }
    Ok((arguments.file != PathBuf::new()).then_some(arguments))
}

/// CPU time of the process in seconds and its peak resident memory in MiB.
fn usage() -> Result<(f64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok((microseconds as f64 / 1e6, usage.max_rss() / 1024))
}

fn main() -> Result<()> {
    // `cargo bench` runs every target: without a file there is nothing to measure.
    let Some(arguments) = arguments()? else {
        eprintln!(
            "usage: cargo bench -p probe --bench file -- FILE [--workers N] [--repeat N] [--memory-mb N] [--profile NAME]"
        );
        return Ok(());
    };
    for _ in 0..arguments.repeat {
        let (before, _) = usage()?;
        let start = probe::clock::monotonic();
        let memory = arguments.memory_mb.map_or_else(Settings::default, |mebibytes| {
            Settings::for_memory(mebibytes << 20)
        });
        let opened = files::open(Options {
            inputs: vec![arguments.file.clone()],
            filters: None,
            count: None,
            keep_going: false,
            settings: Settings {
                workers: arguments.workers,
                profile: arguments.profile,
                ..memory
            },
            layout: Layout::evidence(),
            limits: Limits::LOCAL,
        })?;
        let shared = Arc::clone(opened.shared());
        let reading = opened.start()?;
        let (mut records, mut batches) = (0, 0);
        loop {
            match reading.next(Duration::from_secs(1)) {
                Step::Batch(batch) => {
                    records += batch.num_rows();
                    batches += 1;
                }
                Step::Wait => {}
                Step::End => break,
            }
        }
        if let Some(failure) = shared.failure() {
            bail!(failure);
        }
        let (after, peak) = usage()?;
        let (cpu, wall) = (after - before, probe::clock::elapsed(start).as_secs_f64());
        let (_, packets) = shared.progress();
        println!(
            "{{\"cpu_seconds\": {cpu:.4}, \"wall_seconds\": {wall:.4}, \"packets\": {packets}, \"records\": {records}, \
             \"batches\": {batches}, \"ns_per_packet\": {:.1}, \"evicted\": {}, \"peak_rss_mib\": {peak}}}",
            cpu * 1e9 / packets.max(1) as f64,
            shared
                .counters()
                .ledger_entries()
                .iter()
                .filter(|entry| entry.reason == "lack_of_resources")
                .filter_map(|entry| entry.value)
                .sum::<u64>(),
        );
    }
    Ok(())
}
