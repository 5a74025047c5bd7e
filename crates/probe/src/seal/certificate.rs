//! Certificates of the PKI profile (`docs/formats/transport.md`): names, keys, validity.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::jws::Digest;

const PROBE_URN: &str = "urn:dpi-probe:probe:";
const CORE_URN: &str = "urn:dpi-probe:core:";

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate in the PEM text.
    #[error("no certificate in PEM form was found")]
    NoPem,
    /// Not an X.509 certificate.
    #[error("it is not an X.509 certificate: {0}")]
    Malformed(String),
}

/// What the key of a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    Rsa,
    Ec,
    Other,
}

/// An X.509 certificate, read but not trusted: trust is the caller's decision.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    fingerprint: Digest,
    subject: String,
    probe_name: Option<String>,
    core_name: Option<String>,
    key_type: KeyType,
    public_key: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads a certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |reason: String| CertificateError::Malformed(reason);
        // Why in terms of the parser tells nobody what to mend.
        let (rest, parsed) = X509Certificate::from_der(der)
            .map_err(|_| malformed("it does not parse as DER (RFC 5280)".to_owned()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow it", rest.len())));
        }
        let mut probe_name = None;
        let mut core_name = None;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| malformed(error.to_string()))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            if let GeneralName::URI(uri) = name {
                if let Some(name) = uri.strip_prefix(PROBE_URN).filter(|name| is_name(name)) {
                    probe_name.get_or_insert_with(|| name.to_owned());
                }
                if let Some(name) = uri.strip_prefix(CORE_URN).filter(|name| is_name(name)) {
                    core_name.get_or_insert_with(|| name.to_owned());
                }
            }
        }
        let key = parsed.public_key();
        let key_type = if key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            KeyType::Rsa
        } else if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            KeyType::Ec
        } else {
            KeyType::Other
        };
        Ok(Self {
            fingerprint: Digest::of(der),
            subject: parsed.subject().to_string(),
            probe_name,
            core_name,
            key_type,
            public_key: key.subject_public_key.data.to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            der: der.to_vec(),
        })
    }

    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| CertificateError::NoPem)?;
        Self::from_der(&der)
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the DER: what `x5t#S256` names (RFC 7515 §4.1.8).
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// The subject's distinguished name, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// NAME of its `urn:dpi-probe:probe:NAME`.
    pub fn probe_name(&self) -> Option<&str> {
        self.probe_name.as_deref()
    }

    /// NAME of its `urn:dpi-probe:core:NAME`.
    pub fn core_name(&self) -> Option<&str> {
        self.core_name.as_deref()
    }

    /// First and last second of its validity, in seconds since 1970.
    pub fn validity(&self) -> (i64, i64) {
        (self.not_before, self.not_after)
    }

    /// The subject's public key as it stands in the certificate's bit string.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Whether a probe id belongs to it: its probe name, or that name, `/` and a suffix.
    pub fn owns(&self, probe: &str) -> bool {
        self.probe_name.as_deref().is_some_and(|name| {
            probe
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && rest.len() > 1))
        })
    }

    /// Whether `signature` is this key's PS256 signature over `message`.
    pub fn verifies_ps256(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key_type == KeyType::Rsa
            && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &self.public_key)
                .verify(message, signature)
                .is_ok()
    }

    /// Whether `signature` is this key's ES256 signature over `message`.
    pub fn verifies_es256(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key_type == KeyType::Ec
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key)
                .verify(message, signature)
                .is_ok()
    }
}

/// Whether `name` may name a probe or a Core.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
