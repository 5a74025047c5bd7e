//! Bytes to facts: packet headers and layer-7 protocols.
//!
//! Two guarantees hold for everything here, whatever the input:
//! *total* (no panic, no unbounded work or memory) and *deterministic* (no clock, no randomness, no I/O).
//! Modules stand in the order in which a packet meets them.

/// The one bounds-checked reader that every parser uses.
pub mod cursor;
/// Why a frame could not be read, or only in part: each reason is a counter.
pub mod malformed;
/// Text from the wire as valid UTF-8.
pub mod text;
/// How a record declares its columns: once, for the schema, the documentation and the values.
pub mod column;
/// The canonical flow key, its direction, and the symmetric hash that steers packets to workers.
pub mod flowkey;
mod checksum;
/// Link layers: from a frame's first byte to its network header.
mod link;
/// IPv4 and IPv6 headers with their extensions.
mod net;
/// Tunnels: from an IP packet to the one inside it.
mod tunnel;
/// TCP, UDP, ICMP and SCTP headers.
mod transport;
/// The frames that most are.
mod plain;
/// Frame to packet: header views, key and payload.
pub mod decode;
/// Layer 7: the dissector contract and the table of protocols.
pub mod l7;
