//! The flow table.

use wire::flowkey::FlowKey;

use super::expiry::Expiry;
use super::index::{Index, tag_of};
use super::memory::{ask_for, ask_for_head, on_huge_pages};
use super::state::{Cold, FLOW_BYTES, Flow, Hot, Side, Timeouts};

/// The table holds as many flows as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What becomes of a flow after it was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It stays, and its deadline is what it was or later.
    Keep,
    /// It stays, and its deadline may be earlier than before.
    Reschedule,
    /// It goes.
    Remove,
}

/// A bounded table of flows with their timers.
///
/// Flows are reached through closures, so that no reference to a flow outlives the call: a table with locks inside fits
/// the same contract.
pub trait FlowTable {
    /// Visits the flow of `key`; makes it if there is none (then the visitor is told so and must fill it in).
    fn with<R>(
        &mut self,
        key: &FlowKey,
        hash: u64,
        visit: impl FnOnce(Flow<'_>, bool) -> (R, Next),
    ) -> Result<R, TableFull>;

    /// Asks for the memory that leads to the flow of a packet that will come soon.
    fn prefetch_bucket(&self, hash: u64);

    /// Asks for the memory of that flow, the former having come: for what packets of both directions look at.
    fn prefetch_flow(&self, hash: u64);

    /// Asks for what few packets of that flow touch.
    fn prefetch_cold(&self, hash: u64);

    /// The flow that is probably the one, the former having come, to ask for what it leads to.
    fn peek(&self, hash: u64) -> Option<&Hot>;

    /// Visits every flow whose deadline is before `now`, in the order of deadline and flow id. The visitor is given the
    /// deadline.
    fn expire(&mut self, now: i64, visit: impl FnMut(Flow<'_>, i64) -> Next);

    /// A moment up to which nothing is due.
    fn quiet_until(&self) -> i64;

    /// Takes out the flow that has been silent for longest, or nearly so. False if the table is empty.
    fn evict(&mut self, visit: impl FnOnce(Flow<'_>)) -> bool;

    /// Takes out all flows, in the order of their ids. Time may begin anew afterwards, also earlier.
    fn drain(&mut self, visit: impl FnMut(Flow<'_>));

    /// Uses other timeouts from now on. Where they are shorter, flows that they make due earlier are found within the
    /// next calls of [`FlowTable::settle`].
    fn set_timeouts(&mut self, timeouts: Timeouts);

    /// Does a bounded part of the work that [`FlowTable::set_timeouts`] left.
    fn settle(&mut self);

    /// Memory of the flows and of their timers in bytes, also of places that are free.
    fn bytes(&self) -> usize;

    /// From now on takes at most so many bytes more, and never more than at the start.
    fn limit_growth(&mut self, bytes: usize);

    /// Flows that the table may hold now.
    fn places(&self) -> usize;

    /// Flows in the table.
    fn len(&self) -> usize;

    /// Whether the table holds no flow.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How many flows an eviction looks at in search of one that is silent: bounds the time that one packet can take.
const EVICTION_PATIENCE: usize = 64;

/// Slots whose timers [`FlowTable::settle`] sets anew in one call: a fraction of a millisecond.
const SETTLED_SLOTS: usize = 8192;

/// Flows whose memory is asked for before a draining table gets to them.
const DRAINED_AHEAD: usize = 8;

/// The table of one worker: no locks, all memory reserved at the start.
#[derive(Debug)]
pub struct Local {
    index: Index,
    hot: Vec<Hot>,
    cold: Vec<Cold>,
    /// Slots of `hot` and `cold` that are not in use.
    free: Vec<u32>,
    expiry: Expiry,
    timeouts: Timeouts,
    /// Slots from this one on have timers that fit the timeouts.
    unsettled: usize,
    capacity: usize,
    /// Places that there may be now.
    limit: usize,
}

impl Local {
    /// A table for `capacity` flows, at most [`super::MAX_FLOWS`].
    pub fn new(capacity: usize, timeouts: Timeouts) -> Self {
        let capacity = capacity.clamp(1, super::MAX_FLOWS);
        let (hot, cold) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        on_huge_pages(&hot);
        on_huge_pages(&cold);
        Self {
            index: Index::new(capacity),
            hot,
            cold,
            free: Vec::new(),
            expiry: Expiry::new(capacity),
            timeouts,
            unsettled: 0,
            capacity,
            limit: capacity,
        }
    }

    fn deadline_of(hot: &[Hot], cold: &[Cold], timeouts: Timeouts) -> impl Fn(u32) -> (i64, u64) {
        move |slot| (hot[slot as usize].deadline(timeouts), cold[slot as usize].flow_id)
    }

    fn schedule(&mut self, slot: u32) {
        let (deadline, flow_id) = Self::deadline_of(&self.hot, &self.cold, self.timeouts)(slot);
        self.expiry.schedule(slot, deadline, flow_id);
    }

    fn remove(&mut self, slot: u32) {
        self.expiry.cancel(slot);
        self.index.remove(self.hot[slot as usize].tag, slot);
        self.free.push(slot);
    }

    fn flow(&mut self, slot: u32) -> Flow<'_> {
        Flow {
            hot: &mut self.hot[slot as usize],
            cold: &mut self.cold[slot as usize],
        }
    }

    /// A slot for a new flow.
    fn allocate(&mut self, key: &FlowKey, tag: u32) -> Result<u32, TableFull> {
        if let Some(slot) = self.free.pop() {
            self.hot[slot as usize] = Hot::new(*key, tag);
            self.cold[slot as usize] = Cold::default();
            return Ok(slot);
        }
        if self.hot.len() >= self.limit {
            return Err(TableFull);
        }
        self.hot.push(Hot::new(*key, tag));
        self.cold.push(Cold::default());
        Ok((self.hot.len() - 1) as u32)
    }
}

impl FlowTable for Local {
    #[inline]
    fn with<R>(
        &mut self,
        key: &FlowKey,
        hash: u64,
        visit: impl FnOnce(Flow<'_>, bool) -> (R, Next),
    ) -> Result<R, TableFull> {
        let tag = tag_of(hash);
        let hot = &self.hot;
        let known = self.index.find(tag, |slot| hot[slot as usize].key == *key);
        let (slot, fresh) = if let Some(slot) = known {
            (slot, false)
        } else {
            let slot = self.allocate(key, tag)?;
            self.index.insert(tag, slot);
            (slot, true)
        };
        let (result, next) = visit(self.flow(slot), fresh);
        match next {
            Next::Keep if !fresh => {}
            Next::Keep | Next::Reschedule => self.schedule(slot),
            Next::Remove => self.remove(slot),
        }
        Ok(result)
    }

    #[inline]
    fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(tag_of(hash));
    }

    #[inline]
    fn prefetch_flow(&self, hash: u64) {
        if let Some(slot) = self.index.candidate(tag_of(hash)) {
            let head = std::mem::offset_of!(Hot, sides) + Side::SHARED_BYTES;
            ask_for_head(&self.hot, slot as usize, head);
            if let Some(hot) = self.hot.get(slot as usize) {
                ask_for_head(&hot.sides, 1, Side::SHARED_BYTES);
            }
        }
    }

    #[inline]
    fn prefetch_cold(&self, hash: u64) {
        if let Some(slot) = self.index.candidate(tag_of(hash)) {
            ask_for(&self.cold, slot as usize);
        }
    }

    #[inline]
    fn peek(&self, hash: u64) -> Option<&Hot> {
        let slot = self.index.candidate(tag_of(hash))?;
        self.hot.get(slot as usize)
    }

    fn expire(&mut self, now: i64, mut visit: impl FnMut(Flow<'_>, i64) -> Next) {
        loop {
            let deadline_of = Self::deadline_of(&self.hot, &self.cold, self.timeouts);
            let Some((slot, deadline)) = self.expiry.next_due(now, deadline_of) else {
                return;
            };
            match visit(self.flow(slot), deadline) {
                Next::Keep | Next::Reschedule => self.schedule(slot),
                Next::Remove => self.remove(slot),
            }
        }
    }

    #[inline]
    fn quiet_until(&self) -> i64 {
        self.expiry.quiet_until()
    }

    fn evict(&mut self, visit: impl FnOnce(Flow<'_>)) -> bool {
        let deadline_of = Self::deadline_of(&self.hot, &self.cold, self.timeouts);
        // A busy flow whose active timeout is near is due, but not silent.
        let silent = |slot: u32| {
            let hot = &self.hot[slot as usize];
            hot.deadline(self.timeouts) == hot.idle_deadline(self.timeouts)
        };
        let Some(slot) = self.expiry.first(EVICTION_PATIENCE, deadline_of, silent) else {
            return false;
        };
        visit(self.flow(slot));
        self.remove(slot);
        true
    }

    fn drain(&mut self, mut visit: impl FnMut(Flow<'_>)) {
        let mut slots: Vec<(u64, u32)> = Vec::with_capacity(self.len());
        let mut used = vec![true; self.hot.len()];
        for slot in &self.free {
            used[*slot as usize] = false;
        }
        let in_use = used
            .iter()
            .enumerate()
            .filter(|(_, used)| **used)
            .map(|(slot, _)| slot as u32);
        slots.extend(in_use.map(|slot| (self.cold[slot as usize].flow_id, slot)));
        slots.sort_unstable();
        for (place, (_, slot)) in slots.iter().enumerate() {
            let slot = *slot;
            if let Some((_, soon)) = slots.get(place + DRAINED_AHEAD) {
                ask_for(&self.hot, *soon as usize);
                ask_for(&self.cold, *soon as usize);
                self.index.prefetch(self.hot[slot as usize].tag);
            }
            visit(self.flow(slot));
            self.index.remove(self.hot[slot as usize].tag, slot);
            self.free.push(slot);
        }
        self.expiry.clear();
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        // Timers are lower bounds: those of longer timeouts come up too late, those of shorter ones set themselves anew.
        self.unsettled = self.hot.len();
    }

    fn settle(&mut self) {
        let from = self.unsettled.saturating_sub(SETTLED_SLOTS);
        for slot in from..std::mem::replace(&mut self.unsettled, from) {
            if self.expiry.is_scheduled(slot as u32) {
                self.schedule(slot as u32);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.hot.len() * FLOW_BYTES + self.expiry.heap_bytes()
    }

    fn limit_growth(&mut self, bytes: usize) {
        self.limit = (self.hot.len() + bytes / FLOW_BYTES).clamp(1, self.capacity);
    }

    fn places(&self) -> usize {
        // Those that were taken once stay.
        self.limit.max(self.hot.len())
    }

    fn len(&self) -> usize {
        self.hot.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::meter::tests::Frame;

    #[test]
    fn timers_that_are_to_be_sorted_count_as_memory() {
        let timeouts = Timeouts {
            idle: 10,
            active: 10,
            since: 0,
        };
        let mut table = Local::new(4, timeouts);
        let frame = Frame::udp(1, 2);
        let packet = frame.packet();
        let visit = |mut flow: Flow<'_>, _| {
            flow.begin(&packet, None, 1);
            flow.hot.seen = 5;
            ((), Next::Keep)
        };
        assert_eq!(table.with(&packet.key, packet.hash, visit), Ok(()));
        assert_eq!(table.bytes(), FLOW_BYTES);
        // The present bin is worked off, and nothing in it is due yet.
        table.expire(1, |_, _| panic!("it is not due"));
        assert!(table.bytes() > FLOW_BYTES);
    }
}
