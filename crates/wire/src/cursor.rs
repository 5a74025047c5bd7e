//! A reader over a byte slice that cannot run past its end.

/// The slice ended before what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short;

/// Reads big-endian (network order) values and sub-slices from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes that have not been read yet.
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Short)?;
        self.rest = tail;
        Ok(head)
    }

    /// A cursor over the next `count` bytes.
    pub fn sub(&mut self, count: usize) -> Result<Cursor<'a>, Short> {
        self.take(count).map(Cursor::new)
    }

    /// Passes over `count` bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), Short> {
        self.take(count).map(|_| ())
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// 16 bits in network order.
    pub fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    /// 24 bits in network order.
    pub fn u24(&mut self) -> Result<u32, Short> {
        let [a, b, c] = self.array::<3>()?;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    /// 32 bits in network order.
    pub fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits in network order.
    pub fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_network_order_and_stops_at_the_end() {
        let mut cursor = Cursor::new(&[0x01, 0x02, 0x03, 0x04, 0x05, 0x06]);
        assert_eq!(cursor.u8(), Ok(0x01));
        assert_eq!(cursor.u24(), Ok(0x0002_0304));
        assert_eq!(cursor.u32(), Err(Short));
        assert_eq!(cursor.u16(), Ok(0x0506), "a failed read takes nothing");
        assert!(cursor.is_empty());
    }

    #[test]
    fn a_sub_cursor_is_bounded() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4]);
        let mut inner = cursor.sub(2).unwrap_or(Cursor::new(&[]));
        assert_eq!(inner.u16(), Ok(0x0102));
        assert_eq!(inner.u8(), Err(Short));
        assert_eq!(cursor.u8(), Ok(3));
        assert_eq!(cursor.skip(2), Err(Short));
    }
}
