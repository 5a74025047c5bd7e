//! Exact integer sums, and the statistics made of them.
//!
//! Sums and sums of squares are integers, so that a result depends on the packets alone and not on rounding, order or
//! worker. Only the last step, at export, is floating point.

/// An unsigned 96-bit sum. That is enough for the squares of a day in nanoseconds, and for the squares of 2³² packet
/// lengths of 4 GiB; it saturates beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum96([u32; 3]);

impl Sum96 {
    const MAX: u128 = (1 << 96) - 1;

    /// Adds the square of a value.
    #[inline]
    pub fn add_square(&mut self, value: u64) {
        let square = u128::from(value) * u128::from(value);
        let sum = self.get().saturating_add(square).min(Self::MAX);
        self.0 = [sum as u32, (sum >> 32) as u32, (sum >> 64) as u32];
    }

    #[inline]
    fn get(self) -> u128 {
        let [low, middle, high] = self.0.map(u128::from);
        low | middle << 32 | high << 64
    }

    /// The sum; `None` where it is too large to be known.
    #[inline]
    pub fn exact(self) -> Option<u128> {
        Some(self.get()).filter(|sum| *sum < Self::MAX)
    }

    /// The sum of two sums; `None` where one of them is too large to be known.
    pub fn plus(self, other: Self) -> Option<u128> {
        Some(self.exact()? + other.exact()?)
    }
}

/// Times by which each packet is later than all packets before it, in nanoseconds.
///
/// Their sum is not kept: it is the latest timestamp less the first.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct Arrivals {
    min: u64,
    max: u64,
    squares: Sum96,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            min: u64::MAX,
            max: 0,
            squares: Sum96::default(),
        }
    }
}

impl Arrivals {
    /// A packet with timestamp `time`, after packets of which the latest has timestamp `latest`.
    #[inline]
    pub fn observe(&mut self, latest: i64, time: i64) {
        let interval = if time > latest { time.abs_diff(latest) } else { 0 };
        // By value: the fields of a packed struct cannot be borrowed.
        let Self {
            min,
            max,
            mut squares,
        } = *self;
        squares.add_square(interval);
        *self = Self {
            min: min.min(interval),
            max: max.max(interval),
            squares,
        };
    }

    /// The statistics over `packets` packets of which the first has timestamp `first` and the latest `latest`;
    /// `None` below two packets.
    pub fn summary(&self, packets: u64, first: i64, latest: i64) -> Option<Summary> {
        let intervals = packets.checked_sub(1).filter(|intervals| *intervals > 0)?;
        let Self { min, max, squares } = *self;
        let sum = u128::from(latest.abs_diff(first));
        Some(Summary::new(intervals, sum, squares.exact(), min, max))
    }
}

/// Smallest, mean, largest and population standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Smallest value.
    pub min: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Largest value.
    pub max: u64,
    /// Population standard deviation (divisor n); `None` where the sum of squares is not known.
    pub stddev: Option<f64>,
}

impl Summary {
    /// From the exact sums over `count` values, `count` above 0.
    pub fn new(count: u64, sum: u128, squares: Option<u128>, min: u64, max: u64) -> Self {
        let mean = sum as f64 / count as f64;
        Self {
            min,
            mean,
            max,
            stddev: squares.map(|squares| Self::deviation(count, sum, squares)),
        }
    }

    fn deviation(count: u64, sum: u128, squares: u128) -> f64 {
        let count_f64 = count as f64;
        let mean = sum as f64 / count_f64;
        // n²·variance = n·Σx² − (Σx)², exact where it fits in 128 bits.
        let exact = u128::from(count)
            .checked_mul(squares)
            .zip(sum.checked_mul(sum))
            .map(|(squares, square)| squares.saturating_sub(square) as f64 / (count_f64 * count_f64));
        exact
            .unwrap_or_else(|| (squares as f64 / count_f64 - mean * mean).max(0.0))
            .sqrt()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sum_of_squares_is_exact_and_saturates() {
        let mut sum = Sum96::default();
        sum.add_square(u64::from(u32::MAX));
        sum.add_square(3);
        assert_eq!(sum.get(), u128::from(u32::MAX) * u128::from(u32::MAX) + 9);
        assert_eq!(sum.plus(sum), sum.exact().map(|sum| 2 * sum));
        sum.add_square(u64::MAX);
        assert_eq!((sum.exact(), sum.plus(Sum96::default())), (None, None));
    }

    #[test]
    fn timestamps_years_apart_have_no_deviation_and_all_the_rest() {
        let mut arrivals = Arrivals::default();
        arrivals.observe(0, 1 << 59);
        let summary = arrivals.summary(2, 0, 1 << 59).unwrap();
        assert_eq!(
            (summary.min, summary.max, summary.stddev),
            (1 << 59, 1 << 59, None)
        );
    }

    #[test]
    fn one_packet_has_no_intervals() {
        assert_eq!(Arrivals::default().summary(1, 5, 5), None);
        assert_eq!(Arrivals::default().summary(0, 0, 0), None);
    }

    #[test]
    fn a_step_back_counts_as_zero() {
        let mut arrivals = Arrivals::default();
        let mut latest = 100;
        for time in [110, 90, 115] {
            arrivals.observe(latest, time);
            latest = latest.max(time);
        }
        let summary = arrivals.summary(4, 100, latest).unwrap();
        assert_eq!(
            (summary.min, summary.max),
            (0, 10),
            "the last is 5 later than the latest before it"
        );
        assert_eq!(summary.mean.to_bits(), 5.0_f64.to_bits());
    }

    proptest! {
        #[test]
        fn agrees_with_the_textbook(values in prop::collection::vec(0_u64..1 << 40, 1..50)) {
            let count = values.len() as u64;
            let sum = values.iter().map(|value| u128::from(*value)).sum::<u128>();
            let mut squares = Sum96::default();
            for value in &values {
                squares.add_square(*value);
            }
            let summary = Summary::new(
                count, sum, squares.exact(), *values.iter().min().unwrap(), *values.iter().max().unwrap(),
            );
            let mean = values.iter().map(|value| *value as f64).sum::<f64>() / count as f64;
            let variance = values.iter().map(|value| (*value as f64 - mean).powi(2)).sum::<f64>() / count as f64;
            prop_assert!((summary.mean - mean).abs() <= mean * 1e-12);
            prop_assert!((summary.stddev.unwrap() - variance.sqrt()).abs() <= mean.max(1.0) * 1e-9);
        }
    }
}
