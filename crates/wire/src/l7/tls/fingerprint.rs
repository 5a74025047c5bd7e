//! Fingerprints of hellos: JA3 and JA3S (<https://github.com/salesforce/ja3>) and JA4, the TLS client fingerprint
//! (<https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md>, BSD 3-Clause). Of the other JA4+ methods,
//! which have another licence, there are none here.

use super::hello::{ClientHello, ServerHello, is_grease};
use crate::l7::value::{Gathered, Packed, Text};
use crate::l7::{Crypto, hex_of, push_decimal, push_hex};

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

/// The JA3 string: version, ciphers, extensions, groups and point formats in decimal, without GREASE. It takes the place of
/// what was in `text`.
pub(super) fn write_ja3(text: &mut Vec<u8>, hello: &ClientHello<'_>) {
    let lists = [hello.ciphers.len(), hello.extensions.len(), hello.groups.len()];
    let count = lists.iter().fold(hello.point_formats.len(), |sum, length| {
        sum.saturating_add(*length)
    });
    text.clear();
    text.reserve(count.saturating_mul(6).saturating_add(16));
    push_decimal(text, hello.version);
    text.push(b',');
    join_decimal(text, without_grease(hello.ciphers.iter()));
    text.push(b',');
    join_decimal(text, without_grease(hello.extensions.iter().copied()));
    text.push(b',');
    join_decimal(text, without_grease(hello.groups.iter()));
    text.push(b',');
    join_decimal(text, hello.point_formats.iter().copied().map(u16::from));
}

/// The JA3S string: version, cipher and extensions in decimal.
pub(super) fn ja3s_string(hello: &ServerHello<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(hello.extensions.len().saturating_mul(6).saturating_add(12));
    push_decimal(&mut text, hello.legacy_version);
    text.push(b',');
    push_decimal(&mut text, hello.cipher);
    text.push(b',');
    join_decimal(&mut text, without_grease(hello.extensions.iter().copied()));
    text
}

/// The JA4 fingerprint; `scratch` is overwritten.
pub(super) fn ja4(
    hello: &ClientHello<'_>,
    carrier: Carrier,
    crypto: &dyn Crypto,
    scratch: &mut Vec<u8>,
) -> Text<38> {
    let mut ciphers: Gathered<u16, 64> = without_grease(hello.ciphers.iter()).collect();
    let extension_count = without_grease(hello.extensions.iter().copied()).count().min(99);
    let cipher_count = ciphers.len().min(99);
    ciphers.sort_unstable();
    // The count has SNI and ALPN, the hash does not: the same program with and without them hashes alike.
    let mut extensions: Gathered<u16, 64> = without_grease(hello.extensions.iter().copied())
        .filter(|number| !matches!(number, 0x0000 | 0x0010))
        .collect();
    extensions.sort_unstable();

    scratch.clear();
    join_hexadecimal(scratch, ciphers.iter().copied());
    let cipher_hash = truncated_hash(scratch, crypto);
    scratch.clear();
    join_hexadecimal(scratch, extensions.iter().copied());
    if !scratch.is_empty() && hello.signature_algorithms.len() > 0 {
        scratch.push(b'_');
        join_hexadecimal(scratch, without_grease(hello.signature_algorithms.iter()));
    }
    let extension_hash = truncated_hash(scratch, crypto);

    let text = scratch;
    text.clear();
    text.push(match carrier {
        Carrier::Tcp => b't',
        Carrier::Quic => b'q',
        Carrier::Dtls => b'd',
    });
    text.extend_from_slice(version(hello));
    text.push(if hello.has_server_name() { b'd' } else { b'i' });
    for count in [cipher_count, extension_count] {
        if count < 10 {
            text.push(b'0');
        }
        push_decimal(text, count as u16);
    }
    text.extend_from_slice(&alpn_characters(Packed(hello.alpn).next().unwrap_or_default()));
    for hash in [cipher_hash, extension_hash] {
        text.push(b'_');
        push_hex(text, &hash);
    }
    Text::from_ascii(text)
}

/// The highest version offered, in two characters. The numbers of DTLS count downwards.
fn version(hello: &ClientHello<'_>) -> &'static [u8; 2] {
    let highest = hello
        .versions()
        .max_by_key(|&version| if version >= 0xfe00 { !version } else { version });
    match highest {
        Some(0xfefc) => b"d3",
        Some(0xfefd) => b"d2",
        Some(0xfeff) => b"d1",
        Some(0x0304) => b"13",
        Some(0x0303) => b"12",
        Some(0x0302) => b"11",
        Some(0x0301) => b"10",
        Some(0x0300) => b"s3",
        Some(0x0002) => b"s2",
        _ => b"00",
    }
}

/// First and last character of the first ALPN value; those of its hexadecimal form where either byte is not an ASCII
/// letter or digit; `00` where there is no value.
fn alpn_characters(value: &[u8]) -> [u8; 2] {
    let (Some(&first), Some(&last)) = (value.first(), value.last()) else {
        return *b"00";
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last];
    }
    let ([high, _], [_, low]) = (hex_of(first), hex_of(last));
    [high, low]
}

/// The first six bytes of the SHA-256; zeros for an empty list.
fn truncated_hash(list: &[u8], crypto: &dyn Crypto) -> [u8; 6] {
    let digest = if list.is_empty() {
        [0; 32]
    } else {
        crypto.sha256(list)
    };
    digest.first_chunk().copied().unwrap_or_default()
}

fn without_grease(values: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    values.filter(|&value| !is_grease(value))
}

fn join_hexadecimal(text: &mut Vec<u8>, values: impl Iterator<Item = u16>) {
    for (place, value) in values.enumerate() {
        let [[a, b], [c, d]] = value.to_be_bytes().map(hex_of);
        if place > 0 {
            text.extend_from_slice(&[b',', a, b, c, d]);
        } else {
            text.extend_from_slice(&[a, b, c, d]);
        }
    }
}

fn join_decimal(text: &mut Vec<u8>, values: impl Iterator<Item = u16>) {
    for (place, value) in values.enumerate() {
        if place > 0 {
            text.push(b'-');
        }
        push_decimal(text, value);
    }
}
