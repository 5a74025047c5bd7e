//! The flow record (design §5): every column declared once, with its definition.
//!
//! `_fwd` is source to destination (`src` is the initiator), `_rev` the way back; a statistic without either suffix is
//! over both directions. Nanosecond durations are integers where they are measured and doubles where they are
//! averaged. A statistic of no observations is null, and so is a deviation where the squares add up to 2⁹⁶ or more (a time
//! of 78 hours in nanoseconds), as only wrong timestamps and lengths do. A column that was not computed, because the
//! profile leaves its work out or because it was shed, is null; `shed` names the work that was shed. `=> work` after a
//! column's type says which work that is ([`super::profile::Work`]).
//!
//! The definitions are normative. "Packets" are those of this record in capture order, except that fragments that came
//! ahead of the first fragment of their datagram stand right before that one. Sums and sums of squares are exact
//! integers; means and standard deviations are computed from them in double precision at the end, so that another
//! computation may differ in the last digits only.
//!
//! A record is a *part* of a flow: an active timeout ends a part, and the packets that follow make the next one; packets
//! that come after the end of a TCP connection are its last part. Counts and statistics are the part's.
//!
//! TCP sequence numbers are compared modulo 2³² (RFC 9293 §3.4). A segment occupies its payload length, plus one for
//! SYN and one for FIN. The *next expected* number of a direction is the highest number after any segment of the flow so
//! far; its first segment, whatever it occupies, sets it. A SYN that comes when both directions have been heard is counted,
//! and does not move it: its receiver drops it (RFC 9293 §3.10.7.4). RST segments count as packets and for the flags, and are
//! not looked at otherwise.

use wire::column::{Address, Mac, Time};

use super::EndReason;
use super::application::AppConfidence;
use super::community_id::CommunityId;
use super::state::Basis;

wire::record! {
    /// One bidirectional flow, or one interim part of a long one.
    pub struct FlowRecord {
        /// 64-bit hash of flow key, first timestamp and first frame number, the same in all records of a flow and for the same capture: the first 8 bytes, big-endian, of SHA-256 over lower address, higher address (16 bytes each), their ports, IP protocol, IP version, VLAN and tunnel scope (4 bytes, 0 unless these join the key), timestamp in ns and frame number from 1 (8 bytes each), all big-endian; endpoints are ordered by address, then port.
        flow_id: u64,
        /// Community ID v1, seed 0 (<https://github.com/corelight/community-id-spec>); of ICMP with type and code of the initiator's first packet that shows them.
        community_id: CommunityId,
        /// Timestamp of the first packet of this record, UTC.
        start_time: Time,
        /// Latest timestamp of the packets of this record, UTC.
        end_time: Time,
        /// IP version: 4 or 6.
        ip_version: u8,
        /// IANA protocol number of the inner-most IP packet (the last header of an IPv6 chain).
        ip_protocol: u8,
        /// The initiator's address.
        src_ip: Address,
        /// The initiator's port; 0 where the protocol has none.
        src_port: u16,
        /// The responder's address.
        dst_ip: Address,
        /// The responder's port; 0 where the protocol has none.
        dst_port: u16,
        /// What told the initiator (RFC 9293 §3.5: who sends the SYN): `syn`, `syn_ack` or `first_packet`. A TCP flow with `first_packet` was picked up in the middle of its connection, or begins with a packet that every receiver discards; one with `syn_ack` after its SYN, or from a place that sees only the responder.
        direction_basis: Basis,
        /// Why the record ended: `idle_timeout`, `active_timeout`, `end_of_flow`, `reset`, `forced_end`, `lack_of_resources`, `straggler` (IPFIX flowEndReason, RFC 5102 §5.11.3, and ours). A TCP flow ends with the ACK of its second FIN (`end_of_flow`, RFC 9293 §3.6) or a RST (`reset`, §3.5.3); a half-closed one (FIN in one of the two unions of flags, §3.6) goes on until it idles.
        end_reason: EndReason,
        /// Number of this record among those of its flow, from 0: above 0 after an active timeout, and for stragglers.
        interim_number: u32,
        /// The initiator's MAC address on the outer-most link.
        src_mac: Option<Mac>,
        /// The responder's MAC address on the outer-most link.
        dst_mac: Option<Mac>,
        /// VLAN ids of the first packet, outer-most first, the outer-most four where there are more; 0 is a priority tag, which names no VLAN (IEEE 802.1Q §9.6).
        vlan_ids: Option<Vec<u16>>,
        /// Encapsulations around the first packet, outer-most first: the outer-most four where there are more.
        tunnels: Option<Vec<&'static str>>,
        /// Identifier of the inner-most tunnel (VNI, GRE key, TEID, …), also where `tunnels` does not reach down to it.
        tunnel_id: Option<u64>,
        /// Whether packets of this flow came with more than one set of VLAN or tunnel ids; priority tags do not count.
        key_ambiguous: bool,

        /// Packets, fragments counted one by one.
        packets_fwd: u64,
        /// Packets, fragments counted one by one.
        packets_rev: u64,
        /// Sum of the IP total length in bytes (IPFIX octetDeltaCount): headers included, link layer and padding excluded.
        bytes_fwd: u64,
        /// Sum of the IP total length in bytes.
        bytes_rev: u64,
        /// Sum of the frame lengths in bytes as the capture states them, without the frame check sequence where it tells that there is one (`if_fcslen`, `epb_flags`, LINKTYPE); with the headers that capturing programs put before frames, such as radiotap.
        wire_bytes_fwd: u64,
        /// Sum of the frame lengths on the wire in bytes.
        wire_bytes_rev: u64,
        /// Sum of the transport payload lengths in bytes, retransmitted bytes included.
        payload_bytes_fwd: u64,
        /// Sum of the transport payload lengths in bytes.
        payload_bytes_rev: u64,
        /// Packets that were IP fragments, both directions.
        fragments: u64,
        /// Packets with a wrong IP or transport checksum, both directions. They count like any other; those that their receiver must have discarded (live with AF_PACKET, account `packets_disregarded`) change neither the state of the connection nor what layer 7 learns.
        checksum_errors: u64,
        /// ICMP errors (RFC 1122 §3.2.2, RFC 4443 §2.1) that quote a packet of this flow, from either side or from a router on the way, seen before the record left. They are metered as flows of their own too.
        icmp_errors: u64,

        /// Smallest IP total length in bytes.
        packet_length_min: Option<u32> => statistics,
        /// Arithmetic mean of the IP total length in bytes over all packets.
        packet_length_mean: Option<f64> => statistics,
        /// Largest IP total length in bytes.
        packet_length_max: Option<u32> => statistics,
        /// Population standard deviation (divisor n) of the IP total length in bytes.
        packet_length_stddev: Option<f64> => statistics,
        /// Smallest IP total length in bytes.
        packet_length_min_fwd: Option<u32> => statistics,
        /// Arithmetic mean of the IP total length in bytes.
        packet_length_mean_fwd: Option<f64> => statistics,
        /// Largest IP total length in bytes.
        packet_length_max_fwd: Option<u32> => statistics,
        /// Population standard deviation (divisor n) of the IP total length in bytes.
        packet_length_stddev_fwd: Option<f64> => statistics,
        /// Smallest IP total length in bytes.
        packet_length_min_rev: Option<u32> => statistics,
        /// Arithmetic mean of the IP total length in bytes.
        packet_length_mean_rev: Option<f64> => statistics,
        /// Largest IP total length in bytes.
        packet_length_max_rev: Option<u32> => statistics,
        /// Population standard deviation (divisor n) of the IP total length in bytes.
        packet_length_stddev_rev: Option<f64> => statistics,
        /// Smallest time in nanoseconds from the latest packet so far to the next one in capture order; 0 where that carries an earlier timestamp. Null below two packets. The sum of these times is the latest timestamp less the first.
        inter_arrival_min_ns: Option<u64> => statistics,
        /// Arithmetic mean in nanoseconds of the times between packets (divisor: packets − 1).
        inter_arrival_mean_ns: Option<f64> => statistics,
        /// Largest time in nanoseconds between packets.
        inter_arrival_max_ns: Option<u64> => statistics,
        /// Population standard deviation in nanoseconds of the times between packets. Null also where their squares add up to 2⁹⁶ or more, as those of a wrong timestamp 78 hours off do; so are the others.
        inter_arrival_stddev_ns: Option<f64> => statistics,
        /// Smallest time in nanoseconds between packets of this direction.
        inter_arrival_min_fwd_ns: Option<u64> => statistics,
        /// Arithmetic mean in nanoseconds of the times between packets of this direction.
        inter_arrival_mean_fwd_ns: Option<f64> => statistics,
        /// Largest time in nanoseconds between packets of this direction.
        inter_arrival_max_fwd_ns: Option<u64> => statistics,
        /// Population standard deviation in nanoseconds of the times between packets of this direction.
        inter_arrival_stddev_fwd_ns: Option<f64> => statistics,
        /// Smallest time in nanoseconds between packets of this direction.
        inter_arrival_min_rev_ns: Option<u64> => statistics,
        /// Arithmetic mean in nanoseconds of the times between packets of this direction.
        inter_arrival_mean_rev_ns: Option<f64> => statistics,
        /// Largest time in nanoseconds between packets of this direction.
        inter_arrival_max_rev_ns: Option<u64> => statistics,
        /// Population standard deviation in nanoseconds of the times between packets of this direction.
        inter_arrival_stddev_rev_ns: Option<f64> => statistics,

        /// Smallest IPv4 TTL or IPv6 hop limit.
        ttl_min_fwd: Option<u8>,
        /// Largest IPv4 TTL or IPv6 hop limit.
        ttl_max_fwd: Option<u8>,
        /// Smallest IPv4 TTL or IPv6 hop limit.
        ttl_min_rev: Option<u8>,
        /// Largest IPv4 TTL or IPv6 hop limit.
        ttl_max_rev: Option<u8>,
        /// Union of the TCP flags (RFC 9293 §3.1): FIN 0x01, SYN 0x02, RST 0x04, PSH 0x08, ACK 0x10, URG 0x20, ECE 0x40, CWR 0x80, AE 0x100. 0 where no packet went this way; null where not TCP.
        tcp_flags_fwd: Option<u16>,
        /// Union of the TCP flags of this direction.
        tcp_flags_rev: Option<u16>,
        /// Nanoseconds from the first SYN to the first SYN-ACK (RFC 9293 §3.5): round trip between the capture point and the responder. Null where the flow does not begin with its SYN; the same in all records of a flow.
        tcp_handshake_rtt_server_ns: Option<u64>,
        /// Nanoseconds from the first SYN-ACK to the initiator's next ACK (RFC 9293 §3.5): round trip between the capture point and the initiator. Null where the flow does not begin with its SYN; the same in all records of a flow.
        tcp_handshake_rtt_client_ns: Option<u64>,
        /// Segments of this record with payload, SYN or FIN that lie wholly below the highest sequence number seen before in this direction of the flow (retransmissions, RFC 9293 §3.8.1, and segments that were overtaken). Keep-alives of one byte and RST do not count.
        tcp_retransmissions_fwd: Option<u32>,
        /// Segments that lie wholly below the highest sequence number seen before in this direction.
        tcp_retransmissions_rev: Option<u32>,
        /// Segments of this record with payload, SYN or FIN that start above the next expected sequence number (RFC 9293 §3.10.7.4): something before them is late or lost.
        tcp_out_of_order_fwd: Option<u32>,
        /// Segments that start above the next expected sequence number.
        tcp_out_of_order_rev: Option<u32>,
        /// Window field (RFC 9293 §3.1) of the flow's first segment of this direction that is no RST, not scaled; the same in all records of a flow.
        tcp_initial_window_fwd: Option<u16>,
        /// Window field of the flow's first segment of this direction that is no RST, not scaled; the same in all records of a flow.
        tcp_initial_window_rev: Option<u16>,
        /// Maximum segment size option (RFC 9293 §3.7.1) in bytes of the last SYN of this direction that has one; the same in all records of a flow.
        tcp_mss_fwd: Option<u16>,
        /// Maximum segment size option in bytes of the last SYN or SYN-ACK of this direction that has one.
        tcp_mss_rev: Option<u16>,
        /// Whether both sides sent a SYN without ACK (simultaneous open, RFC 9293 §3.5 figure 7), if the flow begins with one; the same in all later records of a flow.
        tcp_simultaneous_open: Option<bool> => tcp,
        /// Whether the flow began with the SYN or SYN-ACK of a new connection on ports whose connection before was still remembered (RFC 9293 §3.10.7.4): at most 5 s after its end, or open but with a FIN, or silent for more than 5 s. Null where not TCP.
        tcp_ports_reused: Option<bool> => tcp,
        /// Duplicate ACKs (RFC 5681 §2): segments with ACK, without payload, SYN, FIN and RST, that repeat acknowledgement number and window of this direction's segment before while data of the other is not acknowledged; that is taken to be so where the other direction is not seen. Keep-alives do not count.
        tcp_duplicate_acks_fwd: Option<u32> => tcp,
        /// Duplicate ACKs (RFC 5681 §2) of this direction.
        tcp_duplicate_acks_rev: Option<u32> => tcp,
        /// Partial ACKs (RFC 6582 §3.2): after a retransmission of the other direction, segments that acknowledge more than before, but not everything that it had sent by then.
        tcp_partial_acks_fwd: Option<u32> => tcp,
        /// Partial ACKs (RFC 6582 §3.2) of this direction.
        tcp_partial_acks_rev: Option<u32> => tcp,
        /// Segments that announce a receive window of 0 (RFC 9293 §3.8.6), without SYN, FIN and RST.
        tcp_zero_windows_fwd: Option<u32> => tcp,
        /// Segments of this direction that announce a receive window of 0.
        tcp_zero_windows_rev: Option<u32> => tcp,
        /// Zero-window probes (RFC 9293 §3.8.6.1): segments of one byte at the next expected sequence number while the other side's window is 0.
        tcp_window_probes_fwd: Option<u32> => tcp,
        /// Zero-window probes of this direction.
        tcp_window_probes_rev: Option<u32> => tcp,
        /// Keep-alives (RFC 9293 §3.8.4): segments of at most one byte that begin one below the next expected sequence number, without SYN, FIN and RST. Zero-window probes of systems that send them so count here too.
        tcp_keep_alives_fwd: Option<u32> => tcp,
        /// Keep-alives of this direction.
        tcp_keep_alives_rev: Option<u32> => tcp,
        /// Estimate of the bytes that this direction sent and the capture missed: sequence numbers that were never seen though the other side acknowledged them (nobody acknowledges what was not sent, RFC 9293 §3.10.7.4), less what came later; where the other side acknowledges nothing, those that were passed over and did not come. Counted from the first segment or acknowledgement that was seen; at most four gaps at a time are remembered.
        tcp_missed_bytes_fwd: Option<u64> => tcp,
        /// Estimate of the bytes that this direction sent and the capture missed.
        tcp_missed_bytes_rev: Option<u64> => tcp,

        /// IP total lengths in bytes of the first 20 packets (sequence of packet lengths and times).
        splt_lengths: Option<Vec<u32>> => splt,
        /// Directions of the first 20 packets: 1 forward, -1 reverse.
        splt_directions: Option<Vec<i8>> => splt,
        /// Nanoseconds from the latest packet so far, of the first 20 packets; 0 for the first and where the timestamp is earlier.
        splt_times_ns: Option<Vec<u64>> => splt,

        /// What was seen on layer 7: a neutral lower-case protocol name; else what the IP protocol or the ports stand for; else null.
        app: Option<&'static str>,
        /// How `app` was told: `payload` (also by the IP protocol), `handshake` (one that more than one protocol begins with), `port` (the responder's; where the direction was guessed, either) or `unknown`.
        app_confidence: AppConfidence,
        /// Group of the application: `web`, `network`, `remote_access`, `mail`, `file_transfer`, `database`, ….
        category: Option<&'static str>,
        /// The server's name: SNI, HTTP host or DNS query name; else the latest name for which a DNS answer gave the initiator `dst_ip` before this record began (`app_confidence` is then not affected).
        server_name: Option<String> => layer7,
        /// Work that was left out for packets of this record because of pressure, not because of the profile: `statistics`, `layer7` or `statistics,layer7`; null where none was.
        shed: Option<&'static str>,
    }
}
