//! TCP streams in order, for layer 7.
//!
//! One [`Stream`] a direction. A segment that continues the stream is fed straight from the packet, and only what the
//! reader does not consume is kept. Segments that come too early are kept, within limits; where segments overlap, the
//! bytes that came first count. What is missing is declared a gap when the peer acknowledges it (so it was there, only
//! not seen here), when keeping more would break a limit, when the capture cut a segment short, and at the end.
//! Sequence numbers are modulo 2³² (RFC 9293 §3.4); a SYN and a FIN take one each. A SYN may carry data, which its receiver may
//! take (RFC 7413) or leave: what its answer acknowledges, and where the sender goes on, tells.

use std::collections::VecDeque;

use wire::l7::{Input, Outcome, Status};

use crate::counters::Tally;

/// Most segments that wait in one direction.
pub const MAX_SEGMENTS: usize = 256;

wire::reasons! {
    /// Why bytes of a stream were declared missing.
    GapReason {
        /// The peer acknowledged them.
        Acknowledged = "acknowledged",
        /// Waiting for them any longer would have broken a memory limit.
        Memory = "memory",
        /// The capture cut the segment short.
        Cut = "cut",
        /// The flow ended.
        FlowEnd = "flow_end",
    }
}

/// Memory that streams of one worker take.
#[derive(Debug)]
pub struct Budget {
    /// Bytes of the streams.
    bytes: usize,
    /// Segments that came too early.
    segments: usize,
    limit: usize,
    per_direction: usize,
}

impl Budget {
    /// At most `limit` bytes of memory in all, and `per_direction` for one direction of one stream.
    pub fn new(limit: usize, per_direction: usize) -> Self {
        Self {
            bytes: 0,
            segments: 0,
            limit,
            per_direction,
        }
    }

    /// Bytes of streams that are kept.
    pub fn stream_bytes(&self) -> usize {
        self.bytes
    }

    /// What they take in memory.
    pub fn used(&self) -> usize {
        memory_of(self.bytes, self.segments)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }
}

/// What a segment says, whatever its payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sequence number.
    pub sequence: u32,
    /// Whether it has the SYN flag.
    pub syn: bool,
    /// Whether it has the FIN flag.
    pub fin: bool,
    /// Payload as far as captured.
    pub payload: &'a [u8],
    /// Payload length on the wire in bytes.
    pub length: u32,
}

impl Segment<'_> {
    /// Whether it says nothing of its own direction: it does no more than acknowledge.
    pub fn is_bare(&self) -> bool {
        self.length == 0 && !self.syn && !self.fin
    }
}

/// The reader wants no more of the flow: `Done`, `Malformed`, `GaveUp`; or the reader needs more bytes in one piece
/// than may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What the reader said.
    Reader(Status),
    /// Unconsumed bytes hit a memory limit.
    Memory,
}

/// A segment that came too early, or the part of it that was new.
#[derive(Debug)]
struct Early {
    sequence: u32,
    bytes: Vec<u8>,
    /// Bytes after `bytes` that the capture cut off.
    missing: u32,
}

/// What a segment that waits takes in memory beside its bytes: its place in the queue, and what the allocator adds. A peer
/// may send segments of one byte.
pub const EARLY_BYTES: usize = size_of::<Early>() + 32;

/// Places in the queue of a stream whose memory stays for the next one.
const EARLY_PLACES_KEPT: usize = 16;

/// Memory of bytes, and of segments that wait.
fn memory_of(bytes: usize, segments: usize) -> usize {
    bytes.saturating_add(segments.saturating_mul(EARLY_BYTES))
}

impl Early {
    fn length(&self) -> u32 {
        (self.bytes.len() as u32).wrapping_add(self.missing)
    }
}

/// One direction of a TCP connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// The sequence number that continues the stream; `None` before its start is known.
    next: Option<u32>,
    /// The highest acknowledgement of the peer.
    acknowledged: Option<u32>,
    /// The sequence number of the FIN.
    fin: Option<u32>,
    ended: bool,
    /// The first of `early` are the data of the SYN, and it is not known yet whether they were taken.
    offered: bool,
    /// Contiguous bytes that the reader has not consumed.
    unread: Vec<u8>,
    /// The reader asked not to be called again before there are this many unread bytes.
    need: usize,
    /// In sequence order, without overlaps.
    early: VecDeque<Early>,
    early_bytes: usize,
}

/// What a stream needs to work, in one place.
#[derive(Debug)]
pub struct Sinks<'a, F> {
    /// Feeds the reader.
    pub feed: F,
    /// What may be kept.
    pub budget: &'a mut Budget,
    /// Where gaps are counted.
    pub tally: &'a mut Tally,
}

impl Stream {
    /// Says where a new stream starts, where that is known.
    pub fn start(&mut self, next: Option<u32>) {
        self.next = next;
    }

    /// Takes a segment of this direction.
    pub fn segment<F>(&mut self, segment: Segment<'_>, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        if self.ended {
            return Ok(());
        }
        let captured = segment.payload.len().min(segment.length as usize);
        let Some(payload) = segment.payload.get(..captured) else {
            return Ok(());
        };
        if segment.syn {
            self.open(segment, payload, sinks.budget);
            return Ok(());
        }
        let data_at = segment.sequence;
        if self.offered {
            self.decide(data_at, sinks.budget);
        }
        let start = match self.next {
            Some(next) => next,
            // The flow may have begun before the capture: then its first data is where we come in.
            None if segment.length > 0 || segment.fin => {
                self.next = Some(data_at);
                data_at
            }
            None => return Ok(()),
        };
        let end = data_at.wrapping_add(segment.length);
        // A FIN before what was already delivered is not one that an endpoint would take.
        if segment.fin && end.wrapping_sub(start) as i32 >= 0 {
            self.fin.get_or_insert(end);
        }
        if segment.length > 0 {
            let ahead = data_at.wrapping_sub(start) as i32;
            let missing = segment.length.saturating_sub(captured as u32);
            if ahead <= 0 {
                self.continues(data_at, payload, missing, sinks)?;
            } else {
                self.comes_early(data_at, payload, missing, sinks)?;
            }
        }
        self.settle(sinks)
    }

    /// Notes an acknowledgement that the peer sent for this direction; whether segments wait that it may concern.
    #[inline]
    pub fn note(&mut self, acknowledgement: u32) -> bool {
        if self
            .acknowledged
            .is_none_or(|highest| acknowledgement.wrapping_sub(highest) as i32 > 0)
        {
            self.acknowledged = Some(acknowledgement);
        }
        !self.ended && !self.early.is_empty()
    }

    /// Takes an acknowledgement that the peer sent for this direction.
    pub fn acknowledge<F>(&mut self, acknowledgement: u32, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        if self.note(acknowledgement) {
            if self.offered {
                self.decide(acknowledgement, sinks.budget);
            }
            self.settle(sinks)
        } else {
            Ok(())
        }
    }

    /// Feeds what has waited, with the gaps between, and the end. The stream takes nothing more.
    pub fn finish<F>(&mut self, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        if self.offered {
            self.withdraw(0, sinks.budget);
        }
        while !self.early.is_empty() {
            self.skip_to_early(GapReason::FlowEnd, sinks)?;
        }
        if std::mem::replace(&mut self.ended, true) {
            Ok(())
        } else {
            call(sinks, Input::End).map(|_| ())
        }
    }

    /// Forgets everything that is kept; the memory stays for the next use.
    pub fn reset(&mut self, budget: &mut Budget) {
        budget.bytes -= self.unread.len() + self.early_bytes;
        budget.segments -= self.early.len();
        let mut unread = std::mem::take(&mut self.unread);
        unread.clear();
        // Of what one long message, or many early segments, needed nothing stays.
        unread.shrink_to(4096);
        let mut early = std::mem::take(&mut self.early);
        early.clear();
        early.shrink_to(EARLY_PLACES_KEPT);
        *self = Self {
            unread,
            early,
            ..Self::default()
        };
    }

    /// Takes the SYN: the stream starts after it. What it carries waits. A SYN that comes later says nothing.
    fn open(&mut self, segment: Segment<'_>, payload: &[u8], budget: &mut Budget) {
        if self.next.is_some() {
            return;
        }
        let start = segment.sequence.wrapping_add(1);
        self.next = Some(start);
        let missing = segment.length.saturating_sub(payload.len() as u32);
        let memory = memory_of(payload.len(), 1);
        if segment.length > 0 && memory <= budget.per_direction && budget.has_room(memory) {
            self.keep(start, payload, missing, budget);
            self.offered = true;
        }
    }

    /// The peer acknowledges all before `next` of a stream of which nothing but its SYN was seen, or the sender goes on
    /// there: that much of the SYN's data was taken, and the rest is not of the stream.
    fn decide(&mut self, next: u32, budget: &mut Budget) {
        let taken = self.next.map_or(0, |start| next.wrapping_sub(start) as i32);
        self.withdraw(taken.max(0).unsigned_abs(), budget);
    }

    /// Leaves so many bytes of the SYN's data.
    fn withdraw(&mut self, taken: u32, budget: &mut Budget) {
        self.offered = false;
        let Some(offer) = self.early.front_mut() else {
            return;
        };
        let kept = offer.bytes.len().min(taken as usize);
        let dropped = offer.bytes.len() - kept;
        offer.missing = taken.min(offer.length()) - kept as u32;
        offer.bytes.truncate(kept);
        self.early_bytes -= dropped;
        budget.bytes -= dropped;
        if taken == 0 {
            self.early.pop_front();
            budget.segments -= 1;
        }
    }

    /// A segment that does not start after the end of the stream: feeds what is new in it. Where early segments lie
    /// in its way, these were first.
    fn continues<F>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        missing: u32,
        sinks: &mut Sinks<'_, F>,
    ) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        let total = (payload.len() as u32).wrapping_add(missing);
        while let Some(next) = self.next {
            let from = next.wrapping_sub(sequence);
            if from >= total {
                break;
            }
            let in_the_way = self
                .early
                .front()
                .map(|early| early.sequence.wrapping_sub(sequence));
            let to = in_the_way.map_or(total, |start| start.clamp(from, total));
            let captured = |at: u32| (at as usize).min(payload.len());
            let bytes = payload.get(captured(from)..captured(to)).unwrap_or(&[]);
            if !bytes.is_empty() {
                self.deliver(bytes, sinks)?;
            }
            let cut = (to - from) - bytes.len() as u32;
            if cut > 0 {
                self.gap(cut, GapReason::Cut, sinks)?;
            }
            if to < total {
                self.next_early(sinks)?;
            }
        }
        Ok(())
    }

    /// Feeds the first early segment, which continues the stream now.
    fn next_early<F>(&mut self, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        let Some(early) = self.early.pop_front() else {
            return Ok(());
        };
        self.early_bytes -= early.bytes.len();
        sinks.budget.bytes -= early.bytes.len();
        sinks.budget.segments -= 1;
        self.continues(early.sequence, &early.bytes, early.missing, sinks)
    }

    /// A segment that starts after the end of the stream.
    fn comes_early<F>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        missing: u32,
        sinks: &mut Sinks<'_, F>,
    ) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        loop {
            let ahead = sequence.wrapping_sub(self.next.unwrap_or(sequence)) as i32;
            if ahead <= 0 {
                return self.continues(sequence, payload, missing, sinks);
            }
            let pieces = self.most_pieces(sequence, (payload.len() as u32).wrapping_add(missing));
            let segments = self.early.len() + pieces;
            let room = segments <= MAX_SEGMENTS
                && memory_of(self.early_bytes.saturating_add(payload.len()), segments)
                    <= sinks.budget.per_direction
                && sinks.budget.has_room(memory_of(payload.len(), pieces));
            if room {
                self.keep(sequence, payload, missing, sinks.budget);
                return Ok(());
            }
            // Give up the first hole: each turn takes a segment from the queue, or closes the hole before this one.
            match self.early.front() {
                Some(first) if (first.sequence.wrapping_sub(sequence) as i32) < 0 => {
                    self.skip_to_early(GapReason::Memory, sinks)?;
                }
                _ => self.gap(ahead.unsigned_abs(), GapReason::Memory, sinks)?,
            }
            self.drain(sinks)?;
        }
    }

    /// How many pieces of a segment are kept at most: where others are that begin within it, those before, between and
    /// behind them.
    fn most_pieces(&self, sequence: u32, total: u32) -> usize {
        let within = |early: &&Early| (1..total).contains(&early.sequence.wrapping_sub(sequence));
        1 + self.early.iter().filter(within).count()
    }

    /// Keeps the parts of an early segment that are not there yet.
    fn keep(&mut self, sequence: u32, payload: &[u8], missing: u32, budget: &mut Budget) {
        let total = (payload.len() as u32).wrapping_add(missing);
        // Positions relative to the segment's start; earlier ones are negative.
        let at = |other: u32| i64::from(other.wrapping_sub(sequence) as i32);
        let (mut from, end) = (0_i64, i64::from(total));
        let mut place = 0;
        while from < end && place < self.early.len() {
            let (start, stop) = match self.early.get(place) {
                Some(early) => (at(early.sequence), at(early.sequence) + i64::from(early.length())),
                None => break,
            };
            if from < start {
                self.insert(place, sequence, payload, (from, end.min(start)), budget);
                place += 1;
            }
            from = from.max(stop);
            place += 1;
        }
        if from < end {
            self.insert(place, sequence, payload, (from, end), budget);
        }
    }

    /// Keeps the bytes `from..to` of a segment at a place of the queue.
    fn insert(
        &mut self,
        place: usize,
        sequence: u32,
        payload: &[u8],
        (from, to): (i64, i64),
        budget: &mut Budget,
    ) {
        let captured = payload.len() as i64;
        let bytes = payload
            .get(from.min(captured) as usize..to.min(captured) as usize)
            .unwrap_or(&[])
            .to_vec();
        let missing = (to - from) as u32 - bytes.len() as u32;
        self.early_bytes += bytes.len();
        budget.bytes += bytes.len();
        budget.segments += 1;
        self.early.insert(
            place,
            Early {
                sequence: sequence.wrapping_add(from as u32),
                bytes,
                missing,
            },
        );
    }

    /// Feeds early segments whose turn has come, declares holes that the peer says do not exist, and the end.
    fn settle<F>(&mut self, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        loop {
            self.drain(sinks)?;
            let Some(first) = self.early.front() else { break };
            let seen = self
                .acknowledged
                .is_some_and(|highest| highest.wrapping_sub(first.sequence) as i32 >= 0);
            if !seen {
                return Ok(());
            }
            self.skip_to_early(GapReason::Acknowledged, sinks)?;
        }
        if self
            .fin
            .is_some_and(|fin| self.next.is_some_and(|next| next.wrapping_sub(fin) as i32 >= 0))
        {
            self.ended = true;
            call(sinks, Input::End)?;
        }
        Ok(())
    }

    /// Feeds early segments that continue the stream.
    fn drain<F>(&mut self, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        while let (Some(first), Some(next)) = (self.early.front(), self.next) {
            if first.sequence.wrapping_sub(next) as i32 > 0 {
                break;
            }
            self.next_early(sinks)?;
        }
        Ok(())
    }

    /// Declares the hole before the first early segment, and feeds that.
    fn skip_to_early<F>(&mut self, reason: GapReason, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        if let (Some(first), Some(next)) = (self.early.front(), self.next) {
            let hole = first.sequence.wrapping_sub(next);
            if hole as i32 > 0 {
                self.gap(hole, reason, sinks)?;
            }
        }
        self.drain(sinks)
    }

    fn gap<F>(&mut self, length: u32, reason: GapReason, sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        sinks.tally.stream_gaps.add(reason, 1);
        sinks.tally.stream_gap_bytes.add(reason, u64::from(length));
        sinks.budget.bytes -= self.unread.len();
        self.unread.clear();
        self.need = 0;
        self.next = self.next.map(|next| next.wrapping_add(length));
        call(sinks, Input::Gap(u64::from(length))).map(|_| ())
    }

    /// Bytes that continue the stream.
    fn deliver<F>(&mut self, bytes: &[u8], sinks: &mut Sinks<'_, F>) -> Result<(), Stop>
    where
        F: FnMut(Input<'_>) -> Outcome,
    {
        self.next = self.next.map(|next| next.wrapping_add(bytes.len() as u32));
        if self.unread.is_empty() && bytes.len() >= self.need {
            // The fast path: no copy but of what the reader leaves.
            let (consumed, need) = call(sinks, Input::Stream(bytes))?;
            self.need = need;
            return self.leave_unread(bytes.get(consumed..).unwrap_or(&[]), sinks.budget);
        }
        self.leave_unread(bytes, sinks.budget)?;
        if self.unread.len() >= self.need {
            let (consumed, need) = call(sinks, Input::Stream(&self.unread))?;
            self.need = need;
            self.unread.drain(..consumed);
            sinks.budget.bytes -= consumed;
        }
        Ok(())
    }

    fn leave_unread(&mut self, bytes: &[u8], budget: &mut Budget) -> Result<(), Stop> {
        if self.unread.len().saturating_add(bytes.len()) > budget.per_direction
            || !budget.has_room(bytes.len())
        {
            return Err(Stop::Memory);
        }
        self.unread.extend_from_slice(bytes);
        budget.bytes += bytes.len();
        Ok(())
    }
}

/// Feeds the reader: how much it consumed, and how much it needs.
fn call<F>(sinks: &mut Sinks<'_, F>, input: Input<'_>) -> Result<(usize, usize), Stop>
where
    F: FnMut(Input<'_>) -> Outcome,
{
    let available = if let Input::Stream(bytes) = input {
        bytes.len()
    } else {
        0
    };
    let outcome = (sinks.feed)(input);
    match outcome.status {
        Status::Need(need) => Ok((outcome.consumed.min(available), need)),
        status => Err(Stop::Reader(status)),
    }
}

#[cfg(test)]
mod tests;
