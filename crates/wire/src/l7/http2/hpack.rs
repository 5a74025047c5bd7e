//! HPACK (RFC 7541): header fields of one direction, with its dynamic table.

use super::huffman;
use crate::cursor::{Cursor, Short};
use crate::l7::{Malformed, Status};
use std::borrow::Cow;
use std::collections::VecDeque;

/// The largest dynamic table that is followed. The default is 4,096 bytes (RFC 9113 §6.5.2); browsers allow 65,536.
const MAX_TABLE_BYTES: usize = 64 * 1024;
/// The size of a dynamic table before it is changed.
const INITIAL_TABLE_BYTES: usize = 4096;
/// Bytes that an entry counts beside its name and value (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;
/// Fields of one block.
const MAX_FIELDS: usize = 1024;
/// Names and values of one block, decoded. An index of one byte may stand for a field as large as the table, so that
/// neither the block's length nor the number of its fields bounds the work.
const MAX_DECODED_BYTES: usize = 64 * 1024;

/// A name or a value, borrowed where it need not be decoded.
type Text<'a> = Cow<'a, [u8]>;
/// A name and a value.
type Field = (Vec<u8>, Vec<u8>);

/// The decoder of one direction.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<Field>,
    table_bytes: usize,
    max_table_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            table_bytes: 0,
            max_table_bytes: INITIAL_TABLE_BYTES,
        }
    }
}

impl Decoder {
    /// Hands the fields of a whole block to `each`, in order. After an error the table is no longer that of the sender,
    /// so that no further block can be read.
    pub(super) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Status> {
        let mut cursor = Cursor::new(block);
        let mut fields: usize = 0;
        let mut decoded: usize = 0;
        let mut count = |name: &[u8], value: &[u8]| {
            decoded = decoded.saturating_add(name.len()).saturating_add(value.len());
            if decoded > MAX_DECODED_BYTES {
                return Err(Status::GaveUp(crate::l7::Limit::MessageLength));
            }
            Ok(())
        };
        while let Some(&first) = cursor.rest().first() {
            fields = fields.saturating_add(1);
            if fields > MAX_FIELDS {
                return Err(Status::GaveUp(crate::l7::Limit::MessageLength));
            }
            match first {
                0x80.. => {
                    let index = integer(&mut cursor, 7)?;
                    let (name, value) = self.indexed(index)?;
                    count(name, value)?;
                    each(name, value);
                }
                0x40..=0x7f => {
                    let (name, value) = self.literal(&mut cursor, 6)?;
                    count(&name, &value)?;
                    each(&name, &value);
                    let (name, value) = (name.into_owned(), value.into_owned());
                    self.insert(name, value);
                }
                0x20..=0x3f => {
                    let size = integer(&mut cursor, 5)? as usize;
                    if size > MAX_TABLE_BYTES {
                        return Err(Status::GaveUp(crate::l7::Limit::MessageLength));
                    }
                    self.max_table_bytes = size;
                    self.evict();
                }
                0x00..=0x1f => {
                    let (name, value) = self.literal(&mut cursor, 4)?;
                    count(&name, &value)?;
                    each(&name, &value);
                }
            }
        }
        Ok(())
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let slots = self.table.capacity().saturating_mul(size_of::<Field>());
        self.table_bytes.saturating_add(slots)
    }

    /// A literal field whose name is indexed or literal (RFC 7541 §6.2).
    fn literal<'table, 'block>(
        &'table self,
        cursor: &mut Cursor<'block>,
        prefix_bits: u8,
    ) -> Result<(Text<'table>, Text<'block>), Malformed>
    where
        'block: 'table,
    {
        let index = integer(cursor, prefix_bits)?;
        let name = if index == 0 {
            string(cursor)?
        } else {
            Cow::Borrowed(self.indexed(index)?.0)
        };
        Ok((name, string(cursor)?))
    }

    /// The static table first, then the dynamic one (RFC 7541 §2.3.3).
    fn indexed(&self, index: u32) -> Result<(&[u8], &[u8]), Malformed> {
        let place = (index as usize).checked_sub(1).ok_or(Malformed::BadValue)?;
        if let Some((name, value)) = STATIC_TABLE.get(place) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let place = place.checked_sub(STATIC_TABLE.len()).ok_or(Malformed::BadValue)?;
        let (name, value) = self.table.get(place).ok_or(Malformed::BadValue)?;
        Ok((name, value))
    }

    fn insert(&mut self, mut name: Vec<u8>, mut value: Vec<u8>) {
        // What Huffman code needed as room to grow into is not to stay.
        name.shrink_to_fit();
        value.shrink_to_fit();
        self.table_bytes = self.table_bytes.saturating_add(entry_bytes(&name, &value));
        self.table.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.max_table_bytes {
            let Some((name, value)) = self.table.pop_back() else {
                break;
            };
            self.table_bytes = self.table_bytes.saturating_sub(entry_bytes(&name, &value));
        }
    }
}

fn entry_bytes(name: &[u8], value: &[u8]) -> usize {
    name.len().saturating_add(value.len()).saturating_add(ENTRY_BYTES)
}

impl From<Malformed> for Status {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}

/// An integer with so many bits in its first byte (RFC 7541 §5.1).
fn integer(cursor: &mut Cursor<'_>, prefix_bits: u8) -> Result<u32, Malformed> {
    let mask = (1_u8 << prefix_bits.min(7)).saturating_sub(1);
    let first = cursor.u8()? & mask;
    let mut value = u32::from(first);
    if first < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = cursor.u8()?;
        value = value.saturating_add(u32::from(byte & 0x7f) << shift);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::BadValue)
}

/// A string, plain or in Huffman code (RFC 7541 §5.2).
fn string<'a>(cursor: &mut Cursor<'a>) -> Result<Text<'a>, Malformed> {
    let huffman_coded = cursor.rest().first().ok_or(Short)? & 0x80 != 0;
    let length = integer(cursor, 7)?;
    let bytes = cursor.take(length as usize)?;
    if !huffman_coded {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    huffman::decode(bytes, &mut decoded)?;
    Ok(Cow::Owned(decoded))
}

/// RFC 7541 appendix A.
const STATIC_TABLE: &[(&str, &str)] = &[
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::unhex;

    fn fields(decoder: &mut Decoder, block: &str) -> Result<String, Status> {
        let mut text = String::new();
        decoder.decode(&unhex(block), |name, value| {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            text = format!("{text}{name}={value};");
        })?;
        Ok(text)
    }

    #[test]
    fn requests_of_rfc_7541() {
        // RFC 7541 appendix C.4: three requests on one connection, in Huffman code.
        let mut decoder = Decoder::default();
        let first = ":method=GET;:scheme=http;:path=/;:authority=www.example.com;";
        assert_eq!(
            fields(&mut decoder, "828684418cf1e3c2e5f23a6ba0ab90f4ff").as_deref(),
            Ok(first)
        );
        assert_eq!(
            fields(&mut decoder, "828684be5886a8eb10649cbf"),
            Ok(format!("{first}cache-control=no-cache;"))
        );
        assert_eq!(
            fields(&mut decoder, "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf").as_deref(),
            Ok(
                ":method=GET;:scheme=https;:path=/index.html;:authority=www.example.com;custom-key=custom-value;"
            )
        );
        assert_eq!(decoder.table_bytes, 164, "appendix C.4.3");
    }

    #[test]
    fn the_table_is_evicted_and_resized() {
        let mut decoder = Decoder::default();
        // Size 100, then a=b (34 bytes) three times: the first goes.
        assert!(fields(&mut decoder, "3f45 4001610162 4001610162 4001610162").is_ok());
        assert_eq!((decoder.table.len(), decoder.table_bytes), (2, 68));
        assert!(fields(&mut decoder, "20").is_ok());
        assert_eq!((decoder.table.len(), decoder.table_bytes), (0, 0));
    }

    #[test]
    fn what_a_block_decodes_to_is_bounded() {
        let gave_up = Err(Status::GaveUp(crate::l7::Limit::MessageLength));
        // The table of 64 KiB, then a name of 60,000 bytes with an empty value into it.
        let length = 60_000_usize.saturating_sub(127);
        let length = [length & 0x7f | 0x80, length >> 7 & 0x7f | 0x80, length >> 14].map(|byte| byte as u8);
        let head = [&unhex("3fe1ff03"), [0x40, 0x7f].as_slice(), &length].concat();
        let block = [head.as_slice(), &vec![b'n'; 60_000], &[0]].concat();
        // The name again: indexed, in a literal that is inserted, in one that is not.
        for again in ["be", "7e00", "0f2f00"] {
            let mut decoder = Decoder::default();
            let mut decoded: usize = 0;
            let mut each = |name: &[u8], value: &[u8]| {
                decoded = decoded.saturating_add(name.len()).saturating_add(value.len());
            };
            assert_eq!(decoder.decode(&block, &mut each), Ok(()));
            assert_eq!(decoder.table_bytes, 60_000 + ENTRY_BYTES);
            assert_eq!(decoder.decode(&unhex(again), &mut each), Ok(()), "{again}");
            assert_eq!(
                decoder.decode(&unhex(&again.repeat(2)), &mut each),
                gave_up,
                "{again}"
            );
            assert_eq!(decoded, 3 * 60_000, "{again}: what is beyond is not handed out");
        }
    }

    #[test]
    fn faults_are_named() {
        let mut decoder = Decoder::default();
        for (block, reason) in [
            ("80", Malformed::BadValue),
            ("be", Malformed::BadValue),
            ("ffffffffffff", Malformed::BadValue),
            ("4001", Malformed::BadLength),
            ("40", Malformed::BadLength),
        ] {
            assert_eq!(
                fields(&mut decoder, block),
                Err(Status::Malformed(reason)),
                "{block}"
            );
        }
        let too_large = fields(&mut decoder, "3fe2ff03");
        assert_eq!(too_large, Err(Status::GaveUp(crate::l7::Limit::MessageLength)));
        let many = fields(&mut decoder, &"82".repeat(MAX_FIELDS + 1));
        assert_eq!(many, Err(Status::GaveUp(crate::l7::Limit::MessageLength)));
    }
}
