//! Sealed batches on disk until they are acknowledged (`docs/formats/spool.md`).
//!
//! **In**: sealed batches, from one thread. **Out**: the oldest batches and manifests, to the delivery thread, which
//! acknowledges or rejects them. **Owns**: `BUFFER_DIR`, under its lock. **Never**: deletes a batch without a receipt
//! other than by the stated policy, each time counted; holds up capture (only the thread that calls); shows a half-written
//! file; grows beyond its bound.
//!
//! Invariants, whatever crashes:
//! 1. `pending/` holds whole files only (written in `tmp/`, fsync, rename, fsync of the directory).
//! 2. When [`Spool::store`] has returned [`Stored::Batch`], the batch is there after a power cut (with [`Sync::EveryBatch`]).
//! 3. A batch that is dropped leaves its manifest: the new file is durable before the old one goes.
//! 4. A deletion may be undone by a crash: the batch is delivered again, and the Core answers 200.
//!
//! Damage: a file in `pending/` that does not hold what its name says goes to `rejected/`; of one whose manifest is readable
//! the manifest stays behind; one that the disk does not give now stays, and is tried again, others meanwhile; files of other names are left alone, in every directory; a file that vanished is counted as lost.

mod counters;
mod disk;
mod entry;
mod start;
mod store;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use counters::SpoolCounters;
pub use disk::{Disk, FileFacts, OsDisk};
pub use entry::{Entry, Form};

use crate::clock;
use crate::seal::ipc;
use crate::seal::jws::Digest;
use crate::seal::manifest::{ChainId, Claims, Head, Kind, Manifest};
use crate::seal::sign::SIGNATURE_BYTES;
use entry::{Key, Sizes, accounted};

/// Most batches that are dropped to make room for one on a full disk: beyond that the disk is full of something else.
const MAX_EVICTIONS: usize = 64;

/// One part in this many of the bound is for manifests of dropped batches alone, and is the most that they keep from a batch.
const MANIFEST_SHARE: u64 = 16;
/// Ledgers and events stay longest, but beyond one part in this many of the bound the oldest of them go first.
const LEDGER_SHARE: u64 = 4;
/// Refused files take at most one part in this many of the bound.
const REJECTED_SHARE: u64 = 4;
/// The disk works again once it has taken batches for so long without an error: on a full one, each batch that makes room
/// lets another one in.
const CALM: Duration = Duration::from_secs(60);

/// The longest rest of an entry that the disk does not give, unless the first is longer: a disk that gives nothing is not asked
/// for every file all the time.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What happens when the spool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest batches become manifests.
    DropOldest,
    /// The new batch becomes its manifest.
    DropNewest,
}

/// When file contents are forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Each batch, before it counts as stored.
    EveryBatch,
    /// Left to the operating system: a power cut may take the newest batches.
    Never,
}

/// How the spool works.
#[derive(Clone, Copy, Debug)]
pub struct SpoolSettings {
    /// Bound of all files, in bytes.
    pub max_bytes: u64,
    /// What happens there.
    pub when_full: WhenFull,
    /// When file contents are forced to disk.
    pub sync: Sync,
}

/// Why the spool cannot be used, or lost something. The variants say what state it is in.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process uses the directory; nothing was touched.
    #[error("{}: another probe uses this buffer directory; give each probe its own BUFFER_DIR", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory cannot be used; nothing was changed.
    #[error("{}: cannot use the buffer directory: {source}; set BUFFER_DIR to a directory that the probe may write to", path.display())]
    Unusable {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing of a batch could be kept, not even its manifest; its place in the chain stays empty.
    #[error("{}: a batch is lost: {source}", path.display())]
    Lost {
        /// The file that was to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What became of a batch that was handed over.
#[derive(Debug)]
pub enum Stored {
    /// It is in the spool.
    Batch,
    /// Only its manifest is: the spool or the disk is full.
    ManifestOnly,
    /// Nothing is.
    Lost(SpoolError),
}

/// What an entry holds, ready to be sent.
#[derive(Debug)]
pub struct Loaded {
    /// The bytes to send: a sealed batch, or a manifest in ASCII.
    pub bytes: Vec<u8>,
    /// The manifest's claims, not verified.
    pub claims: Claims,
    /// Its place and digest, which the receipt must name.
    pub head: Head,
}

/// Why an entry cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLoaded {
    /// It vanished, or was damaged and is put away: it is no longer in the spool.
    Gone,
    /// The disk does not give it now: it is still in the spool, and in flight until it is put to rest, given up or released.
    Unreadable,
}

/// Whether there is no space left, on the disk or in the user's quota.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The spool. Shared between the thread that stores and the thread that delivers.
#[derive(Debug)]
pub struct Spool<D: Disk = OsDisk> {
    directory: PathBuf,
    disk: D,
    settings: SpoolSettings,
    state: Mutex<State>,
    changed: Notify,
    counters: SpoolCounters,
    temporary: AtomicU64,
    troubles: Mutex<Troubles>,
    shown: Shown,
    head: Option<Head>,
    put_away_at_start: u64,
    /// Held until [`Spool::unlock`].
    lock_file: Mutex<Option<File>>,
}

/// A kind of file operation that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskTrouble {
    /// There is no space, on the disk or in the user's quota.
    Full,
    /// Another error, with its number where it has one: kinds are few.
    Other(io::ErrorKind, Option<i32>),
}

impl DiskTrouble {
    fn of(error: &io::Error) -> Self {
        if is_disk_full(error) {
            Self::Full
        } else {
            Self::Other(error.kind(), error.raw_os_error())
        }
    }
}

/// What the disk refused since it last worked: each kind is said once, not for every file.
#[derive(Debug, Default)]
struct Troubles {
    said: Vec<DiskTrouble>,
    /// When the last error was, said or not.
    last: Option<Instant>,
}

/// An entry that the disk did not give.
#[derive(Clone, Copy, Debug)]
struct NotGiven {
    /// How many times in a row, without those between which the disk gave no other entry either.
    times: u32,
    /// How many times in all since the disk last gave it.
    asked: u32,
    /// `State::given` at the last of them.
    given: u64,
    /// It is not handed out before.
    until: Instant,
}

#[derive(Debug, Default)]
struct State {
    batches: BTreeMap<Key, Sizes>,
    manifests: BTreeMap<Key, Sizes>,
    /// Entries that may be handed out: neither in flight nor at rest.
    free: BTreeSet<(Key, Form)>,
    /// Entries that the disk did not give when they were last asked for.
    not_given: HashMap<(Key, Form), NotGiven>,
    /// Those of them that are at rest, by its end.
    resting: BTreeSet<(Instant, Key, Form)>,
    /// How many times the disk gave an entry.
    given: u64,
    /// Files of `rejected/`, oldest first.
    rejected: std::collections::VecDeque<(String, u64)>,
    rejected_bytes: u64,
    pending_bytes: u64,
    /// The part of `pending_bytes` that manifests take.
    manifest_bytes: u64,
    /// The part of `pending_bytes` that batches without flow records take: ledgers and events.
    ledger_bytes: u64,
    pending_events: u64,
    /// A chain's rank among all: older chains are delivered first.
    ranks: HashMap<ChainId, u32>,
    in_flight: Vec<Key>,
}

impl State {
    fn total_bytes(&self) -> u64 {
        self.pending_bytes + self.rejected_bytes
    }

    fn key(&mut self, entry: &Entry) -> Key {
        Key {
            rank: self.rank(entry.chain),
            seq: entry.seq,
            chain: entry.chain,
        }
    }

    fn rank(&mut self, chain: ChainId) -> u32 {
        let next = self.ranks.len() as u32;
        *self.ranks.entry(chain).or_insert(next)
    }

    /// The entry is no longer in flight.
    fn land(&mut self, key: &Key) {
        self.in_flight.retain(|other| other != key);
    }

    /// Those whose rest is over at `now` may be handed out again.
    fn wake(&mut self, now: Instant) {
        while let Some(&(until, key, form)) = self.resting.first()
            && until <= now
        {
            self.resting.pop_first();
            self.free.insert((key, form));
        }
    }

    /// The entry has not failed to be read, as far as is known.
    fn forgive(&mut self, key: &Key, form: Form) {
        if let Some(not_given) = self.not_given.remove(&(*key, form)) {
            self.resting.remove(&(not_given.until, *key, form));
        }
    }

    fn map(&mut self, form: Form) -> &mut BTreeMap<Key, Sizes> {
        match form {
            Form::Batch => &mut self.batches,
            Form::Manifest => &mut self.manifests,
        }
    }
}

/// The state as it was when its lock was last let go of, for those who must not wait: the lock is held over file operations,
/// and a disk may hang.
#[derive(Debug, Default)]
struct Shown {
    total_bytes: AtomicU64,
    pending_events: AtomicU64,
    pending_entries: AtomicU64,
}

/// The lock on the state.
struct Held<'a> {
    state: MutexGuard<'a, State>,
    shown: &'a Shown,
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let (state, shown) = (&self.state, self.shown);
        shown.total_bytes.store(state.total_bytes(), Ordering::Relaxed);
        shown
            .pending_events
            .store(state.pending_events, Ordering::Relaxed);
        let entries = (state.batches.len() + state.manifests.len()) as u64;
        shown.pending_entries.store(entries, Ordering::Relaxed);
    }
}

impl Spool<OsDisk> {
    /// Opens or makes the spool in `directory`, takes its lock, and reads what lies there.
    pub fn open(directory: &Path, settings: SpoolSettings) -> Result<Self, SpoolError> {
        let unusable = |path: &Path, source| SpoolError::Unusable {
            path: path.to_owned(),
            source,
        };
        OsDisk
            .make_directory(directory)
            .map_err(|error| unusable(directory, error))?;
        let path = directory.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(SpoolError::Locked { path }),
            Err(std::fs::TryLockError::Error(error)) => return Err(unusable(&path, error)),
        }
        let mut spool = Self::open_on(OsDisk, directory, settings)?;
        spool.lock_file = Mutex::new(Some(lock));
        Ok(spool)
    }
}

impl<D: Disk> Spool<D> {
    /// Opens the spool on any disk, without a lock.
    fn open_on(disk: D, directory: &Path, settings: SpoolSettings) -> Result<Self, SpoolError> {
        let mut spool = Self {
            directory: directory.to_owned(),
            disk,
            settings,
            state: Mutex::default(),
            changed: Notify::new(),
            counters: SpoolCounters::default(),
            temporary: AtomicU64::new(0),
            troubles: Mutex::default(),
            shown: Shown::default(),
            head: None,
            put_away_at_start: 0,
            lock_file: Mutex::default(),
        };
        for part in ["tmp", "pending", "rejected"] {
            let path = spool.directory.join(part);
            spool
                .disk
                .make_directory(&path)
                .map_err(|source| SpoolError::Unusable { path, source })?;
        }
        for file in spool.list("tmp")? {
            if is_temporary_name(&file.name) {
                // What stays behind is overwritten or tried again at the next start.
                spool.try_remove(&spool.directory.join("tmp").join(file.name));
            } else {
                Self::count(&spool.counters.foreign, 1);
            }
        }
        spool.read_rejected()?;
        let newest = spool.read_pending()?;
        spool.head = spool.find_head(newest);
        let counters = &spool.counters;
        spool.put_away_at_start = [&counters.rejected_unreadable, &counters.manifests_rejected]
            .map(|counter| counter.load(Ordering::Relaxed))
            .into_iter()
            .sum();
        if spool.put_away_at_start > 0 {
            tracing::error!(
                files = spool.put_away_at_start,
                "{}: files that are damaged were put away; the .reason beside each says how",
                spool.directory.join("rejected").display()
            );
        }
        Ok(spool)
    }

    /// Files that were put away when the spool was opened, because they were damaged.
    pub fn put_away_at_start(&self) -> u64 {
        self.put_away_at_start
    }

    /// The last manifest that is known of the run before: the next chain names it.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Lets go of the directory: another probe may open it, and this one stores and delivers nothing any more.
    pub fn unlock(&self) {
        drop(
            self.lock_file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// The counters.
    pub fn counters(&self) -> &SpoolCounters {
        &self.counters
    }

    /// Signalled when there is something new to deliver.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Flow records in the spool that are not acknowledged. Never waits for the disk.
    pub fn pending_events(&self) -> u64 {
        self.shown.pending_events.load(Ordering::Relaxed)
    }

    /// Batches and manifests that wait for their receipt. Never waits for the disk.
    pub fn pending_entries(&self) -> u64 {
        self.shown.pending_entries.load(Ordering::Relaxed)
    }

    /// Bytes on disk that count against the bound, and the bound. Never waits for the disk.
    pub fn fill(&self) -> (u64, u64) {
        (
            self.shown.total_bytes.load(Ordering::Relaxed),
            self.settings.max_bytes,
        )
    }

    fn lock(&self) -> Held<'_> {
        Held {
            // The state is changed after the file operation succeeded, by single assignments: it holds after a panic too.
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            shown: &self.shown,
        }
    }

    fn list(&self, part: &str) -> Result<Vec<FileFacts>, SpoolError> {
        let path = self.directory.join(part);
        self.disk
            .list(&path)
            .map_err(|source| SpoolError::Unusable { path, source })
    }

    fn pending_path(&self, entry: &Entry) -> PathBuf {
        self.directory.join("pending").join(entry.file_name())
    }

    fn count(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn uncount(counter: &AtomicU64, count: u64) {
        counter.fetch_sub(count, Ordering::Relaxed);
    }

    /// Counts a file operation that failed, and logs it. Each kind of error is said once, until the disk works again: one
    /// that has become read-only refuses every file.
    fn note_disk_error(&self, what: &str, path: &Path, error: &io::Error) {
        Self::count(&self.counters.disk_errors, 1);
        if !self.is_news(error) {
            return;
        }
        if is_disk_full(error) {
            let kept = match self.settings.when_full {
                WhenFull::DropOldest => "the oldest batches make room",
                WhenFull::DropNewest => "new batches are not kept",
            };
            tracing::error!(
                "{}: the disk is full ({error}): {kept}, of each its manifest stays where there is space for it; \
                 free space there, or give another BUFFER_DIR",
                self.directory.display()
            );
        } else {
            tracing::warn!(
                path = %path.display(), %error,
                "spool: {what} failed; the next failures of this kind are only counted, until the disk has worked for a minute"
            );
        }
    }

    /// Whether an error of this kind was not said since the disk last worked. It is now.
    fn is_news(&self, error: &io::Error) -> bool {
        let trouble = DiskTrouble::of(error);
        let mut troubles = self.troubles();
        troubles.last = Some(clock::monotonic());
        let is_news = !troubles.said.contains(&trouble);
        if is_news {
            troubles.said.push(trouble);
        }
        is_news
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        // Changed by single assignments: it holds after a panic too.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was stored at once at `now`: what is over of the disk's troubles.
    fn overcome(&self, now: Instant) -> Vec<DiskTrouble> {
        let mut troubles = self.troubles();
        let calm = troubles
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= CALM);
        if calm {
            std::mem::take(&mut troubles.said)
        } else {
            Vec::new()
        }
    }

    /// A batch was stored at once: the disk may work again.
    fn note_disk_works(&self) {
        let overcome = self.overcome(clock::monotonic());
        if overcome.contains(&DiskTrouble::Full) {
            tracing::info!(
                dropped = self.counters.dropped_disk.load(Ordering::Relaxed),
                lost = self.counters.lost.load(Ordering::Relaxed),
                "{}: the disk has space again",
                self.directory.display()
            );
        } else if !overcome.is_empty() {
            tracing::info!(
                errors = self.counters.disk_errors.load(Ordering::Relaxed),
                "{}: the disk takes batches again",
                self.directory.display()
            );
        }
    }

    /// Removes a file; returns whether it is gone.
    fn try_remove(&self, path: &Path) -> bool {
        match self.disk.remove(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                self.note_disk_error("removing a file", path, &error);
                false
            }
        }
    }

    /// Writes `content` so that it appears under `path` whole.
    fn write_whole(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join("tmp").join(number.to_string());
        let written = self
            .disk
            .write(&temporary, content, durable)
            .and_then(|()| self.disk.rename(&temporary, path))
            .and_then(|()| match path.parent() {
                Some(directory) if durable => self.disk.sync_directory(directory),
                _ => Ok(()),
            });
        if written.is_err() {
            self.try_remove(&temporary);
        }
        written
    }

    fn durable(&self) -> bool {
        self.settings.sync == Sync::EveryBatch
    }

    fn insert(&self, state: &mut State, key: Key, form: Form, length: u64, events: u64) {
        let size = accounted(length);
        let events = if form == Form::Batch { events } else { 0 };
        state.pending_bytes += size;
        state.pending_events += events;
        match form {
            Form::Manifest => state.manifest_bytes += size,
            Form::Batch if events == 0 => state.ledger_bytes += size,
            Form::Batch => {}
        }
        state.map(form).insert(
            key,
            Sizes {
                size,
                events,
                given: None,
                is_sent: false,
                is_unread: false,
            },
        );
        state.free.insert((key, form));
        let counter = match form {
            Form::Batch => &self.counters.spooled,
            Form::Manifest => &self.counters.manifests_spooled,
        };
        Self::count(counter, 1);
    }

    /// Takes an entry out of the index; `false` if it is not there.
    fn forget(&self, state: &mut State, key: &Key, form: Form) -> bool {
        let Some(sizes) = state.map(form).remove(key) else {
            return false;
        };
        state.free.remove(&(*key, form));
        state.forgive(key, form);
        state.pending_bytes -= sizes.size;
        state.pending_events -= sizes.events;
        match form {
            Form::Manifest => state.manifest_bytes -= sizes.size,
            Form::Batch if sizes.events == 0 => state.ledger_bytes -= sizes.size,
            Form::Batch => {}
        }
        let counter = match form {
            Form::Batch => &self.counters.spooled,
            Form::Manifest => &self.counters.manifests_spooled,
        };
        Self::uncount(counter, 1);
        true
    }
}

/// Whether `write_whole` makes such a name in `tmp/`: nothing else is removed there, for the directory may be another's too.
fn is_temporary_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Rows of a batch that count as events.
fn events_of(claims: &Claims) -> u64 {
    if claims.kind == Kind::Flow {
        u64::from(claims.rows)
    } else {
        0
    }
}

/// The claims and digest of an entry's manifest, if they are those that its name says.
fn parse_entry(entry: &Entry, bytes: &[u8]) -> Result<(Claims, Digest), String> {
    let jws = match entry.form {
        Form::Batch => ipc::Frame::open(bytes)
            .and_then(|frame| frame.manifest())
            .map_err(|error| error.to_string())?,
        Form::Manifest => std::str::from_utf8(bytes).map_err(|error| error.to_string())?,
    };
    let manifest = Manifest::parse(jws).map_err(|error| format!("its manifest is malformed: {error}"))?;
    if manifest.claims.chain != entry.chain || manifest.claims.seq != entry.seq {
        return Err("its manifest is for another place than its name".to_owned());
    }
    // What a power cut left of a bare manifest may still be well-formed.
    if manifest.jws.signature.len() != SIGNATURE_BYTES {
        return Err("its manifest is cut".to_owned());
    }
    Ok((manifest.claims, Digest::of(jws.as_bytes())))
}

/// What is damaged in an entry whose manifest is readable.
fn damage(entry: &Entry, bytes: &[u8], claims: &Claims) -> Option<String> {
    if entry.form == Form::Manifest {
        return None;
    }
    match ipc::Frame::open(bytes) {
        Err(error) => Some(error.to_string()),
        Ok(frame) if frame.body_digest() != claims.body => Some("its body is not what was sealed".to_owned()),
        Ok(_) => None,
    }
}
