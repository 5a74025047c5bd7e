//! Deterministic CBOR (RFC 8949 §4.2.1) of rows: what a leaf is the hash of (`docs/formats/sealed-batch.md` §4).

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float64Array, ListArray, PrimitiveArray,
    RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// Additional information (RFC 8949 §3): the argument follows in 1, 2, 4 or 8 bytes.
const ONE_BYTE: u8 = 0x18;
const TWO_BYTES: u8 = 0x19;
const FOUR_BYTES: u8 = 0x1a;
const EIGHT_BYTES: u8 = 0x1b;
/// Major types (RFC 8949 §3.1), in the upper three bits of the initial byte.
const UNSIGNED: u8 = 0x00;
const NEGATIVE: u8 = 0x20;
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const ARRAY: u8 = 0x80;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const HALF: u8 = 0xf9;
const SINGLE: u8 = 0xfa;
const DOUBLE: u8 = 0xfb;

/// Appends the head of a data item: major type and argument in its shortest form.
fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    if argument < 24 {
        out.push(major | argument as u8);
    } else if let Ok(argument) = u8::try_from(argument) {
        out.extend_from_slice(&[major | ONE_BYTE, argument]);
    } else if let Ok(argument) = u16::try_from(argument) {
        out.push(major | TWO_BYTES);
        out.extend_from_slice(&argument.to_be_bytes());
    } else if let Ok(argument) = u32::try_from(argument) {
        out.push(major | FOUR_BYTES);
        out.extend_from_slice(&argument.to_be_bytes());
    } else {
        out.push(major | EIGHT_BYTES);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

/// Appends null.
pub(super) fn null(out: &mut Vec<u8>) {
    out.push(NULL);
}

/// Appends a boolean.
pub(super) fn boolean(value: bool, out: &mut Vec<u8>) {
    out.push(if value { TRUE } else { FALSE });
}

/// Appends an unsigned integer.
pub(super) fn unsigned(value: u64, out: &mut Vec<u8>) {
    head(UNSIGNED, value, out);
}

/// Appends a signed integer.
pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    match u64::try_from(value) {
        Ok(value) => head(UNSIGNED, value, out),
        // RFC 8949 §3.1: major type 1 holds -1 - n; in two's complement that is the complement of the value.
        Err(_) => head(NEGATIVE, !value as u64, out),
    }
}

/// Appends a double in the shortest of the three widths that keeps its value; NaN is always `f9 7e 00`.
pub(super) fn double(value: f64, out: &mut Vec<u8>) {
    let single = value as f32;
    if value.is_nan() {
        out.extend_from_slice(&[HALF, 0x7e, 0x00]);
    } else if f64::from(single).to_bits() != value.to_bits() {
        out.push(DOUBLE);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Some(half) = half(single) {
        out.push(HALF);
        out.extend_from_slice(&half.to_be_bytes());
    } else {
        out.push(SINGLE);
        out.extend_from_slice(&single.to_be_bytes());
    }
}

/// The IEEE 754 half-precision bits of `value`, if it has that value exactly. NaN is not asked for.
fn half(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let exponent = (bits >> 23) & 0xff;
    let fraction = bits & 0x007f_ffff;
    match exponent {
        0 if fraction == 0 => Some(sign),
        0xff => Some(sign | 0x7c00),
        // A normal half: exponent from -14 to 15, of the fraction only the upper ten bits.
        113..=142 if fraction.trailing_zeros() >= 13 => {
            Some(sign | ((exponent - 112) << 10) as u16 | (fraction >> 13) as u16)
        }
        // A subnormal half, a multiple of 2^-24: the hidden bit becomes explicit and moves right.
        103..=112 => {
            let shift = 126 - exponent;
            let significand = fraction | 0x0080_0000;
            (significand.trailing_zeros() >= shift).then(|| sign | (significand >> shift) as u16)
        }
        _ => None,
    }
}

/// Appends a text string.
pub(super) fn text(value: &str, out: &mut Vec<u8>) {
    head(TEXT, value.len() as u64, out);
    out.extend_from_slice(value.as_bytes());
}

/// Appends a byte string.
pub(super) fn bytes(value: &[u8], out: &mut Vec<u8>) {
    head(BYTES, value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Appends the head of an array; its items follow.
pub(super) fn array(length: usize, out: &mut Vec<u8>) {
    head(ARRAY, length as u64, out);
}

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

    fn emit(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bool(array) if array.is_valid(row) => boolean(array.value(row), out),
            Self::U8(array) => emit_unsigned(array, row, out),
            Self::U16(array) => emit_unsigned(array, row, out),
            Self::U32(array) => emit_unsigned(array, row, out),
            Self::U64(array) => emit_unsigned(array, row, out),
            Self::I8(array) => emit_signed(array, row, out),
            Self::I16(array) => emit_signed(array, row, out),
            Self::I32(array) => emit_signed(array, row, out),
            Self::I64(array) => emit_signed(array, row, out),
            Self::Time(array) => emit_signed(array, row, out),
            Self::F64(values) if values.is_valid(row) => double(values.value(row), out),
            Self::Text(array) if array.is_valid(row) => text(array.value(row), out),
            Self::Fixed(array) if array.is_valid(row) => bytes(array.value(row), out),
            Self::List(list, items) if list.is_valid(row) => {
                let offsets = list.value_offsets();
                // Arrow's validation has made sure that offsets ascend within the items and that there is one more than rows.
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                array(end - start, out);
                for item in start..end {
                    items.emit(item, out);
                }
            }
            Self::Struct(record, members) if record.is_valid(row) => {
                array(members.len(), out);
                for member in members {
                    member.emit(row, out);
                }
            }
            Self::Bool(_)
            | Self::F64(_)
            | Self::Text(_)
            | Self::Fixed(_)
            | Self::List(..)
            | Self::Struct(..) => {
                null(out);
            }
        }
    }
}

fn emit_unsigned<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, row: usize, out: &mut Vec<u8>)
where
    T::Native: Into<u64>,
{
    if array.is_valid(row) {
        unsigned(array.value(row).into(), out);
    } else {
        null(out);
    }
}

fn emit_signed<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, row: usize, out: &mut Vec<u8>)
where
    T::Native: Into<i64>,
{
    if array.is_valid(row) {
        signed(array.value(row).into(), out);
    } else {
        null(out);
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

    /// Appends the CBOR array of the row's values. `row` is less than [`Rows::len`].
    pub(super) fn encode(&self, row: usize, out: &mut Vec<u8>) {
        array(self.columns.len(), out);
        for column in &self.columns {
            column.emit(row, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        super::super::hex(&out)
    }

    /// The value of half-precision bits, by the formula of RFC 8949 Appendix D.
    fn half_to_double(bits: u16) -> f64 {
        let exponent = i32::from((bits >> 10) & 0x1f);
        let fraction = f64::from(bits & 0x3ff);
        let value = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (fraction + 1024.0) * 2f64.powi(exponent - 25),
        };
        if bits & 0x8000 == 0 { value } else { -value }
    }

    #[test]
    fn rfc_8949_appendix_a() {
        for (value, expected) in [
            (0u64, "00"),
            (10, "0a"),
            (23, "17"),
            (24, "1818"),
            (100, "1864"),
            (1000, "1903e8"),
            (1_000_000, "1a000f4240"),
            (1_000_000_000_000, "1b000000e8d4a51000"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            assert_eq!(hex(|out| unsigned(value, out)), expected);
        }
        for (value, expected) in [
            (-1i64, "20"),
            (-10, "29"),
            (-100, "3863"),
            (-1000, "3903e7"),
            (i64::MIN, "3b7fffffffffffffff"),
        ] {
            assert_eq!(hex(|out| signed(value, out)), expected);
        }
        for (value, expected) in [
            (0.0, "f90000"),
            (-0.0, "f98000"),
            (1.0, "f93c00"),
            (1.1, "fb3ff199999999999a"),
            (1.5, "f93e00"),
            (65504.0, "f97bff"),
            (100_000.0, "fa47c35000"),
            (3.402_823_466_385_288_6e38, "fa7f7fffff"),
            (1.0e300, "fb7e37e43c8800759c"),
            (5.960_464_477_539_063e-8, "f90001"),
            (0.000_061_035_156_25, "f90400"),
            (-4.0, "f9c400"),
            (-4.1, "fbc010666666666666"),
            (f64::INFINITY, "f97c00"),
            (f64::NEG_INFINITY, "f9fc00"),
            (f64::NAN, "f97e00"),
            (-f64::NAN, "f97e00"),
        ] {
            assert_eq!(hex(|out| double(value, out)), expected, "{value}");
        }
        assert_eq!(hex(|out| text("ü", out)), "62c3bc");
        assert_eq!(hex(|out| bytes(&[1, 2, 3, 4], out)), "4401020304");
        assert_eq!(hex(|out| array(25, out)), "9819");
    }

    #[test]
    fn every_half_is_encoded_as_that_half() {
        for bits in 0..=u16::MAX {
            let value = half_to_double(bits);
            if !value.is_nan() {
                assert_eq!(hex(|out| double(value, out)), format!("f9{bits:04x}"));
            }
        }
    }

    proptest! {
        #[test]
        fn a_double_keeps_its_value_in_the_shortest_form(value: f64) {
            prop_assume!(!value.is_nan());
            let mut out = Vec::new();
            double(value, &mut out);
            let back = match (out[0], out.len()) {
                (HALF, 3) => half_to_double(u16::from_be_bytes([out[1], out[2]])),
                (SINGLE, 5) => f64::from(f32::from_be_bytes([out[1], out[2], out[3], out[4]])),
                (DOUBLE, 9) => f64::from_be_bytes(out[1..9].try_into().unwrap()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }
    }
}
