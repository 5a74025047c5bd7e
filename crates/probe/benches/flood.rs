//! A SYN flood, made on the fly: what it does to the memory of metering, and whether the books balance.
//!
//! `cargo bench --workspace --bench flood -- [FLOWS] [MEBIBYTES]`: FLOWS SYN packets (default 10,000,000), each of a flow of
//! its own, at 1M a second, through one worker of a probe with `MAX_BUFFER_SIZE_MB=MEBIBYTES` (default 1024). Plots resident
//! memory through the run against that bound, with the flows in the table, and prints the end reasons.

use std::convert::Infallible;
use std::fs;
use std::ops::ControlFlow;

use anyhow::{Context as _, Result, ensure};
use probe::capture::{FrameHeader, Next, OwnedFrames};
use probe::counters::{Counters, check_books};
use probe::engine;
use probe::flow::Settings;
use probe::pipeline::memory::Shares;
use wire::decode::{Decoder, LinkType};

/// Frames of a block.
const BLOCK: u64 = 10_000;
/// Lines of the plot.
const POINTS: u64 = 20;
/// Columns of the plot, for the whole bound.
const PLOT_COLUMNS: u64 = 50;

/// Ethernet II, IPv4, and a SYN (RFC 9293 §3.1) from an address and port of its own.
fn syn(flow: u64) -> [u8; 54] {
    let mut frame = [0; 54];
    frame[12] = 0x08;
    frame[14] = 0x45;
    frame[17] = 40;
    frame[22] = 64;
    frame[23] = 6;
    let number = flow.to_be_bytes();
    frame[26] = 10;
    frame[27..30].copy_from_slice(&number[3..6]);
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame[34..36].copy_from_slice(&number[6..8]);
    frame[36..38].copy_from_slice(&80_u16.to_be_bytes());
    frame[46] = 0x50;
    frame[47] = 0x02;
    frame
}

/// Resident memory of this process in MiB.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kibibytes.context("VmRSS")?.parse::<u64>()? / 1024)
}

fn main() -> Result<()> {
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<u64>().ok());
    let flows = numbers.next().unwrap_or(10_000_000);
    let bound = numbers.next().unwrap_or(1024);
    let settings = Settings::for_memory(Shares::of((bound as usize) << 20).metering);
    let counters = Counters::new(1);
    let mut made = 0;
    let fill = |block: &mut OwnedFrames| -> Result<Next, Infallible> {
        block.headers.clear();
        block.bytes.clear();
        block.first_number = made + 1;
        while made < flows && block.headers.len() < BLOCK as usize {
            let frame = syn(made);
            block.headers.push(FrameHeader {
                time: made as i64 * 1000,
                offset: block.bytes.len() as u32,
                captured_length: frame.len() as u32,
                wire_length: frame.len() as u32,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: true,
                clock: None,
            });
            block.bytes.extend(frame);
            made += 1;
        }
        if made.is_multiple_of((flows / POINTS).max(1)) {
            let resident = resident().unwrap_or(0);
            let bar = "#".repeat((resident * PLOT_COLUMNS / bound.max(1)) as usize);
            let active = counters.total("flows_active");
            println!(
                "{made:>12} {active:>12} {resident:>9} |{bar:<width$}| {bound}",
                width = PLOT_COLUMNS as usize
            );
        }
        Ok(if block.headers.is_empty() {
            Next::End
        } else {
            Next::Block
        })
    };
    println!("{:>12} {:>12} {:>9}", "packets", "flows", "MiB");
    let mut records = 0_u64;
    engine::read(fill, &settings, &Decoder::default(), &counters, &mut |_| {
        records += 1;
        ControlFlow::Continue(())
    })?;
    let entries = counters.ledger_entries();
    check_books(&entries)?;
    ensure!(records == flows, "{records} records of {flows} flows");
    for entry in entries.iter().filter(|entry| entry.account == "flows_exported") {
        if let Some(count @ 1..) = entry.value {
            println!("{count} ended: {}", entry.reason);
        }
    }
    println!("the books balance");
    Ok(())
}
