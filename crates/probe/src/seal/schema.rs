//! Columns of a sealed batch: allowed types, the fingerprint, and how many buffers each column has
//! (`docs/formats/sealed-batch.md` §2).

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

use super::cbor;
use super::jws::Digest;

/// How deep lists and structs may nest.
const MAX_DEPTH: usize = 8;

/// A column whose type a sealed batch does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column `{column}` has the type {kind}, which a sealed batch does not have")]
pub struct UnsupportedColumn {
    /// Path of names from the top.
    pub column: String,
    /// The type.
    pub kind: String,
}

/// One column, as the fingerprint and proofs describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDescription {
    /// The column's name.
    pub name: String,
    /// The type text.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether values may be null.
    pub nullable: bool,
    /// The item of a list, the members of a struct.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<ColumnDescription>,
}

/// Describes the columns of a schema.
pub fn describe(schema: &Schema) -> Result<Vec<ColumnDescription>, UnsupportedColumn> {
    describe_fields(schema.fields(), "", MAX_DEPTH)
}

fn describe_fields(
    fields: &Fields,
    above: &str,
    depth: usize,
) -> Result<Vec<ColumnDescription>, UnsupportedColumn> {
    fields
        .iter()
        .map(|field| describe_field(field, above, depth))
        .collect()
}

fn describe_field(field: &Field, above: &str, depth: usize) -> Result<ColumnDescription, UnsupportedColumn> {
    let path = if above.is_empty() {
        field.name().clone()
    } else {
        format!("{above}.{}", field.name())
    };
    let unsupported = || UnsupportedColumn {
        column: path.clone(),
        kind: field.data_type().to_string(),
    };
    let depth = depth.checked_sub(1).ok_or_else(unsupported)?;
    let (kind, members) = match field.data_type() {
        DataType::Boolean => ("bool".to_owned(), Vec::new()),
        DataType::UInt8 => ("uint8".to_owned(), Vec::new()),
        DataType::UInt16 => ("uint16".to_owned(), Vec::new()),
        DataType::UInt32 => ("uint32".to_owned(), Vec::new()),
        DataType::UInt64 => ("uint64".to_owned(), Vec::new()),
        DataType::Int8 => ("int8".to_owned(), Vec::new()),
        DataType::Int16 => ("int16".to_owned(), Vec::new()),
        DataType::Int32 => ("int32".to_owned(), Vec::new()),
        DataType::Int64 => ("int64".to_owned(), Vec::new()),
        DataType::Float64 => ("double".to_owned(), Vec::new()),
        DataType::Utf8 => ("string".to_owned(), Vec::new()),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) if &**zone == "UTC" => {
            ("timestamp[ns, tz=UTC]".to_owned(), Vec::new())
        }
        DataType::FixedSizeBinary(width @ 1..=255) => (format!("fixed_size_binary[{width}]"), Vec::new()),
        DataType::List(item) => ("list".to_owned(), vec![describe_field(item, &path, depth)?]),
        DataType::Struct(members) if !members.is_empty() => {
            ("struct".to_owned(), describe_fields(members, &path, depth)?)
        }
        _ => return Err(unsupported()),
    };
    Ok(ColumnDescription {
        name: field.name().clone(),
        kind,
        nullable: field.is_nullable(),
        members,
    })
}

/// The schema fingerprint.
pub fn fingerprint(columns: &[ColumnDescription]) -> Digest {
    let mut out = Vec::new();
    cbor::array(columns.len(), &mut out);
    for column in columns {
        encode(column, &mut out);
    }
    Digest::of(&out)
}

fn encode(column: &ColumnDescription, out: &mut Vec<u8>) {
    cbor::array(3 + column.members.len(), out);
    cbor::text(&column.name, out);
    cbor::text(&column.kind, out);
    cbor::boolean(column.nullable, out);
    for member in &column.members {
        encode(member, out);
    }
}

/// The path of the column that each buffer of a `RecordBatch` message belongs to, in message order
/// (Arrow columnar format, "`RecordBatch` message"): validity first, then offsets, then data; children after their parent.
pub(super) fn buffer_owners(columns: &[ColumnDescription]) -> Vec<String> {
    let mut owners = Vec::new();
    for column in columns {
        add_owners(column, "", &mut owners);
    }
    owners
}

fn add_owners(column: &ColumnDescription, above: &str, owners: &mut Vec<String>) {
    let path = if above.is_empty() {
        column.name.clone()
    } else {
        format!("{above}.{}", column.name)
    };
    let buffers = match column.kind.as_str() {
        "struct" => 1,
        "string" => 3,
        _ => 2,
    };
    owners.extend(std::iter::repeat_n(path.clone(), buffers));
    for member in &column.members {
        add_owners(member, &path, owners);
    }
}

/// How many field nodes a `RecordBatch` message of these columns has.
pub(super) fn node_count(columns: &[ColumnDescription]) -> usize {
    columns.iter().map(|column| 1 + node_count(&column.members)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn describes_and_counts() {
        let schema = Schema::new(vec![
            Field::new(
                "when",
                DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
                false,
            ),
            Field::new(
                "ports",
                DataType::List(Arc::new(Field::new("item", DataType::UInt16, false))),
                true,
            ),
            Field::new(
                "tls",
                DataType::Struct(vec![Field::new("sni", DataType::Utf8, true)].into()),
                true,
            ),
        ]);
        let columns = describe(&schema).unwrap();
        assert_eq!(columns[0].kind, "timestamp[ns, tz=UTC]");
        assert_eq!(
            buffer_owners(&columns),
            [
                "when",
                "when",
                "ports",
                "ports",
                "ports.item",
                "ports.item",
                "tls",
                "tls.sni",
                "tls.sni",
                "tls.sni"
            ]
        );
        assert_eq!(node_count(&columns), 5);
    }

    #[test]
    fn refuses_what_the_format_does_not_have() {
        for (kind, text) in [
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "Timestamp(ns)"),
            (DataType::Float32, "Float32"),
            (DataType::FixedSizeBinary(0), "FixedSizeBinary(0)"),
            (DataType::Struct(Fields::empty()), "Struct()"),
        ] {
            let error = describe(&Schema::new(vec![Field::new("x", kind, true)])).unwrap_err();
            assert_eq!(
                error,
                UnsupportedColumn {
                    column: "x".into(),
                    kind: text.into()
                }
            );
        }
        let mut kind = DataType::Boolean;
        for _ in 0..MAX_DEPTH {
            kind = DataType::List(Arc::new(Field::new("item", kind, true)));
        }
        assert!(describe(&Schema::new(vec![Field::new("deep", kind, true)])).is_err());
    }
}
