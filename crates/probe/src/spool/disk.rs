//! The few file operations that the spool needs, behind a trait, so that tests can fill the disk or pull the plug.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// One directory entry that is a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its name; what is not UTF-8 is replaced, so that it can only be foreign.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified: i64,
}

/// File operations. Implementations make no promise about order or durability beyond what each method says.
pub trait Disk: Send + Sync {
    /// Makes a directory that only its owner can enter, and those above it; succeeds if it is there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// The regular files of a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<FileFacts>>;
    /// At most `limit` bytes of a file's beginning.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Writes a file that only its owner can read. With `durable`, its content is on disk when this returns.
    fn write(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<()>;
    /// Gives a file the time of writing of another.
    fn copy_date(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames atomically, replacing.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The directory's entries are on disk when this returns.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileFacts>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let facts = match entry.metadata() {
                Ok(facts) => facts,
                // Removed between listing and looking.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if facts.is_file() {
                let modified = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                files.push(FileFacts {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    length: facts.len(),
                    modified: i64::try_from(modified.as_nanos()).unwrap_or(i64::MAX),
                });
            }
        }
        Ok(files)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }

    fn write(&self, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        if durable { file.sync_data() } else { Ok(()) }
    }

    fn copy_date(&self, from: &Path, to: &Path) -> io::Result<()> {
        let modified = std::fs::metadata(from)?.modified()?;
        OpenOptions::new().write(true).open(to)?.set_modified(modified)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
