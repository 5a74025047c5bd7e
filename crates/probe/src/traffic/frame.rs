//! Frames with valid checksums, and how to give them another client afterwards.
//!
//! A frame is built for a client whose 32 variable address bits and port are zero. [`Patch`] remembers the
//! checksums' sums without them, so that the same bytes serve for any number of clients: patching writes 4 + 2 bytes
//! and two checksums, and reads none of the payload.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The shortest Ethernet frame without its check sequence.
const MIN_FRAME_BYTES: usize = 60;
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
/// Clients of IPv6: `2001:db8:c11e::/96`; the last 32 bits are patched.
const CLIENT_NET: [u8; 12] = [0x20, 0x01, 0x0d, 0xb8, 0xc1, 0x1e, 0, 0, 0, 0, 0, 0];

/// TCP flags.
pub(super) mod flag {
    pub(in crate::traffic) const FIN: u8 = 0x01;
    pub(in crate::traffic) const SYN: u8 = 0x02;
    pub(in crate::traffic) const RST: u8 = 0x04;
    pub(in crate::traffic) const PSH: u8 = 0x08;
    pub(in crate::traffic) const ACK: u8 = 0x10;
}

/// The server's address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Server {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// What all frames of a flow have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) vlan: Option<u16>,
    pub(super) server: Server,
    pub(super) server_port: u16,
}

/// What a TCP segment says beside its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    pub(super) options: &'a [u8],
}

/// Where a frame's client stands, and what its checksums are without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch {
    ip: u8,
    ipv6: bool,
    udp: bool,
    pub(super) from_server: bool,
    /// One's complement sums, folded.
    ip_sum: u16,
    transport_sum: u16,
}

/// A frame that waits for its client.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    pub(super) patch: Patch,
}

/// The one's complement sum of 16-bit big-endian words (RFC 1071), not folded.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let total: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum();
    total + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

/// Such a sum in 16 bits.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Path {
    pub(super) fn is_ipv6(&self) -> bool {
        matches!(self.server, Server::V6(_))
    }

    /// A TCP frame.
    pub(super) fn tcp(&self, from_server: bool, segment: &Segment<'_>, payload: &[u8]) -> Draft {
        let mut header = Vec::with_capacity(60);
        self.ports(from_server, &mut header);
        header.extend(segment.sequence.to_be_bytes());
        header.extend(segment.acknowledgment.to_be_bytes());
        header.push(((5 + segment.options.len() / 4) << 4) as u8);
        header.push(segment.flags);
        // Window, checksum, urgent pointer.
        header.extend([0xfa, 0xf0, 0, 0, 0, 0]);
        header.extend(segment.options);
        self.frame(from_server, false, &header, payload)
    }

    /// A UDP frame.
    pub(super) fn udp(&self, from_server: bool, payload: &[u8]) -> Draft {
        let mut header = Vec::with_capacity(8);
        self.ports(from_server, &mut header);
        header.extend((8 + payload.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        self.frame(from_server, true, &header, payload)
    }

    fn ports(&self, from_server: bool, header: &mut Vec<u8>) {
        let (source, destination) = if from_server {
            (self.server_port, 0)
        } else {
            (0, self.server_port)
        };
        header.extend(source.to_be_bytes());
        header.extend(destination.to_be_bytes());
    }

    fn frame(&self, from_server: bool, udp: bool, header: &[u8], payload: &[u8]) -> Draft {
        let mut bytes = Vec::with_capacity(64 + header.len() + payload.len());
        let (source, destination) = if from_server {
            (SERVER_MAC, CLIENT_MAC)
        } else {
            (CLIENT_MAC, SERVER_MAC)
        };
        bytes.extend(destination);
        bytes.extend(source);
        if let Some(vlan) = self.vlan {
            bytes.extend([0x81, 0x00]);
            bytes.extend(vlan.to_be_bytes());
        }
        bytes.extend(if self.is_ipv6() {
            [0x86, 0xdd]
        } else {
            [0x08, 0x00]
        });
        let ip = bytes.len();
        let length = header.len() + payload.len();
        let protocol: u8 = if udp { 17 } else { 6 };
        match self.server {
            Server::V4(server) => {
                bytes.extend([0x45, 0]);
                bytes.extend((20 + length as u16).to_be_bytes());
                // Identification 0 with Don't Fragment (RFC 6864 §4.1); TTL 64; checksum later.
                bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                addresses(from_server, &[0; 4], &server.octets(), &mut bytes);
            }
            Server::V6(server) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend([protocol, 64]);
                let mut client = [0; 16];
                client[..12].copy_from_slice(&CLIENT_NET);
                addresses(from_server, &client, &server.octets(), &mut bytes);
            }
        }
        let ip_sum = fold(sum(&bytes[ip..]));
        let address_bytes = if self.is_ipv6() { 32 } else { 8 };
        let pseudo = sum(&bytes[bytes.len() - address_bytes..]) + u64::from(protocol) + length as u64;
        // A header has an even length, so that the sums of header and payload add up.
        let transport_sum = fold(pseudo + sum(header) + sum(payload));
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(payload);
        if bytes.len() < MIN_FRAME_BYTES {
            bytes.resize(MIN_FRAME_BYTES, 0);
        }
        Draft {
            bytes,
            patch: Patch {
                ip: ip as u8,
                ipv6: self.is_ipv6(),
                udp,
                from_server,
                ip_sum,
                transport_sum,
            },
        }
    }
}

fn addresses(from_server: bool, client: &[u8], server: &[u8], bytes: &mut Vec<u8>) {
    let (source, destination) = if from_server {
        (server, client)
    } else {
        (client, server)
    };
    bytes.extend_from_slice(source);
    bytes.extend_from_slice(destination);
}

/// A client: what is patched into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The whole IPv4 address, or the last 32 bits of the IPv6 address.
    pub(super) address: u32,
    pub(super) port: u16,
}

impl Patch {
    /// Gives the frame a client, whoever it had before.
    pub(super) fn apply(self, frame: &mut [u8], client: Client) {
        let ip = usize::from(self.ip);
        let (address, transport) = match (self.ipv6, self.from_server) {
            (false, false) => (ip + 12, ip + 20),
            (false, true) => (ip + 16, ip + 20),
            (true, false) => (ip + 20, ip + 40),
            (true, true) => (ip + 36, ip + 40),
        };
        let port = transport + if self.from_server { 2 } else { 0 };
        let checksum = transport + if self.udp { 6 } else { 16 };
        let added = u64::from(client.address >> 16) + u64::from(client.address & 0xffff);
        write(frame, address, client.address.to_be_bytes());
        write(frame, port, client.port.to_be_bytes());
        if !self.ipv6 {
            let value = !fold(u64::from(self.ip_sum) + added);
            write(frame, ip + 10, value.to_be_bytes());
        }
        let mut value = !fold(u64::from(self.transport_sum) + added + u64::from(client.port));
        if self.udp && value == 0 {
            value = 0xffff; // RFC 768: zero would say that there is no checksum
        }
        write(frame, checksum, value.to_be_bytes());
    }
}

fn write<const N: usize>(frame: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = frame.get_mut(at..at + N) {
        place.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::decode::{Decoder, FrameMeta, LinkType};

    const PATHS: [Path; 3] = [
        Path {
            vlan: None,
            server: Server::V4(Ipv4Addr::new(198, 18, 0, 7)),
            server_port: 443,
        },
        Path {
            vlan: Some(42),
            server: Server::V4(Ipv4Addr::new(198, 18, 3, 7)),
            server_port: 53,
        },
        Path {
            vlan: None,
            server: Server::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5e, 0, 0, 0, 0, 9)),
            server_port: 22,
        },
    ];

    #[test]
    fn checksums_hold_after_every_patch() {
        let decoder = Decoder::default();
        for path in PATHS {
            for from_server in [false, true] {
                let segment = Segment {
                    sequence: 0xfeed_beef,
                    acknowledgment: 7,
                    flags: flag::ACK,
                    options: &[1, 1, 1, 1],
                };
                for mut draft in [
                    path.tcp(from_server, &segment, b"odd"),
                    path.udp(from_server, b"even"),
                ] {
                    for client in [(0x0a00_0001, 1024), (0x0aff_fffe, 65_535), (0x0a80_0000, 9)] {
                        let client = Client {
                            address: client.0,
                            port: client.1,
                        };
                        draft.patch.apply(&mut draft.bytes, client);
                        let meta = FrameMeta {
                            link_type: LinkType::ETHERNET,
                            wire_length: draft.bytes.len() as u32,
                            stripped_vlan: None,
                            checksum_offloaded: false,
                        };
                        let packet = decoder.decode(&draft.bytes, &meta).expect("a sound frame");
                        assert_eq!(packet.faults, 0, "bits of wire::malformed::Fault");
                    }
                }
            }
        }
    }
}
