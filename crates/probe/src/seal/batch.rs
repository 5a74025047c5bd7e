//! One batch, sealed: leaves, tree, stream, signature.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::cbor::Rows;
use super::ipc::{Frame, FrameError, MANIFEST_KEY, MAX_ROWS, ROW_TAGS_KEY};
use super::jws::Digest;
use super::manifest::{ChainId, Claims, Head, Kind, VERSION};
use super::merkle::{Hash, root, sha256};
use super::schema::{UnsupportedColumn, describe, fingerprint};
use super::sign::{Signer, SignerError};
use crate::clock;

/// Bytes of the buffers are aligned to this within the stream.
const ALIGNMENT: usize = 8;

/// Why a batch was not sealed. The state: the chain stands where it stood, the batch's records are unsigned.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No rows, or more than a batch may hold.
    #[error("a batch holds 1 to {MAX_ROWS} rows, not {0}")]
    Rows(usize),
    /// A column type that a sealed batch does not have.
    #[error(transparent)]
    Column(#[from] UnsupportedColumn),
    /// The sealed batch would be beyond the limits.
    #[error("the batch is too large: {0}")]
    TooLarge(FrameError),
    /// The stream that was written is not one that can be verified: a bug.
    #[error("the batch was not written as it should be: {0}")]
    Frame(FrameError),
    /// Arrow could not write it.
    #[error("the batch could not be written: {0}")]
    Write(#[from] ArrowError),
    /// It could not be signed.
    #[error("the batch could not be signed: {0}")]
    Sign(#[from] SignerError),
    /// No random bytes for the chain's id.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// A batch that was sealed.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// What it holds and where it stands.
    pub claims: Claims,
    /// The manifest.
    pub manifest: String,
    /// The stream, manifest included.
    pub bytes: Vec<u8>,
    /// How long the signature itself took.
    pub signing: Duration,
    /// When its records were handed over to be sealed, where that is known.
    pub given: Option<Instant>,
}

impl SealedBatch {
    /// Its place in the chain.
    pub fn head(&self) -> Head {
        Head {
            chain: self.claims.chain,
            seq: self.claims.seq,
            manifest: Digest::of(self.manifest.as_bytes()),
        }
    }
}

/// The leaf hashes of a batch's rows, in order.
pub fn leaf_hashes(batch: &RecordBatch) -> Result<Vec<Hash>, UnsupportedColumn> {
    let rows = rows(batch)?;
    let mut leaf = Vec::with_capacity(1024);
    let hash = |row| {
        leaf.clear();
        leaf.push(0x00);
        rows.encode(row, &mut leaf);
        sha256(&leaf)
    };
    Ok((0..rows.len()).map(hash).collect())
}

/// The deterministic CBOR of one row; `None` if there is no such row.
pub fn row_cbor(batch: &RecordBatch, row: usize) -> Result<Option<Vec<u8>>, UnsupportedColumn> {
    let rows = rows(batch)?;
    Ok((row < rows.len()).then(|| {
        let mut out = Vec::new();
        rows.encode(row, &mut out);
        out
    }))
}

fn rows(batch: &RecordBatch) -> Result<Rows<'_>, UnsupportedColumn> {
    // `describe` names the column; it knows every type that `Rows` does not.
    describe(&batch.schema())?;
    Rows::new(batch).ok_or_else(|| UnsupportedColumn {
        column: String::new(),
        kind: "unknown".to_owned(),
    })
}

/// The position of the next batch: what of the claims does not depend on the records.
#[derive(Clone, Debug)]
pub struct Position {
    /// What the rows are.
    pub kind: Kind,
    /// The chain.
    pub chain: ChainId,
    /// Position in it.
    pub seq: u64,
    /// The manifest before.
    pub previous: Option<Head>,
    /// Time of sealing in seconds since 1970.
    pub iat: i64,
}

/// The level of zstd with which batches are compressed where nothing else is asked for: zstd's own default.
pub const COMPRESSION_LEVEL: i32 = 3;

/// Seals `batch` at `position`.
pub fn seal(batch: &RecordBatch, position: &Position, signer: &Signer) -> Result<SealedBatch, SealError> {
    seal_compressed(batch, position, signer, COMPRESSION_LEVEL)
}

/// Seals `batch` at `position`, compressed with that level of zstd.
fn seal_compressed(
    batch: &RecordBatch,
    position: &Position,
    signer: &Signer,
    compression_level: i32,
) -> Result<SealedBatch, SealError> {
    if !(1..=MAX_ROWS).contains(&batch.num_rows()) {
        return Err(SealError::Rows(batch.num_rows()));
    }
    let leaves = leaf_hashes(batch)?;
    let start_of_chain = position.previous.filter(|_| position.seq == 0);
    let mut claims = Claims {
        v: VERSION,
        iss: signer.probe().to_owned(),
        kind: position.kind,
        chain: position.chain,
        seq: position.seq,
        prev: position.previous.map(|head| head.manifest),
        prev_chain: start_of_chain.map(|head| head.chain),
        prev_seq: start_of_chain.map(|head| head.seq),
        iat: position.iat,
        schema: fingerprint(&describe(&batch.schema())?),
        rows: leaves.len() as u32,
        root: Digest(root(&leaves)),
        // As long as the digest that will stand here.
        body: Digest([0; 32]),
    };
    let mut bytes = write(batch, &leaves, signer.jws_length(&claims)?, compression_level)?;
    let range = {
        let frame = Frame::open(&bytes).map_err(size_or_bug)?;
        frame.contents().map_err(size_or_bug)?;
        frame.manifest_range()
    };
    // The manifest's place holds zeros until now.
    claims.body = Digest::of(&bytes);
    let began = clock::monotonic();
    let manifest = signer.sign(&claims)?;
    let signing = clock::elapsed(began);
    match bytes.get_mut(range) {
        Some(place) if place.len() == manifest.len() => place.copy_from_slice(manifest.as_bytes()),
        _ => return Err(SealError::Frame(FrameError::NoManifest)),
    }
    Ok(SealedBatch {
        claims,
        manifest,
        bytes,
        signing,
        given: None,
    })
}

fn size_or_bug(error: FrameError) -> SealError {
    match error {
        FrameError::TooLong(_) | FrameError::Excessive { .. } => SealError::TooLarge(error),
        other => SealError::Frame(other),
    }
}

/// The stream with zeros in the manifest's place.
fn write(
    batch: &RecordBatch,
    leaves: &[Hash],
    manifest_length: usize,
    compression_level: i32,
) -> Result<Vec<u8>, ArrowError> {
    let tags: Vec<u8> = leaves.iter().flat_map(|leaf| [leaf[0], leaf[1]]).collect();
    let mut metadata = batch.schema().metadata().clone();
    metadata.insert(ROW_TAGS_KEY.to_owned(), STANDARD.encode(tags));
    metadata.insert(MANIFEST_KEY.to_owned(), "\0".repeat(manifest_length));
    let schema = Arc::new(Schema::new_with_metadata(
        batch.schema().fields().clone(),
        metadata,
    ));
    let batch = batch.clone().with_schema(Arc::clone(&schema))?;
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?
        .try_with_compression(Some(CompressionType::ZSTD))?
        .try_with_compression_level(Some(compression_level))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
    writer.write(&batch)?;
    writer.into_inner()
}

/// The chain of this run: hands out positions, and moves on only when a batch was sealed.
#[derive(Debug)]
pub struct Chain {
    id: ChainId,
    next: u64,
    head: Option<Head>,
    compression_level: i32,
}

impl Chain {
    /// A new chain with a random id, which names the last known head of the one before.
    pub fn start(before: Option<Head>) -> Result<Self, SealError> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| SealError::Random)?;
        Ok(Self {
            id: ChainId(id),
            next: 0,
            head: before,
            compression_level: COMPRESSION_LEVEL,
        })
    }

    /// The chain's id.
    pub fn id(&self) -> ChainId {
        self.id
    }

    /// The last manifest of this chain; before the first, that of the chain before.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// The level of zstd with which the next batches are compressed.
    pub fn set_compression_level(&mut self, level: i32) {
        self.compression_level = level;
    }

    /// Seals `batch` as the next of the chain. `iat` is in seconds since 1970.
    pub fn seal(
        &mut self,
        kind: Kind,
        batch: &RecordBatch,
        iat: i64,
        signer: &Signer,
    ) -> Result<SealedBatch, SealError> {
        let position = Position {
            kind,
            chain: self.id,
            seq: self.next,
            previous: self.head,
            iat,
        };
        let sealed = seal_compressed(batch, &position, signer, self.compression_level)?;
        self.head = Some(sealed.head());
        self.next += 1;
        Ok(sealed)
    }
}
