//! Community ID v1 (<https://github.com/corelight/community-id-spec>): the name that other tools give the same flow.

use arrayvec::ArrayVec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wire::column::{Address, Sink, Type, Value};

use crate::crypto::sha1;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// What the identifier is made of.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// IANA protocol number.
    pub ip_protocol: u8,
    /// Whether the addresses are IPv4.
    pub ipv4: bool,
    /// Sender of the first packet, and its port.
    pub source: (Address, u16),
    /// Receiver of the first packet, and its port.
    pub destination: (Address, u16),
    /// ICMP of either version: type and code of the source's first packet, where they were seen.
    pub icmp: Option<[u8; 2]>,
}

/// Bytes of the version, `1:`.
const PREFIX: usize = 2;

/// Bytes of an identifier: the version, and 20 bytes of SHA-1 in base64.
const LENGTH: usize = PREFIX + 28;

/// An identifier as text. Aligned so that it is checked to be text by the word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(8))]
pub struct CommunityId([u8; LENGTH]);

impl CommunityId {
    /// The identifier of a digest.
    pub fn new(digest: [u8; 20]) -> Self {
        let mut text = Self::default();
        // The only error is too little room, and 20 bytes are 28 characters.
        let _ = STANDARD.encode_slice(digest, &mut text.0[PREFIX..]);
        text
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for CommunityId {
    /// That of a digest of zeros.
    fn default() -> Self {
        Self(*b"1:AAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    }
}

impl std::fmt::Debug for CommunityId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(formatter)
    }
}

impl Value for CommunityId {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self.as_str());
    }
}

/// The identifier with seed 0.
pub fn community_id(flow: &Flow) -> CommunityId {
    let (source_port, destination_port, one_way) = match flow.ip_protocol {
        ICMP | ICMP6 => flow.icmp.map_or((0, 0, false), |[kind, code]| {
            match counterpart(flow.ip_protocol, kind) {
                Some(counterpart) => (u16::from(kind), u16::from(counterpart), false),
                None => (u16::from(kind), u16::from(code), true),
            }
        }),
        _ => (flow.source.1, flow.destination.1, false),
    };
    let (mut low, mut high) = (
        (flow.source.0, source_port),
        (flow.destination.0, destination_port),
    );
    if !one_way && high < low {
        std::mem::swap(&mut low, &mut high);
    }
    // Seed, addresses, protocol, zero, ports.
    let mut message = ArrayVec::<u8, 40>::new();
    message.extend([0, 0]);
    for Address(address) in [low.0, high.0] {
        if flow.ipv4 {
            message.extend(address.into_iter().skip(12));
        } else {
            message.extend(address);
        }
    }
    message.extend([flow.ip_protocol, 0]);
    let has_ports = match flow.ip_protocol {
        ICMP | ICMP6 => flow.icmp.is_some(),
        protocol => matches!(protocol, TCP | UDP | SCTP),
    };
    if has_ports {
        message.extend(low.1.to_be_bytes());
        message.extend(high.1.to_be_bytes());
    }
    CommunityId::new(sha1(&message))
}

/// The type of the message that answers an ICMP message, or that it answers.
fn counterpart(ip_protocol: u8, kind: u8) -> Option<u8> {
    // IANA: echo, router advertisement/solicitation, timestamp, information, address mask.
    const PAIRS: [(u8, u8); 5] = [(8, 0), (9, 10), (13, 14), (15, 16), (17, 18)];
    // IANA: echo, multicast listener, router, neighbour, node information, home agent address discovery.
    const PAIRS6: [(u8, u8); 6] = [
        (128, 129),
        (130, 131),
        (133, 134),
        (135, 136),
        (139, 140),
        (144, 145),
    ];
    let pairs: &[(u8, u8)] = if ip_protocol == ICMP { &PAIRS } else { &PAIRS6 };
    pairs.iter().find_map(|(one, other)| match kind {
        kind if kind == *one => Some(*other),
        kind if kind == *other => Some(*one),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn id(ip_protocol: u8, source: &str, destination: &str, one: u16, other: u16) -> CommunityId {
        let [source, destination]: [IpAddr; 2] = [source, destination].map(|text| text.parse().unwrap());
        let icmp = matches!(ip_protocol, ICMP | ICMP6);
        let ports = if icmp { [0, 0] } else { [one, other] };
        community_id(&Flow {
            ip_protocol,
            ipv4: source.is_ipv4(),
            source: (source.into(), ports[0]),
            destination: (destination.into(), ports[1]),
            icmp: icmp.then_some([one as u8, other as u8]),
        })
    }

    /// The vectors of the reference implementation (corelight/pycommunityid, tests) with seed 0, and of its baselines
    /// for a protocol without ports.
    #[test]
    fn published_vectors() {
        let vectors = [
            (
                ICMP,
                "192.168.0.89",
                "192.168.0.1",
                8,
                0,
                "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                ICMP,
                "192.168.0.1",
                "192.168.0.89",
                0,
                8,
                "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                ICMP,
                "192.168.0.89",
                "192.168.0.1",
                20,
                0,
                "1:3o2RFccXzUgjl7zDpqmY7yJi8rI=",
            ),
            (
                ICMP,
                "192.168.0.89",
                "192.168.0.1",
                20,
                1,
                "1:tz/fHIDUHs19NkixVVoOZywde+I=",
            ),
            (
                ICMP,
                "192.168.0.1",
                "192.168.0.89",
                0,
                20,
                "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                ICMP6,
                "fe80::200:86ff:fe05:80da",
                "fe80::260:97ff:fe07:69ea",
                135,
                0,
                "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
            ),
            (
                ICMP6,
                "fe80::260:97ff:fe07:69ea",
                "fe80::200:86ff:fe05:80da",
                136,
                0,
                "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
            ),
            (
                ICMP6,
                "3ffe:507:0:1:260:97ff:fe07:69ea",
                "3ffe:507:0:1:200:86ff:fe05:80da",
                3,
                0,
                "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w=",
            ),
            (
                ICMP6,
                "3ffe:507:0:1:200:86ff:fe05:80da",
                "3ffe:507:0:1:260:97ff:fe07:69ea",
                3,
                0,
                "1:/OGBt9BN1ofenrmSPWYicpij2Vc=",
            ),
            (
                SCTP,
                "192.168.170.8",
                "192.168.170.56",
                7,
                80,
                "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ=",
            ),
            (
                SCTP,
                "192.168.170.56",
                "192.168.170.8",
                80,
                7,
                "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ=",
            ),
            (
                TCP,
                "128.232.110.120",
                "66.35.250.204",
                34855,
                80,
                "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (
                TCP,
                "66.35.250.204",
                "128.232.110.120",
                80,
                34855,
                "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (
                UDP,
                "192.168.1.52",
                "8.8.8.8",
                54585,
                53,
                "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
            ),
            (
                UDP,
                "8.8.8.8",
                "192.168.1.52",
                53,
                54585,
                "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
            ),
            (
                TCP,
                "10.0.0.1",
                "10.0.0.2",
                10,
                11569,
                "1:SXBGMX1lBOwhhoDrZynfROxnhnM=",
            ),
            // RSVP: no ports.
            (46, "1.2.3.4", "5.6.7.8", 0, 0, "1:ikv3kmf89luf73WPz1jOs49S768="),
        ];
        for (protocol, source, destination, one, other, expected) in vectors {
            assert_eq!(
                id(protocol, source, destination, one, other).as_str(),
                expected,
                "{source} {destination} {one}"
            );
        }
    }

    #[test]
    fn equal_addresses_are_ordered_by_port() {
        assert_eq!(
            id(TCP, "192.168.1.42", "192.168.1.42", 42, 41),
            id(TCP, "192.168.1.42", "192.168.1.42", 41, 42)
        );
        assert_eq!(
            id(TCP, "192.168.1.42", "192.168.1.42", 42, 41).as_str(),
            "1:eRcf7I/xocOxnYo5pbJBV5NhVm0="
        );
    }
}
