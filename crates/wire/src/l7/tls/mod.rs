//! TLS and SSL over TCP: the record layer (RFC 8446 §5), the hellos, and the certificate where it is in the clear.
//!
//! A record is read whole when it holds handshake messages, and passed over otherwise. Handshake messages may span
//! records. The server has shown all that it will with its hello (TLS 1.3: what follows is encrypted) or with its
//! certificate (TLS 1.2 and before). Dissection ends when the client has answered that, since an alert by which it refuses
//! the certificate may be in the clear; or when the hellos have been missed.

mod certificate;
mod cipher_suites;
mod dtls;
mod fingerprint;
mod hello;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
pub(super) mod tests;

pub(super) use dtls::{Dtls, identify as identify_datagram};
pub(super) use fingerprint::Carrier;
pub(super) use hello::{CLIENT_HELLO, ClientHello, SERVER_HELLO, ServerHello};

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Sink, Time, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::{Digest, Few, Names, Text};
use certificate::Certificate;
use cipher_suites::SuiteName;
use hello::VersionName;

/// The longest handshake message that is kept while it is incomplete. Certificate chains reach some 20 KiB,
/// post-quantum hellos 2 KiB.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The longest record body: 2^14 bytes and what TLS 1.2 encryption may add (RFC 5246 §6.2.3).
const MAX_RECORD_BYTES: u16 = 16_384 + 2_048;
/// Entries that are kept of each list of a hello. No known client sends as many.
const MAX_LISTED: usize = 256;
/// Bytes that are kept of a name.
const MAX_NAME_BYTES: usize = 256;
/// Bytes that are kept of a fingerprint's string. Browsers send some 200.
const MAX_STRING_BYTES: usize = 4096;
/// Encrypted records of one direction after which a missed hello is not waited for any longer. A client may send early
/// data while the server's hello is on its way.
const MAX_ENCRYPTED_RECORDS: u8 = 16;

/// Bytes of an SSL 2.0 ClientHello up to its lists.
const SSL2_FIXED_BYTES: usize = 11;
/// Bytes of a record header.
const HEADER_BYTES: usize = 5;

/// Record content types (RFC 8446 §5.1).
mod content {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
}

/// Handshake message types beside the hellos (RFC 5246 §7.4).
mod message {
    pub(super) const CERTIFICATE: u8 = 11;
    pub(super) const SERVER_KEY_EXCHANGE: u8 = 12;
    pub(super) const SERVER_HELLO_DONE: u8 = 14;
    pub(super) const HIGHEST: u8 = 25;
}

/// Further hellos of the client that are kept: one follows a HelloRetryRequest.
const MAX_FURTHER_HELLOS: usize = 4;

crate::record! {
    /// A ClientHello after the first.
    pub struct FurtherHello {
        /// Its server name indication.
        sni: Option<Text<38>>,
        /// Its JA3.
        ja3: Digest<16>,
        /// Its JA4. After a HelloRetryRequest it usually differs from the first in extensions.
        ja4: Text<38>,
    }
}

crate::record! {
    /// The TLS handshake of a flow, as far as it is in the clear. Of several hellos of a client the first is shown in full.
    pub struct Record {
        /// Version that the server chose (`TLSv1.3`, `SSLv3`, …).
        version: Option<VersionName>,
        /// Cipher suite that the server chose, as IANA names it.
        cipher: Option<SuiteName>,
        /// Server name indication (RFC 6066 §3); with Encrypted ClientHello the outer, public name.
        sni: Option<Text<38>>,
        /// Application protocol that the server chose (RFC 7301); in TLS 1.3 it is encrypted.
        alpn: Option<Text<22>>,
        /// Application protocols that the client offered, in order of preference.
        alpn_offered: Names<30>,
        /// Versions that the client offered, in order of preference, GREASE (RFC 8701) left out.
        client_versions: Few<VersionName, 11>,
        /// Cipher suites that the client offered, in order, GREASE included.
        client_ciphers: Few<u16, 31>,
        /// Extensions of the ClientHello, in order, GREASE included.
        client_extensions: Few<u16, 23>,
        /// Named groups that the client offered, in order, GREASE included.
        client_groups: Few<u16, 11>,
        /// Signature schemes that the client offered, in order.
        client_signature_algorithms: Few<u16, 15>,
        /// Groups for which the client sent a key share, in order, GREASE included.
        client_key_shares: Few<u16, 11>,
        /// Whether the ClientHello carries the extension `encrypted_client_hello` (65037); a real one can't be told from GREASE. Null if no ClientHello was seen.
        ech: Option<bool>,
        /// Extensions of the ServerHello, in order.
        server_extensions: Few<u16, 11>,
        /// Group of the server's key share (TLS 1.3).
        server_key_share: Option<u16>,
        /// Whether the server asked for another ClientHello (RFC 8446 §4.1.4). Null if no ServerHello was seen.
        hello_retry_request: Option<bool>,
        /// JA3: MD5 of `ja3_string`, all of it.
        ja3: Option<Digest<16>>,
        /// Version, ciphers, extensions, groups and point formats of the ClientHello in decimal. Cut at 4,096 bytes.
        ja3_string: Option<Text<22>>,
        /// JA3S: MD5 of `ja3s_string`, all of it.
        ja3s: Option<Digest<16>>,
        /// Version, cipher and extensions of the ServerHello in decimal. Cut at 4,096 bytes.
        ja3s_string: Option<Text<38>>,
        /// JA4 of the ClientHello, by the specification of `FoxIO`.
        ja4: Option<Text<38>>,
        /// Hellos of the client after the first, such as the one that answers a HelloRetryRequest; at most 4.
        further_hellos: Vec<FurtherHello>,
        /// Subject of the server's certificate as in RFC 4514 (TLS 1.2 and before, where certificates are in the clear). Cut at 4,096 bytes. Of the certificates that a server sends only its own is read, which comes first (RFC 5246 §7.4.2); those of the authorities behind it and of the client are not.
        certificate_subject: Option<String>,
        /// Issuer of the server's certificate as in RFC 4514. Cut at 4,096 bytes.
        certificate_issuer: Option<String>,
        /// DNS names, IP addresses, e-mail addresses and URIs in the certificate's subjectAltName; at most 64, the first 256 bytes of each.
        certificate_names: Vec<String>,
        /// Further names of these kinds that are not listed because the list is full. Null if no certificate was seen.
        certificate_names_omitted: Option<u32>,
        /// Start of the certificate's validity.
        certificate_not_before: Option<Time>,
        /// End of the certificate's validity; null beyond the year 2262.
        certificate_not_after: Option<Time>,
        /// Serial number of the certificate in hexadecimal: all bytes of its DER, a 00 in front included.
        certificate_serial: Option<String>,
        /// SHA-256 of the certificate in hexadecimal.
        certificate_sha256: Option<Digest<32>>,
        /// Description of the first unencrypted alert (RFC 8446 §6), of either side; what comes after the client has begun to encrypt is not looked at.
        alert: Option<u8>,
    }
}

impl Record {
    /// Takes over what a ClientHello shows: in full if it is the first.
    pub(super) fn add_client_hello(
        &mut self,
        hello: &ClientHello<'_>,
        carrier: Carrier,
        crypto: &dyn Crypto,
    ) {
        let sni = hello.sni.map(|name| Text::from_wire(name, MAX_NAME_BYTES));
        let mut scratch = Vec::new();
        fingerprint::write_ja3(&mut scratch, hello);
        let ja3 = Digest(crypto.md5(&scratch));
        if self.has_client_hello() {
            if self.further_hellos.len() < MAX_FURTHER_HELLOS {
                let ja4 = fingerprint::ja4(hello, carrier, crypto, &mut scratch);
                self.further_hellos.push(FurtherHello { sni, ja3, ja4 });
            }
            return;
        }
        let ja3_string = fingerprint_text(&scratch);
        let ja4 = fingerprint::ja4(hello, carrier, crypto, &mut scratch);
        (self.sni, self.ja3, self.ja3_string, self.ja4) = (sni, Some(ja3), Some(ja3_string), Some(ja4));
        self.alpn_offered = Names::from_wire(hello.alpn, MAX_LISTED);
        self.client_versions = hello.versions().take(MAX_LISTED).map(VersionName).collect();
        self.client_ciphers = hello.ciphers.iter().take(MAX_LISTED).collect();
        self.client_extensions = hello.extensions.iter().copied().take(MAX_LISTED).collect();
        self.client_groups = hello.groups.iter().take(MAX_LISTED).collect();
        self.client_signature_algorithms = hello.signature_algorithms.iter().take(MAX_LISTED).collect();
        self.client_key_shares = hello.key_shares.iter().copied().take(MAX_LISTED).collect();
        self.ech = Some(hello.has_encrypted_client_hello());
    }

    /// Takes over what a ServerHello shows; a HelloRetryRequest is overwritten by the ServerHello that follows.
    pub(super) fn set_server_hello(&mut self, hello: &ServerHello<'_>, crypto: &dyn Crypto) {
        self.version = Some(VersionName(hello.version));
        self.cipher = Some(SuiteName(hello.cipher));
        self.alpn = hello.alpn.map(|name| Text::from_wire(name, MAX_NAME_BYTES));
        self.server_extensions = hello.extensions.iter().copied().take(MAX_LISTED).collect();
        self.server_key_share = hello.key_share;
        self.hello_retry_request = Some(hello.retry || self.hello_retry_request == Some(true));
        let ja3s = fingerprint::ja3s_string(hello);
        self.ja3s = Some(Digest(crypto.md5(&ja3s)));
        self.ja3s_string = Some(fingerprint_text(&ja3s));
    }

    /// The server's own certificate, which comes first in the message (RFC 5246 §7.4.2).
    fn read_certificate_message(&mut self, body: &[u8], crypto: &dyn Crypto) -> Result<(), Short> {
        let mut cursor = Cursor::new(body);
        let length = cursor.u24()?;
        let mut list = cursor.sub(length as usize)?;
        if !list.is_empty() && self.certificate_sha256.is_none() {
            let length = list.u24()?;
            self.set_certificate(list.take(length as usize)?, crypto);
        }
        Ok(())
    }

    fn set_certificate(&mut self, der: &[u8], crypto: &dyn Crypto) {
        let certificate = Certificate::parse(der);
        self.certificate_sha256 = Some(Digest(crypto.sha256(der)));
        self.certificate_subject = Some(certificate.subject);
        self.certificate_issuer = Some(certificate.issuer);
        self.certificate_names = certificate.names;
        self.certificate_names_omitted = Some(certificate.names_omitted);
        self.certificate_not_before = certificate.not_before.map(Time);
        self.certificate_not_after = certificate.not_after.map(Time);
        self.certificate_serial = Some(certificate.serial);
    }

    /// Whether a ClientHello was taken over.
    pub(super) fn has_client_hello(&self) -> bool {
        self.ech.is_some()
    }

    /// Whether a ServerHello or HelloRetryRequest was taken over.
    pub(super) fn has_server_hello(&self) -> bool {
        self.version.is_some()
    }
}

/// What a record shows of a fingerprint's string.
fn fingerprint_text<const N: usize>(ascii: &[u8]) -> Text<N> {
    Text::from_ascii(ascii.get(..MAX_STRING_BYTES).unwrap_or(ascii))
}

/// One direction of the record layer.
#[derive(Clone, Debug, Default)]
struct Side {
    /// An incomplete handshake message from earlier records.
    message: Vec<u8>,
    /// Bytes of the present record's body that are still to be passed over.
    skip: usize,
    /// Records that were encrypted.
    encrypted_records: u8,
    /// Whether what comes is encrypted.
    encrypted: bool,
    boundary: Boundary,
    /// Whether no further bytes will come.
    closed: bool,
}

/// What is known of where records begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Boundary {
    /// They follow each other.
    #[default]
    Known,
    /// The first bytes after a gap must look like a record, or the direction is lost.
    AfterGap,
    /// They are no longer known.
    Lost,
}

impl Side {
    /// Whether nothing more is to be learned from it.
    fn is_over(&self) -> bool {
        self.closed || self.boundary == Boundary::Lost
    }
}

/// The dissector. What each packet looks at stands first.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Tls {
    sides: [Side; 2],
    /// The direction in which a ServerHello came.
    server_side: Option<usize>,
    /// The server's hello was seen, and it was no HelloRetryRequest.
    server_hello: bool,
    /// Nothing more of the server's handshake is in the clear.
    server_complete: bool,
    /// The client has encrypted something since the server's hello.
    client_answered: bool,
    /// A fatal alert was seen.
    aborted: bool,
    record: Record,
}

/// What one record led to.
enum Step {
    /// So many bytes were finished with.
    Consumed(usize),
    /// The record is not complete: so many bytes are needed from its start.
    Incomplete(usize),
}

impl Dissect for Tls {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let bytes = match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => bytes,
            Input::Gap(length) => {
                return Outcome::none(self.gap(index, length));
            }
            Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.closed = true;
                }
                let over = self.sides.iter().all(|side| side.closed) || self.is_complete();
                return Outcome::none(if over { Status::Done } else { Status::Need(0) });
            }
        };
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            if rest.is_empty() {
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            }
            match self.step(index, rest, crypto) {
                Ok(Step::Consumed(count)) => consumed = consumed.saturating_add(count),
                Ok(Step::Incomplete(needed)) => {
                    return Outcome {
                        consumed,
                        status: Status::Need(needed),
                    };
                }
                Err(status) => return Outcome { consumed, status },
            }
            if self.is_complete() {
                return Outcome {
                    consumed,
                    status: Status::Done,
                };
            }
        }
    }

    fn confidence(&self) -> Confidence {
        if self.record.has_client_hello() == self.server_hello {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        self.record.sni.as_deref()
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Tls {
            self.record.emit(sink);
        }
        protocol == Protocol::Tls
    }

    fn release(&mut self) {
        self.sides = <[Side; 2]>::default();
    }

    fn kept_bytes(&self) -> usize {
        self.sides.iter().fold(self.record.heap_bytes(), |sum, side| {
            sum.saturating_add(side.message.capacity())
        })
    }
}

impl Tls {
    fn is_complete(&self) -> bool {
        let enough = |side: &Side| side.encrypted_records >= MAX_ENCRYPTED_RECORDS;
        let client = self
            .server_side
            .and_then(|server| self.sides.get(1_usize.saturating_sub(server)));
        // A client whose hello was missed is probably not captured at all.
        let answered =
            self.client_answered || !self.record.has_client_hello() || client.is_none_or(Side::is_over);
        self.aborted || (self.is_settled() && answered) || self.sides.iter().any(enough)
    }

    /// Whether nothing more but an alert is to come that is shown.
    fn is_settled(&self) -> bool {
        let client_known =
            self.record.has_client_hello() || self.sides.iter().any(|side| side.encrypted_records > 3);
        self.server_complete && client_known
    }

    /// The bytes that come in a direction are encrypted from here on.
    fn encrypts(&mut self, index: usize) {
        if let Some(side) = self.sides.get_mut(index) {
            side.encrypted = true;
        }
        if self.server_hello && self.is_server(index) {
            self.server_complete = true;
        } else if self.server_hello {
            self.client_answered = true;
        }
    }

    /// One record of direction `index`, of which `bytes` are there.
    fn step(&mut self, index: usize, bytes: &[u8], crypto: &dyn Crypto) -> Result<Step, Status> {
        let Some(side) = self.sides.get_mut(index) else {
            return Ok(Step::Consumed(bytes.len()));
        };
        if side.boundary == Boundary::Lost {
            return Ok(Step::Consumed(bytes.len()));
        }
        if side.skip > 0 {
            let count = side.skip.min(bytes.len());
            side.skip = side.skip.saturating_sub(count);
            return Ok(Step::Consumed(count));
        }
        let mut cursor = Cursor::new(bytes);
        let (Ok(kind), Ok(version), Ok(length)) = (cursor.u8(), cursor.u16(), cursor.u16()) else {
            return Ok(Step::Incomplete(HEADER_BYTES));
        };
        let whole = HEADER_BYTES.saturating_add(length.into());
        if !is_record_header(kind, version, length) {
            if side.boundary == Boundary::AfterGap {
                return self.lose(index, Status::GaveUp(Limit::Gap), bytes);
            }
            // RFC 5246 appendix E.2: a client that also speaks SSL 2.0 begins with a hello in that format.
            let begins = !self.record.has_client_hello() && !self.server_hello;
            if begins && kind & 0x80 != 0 && bytes.len() < SSL2_FIXED_BYTES {
                return Ok(Step::Incomplete(SSL2_FIXED_BYTES));
            }
            if let (true, Some(whole)) = (begins, ssl2_length(bytes)) {
                let Some(message) = bytes.get(2..whole) else {
                    return Ok(Step::Incomplete(whole));
                };
                self.ssl2_hello(message)
                    .map_err(|Short| Status::Malformed(Malformed::BadLength))?;
                return Ok(Step::Consumed(whole));
            }
            return self.lose(index, Status::Malformed(Malformed::BadValue), bytes);
        }
        side.boundary = Boundary::Known;
        // RFC 8446 §D.4: in TLS 1.3 a ChangeCipherSpec is sent for show and changes nothing; before, it encrypts. Hellos
        // in the clear come after it where the server asked for another ClientHello.
        let hello_may_come =
            kind == content::HANDSHAKE && length >= 4 && side.encrypted && !self.server_hello;
        let hello_comes = match bytes.get(HEADER_BYTES..HEADER_BYTES.saturating_add(4)) {
            _ if !hello_may_come => false,
            Some(&[CLIENT_HELLO | SERVER_HELLO, a, b, c]) => {
                u32::from_be_bytes([0, a, b, c]).checked_add(4) == Some(length.into())
            }
            Some(_) => false,
            None => return Ok(Step::Incomplete(HEADER_BYTES.saturating_add(4).min(whole))),
        };
        // Encrypted it is longer. TLS 1.3 has another type for it then, and the ChangeCipherSpec before it changes nothing.
        let plain_alert = kind == content::ALERT && length == 2;
        if kind == content::APPLICATION_DATA || (side.encrypted && !hello_comes && !plain_alert) {
            side.encrypted_records = side.encrypted_records.saturating_add(1);
            self.encrypts(index);
            return Ok(self.skip(index, whole));
        }
        match kind {
            content::HANDSHAKE if self.is_settled() => Ok(self.skip(index, whole)),
            content::HANDSHAKE | content::ALERT => {
                let Some(body) = bytes.get(HEADER_BYTES..whole) else {
                    return Ok(Step::Incomplete(whole));
                };
                if kind == content::HANDSHAKE {
                    self.handshake(index, body, crypto)?;
                } else if let &[level, description] = body {
                    self.record.alert.get_or_insert(description);
                    self.aborted |= level == 2;
                }
                Ok(Step::Consumed(whole))
            }
            content::CHANGE_CIPHER_SPEC => {
                self.encrypts(index);
                Ok(self.skip(index, whole))
            }
            _ => Ok(self.skip(index, whole)),
        }
    }

    /// Gives up one direction. The other may still bring a hello; without it the reason ends the dissection.
    fn lose(&mut self, index: usize, reason: Status, bytes: &[u8]) -> Result<Step, Status> {
        if let Some(side) = self.sides.get_mut(index) {
            side.boundary = Boundary::Lost;
        }
        if self.sides.iter().all(Side::is_over) && !self.is_complete() {
            Err(reason)
        } else {
            Ok(Step::Consumed(bytes.len()))
        }
    }

    /// Passes over a record of which the header is there.
    fn skip(&mut self, index: usize, whole: usize) -> Step {
        if let Some(side) = self.sides.get_mut(index) {
            side.skip = whole;
            side.message = Vec::new();
        }
        Step::Consumed(0)
    }

    /// Whether direction `index` comes from the server. Known once a hello was seen.
    fn is_server(&self, index: usize) -> bool {
        self.server_side == Some(index)
    }

    fn gap(&mut self, index: usize, length: u64) -> Status {
        let Some(side) = self.sides.get_mut(index) else {
            return Status::Need(0);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if side.skip >= length {
            // The gap lies within a record that would have been passed over.
            side.skip = side.skip.saturating_sub(length);
        } else {
            side.skip = 0;
            side.boundary = Boundary::AfterGap;
            side.message = Vec::new();
        }
        Status::Need(0)
    }

    /// The body of a handshake record: messages, of which the last may be incomplete.
    fn handshake(&mut self, index: usize, body: &[u8], crypto: &dyn Crypto) -> Result<(), Status> {
        let Some(side) = self.sides.get_mut(index) else {
            return Ok(());
        };
        let mut kept = std::mem::take(&mut side.message);
        let mut rest = if kept.is_empty() {
            body
        } else {
            kept.extend_from_slice(body);
            kept.as_slice()
        };
        loop {
            let mut cursor = Cursor::new(rest);
            let (Ok(kind), Ok(length)) = (cursor.u8(), cursor.u24()) else {
                break;
            };
            if kind > message::HIGHEST {
                // Mid-stream, or after the handshake, this is ciphertext; in an open handshake it is not TLS.
                let open = self.record.has_client_hello() || self.record.has_server_hello();
                if let (Some(side), false) = (self.sides.get_mut(index), open && !self.server_complete) {
                    side.encrypted = true;
                    side.encrypted_records = side.encrypted_records.saturating_add(1);
                    return Ok(());
                }
                return Err(Status::Malformed(Malformed::BadValue));
            }
            let Ok(message) = cursor.take(length as usize) else {
                if length as usize > MAX_MESSAGE_BYTES {
                    return Err(Status::GaveUp(Limit::MessageLength));
                }
                break;
            };
            self.message(index, kind, message, crypto)
                .map_err(|Short| Status::Malformed(Malformed::BadLength))?;
            rest = cursor.rest();
        }
        if self.is_settled() {
            for side in &mut self.sides {
                side.message = Vec::new();
            }
        } else if let Some(side) = self.sides.get_mut(index) {
            // What is kept of a message stays in place until the message is whole: were it copied at every record, small
            // records would take time in the square of its length. Behind a whole message only bytes of `body` are left.
            side.message = if rest.len() == kept.len() {
                kept
            } else {
                rest.to_vec()
            };
        }
        Ok(())
    }

    fn message(&mut self, index: usize, kind: u8, body: &[u8], crypto: &dyn Crypto) -> Result<(), Short> {
        match kind {
            CLIENT_HELLO => {
                self.record
                    .add_client_hello(&ClientHello::parse(body)?, Carrier::Tcp, crypto);
            }
            SERVER_HELLO if !self.server_hello => {
                let hello = ServerHello::parse(body)?;
                self.record.set_server_hello(&hello, crypto);
                self.server_side = Some(index);
                self.server_hello = !hello.retry;
                self.server_complete = hello.encrypts();
            }
            message::CERTIFICATE if self.is_server(index) => {
                self.record.read_certificate_message(body, crypto)?;
                self.server_complete = true;
            }
            message::SERVER_KEY_EXCHANGE | message::SERVER_HELLO_DONE if self.is_server(index) => {
                self.server_complete = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// A ClientHello in the format of SSL 2.0 (RFC 5246 appendix E.2): versions and ciphers, no extensions. JA3 and JA4
    /// are not defined for it.
    fn ssl2_hello(&mut self, message: &[u8]) -> Result<(), Short> {
        let mut cursor = Cursor::new(message);
        cursor.skip(1)?; // message type
        let version = cursor.u16()?;
        let ciphers = cursor.u16()?;
        cursor.skip(4)?; // lengths of session id and challenge
        let mut ciphers = cursor.sub(ciphers.into())?;
        // Three bytes each: those of TLS begin with zero, those of SSL 2.0 have no 16-bit number.
        let values = std::iter::from_fn(|| ciphers.u24().ok()).flat_map(u16::try_from);
        self.record.client_ciphers = values.take(MAX_LISTED).collect();
        self.record.client_versions = std::iter::once(VersionName(version)).collect();
        self.record.ech = Some(false);
        Ok(())
    }
}

fn is_record_header(kind: u8, version: u16, length: u16) -> bool {
    matches!(kind, content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA)
        && matches!(version, 0x0300..=0x0304 | 0x7f00..=0x7fff)
        && length <= MAX_RECORD_BYTES
        && (length > 0 || kind == content::APPLICATION_DATA)
}

/// The length of an SSL 2.0 ClientHello with its two-byte header, if the bytes can be the start of one.
fn ssl2_length(bytes: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(bytes);
    // A 15-bit length behind a set bit: no padding.
    let length = cursor.u16().ok()? & 0x7fff;
    let kind = cursor.u8().ok()?;
    let version = cursor.u16().ok()?;
    let (ciphers, session, challenge) = (cursor.u16().ok()?, cursor.u16().ok()?, cursor.u16().ok()?);
    let parts = 9_usize
        .checked_add(ciphers.into())?
        .checked_add(session.into())?
        .checked_add(challenge.into())?;
    let plausible = bytes.first()? & 0x80 != 0
        && kind == CLIENT_HELLO
        && matches!(version, 0x0002 | 0x0300..=0x0303)
        && ciphers > 0
        && ciphers % 3 == 0
        && matches!(session, 0 | 16 | 32)
        && (16..=32).contains(&challenge)
        && parts == usize::from(length);
    plausible.then_some(usize::from(length).checked_add(2)?)
}

/// A record header and what its type demands of the bytes behind it.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    let Some(&first) = bytes.first() else {
        return Verdict::More;
    };
    if first & 0x80 != 0 {
        return match ssl2_length(bytes) {
            Some(_) => Verdict::Yes,
            None if bytes.len() < SSL2_FIXED_BYTES => Verdict::More,
            None => Verdict::No,
        };
    }
    if !matches!(first, content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA)
        || bytes.get(1).is_some_and(|&major| !matches!(major, 0x03 | 0x7f))
    {
        return Verdict::No;
    }
    let mut cursor = Cursor::new(bytes);
    let (Ok(kind), Ok(version), Ok(length)) = (cursor.u8(), cursor.u16(), cursor.u16()) else {
        return Verdict::More;
    };
    if !is_record_header(kind, version, length) {
        return Verdict::No;
    }
    match kind {
        // A record too short for a message header holds the first part of one: then the next record tells.
        content::HANDSHAKE if length >= 4 => {
            let (Ok(message), Ok(message_length)) = (cursor.u8(), cursor.u24()) else {
                return Verdict::More;
            };
            let hello = matches!(message, CLIENT_HELLO | SERVER_HELLO);
            // A hello's version follows its header, and it is never empty.
            match (hello, cursor.u8()) {
                (true, Ok(0x03 | 0x7f)) if message_length >= 38 => return Verdict::Yes,
                (true, Err(Short)) => return Verdict::More,
                _ => {}
            }
        }
        content::ALERT if length == 2 => match (cursor.u8(), cursor.u8()) {
            (Ok(1 | 2), Ok(0..=121)) => return Verdict::Yes,
            (Err(Short), _) | (Ok(1 | 2), Err(Short)) => return Verdict::More,
            _ => return Verdict::No,
        },
        _ => {}
    }
    // Mid-stream: a plausible header is enough on a port of TLS; elsewhere the next record must follow in sight.
    if hint.port {
        return Verdict::Yes;
    }
    let Some(next) = bytes.get(HEADER_BYTES.saturating_add(length.into())..) else {
        let in_sight = usize::from(length) < super::session::IDENTIFY_BYTES.saturating_sub(2 * HEADER_BYTES);
        return if in_sight { Verdict::More } else { Verdict::No };
    };
    let mut cursor = Cursor::new(next);
    match (cursor.u8(), cursor.u16(), cursor.u16()) {
        (Ok(kind), Ok(next_version), Ok(length)) => {
            let follows = next_version == version && is_record_header(kind, next_version, length);
            if follows { Verdict::Yes } else { Verdict::No }
        }
        _ => Verdict::More,
    }
}
