//! The Huffman code of HPACK (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols. So a symbol is found by
//! its code's distance from the first of that length.

use crate::l7::Malformed;

/// The symbol that must not occur in a string.
const END_OF_STRING: u16 = 256;

/// Codes of one length.
struct Range {
    bits: u32,
    /// The first of them.
    first: u32,
    /// Place of its symbol in [`SYMBOLS`].
    offset: usize,
    count: u32,
}

const fn range(bits: u32, first: u32, offset: usize, count: u32) -> Range {
    Range {
        bits,
        first,
        offset,
        count,
    }
}

const RANGES: &[Range] = &[
    range(5, 0x0, 0, 10),
    range(6, 0x14, 10, 26),
    range(7, 0x5c, 36, 32),
    range(8, 0xf8, 68, 6),
    range(10, 0x3f8, 74, 5),
    range(11, 0x7fa, 79, 3),
    range(12, 0xffa, 82, 2),
    range(13, 0x1ff8, 84, 6),
    range(14, 0x3ffc, 90, 2),
    range(15, 0x7ffc, 92, 3),
    range(19, 0x0007_fff0, 95, 3),
    range(20, 0x000f_ffe6, 98, 8),
    range(21, 0x001f_ffdc, 106, 13),
    range(22, 0x003f_ffd2, 119, 26),
    range(23, 0x007f_ffd8, 145, 29),
    range(24, 0x00ff_ffea, 174, 12),
    range(25, 0x01ff_ffec, 186, 4),
    range(26, 0x03ff_ffe0, 190, 15),
    range(27, 0x07ff_ffde, 205, 19),
    range(28, 0x0fff_ffe2, 224, 29),
    range(30, 0x3fff_fffc, 253, 4),
];

/// By length of their codes, then by value.
const SYMBOLS: &[u16] = &[
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95,
    98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77,
    78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59, 88,
    90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92, 195, 208,
    128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230,
    129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190,
    196, 198, 228, 232, 233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158,
    165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206,
    215, 225, 236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242,
    243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254,
    2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127,
    220, 249, 10, 13, 22, 256,
];

/// The string, appended to `output`; it is at most 8/5 as long as its code.
pub(super) fn decode(code: &[u8], output: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut bytes = code.iter();
    // The bits that were read and not used, at the right.
    let (mut bits, mut available): (u64, u32) = (0, 0);
    loop {
        // The longest code has 30 bits.
        while available <= 32
            && let Some(byte) = bytes.next()
        {
            bits = (bits << 8) | u64::from(*byte);
            available = available.saturating_add(8);
        }
        let found = RANGES.iter().find_map(|range| {
            let rest = available.checked_sub(range.bits)?;
            let code = (bits >> rest) as u32;
            let index = code
                .checked_sub(range.first)
                .filter(|index| *index < range.count)?;
            Some((rest, range.offset.checked_add(index as usize)?))
        });
        let Some((rest, place)) = found else {
            // RFC 7541 §5.2: what is left is less than a byte, and all ones.
            let padding = (1_u64 << available.min(8)).saturating_sub(1);
            return if available < 8 && bits == padding {
                Ok(())
            } else {
                Err(Malformed::BadValue)
            };
        };
        let symbol = SYMBOLS.get(place).copied().unwrap_or(END_OF_STRING);
        output.push(u8::try_from(symbol).map_err(|_| Malformed::BadValue)?);
        available = rest;
        bits &= (1_u64 << rest).saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::unhex;

    fn decoded(code: &str) -> Result<String, Malformed> {
        let mut output = Vec::new();
        decode(&unhex(code), &mut output).map(|()| String::from_utf8_lossy(&output).into_owned())
    }

    #[test]
    fn strings_of_rfc_7541() {
        // RFC 7541 appendix C.4 and C.6.
        let cases = [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            (
                "d07abe941054d444a8200595040b8166e082a62d1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            ("9bd9ab", "gzip"),
            ("", ""),
        ];
        for (code, text) in cases {
            assert_eq!(decoded(code).as_deref(), Ok(text));
        }
    }

    #[test]
    fn bad_padding_and_the_end_symbol_are_refused() {
        assert_eq!(
            decoded("a8eb10649cbe"),
            Err(Malformed::BadValue),
            "padding with a zero"
        );
        assert_eq!(decoded("ff"), Err(Malformed::BadValue), "a byte of padding");
        assert_eq!(
            decoded("ffffffff"),
            Err(Malformed::BadValue),
            "the end of the string"
        );
    }

    #[test]
    fn every_symbol_has_its_place() {
        let total: u32 = RANGES.iter().map(|range| range.count).sum();
        assert_eq!((total as usize, SYMBOLS.len()), (257, 257));
        let mut sorted = SYMBOLS.to_vec();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..=256));
    }
}
