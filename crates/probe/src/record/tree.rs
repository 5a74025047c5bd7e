//! One column's growing buffers.
//!
//! The columns of a struct and all that lies below them stand in one vector in pre-order, so that values that arrive in
//! schema order are appended by moving a position forward: within a list it goes back to the list's item after each
//! value. Nothing is allocated per value; buffers grow as Arrow's builders do.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder, Int8Builder, Int64Builder, ListArray,
    StringBuilder, StructArray, TimestampNanosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder,
    UInt64Builder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Fields};
use wire::column::{Column, Sink, Type};

use super::RecordError;
use super::schema::Layout;

/// Where the values of one node go.
enum Store {
    Bool(BooleanBuilder),
    U8(UInt8Builder),
    U16(UInt16Builder),
    U32(UInt32Builder),
    U64(UInt64Builder),
    I8(Int8Builder),
    I64(Int64Builder),
    F64(Float64Builder),
    Text(StringBuilder),
    Time(TimestampNanosecondBuilder),
    Binary(FixedSizeBinaryBuilder, usize),
    AddressText(StringBuilder),
    MacText(StringBuilder),
    List {
        offsets: Vec<i32>,
        validity: NullBufferBuilder,
    },
    Struct {
        validity: NullBufferBuilder,
    },
}

/// One column, list item or struct member.
struct Node {
    name: &'static str,
    /// The position after the last node below this one.
    end: usize,
    nullable: bool,
    data_type: DataType,
    store: Store,
}

impl Node {
    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder as _;
        match &self.store {
            Store::Bool(store) => store.len(),
            Store::U8(store) => store.len(),
            Store::U16(store) => store.len(),
            Store::U32(store) => store.len(),
            Store::U64(store) => store.len(),
            Store::I8(store) => store.len(),
            Store::I64(store) => store.len(),
            Store::F64(store) => store.len(),
            Store::Text(store) | Store::AddressText(store) | Store::MacText(store) => store.len(),
            Store::Time(store) => store.len(),
            Store::Binary(store, _) => store.len(),
            Store::List { validity, .. } | Store::Struct { validity } => validity.len(),
        }
    }
}

/// An open list or struct, by its node.
#[derive(Clone, Copy)]
enum Open {
    List(usize),
    Struct(usize),
}

/// The buffers of one struct column: the flow columns as a whole, or one protocol's.
pub(super) struct Tree {
    nodes: Vec<Node>,
    open: Vec<Open>,
    position: usize,
    bytes: usize,
    /// Rows before the one at hand: those that are missing here had no value.
    before: usize,
    /// IP version of the flow at hand, which decides how an IPv4-mapped address is written; 0 where unknown.
    ip_version: u8,
    fault: Option<&'static str>,
}

impl Tree {
    /// A struct column of the given members.
    pub(super) fn new(name: &'static str, columns: &'static [Column], layout: &Layout) -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            open: Vec::new(),
            position: 0,
            bytes: 0,
            before: 0,
            ip_version: 0,
            fault: None,
        };
        let data_type = DataType::Struct(layout.fields(columns));
        tree.declare(name, &Type::Struct(columns), true, data_type);
        tree
    }

    fn declare(&mut self, name: &'static str, kind: &Type, nullable: bool, data_type: DataType) {
        let text = data_type == DataType::Utf8;
        let store = match kind {
            Type::Bool => Store::Bool(BooleanBuilder::with_capacity(0)),
            Type::U8 => Store::U8(UInt8Builder::with_capacity(0)),
            Type::U16 => Store::U16(UInt16Builder::with_capacity(0)),
            Type::U32 => Store::U32(UInt32Builder::with_capacity(0)),
            Type::U64 => Store::U64(UInt64Builder::with_capacity(0)),
            Type::I8 => Store::I8(Int8Builder::with_capacity(0)),
            Type::I64 => Store::I64(Int64Builder::with_capacity(0)),
            Type::F64 => Store::F64(Float64Builder::with_capacity(0)),
            Type::Text => Store::Text(StringBuilder::with_capacity(0, 0)),
            Type::Time => {
                Store::Time(TimestampNanosecondBuilder::with_capacity(0).with_data_type(data_type.clone()))
            }
            Type::Address if text => Store::AddressText(StringBuilder::with_capacity(0, 0)),
            Type::Address => Store::Binary(FixedSizeBinaryBuilder::with_capacity(0, 16), 16),
            Type::Mac if text => Store::MacText(StringBuilder::with_capacity(0, 0)),
            Type::Mac => Store::Binary(FixedSizeBinaryBuilder::with_capacity(0, 6), 6),
            Type::List(_) => Store::List {
                offsets: vec![0],
                validity: NullBufferBuilder::new(0),
            },
            Type::Struct(_) => Store::Struct {
                validity: NullBufferBuilder::new(0),
            },
        };
        let index = self.nodes.len();
        self.nodes.push(Node {
            name,
            end: 0,
            nullable,
            data_type: data_type.clone(),
            store,
        });
        match (kind, data_type) {
            (Type::List(item), DataType::List(field)) => {
                self.declare(name, item, field.is_nullable(), field.data_type().clone());
            }
            (Type::Struct(members), DataType::Struct(fields)) => {
                for (member, field) in members.iter().zip(fields.iter()) {
                    self.declare(
                        member.name,
                        &member.kind,
                        member.nullable,
                        field.data_type().clone(),
                    );
                }
            }
            _ => {}
        }
        let end = self.nodes.len();
        self.nodes[index].end = end;
    }

    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.nodes[0].len()
    }

    /// Estimate of the uncompressed size of all rows so far, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins row number `before` (from 0) of a flow of this IP version (0: an IPv4-mapped address is written as IPv4).
    /// If nothing is then emitted the row has no value.
    pub(super) fn begin_row(&mut self, before: usize, ip_version: u8) {
        self.before = before;
        self.ip_version = ip_version;
        self.position = 0;
    }

    /// Ends a row for which a value was emitted.
    pub(super) fn end_row(&mut self) -> Result<(), RecordError> {
        if self.fault.is_none() && !(self.open.is_empty() && self.position == self.nodes.len()) {
            self.fault = Some(self.nodes.get(self.position).unwrap_or(&self.nodes[0]).name);
        }
        // One validity bit for each column.
        self.bytes += self.nodes.len().div_ceil(8);
        match self.fault {
            None => Ok(()),
            Some(column) => Err(RecordError::Mismatch { column }),
        }
    }

    /// Adds rows without a value until there are `rows`.
    pub(super) fn fill(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing > 0 {
            self.append_absent(0, missing);
        }
    }

    /// The rows so far as one array; the tree is then empty.
    pub(super) fn take(&mut self) -> Result<StructArray, RecordError> {
        self.bytes = 0;
        self.position = 0;
        let (fields, members, validity) = self.take_struct(0)?;
        Ok(StructArray::try_new(fields, members, validity)?)
    }

    fn take_struct(
        &mut self,
        index: usize,
    ) -> Result<(Fields, Vec<ArrayRef>, Option<NullBuffer>), RecordError> {
        let end = self.nodes[index].end;
        let mut members = Vec::new();
        let mut member = index + 1;
        while member < end {
            members.push(self.take_node(member)?);
            member = self.nodes[member].end;
        }
        let Node {
            name,
            data_type,
            store,
            ..
        } = &mut self.nodes[index];
        match (data_type, store) {
            (DataType::Struct(fields), Store::Struct { validity }) => {
                Ok((fields.clone(), members, validity.finish()))
            }
            _ => Err(RecordError::Mismatch { column: name }),
        }
    }

    fn take_node(&mut self, index: usize) -> Result<ArrayRef, RecordError> {
        let Node { data_type, store, .. } = &mut self.nodes[index];
        Ok(match store {
            Store::Bool(store) => Arc::new(store.finish()),
            Store::U8(store) => Arc::new(store.finish()),
            Store::U16(store) => Arc::new(store.finish()),
            Store::U32(store) => Arc::new(store.finish()),
            Store::U64(store) => Arc::new(store.finish()),
            Store::I8(store) => Arc::new(store.finish()),
            Store::I64(store) => Arc::new(store.finish()),
            Store::F64(store) => Arc::new(store.finish()),
            Store::Text(store) | Store::AddressText(store) | Store::MacText(store) => {
                Arc::new(store.finish())
            }
            Store::Time(store) => Arc::new(store.finish()),
            Store::Binary(store, _) => Arc::new(store.finish()),
            Store::List { offsets, validity } => {
                let validity = validity.finish();
                let offsets = std::mem::replace(offsets, vec![0]);
                let DataType::List(item) = data_type.clone() else {
                    return Err(RecordError::Mismatch {
                        column: self.nodes[index].name,
                    });
                };
                let values = self.take_node(index + 1)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(item, offsets, values, validity)?)
            }
            Store::Struct { .. } => {
                let (fields, members, validity) = self.take_struct(index)?;
                Arc::new(StructArray::try_new(fields, members, validity)?)
            }
        })
    }

    /// Appends `count` times what stands for "no value" at `index` and below it: null where that is allowed, else zero, empty
    /// text or an empty list (which then lies below a null struct).
    fn append_absent(&mut self, index: usize, count: usize) {
        let nullable = self.nodes[index].nullable;
        let child = index + 1;
        macro_rules! absent {
            ($store:ident) => {
                if nullable {
                    $store.append_nulls(count)
                } else {
                    (0..count).for_each(|_| $store.append_value(Default::default()))
                }
            };
        }
        match &mut self.nodes[index].store {
            Store::Bool(store) => absent!(store),
            Store::U8(store) => absent!(store),
            Store::U16(store) => absent!(store),
            Store::U32(store) => absent!(store),
            Store::U64(store) => absent!(store),
            Store::I8(store) => absent!(store),
            Store::I64(store) => absent!(store),
            Store::F64(store) => absent!(store),
            Store::Time(store) => absent!(store),
            Store::Text(store) | Store::AddressText(store) | Store::MacText(store) => {
                if nullable {
                    store.append_nulls(count);
                } else {
                    (0..count).for_each(|_| store.append_value(""));
                }
            }
            Store::Binary(store, width) => {
                const ZEROS: [u8; 16] = [0; 16];
                if nullable {
                    store.append_nulls(count);
                } else {
                    for _ in 0..count {
                        // The only error is a wrong width, and the widths are 6 and 16.
                        if store.append_value(&ZEROS[..*width]).is_err() {
                            store.append_null();
                        }
                    }
                }
            }
            Store::List { offsets, validity } => {
                let last = offsets.last().copied().unwrap_or(0);
                offsets.extend(std::iter::repeat_n(last, count));
                append_validity(validity, !nullable, count);
            }
            Store::Struct { validity } => {
                append_validity(validity, !nullable, count);
                let end = self.nodes[index].end;
                let mut member = child;
                while member < end {
                    self.append_absent(member, count);
                    member = self.nodes[member].end;
                }
            }
        }
    }

    /// Moves on after the value of the node at `index` is complete.
    fn advance(&mut self, index: usize) {
        self.position = match self.open.last() {
            Some(Open::List(list)) => list + 1,
            Some(Open::Struct(_)) | None => self.nodes[index].end,
        };
    }

    /// Notes that the values do not follow the declaration. What is appended from here on is thrown away with the batch.
    #[cold]
    fn mismatch(&mut self) {
        if self.fault.is_none() {
            self.fault = Some(self.nodes.get(self.position).unwrap_or(&self.nodes[0]).name);
        }
    }
}

/// Appends `count` times whether there is a value.
fn append_validity(validity: &mut NullBufferBuilder, is_valid: bool, count: usize) {
    if is_valid {
        validity.append_n_non_nulls(count);
    } else {
        validity.append_n_nulls(count);
    }
}

/// Appends one value to the node at the position if it has one of the listed stores, counts its size, and moves on.
macro_rules! append {
    ($tree:ident, { $($pattern:pat => $append:expr, $size:expr;)+ }) => {{
        let index = $tree.position;
        match $tree.nodes.get_mut(index).map(|node| &mut node.store) {
            $(Some($pattern) => { $append; $tree.bytes += $size; })+
            _ => return $tree.mismatch(),
        }
        $tree.advance(index);
    }};
}

impl Sink for Tree {
    fn null(&mut self) {
        let index = self.position;
        if !self.nodes.get(index).is_some_and(|node| node.nullable) {
            return self.mismatch();
        }
        self.append_absent(index, 1);
        self.bytes += 8;
        self.advance(index);
    }

    fn bool(&mut self, value: bool) {
        append!(self, { Store::Bool(store) => store.append_value(value), 1; });
    }

    fn unsigned(&mut self, value: u64) {
        // The value was widened from the column's own type (wire::column), so narrowing it again loses nothing.
        append!(self, {
            Store::U8(store) => store.append_value(value as u8), 1;
            Store::U16(store) => store.append_value(value as u16), 2;
            Store::U32(store) => store.append_value(value as u32), 4;
            Store::U64(store) => store.append_value(value), 8;
        });
    }

    fn signed(&mut self, value: i64) {
        append!(self, {
            Store::I8(store) => store.append_value(value as i8), 1;
            Store::I64(store) => store.append_value(value), 8;
            Store::Time(store) => store.append_value(value), 8;
        });
    }

    fn double(&mut self, value: f64) {
        append!(self, { Store::F64(store) => store.append_value(value), 8; });
    }

    fn text(&mut self, value: &str) {
        append!(self, { Store::Text(store) => store.append_value(value), value.len() + 4; });
    }

    fn bytes(&mut self, value: &[u8]) {
        let version = self.ip_version;
        let ok = match self.nodes.get_mut(self.position).map(|node| &mut node.store) {
            Some(Store::Binary(store, _)) => store.append_value(value).is_ok(),
            Some(Store::AddressText(store)) => write_address(store, value, version),
            Some(Store::MacText(store)) => write_mac(store, value),
            _ => false,
        };
        if !ok {
            return self.mismatch();
        }
        self.bytes += value.len();
        self.advance(self.position);
    }

    fn begin_list(&mut self, _length: usize) {
        let index = self.position;
        if !matches!(
            self.nodes.get(index).map(|node| &node.store),
            Some(Store::List { .. })
        ) {
            return self.mismatch();
        }
        self.open.push(Open::List(index));
        self.position = index + 1;
    }

    fn end_list(&mut self) {
        let Some(Open::List(index)) = self.open.pop() else {
            return self.mismatch();
        };
        // Bounded by Limits: far below 2^31 items a batch.
        let length = self.nodes[index + 1].len() as i32;
        if let Store::List { offsets, validity } = &mut self.nodes[index].store {
            offsets.push(length);
            validity.append_non_null();
        }
        self.bytes += 4;
        self.advance(index);
    }

    fn begin_struct(&mut self) {
        let index = self.position;
        if index == 0 {
            self.fill(self.before);
        }
        match self.nodes.get_mut(index).map(|node| &mut node.store) {
            Some(Store::Struct { validity }) => validity.append_non_null(),
            _ => return self.mismatch(),
        }
        self.open.push(Open::Struct(index));
        self.position = index + 1;
    }

    fn end_struct(&mut self) {
        match self.open.pop() {
            Some(Open::Struct(index)) if self.position == self.nodes[index].end => self.advance(index),
            _ => self.mismatch(),
        }
    }
}

/// Writes 16 bytes as people write them; false where they are not 16.
fn write_address(store: &mut StringBuilder, value: &[u8], ip_version: u8) -> bool {
    let Ok(bytes) = <[u8; 16]>::try_from(value) else {
        return false;
    };
    let written = match bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] if ip_version != 6 => {
            write!(store, "{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => write!(store, "{}", Ipv6Addr::from(bytes)),
    };
    store.append_value("");
    written.is_ok()
}

/// Writes 6 bytes as colon-separated hexadecimal; false where they are not 6.
fn write_mac(store: &mut StringBuilder, value: &[u8]) -> bool {
    let Ok(bytes) = <[u8; 6]>::try_from(value) else {
        return false;
    };
    let mut written = true;
    for (position, byte) in bytes.into_iter().enumerate() {
        let separator = if position == 0 { "" } else { ":" };
        written &= write!(store, "{separator}{byte:02x}").is_ok();
    }
    store.append_value("");
    written
}

#[cfg(test)]
mod tests;
