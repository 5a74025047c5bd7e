//! The first packets' lengths, directions and times.

use wire::flowkey::Direction;

/// How many packets are recorded.
pub const SPLT_PACKETS: usize = 20;

/// Memory of one flow's sequence in bytes, its place in the pool included.
pub const SPLT_BYTES: usize = size_of::<Splt>() + 2 * size_of::<usize>();

/// Sequence of packet lengths and times of one record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Splt {
    lengths: [u32; SPLT_PACKETS],
    intervals: [u64; SPLT_PACKETS],
    /// Bit i is set where packet i went in reverse.
    reverse: u32,
    packets: u8,
}

impl Splt {
    /// Records a packet, while there is room: its IP length, and the nanoseconds by which it is later than all before.
    pub fn push(&mut self, direction: Direction, length: u32, interval: u64) {
        let packet = usize::from(self.packets);
        if let (Some(slot), Some(time)) = (self.lengths.get_mut(packet), self.intervals.get_mut(packet)) {
            *slot = length;
            *time = interval;
            self.reverse |= u32::from(direction == Direction::Reverse) << packet;
            self.packets += 1;
        }
    }

    /// Whether no more packets are recorded.
    pub fn is_full(&self) -> bool {
        usize::from(self.packets) == SPLT_PACKETS
    }

    /// Column `splt_lengths`.
    pub fn lengths(&self) -> Vec<u32> {
        self.lengths[..usize::from(self.packets)].to_vec()
    }

    /// Column `splt_times_ns`.
    pub fn intervals(&self) -> Vec<u64> {
        self.intervals[..usize::from(self.packets)].to_vec()
    }

    /// Column `splt_directions`.
    pub fn directions(&self) -> Vec<i8> {
        (0..self.packets)
            .map(|packet| if self.reverse >> packet & 1 == 1 { -1 } else { 1 })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_packets_and_no_more() {
        let mut splt = Splt::default();
        for packet in 0..25 {
            let direction = if packet % 3 == 0 {
                Direction::Reverse
            } else {
                Direction::Forward
            };
            splt.push(direction, 100 + packet, u64::from(packet));
        }
        assert!(splt.is_full());
        assert_eq!(splt.lengths(), (100..120).collect::<Vec<_>>());
        assert_eq!(splt.intervals(), (0..20).collect::<Vec<_>>());
        assert_eq!(splt.directions()[..4], [-1, 1, 1, -1]);
    }
}
