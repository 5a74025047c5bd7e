//! Lock-free counters and the ledger that is made of them (design §9).
//!
//! Every account is declared once, in [`Tally`], with the name and the definition that the ledger, Prometheus and the
//! generated reference show. A worker counts in a [`Tally`] of its own: plain integers, no atomics on the packet path.
//! At the end of every block it publishes the whole tally to its [`Published`] page under a version number, so that
//! a reader sees either the state before a block or the state after it, never half of one, and the books balance in
//! whatever it reads. The page is cache-line padded and has one writer; the writer never waits for a reader.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use wire::l7::{Limit, Malformed};
use wire::malformed::{Fault, Reason, Undecodable};

use crate::flow::EndReason;
use crate::flow::disregard::Disregard;
use crate::flow::fragment::FragmentLoss;
use crate::flow::profile::ShedWork;
use crate::flow::reassembly::GapReason;

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

impl LedgerEntry {
    /// A line of the whole probe's account.
    pub fn of_probe(account: &'static str, reason: &'static str, value: Option<u64>) -> Self {
        Self {
            account,
            reason,
            worker: None,
            value,
        }
    }
}

/// Whether an account only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cumulative since the start.
    Counter,
    /// A state at one moment.
    Gauge,
}

/// An account as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name in the ledger; Prometheus shows it as `dpi_probe_NAME`, with `_total` where it is a counter.
    pub name: &'static str,
    /// The reason, where the account is split by reason; else empty.
    pub reason: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What is counted.
    pub doc: &'static str,
    /// What the reason means; empty where there is none.
    pub reason_doc: &'static str,
}

/// Counts by reason.
#[derive(Clone, PartialEq, Eq)]
pub struct By<R> {
    counts: Box<[u64]>,
    reasons: PhantomData<R>,
}

impl<R: Reason> Default for By<R> {
    fn default() -> Self {
        Self {
            counts: vec![0; R::EVERY.len()].into(),
            reasons: PhantomData,
        }
    }
}

impl<R: Reason> By<R> {
    /// Adds to the count of a reason.
    pub fn add(&mut self, reason: R, count: u64) {
        self.counts[reason.index()] += count;
    }

    /// The count of a reason.
    pub fn get(&self, reason: R) -> u64 {
        self.counts[reason.index()]
    }

    /// The count of all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl<R: Reason> fmt::Debug for By<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(R::EVERY.iter().map(|reason| (reason.label(), self.get(*reason))))
            .finish()
    }
}

/// What an account holds: one count, or one for each reason.
trait Counts {
    fn declare(name: &'static str, kind: Kind, doc: &'static str, declare: &mut dyn FnMut(Account));
    fn visit(&self, visit: &mut dyn FnMut(u64));
}

impl Counts for u64 {
    fn declare(name: &'static str, kind: Kind, doc: &'static str, declare: &mut dyn FnMut(Account)) {
        declare(Account {
            name,
            reason: "",
            kind,
            doc,
            reason_doc: "",
        });
    }

    fn visit(&self, visit: &mut dyn FnMut(u64)) {
        visit(*self);
    }
}

impl<R: Reason> Counts for By<R> {
    fn declare(name: &'static str, kind: Kind, doc: &'static str, declare: &mut dyn FnMut(Account)) {
        for reason in R::EVERY {
            declare(Account {
                name,
                reason: reason.label(),
                kind,
                doc,
                reason_doc: reason.meaning(),
            });
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(u64)) {
        self.counts.iter().for_each(|count| visit(*count));
    }
}

macro_rules! tally {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident: $type:ty,)+) => {
        /// What one worker has counted since it started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Tally { $($(#[doc = $doc])+ pub $name: $type,)+ }

        impl Tally {
            /// Every account, in ledger order.
            pub fn accounts() -> Vec<Account> {
                let mut accounts = Vec::new();
                $(<$type as Counts>::declare(
                    stringify!($name),
                    Kind::$kind,
                    concat!($($doc,)+),
                    &mut |account| accounts.push(account),
                );)+
                accounts
            }

            fn visit(&self, visit: &mut dyn FnMut(u64)) {
                $(Counts::visit(&self.$name, visit);)+
            }
        }
    };
}

tally! {
    /// Frames that the source handed to the worker.
    Counter frames_delivered: u64,
    /// Frames that were counted for a flow.
    Counter frames_metered: u64,
    /// Frames that have no flow.
    Counter frames_undecodable: By<Undecodable>,
    /// IP fragments that wait for the first fragment of their datagram, to be counted for its flow.
    Gauge frames_waiting: u64,
    /// Frames of a block whose processing failed inside the probe. Any value but zero is a bug.
    Counter frames_lost: u64,
    /// Metered packets with a fault; a packet with several faults counts for each.
    Counter packet_faults: By<Fault>,
    /// Metered packets that every receiver discards: they are counted for their flow, but change neither the state of the connection nor what is learned from it.
    Counter packets_disregarded: By<Disregard>,
    /// Flow records begun: flows, further parts of long flows, and stragglers.
    Counter flows_opened: u64,
    /// Flow records begun and not yet ended.
    Gauge flows_active: u64,
    /// Flow records ended and handed on.
    Counter flows_exported: By<EndReason>,
    /// Flow records lost with a block whose processing failed inside the probe. Any value but zero is a bug.
    Counter flows_lost: u64,
    /// Flow records ended for which work was left out under pressure (column `shed`); one counts for each kind of work.
    Counter work_shed: By<ShedWork>,
    /// Times that a failure inside the probe was caught. Any value but zero is a bug.
    Counter worker_panics: u64,
    /// Flow records without the sequence of their packets because too many sequences were kept.
    Counter sequences_refused: u64,
    /// Flow records without features because there was no memory for them.
    Counter features_refused: u64,
    /// Segments of TCP connections that were not analysed because too many connections were.
    Counter tcp_analyses_refused: u64,
    /// Flows whose MAC addresses and tunnel identifier, or also VLANs and tunnels, could not be kept because too many
    /// combinations occurred at once.
    Counter link_paths_overflowed: u64,
    /// IP fragments seen.
    Counter fragments: u64,
    /// Datagrams put together from fragments for layer 7.
    Counter datagrams_reassembled: u64,
    /// Datagrams that could not be put together, or whose fragments could not be given to their flow.
    Counter datagrams_lost: By<FragmentLoss>,
    /// Places where bytes of a TCP stream were missing for layer 7.
    Counter stream_gaps: By<GapReason>,
    /// Bytes of TCP streams that were missing for layer 7.
    Counter stream_gap_bytes: By<GapReason>,
    /// Bytes of TCP streams that are kept for layer 7.
    Gauge stream_bytes_buffered: u64,
    /// Flows that layer 7 began to look at.
    Counter sessions_opened: u64,
    /// Flows whose layer-7 state is in memory.
    Gauge sessions_active: u64,
    /// Flows that layer 7 could not look at because too many were being looked at.
    Counter sessions_refused: u64,
    /// Flows from which everything wanted was learned.
    Counter sessions_done: u64,
    /// Flows whose bytes are not what their protocol says.
    Counter sessions_malformed: By<Malformed>,
    /// Flows that layer 7 gave up.
    Counter sessions_given_up: By<Limit>,
    /// Flows that layer 7 gave up because they needed more bytes in one piece, or held more, than may be kept.
    Counter sessions_out_of_memory: u64,
    /// ICMP errors that quote a packet whose flow can be told. Counted by the worker that sees them; what becomes of them
    /// is counted for all workers together: over all of them, they are the sum of those attributed, forgotten and waiting
    /// once the input is read to its end.
    Counter icmp_errors: u64,
    /// ICMP errors that were counted for the flow that they quote.
    Counter icmp_errors_attributed: u64,
    /// ICMP errors that were counted for no flow: too many flows had some, they came before their flow began, or the clock
    /// was turned back before its record left.
    Counter icmp_errors_forgotten: u64,
    /// ICMP errors that are kept for the record of the flow that they quote.
    Gauge icmp_errors_waiting: u64,
    /// Names of servers learned from DNS answers.
    Counter names_learned: u64,
    /// Addresses in DNS answers for which no name was learned: a message had more than 64, it stood behind what is read
    /// of a message, or it was behind missing bytes of a stream when its flow ended.
    Counter names_refused: u64,
    /// Names of servers forgotten because too many were known.
    Counter names_forgotten: u64,
}

/// Declares the accounts of a stage that belong to the whole probe, as a structure of atomics.
///
/// Each account is `/// definition`, kind, name and field; one that is split by reason has a field, a reason and the
/// reason's meaning for each.
macro_rules! accounts {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $kind:ident $account:ident: $($field:ident $(= $reason:literal, $meaning:literal)?),+;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub struct $name { $($(pub(crate) $field: std::sync::atomic::AtomicU64,)+)+ }

        impl $name {
            /// Every account as it is declared, in ledger order.
            pub fn accounts() -> Vec<$crate::counters::Account> {
                let mut accounts = Vec::new();
                $(for (reason, reason_doc) in [$((concat!($($reason)?), concat!($($meaning)?)),)+] {
                    accounts.push($crate::counters::Account {
                        name: stringify!($account),
                        reason,
                        kind: $crate::counters::Kind::$kind,
                        doc: concat!($($doc,)+),
                        reason_doc,
                    });
                })+
                accounts
            }

            /// Every account at this moment.
            pub fn ledger_entries(&self) -> Vec<$crate::counters::LedgerEntry> {
                let load = |value: &std::sync::atomic::AtomicU64| {
                    Some(value.load(std::sync::atomic::Ordering::Relaxed))
                };
                vec![$($($crate::counters::LedgerEntry::of_probe(
                    stringify!($account),
                    concat!($($reason)?),
                    load(&self.$field),
                ),)+)+]
            }
        }
    };
}
pub(crate) use accounts;

/// The page on which one worker shows its tally to readers.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    /// Odd while a tally is being written.
    version: AtomicU64,
    values: Box<[AtomicU64]>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            values: Tally::accounts().iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Published {
    /// Shows a tally. Only the worker that owns the page may call this.
    pub fn publish(&self, tally: &Tally) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Readers that see a new value also see the odd version number.
        fence(Ordering::Release);
        let mut values = self.values.iter();
        tally.visit(&mut |count| {
            if let Some(value) = values.next() {
                value.store(count, Ordering::Relaxed);
            }
        });
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The values of the latest tally, in the order of [`Tally::accounts`].
    pub fn read(&self) -> Vec<u64> {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let values = self
                .values
                .iter()
                .map(|value| value.load(Ordering::Relaxed))
                .collect();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return values;
            }
            std::thread::yield_now();
        }
    }
}

/// What the thread that puts flows in order counts, and no worker: these accounts are always shown, or a first jump would
/// be no increase, and a state that is over would vanish.
const MERGED: [&str; 5] = [
    "icmp_errors_attributed",
    "icmp_errors_forgotten",
    "icmp_errors_waiting",
    "names_learned",
    "names_forgotten",
];

/// The pages of all workers, and of the thread that puts their flows in order.
#[derive(Clone, Debug)]
pub struct Counters {
    workers: Vec<Arc<Published>>,
    merge: Arc<Published>,
}

impl Counters {
    /// Pages for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            merge: Arc::default(),
        }
    }

    /// The page of a worker, if there is such a worker.
    pub fn worker(&self, worker: usize) -> Option<Arc<Published>> {
        self.workers.get(worker).cloned()
    }

    /// The page of the thread that puts flows in order.
    pub fn merge(&self) -> Arc<Published> {
        Arc::clone(&self.merge)
    }

    /// The books at this moment: each worker's accounts, then the whole probe's that belong to no worker.
    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let accounts = Tally::accounts();
        let mut entries = Vec::with_capacity(accounts.len() * (self.workers.len() + 1));
        for (worker, page) in self.workers.iter().enumerate() {
            let worker = Some(worker as u32);
            entries.extend(
                accounts
                    .iter()
                    .zip(page.read())
                    .map(|(account, value)| LedgerEntry {
                        account: account.name,
                        reason: account.reason,
                        worker,
                        value: Some(value),
                    }),
            );
        }
        entries.extend(
            accounts
                .iter()
                .zip(self.merge.read())
                .filter(|(account, value)| *value != 0 || MERGED.contains(&account.name))
                .map(|(account, value)| LedgerEntry {
                    account: account.name,
                    reason: account.reason,
                    worker: None,
                    value: Some(value),
                }),
        );
        entries
    }

    /// The sum of an account over all reasons and workers.
    pub fn total(&self, account: &str) -> u64 {
        let entries = self.ledger_entries();
        entries
            .iter()
            .filter(|entry| entry.account == account)
            .filter_map(|entry| entry.value)
            .sum()
    }
}

/// The equations that hold at every moment for every worker: the first account is the sum of the others.
pub const BOOKS: &[(&str, &[&str])] = &[
    (
        "frames_delivered",
        &[
            "frames_metered",
            "frames_undecodable",
            "frames_waiting",
            "frames_lost",
        ],
    ),
    ("flows_opened", &["flows_active", "flows_exported", "flows_lost"]),
];

/// An account that is off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the books do not balance: {account} is {expected}, but its parts sum up to {found}{}", of_worker(*.worker))]
pub struct Imbalance {
    /// The account.
    pub account: &'static str,
    /// Whose account it is.
    pub worker: Option<u32>,
    /// Its value.
    pub expected: u64,
    /// The sum of the accounts that should make it up.
    pub found: u64,
}

fn of_worker(worker: Option<u32>) -> String {
    worker
        .map(|worker| format!(" (worker {worker})"))
        .unwrap_or_default()
}

/// Checks the books of every worker that occurs in `entries`; names the first account that is off.
/// Accounts that the capture mode cannot know (null) excuse the equations that they occur in.
pub fn check_books(entries: &[LedgerEntry]) -> Result<(), Imbalance> {
    for worker in workers(entries) {
        for (account, parts) in BOOKS {
            let of = |wanted: &str| {
                let lines = entries
                    .iter()
                    .filter(|entry| entry.worker == worker && entry.account == wanted);
                lines.map(|entry| entry.value).sum::<Option<u64>>()
            };
            let (Some(expected), Some(found)) = (
                of(account),
                parts.iter().map(|part| of(part)).sum::<Option<u64>>(),
            ) else {
                continue;
            };
            if expected != found {
                return Err(Imbalance {
                    account,
                    worker,
                    expected,
                    found,
                });
            }
        }
    }
    Ok(())
}

fn workers(entries: &[LedgerEntry]) -> Vec<Option<u32>> {
    let mut workers: Vec<Option<u32>> = entries.iter().map(|entry| entry.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    workers
}

/// Checks the same at the end of a run, and that what the sources delivered is what the workers got: each from its own, or
/// all from the one that reads files. Before the end, a source and its worker do not publish at the same moment.
pub fn check_books_at_the_end(entries: &[LedgerEntry]) -> Result<(), Imbalance> {
    const SOURCE: &str = "source_frames_delivered";
    check_books(entries)?;
    let is_shared = entries
        .iter()
        .any(|entry| entry.account == SOURCE && entry.worker.is_none());
    let whose = if is_shared { vec![None] } else { workers(entries) };
    for worker in whose {
        // Without a worker, of the whole probe.
        let of = |wanted: &str| -> u64 {
            let lines = entries.iter().filter(|entry| entry.account == wanted);
            let lines = lines.filter(|entry| worker.is_none() || entry.worker == worker);
            lines.filter_map(|entry| entry.value).sum()
        };
        let (expected, found) = (of(SOURCE), of("frames_delivered"));
        if expected != found {
            return Err(Imbalance {
                account: SOURCE,
                worker,
                expected,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn accounts_are_declared_once_with_a_definition() {
        let accounts = Tally::accounts();
        let mut names: Vec<_> = accounts
            .iter()
            .map(|account| (account.name, account.reason))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), accounts.len());
        assert!(accounts.iter().all(|account| account.doc.ends_with('.')));
        for (account, parts) in BOOKS {
            for name in parts.iter().chain([account]) {
                assert!(
                    accounts.iter().any(|declared| declared.name == *name),
                    "{name} is not declared"
                );
            }
        }
    }

    #[test]
    fn published_counts_arrive_under_their_names() {
        let counters = Counters::new(2);
        let mut tally = Tally {
            frames_delivered: 3,
            frames_metered: 1,
            ..Tally::default()
        };
        tally.frames_undecodable.add(Undecodable::NotIp, 2);
        counters.worker(1).unwrap().publish(&tally);
        let entries = counters.ledger_entries();
        let not_ip = entries.iter().find(|entry| {
            (entry.account, entry.reason, entry.worker) == ("frames_undecodable", "not_ip", Some(1))
        });
        assert_eq!(not_ip.and_then(|entry| entry.value), Some(2));
        assert_eq!(counters.total("frames_delivered"), 3);
        assert_eq!(check_books(&entries), Ok(()));
        assert!(counters.worker(2).is_none());
    }

    #[test]
    fn what_belongs_to_no_worker_is_shown_from_the_start() {
        let counters = Counters::new(1);
        let shown = || -> Vec<_> {
            let entries = counters.ledger_entries();
            let of_probe = entries.iter().filter(|entry| entry.worker.is_none());
            of_probe.map(|entry| (entry.account, entry.value)).collect()
        };
        assert_eq!(shown(), MERGED.map(|account| (account, Some(0))));
        let tally = Tally {
            icmp_errors_waiting: 2,
            ..Tally::default()
        };
        counters.merge().publish(&tally);
        assert!(shown().contains(&("icmp_errors_waiting", Some(2))));
        counters.merge().publish(&Tally::default());
        assert!(
            shown().contains(&("icmp_errors_waiting", Some(0))),
            "it is over, and says so"
        );
    }

    #[test]
    fn an_imbalance_names_its_account() {
        let counters = Counters::new(1);
        let tally = Tally {
            frames_delivered: 2,
            frames_metered: 1,
            ..Tally::default()
        };
        counters.worker(0).unwrap().publish(&tally);
        let imbalance = check_books(&counters.ledger_entries()).unwrap_err();
        assert_eq!(
            imbalance.to_string(),
            "the books do not balance: frames_delivered is 2, but its parts sum up to 1 (worker 0)"
        );
    }

    #[test]
    fn what_is_not_known_excuses_its_equation() {
        let entry = |account, value| LedgerEntry {
            account,
            reason: "",
            worker: None,
            value,
        };
        let entries = [entry("flows_opened", Some(7)), entry("flows_active", None)];
        assert_eq!(check_books(&entries), Ok(()));
    }

    #[test]
    fn at_the_end_each_worker_got_what_its_source_delivered() {
        let entry = |account, worker, value| LedgerEntry {
            account,
            reason: "",
            worker,
            value: Some(value),
        };
        let got = [
            entry("frames_delivered", Some(0), 3),
            entry("frames_metered", Some(0), 3),
            entry("frames_delivered", Some(1), 4),
            entry("frames_metered", Some(1), 4),
        ];
        let check = |sources: &[(Option<u32>, u64)]| {
            let sources = sources
                .iter()
                .map(|&(worker, value)| entry("source_frames_delivered", worker, value));
            let entries: Vec<_> = sources.chain(got.clone()).collect();
            check_books_at_the_end(&entries).map_err(|imbalance| (imbalance.worker, imbalance.expected))
        };
        assert_eq!(check(&[(Some(0), 3), (Some(1), 4)]), Ok(()));
        assert_eq!(check(&[(None, 7)]), Ok(()));
        // The sum alone does not tell that.
        assert_eq!(check(&[(Some(0), 4), (Some(1), 3)]), Err((Some(0), 4)));
        assert_eq!(check(&[(Some(0), 3)]), Err((Some(1), 0)));
        assert_eq!(check(&[(None, 8)]), Err((None, 8)));
    }

    #[test]
    fn a_reader_never_sees_half_a_tally() {
        let counters = Counters::new(1);
        let page = counters.worker(0).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut tally = Tally::default();
                for frames in 1..2_000 {
                    tally.frames_delivered = frames;
                    tally.frames_metered = frames;
                    tally.flows_opened = frames;
                    tally.flows_active = frames;
                    page.publish(&tally);
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                assert_eq!(check_books(&counters.ledger_entries()), Ok(()));
            }
        });
        assert_eq!(counters.total("frames_delivered"), 1_999);
    }
}
