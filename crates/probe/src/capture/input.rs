//! Opening an input: file or standard input, decompression, and what else a file may be.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::CaptureError;

/// Says whether no further frames are wanted; asked often.
pub type Enough = Arc<dyn Fn() -> bool + Send + Sync>;

/// How long a wait for bytes of a pipe lasts in milliseconds before it is asked whether they are still wanted.
const WAIT_MS: u8 = 50;

/// Bytes at the start that tell what an input is.
const SNIFF_BYTES: usize = 512;

/// Read size below a decompressor.
const COMPRESSED_READ_BYTES: usize = 256 * 1024;

/// An opened input: what its uncompressed bytes are is not known yet.
pub(super) struct Input {
    /// As the user named it.
    pub(super) name: String,
    /// The uncompressed bytes.
    pub(super) reader: Box<dyn Read + Send>,
    /// Whether bytes come as somebody writes them: then they are handed on without waiting for more.
    pub(super) is_stream: bool,
    /// How it was compressed, for messages.
    pub(super) compression: Option<&'static str>,
}

/// A pipe, a socket or a terminal: bytes come when somebody writes them, or never.
struct Stream {
    file: File,
    enough: Enough,
}

impl Read for Stream {
    /// As if the input ended where no more is wanted.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if (self.enough)() {
                return Ok(0);
            }
            let mut descriptors = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            if poll(&mut descriptors, PollTimeout::from(WAIT_MS))? == 0 {
                continue;
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                result => return result,
            }
        }
    }
}

/// Counts the bytes that pass.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The members of a gzip file in a row. Zeros behind a member are passed over, as gzip(1) does: tapes and other media with
/// blocks leave them.
struct GzMembers<R> {
    /// None behind the last.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for GzMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let goes_on = pass_zeros(member.get_mut())?;
            let ended = self.member.take().filter(|_| goes_on);
            self.member = ended.map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Passes zeros over. False where nothing follows them.
fn pass_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let is_next = zeros < bytes.len();
        reader.consume(zeros);
        if is_next {
            return Ok(true);
        }
    }
}

/// The name in messages.
fn name_of(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// The stored size of all inputs together, if all are regular files.
pub(super) fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    paths.iter().try_fold(0_u64, |total, path| {
        let metadata = path
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file() && path != Path::new("-"))?;
        Some(total.saturating_add(metadata.len()))
    })
}

/// Opens an input and removes its compression. `count` sums up the stored bytes that are read; a wait for bytes ends
/// with `enough`.
pub(super) fn open(path: &Path, count: &Arc<AtomicU64>, enough: &Enough) -> Result<Input, CaptureError> {
    let name = name_of(path);
    let failed = |error| cannot_open(&name, error);
    let stream = |file| {
        let enough = Arc::clone(enough);
        Box::new(Stream { file, enough })
    };
    if path == Path::new("-") {
        let file = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?.into();
        return decompress(name, stream(file), true, count);
    }
    let metadata = path.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(CaptureError::Directory { path: name });
    }
    if metadata.is_file() {
        let file = File::open(path).map_err(failed)?;
        return decompress(name, Box::new(file), false, count);
    }
    // Opening a named pipe would wait for its writer.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    decompress(name.clone(), stream(file.map_err(failed)?), true, count)
}

fn cannot_open(name: &str, source: io::Error) -> CaptureError {
    let path = name.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => CaptureError::NotFound { path },
        io::ErrorKind::PermissionDenied => CaptureError::FilePermission { path },
        io::ErrorKind::IsADirectory => CaptureError::Directory { path },
        _ => CaptureError::Read {
            path,
            offset: 0,
            source,
        },
    }
}

/// Removes the compression of an input, if its first bytes are those of one.
pub(super) fn decompress(
    name: String,
    raw: Box<dyn Read + Send>,
    is_stream: bool,
    count: &Arc<AtomicU64>,
) -> Result<Input, CaptureError> {
    let failed = |error: io::Error| cannot_open(&name, error);
    let mut counting = Counting {
        inner: raw,
        count: Arc::clone(count),
    };
    let start = read_start(&mut counting).map_err(failed)?;
    if start.is_empty() {
        return Err(CaptureError::Empty { path: name });
    }
    let magic = start.first_chunk::<4>().copied().unwrap_or_default();
    let whole = Cursor::new(start).chain(counting);
    let (reader, compression): (Box<dyn Read + Send>, _) = match magic {
        [0x1f, 0x8b, ..] => {
            let buffered = BufReader::with_capacity(COMPRESSED_READ_BYTES, whole);
            (
                Box::new(GzMembers {
                    member: Some(GzDecoder::new(buffered)),
                }),
                Some("gzip"),
            )
        }
        // A frame, or one to be skipped, with which pzstd and others begin (RFC 8878 §3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let buffered = BufReader::with_capacity(COMPRESSED_READ_BYTES, whole);
            (
                Box::new(zstd::Decoder::with_buffer(buffered).map_err(failed)?),
                Some("zstd"),
            )
        }
        _ => (Box::new(whole), None),
    };
    Ok(Input {
        name,
        reader,
        is_stream,
        compression,
    })
}

/// The first bytes of an input, fewer where it is shorter.
fn read_start(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = vec![0; SNIFF_BYTES];
    let mut length = 0;
    while length < 4 {
        match reader.read(start.get_mut(length..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    start.truncate(length);
    Ok(start)
}

/// What bytes that are no capture look like, to tell the user.
pub(super) fn looks_like(start: &[u8], compression: Option<&str>) -> String {
    const KNOWN: &[(&[u8], &str)] = &[
        (
            b"snoop\0\0\0",
            "a snoop capture (convert it with `editcap -F pcapng`)",
        ),
        (
            b"GMBU",
            "a Microsoft Network Monitor capture (convert it with `editcap -F pcapng`)",
        ),
        (
            b"RTSS",
            "a Microsoft Network Monitor 1 capture (convert it with `editcap -F pcapng`)",
        ),
        (
            b"XCP\0",
            "a NetXRay capture (convert it with `editcap -F pcapng`)",
        ),
        (b"PK\x03\x04", "a zip archive (unpack it first)"),
        (b"\xfd7zXZ\0", "xz data (unpack it first)"),
        (b"BZh", "bzip2 data (unpack it first)"),
        (b"\x04\x22\x4d\x18", "lz4 data (unpack it first)"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it first)"),
        (b"\x1f\x8b", "gzip data (compressed twice?)"),
        (b"\x28\xb5\x2f\xfd", "zstd data (compressed twice?)"),
        (b"PAR1", "a Parquet file"),
        (b"ARROW1", "an Arrow file"),
        (b"%PDF", "a PDF document"),
        (b"\x7fELF", "a program"),
        (b"\x89PNG", "a picture"),
        (b"SQLite format 3\0", "an SQLite database"),
    ];
    let head = start.get(..SNIFF_BYTES.min(start.len())).unwrap_or_default();
    let found = KNOWN
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, name)| *name);
    let kind = found.unwrap_or_else(|| {
        let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
        if head.is_empty() {
            "nothing"
        } else if head.iter().all(|&byte| byte == 0) {
            "zeros"
        } else if head.get(257..262) == Some(b"ustar") {
            "a tar archive (unpack it first)"
        } else if head.iter().all(is_text)
            && std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true)
        {
            match head.trim_ascii_start().first() {
                Some(b'<') => "an HTML or XML document",
                Some(b'{' | b'[') => "JSON",
                _ => "text",
            }
        } else {
            "other binary data"
        }
    });
    compression.map_or_else(
        || kind.to_owned(),
        |compression| format!("{kind} (compressed with {compression})"),
    )
}

#[cfg(test)]
mod tests {
    use super::looks_like;

    #[test]
    fn names_what_a_file_is() {
        assert_eq!(looks_like(b"hello, world\n", None), "text");
        assert_eq!(
            looks_like("grün\n".as_bytes(), Some("gzip")),
            "text (compressed with gzip)"
        );
        assert_eq!(looks_like(b"  {\"a\": 1}", None), "JSON");
        assert_eq!(
            looks_like(b"PK\x03\x04....", None),
            "a zip archive (unpack it first)"
        );
        assert_eq!(looks_like(b"\x01\x02\x03\xff\xfe", None), "other binary data");
        assert_eq!(looks_like(&[0; 64], None), "zeros");
        assert_eq!(looks_like(b"", Some("zstd")), "nothing (compressed with zstd)");
    }
}
