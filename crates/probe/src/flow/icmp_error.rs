//! ICMP errors, counted for the flows that they quote.
//!
//! An ICMP error comes from a router or a host and carries the first bytes of the packet that caused it. It is a packet
//! of the flow between its own addresses; for the flow that it quotes it is a fact from elsewhere: that flow may belong
//! to another worker. So it is noted when it passes and counted after the ordered merge, when the quoted flow's record
//! leaves, and the result is the same with any number of workers. Bounded: of the flows with errors the latest
//! [`MAX_FLOWS`] are known. When the clock is turned back, all flows of the epoch before have left: what still waits is
//! forgotten.

use std::collections::{HashMap, VecDeque};

use wire::flowkey::FlowKey;

use super::meter::Seen;
use super::{EndedFlow, Order};
use crate::counters::Tally;

/// Most flows whose errors are kept at a time.
pub const MAX_FLOWS: usize = 1 << 14;

/// Times kept of the errors of a flow; further errors count with the last of them.
const TIMES: usize = 8;

/// An ICMP error that quotes a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    key: FlowKey,
    /// See [`EndedFlow::epoch`].
    epoch: u64,
    clock: i64,
    frame: u64,
    time: i64,
}

impl IcmpError {
    /// An error that was seen at some moment of an epoch and quotes the flow of `key`.
    pub fn new(key: FlowKey, epoch: u64, seen: Seen) -> Self {
        Self {
            key,
            epoch,
            clock: seen.clock,
            frame: seen.frame,
            time: seen.time,
        }
    }

    /// The key of the flow that it quotes.
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// Its place among the records.
    pub fn order(&self) -> Order {
        Order {
            epoch: self.epoch,
            export_time: self.clock,
            frame: self.frame,
            flow_id: 0,
            interim_number: 0,
        }
    }
}

/// The errors that wait for their flow's record.
#[derive(Debug)]
pub struct IcmpErrors {
    /// Timestamps and how many errors each stands for.
    flows: HashMap<FlowKey, Vec<(i64, u64)>>,
    /// Flows in the order in which they got their first error; a flow may be here that has left `flows`.
    order: VecDeque<FlowKey>,
    capacity: usize,
    epoch: u64,
}

impl Default for IcmpErrors {
    fn default() -> Self {
        Self::new(MAX_FLOWS)
    }
}

impl IcmpErrors {
    /// Room for the errors of this many flows.
    pub fn new(capacity: usize) -> Self {
        Self {
            flows: HashMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            epoch: 0,
        }
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Keeps an error.
    pub fn keep(&mut self, error: IcmpError, tally: &mut Tally) {
        self.enter(error.epoch, tally);
        if !self.flows.contains_key(&error.key) {
            if self.order.len() >= self.capacity {
                self.forget_oldest(tally);
            }
            self.order.push_back(error.key);
        }
        tally.icmp_errors_waiting += 1;
        let times = self.flows.entry(error.key).or_default();
        if times.len() < TIMES {
            times.push((error.time, 1));
        } else if let Some((time, count)) = times.last_mut() {
            *time = error.time.max(*time);
            *count += 1;
        }
    }

    fn forget_oldest(&mut self, tally: &mut Tally) {
        if let Some(oldest) = self.order.pop_front()
            && let Some(times) = self.flows.remove(&oldest)
        {
            forget(&times, tally);
        }
    }

    /// Of the epochs before the one that comes, no flow is left. Workers of a live probe turn their clocks back on their
    /// own: what comes from one that is behind is taken as it is.
    fn enter(&mut self, epoch: u64, tally: &mut Tally) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.order.clear();
            self.flows.drain().for_each(|(_, times)| forget(&times, tally));
        }
    }

    /// Counts the errors that quote a record's flow for it. Those from before the flow began quote an earlier flow with
    /// the same key, of which the capture has nothing; a later part of a flow takes all.
    pub fn apply(&mut self, flow: &mut EndedFlow, tally: &mut Tally) {
        self.enter(flow.epoch, tally);
        if self.flows.is_empty() {
            return;
        }
        let Some(times) = self.flows.remove(&flow.key()) else {
            return;
        };
        let since = if flow.record.interim_number == 0 {
            flow.record.start_time.0
        } else {
            i64::MIN
        };
        let (taken, earlier): (Vec<_>, Vec<_>) = times.into_iter().partition(|(time, _)| *time >= since);
        flow.record.icmp_errors = count(&taken);
        tally.icmp_errors_attributed += flow.record.icmp_errors;
        tally.icmp_errors_waiting -= flow.record.icmp_errors;
        forget(&earlier, tally);
        // Keys whose errors were taken leave the queue when they come to its head, or when they are too many.
        while self
            .order
            .front()
            .is_some_and(|key| !self.flows.contains_key(key))
        {
            self.order.pop_front();
        }
    }
}

fn count(times: &[(i64, u64)]) -> u64 {
    times.iter().map(|(_, count)| count).sum()
}

/// Gives up errors that waited.
fn forget(times: &[(i64, u64)], tally: &mut Tally) {
    let errors = count(times);
    tally.icmp_errors_waiting -= errors;
    tally.icmp_errors_forgotten += errors;
}

#[cfg(test)]
mod tests {
    use wire::column::{Address, Time};

    use super::*;
    use crate::flow::FlowRecord;

    /// Attributed, forgotten, waiting.
    fn books(tally: &Tally) -> (u64, u64, u64) {
        (
            tally.icmp_errors_attributed,
            tally.icmp_errors_forgotten,
            tally.icmp_errors_waiting,
        )
    }

    fn flow(host: u16, start: i64, interim_number: u32) -> EndedFlow {
        let [high, low] = host.to_be_bytes();
        EndedFlow {
            epoch: 0,
            export_time: 0,
            closing_frame: 0,
            scope: 0,
            record: FlowRecord {
                ip_version: 4,
                ip_protocol: 17,
                src_ip: Address::v4([192, 0, 2, 1]),
                src_port: 4000,
                dst_ip: Address::v4([10, 0, high, low]),
                dst_port: 53,
                start_time: Time(start),
                interim_number,
                ..FlowRecord::default()
            },
            features: None,
            session: None,
        }
    }

    fn error(host: u16, time: i64) -> IcmpError {
        let seen = Seen {
            time,
            clock: time,
            frame: 1,
            wire_length: 70,
        };
        IcmpError::new(flow(host, 0, 0).key(), 0, seen)
    }

    #[test]
    fn errors_count_once_for_the_record_that_they_quote() {
        let (mut errors, mut tally) = (IcmpErrors::default(), Tally::default());
        for time in 5..25 {
            errors.keep(error(1, time), &mut tally);
        }
        let mut other = flow(2, 0, 0);
        errors.apply(&mut other, &mut tally);
        let mut first = flow(1, 7, 0);
        errors.apply(&mut first, &mut tally);
        assert_eq!((other.record.icmp_errors, first.record.icmp_errors), (0, 18));
        // Those from before the flow began are another one's, which is not known.
        assert_eq!(books(&tally), (18, 2, 0));
        let mut again = flow(1, 30, 0);
        errors.apply(&mut again, &mut tally);
        assert_eq!(again.record.icmp_errors, 0);
        // Between two parts of a flow: the later one has it.
        errors.keep(error(1, 31), &mut tally);
        let mut part = flow(1, 40, 1);
        errors.apply(&mut part, &mut tally);
        assert_eq!(part.record.icmp_errors, 1);
        assert_eq!(books(&tally), (19, 2, 0));
        assert!(errors.flows.is_empty() && errors.order.is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let (mut errors, mut tally) = (IcmpErrors::default(), Tally::default());
        for host in 0..=MAX_FLOWS as u16 {
            errors.keep(error(host, 1), &mut tally);
        }
        assert_eq!(books(&tally), (0, 1, MAX_FLOWS as u64));
        assert_eq!((errors.flows.len(), errors.order.len()), (MAX_FLOWS, MAX_FLOWS));
        let mut oldest = flow(0, 0, 0);
        errors.apply(&mut oldest, &mut tally);
        assert_eq!(oldest.record.icmp_errors, 0);
    }

    #[test]
    fn errors_of_an_epoch_count_for_no_flow_of_another() {
        let (mut errors, mut tally) = (IcmpErrors::default(), Tally::default());
        for host in 0..3 {
            errors.keep(error(host, 5), &mut tally);
        }
        let mut later = flow(0, 0, 0);
        later.epoch = 1;
        errors.apply(&mut later, &mut tally);
        assert_eq!(later.record.icmp_errors, 0);
        assert_eq!(books(&tally), (0, 3, 0));
        errors.keep(
            IcmpError {
                epoch: 1,
                ..error(0, 6)
            },
            &mut tally,
        );
        errors.keep(
            IcmpError {
                epoch: 2,
                ..error(0, 6)
            },
            &mut tally,
        );
        assert_eq!(books(&tally), (0, 4, 1));
    }
}
