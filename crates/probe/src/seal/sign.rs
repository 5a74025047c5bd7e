//! The probe's private key: loaded with care, used for PS256 alone.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::certificate::{Certificate, CertificateError};
use super::jws::to_base64url;
use super::manifest::{ALGORITHM, Header, TYPE};

/// A probe signs with RSA-4096: length of modulus and signature in bytes.
pub(crate) const SIGNATURE_BYTES: usize = 512;
/// Longest key or certificate file that is read, in bytes.
const MAX_PEM_BYTES: u64 = 64 * 1024;

/// Why nothing can be signed. The state: no signer exists, nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A file could not be read.
    #[error("{}: cannot read the {what}: {source}", path.display())]
    Read {
        /// Key or certificate.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file can be read by others.
    #[error("{}: the private key can be read by others (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What the file holds cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// Key or certificate.
        path: PathBuf,
        /// Why.
        source: Box<SignerError>,
    },
    /// The certificate is none.
    #[error("probe certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The key is none that a probe can sign with.
    #[error("private key: {0}")]
    Key(String),
    /// The key is another certificate's.
    #[error(
        "the private key does not belong to the certificate of {subject}: both must come from the same `dpi-probe pki issue`"
    )]
    Mismatch {
        /// Subject of the certificate.
        subject: String,
    },
    /// The certificate is not valid now.
    #[error("the certificate of {subject} {what}")]
    Validity {
        /// Subject of the certificate.
        subject: String,
        /// Expired or not yet valid, with the time and what to do.
        what: String,
    },
    /// The probe id is not one of the certificate's.
    #[error("probe id `{probe}` does not belong to the certificate of {subject}: it must be {}", name.as_ref().map_or_else(
        || "a name in a URI urn:dpi-probe:probe:NAME, which this certificate does not have".to_owned(),
        |name| format!("`{name}` or start with `{name}/`")))]
    Issuer {
        /// The probe id that was asked for.
        probe: String,
        /// Subject of the certificate.
        subject: String,
        /// The probe name in the certificate.
        name: Option<String>,
    },
    /// The signature could not be made.
    #[error("the cryptographic library could not sign")]
    Sign,
}

/// Signs manifests for one probe id.
#[derive(Debug)]
pub struct Signer {
    key: RsaKeyPair,
    certificate: Certificate,
    probe: String,
    header: String,
    random: SystemRandom,
}

impl Signer {
    /// Loads key and certificate from PEM files; an error names the file. Refuses a key file that others can read.
    /// `now` is in seconds since 1970.
    pub fn load(certificate: &Path, key: &Path, probe: &str, now: i64) -> Result<Self, SignerError> {
        let certificate_pem = read_pem(certificate, "probe certificate", false)?;
        let key_pem = read_pem(key, "private key", true)?;
        let in_file = |path: &Path, source: SignerError| SignerError::Unusable {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let parsed =
            Certificate::from_pem(&certificate_pem).map_err(|error| in_file(certificate, error.into()))?;
        Self::new(&key_pem, parsed, probe, now).map_err(|error| {
            let path = match &error {
                SignerError::Key(_) | SignerError::Mismatch { .. } => key,
                _ => certificate,
            };
            in_file(path, error)
        })
    }

    /// A signer from a PEM key and its certificate. `now` is in seconds since 1970.
    pub fn new(key_pem: &[u8], certificate: Certificate, probe: &str, now: i64) -> Result<Self, SignerError> {
        let subject = certificate.subject().to_owned();
        let key = rsa_key(key_pem)?;
        if key.public_key().as_ref() != certificate.public_key() {
            return Err(SignerError::Mismatch { subject });
        }
        let (not_before, not_after) = certificate.validity();
        if now > not_after {
            let ago = for_people(now - not_after);
            let what = format!("expired {ago} ago: issue a new one with `dpi-probe pki issue`");
            return Err(SignerError::Validity { subject, what });
        }
        if now < not_before {
            let left = for_people(not_before - now);
            let what = format!("becomes valid in {left}: check this machine's clock");
            return Err(SignerError::Validity { subject, what });
        }
        if !certificate.owns(probe) {
            let name = certificate.probe_name().map(str::to_owned);
            return Err(SignerError::Issuer {
                probe: probe.to_owned(),
                subject,
                name,
            });
        }
        let header = Header {
            alg: ALGORITHM.to_owned(),
            typ: TYPE.to_owned(),
            certificate: certificate.fingerprint(),
        };
        let header = encode(&header)?;
        Ok(Self {
            key,
            certificate,
            probe: probe.to_owned(),
            header,
            random: SystemRandom::new(),
        })
    }

    /// The probe id: `iss` of everything that is signed.
    pub fn probe(&self) -> &str {
        &self.probe
    }

    /// The certificate of the key.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Length in bytes of the compact JWS over `claims`, without signing it.
    pub(super) fn jws_length(&self, claims: &impl Serialize) -> Result<usize, SignerError> {
        let signature = (self.key.public_modulus_len() * 4).div_ceil(3);
        Ok(self.header.len() + 1 + encode(claims)?.len() + 1 + signature)
    }

    /// The compact JWS over `claims`.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, SignerError> {
        let mut jws = format!("{}.{}", self.header, encode(claims)?);
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &self.random, jws.as_bytes(), &mut signature)
            .map_err(|_| SignerError::Sign)?;
        jws.push('.');
        jws.push_str(&to_base64url(&signature));
        Ok(jws)
    }
}

fn encode(value: &impl Serialize) -> Result<String, SignerError> {
    Ok(to_base64url(
        &serde_json::to_vec(value).map_err(|_| SignerError::Sign)?,
    ))
}

fn rsa_key(pem: &[u8]) -> Result<RsaKeyPair, SignerError> {
    let unusable = |reason: &str| SignerError::Key(reason.to_owned());
    let der = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| unusable("no unencrypted private key in PEM form was found in the file"))?;
    let key = match &der {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => {
            return Err(unusable(
                "it is an EC key; a probe signs with RSA-4096: `dpi-probe pki issue` makes one",
            ));
        }
    }
    .map_err(|error| {
        SignerError::Key(format!(
            "it is not an RSA key ({error}); `dpi-probe pki issue` makes one"
        ))
    })?;
    if key.public_modulus_len() != SIGNATURE_BYTES {
        let bits = key.public_modulus_len() * 8;
        return Err(SignerError::Key(format!(
            "it is an RSA key of {bits} bits; a probe signs with RSA-4096: `dpi-probe pki issue` makes one"
        )));
    }
    Ok(key)
}

/// Reads a PEM file; a secret one only if nobody but its owner can. The check and the reading are of the same open file.
pub(crate) fn read_pem(path: &Path, what: &'static str, secret: bool) -> Result<Vec<u8>, SignerError> {
    let read = |source| SignerError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(SignerError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    let mut pem = Vec::new();
    file.take(MAX_PEM_BYTES).read_to_end(&mut pem).map_err(read)?;
    Ok(pem)
}

/// A length of time in days, or in hours where it is short.
fn for_people(seconds: i64) -> String {
    const HOUR: i64 = 3_600;
    match (seconds / (24 * HOUR), seconds / HOUR) {
        (0, 0) => "less than an hour".to_owned(),
        (0 | 1, hours) => format!("{hours} h"),
        (days, _) => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::fixtures::{PROBE, certificate, pki};

    #[test]
    fn a_certificate_is_used_while_it_is_valid() {
        const DAY: i64 = 86_400;
        let (from, until) = certificate(pki!("probe.pem")).validity();
        let made = |now| {
            let signer = Signer::new(pki!("probe.key"), certificate(pki!("probe.pem")), PROBE, now);
            signer.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!([made(from), made(until)], [Ok(()), Ok(())]);
        for (now, said) in [
            (
                from - 1,
                "becomes valid in less than an hour: check this machine's clock",
            ),
            (
                from - DAY - 1,
                "becomes valid in 24 h: check this machine's clock",
            ),
            (
                from - 34 * DAY,
                "becomes valid in 34 days: check this machine's clock",
            ),
            (until + 7_200, "expired 2 h ago: issue a new one"),
            (until + 3 * DAY, "expired 3 days ago: issue a new one"),
        ] {
            let error = made(now).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }
}
