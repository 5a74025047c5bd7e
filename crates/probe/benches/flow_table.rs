//! One flow table for each worker, or one that all share; packets steered by flow, or dealt out in turn.
//!
//! `cargo bench -p probe --features shared-table --bench flow_table` prints, for each of the four with one thread and two
//! and for several numbers of flows: CPU nanoseconds a packet, the 99.9th percentile of a visit (of one in 32 visits, on
//! the wall clock), flows that were split over tables, and packets that came to their flow out of order. A thread visits
//! the flow and counts the packet in it with its statistics; expiry is on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use probe::clock;
use probe::flow::shared::Shared;
use probe::flow::state::Timeouts;
use probe::flow::table::{FlowTable, Local, Next};
use wire::column::Address;
use wire::decode::{Packet, Transport};
use wire::flowkey::{FlowKey, KeyHasher};

/// Packets of all threads together, so that even of the most flows each has more than one.
fn packets_of(flows: u64) -> u64 {
    (2 * flows).max(4_000_000)
}

/// Packets that are made, then looked up ahead, then metered.
const BATCH: u64 = 32;

const SIZES: [u64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];

const TIMEOUTS: Timeouts = Timeouts {
    idle: 300_000_000_000,
    active: 1_800_000_000_000,
    since: i64::MIN,
};

/// The flow of a packet: a permutation of the counter, so that the same flow comes back after `flows` packets, and every
/// tenth packet belongs to one elephant.
fn flow_of(number: u64, flows: u64) -> u64 {
    if number.is_multiple_of(10) {
        return 0;
    }
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % flows
}

fn packet(flow: u64, hasher: &KeyHasher) -> Packet<'static> {
    let [.., a, b, c] = flow.to_be_bytes();
    let client = (Address::v4([10, a, b, c]), 40_000);
    let server = (Address::v4([192, 0, 2, 1]), 443);
    let (key, from_high) = FlowKey::new(4, 17, client, server);
    Packet {
        hash: hasher.hash(&key),
        steering: 0,
        key,
        from_high,
        src_mac: None,
        dst_mac: None,
        vlans: [0; 4],
        vlan_count: 0,
        tunnels: [None; 4],
        tunnel_id: None,
        ttl: 64,
        ip_length: 100,
        fragment: None,
        transport: Transport::Udp,
        payload: &[],
        payload_length: 72,
        faults: 0,
    }
}

/// CPU time of this thread in nanoseconds.
fn cpu() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) * 1000)
}

/// What a thread found.
#[derive(Default)]
struct Found {
    nanoseconds: i64,
    packets: u64,
    reordered: u64,
    /// Nanoseconds of the first visit of each batch.
    visits: Vec<u64>,
}

/// Meters those packets of the whole sequence that are this thread's.
fn work<T: FlowTable>(
    mut table: T,
    flows: u64,
    next: &AtomicU64,
    mine: impl Fn(u64) -> bool,
) -> Result<(Found, T)> {
    let hasher = KeyHasher::new(7);
    let mut found = Found::default();
    let mut batch = Vec::with_capacity(BATCH as usize);
    let packets = packets_of(flows);
    let before = cpu()?;
    loop {
        let start = next.fetch_add(BATCH, Ordering::Relaxed);
        if start >= packets {
            break;
        }
        for number in start..start + BATCH {
            let flow = flow_of(number, flows);
            if mine(flow) {
                let packet = packet(flow, &hasher);
                table.prefetch_bucket(packet.hash);
                batch.push((number, packet));
            }
        }
        for (_, packet) in &batch {
            table.prefetch_flow(packet.hash);
        }
        for (place, (number, packet)) in batch.drain(..).enumerate() {
            let time = number as i64 * 1000;
            let visit = (place == 0).then(clock::monotonic);
            let in_order = table.with(&packet.key, packet.hash, |mut flow, fresh| {
                if fresh {
                    flow.begin(&packet, None, number);
                }
                let in_order = fresh || flow.hot.latest() <= time;
                let direction = flow.hot.direction(&packet);
                flow.hot.seen = time;
                flow.hot.add(direction, &packet, time, 114, true);
                (in_order, Next::Keep)
            });
            if let Some(visit) = visit {
                found.visits.push(clock::elapsed(visit).as_nanos() as u64);
            }
            found.packets += 1;
            found.reordered += u64::from(in_order == Ok(false));
            if table.quiet_until() < time {
                table.expire(time, |_, _| Next::Remove);
            }
        }
    }
    found.nanoseconds = cpu()? - before;
    Ok((found, table))
}

/// Runs the threads over their tables. Steered, each goes through all packets and passes over what is not its; in turn,
/// they share one counter.
fn run<T: FlowTable + Send>(
    name: &str,
    tables: Vec<T>,
    flows: u64,
    steered: bool,
    shared: bool,
) -> Result<()> {
    let threads = tables.len() as u64;
    let counters: Vec<_> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let barrier = Arc::new(Barrier::new(tables.len()));
    let mut results = std::thread::scope(|scope| {
        let handles: Vec<_> = tables
            .into_iter()
            .enumerate()
            .map(|(number, table)| {
                let barrier = Arc::clone(&barrier);
                let next = &counters[if steered { number } else { 0 }];
                scope.spawn(move || {
                    barrier.wait();
                    let number = number as u64;
                    work(table, flows, next, |flow| !steered || flow % threads == number)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let nanoseconds: i64 = results.iter().map(|(found, _)| found.nanoseconds).sum();
    let packets: u64 = results.iter().map(|(found, _)| found.packets).sum();
    let reordered: u64 = results.iter().map(|(found, _)| found.reordered).sum();
    let held: usize = if shared {
        results.first().map_or(0, |(_, table)| table.len())
    } else {
        results.iter().map(|(_, table)| table.len()).sum()
    };
    let distinct = (0..packets_of(flows).min(flows * 12))
        .map(|number| flow_of(number, flows))
        .collect::<std::collections::HashSet<_>>()
        .len();
    let mut visits: Vec<u64> = results
        .iter_mut()
        .flat_map(|(found, _)| std::mem::take(&mut found.visits))
        .collect();
    visits.sort_unstable();
    let slow = visits.get(visits.len() * 999 / 1000).copied().unwrap_or_default();
    println!(
        "| {name} | {threads} | {flows} | {:.1} | {slow} | {} | {reordered} |",
        nanoseconds as f64 / packets.max(1) as f64,
        held.saturating_sub(distinct),
    );
    Ok(())
}

fn main() -> Result<()> {
    println!(
        "| table, packets | threads | flows | CPU ns a packet | p99.9 of a visit, ns | flows split | packets out of order |"
    );
    println!("|---|---|---|---|---|---|---|");
    for flows in SIZES {
        let capacity = flows as usize + 16;
        for threads in [1, 2] {
            let local = || (0..threads).map(|_| Local::new(capacity, TIMEOUTS)).collect();
            let shared = || {
                let table = Shared::new(capacity, TIMEOUTS);
                (0..threads).map(|_| table.clone()).collect()
            };
            run("local, steered", local(), flows, true, false)?;
            run("local, in turn", local(), flows, false, false)?;
            run("shared, steered", shared(), flows, true, true)?;
            run("shared, in turn", shared(), flows, false, true)?;
        }
    }
    Ok(())
}
