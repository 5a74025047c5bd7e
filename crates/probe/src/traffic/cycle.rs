//! The prepared frames of a round, and the clients that they get in each.

use super::conversation::{ACK_FRAME_BYTES, Kind, Mix, Step, converse};
use super::frame::{Client, Patch};
use super::random::Random;
use super::{FrameSize, Settings};

/// Why there can be no such traffic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// A rate of zero, or too little memory.
    #[error("traffic needs a rate, new flows and at least 64 KiB of frames")]
    Nothing,
    /// A flow's handshake alone is longer.
    #[error(
        "{bytes} bytes a flow are too few: handshakes and teardowns alone take some {needed}; raise the rate or lower the new-flow rate"
    )]
    FlowTooShort {
        /// Rate over new-flow rate.
        bytes: u64,
        /// Mean length of the first flows without data.
        needed: u64,
    },
    /// The prepared frames do not fit the 32-bit offsets of a block.
    #[error("{0} bytes of prepared frames are too many: at most 1 GiB")]
    TooLarge(usize),
}

/// What the traffic came out as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Frames of a round.
    pub frames: u64,
    /// Bytes of a round.
    pub bytes: u64,
    /// Flows that begin in a round.
    pub flows: u64,
    /// How long a round lasts, in nanoseconds.
    pub period_ns: u64,
}

impl Shape {
    /// Mean length of a frame in bytes.
    pub fn mean_frame_bytes(&self) -> f64 {
        self.bytes as f64 / self.frames.max(1) as f64
    }

    /// Frames a second.
    pub fn frames_per_second(&self) -> f64 {
        self.frames as f64 * 1e9 / self.period_ns.max(1) as f64
    }

    /// New flows a second.
    pub fn flows_per_second(&self) -> f64 {
        self.flows as f64 * 1e9 / self.period_ns.max(1) as f64
    }
}

/// A frame's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Nanoseconds since the round began.
    pub(crate) position: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    flow: u32,
    /// How many rounds ago its flow began.
    lap: u32,
    patch: Patch,
}

/// The frames of a round. See the module's page.
#[derive(Debug)]
pub struct Cycle {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// When each flow begins, in nanoseconds since its round began.
    starts: Vec<u64>,
    period: u64,
    laps: u32,
    has_super_frames: bool,
    lane: u64,
    lanes: u64,
}

/// The shortest frame of Ethernet without check sequence: no flow has less.
const SHORTEST_FRAME_BYTES: u64 = 60;

/// The longest frame of Ethernet without a VLAN tag and check sequence.
pub(super) const FULL_FRAME_BYTES: usize = 1514;

const COMMON: &[(f64, Kind)] = &[
    (0.24, Kind::Tls13),
    (0.06, Kind::Tls12),
    (0.16, Kind::Quic),
    (0.28, Kind::Dns),
    (0.06, Kind::Http),
    (0.02, Kind::Ssh),
    (0.14, Kind::Media),
    (0.04, Kind::Bulk),
];

fn mix_of(size: FrameSize) -> Mix {
    match size {
        FrameSize::Smallest => Mix {
            kinds: &[
                (0.3, Kind::Scan),
                (0.2, Kind::Refused),
                (0.25, Kind::Keystrokes),
                (0.25, Kind::Pulse),
            ],
            data: &[(1.0, 60)],
            frame_max: FULL_FRAME_BYTES,
            last_is_shorter: false,
            timestamps: false,
        },
        FrameSize::Imix => Mix {
            kinds: COMMON,
            data: &[(7.0, 66), (4.0, 590), (1.0, 1514)],
            frame_max: FULL_FRAME_BYTES,
            last_is_shorter: false,
            timestamps: true,
        },
        FrameSize::Mean1000 => Mix {
            kinds: COMMON,
            data: &[(1.0, 1514)],
            frame_max: FULL_FRAME_BYTES,
            last_is_shorter: false,
            timestamps: true,
        },
        FrameSize::Jumbo => Mix {
            kinds: &[
                (0.03, Kind::Tls13),
                (0.01, Kind::Tls12),
                (0.02, Kind::Quic),
                (0.25, Kind::Dns),
                (0.01, Kind::Http),
                (0.67, Kind::Media),
                (0.01, Kind::Bulk),
            ],
            data: &[(1.0, 9014)],
            frame_max: 9014,
            last_is_shorter: false,
            timestamps: true,
        },
        FrameSize::Super => Mix {
            kinds: &[
                (0.4, Kind::Tls13),
                (0.1, Kind::Tls12),
                (0.25, Kind::Dns),
                (0.05, Kind::Http),
                (0.2, Kind::Bulk),
            ],
            // 45 segments of 1,448 bytes.
            data: &[(1.0, 65_226)],
            frame_max: FULL_FRAME_BYTES,
            last_is_shorter: true,
            timestamps: true,
        },
    }
}

/// Flows without their data.
struct Outline {
    kinds: Vec<Kind>,
    /// Share of the data that a flow gets, not normalised.
    weights: Vec<f64>,
    fixed_frames: u64,
    fixed_bytes: u64,
}

/// Flows without their data, which must fit into `flow_bytes` for each.
fn outline(settings: &Settings, mix: &Mix, flows: usize, flow_bytes: f64) -> Result<Outline, TrafficError> {
    let budget = flow_bytes * flows as f64;
    let mut random = Random::new(settings.seed);
    let mut outline = Outline {
        kinds: Vec::with_capacity(flows),
        weights: Vec::with_capacity(flows),
        fixed_frames: 0,
        fixed_bytes: 0,
    };
    for flow in 0..flows {
        let kind = random.weighted(mix.kinds);
        outline.kinds.push(kind);
        // Pareto-like: most flows are short, few carry most of the bytes.
        outline.weights.push(if kind.takes_data() {
            1.0 / (random.unit() + 0.02)
        } else {
            0.0
        });
        for step in converse(
            kind,
            shares(settings),
            mix,
            0.0,
            0,
            Random::of_item(settings.seed, flow as u64),
        ) {
            outline.fixed_frames += 1;
            outline.fixed_bytes += step.draft.bytes.len() as u64;
        }
        if outline.fixed_bytes as f64 > budget {
            return Err(TrafficError::FlowTooShort {
                bytes: flow_bytes as u64,
                needed: outline.fixed_bytes.div_ceil(flow as u64 + 1),
            });
        }
    }
    Ok(outline)
}

fn total_bytes(conversations: &[Vec<Step>]) -> usize {
    let steps = conversations.iter().flatten();
    steps.map(|step| step.draft.bytes.len()).sum()
}

fn shares(settings: &Settings) -> (f64, f64) {
    (settings.ipv6_share, settings.vlan_share)
}

/// Acknowledgments for each data frame.
fn ack_ratio(size: FrameSize, mix: &Mix, outline: &Outline, data_bytes: f64) -> f64 {
    const ACK: f64 = ACK_FRAME_BYTES as f64;
    let mean = match size {
        FrameSize::Imix => return 0.0,
        FrameSize::Smallest | FrameSize::Super => return 0.5,
        FrameSize::Jumbo => return 0.1,
        FrameSize::Mean1000 => 1000.0,
    };
    let weight: f64 = mix.data.iter().map(|(weight, _)| weight).sum();
    let data: f64 = mix
        .data
        .iter()
        .map(|(weight, bytes)| weight * *bytes as f64)
        .sum::<f64>()
        / weight;
    let all: f64 = outline.weights.iter().sum();
    let tcp: f64 = outline
        .kinds
        .iter()
        .zip(&outline.weights)
        .filter(|(kind, _)| kind.is_tcp())
        .map(|(_, weight)| weight)
        .sum();
    let tcp_bytes = data_bytes * tcp / all.max(f64::MIN_POSITIVE);
    // Solves frames = fixed + datagrams + segments + acknowledgments for the ratio, where bytes are given.
    let frames = (outline.fixed_bytes as f64 + data_bytes) / mean;
    let wanted = frames - outline.fixed_frames as f64 - (data_bytes - tcp_bytes) / data;
    let below = tcp_bytes - ACK * wanted;
    if below <= 0.0 {
        return 1.0;
    }
    ((wanted * data - tcp_bytes) / below).clamp(0.0, 1.0)
}

impl Cycle {
    /// Prepares the frames.
    pub fn build(settings: &Settings) -> Result<Self, TrafficError> {
        if settings.bits_per_second == 0 || settings.flows_per_second == 0 || settings.cycle_bytes < 64 << 10
        {
            return Err(TrafficError::Nothing);
        }
        if settings.cycle_bytes > 1 << 30 {
            return Err(TrafficError::TooLarge(settings.cycle_bytes));
        }
        let mix = mix_of(settings.frame_size);
        let flow_bytes = settings.bits_per_second as f64 / 8.0 / settings.flows_per_second as f64;
        if flow_bytes < SHORTEST_FRAME_BYTES as f64 {
            return Err(TrafficError::FlowTooShort {
                bytes: flow_bytes as u64,
                needed: SHORTEST_FRAME_BYTES,
            });
        }
        let flows = ((settings.cycle_bytes as f64 / flow_bytes) as usize).max(1);
        let outline = outline(settings, &mix, flows, flow_bytes)?;
        let data_bytes = flow_bytes * flows as f64 - outline.fixed_bytes as f64;
        let ratio = ack_ratio(settings.frame_size, &mix, &outline, data_bytes);
        let weight: f64 = outline.weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let talk = |data_bytes: f64| -> Vec<Vec<Step>> {
            let flows = outline.kinds.iter().zip(&outline.weights).enumerate();
            flows
                .map(|(flow, (kind, share))| {
                    converse(
                        *kind,
                        shares(settings),
                        &mix,
                        ratio,
                        (data_bytes * share / weight) as usize,
                        Random::of_item(settings.seed, flow as u64),
                    )
                })
                .collect()
        };
        // Data frames are whole, and some are longer than planned (IPv6): the second plan makes good for what that was.
        let first = total_bytes(&talk(data_bytes)) as f64 - outline.fixed_bytes as f64;
        let conversations = talk(if first > 0.0 {
            data_bytes * data_bytes / first
        } else {
            data_bytes
        });
        Ok(Self::lay_out(settings, &conversations))
    }

    /// Puts the frames of all conversations in the order of their places in the round.
    fn lay_out(settings: &Settings, conversations: &[Vec<Step>]) -> Self {
        let total = total_bytes(conversations);
        let period = ((total as f64 * 8.0 * 1e9 / settings.bits_per_second as f64) as u64).max(1);
        let mut random = Random::new(!settings.seed);
        let starts: Vec<u64> = conversations.iter().map(|_| random.below(period)).collect();
        let mut order: Vec<(u64, u32, u32, u32)> = Vec::new();
        for (flow, (steps, start)) in conversations.iter().zip(&starts).enumerate() {
            for (step, frame) in steps.iter().enumerate() {
                let time = start + frame.at;
                order.push((time % period, (time / period) as u32, flow as u32, step as u32));
            }
        }
        order.sort_unstable();
        let mut bytes = Vec::with_capacity(total);
        let slots: Vec<Slot> = order
            .into_iter()
            .map(|(position, lap, flow, step)| {
                let draft = &conversations[flow as usize][step as usize].draft;
                let slot = Slot {
                    position,
                    offset: bytes.len() as u32,
                    length: draft.bytes.len() as u32,
                    flow,
                    lap,
                    patch: draft.patch,
                };
                bytes.extend_from_slice(&draft.bytes);
                slot
            })
            .collect();
        Self {
            bytes,
            laps: slots.iter().map(|slot| slot.lap).max().unwrap_or(0),
            slots,
            starts,
            period,
            has_super_frames: settings.frame_size == FrameSize::Super,
            lane: settings.lane.into(),
            lanes: settings.lanes.max(1).into(),
        }
    }

    /// What the traffic came out as.
    pub fn shape(&self) -> Shape {
        Shape {
            frames: self.slots.len() as u64,
            bytes: self.bytes.len() as u64,
            flows: self.starts.len() as u64,
            period_ns: self.period,
        }
    }

    /// Rounds after which the last flow of a round is over.
    pub(crate) fn laps(&self) -> u64 {
        self.laps.into()
    }

    /// Whether TCP data comes in frames that an interface must cut.
    pub(super) fn has_super_frames(&self) -> bool {
        self.has_super_frames
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All frames, those as they are patched.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a slot has a frame in a round: its flow has begun in the first round or later, and before `end`
    /// nanoseconds.
    pub(crate) fn occupied(&self, slot: &Slot, round: u64, end: u64) -> bool {
        let Some(born) = round.checked_sub(slot.lap.into()) else {
            return false;
        };
        let start = self.starts.get(slot.flow as usize).copied().unwrap_or(u64::MAX);
        born.saturating_mul(self.period).saturating_add(start) < end
    }

    /// Gives the frame of a slot the client of its flow in this round.
    pub(crate) fn patch(&mut self, index: usize, round: u64) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let born = round.saturating_sub(slot.lap.into());
        let number = born
            .wrapping_mul(self.starts.len() as u64)
            .wrapping_add(slot.flow.into())
            .wrapping_mul(self.lanes)
            .wrapping_add(self.lane);
        let (start, end) = (slot.offset as usize, (slot.offset + slot.length) as usize);
        if let Some(frame) = self.bytes.get_mut(start..end) {
            slot.patch.apply(frame, client_of(number));
        }
    }

    /// Whether the server sends the frame.
    #[cfg(test)]
    pub(super) fn is_from_server(&self, index: usize) -> bool {
        self.slots[index].patch.from_server
    }
}

/// The client of flow `number`: another one for each of the first 4 * 10^11.
fn client_of(number: u64) -> Client {
    /// The ephemeral ports of Linux: 32768 to 60999.
    const PORTS: u64 = 28_232;
    // Multiplication by an odd number permutes the 24 bits, so that neighbours in time are none in the address space.
    let low = number.wrapping_mul(0x9e_3779) & 0x00ff_ffff;
    let port = 32_768 + ((number >> 24) + (low ^ (low >> 7))) % PORTS;
    Client {
        address: 0x0a00_0000 | low as u32,
        port: port as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn settings(size: FrameSize) -> Settings {
        Settings {
            frame_size: size,
            cycle_bytes: 4 << 20,
            ..Settings::default()
        }
    }

    #[test]
    fn a_cycle_has_the_rate_the_flows_and_the_frames_that_were_asked_for() {
        for (size, low, high) in [
            // IPv6 headers alone are longer than the rest of 60 bytes.
            (FrameSize::Smallest, 60.0, 70.0),
            (FrameSize::Imix, 330.0, 430.0),
            (FrameSize::Mean1000, 970.0, 1030.0),
            (FrameSize::Jumbo, 3_500.0, 9_014.0),
            (FrameSize::Super, 1_000.0, 65_226.0),
        ] {
            // As in the scenarios, and few long ones.
            for flows_per_second in [1_000, 100, 25] {
                let settings = Settings {
                    flows_per_second,
                    ..settings(size)
                };
                let shape = Cycle::build(&settings).expect("possible").shape();
                let mean = shape.mean_frame_bytes();
                let is_mean = flows_per_second < 1_000 || (low..high).contains(&mean);
                assert!(is_mean, "{size:?}: mean {mean}");
                let rate = shape.bytes as f64 * 8e9 / shape.period_ns as f64;
                assert!((rate / 1e8 - 1.0).abs() < 0.001, "{size:?}: {rate} bit/s");
                let flows = shape.flows_per_second() / flows_per_second as f64;
                assert!((flows - 1.0).abs() < 0.03, "{size:?}: {flows} of the flows");
            }
        }
    }

    #[test]
    fn clients_are_not_used_twice() {
        let mut seen = HashSet::new();
        for number in (0..400_000).chain((1 << 24)..(1 << 24) + 400_000) {
            let client = client_of(number);
            assert!(seen.insert((client.address, client.port)), "flow {number}");
            assert!((32_768..61_000).contains(&client.port));
        }
    }

    #[test]
    fn equal_seeds_make_equal_frames_and_others_make_others() {
        let one = Cycle::build(&settings(FrameSize::Imix)).expect("possible");
        let same = Cycle::build(&settings(FrameSize::Imix)).expect("possible");
        let other = Settings {
            seed: 2,
            ..settings(FrameSize::Imix)
        };
        assert_eq!(one.bytes(), same.bytes());
        assert_ne!(one.bytes(), Cycle::build(&other).expect("possible").bytes());
    }

    #[test]
    fn a_round_gives_both_sides_of_a_flow_the_same_new_client() {
        let mut cycle = Cycle::build(&settings(FrameSize::Mean1000)).expect("possible");
        let indices: Vec<usize> = (0..cycle.slots.len())
            .filter(|index| cycle.slots[*index].flow == 7 && cycle.slots[*index].lap == 0)
            .collect();
        let mut clients = Vec::new();
        for round in [0, 1, 9] {
            let mut of_round = HashSet::new();
            for index in &indices {
                cycle.patch(*index, round);
                let slot = cycle.slots[*index];
                let frame = &cycle.bytes[slot.offset as usize..];
                let ip = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
                let (end, port) = match (frame[ip] >> 4, cycle.is_from_server(*index)) {
                    (4, false) => (ip + 16, ip + 20),
                    (4, true) => (ip + 20, ip + 22),
                    (_, false) => (ip + 24, ip + 40),
                    (_, true) => (ip + 40, ip + 42),
                };
                of_round.insert((frame[end - 4..end].to_vec(), frame[port..port + 2].to_vec()));
            }
            assert_eq!(of_round.len(), 1);
            clients.extend(of_round);
        }
        assert_eq!(clients.iter().collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let short = Settings {
            flows_per_second: 100_000,
            ..settings(FrameSize::Imix)
        };
        let error = Cycle::build(&short).expect_err("125 bytes a flow");
        assert!(
            matches!(error, TrafficError::FlowTooShort { bytes: 125, .. }),
            "{error}"
        );
        let hardly_any = Settings {
            bits_per_second: 1,
            ..settings(FrameSize::Imix)
        };
        assert_eq!(
            Cycle::build(&hardly_any).err(),
            Some(TrafficError::FlowTooShort { bytes: 0, needed: 60 })
        );
        let none = Settings {
            bits_per_second: 0,
            ..Settings::default()
        };
        assert_eq!(Cycle::build(&none).err(), Some(TrafficError::Nothing));
    }
}
