//! Sealing, verification and proofs for Python. Bytes in, bytes and plain dictionaries out; the GIL is released.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use probe::seal::batch::{Position, leaf_hashes, row_cbor, seal};
use probe::seal::ipc::{Frame, FrameError};
use probe::seal::jws::Digest;
use probe::seal::manifest::{Claims, Manifest};
use probe::seal::proof::{self, ProofError};
use probe::seal::receipt::{Authority, ReceiptError};
use probe::seal::verify::{self, Signed, VerifyError};
use probe::seal::{Certificate, ChainId, Head, Kind, Signer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error::{Class, python_error};

/// A `VerificationError` with the failed check as its attribute `check`.
fn failed(check: &str, message: impl std::fmt::Display) -> PyErr {
    let error = python_error(Class::Verification, message);
    Python::attach(|py| match error.value(py).setattr("check", check) {
        Ok(()) => error,
        Err(other) => other,
    })
}

fn not_verified(error: &VerifyError) -> PyErr {
    failed(error.check(), error)
}

fn malformed(error: &FrameError) -> PyErr {
    failed("format", format!("malformed batch: {error}"))
}

fn not_proved(error: &ProofError) -> PyErr {
    let check = match error {
        ProofError::Batch(error) => error.check(),
        ProofError::NoRow { .. } => "row",
        ProofError::Malformed(_) | ProofError::Value(_) => "format",
        ProofError::NotIncluded => "root",
    };
    failed(check, error)
}

fn invalid(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn certificates(ders: &[Vec<u8>]) -> PyResult<Vec<Certificate>> {
    ders.iter()
        .map(|der| {
            Certificate::from_der(der).map_err(|error| failed("certificate", format!("certificate: {error}")))
        })
        .collect()
}

fn claims_dict<'py>(py: Python<'py>, claims: &Claims) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("v", claims.v)?;
    dict.set_item("iss", &claims.iss)?;
    dict.set_item("kind", claims.kind.name())?;
    dict.set_item("chain", claims.chain.to_string())?;
    dict.set_item("seq", claims.seq)?;
    dict.set_item("prev", claims.prev.map(|digest| digest.to_string()))?;
    dict.set_item("prev_chain", claims.prev_chain.map(|chain| chain.to_string()))?;
    dict.set_item("prev_seq", claims.prev_seq)?;
    dict.set_item("iat", claims.iat)?;
    dict.set_item("schema", claims.schema.to_string())?;
    dict.set_item("rows", claims.rows)?;
    dict.set_item("root", claims.root.to_string())?;
    dict.set_item("body", claims.body.to_string())?;
    Ok(dict)
}

fn signed_dict<'py>(py: Python<'py>, signed: &Signed) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("claims", claims_dict(py, &signed.claims)?)?;
    dict.set_item("manifest", &signed.manifest)?;
    dict.set_item("manifest_digest", signed.manifest_digest.to_string())?;
    dict.set_item("certificate", signed.certificate.to_string())?;
    Ok(dict)
}

/// Verifies a sealed batch whole, with certificates in DER that the caller trusts.
#[pyfunction]
fn verify_batch<'py>(
    py: Python<'py>,
    data: &[u8],
    certificates: Vec<Vec<u8>>,
) -> PyResult<Bound<'py, PyDict>> {
    let certificates = self::certificates(&certificates)?;
    let verified = py
        .detach(|| verify::verify_batch(data, &certificates))
        .map_err(|error| not_verified(&error))?;
    signed_dict(py, &verified.signed)
}

/// Verifies a manifest alone: signature and issuer.
#[pyfunction]
fn verify_manifest<'py>(
    py: Python<'py>,
    manifest: &str,
    certificates: Vec<Vec<u8>>,
) -> PyResult<Bound<'py, PyDict>> {
    let certificates = self::certificates(&certificates)?;
    let signed = py
        .detach(|| verify::verify_manifest(manifest, &certificates))
        .map_err(|error| not_verified(&error))?;
    signed_dict(py, &signed)
}

/// What a sealed batch or a manifest says of itself, *not verified*: to find the certificate, never to trust.
#[pyfunction]
fn read_claims<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let jws = match std::str::from_utf8(data) {
        Ok(jws) => jws,
        Err(_) => Frame::open(data)
            .and_then(|frame| frame.manifest())
            .map_err(|error| malformed(&error))?,
    };
    let manifest = Manifest::parse(jws).map_err(|error| not_verified(&error.into()))?;
    signed_dict(
        py,
        &Signed {
            claims: manifest.claims,
            manifest: jws.to_owned(),
            manifest_digest: Digest::of(jws.as_bytes()),
            certificate: manifest.header.certificate,
        },
    )
}

/// Everything that is wrong with a sealed batch.
#[pyfunction]
fn diagnose_batch<'py>(
    py: Python<'py>,
    data: &[u8],
    certificates: Vec<Vec<u8>>,
) -> PyResult<Bound<'py, PyDict>> {
    let certificates = self::certificates(&certificates)?;
    let found = py.detach(|| verify::diagnose(data, &certificates));
    let dict = PyDict::new(py);
    dict.set_item(
        "failures",
        found
            .failures
            .iter()
            .map(|f| (f.check(), f.to_string()))
            .collect::<Vec<_>>(),
    )?;
    dict.set_item(
        "claims",
        found
            .claims
            .as_ref()
            .map(|claims| claims_dict(py, claims))
            .transpose()?,
    )?;
    dict.set_item("manifest", found.manifest)?;
    dict.set_item("altered_rows", found.altered_rows)?;
    dict.set_item("undecodable_columns", found.undecodable_columns)?;
    dict.set_item("records_hold", found.records_hold)?;
    Ok(dict)
}

/// The rows of an Arrow IPC stream as one record batch.
fn read_stream(data: &[u8]) -> PyResult<RecordBatch> {
    let reader = StreamReader::try_new(data, None).map_err(invalid)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    concat_batches(&schema, &batches).map_err(invalid)
}

fn required<'py, T>(claims: &Bound<'py, PyDict>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    optional(claims, name)?.ok_or_else(|| PyValueError::new_err(format!("claims: `{name}` is missing")))
}

fn optional<'py, T>(claims: &Bound<'py, PyDict>, name: &str) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    match claims.get_item(name)? {
        Some(value) if !value.is_none() => value.extract().map(Some).map_err(Into::into),
        _ => Ok(None),
    }
}

/// Seals the rows of an Arrow IPC stream: `claims` has iss, kind, chain, seq, iat and, after the first, prev (at seq 0
/// with `prev_chain` and `prev_seq`).
#[pyfunction]
fn seal_batch<'py>(
    py: Python<'py>,
    data: &[u8],
    key_pem: &[u8],
    certificate: &[u8],
    claims: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyBytes>> {
    let chain: ChainId = required::<String>(claims, "chain")?.parse().map_err(invalid)?;
    let seq: u64 = required(claims, "seq")?;
    let previous = match optional::<String>(claims, "prev")? {
        None => None,
        Some(digest) => {
            let manifest = Digest::parse(&digest)
                .ok_or_else(|| PyValueError::new_err("claims: `prev` is not a digest in base64url"))?;
            let before = optional::<String>(claims, "prev_chain")?
                .map(|id| id.parse().map_err(invalid))
                .transpose()?;
            let place = optional::<u64>(claims, "prev_seq")?;
            Some(Head {
                chain: before.unwrap_or(chain),
                seq: place.unwrap_or_else(|| seq.saturating_sub(1)),
                manifest,
            })
        }
    };
    let kind = match required::<String>(claims, "kind")?.as_str() {
        "flow" => Kind::Flow,
        "ledger" => Kind::Ledger,
        "event" => Kind::Event,
        other => {
            return Err(PyValueError::new_err(format!(
                "claims: `kind` {other} is none of flow, ledger, event"
            )));
        }
    };
    let position = Position {
        kind,
        chain,
        seq,
        previous,
        iat: required(claims, "iat")?,
    };
    let issuer: String = required(claims, "iss")?;
    let certificate = Certificate::from_der(certificate).map_err(invalid)?;
    let batch = read_stream(data)?;
    let sealed = py.detach(|| {
        let signer = Signer::new(key_pem, certificate, &issuer, position.iat).map_err(invalid)?;
        seal(&batch, &position, &signer).map_err(invalid)
    })?;
    Ok(PyBytes::new(py, &sealed.bytes))
}

/// The inclusion proof of one row, as JSON.
#[pyfunction]
fn prove(py: Python<'_>, data: &[u8], row: u64) -> PyResult<String> {
    let proof = py
        .detach(|| proof::prove(data, row))
        .map_err(|error| not_proved(&error))?;
    proof.to_json().map_err(invalid)
}

/// Checks an inclusion proof in JSON.
#[pyfunction]
fn check_proof<'py>(py: Python<'py>, json: &str, certificates: Vec<Vec<u8>>) -> PyResult<Bound<'py, PyDict>> {
    let certificates = self::certificates(&certificates)?;
    let (proof, signed) = py
        .detach(|| proof::check_proof(json, &certificates))
        .map_err(|error| not_proved(&error))?;
    let dict = signed_dict(py, &signed)?;
    dict.set_item("row", proof.row)?;
    Ok(dict)
}

/// The leaf hashes of a sealed batch's rows. Verifies nothing.
#[pyfunction]
fn batch_leaves<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let leaves = py
        .detach(|| Ok(leaf_hashes(&Frame::open(data)?.contents()?.decode()?)?))
        .map_err(|error: FrameError| malformed(&error))?;
    Ok(leaves.iter().map(|leaf| PyBytes::new(py, leaf)).collect())
}

/// The deterministic CBOR of one row of an Arrow IPC stream.
#[pyfunction]
fn batch_row_cbor<'py>(py: Python<'py>, data: &[u8], row: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let batch = read_stream(data)?;
    let cbor = row_cbor(&batch, row).map_err(invalid)?;
    Ok(cbor.map(|bytes| PyBytes::new(py, &bytes)))
}

/// Names and validity of a certificate in DER.
#[pyfunction]
fn read_certificate<'py>(py: Python<'py>, der: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let certificate = Certificate::from_der(der).map_err(|error| failed("certificate", error))?;
    let dict = PyDict::new(py);
    dict.set_item("fingerprint", certificate.fingerprint().to_string())?;
    dict.set_item("subject", certificate.subject())?;
    dict.set_item("probe", certificate.probe_name())?;
    dict.set_item("core", certificate.core_name())?;
    dict.set_item("not_before", certificate.validity().0)?;
    dict.set_item("not_after", certificate.validity().1)?;
    Ok(dict)
}

fn authority(der: &[u8]) -> PyResult<Authority> {
    Authority::from_der(der).map_err(|error| failed("certificate", format!("CA certificate: {error}")))
}

fn not_a_receipt(error: &ReceiptError) -> PyErr {
    failed("receipt", error)
}

/// Whether the CA issued a certificate for a probe; raises if not. `at` is in seconds since 1970.
#[pyfunction]
fn check_issued(certificate: &[u8], ca: &[u8], at: i64) -> PyResult<()> {
    let certificate = Certificate::from_der(certificate).map_err(|error| failed("certificate", error))?;
    authority(ca)?.accepts_client(&certificate, at).map_err(|reason| {
        failed(
            "certificate",
            format!(
                "the certificate of {} is not accepted under the CA: {reason}",
                certificate.subject()
            ),
        )
    })
}

/// Verifies a receipt under a CA in DER; `at` (seconds since 1970) is when its certificate must be valid.
#[pyfunction]
fn verify_receipt<'py>(py: Python<'py>, receipt: &str, ca: &[u8], at: i64) -> PyResult<Bound<'py, PyDict>> {
    let receipt = authority(ca)?
        .verify_receipt(receipt, at)
        .map_err(|error| not_a_receipt(&error))?;
    let dict = PyDict::new(py);
    dict.set_item("v", receipt.v)?;
    dict.set_item("iss", receipt.iss)?;
    dict.set_item("probe", receipt.probe)?;
    dict.set_item("chain", receipt.chain.to_string())?;
    dict.set_item("seq", receipt.seq)?;
    dict.set_item("manifest", receipt.manifest.to_string())?;
    dict.set_item("iat", receipt.iat)?;
    dict.set_item("status", receipt.status.name())?;
    Ok(dict)
}

/// Verifies a chain head under a CA in DER; `at` (seconds since 1970) is when its certificate must be valid.
#[pyfunction]
fn verify_head<'py>(py: Python<'py>, head: &str, ca: &[u8], at: i64) -> PyResult<Bound<'py, PyDict>> {
    let head = authority(ca)?
        .verify_head(head, at)
        .map_err(|error| not_a_receipt(&error))?;
    let dict = PyDict::new(py);
    dict.set_item("v", head.v)?;
    dict.set_item("iss", head.iss)?;
    dict.set_item("probe", head.probe)?;
    dict.set_item("chain", head.chain.to_string())?;
    dict.set_item("seq", head.seq)?;
    dict.set_item("manifest", head.manifest.to_string())?;
    dict.set_item("iat", head.iat)?;
    Ok(dict)
}

/// Adds the functions of this file to the native module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(verify_batch, module)?)?;
    module.add_function(wrap_pyfunction!(verify_manifest, module)?)?;
    module.add_function(wrap_pyfunction!(read_claims, module)?)?;
    module.add_function(wrap_pyfunction!(diagnose_batch, module)?)?;
    module.add_function(wrap_pyfunction!(seal_batch, module)?)?;
    module.add_function(wrap_pyfunction!(prove, module)?)?;
    module.add_function(wrap_pyfunction!(check_proof, module)?)?;
    module.add_function(wrap_pyfunction!(batch_leaves, module)?)?;
    module.add_function(wrap_pyfunction!(batch_row_cbor, module)?)?;
    module.add_function(wrap_pyfunction!(read_certificate, module)?)?;
    module.add_function(wrap_pyfunction!(check_issued, module)?)?;
    module.add_function(wrap_pyfunction!(verify_receipt, module)?)?;
    module.add_function(wrap_pyfunction!(verify_head, module)?)
}
