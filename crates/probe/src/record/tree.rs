//! One column's growing buffers.
//!
//! Nodes stand as the columns do: a struct's node holds those of its members, in order, so that values that arrive in
//! schema order are written by moving along a slice. A value is written where its row stands: rows without one are never
//! touched. Nothing is allocated per value; room is made for all columns at once, as much as the batch before needed.

use std::slice;

use arrow::array::StructArray;
use arrow::datatypes::DataType;
use wire::column::{self, Column, Sink, Type};

use super::RecordError;
use super::schema::Layout;

mod node;
mod store;

use node::{Node, room_for};
use store::{Store, mark, put, put_all};

/// The first place where values did not follow the declaration: the column's name, or `None` for the tree as a whole.
/// What is written from there on is thrown away with the batch.
type Fault = Option<Option<&'static Column>>;

/// The buffers of one struct column: the flow columns as a whole, or one protocol's.
pub(super) struct Tree {
    name: &'static str,
    root: Node,
    data_type: DataType,
    /// Estimated size of a row's validity: one bit for each node.
    validity_bytes: usize,
    bytes: usize,
    /// Rows so far.
    rows: usize,
    /// Rows that there is room for, and those of the batch before.
    room: usize,
    expected: usize,
    fault: Fault,
}

impl Tree {
    /// A struct column of the given members.
    pub(super) fn new(name: &'static str, columns: &'static [Column], layout: &Layout) -> Self {
        let data_type = DataType::Struct(layout.fields(columns));
        let root = Node::new(None, &Type::Struct(columns), true, &data_type);
        Self {
            name,
            validity_bytes: root.count().div_ceil(8),
            root,
            data_type,
            bytes: 0,
            rows: 0,
            room: 0,
            expected: 0,
            fault: None,
        }
    }

    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Estimate of the uncompressed size of all rows so far, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The place of row number `number` (from 0) of a flow of this IP version (0: an IPv4-mapped address is written as
    /// IPv4). If nothing is emitted there the row has no value.
    #[inline]
    pub(super) fn row(&mut self, number: usize, ip_version: u8) -> Row<'_> {
        Row {
            tree: self,
            number,
            ip_version,
        }
    }

    /// Ends a row for which a value was emitted.
    #[inline]
    pub(super) fn end_row(&mut self) -> Result<(), RecordError> {
        self.bytes += self.validity_bytes;
        match self.fault {
            None => Ok(()),
            Some(column) => Err(RecordError::Mismatch {
                column: column.map_or(self.name, |column| column.name),
            }),
        }
    }

    /// Adds rows without a value until there are `rows`.
    pub(super) fn fill(&mut self, rows: usize) {
        self.rows = self.rows.max(rows);
    }

    /// The rows so far as one array; the tree is then empty.
    pub(super) fn take(&mut self) -> Result<StructArray, RecordError> {
        let rows = std::mem::take(&mut self.rows);
        (self.bytes, self.room, self.expected) = (0, 0, rows);
        let DataType::Struct(fields) = &self.data_type else {
            return Err(RecordError::Mismatch { column: self.name });
        };
        let (members, validity) = self.root.take_members(rows, fields)?;
        Ok(StructArray::try_new(fields.clone(), members, validity)?)
    }

    #[cold]
    fn make_room(&mut self, row: usize) {
        self.room = if row < self.expected {
            self.expected
        } else {
            room_for(row + 1)
        };
        self.root.make_room(self.room);
    }
}

/// Where the value of one row goes.
pub(super) struct Row<'t> {
    tree: &'t mut Tree,
    number: usize,
    ip_version: u8,
}

/// Where one value goes.
pub(super) struct Place<'t> {
    /// `None` where no further value was declared.
    node: Option<&'t mut Node>,
    index: usize,
    bytes: &'t mut usize,
    fault: &'t mut Fault,
    ip_version: u8,
}

/// Where the members of a struct go.
pub(super) struct Members<'t> {
    nodes: slice::IterMut<'t, Node>,
    index: usize,
    /// Size of these members, and of all that there is.
    bytes: usize,
    all_bytes: &'t mut usize,
    fault: &'t mut Fault,
    ip_version: u8,
}

/// Where the items of a list go.
pub(super) struct Items<'t> {
    item: Option<&'t mut Node>,
    index: usize,
    /// Where to say how many items there are by now.
    list: Option<ListEnd<'t>>,
    bytes: &'t mut usize,
    fault: &'t mut Fault,
    ip_version: u8,
}

/// What an open list still needs.
struct ListEnd<'t> {
    ends: &'t mut store::Offsets,
    count: &'t mut usize,
    index: usize,
}

/// Notes that the values do not follow the declaration.
#[cold]
fn mismatch(fault: &mut Fault, node: Option<&Node>) {
    fault.get_or_insert(node.and_then(|node| node.column));
}

/// Writes a value of a type with one place for each index, counts its size, and marks that there is one.
macro_rules! values {
    ($($(#[$meta:meta])* $method:ident $rust:ty, $store:ident;)+) => {$(
        $(#[$meta])*
        #[inline]
        fn $method(&mut self, value: $rust) {
            if let Some(Node { store: Store::$store(values), validity, .. }) = &mut self.node
                && put(values, self.index, value)
            {
                mark(validity, self.index);
                *self.bytes += size_of::<$rust>();
            } else {
                mismatch(self.fault, self.node.as_deref());
            }
        }
    )+};
}

impl Sink for Place<'_> {
    type Members<'a>
        = Members<'a>
    where
        Self: 'a;
    type Items<'a>
        = Items<'a>
    where
        Self: 'a;

    #[inline]
    fn null(&mut self) {
        if let Some(Node { nullable: true, .. }) = self.node {
            *self.bytes += 8;
        } else {
            mismatch(self.fault, self.node.as_deref());
        }
    }

    values! {
        u8 u8, U8;
        u16 u16, U16;
        u32 u32, U32;
        u64 u64, U64;
        i8 i8, I8;
        i64 i64, I64;
        f64 f64, F64;
        time i64, Time;
    }

    #[inline]
    fn bool(&mut self, value: bool) {
        if let Some(Node {
            store: Store::Bool(bits),
            validity,
            ..
        }) = &mut self.node
        {
            if value {
                mark(bits, self.index);
            }
            mark(validity, self.index);
            *self.bytes += 1;
        } else {
            mismatch(self.fault, self.node.as_deref());
        }
    }

    #[inline]
    fn text(&mut self, value: &str) {
        if let Some(Node {
            store: Store::Text(texts),
            validity,
            ..
        }) = &mut self.node
        {
            texts.push(self.index, value);
            mark(validity, self.index);
            *self.bytes += value.len() + 4;
        } else {
            mismatch(self.fault, self.node.as_deref());
        }
    }

    #[inline]
    fn address(&mut self, value: [u8; 16]) {
        let written = match &mut self.node {
            Some(Node {
                store: Store::Address(values),
                ..
            }) => put(values, self.index, value),
            Some(Node {
                store: Store::AddressText(texts),
                ..
            }) => {
                texts.push_address(self.index, value, self.ip_version);
                true
            }
            _ => false,
        };
        self.end_bytes(written, value.len());
    }

    #[inline]
    fn mac(&mut self, value: [u8; 6]) {
        let written = match &mut self.node {
            Some(Node {
                store: Store::Mac(values),
                ..
            }) => put(values, self.index, value),
            Some(Node {
                store: Store::MacText(texts),
                ..
            }) => {
                texts.push_mac(self.index, value);
                true
            }
            _ => false,
        };
        self.end_bytes(written, value.len());
    }

    #[inline]
    fn items(&mut self, length: usize) -> Items<'_> {
        let (mut item, mut list_end, mut first) = (None, None, 0);
        match self.node.as_deref_mut() {
            Some(Node {
                store: Store::List(list),
                validity,
                ..
            }) => {
                mark(validity, self.index);
                *self.bytes += 4;
                first = list.make_room(length);
                item = Some(&mut list.item);
                list_end = Some(ListEnd {
                    ends: &mut list.ends,
                    count: &mut list.count,
                    index: self.index,
                });
            }
            node => mismatch(self.fault, node.as_deref()),
        }
        Items {
            item,
            index: first,
            list: list_end,
            bytes: self.bytes,
            fault: self.fault,
            ip_version: self.ip_version,
        }
    }

    #[inline]
    fn members(&mut self) -> Members<'_> {
        let mut nodes = <&mut [Node]>::default();
        match self.node.as_deref_mut() {
            Some(Node {
                store: Store::Struct(members),
                validity,
                ..
            }) => {
                mark(validity, self.index);
                nodes = members;
            }
            node => mismatch(self.fault, node.as_deref()),
        }
        Members {
            nodes: nodes.iter_mut(),
            index: self.index,
            bytes: 0,
            all_bytes: self.bytes,
            fault: self.fault,
            ip_version: self.ip_version,
        }
    }
}

impl Place<'_> {
    #[inline]
    fn end_bytes(&mut self, written: bool, length: usize) {
        match &mut self.node {
            Some(node) if written => {
                mark(&mut node.validity, self.index);
                *self.bytes += length;
            }
            node => mismatch(self.fault, node.as_deref()),
        }
    }
}

impl column::Members for Members<'_> {
    type Member<'a>
        = Place<'a>
    where
        Self: 'a;

    #[inline]
    fn next(&mut self) -> Place<'_> {
        Place {
            node: self.nodes.next(),
            index: self.index,
            bytes: &mut self.bytes,
            fault: self.fault,
            ip_version: self.ip_version,
        }
    }

    #[inline]
    fn end(mut self) {
        *self.all_bytes += self.bytes;
        if let Some(node) = self.nodes.next() {
            mismatch(self.fault, Some(node));
        }
    }
}

/// Writes many items, which are never null.
macro_rules! many {
    ($($many:ident $rust:ty, $store:ident;)+) => {$(
        fn $many(&mut self, values: &[$rust]) {
            if let Some(Node { store: Store::$store(places), nullable: false, .. }) = &mut self.item
                && put_all(places, self.index, values)
            {
                self.index += values.len();
                *self.bytes += size_of_val(values);
            } else {
                mismatch(self.fault, self.item.as_deref());
            }
        }
    )+};
}

impl column::Items for Items<'_> {
    type Item<'a>
        = Place<'a>
    where
        Self: 'a;

    #[inline]
    fn next(&mut self) -> Place<'_> {
        let index = self.index;
        self.index += 1;
        Place {
            node: self.item.as_deref_mut(),
            index,
            bytes: self.bytes,
            fault: self.fault,
            ip_version: self.ip_version,
        }
    }

    many! {
        u8s u8, U8;
        u16s u16, U16;
        u32s u32, U32;
        u64s u64, U64;
        i8s i8, I8;
        i64s i64, I64;
        f64s f64, F64;
    }

    #[inline]
    fn end(self) {
        if let Some(ListEnd { ends, count, index }) = self.list {
            *count = self.index;
            ends.push(index, self.index);
        }
    }
}

/// A row is a struct.
macro_rules! no_row {
    ($($method:ident $rust:ty;)+) => {$(
        fn $method(&mut self, _: $rust) { mismatch(&mut self.tree.fault, None); }
    )+};
}

impl Sink for Row<'_> {
    type Members<'a>
        = Members<'a>
    where
        Self: 'a;
    type Items<'a>
        = Items<'a>
    where
        Self: 'a;

    no_row! {
        bool bool;
        u8 u8;
        u16 u16;
        u32 u32;
        u64 u64;
        i8 i8;
        i64 i64;
        f64 f64;
        time i64;
        text &str;
        address [u8; 16];
        mac [u8; 6];
    }

    fn null(&mut self) {
        mismatch(&mut self.tree.fault, None);
    }

    fn items(&mut self, _: usize) -> Items<'_> {
        mismatch(&mut self.tree.fault, None);
        Items {
            item: None,
            index: 0,
            list: None,
            bytes: &mut self.tree.bytes,
            fault: &mut self.tree.fault,
            ip_version: self.ip_version,
        }
    }

    #[inline]
    fn members(&mut self) -> Members<'_> {
        if self.number >= self.tree.room {
            self.tree.make_room(self.number);
        }
        self.tree.rows = self.number + 1;
        let Node { store, validity, .. } = &mut self.tree.root;
        mark(validity, self.number);
        let nodes: &mut [Node] = match store {
            Store::Struct(members) => members,
            _ => &mut [],
        };
        Members {
            nodes: nodes.iter_mut(),
            index: self.number,
            bytes: 0,
            all_bytes: &mut self.tree.bytes,
            fault: &mut self.tree.fault,
            ip_version: self.ip_version,
        }
    }
}

#[cfg(test)]
mod tests;
