//! The CRYPTO stream of one direction (RFC 9000 §19.6): pieces in any order, overlapping, over many packets.

use crate::l7::Limit;

/// The longest stream that is kept. The largest of them, post-quantum with many extensions, have 4 KiB.
const MAX_BYTES: usize = 16 * 1024;
/// Pieces with gaps between them that are kept; clients that shuffle send some ten.
const MAX_PIECES: usize = 64;

/// Reassembly into one buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct CryptoStream {
    bytes: Vec<u8>,
    /// Which parts of `bytes` are filled: start and end, sorted, neither touching nor overlapping.
    pieces: Vec<(usize, usize)>,
    /// Bytes at the front that were read.
    read: usize,
}

impl CryptoStream {
    /// Adds the bytes of a CRYPTO frame.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8]) -> Result<(), Limit> {
        let start = usize::try_from(offset).map_err(|_| Limit::MessageLength)?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= MAX_BYTES)
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
        self.pieces.retain(|&(other_start, other_end)| {
            let apart = other_end < merged.0 || other_start > merged.1;
            if !apart {
                merged = (merged.0.min(other_start), merged.1.max(other_end));
            }
            apart
        });
        if self.pieces.len() >= MAX_PIECES {
            return Err(Limit::MessageLength);
        }
        let index = self.pieces.partition_point(|piece| piece.0 < merged.0);
        self.pieces.insert(index, merged);
        Ok(())
    }

    /// The next whole handshake message, header included.
    pub(super) fn next_message(&mut self) -> Option<(u8, &[u8])> {
        let available = self.pieces.first().filter(|piece| piece.0 == 0)?.1;
        let rest = self.bytes.get(self.read..available)?;
        let (&[kind, a, b, c], rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let body = rest.get(..length)?;
        self.read = self.read.saturating_add(4).saturating_add(length);
        Some((kind, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_read_once_it_is_whole() {
        let mut stream = CryptoStream::default();
        assert_eq!(stream.insert(5, b"c"), Ok(()));
        assert_eq!(stream.next_message(), None, "the front is missing");
        assert_eq!(stream.insert(0, &[1, 0, 0, 3, b'a']), Ok(()));
        assert_eq!(stream.next_message(), None, "the end is missing");
        assert_eq!(stream.insert(4, b"abc"), Ok(()));
        assert_eq!(stream.next_message(), Some((1, b"abc".as_slice())));
        assert_eq!(stream.next_message(), None, "each message is read once");
    }

    #[test]
    fn limits_hold() {
        let mut stream = CryptoStream::default();
        assert_eq!(stream.insert(MAX_BYTES as u64, b"x"), Err(Limit::MessageLength));
        assert_eq!(stream.insert(u64::MAX, b"x"), Err(Limit::MessageLength));
        let pieces = (0..)
            .map(|index: u64| stream.insert(index.saturating_mul(2), b"x"))
            .take_while(Result::is_ok);
        assert_eq!(pieces.count(), MAX_PIECES);
    }

    proptest! {
        /// Pieces that cover a message, in any order and with any overlap, give the message.
        #[test]
        fn any_order_gives_the_message(
            body in proptest::collection::vec(any::<u8>(), 1..300),
            order in proptest::collection::vec((any::<proptest::sample::Index>(), 1..40_usize), 0..30),
        ) {
            let mut whole = vec![1, 0];
            whole.extend_from_slice(&(body.len() as u16).to_be_bytes());
            whole.extend_from_slice(&body);
            let mut stream = CryptoStream::default();
            let shuffled = order.iter().map(|(index, length)| (index.index(whole.len()), *length));
            // The rest, last piece first.
            let steps = (0..whole.len()).step_by(7).rev().map(|start| (start, 7));
            for (start, length) in shuffled.chain(steps) {
                let end = start.saturating_add(length).min(whole.len());
                prop_assert_eq!(stream.insert(start as u64, whole.get(start..end).unwrap_or_default()), Ok(()));
                prop_assert!(stream.pieces.is_sorted() && stream.pieces.len() <= MAX_PIECES);
            }
            prop_assert_eq!(stream.next_message(), Some((1, body.as_slice())));
        }
    }
}
