//! Batches to sealed batches (`docs/formats/sealed-batch.md`).
//!
//! **In**: Arrow record batches of one kind (flow, ledger, event), any thread.
//! **Out**: sealed batches in chain order: an Arrow IPC stream with the manifest, signed with RSA-4096.
//! **Owns**: the private key, the chain (id, next position, head) and the sealing threads.
//! **Never**: blocks a live producer (a full queue drops and counts), signs a batch beyond the limits of the format,
//! changes a record, or leaves a hole in the chain: a position is used only when its batch was sealed.
//!
//! Limits: 8,192 rows, 900 KiB a batch, 64 MiB uncompressed. Larger batches are sealed in parts; a single record that is
//! too large is dropped and counted. The reverse way, [`verify_batch`], needs no key and trusts nothing: it meets the
//! bytes with the smallest code first (frame, signature, digest, declared sizes) and decodes last.

mod cbor;
mod rows;
/// The Merkle tree of RFC 9162.
pub mod merkle;
/// base64url, compact JWS, digests.
pub mod jws;
/// Certificates of the PKI profile.
pub mod certificate;
/// Header and claims.
pub mod manifest;
/// Columns and their fingerprint.
pub mod schema;
/// The frame of a sealed batch.
pub mod ipc;
/// The private key.
pub mod sign;
/// One batch, sealed.
pub mod batch;
/// What a batch proves, or everything that is wrong with it.
pub mod verify;
/// One record's inclusion proof.
pub mod proof;
/// What a Core signs.
pub mod receipt;
/// Ledger and event batches.
pub mod ledger;
/// The sealing threads.
pub mod sealer;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use batch::{Chain, SealError, SealedBatch};
pub use certificate::Certificate;
pub use ledger::Event;
pub use manifest::{ChainId, Claims, Head, Kind};
pub use sealer::{Intake, Sealer, SealerSettings};
pub use sign::{Signer, SignerError};
pub use verify::{Verified, VerifyError, verify_batch};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
