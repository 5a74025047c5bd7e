//! The buffers of one node, and the arrays that they become.

use std::net::Ipv6Addr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, PrimitiveArray, StringArray, TimestampNanosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float64Type, Int8Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::error::ArrowError;
use wire::column::Type;
use wire::text::write_ipv4;

use super::node::{Node, room_for};

/// Where the values of one node go: a place for each index that there is room for, zero until it is written.
pub(super) enum Store {
    /// A bit for each.
    Bool(Vec<u8>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    Time(Vec<i64>),
    Address(Vec<[u8; 16]>),
    Mac(Vec<[u8; 6]>),
    Text(Box<Texts>),
    AddressText(Box<Texts>),
    MacText(Box<Texts>),
    List(Box<List>),
    Struct(Box<[Node]>),
}

/// The texts of a node.
#[derive(Default)]
pub(super) struct Texts {
    ends: Offsets,
    bytes: Vec<u8>,
    /// Bytes of the batch before.
    expected: usize,
}

/// The lists of a node. Their items stand one after the other, with an index of their own.
pub(super) struct List {
    pub(super) ends: Offsets,
    /// Items of all lists so far.
    pub(super) count: usize,
    /// Items that there is room for.
    pub(super) room: usize,
    pub(super) item: Node,
}

impl List {
    pub(super) fn new(item: Node) -> Self {
        Self {
            ends: Offsets::default(),
            count: 0,
            room: 0,
            item,
        }
    }

    /// Makes room for `length` more items; the index of the first of them.
    #[inline]
    pub(super) fn make_room(&mut self, length: usize) -> usize {
        let needed = self.count.saturating_add(length);
        if needed > self.room {
            self.room = room_for(needed);
            self.item.make_room(self.room);
        }
        self.count
    }
}

/// Where the values of variable length end, those without one written as empty when the next one comes.
#[derive(Default)]
pub(super) struct Offsets {
    /// Empty until the first value comes; from then on with a zero before all.
    ends: Vec<i32>,
    /// Values of the batch before.
    expected: usize,
}

impl Offsets {
    /// The value at `index`, which is after all before, ends at `end`. Bounded by [`super::super::Limits`]: far below 2^31 a
    /// batch.
    #[inline]
    pub(super) fn push(&mut self, index: usize, end: usize) {
        if self.ends.len() != index + 1 {
            self.fill(index);
        }
        self.ends.push(end as i32);
    }

    /// Empty values until there are `count`.
    fn fill(&mut self, count: usize) {
        if self.ends.is_empty() {
            self.ends.reserve_exact(self.expected.max(count) + 1);
        }
        let last = self.ends.last().copied().unwrap_or(0);
        self.ends.resize(count + 1, last);
    }

    /// Those of `count` values.
    pub(super) fn take(&mut self, count: usize) -> OffsetBuffer<i32> {
        self.fill(count);
        self.expected = count;
        let mut ends = std::mem::take(&mut self.ends);
        trim(&mut ends);
        OffsetBuffer::new(ScalarBuffer::from(ends))
    }
}

/// Gives back memory that is far more than what is used, as after a batch that was much larger: batches wait in queues that
/// are bounded by the memory that they hold.
fn trim<T>(values: &mut Vec<T>) {
    if values.capacity() / 2 > values.len() {
        values.shrink_to_fit();
    }
}

impl Texts {
    #[inline]
    pub(super) fn push(&mut self, index: usize, text: &str) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(self.expected.max(text.len()));
        }
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(index, self.bytes.len());
    }

    /// Writes an address as people do; one that is IPv4-mapped as IPv6 only where `ip_version` is 6.
    pub(super) fn push_address(&mut self, index: usize, address: [u8; 16], ip_version: u8) {
        use std::io::Write as _;
        match address {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] if ip_version != 6 => {
                write_ipv4(v4, |byte| self.bytes.push(byte));
            }
            _ => {
                // Writing to a vector does not fail.
                let _ = write!(self.bytes, "{}", Ipv6Addr::from(address));
            }
        }
        self.ends.push(index, self.bytes.len());
    }

    /// Writes a MAC address as colon-separated hexadecimal.
    pub(super) fn push_mac(&mut self, index: usize, mac: [u8; 6]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (position, byte) in mac.into_iter().enumerate() {
            if position > 0 {
                self.bytes.push(b':');
            }
            self.bytes
                .extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        self.ends.push(index, self.bytes.len());
    }

    fn take(&mut self, count: usize, validity: Option<NullBuffer>) -> Result<StringArray, ArrowError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.expected = bytes.len();
        trim(&mut bytes);
        StringArray::try_new(self.ends.take(count), Buffer::from_vec(bytes), validity)
    }
}

/// Puts a value into its place; false where there is no room, as only for items beyond the length of their list.
#[inline]
pub(super) fn put<T>(values: &mut [T], index: usize, value: T) -> bool {
    values.get_mut(index).map(|place| *place = value).is_some()
}

/// Copies values into their places, as [`put`].
#[inline]
pub(super) fn put_all<T: Copy>(values: &mut [T], index: usize, items: &[T]) -> bool {
    values
        .get_mut(index..index.saturating_add(items.len()))
        .map(|places| places.copy_from_slice(items))
        .is_some()
}

/// Marks a bit.
#[inline]
pub(super) fn mark(bits: &mut [u8], index: usize) {
    if let Some(byte) = bits.get_mut(index >> 3) {
        *byte |= 1 << (index & 7);
    }
}

/// The first `count` of these bits.
fn take_bits(mut bits: Vec<u8>, count: usize) -> BooleanBuffer {
    bits.resize(count.div_ceil(8), 0);
    trim(&mut bits);
    BooleanBuffer::new(Buffer::from_vec(bits), 0, count)
}

/// Which of `count` values there are; nothing where all are.
pub(super) fn take_validity(bits: Vec<u8>, count: usize) -> Option<NullBuffer> {
    let validity = NullBuffer::new(take_bits(bits, count));
    (validity.null_count() > 0).then_some(validity)
}

fn take_numbers<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    count: usize,
    validity: Option<NullBuffer>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    values.resize(count, T::Native::default());
    trim(values);
    PrimitiveArray::try_new(ScalarBuffer::from(std::mem::take(values)), validity)
}

fn take_binary<const N: usize>(
    values: &mut Vec<[u8; N]>,
    count: usize,
    validity: Option<NullBuffer>,
) -> Result<FixedSizeBinaryArray, ArrowError> {
    values.resize(count, [0; N]);
    trim(values);
    let bytes = Buffer::from_vec(std::mem::take(values).into_flattened());
    FixedSizeBinaryArray::try_new(N as i32, bytes, validity)
}

impl Store {
    /// An empty store for values of a type that is not made of others; `text` says that addresses become text.
    pub(super) fn of_values(kind: &Type, text: bool) -> Self {
        match kind {
            Type::Bool => Self::Bool(Vec::new()),
            Type::U8 => Self::U8(Vec::new()),
            Type::U16 => Self::U16(Vec::new()),
            Type::U32 => Self::U32(Vec::new()),
            Type::U64 => Self::U64(Vec::new()),
            Type::I8 => Self::I8(Vec::new()),
            Type::I64 => Self::I64(Vec::new()),
            Type::F64 => Self::F64(Vec::new()),
            Type::Text => Self::Text(Box::default()),
            Type::Time => Self::Time(Vec::new()),
            Type::Address if text => Self::AddressText(Box::default()),
            Type::Address => Self::Address(Vec::new()),
            Type::Mac if text => Self::MacText(Box::default()),
            Type::Mac => Self::Mac(Vec::new()),
            Type::List(_) | Type::Struct(_) => Self::Struct(Box::default()),
        }
    }

    /// Makes room for the values below index `room`.
    pub(super) fn make_room(&mut self, room: usize) {
        match self {
            Self::Bool(bits) => bits.resize(room.div_ceil(8), 0),
            Self::U8(values) => values.resize(room, 0),
            Self::U16(values) => values.resize(room, 0),
            Self::U32(values) => values.resize(room, 0),
            Self::U64(values) => values.resize(room, 0),
            Self::I8(values) => values.resize(room, 0),
            Self::I64(values) | Self::Time(values) => values.resize(room, 0),
            Self::F64(values) => values.resize(room, 0.0),
            Self::Address(values) => values.resize(room, [0; 16]),
            Self::Mac(values) => values.resize(room, [0; 6]),
            // These grow with what is written.
            Self::Text(_) | Self::AddressText(_) | Self::MacText(_) | Self::List(_) | Self::Struct(_) => {}
        }
    }

    /// The first `count` values as an array.
    pub(super) fn take(
        &mut self,
        count: usize,
        validity: Option<NullBuffer>,
        data_type: &DataType,
    ) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(bits) => Arc::new(BooleanArray::new(
                take_bits(std::mem::take(bits), count),
                validity,
            )),
            Self::U8(values) => Arc::new(take_numbers::<UInt8Type>(values, count, validity)?),
            Self::U16(values) => Arc::new(take_numbers::<UInt16Type>(values, count, validity)?),
            Self::U32(values) => Arc::new(take_numbers::<UInt32Type>(values, count, validity)?),
            Self::U64(values) => Arc::new(take_numbers::<UInt64Type>(values, count, validity)?),
            Self::I8(values) => Arc::new(take_numbers::<Int8Type>(values, count, validity)?),
            Self::I64(values) => Arc::new(take_numbers::<Int64Type>(values, count, validity)?),
            Self::F64(values) => Arc::new(take_numbers::<Float64Type>(values, count, validity)?),
            Self::Time(values) => {
                let times: TimestampNanosecondArray = take_numbers(values, count, validity)?;
                Arc::new(times.with_data_type(data_type.clone()))
            }
            Self::Address(values) => Arc::new(take_binary(values, count, validity)?),
            Self::Mac(values) => Arc::new(take_binary(values, count, validity)?),
            Self::Text(texts) | Self::AddressText(texts) | Self::MacText(texts) => {
                Arc::new(texts.take(count, validity)?)
            }
            Self::List(_) | Self::Struct(_) => {
                return Err(ArrowError::SchemaError(format!("{data_type} is made of others")));
            }
        })
    }
}
