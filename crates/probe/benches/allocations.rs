//! What metering allocates: nothing for packets of known flows.
//!
//! `cargo bench -p probe --bench allocations` prints the allocations of a worker's warm-up and of its packets after that. It
//! is a bench of its own, for counting costs time.

#[path = "../tests/steady/mod.rs"]
mod steady;

use anyhow::{Result, ensure};
use probe::flow::Profile;

fn main() -> Result<()> {
    println!("| profile | flows | allocations of the warm-up | packets after it | their allocations |");
    println!("|---|---|---|---|---|");
    for profile in [Profile::Minimal, Profile::Standard, Profile::Full] {
        let metered = steady::meter(profile);
        println!(
            "| {profile:?} | {} | {} | {} | {} |",
            steady::FLOWS,
            metered.warm_up.count_total,
            metered.steady_packets,
            metered.steady.count_total,
        );
        ensure!(metered.steady.count_total == 0, "a warm worker allocates");
    }
    Ok(())
}
