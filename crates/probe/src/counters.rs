//! Lock-free counters and the ledger that is made of them (design §9).

/// One line of the books at one moment: a ledger batch is a list of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The account: `frames_delivered`, `frames_metered`, `flows_exported`, `batches_acknowledged`, ….
    pub account: &'static str,
    /// Why, where an account is split by reason (`idle_timeout`, `truncated_ip`, …); else empty.
    pub reason: &'static str,
    /// The worker, where the account is one worker's; else the whole probe's.
    pub worker: Option<u32>,
    /// The cumulative count since the start of the chain; null where the capture mode cannot know it.
    pub value: Option<u64>,
}
