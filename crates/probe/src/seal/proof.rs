//! One record's inclusion proof, to be checked without the batch (`docs/formats/sealed-batch.md` §9).

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampNanosecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::batch::leaf_hashes;
use super::cbor;
use super::certificate::Certificate;
use super::ipc::{Frame, FrameError, MAX_ROWS};
use super::jws::{Digest, from_base64url, to_base64url};
use super::manifest::{Manifest, VERSION};
use super::merkle::{audit_path, root, root_of_path, sha256};
use super::schema::{ColumnDescription, fingerprint};
use super::verify::{Signed, VerifyError, verify_manifest};

/// `type` of a proof.
const TYPE: &str = "dpi-proof";
/// Longest proof that is read, in bytes: a record is smaller than the batch that holds it.
const MAX_PROOF_BYTES: usize = 4 * super::ipc::MAX_STREAM_BYTES;

/// An inclusion proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// `dpi-proof`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Version of the format: 1.
    pub v: u32,
    /// The manifest.
    pub manifest: String,
    /// Index of the row, from 0.
    pub row: u64,
    /// Number of rows of the batch.
    pub rows: u64,
    /// The columns, from which the schema fingerprint follows.
    pub columns: Vec<ColumnDescription>,
    /// The record's values in schema order.
    pub values: Vec<Value>,
    /// The audit path, from the leaf upwards.
    pub path: Vec<Digest>,
}

impl Proof {
    /// The proof as indented JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// Why a proof cannot be made or does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The batch or its manifest does not hold.
    #[error(transparent)]
    Batch(#[from] VerifyError),
    /// There is no such row.
    #[error("there is no row {row}: the batch has rows 0 to {}", rows.saturating_sub(1))]
    NoRow {
        /// What was asked for.
        row: u64,
        /// How many there are.
        rows: u64,
    },
    /// Not a proof.
    #[error("malformed proof: {0}")]
    Malformed(String),
    /// A value does not fit its column.
    #[error("malformed proof: the value of column `{0}` does not fit its type")]
    Value(String),
    /// The path does not lead to the root.
    #[error("the record is not in the batch: its leaf and path do not lead to the signed Merkle root")]
    NotIncluded,
}

impl From<FrameError> for ProofError {
    fn from(error: FrameError) -> Self {
        Self::Batch(error.into())
    }
}

/// Makes the proof of row `row`. Needs no certificate: the proof is checked with one. A batch whose records are not those
/// that were sealed is refused.
pub fn prove(data: &[u8], row: u64) -> Result<Proof, ProofError> {
    let frame = Frame::open(data)?;
    let jws = frame.manifest()?;
    let manifest = Manifest::parse(jws).map_err(VerifyError::from)?;
    let contents = frame.contents()?;
    let no_row = ProofError::NoRow {
        row,
        rows: contents.rows,
    };
    let index = usize::try_from(row).map_err(|_| no_row.clone())?;
    let batch = contents.decode()?;
    let leaves = leaf_hashes(&batch).map_err(FrameError::from)?;
    if root(&leaves) != manifest.claims.root.0 {
        return Err(VerifyError::Root.into());
    }
    let path = audit_path(&leaves, index).ok_or(no_row)?;
    Ok(Proof {
        kind: TYPE.to_owned(),
        v: VERSION,
        manifest: jws.to_owned(),
        row,
        rows: contents.rows,
        values: row_values(&batch, index),
        columns: contents.columns,
        path: path.into_iter().map(Digest).collect(),
    })
}

/// Checks a proof in JSON; returns the proof and what its manifest says.
pub fn check_proof(json: &str, certificates: &[Certificate]) -> Result<(Proof, Signed), ProofError> {
    let malformed = |reason: String| ProofError::Malformed(reason);
    if json.len() > MAX_PROOF_BYTES {
        return Err(malformed("it is too long".to_owned()));
    }
    let proof: Proof = serde_json::from_str(json).map_err(|error| malformed(error.to_string()))?;
    if proof.kind != TYPE || proof.v != VERSION {
        return Err(malformed(format!("type must be {TYPE} and v {VERSION}")));
    }
    let signed = verify_manifest(&proof.manifest, certificates)?;
    if proof.rows != u64::from(signed.claims.rows) || proof.rows > MAX_ROWS as u64 {
        return Err(VerifyError::Rows {
            claimed: signed.claims.rows,
            found: proof.rows,
        }
        .into());
    }
    let found = fingerprint(&proof.columns);
    if found != signed.claims.schema {
        return Err(VerifyError::Schema {
            claimed: signed.claims.schema,
            found,
        }
        .into());
    }
    let mut leaf = vec![0x00];
    encode_all(&proof.columns, &proof.values, "the record", &mut leaf)?;
    let path: Vec<_> = proof.path.iter().map(|digest| digest.0).collect();
    if root_of_path(&sha256(&leaf), proof.row, proof.rows, &path) != Some(signed.claims.root.0) {
        return Err(ProofError::NotIncluded);
    }
    Ok((proof, signed))
}

/// The values of one row as a proof writes them. `row` is one of the batch's.
pub fn row_values(batch: &RecordBatch, row: usize) -> Vec<Value> {
    batch
        .columns()
        .iter()
        .map(|column| to_json(column, row))
        .collect()
}

fn to_json(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string().into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string().into(),
        DataType::Timestamp(..) => array
            .as_primitive::<TimestampNanosecondType>()
            .value(row)
            .to_string()
            .into(),
        DataType::Float64 => double_to_json(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::FixedSizeBinary(_) => to_base64url(array.as_fixed_size_binary().value(row)).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| to_json(&items, item)).collect()
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .map(|member| to_json(member, row))
            .collect(),
        // `describe` let no other type through.
        _ => Value::Null,
    }
}

fn double_to_json(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        }
    } else {
        value.into()
    }
}

fn encode_all(
    columns: &[ColumnDescription],
    values: &[Value],
    owner: &str,
    out: &mut Vec<u8>,
) -> Result<(), ProofError> {
    if columns.len() != values.len() {
        return Err(ProofError::Value(owner.to_owned()));
    }
    cbor::array(values.len(), out);
    columns
        .iter()
        .zip(values)
        .try_for_each(|(column, value)| encode(column, value, out))
}

/// Appends the CBOR that a value of this column has in a leaf.
fn encode(column: &ColumnDescription, value: &Value, out: &mut Vec<u8>) -> Result<(), ProofError> {
    let wrong = || ProofError::Value(column.name.clone());
    if value.is_null() {
        cbor::null(out);
        return Ok(());
    }
    match column.kind.as_str() {
        "bool" => cbor::boolean(value.as_bool().ok_or_else(wrong)?, out),
        "uint8" | "uint16" | "uint32" => cbor::unsigned(value.as_u64().ok_or_else(wrong)?, out),
        "uint64" => cbor::unsigned(decimal(value).ok_or_else(wrong)?, out),
        "int8" | "int16" | "int32" => cbor::signed(value.as_i64().ok_or_else(wrong)?, out),
        "int64" | "timestamp[ns, tz=UTC]" => cbor::signed(decimal(value).ok_or_else(wrong)?, out),
        "double" => {
            let double = match value.as_str() {
                Some("NaN") => Some(f64::NAN),
                Some("Infinity") => Some(f64::INFINITY),
                Some("-Infinity") => Some(f64::NEG_INFINITY),
                _ => value.as_f64(),
            };
            cbor::double(double.ok_or_else(wrong)?, out);
        }
        "string" => cbor::text(value.as_str().ok_or_else(wrong)?, out),
        "list" => {
            let (Some(items), [item]) = (value.as_array(), column.members.as_slice()) else {
                return Err(wrong());
            };
            cbor::array(items.len(), out);
            for value in items {
                encode(item, value, out)?;
            }
        }
        "struct" => encode_all(
            &column.members,
            value.as_array().ok_or_else(wrong)?,
            &column.name,
            out,
        )?,
        kind if kind.starts_with("fixed_size_binary[") => {
            cbor::bytes(&value.as_str().and_then(from_base64url).ok_or_else(wrong)?, out);
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// A 64-bit integer that is written as a decimal string.
fn decimal<T: std::str::FromStr + std::fmt::Display>(value: &Value) -> Option<T> {
    let text = value.as_str()?;
    text.parse::<T>().ok().filter(|number| number.to_string() == text)
}
