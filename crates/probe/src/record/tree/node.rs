//! One column, list item or struct member: its buffers, and the array that they become.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Fields};
use wire::column::{Column, Type};

use super::RecordError;
use super::store::{List, Store, take_validity};

/// Rows or items that there is room for at least.
pub(super) const MINIMUM_ROOM: usize = 64;

/// Values to make room for where there must be at least so many.
pub(super) fn room_for(values: usize) -> usize {
    values
        .checked_next_power_of_two()
        .unwrap_or(values)
        .max(MINIMUM_ROOM)
}

/// One column, list item or struct member: one cache line.
#[repr(align(64))]
pub(super) struct Node {
    pub(super) store: Store,
    /// A bit for each value that there is room for, set where there is one; empty where null is none of them.
    pub(super) validity: Box<[u8]>,
    /// The column, or that of the list whose item it is; `None` for the tree as a whole.
    pub(super) column: Option<&'static Column>,
    pub(super) nullable: bool,
}

impl Node {
    /// A node for values of a type, which become an array of `data_type`.
    pub(super) fn new(
        column: Option<&'static Column>,
        kind: &Type,
        nullable: bool,
        data_type: &DataType,
    ) -> Self {
        let store = match (kind, data_type) {
            (Type::Struct(members), DataType::Struct(fields)) => {
                let nodes = members.iter().zip(fields.iter()).map(|(member, field)| {
                    Self::new(Some(member), &member.kind, member.nullable, field.data_type())
                });
                Store::Struct(nodes.collect())
            }
            (Type::List(item), DataType::List(field)) => Store::List(Box::new(List::new(Self::new(
                column,
                item,
                field.is_nullable(),
                field.data_type(),
            )))),
            _ => Store::of_values(kind, *data_type == DataType::Utf8),
        };
        Self {
            store,
            validity: Box::default(),
            column,
            nullable,
        }
    }

    /// Its nodes in pre-order, itself among them.
    pub(super) fn count(&self) -> usize {
        1 + match &self.store {
            Store::Struct(members) => members.iter().map(Self::count).sum(),
            Store::List(list) => list.item.count(),
            _ => 0,
        }
    }

    /// Makes room for the values below index `room`, those of its members included, not for the items of lists.
    pub(super) fn make_room(&mut self, room: usize) {
        if self.nullable {
            let mut validity = std::mem::take(&mut self.validity).into_vec();
            validity.resize(room.div_ceil(8), 0);
            self.validity = validity.into_boxed_slice();
        }
        match &mut self.store {
            Store::Struct(members) => members.iter_mut().for_each(|member| member.make_room(room)),
            store => store.make_room(room),
        }
    }

    fn take_validity(&mut self, count: usize) -> Option<NullBuffer> {
        let validity = std::mem::take(&mut self.validity).into_vec();
        self.nullable.then(|| take_validity(validity, count)).flatten()
    }

    /// The first `count` values as an array; nothing is left.
    pub(super) fn take(&mut self, count: usize, data_type: &DataType) -> Result<ArrayRef, RecordError> {
        match (&mut self.store, data_type) {
            (Store::Struct(_), DataType::Struct(fields)) => {
                let (members, validity) = self.take_members(count, fields)?;
                Ok(Arc::new(StructArray::try_new(fields.clone(), members, validity)?))
            }
            (Store::List(list), DataType::List(field)) => {
                let ends = list.ends.take(count);
                let items = list.item.take(list.count, field.data_type())?;
                (list.count, list.room) = (0, 0);
                let validity = self.take_validity(count);
                let array = ListArray::try_new(Arc::clone(field), ends, items, validity)?;
                Ok(Arc::new(array))
            }
            _ => {
                let validity = self.take_validity(count);
                Ok(self.store.take(count, validity, data_type)?)
            }
        }
    }

    /// A struct's first `count` values, member by member, and which of them there are.
    pub(super) fn take_members(
        &mut self,
        count: usize,
        fields: &Fields,
    ) -> Result<(Vec<ArrayRef>, Option<NullBuffer>), RecordError> {
        let Store::Struct(nodes) = &mut self.store else {
            return Ok((Vec::new(), None));
        };
        let members = nodes
            .iter_mut()
            .zip(fields)
            .map(|(node, field)| node.take(count, field.data_type()))
            .collect::<Result<_, _>>()?;
        Ok((members, self.take_validity(count)))
    }
}
