//! Pieces of a message or stream that carry their offset, in any order and overlapping: QUIC's CRYPTO frames
//! (RFC 9000 §19.6) and DTLS handshake fragments (RFC 9147 §5.5).

use super::Limit;

/// Pieces with gaps between them that are kept; clients that shuffle send some ten.
const MAX_PIECES: usize = 64;

/// Reassembly. What is kept is what was received: an offset alone takes no room.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    /// Sorted and not overlapping; those that continue the one at offset 0 are part of it.
    pieces: Vec<Piece>,
}

/// Bytes without a gap.
#[derive(Clone, Debug)]
struct Piece {
    start: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> usize {
        self.start.saturating_add(self.bytes.len())
    }
}

impl Pieces {
    /// Adds bytes that belong at `offset`; none may end behind `max_bytes`. Where they overlap, the later bytes stay.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8], max_bytes: usize) -> Result<(), Limit> {
        let mut start = usize::try_from(offset).map_err(|_| Limit::MessageLength)?;
        start
            .checked_add(data.len())
            .filter(|end| *end <= max_bytes)
            .ok_or(Limit::MessageLength)?;
        let mut data = data;
        while !data.is_empty() {
            let index = self.pieces.partition_point(|piece| piece.start <= start);
            let room = self
                .pieces
                .get(index)
                .map_or(usize::MAX, |next| next.start.saturating_sub(start));
            let before = index
                .checked_sub(1)
                .and_then(|index| self.pieces.get_mut(index))
                .filter(|before| before.end() >= start);
            let count = if let Some(before) = before {
                let count = data.len().min(room);
                let known = before.end().saturating_sub(start).min(count);
                let place = start.saturating_sub(before.start);
                let place = before.bytes.get_mut(place..place.saturating_add(known));
                if let (Some(place), Some(again)) = (place, data.get(..known)) {
                    place.copy_from_slice(again);
                }
                before
                    .bytes
                    .extend_from_slice(data.get(known..count).unwrap_or_default());
                count
            } else {
                if self.pieces.len() >= MAX_PIECES {
                    return Err(Limit::MessageLength);
                }
                let count = data.len().min(room);
                let bytes = data.get(..count).unwrap_or_default().to_vec();
                self.pieces.insert(index, Piece { start, bytes });
                count
            };
            start = start.saturating_add(count);
            data = data.get(count..).unwrap_or_default();
        }
        self.join();
        Ok(())
    }

    /// Moves to the front what continues it. Others that touch stay apart: so each byte is moved once at most.
    fn join(&mut self) {
        let Some((front, others)) = self.pieces.split_first_mut() else {
            return;
        };
        if front.start > 0 {
            return;
        }
        let mut joined: usize = 0;
        for other in others {
            if other.start > front.end() {
                break;
            }
            front.bytes.extend_from_slice(&other.bytes);
            joined = joined.saturating_add(1);
        }
        self.pieces.drain(1..=joined);
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes from the start up to the first that is missing.
    pub(super) fn front(&self) -> &[u8] {
        self.pieces
            .first()
            .filter(|piece| piece.start == 0)
            .map_or(&[], |piece| &piece.bytes)
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let slots = self.pieces.capacity().saturating_mul(size_of::<Piece>());
        self.pieces
            .iter()
            .fold(slots, |sum, piece| sum.saturating_add(piece.bytes.capacity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX_BYTES: usize = 1024;

    #[test]
    fn limits_hold() {
        let mut pieces = Pieces::default();
        let last = MAX_BYTES as u64;
        assert_eq!(pieces.insert(last, b"x", MAX_BYTES), Err(Limit::MessageLength));
        assert_eq!(
            pieces.insert(u64::MAX, b"x", MAX_BYTES),
            Err(Limit::MessageLength)
        );
        let kept = (0..)
            .map(|index: u64| pieces.insert(index.saturating_mul(2), b"x", MAX_BYTES))
            .take_while(Result::is_ok);
        assert_eq!(kept.count(), MAX_PIECES);
    }

    #[test]
    fn an_offset_takes_no_room() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.insert(1 << 30, b"x", usize::MAX), Ok(()));
        assert!(pieces.heap_bytes() < 512, "{}", pieces.heap_bytes());
        assert!(pieces.front().is_empty());
    }

    #[test]
    fn the_last_copy_stays() {
        let mut pieces = Pieces::default();
        for (offset, data) in [(2, "cd"), (6, "gh"), (1, "BCDEFGHI"), (0, "aXX")] {
            assert_eq!(pieces.insert(offset, data.as_bytes(), MAX_BYTES), Ok(()));
        }
        assert_eq!(pieces.front(), b"aXXDEFGHI");
        assert_eq!(pieces.pieces.len(), 1);
    }

    proptest! {
        /// Pieces that cover a message, in any order and with any overlap, give the message.
        #[test]
        fn any_order_gives_the_message(
            whole in proptest::collection::vec(any::<u8>(), 1..300),
            order in proptest::collection::vec((any::<proptest::sample::Index>(), 1..40_usize), 0..30),
        ) {
            let mut pieces = Pieces::default();
            let shuffled = order.iter().map(|(index, length)| (index.index(whole.len()), *length));
            // The rest, last piece first.
            let steps = (0..whole.len()).step_by(10).rev().map(|start| (start, 10));
            for (start, length) in shuffled.chain(steps) {
                let end = start.saturating_add(length).min(whole.len());
                let piece = whole.get(start..end).unwrap_or_default();
                prop_assert_eq!(pieces.insert(start as u64, piece, MAX_BYTES), Ok(()));
                let apart = pieces.pieces.is_sorted_by(|a, b| a.end() <= b.start);
                prop_assert!(apart && pieces.pieces.len() <= MAX_PIECES);
            }
            prop_assert_eq!(pieces.front(), whole.as_slice());
        }
    }
}
