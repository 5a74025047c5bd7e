//! The interface beside its frames: what happens to it, and what it drops itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::Books;
use crate::capture::link::{LinkChange, LinkWatch};
use crate::capture::sysfs;
use crate::clock;
use crate::counters::{Account, Kind, LedgerEntry};
use crate::deliver::Alarm;
use crate::seal::ledger::{Event, Severity};

/// How long the watching thread waits before it looks whether it is to end.
const WAIT_MS: u16 = 100;

/// Frames that the interface lost before any socket saw them: files of sysfs, the reasons that they stand for, and what
/// those mean.
const DROPS: [(&str, &str, &str); 4] = [
    (
        "rx_missed_errors",
        "missed",
        "The device had no descriptor or buffer left.",
    ),
    ("rx_fifo_errors", "fifo", "A queue of the device overflowed."),
    (
        "rx_dropped",
        "dropped",
        "The driver or the kernel had no room or no use for them.",
    ),
    ("rx_errors", "errors", "They were damaged, or not received whole."),
];

/// What happens to an interface, in the order of [`LinkChange::NAMES`].
const CHANGES: [&str; LinkChange::NAMES.len()] = [
    "It does not receive.",
    "It receives again.",
    "It was removed.",
    "One of its name is there again.",
    "It has another name.",
    "Its MTU was changed.",
    "The kernel had more to tell than it could: changes were missed.",
];

/// The interface's accounts as they are declared, in ledger order. Live only.
pub(super) fn accounts() -> Vec<Account> {
    let account = |name, doc, reason, reason_doc| Account {
        name,
        reason,
        kind: Kind::Counter,
        doc,
        reason_doc,
    };
    let lost = DROPS.iter().map(|(_, reason, meaning)| {
        account(
            "interface_frames_dropped",
            "Frames that the interface counts as lost before any socket saw them, since the start of the probe.",
            *reason,
            *meaning,
        )
    });
    let changes = LinkChange::NAMES.iter().zip(&CHANGES).map(|(name, meaning)| {
        account(
            "interface_changes",
            "What happened to the interface.",
            *name,
            *meaning,
        )
    });
    lost.chain(changes).collect()
}

/// The interface's accounts.
#[derive(Debug, Default)]
pub(super) struct InterfaceCounters {
    changes: [AtomicU64; LinkChange::NAMES.len()],
    drops: OnceLock<Drops>,
    /// One of [`UNKNOWN`], [`AWAY`] and [`UP`].
    state: AtomicU8,
}

/// Nothing was heard of the interface: what captures is no network interface, or it is too early.
const UNKNOWN: u8 = 0;
/// It is gone, down or without carrier.
const AWAY: u8 = 1;
/// It receives.
const UP: u8 = 2;

/// The interface's own statistics, since the probe started.
#[derive(Debug)]
struct Drops(Mutex<Statistics>);

/// Where the kernel shows them, and what they were when they were last read.
#[derive(Debug)]
struct Statistics {
    /// None where sysfs does not show the interface.
    directory: Option<PathBuf>,
    counts: BTreeMap<&'static str, Cumulative>,
}

/// A count that goes on when the interface's own begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cumulative {
    last: u64,
    sum: u64,
}

impl Cumulative {
    /// Takes the interface's count, and returns what was counted since the start. A smaller one than before is that of a
    /// new interface of the same name, or of a driver that began anew.
    fn reach(&mut self, now: u64) -> u64 {
        self.sum += now.checked_sub(self.last).unwrap_or(now);
        self.last = now;
        self.sum
    }
}

impl Drops {
    fn new(interface: &str) -> Self {
        Self::new_in(Self::directory_of(interface))
    }

    fn directory_of(interface: &str) -> Option<PathBuf> {
        sysfs::directory_of(interface).map(|directory| directory.join("statistics"))
    }

    fn new_in(directory: Option<PathBuf>) -> Self {
        let mut statistics = Statistics {
            directory,
            counts: BTreeMap::new(),
        };
        for (file, ..) in DROPS {
            if let Some(last) = statistics.read(file) {
                statistics.counts.insert(file, Cumulative { last, sum: 0 });
            }
        }
        Self(Mutex::new(statistics))
    }

    fn lock(&self) -> MutexGuard<'_, Statistics> {
        // Nothing panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The interface's statistics are in another directory now: it was renamed, or made anew.
    fn move_to(&self, directory: Option<PathBuf>) {
        self.lock().directory = directory;
    }

    /// The interface is gone. The next one counts from zero.
    fn begin_anew(&self) {
        let mut statistics = self.lock();
        statistics.directory = None;
        for count in statistics.counts.values_mut() {
            count.last = 0;
        }
    }

    /// The count since the start; unknown while there is no interface of this name.
    fn since_start(&self, file: &str) -> Option<u64> {
        // Locked before it is read: of two readers the later one must not come with the smaller count, which would pass
        // for that of a new interface.
        let mut statistics = self.lock();
        let now = statistics.read(file)?;
        Some(statistics.counts.get_mut(file)?.reach(now))
    }
}

impl Statistics {
    fn read(&self, file: &str) -> Option<u64> {
        let path = self.directory.as_ref()?.join(file);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

impl InterfaceCounters {
    pub fn watch_drops(&self, interface: &str) {
        // Called once, at the start.
        let _ = self.drops.set(Drops::new(interface));
    }

    /// Whether the interface is there and receives; none where that is not known.
    pub fn receives(&self) -> Option<bool> {
        match self.state.load(Ordering::Relaxed) {
            UNKNOWN => None,
            state => Some(state == UP),
        }
    }

    fn set_receives(&self, receives: Option<bool>) {
        let state = match receives {
            None => UNKNOWN,
            Some(false) => AWAY,
            Some(true) => UP,
        };
        self.state.store(state, Ordering::Relaxed);
    }

    pub fn ledger_entries(&self) -> Vec<LedgerEntry> {
        let Some(drops) = self.drops.get() else {
            return Vec::new();
        };
        let lost = DROPS.iter().map(|(file, reason, _)| {
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

    /// Where the kernel counts what the interface drops, after a change; this is its name now.
    fn follow(&self, change: &LinkChange, interface: &str) {
        let Some(drops) = self.drops.get() else { return };
        match change {
            LinkChange::Renamed { .. } | LinkChange::Back => drops.move_to(Drops::directory_of(interface)),
            LinkChange::Gone => drops.begin_anew(),
            _ => {}
        }
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
    let mut name = interface.to_owned();
    while !stop.load(Ordering::Relaxed) {
        let changes = match link.changes(WAIT_MS) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(interface, %error, "changes of the interface are not seen any more");
                books.interface().set_receives(None);
                return;
            }
        };
        books.interface().set_receives(link.receives());
        for change in changes {
            books.interface().count(&change);
            let detail = match &change {
                LinkChange::Renamed { to } => format!("{name} is {to} now"),
                LinkChange::Mtu { from, to } => format!("{name}: MTU {from} is {to} now"),
                other => format!("{name}: {}", other.name()),
            };
            match &change {
                LinkChange::Renamed { to } => name.clone_from(to),
                // One that comes back has the name that it had at the start.
                LinkChange::Gone => interface.clone_into(&mut name),
                _ => {}
            }
            books.interface().follow(&change, &name);
            let (event, severity) = match change {
                LinkChange::Down => ("interface_down", Severity::Warning),
                LinkChange::Up => ("interface_up", Severity::Info),
                LinkChange::Gone => ("interface_gone", Severity::Error),
                LinkChange::Back => ("interface_back", Severity::Info),
                LinkChange::Renamed { .. } => ("interface_renamed", Severity::Warning),
                LinkChange::Mtu { .. } => ("interface_mtu", Severity::Info),
                LinkChange::Unknown => ("interface_changes_missed", Severity::Warning),
            };
            match severity {
                Severity::Info => tracing::info!(interface, event, detail),
                Severity::Warning => tracing::warn!(interface, event, detail),
                Severity::Error => tracing::error!(interface, event, detail),
            }
            alarm(Event {
                time: clock::utc_now(),
                severity,
                name: event,
                detail,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_an_interface_dropped_never_goes_backwards() {
        let directory = tempfile::tempdir().unwrap();
        let show = |count: &str| fs::write(directory.path().join("rx_dropped"), count).unwrap();
        show("100\n");
        let drops = Drops::new_in(Some(directory.path().to_owned()));
        // Higher, then made anew, once and once more.
        for (shown, expected) in [("130\n", 30), ("7\n", 37), ("9\n", 39), ("4\n", 43)] {
            show(shown);
            assert_eq!(drops.since_start("rx_dropped"), Some(expected));
        }
        assert_eq!(drops.since_start("rx_errors"), None);
        fs::remove_file(directory.path().join("rx_dropped")).unwrap();
        assert_eq!(drops.since_start("rx_dropped"), None);
        show("5\n");
        assert_eq!(drops.since_start("rx_dropped"), Some(44));
    }

    #[test]
    fn an_interface_that_comes_back_counts_from_zero() {
        let directory = tempfile::tempdir().unwrap();
        let show = |count: &str| fs::write(directory.path().join("rx_dropped"), count).unwrap();
        show("100\n");
        let drops = Drops::new_in(Some(directory.path().to_owned()));
        show("110\n");
        assert_eq!(drops.since_start("rx_dropped"), Some(10));
        // Nobody looks before the new one has dropped more than the old one ever did.
        drops.begin_anew();
        assert_eq!(drops.since_start("rx_dropped"), None);
        drops.move_to(Some(directory.path().to_owned()));
        show("150\n");
        assert_eq!(drops.since_start("rx_dropped"), Some(160));
    }

    #[test]
    fn whoever_reads_a_count_books_it_before_the_next_one_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rx_dropped");
        fs::write(&path, "100\n").unwrap();
        let drops = Drops::new_in(Some(directory.path().to_owned()));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| drops.since_start("rx_dropped"));
            // It can be opened once the reader has it open, who then waits for what is written.
            let mut count = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let another_may_read = drops.0.try_lock().is_ok();
            count.write_all(b"130\n").unwrap();
            drop(count);
            assert_eq!(reader.join().unwrap(), Some(30));
            assert!(!another_may_read);
        });
    }

    #[test]
    fn what_a_renamed_interface_drops_is_counted_on() {
        let directory = tempfile::tempdir().unwrap();
        let show = |name: &str, count: &str| {
            fs::create_dir_all(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("rx_dropped"), count).unwrap();
        };
        show("eth0", "10\n");
        let drops = Drops::new_in(Some(directory.path().join("eth0")));
        fs::rename(directory.path().join("eth0"), directory.path().join("lan")).unwrap();
        assert_eq!(drops.since_start("rx_dropped"), None);
        drops.move_to(Some(directory.path().join("lan")));
        show("lan", "12\n");
        // Another interface that takes the old name is none of ours.
        show("eth0", "900\n");
        assert_eq!(drops.since_start("rx_dropped"), Some(2));
    }

    #[test]
    fn an_interface_of_which_nothing_was_heard_is_neither_up_nor_away() {
        let counters = InterfaceCounters::default();
        assert_eq!(counters.receives(), None);
        for receives in [Some(true), Some(false), None] {
            counters.set_receives(receives);
            assert_eq!(counters.receives(), receives);
        }
    }
}
