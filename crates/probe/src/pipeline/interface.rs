//! The interface beside its frames: what happens to it, and what it drops itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::Books;
use crate::capture::link::{LinkChange, LinkWatch};
use crate::clock;
use crate::counters::LedgerEntry;
use crate::deliver::Alarm;
use crate::seal::ledger::{Event, Severity};

/// How long the watching thread waits before it looks whether it is to end.
const WAIT_MS: u16 = 100;

/// Frames that the interface lost before any socket saw them: files of sysfs, and what they count.
const DROPS: [(&str, &str); 4] = [
    ("rx_missed_errors", "missed"),
    ("rx_fifo_errors", "fifo"),
    ("rx_dropped", "dropped"),
    ("rx_errors", "errors"),
];

/// The interface's accounts.
#[derive(Debug, Default)]
pub(super) struct InterfaceCounters {
    changes: [AtomicU64; LinkChange::NAMES.len()],
    drops: OnceLock<Drops>,
}

/// The interface's own statistics, since the probe started.
#[derive(Debug)]
struct Drops {
    directory: PathBuf,
    at_start: BTreeMap<&'static str, u64>,
}

impl Drops {
    fn new(interface: &str) -> Self {
        let mut drops = Self {
            directory: PathBuf::from("/sys/class/net").join(interface).join("statistics"),
            at_start: BTreeMap::new(),
        };
        for (file, _) in DROPS {
            drops.at_start.extend(drops.read(file).map(|count| (file, count)));
        }
        drops
    }

    fn read(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.directory.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// The count since the start; a smaller one than then is that of a new interface of the same name.
    fn since_start(&self, file: &str) -> Option<u64> {
        let now = self.read(file)?;
        let before = self.at_start.get(file)?;
        Some(now.checked_sub(*before).unwrap_or(now))
    }
}

impl InterfaceCounters {
    pub fn watch_drops(&self, interface: &str) {
        // Called once, at the start.
        let _ = self.drops.set(Drops::new(interface));
    }

    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let Some(drops) = self.drops.get() else {
            return Vec::new();
        };
        let lost = DROPS.iter().map(|(file, reason)| {
            LedgerEntry::of_probe("interface_frames_dropped", reason, drops.since_start(file))
        });
        let changes = LinkChange::NAMES
            .iter()
            .zip(&self.changes)
            .map(|(reason, count)| {
                LedgerEntry::of_probe("interface_changes", reason, Some(count.load(Ordering::Relaxed)))
            });
        lost.chain(changes).collect()
    }

    fn count(&self, change: &LinkChange) {
        let kind = LinkChange::NAMES.iter().position(|name| *name == change.name());
        if let Some(count) = kind.and_then(|kind| self.changes.get(kind)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Logs, counts and reports what happens to the interface, until `stop` is set.
pub(super) fn watch(
    mut link: LinkWatch,
    interface: &str,
    books: &Books,
    alarm: &Alarm,
    stop: &Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let changes = match link.changes(WAIT_MS) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(interface, %error, "changes of the interface are not seen any more");
                return;
            }
        };
        for change in changes {
            books.interface().count(&change);
            let detail = match &change {
                LinkChange::Renamed { to } => format!("{interface} is {to} now"),
                LinkChange::Mtu { from, to } => format!("{interface}: MTU {from} is {to} now"),
                other => format!("{interface}: {}", other.name()),
            };
            let (name, severity) = match change {
                LinkChange::Down => ("interface_down", Severity::Warning),
                LinkChange::Up => ("interface_up", Severity::Info),
                LinkChange::Gone => ("interface_gone", Severity::Error),
                LinkChange::Back => ("interface_back", Severity::Info),
                LinkChange::Renamed { .. } => ("interface_renamed", Severity::Warning),
                LinkChange::Mtu { .. } => ("interface_mtu", Severity::Info),
                LinkChange::Unknown => ("interface_changes_missed", Severity::Warning),
            };
            tracing::warn!(interface, event = name, detail);
            alarm(Event {
                time: clock::utc_now(),
                severity,
                name,
                detail,
            });
        }
    }
}
