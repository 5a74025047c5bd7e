//! Domain names: DNS over UDP and TCP (RFC 1035), mDNS (RFC 6762), LLMNR (RFC 4795) and the NetBIOS name service
//! (RFC 1002), which share the message format.
//!
//! A datagram is a message; on TCP each message stands behind its length in two bytes (RFC 1035 §4.2.2). A message that
//! cannot be read is counted and read as far as it goes; it does not end the dissection, since the next one is apart.

mod message;
mod name;
mod netbios;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]
pub(super) mod tests;

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of,
};
use crate::column::{Address, Sink, Value};
use crate::cursor::Cursor;
use crate::l7::value::Text;
use message::{HEADER_BYTES, Header, Question, Resource, ResourceTexts};
use name::{ROOT, Unreadable};
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Questions that are listed for one flow; further ones are counted. A tunnel asks hundreds, which tell it apart.
pub const MAX_QUERIES: usize = 256;
/// Answers that are listed for one flow; further ones are counted.
pub const MAX_ANSWERS: usize = 64;
/// Addresses that are learned of one message; further ones are counted.
pub const MAX_ADDRESSES: usize = 64;
/// Bytes of addresses with their names that wait to be taken: more than what a stream's buffer of 256 KiB can hold, so
/// that what is learned does not depend on how much comes at once.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Bytes of text in each of the two lists, beyond which nothing is added.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Bytes of text that most names need.
const NAME_ROOM: usize = 64;
/// Questions and answers that are read of one message, each; a transfer of a zone (RFC 5936) has more in one of 64 KiB.
const MAX_RECORDS: u16 = 1024;
/// Bytes of names as text in one message, behind which no more of its questions are read, and no more of its answers: a
/// name of two bytes on the wire may be one of a kilobyte as text. Those of questions are shown in two ways.
const MAX_QUESTION_NAME_BYTES: usize = 4 * 1024;
const MAX_NAME_BYTES: usize = 16 * 1024;

crate::record! {
    /// A question that a flow asked.
    pub struct Query {
        /// Domain name without the final dot, as Wireshark shows it (`dns.qry.name`): `<Root>` for the root, control characters as in C, U+FFFD for bytes that are not UTF-8; a note in angle brackets where it cannot be read. NetBIOS names are decoded, with their suffix: `OFFICE<20>`.
        name: Text<38>,
        /// Type: `A`, `AAAA`, `HTTPS`, …, `TYPE1234`; `NB` and `NBSTAT` in NetBIOS. Null where an unreadable name hides it.
        r#type: Option<Cow<'static, str>>,
        /// Class: `IN`, `CH`, …, `CLASS1234`. The top bit, which has another meaning in mDNS, is left out there. Null where an unreadable name hides it.
        class: Option<Cow<'static, str>>,
        /// The name in presentation form (RFC 1035 §5.1), from which its bytes can be recovered: a dot and a backslash in a label stand behind a backslash, other bytes that are not printable or not UTF-8 are `\DDD` in decimal. Null where it is as `name`, and where the name cannot be read.
        wire_name: Option<Text<22>>,
    }
}

crate::record! {
    /// A resource record of an answer section.
    pub struct Answer {
        /// Name of its owner in presentation form (RFC 1035 §5.1), `.` for the root: what `wire_name` is of a query.
        name: Text<38>,
        /// Type, as of a query.
        r#type: Cow<'static, str>,
        /// Time to live in seconds.
        ttl: u32,
        /// Data in presentation form (RFC 1035 §5.1) for A, AAAA, CNAME, DNAME, NS, PTR, MX, TXT (strings in quotation marks), SOA, SRV, SVCB and HTTPS; addresses and names for NB and NBSTAT of NetBIOS; else as in RFC 3597 §5. Cut at 512 bytes of the wire.
        data: Text<38>,
    }
}

crate::record! {
    /// The DNS, mDNS, LLMNR or NetBIOS name service messages of a flow.
    pub struct Record {
        /// Questions in order of arrival, each listed once; those of responses too, if they were not asked before. At most 256, and 64 KiB of names.
        queries: Vec<Query>,
        /// Resource records of answer sections in order of arrival, each listed once. At most 64, and 64 KiB of text.
        answers: Vec<Answer>,
        /// Response code of the latest response, with the upper bits of EDNS (RFC 6891): `NOERROR`, `NXDOMAIN`, …; `ACT_ERR` and `CFT_ERR` in NetBIOS.
        rcode: Option<Cow<'static, str>>,
        /// Operation of the first message: `QUERY`, `NOTIFY`, `UPDATE`, …; `REGISTRATION`, … in NetBIOS.
        opcode: Option<Cow<'static, str>>,
        /// Messages that are queries.
        query_count: u32,
        /// Messages that are responses.
        response_count: u32,
        /// Responses with a response code other than NOERROR.
        error_count: u32,
        /// Whether a query asked for recursion; LLMNR has no such flag.
        recursion_desired: bool,
        /// Whether a response offered recursion; LLMNR has no such flag.
        recursion_available: bool,
        /// Whether a response was authoritative; LLMNR has no such flag.
        authoritative: bool,
        /// Whether a message was truncated by its sender (flag TC).
        truncated: bool,
        /// Questions that are not listed because the list is full, or stand behind the first 1,024 of a message or the first 4 KiB of its names.
        queries_omitted: u32,
        /// Resource records of answer sections that are not listed because the list is full, or stand behind the first 1,024 of a message or the first 16 KiB of its names.
        answers_omitted: u32,
        /// Messages that could not be read, or only in part.
        malformed_count: u32,
    }
}

impl Query {
    fn new(name: &str, question: Question, dialect: Dialect) -> Self {
        let exact = dialect.name(name);
        let shown = name::shown(&exact);
        // A name that looks like a note says that it is none.
        let plain = shown == exact && Unreadable::NOTES.iter().all(|note| *note != shown);
        Self {
            name: (&*shown).into(),
            r#type: Some(dialect.type_name(question.kind)),
            class: Some(dialect.class_name(question.class)),
            wire_name: (!plain).then(|| name::dotted(&exact).into()),
        }
    }

    /// As text from which the bytes can be recovered.
    fn exact(&self) -> &str {
        self.wire_name.as_deref().unwrap_or(&self.name)
    }

    /// The name of a host, if it is one and could be read.
    fn server_name(&self) -> Option<&str> {
        let exact = self.exact();
        let unreadable = self.wire_name.is_none() && Unreadable::NOTES.contains(&exact);
        (!unreadable && exact != ROOT).then_some(exact)
    }
}

impl Query {
    fn hash(&self) -> u32 {
        hash_of((self.exact(), &self.r#type, &self.class))
    }
}

impl Answer {
    /// The same record with another age is the same record.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.r#type == other.r#type && self.data == other.data
    }

    fn hash(&self) -> u32 {
        hash_of((&*self.name, &self.r#type, &*self.data))
    }
}

fn hash_of(what: impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish() as u32
}

/// The hashes of a list's items once it is long, so that what is new is not compared with each of them.
#[derive(Clone, Debug, Default)]
struct Hashes(Vec<u32>);

impl Hashes {
    /// Items that are compared without.
    const FEW: usize = 8;

    /// Where the list has what is `new`.
    fn find<T>(
        &self,
        items: &[T],
        new: &T,
        hash: impl Fn(&T) -> u32,
        same: impl Fn(&T, &T) -> bool,
    ) -> Option<usize> {
        if items.len() < Self::FEW {
            return items.iter().position(|item| same(item, new));
        }
        let wanted = hash(new);
        let equal = self.0.iter().enumerate().filter(|(_, hash)| **hash == wanted);
        equal
            .map(|(index, _)| index)
            .find(|&index| items.get(index).is_some_and(|item| same(item, new)))
    }

    /// An item was added.
    fn follow<T>(&mut self, items: &[T], hash: impl Fn(&T) -> u32) {
        if items.len() >= Self::FEW {
            self.0
                .extend(items.get(self.0.len()..).unwrap_or_default().iter().map(hash));
        }
    }

    fn heap_bytes(&self) -> usize {
        self.0.capacity().saturating_mul(size_of::<u32>())
    }
}

/// The name that an address was the answer for.
#[derive(Clone, Debug)]
enum Asked {
    /// At this place of the list of queries.
    Listed(u16),
    /// The list is full.
    Unlisted(Arc<str>),
}

/// The addresses that were learned and wait to be taken.
#[derive(Clone, Debug, Default)]
struct Learned {
    waiting: Vec<(Asked, Address)>,
    /// Bytes of the names that are not listed.
    name_bytes: usize,
    /// Addresses for which there was no room.
    omitted: u64,
}

impl Learned {
    /// Adds an address of a message; those of it stand from `start`.
    fn add(&mut self, start: usize, asked: &Asked, address: Address) {
        let own = self.waiting.get(start..).unwrap_or_default();
        if own.iter().any(|(_, known)| *known == address) {
            return;
        }
        if own.len() >= MAX_ADDRESSES || self.heap_bytes() > MAX_WAITING_BYTES {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        // The addresses of a message share its name.
        if let (Asked::Unlisted(name), []) = (asked, own) {
            self.name_bytes = self.name_bytes.saturating_add(name.len());
        }
        self.waiting.push((asked.clone(), address));
    }

    fn heap_bytes(&self) -> usize {
        self.waiting
            .capacity()
            .saturating_mul(size_of::<(Asked, Address)>())
            .saturating_add(self.name_bytes)
    }
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Dns {
    record: Record,
    learned: Learned,
    /// Bytes of text in the list of queries and in that of answers.
    query_bytes: usize,
    answer_bytes: usize,
    query_hashes: Hashes,
    answer_hashes: Hashes,
    /// The bytes that are still to come of a message in each stream direction, of which a gap may take some.
    pending: [usize; 2],
    /// The bytes of a message in each stream direction that a gap did not reach.
    skip: [usize; 2],
    /// Stream directions in which message boundaries are lost, or that are closed.
    lost: [bool; 2],
    closed: [bool; 2],
}

impl Dissect for Dns {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let side = side_of(context.direction);
        let dialect = Dialect::of(context);
        match input {
            Input::Datagram(bytes) => {
                self.message(bytes, dialect);
                // One that HTTP carries in a stream: its addresses are not asked for.
                if context.stream {
                    self.learned = Learned::default();
                }
                Outcome::all(bytes)
            }
            Input::Stream(bytes) => self.stream(side, bytes, dialect),
            Input::Gap(length) => Outcome::none(self.gap(side, length)),
            Input::End => {
                if let Some(closed) = self.closed.get_mut(side) {
                    *closed = true;
                }
                Outcome::none(if self.closed == [true; 2] {
                    Status::Done
                } else {
                    Status::Need(0)
                })
            }
        }
    }

    fn confidence(&self) -> Confidence {
        Confidence::Payload
    }

    fn server_name(&self) -> Option<&str> {
        self.record.queries.iter().find_map(Query::server_name)
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Dns {
            self.record.emit(sink);
        }
        protocol == Protocol::Dns
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        let hashes = self
            .query_hashes
            .heap_bytes()
            .saturating_add(self.answer_hashes.heap_bytes());
        self.record
            .heap_bytes()
            .saturating_add(self.learned.heap_bytes())
            .saturating_add(hashes)
    }
}

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// The port of multicast DNS.
const MDNS_PORT: u16 = 5353;
/// The port of LLMNR.
const LLMNR_PORT: u16 = 5355;
/// The port of the NetBIOS name service.
const NETBIOS_PORT: u16 = 137;

/// What the relatives of DNS do differently, which goes by their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Dns,
    Multicast,
    Llmnr,
    Netbios,
}

impl Dialect {
    fn of(context: &Context) -> Self {
        let on = |port: u16| context.src_port == port || context.dst_port == port;
        // In the order of the table of protocols, and over the transports that it says.
        if on(DNS_PORT) {
            Self::Dns
        } else if on(MDNS_PORT) && !context.stream {
            Self::Multicast
        } else if on(LLMNR_PORT) {
            Self::Llmnr
        } else if on(NETBIOS_PORT) && !context.stream {
            Self::Netbios
        } else {
            Self::Dns
        }
    }

    fn name(self, name: &str) -> Cow<'_, str> {
        if self == Self::Netbios {
            Cow::Owned(netbios::name(name))
        } else {
            Cow::Borrowed(name)
        }
    }

    fn type_name(self, kind: u16) -> Cow<'static, str> {
        let own = (self == Self::Netbios).then(|| netbios::type_name(kind));
        own.flatten().unwrap_or_else(|| message::type_name(kind))
    }

    /// RFC 6762 §5.4: the top bit of a multicast question's class asks for a unicast response.
    fn class_name(self, class: u16) -> Cow<'static, str> {
        message::class_name(if self == Self::Multicast {
            class & 0x7fff
        } else {
            class
        })
    }

    fn opcode_name(self, opcode: u8) -> Cow<'static, str> {
        let own = (self == Self::Netbios).then(|| netbios::opcode_name(opcode));
        own.flatten().unwrap_or_else(|| message::opcode_name(opcode))
    }

    fn code_name(self, code: u16) -> Cow<'static, str> {
        let own = (self == Self::Netbios).then(|| netbios::code_name(code));
        own.flatten().unwrap_or_else(|| message::code_name(code))
    }
}

impl Dns {
    /// As [`super::Session::take_dns_addresses`].
    pub(super) fn take_addresses(&mut self, learn: &mut dyn FnMut(&str, Address)) -> u64 {
        let learned = std::mem::take(&mut self.learned);
        for (asked, address) in &learned.waiting {
            let name = match asked {
                Asked::Listed(place) => self.record.queries.get(usize::from(*place)).map(Query::exact),
                Asked::Unlisted(name) => Some(&**name),
            };
            if let Some(name) = name {
                learn(name, *address);
            }
        }
        learned.omitted
    }

    fn stream(&mut self, side: usize, bytes: &[u8], dialect: Dialect) -> Outcome {
        let mut consumed: usize = 0;
        let (Some(pending), false) = (self.pending.get_mut(side), self.lost.get(side) != Some(&false)) else {
            return Outcome::all(bytes);
        };
        *pending = 0;
        if let Some(skip) = self.skip.get_mut(side) {
            consumed = (*skip).min(bytes.len());
            *skip = skip.saturating_sub(consumed);
        }
        loop {
            let mut cursor = Cursor::new(bytes.get(consumed..).unwrap_or_default());
            if cursor.is_empty() {
                // What is to be passed over is passed over as it comes: a gap must know how much of it is left.
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            }
            let Ok(length) = cursor.u16() else {
                return Outcome {
                    consumed,
                    status: Status::Need(2),
                };
            };
            let whole = usize::from(length).saturating_add(2);
            let Ok(message) = cursor.take(length.into()) else {
                if let Some(pending) = self.pending.get_mut(side) {
                    *pending = usize::from(length).saturating_sub(cursor.len());
                }
                // Not for the whole message: a gap must know how far it has come.
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            };
            self.message(message, dialect);
            consumed = consumed.saturating_add(whole);
        }
    }

    /// A gap within a message takes that message; one that hides a length leaves the rest of the direction without
    /// boundaries.
    fn gap(&mut self, side: usize, length: u64) -> Status {
        if let (Some(pending), Some(skip), Some(lost)) = (
            self.pending.get_mut(side),
            self.skip.get_mut(side),
            self.lost.get_mut(side),
        ) {
            let begun = std::mem::take(pending);
            let left = skip.saturating_add(begun);
            match usize::try_from(length)
                .ok()
                .and_then(|length| left.checked_sub(length))
            {
                Some(rest) => {
                    *skip = rest;
                    let cut = u32::from(begun > 0);
                    self.record.malformed_count = self.record.malformed_count.saturating_add(cut);
                }
                None => *lost = true,
            }
        }
        if self.lost == [true; 2] {
            Status::GaveUp(Limit::Gap)
        } else {
            Status::Need(0)
        }
    }

    fn message(&mut self, bytes: &[u8], dialect: Dialect) {
        if self.read(bytes, dialect).is_err() {
            self.record.malformed_count = self.record.malformed_count.saturating_add(1);
        }
    }

    fn read(&mut self, bytes: &[u8], dialect: Dialect) -> Result<(), Malformed> {
        let mut cursor = Cursor::new(bytes);
        let header = Header::parse(&mut cursor)?;
        let record = &mut self.record;
        record
            .opcode
            .get_or_insert_with(|| dialect.opcode_name(header.opcode()));
        record.truncated |= header.is_truncated();
        if header.is_response() {
            record.response_count = record.response_count.saturating_add(1);
            // RFC 4795 §2.1.1: these bits mean something else in LLMNR, or nothing.
            if dialect != Dialect::Llmnr {
                record.recursion_available |= header.is_recursion_available();
                record.authoritative |= header.is_authoritative();
            }
            record.rcode = Some(dialect.code_name(header.code().into()));
            record.error_count = record.error_count.saturating_add(u32::from(header.code() != 0));
        } else {
            record.query_count = record.query_count.saturating_add(1);
            record.recursion_desired |= dialect != Dialect::Llmnr && header.is_recursion_desired();
        }
        // A query may hold answers too, which nobody gave: those that it knows (mDNS), or conditions of an update.
        let teaches = header.is_answer() && header.answers > 0 && dialect != Dialect::Netbios;
        let mut asked = None;
        let mut loops = false;
        let mut texts = ResourceTexts {
            name: String::with_capacity(NAME_ROOM),
            data: String::with_capacity(if header.answers > 0 { NAME_ROOM } else { 0 }),
            name_bytes: 0,
        };
        for number in 0..header.questions {
            if number >= MAX_RECORDS || texts.name_bytes > MAX_QUESTION_NAME_BYTES {
                Question::skip(&mut cursor)?;
                self.record.queries_omitted = self.record.queries_omitted.saturating_add(1);
                continue;
            }
            match Question::parse(bytes, &mut cursor, &mut texts) {
                Ok(question) => {
                    let place = self.add_query(Query::new(&texts.name, question, dialect));
                    if teaches && asked.is_none() {
                        let unlisted = || Asked::Unlisted(name::dotted(&texts.name).into());
                        asked = Some(place.map_or_else(unlisted, Asked::Listed));
                    }
                }
                Err(Unreadable::Loop) => {
                    loops = true;
                    let (kind, class) = (cursor.u16()?, cursor.u16()?);
                    self.add_query(Query {
                        name: Unreadable::Loop.note().unwrap_or_default().into(),
                        r#type: Some(dialect.type_name(kind)),
                        class: Some(dialect.class_name(class)),
                        wire_name: None,
                    });
                }
                Err(why) => {
                    if let Some(note) = why.note() {
                        self.add_query(Query {
                            name: note.into(),
                            ..Query::default()
                        });
                    }
                    return Err(why.into());
                }
            }
        }
        let start = self.learned.waiting.len();
        for number in 0..header.answers {
            if number >= MAX_RECORDS || texts.name_bytes > MAX_NAME_BYTES {
                let (kind, _) = Resource::skip(&mut cursor)?;
                self.record.answers_omitted = self.record.answers_omitted.saturating_add(1);
                if matches!(kind, message::kind::A | message::kind::AAAA) && asked.is_some() {
                    self.learned.omitted = self.learned.omitted.saturating_add(1);
                }
                continue;
            }
            let resource = Resource::parse(bytes, &mut cursor, dialect, &mut texts)?;
            if let (Some(address), Some(asked)) = (resource.address, &asked) {
                self.learned.add(start, asked, address);
            }
            self.add_answer(resource, &texts, dialect);
        }
        // Of the other sections only EDNS is of interest, and only if it can raise the response code.
        for _ in 0..u32::from(header.authorities).saturating_add(header.additionals.into()) {
            let (kind, upper) = Resource::skip(&mut cursor)?;
            if kind == message::kind::OPT && header.is_response() && upper != 0 {
                let code = (u16::from(upper) << 4) | u16::from(header.code());
                self.record.rcode = Some(dialect.code_name(code));
                self.record.error_count = self
                    .record
                    .error_count
                    .saturating_add(u32::from(header.code() == 0));
            }
        }
        if loops { Err(Malformed::BadPointer) } else { Ok(()) }
    }

    /// Lists a question unless it is listed; its place, if there was one.
    fn add_query(&mut self, query: Query) -> Option<u16> {
        let queries = &mut self.record.queries;
        if let Some(index) = self.query_hashes.find(queries, &query, Query::hash, Query::eq) {
            return u16::try_from(index).ok();
        }
        let exact = query.wire_name.as_ref().map_or(0, Text::byte_length);
        let bytes = self
            .query_bytes
            .saturating_add(query.name.byte_length())
            .saturating_add(exact);
        if queries.len() >= MAX_QUERIES || bytes > MAX_TEXT_BYTES {
            self.record.queries_omitted = self.record.queries_omitted.saturating_add(1);
            return None;
        }
        self.query_bytes = bytes;
        // Most flows ask once.
        if queries.len() == queries.capacity() {
            queries.reserve_exact(queries.len().max(1));
        }
        queries.push(query);
        self.query_hashes.follow(queries, Query::hash);
        u16::try_from(queries.len().saturating_sub(1)).ok()
    }

    fn add_answer(&mut self, resource: Resource, texts: &ResourceTexts, dialect: Dialect) {
        let answer = Answer {
            name: name::dotted(&dialect.name(&texts.name)).into(),
            r#type: dialect.type_name(resource.kind),
            ttl: resource.ttl,
            data: texts.data.as_str().into(),
        };
        let answers = &mut self.record.answers;
        let hashes = &mut self.answer_hashes;
        if hashes
            .find(answers, &answer, Answer::hash, Answer::is_same)
            .is_some()
        {
            return;
        }
        let bytes = self
            .answer_bytes
            .saturating_add(answer.name.byte_length())
            .saturating_add(answer.data.byte_length());
        if answers.len() < MAX_ANSWERS && bytes <= MAX_TEXT_BYTES {
            self.answer_bytes = bytes;
            answers.push(answer);
            hashes.follow(answers, Answer::hash);
        } else {
            self.record.answers_omitted = self.record.answers_omitted.saturating_add(1);
        }
    }
}

/// DNS on any port: strict enough that other payloads are not taken for it.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    if !hint.stream {
        return if is_message(bytes, bytes.len(), hint.port) == Verdict::Yes {
            Verdict::Yes
        } else {
            Verdict::No
        };
    }
    let mut cursor = Cursor::new(bytes);
    let Ok(length) = cursor.u16() else {
        return Verdict::More;
    };
    if usize::from(length) < HEADER_BYTES {
        return Verdict::No;
    }
    let seen = cursor.rest();
    let message = seen.get(..length.into()).unwrap_or(seen);
    is_message(message, length.into(), hint.port)
}

/// mDNS and LLMNR: the format of DNS, on their own port.
pub(super) fn identify_by_port(bytes: &[u8], hint: Hint) -> Verdict {
    if hint.port {
        identify(bytes, hint)
    } else {
        Verdict::No
    }
}

/// The NetBIOS name service: its own port, and a first name that is encoded.
pub(super) fn identify_netbios(bytes: &[u8], hint: Hint) -> Verdict {
    let front = bytes.get(HEADER_BYTES..).unwrap_or_default();
    if hint.port && netbios::is_encoded(front) {
        Verdict::Yes
    } else {
        Verdict::No
    }
}

/// More than any question has: a name of 255 bytes, type and class.
const MAX_QUESTION_BYTES: usize = 260;

/// Whether `bytes` begin a message of `length` bytes. The header and the first question decide.
fn is_message(bytes: &[u8], length: usize, port: bool) -> Verdict {
    let short = if bytes.len() < length {
        Verdict::More
    } else {
        Verdict::No
    };
    // Before the whole header is there, its flags rule out most other protocols, and the number of questions the requests of
    // SOCKS 5, whose flags are those of a query.
    if let (Some(&[high, low]), false) = (bytes.get(2..4), port)
        && (!message::are_common_flags(u16::from_be_bytes([high, low]))
            || bytes.get(4..6).is_some_and(|questions| questions != [0, 1]))
    {
        return Verdict::No;
    }
    let mut cursor = Cursor::new(bytes);
    let Ok(header) = Header::parse(&mut cursor) else {
        return short;
    };
    let records = [header.answers, header.authorities, header.additionals];
    let total = records
        .iter()
        .copied()
        .fold(u32::from(header.questions), |sum, count| {
            sum.saturating_add(count.into())
        });
    // A question takes at least 5 bytes, a record 11.
    let least = records
        .iter()
        .fold(usize::from(header.questions).saturating_mul(5), |sum, &count| {
            sum.saturating_add(usize::from(count).saturating_mul(11))
        })
        .saturating_add(HEADER_BYTES);
    if !port && (header.questions != 1 || least > length || (!header.is_response() && header.answers > 0)) {
        return Verdict::No;
    }
    // On the port of DNS a message may be damaged, or cut short by its capture: then its header has to do. One that
    // announces many records has room for them: an announcement of mDNS, or a part of a zone's transfer.
    let sound_header = header.is_plausible() && (total <= 64 || least <= length);
    if port && header.questions == 0 {
        return if sound_header && (total > 0 || header.is_response()) {
            Verdict::Yes
        } else {
            Verdict::No
        };
    }
    let seen = cursor.len();
    let question = match Question::check(bytes, &mut cursor) {
        Ok(question) => question,
        Err(_) if seen < MAX_QUESTION_BYTES && bytes.len() < length => return Verdict::More,
        Err(_) => {
            return if port && sound_header {
                Verdict::Yes
            } else {
                Verdict::No
            };
        }
    };
    let class = question.class & 0x7fff;
    let known = matches!(class, 1 | 3 | 4 | 255) && !message::type_name(question.kind).starts_with("TYPE");
    let alone = total == 1 && length != bytes.len().saturating_sub(cursor.len());
    if (port && (sound_header || known)) || (known && !alone) {
        Verdict::Yes
    } else {
        Verdict::No
    }
}
