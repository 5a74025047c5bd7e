//! QUIC version 1 datagrams (RFC 9000) with Initial packets protected as RFC 9001 §5 says: what
//! `wire::l7::quic` opens.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use wire::l7::Crypto as _;

use super::random::Random;
use super::tls::{self, Ask};
use crate::crypto::Crypto;

const VERSION: u32 = 1;
/// The salt of version 1 (RFC 9001 §5.2).
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc,
    0xbb, 0x7f, 0x0a,
];
/// Datagrams with Initial packets are at least this long (RFC 9000 §14.1).
pub(super) const DATAGRAM_BYTES: usize = 1200;
const CONNECTION_ID_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const NUMBER_BYTES: usize = 4;

/// Packet types of long headers, with the fixed bit and a packet number of four bytes.
const INITIAL: u8 = 0xc3;
const HANDSHAKE: u8 = 0xe3;

/// The keys of one direction's Initial packets.
struct Keys {
    key: [u8; 16],
    iv: [u8; 12],
    header_protection: [u8; 16],
}

/// HKDF-Expand-Label (RFC 8446 §7.1) for at most 32 bytes.
fn expand<const N: usize>(secret: &[u8; 32], label: &str) -> [u8; N] {
    let mut info = (N as u16).to_be_bytes().to_vec();
    info.push(6 + label.len() as u8);
    info.extend(b"tls13 ");
    info.extend(label.as_bytes());
    info.extend([0, 1]);
    let block = Crypto.hmac_sha256(secret, &info);
    let mut output = [0; N];
    output.copy_from_slice(&block[..N]);
    output
}

impl Keys {
    fn derive(destination: &[u8], label: &str) -> Self {
        let secret = expand(&Crypto.hmac_sha256(&SALT, destination), label);
        Self {
            key: expand(&secret, "quic key"),
            iv: expand(&secret, "quic iv"),
            header_protection: expand(&secret, "quic hp"),
        }
    }

    /// Protects a packet whose header ends with a packet number of four bytes (RFC 9001 §5.3, §5.4).
    fn seal(&self, header: &[u8], number: u32, payload: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        let mut sealed = payload.to_vec();
        let key = UnboundKey::new(&AES_128_GCM, &self.key).map(LessSafeKey::new);
        // Fails only for keys of another length and for payloads of many gigabytes.
        if let Ok(key) = key
            && key
                .seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(header),
                    &mut sealed,
                )
                .is_err()
        {
            sealed.clear();
        }
        let mut packet = header.to_vec();
        let number_at = packet.len() - NUMBER_BYTES;
        packet.extend(sealed);
        let mask = packet
            .get(number_at + 4..)
            .and_then(|rest| rest.first_chunk::<16>())
            .map(|sample| Crypto.aes128_header_mask(&self.header_protection, sample))
            .unwrap_or_default();
        packet[0] ^= mask[0] & 0x0f;
        for (byte, mask) in packet[number_at..].iter_mut().zip(&mask[1..]).take(NUMBER_BYTES) {
            *byte ^= mask;
        }
        packet
    }
}

/// A variable-length integer of two bytes (RFC 9000 §16).
fn varint16(value: usize) -> [u8; 2] {
    (0x4000 | value as u16).to_be_bytes()
}

/// A connection's two ends.
pub(super) struct Connection {
    /// What the client calls the server at first.
    original: Vec<u8>,
    client: Vec<u8>,
    server: Vec<u8>,
    client_keys: Keys,
    server_keys: Keys,
}

impl Connection {
    pub(super) fn new(random: &mut Random) -> Self {
        let original = random.bytes(CONNECTION_ID_BYTES);
        Self {
            client_keys: Keys::derive(&original, "client in"),
            server_keys: Keys::derive(&original, "server in"),
            client: random.bytes(CONNECTION_ID_BYTES),
            server: random.bytes(CONNECTION_ID_BYTES),
            original,
        }
    }

    /// A long header up to and with the packet number, for `payload` bytes of plaintext.
    fn header(first: u8, destination: &[u8], source: &[u8], payload: usize, number: u32) -> Vec<u8> {
        let mut header = vec![first];
        header.extend(VERSION.to_be_bytes());
        header.push(destination.len() as u8);
        header.extend(destination);
        header.push(source.len() as u8);
        header.extend(source);
        if first == INITIAL {
            header.push(0); // no token
        }
        header.extend(varint16(NUMBER_BYTES + payload + TAG_BYTES));
        header.extend(number.to_be_bytes());
        header
    }

    /// What a datagram has room for in one Initial packet.
    fn room() -> usize {
        let header = Self::header(
            INITIAL,
            &[0; CONNECTION_ID_BYTES],
            &[0; CONNECTION_ID_BYTES],
            0,
            0,
        );
        DATAGRAM_BYTES - header.len() - TAG_BYTES
    }

    /// The client's first datagrams: its hello in CRYPTO frames, padded (RFC 9000 §19.6).
    pub(super) fn client_initials(&self, host: &str, random: &mut Random) -> Vec<Vec<u8>> {
        // initial_source_connection_id, initial_max_data, max_idle_timeout, initial_max_streams_bidi.
        let mut parameters = vec![0x0f, self.client.len() as u8];
        parameters.extend(&self.client);
        parameters.extend([0x04, 4, 0x80, 0x10, 0, 0, 0x01, 2, 0x75, 0x30, 0x08, 1, 0x20]);
        let hello = tls::client_hello(
            &Ask {
                host,
                alpn: &["h3"],
                tls13: true,
                quic_parameters: Some(&parameters),
            },
            random,
        );
        let room = Self::room();
        let mut offset = 0;
        let mut number = 0;
        let mut datagrams = Vec::new();
        while offset < hello.len() {
            let part = (hello.len() - offset).min(room - 5);
            let mut payload = crypto_frame(offset, &hello[offset..offset + part]);
            payload.resize(room, 0); // PADDING
            let header = Self::header(INITIAL, &self.original, &self.client, payload.len(), number);
            datagrams.push(self.client_keys.seal(&header, number, &payload));
            offset += part;
            number += 1;
        }
        datagrams
    }

    /// The server's answer: ACK and its hello in an Initial, then handshake packets that nobody can read on the way.
    pub(super) fn server_flight(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let mut payload = vec![0x02, 0, 0, 0, 0]; // ACK of packet 0
        payload.extend(crypto_frame(0, &tls::server_hello_13(&[], random)));
        let header = Self::header(INITIAL, &self.client, &self.server, payload.len(), 0);
        let mut datagram = self.server_keys.seal(&header, 0, &payload);
        let rest = DATAGRAM_BYTES - datagram.len();
        datagram.extend(self.handshake(true, rest, random));
        vec![datagram, self.handshake(true, DATAGRAM_BYTES, random)]
    }

    /// The client's end of the handshake: an Initial with an ACK, and a handshake packet.
    pub(super) fn client_finish(&self, random: &mut Random) -> Vec<u8> {
        let payload = [0x02, 0, 0, 0, 0];
        let header = Self::header(INITIAL, &self.server, &self.client, payload.len(), 8);
        let mut datagram = self.client_keys.seal(&header, 8, &payload);
        let rest = DATAGRAM_BYTES - datagram.len();
        datagram.extend(self.handshake(false, rest, random));
        datagram
    }

    /// A handshake packet that fills `bytes` bytes; its protected part is random.
    fn handshake(&self, from_server: bool, bytes: usize, random: &mut Random) -> Vec<u8> {
        let (destination, source) = if from_server {
            (&self.client, &self.server)
        } else {
            (&self.server, &self.client)
        };
        let overhead = Self::header(HANDSHAKE, destination, source, 0, 0).len() + TAG_BYTES;
        let payload = bytes.saturating_sub(overhead);
        let number = random.next() as u32;
        let mut packet = Self::header(HANDSHAKE, destination, source, payload, number);
        // Header protection makes the low bits of the first byte random too.
        packet[0] ^= random.below(16) as u8;
        packet.extend(random.bytes(payload + TAG_BYTES));
        packet
    }

    /// A packet with a short header of `bytes` bytes (RFC 9000 §17.3).
    pub(super) fn short(&self, from_server: bool, bytes: usize, random: &mut Random) -> Vec<u8> {
        let mut packet = vec![0x40 | random.below(64) as u8];
        packet.extend(if from_server { &self.client } else { &self.server });
        packet.extend(random.bytes(bytes.saturating_sub(packet.len()).max(20)));
        packet
    }
}

fn crypto_frame(offset: usize, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x06];
    frame.extend(varint16(offset));
    frame.extend(varint16(data.len()));
    frame.extend(data);
    frame
}

#[cfg(test)]
mod tests {
    use super::Keys;

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    #[test]
    fn keys_of_rfc_9001() {
        // RFC 9001 appendix A.1.
        let destination = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        let client = Keys::derive(&destination, "client in");
        assert_eq!(client.key[..], bytes("1f369613dd76d5467730efcbe3b1a22d"));
        assert_eq!(client.iv[..], bytes("fa044b2f42a3fd3b46fb255c"));
        let protection = bytes("9f50449e04a0e810283a1e9933adedd2");
        assert_eq!(client.header_protection[..], protection);
    }
}
