//! Transport headers: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, 4443) and SCTP (RFC 9260); of DCCP (RFC 4340) and
//! UDP-Lite (RFC 3828) the ports and the length.

use crate::checksum;
use crate::cursor::Cursor;
use crate::malformed::Fault;
use crate::net::Network;

/// The TCP header fields that metering uses (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The nine flag bits: FIN 0x01, SYN 0x02, RST 0x04, PSH 0x08, ACK 0x10, URG 0x20, ECE 0x40, CWR 0x80, AE 0x100.
    pub flags: u16,
    /// Window as sent, not scaled.
    pub window: u16,
    /// Maximum segment size option.
    pub maximum_segment_size: Option<u16>,
    /// Window scale option.
    pub window_scale: Option<u8>,
}

impl Tcp {
    /// The fixed part behind the ports, and the length of the whole header that it states, which may be anything.
    #[inline]
    pub(crate) fn parse(fixed: &[u8; 16]) -> (Self, u32) {
        let [s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, _, _, _, _] = *fixed;
        let tcp = Self {
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
            flags: u16::from_be_bytes([offset & 0x01, flags]),
            window: u16::from_be_bytes([w0, w1]),
            maximum_segment_size: None,
            window_scale: None,
        };
        (tcp, u32::from(offset >> 4) << 2)
    }

    /// The options that metering uses. They mean something in SYN segments only (RFC 9293 §3.7.1, RFC 7323 §2.2).
    #[inline]
    pub(crate) fn read_options(&mut self, options: &[u8]) {
        if self.flags & 0x02 != 0 {
            self.read_syn_options(options);
        }
    }

    fn read_syn_options(&mut self, options: &[u8]) {
        let mut options = Cursor::new(options);
        while let Ok(kind) = options.u8() {
            match kind {
                0 => return,
                1 => continue,
                _ => (),
            }
            let value = options
                .u8()
                .ok()
                .and_then(|length| usize::from(length).checked_sub(2));
            let Some(value) = value.and_then(|length| options.take(length).ok()) else {
                return;
            };
            match (kind, value) {
                (2, &[high, low]) => self.maximum_segment_size = Some(u16::from_be_bytes([high, low])),
                (3, &[shift]) => self.window_scale = Some(shift),
                _ => (),
            }
        }
    }
}

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp,
    /// ICMP of either version.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// SCTP.
    Sctp,
    /// Any other IP protocol, a fragment without its transport header, a header cut short, or a TCP header that every
    /// receiver would discard. Ports are known where they were captured.
    Other,
}

/// IP protocol numbers.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const DCCP: u8 = 33;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const SCTP: u8 = 132;
    pub(crate) const UDP_LITE: u8 = 136;
}

/// A transport header and what follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) transport: Transport,
    /// As far as captured.
    pub(crate) payload: &'a [u8],
    /// On the wire.
    pub(crate) payload_length: u32,
    /// Bits of [`Fault`].
    pub(crate) faults: u8,
}

impl<'a> Segment<'a> {
    fn other(payload: &'a [u8], payload_length: u32) -> Self {
        Self {
            source_port: 0,
            destination_port: 0,
            transport: Transport::Other,
            payload,
            payload_length,
            faults: 0,
        }
    }

    /// A header that cannot be read in full: by the fault of the capture or of the packet itself.
    fn cut(mut self, network: &Network<'_>, header_length: u32) -> Self {
        self.transport = Transport::Other;
        self.payload = &[];
        self.payload_length = network.body_length.saturating_sub(header_length);
        self.faults |= if network.body_length < header_length {
            Fault::BadTransportHeader
        } else {
            Fault::TruncatedTransport
        }
        .bit();
        self
    }
}

/// Reads the transport header of a packet.
#[inline]
pub(crate) fn parse<'a>(network: &Network<'a>) -> Segment<'a> {
    let whole = Segment::other(network.body, network.body_length);
    if network.chain_cut {
        return whole.cut(network, network.body_length);
    }
    if network.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return whole;
    }
    match network.protocol {
        protocol::TCP => tcp(network),
        protocol::UDP => udp(network),
        protocol::ICMP | protocol::ICMPV6 => icmp(network),
        protocol::SCTP => sctp(network),
        protocol::DCCP => dccp(network),
        protocol::UDP_LITE => udp_lite(network),
        _ => whole,
    }
}

/// The two ports, which stand first in TCP, UDP and SCTP alike.
fn ports<'a>(network: &Network<'a>, header_length: u32) -> Result<(Segment<'a>, Cursor<'a>), Segment<'a>> {
    let mut segment = Segment::other(&[], 0);
    let mut cursor = Cursor::new(network.body);
    match (cursor.u16(), cursor.u16()) {
        (Ok(source), Ok(destination)) => {
            (segment.source_port, segment.destination_port) = (source, destination);
            Ok((segment, cursor))
        }
        _ => Err(segment.cut(network, header_length)),
    }
}

#[inline]
fn tcp<'a>(network: &Network<'a>) -> Segment<'a> {
    let (mut segment, cursor) = match ports(network, 20) {
        Ok(found) => found,
        Err(cut) => return cut,
    };
    let Some((fixed, rest)) = cursor.rest().split_first_chunk::<16>() else {
        return segment.cut(network, 20);
    };
    let (mut tcp, header_length) = Tcp::parse(fixed);
    if header_length < 20 || header_length > network.body_length {
        segment.faults |= Fault::BadTransportHeader.bit();
        segment.payload_length = network.body_length.saturating_sub(20);
        return segment;
    }
    match rest.split_at_checked(header_length.saturating_sub(20) as usize) {
        Some((options, payload)) => {
            tcp.read_options(options);
            segment.payload = payload;
        }
        // The fixed part is whole: metered as TCP, without the options that were cut off.
        None => segment.faults |= Fault::TruncatedTransport.bit(),
    }
    segment.transport = Transport::Tcp(tcp);
    segment.payload_length = network.body_length.saturating_sub(header_length);
    segment
}

#[inline]
fn udp<'a>(network: &Network<'a>) -> Segment<'a> {
    let (mut segment, mut cursor) = match ports(network, 8) {
        Ok(found) => found,
        Err(cut) => return cut,
    };
    let (Ok(stated), Ok(_checksum)) = (cursor.u16(), cursor.u16()) else {
        return segment.cut(network, 8);
    };
    segment.transport = Transport::Udp;
    let available = network.body_length.saturating_sub(8);
    // RFC 2675 §4: 0 in a jumbogram, and what segmentation offload leaves: all there is. What IP carries beyond the
    // UDP length is not payload. A first fragment states the length of the whole datagram.
    segment.payload_length = match u32::from(stated).checked_sub(8) {
        Some(length) if length <= available => length,
        Some(_) if network.fragment.is_some() => available,
        None if stated == 0 => available,
        _ => {
            segment.faults |= Fault::BadTransportHeader.bit();
            available
        }
    };
    let captured = cursor.rest();
    segment.payload = captured
        .get(..segment.payload_length as usize)
        .unwrap_or(captured);
    segment
}

/// Both versions have 8 bytes of header, the last 4 of which depend on the type.
fn icmp<'a>(network: &Network<'a>) -> Segment<'a> {
    let segment = Segment::other(&[], 0);
    let [kind, code, ..] = *network.body else {
        return segment.cut(network, 8);
    };
    let payload = network.body.get(8..).unwrap_or_default();
    let faults = if network.body_length < 4 {
        Fault::BadTransportHeader.bit()
    } else if network.body.len() < network.body_length.min(8) as usize {
        Fault::TruncatedTransport.bit()
    } else {
        0
    };
    let payload_length = network.body_length.saturating_sub(8);
    Segment {
        transport: Transport::Icmp { kind, code },
        payload,
        payload_length,
        faults,
        ..segment
    }
}

fn sctp<'a>(network: &Network<'a>) -> Segment<'a> {
    let (mut segment, mut cursor) = match ports(network, 12) {
        Ok(found) => found,
        Err(cut) => return cut,
    };
    if cursor.skip(8).is_err() {
        return segment.cut(network, 12);
    }
    segment.transport = Transport::Sctp;
    segment.payload = cursor.rest();
    segment.payload_length = network.body_length.saturating_sub(12);
    segment
}

/// RFC 4340 §5.1: the ports, and the length of the header with its options in words; 12 bytes at least.
fn dccp<'a>(network: &Network<'a>) -> Segment<'a> {
    let (mut segment, mut cursor) = match ports(network, 12) {
        Ok(found) => found,
        Err(cut) => return cut,
    };
    let Ok(words) = cursor.u8() else {
        return segment.cut(network, 12);
    };
    let length = u32::from(words) << 2;
    if length < 12 || length > network.body_length {
        segment.faults |= Fault::BadTransportHeader.bit();
        segment.payload_length = network.body_length.saturating_sub(12);
        return segment;
    }
    segment.payload = network.body.get(length as usize..).unwrap_or_default();
    segment.payload_length = network.body_length.saturating_sub(length);
    segment
}

/// RFC 3828 §3.1: as UDP, but that the length is what the checksum covers.
fn udp_lite<'a>(network: &Network<'a>) -> Segment<'a> {
    let (mut segment, mut cursor) = match ports(network, 8) {
        Ok(found) => found,
        Err(cut) => return cut,
    };
    if cursor.skip(4).is_err() {
        return segment.cut(network, 8);
    }
    segment.payload = cursor.rest();
    segment.payload_length = network.body_length.saturating_sub(8);
    segment
}

/// Whether the transport checksum is right; `None` where it cannot be told: bytes are missing, the addresses are not
/// those of the pseudo header, or the sender computed none.
pub(crate) fn checksum_agrees(network: &Network<'_>) -> Option<bool> {
    let body = network.body;
    if network.fragment.is_some() || network.chain_cut || body.len() != network.body_length as usize {
        return None;
    }
    let with_addresses = |bytes: &[u8]| {
        let pseudo = checksum::pseudo_header(
            network.source,
            network.destination,
            network.protocol,
            bytes.len() as u32,
        );
        checksum::agrees(pseudo.wrapping_add(checksum::sum(bytes)))
    };
    match network.protocol {
        protocol::TCP if body.len() >= 20 && network.addresses_final => Some(with_addresses(body)),
        protocol::UDP if network.addresses_final => {
            let [_, _, _, _, high, low, c0, c1, ..] = *body else {
                return None;
            };
            let stated = usize::from(u16::from_be_bytes([high, low]));
            let datagram = if stated == 0 { body } else { body.get(..stated)? };
            // RFC 768: a checksum of 0 was not computed. IPv6 forbids that but for tunnels (RFC 6936), so that it
            // tells nothing there either.
            (datagram.len() >= 8 && (c0 | c1) != 0).then(|| with_addresses(datagram))
        }
        protocol::ICMP if body.len() >= 4 => Some(checksum::agrees(checksum::sum(body))),
        protocol::ICMPV6 if body.len() >= 4 && network.addresses_final => Some(with_addresses(body)),
        protocol::SCTP => {
            let (header, chunks) = body.split_first_chunk::<12>()?;
            let (before, stated) = header.split_last_chunk::<4>()?;
            let stated = u32::from_le_bytes(*stated);
            // RFC 9653: 0 where both ends agreed that the lower layer checks.
            (stated != 0).then(|| checksum::crc32c(&[before, &[0; 4], chunks]) == stated)
        }
        _ => None,
    }
}
