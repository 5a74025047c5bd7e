//! Fingerprints of hellos: JA3 and JA3S (<https://github.com/salesforce/ja3>) and JA4, the TLS client fingerprint
//! (<https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>, BSD 3-Clause). Of the other JA4+ methods,
//! which have another licence, there are none here.

use super::hello::{ClientHello, ServerHello, is_grease};
use crate::l7::{Crypto, push_decimal, push_hex};

/// The carrier of a ClientHello: JA4's first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::l7) enum Carrier {
    /// TLS over TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// DTLS.
    Dtls,
}

/// The JA3 string: version, ciphers, extensions, groups and point formats in decimal, without GREASE.
pub(super) fn ja3_string(hello: &ClientHello<'_>) -> String {
    let numbers = [&hello.ciphers, &hello.extensions, &hello.groups];
    let count = numbers.iter().map(|list| list.len()).sum::<usize>();
    let mut text = String::with_capacity(count.saturating_mul(6).saturating_add(16));
    push_decimal(&mut text, hello.version);
    for list in numbers {
        text.push(',');
        join_decimal(&mut text, without_grease(list));
    }
    text.push(',');
    join_decimal(&mut text, hello.point_formats.iter().copied().map(u16::from));
    text
}

/// The JA3S string: version, cipher and extensions in decimal.
pub(super) fn ja3s_string(hello: &ServerHello<'_>) -> String {
    let mut text = String::with_capacity(hello.extensions.len().saturating_mul(6).saturating_add(12));
    push_decimal(&mut text, hello.legacy_version);
    text.push(',');
    push_decimal(&mut text, hello.cipher);
    text.push(',');
    join_decimal(&mut text, without_grease(&hello.extensions));
    text
}

/// The JA4 fingerprint.
pub(super) fn ja4(hello: &ClientHello<'_>, carrier: Carrier, crypto: &dyn Crypto) -> String {
    let mut ciphers: Vec<u16> = without_grease(&hello.ciphers).collect();
    let mut extensions: Vec<u16> = without_grease(&hello.extensions).collect();
    let (cipher_count, extension_count) = (ciphers.len().min(99), extensions.len().min(99));
    ciphers.sort_unstable();
    // The count has SNI and ALPN, the hash does not: the same program with and without them hashes alike.
    extensions.retain(|number| !matches!(number, 0x0000 | 0x0010));
    extensions.sort_unstable();

    let mut text = String::with_capacity(36);
    text.push(match carrier {
        Carrier::Tcp => 't',
        Carrier::Quic => 'q',
        Carrier::Dtls => 'd',
    });
    text.push_str(version(hello));
    text.push(if hello.has_server_name() { 'd' } else { 'i' });
    for count in [cipher_count, extension_count] {
        if count < 10 {
            text.push('0');
        }
        push_decimal(&mut text, count as u16);
    }
    text.extend(alpn_characters(hello.alpn.first().copied().unwrap_or_default()));
    let most = ciphers
        .len()
        .max(extensions.len().saturating_add(hello.signature_algorithms.len()));
    let mut list = String::with_capacity(most.saturating_mul(5));
    join_hexadecimal(&mut list, ciphers.into_iter());
    push_truncated_hash(&mut text, &list, crypto);
    list.clear();
    join_hexadecimal(&mut list, extensions.into_iter());
    if !list.is_empty() && !hello.signature_algorithms.is_empty() {
        list.push('_');
        join_hexadecimal(&mut list, without_grease(&hello.signature_algorithms));
    }
    push_truncated_hash(&mut text, &list, crypto);
    text
}

/// The highest version offered, in two characters. The numbers of DTLS count downwards.
fn version(hello: &ClientHello<'_>) -> &'static str {
    let highest = hello
        .versions()
        .into_iter()
        .max_by_key(|&version| if version >= 0xfe00 { !version } else { version });
    match highest {
        Some(0xfefc) => "d3",
        Some(0xfefd) => "d2",
        Some(0xfeff) => "d1",
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        Some(0x0002) => "s2",
        _ => "00",
    }
}

/// First and last character of the first ALPN value; those of its hexadecimal form where either byte is not an ASCII
/// letter or digit; `00` where there is no value.
fn alpn_characters(value: &[u8]) -> [char; 2] {
    let (Some(&first), Some(&last)) = (value.first(), value.last()) else {
        return ['0', '0'];
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first.into(), last.into()];
    }
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    [digit(first >> 4), digit(last & 0x0f)]
}

/// Appends `_` and the first twelve hexadecimal characters of the SHA-256; twelve zeros for an empty list.
fn push_truncated_hash(text: &mut String, list: &str, crypto: &dyn Crypto) {
    text.push('_');
    let digest = if list.is_empty() {
        [0; 32]
    } else {
        crypto.sha256(list.as_bytes())
    };
    push_hex(text, digest.get(..6).unwrap_or_default());
}

fn without_grease(values: &[u16]) -> impl Iterator<Item = u16> {
    values.iter().copied().filter(|&value| !is_grease(value))
}

fn join_hexadecimal(text: &mut String, values: impl Iterator<Item = u16>) {
    for (place, value) in values.enumerate() {
        if place > 0 {
            text.push(',');
        }
        push_hex(text, &value.to_be_bytes());
    }
}

fn join_decimal(text: &mut String, values: impl Iterator<Item = u16>) {
    for (place, value) in values.enumerate() {
        if place > 0 {
            text.push('-');
        }
        push_decimal(text, value);
    }
}
