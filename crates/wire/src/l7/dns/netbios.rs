//! What the NetBIOS name service (RFC 1001, RFC 1002) has of its own beside the message format of DNS: encoded names,
//! two types, and other operations.

use super::message::MAX_DATA_BYTES;
use crate::cursor::Cursor;
use std::borrow::Cow;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Bytes of an encoded name's first label (RFC 1001 §14.1): 16 bytes, each as two letters.
const ENCODED_BYTES: usize = 32;
/// Bytes of a name and its flags in a node's status (RFC 1002 §4.2.18).
const STATUS_NAME_BYTES: usize = 18;
/// Names that are read of a node's status: those that are whole in the data that is shown, behind their number.
const MAX_NAMES: usize = (MAX_DATA_BYTES - 1) / STATUS_NAME_BYTES;

/// Types (RFC 1002 §4.2.1.3).
mod kind {
    pub(super) const NAME: u16 = 0x20;
    pub(super) const NODE_STATUS: u16 = 0x21;
}

/// Whether the label at a name's front is an encoded one.
pub(super) fn is_encoded(name: &[u8]) -> bool {
    name.split_first().is_some_and(|(length, rest)| {
        usize::from(*length) == ENCODED_BYTES
            && rest
                .get(..ENCODED_BYTES)
                .is_some_and(|label| label.iter().all(|byte| (b'A'..=b'P').contains(byte)))
    })
}

/// The name as users know it, `OFFICE<20>`: 15 characters without the spaces that fill them, the suffix that says the
/// kind of name in hexadecimal, and the scope behind a dot. A name that is not encoded stays.
pub(super) fn name(encoded: &str) -> String {
    let (label, scope) = encoded.split_once('.').unwrap_or((encoded, ""));
    let nibble = |letter: &u8| letter.wrapping_sub(b'A') & 0x0f;
    let plain = label.len() == ENCODED_BYTES && label.bytes().all(|byte| (b'A'..=b'P').contains(&byte));
    if !plain {
        return encoded.to_owned();
    }
    let bytes: Vec<u8> = label
        .as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, letter| (byte << 4) | nibble(letter)))
        .collect();
    let mut name = decoded(&bytes);
    if !scope.is_empty() {
        name.push('.');
        name.push_str(scope);
    }
    name
}

/// 15 characters and a suffix.
fn decoded(bytes: &[u8]) -> String {
    let (suffix, characters) = bytes.split_last().unwrap_or((&0, &[]));
    let end = characters
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | 0))
        .map_or(0, |last| last.saturating_add(1));
    let mut name = String::new();
    super::name::push_label(&mut name, characters.get(..end).unwrap_or_default());
    // Writing to a String cannot fail.
    let _ = write!(name, "<{suffix:02x}>");
    name
}

/// The mnemonic of a type, if it is one of NetBIOS.
pub(super) fn type_name(kind: u16) -> Option<Cow<'static, str>> {
    match kind {
        kind::NAME => Some(Cow::Borrowed("NB")),
        kind::NODE_STATUS => Some(Cow::Borrowed("NBSTAT")),
        _ => None,
    }
}

/// The mnemonic of an operation (RFC 1002 §4.2.1.1), if it is not one of DNS too.
pub(super) fn opcode_name(opcode: u8) -> Option<Cow<'static, str>> {
    Some(Cow::Borrowed(match opcode {
        5 => "REGISTRATION",
        6 => "RELEASE",
        7 => "WACK",
        8 | 9 => "REFRESH",
        15 => "MULTIHOMED_REGISTRATION",
        _ => return None,
    }))
}

/// The mnemonic of a response code (RFC 1002 §4.2.6), if it has not the meaning that it has in DNS.
pub(super) fn code_name(code: u16) -> Option<Cow<'static, str>> {
    match code {
        6 => Some(Cow::Borrowed("ACT_ERR")),
        7 => Some(Cow::Borrowed("CFT_ERR")),
        _ => None,
    }
}

/// The data of a record as text, if it is of a type of NetBIOS: addresses, or the names of a node, as far as they are
/// whole in the bytes that are shown of any record.
pub(super) fn data_text(kind: u16, bytes: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(bytes.get(..MAX_DATA_BYTES).unwrap_or(bytes));
    let mut parts = Vec::new();
    match kind {
        kind::NAME => {
            // RFC 1002 §4.2.13: flags and an address, for each owner.
            while let (Ok(_), Ok(address)) = (cursor.u16(), cursor.array::<4>()) {
                parts.push(Ipv4Addr::from(address).to_string());
            }
        }
        kind::NODE_STATUS => {
            // RFC 1002 §4.2.18: each name in 16 bytes, not encoded, and its flags.
            let count = cursor.u8().ok()?;
            for _ in 0..usize::from(count).min(MAX_NAMES) {
                let name = cursor.array::<16>().ok()?;
                cursor.skip(2).ok()?;
                parts.push(decoded(&name));
            }
        }
        _ => return None,
    }
    Some(parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded() {
        // As in RFC 1001 §14.1: "The NetBIOS name" in the scope SCOPE.ID.COM.
        let encoded = "FEGIGFCAEOGFHEECEJEPFDCAGOGBGNGF.SCOPE.ID.COM";
        assert_eq!(name(encoded), "The NetBIOS nam<65>.SCOPE.ID.COM");
        assert_eq!(name("CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "*<00>");
        assert_eq!(name("EPEGEGEJEDEFCACACACACACACACACACA"), "OFFICE<20>");
        assert_eq!(name("www.example.org"), "www.example.org");
        assert!(is_encoded(b"\x20EPEGEGEJEDEFCACACACACACACACACACA\0"));
        assert!(!is_encoded(b"\x03www\0") && !is_encoded(b"\x20EPEGEG"));
    }

    #[test]
    fn data_is_shown() {
        let owners = [0x60, 0, 192, 0, 2, 20, 0, 0, 192, 0, 2, 21];
        assert_eq!(
            data_text(kind::NAME, &owners).as_deref(),
            Some("192.0.2.20 192.0.2.21")
        );
        let status = [&[1], b"OFFICE          ".as_slice(), &[4, 0], &[0; 46]].concat();
        assert_eq!(
            data_text(kind::NODE_STATUS, &status).as_deref(),
            Some("OFFICE<20>")
        );
        assert_eq!(data_text(kind::NODE_STATUS, &[2]), None);
        assert_eq!(data_text(1, &[]), None);
    }

    #[test]
    fn data_is_cut() {
        let owners = [0x60, 0, 192, 0, 2, 20].repeat(10_000);
        let text = data_text(kind::NAME, &owners).unwrap_or_default();
        assert_eq!(text.split(' ').count(), MAX_DATA_BYTES / 6);
        let name = [b"OFFICE          ".as_slice(), &[4, 0]].concat();
        let status = [&[255], name.repeat(255).as_slice()].concat();
        let text = data_text(kind::NODE_STATUS, &status).unwrap_or_default();
        assert_eq!(text.split(' ').count(), 28, "whole in 512 bytes");
    }
}
