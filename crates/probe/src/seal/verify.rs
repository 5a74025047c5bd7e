//! What a sealed batch proves, or everything that is wrong with it (`docs/formats/sealed-batch.md` §6).

use arrow::array::RecordBatch;

use super::batch::leaf_hashes;
use super::certificate::Certificate;
use super::ipc::{Frame, FrameError};
use super::jws::{Digest, JwsError};
use super::manifest::{Claims, Manifest};
use super::merkle::{Hash, root};
use super::schema::fingerprint;

/// The first check that a batch failed. The state: nothing of the batch may be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a sealed batch, or one beyond the limits.
    #[error("malformed batch: {0}")]
    Frame(#[from] FrameError),
    /// The manifest cannot be read.
    #[error("malformed manifest: {0}")]
    Manifest(#[from] JwsError),
    /// None of the certificates signed it.
    #[error(
        "unknown certificate: the manifest was signed with that of fingerprint {0}, which is not among those given"
    )]
    UnknownCertificate(Digest),
    /// The signature is not that of the certificate's key.
    #[error("wrong signature: the manifest is not what the key of {subject} signed")]
    Signature {
        /// Subject of the certificate.
        subject: String,
    },
    /// The certificate is another probe's.
    #[error("wrong issuer: `{issuer}` does not belong to the certificate of {subject}")]
    Issuer {
        /// `iss`.
        issuer: String,
        /// Subject of the certificate.
        subject: String,
    },
    /// The stream's bytes are not those that were sealed.
    #[error("wrong body digest: the batch was altered after it was sealed")]
    Body,
    /// Another number of rows.
    #[error("wrong number of rows: {claimed} were sealed, {found} are there")]
    Rows {
        /// In the manifest.
        claimed: u32,
        /// In the batch.
        found: u64,
    },
    /// Another schema.
    #[error("wrong schema: its fingerprint is {found}, {claimed} was sealed")]
    Schema {
        /// In the manifest.
        claimed: Digest,
        /// Of the batch.
        found: Digest,
    },
    /// Other records.
    #[error("wrong Merkle root: the records are not those that were sealed")]
    Root,
}

impl VerifyError {
    /// One word for programs: which check failed.
    pub fn check(&self) -> &'static str {
        match self {
            Self::Frame(_) => "format",
            Self::Manifest(_) => "manifest",
            Self::UnknownCertificate(_) => "certificate",
            Self::Signature { .. } => "signature",
            Self::Issuer { .. } => "issuer",
            Self::Body => "body",
            Self::Rows { .. } => "rows",
            Self::Schema { .. } => "schema",
            Self::Root => "root",
        }
    }
}

/// A batch, or a manifest alone, whose signature holds.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The claims.
    pub claims: Claims,
    /// The manifest as it stands.
    pub manifest: String,
    /// Digest of the manifest's ASCII bytes.
    pub manifest_digest: Digest,
    /// Fingerprint of the certificate that signed it.
    pub certificate: Digest,
}

/// A batch for which every check holds.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The manifest and its claims.
    pub signed: Signed,
    /// The records.
    pub batch: RecordBatch,
    /// Their leaf hashes.
    pub leaves: Vec<Hash>,
}

/// Verifies a manifest: signature with the certificate that it names, and issuer.
pub fn verify_manifest(jws: &str, certificates: &[Certificate]) -> Result<Signed, VerifyError> {
    let manifest = Manifest::parse(jws)?;
    let named = manifest.header.certificate;
    let certificate = certificates
        .iter()
        .find(|certificate| certificate.fingerprint() == named)
        .ok_or(VerifyError::UnknownCertificate(named))?;
    let subject = || certificate.subject().to_owned();
    if !certificate.verifies_ps256(manifest.jws.signing_input.as_bytes(), &manifest.jws.signature) {
        return Err(VerifyError::Signature { subject: subject() });
    }
    if !certificate.owns(&manifest.claims.iss) {
        return Err(VerifyError::Issuer {
            issuer: manifest.claims.iss,
            subject: subject(),
        });
    }
    Ok(Signed {
        claims: manifest.claims,
        manifest: jws.to_owned(),
        manifest_digest: Digest::of(jws.as_bytes()),
        certificate: named,
    })
}

/// Verifies a sealed batch whole. Which certificates are trusted is the caller's decision.
pub fn verify_batch(data: &[u8], certificates: &[Certificate]) -> Result<Verified, VerifyError> {
    let frame = Frame::open(data)?;
    let signed = verify_manifest(frame.manifest()?, certificates)?;
    if frame.body_digest() != signed.claims.body {
        return Err(VerifyError::Body);
    }
    let contents = frame.contents()?;
    if contents.rows != u64::from(signed.claims.rows) {
        return Err(VerifyError::Rows {
            claimed: signed.claims.rows,
            found: contents.rows,
        });
    }
    let found = fingerprint(&contents.columns);
    if found != signed.claims.schema {
        return Err(VerifyError::Schema {
            claimed: signed.claims.schema,
            found,
        });
    }
    let batch = contents.decode()?;
    let leaves = leaf_hashes(&batch).map_err(FrameError::from)?;
    if root(&leaves) != signed.claims.root.0 {
        return Err(VerifyError::Root);
    }
    Ok(Verified {
        signed,
        batch,
        leaves,
    })
}

/// Everything that is wrong with a batch, for people.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Each check that fails, in the order of verification. Empty: the batch is sound.
    pub failures: Vec<VerifyError>,
    /// The claims as they stand, trustworthy only if neither manifest nor signature is among the failures.
    pub claims: Option<Claims>,
    /// The manifest as it stands.
    pub manifest: Option<String>,
    /// The rows whose tag is not that of the record that stands there now. Says nothing where the batch has no tags.
    pub altered_rows: Vec<u64>,
    /// The columns that cannot be decompressed.
    pub undecodable_columns: Vec<String>,
    /// Whether the records are those that the manifest's root is over.
    pub records_hold: bool,
}

/// Checks everything that can still be checked, also behind the first failure.
pub fn diagnose(data: &[u8], certificates: &[Certificate]) -> Diagnosis {
    let mut found = Diagnosis::default();
    let frame = match Frame::open(data) {
        Ok(frame) => frame,
        Err(error) => {
            found.failures.push(error.into());
            return found;
        }
    };
    match frame.manifest() {
        Err(error) => found.failures.push(error.into()),
        Ok(jws) => {
            found.manifest = Some(jws.to_owned());
            match Manifest::parse(jws) {
                Ok(manifest) => found.claims = Some(manifest.claims),
                Err(error) => found.failures.push(error.into()),
            }
            if found.claims.is_some()
                && let Err(error) = verify_manifest(jws, certificates)
            {
                found.failures.push(error);
            }
        }
    }
    let claims = found.claims.clone();
    if claims
        .as_ref()
        .is_some_and(|claims| claims.body != frame.body_digest())
    {
        found.failures.push(VerifyError::Body);
    }
    if let Err(error) = diagnose_records(&frame, claims.as_ref(), &mut found) {
        found.failures.push(error.into());
    }
    found
}

fn diagnose_records(
    frame: &Frame<'_>,
    claims: Option<&Claims>,
    found: &mut Diagnosis,
) -> Result<(), FrameError> {
    let contents = frame.contents()?;
    if let Some(claims) = claims {
        if contents.rows != u64::from(claims.rows) {
            found.failures.push(VerifyError::Rows {
                claimed: claims.rows,
                found: contents.rows,
            });
        }
        let schema = fingerprint(&contents.columns);
        if schema != claims.schema {
            found.failures.push(VerifyError::Schema {
                claimed: claims.schema,
                found: schema,
            });
        }
    }
    found.undecodable_columns = contents
        .undecodable_columns()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let leaves = leaf_hashes(&contents.decode()?)?;
    if let Some(claims) = claims {
        found.records_hold = root(&leaves) == claims.root.0;
        if !found.records_hold {
            found.failures.push(VerifyError::Root);
        }
    }
    if let Some(tags) = frame
        .row_tags()
        .filter(|tags| !found.records_hold && tags.len() == leaves.len())
    {
        let altered = tags
            .iter()
            .zip(&leaves)
            .enumerate()
            .filter(|(_, (tag, leaf))| leaf[..2] != tag[..]);
        found.altered_rows = altered.map(|(row, _)| row as u64).collect();
    }
    Ok(())
}
