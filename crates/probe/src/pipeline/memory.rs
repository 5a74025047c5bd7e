//! How the bound of the probe's memory (`MAX_BUFFER_SIZE_MB`) is shared out.

/// What the process takes beside its rings, tables and queues: the interpreter with its libraries and their code, and what
/// signing, compressing and delivering need. Measured: 51 MiB after the start, and up to 25 MiB more under load.
const PROCESS_BYTES: usize = 80 << 20;
/// The most that the rings take.
const RING_BYTES_MAX: usize = 256 << 20;

/// Shares of the bound in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The capture rings of all workers.
    pub ring: usize,
    /// Flows with all that belongs to them, for [`crate::flow::Settings::for_memory`].
    pub metering: usize,
    /// Batches that wait for their signature.
    pub seal_queue: usize,
}

impl Shares {
    /// Of a bound in bytes: what the process itself does not take.
    pub fn of(bound: usize) -> Self {
        // Below 128 MiB, which no setting allows, the queues are small and the bound is not kept.
        let queues = bound.saturating_sub(PROCESS_BYTES).max(16 << 20);
        Self {
            ring: (queues / 8).min(RING_BYTES_MAX),
            metering: queues / 4 * 3,
            seal_queue: queues / 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_and_the_process_stay_within_the_bound() {
        for mebibytes in [128, 256, 1024, 4096, 1 << 20] {
            let bound = mebibytes << 20;
            let Shares {
                ring,
                metering,
                seal_queue,
            } = Shares::of(bound);
            assert!(
                ring + metering + seal_queue + PROCESS_BYTES <= bound,
                "{mebibytes} MiB"
            );
        }
    }

    #[test]
    fn a_gibibyte_is_enough_for_one_and_a_half_million_flows() {
        let flow = crate::flow::Settings::for_memory(Shares::of(1 << 30).metering);
        assert!(flow.flows >= 1_500_000, "{}", flow.flows);
    }
}
