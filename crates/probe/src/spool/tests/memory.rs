//! A disk in memory that forgets what was not synced.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::spool::disk::{Disk, FileFacts};

/// What a directory operation that is not yet durable did.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Unlink(PathBuf),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, file) => names.insert(path.clone(), *file),
            Self::Unlink(path) => names.remove(path),
        };
    }
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    files: Vec<(Vec<u8>, bool)>,
    /// Times of writing that were copied; others are the file's number.
    dates: BTreeMap<usize, i64>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    pub(super) capacity: Option<usize>,
    /// Operations until one fails with `EIO`.
    pub(super) fail_in: Option<u32>,
    /// A file that can neither be read nor renamed.
    pub(super) bad: Option<PathBuf>,
    /// Whether no file can be read: descriptors or permissions are missing, or the server of a network disk is away.
    pub(super) is_blind: bool,
}

impl Memory {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn date(&self, file: usize) -> i64 {
        self.dates.get(&file).copied().unwrap_or(file as i64)
    }

    pub(super) fn used(&self) -> usize {
        self.names.values().map(|file| self.files[*file].0.len()).sum()
    }

    fn may_fail(&mut self) -> io::Result<()> {
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                Err(io::Error::other("injected"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn may_use(&self, path: &Path) -> io::Result<()> {
        if self.bad.as_deref() == Some(path) {
            return Err(io::Error::other("bad"));
        }
        Ok(())
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(pub(super) Arc<Mutex<Memory>>);

impl MemoryDisk {
    /// Pulls the plug: of what was not synced, `luck` decides bit by bit what reached the disk.
    pub(super) fn crash(&self, mut luck: u64) {
        let mut coin = || {
            luck = luck.rotate_left(1);
            luck & 1 == 1
        };
        let mut memory = self.0.lock().unwrap();
        let mut names = memory.durable_names.clone();
        for change in memory.changes.drain(..) {
            if coin() {
                change.apply(&mut names);
            }
        }
        for (content, synced) in &mut memory.files {
            if !*synced && coin() {
                content.truncate(content.len() / 2);
            }
            *synced = true;
        }
        memory.names.clone_from(&names);
        memory.durable_names = names;
        memory.capacity = None;
        memory.fail_in = None;
    }
}

impl Disk for MemoryDisk {
    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileFacts>> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let of_directory = memory
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        Ok(of_directory
            .map(|(name, file)| FileFacts {
                name: name.file_name().unwrap().to_str().unwrap().to_owned(),
                length: memory.files[*file].0.len() as u64,
                modified: memory.date(*file),
            })
            .collect())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        memory.may_use(path)?;
        if memory.is_blind {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let file = memory.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(memory.files[*file]
            .0
            .iter()
            .copied()
            .take(limit as usize)
            .collect())
    }

    fn write(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let room = memory
            .capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(memory.used()));
        let file = memory.files.len();
        memory
            .files
            .push((content[..content.len().min(room)].to_vec(), durable));
        memory.change(Change::Link(path.to_owned(), file));
        if content.len() > room {
            Err(ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn copy_date(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        let file_of = |path| memory.names.get(path).copied().ok_or(ErrorKind::NotFound);
        let (from, to) = (file_of(from)?, file_of(to)?);
        let date = memory.date(from);
        memory.dates.insert(to, date);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        memory.may_use(from)?;
        let file = *memory.names.get(from).ok_or(ErrorKind::NotFound)?;
        memory.change(Change::Link(to.to_owned(), file));
        memory.change(Change::Unlink(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        if !memory.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        memory.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.may_fail()?;
        let (durable, open) = memory
            .changes
            .drain(..)
            .partition(|change| change.path().parent() == Some(path));
        memory.changes = open;
        let durable: Vec<Change> = durable;
        for change in durable {
            change.apply(&mut memory.durable_names);
        }
        Ok(())
    }
}
