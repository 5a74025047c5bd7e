//! Traffic for benches: reproducible flows with real handshakes, offered at an exact rate.
//!
//! **In**: [`Settings`]. **Out**: frames with valid checksums in the order of their time, for a capture file
//! ([`write_capture`]), for the probe's own memory ([`crate::capture::MemorySource`]) or for an interface
//! ([`transmit`]). **Owns**: a [`Cycle`] of prepared frames. **Never**: sends on an interface that the caller did not name.
//!
//! A cycle holds some thousand conversations (as many as `cycle_bytes` has room for), interleaved as they overlap in time, and is offered over and over. Each
//! round gives every conversation a client that was not there before, by patching address, port and checksums in
//! place; a conversation longer than a round runs on through the following ones. So the new-flow rate, the
//! concurrency and the life of a flow are real, while offering a frame costs no more than touching its headers.
//!
//! Rates count the bytes of frames without preamble, check sequence and gap. Equal settings give equal frames.

/// Payloads of DNS, HTTP, SSH and RTP.
mod application;
/// The frames of one flow.
mod conversation;
/// The prepared frames, and the clients that they get.
mod cycle;
/// Traffic as a capture file.
mod file;
/// Headers and checksums.
mod frame;
/// When frames are due.
mod offer;
/// QUIC version 1.
mod quic;
/// Reproducible random numbers.
mod random;
/// TLS 1.2 and 1.3.
mod tls;
/// Traffic on an interface.
pub mod transmit;

pub use cycle::{Cycle, Shape, TrafficError};
pub use file::{Written, write_capture};
pub use offer::{Due, Latencies, Offer, OfferBooks};

/// How long frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// The shortest frames that Ethernet knows: 64 bytes with the check sequence. Scans, keystrokes, short datagrams.
    Smallest,
    /// "Simple IMIX" (RFC 6985 appendix A): after the handshakes, frames of 66, 590 and 1514 bytes as 7 to 4 to 1.
    Imix,
    /// 1000 bytes on average: full frames, with as few or as many acknowledgments as that takes.
    Mean1000,
    /// Data frames of 9014 bytes (MTU 9000), two thirds of the flows datagrams of that size.
    Jumbo,
    /// Super-frames: TCP data in frames of up to 65,226 bytes, which an interface takes for a card to cut into segments
    /// of full frames (segmentation offload).
    Super,
}

impl FrameSize {
    /// The names that a user may give.
    pub const NAMES: [&'static str; 5] = ["64", "imix", "1000", "9000", "super"];

    /// The size of a name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "64" => Some(Self::Smallest),
            "imix" => Some(Self::Imix),
            "1000" => Some(Self::Mean1000),
            "9000" => Some(Self::Jumbo),
            "super" => Some(Self::Super),
            _ => None,
        }
    }
}

/// What traffic to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Another seed, other traffic.
    pub seed: u64,
    /// Bits of frames a second.
    pub bits_per_second: u64,
    /// New flows a second.
    pub flows_per_second: u64,
    /// How long frames are.
    pub frame_size: FrameSize,
    /// Share of flows over IPv6.
    pub ipv6_share: f64,
    /// Share of flows with a VLAN tag.
    pub vlan_share: f64,
    /// Bytes of the prepared frames; more is more variety.
    pub cycle_bytes: usize,
    /// Which of `lanes` disjoint sets of clients to take: several sources at once then have no flow in common.
    pub lane: u32,
    /// How many such sets there are.
    pub lanes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            bits_per_second: 100_000_000,
            flows_per_second: 1_000,
            frame_size: FrameSize::Mean1000,
            ipv6_share: 0.3,
            vlan_share: 0.1,
            cycle_bytes: 32 << 20,
            lane: 0,
            lanes: 1,
        }
    }
}

impl Settings {
    /// The part of `lane` where `lanes` sources share the traffic.
    #[must_use]
    pub fn share(&self, lane: u32, lanes: u32) -> Self {
        let lanes = lanes.max(1);
        Self {
            bits_per_second: self.bits_per_second / u64::from(lanes),
            flows_per_second: self.flows_per_second / u64::from(lanes),
            seed: self.seed.wrapping_add(u64::from(lane) << 32),
            lane,
            lanes,
            ..self.clone()
        }
    }
}
