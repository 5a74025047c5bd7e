//! QUIC, as far as it is in the clear: long headers, and the TLS hellos inside Initial packets, which are encrypted
//! with keys that anybody can derive from the client's first destination connection id (RFC 9001 §5.2).
//!
//! A hello may be spread over several Initial packets and datagrams, in any order. After a Retry the keys change;
//! after compatible version negotiation (RFC 9368) only their version does. Google's versions before TLS show the
//! server's name and the program in a message of their own.

mod google;
mod packet;
mod stream;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests;
mod version;

use super::tls::{self, Carrier, ClientHello, ServerHello};
use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::l7::value::{HexText, Text};
use google::{ClientMessage, GooglePacket, Message};
use packet::{Body, InitialKeys, LongHeader, PacketKeys, varint};
use std::borrow::Cow;
use stream::CryptoStream;
use version::{Kind, Version};

/// Datagrams of a flow that are looked at. Handshakes take some ten; a lost hello is not waited for any longer.
const MAX_DATAGRAMS: u8 = 64;
/// Times that keys are derived for one flow: a Retry and a change of version take three.
const MAX_DERIVATIONS: u8 = 16;
/// Versions that are kept of a Version Negotiation packet.
const MAX_VERSIONS: usize = 16;
/// Bytes that are kept of the user agent.
const MAX_USER_AGENT_BYTES: usize = 256;
/// Google's transport parameter that names the program, in ASCII.
const USER_AGENT_PARAMETER: u64 = 0x3129;

crate::record! {
    /// The QUIC handshake of a flow. The TLS hellos inside are in the record `tls`.
    pub struct Record {
        /// Version of the latest long header: `1`, `2`, `draft-29`, `mvfst-2`, ….
        version: Option<Cow<'static, str>>,
        /// Destination connection id of the first long header from the client (from either side until the client is known), in hexadecimal.
        dcid: Option<HexText<20>>,
        /// Source connection id of the same packet, in hexadecimal; empty where its length is 0.
        scid: Option<HexText<20>>,
        /// Connection id that the server chose, in hexadecimal. Null until an Initial packet of the server was opened.
        server_scid: Option<HexText<20>>,
        /// Versions that the first Version Negotiation packet listed, GREASE (RFC 9000 §15) included; at most 16.
        negotiated_versions: Vec<Cow<'static, str>>,
        /// Whether the server sent a Retry packet (RFC 9000 §8.1.2).
        retry: bool,
        /// Whether 0-RTT packets were seen.
        zero_rtt: bool,
        /// Program that the client names in the transport parameter `user_agent` (0x3129), or in tag UAID of Google's versions `Q0xx`.
        user_agent: Option<Text<30>>,
        /// Server name in tag SNI of Google's versions `Q0xx`; in all others it is in the record `tls`.
        sni: Option<Text<38>>,
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Quic {
    record: Record,
    tls: tls::Record,
    keys: Option<InitialKeys>,
    /// The connection id from which `keys` came.
    key_connection_id: Vec<u8>,
    /// The direction in which the client's Initial packets come. Known once one was opened.
    client_side: Option<usize>,
    streams: [CryptoStream; 2],
    server_hello: bool,
    /// The handshake message of Google's versions up to Q049.
    google: Message,
    /// That message was read whole.
    google_complete: bool,
    datagrams: u8,
    derivations: u8,
    closed: [bool; 2],
}

impl Dissect for Quic {
    fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        let bytes = match input {
            Input::Datagram(bytes) | Input::Stream(bytes) => bytes,
            Input::Gap(_) => return Outcome::none(Status::Need(0)),
            Input::End => {
                if let Some(closed) = self.closed.get_mut(index) {
                    *closed = true;
                }
                return Outcome::none(if self.closed == [true; 2] {
                    Status::Done
                } else {
                    Status::Need(0)
                });
            }
        };
        self.datagrams = self.datagrams.saturating_add(1);
        if let Ok(packet) = GooglePacket::parse(bytes)
            && let Err(limit) = self.google_packet(&packet)
        {
            return Outcome {
                consumed: bytes.len(),
                status: Status::GaveUp(limit),
            };
        }
        let mut rest = bytes;
        // Short headers, padding and what else is not a long header end the datagram.
        while let Ok((header, behind)) = LongHeader::parse(rest) {
            if let Err(status) = self.packet(index, &header, crypto) {
                return Outcome {
                    consumed: bytes.len(),
                    status,
                };
            }
            rest = behind;
        }
        let complete = self.google_complete || (self.tls.has_client_hello() && self.server_hello);
        let status = if complete || self.datagrams >= MAX_DATAGRAMS {
            Status::Done
        } else {
            Status::Need(0)
        };
        Outcome {
            consumed: bytes.len(),
            status,
        }
    }

    fn confidence(&self) -> Confidence {
        if self.tls.has_client_hello() || self.google_complete {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        self.tls.sni.as_deref().or(self.record.sni.as_deref())
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        match protocol {
            Protocol::Quic => {
                self.record.emit(sink);
                true
            }
            Protocol::Tls if self.tls.has_client_hello() || self.tls.has_server_hello() => {
                self.tls.emit(sink);
                true
            }
            _ => false,
        }
    }

    fn release(&mut self) {
        self.streams = <[CryptoStream; 2]>::default();
        self.google = Message::default();
        self.key_connection_id = Vec::new();
        self.keys = None;
    }

    fn kept_bytes(&self) -> usize {
        let streams = self
            .streams
            .iter()
            .fold(self.key_connection_id.capacity(), |sum, stream| {
                sum.saturating_add(stream.heap_bytes())
            });
        streams
            .saturating_add(self.google.heap_bytes())
            .saturating_add(self.record.heap_bytes())
            .saturating_add(self.tls.heap_bytes())
    }
}

impl Quic {
    fn packet(&mut self, index: usize, header: &LongHeader<'_>, crypto: &dyn Crypto) -> Result<(), Status> {
        match (header.version, header.body) {
            (_, Body::VersionNegotiation(list)) => {
                // RFC 9000 §6.2: a client discards all but the first.
                if self.record.negotiated_versions.is_empty() {
                    let (numbers, _) = list.as_chunks();
                    let names = numbers
                        .iter()
                        .map(|number| version::name(u32::from_be_bytes(*number)));
                    self.record.negotiated_versions = names.take(MAX_VERSIONS).collect();
                }
            }
            (_, Body::Retry) => {
                self.record.retry = true;
                // The client starts over: with the same hello, from offset 0 (RFC 9000 §17.2.5.3).
                if !self.tls.has_client_hello() {
                    self.streams = <[CryptoStream; 2]>::default();
                }
            }
            (Some(version), Body::Protected { kind, number_offset }) => {
                self.record.version = Some(version::name(version.number));
                if self.record.dcid.is_none() {
                    self.set_connection_ids(header);
                }
                match kind {
                    Kind::Initial => self.initial(index, version, header, number_offset, crypto)?,
                    Kind::ZeroRtt => self.record.zero_rtt = true,
                    Kind::Handshake | Kind::Retry => {}
                }
            }
            (None, Body::Protected { .. }) => {}
        }
        Ok(())
    }

    /// A packet of Google's versions up to Q049.
    fn google_packet(&mut self, packet: &GooglePacket<'_>) -> Result<(), Limit> {
        self.record.version = Some(format!("Q{:03}", packet.version).into());
        self.record
            .dcid
            .get_or_insert_with(|| packet.connection_id.into());
        packet.collect(&mut self.google)?;
        self.google_complete |= self.record.add_client_message(self.google.front());
        Ok(())
    }

    fn set_connection_ids(&mut self, header: &LongHeader<'_>) {
        self.record.dcid = Some(header.destination.into());
        self.record.scid = Some(header.source.into());
    }

    fn initial(
        &mut self,
        index: usize,
        version: &Version,
        header: &LongHeader<'_>,
        number_offset: usize,
        crypto: &dyn Crypto,
    ) -> Result<(), Status> {
        let open = |keys: &PacketKeys| keys.open(header.packet, number_offset, crypto);
        let payload = self.open_with_present_keys(index, version, crypto, open);
        let payload = match payload {
            Some(payload) => payload,
            None if self.derivations < MAX_DERIVATIONS => {
                // The client's first Initial packet, or its first after a Retry. A packet of the server, or one that is
                // cut short or damaged, does not open and changes nothing.
                self.derivations = self.derivations.saturating_add(1);
                let keys = InitialKeys::derive(version, header.destination, crypto);
                let Some(payload) = open(&keys.client) else {
                    return Ok(());
                };
                self.keys = Some(keys);
                self.key_connection_id = header.destination.to_vec();
                if self.client_side.is_none() {
                    self.set_connection_ids(header);
                }
                self.client_side = Some(index);
                payload
            }
            None => return Ok(()),
        };
        if self.client_side != Some(index) && self.record.server_scid.is_none() {
            self.record.server_scid = Some(header.source.into());
        }
        self.frames(index, &payload, crypto)
    }

    fn open_with_present_keys(
        &mut self,
        index: usize,
        version: &Version,
        crypto: &dyn Crypto,
        open: impl Fn(&PacketKeys) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let from_client = self.client_side == Some(index);
        let present = self.keys.as_ref()?;
        if present.version == version.number {
            return open(if from_client {
                &present.client
            } else {
                &present.server
            });
        }
        // RFC 9368 §4.1: the server may answer in another version, with keys from the same connection id.
        if self.derivations >= MAX_DERIVATIONS {
            return None;
        }
        self.derivations = self.derivations.saturating_add(1);
        let keys = InitialKeys::derive(version, &self.key_connection_id, crypto);
        let payload = open(if from_client { &keys.client } else { &keys.server })?;
        self.keys = Some(keys);
        Some(payload)
    }

    /// The frames of an opened Initial packet (RFC 9000 §17.2.2 names those that may occur).
    fn frames(&mut self, index: usize, payload: &[u8], crypto: &dyn Crypto) -> Result<(), Status> {
        let mut cursor = Cursor::new(payload);
        while !cursor.is_empty() {
            match self.frame(index, &mut cursor) {
                Ok(true) => {}
                Ok(false) => break,
                Err(FrameError::Short) => return Err(Status::Malformed(Malformed::BadLength)),
                Err(FrameError::Limit(limit)) => return Err(Status::GaveUp(limit)),
            }
        }
        self.messages(index, crypto)
            .map_err(|Short| Status::Malformed(Malformed::BadLength))
    }

    /// The type of CRYPTO frames: Google's versions kept their own frame types.
    fn crypto_frame(&self) -> u64 {
        if self.keys.as_ref().is_some_and(|keys| keys.google_frames) {
            0x08
        } else {
            0x06
        }
    }

    /// Reads one frame; whether the next can be read.
    fn frame(&mut self, index: usize, cursor: &mut Cursor<'_>) -> Result<bool, FrameError> {
        match varint(cursor)? {
            0x00 | 0x01 => {} // PADDING, PING
            kind @ (0x02 | 0x03) => {
                // ACK: largest, delay, further ranges, first range; with 0x03 three ECN counts
                varint(cursor)?;
                varint(cursor)?;
                let ranges = varint(cursor)?;
                varint(cursor)?;
                for _ in 0..ranges {
                    varint(cursor)?;
                    varint(cursor)?;
                }
                if kind == 0x03 {
                    for _ in 0..3 {
                        varint(cursor)?;
                    }
                }
            }
            kind if kind == self.crypto_frame() => {
                let offset = varint(cursor)?;
                let length = varint(cursor)?;
                let data = cursor.take(usize::try_from(length).map_err(|_| FrameError::Short)?)?;
                if let Some(stream) = self.streams.get_mut(index) {
                    stream.insert(offset, data)?;
                }
            }
            // CONNECTION_CLOSE, and what has no place in an Initial packet.
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn messages(&mut self, index: usize, crypto: &dyn Crypto) -> Result<(), Short> {
        let from_client = self.client_side == Some(index);
        let google_frames = self.keys.as_ref().is_some_and(|keys| keys.google_frames);
        let Some(stream) = self.streams.get_mut(index) else {
            return Ok(());
        };
        if google_frames && from_client && stream.front().starts_with(b"CHLO") {
            self.google_complete |= self.record.add_client_message(stream.front());
            return Ok(());
        }
        while let Some((kind, body)) = stream.next_message() {
            match kind {
                tls::CLIENT_HELLO if from_client => {
                    let hello = ClientHello::parse(body)?;
                    self.tls.add_client_hello(&hello, Carrier::Quic, crypto);
                    let named = hello.quic_transport_parameters.and_then(user_agent);
                    self.record.user_agent = self.record.user_agent.take().or(named);
                }
                tls::SERVER_HELLO if !from_client && !self.server_hello => {
                    let hello = ServerHello::parse(body)?;
                    self.tls.set_server_hello(&hello, crypto);
                    self.server_hello = !hello.is_retry();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Record {
    /// Takes over what a `CHLO` shows so far; whether it was whole.
    fn add_client_message(&mut self, front: &[u8]) -> bool {
        let Ok(message) = ClientMessage::parse(front) else {
            return false;
        };
        let kept = MAX_USER_AGENT_BYTES;
        let name = message.server_name.map(|name| Text::from_wire(name, kept));
        let agent = message.user_agent.map(|agent| Text::from_wire(agent, kept));
        self.sni = self.sni.take().or(name);
        self.user_agent = self.user_agent.take().or(agent);
        message.complete
    }
}

/// Why a frame was not read.
enum FrameError {
    Short,
    Limit(Limit),
}

impl From<Short> for FrameError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl From<Limit> for FrameError {
    fn from(limit: Limit) -> Self {
        Self::Limit(limit)
    }
}

/// The user agent among the transport parameters (RFC 9000 §18).
fn user_agent(parameters: &[u8]) -> Option<Text<30>> {
    let mut cursor = Cursor::new(parameters);
    loop {
        let number = varint(&mut cursor).ok()?;
        let length = varint(&mut cursor).ok()?;
        let value = cursor.take(usize::try_from(length).ok()?).ok()?;
        if number == USER_AGENT_PARAMETER {
            return Some(Text::from_wire(value, MAX_USER_AGENT_BYTES));
        }
    }
}

/// A `CHLO` of one of Google's versions, a long header of a known version, a version negotiation that lists one, or a client's first Initial packet with a
/// version that is meant to be refused.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    let Ok((header, _)) = LongHeader::parse(bytes) else {
        return if google::is_client_packet(bytes) {
            Verdict::Yes
        } else {
            Verdict::No
        };
    };
    let plausible = match header.body {
        Body::VersionNegotiation(list) => {
            list.len() % 4 == 0
                && list.chunks_exact(4).any(|number| {
                    <[u8; 4]>::try_from(number)
                        .is_ok_and(|number| Version::find(u32::from_be_bytes(number)).is_some())
                })
        }
        // RFC 9000 §14.1: a datagram with a client's Initial packet has at least 1,200 bytes. Less than the number is
        // known of a reserved version, so that this must hold too.
        Body::Protected { kind, .. } if header.version.is_some_and(Version::is_reserved) => {
            kind == Kind::Initial && bytes.len() >= 1200 && header.destination.len() >= 8
        }
        // RFC 9000 §17.2: the fixed bit is 1 until both sides have agreed otherwise (RFC 9287).
        Body::Protected { .. } | Body::Retry => bytes.first().is_some_and(|first| first & 0x40 != 0),
    };
    if plausible { Verdict::Yes } else { Verdict::No }
}
