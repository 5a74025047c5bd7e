//! What protocols have in common that begin in the clear and go on in TLS (RFC 3207, 2595, 4217, 4511, 6120).
//!
//! A dissector whose peer asks for TLS hands each direction over at its first TLS record: a handshake record begins with
//! bytes that no message of these protocols begins with. So the hand-over needs no reply, and works where only one
//! direction was captured.

/// Whether the bytes at a message boundary begin a TLS handshake record (RFC 8446 §5.1); `None` if more are needed to
/// tell.
pub(super) fn begins(bytes: &[u8]) -> Option<bool> {
    const HANDSHAKE: u8 = 22;
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3] => None,
        [HANDSHAKE, 3, 0..=4, ..] => Some(true),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_tell() {
        assert_eq!(begins(b"\x16\x03\x01"), Some(true));
        assert_eq!((begins(b"\x16\x03"), begins(b"")), (None, None));
        assert_eq!((begins(b"E"), begins(b"\x16\x04")), (Some(false), Some(false)));
    }
}
