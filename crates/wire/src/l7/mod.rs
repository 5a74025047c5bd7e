//! Layer 7: the dissector contract and the table of protocols.
//!
//! **In:** datagrams, or the ordered bytes of a stream, in both directions. **Out:** the protocol, the server's name and
//! the protocol's record. **Owns:** the state of one flow's dissection, within the limits that each dissector names.
//! **Never:** payload beyond an unfinished message, clocks, I/O, panics.
//!
//! The flow stage owns a `Session` per flow while there is something to learn, and feeds it datagrams or
//! ordered stream bytes. Bytes decide what a flow is; ports only order the candidates (design D12).
//!
//! What a session learns does not depend on how a stream is cut into segments: a dissector sees the unconsumed bytes
//! again until they hold a whole message, and identification waits for the candidates in a fixed order.
//!
//! To add a protocol, copy `xmpp.rs`, add one row to `table.rs`, and the generic tests (`tests.rs`) take it from there.
//! Fields of protocols that many flows speak are of the types in `value.rs`, which take no allocation while they are short.

use crate::column::Sink;
use crate::cursor::Short;
use crate::flowkey::Direction;
use crate::malformed::reasons;
use crate::text::hex_of;

/// The table in which each protocol is declared once.
mod table;
/// The search for a flow's protocol, and the facade over its dissector.
mod session;
/// The Android debug bridge: who connects.
pub mod adb;
/// Domain names and messages: DNS, mDNS, LLMNR (RFC 1035, 6762, 4795).
pub mod dns;
/// HTTP/1.0 and HTTP/1.1 (RFC 9112).
pub mod http1;
/// Pieces that carry their offset, put together.
mod pieces;
/// HTTP/2 in the clear (RFC 9113).
pub mod http2;
/// QUIC versions 1 and 2 (RFC 9000, 9001, 9369) and the last drafts, as far as Initial packets show it.
pub mod quic;
/// LDAP (RFC 4511): operations.
pub mod ldap;
/// Protocols of command lines: SMTP, IMAP, POP3, FTP.
pub mod lines;
/// MySQL and MariaDB: how a session begins.
pub mod mysql;
/// PostgreSQL: how a session begins.
pub mod postgresql;
/// SOCKS 4, 4a and 5 (RFC 1928): what the client asks the proxy for.
pub mod socks;
/// SSH identification strings and offered algorithms (RFC 4253).
pub mod ssh;
/// What protocols have in common that go on in TLS.
mod starttls;
/// Values of records that are usually small.
mod value;
/// XMPP (RFC 6120): the opening of a stream. A small dissector, and the one to copy.
pub mod xmpp;
/// TLS and SSL (RFC 8446, 5246, 6101): hellos and certificates.
pub mod tls;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests;

pub use session::Session;
pub use table::Protocol;

/// Cryptographic primitives that dissectors need, supplied by the caller so that this crate stays without dependencies.
pub trait Crypto {
    /// SHA-256.
    fn sha256(&self, data: &[u8]) -> [u8; 32];
    /// MD5 (RFC 1321): for JA3 and HASSH only.
    fn md5(&self, data: &[u8]) -> [u8; 16];
    /// HMAC-SHA-256 (RFC 2104), from which HKDF (RFC 5869) is built.
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> [u8; 32];
    /// HMAC-SHA-256 of each message under the same key, which costs as much to set up as a short message.
    fn hmac_sha256_each(&self, key: &[u8], messages: &[&[u8]], macs: &mut [[u8; 32]]) {
        for (mac, message) in macs.iter_mut().zip(messages) {
            *mac = self.hmac_sha256(key, message);
        }
    }
    /// The first five bytes of AES-128-ECB over `sample`: QUIC's header protection mask (RFC 9001 §5.4.3).
    fn aes128_header_mask(&self, key: &[u8; 16], sample: &[u8; 16]) -> [u8; 5];
    /// AES-128-GCM in place: `data` is ciphertext and 16-byte tag; the plaintext's length, or `None` if the tag is wrong.
    fn aes128_gcm_open(
        &self,
        key: &[u8; 16],
        nonce: &[u8; 12],
        associated: &[u8],
        data: &mut [u8],
    ) -> Option<usize>;
}

/// How the bytes reach a dissector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// One whole datagram's payload (UDP). Consumption is ignored.
    Datagram(&'a [u8]),
    /// All stream bytes (TCP) that are contiguous and not yet consumed in this direction, oldest first.
    /// The same bytes come again, followed by later ones, until they are consumed.
    Stream(&'a [u8]),
    /// `length` bytes of the stream are missing and will not come (loss, snaplen, limit). What was not consumed before
    /// the gap is gone.
    Gap(u64),
    /// The direction is closed: no further bytes will come.
    End,
}

impl Input<'_> {
    /// Bytes in it.
    fn len(&self) -> usize {
        match self {
            Self::Datagram(bytes) | Self::Stream(bytes) => bytes.len(),
            Self::Gap(_) | Self::End => 0,
        }
    }

    /// The same without the first `count` bytes.
    fn behind(self, count: usize) -> Self {
        match self {
            Self::Datagram(bytes) => Self::Datagram(bytes.get(count..).unwrap_or_default()),
            Self::Stream(bytes) => Self::Stream(bytes.get(count..).unwrap_or_default()),
            Self::Gap(_) | Self::End => self,
        }
    }
}

/// What a packet's position in the flow is.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Which way the bytes go.
    pub direction: Direction,
    /// Packet time in UTC nanoseconds.
    pub time: i64,
    /// The initiator's port.
    pub src_port: u16,
    /// The responder's port.
    pub dst_port: u16,
    /// Whether the flow is TCP (else UDP).
    pub stream: bool,
}

/// What became of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// More is wanted; `0` where the dissector cannot say how much, else the least number of bytes that must follow
    /// the consumed ones before calling again makes sense.
    Need(usize),
    /// Nothing more is to be learned from this flow, in either direction.
    Done,
    /// The bytes are not what the protocol says; what was learned before stays.
    Malformed(Malformed),
    /// A limit was hit; what was learned before stays.
    GaveUp(Limit),
}

/// Result of [`Session::feed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Stream bytes from the front of the input that are finished with.
    pub consumed: usize,
    /// How to go on. After `Done`, `Malformed` and `GaveUp` the session must not be fed again.
    pub status: Status,
}

reasons! {
    /// Why layer-7 bytes could not be read.
    #[allow(clippy::enum_variant_names, reason = "each says what is bad")]
    Malformed {
        /// A length field points past its container.
        BadLength = "bad_length",
        /// A field has a value that its protocol forbids.
        BadValue = "bad_value",
        /// A compressed name points forward or in a loop.
        BadPointer = "bad_pointer",
        /// Authenticated bytes do not verify (QUIC Initial).
        BadTag = "bad_tag",
    }
}

reasons! {
    /// Which limit ended a dissection.
    Limit {
        /// No protocol matched within the bytes looked at.
        Unidentified = "unidentified",
        /// A message is longer than the dissector keeps.
        MessageLength = "message_length",
        /// More transactions, or messages of another kind, than the dissector reads.
        Transactions = "transactions",
        /// A gap fell on bytes without which the dissection cannot go on.
        Gap = "gap",
    }
}

/// How sure an identification is (column `app_confidence`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Several messages or an unmistakable structure were seen.
    Payload,
    /// The handshake's first message was seen.
    Handshake,
}

impl From<Short> for Malformed {
    fn from(_: Short) -> Self {
        Self::BadLength
    }
}

/// What the first bytes of a direction say about one protocol.
///
/// `No` and `Yes` are final: more bytes must not change them, so that a verdict does not depend on how the stream
/// was cut. `More` must end within [`session::IDENTIFY_BYTES`]; on a datagram it counts as `No`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is this protocol.
    Yes,
    /// It is not.
    No,
    /// Too few bytes to tell.
    More,
}

/// What identification knows beside the bytes.
#[derive(Clone, Copy, Debug)]
struct Hint {
    /// Whether one of the flow's ports is among the protocol's.
    port: bool,
    /// Whether the flow is TCP (else UDP).
    stream: bool,
    /// Which way the bytes go.
    direction: Direction,
}

/// A dissector: the state between a flow's first identified byte and its last interesting one.
trait Dissect {
    /// As [`Session::feed`].
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome;
    /// Before anything is fed: the first bytes of a direction were not seen, or were passed over before the protocol was
    /// known.
    fn missed_start(&mut self, _side: usize) {}
    /// How sure the identification is by now.
    fn confidence(&self) -> Confidence;
    /// As [`Session::server_name`].
    fn server_name(&self) -> Option<&str>;
    /// As [`Session::emit`].
    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool;
    /// Frees what only further input would need. Nothing is fed afterwards.
    fn release(&mut self);
    /// Bytes that it keeps on the heap: of its record and of unfinished messages.
    fn kept_bytes(&self) -> usize;
    /// Whether the bytes behind those consumed in a direction belong to another protocol.
    fn handed_over(&self, _side: usize) -> bool {
        false
    }
}

impl Outcome {
    /// All of `bytes` is finished with, and any number of further bytes is welcome.
    fn all(bytes: &[u8]) -> Self {
        Self {
            consumed: bytes.len(),
            status: Status::Need(0),
        }
    }

    /// Nothing was consumed.
    fn none(status: Status) -> Self {
        Self { consumed: 0, status }
    }
}

/// Is shown the state of a dissector, for what depends on its place in memory alone.
pub trait Visitor {
    /// Called with the state, of a type that is nobody's business.
    fn visit<T>(&mut self, state: &T);
}

/// The index of a direction's half of two-sided state.
fn side_of(direction: Direction) -> usize {
    match direction {
        Direction::Forward => 0,
        Direction::Reverse => 1,
    }
}

/// Where a byte first stands, eight bytes at a time.
fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let pattern = u64::from_ne_bytes([wanted; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let differences = u64::from_le_bytes(*word) ^ pattern;
        // The lowest top bit that is set here is that of the first byte that is zero.
        let zeros = differences.wrapping_sub(ONES) & !differences & TOPS;
        if zeros != 0 {
            let within = zeros.trailing_zeros() as usize / 8;
            return Some(place.saturating_mul(8).saturating_add(within));
        }
    }
    let within = rest.iter().position(|byte| *byte == wanted)?;
    Some(words.len().saturating_mul(8).saturating_add(within))
}

/// Lower-case hexadecimal text.
fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().saturating_mul(2));
    push_hex(&mut text, bytes);
    // Digits are text.
    String::from_utf8(text).unwrap_or_default()
}

/// Appends lower-case hexadecimal text. Without the machinery of `write!`, which made a tenth of what a flow with TLS
/// costs.
fn push_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        text.extend_from_slice(&hex_of(*byte));
    }
}

/// Appends a number in decimal.
#[inline]
fn push_decimal(text: &mut Vec<u8>, value: u16) {
    let digits = [
        value / 10_000,
        value / 1000 % 10,
        value / 100 % 10,
        value / 10 % 10,
        value % 10,
    ]
    .map(|digit| b'0' | digit as u8);
    let [_, thousands @ ..] = &digits;
    let [_, hundreds @ ..] = thousands;
    let [_, tens @ ..] = hundreds;
    let [_, units @ ..] = tens;
    // Slices of a fixed length: a copy of a few bytes is not worth a call.
    match value {
        0..=9 => text.extend_from_slice(units),
        10..=99 => text.extend_from_slice(tens),
        100..=999 => text.extend_from_slice(hundreds),
        1000..=9999 => text.extend_from_slice(thousands),
        10_000.. => text.extend_from_slice(&digits),
    }
}

#[cfg(test)]
mod text_tests {
    use super::{find_byte, hex, push_decimal};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_found_where_they_first_stand(
            bytes in proptest::collection::vec(0_u8..4, 0..40),
            top in any::<bool>(),
        ) {
            let bytes: Vec<u8> = bytes.iter().map(|byte| byte | u8::from(top) << 7).collect();
            for wanted in [0, 1, 2, 0x80, 0x81] {
                prop_assert_eq!(find_byte(&bytes, wanted), bytes.iter().position(|byte| *byte == wanted));
            }
        }
    }

    #[test]
    fn numbers_read_as_the_standard_library_writes_them() {
        for value in 0..=u16::MAX {
            let mut text = Vec::new();
            push_decimal(&mut text, value);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(hex(&value.to_be_bytes()), format!("{value:04x}"));
        }
    }
}
