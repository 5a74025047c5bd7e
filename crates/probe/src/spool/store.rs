//! Storing batches, and making room for them.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;

use super::entry::{HeadFile, Key, Sizes, accounted};
use super::{
    Disk, Entry, Form, LEDGER_SHARE, MANIFEST_SHARE, MAX_EVICTIONS, REJECTED_SHARE, Spool, SpoolError, State,
    Stored, WhenFull, events_of, is_disk_full,
};
use crate::seal::manifest::Head;
use crate::seal::{SealedBatch, ipc};

impl<D: Disk> Spool<D> {
    /// Stores a sealed batch and its head. Called by one thread.
    pub fn store(&self, sealed: &SealedBatch) -> Stored {
        Self::count(&self.counters.offered, 1);
        let stored = self.store_batch(sealed);
        self.write_head(sealed.head());
        self.changed.notify_one();
        stored
    }

    fn store_batch(&self, sealed: &SealedBatch) -> Stored {
        let entry = Entry {
            chain: sealed.claims.chain,
            seq: sealed.claims.seq,
            form: Form::Batch,
        };
        let events = events_of(&sealed.claims);
        let room = accounted(sealed.bytes.len() as u64);
        if self.make_room(room, Form::Batch).is_break() {
            return self.store_manifest(sealed, &self.counters.dropped_full);
        }
        let path = self.pending_path(&entry);
        for attempt in 0..MAX_EVICTIONS {
            match self.write_whole(&path, &sealed.bytes, self.durable()) {
                Ok(()) => {
                    let mut state = self.lock();
                    let key = state.key(&entry);
                    self.insert(&mut state, key, Form::Batch, sealed.bytes.len() as u64, events);
                    if let Some(sizes) = state.batches.get_mut(&key) {
                        sizes.given = sealed.given;
                    }
                    drop(state);
                    if attempt == 0 {
                        self.note_disk_works();
                    }
                    return Stored::Batch;
                }
                Err(error) => {
                    self.note_disk_error("storing a batch", &path, &error);
                    // After a failed fsync the file may be there in name.
                    self.try_remove(&path);
                    if !is_disk_full(&error)
                        || self.settings.when_full == WhenFull::DropNewest
                        || self
                            .drop_oldest(&mut self.lock(), &self.counters.dropped_disk)
                            .is_break()
                    {
                        break;
                    }
                }
            }
        }
        self.store_manifest(sealed, &self.counters.dropped_disk)
    }

    /// Keeps the manifest of a batch that cannot be kept.
    fn store_manifest(&self, sealed: &SealedBatch, reason: &AtomicU64) -> Stored {
        let entry = Entry {
            chain: sealed.claims.chain,
            seq: sealed.claims.seq,
            form: Form::Manifest,
        };
        let length = sealed.manifest.len() as u64;
        if self.make_room(accounted(length), Form::Manifest).is_break() {
            Self::count(&self.counters.lost, 1);
            let path = self.pending_path(&entry);
            return Stored::Lost(SpoolError::Lost {
                path,
                source: io::ErrorKind::QuotaExceeded.into(),
            });
        }
        let path = self.pending_path(&entry);
        match self.write_whole(&path, sealed.manifest.as_bytes(), self.durable()) {
            Ok(()) => {
                Self::count(reason, 1);
                let mut state = self.lock();
                let key = state.key(&entry);
                self.insert(&mut state, key, Form::Manifest, length, 0);
                Stored::ManifestOnly
            }
            Err(source) => {
                Self::count(&self.counters.lost, 1);
                self.note_disk_error("storing a manifest", &path, &source);
                self.try_remove(&path);
                Stored::Lost(SpoolError::Lost { path, source })
            }
        }
    }

    fn write_head(&self, head: Head) {
        let path = self.directory.join("head.json");
        if let Err(error) = self.write_whole(&path, &HeadFile::encode(&head), false) {
            Self::count(&self.counters.head_errors, 1);
            self.note_disk_error("writing the head", &path, &error);
        }
    }

    /// Makes room for a file that counts `room` bytes. `Break`: there is none.
    fn make_room(&self, room: u64, form: Form) -> ControlFlow<()> {
        let max = self.settings.max_bytes;
        // A part of the bound is for manifests alone, so that a loss can always be signed.
        let reserve = max / MANIFEST_SHARE;
        let mut state = self.lock();
        loop {
            let kept_free = match form {
                Form::Batch => reserve.saturating_sub(state.manifest_bytes),
                Form::Manifest => 0,
            };
            if state.total_bytes().saturating_add(room).saturating_add(kept_free) <= max {
                return ControlFlow::Continue(());
            }
            if state.rejected_bytes > max / REJECTED_SHARE {
                self.remove_oldest_rejected(&mut state);
                continue;
            }
            match (form, self.settings.when_full) {
                (Form::Manifest, _) if self.drop_oldest_manifest(&mut state).is_continue() => {}
                (Form::Manifest, _) if !state.rejected.is_empty() => self.remove_oldest_rejected(&mut state),
                (Form::Batch, WhenFull::DropOldest) if room.saturating_add(reserve) <= max => {
                    self.drop_oldest(&mut state, &self.counters.dropped_full)?;
                }
                (Form::Batch | Form::Manifest, _) => return ControlFlow::Break(()),
            }
        }
    }

    /// Makes one step of room: manifests beyond their share go first, or they would push out all evidence in time. Then the
    /// oldest batch of flow records becomes its manifest; then the oldest manifest goes; then the oldest of the other
    /// batches becomes its manifest, so that ledgers stay longest, but within their share. `Break`: nothing is left.
    pub(super) fn drop_oldest(&self, state: &mut State, reason: &AtomicU64) -> ControlFlow<()> {
        let max = self.settings.max_bytes;
        if state.manifest_bytes > max / MANIFEST_SHARE && self.drop_oldest_manifest(state).is_continue() {
            return ControlFlow::Continue(());
        }
        let has_records = |sizes: &Sizes| sizes.events > 0;
        if state.ledger_bytes > max / LEDGER_SHARE
            && self
                .replace_oldest(state, |sizes| !has_records(sizes), reason)
                .is_continue()
        {
            return ControlFlow::Continue(());
        }
        if self.replace_oldest(state, has_records, reason).is_continue()
            || self.drop_oldest_manifest(state).is_continue()
        {
            return ControlFlow::Continue(());
        }
        self.replace_oldest(state, |sizes| !has_records(sizes), reason)
    }

    /// The oldest of these batches that is not in flight becomes its manifest. One that can neither be read nor put away
    /// stays where it is, and the next is tried. `Break`: there is none.
    fn replace_oldest(
        &self,
        state: &mut State,
        is_of_these: impl Fn(&Sizes) -> bool,
        reason: &AtomicU64,
    ) -> ControlFlow<()> {
        let mut stuck = Vec::new();
        // A disk that gives nothing is not asked for every file.
        while stuck.len() < MAX_EVICTIONS {
            let oldest = state.batches.iter().find(|(key, sizes)| {
                is_of_these(sizes) && !state.in_flight.contains(key) && !stuck.contains(*key)
            });
            let Some((key, sizes)) = oldest.map(|(key, sizes)| (*key, *sizes)) else {
                break;
            };
            if self.replace_by_manifest(state, &key, sizes.size, reason) {
                return ControlFlow::Continue(());
            }
            stuck.push(key);
        }
        ControlFlow::Break(())
    }

    pub(super) fn remove_oldest_rejected(&self, state: &mut State) {
        if let Some((name, size)) = state.rejected.pop_front() {
            // If it cannot be removed it is not asked for again until the next start; the error is counted.
            self.try_remove(&self.directory.join("rejected").join(name));
            state.rejected_bytes -= size;
            Self::count(&self.counters.rejected_removed, 1);
        }
    }

    /// Returns whether the batch is no longer there.
    fn replace_by_manifest(&self, state: &mut State, key: &Key, size: u64, reason: &AtomicU64) -> bool {
        let batch = Entry {
            chain: key.chain,
            seq: key.seq,
            form: Form::Batch,
        };
        let path = self.pending_path(&batch);
        let manifest = match self.disk.read(&path, ipc::MAX_STREAM_BYTES as u64) {
            Ok(bytes) => ipc::Frame::open(&bytes)
                .and_then(|frame| frame.manifest().map(str::to_owned))
                .map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(state, key, Form::Batch);
                Self::count(&self.counters.vanished, 1);
                return true;
            }
            Err(error) => {
                self.note_disk_error("reading a batch", &path, &error);
                Err(error.to_string())
            }
        };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            // There may be a batch in it all the same: it is put away, and not deleted.
            Err(reason) => {
                if !self.move_to_rejected(&batch) {
                    return false;
                }
                self.forget(state, key, Form::Batch);
                Self::count(&self.counters.rejected_unreadable, 1);
                let reason = format!("it had to make room, and its manifest cannot be read: {reason}");
                self.enter_rejected(state, &batch, size, &reason);
                return true;
            }
        };
        self.forget(state, key, Form::Batch);
        let entry = Entry {
            form: Form::Manifest,
            ..batch
        };
        let target = self.pending_path(&entry);
        let mut written = self.write_whole(&target, manifest.as_bytes(), self.durable());
        if written.is_ok()
            && let Err(error) = self.disk.copy_date(&path, &target)
        {
            // Dates tell which chain is older after a restart; without this one, chains may be delivered in another order.
            tracing::debug!(path = %target.display(), %error, "the manifest did not get its batch's date");
        }
        self.try_remove(&path);
        if written.is_err() {
            // On a full disk the batch must go first.
            written = self.write_whole(&target, manifest.as_bytes(), self.durable());
        }
        match written {
            Ok(()) => {
                Self::count(reason, 1);
                self.insert(state, *key, Form::Manifest, manifest.len() as u64, 0);
            }
            Err(error) => {
                Self::count(&self.counters.lost, 1);
                self.note_disk_error("keeping a manifest", &target, &error);
                self.try_remove(&target);
            }
        }
        true
    }

    fn drop_oldest_manifest(&self, state: &mut State) -> ControlFlow<()> {
        let free = state
            .manifests
            .keys()
            .find(|key| !state.in_flight.contains(key))
            .copied();
        let Some(key) = free else {
            return ControlFlow::Break(());
        };
        self.forget(state, &key, Form::Manifest);
        self.try_remove(&self.pending_path(&Entry {
            chain: key.chain,
            seq: key.seq,
            form: Form::Manifest,
        }));
        Self::count(&self.counters.manifests_lost, 1);
        ControlFlow::Continue(())
    }
}
