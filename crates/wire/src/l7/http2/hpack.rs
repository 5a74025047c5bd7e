//! HPACK (RFC 7541): header fields of one direction, with its dynamic table.
//!
//! Of a name or a value only the first bytes are kept and handed out: an index of one byte may stand for a field as
//! large as the table, again in every block, so that nothing else bounds the work that a byte on the wire makes. For the
//! size of the table and the limit of a block they count with their whole length.

use super::huffman;
use crate::cursor::{Cursor, Short};
use crate::l7::http1::MAX_VALUE_BYTES;
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
/// Names and values of one block, decoded.
const MAX_DECODED_BYTES: usize = 64 * 1024;
/// Bytes that are kept of a name. Every name that is looked for is shorter, so that none is what is left of another.
const MAX_FIELD_NAME_BYTES: usize = 64;

/// The first bytes of a name or a value, borrowed where they need not be decoded.
#[derive(Clone, Debug)]
struct Text<'a> {
    bytes: Cow<'a, [u8]>,
    /// Its length before it was cut.
    length: usize,
}

impl<'a> Text<'a> {
    fn cut(mut bytes: Cow<'a, [u8]>, limit: usize) -> Self {
        let length = bytes.len();
        match &mut bytes {
            Cow::Borrowed(bytes) => *bytes = bytes.get(..limit).unwrap_or(bytes),
            Cow::Owned(bytes) => bytes.truncate(limit),
        }
        Self { bytes, length }
    }
}

/// A field of the dynamic table.
#[derive(Clone, Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
    /// Lengths before they were cut.
    name_length: u32,
    value_length: u32,
}

impl Entry {
    /// What it counts for the size of the table (RFC 7541 §4.1).
    fn size(&self) -> usize {
        (self.name_length as usize)
            .saturating_add(self.value_length as usize)
            .saturating_add(ENTRY_BYTES)
    }

    /// Bytes on the heap.
    fn heap_bytes(&self) -> usize {
        self.name.len().saturating_add(self.value.len())
    }
}

/// The decoder of one direction.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    /// The sizes of its entries.
    table_bytes: usize,
    max_table_bytes: usize,
    /// What its entries have on the heap.
    kept_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            table_bytes: 0,
            max_table_bytes: INITIAL_TABLE_BYTES,
            kept_bytes: 0,
        }
    }
}

impl Decoder {
    /// Hands the fields of a whole block to `each`, in order; names and values as far as they are kept. After an error
    /// the table is no longer that of the sender, so that no further block can be read.
    pub(super) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Status> {
        let mut cursor = Cursor::new(block);
        let mut fields: usize = 0;
        let mut decoded: usize = 0;
        let mut count = |name: &Text<'_>, value: &Text<'_>| {
            decoded = decoded.saturating_add(name.length).saturating_add(value.length);
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
                    count(&name, &value)?;
                    each(&name.bytes, &value.bytes);
                }
                0x40..=0x7f => {
                    let (name, value) = self.literal(&mut cursor, 6)?;
                    count(&name, &value)?;
                    each(&name.bytes, &value.bytes);
                    let entry = Entry {
                        name_length: name.length as u32,
                        value_length: value.length as u32,
                        name: name.bytes.into(),
                        value: value.bytes.into(),
                    };
                    self.insert(entry);
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
                    each(&name.bytes, &value.bytes);
                }
            }
        }
        Ok(())
    }

    /// Bytes that it keeps on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let slots = self.table.capacity().saturating_mul(size_of::<Entry>());
        self.kept_bytes.saturating_add(slots)
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
            string(cursor, MAX_FIELD_NAME_BYTES)?
        } else {
            self.indexed(index)?.0
        };
        Ok((name, string(cursor, MAX_VALUE_BYTES)?))
    }

    /// The static table first, then the dynamic one (RFC 7541 §2.3.3).
    fn indexed(&self, index: u32) -> Result<(Text<'_>, Text<'_>), Malformed> {
        let text = |bytes, length| Text {
            bytes: Cow::Borrowed(bytes),
            length,
        };
        let place = (index as usize).checked_sub(1).ok_or(Malformed::BadValue)?;
        if let Some((name, value)) = STATIC_TABLE.get(place) {
            return Ok((
                text(name.as_bytes(), name.len()),
                text(value.as_bytes(), value.len()),
            ));
        }
        let place = place.checked_sub(STATIC_TABLE.len()).ok_or(Malformed::BadValue)?;
        let entry = self.table.get(place).ok_or(Malformed::BadValue)?;
        Ok((
            text(&entry.name, entry.name_length as usize),
            text(&entry.value, entry.value_length as usize),
        ))
    }

    fn insert(&mut self, entry: Entry) {
        self.table_bytes = self.table_bytes.saturating_add(entry.size());
        self.kept_bytes = self.kept_bytes.saturating_add(entry.heap_bytes());
        self.table.push_front(entry);
        self.evict();
    }

    fn evict(&mut self) {
        while self.table_bytes > self.max_table_bytes {
            let Some(entry) = self.table.pop_back() else {
                break;
            };
            self.table_bytes = self.table_bytes.saturating_sub(entry.size());
            self.kept_bytes = self.kept_bytes.saturating_sub(entry.heap_bytes());
        }
    }
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

/// A string, plain or in Huffman code (RFC 7541 §5.2), of which so many bytes are kept.
fn string<'a>(cursor: &mut Cursor<'a>, limit: usize) -> Result<Text<'a>, Malformed> {
    let huffman_coded = cursor.rest().first().ok_or(Short)? & 0x80 != 0;
    let length = integer(cursor, 7)?;
    let bytes = cursor.take(length as usize)?;
    if !huffman_coded {
        return Ok(Text::cut(Cow::Borrowed(bytes), limit));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    huffman::decode(bytes, &mut decoded)?;
    Ok(Text::cut(Cow::Owned(decoded), limit))
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
            assert_eq!(
                decoded,
                3 * MAX_FIELD_NAME_BYTES,
                "{again}: what is beyond is not handed out"
            );
            assert_eq!(
                decoder.kept_bytes,
                decoder.table.len() * MAX_FIELD_NAME_BYTES,
                "{again}"
            );
        }
    }

    #[test]
    fn names_and_values_are_cut_and_count_whole() {
        let mut decoder = Decoder::default();
        // A name of 127 and a value of 2,000 bytes into a table of 4,096.
        let long = [
            unhex("407f00").as_slice(),
            &[b'n'; 127],
            &unhex("7fd10e"),
            &[b'v'; 2000],
        ]
        .concat();
        // In Huffman code: 2,000 times `0`, which is five bits without a one.
        let coded = [unhex("000161ffe308").as_slice(), &[0; 1250]].concat();
        let mut seen = Vec::new();
        for block in [&long, &unhex("be"), &unhex("7e00"), &unhex("0f2f00"), &coded] {
            let each = |name: &[u8], value: &[u8]| seen.push((name.len(), value.len()));
            assert_eq!(decoder.decode(block, each), Ok(()));
        }
        assert_eq!(seen, [(64, 1024), (64, 1024), (64, 0), (64, 0), (1, 1024)]);
        let sizes: Vec<_> = decoder.table.iter().map(Entry::size).collect();
        assert_eq!(sizes, [127 + ENTRY_BYTES, 127 + 2000 + ENTRY_BYTES]);
        assert_eq!(decoder.kept_bytes, 64 + 64 + 1024);
        assert!(decoder.heap_bytes() < decoder.table_bytes);
        // The same again: the oldest goes, as it does at the sender.
        assert_eq!(decoder.decode(&long, |_, _| ()), Ok(()));
        let sizes: Vec<_> = decoder.table.iter().map(Entry::size).collect();
        assert_eq!(sizes, [127 + 2000 + ENTRY_BYTES, 127 + ENTRY_BYTES]);
        assert_eq!(decoder.decode(&unhex("20"), |_, _| ()), Ok(()));
        assert_eq!((decoder.table_bytes, decoder.kept_bytes), (0, 0));
    }

    #[test]
    fn no_known_name_is_as_long_as_one_that_was_cut() {
        assert!(
            STATIC_TABLE
                .iter()
                .all(|(name, _)| name.len() < MAX_FIELD_NAME_BYTES)
        );
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
