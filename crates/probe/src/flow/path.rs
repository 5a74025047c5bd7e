//! Interned MAC addresses, VLAN ids and tunnels.
//!
//! A link carries few combinations of these and many flows. A flow keeps the number of its combination, 2 bytes
//! instead of 80, and the combination goes when its last flow goes. At most [`MAX_PATHS`] are known at a time. Flows that
//! find no room, as where every subscriber has a tunnel identifier of his own, share one that says VLANs and tunnels only,
//! and have none where there is no room for that either; both are counted.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use slab::Slab;
use wire::column::Mac;
use wire::decode::{Packet, Tunnel};

/// Most combinations known at a time: as many as there are numbers, but for [`PathId::NONE`]. With them all, a worker needs
/// 7 MB.
pub const MAX_PATHS: usize = u16::MAX as usize;

/// How many of them are kept for combinations of VLANs and tunnels only.
const MAX_REDUCED: usize = 1024;

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
    /// Whether there was room for VLANs and tunnels only: MAC addresses and identifiers are not known.
    is_reduced: bool,
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

    /// The same, but for the identifiers of tunnels.
    fn without_ids(&self) -> Self {
        Self {
            shared_id: None,
            chosen_id: None,
            ..*self
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
            is_reduced: false,
        }
    }

    /// VLANs and tunnels only.
    fn reduced(&self) -> Self {
        Self {
            src_mac: None,
            dst_mac: None,
            scope: self.scope.without_ids(),
            tunnel_id: None,
            is_reduced: true,
        }
    }
}

/// The combinations that flows in the table have.
#[derive(Debug, Default)]
pub struct Paths {
    /// With the number of flows that have each.
    entries: Slab<(Path, u32)>,
    /// By the combination's hash, without a copy of it.
    ids: HashTable<PathId>,
    hasher: RandomState,
    /// How many entries have VLANs and tunnels only.
    reduced: usize,
    /// The last one asked for: most packets of a link that start a flow have the same.
    recent: Option<(Path, PathId)>,
}

impl Paths {
    /// The number of a packet's combination, held until it is released; that of its VLANs and tunnels only where there is no
    /// room for all, and `NONE` where there is none for these.
    pub fn hold(&mut self, packet: &Packet<'_>) -> PathId {
        let path = Path::of(packet);
        self.hold_path(path)
            .or_else(|| self.hold_path(path.reduced()))
            .unwrap_or(PathId::NONE)
    }

    fn hold_path(&mut self, path: Path) -> Option<PathId> {
        let Self {
            entries,
            ids,
            hasher,
            reduced,
            recent,
        } = self;
        let id = match recent {
            Some((recent, id)) if *recent == path => *id,
            _ => {
                let hash = hasher.hash_one(path);
                let is_it = |id: &PathId| entries[usize::from(id.0)].0 == path;
                if let Some(id) = ids.find(hash, is_it) {
                    *id
                } else {
                    let (held, most) = if path.is_reduced {
                        (*reduced, MAX_REDUCED)
                    } else {
                        (entries.len() - *reduced, MAX_PATHS - MAX_REDUCED)
                    };
                    if held >= most {
                        return None;
                    }
                    *reduced += usize::from(path.is_reduced);
                    let id = PathId(entries.insert((path, 0)) as u16);
                    ids.insert_unique(hash, id, |id| hasher.hash_one(entries[usize::from(id.0)].0));
                    id
                }
            }
        };
        entries[usize::from(id.0)].1 += 1;
        *recent = Some((path, id));
        Some(id)
    }

    /// One flow less has it.
    pub fn release(&mut self, id: PathId) {
        if id == PathId::NONE {
            return;
        }
        let (path, holders) = &mut self.entries[usize::from(id.0)];
        *holders -= 1;
        if *holders == 0 {
            if let Ok(entry) = self
                .ids
                .find_entry(self.hasher.hash_one(*path), |held| *held == id)
            {
                entry.remove();
            }
            self.reduced -= usize::from(path.is_reduced);
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

    /// Whether nothing was left out of the combination.
    pub fn is_whole(&self, id: PathId) -> bool {
        self.get(id).is_some_and(|path| !path.is_reduced)
    }

    /// Whether a packet has other VLANs or tunnels than the combination.
    #[inline]
    pub fn differs(&self, id: PathId, packet: &Packet<'_>) -> bool {
        self.get(id).is_some_and(|path| {
            let scope = Scope::of(packet);
            let scope = if path.is_reduced {
                scope.without_ids()
            } else {
                scope
            };
            !path.scope.tells_the_same(&scope)
        })
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
    fn where_there_is_no_room_vlans_and_tunnels_are_left() {
        let mut paths = Paths::default();
        let frame = Frame::udp(1, 2);
        let of = |tunnel, id, vlan| Packet {
            src_mac: Some(Mac([2; 6])),
            tunnels: [Some(tunnel), None, None, None],
            tunnel_id: Some(id),
            vlans: [vlan, 0, 0, 0],
            vlan_count: 1,
            ..frame.packet()
        };
        let whole: Vec<PathId> = (0..(MAX_PATHS - MAX_REDUCED) as u64)
            .map(|id| paths.hold(&of(Tunnel::GtpU, id, 7)))
            .collect();
        assert!(whole.iter().all(|id| paths.is_whole(*id)));
        for tunnel in [Tunnel::GtpU, Tunnel::Vxlan] {
            let one_more = of(tunnel, u64::MAX, 7);
            let id = paths.hold(&one_more);
            let path = paths.get(id).expect("reduced");
            assert!(!paths.is_whole(id));
            assert_eq!((path.src_mac, path.tunnel_id), (None, None));
            assert_eq!(path.scope.vlan_ids(), Some(vec![7]));
            assert_eq!(path.scope.tunnels(), Some(vec![tunnel.name()]));
            assert!(!paths.differs(id, &one_more));
            // What is not known does not differ; what is known does.
            assert!(!paths.differs(id, &of(tunnel, 5, 7)));
            assert!(paths.differs(id, &of(tunnel, u64::MAX, 8)));
            assert!(paths.differs(id, &of(Tunnel::Gre, u64::MAX, 7)));
            assert_eq!(paths.hold(&of(tunnel, u64::MAX - 1, 7)), id, "shared");
            paths.release(id);
            paths.release(id);
            assert!(paths.get(id).is_none());
        }
        // Those that are known have their own still.
        assert_eq!(paths.hold(&of(Tunnel::GtpU, 3, 7)), whole[3]);
        paths.release(whole[3]);
        let reduced: Vec<PathId> = (0..MAX_REDUCED as u16)
            .map(|vlan| paths.hold(&of(Tunnel::GtpU, u64::MAX, vlan)))
            .collect();
        assert_eq!(paths.entries.len(), MAX_PATHS);
        let plain = of(Tunnel::GtpU, u64::MAX, 4000);
        let none = paths.hold(&plain);
        assert_eq!(none, PathId::NONE);
        assert!(paths.get(none).is_none() && !paths.is_whole(none) && !paths.differs(none, &plain));
        paths.release(none);
        // Room that is left is found again.
        paths.release(whole[0]);
        let again = paths.hold(&plain);
        assert!(paths.is_whole(again));
        for id in whole.into_iter().skip(1).chain(reduced).chain([again]) {
            assert_ne!(id, PathId::NONE);
            paths.release(id);
        }
        assert!(paths.ids.is_empty() && paths.entries.is_empty() && paths.reduced == 0);
    }
}
