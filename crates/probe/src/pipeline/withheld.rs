//! Frames that a source has handed over and that were not passed on, or not yet: its accounts are put right by them.

use crate::capture::{Accounts, FrameClock, FrameHeader, Stamped};

/// How many such frames there are, together and by the clock that stamped them.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    frames: u64,
    stamped: Stamped,
}

impl Withheld {
    /// Withholds further frames.
    pub(super) fn add(&mut self, headers: &[FrameHeader]) {
        self.change(headers, u64::wrapping_add);
    }

    /// Passes on frames that were withheld.
    pub(super) fn remove(&mut self, headers: &[FrameHeader]) {
        self.change(headers, u64::wrapping_sub);
    }

    fn change(&mut self, headers: &[FrameHeader], change: impl Fn(u64, u64) -> u64) {
        self.frames = change(self.frames, headers.len() as u64);
        for (count, (clock, ..)) in self.stamped.iter_mut().zip(FrameClock::ALL) {
            let of_clock = headers
                .iter()
                .filter(|header| header.clock == Some(clock))
                .count();
            *count = change(*count, of_clock as u64);
        }
    }

    /// Takes them out of the accounts of the source.
    pub(super) fn leave_out_of(&self, accounts: &mut Accounts) {
        accounts.frames_delivered = accounts.frames_delivered.saturating_sub(self.frames);
        if let Some(stamped) = &mut accounts.stamped {
            for (count, withheld) in stamped.iter_mut().zip(self.stamped) {
                *count = count.saturating_sub(withheld);
            }
        }
    }
}
