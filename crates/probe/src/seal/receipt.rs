//! Receipts and chain heads: what a Core signs (`docs/formats/receipt.md`).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::certificate::{Certificate, CertificateError};
use super::jws::{Compact, Digest, JwsError};
use super::manifest::{ChainId, Head};

/// `typ` of a receipt.
pub const RECEIPT_TYPE: &str = "dpi-receipt+jwt";
/// `typ` of a chain head.
pub const HEAD_TYPE: &str = "dpi-head+jwt";
/// Longest receipt that is read, in bytes.
const MAX_RECEIPT_BYTES: usize = 16 * 1024;

/// Why what a Core signed is not accepted. The state: nothing was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It cannot be read.
    #[error("malformed receipt: {0}")]
    Malformed(#[from] JwsError),
    /// Its certificate cannot be read.
    #[error("certificate in the receipt: {0}")]
    Certificate(#[from] CertificateError),
    /// Its certificate is not one of the CA's.
    #[error("the certificate of {subject} in the receipt is not accepted under the CA: {reason}")]
    Untrusted {
        /// Subject of the certificate.
        subject: String,
        /// Why.
        reason: webpki::Error,
    },
    /// Its certificate has not the Core role.
    #[error(
        "the certificate of {subject} in the receipt does not carry the Core role urn:dpi-probe:core:{name}"
    )]
    Role {
        /// Subject of the certificate.
        subject: String,
        /// `iss`.
        name: String,
    },
    /// The signature does not hold.
    #[error("wrong signature in the receipt: it is not what the key of {subject} signed")]
    Signature {
        /// Subject of the certificate.
        subject: String,
    },
    /// It is about something else.
    #[error("the receipt is for another {what}: {found} instead of {expected}")]
    Other {
        /// Which claim.
        what: &'static str,
        /// Its value.
        found: String,
        /// What was sent.
        expected: String,
    },
}

/// What was archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The batch.
    Archived,
    /// The manifest of a batch that was dropped.
    ManifestOnly,
}

impl Status {
    /// The name in the receipt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Archived => "archived",
            Self::ManifestOnly => "manifest_only",
        }
    }
}

/// The claims of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of the format: 1.
    pub v: u32,
    /// The Core's name.
    pub iss: String,
    /// The probe id.
    pub probe: String,
    /// The chain.
    pub chain: ChainId,
    /// Position in it.
    pub seq: u64,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// When it was archived, in seconds since 1970.
    pub iat: i64,
    /// What was archived.
    pub status: Status,
}

/// The claims of a chain head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// Version of the format: 1.
    pub v: u32,
    /// The Core's name.
    pub iss: String,
    /// The probe id.
    pub probe: String,
    /// The chain.
    pub chain: ChainId,
    /// The highest position that is archived.
    pub seq: u64,
    /// Digest of the manifest there.
    pub manifest: Digest,
    /// When this was stated, in seconds since 1970.
    pub iat: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    x5c: Vec<String>,
}

/// The CA that probe and Core share.
#[derive(Clone, Debug)]
pub struct Authority {
    anchor: TrustAnchor<'static>,
    certificate: Certificate,
}

impl Authority {
    /// Reads a CA certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = Certificate::from_der(der)?;
        let anchor = anchor_from_trusted_cert(&CertificateDer::from(der))
            .map_err(|error| CertificateError::Malformed(error.to_string()))?
            .to_owned();
        Ok(Self { anchor, certificate })
    }

    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(Certificate::from_pem(pem)?.der())
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether the CA issued `certificate` for a server and it is valid at `now` (seconds since 1970).
    fn accepts_server(&self, certificate: &Certificate, now: i64) -> Result<(), webpki::Error> {
        self.accepts(certificate, now, KeyUsage::server_auth())
    }

    /// Whether the CA issued `certificate` for a client and it is valid at `now` (seconds since 1970).
    pub fn accepts_client(&self, certificate: &Certificate, now: i64) -> Result<(), webpki::Error> {
        self.accepts(certificate, now, KeyUsage::client_auth())
    }

    fn accepts(&self, certificate: &Certificate, now: i64, usage: KeyUsage) -> Result<(), webpki::Error> {
        let der = CertificateDer::from(certificate.der());
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        EndEntityCert::try_from(&der)?
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&self.anchor),
                &[],
                time,
                usage,
                None,
                None,
            )
            .map(|_| ())
    }

    /// The claims of what a Core of this CA signed, with the certificate judged at `now` (seconds since 1970).
    fn verify<T: for<'de> Deserialize<'de>>(
        &self,
        jws: &str,
        typ: &str,
        now: i64,
        issuer: impl Fn(&T) -> &str,
    ) -> Result<T, ReceiptError> {
        let wrong = |part, reason: &str| JwsError::Json {
            part,
            reason: reason.to_owned(),
        };
        if jws.len() > MAX_RECEIPT_BYTES {
            return Err(wrong("length", "it is too long").into());
        }
        let parts = Compact::parse(jws)?;
        let header: Header = parts.header()?;
        if header.alg != "ES256" || header.typ != typ {
            return Err(wrong("header", &format!("alg must be ES256 and typ {typ}")).into());
        }
        let der = header
            .x5c
            .first()
            .and_then(|text| STANDARD.decode(text).ok())
            .ok_or_else(|| wrong("header", "x5c holds no certificate"))?;
        let certificate = Certificate::from_der(&der)?;
        let subject = certificate.subject().to_owned();
        if let Err(reason) = self.accepts_server(&certificate, now) {
            return Err(ReceiptError::Untrusted { subject, reason });
        }
        if !certificate.verifies_es256(parts.signing_input.as_bytes(), &parts.signature) {
            return Err(ReceiptError::Signature { subject });
        }
        let claims: T = parts.claims()?;
        if certificate.core_name() != Some(issuer(&claims)) {
            return Err(ReceiptError::Role {
                subject,
                name: issuer(&claims).to_owned(),
            });
        }
        Ok(claims)
    }

    /// Verifies a receipt at `now` (seconds since 1970): certificate, role, signature.
    pub fn verify_receipt(&self, jws: &str, now: i64) -> Result<Receipt, ReceiptError> {
        let receipt: Receipt = self.verify(jws, RECEIPT_TYPE, now, |receipt: &Receipt| &receipt.iss)?;
        known_version(receipt.v)?;
        Ok(receipt)
    }

    /// Verifies a chain head at `now` (seconds since 1970): certificate, role, signature.
    pub fn verify_head(&self, jws: &str, now: i64) -> Result<ChainHead, ReceiptError> {
        let head: ChainHead = self.verify(jws, HEAD_TYPE, now, |head: &ChainHead| &head.iss)?;
        known_version(head.v)?;
        Ok(head)
    }
}

fn known_version(version: u32) -> Result<(), JwsError> {
    if version == 1 {
        return Ok(());
    }
    Err(JwsError::Json {
        part: "claims",
        reason: format!("version {version} is not known"),
    })
}

impl Receipt {
    /// Whether this is the receipt for what was sent: `batch` says whether it was a batch or a bare manifest.
    pub fn is_for(&self, probe: &str, sent: &Head, batch: bool) -> Result<(), ReceiptError> {
        let same = |what, found: String, expected: String| {
            if found == expected {
                Ok(())
            } else {
                Err(ReceiptError::Other {
                    what,
                    found,
                    expected,
                })
            }
        };
        same("probe", self.probe.clone(), probe.to_owned())?;
        same("chain", self.chain.to_string(), sent.chain.to_string())?;
        same("position", self.seq.to_string(), sent.seq.to_string())?;
        same("manifest", self.manifest.to_string(), sent.manifest.to_string())?;
        if batch && self.status != Status::Archived {
            return same(
                "status",
                self.status.name().to_owned(),
                Status::Archived.name().to_owned(),
            );
        }
        Ok(())
    }
}
