//! Handing entries out for delivery, and what becomes of them.

use std::io;
use std::time::{Duration, Instant};

use super::entry::{Key, accounted};
use super::{
    Disk, Entry, Form, LONGEST_REST, Loaded, NotGiven, NotLoaded, REJECTED_SHARE, Spool, State, damage,
    events_of, parse_entry,
};
use crate::seal::ipc;
use crate::seal::manifest::{Claims, Head};

impl<D: Disk> Spool<D> {
    /// The oldest entry that is neither in flight nor at rest; it is in flight from now on, until it is acknowledged, rejected,
    /// put to rest or released.
    pub fn take_oldest(&self, now: Instant) -> Option<Entry> {
        let mut state = self.lock();
        state.wake(now);
        let (key, form) = state.free.pop_first()?;
        state.in_flight.push(key);
        Some(Entry {
            chain: key.chain,
            seq: key.seq,
            form,
        })
    }

    /// Reads an entry and checks that it is what was written. One that is gone is no longer in flight.
    pub fn load(&self, entry: &Entry) -> Result<Loaded, NotLoaded> {
        let path = self.pending_path(entry);
        let mut state = self.lock();
        let key = state.key(entry);
        let bytes = match self.disk.read(&path, ipc::MAX_STREAM_BYTES as u64 + 1) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.note_disk_error("reading an entry", &path, &error);
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(NotLoaded::Unreadable);
                }
                state.land(&key);
                if self.forget(&mut state, &key, entry.form) {
                    let lost = match entry.form {
                        Form::Batch => &self.counters.vanished,
                        Form::Manifest => &self.counters.manifests_lost,
                    };
                    Self::count(lost, 1);
                }
                return Err(NotLoaded::Gone);
            }
        };
        state.given += 1;
        state.forgive(&key, entry.form);
        let parsed = parse_entry(entry, &bytes);
        let reason = match parsed {
            Ok((claims, digest)) => match damage(entry, &bytes, &claims) {
                None => {
                    Self::note_read(&mut state, &key, entry.form, &claims);
                    let head = Head {
                        chain: entry.chain,
                        seq: entry.seq,
                        manifest: digest,
                    };
                    return Ok(Loaded { bytes, claims, head });
                }
                Some(reason) => reason,
            },
            Err(reason) => reason,
        };
        let reason = format!("damaged on disk: {reason}");
        tracing::error!(path = %path.display(), "spool: {reason}");
        state.land(&key);
        self.put_away_damaged(&mut state, &key, entry, &bytes, &reason);
        Err(NotLoaded::Gone)
    }

    /// Books the events of an entry that could not be read when the spool was opened.
    fn note_read(state: &mut State, key: &Key, form: Form, claims: &Claims) {
        let Some(sizes) = state.map(form).get_mut(key) else {
            return;
        };
        let events = events_of(claims);
        if std::mem::take(&mut sizes.is_unread) && form == Form::Batch && events > 0 {
            sizes.events = events;
            let size = sizes.size;
            state.pending_events += events;
            // It was taken for a ledger.
            state.ledger_bytes -= size;
        }
    }

    /// An entry goes out. The first time, and if this process made it: when its records were handed over to be sealed.
    pub fn sent(&self, entry: &Entry) -> Option<Instant> {
        let mut state = self.lock();
        let key = state.key(entry);
        let sizes = state.map(entry.form).get_mut(&key)?;
        if !std::mem::replace(&mut sizes.is_sent, true) {
            Self::count(&self.counters.events_transmitted, sizes.events);
        }
        sizes.given.take()
    }

    fn put_away_damaged(&self, state: &mut State, key: &Key, entry: &Entry, bytes: &[u8], reason: &str) {
        self.forget(state, key, entry.form);
        let readable = entry.form == Form::Batch && parse_entry(entry, bytes).is_ok();
        let frame = ipc::Frame::open(bytes).ok().filter(|_| readable);
        let kept = frame
            .and_then(|frame| frame.manifest().ok())
            .is_some_and(|manifest| {
                let target = Entry {
                    form: Form::Manifest,
                    ..*entry
                };
                let written =
                    self.write_whole(&self.pending_path(&target), manifest.as_bytes(), self.durable());
                if written.is_ok() {
                    self.insert(state, *key, Form::Manifest, manifest.len() as u64, 0);
                }
                written.is_ok()
            });
        let counter = match entry.form {
            Form::Batch if kept => &self.counters.dropped_damaged,
            Form::Batch => &self.counters.rejected_unreadable,
            Form::Manifest => &self.counters.manifests_rejected,
        };
        Self::count(counter, 1);
        self.put_away(state, entry, bytes.len() as u64, reason);
    }

    /// The receipt of an entry was verified: it is deleted.
    pub fn acknowledge(&self, entry: &Entry) {
        let mut state = self.lock();
        let key = state.key(entry);
        state.land(&key);
        let events = state.map(entry.form).get(&key).map_or(0, |sizes| sizes.events);
        if self.forget(&mut state, &key, entry.form) {
            Self::count(&self.counters.events_acknowledged, events);
            let counter = match entry.form {
                Form::Batch => &self.counters.acknowledged,
                Form::Manifest => &self.counters.manifests_acknowledged,
            };
            Self::count(counter, 1);
            // A file that cannot be removed is delivered again after the next start.
            self.try_remove(&self.pending_path(entry));
        }
    }

    /// The Core refused an entry for good: it goes to `rejected/` with the reason.
    pub fn reject(&self, entry: &Entry, reason: &str) {
        let mut state = self.lock();
        let key = state.key(entry);
        state.land(&key);
        let size = state.map(entry.form).get(&key).map_or(0, |sizes| sizes.size);
        if self.forget(&mut state, &key, entry.form) {
            let counter = match entry.form {
                Form::Batch => &self.counters.rejected,
                Form::Manifest => &self.counters.manifests_rejected,
            };
            Self::count(counter, 1);
            self.put_away(&mut state, entry, size, reason);
        }
    }

    /// An entry that the disk does not give, however often: it goes to `rejected/`, which works on a bad sector too.
    /// Returns whether it is there; if the disk does not even move it, it stays and is tried again.
    pub fn give_up(&self, entry: &Entry, reason: &str) -> bool {
        let mut state = self.lock();
        let key = state.key(entry);
        state.land(&key);
        let Some(size) = state.map(entry.form).get(&key).map(|sizes| sizes.size) else {
            return false;
        };
        if !self.move_to_rejected(entry) {
            return false;
        }
        self.forget(&mut state, &key, entry.form);
        let counter = match entry.form {
            Form::Batch => &self.counters.rejected_unreadable,
            Form::Manifest => &self.counters.manifests_rejected,
        };
        Self::count(counter, 1);
        self.enter_rejected(&mut state, entry, size, reason);
        true
    }

    /// The disk did not give an entry: it rests from `now` on, so that it keeps back no other; the first time for `rest`, each
    /// further time twice as long, up to a minute. Returns how many times in a row that was; it counts only where the disk gave
    /// another entry since the time before. A disk that gives nothing says nothing of a single file.
    pub fn rest(&self, entry: &Entry, now: Instant, rest: Duration) -> u32 {
        let mut state = self.lock();
        let key = state.key(entry);
        state.land(&key);
        let (at, given) = ((key, entry.form), state.given);
        let before = state.not_given.get(&at).copied();
        let asked = before.map_or(0, |before| before.asked);
        let times = match before {
            Some(before) if before.given == given => before.times,
            before => before.map_or(0, |before| before.times).saturating_add(1),
        };
        let doubled = rest.saturating_mul(1_u32.checked_shl(asked).unwrap_or(u32::MAX));
        let until = now + doubled.min(rest.max(LONGEST_REST));
        state.forgive(&key, entry.form);
        if state.map(entry.form).contains_key(&key) {
            let asked = asked.saturating_add(1);
            state.not_given.insert(
                at,
                NotGiven {
                    times,
                    asked,
                    given,
                    until,
                },
            );
            state.resting.insert((until, key, entry.form));
        }
        times
    }

    /// When the first entry that is still at rest at `now` may be handed out again.
    pub fn next_rest_ends(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        state.wake(now);
        state.resting.first().map(|(until, ..)| *until)
    }

    /// Puts an entry back: it was not answered, and will be tried again.
    pub fn release(&self, entry: &Entry) {
        let mut state = self.lock();
        let key = state.key(entry);
        state.land(&key);
        if state.map(entry.form).contains_key(&key) {
            state.free.insert((key, entry.form));
        }
    }

    /// Moves a file of `pending/` to `rejected/`, with the reason beside it.
    pub(super) fn put_away(&self, state: &mut State, entry: &Entry, length: u64, reason: &str) {
        if self.move_to_rejected(entry) {
            self.enter_rejected(state, entry, length, reason);
        }
    }

    /// Moves a file of `pending/` to `rejected/`; returns whether it is there.
    pub(super) fn move_to_rejected(&self, entry: &Entry) -> bool {
        let from = self.pending_path(entry);
        let to = self.directory.join("rejected").join(entry.file_name());
        match self.disk.rename(&from, &to) {
            Ok(()) => true,
            Err(error) => {
                self.note_disk_error("putting a batch away", &from, &error);
                false
            }
        }
    }

    /// Books a file that was moved to `rejected/`, writes the reason beside it, and keeps `rejected/` within its share.
    pub(super) fn enter_rejected(&self, state: &mut State, entry: &Entry, length: u64, reason: &str) {
        let name = entry.file_name();
        let reason_name = format!("{name}.reason");
        let line = format!("{}\n", reason.replace(['\n', '\r'], " "));
        let path = self.directory.join("rejected").join(&reason_name);
        if let Err(error) = self.write_whole(&path, line.as_bytes(), false) {
            self.note_disk_error("writing a reason", &path, &error);
        }
        for (name, size) in [
            (name, accounted(length)),
            (reason_name, accounted(line.len() as u64)),
        ] {
            state.rejected.push_back((name, size));
            state.rejected_bytes += size;
        }
        let (max, share) = (self.settings.max_bytes, self.settings.max_bytes / REJECTED_SHARE);
        while !state.rejected.is_empty() && (state.total_bytes() > max || state.rejected_bytes > share) {
            self.remove_oldest_rejected(state);
        }
    }
}
