//! The events of several workers in one order.

use std::collections::VecDeque;

use crossbeam_channel::Receiver;

use crate::flow::Order;
use crate::flow::meter::Event;

/// What a worker tells the merge.
#[derive(Debug)]
pub struct Report {
    /// Events in order.
    pub events: Vec<Event>,
    /// Everything that the worker will report later comes after this; `None` where only the events tell.
    pub reached: Option<Order>,
}

#[derive(Debug)]
struct Input {
    reports: Receiver<Report>,
    events: VecDeque<Event>,
    /// Nothing that is still to come is before this; `None` if nothing at all is still to come.
    reached: Option<Order>,
}

impl Input {
    /// The earliest that may come next, and whether it is there; nothing if the worker has ended.
    fn next(&self) -> Option<(Order, bool)> {
        match self.events.front() {
            Some(event) => Some((event.order(), true)),
            None => self.reached.map(|reached| (reached, false)),
        }
    }

    /// Waits for the worker's next report.
    fn wait(&mut self) {
        match self.reports.recv() {
            Ok(Report { events, reached }) => {
                let last = events.last().map(Event::order);
                self.reached = self.reached.max(last).max(reached);
                self.events.extend(events);
            }
            Err(_) => self.reached = None,
        }
    }
}

/// Merges what workers report.
#[derive(Debug)]
pub struct Merge {
    inputs: Vec<Input>,
}

impl Merge {
    /// Merges what comes from these.
    pub fn new(reports: Vec<Receiver<Report>>) -> Self {
        let before_all = Order {
            epoch: 0,
            export_time: i64::MIN,
            frame: 0,
            flow_id: 0,
            interim_number: 0,
        };
        let input = |reports| Input {
            reports,
            events: VecDeque::new(),
            reached: Some(before_all),
        };
        Self {
            inputs: reports.into_iter().map(input).collect(),
        }
    }

    /// The next event of all; waits for it. `None` when all workers have ended.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            // On a tie, an event that is there goes before one that may come: what comes is after what was reached.
            let earliest = self
                .inputs
                .iter_mut()
                .filter_map(|input| input.next().map(|(order, there)| (order, !there, input)))
                .min_by_key(|(order, not_there, _)| (*order, *not_there));
            let (_, not_there, input) = earliest?;
            if not_there {
                input.wait();
            } else {
                return input.events.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;
    use proptest::prelude::*;

    use super::*;
    use crate::flow::facts::Answer;
    use crate::flow::meter::tests::A;

    fn event(clock: i64, frame: u64) -> Event {
        Event::Answer(Answer {
            epoch: 0,
            clock,
            frame,
            time: 0,
            client: A,
            address: A,
            name: "".into(),
        })
    }

    proptest! {
        /// However events are dealt out to workers and cut into reports, they come out in order, and none is lost.
        #[test]
        fn merges_in_order(
            dealt in prop::collection::vec((0_usize..3, 0_i64..3, any::<bool>()), 0..60),
        ) {
            let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| unbounded()).unzip();
            let mut clock = 0;
            let mut all = Vec::new();
            let mut waiting = [const { Vec::new() }; 3];
            for (frame, (worker, step, cut)) in dealt.into_iter().enumerate() {
                clock += step;
                all.push((clock, frame as u64));
                waiting[worker].push(event(clock, frame as u64));
                if cut {
                    let reached = Some(event(clock, frame as u64).order());
                    for (sender, events) in senders.iter().zip(&mut waiting) {
                        sender.send(Report { events: std::mem::take(events), reached }).unwrap();
                    }
                }
            }
            for (sender, events) in senders.into_iter().zip(waiting) {
                sender.send(Report { events, reached: None }).unwrap();
            }
            let mut merge = Merge::new(receivers);
            let merged: Vec<_> = std::iter::from_fn(|| merge.next())
                .map(|event| (event.order().export_time, event.order().frame))
                .collect();
            prop_assert_eq!(merged, all);
        }
    }

    #[test]
    fn an_event_leaves_when_no_worker_can_have_an_earlier_one() {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| unbounded()).unzip();
        let mut merge = Merge::new(receivers);
        senders[0]
            .send(Report {
                events: vec![event(5, 1)],
                reached: None,
            })
            .unwrap();
        // The other worker has no event, but has got as far.
        senders[1]
            .send(Report {
                events: vec![],
                reached: Some(event(5, 1).order()),
            })
            .unwrap();
        assert_eq!(merge.next().map(|event| event.order().frame), Some(1));
        drop(senders);
        assert!(merge.next().is_none());
    }
}
