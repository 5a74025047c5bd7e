//! The canonical flow key, its direction, and the symmetric hash that steers packets to workers.

use crate::column::Address;

/// Which way a packet goes relative to a flow's initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the initiator (`src`) to the responder (`dst`).
    Forward,
    /// From the responder back to the initiator.
    Reverse,
}

/// What both directions of a flow have in common: the inner-most 5-tuple with the endpoints in a fixed order,
/// and the VLAN and tunnel scope where the user asked for these to join the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The lower endpoint's address.
    pub low_address: Address,
    /// The higher endpoint's address.
    pub high_address: Address,
    /// The lower endpoint's port; 0 where the protocol has none.
    pub low_port: u16,
    /// The higher endpoint's port; 0 where the protocol has none.
    pub high_port: u16,
    /// IANA protocol number.
    pub ip_protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Hash of the VLAN ids and tunnel ids that join the key; 0 where none do.
    pub scope: u32,
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`, and whether source is the *higher* endpoint.
    pub fn new(
        ip_version: u8,
        ip_protocol: u8,
        (source, source_port): (Address, u16),
        (destination, destination_port): (Address, u16),
    ) -> (Self, bool) {
        let swapped = (source, source_port) > (destination, destination_port);
        let ((low_address, low_port), (high_address, high_port)) = if swapped {
            ((destination, destination_port), (source, source_port))
        } else {
            ((source, source_port), (destination, destination_port))
        };
        let key = Self {
            low_address,
            high_address,
            low_port,
            high_port,
            ip_protocol,
            ip_version,
            scope: 0,
        };
        (key, swapped)
    }
}
