//! The data plane: packets in, sealed batches out. Modules stand in the order in which a packet meets them.

/// Where frames come from: capture files and AF_PACKET rings.
pub mod capture;
/// Packets to flows: table, expiry, fragments, TCP reassembly, statistics.
pub mod flow;
/// Flows to Arrow record batches, and to files.
pub mod record;
/// Batches to sealed batches: leaves, Merkle tree, signature; and their verification.
pub mod seal;
/// Sealed batches on disk until they are acknowledged.
pub mod spool;
/// Sealed batches to the Core over mutual TLS.
pub mod deliver;
/// Lock-free counters and the ledger that is made of them.
pub mod counters;
/// The cryptographic primitives that the dissectors of `wire` ask for.
pub mod crypto;
