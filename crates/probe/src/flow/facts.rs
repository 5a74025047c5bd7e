//! What flows learn from other flows: names from DNS answers.
//!
//! A DNS answer that a client got gives its name to later flows of that client to that address, where these carry no
//! name themselves. Answers are taken at the moment when they pass, and applied after the ordered merge, to records that
//! began later, also where they are later parts of a flow that began before: so the result is the same with any number of
//! workers, though the two flows may belong to different ones. Bounded in memory: of one client and address the latest few answers are kept, and the oldest pairs go first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::column::Address;
use wire::flowkey::{FlowKey, KeyHasher, steering, worker_of};

use super::hashed::{BuildGiven, Hashed};
use super::icmp_error::{self, IcmpError, IcmpErrors};
use super::{EndedFlow, Order};
use crate::counters::{Published, Tally};

/// What a client and address take in memory, about, without their names.
pub const NAME_BYTES: usize = 256;

/// What a name takes beside its bytes, about: its place, and what the allocator adds.
const NAME_OVERHEAD_BYTES: usize = 64;

/// Names kept of one client and address.
const NAMES_OF_A_PAIR: usize = 4;

/// An address that a client got for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// See [`EndedFlow::epoch`].
    pub epoch: u64,
    /// Clock when it passed.
    pub clock: i64,
    /// The frame that it came in.
    pub frame: u64,
    /// Timestamp of that frame.
    pub time: i64,
    /// Who asked.
    pub client: Address,
    /// The address that was the answer.
    pub address: Address,
    /// The name that was asked for; the answers of one message share it.
    pub name: Arc<str>,
}

impl Answer {
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

/// A client and an address that it got.
type Pair = Hashed<(Address, Address)>;

/// The names of a client and address, each with the time of its answer.
#[derive(Debug)]
struct Names {
    latest: (i64, Arc<str>),
    /// Those before, the oldest first. Mostly there are none.
    earlier: Vec<(i64, Arc<str>)>,
}

impl Names {
    /// What they take in memory, about. Answers of one message share their name: it is counted for each.
    fn bytes(&self) -> usize {
        let names = std::iter::once(&self.latest).chain(&self.earlier);
        NAME_BYTES + names.map(|(_, name)| bytes_of(name)).sum::<usize>()
    }
}

fn bytes_of(name: &str) -> usize {
    NAME_OVERHEAD_BYTES + name.len()
}

/// The names that are known.
#[derive(Debug)]
pub struct Facts {
    names: HashMap<Pair, Names, BuildGiven>,
    /// Pairs in the order in which they were first learned.
    order: VecDeque<Pair>,
    /// What all of them take. A name of 255 bytes is up to four times as long as text.
    bytes: usize,
    max_bytes: usize,
    /// With a seed that nobody knows, for the senders of answers choose the addresses.
    hasher: KeyHasher,
}

impl Facts {
    /// Memory for `capacity` times [`NAME_BYTES`]; the last that was learned is kept in any case.
    pub fn new(capacity: usize) -> Self {
        Self {
            names: HashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
            max_bytes: capacity.saturating_mul(NAME_BYTES),
            hasher: KeyHasher::new(RandomState::new().hash_one(())),
        }
    }

    fn pair(&self, client: Address, address: Address) -> Pair {
        let hash = self.hasher.hash(&FlowKey {
            low_address: client,
            high_address: address,
            low_port: 0,
            high_port: 0,
            ip_protocol: 0,
            ip_version: 0,
            scope: 0,
        });
        Hashed {
            hash,
            key: (client, address),
        }
    }

    /// Learns a name.
    pub fn learn(&mut self, answer: Answer, tally: &mut Tally) {
        let pair = self.pair(answer.client, answer.address);
        let latest = (answer.time, answer.name);
        if let Some(names) = self.names.get_mut(&pair) {
            if names.latest.1 == latest.1 {
                // The time of the first of them, unless the clock was turned back since.
                names.latest.0 = names.latest.0.min(latest.0);
                return;
            }
            if names.earlier.len() + 1 >= NAMES_OF_A_PAIR {
                let (_, oldest) = names.earlier.remove(0);
                self.bytes -= bytes_of(&oldest);
                tally.names_forgotten += 1;
            }
            self.bytes += bytes_of(&latest.1);
            names.earlier.push(std::mem::replace(&mut names.latest, latest));
        } else {
            self.order.push_back(pair);
            let earlier = Vec::new();
            let names = Names { latest, earlier };
            self.bytes += names.bytes();
            self.names.insert(pair, names);
        }
        tally.names_learned += 1;
        while self.bytes > self.max_bytes && self.order.len() > 1 {
            self.forget_oldest(tally);
        }
    }

    fn forget_oldest(&mut self, tally: &mut Tally) {
        if let Some(oldest) = self.order.pop_front()
            && let Some(names) = self.names.remove(&oldest)
        {
            self.bytes -= names.bytes();
            tally.names_forgotten += names.earlier.len() as u64 + 1;
        }
    }

    /// Gives a record the name that its client last got for its server before it began, if it has none.
    pub fn apply(&self, flow: &mut EndedFlow) {
        let record = &mut flow.record;
        if record.server_name.is_some() || self.names.is_empty() {
            return;
        }
        let Some(names) = self.names.get(&self.pair(record.src_ip, record.dst_ip)) else {
            return;
        };
        let latest_first = std::iter::once(&names.latest).chain(names.earlier.iter().rev());
        let before = latest_first
            .into_iter()
            .find(|(time, _)| *time <= record.start_time.0);
        record.server_name = before.map(|(_, name)| name.to_string());
    }
}

/// Parts of [`SharedFacts`] that are locked on their own.
const SHARDS: usize = 64;

/// What the workers of a live probe learn for each other: the client of an answer and the flow that follows may be
/// different workers'. Locked by client, for the moment of one look-up; a flow takes part once, when it ends.
#[derive(Debug)]
pub struct SharedFacts {
    shards: Box<[Mutex<Facts>]>,
    /// Locked by the addresses of the flow that an error quotes.
    errors: Box<[Mutex<IcmpErrors>]>,
    /// What was counted, and the page that shows it.
    books: Mutex<(Tally, Arc<Published>)>,
}

/// A panic of another worker leaves whole entries behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedFacts {
    /// As [`Facts::new`], for all workers together.
    pub fn new(capacity: usize, page: Arc<Published>) -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Facts::new(capacity / SHARDS)))
                .collect(),
            errors: (0..SHARDS)
                .map(|_| Mutex::new(IcmpErrors::new(icmp_error::MAX_FLOWS / SHARDS)))
                .collect(),
            books: Mutex::new((Tally::default(), page)),
        }
    }

    fn shard(&self, client: Address) -> MutexGuard<'_, Facts> {
        lock(&self.shards[worker_of(steering(client, client), SHARDS)])
    }

    /// Learns a name.
    pub fn learn(&self, answer: Answer) {
        let mut shard = self.shard(answer.client);
        shard.learn(answer, &mut lock(&self.books).0);
    }

    fn errors_of(&self, key: &FlowKey) -> MutexGuard<'_, IcmpErrors> {
        lock(&self.errors[worker_of(steering(key.low_address, key.high_address), SHARDS)])
    }

    /// Keeps an ICMP error for the flow that it quotes.
    pub fn note(&self, error: IcmpError) {
        let mut errors = self.errors_of(&error.key());
        errors.keep(error, &mut lock(&self.books).0);
    }

    /// As [`Facts::apply`] and [`IcmpErrors::apply`].
    pub fn apply(&self, flow: &mut EndedFlow) {
        let mut errors = self.errors_of(&flow.key());
        if !errors.is_empty() {
            errors.apply(flow, &mut lock(&self.books).0);
        }
        drop(errors);
        if flow.record.server_name.is_none() {
            self.shard(flow.record.src_ip).apply(flow);
        }
    }

    /// Shows what was counted.
    pub fn publish(&self) {
        let books = lock(&self.books);
        books.1.publish(&books.0);
    }
}

#[cfg(test)]
mod tests {
    use wire::column::Time;

    use super::*;
    use crate::flow::FlowRecord;

    fn address(last: u8) -> Address {
        Address::v4([192, 0, 2, last])
    }

    fn answer(time: i64, client: u8, server: u8, name: &str) -> Answer {
        let (client, address) = (address(client), address(server));
        Answer {
            epoch: 0,
            clock: time,
            frame: 1,
            time,
            client,
            address,
            name: name.into(),
        }
    }

    fn flow(start: i64, client: u8, server: u8, own: Option<&str>) -> EndedFlow {
        let record = FlowRecord {
            start_time: Time(start),
            src_ip: address(client),
            dst_ip: address(server),
            server_name: own.map(String::from),
            ..FlowRecord::default()
        };
        EndedFlow {
            epoch: 0,
            export_time: 0,
            closing_frame: 0,
            scope: 0,
            record,
            features: None,
            session: None,
        }
    }

    fn name_of(facts: &Facts, start: i64, client: u8, server: u8, own: Option<&str>) -> Option<String> {
        let mut flow = flow(start, client, server, own);
        facts.apply(&mut flow);
        flow.record.server_name
    }

    #[test]
    fn names_go_to_later_flows_of_the_same_client_without_one() {
        let (mut facts, mut tally) = (Facts::new(8), Tally::default());
        facts.learn(answer(10, 1, 9, "a.example"), &mut tally);
        facts.learn(answer(20, 1, 9, "b.example"), &mut tally);
        facts.learn(answer(25, 1, 9, "b.example"), &mut tally);
        assert_eq!(name_of(&facts, 9, 1, 9, None), None, "it began before the answer");
        assert_eq!(name_of(&facts, 15, 1, 9, None).as_deref(), Some("a.example"));
        assert_eq!(name_of(&facts, 21, 1, 9, None).as_deref(), Some("b.example"));
        assert_eq!(
            name_of(&facts, 30, 1, 9, Some("own.example")).as_deref(),
            Some("own.example")
        );
        assert_eq!(name_of(&facts, 30, 2, 9, None), None, "another client");
        assert_eq!(tally.names_learned, 2);
    }

    #[test]
    fn a_name_that_comes_again_after_the_clock_was_turned_back_is_known_from_then_on() {
        let (mut facts, mut tally) = (Facts::new(8), Tally::default());
        facts.learn(answer(7200, 1, 9, "a.example"), &mut tally);
        facts.learn(answer(10, 1, 9, "a.example"), &mut tally);
        facts.learn(answer(20, 1, 9, "a.example"), &mut tally);
        assert_eq!(name_of(&facts, 9, 1, 9, None), None);
        assert_eq!(name_of(&facts, 11, 1, 9, None).as_deref(), Some("a.example"));
        assert_eq!(tally.names_learned, 1);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let (mut facts, mut tally) = (Facts::new(3), Tally::default());
        for server in 1..=3 {
            facts.learn(answer(1, 1, server, "x.example"), &mut tally);
        }
        assert_eq!(name_of(&facts, 5, 1, 1, None), None);
        assert!(name_of(&facts, 5, 1, 3, None).is_some());
        for name in 0..NAMES_OF_A_PAIR as i64 {
            facts.learn(answer(2 + name, 1, 3, &format!("{name}.example")), &mut tally);
        }
        assert_eq!(name_of(&facts, 1, 1, 3, None), None);
        assert_eq!(
            (tally.names_forgotten, facts.names.len(), facts.order.len()),
            (3, 1, 1)
        );
    }

    #[test]
    fn long_names_take_the_place_of_several() {
        let (mut facts, mut tally) = (Facts::new(20), Tally::default());
        for server in 1..=10 {
            facts.learn(answer(1, 1, server, "x.example"), &mut tally);
        }
        assert_eq!((tally.names_forgotten, facts.bytes), (0, 10 * (256 + 64 + 9)));
        // What a name of 255 bytes that are no text is, and another one each time.
        let long = "\\001".repeat(255);
        for server in 11..=40 {
            for number in 0..6 {
                facts.learn(
                    answer(2 + number, 1, server, &format!("{number}{long}")),
                    &mut tally,
                );
                let bytes: usize = facts.names.values().map(Names::bytes).sum();
                assert_eq!(facts.bytes, bytes);
                assert!(bytes <= 20 * NAME_BYTES);
            }
        }
        assert_eq!(facts.names.len(), facts.order.len());
        assert!(name_of(&facts, 9, 1, 40, None).is_some());
        // One alone is kept, however long.
        let mut facts = Facts::new(1);
        facts.learn(answer(1, 1, 1, &long), &mut tally);
        facts.learn(answer(1, 1, 2, &long), &mut tally);
        assert_eq!(name_of(&facts, 9, 1, 1, None), None);
        assert!(name_of(&facts, 9, 1, 2, None).is_some());
    }

    #[test]
    fn workers_learn_for_each_other() {
        let page = Arc::new(Published::default());
        let facts = SharedFacts::new(SHARDS * 8, Arc::clone(&page));
        std::thread::scope(|scope| {
            for client in 1..=8 {
                let facts = &facts;
                scope.spawn(move || facts.learn(answer(10, client, 99, &format!("{client}.example"))));
            }
        });
        for client in 1..=8 {
            let mut later = flow(11, client, 99, None);
            facts.apply(&mut later);
            assert_eq!(later.record.server_name, Some(format!("{client}.example")));
        }
        facts.publish();
        let learned = Tally::accounts()
            .iter()
            .position(|account| account.name == "names_learned");
        assert_eq!(learned.map(|place| page.read()[place]), Some(8));
    }
}
