//! The frame of a sealed batch, read with care: where the manifest stands, and what the `RecordBatch` message *declares*,
//! before a single buffer is decoded (`docs/formats/sealed-batch.md` §1).

use std::fmt::Display;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::{CompressionType, Endianness, Message, MetadataVersion, root_as_message_with_opts};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::manifest::MAX_MANIFEST_BYTES;
use super::schema::{ColumnDescription, UnsupportedColumn, buffer_owners, describe, node_count};

/// Longest sealed batch in bytes.
pub const MAX_STREAM_BYTES: usize = 900 * 1024;
/// Most rows of a sealed batch.
pub const MAX_ROWS: usize = 8192;
/// Largest sum of the uncompressed lengths of all buffers, in bytes.
pub const MAX_DECODED_BYTES: u64 = 64 * 1024 * 1024;
/// Largest sum of the lengths of all field nodes: bounds the work that lists can ask for.
pub const MAX_VALUES: u64 = 16 * 1024 * 1024;
/// Metadata key of the manifest.
pub const MANIFEST_KEY: &str = "dpi.manifest";
/// Metadata key of the row tags.
pub const ROW_TAGS_KEY: &str = "dpi.row_tags";

const CONTINUATION: [u8; 4] = [0xff; 4];
/// Continuation marker and a length of 0: the end of the stream.
pub(super) const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What does not fit the stream's frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than a sealed batch may be.
    #[error("it is {0} bytes long; a sealed batch has at most {MAX_STREAM_BYTES}")]
    TooLong(usize),
    /// The stream ends too early.
    #[error("it ends after {length} bytes, inside the {part}")]
    Truncated {
        /// Which part.
        part: &'static str,
        /// How long the input is.
        length: usize,
    },
    /// A message is not what the format asks for.
    #[error("its {part} is malformed: {reason}")]
    Malformed {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// There is no manifest.
    #[error("it holds no manifest: it is not a sealed batch")]
    NoManifest,
    /// The manifest's bytes stand there more than once, or its key does.
    #[error("its manifest occurs more than once")]
    ManifestRepeated,
    /// A column type that a sealed batch does not have.
    #[error(transparent)]
    Column(#[from] UnsupportedColumn),
    /// The declared sizes are beyond the limits.
    #[error("it declares {declared} {what}; at most {limit} are allowed")]
    Excessive {
        /// Of what.
        what: &'static str,
        /// How much is declared.
        declared: u64,
        /// The limit.
        limit: u64,
    },
}

fn malformed(part: &'static str, reason: impl Display) -> FrameError {
    FrameError::Malformed {
        part,
        reason: reason.to_string(),
    }
}

/// One encapsulated message: flatbuffer and body.
struct Part<'a> {
    message: Message<'a>,
    body: &'a [u8],
    end: usize,
}

/// Reads the message that starts at `at` ("Encapsulated message format" of the Arrow columnar format).
fn message<'a>(data: &'a [u8], at: usize, part: &'static str) -> Result<Part<'a>, FrameError> {
    let truncated = || FrameError::Truncated {
        part,
        length: data.len(),
    };
    let rest = data.get(at..).ok_or_else(truncated)?;
    let (marker, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    if *marker != CONTINUATION {
        return Err(malformed(part, "no continuation marker"));
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || !length.is_multiple_of(8) {
        return Err(malformed(
            part,
            "the length of its metadata is not a multiple of 8",
        ));
    }
    let (metadata, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
    // Sized for the largest batch; stops what would make the flatbuffer verifier walk in circles.
    let options = flatbuffers::VerifierOptions {
        max_depth: 64,
        max_tables: 16_384,
        max_apparent_size: 8 * 1024 * 1024,
        ignore_missing_null_terminator: false,
    };
    let message =
        root_as_message_with_opts(&options, metadata).map_err(|error| malformed(part, one_line(&error)))?;
    if message.version() != MetadataVersion::V5 {
        return Err(malformed(part, "its metadata version is not V5"));
    }
    let body_length =
        usize::try_from(message.bodyLength()).map_err(|_| malformed(part, "negative body length"))?;
    let body = rest.get(..body_length).ok_or_else(truncated)?;
    Ok(Part {
        message,
        body,
        end: at + 8 + length + body_length,
    })
}

/// The first line of an error text: some libraries write several.
fn one_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A sealed batch whose Schema message was read and whose manifest was found.
#[derive(Debug)]
pub struct Frame<'a> {
    data: &'a [u8],
    manifest: Range<usize>,
    row_tags: Option<&'a str>,
    batch_at: usize,
}

impl<'a> Frame<'a> {
    /// Reads the Schema message and finds the manifest. `data` may be cut after the Schema message.
    pub fn open(data: &'a [u8]) -> Result<Self, FrameError> {
        const PART: &str = "Schema message";
        if data.len() > MAX_STREAM_BYTES {
            return Err(FrameError::TooLong(data.len()));
        }
        let part = message(data, 0, PART)?;
        let schema = part
            .message
            .header_as_schema()
            .ok_or_else(|| malformed(PART, "it is another message"))?;
        if !part.body.is_empty() {
            return Err(malformed(PART, "it has a body"));
        }
        let mut manifest: Option<&'a str> = None;
        let mut row_tags = None;
        for entry in schema.custom_metadata().iter().flatten() {
            match entry.key() {
                Some(MANIFEST_KEY) if manifest.is_some() => return Err(FrameError::ManifestRepeated),
                Some(MANIFEST_KEY) => manifest = entry.value(),
                Some(ROW_TAGS_KEY) => row_tags = entry.value(),
                _ => {}
            }
        }
        let manifest = manifest
            .filter(|text| !text.is_empty())
            .ok_or(FrameError::NoManifest)?;
        if manifest.len() > MAX_MANIFEST_BYTES {
            return Err(malformed(
                "manifest",
                format!("{} bytes are too long", manifest.len()),
            ));
        }
        // The text is a part of `data`, so its place is the distance between the two.
        let start = (manifest.as_ptr() as usize) - (data.as_ptr() as usize);
        let range = start..start + manifest.len();
        Ok(Self {
            data,
            manifest: range,
            row_tags,
            batch_at: part.end,
        })
    }

    /// Where the manifest's bytes stand.
    pub fn manifest_range(&self) -> Range<usize> {
        self.manifest.clone()
    }

    /// The manifest, not verified.
    pub fn manifest(&self) -> Result<&'a str, FrameError> {
        let bytes = self.data.get(self.manifest.clone()).unwrap_or_default();
        if !bytes.is_ascii() {
            return Err(malformed("manifest", "it is not ASCII"));
        }
        if memchr::memmem::find_iter(self.data, bytes).nth(1).is_some() {
            return Err(FrameError::ManifestRepeated);
        }
        std::str::from_utf8(bytes).map_err(|error| malformed("manifest", error))
    }

    /// SHA-256 of the stream with every byte of the manifest replaced by 0x00.
    pub fn body_digest(&self) -> super::jws::Digest {
        let mut copy = self.data.to_vec();
        if let Some(manifest) = copy.get_mut(self.manifest.clone()) {
            manifest.fill(0);
        }
        super::jws::Digest::of(&copy)
    }

    /// The first two bytes of each row's leaf hash, where the batch carries them.
    pub fn row_tags(&self) -> Option<Vec<[u8; 2]>> {
        let bytes = STANDARD.decode(self.row_tags?).ok()?;
        Some(bytes.as_chunks().0.to_vec())
    }

    /// Reads what the `RecordBatch` message declares and checks it against the limits. Decodes nothing.
    pub fn contents(&self) -> Result<Contents<'a>, FrameError> {
        const PART: &str = "RecordBatch message";
        let schema = message(self.data, 0, "Schema message")?;
        let schema = schema.message.header_as_schema().ok_or(FrameError::NoManifest)?;
        // A reader that heeds the mark sees other values than one that does not, and what was signed are these.
        if schema.endianness() != Endianness::Little {
            return Err(malformed("Schema message", "its byte order is not little-endian"));
        }
        let schema =
            try_fb_to_schema(schema).map_err(|error| malformed("Schema message", one_line(&error)))?;
        let columns = describe(&schema)?;

        let part = message(self.data, self.batch_at, PART)?;
        let batch = part
            .message
            .header_as_record_batch()
            .ok_or_else(|| malformed(PART, "it is another message"))?;
        if self.data.get(part.end..) != Some(&END_OF_STREAM) {
            return Err(malformed(
                "end",
                "the RecordBatch message is not followed by the end marker alone",
            ));
        }
        let rows = u64::try_from(batch.length()).map_err(|_| malformed(PART, "negative number of rows"))?;
        if rows == 0 {
            return Err(malformed(PART, "it holds no rows"));
        }
        limit("rows", rows, MAX_ROWS as u64)?;
        let nodes = batch
            .nodes()
            .ok_or_else(|| malformed(PART, "it has no field nodes"))?;
        let buffers = batch
            .buffers()
            .ok_or_else(|| malformed(PART, "it has no buffers"))?;
        let owners = buffer_owners(&columns);
        if nodes.len() != node_count(&columns) || buffers.len() != owners.len() {
            return Err(malformed(
                PART,
                "its field nodes and buffers do not fit the schema",
            ));
        }
        let mut values = 0u64;
        for node in nodes {
            let length =
                u64::try_from(node.length()).map_err(|_| malformed(PART, "negative length of a column"))?;
            values = values.saturating_add(length);
        }
        limit("values", values, MAX_VALUES)?;
        let compressed = match batch.compression() {
            None => false,
            Some(compression) if compression.codec() == CompressionType::ZSTD => true,
            Some(_) => {
                return Err(malformed(
                    PART,
                    "its buffers are compressed with another codec than zstd",
                ));
            }
        };
        let mut decoded = 0u64;
        let mut raw = Vec::with_capacity(buffers.len());
        for (buffer, owner) in buffers.iter().zip(owners) {
            let outside = || {
                malformed(
                    PART,
                    format!("a buffer of column `{owner}` lies outside of the message"),
                )
            };
            let offset = usize::try_from(buffer.offset()).map_err(|_| outside())?;
            let length = usize::try_from(buffer.length()).map_err(|_| outside())?;
            let bytes = offset
                .checked_add(length)
                .and_then(|end| part.body.get(offset..end))
                .ok_or_else(outside)?;
            let uncompressed = declared_length(bytes, compressed)
                .ok_or_else(|| malformed(PART, format!("a buffer of column `{owner}` declares no length")))?;
            decoded = decoded.saturating_add(uncompressed);
            raw.push(RawBuffer {
                owner,
                bytes,
                uncompressed,
            });
        }
        limit("bytes of uncompressed buffers", decoded, MAX_DECODED_BYTES)?;
        Ok(Contents {
            schema,
            columns,
            rows,
            message: part.message,
            body: part.body,
            buffers: raw,
            compressed,
        })
    }
}

fn limit(what: &'static str, declared: u64, limit: u64) -> Result<(), FrameError> {
    if declared > limit {
        Err(FrameError::Excessive {
            what,
            declared,
            limit,
        })
    } else {
        Ok(())
    }
}

/// The uncompressed length that a buffer declares: in a compressed message an 8-byte prefix, where -1 means "as it is".
fn declared_length(bytes: &[u8], compressed: bool) -> Option<u64> {
    if !compressed || bytes.is_empty() {
        return Some(bytes.len() as u64);
    }
    let (prefix, data) = bytes.split_first_chunk::<8>()?;
    match i64::from_le_bytes(*prefix) {
        -1 => Some(data.len() as u64),
        length => u64::try_from(length).ok(),
    }
}

/// One buffer as it stands in the message.
#[derive(Debug)]
struct RawBuffer<'a> {
    owner: String,
    bytes: &'a [u8],
    uncompressed: u64,
}

/// A sealed batch whose declared sizes are within the limits. Nothing is decoded yet.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The schema as the stream has it.
    pub schema: Schema,
    /// Its columns, as the fingerprint sees them.
    pub columns: Vec<ColumnDescription>,
    /// How many rows are declared.
    pub rows: u64,
    message: Message<'a>,
    body: &'a [u8],
    buffers: Vec<RawBuffer<'a>>,
    compressed: bool,
}

impl Contents<'_> {
    /// Decodes the rows. Arrow validates offsets, lengths and UTF-8; should it panic, that is an error too.
    pub fn decode(&self) -> Result<RecordBatch, FrameError> {
        const PART: &str = "RecordBatch message";
        let batch = self
            .message
            .header_as_record_batch()
            .ok_or_else(|| malformed(PART, "it is another message"))?;
        let body = Buffer::from(self.body);
        let schema = Arc::new(self.schema.clone());
        let version = self.message.version();
        catch_unwind(AssertUnwindSafe(|| {
            read_record_batch(
                &body,
                batch,
                schema,
                &std::collections::HashMap::new(),
                None,
                &version,
            )
        }))
        .map_err(|_| malformed(PART, "it cannot be decoded"))?
        .map_err(|error| malformed(PART, one_line(&error)))
    }

    /// The declared length of the first buffer that is not empty, as it stands in the stream.
    #[cfg(test)]
    pub(super) fn first_declared_length(&self) -> i64 {
        let prefix = self
            .buffers
            .iter()
            .find_map(|buffer| buffer.bytes.first_chunk::<8>());
        prefix.map_or(0, |prefix| i64::from_le_bytes(*prefix))
    }

    /// The columns with a buffer that does not decompress to its declared length.
    pub fn undecodable_columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for buffer in self.buffers.iter().filter(|_| self.compressed) {
            let Some((prefix, data)) = buffer.bytes.split_first_chunk::<8>() else {
                continue;
            };
            if matches!(i64::from_le_bytes(*prefix), -1 | 0) {
                continue;
            }
            let decoded = zstd::bulk::decompress(data, buffer.uncompressed as usize);
            let whole = decoded.is_ok_and(|bytes| bytes.len() as u64 == buffer.uncompressed);
            if !whole && columns.last() != Some(&buffer.owner.as_str()) {
                columns.push(&buffer.owner);
            }
        }
        columns
    }
}
