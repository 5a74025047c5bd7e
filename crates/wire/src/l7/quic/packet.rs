//! Long headers (RFC 9000 §17.2), and the opening of Initial packets (RFC 9001 §5).

use super::version::{Kind, Version};
use crate::cursor::{Cursor, Short};
use crate::l7::Crypto;
use crate::l7::value::Gathered;

/// The longest connection id of versions 1 and 2 (RFC 9000 §17.2).
const MAX_CONNECTION_ID_BYTES: u8 = 20;
/// Bytes of the sample that header protection takes, and of the tag.
const SAMPLE_BYTES: usize = 16;

/// A variable-length integer (RFC 9000 §16).
pub(super) fn varint(cursor: &mut Cursor<'_>) -> Result<u64, Short> {
    let first = cursor.u8()?;
    let more = (1_usize << (first >> 6)).saturating_sub(1);
    let bytes = cursor.take(more)?;
    Ok(bytes.iter().fold(u64::from(first & 0x3f), |value, byte| {
        (value << 8) | u64::from(*byte)
    }))
}

/// What follows the connection ids of a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// Version 0: the versions that the server speaks, four bytes each.
    VersionNegotiation(&'a [u8]),
    /// A packet of a known version, number and payload protected.
    Protected {
        kind: Kind,
        /// Bytes from the packet's start to its packet number.
        number_offset: usize,
    },
    /// A Retry (RFC 9000 §17.2.5).
    Retry,
}

/// One packet of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongHeader<'a> {
    /// The known version; `None` for version negotiation.
    pub(super) version: Option<&'static Version>,
    pub(super) destination: &'a [u8],
    pub(super) source: &'a [u8],
    pub(super) body: Body<'a>,
    /// The whole packet.
    pub(super) packet: &'a [u8],
}

impl<'a> LongHeader<'a> {
    /// Reads the packet at the front of `datagram` and returns it with what is coalesced behind it (RFC 9000 §12.2).
    /// A short header, an unknown version and a field that does not fit are all [`Short`].
    pub(super) fn parse(datagram: &'a [u8]) -> Result<(Self, &'a [u8]), Short> {
        let mut cursor = Cursor::new(datagram);
        let first = cursor.u8()?;
        if first & 0x80 == 0 {
            return Err(Short);
        }
        let number = cursor.u32()?;
        let destination = connection_id(&mut cursor)?;
        let source = connection_id(&mut cursor)?;
        if number == 0 {
            let body = Body::VersionNegotiation(cursor.rest());
            return Ok((
                Self {
                    version: None,
                    destination,
                    source,
                    body,
                    packet: datagram,
                },
                &[],
            ));
        }
        let version = Version::find(number).ok_or(Short)?;
        let kind = version.kind(first);
        if kind == Kind::Retry {
            let body = Body::Retry;
            return Ok((
                Self {
                    version: Some(version),
                    destination,
                    source,
                    body,
                    packet: datagram,
                },
                &[],
            ));
        }
        if kind == Kind::Initial {
            let token = varint(&mut cursor)?;
            cursor.skip(usize::try_from(token).map_err(|_| Short)?)?;
        }
        let length = usize::try_from(varint(&mut cursor)?).map_err(|_| Short)?;
        let number_offset = datagram.len().checked_sub(cursor.len()).ok_or(Short)?;
        let end = number_offset.checked_add(length).ok_or(Short)?;
        // A datagram that was captured in part has its headers, and no packet that opens.
        let (packet, rest) = datagram.split_at_checked(end).unwrap_or((datagram, &[]));
        let body = Body::Protected { kind, number_offset };
        Ok((
            Self {
                version: Some(version),
                destination,
                source,
                body,
                packet,
            },
            rest,
        ))
    }
}

fn connection_id<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Short> {
    let length = cursor.u8()?;
    if length > MAX_CONNECTION_ID_BYTES {
        Err(Short)
    } else {
        cursor.take(length.into())
    }
}

/// The keys of one direction's Initial packets.
#[derive(Clone, Debug)]
pub(super) struct PacketKeys {
    key: [u8; 16],
    iv: [u8; 12],
    header_protection: [u8; 16],
}

/// The keys of both directions' Initial packets.
#[derive(Clone, Debug)]
pub(super) struct InitialKeys {
    /// The version that they belong to.
    pub(super) version: u32,
    /// Whether the packets have Google's frame types.
    pub(super) google_frames: bool,
    pub(super) client: PacketKeys,
    pub(super) server: PacketKeys,
}

impl InitialKeys {
    /// RFC 9001 §5.2: from the destination connection id of the client's first Initial packet, or of the first after a Retry.
    pub(super) fn derive(version: &Version, destination: &[u8], crypto: &dyn Crypto) -> Self {
        let secret = crypto.hmac_sha256(&version.salt, destination);
        let labels = if version.second {
            [("quicv2 key", 16), ("quicv2 iv", 12), ("quicv2 hp", 16)]
        } else {
            [("quic key", 16), ("quic iv", 12), ("quic hp", 16)]
        };
        let [client, server] =
            expand(&secret, [("client in", 32), ("server in", 32)], crypto).map(|secret| {
                let [key, iv, header_protection] = expand(&secret, labels, crypto);
                PacketKeys {
                    key: front(key),
                    iv: front(iv),
                    header_protection: front(header_protection),
                }
            });
        Self {
            version: version.number,
            google_frames: version.google_frames,
            client,
            server,
        }
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1) for labels with lengths of at most 32 bytes: the blocks of HKDF (RFC 5869 §2.3) that
/// begin with what is wanted.
fn expand<const N: usize>(secret: &[u8; 32], labels: [(&str, u16); N], crypto: &dyn Crypto) -> [[u8; 32]; N] {
    const PREFIX: &[u8] = b"tls13 ";
    // Length, label behind its length, empty context, block counter.
    let infos = labels.map(|(label, length)| {
        let label_length = PREFIX.len().saturating_add(label.len()) as u8;
        let [high, low] = length.to_be_bytes();
        let parts = [&[high, low, label_length], PREFIX, label.as_bytes(), &[0, 1]];
        parts.into_iter().flatten().copied().collect::<Gathered<u8, 32>>()
    });
    let mut blocks = [[0; 32]; N];
    crypto.hmac_sha256_each(secret, &infos.each_ref().map(|info| &**info), &mut blocks);
    blocks
}

/// The first bytes of a block.
fn front<const N: usize>(block: [u8; 32]) -> [u8; N] {
    block.first_chunk().copied().unwrap_or([0; N])
}

impl PacketKeys {
    /// The payload of a protected packet, or `None` if its tag is wrong (then it is not for these keys).
    pub(super) fn open(&self, packet: &[u8], number_offset: usize, crypto: &dyn Crypto) -> Option<Vec<u8>> {
        // RFC 9001 §5.4.2: the sample begins where a packet number of four bytes would end.
        let sample = packet
            .get(number_offset.checked_add(4)?..)?
            .first_chunk::<SAMPLE_BYTES>()?;
        let [first_mask, number_mask @ ..] = crypto.aes128_header_mask(&self.header_protection, sample);
        let mut header = packet.get(..number_offset.checked_add(4)?)?.to_vec();
        let first = header.first_mut()?;
        *first ^= first_mask & 0x0f; // RFC 9001 §5.4.1: a long header hides four bits
        let number_bytes = usize::from(*first & 0b11).checked_add(1)?;
        for (byte, mask) in header.iter_mut().skip(number_offset).zip(number_mask) {
            *byte ^= mask;
        }
        header.truncate(number_offset.checked_add(number_bytes)?);
        // An Initial's number is small enough for its encoding to be the whole number (RFC 9000 §17.1).
        let mut nonce = self.iv;
        for (byte, number) in nonce
            .iter_mut()
            .rev()
            .zip(header.iter().skip(number_offset).rev())
        {
            *byte ^= number;
        }
        let mut payload = packet.get(header.len()..)?.to_vec();
        let length = crypto.aes128_gcm_open(&self.key, &nonce, &header, &mut payload)?;
        payload.truncate(length);
        Some(payload)
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
mod tests {
    use super::*;
    use crate::l7::hex;
    use crate::l7::tests::TestCrypto;

    impl PacketKeys {
        /// What [`PacketKeys::open`] undoes, but for header protection.
        pub(in crate::l7::quic) fn seal(&self, header: &[u8], number: u32, payload: &[u8]) -> Vec<u8> {
            let mut nonce = self.iv;
            for (byte, number) in nonce[8..].iter_mut().zip(number.to_be_bytes()) {
                *byte ^= number;
            }
            TestCrypto::seal(&self.key, nonce, header, payload)
        }

        pub(in crate::l7::quic) fn mask(&self, sample: &[u8; 16]) -> [u8; 5] {
            TestCrypto.aes128_header_mask(&self.header_protection, sample)
        }

        /// Key, iv and header protection key in hexadecimal.
        pub(in crate::l7::quic) fn parts(&self) -> [String; 3] {
            [hex(&self.key), hex(&self.iv), hex(&self.header_protection)]
        }
    }

    #[test]
    fn integers_of_rfc_9000() {
        // RFC 9000 appendix A.1.
        let cases: [(&[u8], u64); 4] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in cases {
            assert_eq!(varint(&mut Cursor::new(bytes)), Ok(value));
            let short = bytes.split_last().map(|(_, rest)| rest).unwrap_or_default();
            assert_eq!(varint(&mut Cursor::new(short)), Err(Short));
        }
    }
}
