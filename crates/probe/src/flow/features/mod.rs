//! Features: the statistics of profile `full`, beyond those of the flow record.
//!
//! **In**: the packets of a record, one by one.
//! **Out**: [`Features`], one struct for each record.
//! **Owns**: the accumulators of one worker, pooled and weighed in the budget that flows, sequences and sessions share.
//! **Never**: keeps packets. An accumulator is of fixed size, and a record has one only from its second packet on; lists of
//! bursts take memory when the first burst is complete.
//!
//! # Definitions
//!
//! They stand with the members, and are normative. "Packets" are those of the record, as in [`super::flow_record`]. The
//! *time* of a packet is here the latest timestamp of the record's packets up to and including it, so that a timestamp that
//! steps back counts as no time, as it does in `inter_arrival_min_ns`. A *packet with payload* is one whose transport
//! payload length is above 0. A statistic of no observations is null, and so is a deviation or root mean square where the
//! squares add up to 2⁹⁶ or more, as only wrong timestamps and lengths do. Counts and sums are exact integers; what is a
//! double is computed from them at the end, except `payload_length_dispersion` and `inter_arrival_dispersion_ns`, which are
//! sums of doubles in packet order.

/// One record's running statistics.
mod accumulator;
/// The accumulators of one worker.
mod store;

pub use accumulator::Observed;
pub use store::{ACCUMULATOR_BYTES, Store};

/// A time between packets above this begins the next subflow: 1 s, in nanoseconds.
pub const SUBFLOW_GAP_NS: u64 = 1_000_000_000;
/// A time between packets above this is idle time: 5 s, in nanoseconds.
pub const IDLE_GAP_NS: u64 = 5_000_000_000;
/// A bulk has at least so many packets.
pub const BULK_PACKETS: u32 = 4;
/// Packets of a bulk are at most so far apart: 1 s, in nanoseconds.
pub const BULK_GAP_NS: u64 = 1_000_000_000;
/// A burst has at least so many packets.
pub const BURST_PACKETS: u32 = 3;
/// Packets of a burst are less than this apart: 1 s, in nanoseconds.
pub const BURST_GAP_NS: u64 = 1_000_000_000;
/// So many bursts of a direction are listed.
pub const BURSTS_LISTED: usize = 15;
/// Bins of a histogram.
pub const BINS: usize = 8;
/// Kurtosis is computed below this payload length in bytes, for which its integers are exact.
pub const KURTOSIS_LENGTH_LIMIT: u32 = 1 << 20;

wire::record! {
    /// The features of a record.
    pub struct Features {
        /// Smallest transport payload length in bytes, packets without payload included.
        payload_length_min: u32,
        /// Arithmetic mean of the transport payload length in bytes over all packets.
        payload_length_mean: f64,
        /// Largest transport payload length in bytes.
        payload_length_max: u32,
        /// Population standard deviation (divisor n) of the transport payload length in bytes.
        payload_length_stddev: Option<f64>,
        /// Smallest transport payload length in bytes, packets without payload included.
        payload_length_min_fwd: Option<u32>,
        /// Arithmetic mean of the transport payload length in bytes over the packets of this direction.
        payload_length_mean_fwd: Option<f64>,
        /// Largest transport payload length in bytes.
        payload_length_max_fwd: Option<u32>,
        /// Population standard deviation (divisor n) of the transport payload length in bytes.
        payload_length_stddev_fwd: Option<f64>,
        /// Smallest transport payload length in bytes, packets without payload included.
        payload_length_min_rev: Option<u32>,
        /// Arithmetic mean of the transport payload length in bytes over the packets of this direction.
        payload_length_mean_rev: Option<f64>,
        /// Largest transport payload length in bytes.
        payload_length_max_rev: Option<u32>,
        /// Population standard deviation (divisor n) of the transport payload length in bytes.
        payload_length_stddev_rev: Option<f64>,
        /// Root of the arithmetic mean of the squares of the transport payload lengths of all packets, in bytes.
        payload_length_rms: Option<f64>,
        /// Mean over all packets but the first of the absolute difference, in bytes, between a packet's transport payload length and the arithmetic mean of the lengths of all packets before it. Null below two packets.
        payload_length_dispersion: Option<f64>,
        /// Kurtosis of the transport payload length: fourth central moment divided by the square of the population variance (a normal distribution has 3). Null where all lengths are the same, and where one is 1 MiB or more.
        payload_length_kurtosis: Option<f64>,
        /// Share of the packets but the first whose transport payload length differs from that of the packet before, of either direction: 0 to 1. Null below two packets.
        payload_length_switching_ratio: Option<f64>,
        /// Packets with payload.
        payload_packets_fwd: u64,
        /// Packets with payload.
        payload_packets_rev: u64,
        /// Smallest difference in bytes between IP total length and transport payload length: IP and transport headers with their options. Their sum is `bytes_fwd` − `payload_bytes_fwd`.
        header_length_min_fwd: Option<u32>,
        /// Smallest difference in bytes between IP total length and transport payload length.
        header_length_min_rev: Option<u32>,

        /// Packets with the FIN flag (RFC 9293 §3.1). Null where not TCP, as are the seven others.
        tcp_fin_packets_fwd: Option<u32>,
        /// Packets with the FIN flag.
        tcp_fin_packets_rev: Option<u32>,
        /// Packets with the SYN flag (RFC 9293 §3.1), SYN-ACKs included.
        tcp_syn_packets_fwd: Option<u32>,
        /// Packets with the SYN flag, SYN-ACKs included.
        tcp_syn_packets_rev: Option<u32>,
        /// Packets with the RST flag (RFC 9293 §3.1).
        tcp_rst_packets_fwd: Option<u32>,
        /// Packets with the RST flag.
        tcp_rst_packets_rev: Option<u32>,
        /// Packets with the PSH flag (RFC 9293 §3.1).
        tcp_psh_packets_fwd: Option<u32>,
        /// Packets with the PSH flag.
        tcp_psh_packets_rev: Option<u32>,
        /// Packets with the ACK flag (RFC 9293 §3.1).
        tcp_ack_packets_fwd: Option<u32>,
        /// Packets with the ACK flag.
        tcp_ack_packets_rev: Option<u32>,
        /// Packets with the URG flag (RFC 9293 §3.1).
        tcp_urg_packets_fwd: Option<u32>,
        /// Packets with the URG flag.
        tcp_urg_packets_rev: Option<u32>,
        /// Packets with the ECE flag (RFC 3168 §6.1).
        tcp_ece_packets_fwd: Option<u32>,
        /// Packets with the ECE flag.
        tcp_ece_packets_rev: Option<u32>,
        /// Packets with the CWR flag (RFC 3168 §6.1).
        tcp_cwr_packets_fwd: Option<u32>,
        /// Packets with the CWR flag.
        tcp_cwr_packets_rev: Option<u32>,

        /// Arithmetic mean over all packets, the first included, of the nanoseconds from the time of the first packet.
        relative_time_mean_ns: f64,
        /// Mean of the absolute difference, in nanoseconds, between a time between packets (as in `inter_arrival_min_ns`) and the arithmetic mean of all those before it, over all times between packets but the first. Null below three packets.
        inter_arrival_dispersion_ns: Option<f64>,
        /// `inter_arrival_dispersion_ns` divided by the difference between the largest and the smallest time between packets. Null below three packets and where these are the same.
        inter_arrival_distribution: Option<f64>,
        /// Parts of the record that lie more than 1 s apart: one more than there are times between packets above 1 s.
        subflows: u32,
        /// Times between packets above 5 s. There is one more active period than that.
        idle_periods: u32,
        /// Smallest time between packets above 5 s, in nanoseconds. Null where there is none.
        idle_min_ns: Option<u64>,
        /// Arithmetic mean in nanoseconds of the times between packets above 5 s.
        idle_mean_ns: Option<f64>,
        /// Largest time between packets above 5 s, in nanoseconds.
        idle_max_ns: Option<u64>,
        /// Population standard deviation (divisor n) in nanoseconds of the times between packets above 5 s.
        idle_stddev_ns: Option<f64>,
        /// Duration of the shortest active period in nanoseconds. An active period lasts from a packet to the last one before the next time of more than 5 s without packets, or to the last of the record; one of a single packet has duration 0.
        active_min_ns: u64,
        /// Arithmetic mean of the durations of the active periods in nanoseconds.
        active_mean_ns: f64,
        /// Duration of the longest active period in nanoseconds.
        active_max_ns: u64,
        /// Population standard deviation (divisor n) of the durations of the active periods in nanoseconds.
        active_stddev_ns: Option<f64>,

        /// Bulks. A bulk is a longest possible run of at least 4 packets with payload of one direction, each at most 1 s after the one before, without a packet with payload of the other direction between them.
        bulks_fwd: u32,
        /// Bulks.
        bulks_rev: u32,
        /// Packets with payload in bulks.
        bulk_packets_fwd: u64,
        /// Packets with payload in bulks.
        bulk_packets_rev: u64,
        /// Sum of the transport payload lengths in bulks, in bytes.
        bulk_bytes_fwd: u64,
        /// Sum of the transport payload lengths in bulks, in bytes.
        bulk_bytes_rev: u64,
        /// Sum over all bulks of the nanoseconds from a bulk's first packet to its last.
        bulk_duration_fwd_ns: u64,
        /// Sum over all bulks of the nanoseconds from a bulk's first packet to its last.
        bulk_duration_rev_ns: u64,

        /// Packets with payload by transport payload length in bytes: 1–15, 16–31, 32–63, 64–127, 128–255, 256–511, 512–1023, 1024 and more.
        payload_length_histogram_fwd: Vec<u32>,
        /// Packets with payload by transport payload length in bytes, in the same 8 bins.
        payload_length_histogram_rev: Vec<u32>,
        /// Times from one packet with payload of this direction to the next in whole milliseconds, rounded down: 0–15, 16–31, 32–63, 64–127, 128–255, 256–511, 512–1023, 1024 and more.
        payload_interval_histogram_fwd: Vec<u32>,
        /// Times from one packet with payload of this direction to the next in whole milliseconds, in the same 8 bins.
        payload_interval_histogram_rev: Vec<u32>,

        /// Bursts. A burst is a longest possible run of at least 3 packets with payload of this direction, each less than 1 s after the one before, whatever the other direction sends.
        bursts_fwd: u32,
        /// Bursts.
        bursts_rev: u32,
        /// Packets with payload of each of the first 15 bursts.
        burst_packets_fwd: Vec<u32>,
        /// Packets with payload of each of the first 15 bursts.
        burst_packets_rev: Vec<u32>,
        /// Sum of the transport payload lengths of each of the first 15 bursts, in bytes.
        burst_bytes_fwd: Vec<u64>,
        /// Sum of the transport payload lengths of each of the first 15 bursts, in bytes.
        burst_bytes_rev: Vec<u64>,
        /// Nanoseconds from the record's first packet to the first packet of each of the first 15 bursts.
        burst_starts_fwd_ns: Vec<u64>,
        /// Nanoseconds from the record's first packet to the first packet of each of the first 15 bursts.
        burst_starts_rev_ns: Vec<u64>,
        /// Nanoseconds from the record's first packet to the last packet of each of the first 15 bursts.
        burst_ends_fwd_ns: Vec<u64>,
        /// Nanoseconds from the record's first packet to the last packet of each of the first 15 bursts.
        burst_ends_rev_ns: Vec<u64>,

        /// Transport payload lengths in bytes of the first 20 packets, as `splt_lengths` has their IP total lengths.
        splt_payload_lengths: Vec<u32>,
        /// TCP flags of the first 20 packets, as in `tcp_flags_fwd`; 0 for a packet without a TCP header. Null where not TCP.
        splt_tcp_flags: Option<Vec<u16>>,
    }
}

#[cfg(test)]
mod tests;
