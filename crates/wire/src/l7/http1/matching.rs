//! Which request a response answers, also where the capture has gaps.
//!
//! Responses come in the order of their requests (RFC 9112 §9.3.2): each answers the oldest request that waits. Behind
//! a gap that depends on whether the client waits for each response before its next request:
//!
//! - If it does, a response answers the newest request. Those before it have lost theirs, and a response that comes
//!   while no request waits answers one that was not seen.
//! - If it was seen not to (pipelining), any number of requests may be under way, and nothing in a response tells which
//!   one it answers. That is known only if one waits alone and no request is missing; else none is matched from there on.
//!
//! A client is taken to wait until it is seen not to. Where that shows only behind the gap (a response comes while
//! further requests wait, or while none waits and none is missing), what was matched since the gap is taken back. The
//! match of the first response behind a gap is also taken back unless the next thing to be seen of the client is a
//! request without a gap before it: the response may be that to a missing request. So a status is missing rather than
//! wrong.
//!
//! A response of which the request is not known has a transaction of its own only while nothing had to be assumed: then
//! its request was certainly not seen.

use super::record::Record;
use std::collections::VecDeque;
use std::ops::RangeBounds;

/// Requests that wait for their response at the same time, beyond which pipelining is not followed.
const MAX_WAITING: usize = 128;

/// A request that waits for its response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// Its transaction, if that is listed.
    pub(super) transaction: Option<usize>,
    /// HEAD: its response has no body.
    pub(super) head: bool,
    /// CONNECT: a successful response ends HTTP.
    pub(super) connect: bool,
    /// Whether requests before it may be missing that wait too: [`Matching::request`] tells.
    pub(super) behind_gap: bool,
}

/// The requests of a connection that wait, and what is known of their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Matching {
    waiting: Queue,
    order: Order,
    /// Whether a request was sent before the response to the one before it.
    pipelined: bool,
    /// Whether a response came while nothing waited, and no request since.
    surplus: bool,
    /// The transaction to which the last response behind a gap was matched, while no request was seen since.
    doubtful: Option<usize>,
}

/// Which request a response answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// The oldest.
    #[default]
    Known,
    /// The newest: from this transaction on that holds only if the client waits for each response.
    Assumed(usize),
    /// It cannot be known any more. No request waits.
    Lost,
}

/// Requests in order; of most connections one at a time.
#[derive(Clone, Debug, Default)]
struct Queue {
    oldest: Option<Waiting>,
    /// Those behind the oldest.
    others: VecDeque<Waiting>,
}

impl Matching {
    /// A request begins; `missing` says whether there may be further ones before it that were not seen.
    pub(super) fn request(&mut self, waiting: Waiting, missing: bool, record: &mut Record) {
        // A response for which nothing waited was that to the missing request, which then waits no longer.
        let behind_gap = missing && !self.surplus;
        if missing {
            self.surplus = false;
        } else {
            self.settle_surplus(record);
        }
        self.doubtful = None;
        if self.waiting.len() < MAX_WAITING && self.order != Order::Lost {
            self.waiting.push(Waiting {
                behind_gap,
                ..waiting
            });
        }
    }

    /// A final response begins: the request that it answers, which waits no longer; one without a transaction if that
    /// is not known. `missing` says whether there may be responses before it that were not seen.
    pub(super) fn response(&mut self, missing: bool, record: &mut Record) -> Waiting {
        let others_wait = self.waiting.len() > 1;
        let behind_gap = self.waiting.oldest.is_some_and(|oldest| oldest.behind_gap);
        self.pipelined |= others_wait && !missing;
        let assumed = behind_gap || (others_wait && missing);
        if self.pipelined && (assumed || self.order != Order::Known) {
            self.take_back_assumed(record);
            self.order = Order::Lost;
            self.waiting = Queue::default();
            return Waiting::default();
        }
        if missing {
            self.waiting.keep_newest();
        }
        let Some(waiting) = self.waiting.pop() else {
            self.surplus = true;
            let transaction = match self.order {
                Order::Known => record.add_transaction(),
                Order::Assumed(_) | Order::Lost => None,
            };
            return Waiting {
                transaction,
                ..Waiting::default()
            };
        };
        if assumed && self.order == Order::Known {
            self.order = Order::Assumed(waiting.transaction.unwrap_or(record.transactions.len()));
        }
        if missing {
            self.doubtful = waiting.transaction;
        }
        waiting
    }

    /// Requests may be missing behind the last one that was seen.
    pub(super) fn requests_missing(&mut self, record: &mut Record) {
        if let Some(doubtful) = self.doubtful.take() {
            take_back(record, doubtful..=doubtful);
        }
    }

    /// A direction is closed. Whether requests are missing at its end cannot be told.
    pub(super) fn end(&mut self, record: &mut Record) {
        self.settle_surplus(record);
        self.requests_missing(record);
    }

    /// Whether any request waits.
    pub(super) fn waits(&self) -> bool {
        self.waiting.oldest.is_some()
    }

    /// Whether no response is matched any more.
    pub(super) fn is_lost(&self) -> bool {
        self.order == Order::Lost
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.waiting.heap_bytes()
    }

    /// No missing request has explained a response for which nothing waited.
    fn settle_surplus(&mut self, record: &mut Record) {
        if std::mem::take(&mut self.surplus) {
            self.take_back_assumed(record);
        }
    }

    fn take_back_assumed(&self, record: &mut Record) {
        if let Order::Assumed(first) = self.order {
            take_back(record, first..);
        }
    }
}

/// Takes back what responses have said, of these transactions.
fn take_back(record: &mut Record, range: impl RangeBounds<usize>) {
    for (index, transaction) in record.transactions.iter_mut().enumerate() {
        if range.contains(&index) {
            transaction.status = None;
            transaction.server = None;
            transaction.response_content_type = None;
            transaction.response_content_length = None;
        }
    }
}

impl Queue {
    fn len(&self) -> usize {
        usize::from(self.oldest.is_some()).saturating_add(self.others.len())
    }

    fn push(&mut self, waiting: Waiting) {
        if self.oldest.is_none() {
            self.oldest = Some(waiting);
        } else {
            self.others.push_back(waiting);
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let oldest = self.oldest.take();
        self.oldest = self.others.pop_front();
        oldest
    }

    fn keep_newest(&mut self) {
        if let Some(newest) = self.others.pop_back() {
            self.oldest = Some(newest);
            self.others.clear();
        }
    }

    fn heap_bytes(&self) -> usize {
        self.others.capacity().saturating_mul(size_of::<Waiting>())
    }
}
