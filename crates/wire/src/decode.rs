//! Frame to packet: header views, key and payload.
//!
//! The inner-most IP packet of a frame is what is metered. A frame that has a complete IP header always becomes a
//! packet, however broken the rest is: what is wrong with it is told by [`Packet::faults`].

use crate::column::{Address, Mac};
use crate::flowkey::{FlowKey, KeyHasher, steering};
use crate::link::{self, Announced, Header};
use crate::malformed::Undecodable;
use crate::net::{self, Network};
use crate::{checksum, plain, transport, tunnel};

pub use crate::link::LinkType;
pub use crate::malformed::Fault;
pub use crate::transport::{Tcp, Transport};
pub use crate::tunnel::Tunnel;

/// Tunnels that are looked into; the packet in the last of them is metered whatever it carries.
const MAX_TUNNELS: usize = 8;

/// The IP fragment fields of a packet that is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification (16 bits for IPv4, 32 for IPv6).
    pub identification: u32,
    /// Offset of its first payload byte in the datagram, in bytes.
    pub offset: u32,
    /// Length on the wire of what it carries of the datagram, in bytes: of a first one with the transport header and,
    /// in IPv6, the extension headers behind the fragment header.
    pub length: u32,
    /// Whether further fragments follow.
    pub more: bool,
}

/// One decoded packet: the inner-most IP packet of a frame, as views into the frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Flow key of the inner-most IP packet. Ports are 0 for fragments without a transport header. The protocol of a
    /// later IPv6 fragment is what its fragment header names, which may be an extension header of the first one.
    pub key: FlowKey,
    /// Keyed hash of `key` (see [`KeyHasher`]).
    pub hash: u64,
    /// The same as [`steering_hash`] of the frame.
    pub steering: u64,
    /// Whether the sender is the key's higher endpoint.
    pub from_high: bool,
    /// Source MAC address of the outer-most frame, where the link has one.
    pub src_mac: Option<Mac>,
    /// Destination MAC address of the outer-most frame.
    pub dst_mac: Option<Mac>,
    /// VLAN ids, outer-most first: the outer-most four where there are more. The first `vlan_count` are valid.
    pub vlans: [u16; 4],
    /// How many of `vlans` are valid.
    pub vlan_count: u8,
    /// Encapsulations around the inner-most IP packet, outer-most first: the outer-most four where there are more. An
    /// authentication header is none: it stands in its packet's chain of headers.
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
    /// Transport payload as far as captured, link padding excluded. Of a fragment without a transport header: the
    /// fragment's payload.
    pub payload: &'a [u8],
    /// Transport payload length on the wire in bytes.
    pub payload_length: u32,
    /// Bit set of [`Fault`].
    pub faults: u8,
}

impl Packet<'_> {
    /// Whether it came without VLAN tag and tunnel.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.vlan_count == 0 && self.tunnel_id.is_none() && matches!(self.tunnels, [None, ..])
    }

    /// Source and destination address.
    pub fn addresses(&self) -> (Address, Address) {
        if self.from_high {
            (self.key.high_address, self.key.low_address)
        } else {
            (self.key.low_address, self.key.high_address)
        }
    }

    /// The key of the flow that an ICMP error quotes: destination unreachable, source quench, redirect, time exceeded and
    /// parameter problem (RFC 1122 §3.2.2), and the same of ICMP version 6 with packet too big (RFC 4443 §2.1). A quoted
    /// packet's ports are among the 8 bytes that every error holds at least (RFC 792). Of a quoted tunnel it is the flow
    /// inside, as far as the quotation goes. `None` where the packet is no
    /// error, quotes no readable IP header, or quotes a fragment other than the first, which has no ports.
    #[cold]
    pub fn quoted(&self) -> Option<FlowKey> {
        let Transport::Icmp { kind, .. } = self.transport else {
            return None;
        };
        let announced = match (self.key.ip_protocol, kind) {
            (1, 3 | 4 | 5 | 11 | 12) => Announced::V4,
            (58, 1..=4) => Announced::V6,
            _ => return None,
        };
        let (network, _) = locate(self.payload, Header::Ip(announced), self.payload_length, &mut ()).ok()?;
        if network.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let segment = transport::parse(&network);
        let (mut key, _) = FlowKey::new(
            network.version,
            network.protocol,
            (network.source, segment.source_port),
            (network.destination, segment.destination_port),
        );
        key.scope = self.key.scope;
        Some(key)
    }
}

/// What a source knows of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// What the first byte of the frame is.
    pub link_type: LinkType,
    /// Length on the wire in bytes, without the frame check sequence. A stripped VLAN tag counts.
    pub wire_length: u32,
    /// The VLAN id that the kernel took out of the frame, where it did.
    pub stripped_vlan: Option<u16>,
    /// Whether checksums need no look: unfinished because the sender left them to hardware, or checked by hardware.
    pub checksum_offloaded: bool,
}

/// What is learned on the way to the inner-most IP packet.
pub(crate) trait Trace: Copy {
    /// The addresses of a link-layer header.
    fn macs(&mut self, source: [u8; 6], destination: Option<[u8; 6]>);
    /// A VLAN tag.
    fn vlan(&mut self, id: u16);
    /// An encapsulation that is being entered.
    fn tunnel(&mut self, tunnel: Tunnel, id: Option<u64>);
}

/// Steering needs the addresses only.
impl Trace for () {
    fn macs(&mut self, _: [u8; 6], _: Option<[u8; 6]>) {}
    fn vlan(&mut self, _: u16) {}
    fn tunnel(&mut self, _: Tunnel, _: Option<u64>) {}
}

/// The way to the inner-most IP packet as a packet tells it.
#[derive(Clone, Copy, Default)]
struct Way {
    source: Option<Mac>,
    destination: Option<Mac>,
    vlans: [u16; 4],
    vlan_count: u8,
    tunnels: [Option<Tunnel>; 4],
    tunnel_count: u8,
    tunnel_id: Option<u64>,
    last_tunnel: Option<Tunnel>,
}

impl Trace for Way {
    fn macs(&mut self, source: [u8; 6], destination: Option<[u8; 6]>) {
        // Those of the outer-most frame stay.
        if self.source.is_none() && self.tunnel_count == 0 {
            self.source = Some(Mac(source));
            self.destination = destination.map(Mac);
        }
    }

    fn vlan(&mut self, id: u16) {
        if let Some(slot) = self.vlans.get_mut(usize::from(self.vlan_count)) {
            *slot = id;
            self.vlan_count = self.vlan_count.saturating_add(1);
        }
    }

    fn tunnel(&mut self, tunnel: Tunnel, id: Option<u64>) {
        if let Some(slot) = self.tunnels.get_mut(usize::from(self.tunnel_count)) {
            *slot = Some(tunnel);
            self.tunnel_count = self.tunnel_count.saturating_add(1);
        }
        self.last_tunnel = Some(tunnel);
        self.tunnel_id = id;
    }
}

/// Finds the inner-most IP packet of a frame that begins with the header `first`, with the room it has on the wire. Which packet that is never depends on
/// `wire_length`, so that steering, which does not know it, always finds the same one.
#[inline]
fn locate<'a, T: Trace>(
    frame: &'a [u8],
    first: Header,
    wire_length: u32,
    trace: &mut T,
) -> Result<(Network<'a>, u32), Undecodable> {
    let (announced, bytes) = link::to_network(first, frame, trace)?;
    let mut room = room_of(bytes, frame, wire_length);
    let mut network = net::parse(announced, bytes, room)?;
    for _ in 0..MAX_TUNNELS {
        let Some(inner) = tunnel::open(&network) else {
            break;
        };
        let before = *trace;
        if let Some(tunnel) = inner.tunnel {
            trace.tunnel(tunnel, inner.id);
        }
        let found = link::to_network(inner.header, inner.bytes, trace).and_then(|(announced, bytes)| {
            let room = room_of(bytes, network.body, network.body_length);
            let packet = net::parse(announced, bytes, room)?;
            let believed = inner.doubt.is_met(&network, &packet, room);
            if believed {
                Ok((packet, room))
            } else {
                Err(Undecodable::NotIp)
            }
        });
        if let Ok(found) = found {
            (network, room) = found;
        } else {
            // Not a tunnel after all, or one without a readable IP packet: the outer packet is metered.
            *trace = before;
            break;
        }
    }
    Ok((network, room))
}

/// The wire length of a suffix of `container`, which is `length` long on the wire.
fn room_of(suffix: &[u8], container: &[u8], length: u32) -> u32 {
    length.saturating_sub(container.len().saturating_sub(suffix.len()) as u32)
}

/// Reads frames: the settings that are the same for all frames of a worker.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Hashes the keys.
    pub hasher: KeyHasher,
    /// Whether VLAN ids join the flow key.
    pub key_vlan: bool,
    /// Whether tunnels and their identifiers join the flow key.
    pub key_tunnel: bool,
    /// Whether transport checksums are verified. The IPv4 header's always is.
    pub verify_checksums: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(KeyHasher::FIXED_SEED)
    }
}

impl Decoder {
    /// A decoder that keys by the inner-most 5-tuple alone and verifies checksums.
    pub const fn new(seed: u64) -> Self {
        Self {
            hasher: KeyHasher::new(seed),
            key_vlan: false,
            key_tunnel: false,
            verify_checksums: true,
        }
    }

    /// Reads a frame down to its inner-most IP packet. `frame` is what was captured.
    #[inline]
    pub fn decode<'a>(&self, frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable> {
        match plain::decode(self, frame, meta) {
            Some(packet) => Ok(packet),
            None => self.decode_any(frame, meta),
        }
    }

    /// Reads any frame.
    pub(crate) fn decode_any<'a>(
        &self,
        frame: &'a [u8],
        meta: &FrameMeta,
    ) -> Result<Packet<'a>, Undecodable> {
        let mut way = Way::default();
        let mut wire_length = meta.wire_length;
        if let Some(id) = meta.stripped_vlan {
            way.vlan(id & 0x0fff);
            wire_length = wire_length.saturating_sub(4);
        }
        // What was captured was on the wire, whatever the file says: else a packet without a length (segmentation offload)
        // would end before its own bytes, and the packet that is found in it would not be the one that steering finds.
        let wire_length = wire_length.max(frame.len() as u32);
        let (network, room) = locate(frame, Header::Link(meta.link_type), wire_length, &mut way)?;
        let segment = transport::parse(&network);
        let mut faults = segment.faults;
        if network.length > room {
            faults |= Fault::IpLongerThanFrame.bit();
        }
        if !meta.checksum_offloaded {
            if network.version == 4 && !checksum::agrees(checksum::sum(network.header)) {
                faults |= Fault::BadIpChecksum.bit();
            }
            if self.verify_checksums && transport::checksum_agrees(&network) == Some(false) {
                faults |= Fault::BadTransportChecksum.bit();
            }
        }
        let (mut key, from_high) = FlowKey::new(
            network.version,
            network.protocol,
            (network.source, segment.source_port),
            (network.destination, segment.destination_port),
        );
        if self.key_vlan || self.key_tunnel {
            key.scope = self.scope(&way);
        }
        Ok(Packet {
            key,
            hash: self.hasher.hash(&key),
            steering: steering(network.source, network.destination),
            from_high,
            src_mac: way.source,
            dst_mac: way.destination,
            vlans: way.vlans,
            vlan_count: way.vlan_count,
            tunnels: way.tunnels,
            tunnel_id: way.tunnel_id,
            ttl: network.ttl,
            ip_length: network.length,
            fragment: network.fragment,
            transport: segment.transport,
            payload: segment.payload,
            payload_length: segment.payload_length,
            faults,
        })
    }

    /// The scope of a key (FNV-1a): equal for equal VLANs and tunnels, 0 where there are none. It has no seed, so that
    /// the flow id that is made of the key stays the same.
    fn scope(&self, way: &Way) -> u32 {
        let mut scope = 0_u32;
        let mut add = |value: u64| {
            if scope == 0 {
                scope = 0x811c_9dc5;
            }
            for byte in value.to_le_bytes() {
                scope = (scope ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        };
        if self.key_vlan {
            // A priority tag names no VLAN.
            for &id in way.vlans.iter().take(usize::from(way.vlan_count)) {
                if id != 0 {
                    add(u64::from(id));
                }
            }
        }
        if self.key_tunnel {
            for tunnel in way.tunnels.iter().flatten() {
                add(0x1_0000 | *tunnel as u64);
            }
            if let (Some(tunnel), Some(id)) = (way.last_tunnel, way.tunnel_id)
                && tunnel.has_symmetric_id()
            {
                add(id);
            }
        }
        scope
    }
}

/// Reads a frame with the fixed seed and the default settings.
pub fn decode<'a>(frame: &'a [u8], meta: &FrameMeta) -> Result<Packet<'a>, Undecodable> {
    static DECODER: Decoder = Decoder::new(KeyHasher::FIXED_SEED);
    DECODER.decode(frame, meta)
}

/// The steering hash of a frame: symmetric, over the inner-most IP addresses only, so that both directions and all
/// fragments of a flow give the same value; 0 where the frame has no IP packet. Much cheaper than [`decode`].
#[inline]
pub fn steering_hash(frame: &[u8], link_type: LinkType) -> u64 {
    plain::steering_hash(frame, link_type).unwrap_or_else(|| steering_hash_any(frame, link_type))
}

/// The same for every frame.
pub(crate) fn steering_hash_any(frame: &[u8], link_type: LinkType) -> u64 {
    match locate(frame, Header::Link(link_type), frame.len() as u32, &mut ()) {
        Ok((network, _)) => steering(network.source, network.destination),
        Err(_) => 0,
    }
}
