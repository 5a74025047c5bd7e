//! IP fragments: to the flow of their datagram, and to whole datagrams.
//!
//! Only the first fragment of a datagram has ports. Fragments that come after it are counted for its flow at once;
//! fragments that come before it wait, without their bytes but for UDP, and are counted in the order of their arrival
//! just before the first. If it does not come within [`TIMEOUT_NS`], they count for a flow with ports 0. The table is
//! bounded in datagrams, fragments of a datagram, fragments that wait, and bytes; what is given up is counted by reason.
//!
//! A TCP segment in fragments goes on with each of them: what they carry has sequence numbers ([`Part`]), which count for
//! gaps and missed bytes, and those that come after the first are read by layer 7 as the stream that they are.
//!
//! UDP datagrams are put together for layer 7. Fragments that overlap, other than plain repetitions, are not: endpoints
//! disagree on what they mean (RFC 5722 forbids them for IPv6), and nobody sends them in good faith.

use std::collections::{BTreeMap, HashMap};

use wire::column::Address;
use wire::decode::{Fragment, Packet, Transport};
use wire::flowkey::FlowKey;

use super::meter::Seen;
use super::tcp::{FIN, SYN, is_dropped};
use crate::counters::Tally;

/// How long the fragments of a datagram are kept together: 30 s, in nanoseconds.
pub const TIMEOUT_NS: i64 = 30_000_000_000;

/// Most fragments of one datagram that wait or are kept for reassembly.
pub const MAX_FRAGMENTS: usize = 128;

/// Longest datagram in bytes.
const MAX_DATAGRAM: u32 = 65_535;

const UDP: u8 = 17;

/// Fragments that may wait, for each datagram that there is room for: one datagram may have more, all together not.
const WAITING_PER_DATAGRAM: usize = 4;

/// Memory of a datagram without its bytes, with a few waiting fragments.
pub const DATAGRAM_BYTES: usize = size_of::<(Id, Datagram)>()
    + 2 * size_of::<((i64, u64), Id)>()
    + WAITING_PER_DATAGRAM * size_of::<Waiting>();

/// What a fragment that is kept for reassembly takes beside its bytes: its place, and what the allocator adds.
pub const PIECE_BYTES: usize = size_of::<(u32, Vec<u8>)>() + 32;

wire::reasons! {
    /// Why a datagram's fragments could not be brought together.
    FragmentLoss {
        /// Not all fragments came in time.
        Timeout = "timeout",
        /// Room was needed for the fragments of another datagram.
        TableFull = "table_full",
        /// More fragments than one datagram may have.
        TooManyFragments = "too_many_fragments",
        /// More bytes than may be kept, or more fragments than may wait.
        Memory = "memory",
        /// Fragments overlap or go beyond the end of the datagram.
        Overlap = "overlap",
        /// The identification was used for a datagram of another flow before all fragments had come.
        Superseded = "superseded",
        /// A fragment was cut short by the capture.
        Cut = "cut",
        /// The input ended before all fragments had come.
        InputEnd = "input_end",
    }
}

/// What tells the datagram of a fragment (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    source: Address,
    destination: Address,
    identification: u32,
    scope: u32,
    /// 0 for IPv6: there the first fragment may name an upper protocol that later ones hide behind an extension header.
    ip_protocol: u8,
}

impl Id {
    /// Whether it is known from the start that the datagram is not UDP.
    fn is_of_another_protocol(&self) -> bool {
        self.ip_protocol != UDP && self.ip_protocol != 0
    }
}

/// The flow of a datagram, as its first fragment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The flow's key.
    pub key: FlowKey,
    /// The key's hash.
    pub hash: u64,
    /// Whether the sender is the key's higher endpoint.
    pub from_high: bool,
}

impl Endpoints {
    fn of(packet: &Packet<'_>) -> Self {
        Self {
            key: packet.key,
            hash: packet.hash,
            from_high: packet.from_high,
        }
    }

    /// The packet as one of this flow.
    #[must_use]
    pub fn claim<'a>(&self, packet: &Packet<'a>) -> Packet<'a> {
        Packet {
            key: self.key,
            hash: self.hash,
            from_high: self.from_high,
            ..*packet
        }
    }
}

/// What fragments add to the TCP segment whose first fragment has come: sequence numbers from `start` up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Sequence number of the first byte.
    pub start: u32,
    /// The sequence number after the last one, that of a FIN included.
    pub end: u32,
    /// Whether the segment is a SYN: whether its receiver takes what these carry is then another question.
    pub of_syn: bool,
}

/// What the first fragment of a TCP segment says of the bytes in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    /// Sequence number that a byte at the start of the datagram would have.
    origin: u32,
    /// Its flags.
    flags: u16,
}

impl Start {
    fn of(packet: &Packet<'_>, fragment: Fragment) -> Option<Self> {
        let Transport::Tcp(tcp) = packet.transport else {
            return None;
        };
        if is_dropped(tcp.flags) {
            return None;
        }
        let header = fragment.length.saturating_sub(packet.payload_length);
        Some(Self {
            origin: tcp
                .sequence
                .wrapping_add(u32::from(tcp.flags & SYN != 0))
                .wrapping_sub(header),
            flags: tcp.flags,
        })
    }

    /// The bytes of the datagram from one offset up to another.
    fn part(self, from: u32, to: u32) -> Part {
        Part {
            start: self.origin.wrapping_add(from),
            end: self
                .origin
                .wrapping_add(to)
                .wrapping_add(u32::from(self.flags & FIN != 0)),
            of_syn: self.flags & SYN != 0,
        }
    }
}

/// A fragment that waits for the first, without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The fragment.
    pub packet: Packet<'static>,
    /// When and where it was captured.
    pub seen: Seen,
}

/// The fragments of a datagram.
#[derive(Debug, Default)]
pub struct Datagram {
    deadline: i64,
    serial: u64,
    endpoints: Option<Endpoints>,
    waiting: Vec<Waiting>,
    /// TCP: where its stream stands.
    start: Option<Start>,
    /// Payload bytes with their offsets in the datagram, without overlaps.
    pieces: Vec<(u32, Vec<u8>)>,
    /// Offset of the payload, which the first fragment tells.
    payload_offset: Option<u32>,
    /// Length of the datagram, once the last fragment was seen.
    length: Option<u32>,
    /// Whether the payload is not, or no longer, put together.
    given_up: bool,
    /// Whether its loss was counted.
    counted: bool,
}

/// What to do with a fragment.
#[derive(Debug)]
pub enum Verdict {
    /// It waits for the first fragment.
    Waits,
    /// It is counted.
    Counts {
        /// Fragments that have waited for it: to be counted before it.
        released: Vec<Waiting>,
        /// The flow that all of them count for.
        endpoints: Endpoints,
        /// The UDP payload, if this fragment made it whole.
        payload: Option<Vec<u8>>,
        /// TCP: what this fragment, or those that have waited for it, add to the segment.
        part: Option<Part>,
    },
}

/// The fragments of one worker.
#[derive(Debug)]
pub struct Fragments {
    datagrams: HashMap<Id, Datagram>,
    /// Deadline and serial number of every datagram, the earliest first.
    deadlines: BTreeMap<(i64, u64), Id>,
    serial: u64,
    /// Memory of the fragments that are kept for reassembly.
    bytes: usize,
    /// Fragments that wait.
    waiting: usize,
    max_datagrams: usize,
    max_bytes: usize,
}

impl Fragments {
    /// A table for this many datagrams and bytes.
    pub fn new(max_datagrams: usize, max_bytes: usize) -> Self {
        Self {
            datagrams: HashMap::new(),
            deadlines: BTreeMap::new(),
            serial: 0,
            bytes: 0,
            waiting: 0,
            max_datagrams: max_datagrams.max(1),
            max_bytes,
        }
    }

    /// Takes a fragment. The packet's `fragment` must be there; call [`Self::make_room`] before.
    pub fn push(&mut self, packet: &Packet<'_>, seen: Seen, tally: &mut Tally) -> Verdict {
        let Some(fragment) = packet.fragment else {
            return Verdict::Counts {
                released: Vec::new(),
                endpoints: Endpoints::of(packet),
                payload: None,
                part: None,
            };
        };
        let id = Self::id(packet, fragment.identification);
        let is_first = fragment.offset == 0;
        let endpoints = Endpoints::of(packet);
        if is_first
            && let Some(old) = self.datagrams.get(&id)
            && let Some(old_endpoints) = old.endpoints
        {
            // The identification is used again: what belongs to the old datagram has been counted for its flow. Of the
            // same flow's, an unfinished one may be repeated.
            let is_of_another_flow = old_endpoints != endpoints;
            if is_of_another_flow && !old.given_up {
                tally.datagrams_lost.add(FragmentLoss::Superseded, 1);
            }
            if is_of_another_flow || old.given_up {
                self.remove(&id);
            }
        }
        let datagram = self.datagrams.entry(id).or_insert_with(|| {
            self.serial += 1;
            let deadline = seen.clock.saturating_add(TIMEOUT_NS);
            self.deadlines.insert((deadline, self.serial), id);
            Datagram {
                deadline,
                serial: self.serial,
                given_up: id.is_of_another_protocol(),
                ..Datagram::default()
            }
        });
        let payload = match datagram.keep(packet, fragment, &mut self.bytes, self.max_bytes) {
            Ok(payload) => payload,
            Err(loss) => {
                datagram.give_up(loss, &mut self.bytes, tally);
                None
            }
        };
        tally.datagrams_reassembled += u64::from(payload.is_some());
        if is_first {
            datagram.endpoints = Some(endpoints);
            datagram.start = Start::of(packet, fragment);
            if packet.transport != Transport::Udp {
                // Not for layer 7; what came before it was kept in vain.
                datagram.drop_pieces(&mut self.bytes);
            }
        }
        match datagram.endpoints {
            Some(endpoints) => {
                let released = std::mem::take(&mut datagram.waiting);
                self.waiting -= released.len();
                tally.frames_waiting -= released.len() as u64;
                // Where others have waited, all up to the last of them.
                let from = fragment.offset.max(if is_first { fragment.length } else { 0 });
                let to = released
                    .iter()
                    .filter_map(|waiting| waiting.packet.fragment)
                    .chain([fragment])
                    .map(|fragment| fragment.offset.saturating_add(fragment.length))
                    .max()
                    .filter(|to| *to > from);
                let part = datagram.start.zip(to).map(|(start, to)| start.part(from, to));
                Verdict::Counts {
                    released,
                    endpoints,
                    payload,
                    part,
                }
            }
            None if datagram.waiting.len() < MAX_FRAGMENTS => {
                datagram.waiting.push(Waiting {
                    packet: Packet {
                        payload: &[],
                        ..*packet
                    },
                    seen,
                });
                self.waiting += 1;
                tally.frames_waiting += 1;
                Verdict::Waits
            }
            None => {
                if !std::mem::replace(&mut datagram.counted, true) {
                    tally.datagrams_lost.add(FragmentLoss::TooManyFragments, 1);
                }
                Verdict::Counts {
                    released: Vec::new(),
                    endpoints,
                    payload: None,
                    part: None,
                }
            }
        }
    }

    /// The flow that a fragment counts for which its receiver discards: that of its datagram as far as it is known. The
    /// datagram takes no notice of it.
    pub fn endpoints_of(&self, packet: &Packet<'_>) -> Endpoints {
        let known = packet
            .fragment
            .filter(|fragment| fragment.offset > 0)
            .and_then(|fragment| self.datagrams.get(&Self::id(packet, fragment.identification)))
            .and_then(|datagram| datagram.endpoints);
        known.unwrap_or_else(|| Endpoints::of(packet))
    }

    /// Forgets the oldest datagram if the table is full, and the oldest ones up to the first with waiting fragments if
    /// no more may wait. Their waiting fragments count for a flow with ports 0.
    pub fn make_room(&mut self, tally: &mut Tally) -> Vec<Waiting> {
        let mut forgotten = if self.datagrams.len() < self.max_datagrams {
            Vec::new()
        } else {
            self.forget_oldest(FragmentLoss::TableFull, tally)
        };
        while self.waiting >= WAITING_PER_DATAGRAM * self.max_datagrams {
            forgotten.extend(self.forget_oldest(FragmentLoss::Memory, tally));
        }
        forgotten
    }

    /// When the next datagram times out; `i64::MAX` if there is none.
    #[inline]
    pub fn next_deadline(&self) -> i64 {
        self.deadlines
            .first_key_value()
            .map_or(i64::MAX, |((deadline, _), _)| *deadline)
    }

    /// Forgets the oldest datagram. Its waiting fragments count for a flow with ports 0.
    pub fn forget_oldest(&mut self, loss: FragmentLoss, tally: &mut Tally) -> Vec<Waiting> {
        let Some((_, id)) = self.deadlines.first_key_value() else {
            return Vec::new();
        };
        let Some(datagram) = self.remove(&{ *id }) else {
            return Vec::new();
        };
        let missed = !datagram.waiting.is_empty() || !datagram.given_up;
        if missed && !datagram.counted {
            tally.datagrams_lost.add(loss, 1);
        }
        tally.frames_waiting -= datagram.waiting.len() as u64;
        datagram.waiting
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    fn id(packet: &Packet<'_>, identification: u32) -> Id {
        let (source, destination) = packet.addresses();
        let FlowKey {
            scope,
            ip_protocol,
            ip_version,
            ..
        } = packet.key;
        let ip_protocol = if ip_version == 4 { ip_protocol } else { 0 };
        Id {
            source,
            destination,
            identification,
            scope,
            ip_protocol,
        }
    }

    fn remove(&mut self, id: &Id) -> Option<Datagram> {
        let datagram = self.datagrams.remove(id)?;
        self.deadlines.remove(&(datagram.deadline, datagram.serial));
        self.bytes -= datagram.memory();
        self.waiting -= datagram.waiting.len();
        Some(datagram)
    }
}

impl Datagram {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// What its pieces take.
    fn memory(&self) -> usize {
        self.bytes() + self.pieces.len() * PIECE_BYTES
    }

    /// Keeps a fragment's bytes; returns the payload once it is whole.
    fn keep(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, FragmentLoss> {
        if self.given_up {
            return Ok(None);
        }
        if packet.payload.len() != packet.payload_length as usize {
            return Err(FragmentLoss::Cut);
        }
        // Offsets count from what the first fragment's payload is without: the UDP header, and in IPv6 extension headers
        // before it.
        let Fragment {
            offset, length, more, ..
        } = fragment;
        let end = offset.saturating_add(length);
        let position = end.saturating_sub(packet.payload_length);
        let beyond = self
            .length
            .is_some_and(|length| end > length || (!more && end != length));
        if end > MAX_DATAGRAM || beyond {
            return Err(FragmentLoss::Overlap);
        }
        let payload_offset = if offset == 0 {
            Some(position)
        } else {
            self.payload_offset
        };
        if payload_offset
            .is_some_and(|start| position < start || self.pieces.iter().any(|(at, _)| *at < start))
        {
            return Err(FragmentLoss::Overlap);
        }
        if self
            .pieces
            .iter()
            .any(|(at, piece)| *at == position && piece == packet.payload)
        {
            return Ok(None);
        }
        let piece_end = |at: u32, piece: &[u8]| at.saturating_add(piece.len() as u32);
        if self
            .pieces
            .iter()
            .any(|(at, piece)| position < piece_end(*at, piece) && *at < end)
        {
            return Err(FragmentLoss::Overlap);
        }
        if !more {
            if self.pieces.iter().any(|(at, piece)| piece_end(*at, piece) > end) {
                return Err(FragmentLoss::Overlap);
            }
            self.length = Some(end);
        }
        if self.pieces.len() >= MAX_FRAGMENTS {
            return Err(FragmentLoss::TooManyFragments);
        }
        let memory = packet.payload.len() + PIECE_BYTES;
        if bytes.saturating_add(memory) > max_bytes {
            return Err(FragmentLoss::Memory);
        }
        *bytes += memory;
        self.pieces.push((position, packet.payload.to_vec()));
        self.payload_offset = payload_offset;
        let is_whole = self
            .length
            .zip(payload_offset)
            .is_some_and(|(length, start)| self.bytes() >= length.saturating_sub(start) as usize);
        if !is_whole {
            return Ok(None);
        }
        self.pieces.sort_unstable_by_key(|(at, _)| *at);
        *bytes -= self.memory();
        self.given_up = true;
        // With its room, for the datagram stays in the table.
        let pieces = std::mem::take(&mut self.pieces);
        Ok(Some(pieces.into_iter().flat_map(|(_, piece)| piece).collect()))
    }

    fn give_up(&mut self, loss: FragmentLoss, bytes: &mut usize, tally: &mut Tally) {
        self.counted = true;
        tally.datagrams_lost.add(loss, 1);
        self.drop_pieces(bytes);
    }

    fn drop_pieces(&mut self, bytes: &mut usize) {
        *bytes -= self.memory();
        self.pieces = Vec::new();
        self.given_up = true;
    }
}

#[cfg(test)]
mod tests;
