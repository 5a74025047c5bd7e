//! IP fragments: to the flow of their datagram, and to whole datagrams.
//!
//! Only the first fragment of a datagram has ports. Fragments that come after it are counted for its flow at once;
//! fragments that come before it wait, without their bytes but for UDP, and are counted in the order of their arrival
//! just before the first. If it does not come within [`TIMEOUT_NS`], they count for a flow with ports 0. The table is
//! bounded in datagrams, fragments of a datagram, and bytes; what is given up is counted by reason.
//!
//! UDP datagrams are put together for layer 7. Fragments that overlap, other than plain repetitions, are not: endpoints
//! disagree on what they mean (RFC 5722 forbids them for IPv6), and nobody sends them in good faith.

use std::collections::{BTreeMap, HashMap};

use wire::column::Address;
use wire::decode::{Packet, Transport};
use wire::flowkey::FlowKey;

use super::meter::Seen;
use crate::counters::Tally;

/// How long the fragments of a datagram are kept together: 30 s, in nanoseconds.
pub const TIMEOUT_NS: i64 = 30_000_000_000;

/// Most fragments of one datagram that wait or are kept for reassembly.
pub const MAX_FRAGMENTS: usize = 128;

/// Longest UDP payload in bytes.
const MAX_PAYLOAD: u32 = 65_535 - 8;

/// Length of the UDP header in bytes, which only the first fragment has.
const UDP_HEADER: u32 = 8;

const UDP: u8 = 17;

/// Memory of a datagram without its bytes, with a few waiting fragments.
pub const DATAGRAM_BYTES: usize =
    size_of::<(Id, Datagram)>() + 2 * size_of::<((i64, u64), Id)>() + 4 * size_of::<Waiting>();

wire::reasons! {
    /// Why a datagram's fragments could not be brought together.
    FragmentLoss {
        /// Not all fragments came in time.
        Timeout = "timeout",
        /// Room was needed for the fragments of another datagram.
        TableFull = "table_full",
        /// More fragments than one datagram may have.
        TooManyFragments = "too_many_fragments",
        /// More bytes than may be kept.
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
    /// Payload bytes with their positions, without overlaps.
    pieces: Vec<(u32, Vec<u8>)>,
    /// Length of the payload, once the last fragment was seen.
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
    },
}

/// The fragments of one worker.
#[derive(Debug)]
pub struct Fragments {
    datagrams: HashMap<Id, Datagram>,
    /// Deadline and serial number of every datagram, the earliest first.
    deadlines: BTreeMap<(i64, u64), Id>,
    serial: u64,
    bytes: usize,
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
            };
        };
        let id = Self::id(packet, fragment.identification);
        let is_first = fragment.offset == 0;
        let endpoints = Endpoints::of(packet);
        if is_first
            && let Some(old) = self.datagrams.get_mut(&id)
            && old.endpoints.is_some()
        {
            // The identification is used again: what belongs to the old datagram has been counted for its flow.
            if old.endpoints != Some(endpoints) {
                if !old.given_up {
                    tally.datagrams_lost.add(FragmentLoss::Superseded, 1);
                }
                self.remove(&id);
            } else if old.given_up {
                old.given_up = id.is_of_another_protocol();
                old.counted = false;
                old.length = None;
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
        let payload = match datagram.keep(
            packet,
            fragment.offset,
            fragment.more,
            &mut self.bytes,
            self.max_bytes,
        ) {
            Ok(payload) => payload,
            Err(loss) => {
                datagram.give_up(loss, &mut self.bytes, tally);
                None
            }
        };
        tally.datagrams_reassembled += u64::from(payload.is_some());
        if is_first {
            datagram.endpoints = Some(endpoints);
            if packet.transport != Transport::Udp {
                // Not for layer 7; what came before it was kept in vain.
                datagram.drop_pieces(&mut self.bytes);
            }
        }
        match datagram.endpoints {
            Some(endpoints) => {
                let released = std::mem::take(&mut datagram.waiting);
                tally.frames_waiting -= released.len() as u64;
                Verdict::Counts {
                    released,
                    endpoints,
                    payload,
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
                tally.frames_waiting += 1;
                Verdict::Waits
            }
            None => Verdict::Counts {
                released: Vec::new(),
                endpoints,
                payload: None,
            },
        }
    }

    /// Forgets the oldest datagram if the table is full. Its waiting fragments count for a flow with ports 0.
    pub fn make_room(&mut self, tally: &mut Tally) -> Vec<Waiting> {
        if self.datagrams.len() < self.max_datagrams {
            return Vec::new();
        }
        self.forget_oldest(FragmentLoss::TableFull, tally)
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
        self.bytes -= datagram.bytes();
        Some(datagram)
    }
}

impl Datagram {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Keeps a fragment's bytes; returns the payload once it is whole.
    fn keep(
        &mut self,
        packet: &Packet<'_>,
        offset: u32,
        more: bool,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, FragmentLoss> {
        if self.given_up {
            return Ok(None);
        }
        if packet.payload.len() != packet.payload_length as usize {
            return Err(FragmentLoss::Cut);
        }
        // Offsets count from the UDP header, which the first fragment's payload is without.
        let position = offset.saturating_sub(UDP_HEADER);
        let end = position.saturating_add(packet.payload_length);
        let beyond = self
            .length
            .is_some_and(|length| end > length || (!more && end != length));
        if end > MAX_PAYLOAD || beyond {
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
        if bytes.saturating_add(packet.payload.len()) > max_bytes {
            return Err(FragmentLoss::Memory);
        }
        *bytes += packet.payload.len();
        self.pieces.push((position, packet.payload.to_vec()));
        if self.length.is_none_or(|length| self.bytes() < length as usize) {
            return Ok(None);
        }
        self.pieces.sort_unstable_by_key(|(at, _)| *at);
        *bytes -= self.bytes();
        self.given_up = true;
        Ok(Some(self.pieces.drain(..).flat_map(|(_, piece)| piece).collect()))
    }

    fn give_up(&mut self, loss: FragmentLoss, bytes: &mut usize, tally: &mut Tally) {
        self.counted = true;
        tally.datagrams_lost.add(loss, 1);
        self.drop_pieces(bytes);
    }

    fn drop_pieces(&mut self, bytes: &mut usize) {
        *bytes -= self.bytes();
        self.pieces = Vec::new();
        self.given_up = true;
    }
}

#[cfg(test)]
mod tests {
    use wire::decode::Fragment;

    use super::*;
    use crate::flow::meter::tests::Frame;

    fn seen(clock: i64) -> Seen {
        Seen {
            time: clock,
            clock,
            frame: clock as u64,
            wire_length: 100,
        }
    }

    /// A fragment of datagram 1 with `payload` at `offset` of the IP payload.
    fn fragment(frame: &Frame, offset: u32, more: bool) -> Packet<'_> {
        let whole = frame.packet();
        let packet = Packet {
            fragment: Some(Fragment {
                identification: 1,
                offset,
                more,
            }),
            ..whole
        };
        if offset == 0 {
            return packet;
        }
        let (source, destination) = packet.addresses();
        let (key, from_high) = FlowKey::new(4, packet.key.ip_protocol, (source, 0), (destination, 0));
        Packet {
            key,
            from_high,
            hash: 0,
            transport: Transport::Other,
            ..packet
        }
    }

    fn payload_of(verdict: Verdict) -> (usize, Option<Vec<u8>>) {
        match verdict {
            Verdict::Waits => (usize::MAX, None),
            Verdict::Counts {
                released, payload, ..
            } => (released.len(), payload),
        }
    }

    #[test]
    fn in_order_fragments_make_a_datagram() {
        let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
        let (one, two) = (
            Frame::udp(10, 20).payload(b"01234567"),
            Frame::udp(10, 20).payload(b"89"),
        );
        let first = fragments.push(&fragment(&one, 0, true), seen(1), &mut tally);
        assert!(matches!(&first, Verdict::Counts { endpoints, .. } if endpoints.key == one.packet().key));
        let last = fragments.push(&fragment(&two, 16, false), seen(2), &mut tally);
        assert!(matches!(&last, Verdict::Counts { endpoints, .. } if endpoints.key == one.packet().key));
        assert_eq!(payload_of(last), (0, Some(b"0123456789".to_vec())));
        assert_eq!((fragments.bytes, tally.datagrams_reassembled), (0, 1));
        // A repetition still belongs to the flow, and makes nothing twice.
        assert_eq!(
            payload_of(fragments.push(&fragment(&two, 16, false), seen(3), &mut tally)),
            (0, None)
        );
    }

    #[test]
    fn fragments_before_the_first_wait_for_it() {
        let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
        let (one, two) = (
            Frame::udp(10, 20).payload(b"01234567"),
            Frame::udp(10, 20).payload(b"89"),
        );
        assert_eq!(
            payload_of(fragments.push(&fragment(&two, 16, false), seen(1), &mut tally)).0,
            usize::MAX
        );
        assert_eq!(tally.frames_waiting, 1);
        let first = fragments.push(&fragment(&one, 0, true), seen(2), &mut tally);
        assert_eq!(payload_of(first), (1, Some(b"0123456789".to_vec())));
        assert_eq!(tally.frames_waiting, 0);
    }

    #[test]
    fn ipv6_fragments_may_hide_their_protocol() {
        let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
        let six = |mut packet: Packet<'static>, ip_protocol| {
            packet.key.ip_version = 6;
            packet.key.ip_protocol = ip_protocol;
            packet
        };
        let one = Frame::udp(10, 20).payload(b"01234567").leak();
        let two = Frame::udp(10, 20).payload(b"89").leak();
        // Next header of the fragment header: destination options.
        let later = six(fragment(two, 16, false), 60);
        assert!(matches!(
            fragments.push(&later, seen(1), &mut tally),
            Verdict::Waits
        ));
        let first = fragments.push(&six(fragment(one, 0, true), 17), seen(2), &mut tally);
        assert_eq!(payload_of(first), (1, Some(b"0123456789".to_vec())));

        // The same of another protocol than UDP: attributed, not kept.
        let of_another = |offset, more| {
            Some(Fragment {
                identification: 2,
                offset,
                more,
            })
        };
        let later = Packet {
            fragment: of_another(16, false),
            ..later
        };
        fragments.push(&later, seen(3), &mut tally);
        let first = Packet {
            fragment: of_another(0, true),
            transport: Transport::Tcp(wire::decode::Tcp::default()),
            ..six(fragment(one, 0, true), 6)
        };
        assert_eq!(payload_of(fragments.push(&first, seen(4), &mut tally)).0, 1);
        assert_eq!((fragments.bytes, tally.datagrams_lost.total()), (0, 0));
    }

    #[test]
    fn what_waits_too_long_is_given_back() {
        let (mut fragments, mut tally) = (Fragments::new(1, 1000), Tally::default());
        let two = Frame::udp(10, 20).payload(b"89");
        fragments.push(&fragment(&two, 16, false), seen(5), &mut tally);
        assert_eq!(fragments.next_deadline(), 5 + TIMEOUT_NS);
        assert_eq!(
            fragments.forget_oldest(FragmentLoss::Timeout, &mut tally).len(),
            1
        );
        assert_eq!(
            (fragments.next_deadline(), fragments.bytes, tally.frames_waiting),
            (i64::MAX, 0, 0)
        );
        assert_eq!(tally.datagrams_lost.get(FragmentLoss::Timeout), 1);
        assert!(fragments.is_empty());
        fragments.push(&fragment(&two, 16, false), seen(5), &mut tally);
        assert_eq!(
            fragments.make_room(&mut tally).len(),
            1,
            "one datagram is all that there is room for"
        );
        assert_eq!(tally.datagrams_lost.get(FragmentLoss::TableFull), 1);
    }

    #[test]
    fn overlaps_cuts_and_floods_are_given_up_and_counted() {
        let lost = |pieces: &[(&'static [u8], u32, bool)], loss| {
            let (mut fragments, mut tally) = (Fragments::new(8, 100), Tally::default());
            for (payload, offset, more) in pieces {
                let frame = Frame::udp(10, 20).payload(payload);
                assert_eq!(
                    payload_of(fragments.push(&fragment(&frame, *offset, *more), seen(1), &mut tally)).1,
                    None
                );
            }
            assert_eq!(
                tally.datagrams_lost.get(loss),
                1,
                "{loss:?}: {:?}",
                tally.datagrams_lost
            );
            assert_eq!((fragments.bytes, tally.datagrams_lost.total()), (0, 1));
        };
        lost(
            &[(b"0123456789", 0, true), (b"xx", 16, false)],
            FragmentLoss::Overlap,
        );
        lost(&[(b"xx", 16, false), (b"yy", 24, true)], FragmentLoss::Overlap);
        lost(&[(b"yy", 24, true), (b"xx", 16, false)], FragmentLoss::Overlap);
        lost(&[(b"x", 65_600, true)], FragmentLoss::Overlap);
        lost(
            &[(&[7; 90], 0, true), (&[7; 90], 200, true)],
            FragmentLoss::Memory,
        );

        let (mut fragments, mut tally) = (Fragments::new(8, 1 << 20), Tally::default());
        let frame = Frame::udp(10, 20).payload(b"01234567");
        let cut = Packet {
            payload_length: 9,
            ..fragment(&frame, 0, true)
        };
        fragments.push(&cut, seen(1), &mut tally);
        assert_eq!(tally.datagrams_lost.get(FragmentLoss::Cut), 1);

        let (mut fragments, mut tally) = (Fragments::new(8, 1 << 20), Tally::default());
        for offset in 1..=MAX_FRAGMENTS as u32 {
            let verdict = fragments.push(&fragment(&frame, offset * 8 + 8, true), seen(1), &mut tally);
            assert!(matches!(verdict, Verdict::Waits));
        }
        let verdict = fragments.push(&fragment(&frame, 65_000, true), seen(1), &mut tally);
        assert!(matches!(verdict, Verdict::Counts { .. }), "no more wait");
        assert_eq!(tally.datagrams_lost.get(FragmentLoss::TooManyFragments), 1);
        assert_eq!(tally.frames_waiting, MAX_FRAGMENTS as u64);
    }

    #[test]
    fn an_identification_is_used_again() {
        let (mut fragments, mut tally) = (Fragments::new(8, 1000), Tally::default());
        let old = Frame::udp(10, 20).payload(b"01234567");
        let new = Frame::udp(11, 20).payload(b"76543210");
        let rest = Frame::udp(11, 20).payload(b"!");
        fragments.push(&fragment(&old, 0, true), seen(1), &mut tally);
        fragments.push(&fragment(&new, 0, true), seen(2), &mut tally);
        let verdict = fragments.push(&fragment(&rest, 16, false), seen(3), &mut tally);
        assert_eq!(payload_of(verdict), (0, Some(b"76543210!".to_vec())));
        assert_eq!(fragments.deadlines.len(), 1);
    }
}
