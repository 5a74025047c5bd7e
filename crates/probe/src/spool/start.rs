//! What lies in the directory when a probe starts.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use super::entry::{HeadFile, Key, Sizes, accounted, parse_name};
use super::{
    Claims, Digest, Disk, Entry, FileFacts, Form, Head, REJECTED_SHARE, Spool, SpoolError, State, events_of,
    parse_entry,
};
use crate::seal::ipc;
use crate::seal::manifest::ChainId;

/// Of a file at open this much is read to find its manifest; the whole file if that is not enough.
const PREFIX_BYTES: u64 = 64 * 1024;

impl<D: Disk> Spool<D> {
    pub(super) fn read_rejected(&self) -> Result<(), SpoolError> {
        let mut files = self.list("rejected")?;
        files.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        let mut state = self.lock();
        for file in files {
            let name = file.name.strip_suffix(".reason").unwrap_or(&file.name);
            if parse_name(name).is_none() {
                Self::count(&self.counters.foreign, 1);
                continue;
            }
            let size = accounted(file.length);
            state.rejected_bytes += size;
            state.rejected.push_back((file.name, size));
        }
        while state.rejected_bytes > self.settings.max_bytes / REJECTED_SHARE {
            self.remove_oldest_rejected(&mut state);
        }
        Ok(())
    }

    /// Indexes `pending/`; returns the newest entry.
    pub(super) fn read_pending(&self) -> Result<Option<Head>, SpoolError> {
        let mut found: Vec<(Entry, FileFacts)> = Vec::new();
        for file in self.list("pending")? {
            match parse_name(&file.name) {
                Some(entry) => found.push((entry, file)),
                None => Self::count(&self.counters.foreign, 1),
            }
        }
        let mut oldest: HashMap<ChainId, i64> = HashMap::new();
        for (entry, file) in &found {
            let time = oldest.entry(entry.chain).or_insert(file.modified);
            *time = file.modified.min(*time);
        }
        let mut chains: Vec<_> = oldest.into_iter().map(|(chain, time)| (time, chain)).collect();
        chains.sort_unstable();
        self.lock().ranks = chains
            .iter()
            .zip(0..)
            .map(|((_, chain), rank)| (*chain, rank))
            .collect();
        // Batches before manifests: a manifest beside its batch is left over from a drop that a crash cut short.
        found.sort_by_key(|(entry, _)| entry.form == Form::Manifest);
        let mut newest: Option<(i64, Head)> = None;
        for (entry, file) in found {
            if let Some(head) = self.index(&entry, &file)
                && newest.is_none_or(|(time, other)| (file.modified, head.seq) >= (time, other.seq))
            {
                newest = Some((file.modified, head));
            }
        }
        Ok(newest.map(|(_, head)| head))
    }

    /// Takes one file of `pending/` into the index, or puts it away if what was read of it is no manifest. One that the disk
    /// does not give now is in the index by its name and length alone: it may well give it later.
    fn index(&self, entry: &Entry, file: &FileFacts) -> Option<Head> {
        let path = self.pending_path(entry);
        let counters = &self.counters;
        let (found, vanished, unreadable) = match entry.form {
            Form::Batch => (&counters.found, &counters.vanished, &counters.rejected_unreadable),
            Form::Manifest => (
                &counters.manifests_found,
                &counters.manifests_lost,
                &counters.manifests_rejected,
            ),
        };
        Self::count(found, 1);
        let read = self.read_manifest(entry, &path, file.length);
        let mut state = self.lock();
        let (claims, digest) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(reason)) => {
                Self::count(unreadable, 1);
                let reason = format!("found damaged at start: {reason}");
                self.put_away(&mut state, entry, file.length, &reason);
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::count(vanished, 1);
                return None;
            }
            Err(error) => {
                self.note_disk_error("reading an entry", &path, &error);
                self.index_unread(&mut state, entry, file.length);
                return None;
            }
        };
        let key = state.key(entry);
        if let Some(batch) = state.batches.get(&key).filter(|_| entry.form == Form::Manifest) {
            Self::uncount(&counters.manifests_found, 1);
            // If the batch turns out to be damaged, this is all that is left of it: the next start delivers it.
            if !batch.is_unread {
                self.try_remove(&path);
            }
            return None;
        }
        self.insert(&mut state, key, entry.form, file.length, events_of(&claims));
        Some(Head {
            chain: entry.chain,
            seq: entry.seq,
            manifest: digest,
        })
    }

    /// What an entry's manifest says, or why it is none; the error if the disk does not give it.
    fn read_manifest(
        &self,
        entry: &Entry,
        path: &Path,
        length: u64,
    ) -> io::Result<Result<(Claims, Digest), String>> {
        let parsed = parse_entry(entry, &self.disk.read(path, PREFIX_BYTES)?);
        if parsed.is_ok() || length <= PREFIX_BYTES {
            return Ok(parsed);
        }
        let whole = self.disk.read(path, ipc::MAX_STREAM_BYTES as u64 + 1)?;
        Ok(parse_entry(entry, &whole))
    }

    /// Takes a file into the index of which nothing but its name and length is known.
    fn index_unread(&self, state: &mut State, entry: &Entry, length: u64) {
        let key = state.key(entry);
        if entry.form == Form::Manifest && state.batches.contains_key(&key) {
            // Left over beside its batch: it is looked at again at the next start.
            Self::uncount(&self.counters.manifests_found, 1);
            return;
        }
        self.insert(state, key, entry.form, length, 0);
        if let Some(sizes) = state.map(entry.form).get_mut(&key) {
            sizes.is_unread = true;
        }
    }

    /// The newest of `head.json` and what lies in `pending/`.
    pub(super) fn find_head(&self, newest: Option<Head>) -> Option<Head> {
        let path = self.directory.join("head.json");
        let stated = match self.disk.read(&path, 4096) {
            Ok(json) => HeadFile::parse(&json),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return newest,
            Err(_) => None,
        };
        let Some(stated) = stated else {
            Self::count(&self.counters.head_errors, 1);
            tracing::warn!(path = %path.display(), "spool: the last head is unreadable; the new chain names what is known else");
            return newest;
        };
        let state = self.lock();
        let last = |map: &BTreeMap<Key, Sizes>| {
            map.keys()
                .filter(|key| key.chain == stated.chain)
                .map(|key| key.seq)
                .max()
        };
        let batch = last(&state.batches).map(|seq| (seq, Form::Batch));
        let manifest = last(&state.manifests).map(|seq| (seq, Form::Manifest));
        drop(state);
        match batch.max(manifest) {
            Some((seq, form)) if seq > stated.seq => {
                let entry = Entry {
                    chain: stated.chain,
                    seq,
                    form,
                };
                let whole = self
                    .disk
                    .read(&self.pending_path(&entry), ipc::MAX_STREAM_BYTES as u64 + 1);
                let digest = whole
                    .ok()
                    .and_then(|bytes| parse_entry(&entry, &bytes).ok())
                    .map(|(_, digest)| digest);
                digest.map_or(Some(stated), |manifest| {
                    Some(Head {
                        chain: stated.chain,
                        seq,
                        manifest,
                    })
                })
            }
            _ => Some(stated),
        }
    }
}
