//! Rows of a batch as CBOR, several at a time and column by column (`docs/formats/sealed-batch.md` §4).
//!
//! What a leaf is the hash of lies across all columns, while a column's values lie side by side. Taking one row after the
//! other asks for every column's type at every value; taking one column after the other would need all rows' text at
//! once. So [`BLOCK`] rows are written at a time, each to a buffer of its own, one column after the other.

use arrayvec::ArrayVec;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float64Array, ListArray, PrimitiveArray,
    RecordBatch, StringArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::cbor::{Head, array, boolean, bytes, null, text_within};

/// Rows that are encoded together: enough that a column is read in runs that the processor foresees, few enough that the
/// buffers stay in its second-level cache.
const BLOCK: usize = 128;
/// Items of lists that are encoded together.
const ITEMS: usize = 256;

/// Where a value stands in its column, and which buffer it goes to.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: usize,
    buffer: usize,
}

/// The buffers of the rows that are encoded together.
type Buffers = [Vec<u8>; BLOCK];

/// A column, with its type looked up once for all rows.
#[derive(Debug)]
enum Column<'a> {
    Bool(&'a BooleanArray),
    U8(&'a PrimitiveArray<UInt8Type>),
    U16(&'a PrimitiveArray<UInt16Type>),
    U32(&'a PrimitiveArray<UInt32Type>),
    U64(&'a PrimitiveArray<UInt64Type>),
    I8(&'a PrimitiveArray<Int8Type>),
    I16(&'a PrimitiveArray<Int16Type>),
    I32(&'a PrimitiveArray<Int32Type>),
    I64(&'a PrimitiveArray<Int64Type>),
    Time(&'a PrimitiveArray<TimestampNanosecondType>),
    F64(&'a Float64Array),
    Text(&'a StringArray),
    Fixed(&'a FixedSizeBinaryArray),
    List(&'a ListArray, Box<Column<'a>>),
    Struct(&'a StructArray, Vec<Column<'a>>),
}

impl<'a> Column<'a> {
    /// `None` for a type that a sealed batch does not have.
    fn new(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::UInt8 => Self::U8(array.as_primitive()),
            DataType::UInt16 => Self::U16(array.as_primitive()),
            DataType::UInt32 => Self::U32(array.as_primitive()),
            DataType::UInt64 => Self::U64(array.as_primitive()),
            DataType::Int8 => Self::I8(array.as_primitive()),
            DataType::Int16 => Self::I16(array.as_primitive()),
            DataType::Int32 => Self::I32(array.as_primitive()),
            DataType::Int64 => Self::I64(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Self::Time(array.as_primitive()),
            DataType::Float64 => Self::F64(array.as_primitive()),
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::FixedSizeBinary(_) => Self::Fixed(array.as_fixed_size_binary()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Self::List(list, Box::new(Self::new(list.values())?))
            }
            DataType::Struct(_) => {
                let record = array.as_struct();
                Self::Struct(
                    record,
                    record.columns().iter().map(Self::new).collect::<Option<_>>()?,
                )
            }
            _ => return None,
        })
    }

    /// Appends the value of each place to its buffer, in the order of `places`. Where the column has members, no two
    /// places have the same buffer.
    fn emit(&self, places: &[Place], out: &mut Buffers) {
        match self {
            Self::Bool(values) => each(values.nulls(), places, out, |index, out| {
                boolean(values.value(index), out);
            }),
            Self::U8(values) => numbers(values, Head::unsigned, places, out),
            Self::U16(values) => numbers(values, Head::unsigned, places, out),
            Self::U32(values) => numbers(values, Head::unsigned, places, out),
            Self::U64(values) => numbers(values, Head::unsigned, places, out),
            Self::I8(values) => numbers(values, Head::signed, places, out),
            Self::I16(values) => numbers(values, Head::signed, places, out),
            Self::I32(values) => numbers(values, Head::signed, places, out),
            Self::I64(values) => numbers(values, Head::signed, places, out),
            Self::Time(values) => numbers(values, Head::signed, places, out),
            Self::F64(values) => numbers(values, Head::double, places, out),
            Self::Text(texts) => {
                let (offsets, all) = (texts.value_offsets(), texts.value_data());
                each(texts.nulls(), places, out, |index, out| {
                    text_within(all, offsets[index] as usize, offsets[index + 1] as usize, out);
                });
            }
            Self::Fixed(values) => each(values.nulls(), places, out, |index, out| {
                bytes(values.value(index), out);
            }),
            Self::List(lists, items) => list(lists, items, places, out),
            Self::Struct(records, members) => {
                let mut present = ArrayVec::<Place, BLOCK>::new();
                for &place in places {
                    if records.is_valid(place.index) {
                        array(members.len(), &mut out[place.buffer]);
                        present.push(place);
                    } else {
                        null(&mut out[place.buffer]);
                    }
                }
                for member in members {
                    member.emit(&present, out);
                }
            }
        }
    }

    /// Whether several values in a row may go to one buffer: not where a value's members are written apart.
    fn is_plain(&self) -> bool {
        !matches!(self, Self::List(..) | Self::Struct(..))
    }
}

/// Appends null where there is no value, otherwise what `emit` appends.
fn each(nulls: Option<&NullBuffer>, places: &[Place], out: &mut Buffers, emit: impl Fn(usize, &mut Vec<u8>)) {
    match nulls {
        None => {
            for place in places {
                emit(place.index, &mut out[place.buffer]);
            }
        }
        Some(nulls) => {
            for place in places {
                if nulls.is_valid(place.index) {
                    emit(place.index, &mut out[place.buffer]);
                } else {
                    null(&mut out[place.buffer]);
                }
            }
        }
    }
}

fn numbers<T, N>(values: &PrimitiveArray<T>, head: impl Fn(N) -> Head, places: &[Place], out: &mut Buffers)
where
    T: ArrowPrimitiveType,
    T::Native: Into<N>,
{
    let raw = values.values();
    match values.nulls() {
        None => {
            for place in places {
                head(raw[place.index].into()).append(&mut out[place.buffer]);
            }
        }
        Some(nulls) => {
            for place in places {
                // What stands under a null is a number too: choosing afterwards spares the processor a guess.
                let number = head(raw[place.index].into());
                let number = if nulls.is_valid(place.index) {
                    number
                } else {
                    Head::NULL
                };
                number.append(&mut out[place.buffer]);
            }
        }
    }
}

fn list(lists: &ListArray, items: &Column<'_>, places: &[Place], out: &mut Buffers) {
    let offsets = lists.value_offsets();
    // Arrow's validation has made sure that offsets ascend within the items and that there is one more than lists.
    let range = |place: &Place| offsets[place.index] as usize..offsets[place.index + 1] as usize;
    if items.is_plain() {
        let mut waiting = ArrayVec::<Place, ITEMS>::new();
        for place in places {
            if lists.is_null(place.index) {
                null(&mut out[place.buffer]);
                continue;
            }
            let range = range(place);
            array(range.len(), &mut out[place.buffer]);
            for index in range {
                if waiting.is_full() {
                    items.emit(&waiting, out);
                    waiting.clear();
                }
                waiting.push(Place {
                    index,
                    buffer: place.buffer,
                });
            }
        }
        items.emit(&waiting, out);
        return;
    }
    // An item of several parts must be whole before the next one of its list begins: first the first items of all lists.
    let mut open = ArrayVec::<(Place, usize), BLOCK>::new();
    for place in places {
        if lists.is_null(place.index) {
            null(&mut out[place.buffer]);
            continue;
        }
        let range = range(place);
        array(range.len(), &mut out[place.buffer]);
        let first = Place {
            index: range.start,
            buffer: place.buffer,
        };
        open.push((first, range.end));
    }
    loop {
        open.retain(|(next, end)| next.index < *end);
        if open.is_empty() {
            return;
        }
        let next: ArrayVec<Place, BLOCK> = open.iter().map(|(next, _)| *next).collect();
        items.emit(&next, out);
        for (next, _) in &mut open {
            next.index += 1;
        }
    }
}

/// Encodes the rows of a batch.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    columns: Vec<Column<'a>>,
    rows: usize,
}

impl<'a> Rows<'a> {
    /// `None` if a column has a type that a sealed batch does not have.
    pub(super) fn new(batch: &'a RecordBatch) -> Option<Self> {
        let columns = batch.columns().iter().map(Column::new).collect::<Option<_>>()?;
        Some(Self {
            columns,
            rows: batch.num_rows(),
        })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Gives `take` the CBOR of each row of `rows` in turn: `prefix`, then the array of the row's values. All of `rows` are
    /// less than [`Rows::len`].
    pub(super) fn encode(&self, rows: std::ops::Range<usize>, prefix: &[u8], take: &mut dyn FnMut(&[u8])) {
        let mut buffers: Buffers =
            std::array::from_fn(|place| Vec::with_capacity(if place < rows.len() { 1024 } else { 0 }));
        for start in rows.clone().step_by(BLOCK) {
            let places: ArrayVec<Place, BLOCK> = (start..rows.end)
                .zip(0..BLOCK)
                .map(|(index, buffer)| Place { index, buffer })
                .collect();
            for place in &places {
                let buffer = &mut buffers[place.buffer];
                buffer.clear();
                buffer.extend_from_slice(prefix);
                array(self.columns.len(), buffer);
            }
            for column in &self.columns {
                column.emit(&places, &mut buffers);
            }
            for place in &places {
                take(&buffers[place.buffer]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cbor;
    use super::*;
    use arrow::array::{ArrayData, ArrayDataBuilder, make_array};
    use arrow::buffer::Buffer;
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// One value after the other, as the format's table has it.
    fn plainly(array: &dyn Array, index: usize, out: &mut Vec<u8>) {
        if array.is_null(index) {
            return null(out);
        }
        match array.data_type() {
            DataType::Boolean => boolean(array.as_boolean().value(index), out),
            DataType::UInt8 => cbor::unsigned(array.as_primitive::<UInt8Type>().value(index).into(), out),
            DataType::UInt16 => cbor::unsigned(array.as_primitive::<UInt16Type>().value(index).into(), out),
            DataType::UInt32 => cbor::unsigned(array.as_primitive::<UInt32Type>().value(index).into(), out),
            DataType::UInt64 => cbor::unsigned(array.as_primitive::<UInt64Type>().value(index), out),
            DataType::Int8 => cbor::signed(array.as_primitive::<Int8Type>().value(index).into(), out),
            DataType::Int16 => cbor::signed(array.as_primitive::<Int16Type>().value(index).into(), out),
            DataType::Int32 => cbor::signed(array.as_primitive::<Int32Type>().value(index).into(), out),
            DataType::Int64 => cbor::signed(array.as_primitive::<Int64Type>().value(index), out),
            DataType::Timestamp(..) => {
                cbor::signed(array.as_primitive::<TimestampNanosecondType>().value(index), out);
            }
            DataType::Float64 => {
                cbor::double(
                    array.as_primitive::<arrow::datatypes::Float64Type>().value(index),
                    out,
                );
            }
            DataType::Utf8 => cbor::text(array.as_string::<i32>().value(index), out),
            DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(index), out),
            DataType::List(_) => {
                let items = array.as_list::<i32>().value(index);
                cbor::array(items.len(), out);
                (0..items.len()).for_each(|item| plainly(&items, item, out));
            }
            DataType::Struct(_) => {
                let members = array.as_struct().columns();
                cbor::array(members.len(), out);
                for member in members {
                    plainly(member, index, out);
                }
            }
            other => panic!("{other}"),
        }
    }

    /// Numbers from a seed, of every magnitude.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = self.0 ^ (self.0 >> 29);
            mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (self.0 >> 58)
        }

        fn below(&mut self, limit: u64) -> u64 {
            self.next() % limit
        }
    }

    /// A column of a type, of random values, some of them null.
    fn column(kind: &DataType, rows: usize, random: &mut Random) -> ArrayData {
        let mut data = ArrayDataBuilder::new(kind.clone()).len(rows);
        if random.below(3) > 0 {
            let bits: Vec<u8> = (0..rows.div_ceil(8)).map(|_| random.next() as u8).collect();
            data = data.null_bit_buffer(Some(bits.into()));
        }
        let mut offsets = |longest: u64| {
            let mut offsets = vec![0_i32];
            for _ in 0..rows {
                offsets.push(offsets[offsets.len() - 1] + random.below(longest) as i32);
            }
            let last = *offsets.last().unwrap() as usize;
            (Buffer::from_vec(offsets), last)
        };
        let data = match kind {
            DataType::Utf8 => {
                let (offsets, length) = offsets(70);
                let text: Vec<u8> = (0..length).map(|_| b' ' + random.below(95) as u8).collect();
                data.add_buffer(offsets).add_buffer(text.into())
            }
            DataType::List(item) => {
                let (offsets, length) = offsets(6);
                let items = column(item.data_type(), length, random);
                data.add_buffer(offsets).add_child_data(items)
            }
            DataType::Struct(members) => data.child_data(
                members
                    .iter()
                    .map(|member| column(member.data_type(), rows, random))
                    .collect(),
            ),
            DataType::Float64 => {
                let values = (0..rows).map(|_| match random.below(4) {
                    0 => f64::from(random.next() as u16),
                    1 => f64::from(random.next() as f32),
                    _ => f64::from_bits(random.next() << random.below(8)),
                });
                data.add_buffer(Buffer::from_vec(values.collect()))
            }
            other => {
                let width = match other {
                    DataType::FixedSizeBinary(width) => *width as usize,
                    other => other.primitive_width().unwrap_or(1),
                };
                let words = (rows * width).div_ceil(width.min(8)) + 1;
                let bytes = (0..words).flat_map(|_| random.next().to_le_bytes()[..width.min(8)].to_vec());
                data.add_buffer(bytes.collect::<Vec<u8>>().into())
            }
        };
        data.build().unwrap()
    }

    fn kinds() -> Vec<DataType> {
        let item = |kind| Arc::new(Field::new("item", kind, true));
        let of = |kinds: &[DataType]| {
            let members = kinds.iter().map(|kind| Field::new("member", kind.clone(), true));
            DataType::Struct(members.collect())
        };
        let list = |kind| DataType::List(item(kind));
        vec![
            DataType::Boolean,
            DataType::UInt8,
            DataType::UInt16,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Float64,
            DataType::Utf8,
            DataType::FixedSizeBinary(16),
            DataType::FixedSizeBinary(6),
            list(DataType::UInt16),
            list(DataType::Utf8),
            list(list(DataType::Int64)),
            of(&[DataType::Utf8, list(DataType::UInt8), of(&[DataType::Float64])]),
            list(of(&[
                DataType::Utf8,
                list(DataType::Utf8),
                list(of(&[DataType::Int32])),
            ])),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn several_rows_at_a_time_are_what_they_are_one_by_one(
            seed: u64, rows in 1usize..400, from: prop::sample::Index, length: prop::sample::Index
        ) {
            let mut random = Random(seed);
            let kinds = kinds();
            let fields: Vec<Field> = kinds.iter().map(|kind| Field::new("column", kind.clone(), true)).collect();
            let columns = kinds.iter().map(|kind| make_array(column(kind, rows, &mut random))).collect();
            let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
            let from = from.index(rows);
            let batch = whole.slice(from, 1 + length.index(rows - from));
            let mut row = 0;
            Rows::new(&batch).unwrap().encode(0..batch.num_rows(), &[0x00], &mut |encoded| {
                let mut expected = vec![0x00];
                array(batch.num_columns(), &mut expected);
                for column in batch.columns() {
                    plainly(column, row, &mut expected);
                }
                assert_eq!(super::super::hex(encoded), super::super::hex(&expected), "row {row}");
                row += 1;
            });
            prop_assert_eq!(row, batch.num_rows());
        }
    }

    #[test]
    fn a_long_list_is_encoded_in_parts() {
        let items = DataType::UInt32;
        let kind = DataType::List(Arc::new(Field::new("item", items, true)));
        let count = 3 * ITEMS + 7;
        let values: Vec<u32> = (0..count as u32).map(|value| value * 999).collect();
        let child = ArrayDataBuilder::new(DataType::UInt32)
            .len(count)
            .add_buffer(Buffer::from_vec(values))
            .build()
            .unwrap();
        let data = ArrayDataBuilder::new(kind.clone())
            .len(3)
            .add_buffer(Buffer::from_vec(vec![
                0,
                count as i32 - 2,
                count as i32 - 2,
                count as i32,
            ]))
            .add_child_data(child)
            .build()
            .unwrap();
        let array = make_array(data);
        let schema = Schema::new(vec![Field::new("lists", kind, false)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&array)]).unwrap();
        let mut row = 0;
        Rows::new(&batch).unwrap().encode(0..3, &[], &mut |encoded| {
            let mut expected = vec![0x81];
            plainly(&array, row, &mut expected);
            assert_eq!(encoded, expected);
            row += 1;
        });
        assert_eq!(row, 3);
    }
}
