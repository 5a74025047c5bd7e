//! Text from the wire as valid UTF-8 (design D6).

/// The bytes as text: valid UTF-8 stays, every other byte becomes `\xNN`, and a backslash becomes `\\`,
/// so that the original bytes can always be recovered. At most `limit` input bytes are read.
pub fn from_wire(bytes: &[u8], limit: usize) -> String {
    let bytes = bytes.get(..limit).unwrap_or(bytes);
    if let Some(plain) = plain(bytes) {
        return plain.to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push_str("\\\\");
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Without the machinery of `write!`: a sender may let every byte need it.
            text.push_str("\\x");
            text.extend(hex_of(*byte).map(char::from));
        }
    }
    text
}

/// Writes an IPv4 address byte by byte (RFC 4001 §2), without the machinery of `write!`: there are several in most records.
#[inline]
pub fn write_ipv4(address: [u8; 4], mut write: impl FnMut(u8)) {
    for (place, byte) in address.into_iter().enumerate() {
        if place > 0 {
            write(b'.');
        }
        if byte >= 100 {
            write(b'0' | (byte / 100));
        }
        if byte >= 10 {
            write(b'0' | (byte / 10 % 10));
        }
        write(b'0' | (byte % 10));
    }
}

/// The two lower-case digits of a byte.
pub(crate) fn hex_of(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| {
        if nibble < 10 {
            b'0' | nibble
        } else {
            b'W'.wrapping_add(nibble)
        }
    };
    [digit(byte >> 4), digit(byte & 0x0f)]
}

/// The bytes, if [`from_wire`] leaves them as they are.
pub(crate) fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|_| !bytes.contains(&b'\\'))
}

#[cfg(test)]
mod tests {
    use super::{from_wire, write_ipv4};
    use std::net::Ipv4Addr;

    #[test]
    fn addresses_read_as_the_standard_library_writes_them() {
        for byte in 0..=u8::MAX {
            let mut text = String::new();
            write_ipv4([byte, 0, !byte, 1], |byte| text.push(char::from(byte)));
            assert_eq!(text, Ipv4Addr::new(byte, 0, !byte, 1).to_string());
        }
    }

    #[test]
    fn keeps_text_and_escapes_the_rest() {
        assert_eq!(from_wire("grün".as_bytes(), 64), "grün");
        assert_eq!(from_wire(b"a\xff\\b", 64), "a\\xff\\\\b");
        assert_eq!(
            from_wire("grün".as_bytes(), 3),
            "gr\\xc3",
            "a cut character is escaped, not dropped"
        );
        for byte in 0x80..=u8::MAX {
            assert_eq!(from_wire(&[byte], 1), format!("\\x{byte:02x}"));
        }
    }
}
