//! Data items of deterministic CBOR (RFC 8949 §4.2.1), as leaves and fingerprints need them (`docs/formats/sealed-batch.md`).

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

/// The head of a data item: initial byte and argument.
///
/// Made without branches: how long arguments are changes from value to value, and a wrong guess of the processor costs more
/// than everything else here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    initial: u8,
    /// The argument's bytes, most significant first; what is beyond [`Head::length`] does not count.
    argument: u64,
    /// Bytes of the whole head.
    length: usize,
}

/// How an argument is written.
#[derive(Clone, Copy)]
struct Form {
    /// The lower five bits of the initial byte, where they are not the argument itself.
    information: u8,
    /// Bytes of the head.
    length: u8,
    /// How far the argument moves to begin with its most significant byte.
    shift: u8,
}

/// The form of an argument by its number of significant bits. Those below [`IMMEDIATE`] stand in the initial byte itself.
const FORMS: [Form; 65] = {
    const fn form(information: u8, argument: u8) -> Form {
        Form {
            information,
            length: 1 + argument,
            shift: 64 - 8 * argument,
        }
    }
    let mut forms = [form(ONE_BYTE, 1); 65];
    let mut bits = 9;
    while bits < forms.len() {
        forms[bits] = match bits {
            ..=16 => form(TWO_BYTES, 2),
            17..=32 => form(FOUR_BYTES, 4),
            _ => form(EIGHT_BYTES, 8),
        };
        bits += 1;
    }
    forms
};

/// The least argument that does not fit the initial byte.
const IMMEDIATE: u64 = 24;

impl Head {
    /// Null, which has no argument.
    pub(super) const NULL: Self = Self {
        initial: NULL,
        argument: 0,
        length: 1,
    };

    /// Major type and argument in its shortest form.
    fn new(major: u8, argument: u64) -> Self {
        let form = FORMS[(u64::BITS - argument.leading_zeros()) as usize];
        let (information, length) = if argument < IMMEDIATE {
            (argument as u8, 1)
        } else {
            (form.information, form.length)
        };
        Self {
            initial: major | information,
            argument: argument << form.shift,
            length: usize::from(length),
        }
    }

    /// An unsigned integer, which is a head alone.
    pub(super) fn unsigned(value: u64) -> Self {
        Self::new(UNSIGNED, value)
    }

    /// A signed integer, which is a head alone.
    pub(super) fn signed(value: i64) -> Self {
        // RFC 8949 §3.1: major type 1 holds -1 - n; in two's complement that is the complement of the value.
        let sign = value >> 63;
        Self::new(sign as u8 & NEGATIVE, (value ^ sign) as u64)
    }

    /// A double in the shortest of the three widths that keeps its value; NaN is always `f9 7e 00`.
    pub(super) fn double(value: f64) -> Self {
        let single = value as f32;
        let (initial, argument, length) = if value.is_nan() {
            (HALF, 0x7e00 << 48, 3)
        } else if f64::from(single).to_bits() != value.to_bits() {
            (DOUBLE, value.to_bits(), 9)
        } else if let Some(half) = half(single) {
            (HALF, u64::from(half) << 48, 3)
        } else {
            (SINGLE, u64::from(single.to_bits()) << 32, 5)
        };
        Self {
            initial,
            argument,
            length,
        }
    }

    /// Appends it.
    pub(super) fn append(self, out: &mut Vec<u8>) {
        let mut bytes = [0; 9];
        bytes[0] = self.initial;
        bytes[1..].copy_from_slice(&self.argument.to_be_bytes());
        append_start(&bytes, self.length, out);
    }
}

/// Appends the first `length` of `bytes`. A copy of a length that is known beforehand is a few instructions, one of a length
/// that is not is a call.
fn append_start<const N: usize>(bytes: &[u8; N], length: usize, out: &mut Vec<u8>) {
    let end = out.len() + length;
    out.extend_from_slice(bytes);
    out.truncate(end);
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
    Head::unsigned(value).append(out);
}

/// Appends a signed integer.
pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    Head::signed(value).append(out);
}

/// Appends a double.
pub(super) fn double(value: f64, out: &mut Vec<u8>) {
    Head::double(value).append(out);
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
    Head::new(TEXT, value.len() as u64).append(out);
    out.extend_from_slice(value.as_bytes());
}

/// Appends a text string that stands from `start` to `end` of other text, which must be UTF-8.
pub(super) fn text_within(all: &[u8], start: usize, end: usize, out: &mut Vec<u8>) {
    const SHORT: usize = 32;
    let text = &all[start..end];
    Head::new(TEXT, text.len() as u64).append(out);
    match all[start..].first_chunk::<SHORT>() {
        Some(chunk) if text.len() <= SHORT => append_start(chunk, text.len(), out),
        _ => out.extend_from_slice(text),
    }
}

/// Appends a byte string.
pub(super) fn bytes(value: &[u8], out: &mut Vec<u8>) {
    Head::new(BYTES, value.len() as u64).append(out);
    out.extend_from_slice(value);
}

/// Appends the head of an array; its items follow.
pub(super) fn array(length: usize, out: &mut Vec<u8>) {
    Head::new(ARRAY, length as u64).append(out);
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
