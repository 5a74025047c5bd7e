//! The CRYPTO stream of one direction (RFC 9000 §19.6): pieces in any order, overlapping, over many packets.

use crate::l7::Limit;
use crate::l7::pieces::Pieces;

/// The longest stream that is kept. The largest of them, post-quantum with many extensions, have 4 KiB.
const MAX_BYTES: usize = 16 * 1024;

/// Reassembly, and the handshake messages in it.
#[derive(Clone, Debug, Default)]
pub(super) struct CryptoStream {
    pieces: Pieces,
    /// Bytes at the front that were read.
    read: usize,
}

impl CryptoStream {
    /// Adds the bytes of a CRYPTO frame.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8]) -> Result<(), Limit> {
        self.pieces.insert(offset, data, MAX_BYTES)
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.pieces.heap_bytes()
    }

    /// Everything up to the first byte that is missing.
    pub(super) fn front(&self) -> &[u8] {
        self.pieces.front()
    }

    /// The next whole handshake message, header included.
    pub(super) fn next_message(&mut self) -> Option<(u8, &[u8])> {
        let rest = self.pieces.front().get(self.read..)?;
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
}
