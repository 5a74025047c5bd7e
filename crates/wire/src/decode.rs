//! Frame to packet: header views, key and payload.

use crate::column::{Address, Mac};
use crate::flowkey::FlowKey;
use crate::malformed::Undecodable;

/// A LINKTYPE number as in pcap and pcapng files (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u32);

/// The IP fragment fields of a packet that is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification (16 bits for IPv4, 32 for IPv6).
    pub identification: u32,
    /// Offset of its first payload byte in the datagram, in bytes.
    pub offset: u32,
    /// Whether further fragments follow.
    pub more: bool,
}

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

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// SCTP.
    Sctp,
    /// Any other IP protocol, a fragment without its transport header, or a header cut short.
    Other,
}

/// One decoded packet: the inner-most IP packet of a frame, as views into the frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Flow key of the inner-most IP packet. Ports are 0 for fragments without a transport header.
    pub key: FlowKey,
    /// Hash of the whole key: the flow table's.
    pub hash: u64,
    /// Whether the sender is the key's higher endpoint.
    pub from_high: bool,
    /// Source MAC address of the outer-most frame, where the link has one.
    pub src_mac: Option<Mac>,
    /// Destination MAC address of the outer-most frame.
    pub dst_mac: Option<Mac>,
    /// VLAN ids, outer-most first; the first `vlan_count` are valid.
    pub vlans: [u16; 4],
    /// How many VLAN tags were seen (at most 4 are kept).
    pub vlan_count: u8,
    /// Encapsulations around the inner-most IP packet, outer-most first; empty where there is none.
    pub tunnels: [Option<Tunnel>; 4],
    /// The inner-most tunnel's identifier (VNI, GRE key, TEID, …).
    pub tunnel_id: Option<u64>,
    /// IPv4 TTL or IPv6 hop limit.
    pub ttl: u8,
    /// IP total length in bytes, header included: IPv4 total length, IPv6 payload length + 40;
    /// taken from the frame where the header says 0 (segmentation offload).
    pub ip_length: u32,
    /// Fragment fields where the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// Transport header.
    pub transport: Transport,
    /// Transport payload as far as captured, link padding excluded.
    pub payload: &'a [u8],
    /// Transport payload length on the wire in bytes.
    pub payload_length: u32,
    /// Bit set of [`crate::malformed::Fault`].
    pub faults: u8,
}

/// An encapsulation around an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// IP in IP of any two versions (RFC 2003, 2473, 4213).
    IpInIp,
}

impl Tunnel {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpInIp => "ipip",
        }
    }
}

impl Packet<'_> {
    /// Source and destination address.
    pub fn addresses(&self) -> (Address, Address) {
        if self.from_high {
            (self.key.high_address, self.key.low_address)
        } else {
            (self.key.low_address, self.key.high_address)
        }
    }
}

/// What a source knows of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// What the first byte of the frame is.
    pub link_type: LinkType,
    /// Length on the wire in bytes, without the frame check sequence.
    pub wire_length: u32,
    /// The VLAN id that the kernel took out of the frame, where it did.
    pub stripped_vlan: Option<u16>,
    /// Whether checksums may be unfinished because the sender left them to hardware: then they are not checked.
    pub checksum_offloaded: bool,
}

/// Reads a frame down to its inner-most IP packet. `frame` is what was captured.
pub fn decode<'a>(frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable> {
    let _ = (frame, meta);
    Err(Undecodable::UnsupportedLinkType)
}

/// The steering hash of a frame: symmetric, over the inner-most IP addresses only, so that both directions and all
/// fragments of a flow give the same value; 0 where the frame has no IP packet. Much cheaper than [`decode`].
pub fn steering_hash(frame: &[u8], link_type: LinkType) -> u64 {
    let _ = (frame, link_type);
    0
}
