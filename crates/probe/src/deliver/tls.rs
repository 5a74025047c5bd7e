//! TLS 1.3 with certificates on both sides, one CA, and errors that say which certificate and why.
//!
//! The peer is a Core only if its certificate says so: every probe has a certificate of the same CA, and one that was
//! stolen must not do for reading what the other probes deliver.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    AlertDescription, CertificateError as Rejection, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::DeliverError;
use crate::seal::certificate::Certificate;
use crate::seal::receipt::Authority;
use crate::seal::sign::read_pem;

/// Who the probe is and whom it trusts.
#[derive(Debug)]
pub struct Identity {
    authority: Authority,
    certificate: Certificate,
    config: ClientConfig,
}

impl Identity {
    /// Loads CA, certificate and key from PEM files. Refuses a key file that others can read.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, DeliverError> {
        let ca_pem = read_pem(ca, "CA certificate", false)?;
        let certificate_pem = read_pem(certificate, "probe certificate", false)?;
        let key_pem = read_pem(key, "private key", true)?;
        let named = |path: &Path| {
            let path = path.to_owned();
            move |source| DeliverError::Certificate { path, source }
        };
        let authority = Authority::from_pem(&ca_pem).map_err(named(ca))?;
        let certificate = Certificate::from_pem(&certificate_pem).map_err(named(certificate))?;
        Self::new(authority, certificate, &key_pem)
    }

    /// From what is loaded already.
    pub fn new(authority: Authority, certificate: Certificate, key_pem: &[u8]) -> Result<Self, DeliverError> {
        let failed = |error: rustls::Error| DeliverError::Tls(error.to_string());
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| DeliverError::Tls("no unencrypted private key in PEM form was found".to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(authority.certificate().der().to_vec()))
            .map_err(failed)?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = CoreVerifier::new(roots, Arc::clone(&provider)).map_err(DeliverError::Tls)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            // What is dangerous is to check less than the default verifier; this one checks more.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key)
            .map_err(failed)?;
        Ok(Self {
            authority,
            certificate,
            config,
        })
    }

    /// The CA.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The probe's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The TLS configuration.
    pub(super) fn config(&self) -> ClientConfig {
        self.config.clone()
    }
}

/// What the default verifier checks (RFC 5280: chain, validity, usage; RFC 9525: name of the host), and the Core role.
#[derive(Debug)]
struct CoreVerifier(Arc<WebPkiServerVerifier>);

impl CoreVerifier {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        verifier.build().map(Self).map_err(|error| error.to_string())
    }
}

impl ServerCertVerifier for CoreVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // Of a certificate that our CA did not sign, nothing that it says is worth telling.
        let foreign = matches!(
            verified,
            Err(rustls::Error::InvalidCertificate(
                Rejection::UnknownIssuer | Rejection::BadSignature | Rejection::BadEncoding
            ))
        );
        let is_core = Certificate::from_der(end_entity).is_ok_and(|peer| peer.core_name().is_some());
        if is_core || foreign {
            verified
        } else {
            Err(Rejection::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Why a request had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One line: what, where, what to do.
    pub reason: String,
    /// Whether the Core refused this probe's certificate in the handshake.
    pub refused: bool,
}

/// Puts a transport error into one line. `probe` and `authority` are the subjects of the certificates on this side.
pub fn explain(error: &(dyn Error + 'static), url: &str, probe: &str, authority: &str) -> Failure {
    let plain = |reason: String| Failure {
        reason,
        refused: false,
    };
    match find_tls_error(error) {
        Some(rustls::Error::InvalidCertificate(rejection)) => plain(format!(
            "{url}: the Core's certificate is not accepted: {}",
            explain_rejection(rejection, authority)
        )),
        Some(rustls::Error::AlertReceived(alert)) => {
            let why = match alert {
                AlertDescription::UnknownCA => "it was issued by another CA than the Core's",
                AlertDescription::CertificateRevoked => "it is revoked",
                AlertDescription::CertificateExpired => "it has expired",
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied
                | AlertDescription::CertificateRequired
                | AlertDescription::DecryptError => "the Core does not accept it",
                other => return plain(format!("{url}: the Core ended the TLS handshake: {other:?}")),
            };
            Failure {
                reason: format!("{url}: the Core refused the certificate of {probe}: {why}"),
                refused: true,
            }
        }
        Some(other) => plain(format!("{url}: TLS failed: {other}")),
        None if ended_early(error) => {
            plain(format!("{url}: the Core ended the connection without an answer"))
        }
        None => plain(format!("{url}: the Core cannot be reached: {}", innermost(error))),
    }
}

fn explain_rejection(rejection: &Rejection, authority: &str) -> String {
    match rejection {
        Rejection::UnknownIssuer | Rejection::BadSignature => {
            format!("it was not issued by {authority}, the CA of CA_CERT_PATH")
        }
        Rejection::Expired | Rejection::ExpiredContext { .. } => {
            "it has expired, or this machine's clock is wrong; issue a new one with `dpi-probe pki`".to_owned()
        }
        Rejection::NotValidYet | Rejection::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?".to_owned()
        }
        Rejection::NotValidForName | Rejection::NotValidForNameContext { .. } => {
            "it is not for the host in CORE_API_URL; issue one with this name (`dpi-probe pki init --dns`, `--ip`)".to_owned()
        }
        // Only the check of the role gives this one.
        Rejection::ApplicationVerificationFailure => {
            "it does not carry the Core role, so the peer is no Core; issue the Core's with `dpi-probe pki issue NAME --core`".to_owned()
        }
        other => other.to_string(),
    }
}

/// rustls' error within a chain of errors. `io::Error` hides what it wraps from `source`, so it is asked itself.
fn find_tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| find_tls_error(wrapped as &'a (dyn Error + 'static)))
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the connection was there, and ended before an answer came.
fn ended_early(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
        }
        next = error.source();
    }
    false
}

/// The text of the cause at the bottom.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
