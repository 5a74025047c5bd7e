//! The few facts of an X.509 certificate (RFC 5280) that a record shows, by a reader for just the DER (X.690) they need.
//!
//! Nothing is verified. A certificate is read as far as it goes: a field that cannot be read is empty.

use crate::cursor::{Cursor, Short};
use crate::text;
use std::fmt::Write;

/// Alternative names that are kept; a certificate may carry thousands.
const MAX_NAMES: usize = 64;
/// Attributes that are kept of a distinguished name.
const MAX_ATTRIBUTES: usize = 16;
/// Bytes that are read of one name or attribute value.
const MAX_VALUE_BYTES: usize = 256;
/// Bytes that are kept of a distinguished name. Certificates in use have some 200.
const MAX_DISTINGUISHED_NAME_BYTES: usize = 4096;

/// DER tags (X.690 §8.1.2).
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(super) const BMP_STRING: u8 = 0x1e;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    pub(super) const VERSION: u8 = 0xa0;
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// subjectAltName, 2.5.29.17.
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What is known of a certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Certificate {
    /// The serial number in hexadecimal.
    pub(super) serial: String,
    /// The issuer as in RFC 4514.
    pub(super) issuer: String,
    /// The subject as in RFC 4514.
    pub(super) subject: String,
    /// UTC nanoseconds since 1970; `None` beyond what 64 bits hold (the year 2262).
    pub(super) not_before: Option<i64>,
    /// As `not_before`.
    pub(super) not_after: Option<i64>,
    /// DNS names, IP addresses, e-mail addresses and URIs of the subjectAltName.
    pub(super) names: Vec<String>,
    /// Names of these kinds beyond those that are kept.
    pub(super) names_omitted: u32,
}

impl Certificate {
    /// Reads a DER certificate.
    pub(super) fn parse(der: &[u8]) -> Self {
        let mut certificate = Self::default();
        // What was read before a fault stays: see the module's note.
        let _ = certificate.read(der);
        certificate
    }

    fn read(&mut self, der: &[u8]) -> Result<(), Short> {
        let mut outer = Cursor::new(expect(&mut Cursor::new(der), tag::SEQUENCE)?);
        let mut fields = Cursor::new(expect(&mut outer, tag::SEQUENCE)?);
        if fields.rest().first() == Some(&tag::VERSION) {
            element(&mut fields)?;
        }
        let serial = expect(&mut fields, tag::INTEGER)?;
        self.serial = crate::l7::hex(serial.get(..MAX_VALUE_BYTES).unwrap_or(serial));
        expect(&mut fields, tag::SEQUENCE)?; // signature algorithm
        self.issuer = distinguished_name(expect(&mut fields, tag::SEQUENCE)?);
        let mut validity = Cursor::new(expect(&mut fields, tag::SEQUENCE)?);
        self.not_before = element(&mut validity)
            .ok()
            .and_then(|(tag, value)| time(tag, value));
        self.not_after = element(&mut validity)
            .ok()
            .and_then(|(tag, value)| time(tag, value));
        self.subject = distinguished_name(expect(&mut fields, tag::SEQUENCE)?);
        while !fields.is_empty() {
            if let (tag::EXTENSIONS, value) = element(&mut fields)? {
                let mut extensions = Cursor::new(expect(&mut Cursor::new(value), tag::SEQUENCE)?);
                while !extensions.is_empty() {
                    self.read_extension(expect(&mut extensions, tag::SEQUENCE)?)?;
                }
            }
        }
        Ok(())
    }

    fn read_extension(&mut self, extension: &[u8]) -> Result<(), Short> {
        let mut fields = Cursor::new(extension);
        if expect(&mut fields, tag::OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAME {
            return Ok(());
        }
        while !fields.is_empty() {
            if let (tag::OCTET_STRING, value) = element(&mut fields)? {
                let mut names = Cursor::new(expect(&mut Cursor::new(value), tag::SEQUENCE)?);
                while !names.is_empty() {
                    let (kind, value) = element(&mut names)?;
                    let is_full = self.names.len() >= MAX_NAMES;
                    // RFC 5280 §4.2.1.6: [1] rfc822Name, [2] dNSName, [6] uniformResourceIdentifier, [7] iPAddress.
                    match (kind, value.len()) {
                        (0x81 | 0x82 | 0x86, _) | (0x87, 4 | 16) if is_full => {
                            self.names_omitted = self.names_omitted.saturating_add(1);
                        }
                        (0x81 | 0x82 | 0x86, _) => self.names.push(text::from_wire(value, MAX_VALUE_BYTES)),
                        (0x87, _) => self.names.extend(address(value)),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// The next element's tag and content. Lengths of up to four bytes; no indefinite form, which DER forbids.
fn element<'a>(cursor: &mut Cursor<'a>) -> Result<(u8, &'a [u8]), Short> {
    let tag = cursor.u8()?;
    let length = match cursor.u8()? {
        short @ 0..=0x7f => u32::from(short),
        0x81 => cursor.u8()?.into(),
        0x82 => cursor.u16()?.into(),
        0x83 => cursor.u24()?,
        0x84 => cursor.u32()?,
        _ => return Err(Short),
    };
    let content = cursor.take(usize::try_from(length).map_err(|_| Short)?)?;
    Ok((tag, content))
}

/// The next element's content, which must have that tag.
fn expect<'a>(cursor: &mut Cursor<'a>, tag: u8) -> Result<&'a [u8], Short> {
    match element(cursor)? {
        (found, content) if found == tag => Ok(content),
        _ => Err(Short),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

/// A Name as in RFC 4514: the last attribute first, joined by commas; cut between two characters.
fn distinguished_name(name: &[u8]) -> String {
    let mut attributes = Vec::new();
    let mut sets = Cursor::new(name);
    while let Ok(set) = expect(&mut sets, tag::SET) {
        let mut set = Cursor::new(set);
        let mut relative = Vec::new();
        while let Ok(pair) = expect(&mut set, tag::SEQUENCE) {
            if relative.len() >= MAX_ATTRIBUTES {
                break;
            }
            let mut pair = Cursor::new(pair);
            if let (Ok(kind), Ok((tag, value))) =
                (expect(&mut pair, tag::OBJECT_IDENTIFIER), element(&mut pair))
            {
                relative.push(format!("{}={}", attribute_type(kind), string(tag, value)));
            }
        }
        if attributes.len() >= MAX_ATTRIBUTES {
            break;
        }
        if !relative.is_empty() {
            attributes.push(relative.join("+"));
        }
    }
    attributes.reverse();
    let name = attributes.join(",");
    if name.len() <= MAX_DISTINGUISHED_NAME_BYTES {
        return name;
    }
    let kept = (0..=MAX_DISTINGUISHED_NAME_BYTES)
        .rev()
        .find_map(|end| name.get(..end));
    kept.unwrap_or_default().to_owned()
}

/// The keyword of an attribute type (RFC 4514 §3, and those in common use), else the dotted number.
fn attribute_type(identifier: &[u8]) -> String {
    let keyword = match identifier {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x04] => "SN",
        [0x55, 0x04, 0x05] => "serialNumber",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x09] => "street",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        [0x55, 0x04, 0x0c] => "title",
        [0x55, 0x04, 0x11] => "postalCode",
        [0x55, 0x04, 0x2a] => "GN",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => "UID",
        _ => return dotted(identifier),
    };
    keyword.to_owned()
}

/// An object identifier in dotted decimal (X.690 §8.19).
fn dotted(identifier: &[u8]) -> String {
    let mut text = String::new();
    let mut arc: u64 = 0;
    for byte in identifier.iter().take(MAX_VALUE_BYTES) {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            // Writing to a String cannot fail.
            let _ = if text.is_empty() {
                let first = (arc / 40).min(2);
                write!(text, "{first}.{}", arc.saturating_sub(first.saturating_mul(40)))
            } else {
                write!(text, ".{arc}")
            };
            arc = 0;
        }
    }
    text
}

/// An attribute's value: a character string of any of the types that names use, else its DER.
fn string(tag: u8, value: &[u8]) -> String {
    let value = value.get(..MAX_VALUE_BYTES).unwrap_or(value);
    match tag {
        tag::BMP_STRING => {
            let units = value.chunks_exact(2).map(|pair| match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                _ => 0,
            });
            let text: String = char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect();
            escaped(&text, true)
        }
        tag::UNIVERSAL_STRING => {
            let units = value.chunks_exact(4).map(|four| match four {
                [a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
                _ => 0,
            });
            let text: String = units
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect();
            escaped(&text, true)
        }
        tag::BIT_STRING | tag::SEQUENCE | tag::SET => format!("#{}", crate::l7::hex(value)),
        _ => escaped(&text::from_wire(value, MAX_VALUE_BYTES), false),
    }
}

/// RFC 4514 §2.4: what separates and quotes, a space at either end, a `#` at the start; and a backslash, unless
/// [`text::from_wire`] has already escaped it.
fn escaped(value: &str, backslashes: bool) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (position, character) in value.chars().enumerate() {
        let needs_escape = match character {
            '"' | '+' | ',' | ';' | '<' | '>' => true,
            '\\' => backslashes,
            ' ' => position == 0 || position == last,
            '#' => position == 0,
            _ => false,
        };
        if needs_escape {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// `UTCTime` and `GeneralizedTime` as RFC 5280 §4.1.2.5 allows them: to the second, in Z.
fn time(tag: u8, value: &[u8]) -> Option<i64> {
    let (year, rest) = match tag {
        tag::UTC_TIME => {
            let (year, rest) = value.split_at_checked(2)?;
            let year = number(year)?;
            (year.checked_add(if year >= 50 { 1900 } else { 2000 })?, rest)
        }
        tag::GENERALIZED_TIME => {
            let (year, rest) = value.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut pairs = rest.chunks_exact(2).map(number);
    let mut next = |low: i64, high: i64| {
        pairs
            .next()
            .flatten()
            .filter(|value| (low..=high).contains(value))
    };
    let (month, day) = (next(1, 12)?, next(1, 31)?);
    let (hour, minute) = (next(0, 23)?, next(0, 59)?);
    // RFC 5280 demands seconds, some issuers leave them out.
    let second = next(0, 60).unwrap_or(0);
    let days = days_since_1970(year, month, day)?;
    let seconds = days
        .checked_mul(24)?
        .checked_add(hour)?
        .checked_mul(60)?
        .checked_add(minute)?
        .checked_mul(60)?
        .checked_add(second)?;
    seconds.checked_mul(1_000_000_000)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0_i64, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Days from 1970-01-01 in the Gregorian calendar; the year begins in March, so that the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let month_from_march = month.checked_add(9)? % 12;
    let day_of_year = month_from_march
        .checked_mul(153)?
        .checked_add(2)?
        .checked_div(5)?
        .checked_add(day)?
        .checked_sub(1)?;
    let leap_days = year
        .div_euclid(4)
        .checked_sub(year.div_euclid(100))?
        .checked_add(year.div_euclid(400))?;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year.checked_mul(365)?
        .checked_add(leap_days)?
        .checked_add(day_of_year)?
        .checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_values_are_escaped_as_in_rfc_4514() {
        const UTF8: u8 = 0x0c;
        let cases: [(u8, &[u8], &str); 8] = [
            (UTF8, b"a \"b\", <c>+;=d", "a \\\"b\\\"\\, \\<c\\>\\+\\;=d"),
            (UTF8, b" lead and trail ", "\\ lead and trail\\ "),
            (UTF8, b" ", "\\ "),
            (UTF8, b"#hash # and\\ ", "\\#hash # and\\\\\\ "),
            (UTF8, b"x\xff", "x\\xff"),
            (tag::BMP_STRING, b"\0#\0\\\0,", "\\#\\\\\\,"),
            (tag::UNIVERSAL_STRING, b"\0\0\0 \0\0\0x", "\\ x"),
            (tag::BIT_STRING, b"\0\x01", "#0001"),
        ];
        for (tag, value, expected) in cases {
            assert_eq!(string(tag, value), expected, "{value:?}");
        }
    }

    /// An element of DER with two bytes of length.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    }

    /// A certificate after its extension with these alternative names was read.
    fn with_names(names: &[u8]) -> Certificate {
        let extension = [
            element(tag::OBJECT_IDENTIFIER, SUBJECT_ALTERNATIVE_NAME),
            element(tag::OCTET_STRING, &element(tag::SEQUENCE, names)),
        ]
        .concat();
        let mut certificate = Certificate::default();
        assert_eq!(certificate.read_extension(&extension), Ok(()));
        certificate
    }

    #[test]
    fn alternative_names_of_four_kinds_are_listed() {
        let names = [
            element(0x81, b"a@b.example"),
            element(0x82, b"*.b.example"),
            element(0x86, b"spiffe://b.example/a"),
            element(0x87, &[192, 0, 2, 1]),
            element(0x88, &[0x2a, 3]),
            element(0x87, &[0x20; 16]),
        ]
        .concat();
        let certificate = with_names(&names);
        let expected = [
            "a@b.example",
            "*.b.example",
            "spiffe://b.example/a",
            "192.0.2.1",
            "2020:2020:2020:2020:2020:2020:2020:2020",
        ];
        assert_eq!(certificate.names, expected);
        assert_eq!(certificate.names_omitted, 0);
    }

    /// A Name of so many attributes, each an organisation of that name.
    fn name(count: usize, organisation: &str) -> Vec<u8> {
        const UTF8: u8 = 0x0c;
        let pair = [
            element(tag::OBJECT_IDENTIFIER, &[0x55, 0x04, 0x0a]),
            element(UTF8, organisation.as_bytes()),
        ]
        .concat();
        element(tag::SET, &element(tag::SEQUENCE, &pair)).repeat(count)
    }

    #[test]
    fn distinguished_names_are_cut_between_characters() {
        // "O=" and a comma, or the end, beside each value.
        let whole = distinguished_name(&name(16, &"x".repeat(253)));
        assert_eq!(whole.len(), 16 * 256 - 1);
        let ascii = distinguished_name(&name(16, &"x".repeat(254)));
        assert_eq!(ascii.len(), 4096);
        // The limit lies 239 bytes behind an equals sign: within a character of two bytes, or between two of them.
        for (first, last, length) in [("xy", "", 4095), ("x", "y", 4096)] {
            let organisation = format!("{first}{}{last}", "ü".repeat(126));
            let cut = distinguished_name(&name(16, &organisation));
            let value = format!("O={organisation},");
            assert!(value.repeat(16).starts_with(&cut), "{cut}");
            assert_eq!(cut.len(), length, "{cut}");
            assert!(cut.capacity() <= MAX_DISTINGUISHED_NAME_BYTES);
        }
    }

    #[test]
    fn names_beyond_the_limit_are_counted() {
        let mut names = element(0x82, b"a.example").repeat(MAX_NAMES);
        // Five more: one of each kind that is listed, in both lengths of addresses; and a kind and a length that are not.
        for (tag, content) in [
            (0x81, 1),
            (0x82, 1),
            (0x86, 1),
            (0x87, 4),
            (0x87, 16),
            (0x88, 1),
            (0x87, 5),
        ] {
            names.extend(element(tag, &vec![b'a'; content]));
        }
        let certificate = with_names(&names);
        assert_eq!(
            (certificate.names.len(), certificate.names_omitted),
            (MAX_NAMES, 5)
        );
    }
}
