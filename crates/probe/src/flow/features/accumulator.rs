//! One record's running statistics.

use std::cmp::Ordering;

use wire::flowkey::Direction;

use super::store::Room;
use super::{
    BINS, BULK_GAP_NS, BULK_PACKETS, BURST_GAP_NS, BURST_PACKETS, BURSTS_LISTED, Features, IDLE_GAP_NS,
    KURTOSIS_LENGTH_LIMIT, SUBFLOW_GAP_NS,
};
use crate::flow::splt::{PoolFull, SPLT_PACKETS};
use crate::flow::statistics::{Sum96, Summary};

/// TCP flags that are counted: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, from bit 0 on.
const FLAGS: usize = 8;

const NANOSECONDS_OF_MILLISECOND: u64 = 1_000_000;

/// What features need of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which way it went.
    pub direction: Direction,
    /// Its timestamp in UTC nanoseconds.
    pub time: i64,
    /// Its transport payload length in bytes.
    pub payload_length: u32,
    /// Its IP total length less its transport payload length, in bytes.
    pub header_length: u32,
    /// Its TCP flags; 0 without a TCP header.
    pub flags: u16,
}

/// Durations in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Durations {
    count: u32,
    min: u64,
    max: u64,
    sum: u64,
    squares: Sum96,
}

impl Durations {
    fn add(&mut self, duration: u64) {
        self.min = if self.count == 0 {
            duration
        } else {
            self.min.min(duration)
        };
        self.max = self.max.max(duration);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(duration);
        self.squares.add_square(duration);
    }

    fn summary(&self) -> Option<Summary> {
        let Self {
            count,
            min,
            max,
            sum,
            squares,
        } = *self;
        (count > 0).then(|| Summary::new(u64::from(count), u128::from(sum), squares.exact(), min, max))
    }
}

/// A run of packets with payload, with the times of its first and last packet.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    packets: u32,
    bytes: u64,
    start: i64,
    end: i64,
}

impl Run {
    fn begin(time: i64, length: u64) -> Self {
        Self {
            packets: 1,
            bytes: length,
            start: time,
            end: time,
        }
    }

    fn extend(&mut self, time: i64, length: u64) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
        self.end = time;
    }

    const fn is_burst(&self) -> bool {
        self.packets >= BURST_PACKETS
    }
}

/// A burst that is listed, with nanoseconds from the record's first packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Burst {
    packets: u32,
    bytes: u64,
    start: u64,
    end: u64,
}

/// The bursts of one direction that are listed.
pub(super) type Bursts = Box<[Burst; BURSTS_LISTED]>;

/// One direction.
#[derive(Debug, Default)]
struct Side {
    packets: u64,
    payload_bytes: u64,
    payload_squares: Sum96,
    payload_min: u32,
    payload_max: u32,
    payload_packets: u64,
    header_min: u32,
    flags: [u32; FLAGS],
    lengths: [u32; BINS],
    intervals: [u32; BINS],
    bulks: u32,
    bulk_packets: u64,
    bulk_bytes: u64,
    bulk_duration: u64,
    /// The run that is a burst or may become one.
    run: Run,
    /// Bursts that are complete, and the first of them.
    bursts: u32,
    listed: Option<Bursts>,
}

impl Side {
    fn add(&mut self, packet: &Observed) {
        let length = packet.payload_length;
        if self.packets == 0 {
            self.payload_min = length;
            self.header_min = packet.header_length;
        }
        self.packets += 1;
        self.payload_bytes = self.payload_bytes.saturating_add(u64::from(length));
        self.payload_squares.add_square(u64::from(length));
        self.payload_min = self.payload_min.min(length);
        self.payload_max = self.payload_max.max(length);
        self.header_min = self.header_min.min(packet.header_length);
        for (bit, count) in self.flags.iter_mut().enumerate() {
            *count = count.saturating_add(u32::from(packet.flags >> bit & 1));
        }
    }

    /// A packet with payload, also for the run that may become a burst.
    fn add_payload(&mut self, time: i64, length: u32, started: i64, room: &mut Room) -> Result<(), PoolFull> {
        count(&mut self.lengths, u64::from(length));
        self.payload_packets += 1;
        if self.payload_packets == 1 {
            self.run = Run::begin(time, u64::from(length));
            return Ok(());
        }
        let interval = time.abs_diff(self.run.end);
        count(&mut self.intervals, interval / NANOSECONDS_OF_MILLISECOND);
        if interval < BURST_GAP_NS {
            self.run.extend(time, u64::from(length));
            return Ok(());
        }
        let ended = std::mem::replace(&mut self.run, Run::begin(time, u64::from(length)));
        if ended.is_burst() {
            self.list(ended, started, room)?;
        }
        Ok(())
    }

    fn list(&mut self, run: Run, started: i64, room: &mut Room) -> Result<(), PoolFull> {
        if self.listed.is_none() {
            self.listed = Some(room.bursts()?);
        }
        if let Some(place) = self
            .listed
            .as_mut()
            .and_then(|listed| listed.get_mut(self.bursts as usize))
        {
            *place = burst(run, started);
        }
        self.bursts = self.bursts.saturating_add(1);
        Ok(())
    }

    /// The number of bursts, and the first of them, with the one that the record's end ends.
    fn bursts(&self, started: i64) -> (u32, Vec<Burst>) {
        let known = self.listed.as_ref().map_or(&[][..], |listed| {
            &listed[..BURSTS_LISTED.min(self.bursts as usize)]
        });
        let last = self.run.is_burst().then(|| burst(self.run, started));
        let count = self.bursts.saturating_add(u32::from(last.is_some()));
        let listed = known.iter().copied().chain(last).take(BURSTS_LISTED);
        (count, listed.collect())
    }

    fn payload(&self) -> Option<Summary> {
        (self.packets > 0).then(|| {
            Summary::new(
                self.packets,
                u128::from(self.payload_bytes),
                self.payload_squares.exact(),
                u64::from(self.payload_min),
                u64::from(self.payload_max),
            )
        })
    }
}

fn burst(run: Run, started: i64) -> Burst {
    Burst {
        packets: run.packets,
        bytes: run.bytes,
        start: run.start.abs_diff(started),
        end: run.end.abs_diff(started),
    }
}

/// Counts a value in its bin: below 16, then by powers of 2 up to 1024 and more.
fn count(histogram: &mut [u32; BINS], value: u64) {
    let bin = value.checked_ilog2().unwrap_or(0).saturating_sub(3) as usize;
    let bin = &mut histogram[bin.min(BINS - 1)];
    *bin = bin.saturating_add(1);
}

/// The absolute difference between a value and the mean of `count` others, count above 0.
fn deviation(value: u64, sum: u64, count: u64) -> f64 {
    let scaled = u128::from(value) * u128::from(count);
    scaled.abs_diff(u128::from(sum)) as f64 / count as f64
}

/// The running statistics of a record.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    /// Time of the first packet.
    started: i64,
    /// Time of the latest packet.
    time: i64,
    /// Payload length of the latest packet.
    payload_length: u32,
    /// Payload lengths that differ from the one before.
    changes: u64,
    cubes: u128,
    fourths: u128,
    dispersion: f64,
    interval_min: u64,
    interval_max: u64,
    interval_dispersion: f64,
    relative_times: u128,
    subflows: u32,
    active_since: i64,
    /// Active periods that are over.
    active: Durations,
    idle: Durations,
    /// The run that is a bulk or may become one, and its direction.
    bulk: Run,
    bulk_direction: Option<Direction>,
    sides: [Side; 2],
    flags: [u16; SPLT_PACKETS],
    payload_lengths: [u32; SPLT_PACKETS],
}

impl Accumulator {
    fn packets(&self) -> u64 {
        self.sides[0].packets + self.sides[1].packets
    }

    fn payload_bytes(&self) -> u64 {
        let [forward, reverse] = &self.sides;
        forward.payload_bytes.saturating_add(reverse.payload_bytes)
    }

    /// Takes the next packet into account. Where there is no room for its burst, the statistics are not to be used any more.
    pub(super) fn observe(&mut self, packet: &Observed, room: &mut Room) -> Result<(), PoolFull> {
        let packets = self.packets();
        if packets == 0 {
            self.started = packet.time;
            self.time = packet.time;
            self.active_since = packet.time;
        } else {
            self.compare(packet, packets);
        }
        self.time = self.time.max(packet.time);
        self.payload_length = packet.payload_length;
        self.relative_times = self
            .relative_times
            .saturating_add(u128::from(self.time.abs_diff(self.started)));
        let length = u128::from(packet.payload_length);
        self.cubes = self.cubes.saturating_add(length.pow(3));
        self.fourths = self.fourths.saturating_add(length.pow(4));
        if let Some(place) = usize::try_from(packets)
            .ok()
            .filter(|place| *place < SPLT_PACKETS)
        {
            self.flags[place] = packet.flags;
            self.payload_lengths[place] = packet.payload_length;
        }
        let side = usize::from(packet.direction == Direction::Reverse);
        self.sides[side].add(packet);
        if packet.payload_length == 0 {
            return Ok(());
        }
        self.bulk(packet);
        self.sides[side].add_payload(self.time, packet.payload_length, self.started, room)
    }

    /// Compares a packet with the `packets` before it, at least one.
    fn compare(&mut self, packet: &Observed, packets: u64) {
        let length = u64::from(packet.payload_length);
        self.dispersion += deviation(length, self.payload_bytes(), packets);
        self.changes += u64::from(packet.payload_length != self.payload_length);
        let interval = self.time.max(packet.time).abs_diff(self.time);
        if packets == 1 {
            (self.interval_min, self.interval_max) = (interval, interval);
        } else {
            self.interval_min = self.interval_min.min(interval);
            self.interval_max = self.interval_max.max(interval);
            self.interval_dispersion += deviation(interval, self.time.abs_diff(self.started), packets - 1);
        }
        if interval > SUBFLOW_GAP_NS {
            self.subflows = self.subflows.saturating_add(1);
        }
        if interval > IDLE_GAP_NS {
            self.active.add(self.time.abs_diff(self.active_since));
            self.idle.add(interval);
            self.active_since = self.time.max(packet.time);
        }
    }

    /// A packet with payload goes on with the bulk or begins another.
    fn bulk(&mut self, packet: &Observed) {
        let (time, length) = (self.time, u64::from(packet.payload_length));
        let interval = time.abs_diff(self.bulk.end);
        if self.bulk_direction != Some(packet.direction) || interval > BULK_GAP_NS {
            self.bulk = Run::begin(time, length);
            self.bulk_direction = Some(packet.direction);
            return;
        }
        self.bulk.extend(time, length);
        let Run {
            packets,
            bytes,
            start,
            ..
        } = self.bulk;
        let side = &mut self.sides[usize::from(packet.direction == Direction::Reverse)];
        let (packets, bytes, duration) = match packets.cmp(&BULK_PACKETS) {
            Ordering::Less => return,
            Ordering::Equal => {
                side.bulks = side.bulks.saturating_add(1);
                (u64::from(packets), bytes, time.abs_diff(start))
            }
            Ordering::Greater => (1, length, interval),
        };
        side.bulk_packets += packets;
        side.bulk_bytes = side.bulk_bytes.saturating_add(bytes);
        side.bulk_duration = side.bulk_duration.saturating_add(duration);
    }

    /// The lists of bursts, to be used again.
    pub(super) fn take_bursts(&mut self) -> impl Iterator<Item = Bursts> {
        let [forward, reverse] = &mut self.sides;
        [forward.listed.take(), reverse.listed.take()]
            .into_iter()
            .flatten()
    }

    /// The features of the packets so far, at least one.
    pub(super) fn features(&self, is_tcp: bool) -> Features {
        let mut features = Features::default();
        self.payload(&mut features);
        self.times(&mut features);
        self.runs(&mut features);
        let [forward, reverse] = &self.sides;
        features.payload_packets_fwd = forward.payload_packets;
        features.payload_packets_rev = reverse.payload_packets;
        features.header_length_min_fwd = (forward.packets > 0).then_some(forward.header_min);
        features.header_length_min_rev = (reverse.packets > 0).then_some(reverse.header_min);
        let listed =
            usize::try_from(self.packets()).map_or(SPLT_PACKETS, |packets| packets.min(SPLT_PACKETS));
        features.splt_payload_lengths = self.payload_lengths[..listed].to_vec();
        if is_tcp {
            features.splt_tcp_flags = Some(self.flags[..listed].to_vec());
            set_flags(&mut features, forward.flags, reverse.flags);
        }
        features
    }

    fn payload(&self, features: &mut Features) {
        let [forward, reverse] = &self.sides;
        let packets = self.packets();
        let squares = forward.payload_squares.plus(reverse.payload_squares);
        let of = |side: &Side| (side.packets > 0).then_some((side.payload_min, side.payload_max));
        let ends = [of(forward), of(reverse)];
        let min = ends.iter().flatten().map(|(min, _)| *min).min().unwrap_or(0);
        let max = ends.iter().flatten().map(|(_, max)| *max).max().unwrap_or(0);
        let sum = u128::from(forward.payload_bytes) + u128::from(reverse.payload_bytes);
        let both = Summary::new(packets.max(1), sum, squares, u64::from(min), u64::from(max));
        features.payload_length_min = min;
        features.payload_length_mean = both.mean;
        features.payload_length_max = max;
        features.payload_length_stddev = both.stddev;
        if let Some(side) = forward.payload() {
            features.payload_length_min_fwd = Some(forward.payload_min);
            features.payload_length_mean_fwd = Some(side.mean);
            features.payload_length_max_fwd = Some(forward.payload_max);
            features.payload_length_stddev_fwd = side.stddev;
        }
        if let Some(side) = reverse.payload() {
            features.payload_length_min_rev = Some(reverse.payload_min);
            features.payload_length_mean_rev = Some(side.mean);
            features.payload_length_max_rev = Some(reverse.payload_max);
            features.payload_length_stddev_rev = side.stddev;
        }
        features.payload_length_rms = squares.map(|squares| (squares as f64 / packets.max(1) as f64).sqrt());
        if packets > 1 {
            let others = (packets - 1) as f64;
            features.payload_length_dispersion = Some(self.dispersion / others);
            features.payload_length_switching_ratio = Some(self.changes as f64 / others);
        }
        if min < max && max < KURTOSIS_LENGTH_LIMIT {
            features.payload_length_kurtosis =
                squares.map(|squares| kurtosis(packets, [sum, squares, self.cubes, self.fourths]));
        }
    }

    fn times(&self, features: &mut Features) {
        let packets = self.packets();
        features.relative_time_mean_ns = self.relative_times as f64 / packets.max(1) as f64;
        if packets > 2 {
            let dispersion = self.interval_dispersion / (packets - 2) as f64;
            features.inter_arrival_dispersion_ns = Some(dispersion);
            let range = self.interval_max - self.interval_min;
            features.inter_arrival_distribution = (range > 0).then(|| dispersion / range as f64);
        }
        features.subflows = self.subflows.saturating_add(1);
        features.idle_periods = self.idle.count;
        if let Some(idle) = self.idle.summary() {
            features.idle_min_ns = Some(idle.min);
            features.idle_mean_ns = Some(idle.mean);
            features.idle_max_ns = Some(idle.max);
            features.idle_stddev_ns = idle.stddev;
        }
        let mut active = self.active;
        active.add(self.time.abs_diff(self.active_since));
        if let Some(active) = active.summary() {
            features.active_min_ns = active.min;
            features.active_mean_ns = active.mean;
            features.active_max_ns = active.max;
            features.active_stddev_ns = active.stddev;
        }
    }

    /// Bulks, histograms and bursts.
    fn runs(&self, features: &mut Features) {
        let [forward, reverse] = &self.sides;
        features.bulks_fwd = forward.bulks;
        features.bulks_rev = reverse.bulks;
        features.bulk_packets_fwd = forward.bulk_packets;
        features.bulk_packets_rev = reverse.bulk_packets;
        features.bulk_bytes_fwd = forward.bulk_bytes;
        features.bulk_bytes_rev = reverse.bulk_bytes;
        features.bulk_duration_fwd_ns = forward.bulk_duration;
        features.bulk_duration_rev_ns = reverse.bulk_duration;
        features.payload_length_histogram_fwd = forward.lengths.to_vec();
        features.payload_length_histogram_rev = reverse.lengths.to_vec();
        features.payload_interval_histogram_fwd = forward.intervals.to_vec();
        features.payload_interval_histogram_rev = reverse.intervals.to_vec();
        let (count, bursts) = forward.bursts(self.started);
        features.bursts_fwd = count;
        features.burst_packets_fwd = bursts.iter().map(|burst| burst.packets).collect();
        features.burst_bytes_fwd = bursts.iter().map(|burst| burst.bytes).collect();
        features.burst_starts_fwd_ns = bursts.iter().map(|burst| burst.start).collect();
        features.burst_ends_fwd_ns = bursts.iter().map(|burst| burst.end).collect();
        let (count, bursts) = reverse.bursts(self.started);
        features.bursts_rev = count;
        features.burst_packets_rev = bursts.iter().map(|burst| burst.packets).collect();
        features.burst_bytes_rev = bursts.iter().map(|burst| burst.bytes).collect();
        features.burst_starts_rev_ns = bursts.iter().map(|burst| burst.start).collect();
        features.burst_ends_rev_ns = bursts.iter().map(|burst| burst.end).collect();
    }
}

fn set_flags(features: &mut Features, forward: [u32; FLAGS], reverse: [u32; FLAGS]) {
    let [fin, syn, rst, psh, ack, urg, ece, cwr] = forward.map(Some);
    features.tcp_fin_packets_fwd = fin;
    features.tcp_syn_packets_fwd = syn;
    features.tcp_rst_packets_fwd = rst;
    features.tcp_psh_packets_fwd = psh;
    features.tcp_ack_packets_fwd = ack;
    features.tcp_urg_packets_fwd = urg;
    features.tcp_ece_packets_fwd = ece;
    features.tcp_cwr_packets_fwd = cwr;
    let [fin, syn, rst, psh, ack, urg, ece, cwr] = reverse.map(Some);
    features.tcp_fin_packets_rev = fin;
    features.tcp_syn_packets_rev = syn;
    features.tcp_rst_packets_rev = rst;
    features.tcp_psh_packets_rev = psh;
    features.tcp_ack_packets_rev = ack;
    features.tcp_urg_packets_rev = urg;
    features.tcp_ece_packets_rev = ece;
    features.tcp_cwr_packets_rev = cwr;
}

/// Kurtosis from the exact sums of the first four powers of `count` values below [`KURTOSIS_LENGTH_LIMIT`] that are not all
/// the same.
///
/// The powers are first taken about the integer nearest to the mean, in integers, so that nothing cancels out in
/// the doubles after that.
fn kurtosis(count: u64, powers: [u128; 4]) -> f64 {
    // Below 2²⁰, and fewer than 2⁴⁰ of them: no product exceeds 127 bits.
    let [sum, squares, cubes, fourths] = powers.map(|power| power as i128);
    let number = i128::from(count);
    let about = (sum + number / 2) / number;
    let (second, third, fourth) = (about.pow(2), about.pow(3), about.pow(4));
    let centered = [
        sum - number * about,
        squares - 2 * about * sum + number * second,
        cubes - 3 * about * squares + 3 * second * sum - number * third,
        fourths - 4 * about * cubes + 6 * second * squares - 4 * third * sum + number * fourth,
    ];
    let [first, second, third, fourth] = centered.map(|moment| moment as f64 / count as f64);
    let variance = second - first * first;
    let square = first * first;
    (fourth - 4.0 * first * third + 6.0 * square * second - 3.0 * square * square) / (variance * variance)
}

#[cfg(test)]
mod tests;
