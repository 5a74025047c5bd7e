//! Text from the wire as valid UTF-8 (design D6).

use std::fmt::Write;

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
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes, if [`from_wire`] leaves them as they are.
pub(crate) fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|_| !bytes.contains(&b'\\'))
}

#[cfg(test)]
mod tests {
    use super::from_wire;

    #[test]
    fn keeps_text_and_escapes_the_rest() {
        assert_eq!(from_wire("grün".as_bytes(), 64), "grün");
        assert_eq!(from_wire(b"a\xff\\b", 64), "a\\xff\\\\b");
        assert_eq!(
            from_wire("grün".as_bytes(), 3),
            "gr\\xc3",
            "a cut character is escaped, not dropped"
        );
    }
}
