//! Domain names with compression (RFC 1035 §4.1.4) as text.

use crate::cursor::{Cursor, Short};
use crate::l7::Malformed;
use std::fmt::Write;

/// The longest name on the wire (RFC 1035 §3.1).
const MAX_NAME_BYTES: usize = 255;
/// Pointers that are followed for one name. Each must point backwards, so that loops end anyway; this bounds the work.
const MAX_POINTERS: usize = 32;

/// Reads the name at `cursor`, which is a cursor into `message`, and leaves the cursor behind it. Labels are joined by
/// dots, without one at the end; the root is the empty text. A dot inside a label is written `\.`.
pub(super) fn read<'a>(message: &'a [u8], cursor: &mut Cursor<'a>) -> Result<String, Malformed> {
    let mut name = String::new();
    let mut wire_bytes: usize = 0;
    // Where the present run of labels begins: a pointer must lead before it.
    let mut start = message
        .len()
        .checked_sub(cursor.len())
        .ok_or(Malformed::BadPointer)?;
    let mut labels = *cursor;
    let mut pointers: usize = 0;
    loop {
        let length = labels.u8()?;
        match length >> 6 {
            0b00 => {
                if length == 0 {
                    break;
                }
                wire_bytes = wire_bytes.saturating_add(1).saturating_add(length.into());
                if wire_bytes >= MAX_NAME_BYTES {
                    return Err(Malformed::BadLength);
                }
                let label = labels.take(length.into())?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&label_text(label));
            }
            0b11 => {
                let low = labels.u8()?;
                let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if pointers == 0 {
                    *cursor = labels;
                }
                pointers = pointers.saturating_add(1);
                if target >= start || pointers > MAX_POINTERS {
                    return Err(Malformed::BadPointer);
                }
                start = target;
                labels = Cursor::new(message.get(target..).ok_or(Malformed::BadPointer)?);
            }
            // 0b01 and 0b10 were extended label types (RFC 6891 §5); none is in use.
            _ => return Err(Malformed::BadValue),
        }
    }
    if pointers == 0 {
        *cursor = labels;
    }
    Ok(name)
}

/// A label in presentation form (RFC 1035 §5.1, RFC 4343 §2.1): a dot and a backslash stand behind a backslash, bytes
/// that are neither printable nor part of UTF-8 (which mDNS uses, RFC 6762 §16) are `\DDD` in decimal.
pub(super) fn label_text(label: &[u8]) -> String {
    let mut text = String::with_capacity(label.len());
    // Writing to a String cannot fail.
    let escape = |text: &mut String, byte: u8| {
        let _ = write!(text, "\\{byte:03}");
    };
    for chunk in label.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '.' | '\\' => text.extend(['\\', character]),
                character if character.is_control() => {
                    let mut bytes = [0; 4];
                    character
                        .encode_utf8(&mut bytes)
                        .bytes()
                        .for_each(|byte| escape(&mut text, byte));
                }
                character => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape(&mut text, *byte));
    }
    text
}

/// Passes over a name without reading it.
pub(super) fn skip(cursor: &mut Cursor<'_>) -> Result<(), Short> {
    loop {
        match cursor.u8()? {
            0 => return Ok(()),
            length @ 1..=0x3f => cursor.skip(length.into())?,
            _ => return cursor.skip(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_at(message: &[u8], offset: usize) -> Result<(String, usize), Malformed> {
        let mut cursor = Cursor::new(message.get(offset..).unwrap_or_default());
        read(message, &mut cursor).map(|name| (name, cursor.len()))
    }

    #[test]
    fn pointers_lead_backwards() {
        // RFC 1035 §4.1.4, shortened: F.ISI.ARPA at 0, FOO.F.ISI.ARPA at 12, ARPA at 18, the root at 20.
        let message = b"\x01F\x03ISI\x04ARPA\x00\x03FOO\xc0\x00\xc0\x06\x00";
        assert_eq!(name_at(message, 0), Ok(("F.ISI.ARPA".to_owned(), 9)));
        assert_eq!(name_at(message, 12), Ok(("FOO.F.ISI.ARPA".to_owned(), 3)));
        assert_eq!(name_at(message, 18), Ok(("ARPA".to_owned(), 1)));
        assert_eq!(name_at(message, 20), Ok((String::new(), 0)));
    }

    #[test]
    fn loops_and_forward_pointers_are_refused() {
        assert_eq!(name_at(b"\xc0\x00", 0), Err(Malformed::BadPointer), "to itself");
        assert_eq!(
            name_at(b"\x01a\xc0\x00", 0),
            Err(Malformed::BadPointer),
            "into its own labels"
        );
        assert_eq!(name_at(b"\xc0\x02\x00", 0), Err(Malformed::BadPointer), "forward");
        assert_eq!(name_at(b"\x80\x00", 0), Err(Malformed::BadValue));
        assert_eq!(name_at(b"\x05ab", 0), Err(Malformed::BadLength));
    }

    #[test]
    fn odd_labels_are_escaped() {
        assert_eq!(
            name_at(b"\x03a.b\x04\x01\\\xffc\x00", 0),
            Ok(("a\\.b.\\001\\\\\\255c".to_owned(), 0))
        );
    }

    #[test]
    fn names_are_bounded() {
        let mut message = Vec::new();
        for _ in 0..4 {
            message.push(63);
            message.extend_from_slice(&[b'a'; 63]);
        }
        message.push(0);
        assert_eq!(
            name_at(&message, 0),
            Err(Malformed::BadLength),
            "257 bytes on the wire"
        );
        // A chain of pointers, each to the one before.
        let mut chain = vec![0, 0];
        for index in 0..40_u8 {
            chain.extend_from_slice(&[0xc0, index.saturating_mul(2)]);
        }
        assert_eq!(
            name_at(&chain, chain.len().saturating_sub(2)),
            Err(Malformed::BadPointer)
        );
    }
}
