//! The search for a flow's protocol, and the facade over its dissector.

use super::table::Dissector;
use super::{
    Confidence, Context, Crypto, Dissect, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Address, Sink};
use crate::flowkey::Direction;

/// A stream direction that is not identified within this many bytes is not looked at any longer.
pub(super) const IDENTIFY_BYTES: usize = 16 * 1024;

/// A datagram flow that is not identified within this many datagrams, both directions together, is given up.
pub(super) const IDENTIFY_DATAGRAMS: u8 = 8;

/// Of a datagram flow that begins with connectivity checks so many are passed over: they say nothing of what follows on
/// the same ports (RFC 7983), and ICE may repeat them for long (RFC 8445).
pub(super) const CHECK_DATAGRAMS: u8 = 64;

/// Protocols inside one another that are followed: HTTP, a proxy's CONNECT in it, and what runs through that tunnel.
const MAX_LAYERS: u8 = 4;

/// The layer-7 state of one flow: first the search for its protocol, then that protocol's dissector.
///
/// A few words while it searches; a dissector's state is boxed and, after the last status, holds nothing but the record.
/// Where a protocol hands its stream over to another one (STARTTLS, CONNECT, Upgrade), a further session follows that.
#[derive(Clone, Debug, Default)]
pub struct Session {
    state: State,
    /// Sessions around this one.
    depth: u8,
}

#[derive(Clone, Debug)]
enum State {
    Searching(Search),
    Known {
        dissector: Dissector,
        ended: Option<End>,
        /// What follows in the directions that the dissector has handed over.
        next: Option<Box<Session>>,
    },
    Unknown,
}

/// The status that ended a dissection.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Malformed(Malformed),
    GaveUp(Limit),
}

impl End {
    /// What is to be remembered of a status; `None` while more is wanted.
    fn of(status: Status) -> Option<Self> {
        match status {
            Status::Need(_) => None,
            Status::Done => Some(Self::Done),
            Status::Malformed(reason) => Some(Self::Malformed(reason)),
            Status::GaveUp(limit) => Some(Self::GaveUp(limit)),
        }
    }
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        match end {
            End::Done => Self::Done,
            End::Malformed(reason) => Self::Malformed(reason),
            End::GaveUp(limit) => Self::GaveUp(limit),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Searching(Search::default())
    }
}

/// What was ruled out so far.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    /// Directions whose bytes match no protocol, or that ended before they could tell.
    ruled_out: [bool; 2],
    /// Directions whose first bytes were not seen.
    missed: [bool; 2],
    /// Bytes passed over in a direction that is ruled out, while the other has not spoken; from the limit on it is over.
    passed: [u16; 2],
    /// Datagrams that matched no protocol, without connectivity checks, and these.
    datagrams: u8,
    checks: u8,
}

/// Whether a datagram is a STUN message with its magic cookie (RFC 8489 §5).
fn is_stun(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & 0xc0 == 0) && bytes.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42])
}

impl Search {
    /// `Some(protocol)` once found; else how to go on.
    fn feed(&mut self, input: Input<'_>, context: &Context) -> Result<Protocol, Outcome> {
        let unidentified = Status::GaveUp(Limit::Unidentified);
        let side = side_of(context.direction);
        match input {
            Input::Datagram(bytes) => {
                if let (_, Some(protocol)) = Protocol::find(bytes, context) {
                    return Ok(protocol);
                }
                let over = if is_stun(bytes) {
                    self.checks = self.checks.saturating_add(1);
                    self.checks >= CHECK_DATAGRAMS
                } else {
                    self.datagrams = self.datagrams.saturating_add(1);
                    self.datagrams >= IDENTIFY_DATAGRAMS
                };
                let status = if over { unidentified } else { Status::Need(0) };
                Err(Outcome {
                    consumed: bytes.len(),
                    status,
                })
            }
            Input::Stream(bytes) => {
                if !self.is_ruled_out(side) {
                    // Never more than the limit, so that the verdict does not depend on how much came at once.
                    let seen = bytes.get(..IDENTIFY_BYTES).unwrap_or(bytes);
                    match Protocol::find(seen, context) {
                        (_, Some(protocol)) => return Ok(protocol),
                        (Verdict::More, _) if bytes.len() < IDENTIFY_BYTES => {
                            return Err(Outcome::none(Status::Need(0)));
                        }
                        _ => self.rule_out(side),
                    }
                }
                let over = self.pass(side, bytes.len());
                let status = if over { unidentified } else { Status::Need(0) };
                Err(Outcome {
                    consumed: bytes.len(),
                    status,
                })
            }
            // What comes after a gap is looked at as if the flow began there: mid-stream messages may be unmistakable.
            Input::Gap(length) => {
                self.miss(side);
                let over =
                    self.is_ruled_out(side) && self.pass(side, usize::try_from(length).unwrap_or(usize::MAX));
                Err(Outcome::none(if over { unidentified } else { Status::Need(0) }))
            }
            Input::End => {
                self.rule_out(side);
                Err(Outcome::none(if self.pass(side, 0) {
                    unidentified
                } else {
                    Status::Need(0)
                }))
            }
        }
    }

    /// Notes that bytes of a direction were not seen before its protocol is known.
    fn miss(&mut self, side: usize) {
        if let Some(missed) = self.missed.get_mut(side) {
            *missed = true;
        }
    }

    /// Whether the dissector does not get the first bytes of a direction.
    fn has_missed(self, side: usize) -> bool {
        self.is_ruled_out(side) || self.missed.get(side).copied().unwrap_or(true)
    }

    fn is_ruled_out(self, side: usize) -> bool {
        self.ruled_out.get(side).copied().unwrap_or(true)
    }

    fn rule_out(&mut self, side: usize) {
        if let Some(ruled_out) = self.ruled_out.get_mut(side) {
            *ruled_out = true;
        }
    }

    /// Passes over bytes of a ruled-out direction; whether the search is over.
    fn pass(&mut self, side: usize, bytes: usize) -> bool {
        let Some(passed) = self.passed.get_mut(side) else {
            return true;
        };
        *passed = passed.saturating_add(u16::try_from(bytes).unwrap_or(u16::MAX));
        self.ruled_out == [true; 2] || usize::from(*passed) >= IDENTIFY_BYTES
    }
}

impl Session {
    /// Feeds bytes of one direction. Never panics, never keeps more than its documented limits.
    pub fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
        if let State::Searching(search) = &mut self.state {
            match search.feed(input, context) {
                Ok(protocol) => {
                    let mut dissector = Dissector::new(protocol);
                    for side in [0, 1] {
                        if search.has_missed(side) {
                            dissector.missed_start(side);
                        }
                    }
                    self.state = State::Known {
                        dissector,
                        ended: None,
                        next: None,
                    };
                }
                Err(outcome) => {
                    if matches!(outcome.status, Status::GaveUp(_)) {
                        self.state = State::Unknown;
                    }
                    return outcome;
                }
            }
        }
        let State::Known {
            dissector,
            ended,
            next,
        } = &mut self.state
        else {
            return Outcome {
                consumed: input.len(),
                status: Status::GaveUp(Limit::Unidentified),
            };
        };
        if let Some(end) = *ended {
            return Outcome {
                consumed: input.len(),
                status: end.into(),
            };
        }
        let side = side_of(context.direction);
        let mut outcome = if dissector.handed_over(side) {
            Outcome::none(Status::Need(0))
        } else {
            dissector.feed(input, context, crypto)
        };
        outcome.consumed = outcome.consumed.min(input.len());
        if dissector.handed_over(side) && matches!(outcome.status, Status::Need(_)) {
            let depth = self.depth.saturating_add(1);
            if depth >= MAX_LAYERS {
                outcome.status = Status::Done;
            } else {
                let next = next.get_or_insert_with(|| {
                    Box::new(Self {
                        state: State::default(),
                        depth,
                    })
                });
                let inner = next.feed(input.behind(outcome.consumed), context, crypto);
                outcome.consumed = outcome.consumed.saturating_add(inner.consumed);
                // What ends the inner session ends this one, once the other direction is in it too.
                outcome.status = match inner.status {
                    Status::Need(_) => inner.status,
                    status if dissector.handed_over(1_usize.saturating_sub(side)) => status,
                    _ => Status::Need(0),
                };
            }
        }
        if let Some(end) = End::of(outcome.status) {
            outcome.consumed = input.len();
            *ended = Some(end);
            self.release();
        }
        outcome
    }

    /// Says of a new session that a direction's first bytes came before the capture: what comes first is then not what
    /// its protocol begins with.
    pub fn missed_start(&mut self, direction: Direction) {
        if let State::Searching(search) = &mut self.state {
            search.miss(side_of(direction));
        }
    }

    /// Frees what only further input would need; what was learned stays. The session must not be fed afterwards. One that
    /// came to its end has done it.
    pub fn release(&mut self) {
        if let State::Known { dissector, next, .. } = &mut self.state {
            dissector.release();
            if let Some(next) = next {
                next.release();
            }
        }
    }

    /// The protocol, once known.
    pub fn protocol(&self) -> Option<(Protocol, Confidence)> {
        self.dissector()
            .map(|dissector| (dissector.protocol(), dissector.confidence()))
    }

    /// The name of the server as the client gave it: SNI, HTTP host (without port) or DNS query name; that of the
    /// outer protocol where several are inside one another and both name one.
    pub fn server_name(&self) -> Option<&str> {
        self.dissector()?
            .server_name()
            .filter(|name| !name.is_empty())
            .or_else(|| self.next()?.server_name())
    }

    /// Emits the record struct of `protocol` if this flow has one (QUIC flows carry `quic` and `tls`, SMTP with STARTTLS
    /// carries `smtp` and `tls`); else returns false and emits nothing.
    pub fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        self.dissector()
            .is_some_and(|dissector| dissector.emit(protocol, sink))
            || self.next().is_some_and(|next| next.emit(protocol, sink))
    }

    /// Bytes on the heap that this session keeps, as far as they can be counted: dissectors, their records, and what
    /// they hold of unfinished messages.
    pub fn kept_bytes(&self) -> usize {
        let own = self.dissector().map_or(0, Dissector::kept_bytes);
        let next = self
            .next()
            .map_or(0, |next| size_of::<Self>().saturating_add(next.kept_bytes()));
        own.saturating_add(next)
    }

    /// Tells the addresses that DNS answers gave for the names that were asked, in order of arrival, since they were taken
    /// last: each with the name as asked (not the alias that it may lead to). At most [`super::dns::MAX_ADDRESSES`] of a
    /// message; how many there were beside these. To be called after each feed, lest too many of them wait.
    pub fn take_dns_addresses(&mut self, learn: &mut dyn FnMut(&str, Address)) -> u64 {
        let State::Known { dissector, next, .. } = &mut self.state else {
            return 0;
        };
        let own = match dissector {
            Dissector::Dns(dns) | Dissector::Mdns(dns) | Dissector::Llmnr(dns) => dns.take_addresses(learn),
            _ => 0,
        };
        // Who asks through a proxy is the one who asked the proxy.
        let inner = next.as_mut().map_or(0, |next| next.take_dns_addresses(learn));
        own.saturating_add(inner)
    }

    /// Shows the state of the dissector, once there is one.
    pub fn show_to(&self, visitor: &mut impl super::Visitor) {
        if let State::Known { dissector, .. } = &self.state {
            dissector.show_to(visitor);
        }
    }

    fn next(&self) -> Option<&Self> {
        match &self.state {
            State::Known { next, .. } => next.as_deref(),
            State::Searching(_) | State::Unknown => None,
        }
    }

    fn dissector(&self) -> Option<&Dissector> {
        match &self.state {
            State::Known { dissector, .. } => Some(dissector),
            State::Searching(_) | State::Unknown => None,
        }
    }
}
