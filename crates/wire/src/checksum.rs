//! Checksums: the Internet checksum (RFC 1071) and `CRC32c` (RFC 9260 appendix A).

use crate::column::Address;

/// The sum of the 16-bit words in native byte order, taken two at a time and not folded. One's complement sums do not
/// depend on byte order (RFC 1071 §2.B), so that nothing is swapped; an odd last byte is padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let mut total = if chunks.is_empty() {
        0
    } else {
        sum_of_chunks(chunks)
    };
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total = total.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    let last = match *rest {
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        _ => 0,
    };
    total.wrapping_add(u64::from(last))
}

/// Eight independent lanes of 32-bit words: the compiler turns this into vector additions.
fn sum_of_chunks(chunks: &[[u8; 32]]) -> u64 {
    let mut lanes = [0_u64; 8];
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    lanes.iter().fold(0, |total, &lane| total.wrapping_add(lane))
}

/// Whether a sum over data and their checksum says that they agree: it is a multiple of 0xffff.
pub(crate) fn agrees(sum: u64) -> bool {
    sum.is_multiple_of(0xffff)
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). The prefix of an IPv4-mapped address adds 0xffff,
/// which is zero in one's complement, so that one function serves both versions.
pub(crate) fn pseudo_header(source: Address, destination: Address, protocol: u8, length: u32) -> u64 {
    let [a, b, c, d] = length.to_be_bytes();
    sum(&source.0)
        .wrapping_add(sum(&destination.0))
        .wrapping_add(sum(&[a, b, c, d]))
        .wrapping_add(sum(&[0, protocol]))
}

#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "evaluated at compile time only"
)]
const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0x82f6_3b78
            } else {
                value >> 1
            };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

static CRC: [[u32; 256]; 8] = crc_tables();

fn entry(table: &[u32; 256], byte: u8) -> u32 {
    table.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Continues a `CRC32c` over `bytes`, eight at a time.
fn crc32c_update(state: u32, bytes: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &CRC;
    let (chunks, rest) = bytes.as_chunks::<8>();
    let state = chunks.iter().fold(state, |state, &[a, b, c, d, e, f, g, h]| {
        let [w, x, y, z] = state.to_le_bytes();
        entry(t7, a ^ w)
            ^ entry(t6, b ^ x)
            ^ entry(t5, c ^ y)
            ^ entry(t4, d ^ z)
            ^ entry(t3, e)
            ^ entry(t2, f)
            ^ entry(t1, g)
            ^ entry(t0, h)
    });
    rest.iter()
        .fold(state, |state, &byte| (state >> 8) ^ entry(t0, state as u8 ^ byte))
}

/// The `CRC32c` of the concatenated parts.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    !parts
        .iter()
        .fold(u32::MAX, |state, part| crc32c_update(state, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 §3: the words 0001 f203 f4f5 f6f7 sum to ddf2 once folded; its complement completes them.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert!(!agrees(sum(&data)));
        assert!(agrees(sum(&data).wrapping_add(sum(&(!0xddf2_u16).to_be_bytes()))));
    }

    #[test]
    fn long_and_odd_data_sum_like_their_words() {
        let data: Vec<u8> = (0..=200).collect();
        let mut padded = data.clone();
        padded.push(0);
        let words: u64 = padded
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&pair| u64::from(u16::from_ne_bytes(pair)))
            .sum();
        assert_eq!(sum(&data) % 0xffff, words % 0xffff);
    }

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c(&[b"123", b"456789"]), 0xe306_9283);
        let data: Vec<u8> = (0..100).collect();
        assert_eq!(
            crc32c(&[&data]),
            crc32c(&[data.get(..51).unwrap_or(&[]), data.get(51..).unwrap_or(&[])])
        );
    }
}
