//! The columns as Arrow schemas.
//!
//! | declared | Arrow, evidence | Arrow, people |
//! |---|---|---|
//! | `Time` | `Timestamp(ns, "UTC")` | the same |
//! | `Address` | `FixedSizeBinary(16)`, IPv4 as IPv4-mapped IPv6 | `Utf8`: `192.0.2.1`, `2001:db8::1` |
//! | `Mac` | `FixedSizeBinary(6)` | `Utf8`: `02:00:5e:00:53:01` |
//! | numbers, text, lists, structs | the Arrow type of the same name | the same |
//!
//! A field whose Arrow type does not tell what it holds carries the metadata `kind` (`address` or `mac`); a documented
//! layout also carries each column's definition as `doc`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use wire::column::{Column, Type};
use wire::l7::Protocol;

use crate::flow::{Features, FlowRecord};

/// Name of the struct of features.
pub const FEATURES: &str = "features";
/// Metadata key of a field: what it holds where the Arrow type does not say (`address`, `mac`).
pub const KIND: &str = "kind";
/// Metadata key of a field: its definition.
pub const DOC: &str = "doc";

/// How addresses are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Addresses {
    /// 16 and 6 bytes: exact, compact, what is signed.
    Binary,
    /// As people write them (RFC 5952 for IPv6).
    #[default]
    Text,
}

/// The protocols that have a record struct of their own, in table order. (mDNS and LLMNR flows carry `dns`.)
pub fn recorded() -> Vec<Protocol> {
    Protocol::ALL
        .iter()
        .copied()
        .filter(|protocol| !protocol.columns().is_empty())
        .collect()
}

/// Which protocol structs a batch holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// Those of the list that occur in the batch: the schema differs from batch to batch.
    Occurring(Vec<Protocol>),
    /// All of the list, null where a flow has none: every batch has the same schema.
    Fixed(Vec<Protocol>),
}

impl Protocols {
    /// The protocols that may appear, in the order of their columns.
    pub fn list(&self) -> &[Protocol] {
        match self {
            Self::Occurring(list) | Self::Fixed(list) => list,
        }
    }
}

/// What batches look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How addresses are stored.
    pub addresses: Addresses,
    /// Whether there may be the struct of features; like those of protocols it stands in every batch where their set is
    /// fixed, and else where it occurs.
    pub features: bool,
    /// Which protocol structs there are.
    pub protocols: Protocols,
    /// Whether fields carry their definition as metadata.
    pub documented: bool,
}

impl Layout {
    /// What is sealed: binary addresses, the protocol structs that occur, no prose.
    pub fn evidence() -> Self {
        Self {
            addresses: Addresses::Binary,
            features: true,
            protocols: Protocols::Occurring(recorded()),
            documented: false,
        }
    }

    /// What one output of many batches has: the given protocol structs in every batch, no features, and definitions.
    pub fn output(addresses: Addresses, protocols: Vec<Protocol>) -> Self {
        Self {
            addresses,
            features: false,
            protocols: Protocols::Fixed(protocols),
            documented: true,
        }
    }

    /// The Arrow schema with the structs of features, if asked for, and of `protocols`.
    pub fn schema(&self, features: bool, protocols: &[Protocol]) -> SchemaRef {
        let mut fields: Vec<FieldRef> = self.fields(FlowRecord::COLUMNS).iter().cloned().collect();
        fields.extend(features.then(|| self.struct_field(FEATURES, Features::COLUMNS)));
        fields.extend(protocols.iter().map(|protocol| self.protocol_field(*protocol)));
        Arc::new(Schema::new(fields))
    }

    /// The schema of every batch where the set of structs is fixed, else of a batch in which all occur.
    pub fn full_schema(&self) -> SchemaRef {
        self.schema(self.features, self.protocols.list())
    }

    /// The fields of `columns`.
    pub(super) fn fields(&self, columns: &[Column]) -> Fields {
        columns
            .iter()
            .map(|column| Arc::new(self.field(column)))
            .collect()
    }

    /// The nullable struct field of a protocol.
    pub(super) fn protocol_field(&self, protocol: Protocol) -> FieldRef {
        self.struct_field(protocol.name(), protocol.columns())
    }

    fn struct_field(&self, name: &str, members: &[Column]) -> FieldRef {
        Arc::new(Field::new(name, DataType::Struct(self.fields(members)), true))
    }

    fn field(&self, column: &Column) -> Field {
        let mut metadata = HashMap::new();
        let mut kind = &column.kind;
        while let Type::List(item) = kind {
            kind = item;
        }
        match kind {
            Type::Address => metadata.insert(KIND.to_owned(), "address".to_owned()),
            Type::Mac => metadata.insert(KIND.to_owned(), "mac".to_owned()),
            _ => None,
        };
        if self.documented {
            metadata.insert(DOC.to_owned(), definition(column).to_owned());
        }
        Field::new(column.name, self.data_type(&column.kind), column.nullable).with_metadata(metadata)
    }

    fn data_type(&self, kind: &Type) -> DataType {
        match kind {
            Type::Bool => DataType::Boolean,
            Type::U8 => DataType::UInt8,
            Type::U16 => DataType::UInt16,
            Type::U32 => DataType::UInt32,
            Type::U64 => DataType::UInt64,
            Type::I8 => DataType::Int8,
            Type::I64 => DataType::Int64,
            Type::F64 => DataType::Float64,
            Type::Text => DataType::Utf8,
            Type::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Type::Address => self.address_type(16),
            Type::Mac => self.address_type(6),
            Type::List(item) => {
                // Declared lists have no null items: `Vec<Option<_>>` is not used.
                DataType::List(Arc::new(Field::new_list_field(self.data_type(item), false)))
            }
            Type::Struct(members) => DataType::Struct(self.fields(members)),
        }
    }

    fn address_type(&self, width: i32) -> DataType {
        match self.addresses {
            Addresses::Binary => DataType::FixedSizeBinary(width),
            Addresses::Text => DataType::Utf8,
        }
    }
}

/// The definition of a column as one line.
pub fn definition(column: &Column) -> &'static str {
    column.doc.trim()
}

/// The neutral name of a type, as the reference pages, the stubs and the Core's DDL use it.
pub const fn type_name(kind: &Type) -> &'static str {
    match kind {
        Type::Bool => "bool",
        Type::U8 => "uint8",
        Type::U16 => "uint16",
        Type::U32 => "uint32",
        Type::U64 => "uint64",
        Type::I8 => "int8",
        Type::I64 => "int64",
        Type::F64 => "float64",
        Type::Text => "text",
        Type::Time => "time",
        Type::Address => "address",
        Type::Mac => "mac",
        Type::List(_) => "list",
        Type::Struct(_) => "struct",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_stores_addresses_as_bytes_and_says_so() {
        let schema = Layout::evidence().schema(false, &[]);
        let field = schema.field_with_name("src_ip").unwrap();
        assert_eq!(field.data_type(), &DataType::FixedSizeBinary(16));
        assert_eq!(field.metadata().get(KIND).map(String::as_str), Some("address"));
        assert_eq!(
            field.metadata().get(DOC),
            None,
            "prose would cost bytes in every sealed batch"
        );
        assert_eq!(
            schema.field_with_name("src_mac").unwrap().data_type(),
            &DataType::FixedSizeBinary(6)
        );
        assert!(schema.field_with_name("src_mac").unwrap().is_nullable());
    }

    #[test]
    fn an_output_has_text_addresses_and_definitions() {
        let schema = Layout::output(Addresses::Text, recorded()).full_schema();
        assert_eq!(
            schema.field_with_name("dst_ip").unwrap().data_type(),
            &DataType::Utf8
        );
        assert_eq!(
            schema.fields().len(),
            FlowRecord::COLUMNS.len() + recorded().len()
        );
        for field in schema.fields().iter().take(FlowRecord::COLUMNS.len()) {
            let doc = field.metadata().get(DOC).unwrap();
            assert!(!doc.is_empty() && doc.trim() == doc, "{}: {doc:?}", field.name());
        }
    }

    #[test]
    fn definitions_of_tcp_columns_name_their_rfc() {
        let columns: Vec<_> = FlowRecord::COLUMNS.iter().chain(Features::COLUMNS).collect();
        let names_an_rfc = |doc: &str| {
            doc.split("RFC ").skip(1).any(|rest| {
                rest.trim_start_matches(|c: char| c.is_ascii_digit())
                    .starts_with(" §")
            })
        };
        let of_tcp = |name: &str| name.starts_with("tcp_") || name == "direction_basis";
        let mut seen = 0;
        for column in columns.iter().filter(|column| of_tcp(column.name)) {
            // Of two directions, the forward one is defined in full.
            let twin = column.name.replace("_rev", "_fwd");
            let defined = columns.iter().find(|other| other.name == twin).unwrap_or(column);
            assert!(
                names_an_rfc(column.doc) || names_an_rfc(defined.doc),
                "{}: {}",
                column.name,
                column.doc
            );
            seen += 1;
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn column_names_are_unique() {
        let schema = Layout::evidence().full_schema();
        let mut names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), schema.fields().len());
    }
}
