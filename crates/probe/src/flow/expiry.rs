//! Timers: which flow is due next.
//!
//! A wheel of [`BINS`] bins of 2²⁴ ns (17 ms), each an intrusive list of slots, and a heap that holds the bin that
//! is being worked off. Putting a timer into the wheel and taking it out is O(1); only what comes due within the present
//! bin is sorted, so that flows leave in the exact order of their deadlines. All timers of a bin are looked at before the
//! next packet is metered: its width bounds for how long. A packet that postpones its flow's
//! deadline touches nothing here: a timer is a lower bound, and when it comes up, the slot's deadline is asked for
//! again. A deadline that moves *forward* must be scheduled anew. A timer that is cancelled while in the heap stays there
//! and is void; what is void never outgrows what is not by much.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bins of the wheel: deadlines further ahead than about nine minutes are looked at once per turn.
pub const BINS: usize = 1 << 15;

const BIN_SHIFT: u32 = 24;
const NONE: u32 = u32::MAX;

/// A slot's timer. `place` is the number of its bin, [`HEAP`] or [`NOWHERE`].
#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    place: u16,
    /// Counts the slot's timers, so that one that was cancelled while in the heap is known when it comes up there.
    generation: u16,
}

const HEAP: u16 = u16::MAX - 1;
const NOWHERE: u16 = u16::MAX;

/// Void timers that the heap may have whatever else is in it.
const VOID_TIMERS: usize = 1024;

/// The last bin that there can be.
const LAST_BIN: i64 = i64::MAX >> BIN_SHIFT;

/// A timer in the heap: the earliest first, ties by flow id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    deadline: i64,
    flow_id: u64,
    slot: u32,
    generation: u16,
}

/// The timers of a flow table's slots.
#[derive(Debug)]
pub struct Expiry {
    bins: Vec<u32>,
    /// A bit for each bin: not set where it is empty. What empties a bin leaves the bit set, but for a turn.
    occupied: Vec<u64>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<Timer>>,
    /// Timers in the heap that were cancelled.
    void: usize,
    /// Timers in the wheel.
    in_wheel: usize,
    /// Number of the last bin that was moved to the heap as a whole: `deadline >> BIN_SHIFT`. Of the one after it a part
    /// may have been moved. `None` before the first timer.
    current_bin: Option<i64>,
}

/// Memory of one slot's timer in bytes.
pub const TIMER_BYTES: usize = size_of::<Link>();

impl Expiry {
    /// Timers for `capacity` slots.
    pub fn new(capacity: usize) -> Self {
        let links = Vec::with_capacity(capacity);
        super::memory::on_huge_pages(&links);
        Self {
            bins: vec![NONE; BINS],
            occupied: vec![0; BINS / 64],
            links,
            heap: BinaryHeap::new(),
            void: 0,
            in_wheel: 0,
            current_bin: None,
        }
    }

    /// Sets or moves the timer of a slot.
    pub fn schedule(&mut self, slot: u32, deadline: i64, flow_id: u64) {
        if self.links.len() <= slot as usize {
            let unused = Link {
                previous: NONE,
                next: NONE,
                place: NOWHERE,
                generation: 0,
            };
            self.links.resize(slot as usize + 1, unused);
        }
        self.cancel(slot);
        let bin = deadline >> BIN_SHIFT;
        let current = self.reach(bin);
        // A bin that is being worked off, or is over, is the heap's.
        if bin <= current {
            self.push(slot, deadline, flow_id);
        } else {
            self.link(slot, bin, current);
        }
    }

    /// Puts a slot that has no timer into the heap.
    fn push(&mut self, slot: u32, deadline: i64, flow_id: u64) {
        let link = &mut self.links[slot as usize];
        link.place = HEAP;
        let generation = link.generation;
        self.heap.push(Reverse(Timer {
            deadline,
            flow_id,
            slot,
            generation,
        }));
    }

    /// Puts a slot that has no timer into a bin after the `current` one, or as far from that as there are bins.
    fn link(&mut self, slot: u32, bin: i64, current: i64) {
        let generation = self.links[slot as usize].generation;
        let place = bin
            .min(current.saturating_add(BINS as i64))
            .rem_euclid(BINS as i64) as u16;
        let next = std::mem::replace(&mut self.bins[usize::from(place)], slot);
        if next == NONE {
            self.occupied[usize::from(place) / 64] |= 1 << (place % 64);
        } else {
            self.links[next as usize].previous = slot;
        }
        self.links[slot as usize] = Link {
            previous: NONE,
            next,
            place,
            generation,
        };
        self.in_wheel += 1;
    }

    /// Where time stands, for a timer that is put into this bin. Without timers nobody has let time pass: however far
    /// ahead the first one is, it comes up within one turn of the wheel.
    fn reach(&mut self, bin: i64) -> i64 {
        let farthest = bin - BINS as i64;
        let current = match self.current_bin {
            Some(current) if self.in_wheel > 0 || !self.heap.is_empty() => return current,
            Some(current) => current.max(farthest),
            None => farthest,
        };
        self.current_bin = Some(current);
        current
    }

    /// Whether the slot has a timer.
    pub fn is_scheduled(&self, slot: u32) -> bool {
        self.links
            .get(slot as usize)
            .is_some_and(|link| link.place != NOWHERE)
    }

    /// Takes the timer of a slot away.
    pub fn cancel(&mut self, slot: u32) {
        match self.links.get(slot as usize).map(|link| link.place) {
            None | Some(NOWHERE) => {}
            Some(HEAP) => {
                self.release(slot);
                self.void += 1;
                if self.void > VOID_TIMERS && self.void > self.heap.len() / 2 {
                    let links = &self.links;
                    self.heap.retain(|Reverse(timer)| is_valid(links, *timer));
                    self.void = 0;
                }
            }
            Some(_) => self.unlink(slot),
        }
    }

    /// Notes that a slot's timer is not the heap's any more. One that is still in there is void from now on.
    fn release(&mut self, slot: u32) {
        let link = &mut self.links[slot as usize];
        link.place = NOWHERE;
        link.generation = link.generation.wrapping_add(1);
    }

    /// Takes a slot out of its bin.
    fn unlink(&mut self, slot: u32) {
        let link = &mut self.links[slot as usize];
        let Link {
            previous,
            next,
            place,
            ..
        } = *link;
        link.place = NOWHERE;
        if previous == NONE {
            self.bins[usize::from(place)] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.in_wheel -= 1;
    }

    /// Memory of the heap in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Reverse<Timer>>()
    }

    /// Takes all timers away, and forgets where time stood.
    pub fn clear(&mut self) {
        // In the order of memory, not of time: taken out of its list, each would drag its neighbours into the cache.
        for link in &mut self.links {
            link.place = NOWHERE;
        }
        self.bins.fill(NONE);
        self.occupied.fill(0);
        self.heap.clear();
        self.void = 0;
        self.in_wheel = 0;
        self.current_bin = None;
    }

    /// Takes out the next slot whose deadline is before `now`. `deadline_of` gives a slot's deadline and flow id.
    pub fn next_due(&mut self, now: i64, deadline_of: impl Fn(u32) -> (i64, u64)) -> Option<(u32, i64)> {
        loop {
            let current = self.current_bin?;
            while let Some(Reverse(timer)) = self.heap.peek().copied() {
                // Where a part of its bin is still in the wheel, that comes first. Every other timer in the wheel is later
                // than every timer in the heap.
                if timer.deadline >> BIN_SHIFT > current {
                    break;
                }
                if timer.deadline >= now {
                    return None;
                }
                self.heap.pop();
                if let Some(deadline) = self.take(timer, &deadline_of) {
                    return Some((timer.slot, deadline));
                }
            }
            if current >= now >> BIN_SHIFT {
                return None;
            }
            self.turn(now >> BIN_SHIFT, usize::MAX, &deadline_of);
        }
    }

    /// Takes out the slot that is due first, whenever that is, among those that are `silent`; of a bin with many slots
    /// one of the first that are found. Looks at no more than about `patience` slots that are not silent, whose deadline
    /// was postponed, or that come into the heap: then the next one is given as it is.
    pub fn first(
        &mut self,
        patience: usize,
        deadline_of: impl Fn(u32) -> (i64, u64),
        silent: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut patience = patience;
        let mut passed_over = Vec::new();
        let found = loop {
            let Some(Reverse(timer)) = self.heap.pop() else {
                if self.in_wheel == 0 {
                    break None;
                }
                if patience == 0 {
                    break self.take_next();
                }
                // Half of it, so that some is left for those that are not silent.
                patience -= self.turn(LAST_BIN, patience.div_ceil(2), &deadline_of);
                continue;
            };
            if !is_valid(&self.links, timer) {
                self.void = self.void.saturating_sub(1);
                continue;
            }
            if patience == 0 {
                self.release(timer.slot);
                break Some(timer.slot);
            }
            patience -= 1;
            if !silent(timer.slot) {
                passed_over.push(Reverse(timer));
            } else if self.take(timer, &deadline_of).is_some() {
                break Some(timer.slot);
            }
        };
        let mut passed_over = passed_over.into_iter();
        let found = found.or_else(|| {
            // Nothing but busy slots: the one that is due first.
            let Reverse(timer) = passed_over.next()?;
            self.release(timer.slot);
            Some(timer.slot)
        });
        self.heap.extend(passed_over);
        found
    }

    /// Takes out a slot of the next bin that has some, without a look at its deadline.
    fn take_next(&mut self) -> Option<u32> {
        let (_, place) = self.seek(LAST_BIN)?;
        let slot = self.bins[place];
        self.unlink(slot);
        Some(slot)
    }

    /// The deadline of a timer that was taken from the heap, if it is due; else puts it back where it belongs.
    fn take(&mut self, timer: Timer, deadline_of: impl Fn(u32) -> (i64, u64)) -> Option<i64> {
        if !is_valid(&self.links, timer) {
            self.void = self.void.saturating_sub(1);
            return None;
        }
        self.release(timer.slot);
        let (deadline, flow_id) = deadline_of(timer.slot);
        if deadline > timer.deadline {
            self.schedule(timer.slot, deadline, flow_id);
            return None;
        }
        Some(timer.deadline)
    }

    /// Moves the timers of the next bin that has some to the heap, or on to the bin where they belong by now; `most` of them
    /// at most, and says how many. Stops at bin `target`.
    fn turn(&mut self, target: i64, most: usize, deadline_of: impl Fn(u32) -> (i64, u64)) -> usize {
        let Some((bin, place)) = self.seek(target) else {
            return 0;
        };
        let mut moved = 0;
        while moved < most && self.bins[place] != NONE {
            let slot = self.bins[place];
            self.unlink(slot);
            let (deadline, flow_id) = deadline_of(slot);
            let later = deadline >> BIN_SHIFT;
            if later <= bin {
                self.push(slot, deadline, flow_id);
            } else {
                // Never into this bin again: as long as a part of it is left, the one before is the current one.
                self.link(slot, later, bin - 1);
            }
            moved += 1;
        }
        if self.bins[place] == NONE {
            self.occupied[place / 64] &= !(1 << (place % 64));
            self.current_bin = Some(bin);
        }
        moved
    }

    /// Goes on to just before the next bin that has timers, or to bin `target` if there is none up to that. Gives the number
    /// and the place of the bin.
    fn seek(&mut self, target: i64) -> Option<(i64, usize)> {
        let mut current = self.current_bin?;
        let found = loop {
            let bin = match self.next_occupied(current) {
                Some(bin) if bin <= target => bin,
                _ => {
                    current = current.max(target);
                    break None;
                }
            };
            let place = bin.rem_euclid(BINS as i64) as usize;
            if self.bins[place] != NONE {
                current = bin - 1;
                break Some((bin, place));
            }
            self.occupied[place / 64] &= !(1 << (place % 64));
            current = bin;
        };
        self.current_bin = Some(current);
        found
    }

    /// The next bin after `current` whose bit is set.
    fn next_occupied(&self, current: i64) -> Option<i64> {
        if self.in_wheel == 0 {
            return None;
        }
        let first = current.saturating_add(1);
        let start = first.rem_euclid(BINS as i64) as usize;
        // The word of the first bin is looked at twice: from that bin on, and at the end up to it.
        let words = self.occupied.len();
        (0..=words).find_map(|step| {
            let number = (start / 64 + step) % words;
            let all = self.occupied[number];
            let word = if step == 0 {
                all & (u64::MAX << (start % 64))
            } else {
                all
            };
            let place = number * 64 + word.trailing_zeros() as usize;
            (word != 0).then(|| first.saturating_add(((place + BINS - start) % BINS) as i64))
        })
    }

    /// A moment up to which nothing is due.
    #[inline]
    pub fn quiet_until(&self) -> i64 {
        let wheel = match self.current_bin {
            Some(bin) if self.in_wheel > 0 => bin.saturating_add(1).saturating_mul(1 << BIN_SHIFT),
            _ => i64::MAX,
        };
        self.heap
            .peek()
            .map_or(wheel, |Reverse(timer)| timer.deadline.min(wheel))
    }
}

/// Whether a timer of the heap is still its slot's.
fn is_valid(links: &[Link], timer: Timer) -> bool {
    let link = links[timer.slot as usize];
    link.place == HEAP && link.generation == timer.generation
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn gives_the_exact_order_and_nothing_early() {
        let mut expiry = Expiry::new(4);
        let deadlines = [5 * SECOND + 3, 5 * SECOND + 1, 5 * SECOND + 1, 4000 * SECOND];
        let deadline_of = |slot: u32| (deadlines[slot as usize], 9 - u64::from(slot));
        for slot in 0..4 {
            expiry.schedule(slot, deadlines[slot as usize], 9 - u64::from(slot));
        }
        assert!(expiry.quiet_until() <= deadlines[1]);
        assert_eq!(
            expiry.next_due(5 * SECOND + 1, deadline_of),
            None,
            "beyond the deadline, not at it"
        );
        assert_eq!(
            expiry.next_due(6 * SECOND, deadline_of),
            Some((2, deadlines[2])),
            "the lower flow id first"
        );
        assert_eq!(expiry.next_due(6 * SECOND, deadline_of), Some((1, deadlines[1])));
        assert_eq!(expiry.next_due(6 * SECOND, deadline_of), Some((0, deadlines[0])));
        assert_eq!(expiry.next_due(4000 * SECOND, deadline_of), None);
        assert_eq!(expiry.next_due(i64::MAX, deadline_of), Some((3, deadlines[3])));
        assert_eq!(expiry.next_due(i64::MAX, deadline_of), None);
        assert_eq!(expiry.quiet_until(), i64::MAX);
    }

    #[test]
    fn the_first_is_the_one_that_is_due_first_by_now() {
        let mut expiry = Expiry::new(3);
        for slot in 0..3 {
            expiry.schedule(slot, i64::from(slot) * SECOND, 0);
        }
        // Slot 0 was postponed.
        let deadline_of = |slot: u32| ([9, 1, 2][slot as usize] * SECOND, 0);
        assert_eq!(expiry.first(8, deadline_of, |_| true), Some(1));
        assert_eq!(
            expiry.first(8, deadline_of, |slot| slot != 2),
            Some(0),
            "2 is busy"
        );
        assert_eq!(
            expiry.first(8, deadline_of, |slot| slot != 2),
            Some(2),
            "there is no other"
        );
        assert_eq!(expiry.first(8, deadline_of, |_| true), None);
    }

    #[test]
    fn patience_is_bounded() {
        let mut expiry = Expiry::new(3);
        for slot in 0..3 {
            expiry.schedule(slot, i64::from(slot), 0);
        }
        assert_eq!(expiry.next_due(0, |slot| (i64::from(slot), 0)), None);
        assert_eq!(expiry.first(1, |_| (SECOND * 60, 0), |_| true), Some(1));
    }

    #[test]
    fn a_timer_far_ahead_of_an_empty_wheel_is_one_turn_away() {
        for begins in [None, Some(SECOND)] {
            let mut expiry = Expiry::new(1);
            if let Some(deadline) = begins {
                expiry.schedule(0, deadline, 0);
                assert_eq!(
                    expiry.next_due(2 * SECOND, |_| (deadline, 0)),
                    Some((0, deadline))
                );
                assert_eq!(expiry.next_due(2 * SECOND, |_| (deadline, 0)), None);
            }
            expiry.schedule(0, i64::MAX, 0);
            assert_eq!(expiry.turn(LAST_BIN, usize::MAX, |_| (i64::MAX, 0)), 1);
            assert!(!expiry.heap.is_empty(), "{begins:?}");
        }
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut expiry = Expiry::new(2);
        expiry.schedule(0, 100 * SECOND, 0);
        assert_eq!(expiry.next_due(50 * SECOND, |_| (100 * SECOND, 0)), None);
        for flow_id in 0..100_000 {
            // Due within the present bin: in the heap.
            expiry.schedule(1, 50 * SECOND, flow_id);
            expiry.cancel(1);
            assert!(expiry.heap.len() <= VOID_TIMERS + 1);
            assert_eq!(expiry.heap.len(), expiry.void);
        }
        assert!(expiry.heap_bytes() <= 4 * VOID_TIMERS * size_of::<Timer>());
        // What is left void goes as it comes up.
        assert_eq!(
            expiry.next_due(i64::MAX, |_| (100 * SECOND, 0)),
            Some((0, 100 * SECOND))
        );
        assert_eq!((expiry.heap.len(), expiry.void), (0, 0));
    }

    #[test]
    fn the_first_of_a_full_bin_is_found_with_a_few_looks() {
        const SLOTS: u32 = 1000;
        for postponed in [0, 60 * SECOND] {
            let mut expiry = Expiry::new(SLOTS as usize);
            for slot in 0..SLOTS {
                expiry.schedule(slot, i64::from(slot), 0);
            }
            let looks = Cell::new(0);
            let deadline_of = |slot: u32| {
                looks.set(looks.get() + 1);
                (i64::from(slot) + postponed, 0)
            };
            let mut left: Vec<u32> = (0..SLOTS).collect();
            // Not a multiple of what one look takes: something of the bin is left in the heap.
            for _ in 0..99 {
                looks.set(0);
                let first = expiry.first(8, deadline_of, |_| true).unwrap();
                assert!(looks.get() <= 8, "{}", looks.get());
                left.retain(|slot| *slot != first);
            }
            assert_eq!(left.len(), 901);
            // The parts of the bin come together again, in order.
            for slot in left {
                let due = expiry.next_due(i64::MAX, deadline_of);
                assert_eq!(due, Some((slot, i64::from(slot) + postponed)));
            }
            assert_eq!(expiry.next_due(i64::MAX, deadline_of), None);
        }
    }

    proptest! {
        /// Random schedules, postponements, cancellations, evictions and steps in time against a sorted map.
        #[test]
        fn behaves_like_a_sorted_map(
            steps in prop::collection::vec(
                (0_u32..6, 0_u8..5, prop_oneof![0..SECOND / 50, 0..3 * SECOND, 0..5000 * SECOND]),
                1..150,
            ),
        ) {
            let mut expiry = Expiry::new(6);
            let mut oracle: BTreeMap<u32, i64> = BTreeMap::new();
            let mut now = 0;
            for (slot, action, amount) in steps {
                match action {
                    0 => {
                        oracle.insert(slot, now + amount);
                        expiry.schedule(slot, now + amount, u64::from(slot));
                    }
                    1 => {
                        // Postponed: the timer is not told.
                        if let Some(deadline) = oracle.get_mut(&slot) {
                            *deadline += amount;
                        }
                    }
                    2 => {
                        oracle.remove(&slot);
                        expiry.cancel(slot);
                    }
                    3 => {
                        let patience = [0, 1, 2, 3, 100][amount as usize % 5];
                        let found = expiry.first(patience, |slot| (oracle[&slot], u64::from(slot)), |_| true);
                        prop_assert_eq!(found.is_none(), oracle.is_empty());
                        if let Some(slot) = found {
                            let first = oracle.values().min().copied();
                            let deadline = oracle.remove(&slot);
                            let same_bin = deadline.map(|at| at >> BIN_SHIFT) == first.map(|at| at >> BIN_SHIFT);
                            prop_assert!(patience < 100 || same_bin);
                        }
                    }
                    _ => {
                        now += amount;
                        let mut expected: Vec<_> = oracle.iter().map(|(slot, deadline)| (*deadline, *slot)).collect();
                        expected.retain(|(deadline, _)| *deadline < now);
                        expected.sort_unstable();
                        for (deadline, slot) in expected {
                            let due = expiry.next_due(now, |slot| (oracle[&slot], u64::from(slot)));
                            prop_assert_eq!(due, Some((slot, deadline)));
                            oracle.remove(&slot);
                        }
                        prop_assert_eq!(expiry.next_due(now, |slot| (oracle[&slot], u64::from(slot))), None);
                        prop_assert!(oracle.values().all(|deadline| *deadline >= expiry.quiet_until()));
                    }
                }
            }
        }
    }
}
