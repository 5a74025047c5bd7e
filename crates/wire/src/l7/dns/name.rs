//! Domain names with compression (RFC 1035 §4.1.4) as text: exactly, and as they are shown to people.

use crate::cursor::{Cursor, Short};
use crate::l7::Malformed;
use std::borrow::Cow;

/// The longest name on the wire (RFC 1035 §3.1).
const MAX_NAME_BYTES: usize = 255;
/// Pointers that are followed for one name. Each must point backwards, so that loops end anyway; this bounds the work.
const MAX_POINTERS: usize = 32;

/// Why a name cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has a label of an unknown type (RFC 6891 §5), so that its end is unknown too.
    Label,
    /// It has a pointer to itself, or a chain of pointers that is too long. The cursor is behind the name.
    Loop,
    /// It is damaged in another way.
    Damaged(Malformed),
}

impl Unreadable {
    /// What is shown in the place of a name, which is what Wireshark shows.
    pub(super) const NOTES: [&'static str; 2] =
        ["<Unknown extended label>", "<Name contains a pointer that loops>"];

    /// What is shown in the place of this name.
    pub(super) fn note(self) -> Option<&'static str> {
        let [label, pointer] = Self::NOTES;
        match self {
            Self::Label => Some(label),
            Self::Loop => Some(pointer),
            Self::Damaged(_) => None,
        }
    }
}

impl From<Short> for Unreadable {
    fn from(short: Short) -> Self {
        Self::Damaged(short.into())
    }
}

impl From<Unreadable> for Malformed {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Label => Self::BadValue,
            Unreadable::Loop => Self::BadPointer,
            Unreadable::Damaged(why) => why,
        }
    }
}

/// Appends the name at `cursor`, which is a cursor into `message`, and leaves the cursor behind it. Labels are joined by
/// dots, without one at the end; the root is the empty text. A dot inside a label is written `\.`.
pub(super) fn append<'a>(
    text: &mut String,
    message: &'a [u8],
    cursor: &mut Cursor<'a>,
) -> Result<(), Unreadable> {
    let start = text.len();
    walk(message, cursor, |label| {
        if text.len() > start {
            text.push('.');
        }
        push_label(text, label);
    })
}

/// As [`append`], with the root as a dot: for a name that is one field of several.
pub(super) fn append_dotted<'a>(
    text: &mut String,
    message: &'a [u8],
    cursor: &mut Cursor<'a>,
) -> Result<(), Unreadable> {
    let start = text.len();
    append(text, message, cursor)?;
    if text.len() == start {
        text.push_str(ROOT);
    }
    Ok(())
}

/// Hands over the labels of the name at `cursor`, which is a cursor into `message`, and leaves the cursor behind it.
pub(super) fn walk<'a>(
    message: &'a [u8],
    cursor: &mut Cursor<'a>,
    mut each: impl FnMut(&'a [u8]),
) -> Result<(), Unreadable> {
    let mut wire_bytes: usize = 0;
    // Where the present run of labels begins: a pointer must lead before it.
    let mut start = message
        .len()
        .checked_sub(cursor.len())
        .ok_or(Unreadable::Damaged(Malformed::BadPointer))?;
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
                    return Err(Unreadable::Damaged(Malformed::BadLength));
                }
                each(labels.take(length.into())?);
            }
            0b11 => {
                let low = labels.u8()?;
                let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if pointers == 0 {
                    *cursor = labels;
                }
                pointers = pointers.saturating_add(1);
                // A pointer to itself or to the labels before it, or a long chain of them, which may be a loop.
                let own = message.len().saturating_sub(labels.len());
                if (start..own).contains(&target) || pointers > MAX_POINTERS {
                    return Err(Unreadable::Loop);
                }
                if target >= own {
                    return Err(Unreadable::Damaged(Malformed::BadPointer));
                }
                start = target;
                labels = Cursor::new(
                    message
                        .get(target..)
                        .ok_or(Unreadable::Damaged(Malformed::BadPointer))?,
                );
            }
            // 0b01 and 0b10 were extended label types (RFC 6891 §5); none is in use.
            _ => return Err(Unreadable::Label),
        }
    }
    if pointers == 0 {
        *cursor = labels;
    }
    Ok(())
}

/// Appends a label in presentation form (RFC 1035 §5.1, RFC 4343 §2.1): a dot and a backslash stand behind a backslash, bytes
/// that are neither printable nor part of UTF-8 (which mDNS uses, RFC 6762 §16) are `\DDD` in decimal.
pub(super) fn push_label(text: &mut String, label: &[u8]) {
    push_escaped(text, label, ['.', '\\']);
}

/// Appends a character string in quotation marks (RFC 1035 §5.1), which stand behind a backslash in it; else like a label.
pub(super) fn push_quoted(text: &mut String, string: &[u8]) {
    text.push('"');
    push_escaped(text, string, ['"', '\\']);
    text.push('"');
}

fn push_escaped(text: &mut String, bytes: &[u8], special: [char; 2]) {
    if let Ok(plain) = std::str::from_utf8(bytes)
        && plain
            .chars()
            .all(|character| (' '..='~').contains(&character) && !special.contains(&character))
    {
        text.push_str(plain);
        return;
    }
    // Without the machinery of `write!`: a sender may let every byte need it.
    let escape = |text: &mut String, byte: u8| {
        let digits = [byte / 100, byte / 10 % 10, byte % 10].map(|digit| char::from(b'0' | digit));
        text.push('\\');
        text.extend(digits);
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                character if special.contains(&character) => text.extend(['\\', character]),
                character if character.is_control() => {
                    let mut bytes = [0; 4];
                    character
                        .encode_utf8(&mut bytes)
                        .bytes()
                        .for_each(|byte| escape(text, byte));
                }
                character => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape(text, *byte));
    }
}

/// The root in presentation form.
pub(super) const ROOT: &str = ".";

/// A name as one field of several: the root, which is empty text, as a dot.
pub(super) fn dotted(name: &str) -> &str {
    if name.is_empty() { ROOT } else { name }
}

/// A name in presentation form as it is shown to people, which is as Wireshark shows `dns.qry.name`: without
/// backslashes before dots, `<Root>` for the root, control characters as in C (`\r`, `\033` in octal), characters that
/// do not show as `\u200B`, and U+FFFD for each sequence of bytes that is not UTF-8 (RFC 3629 §4), overlong ones too.
pub(super) fn shown(exact: &str) -> Cow<'_, str> {
    if exact.is_empty() {
        return Cow::Borrowed("<Root>");
    }
    if exact
        .bytes()
        .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\')
    {
        return Cow::Borrowed(exact);
    }
    let bytes = unescaped(exact);
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let length = sequence_length(rest);
        let (sequence, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        match std::str::from_utf8(sequence).map(|valid| valid.chars().next()) {
            Ok(Some(character)) => show(&mut text, character),
            _ => text.push(char::REPLACEMENT_CHARACTER),
        }
        rest = behind;
    }
    Cow::Owned(text)
}

/// The bytes of a name in presentation form, dots between labels included.
fn unescaped(exact: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(exact.len());
    let mut rest = exact.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let number = rest
            .first_chunk::<3>()
            .filter(|digits| digits.iter().all(u8::is_ascii_digit))
            .and_then(|digits| {
                let number = digits.iter().fold(0_u16, |number, digit| {
                    number.saturating_mul(10).saturating_add(u16::from(digit & 0x0f))
                });
                u8::try_from(number).ok()
            });
        let (byte, length) = match number {
            Some(byte) => (Some(byte), 3),
            None => (rest.first().copied(), 1),
        };
        bytes.extend(byte);
        rest = rest.get(length..).unwrap_or_default();
    }
    bytes
}

/// The length of the sequence that begins with the first byte, by what that announces (up to six bytes, RFC 2279) and as
/// far as continuation bytes follow.
fn sequence_length(bytes: &[u8]) -> usize {
    let announced = match bytes.first().map_or(0, |byte| byte.leading_ones()) {
        ones @ 2..=6 => ones,
        _ => 1,
    };
    let continued = bytes.iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80);
    continued.count().saturating_add(1).min(announced as usize)
}

/// Adds a character as it is shown.
fn show(text: &mut String, character: char) {
    let letter = match character {
        '\u{07}' => 'a',
        '\u{08}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{0b}' => 'v',
        '\u{0c}' => 'f',
        '\r' => 'r',
        character => {
            let number = u32::from(character);
            match number {
                0..=0x1f | 0x7f => push_digits(text, "\\", number, 3, 3),
                _ if has_shape(character) => text.push(character),
                ..=0xffff => push_digits(text, "\\u", number, 4, 4),
                _ => push_digits(text, "\\U", number, 4, 8),
            }
            return;
        }
    };
    text.extend(['\\', letter]);
}

/// Adds a number in so many digits of so many bits each, behind `front`; without the machinery of `write!`, as in
/// [`push_escaped`].
fn push_digits(text: &mut String, front: &str, number: u32, bits: u32, count: u32) {
    text.push_str(front);
    for place in (0..count).rev() {
        let digit = number.unbounded_shr(place.saturating_mul(bits)) as u8
            & 1_u8.unbounded_shl(bits).saturating_sub(1);
        text.push(char::from(if digit < 10 {
            b'0' | digit
        } else {
            b'7'.wrapping_add(digit)
        }));
    }
}

/// Whether a character can be told by looking: it is neither a control nor a format character nor unassigned.
fn has_shape(character: char) -> bool {
    if character.is_ascii() || character.is_whitespace() {
        return !character.is_control();
    }
    // Most are of words, which is told faster.
    if character.is_alphanumeric() {
        return true;
    }
    // Behind another character, where combining ones are shown too.
    let mut bytes = *b"a....";
    let [_, behind @ ..] = &mut bytes;
    let end = character.encode_utf8(behind).len().saturating_add(1);
    let text = bytes.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.is_some_and(|text| text.escape_debug().nth(1) == Some(character))
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

    fn name_at(message: &[u8], offset: usize) -> Result<(String, usize), Unreadable> {
        let mut cursor = Cursor::new(message.get(offset..).unwrap_or_default());
        let mut name = String::new();
        append(&mut name, message, &mut cursor).map(|()| (name, cursor.len()))
    }

    fn label_text(label: &[u8]) -> String {
        let mut text = String::new();
        push_label(&mut text, label);
        text
    }

    #[test]
    fn names_are_appended() {
        let message = b"\x01a\x01b\x00\x00";
        let mut cursor = Cursor::new(message.as_slice());
        let mut text = "7 ".to_owned();
        assert_eq!(append_dotted(&mut text, message, &mut cursor), Ok(()));
        assert_eq!(append_dotted(&mut text, message, &mut cursor), Ok(()));
        assert_eq!((text.as_str(), cursor.len()), ("7 a.b.", 0));
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
        let damaged = |why| Err(Unreadable::Damaged(why));
        assert_eq!(name_at(b"\xc0\x00", 0), Err(Unreadable::Loop), "to itself");
        assert_eq!(
            name_at(b"\x01a\xc0\x00", 0),
            Err(Unreadable::Loop),
            "into its own labels"
        );
        assert_eq!(
            name_at(b"\xc0\x02\x00", 0),
            damaged(Malformed::BadPointer),
            "forward"
        );
        assert_eq!(name_at(b"\x80\x00", 0), Err(Unreadable::Label));
        assert_eq!(name_at(b"\x05ab", 0), damaged(Malformed::BadLength));
    }

    #[test]
    fn odd_labels_are_escaped() {
        assert_eq!(
            name_at(b"\x03a.b\x04\x01\\\xffc\x00", 0),
            Ok(("a\\.b.\\001\\\\\\255c".to_owned(), 0))
        );
    }

    #[test]
    fn character_strings_are_quoted() {
        let quoted = |string: &[u8]| {
            let mut text = String::new();
            push_quoted(&mut text, string);
            text
        };
        assert_eq!(quoted(b""), "\"\"");
        assert_eq!(quoted(b"a b.\"c\"\\\xff\x00"), "\"a b.\\\"c\\\"\\\\\\255\\000\"");
        for byte in (0..b' ').chain(0x7f..=u8::MAX) {
            let text = label_text(&[byte]);
            assert_eq!(text, format!("\\{byte:03}"));
            assert_eq!(unescaped(&text), [byte]);
        }
    }

    #[test]
    fn names_are_shown_as_wireshark_shows_them() {
        // What TShark 4.0 prints for `dns.qry.name` when these are the labels.
        let cases: [(&[u8], &str); 14] = [
            (b"www", "www"),
            ("grün".as_bytes(), "grün"),
            (b"a.b", "a.b"),
            (b"back\\slash", "back\\slash"),
            (
                b"x\x00\x07\x08\x0b\x0c\n\r\t\x1b\x7f",
                "x\\000\\a\\b\\v\\f\\n\\r\\t\\033\\177",
            ),
            (b"x\x80y", "x\u{fffd}y"),
            (b"x\xe2\x82y", "x\u{fffd}y"),
            (b"x\xf8\x88\x80\x80\x80y", "x\u{fffd}y"),
            (b"x\xed\xa0\x80y", "x\u{fffd}y"),
            (b"x\xff\xfey", "x\u{fffd}\u{fffd}y"),
            ("a\u{200b}b".as_bytes(), "a\\u200Bb"),
            ("a\u{e0001}b".as_bytes(), "a\\U000E0001b"),
            ("e\u{301}\u{a0}😀".as_bytes(), "e\u{301}\u{a0}😀"),
            (b"", "<Root>"),
        ];
        for (label, expected) in cases {
            let exact = label_text(label);
            assert_eq!(shown(&exact), expected, "{exact}");
            assert_eq!(unescaped(&exact), label, "{exact}");
        }
        for character in '\u{80}'..=char::MAX {
            let text = format!("a{character}");
            let plain = character.is_whitespace() && !character.is_control();
            let has_shape = plain || text.escape_debug().nth(1) == Some(character);
            assert_eq!(super::has_shape(character), has_shape, "{character:?}");
        }
        // Where Wireshark reads an overlong sequence as the character, here a dot (RFC 3629 §3 forbids it).
        assert_eq!(shown(&label_text(b"a\xc0\xaeb")), "a\u{fffd}b");
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
            Err(Unreadable::Damaged(Malformed::BadLength)),
            "257 bytes on the wire"
        );
        // A chain of pointers, each to the one before.
        let mut chain = vec![0, 0];
        for index in 0..40_u8 {
            chain.extend_from_slice(&[0xc0, index.saturating_mul(2)]);
        }
        assert_eq!(
            name_at(&chain, chain.len().saturating_sub(2)),
            Err(Unreadable::Loop)
        );
    }
}
