//! Interned MAC addresses, VLAN ids and tunnels.
//!
//! A link carries few combinations of these and many flows. A flow keeps the number of its combination, 2 bytes
//! instead of 60, and the combination goes when its last flow goes. At most [`MAX_PATHS`] are known at a time; flows
//! that find no room have none, which is counted.

use std::collections::HashMap;

use slab::Slab;
use wire::column::Mac;
use wire::decode::{Packet, Tunnel};

/// Most combinations known at a time.
pub const MAX_PATHS: usize = 1 << 14;

/// The number of a combination; `NONE` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathId(u16);

impl PathId {
    /// No combination is known.
    pub const NONE: Self = Self(u16::MAX);
}

/// The way of a packet below its inner-most IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Source MAC address of the flow's first packet.
    pub src_mac: Option<Mac>,
    /// Destination MAC address of the flow's first packet.
    pub dst_mac: Option<Mac>,
    /// VLANs and tunnels.
    pub scope: Scope,
    /// The inner-most tunnel's identifier.
    pub tunnel_id: Option<u64>,
}

/// VLANs and tunnels: what tells two flows with the same addresses and ports apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    vlans: [u16; 4],
    vlan_count: u8,
    tunnels: [Option<Tunnel>; 4],
    /// The inner-most tunnel's identifier, unless each direction chooses its own.
    shared_id: Option<u64>,
    /// An identifier that each direction chooses for itself, and the direction: whether from the higher end of the key.
    /// Nothing is known of the other direction's.
    chosen_id: Option<(u64, bool)>,
}

impl Scope {
    /// The scope of a packet.
    pub fn of(packet: &Packet<'_>) -> Self {
        let inner_most = packet.tunnels.iter().flatten().next_back();
        let is_shared = inner_most.is_some_and(|tunnel| tunnel.has_symmetric_id());
        Self {
            vlans: packet.vlans,
            vlan_count: packet.vlan_count,
            tunnels: packet.tunnels,
            shared_id: packet.tunnel_id.filter(|_| is_shared),
            chosen_id: packet
                .tunnel_id
                .filter(|_| !is_shared)
                .map(|id| (id, packet.from_high)),
        }
    }

    /// Whether it is the same but for priority tags (id 0), which name no VLAN (IEEE 802.1Q §9.6).
    fn tells_the_same(&self, other: &Self) -> bool {
        let named = |scope: &Self| scope.vlans.into_iter().filter(|id| *id != 0);
        let chosen_differ = match (self.chosen_id, other.chosen_id) {
            (Some((id, from_high)), Some((other_id, other_from_high))) => {
                from_high == other_from_high && id != other_id
            }
            _ => false,
        };
        named(self).eq(named(other))
            && self.tunnels == other.tunnels
            && self.shared_id == other.shared_id
            && !chosen_differ
    }

    /// VLAN ids, outer-most first; `None` where there is none.
    pub fn vlan_ids(&self) -> Option<Vec<u16>> {
        let ids = self
            .vlans
            .get(..usize::from(self.vlan_count))
            .unwrap_or(&self.vlans);
        (!ids.is_empty()).then(|| ids.to_vec())
    }

    /// Names of the encapsulations, outer-most first; `None` where there is none.
    pub fn tunnels(&self) -> Option<Vec<&'static str>> {
        let names: Vec<_> = self
            .tunnels
            .iter()
            .flatten()
            .map(|tunnel| tunnel.name())
            .collect();
        (!names.is_empty()).then_some(names)
    }
}

impl Path {
    fn of(packet: &Packet<'_>) -> Self {
        Self {
            src_mac: packet.src_mac,
            dst_mac: packet.dst_mac,
            scope: Scope::of(packet),
            tunnel_id: packet.tunnel_id,
        }
    }
}

/// The combinations that flows in the table have.
#[derive(Debug, Default)]
pub struct Paths {
    /// With the number of flows that have each.
    entries: Slab<(Path, u32)>,
    ids: HashMap<Path, PathId>,
    /// The last one asked for: most packets of a link that start a flow have the same.
    recent: Option<(Path, PathId)>,
}

impl Paths {
    /// The number of a packet's combination, held until it is released; `NONE` where there is no room.
    pub fn hold(&mut self, packet: &Packet<'_>) -> PathId {
        let path = Path::of(packet);
        let known = match self.recent {
            Some((recent, id)) if recent == path => Some(id),
            _ => self.ids.get(&path).copied(),
        };
        let id = if let Some(id) = known {
            self.entries[usize::from(id.0)].1 += 1;
            id
        } else if self.entries.len() < MAX_PATHS {
            let id = PathId(self.entries.insert((path, 1)) as u16);
            self.ids.insert(path, id);
            id
        } else {
            return PathId::NONE;
        };
        self.recent = Some((path, id));
        id
    }

    /// One flow less has it.
    pub fn release(&mut self, id: PathId) {
        if id == PathId::NONE {
            return;
        }
        let (path, holders) = &mut self.entries[usize::from(id.0)];
        *holders -= 1;
        if *holders == 0 {
            self.ids.remove(path);
            self.entries.remove(usize::from(id.0));
            if self.recent.is_some_and(|(_, recent)| recent == id) {
                self.recent = None;
            }
        }
    }

    /// The combination.
    pub fn get(&self, id: PathId) -> Option<&Path> {
        self.entries.get(usize::from(id.0)).map(|(path, _)| path)
    }

    /// Whether a packet has other VLANs or tunnels than the combination.
    #[inline]
    pub fn differs(&self, id: PathId, packet: &Packet<'_>) -> bool {
        self.get(id)
            .is_some_and(|path| !path.scope.tells_the_same(&Scope::of(packet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::meter::tests::Frame;

    #[test]
    fn a_combination_lives_as_long_as_its_flows() {
        let mut paths = Paths::default();
        let frame = Frame::udp(1, 2);
        let plain = frame.packet();
        let tagged = Packet {
            vlans: [7, 8, 0, 0],
            vlan_count: 2,
            ..plain
        };
        let first = paths.hold(&plain);
        assert_eq!(paths.hold(&plain), first);
        let second = paths.hold(&tagged);
        assert_ne!(first, second);
        assert!(paths.differs(first, &tagged) && !paths.differs(second, &tagged));
        assert_eq!(
            paths.get(second).and_then(|path| path.scope.vlan_ids()),
            Some(vec![7, 8])
        );
        // A priority tag is no VLAN, alone or before one.
        let priority = |vlans, vlan_count| Packet {
            vlans,
            vlan_count,
            ..plain
        };
        assert!(!paths.differs(first, &priority([0, 0, 0, 0], 1)));
        assert!(!paths.differs(second, &priority([0, 7, 8, 0], 3)));
        assert!(paths.differs(second, &priority([8, 7, 0, 0], 2)));
        // Each direction of a GTP tunnel has an identifier of its own; the two of a VXLAN are two networks. Two of one
        // direction are two tenants in either.
        let of = |tunnel, id, from_high| Packet {
            tunnels: [Some(tunnel), None, None, None],
            tunnel_id: Some(id),
            from_high,
            ..plain
        };
        for (tunnel, ambiguous) in [
            (Tunnel::GtpU, false),
            (Tunnel::Mpls, false),
            (Tunnel::Vxlan, true),
        ] {
            let there = paths.hold(&of(tunnel, 1, false));
            assert_eq!(
                paths.differs(there, &of(tunnel, 2, true)),
                ambiguous,
                "{tunnel:?}"
            );
            assert!(paths.differs(there, &of(tunnel, 2, false)), "{tunnel:?}");
            assert!(!paths.differs(there, &of(tunnel, 1, false)), "{tunnel:?}");
            paths.release(there);
        }
        paths.release(first);
        assert!(paths.get(first).is_some());
        paths.release(first);
        assert!(paths.get(first).is_none());
        paths.release(second);
        assert!(paths.ids.is_empty() && paths.entries.is_empty() && paths.recent.is_none());
    }

    #[test]
    fn no_room_is_no_combination() {
        let mut paths = Paths::default();
        let frame = Frame::udp(1, 2);
        let plain = frame.packet();
        for id in 0..MAX_PATHS as u64 {
            assert_ne!(
                paths.hold(&Packet {
                    tunnel_id: Some(id),
                    ..plain
                }),
                PathId::NONE
            );
        }
        let one_more = paths.hold(&Packet {
            tunnel_id: Some(u64::MAX),
            ..plain
        });
        assert_eq!(one_more, PathId::NONE);
        assert!(paths.get(one_more).is_none() && !paths.differs(one_more, &plain));
        paths.release(one_more);
    }
}
