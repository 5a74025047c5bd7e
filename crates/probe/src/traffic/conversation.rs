//! Conversations: the frames of one flow with their times, from the first packet to the last.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::application;
use super::frame::{Draft, Path, Segment, Server, flag};
use super::quic;
use super::random::Random;
use super::tls::{self, Ask};

/// What a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tls13,
    Tls12,
    Quic,
    Dns,
    Http,
    Ssh,
    /// RTP over UDP.
    Media,
    /// A TCP upload without a known protocol.
    Bulk,
    /// A SYN that nobody answers.
    Scan,
    /// A SYN that is answered with a reset.
    Refused,
    /// A TCP session of single keystrokes.
    Keystrokes,
    /// UDP datagrams of 18 bytes.
    Pulse,
}

impl Kind {
    /// Whether more bytes may be given to it.
    pub(super) fn takes_data(self) -> bool {
        !matches!(self, Self::Dns | Self::Scan | Self::Refused)
    }

    /// Whether the receiver acknowledges data.
    pub(super) fn is_tcp(self) -> bool {
        !matches!(self, Self::Quic | Self::Dns | Self::Media | Self::Pulse)
    }

    fn server_port(self, random: &mut Random) -> u16 {
        match self {
            Self::Tls13 | Self::Tls12 | Self::Quic => 443,
            Self::Dns => 53,
            Self::Http => 80,
            Self::Ssh => 22,
            Self::Media => *random.pick(&[5004, 16_384, 30_000]),
            Self::Bulk => 5001,
            Self::Scan | Self::Refused => *random.pick(&[22, 23, 80, 443, 445, 3389, 8080]),
            Self::Keystrokes => 2323,
            Self::Pulse => 7400,
        }
    }
}

/// How frames are sized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// Flows by kind.
    pub(super) kinds: &'static [(f64, Kind)],
    /// Sizes in bytes of frames that carry data, by weight.
    pub(super) data: &'static [(f64, usize)],
    /// The longest frame without a VLAN tag, but for super-frames.
    pub(super) frame_max: usize,
    /// The last data frame of a flow is as long as what is left of its bytes, as a stack leaves it to a card; else all
    /// are whole, and their number is rounded.
    pub(super) last_is_shorter: bool,
    /// TCP timestamps (RFC 7323), as all common systems send them.
    pub(super) timestamps: bool,
}

/// Bytes of a frame that only acknowledges, with timestamps.
pub(super) const ACK_FRAME_BYTES: usize = 66;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// One frame.
pub(super) struct Step {
    /// Nanoseconds since the flow's first frame.
    pub(super) at: u64,
    pub(super) draft: Draft,
}

/// A data frame to come.
struct Datum {
    bytes: usize,
    from_server: bool,
    acknowledged: bool,
}

/// The frames of a flow of `kind`, with about `budget` bytes of data frames and their acknowledgments, of which there are
/// `ack_ratio` for each data frame.
pub(super) fn converse(
    kind: Kind,
    shares: (f64, f64),
    mix: &Mix,
    ack_ratio: f64,
    budget: usize,
    mut random: Random,
) -> Vec<Step> {
    let (ipv6_share, vlan_share) = shares;
    let index = random.below(4096) as u16;
    let path = Path {
        vlan: random.chance(vlan_share).then(|| 100 + random.below(64) as u16),
        server: if random.chance(ipv6_share) {
            Server::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5e, 0, 0, 0, 0, 1 + index))
        } else {
            let [high, low] = index.to_be_bytes();
            Server::V4(Ipv4Addr::new(198, 18, high, low))
        },
        server_port: kind.server_port(&mut random),
    };
    let mut talk = Talk {
        path,
        mix,
        steps: Vec::new(),
        now: 0,
        rtt: (2 + random.below(60)) * MILLISECOND,
        server_spoke: false,
        sequence: [random.next() as u32, random.next() as u32],
        stamp: [random.next() as u32, random.next() as u32],
        // Pareto-like: most flows last a quarter of a second, few of them three seconds.
        duration: (0.25 / (random.unit() + 0.08) * 1e9) as u64,
        random,
    };
    let plan = talk.plan(kind, ack_ratio, budget);
    talk.run(kind, &plan);
    talk.steps
}

struct Talk<'a> {
    path: Path,
    mix: &'a Mix,
    steps: Vec<Step>,
    now: u64,
    rtt: u64,
    server_spoke: bool,
    /// Next sequence numbers of client and server.
    sequence: [u32; 2],
    /// Timestamps (RFC 7323) of client and server at the flow's start.
    stamp: [u32; 2],
    duration: u64,
    random: Random,
}

impl Talk<'_> {
    fn plan(&mut self, kind: Kind, ack_ratio: f64, budget: usize) -> Vec<Datum> {
        let mut plan = Vec::new();
        if kind == Kind::Media || kind == Kind::Pulse {
            // These have no other frames: one at least.
            plan.push(self.datum(kind));
        }
        let mut spent = 0;
        let mut owed = 0.0;
        while spent < budget {
            let mut datum = self.datum(kind);
            let left = budget - spent;
            if self.mix.last_is_shorter {
                if left <= ACK_FRAME_BYTES {
                    break;
                }
                datum.bytes = datum.bytes.min(left);
            } else if left * 2 < datum.bytes {
                // Rounds to the nearest number of frames.
                break;
            }
            spent += datum.bytes;
            owed += ack_ratio;
            if kind.is_tcp() && owed >= 1.0 {
                owed -= 1.0;
                datum.acknowledged = true;
                spent += ACK_FRAME_BYTES;
            }
            plan.push(datum);
        }
        plan
    }

    fn datum(&mut self, kind: Kind) -> Datum {
        let to_client = match kind {
            Kind::Bulk => 0.0,
            Kind::Tls13 | Kind::Tls12 | Kind::Quic => 0.85,
            Kind::Http => 1.0,
            _ => 0.5,
        };
        Datum {
            bytes: self.random.weighted(self.mix.data),
            from_server: self.random.chance(to_client),
            acknowledged: false,
        }
    }

    fn run(&mut self, kind: Kind, plan: &[Datum]) {
        match kind {
            Kind::Scan => self.tcp(false, flag::SYN, &[]),
            Kind::Refused => {
                self.tcp(false, flag::SYN, &[]);
                self.tcp(true, flag::RST | flag::ACK, &[]);
            }
            Kind::Dns => {
                let host = application::host(&mut self.random);
                let (question, answer) = application::dns(&host, &mut self.random);
                self.udp(false, &question);
                self.udp(true, &answer);
            }
            Kind::Media => self.media(plan),
            Kind::Pulse => {
                for datum in plan {
                    self.pause(plan.len());
                    let payload = self.random.bytes(18);
                    self.udp(datum.from_server, &payload);
                }
            }
            Kind::Quic => self.quic(plan),
            Kind::Tls13 | Kind::Tls12 | Kind::Http | Kind::Ssh | Kind::Bulk | Kind::Keystrokes => {
                self.tcp(false, flag::SYN, &[]);
                self.tcp(true, flag::SYN | flag::ACK, &[]);
                self.tcp(false, flag::ACK, &[]);
                self.begin(kind, plan);
                self.stream(kind, plan);
                self.end();
            }
        }
    }

    /// The first messages of a protocol over TCP.
    fn begin(&mut self, kind: Kind, plan: &[Datum]) {
        let host = application::host(&mut self.random);
        match kind {
            Kind::Tls13 => {
                let ask = Ask {
                    host: &host,
                    alpn: &["h2", "http/1.1"],
                    tls13: true,
                    quic_parameters: None,
                };
                let hello = tls::client_hello(&ask, &mut self.random);
                self.say(false, &tls::handshake_record(0x0301, &hello));
                let answer = tls::server_hello_13(tls::session_id(&hello), &mut self.random);
                let mut flight = tls::handshake_record(0x0303, &answer);
                flight.extend(tls::change_cipher_spec());
                flight.extend(tls::protected(&mut self.random, 1800));
                self.say(true, &flight);
                let mut finish = tls::change_cipher_spec();
                finish.extend(tls::protected(&mut self.random, 53));
                self.say(false, &finish);
            }
            Kind::Tls12 => {
                let ask = Ask {
                    host: &host,
                    alpn: &["http/1.1"],
                    tls13: false,
                    quic_parameters: None,
                };
                let hello = tls::client_hello(&ask, &mut self.random);
                self.say(false, &tls::handshake_record(0x0301, &hello));
                let flight = tls::server_flight_12("http/1.1", &mut self.random);
                self.say(true, &flight);
                let flight = tls::client_flight_12(&mut self.random);
                self.say(false, &flight);
                let mut finish = tls::change_cipher_spec();
                finish.extend(tls::finished_12(&mut self.random));
                self.say(true, &finish);
            }
            Kind::Http => {
                let body = plan.iter().map(|datum| self.payload_bytes(datum.bytes)).sum();
                let (request, response) = application::http(&host, body, &mut self.random);
                self.say(false, &request);
                self.say(true, &response);
            }
            Kind::Ssh => {
                for (from_server, message) in application::ssh(&mut self.random) {
                    self.say(from_server, &message);
                }
            }
            _ => {}
        }
    }

    /// Data over TCP, spread over the flow's duration.
    fn stream(&mut self, kind: Kind, plan: &[Datum]) {
        for datum in plan {
            self.pause(plan.len());
            let bytes = self.payload_bytes(datum.bytes);
            let payload = match kind {
                Kind::Tls13 | Kind::Tls12 => self.records(bytes),
                _ => self.random.bytes(bytes),
            };
            self.tcp(datum.from_server, flag::PSH | flag::ACK, &payload);
            if datum.acknowledged {
                self.now += 20 * MICROSECOND;
                self.tcp(!datum.from_server, flag::ACK, &[]);
            }
        }
    }

    /// So many bytes of TLS records with application data.
    fn records(&mut self, bytes: usize) -> Vec<u8> {
        let mut records = Vec::with_capacity(bytes);
        while bytes > records.len() + tls::RECORD_HEADER_BYTES {
            let content = (bytes - records.len() - tls::RECORD_HEADER_BYTES).min(tls::RECORD_MAX_BYTES);
            records.extend(tls::record_header(content));
            records.extend(self.random.bytes(content));
        }
        // Too few for a record are a piece of one.
        records.extend(self.random.bytes(bytes - records.len()));
        records
    }

    fn end(&mut self) {
        if self.random.chance(0.06) {
            self.tcp(false, flag::RST | flag::ACK, &[]);
            return;
        }
        self.tcp(false, flag::FIN | flag::ACK, &[]);
        self.tcp(true, flag::FIN | flag::ACK, &[]);
        self.tcp(false, flag::ACK, &[]);
    }

    fn media(&mut self, plan: &[Datum]) {
        let source = self.random.next() as u32;
        let first = self.random.next() as u16;
        for (number, datum) in plan.iter().enumerate() {
            self.pause(plan.len());
            let bytes = self.udp_payload_bytes(datum.bytes).max(12) - 12;
            let payload = self.random.bytes(bytes);
            let packet = application::rtp(
                first.wrapping_add(number as u16),
                (number as u32).wrapping_mul(3_000),
                source,
                &payload,
            );
            self.udp(datum.from_server, &packet);
        }
    }

    fn quic(&mut self, plan: &[Datum]) {
        let connection = quic::Connection::new(&mut self.random);
        let host = application::host(&mut self.random);
        for datagram in connection.client_initials(&host, &mut self.random) {
            self.udp(false, &datagram);
        }
        for datagram in connection.server_flight(&mut self.random) {
            self.udp(true, &datagram);
        }
        let finish = connection.client_finish(&mut self.random);
        self.udp(false, &finish);
        for datum in plan {
            self.pause(plan.len());
            let bytes = self.udp_payload_bytes(datum.bytes);
            let packet = connection.short(datum.from_server, bytes, &mut self.random);
            self.udp(datum.from_server, &packet);
        }
    }

    /// Bytes of all headers below TCP's or UDP's payload, without a VLAN tag.
    fn header_bytes(&self, transport: usize) -> usize {
        14 + if self.path.is_ipv6() { 40 } else { 20 } + transport
    }

    /// Payload of a TCP segment in a frame of that many bytes.
    fn payload_bytes(&self, frame: usize) -> usize {
        let transport = if self.mix.timestamps { 32 } else { 20 };
        frame.saturating_sub(self.header_bytes(transport)).max(1)
    }

    fn udp_payload_bytes(&self, frame: usize) -> usize {
        frame.saturating_sub(self.header_bytes(8)).max(1)
    }

    /// Lets the time between two data frames pass.
    fn pause(&mut self, frames: usize) {
        let mean = self.duration / frames.max(1) as u64;
        self.now += (mean as f64 * (0.5 + self.random.unit())) as u64;
    }

    /// Says a message in as many segments as it needs; the other side acknowledges unless it answers.
    fn say(&mut self, from_server: bool, message: &[u8]) {
        let room = self.payload_bytes(self.mix.frame_max);
        let parts = message.len().div_ceil(room);
        for (number, part) in message.chunks(room).enumerate() {
            let last = number + 1 == parts;
            self.tcp(
                from_server,
                if last { flag::PSH | flag::ACK } else { flag::ACK },
                part,
            );
            // RFC 1122 §4.2.3.2: at least every second full segment is acknowledged.
            if number % 2 == 1 {
                self.tcp(!from_server, flag::ACK, &[]);
            }
        }
    }

    /// What passes between two frames: a round trip where the server answers.
    fn turn(&mut self, from_server: bool) {
        self.now += if from_server && !self.server_spoke {
            self.rtt
        } else {
            15 * MICROSECOND
        };
        self.server_spoke = from_server;
    }

    fn udp(&mut self, from_server: bool, payload: &[u8]) {
        if !self.steps.is_empty() {
            self.turn(from_server);
        }
        self.steps.push(Step {
            at: self.now,
            draft: self.path.udp(from_server, payload),
        });
    }

    fn tcp(&mut self, from_server: bool, flags: u8, payload: &[u8]) {
        if !self.steps.is_empty() {
            self.turn(from_server);
        }
        let (own, peer) = if from_server { (1, 0) } else { (0, 1) };
        let segment = Segment {
            sequence: self.sequence[own],
            acknowledgment: if flags & flag::ACK == 0 {
                0
            } else {
                self.sequence[peer]
            },
            flags,
            options: &self.options(own, flags),
        };
        let draft = self.path.tcp(from_server, &segment, payload);
        let counted = payload.len() as u32 + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        self.sequence[own] = self.sequence[own].wrapping_add(counted);
        self.steps.push(Step { at: self.now, draft });
    }

    fn options(&self, own: usize, flags: u8) -> Vec<u8> {
        let mss = (self.mix.frame_max - self.header_bytes(20)) as u16;
        let [high, low] = mss.to_be_bytes();
        let syn = flags & flag::SYN != 0;
        if !self.mix.timestamps || flags & flag::RST != 0 {
            return if syn { vec![2, 4, high, low] } else { Vec::new() };
        }
        let elapsed = (self.now / MILLISECOND) as u32;
        let peer = if flags & flag::ACK == 0 {
            0
        } else {
            self.stamp[1 - own].wrapping_add(elapsed)
        };
        let mut stamps = self.stamp[own].wrapping_add(elapsed).to_be_bytes().to_vec();
        stamps.extend(peer.to_be_bytes());
        let mut options = if syn {
            vec![2, 4, high, low, 4, 2, 8, 10]
        } else {
            vec![1, 1, 8, 10]
        };
        options.extend(stamps);
        if syn {
            options.extend([1, 3, 3, 7]);
        }
        options
    }
}
