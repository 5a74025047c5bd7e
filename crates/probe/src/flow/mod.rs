//! Packets to flows.
//!
//! **In**: decoded packets of one worker in capture order, each with the file-wide packet clock.
//! **Out**: [`EndedFlow`]s, in export order.
//! **Owns**: the flow table, waiting fragments, TCP streams under reassembly, layer-7 sessions.
//! **Never**: locks, wall clock, unbounded memory; allocation after warm-up other than for records that leave.
//!
//! # When a record ends
//!
//! The *clock* is the latest timestamp that any frame of the whole input has carried so far, frames of other workers
//! and frames without a flow included; it is what makes results the same with any number of workers. All limits are
//! exact: a timeout ends a record when the clock is *beyond* its moment, and the record says that moment, however
//! late it was noticed.
//!
//! | `end_reason` | `export_time` |
//! |---|---|
//! | `idle_timeout` | clock at its last packet + idle timeout |
//! | `active_timeout` | time of its first packet + active timeout; what follows is the next part of the same flow |
//! | `end_of_flow` | clock at the ACK of the second FIN; or clock at the second FIN + [`LINGER_NS`]; or clock at the SYN of a new connection on the same ports |
//! | `reset` | clock at the RST |
//! | `straggler` | clock at the end of the connection + [`LINGER_NS`]; or at the SYN of a new connection on the same ports |
//! | `lack_of_resources` | clock at the packet that took its place |
//! | `forced_end` | clock at the end of the input |
//!
//! Timestamps that step back are metered as they are; they do not turn the clock back. While the clock stands still
//! because of a timestamp in the future, a packet still ends a flow that it finds idle by its own timestamp. A record
//! whose first packet lies further behind the clock than the idle timeout is of a source whose clock differs: its active
//! timeout ends it at the packet that is beyond it by its own timestamp, and not by the clock. Where time
//! begins anew (an earlier file is read after a later one, or a long run of frames lies further behind the clock than
//! the idle timeout; see [`crate::clock::PacketClock`]), all flows end as at the end of the input, `forced_end`, and the
//! clock goes on from there.
//!
//! # Order
//!
//! Records leave in the order of [`Order`]: epoch (how often the clock was turned back), export time, then the frame that ended them (timeouts after frames), then
//! flow id, then part. The frame number stands before the flow id so that a clock that stands still, as in a capture
//! whose timestamps are all alike, does not make the probe hold every record back until the clock moves on.

use std::hash::{BuildHasher as _, RandomState};

use wire::column::{Sink, Type, Value};
use wire::decode::Decoder;
use wire::flowkey::{FlowKey, KeyHasher};
use wire::l7::Session;

/// The flow record: every column declared once, with its definition.
pub mod flow_record;
/// Exact integer sums, and the statistics made of them.
pub mod statistics;
/// How much is computed: the user's choice, less what is shed under pressure.
pub mod profile;
/// One flow's state: the hot part that every packet touches, and the cold part.
pub mod state;
/// TCP: sequence number analysis, handshake times, and when a connection is over.
pub mod tcp;
/// Packets that every receiver discards.
pub mod disregard;
/// TCP: duplicate and partial ACKs, zero windows, keep-alives, and what the capture missed.
pub mod tcp_analysis;
/// The first packets' lengths, directions and times.
pub mod splt;
/// Statistics of profile `full`.
pub mod features;
/// Interned MAC addresses, VLAN ids and tunnels.
pub mod path;
/// Hints to processor and kernel about memory.
pub(crate) mod memory;
/// The hash index from keys to slots.
mod index;
/// Keys that carry their hash.
mod hashed;
/// Timers: which flow is due next.
pub mod expiry;
/// The flow table.
pub mod table;
/// One flow table for all workers, to be measured.
#[cfg(feature = "shared-table")]
pub mod shared;
/// IP fragments: to the flow of their datagram, and to whole datagrams.
pub mod fragment;
/// TCP streams in order, for layer 7.
pub mod reassembly;
/// Layer-7 sessions of flows.
pub mod layer7;
/// Application names where layer 7 has none: IP protocols and well-known ports.
pub mod application;
/// Community ID v1.
pub mod community_id;
/// From a flow's state to its record.
mod export;
/// Packets to ended flows.
pub mod meter;
/// What flows learn from other flows: names from DNS answers.
pub mod facts;
/// ICMP errors, counted for the flows that they quote.
pub mod icmp_error;

pub use features::Features;
pub use flow_record::FlowRecord;
pub use profile::{Profile, Shed};

/// How long a TCP connection's key is kept after its end for what still comes, and how long a connection whose FINs
/// have both been seen waits for the last ACK: 5 s, in nanoseconds.
pub const LINGER_NS: i64 = 5_000_000_000;

wire::reasons! {
    /// Why a record ended (column `end_reason`).
    EndReason {
        /// No packet came within the idle timeout (IPFIX flowEndReason 1).
        IdleTimeout = "idle_timeout",
        /// The record had lasted for the active timeout (IPFIX flowEndReason 2).
        ActiveTimeout = "active_timeout",
        /// The TCP connection was closed (IPFIX flowEndReason 3).
        EndOfFlow = "end_of_flow",
        /// The TCP connection was reset (IPFIX flowEndReason 3).
        Reset = "reset",
        /// The input ended, time in it began anew, or the probe was stopped (IPFIX flowEndReason 4).
        ForcedEnd = "forced_end",
        /// It had to make room for another flow (IPFIX flowEndReason 5).
        LackOfResources = "lack_of_resources",
        /// Packets of a TCP connection that had already ended.
        Straggler = "straggler",
    }
}

#[expect(clippy::derivable_impls, reason = "the enum is declared by a macro")]
impl Default for EndReason {
    fn default() -> Self {
        Self::ForcedEnd
    }
}

impl Value for EndReason {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self.name());
    }
}

/// A flow, or an interim part of one, that is ready to become a record.
#[derive(Clone, Debug, Default)]
pub struct EndedFlow {
    /// How often the clock was turned back before (see [`crate::clock::PacketClock`]).
    pub epoch: u64,
    /// When it is exported, in UTC nanoseconds of packet time (see the module's table).
    pub export_time: i64,
    /// Number of the frame that ended it; `u64::MAX` where no frame did but a timeout or the end of the input, and
    /// `u64::MAX - 1` where it had to make room for fragments whose first fragment did not come in time.
    pub closing_frame: u64,
    /// The scope of its key (see [`FlowKey::scope`]), which the record does not show.
    pub scope: u32,
    /// The flow columns.
    pub record: FlowRecord,
    /// The features, where they were computed.
    pub features: Option<Box<Features>>,
    /// The protocol columns, where layer 7 was looked at. For an interim record: what was learned so far.
    pub session: Option<Box<Session>>,
}

impl EndedFlow {
    /// The key of the flow.
    pub fn key(&self) -> FlowKey {
        let record = &self.record;
        let (key, _) = FlowKey::new(
            record.ip_version,
            record.ip_protocol,
            (record.src_ip, record.src_port),
            (record.dst_ip, record.dst_port),
        );
        FlowKey {
            scope: self.scope,
            ..key
        }
    }

    /// Its place in the output.
    pub fn order(&self) -> Order {
        Order {
            epoch: self.epoch,
            export_time: self.export_time,
            frame: self.closing_frame,
            flow_id: self.record.flow_id,
            interim_number: self.record.interim_number,
        }
    }
}

/// The order in which records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// See [`EndedFlow::epoch`].
    pub epoch: u64,
    /// See [`EndedFlow::export_time`].
    pub export_time: i64,
    /// See [`EndedFlow::closing_frame`].
    pub frame: u64,
    /// Column `flow_id`.
    pub flow_id: u64,
    /// Column `interim_number`.
    pub interim_number: u32,
}

/// The largest active timeout: one day. The statistics of a record are exact up to this.
pub const MAX_TIMEOUT_NS: i64 = 86_400_000_000_000;

/// Limits and timeouts of flow metering. The memory limits are the whole probe's; each worker gets an equal share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A flow without packets for longer than this has ended. Nanoseconds, above 0, at most the active timeout.
    pub idle_timeout_ns: i64,
    /// A record is cut when it has lasted for longer than this. Nanoseconds, at most [`MAX_TIMEOUT_NS`].
    pub active_timeout_ns: i64,
    /// How much is computed.
    pub profile: Profile,
    /// Whether VLAN ids join the flow key.
    pub key_vlan: bool,
    /// Whether tunnels and their identifiers join the flow key.
    pub key_tunnel: bool,
    /// Whether the source tells of every frame whose checksums need no look
    /// ([`wire::decode::FrameMeta::checksum_offloaded`]), so that a wrong one of another is wrong. Files do not tell it.
    pub knows_offload: bool,
    /// Workers, at least 1.
    pub workers: usize,
    /// Flows in the table, at least 1 for each worker.
    pub flows: usize,
    /// Pieces of the sequences of packets that flows keep, [`splt::CHUNK_PACKETS`] packets each.
    pub sequence_chunks: usize,
    /// Bytes that flows, sequences of packets, features and sessions take together.
    pub memory_bytes: usize,
    /// Flows whose layer-7 state is in memory at the same time.
    pub sessions: usize,
    /// Bytes that layer-7 sessions take with what they have learned and what they keep of unfinished messages.
    pub session_bytes: usize,
    /// Bytes that TCP streams kept for layer 7 take.
    pub stream_bytes: usize,
    /// Bytes that one direction of one TCP stream kept for layer 7 takes.
    pub stream_bytes_per_direction: usize,
    /// Datagrams whose fragments are kept track of.
    pub datagrams: usize,
    /// Bytes that fragments take that are kept to put datagrams together for layer 7.
    pub datagram_bytes: usize,
    /// Memory for names of servers that DNS answers tell, in multiples of [`facts::NAME_BYTES`].
    pub names: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self::for_memory(768 << 20)
    }
}

/// A setting that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The idle timeout is not positive or above the active timeout.
    #[error("the idle timeout is {0} ns, but must be above 0 and at most the active timeout")]
    IdleTimeout(i64),
    /// The active timeout is above its limit.
    #[error("the active timeout is {0} ns, but must be at most {MAX_TIMEOUT_NS} ns (one day)")]
    ActiveTimeout(i64),
    /// No or too many workers.
    #[error("{0} workers are asked for, but there must be 1 to {MAX_WORKERS}")]
    Workers(usize),
    /// The flow table is too small or too large.
    #[error("the flow table is to hold {0} flows, but must hold 1 to {MAX_FLOWS} for each worker")]
    Flows(usize),
}

/// Most workers of a probe.
pub const MAX_WORKERS: usize = 256;

/// Most flows of one worker's table.
pub const MAX_FLOWS: usize = 1 << 28;

impl Settings {
    /// The default timeouts, and limits such that metering needs no more than about `bytes` of memory.
    pub fn for_memory(bytes: usize) -> Self {
        // 14/16 of the budget are shared by flows, sequences of packets, features and sessions as they need it; 1/16 is for the
        // bytes of streams, 1/16 for the rest. Memory that is not needed is not touched.
        let shared = bytes / 16 * 14;
        Self {
            idle_timeout_ns: 300_000_000_000,
            active_timeout_ns: 1_800_000_000_000,
            profile: Profile::default(),
            key_vlan: false,
            key_tunnel: false,
            knows_offload: false,
            workers: 1,
            flows: (shared / state::FLOW_BYTES).clamp(1024, MAX_FLOWS),
            sequence_chunks: (shared / 8 / splt::CHUNK_BYTES).max(1024),
            memory_bytes: shared.max(1 << 20),
            sessions: (shared / 2 / layer7::SESSION_BYTES).max(256),
            session_bytes: (shared / 2).max(256 << 10),
            stream_bytes: (bytes / 16).max(1 << 20),
            stream_bytes_per_direction: 256 << 10,
            datagrams: (bytes / 64 / fragment::DATAGRAM_BYTES).clamp(64, 1 << 16),
            datagram_bytes: (bytes / 32).clamp(256 << 10, 64 << 20),
            names: (bytes / 32 / facts::NAME_BYTES).clamp(256, 1 << 17),
        }
    }

    /// A decoder that makes the keys that are asked for. Each call takes another seed for their hash, one that nobody
    /// knows: whoever sends packets, or a capture file, must not choose which keys collide. Nothing that leaves the
    /// probe depends on it.
    pub fn decoder(&self) -> Decoder {
        Decoder {
            hasher: KeyHasher::new(RandomState::new().hash_one(())),
            key_vlan: self.key_vlan,
            key_tunnel: self.key_tunnel,
            ..Decoder::default()
        }
    }

    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.active_timeout_ns > MAX_TIMEOUT_NS {
            return Err(SettingsError::ActiveTimeout(self.active_timeout_ns));
        }
        if self.idle_timeout_ns <= 0 || self.idle_timeout_ns > self.active_timeout_ns {
            return Err(SettingsError::IdleTimeout(self.idle_timeout_ns));
        }
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(SettingsError::Workers(self.workers));
        }
        if !(1..=MAX_FLOWS).contains(&(self.flows / self.workers)) {
            return Err(SettingsError::Flows(self.flows));
        }
        Ok(())
    }

    /// One worker's share.
    #[must_use]
    pub fn share(&self) -> Self {
        let of = |total: usize| (total / self.workers).max(1);
        Self {
            workers: 1,
            flows: of(self.flows),
            sequence_chunks: of(self.sequence_chunks),
            memory_bytes: of(self.memory_bytes),
            sessions: of(self.sessions),
            session_bytes: of(self.session_bytes),
            stream_bytes: of(self.stream_bytes),
            datagrams: of(self.datagrams),
            datagram_bytes: of(self.datagram_bytes),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_flow_is_of_a_size_that_is_quick_to_allocate() {
        // The C library keeps freed blocks of up to 1,032 bytes for each thread; larger ones it merges and searches for.
        assert!(size_of::<EndedFlow>() <= 1032, "{}", size_of::<EndedFlow>());
    }

    #[test]
    fn default_settings_are_valid_and_shared_out() {
        let settings = Settings {
            workers: 3,
            ..Settings::default()
        };
        assert_eq!(settings.validate(), Ok(()));
        assert!(settings.share().flows * 3 <= settings.flows);
        assert_eq!(settings.share().validate(), Ok(()));
    }

    #[test]
    fn no_two_runs_hash_alike() {
        let address = |last| wire::column::Address::v4([192, 0, 2, last]);
        let (key, _) = FlowKey::new(4, 6, (address(1), 1234), (address(2), 443));
        let hash = || Settings::default().decoder().hasher.hash(&key);
        assert_ne!(hash(), hash());
        assert_ne!(
            hash(),
            Decoder::default().hasher.hash(&key),
            "a seed that everybody knows"
        );
    }

    #[test]
    fn ranges_are_checked() {
        let check = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert_eq!(
            check(|settings| settings.idle_timeout_ns = 0),
            "the idle timeout is 0 ns, but must be above 0 and at most the active timeout"
        );
        assert!(check(|settings| settings.active_timeout_ns = i64::MAX).contains("one day"));
        assert!(check(|settings| settings.workers = 0).contains("1 to 256"));
        assert!(check(|settings| settings.flows = 0).contains("0 flows"));
    }
}
