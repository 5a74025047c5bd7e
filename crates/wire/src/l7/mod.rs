//! Layer 7: the dissector contract and the table of protocols.
//!
//! The flow stage owns a [`Session`] per flow while there is something to learn, and feeds it datagrams or
//! ordered stream bytes. Bytes decide what a flow is; ports only order the candidates (design D12).

use crate::column::{Column, Sink};
use crate::flowkey::Direction;
use crate::malformed::reasons;

/// Cryptographic primitives that dissectors need, supplied by the caller so that this crate stays without dependencies.
pub trait Crypto {
    /// SHA-256.
    fn sha256(&self, data: &[u8]) -> [u8; 32];
    /// MD5 (RFC 1321): for JA3 and HASSH only.
    fn md5(&self, data: &[u8]) -> [u8; 16];
    /// HMAC-SHA-256 (RFC 2104), from which HKDF (RFC 5869) is built.
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> [u8; 32];
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
        /// More transactions than are recorded.
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

/// The layer-7 state of one flow: first the search for its protocol, then that protocol's dissector.
#[derive(Debug, Default)]
pub struct Session {}

/// A protocol of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {}

impl Protocol {
    /// Every protocol in table order, which is also the order of the protocol structs in a batch.
    pub const ALL: &'static [Self] = &[];

    /// The neutral lower-case name: value of `app`, name of the struct column and of the Core's table.
    pub const fn name(self) -> &'static str {
        match self {}
    }

    /// The group of applications it belongs to (column `category`).
    pub const fn category(self) -> &'static str {
        match self {}
    }

    /// The members of its record struct.
    pub const fn columns(self) -> &'static [Column] {
        match self {}
    }
}

impl Session {
    /// Feeds bytes of one direction. Never panics, never keeps more than its documented limits.
    pub fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let _ = (input, context, crypto);
        Outcome {
            consumed: 0,
            status: Status::GaveUp(Limit::Unidentified),
        }
    }

    /// The protocol, once known.
    pub fn protocol(&self) -> Option<(Protocol, Confidence)> {
        None
    }

    /// The name of the server as the client gave it: SNI, HTTP host or DNS query name.
    pub fn server_name(&self) -> Option<&str> {
        None
    }

    /// Emits the record struct of `protocol` if this flow has one (QUIC flows carry `quic` and `tls`); else returns false
    /// and emits nothing.
    pub fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        let _ = (protocol, sink);
        false
    }
}
