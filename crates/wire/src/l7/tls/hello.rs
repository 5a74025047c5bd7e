//! ClientHello and ServerHello (RFC 8446 §4.1, RFC 5246 §7.4.1), as views into the handshake message.
//!
//! An extension whose body does not parse counts as present without a value: fingerprints need the list, and peers
//! differ in what they reject.

use crate::column::{Sink, Type, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::{Gathered, Packed};
use std::borrow::Cow;

/// Extensions of a hello, which browsers send some eighteen of.
type Extensions = Gathered<u16, 32>;

/// Handshake message type of a ClientHello.
pub(in crate::l7) const CLIENT_HELLO: u8 = 1;
/// Handshake message type of a ServerHello.
pub(in crate::l7) const SERVER_HELLO: u8 = 2;

/// The ServerHello random that makes it a HelloRetryRequest (RFC 8446 §4.1.3): SHA-256 of "HelloRetryRequest".
const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Extension numbers (IANA "TLS `ExtensionType` Values").
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const EC_POINT_FORMATS: u16 = 11;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const ALPN: u16 = 16;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const KEY_SHARE: u16 = 51;
    pub(super) const QUIC_TRANSPORT_PARAMETERS: u16 = 57;
    /// The number before RFC 9001 was published.
    pub(super) const QUIC_TRANSPORT_PARAMETERS_DRAFT: u16 = 0xffa5;
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// Whether a value is one of those that clients send to keep servers tolerant (RFC 8701).
pub(super) fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && high & 0x0f == 0x0a
}

/// What a client offers.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct ClientHello<'a> {
    /// The legacy version field.
    pub(super) version: u16,
    /// Cipher suites in the order sent, GREASE included (as in all lists here).
    pub(super) ciphers: Numbers<'a>,
    /// Extension numbers in the order sent.
    pub(super) extensions: Extensions,
    /// The host name of the extension `server_name`.
    pub(super) sni: Option<&'a [u8]>,
    /// Application protocols in order of preference, all of them whole.
    pub(super) alpn: &'a [u8],
    /// Named groups.
    pub(super) groups: Numbers<'a>,
    /// Elliptic curve point formats.
    pub(super) point_formats: &'a [u8],
    /// Signature schemes.
    pub(super) signature_algorithms: Numbers<'a>,
    /// The extension `supported_versions`; empty where there is none.
    pub(super) supported_versions: Numbers<'a>,
    /// Groups for which a key share was sent.
    pub(super) key_shares: Gathered<u16, 8>,
    /// QUIC's transport parameters, not parsed.
    pub(in crate::l7) quic_transport_parameters: Option<&'a [u8]>,
}

impl<'a> ClientHello<'a> {
    /// Reads a handshake message body.
    pub(in crate::l7) fn parse(body: &'a [u8]) -> Result<Self, Short> {
        Self::read(body, false)
    }

    /// Reads a handshake message body of DTLS, which has a cookie (RFC 6347 §4.2.1).
    pub(super) fn parse_datagram(body: &'a [u8]) -> Result<Self, Short> {
        Self::read(body, true)
    }

    fn read(body: &'a [u8], cookie: bool) -> Result<Self, Short> {
        let mut cursor = Cursor::new(body);
        let mut hello = Self {
            version: cursor.u16()?,
            ..Self::default()
        };
        cursor.skip(32)?; // random
        let session_id = cursor.u8()?;
        cursor.skip(session_id.into())?;
        if cookie {
            let cookie = cursor.u8()?;
            cursor.skip(cookie.into())?;
        }
        let ciphers = cursor.u16()?;
        hello.ciphers = Numbers(cursor.take(ciphers.into())?);
        let compressions = cursor.u8()?;
        cursor.skip(compressions.into())?;
        for_each_extension(cursor, |number, body| {
            hello.extensions.push(number);
            // A body that does not parse leaves its default: see the module's note.
            let _ = hello.read_extension(number, body);
        });
        Ok(hello)
    }

    fn read_extension(&mut self, number: u16, body: &'a [u8]) -> Result<(), Short> {
        let mut cursor = Cursor::new(body);
        match number {
            extension::SERVER_NAME => self.sni = Some(server_name(cursor)?),
            extension::ALPN => self.alpn = protocol_names(cursor)?,
            extension::SUPPORTED_GROUPS => self.groups = u16_vector(&mut cursor)?,
            extension::SIGNATURE_ALGORITHMS => self.signature_algorithms = u16_vector(&mut cursor)?,
            extension::EC_POINT_FORMATS => {
                let length = cursor.u8()?;
                self.point_formats = cursor.take(length.into())?;
            }
            extension::SUPPORTED_VERSIONS => {
                let length = cursor.u8()?;
                self.supported_versions = Numbers(cursor.take(length.into())?);
            }
            extension::KEY_SHARE => {
                let length = cursor.u16()?;
                let mut shares = cursor.sub(length.into())?;
                while !shares.is_empty() {
                    self.key_shares.push(shares.u16()?);
                    let length = shares.u16()?;
                    shares.skip(length.into())?;
                }
            }
            extension::QUIC_TRANSPORT_PARAMETERS | extension::QUIC_TRANSPORT_PARAMETERS_DRAFT => {
                self.quic_transport_parameters = Some(body);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the extension is there, with whatever body.
    fn has(&self, number: u16) -> bool {
        self.extensions.contains(&number)
    }

    pub(super) fn has_server_name(&self) -> bool {
        self.has(extension::SERVER_NAME)
    }

    pub(super) fn has_encrypted_client_hello(&self) -> bool {
        self.has(extension::ENCRYPTED_CLIENT_HELLO)
    }

    /// The versions offered: `supported_versions` without GREASE, else the legacy version.
    pub(super) fn versions(&self) -> impl Iterator<Item = u16> {
        let mut offered = self
            .supported_versions
            .iter()
            .filter(|&version| !is_grease(version))
            .peekable();
        let legacy = offered.peek().is_none().then_some(self.version);
        offered.chain(legacy)
    }
}

/// A list of 16-bit values as it stands in the message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    /// The values in order; a byte that is left over is none.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + use<'_> {
        let (values, _) = self.0.as_chunks();
        values.iter().map(|value| u16::from_be_bytes(*value))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len() / 2
    }
}

/// What a server chose.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct ServerHello<'a> {
    /// The legacy version field.
    pub(super) legacy_version: u16,
    /// The version chosen: the extension `supported_versions`, else the legacy field.
    pub(super) version: u16,
    /// The cipher suite chosen.
    pub(super) cipher: u16,
    /// Extension numbers in the order sent.
    pub(super) extensions: Extensions,
    /// The application protocol chosen, where it is visible (TLS 1.2 and before).
    pub(super) alpn: Option<&'a [u8]>,
    /// The group of the key share.
    pub(super) key_share: Option<u16>,
    /// Whether it is a HelloRetryRequest: the client will send another ClientHello, the server another ServerHello.
    pub(super) retry: bool,
}

impl<'a> ServerHello<'a> {
    /// Reads a handshake message body.
    pub(in crate::l7) fn parse(body: &'a [u8]) -> Result<Self, Short> {
        let mut cursor = Cursor::new(body);
        let version = cursor.u16()?;
        let mut hello = Self {
            legacy_version: version,
            version,
            ..Self::default()
        };
        hello.retry = cursor.array::<32>()? == HELLO_RETRY_REQUEST;
        // The drafts of TLS 1.3 before 22 have neither session id nor compression method.
        let draft = matches!(version, 0x7f00..=0x7f15);
        if !draft {
            let session_id = cursor.u8()?;
            cursor.skip(session_id.into())?;
        }
        hello.cipher = cursor.u16()?;
        if !draft {
            cursor.skip(1)?;
        }
        for_each_extension(cursor, |number, body| {
            hello.extensions.push(number);
            let mut body = Cursor::new(body);
            match number {
                extension::SUPPORTED_VERSIONS => hello.version = body.u16().unwrap_or(hello.version),
                extension::KEY_SHARE => hello.key_share = body.u16().ok(),
                extension::ALPN => {
                    hello.alpn = protocol_names(body).ok().and_then(|names| Packed(names).next());
                }
                _ => {}
            }
        });
        Ok(hello)
    }

    /// Whether it is a HelloRetryRequest.
    pub(in crate::l7) fn is_retry(&self) -> bool {
        self.retry
    }

    /// Whether everything after this message is encrypted (RFC 8446 §4.4).
    pub(super) fn encrypts(&self) -> bool {
        !self.retry && matches!(self.version, 0x0304 | 0x7f00..=0x7fff | 0xfefc)
    }
}

/// Calls `each` with number and body of every whole extension; a block or an extension cut short ends it.
fn for_each_extension<'a>(mut cursor: Cursor<'a>, mut each: impl FnMut(u16, &'a [u8])) {
    // A hello without the block is valid (RFC 5246 §7.4.1.2); one whose block is longer than the message is read as
    // far as it goes.
    let Ok(length) = cursor.u16() else { return };
    let rest = cursor.rest();
    let mut block = Cursor::new(rest.get(..length.into()).unwrap_or(rest));
    while let (Ok(number), Ok(length)) = (block.u16(), block.u16()) {
        let Ok(body) = block.take(length.into()) else {
            return;
        };
        each(number, body);
    }
}

/// The first host name of the extension `server_name` (RFC 6066 §3).
fn server_name(mut cursor: Cursor<'_>) -> Result<&[u8], Short> {
    let length = cursor.u16()?;
    let mut list = cursor.sub(length.into())?;
    loop {
        let kind = list.u8()?;
        let length = list.u16()?;
        let name = list.take(length.into())?;
        if kind == 0 {
            return Ok(name);
        }
    }
}

/// A list of application protocol names (RFC 7301 §3.1), each behind its length; all of them must be whole.
fn protocol_names(mut cursor: Cursor<'_>) -> Result<&[u8], Short> {
    let length = cursor.u16()?;
    let names = cursor.take(length.into())?;
    let mut list = Cursor::new(names);
    while !list.is_empty() {
        let length = list.u8()?;
        list.skip(length.into())?;
    }
    Ok(names)
}

/// A list of 16-bit values behind its length in bytes.
fn u16_vector<'a>(cursor: &mut Cursor<'a>) -> Result<Numbers<'a>, Short> {
    let length = cursor.u16()?;
    cursor.take(length.into()).map(Numbers)
}

/// A version, shown by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionName(pub(super) u16);

impl Value for VersionName {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(&version_name(self.0));
    }
}

/// The version as users write it; values without a name as `0x1a2b`.
fn version_name(version: u16) -> Cow<'static, str> {
    Cow::Borrowed(match version {
        0x0002 => "SSLv2",
        0x0300 => "SSLv3",
        0x0301 => "TLSv1.0",
        0x0302 => "TLSv1.1",
        0x0303 => "TLSv1.2",
        0x0304 => "TLSv1.3",
        0xfeff => "DTLSv1.0",
        0xfefd => "DTLSv1.2",
        0xfefc => "DTLSv1.3",
        0x0100 => "DTLSv0.9",
        0x7f00..=0x7fff => return Cow::Owned(format!("TLSv1.3-draft{}", version & 0xff)),
        _ => return Cow::Owned(format!("0x{version:04x}")),
    })
}
