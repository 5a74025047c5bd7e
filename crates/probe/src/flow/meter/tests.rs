//! Packets made by hand, and what the meter makes of them.

use wire::column::{Address, Mac};
use wire::decode::{Fragment, Packet, Tcp, Transport, Tunnel};
use wire::flowkey::{FlowKey, KeyHasher};
use wire::malformed::Fault;

use super::*;
use crate::counters::{Counters, check_books};
use crate::crypto;
use crate::flow::application::AppConfidence;
use crate::flow::disregard::Disregard;
use crate::flow::flow_record::FlowRecord;
use crate::flow::state::{self, Basis};
use crate::flow::tcp::{ACK, FIN, RST, SYN};

/// A packet that owns what it needs. The initiator is 10.0.0.1, the responder 10.0.0.2.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub source: (Address, u16),
    pub destination: (Address, u16),
    pub ip_protocol: u8,
    pub transport: Transport,
    pub payload: Vec<u8>,
    pub length: Option<u32>,
    pub fragment: Option<Fragment>,
    pub faults: u8,
    pub vlan: Option<u16>,
    pub tunnel: Option<Tunnel>,
}

pub(crate) const A: Address = Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
pub(crate) const B: Address = Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);

impl Frame {
    pub fn new(ip_protocol: u8, transport: Transport, source_port: u16, destination_port: u16) -> Self {
        Self {
            source: (A, source_port),
            destination: (B, destination_port),
            ip_protocol,
            transport,
            payload: Vec::new(),
            length: None,
            fragment: None,
            faults: 0,
            vlan: None,
            tunnel: None,
        }
    }

    pub fn udp(source_port: u16, destination_port: u16) -> Self {
        Self::new(17, Transport::Udp, source_port, destination_port)
    }

    /// Port 1000 to port 2000.
    pub fn tcp(flags: u16, sequence: u32, acknowledgement: u32) -> Self {
        let header = Tcp {
            sequence,
            acknowledgement,
            flags,
            window: 512,
            ..Tcp::default()
        };
        Self::new(6, Transport::Tcp(header), 1000, 2000)
    }

    /// From the responder to the initiator.
    pub fn back(mut self) -> Self {
        std::mem::swap(&mut self.source, &mut self.destination);
        self
    }

    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    pub fn ip_length(&self) -> u32 {
        let header = if self.ip_protocol == 6 { 40 } else { 28 };
        header + self.length.unwrap_or(self.payload.len() as u32)
    }

    /// For packets that must not borrow from a local.
    pub fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    pub fn packet(&self) -> Packet<'_> {
        let (key, from_high) = FlowKey::new(4, self.ip_protocol, self.source, self.destination);
        Packet {
            hash: hash(&key),
            steering: 0,
            key,
            from_high,
            src_mac: Some(Mac([2, 0, 0, 0, 0, self.source.0.0[15]])),
            dst_mac: Some(Mac([2, 0, 0, 0, 0, self.destination.0.0[15]])),
            vlans: [self.vlan.unwrap_or(0), 0, 0, 0],
            vlan_count: u8::from(self.vlan.is_some()),
            tunnels: [self.tunnel, None, None, None],
            tunnel_id: None,
            ttl: 64,
            ip_length: self.ip_length(),
            fragment: self.fragment,
            transport: self.transport,
            payload: &self.payload,
            payload_length: self.length.unwrap_or(self.payload.len() as u32),
            faults: self.faults,
        }
    }
}

/// Any hash will do; a poor one puts the index to the test.
pub(crate) fn hash(key: &FlowKey) -> u64 {
    u64::from(key.low_port ^ key.high_port) % 61
}

pub(crate) const SECOND: i64 = 1_000_000_000;

pub(crate) static CRYPTO: crypto::Crypto = crypto::Crypto;

/// A meter that numbers frames and keeps what comes out.
pub(crate) struct Bench {
    pub meter: Meter,
    pub events: Vec<Event>,
    pub clock: i64,
    pub frames: u64,
}

impl Bench {
    pub fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            flows: 1024,
            sessions: 64,
            ..Settings::for_memory(1 << 20)
        };
        change(&mut settings);
        Self {
            meter: Meter::new(&settings, &CRYPTO),
            events: Vec::new(),
            clock: i64::MIN,
            frames: 0,
        }
    }

    /// Meters a frame with the given timestamp.
    pub fn at(&mut self, time: i64, frame: &Frame) {
        self.frames += 1;
        self.clock = self.clock.max(time);
        self.meter.tally_mut().frames_delivered += 1;
        let wire_length = frame.ip_length() + 14;
        let seen = Seen {
            time,
            clock: self.clock,
            frame: self.frames,
            wire_length,
        };
        self.meter
            .packet(&frame.packet(), seen, &mut |event| self.events.push(event));
        self.balance();
    }

    pub fn flush(&mut self) {
        self.meter.flush(self.clock, &mut |event| self.events.push(event));
        self.balance();
        assert_eq!(self.meter.flows(), 0);
        assert_eq!(self.meter.tally().flows_active, 0);
        assert_eq!(self.meter.tally().frames_waiting, 0);
        assert!(self.meter.desk.sequences.is_empty());
        assert_eq!(self.meter.tally().sessions_active, 0);
        assert_eq!(self.meter.tally().stream_bytes_buffered, 0);
        assert!(self.events.is_sorted_by_key(Event::order));
    }

    fn balance(&self) {
        let counters = Counters::new(1);
        counters.worker(0).unwrap().publish(self.meter.tally());
        assert_eq!(check_books(&counters.ledger_entries()), Ok(()));
    }

    pub fn flows(&self) -> Vec<&EndedFlow> {
        self.events
            .iter()
            .filter_map(|event| {
                if let Event::Flow(flow) = event {
                    Some(&**flow)
                } else {
                    None
                }
            })
            .collect()
    }

    pub fn records(&self) -> Vec<&FlowRecord> {
        self.flows().into_iter().map(|flow| &flow.record).collect()
    }

    /// End reasons with packets, in export order.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        self.records()
            .iter()
            .map(|record| (record.end_reason.name(), record.packets_fwd + record.packets_rev))
            .collect()
    }

    pub fn export_times(&self) -> Vec<i64> {
        self.flows().iter().map(|flow| flow.export_time).collect()
    }
}

/// SYN, SYN-ACK, ACK.
fn handshake(bench: &mut Bench, start: i64) {
    bench.at(start, &Frame::tcp(SYN, 100, 0));
    bench.at(start + 30, &Frame::tcp(SYN | ACK, 500, 101).back());
    bench.at(start + 50, &Frame::tcp(ACK, 101, 501));
}

#[test]
fn idle_flows_end_exactly() {
    let mut bench = Bench::new(|_| {});
    bench.at(0, &Frame::udp(1, 2));
    bench.at(10, &Frame::udp(1, 2).back());
    bench.at(10 + 300 * SECOND, &Frame::udp(1, 2)); // at the timeout, not beyond it
    bench.at(11 + 600 * SECOND, &Frame::udp(1, 2));
    bench.flush();
    assert_eq!(bench.ends(), [("idle_timeout", 3), ("forced_end", 1)]);
    assert_eq!(bench.export_times(), [10 + 600 * SECOND, 11 + 600 * SECOND]);
    let record = bench.records()[0];
    assert_eq!((record.packets_fwd, record.packets_rev), (2, 1));
    assert_eq!((record.start_time.0, record.end_time.0), (0, 10 + 300 * SECOND));
    assert_ne!(record.flow_id, bench.records()[1].flow_id);
}

#[test]
fn other_flows_let_time_pass() {
    let mut bench = Bench::new(|_| {});
    bench.at(0, &Frame::udp(1, 2));
    bench.at(301 * SECOND, &Frame::udp(3, 4));
    assert_eq!(bench.ends(), [("idle_timeout", 1)]);
    assert_eq!(bench.export_times(), [300 * SECOND]);
}

#[test]
fn long_flows_are_cut() {
    let mut bench = Bench::new(|_| {});
    for packet in 0..40 {
        bench.at(packet * 100 * SECOND, &Frame::udp(1, 2).payload(b"x"));
    }
    bench.flush();
    assert_eq!(
        bench.ends(),
        [("active_timeout", 19), ("active_timeout", 19), ("forced_end", 2)]
    );
    assert_eq!(
        bench.export_times(),
        [1800 * SECOND, 3700 * SECOND, 3900 * SECOND]
    );
    let records = bench.records();
    assert!(records.iter().all(|record| record.flow_id == records[0].flow_id));
    let numbers: Vec<_> = records.iter().map(|record| record.interim_number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(records[1].start_time.0, 1900 * SECOND);
    assert_eq!(records[1].inter_arrival_max_ns, Some(100 * SECOND as u64));
}

#[test]
fn a_flow_that_goes_silent_after_a_cut_leaves_no_empty_record() {
    let mut bench = Bench::new(|settings| settings.active_timeout_ns = settings.idle_timeout_ns);
    bench.at(0, &Frame::udp(1, 2));
    bench.at(200 * SECOND, &Frame::udp(1, 2));
    bench.at(900 * SECOND, &Frame::udp(3, 4));
    assert_eq!(bench.ends(), [("active_timeout", 2)]);
    bench.at(900 * SECOND, &Frame::udp(1, 2));
    bench.flush();
    assert_eq!(
        bench
            .records()
            .iter()
            .filter(|record| record.interim_number == 0)
            .count(),
        3
    );
}

#[test]
fn late_timestamps_are_tolerated() {
    let mut bench = Bench::new(|_| {});
    bench.at(1000 * SECOND, &Frame::udp(1, 2));
    bench.at(999 * SECOND, &Frame::udp(1, 2).back());
    bench.at(100 * SECOND, &Frame::udp(5, 6)); // far behind
    bench.at(1001 * SECOND, &Frame::udp(1, 2));
    bench.at(1002 * SECOND, &Frame::udp(5, 6));
    bench.flush();
    assert_eq!(
        bench.ends(),
        [("idle_timeout", 1), ("forced_end", 3), ("forced_end", 1)]
    );
    let flow = bench
        .records()
        .into_iter()
        .find(|record| record.dst_port == 2)
        .unwrap();
    assert_eq!(
        (flow.start_time.0, flow.end_time.0),
        (1000 * SECOND, 1001 * SECOND)
    );
    assert_eq!(
        (flow.inter_arrival_min_ns, flow.inter_arrival_max_ns),
        (Some(0), Some(SECOND as u64))
    );
    assert_eq!(flow.splt_times_ns, Some(vec![0, 0, SECOND as u64]));
}

/// Two sources merged whose clocks differ: the packets of one lie further behind than any timeout.
#[test]
fn a_source_far_behind_the_clock_is_cut_by_its_own_time() {
    let hour = 3600 * SECOND;
    let mut bench = Bench::new(|_| {});
    for packet in 0..50 {
        let time = packet * 100 * SECOND;
        bench.at(hour + time, &Frame::udp(1, 2));
        bench.at(time, &Frame::udp(5, 6));
        bench.at(time + SECOND, &Frame::udp(5, 6).back());
    }
    bench.flush();
    let parts_of = |port| {
        let records = bench.records().into_iter();
        records
            .filter(move |record| record.dst_port == port)
            .map(|record| (record.start_time.0, record.packets_fwd, record.packets_rev))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        parts_of(6),
        [(0, 19, 18), (1801 * SECOND, 18, 19), (3700 * SECOND, 13, 13)]
    );
    assert_eq!(
        parts_of(2),
        [
            (hour, 19, 0),
            (hour + 1900 * SECOND, 19, 0),
            (hour + 3800 * SECOND, 12, 0)
        ]
    );
    let reasons: Vec<_> = bench.ends().into_iter().map(|(reason, _)| reason).collect();
    let cut = "active_timeout";
    assert_eq!(reasons, [cut, cut, cut, cut, "forced_end", "forced_end"]);
}

/// The clock was ahead of the flow when its first part began, and is not when its second does.
#[test]
fn a_part_is_due_earlier_than_the_part_before_it_was() {
    let mut bench = Bench::new(|settings| {
        settings.idle_timeout_ns = 20 * SECOND;
        settings.active_timeout_ns = 30 * SECOND;
    });
    bench.at(40 * SECOND, &Frame::udp(1, 2));
    for time in [-10, 5] {
        bench.at(time * SECOND, &Frame::udp(5, 6)); // idle at 60 s
    }
    for time in [21, 35, 45] {
        bench.at(time * SECOND, &Frame::udp(5, 6)); // another part, cut at 51 s
    }
    bench.at(52 * SECOND, &Frame::udp(1, 2));
    let cuts: Vec<_> = bench
        .flows()
        .iter()
        .map(|flow| (flow.export_time / SECOND, flow.record.packets_fwd))
        .collect();
    assert_eq!(cuts, [(40, 2), (51, 3)]);
    bench.flush();
}

#[test]
fn a_clock_that_stands_still_does_not_merge_flows() {
    let mut bench = Bench::new(|_| {});
    bench.at(i64::MAX, &Frame::udp(9, 9)); // one absurd timestamp
    for packet in 0..3 {
        bench.at(packet * 1000 * SECOND, &Frame::udp(1, 2));
    }
    bench.flush();
    let ends = bench.ends();
    assert_eq!(
        ends.iter()
            .filter(|(reason, _)| *reason == "idle_timeout")
            .count(),
        2
    );
}

#[test]
fn handshake_statistics_and_close() {
    let mut bench = Bench::new(|_| {});
    let mut syn = Frame::tcp(SYN, 100, 0);
    if let Transport::Tcp(header) = &mut syn.transport {
        header.maximum_segment_size = Some(1460);
        header.window = 64;
    }
    bench.at(0, &syn);
    bench.at(30, &Frame::tcp(SYN | ACK, 500, 101).back());
    bench.at(50, &Frame::tcp(ACK, 101, 501));
    bench.at(60, &Frame::tcp(ACK, 101, 501).payload(b"hello"));
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(b"hel")); // below the highest: retransmitted
    bench.at(80, &Frame::tcp(ACK, 110, 501).payload(b"x")); // above the next: something is missing
    bench.at(90, &Frame::tcp(FIN | ACK, 111, 501));
    bench.at(100, &Frame::tcp(FIN | ACK, 501, 112).back());
    assert!(bench.flows().is_empty());
    bench.at(110, &Frame::tcp(ACK, 112, 502));
    assert_eq!(bench.ends(), [("end_of_flow", 9)]);
    let record = bench.records()[0].clone();
    assert_eq!(bench.export_times(), [110]);
    assert_eq!(record.direction_basis, Basis::Syn);
    assert_eq!((record.src_port, record.dst_port), (1000, 2000));
    assert_eq!(
        (
            record.tcp_handshake_rtt_server_ns,
            record.tcp_handshake_rtt_client_ns
        ),
        (Some(30), Some(20))
    );
    assert_eq!(
        (record.tcp_retransmissions_fwd, record.tcp_retransmissions_rev),
        (Some(1), Some(0))
    );
    assert_eq!(
        (record.tcp_out_of_order_fwd, record.tcp_out_of_order_rev),
        (Some(1), Some(0))
    );
    assert_eq!((record.tcp_mss_fwd, record.tcp_mss_rev), (Some(1460), None));
    assert_eq!(
        (record.tcp_initial_window_fwd, record.tcp_initial_window_rev),
        (Some(64), Some(512))
    );
    assert_eq!(
        (record.tcp_flags_fwd, record.tcp_flags_rev),
        (Some(0x13), Some(0x13))
    );
    assert_eq!(
        (record.payload_bytes_fwd, record.bytes_fwd, record.wire_bytes_fwd),
        (9, 289, 387)
    );
    assert_eq!(
        (record.packet_length_min, record.packet_length_max),
        (Some(40), Some(45))
    );
    assert_eq!(
        record.splt_directions.as_deref().map(|all| &all[..3]),
        Some(&[1, -1, 1][..])
    );
    assert_eq!(record.src_mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!((record.ttl_min_fwd, record.ttl_max_rev), (Some(64), Some(64)));

    bench.at(200, &Frame::tcp(ACK, 112, 502));
    bench.at(300 + 5 * SECOND, &Frame::udp(1, 2));
    assert_eq!(bench.ends()[1], ("straggler", 1));
    assert_eq!(bench.export_times()[1], 110 + 5 * SECOND);
    assert_eq!(bench.records()[1].flow_id, record.flow_id);
    bench.flush();
}

#[test]
fn a_syn_ack_first_tells_the_initiator() {
    let mut bench = Bench::new(|_| {});
    bench.at(0, &Frame::tcp(SYN | ACK, 500, 101).back());
    bench.at(5, &Frame::tcp(ACK, 101, 501));
    bench.flush();
    let record = bench.records()[0];
    assert_eq!(
        (record.direction_basis, record.src_port, record.packets_rev),
        (Basis::SynAck, 1000, 1)
    );
    assert_eq!(
        record.src_mac,
        Some(Mac([2, 0, 0, 0, 0, 1])),
        "the initiator's, though it did not send first"
    );
    assert_eq!(record.tcp_handshake_rtt_server_ns, None);
}

#[test]
fn both_fins_without_the_last_ack() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(100, &Frame::tcp(FIN | ACK, 101, 501));
    bench.at(200, &Frame::tcp(FIN | ACK, 501, 101).back());
    bench.at(300, &Frame::udp(1, 2));
    bench.at(SECOND * 6, &Frame::udp(1, 2));
    assert_eq!(bench.ends(), [("end_of_flow", 5)]);
    assert_eq!(bench.export_times(), [200 + 5 * SECOND]);
    bench.flush();
}

#[test]
fn a_reset_ends_at_once() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(100, &Frame::tcp(RST, 101, 0));
    assert_eq!(bench.ends(), [("reset", 4)]);
    bench.flush();
    assert_eq!(bench.ends().len(), 1, "a tombstone alone is no record");
}

#[test]
fn ports_are_used_again() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(100, &Frame::tcp(SYN, 100, 0)); // the same SYN once more
    bench.at(110, &Frame::tcp(SYN, 7777, 0)); // a stray one on a live connection
    bench.at(200, &Frame::tcp(FIN | ACK, 101, 501));
    bench.at(210, &Frame::tcp(SYN, 9000, 0)); // after a FIN
    assert_eq!(bench.ends(), [("end_of_flow", 6)]);
    bench.at(220, &Frame::tcp(RST, 9001, 0));
    bench.at(230, &Frame::tcp(ACK, 9001, 0));
    bench.at(240, &Frame::tcp(SYN | ACK, 1, 6001).back()); // on a tombstone, its SYN was not seen
    assert_eq!(bench.ends()[1..], [("reset", 2), ("straggler", 1)]);
    bench.at(250, &Frame::tcp(ACK, 6001, 2));
    bench.at(250 + 6 * SECOND, &Frame::tcp(SYN, 8000, 0)); // silent for more than the linger time
    bench.flush();
    assert_eq!(bench.ends()[3..], [("end_of_flow", 2), ("forced_end", 1)]);
    let ids: std::collections::HashSet<_> = bench.records().iter().map(|record| record.flow_id).collect();
    assert_eq!(ids.len(), 4, "the straggler is of the flow that was reset");
}

#[test]
fn a_syn_after_a_reset_is_a_new_connection_whatever_its_number() {
    let mut bench = Bench::new(|_| {});
    for attempt in 0..3 {
        bench.at(attempt * 10, &Frame::tcp(SYN, 100, 0));
        bench.at(attempt * 10 + 1, &Frame::tcp(RST | ACK, 0, 101).back());
    }
    bench.at(50, &Frame::tcp(SYN | ACK, 500, 101).back()); // late, to a SYN that was refused
    bench.flush();
    let refused = ("reset", 2);
    assert_eq!(bench.ends(), [refused, refused, refused, ("straggler", 1)]);
    let ids: std::collections::HashSet<_> = bench.records().iter().map(|record| record.flow_id).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_syn_after_a_close_is_new_only_with_another_number() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(100, &Frame::tcp(FIN | ACK, 101, 501));
    bench.at(110, &Frame::tcp(FIN | ACK, 501, 102).back());
    bench.at(120, &Frame::tcp(ACK, 102, 502));
    bench.at(130, &Frame::tcp(SYN, 100, 0)); // delayed in the network
    bench.at(140, &Frame::tcp(SYN, 7000, 0));
    bench.flush();
    assert_eq!(
        bench.ends(),
        [("end_of_flow", 6), ("straggler", 1), ("forced_end", 1)]
    );
}

#[test]
fn a_full_table_evicts_the_silent() {
    let mut bench = Bench::new(|settings| settings.flows = 3);
    for port in 1..=3 {
        bench.at(i64::from(port), &Frame::udp(port, 99));
    }
    bench.at(10, &Frame::udp(1, 99));
    bench.at(20, &Frame::udp(4, 99));
    assert_eq!(bench.ends(), [("lack_of_resources", 1)]);
    assert_eq!((bench.records()[0].src_port, bench.export_times()[0]), (2, 20));
    bench.flush();
    assert_eq!(bench.flows().len(), 4);
}

#[test]
fn vlans_and_faults_are_noticed() {
    let mut bench = Bench::new(|_| {});
    bench.at(
        0,
        &Frame {
            vlan: Some(7),
            ..Frame::udp(1, 2)
        },
    );
    bench.at(
        1,
        &Frame {
            faults: Fault::BadIpChecksum.bit(),
            ..Frame::udp(1, 2)
        },
    );
    bench.flush();
    let record = bench.records()[0];
    assert_eq!(record.vlan_ids, Some(vec![7]));
    assert!(record.key_ambiguous);
    assert_eq!(record.checksum_errors, 1);
    assert_eq!(bench.meter.tally().packet_faults.get(Fault::BadIpChecksum), 1);
}

impl Frame {
    fn with_fault(self, fault: Fault) -> Self {
        Self {
            faults: fault.bit(),
            ..self
        }
    }
}

/// Of a source that tells what is left to hardware.
fn live() -> Bench {
    Bench::new(|settings| {
        settings.knows_offload = true;
        settings.profile = Profile::Full;
    })
}

/// Of a file.
fn offline() -> Bench {
    Bench::new(|_| {})
}

/// The `part`-th of two fragments of a datagram.
fn fragment(frame: &Frame, first: bool) -> Frame {
    let fragment = Some(Fragment {
        identification: 5,
        offset: if first { 0 } else { 16 },
        length: frame.payload.len() as u32 + if first { 8 } else { 0 },
        more: first,
    });
    let mut frame = Frame {
        fragment,
        ..frame.clone()
    };
    if !first {
        frame.source.1 = 0;
        frame.destination.1 = 0;
        frame.transport = Transport::Other;
    }
    frame
}

#[test]
fn sequences_find_room_or_are_counted() {
    let mut bench = Bench::new(|settings| settings.sequence_chunks = 1);
    for port in 1..=2 {
        for time in 0..3 {
            bench.at(time, &Frame::udp(port, 9));
        }
    }
    bench.flush();
    assert_eq!(bench.meter.tally().sequences_refused, 1);
    let lengths: Vec<_> = bench
        .records()
        .iter()
        .map(|record| record.splt_lengths.clone())
        .collect();
    assert!(
        lengths.contains(&Some(vec![28; 3])) && lengths.contains(&None),
        "{lengths:?}"
    );
    assert!(bench.records().iter().all(|record| record.shed.is_none()));
}

#[test]
fn memory_is_shared_as_it_is_needed() {
    let mut bench = Bench::new(|settings| settings.memory_bytes = 10 * state::FLOW_BYTES);
    for port in 0..30 {
        bench.at(i64::from(port), &Frame::udp(port, 9999));
        bench.meter.settle();
    }
    assert_eq!(bench.meter.flows(), 10, "no other has taken any of it");
    assert!(
        bench
            .ends()
            .iter()
            .all(|(reason, _)| *reason == "lack_of_resources")
    );
    bench.flush();
    assert_eq!(bench.flows().len(), 30);
}

#[test]
fn a_table_that_must_evict_is_nearly_full() {
    let most = 400;
    let mut bench = Bench::new(|settings| {
        settings.sessions = 4096;
        settings.memory_bytes = most * state::FLOW_BYTES;
    });
    for port in 0..1000 {
        // Not enough to tell the protocol by: layer 7 keeps its state.
        bench.at(i64::from(port), &Frame::udp(port, 9999).payload(b"hello"));
        bench.meter.settle();
        if !bench.events.is_empty() {
            break;
        }
    }
    assert_eq!(bench.ends(), [("lack_of_resources", 1)]);
    let (flows, places) = (bench.meter.flows(), bench.meter.places());
    assert!(
        places < most * 3 / 4,
        "layer 7 has taken part of the memory: {places}"
    );
    assert!(
        flows <= places && flows * 20 >= places * 19,
        "{flows} of {places}"
    );
    bench.flush();
}

#[test]
fn the_hash_of_keys_shows_in_no_event() {
    let events_with = |seed| {
        let hasher = KeyHasher::new(seed);
        let mut bench = Bench::new(|settings| settings.flows = 8);
        let mut events = Vec::new();
        for number in 0..300_u16 {
            let time = i64::from(number) * SECOND;
            let mut frame = match number % 3 {
                0 => Frame::udp(1, 2),
                1 => Frame::tcp([SYN, ACK, FIN | ACK, RST][usize::from(number / 3 % 4)], 1, 1),
                _ => fragment(&Frame::udp(1, 2), number % 2 == 0),
            };
            frame.source.1 += number * 7 % 20;
            let packet = frame.packet();
            let seen = Seen {
                time,
                clock: time,
                frame: u64::from(number),
                wire_length: 100,
            };
            let packet = Packet {
                hash: hasher.hash(&packet.key),
                ..packet
            };
            bench
                .meter
                .packet(&packet, seen, &mut |event| events.push(format!("{event:?}")));
        }
        bench
            .meter
            .flush(300 * SECOND, &mut |event| events.push(format!("{event:?}")));
        events
    };
    assert!(
        events_with(1)
            .iter()
            .any(|event| event.contains("LackOfResources"))
    );
    assert!(events_with(1) == events_with(2));
}

#[test]
fn the_port_of_a_client_that_sent_a_syn_names_nothing() {
    let mut bench = Bench::new(|_| {});
    let mut syn = Frame::tcp(SYN, 100, 0);
    syn.source.1 = 44818;
    bench.at(0, &syn);
    let mut midway = Frame::tcp(ACK, 100, 1);
    midway.source.1 = 47_001;
    midway.destination.1 = 44818;
    bench.at(1, &midway.back());
    bench.flush();
    let mut apps: Vec<_> = bench.records().iter().map(|record| record.app).collect();
    apps.sort_unstable();
    assert_eq!(apps, [None, Some("enip")]);
}

#[test]
fn a_syn_in_an_open_connection_moves_no_stream() {
    let mut bench = Bench::new(|_| {});
    handshake(&mut bench, 0);
    bench.at(60, &Frame::tcp(SYN, 7777, 0).payload(b"fake"));
    bench.at(70, &Frame::tcp(ACK, 101, 501).payload(b"real"));
    bench.flush();
    let record = bench.records()[0];
    assert_eq!(
        (record.tcp_out_of_order_fwd, record.tcp_retransmissions_fwd),
        (Some(1), Some(0)),
        "the SYN itself"
    );
}

#[test]
fn ip_protocols_are_applications() {
    let mut bench = Bench::new(|_| {});
    bench.at(0, &Frame::new(1, Transport::Icmp { kind: 8, code: 0 }, 0, 0));
    bench.at(
        1,
        &Frame::new(1, Transport::Icmp { kind: 0, code: 0 }, 0, 0).back(),
    );
    bench.at(2, &Frame::new(50, Transport::Other, 0, 0));
    bench.at(3, &Frame::new(200, Transport::Other, 0, 0));
    bench.flush();
    let mut apps: Vec<_> = bench
        .records()
        .iter()
        .map(|record| (record.app, record.app_confidence.name()))
        .collect();
    apps.sort_unstable();
    assert_eq!(
        apps,
        [
            (None, "unknown"),
            (Some("icmp"), "payload"),
            (Some("ipsec"), "payload")
        ]
    );
}

mod disregard;
mod fragments;
mod layer7;
mod model;
