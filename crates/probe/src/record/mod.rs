//! Flows to Arrow record batches, and to files.
//!
//! **In**: ended flows ([`crate::flow::FlowRecord`] and the layer-7 session), in output order.
//! **Out**: Arrow record batches ([`Builder`]), or an NDJSON, CSV, Parquet or Arrow file ([`Writer`]).
//! **Owns**: the mapping of declared columns to Arrow types ([`schema`]), once for evidence and once for people.
//! **Never**: decides what a flow is, reorders rows, or holds more than one batch.
//!
//! A batch holds the wide flow schema and protocol structs (design D4): only those that occur in it where batches are
//! sealed one by one, a fixed set where many batches make one output. Limits: 8,192 rows a batch, and for sealed
//! batches 900 KiB, reached by an estimate of the *uncompressed* size, which is never below the compressed one.

/// The columns as Arrow schemas.
pub mod schema;
/// Flow records to record batches.
pub mod build;
/// Record batches to files.
pub mod write;
/// Capture files to record batches.
pub mod files;
/// From ended flows to record batches on another thread.
pub mod read;
/// Columns as text.
pub mod text;
/// One column's growing buffers.
mod tree;

pub use build::{Builder, Limits};
pub use schema::{Addresses, Layout, Protocols};
pub use write::{Format, WriteError, Writer};

/// Why a batch could not be made. Each of these is a bug, told instead of hidden: the rows pushed since the last batch
/// are lost.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A dissector's values do not follow its declared columns.
    #[error("column {column}: its values do not follow its declaration; please report this")]
    Mismatch {
        /// The column at which it showed.
        column: &'static str,
    },
    /// Arrow refuses the columns.
    #[error("the batch cannot be made: {0}; please report this")]
    Arrow(#[from] arrow::error::ArrowError),
}
