//! Pieces of a message or stream that carry their offset, in any order and overlapping: QUIC's CRYPTO frames
//! (RFC 9000 §19.6) and DTLS handshake fragments (RFC 9147 §5.5).

use super::Limit;

/// Pieces with gaps between them that are kept; clients that shuffle send some ten.
const MAX_PIECES: usize = 64;

/// Reassembly into one buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Which parts of `bytes` are filled: start and end, sorted, neither touching nor overlapping.
    filled: Vec<(usize, usize)>,
}

impl Pieces {
    /// Adds bytes that belong at `offset`; none may end behind `max_bytes`.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8], max_bytes: usize) -> Result<(), Limit> {
        let start = usize::try_from(offset).map_err(|_| Limit::MessageLength)?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= max_bytes)
            .ok_or(Limit::MessageLength)?;
        if data.is_empty() {
            return Ok(());
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        // Those that overlap or touch the new piece melt into it.
        let mut merged = (start, end);
        self.filled.retain(|&(other_start, other_end)| {
            let apart = other_end < merged.0 || other_start > merged.1;
            if !apart {
                merged = (merged.0.min(other_start), merged.1.max(other_end));
            }
            apart
        });
        if self.filled.len() >= MAX_PIECES {
            return Err(Limit::MessageLength);
        }
        let index = self.filled.partition_point(|piece| piece.0 < merged.0);
        self.filled.insert(index, merged);
        Ok(())
    }

    /// The bytes from the start up to the first that is missing.
    pub(super) fn front(&self) -> &[u8] {
        let end = self
            .filled
            .first()
            .filter(|piece| piece.0 == 0)
            .map_or(0, |piece| piece.1);
        self.bytes.get(..end).unwrap_or_default()
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let filled = self.filled.capacity().saturating_mul(size_of::<(usize, usize)>());
        self.bytes.capacity().saturating_add(filled)
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
            let steps = (0..whole.len()).step_by(7).rev().map(|start| (start, 7));
            for (start, length) in shuffled.chain(steps) {
                let end = start.saturating_add(length).min(whole.len());
                let piece = whole.get(start..end).unwrap_or_default();
                prop_assert_eq!(pieces.insert(start as u64, piece, MAX_BYTES), Ok(()));
                prop_assert!(pieces.filled.is_sorted() && pieces.filled.len() <= MAX_PIECES);
            }
            prop_assert_eq!(pieces.front(), whole.as_slice());
        }
    }
}
