//! One flow table for all workers, over `DashMap`: built to be measured against [`super::table::Local`] (see
//! `docs/decisions`), behind the cargo feature `shared-table`.
//!
//! A handle is cloned for each worker. Every access takes the lock of a shard; timers are one ordered set behind another
//! lock. What a shared map cannot give is the order of a flow's packets: workers that are not steered by flow visit it
//! in whatever order they get there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use wire::flowkey::FlowKey;

use super::hashed::{BuildGiven, Hashed};
use super::index::tag_of;
use super::state::{Cold, FLOW_BYTES, Flow, Hot, Timeouts};
use super::table::{FlowTable, Next, TableFull};

/// Deadlines, each a lower bound, by flow id; with the key that leads to the flow.
type Timers = BTreeMap<(i64, u64), Hashed<FlowKey>>;

/// A handle to the table of all workers.
#[derive(Clone, Debug)]
pub struct Shared {
    flows: Arc<DashMap<Hashed<FlowKey>, (Hot, Cold), BuildGiven>>,
    timers: Arc<Mutex<Timers>>,
    count: Arc<AtomicUsize>,
    timeouts: Timeouts,
    capacity: usize,
}

impl Shared {
    /// A table for `capacity` flows of all workers together.
    pub fn new(capacity: usize, timeouts: Timeouts) -> Self {
        Self {
            flows: Arc::new(DashMap::with_capacity_and_hasher(capacity, BuildGiven::default())),
            timers: Arc::default(),
            count: Arc::default(),
            timeouts,
            capacity: capacity.max(1),
        }
    }

    /// A panic elsewhere cannot leave the set half changed.
    fn timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(&self, key: Hashed<FlowKey>, hot: &Hot, cold: &Cold) {
        self.timers()
            .insert((hot.deadline(self.timeouts), cold.flow_id), key);
    }

    /// Removes the flow and counts it out.
    fn remove(&self, key: &Hashed<FlowKey>) {
        if self.flows.remove(key).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl FlowTable for Shared {
    #[inline]
    fn with<R>(
        &mut self,
        key: &FlowKey,
        hash: u64,
        visit: impl FnOnce(Flow<'_>, bool) -> (R, Next),
    ) -> Result<R, TableFull> {
        let hashed = Hashed { hash, key: *key };
        let (mut slot, fresh) = match self.flows.entry(hashed) {
            Entry::Occupied(entry) => (entry.into_ref(), false),
            Entry::Vacant(entry) => {
                if self.count.fetch_add(1, Ordering::Relaxed) >= self.capacity {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Err(TableFull);
                }
                (
                    entry.insert((Hot::new(*key, tag_of(hash)), Cold::default())),
                    true,
                )
            }
        };
        let (hot, cold) = slot.value_mut();
        let (result, next) = visit(Flow { hot, cold }, fresh);
        match next {
            Next::Keep if !fresh => {}
            Next::Keep | Next::Reschedule => self.schedule(hashed, hot, cold),
            Next::Remove => {
                drop(slot);
                self.remove(&hashed);
            }
        }
        Ok(result)
    }

    fn prefetch_bucket(&self, _: u64) {}

    fn prefetch_flow(&self, _: u64) {}

    fn prefetch_cold(&self, _: u64) {}

    fn peek(&self, _: u64) -> Option<&Hot> {
        None
    }

    fn expire(&mut self, now: i64, mut visit: impl FnMut(Flow<'_>, i64) -> Next) {
        loop {
            let due = {
                let mut timers = self.timers();
                match timers.first_entry() {
                    Some(first) if first.key().0 < now => first.remove_entry(),
                    _ => return,
                }
            };
            let ((deadline, flow_id), key) = due;
            // A flow that has gone, or whose key another one has by now, needs no timer.
            let Some(mut slot) = self.flows.get_mut(&key).filter(|slot| slot.1.flow_id == flow_id) else {
                continue;
            };
            let (hot, cold) = slot.value_mut();
            let later = hot.deadline(self.timeouts);
            let next = if later > deadline {
                Next::Reschedule
            } else {
                visit(Flow { hot, cold }, deadline)
            };
            match next {
                Next::Keep | Next::Reschedule => self.schedule(key, hot, cold),
                Next::Remove => {
                    drop(slot);
                    self.remove(&key);
                }
            }
        }
    }

    fn quiet_until(&self) -> i64 {
        self.timers()
            .first_key_value()
            .map_or(i64::MAX, |((deadline, _), _)| *deadline)
    }

    fn evict(&mut self, visit: impl FnOnce(Flow<'_>)) -> bool {
        loop {
            let first = self.timers().pop_first();
            let Some(((deadline, flow_id), key)) = first else {
                return false;
            };
            let Some(mut slot) = self.flows.get_mut(&key).filter(|slot| slot.1.flow_id == flow_id) else {
                continue;
            };
            let (hot, cold) = slot.value_mut();
            if hot.deadline(self.timeouts) > deadline {
                self.schedule(key, hot, cold);
                continue;
            }
            visit(Flow { hot, cold });
            drop(slot);
            self.remove(&key);
            return true;
        }
    }

    fn drain(&mut self, mut visit: impl FnMut(Flow<'_>)) {
        let mut keys: Vec<(u64, Hashed<FlowKey>)> = self
            .flows
            .iter()
            .map(|flow| (flow.value().1.flow_id, *flow.key()))
            .collect();
        keys.sort_unstable_by_key(|(flow_id, _)| *flow_id);
        for (_, key) in keys {
            if let Some((_, (mut hot, mut cold))) = self.flows.remove(&key) {
                self.count.fetch_sub(1, Ordering::Relaxed);
                visit(Flow {
                    hot: &mut hot,
                    cold: &mut cold,
                });
            }
        }
        self.timers().clear();
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        // The locks of flows come before that of the timers, everywhere.
        let timers = self.flows.iter().map(|flow| {
            let (hot, cold) = flow.value();
            ((hot.deadline(timeouts), cold.flow_id), *flow.key())
        });
        let timers: Timers = timers.collect();
        *self.timers() = timers;
    }

    fn settle(&mut self) {}

    fn places(&self) -> usize {
        self.capacity
    }

    fn bytes(&self) -> usize {
        self.len() * FLOW_BYTES
    }

    fn limit_growth(&mut self, _: usize) {}

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Settings;
    use crate::flow::meter::tests::{Bench, CRYPTO, Frame, SECOND};
    use crate::flow::meter::{Meter, Seen};
    use crate::flow::tcp::{ACK, FIN, RST, SYN};

    proptest! {
        /// Steered by flow, which one worker is, the shared table gives the records of the local one.
        #[test]
        fn one_worker_gets_the_same_records(
            steps in prop::collection::vec((0_i64..200, 0_u16..4, 0_usize..6), 1..100),
        ) {
            let timeouts = Timeouts { idle: 20 * SECOND, active: 45 * SECOND, since: i64::MIN };
            let change = |settings: &mut Settings| {
                settings.idle_timeout_ns = timeouts.idle;
                settings.active_timeout_ns = timeouts.active;
            };
            let mut local = Bench::new(change);
            let mut settings = Settings { sessions: 64, ..Settings::for_memory(1 << 20) };
            change(&mut settings);
            let mut shared = Meter::with_table(Shared::new(1024, timeouts), &settings, &CRYPTO);
            let mut events = Vec::new();
            let mut time = 0;
            for (step, port, kind) in steps {
                time += step * SECOND / 10;
                let flags = [SYN, SYN | ACK, ACK, FIN | ACK, RST];
                let mut frame = match flags.get(kind) {
                    Some(flags) => Frame::tcp(*flags, 1, 1),
                    None => Frame::udp(7, 8),
                };
                frame.source.1 += port;
                local.at(time, &frame);
                let seen = Seen { time, clock: time, frame: local.frames, wire_length: frame.ip_length() + 14 };
                shared.packet(&frame.packet(), seen, &mut |event| events.push(format!("{event:?}")));
            }
            local.flush();
            shared.flush(time, &mut |event| events.push(format!("{event:?}")));
            let expected: Vec<_> = local.events.iter().map(|event| format!("{event:?}")).collect();
            prop_assert_eq!(events, expected);
            prop_assert!(shared.flows() == 0);
        }
    }

    #[test]
    fn handles_share_their_flows_and_the_limit() {
        let timeouts = Timeouts {
            idle: 10,
            active: 10,
            since: 0,
        };
        let mut one = Shared::new(2, timeouts);
        let mut other = one.clone();
        let visit = |table: &mut Shared, port: u16| {
            let frame = Frame::udp(port, 99);
            let packet = frame.packet();
            table.with(&packet.key, packet.hash, |mut flow, fresh| {
                if fresh {
                    flow.begin(&packet, None, u64::from(port));
                    flow.hot.seen = i64::from(port);
                }
                (fresh, Next::Keep)
            })
        };
        assert_eq!(visit(&mut one, 1), Ok(true));
        assert_eq!(visit(&mut other, 1), Ok(false));
        assert_eq!(visit(&mut other, 2), Ok(true));
        assert_eq!(visit(&mut one, 3), Err(TableFull));
        let mut evicted = 0;
        assert!(one.evict(|flow| evicted = flow.cold.flow_id));
        assert_eq!((evicted, other.len()), (1, 1));
        assert_eq!(visit(&mut one, 3), Ok(true));
    }
}
