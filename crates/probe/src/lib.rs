//! The data plane: packets in, sealed batches out. Modules stand in the order in which a packet meets them.

/// Where frames come from: capture files and AF_PACKET rings.
pub mod capture;
/// Traffic for benches: reproducible flows with real handshakes, offered at an exact rate.
pub mod traffic;
/// Which worker gets a frame.
pub mod steer;
/// Packets to flows: table, expiry, fragments, TCP reassembly, statistics.
pub mod flow;
/// Frames to ended flows in export order, with one worker or several.
pub mod engine;
/// Flows to Arrow record batches, and to files.
pub mod record;
/// Batches to sealed batches: leaves, Merkle tree, signature; and their verification.
pub mod seal;
/// Sealed batches on disk until they are acknowledged.
pub mod spool;
/// Sealed batches to the Core over mutual TLS.
pub mod deliver;
/// The whole probe: the only place that knows all stages; starts their threads and ends them in order.
pub mod pipeline;
/// Lock-free counters and the ledger that is made of them.
pub mod counters;
/// What a running probe shows beside its books: latency histograms and gauges.
pub mod metrics;
/// The cryptographic primitives that the dissectors of `wire` ask for.
pub mod crypto;
/// The only place where the machine's clocks are read.
pub mod clock;
