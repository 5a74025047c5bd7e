//! One DNS message (RFC 1035 §4): header, questions, and resource records as text.

use super::name::Unreadable;
use super::{Dialect, name, netbios};
use crate::column::Address;
use crate::cursor::Cursor;
use crate::l7::{Malformed, hex};
use crate::text::{self, write_ipv4};
use std::borrow::Cow;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;
/// Bytes that are read of a record's data when it is shown as text.
pub(super) const MAX_DATA_BYTES: usize = 512;

/// The header (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    flags: u16,
    pub(super) questions: u16,
    pub(super) answers: u16,
    pub(super) authorities: u16,
    pub(super) additionals: u16,
}

impl Header {
    pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        cursor.skip(2)?; // id
        Ok(Self {
            flags: cursor.u16()?,
            questions: cursor.u16()?,
            answers: cursor.u16()?,
            authorities: cursor.u16()?,
            additionals: cursor.u16()?,
        })
    }

    pub(super) fn is_response(self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Whether it answers a question, rather than an update or a notification.
    pub(super) fn is_answer(self) -> bool {
        self.is_response() && self.opcode() == 0
    }

    pub(super) fn opcode(self) -> u8 {
        (self.flags >> 11) as u8 & 0x0f
    }

    pub(super) fn is_authoritative(self) -> bool {
        self.flags & 0x0400 != 0
    }

    pub(super) fn is_truncated(self) -> bool {
        self.flags & 0x0200 != 0
    }

    pub(super) fn is_recursion_desired(self) -> bool {
        self.flags & 0x0100 != 0
    }

    pub(super) fn is_recursion_available(self) -> bool {
        self.flags & 0x0080 != 0
    }

    /// The lower four bits of the response code.
    pub(super) fn code(self) -> u8 {
        self.flags as u8 & 0x0f
    }

    /// Whether the flags are those of a message that exists: the reserved bit is zero, opcode and response code are
    /// assigned.
    pub(super) fn is_plausible(self) -> bool {
        self.flags & 0x0040 == 0 && matches!(self.opcode(), 0..=2 | 4..=6) && self.code() <= 11
    }
}

/// Whether the flags are those of a common message: a query, a notification or an update, or a response to one.
pub(super) fn are_common_flags(flags: u16) -> bool {
    flags & 0x0040 == 0 && matches!((flags >> 11) & 0x0f, 0 | 4 | 5) && flags & 0x0f <= 11
}

/// A question (RFC 1035 §4.1.2), without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) kind: u16,
    pub(super) class: u16,
}

impl Question {
    /// Reads a question; its name takes the place of what was in `texts`.
    pub(super) fn parse<'a>(
        message: &'a [u8],
        cursor: &mut Cursor<'a>,
        texts: &mut ResourceTexts,
    ) -> Result<Self, Unreadable> {
        texts.name.clear();
        let read = name::append(&mut texts.name, message, cursor);
        texts.name_bytes = texts.name_bytes.saturating_add(texts.name.len());
        read?;
        Self::behind_name(cursor)
    }

    /// Reads a question whose name is of no interest, if only it can be read.
    pub(super) fn check<'a>(message: &'a [u8], cursor: &mut Cursor<'a>) -> Result<Self, Unreadable> {
        name::walk(message, cursor, |_| ())?;
        Self::behind_name(cursor)
    }

    /// Passes over a question.
    pub(super) fn skip(cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        name::skip(cursor)?;
        Ok(cursor.skip(4)?)
    }

    fn behind_name(cursor: &mut Cursor<'_>) -> Result<Self, Unreadable> {
        Ok(Self {
            kind: cursor.u16()?,
            class: cursor.u16()?,
        })
    }
}

/// A resource record (RFC 1035 §4.1.3), without its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: u16,
    pub(super) ttl: u32,
    /// The address of an A or AAAA record.
    pub(super) address: Option<Address>,
}

impl Resource {
    /// Reads a record; its name and its data as text take the place of what was in `texts`.
    pub(super) fn parse<'a>(
        message: &'a [u8],
        cursor: &mut Cursor<'a>,
        dialect: Dialect,
        texts: &mut ResourceTexts,
    ) -> Result<Self, Malformed> {
        texts.name.clear();
        name::append(&mut texts.name, message, cursor)?;
        texts.name_bytes = texts.name_bytes.saturating_add(texts.name.len());
        let (kind, _class, ttl) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
        let length = cursor.u16()?;
        let mut data = *cursor;
        let bytes = cursor.take(length.into())?;
        let address = match kind {
            kind::A => <[u8; 4]>::try_from(bytes).ok().map(Address::v4),
            kind::AAAA => <[u8; 16]>::try_from(bytes).ok().map(Address),
            _ => None,
        };
        texts.data.clear();
        let own = dialect == Dialect::Netbios && netbios::type_name(kind).is_some();
        let read = if own {
            netbios::data_text(kind, bytes)
                .map(|text| texts.data = text)
                .ok_or(Malformed::BadLength)
        } else {
            push_data(&mut texts.data, message, &mut data, kind, bytes)
        };
        if holds_names(kind) {
            texts.name_bytes = texts.name_bytes.saturating_add(texts.data.len());
        }
        if read.is_err() {
            // Data that does not parse is shown as unknown data is (RFC 3597 §5).
            texts.data.clear();
            push_generic(&mut texts.data, bytes);
        }
        Ok(Self { kind, ttl, address })
    }

    /// Passes over a record and returns its type and the upper bits of an OPT record's response code (RFC 6891 §6.1.3).
    pub(super) fn skip(cursor: &mut Cursor<'_>) -> Result<(u16, u8), Malformed> {
        name::skip(cursor)?;
        let kind = cursor.u16()?;
        cursor.skip(2)?;
        let [code, ..] = cursor.array::<4>()?;
        let length = cursor.u16()?;
        cursor.skip(length.into())?;
        Ok((kind, code))
    }
}

/// The texts of a question or a resource record, kept from one to the next for their memory.
#[derive(Clone, Debug, Default)]
pub(super) struct ResourceTexts {
    pub(super) name: String,
    pub(super) data: String,
    /// Bytes of all names that were read, as text; of data with names, all of it.
    pub(super) name_bytes: usize,
}

/// Types whose data is read (IANA "DNS Resource Record Types").
pub(super) mod kind {
    pub(in crate::l7::dns) const A: u16 = 1;
    pub(super) const NS: u16 = 2;
    pub(super) const CNAME: u16 = 5;
    pub(super) const SOA: u16 = 6;
    pub(super) const PTR: u16 = 12;
    pub(super) const MX: u16 = 15;
    pub(super) const TXT: u16 = 16;
    pub(in crate::l7::dns) const AAAA: u16 = 28;
    pub(super) const SRV: u16 = 33;
    pub(super) const DNAME: u16 = 39;
    pub(in crate::l7::dns) const OPT: u16 = 41;
    pub(super) const SVCB: u16 = 64;
    pub(super) const HTTPS: u16 = 65;
}

/// Whether the data of a type holds names, which may be compressed.
fn holds_names(kind: u16) -> bool {
    matches!(
        kind,
        kind::NS
            | kind::CNAME
            | kind::SOA
            | kind::PTR
            | kind::MX
            | kind::SRV
            | kind::DNAME
            | kind::SVCB
            | kind::HTTPS
    )
}

/// Appends the presentation form (RFC 1035 §5.1) of the types that analysts read; `data` stands at the record's data in
/// `message`, behind which it must not go on.
fn push_data<'a>(
    text: &mut String,
    message: &'a [u8],
    data: &mut Cursor<'a>,
    kind: u16,
    bytes: &[u8],
) -> Result<(), Malformed> {
    let before = data.len();
    push_fields(text, message, data, kind, bytes)?;
    if before.saturating_sub(data.len()) > bytes.len() {
        return Err(Malformed::BadLength);
    }
    Ok(())
}

fn push_fields<'a>(
    text: &mut String,
    message: &'a [u8],
    data: &mut Cursor<'a>,
    kind: u16,
    bytes: &[u8],
) -> Result<(), Malformed> {
    // Writing to a String cannot fail.
    match kind {
        kind::A => {
            let address = bytes.try_into().map_err(|_| Malformed::BadLength)?;
            write_ipv4(address, |byte| text.push(char::from(byte)));
        }
        kind::AAAA => {
            let address = <[u8; 16]>::try_from(bytes).map_err(|_| Malformed::BadLength)?;
            let _ = write!(text, "{}", Ipv6Addr::from(address));
        }
        kind::NS | kind::CNAME | kind::PTR | kind::DNAME => name::append_dotted(text, message, data)?,
        kind::MX => {
            let _ = write!(text, "{} ", data.u16()?);
            name::append_dotted(text, message, data)?;
        }
        kind::SRV => {
            let _ = write!(text, "{} {} {} ", data.u16()?, data.u16()?, data.u16()?);
            name::append_dotted(text, message, data)?;
        }
        kind::SOA => {
            name::append_dotted(text, message, data)?;
            text.push(' ');
            name::append_dotted(text, message, data)?;
            for _ in 0..5 {
                let _ = write!(text, " {}", data.u32()?);
            }
        }
        kind::TXT => {
            let cut = bytes.len() > MAX_DATA_BYTES;
            let mut strings = Cursor::new(bytes.get(..MAX_DATA_BYTES).unwrap_or(bytes));
            while let Ok(length) = strings.u8() {
                let string = match strings.take(length.into()) {
                    Err(_) if cut && strings.is_empty() => break,
                    Err(_) if cut => strings.take(strings.len())?,
                    string => string?,
                };
                if !text.is_empty() {
                    text.push(' ');
                }
                name::push_quoted(text, string);
            }
        }
        kind::SVCB | kind::HTTPS => push_service_binding(text, message, data, bytes)?,
        _ => push_generic(text, bytes),
    }
    Ok(())
}

/// SVCB and HTTPS (RFC 9460 §2.2): priority, target, and the parameters alpn, port, addresses and whether ech is there,
/// as far as they are whole in the bytes that are shown of any record.
fn push_service_binding<'a>(
    text: &mut String,
    message: &'a [u8],
    data: &mut Cursor<'a>,
    bytes: &[u8],
) -> Result<(), Malformed> {
    let before = data.len();
    // Writing to a String cannot fail.
    let _ = write!(text, "{} ", data.u16()?);
    name::append_dotted(text, message, data)?;
    let read = before.saturating_sub(data.len());
    let cut = bytes.len() > MAX_DATA_BYTES;
    let seen = bytes.get(..MAX_DATA_BYTES).unwrap_or(bytes);
    let mut parameters = Cursor::new(seen.get(read..).ok_or(Malformed::BadLength)?);
    while let Ok(key) = parameters.u16() {
        let value = parameters.u16().and_then(|length| parameters.sub(length.into()));
        let mut value = match value {
            Err(_) if cut => break,
            value => value?,
        };
        let _ = match key {
            1 => {
                let mut names = Vec::new();
                while let Ok(length) = value.u8() {
                    let name = value.take(length.into())?;
                    names.push(text::from_wire(name, name.len()));
                }
                write!(text, " alpn={}", names.join(","))
            }
            3 => write!(text, " port={}", value.u16()?),
            4 => {
                let mut addresses = Vec::new();
                while let Ok(address) = value.array::<4>() {
                    addresses.push(Ipv4Addr::from(address).to_string());
                }
                write!(text, " ipv4hint={}", addresses.join(","))
            }
            5 => write!(text, " ech"),
            6 => {
                let mut addresses = Vec::new();
                while let Ok(address) = value.array::<16>() {
                    addresses.push(Ipv6Addr::from(address).to_string());
                }
                write!(text, " ipv6hint={}", addresses.join(","))
            }
            _ => write!(text, " key{key}"),
        };
    }
    Ok(())
}

/// RFC 3597 §5.
fn push_generic(text: &mut String, bytes: &[u8]) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\\# {} {}",
        bytes.len(),
        hex(bytes.get(..MAX_DATA_BYTES).unwrap_or(bytes))
    );
}

/// The mnemonic of a type; others as `TYPE1234` (RFC 3597 §5).
pub(super) fn type_name(kind: u16) -> Cow<'static, str> {
    Cow::Borrowed(match kind {
        kind::A => "A",
        kind::NS => "NS",
        kind::CNAME => "CNAME",
        kind::SOA => "SOA",
        10 => "NULL",
        11 => "WKS",
        kind::PTR => "PTR",
        13 => "HINFO",
        kind::MX => "MX",
        kind::TXT => "TXT",
        17 => "RP",
        18 => "AFSDB",
        24 => "SIG",
        25 => "KEY",
        kind::AAAA => "AAAA",
        29 => "LOC",
        kind::SRV => "SRV",
        35 => "NAPTR",
        37 => "CERT",
        38 => "A6",
        kind::DNAME => "DNAME",
        kind::OPT => "OPT",
        43 => "DS",
        44 => "SSHFP",
        45 => "IPSECKEY",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        49 => "DHCID",
        50 => "NSEC3",
        51 => "NSEC3PARAM",
        52 => "TLSA",
        53 => "SMIMEA",
        55 => "HIP",
        59 => "CDS",
        60 => "CDNSKEY",
        61 => "OPENPGPKEY",
        62 => "CSYNC",
        63 => "ZONEMD",
        kind::SVCB => "SVCB",
        kind::HTTPS => "HTTPS",
        99 => "SPF",
        249 => "TKEY",
        250 => "TSIG",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        256 => "URI",
        257 => "CAA",
        _ => return Cow::Owned(format!("TYPE{kind}")),
    })
}

/// The mnemonic of a class; others as `CLASS1234` (RFC 3597 §5).
pub(super) fn class_name(class: u16) -> Cow<'static, str> {
    Cow::Borrowed(match class {
        1 => "IN",
        3 => "CH",
        4 => "HS",
        254 => "NONE",
        255 => "ANY",
        _ => return Cow::Owned(format!("CLASS{class}")),
    })
}

/// The mnemonic of a response code (IANA "DNS RCODEs"); others as `RCODE12`.
pub(super) fn code_name(code: u16) -> Cow<'static, str> {
    Cow::Borrowed(match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        17 => "BADKEY",
        18 => "BADTIME",
        19 => "BADMODE",
        20 => "BADNAME",
        21 => "BADALG",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        _ => return Cow::Owned(format!("RCODE{code}")),
    })
}

/// The mnemonic of an operation (IANA "DNS `OpCodes`"); others as `OPCODE7`.
pub(super) fn opcode_name(opcode: u8) -> Cow<'static, str> {
    Cow::Borrowed(match opcode {
        0 => "QUERY",
        1 => "IQUERY",
        2 => "STATUS",
        4 => "NOTIFY",
        5 => "UPDATE",
        6 => "DSO",
        _ => return Cow::Owned(format!("OPCODE{opcode}")),
    })
}
