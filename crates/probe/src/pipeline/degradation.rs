//! When the probe suffers, how far it goes to relieve itself, and when it is well again (design §6).
//!
//! Each degradation is one [`Degradation`]: it is looked at a few times a second with its pressure, a number of which 1 is
//! the limit. It deepens by one level at a time, and eases by one level at a time once the pressure has been low for a
//! while; between *low* and the limit nothing changes, so that it does not flap. What each level does is in [`Relief`].

use std::time::{Duration, Instant};

use crate::flow::Shed;
use crate::seal::batch::COMPRESSION_LEVEL;

wire::reasons! {
    /// What suffers.
    Suffering {
        /// The capture queue is more than 80 % full. First the queue grows within the memory budget, then statistics are
        /// left out, then layer 7.
        CaptureQueue = "capture_queue",
        /// More than a million flows are active, or more than 80 % of the flow table is taken. Idle timeouts get shorter;
        /// a full table evicts the flow that has been silent for longest.
        FlowTable = "flow_table",
        /// More than 50 batches wait for their signature, or they take more than 80 % of the memory that is theirs
        /// ([`super::memory::Shares`]). Batches get bigger, so that one signature covers more, and are compressed no harder than usual.
        SealQueue = "seal_queue",
        /// The spool is more than 80 % full. Compression gets stronger, unless batches wait for their signature, and batches
        /// get bigger.
        Storage = "storage",
    }
}

/// When levels change.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The pressure below which it is low.
    pub low: f64,
    /// The deepest level.
    pub deepest: u8,
    /// How long a level is given to help before the next one.
    pub patience: Duration,
    /// How long the pressure must be low before a level is taken back.
    pub calm: Duration,
}

/// A change of level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before; 0 is well.
    pub from: u8,
    /// Now.
    pub to: u8,
}

/// One degradation.
#[derive(Clone, Copy, Debug)]
pub struct Degradation {
    limits: Limits,
    level: u8,
    /// When the level last changed.
    changed: Option<Instant>,
    /// Since when the pressure has been low.
    low_since: Option<Instant>,
}

impl Degradation {
    /// Well.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            level: 0,
            changed: None,
            low_since: None,
        }
    }

    /// How far it has gone; 0 is well.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Takes notice of the pressure; 1 is the limit.
    pub fn look(&mut self, now: Instant, pressure: f64) -> Option<Change> {
        let since = |moment: Option<Instant>| moment.map(|moment| now.saturating_duration_since(moment));
        if pressure >= self.limits.low {
            self.low_since = None;
        }
        if pressure > 1.0 {
            let waited =
                self.level == 0 || since(self.changed).is_none_or(|time| time >= self.limits.patience);
            return (waited && self.level < self.limits.deepest).then(|| self.change(now, self.level + 1));
        }
        if pressure < self.limits.low {
            let low_since = *self.low_since.get_or_insert(now);
            let calm = now.saturating_duration_since(low_since) >= self.limits.calm;
            if calm && self.level > 0 {
                // The next level is taken back after as long again.
                self.low_since = Some(now);
                return Some(self.change(now, self.level - 1));
            }
        }
        None
    }

    fn change(&mut self, now: Instant, to: u8) -> Change {
        let change = Change { from: self.level, to };
        self.level = to;
        self.changed = Some(now);
        change
    }
}

/// What all levels together ask of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relief {
    /// Whether frames are moved from the capture ring into further memory.
    pub queue_grows: bool,
    /// What is not computed.
    pub shed: Shed,
    /// Idle timeouts are divided by this.
    pub idle_divisor: i64,
    /// The least time for which a record waits for its batch to fill.
    pub linger: Duration,
    /// The level of zstd with which batches are compressed.
    pub compression_level: i32,
}

impl Default for Relief {
    fn default() -> Self {
        Self {
            queue_grows: false,
            shed: Shed::Nothing,
            idle_divisor: 1,
            linger: Duration::ZERO,
            compression_level: COMPRESSION_LEVEL,
        }
    }
}

impl Relief {
    /// What the levels ask for; `level` gives one's.
    pub fn of(level: impl Fn(Suffering) -> u8) -> Self {
        let bigger_batches = level(Suffering::SealQueue).max(level(Suffering::Storage));
        Self {
            queue_grows: level(Suffering::CaptureQueue) >= 1,
            shed: match level(Suffering::CaptureQueue) {
                0 | 1 => Shed::Nothing,
                2 => Shed::Statistics,
                _ => Shed::Layer7,
            },
            idle_divisor: 1 << level(Suffering::FlowTable).min(6),
            linger: match bigger_batches {
                0 => Duration::ZERO,
                1 => Duration::from_millis(100),
                2 => Duration::from_millis(400),
                _ => Duration::from_millis(1600),
            },
            // Stronger compression takes the sealing threads longer, which must not be asked of them while they fall behind;
            // a weaker one than the usual costs more signatures than it saves.
            compression_level: match (level(Suffering::SealQueue), level(Suffering::Storage)) {
                (1.., _) | (0, 0) => COMPRESSION_LEVEL,
                (0, 1) => 6,
                (0, 2) => 9,
                (0, _) => 12,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LIMITS: Limits = Limits {
        low: 0.75,
        deepest: 2,
        patience: Duration::from_secs(1),
        calm: Duration::from_secs(5),
    };

    /// Levels after looking at `(seconds, pressure)` in turn.
    fn levels(looks: &[(u64, f64)]) -> Vec<u8> {
        let start = clock::monotonic();
        let mut degradation = Degradation::new(LIMITS);
        looks
            .iter()
            .map(|(seconds, pressure)| {
                let before = degradation.level();
                let change = degradation.look(start + Duration::from_secs(*seconds), *pressure);
                assert_eq!(
                    change.is_some(),
                    before != degradation.level(),
                    "every change of level is told"
                );
                degradation.level()
            })
            .collect()
    }

    #[test]
    fn it_deepens_at_once_then_with_patience_and_not_beyond_the_deepest() {
        assert_eq!(
            levels(&[(0, 1.0), (0, 1.1), (0, 1.1), (1, 1.1), (2, 9.0), (3, 9.0)]),
            [0, 1, 1, 2, 2, 2]
        );
    }

    #[test]
    fn it_eases_level_by_level_when_the_pressure_stays_low() {
        assert_eq!(
            levels(&[
                (0, 2.0),
                (1, 2.0),
                (2, 0.1),
                (6, 0.1),
                (7, 0.1),
                (11, 0.1),
                (12, 0.1)
            ]),
            [1, 2, 2, 2, 1, 1, 0]
        );
    }

    #[test]
    fn between_low_and_the_limit_nothing_changes() {
        assert_eq!(
            levels(&[
                (0, 2.0),
                (1, 0.9),
                (100, 0.9),
                (101, 0.7),
                (105, 0.76),
                (106, 0.7),
                (110, 0.7),
                (111, 0.7)
            ]),
            [1, 1, 1, 1, 1, 1, 1, 0],
            "a moment that is not low starts the wait anew"
        );
    }

    #[test]
    fn relief_follows_the_levels() {
        assert_eq!(Relief::of(|_| 0), Relief::default());
        let queue = |level| Relief::of(move |what| if what == Suffering::CaptureQueue { level } else { 0 });
        assert_eq!((queue(1).queue_grows, queue(1).shed), (true, Shed::Nothing));
        assert_eq!(queue(2).shed, Shed::Statistics);
        assert_eq!(queue(3).shed, Shed::Layer7);
        let table = Relief::of(|what| u8::from(what == Suffering::FlowTable) * 2);
        assert_eq!(table.idle_divisor, 4);
        let signing = Relief::of(|what| u8::from(what == Suffering::SealQueue));
        assert!(signing.linger > Duration::ZERO && signing.compression_level == COMPRESSION_LEVEL);
        let storage = Relief::of(|what| u8::from(what == Suffering::Storage));
        assert!(storage.linger > Duration::ZERO && storage.compression_level > COMPRESSION_LEVEL);
        let both = Relief::of(|what| u8::from(matches!(what, Suffering::SealQueue | Suffering::Storage)));
        assert_eq!(both.compression_level, signing.compression_level);
    }
}
