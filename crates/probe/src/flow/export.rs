//! From a flow's state to its record.

use wire::column::{Address, Time};
use wire::flowkey::{Direction, FlowKey};
use wire::l7::{Confidence, Protocol, Session};

use super::application::{self, AppConfidence};
use super::path::Path;
use super::profile::Work;
use super::splt::Splt;
use super::state::{Basis, Cold, Handshake, Hot, Side};
use super::statistics::Summary;
use super::tcp_analysis::Counts;
use super::{EndReason, FlowRecord, community_id};

const TCP: u8 = 6;

/// The initiator's endpoint and the responder's.
pub fn endpoints(key: &FlowKey, initiator_high: bool) -> ((Address, u16), (Address, u16)) {
    let low = (key.low_address, key.low_port);
    let high = (key.high_address, key.high_port);
    if initiator_high { (high, low) } else { (low, high) }
}

/// The identifier of the flow of `key` whose first packet has timestamp `time` and is frame number `frame`: the first
/// 8 bytes, as a big-endian number, of SHA-256 over low address, high address (16 bytes each), low port, high port, IP
/// protocol, IP version, scope (4 bytes), timestamp and frame number (8 bytes each), all big-endian.
pub fn flow_id(key: &FlowKey, time: i64, frame: u64) -> u64 {
    let mut message = [0; 58];
    let parts: [&[u8]; 9] = [
        &key.low_address.0,
        &key.high_address.0,
        &key.low_port.to_be_bytes(),
        &key.high_port.to_be_bytes(),
        &[key.ip_protocol],
        &[key.ip_version],
        &key.scope.to_be_bytes(),
        &time.to_be_bytes(),
        &frame.to_be_bytes(),
    ];
    let mut rest = &mut message[..];
    for part in parts {
        let (head, tail) = rest.split_at_mut(part.len());
        head.copy_from_slice(part);
        rest = tail;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &message);
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// What the record is made of, beside hot and cold state.
pub struct Parts<'a> {
    /// MAC addresses, VLANs and tunnels.
    pub path: Option<&'a Path>,
    /// The first packets; `None` below two packets.
    pub splt: Option<Splt>,
    /// What the analysis of TCP counted, forward and reverse.
    pub analysis: Option<[Counts; 2]>,
    /// The layer-7 session.
    pub session: Option<&'a Session>,
    /// What layer 7 said of the protocol, now or earlier.
    pub protocol: Option<(Protocol, Confidence)>,
}

/// Fills in the record of a flow, which is a default one.
pub fn fill(record: &mut FlowRecord, hot: &Hot, cold: &Cold, reason: EndReason, parts: Parts<'_>) {
    let ((src_ip, src_port), (dst_ip, dst_port)) = endpoints(&hot.key, hot.is(Hot::INITIATOR_HIGH));
    record.flow_id = cold.flow_id;
    record.start_time = Time(hot.first());
    record.end_time = Time(hot.latest());
    record.ip_version = hot.key.ip_version;
    record.ip_protocol = hot.key.ip_protocol;
    record.src_ip = src_ip;
    record.src_port = src_port;
    record.dst_ip = dst_ip;
    record.dst_port = dst_port;
    record.direction_basis = hot.basis;
    record.end_reason = reason;
    record.interim_number = cold.interim_number;
    record.key_ambiguous = hot.is(Hot::AMBIGUOUS);
    record.fragments = u64::from(cold.fragments);
    record.checksum_errors = u64::from(cold.checksum_errors);
    record.server_name = parts.session.and_then(Session::server_name).map(String::from);
    record.community_id = community_id::community_id(&community_id::Flow {
        ip_protocol: record.ip_protocol,
        ipv4: record.ip_version == 4,
        // An ICMP flow's type and code are those that the initiator sent.
        source: (src_ip, src_port),
        destination: (dst_ip, dst_port),
        icmp: cold.icmp,
    });
    if let Some(path) = parts.path {
        // A flow that begins with a SYN-ACK is one whose first packet the responder sent.
        let (src_mac, dst_mac) = if hot.basis == Basis::SynAck {
            (path.dst_mac, path.src_mac)
        } else {
            (path.src_mac, path.dst_mac)
        };
        record.src_mac = src_mac;
        record.dst_mac = dst_mac;
        record.vlan_ids = path.scope.vlan_ids();
        record.tunnels = path.scope.tunnels();
        record.tunnel_id = path.tunnel_id;
    }
    counters(hot, record);
    if !hot.left_out.has(Work::STATISTICS) {
        statistics(hot, record);
    }
    if hot.key.ip_protocol == TCP {
        tcp(hot, cold, record);
        if !hot.left_out.has(Work::TCP) {
            // A flow of fragments without a TCP header has nothing to count.
            analysis(&parts.analysis.unwrap_or_default(), record);
            record.tcp_simultaneous_open = Some(hot.is(Hot::SIMULTANEOUS_OPEN));
            record.tcp_ports_reused = Some(hot.is(Hot::PORTS_REUSED));
        }
    }
    if !hot.left_out.has(Work::SPLT) {
        splt(hot, parts.splt, record);
    }
    record.shed = hot.left_out.shed();
    app(parts.protocol, record);
}

fn counters(hot: &Hot, record: &mut FlowRecord) {
    let (forward, reverse) = (hot.side(Direction::Forward), hot.side(Direction::Reverse));
    record.packets_fwd = forward.packets;
    record.packets_rev = reverse.packets;
    record.bytes_fwd = forward.bytes;
    record.bytes_rev = reverse.bytes;
    record.wire_bytes_fwd = forward.wire_bytes;
    record.wire_bytes_rev = reverse.wire_bytes;
    record.payload_bytes_fwd = forward.payload_bytes;
    record.payload_bytes_rev = reverse.payload_bytes;
    if forward.packets > 0 {
        record.ttl_min_fwd = Some(forward.ttl_min);
        record.ttl_max_fwd = Some(forward.ttl_max);
    }
    if reverse.packets > 0 {
        record.ttl_min_rev = Some(reverse.ttl_min);
        record.ttl_max_rev = Some(reverse.ttl_max);
    }
}

/// Sets the four columns of a summary.
macro_rules! summary {
    ($record:ident, $summary:expr, $min:ident, $mean:ident, $max:ident, $stddev:ident as $type:ty) => {
        if let Some(Summary {
            min,
            mean,
            max,
            stddev,
        }) = $summary
        {
            $record.$min = Some(min as $type);
            $record.$mean = Some(mean);
            $record.$max = Some(max as $type);
            $record.$stddev = stddev;
        }
    };
}

fn statistics(hot: &Hot, record: &mut FlowRecord) {
    let (forward, reverse) = (hot.side(Direction::Forward), hot.side(Direction::Reverse));
    summary!(
        record,
        hot.lengths(),
        packet_length_min,
        packet_length_mean,
        packet_length_max,
        packet_length_stddev as u32
    );
    summary!(
        record,
        forward.lengths(),
        packet_length_min_fwd,
        packet_length_mean_fwd,
        packet_length_max_fwd,
        packet_length_stddev_fwd as u32
    );
    summary!(
        record,
        reverse.lengths(),
        packet_length_min_rev,
        packet_length_mean_rev,
        packet_length_max_rev,
        packet_length_stddev_rev as u32
    );
    summary!(
        record,
        hot.intervals(),
        inter_arrival_min_ns,
        inter_arrival_mean_ns,
        inter_arrival_max_ns,
        inter_arrival_stddev_ns as u64
    );
    summary!(
        record,
        forward.intervals(),
        inter_arrival_min_fwd_ns,
        inter_arrival_mean_fwd_ns,
        inter_arrival_max_fwd_ns,
        inter_arrival_stddev_fwd_ns as u64
    );
    summary!(
        record,
        reverse.intervals(),
        inter_arrival_min_rev_ns,
        inter_arrival_mean_rev_ns,
        inter_arrival_max_rev_ns,
        inter_arrival_stddev_rev_ns as u64
    );
}

fn tcp(hot: &Hot, cold: &Cold, record: &mut FlowRecord) {
    let (forward, reverse) = (hot.side(Direction::Forward), hot.side(Direction::Reverse));
    record.tcp_flags_fwd = Some(forward.flags());
    record.tcp_flags_rev = Some(reverse.flags());
    record.tcp_retransmissions_fwd = Some(forward.retransmissions);
    record.tcp_retransmissions_rev = Some(reverse.retransmissions);
    record.tcp_out_of_order_fwd = Some(forward.out_of_order);
    record.tcp_out_of_order_rev = Some(reverse.out_of_order);
    let [window_fwd, window_rev] = cold.initial_windows;
    record.tcp_initial_window_fwd = forward.is(Side::BEGUN).then_some(window_fwd);
    record.tcp_initial_window_rev = reverse.is(Side::BEGUN).then_some(window_rev);
    let [mss_fwd, mss_rev] = cold.maximum_segment_sizes;
    record.tcp_mss_fwd = (mss_fwd > 0).then_some(mss_fwd);
    record.tcp_mss_rev = (mss_rev > 0).then_some(mss_rev);
    if matches!(cold.handshake, Handshake::SynAck | Handshake::Complete) {
        record.tcp_handshake_rtt_server_ns = Some(cold.server_rtt);
    }
    if cold.handshake == Handshake::Complete {
        record.tcp_handshake_rtt_client_ns = Some(cold.handshake_time.unsigned_abs());
    }
}

fn analysis([forward, reverse]: &[Counts; 2], record: &mut FlowRecord) {
    record.tcp_duplicate_acks_fwd = Some(forward.duplicate_acks);
    record.tcp_duplicate_acks_rev = Some(reverse.duplicate_acks);
    record.tcp_partial_acks_fwd = Some(forward.partial_acks);
    record.tcp_partial_acks_rev = Some(reverse.partial_acks);
    record.tcp_zero_windows_fwd = Some(forward.zero_windows);
    record.tcp_zero_windows_rev = Some(reverse.zero_windows);
    record.tcp_window_probes_fwd = Some(forward.window_probes);
    record.tcp_window_probes_rev = Some(reverse.window_probes);
    record.tcp_keep_alives_fwd = Some(forward.keep_alives);
    record.tcp_keep_alives_rev = Some(reverse.keep_alives);
    record.tcp_missed_bytes_fwd = Some(forward.missed_bytes);
    record.tcp_missed_bytes_rev = Some(reverse.missed_bytes);
}

fn splt(hot: &Hot, splt: Option<Splt>, record: &mut FlowRecord) {
    if let Some(splt) = splt {
        record.splt_lengths = Some(splt.lengths);
        record.splt_directions = Some(splt.directions);
        record.splt_times_ns = Some(splt.intervals);
    } else if hot.packets() == 1 {
        let first = hot.first_direction();
        record.splt_lengths = Some(vec![hot.side(first).bytes as u32]);
        record.splt_directions = Some(vec![if first == Direction::Reverse { -1 } else { 1 }]);
        record.splt_times_ns = Some(vec![0]);
    }
}

/// `app`, `app_confidence` and `category` (design D12).
fn app(protocol: Option<(Protocol, Confidence)>, record: &mut FlowRecord) {
    if let Some((protocol, confidence)) = protocol {
        record.app = Some(protocol.name());
        record.category = Some(protocol.category());
        record.app_confidence = match confidence {
            Confidence::Payload => AppConfidence::Payload,
            Confidence::Handshake => AppConfidence::Handshake,
        };
        return;
    }
    let by_ip = application::of_ip_protocol(record.ip_protocol);
    // Where a SYN tells who serves, the other port is any that was free.
    let is_guessed = record.direction_basis == Basis::FirstPacket;
    let by_port = application::of_ports(
        record.ip_protocol,
        record.dst_port,
        is_guessed.then_some(record.src_port),
    );
    record.app_confidence = match (by_ip, by_port) {
        (Some(_), _) => AppConfidence::Payload,
        (None, Some(_)) => AppConfidence::Port,
        (None, None) => AppConfidence::Unknown,
    };
    if let Some(application) = by_ip.or(by_port) {
        record.app = Some(application.name);
        record.category = Some(application.category);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_id_is_as_documented() {
        // python3: int.from_bytes(sha256(v4mapped(10.0.0.1) + v4mapped(10.0.0.2) + pack(">HHBBIqQ", 1, 2, 17, 4, 0, -1, 7)).digest()[:8])
        let low = (Address::v4([10, 0, 0, 1]), 1);
        let high = (Address::v4([10, 0, 0, 2]), 2);
        let (key, _) = FlowKey::new(4, 17, low, high);
        assert_eq!(flow_id(&key, -1, 7), 0x0424_b6ab_cea8_2ace);
        assert_eq!(endpoints(&key, true), (high, low));
    }
}
