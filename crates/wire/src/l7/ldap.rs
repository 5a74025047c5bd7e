//! LDAP (RFC 4511): the operations of a session, without their content, and where it becomes TLS (§4.14).
//!
//! A message is a BER sequence that says its length, so messages are passed over without being read: only the operation
//! and, of an extended request, its name are looked at. After a SASL bind with a security layer (RFC 4513 §5.2.1)
//! nothing more can be read, which ends the dissection.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Outcome, Protocol, Status, Verdict, side_of,
    starttls,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use std::borrow::Cow;

/// Operations that are listed for one flow; there are no more of them.
const MAX_OPERATIONS: usize = 32;
/// Bytes at a message's front in which its operation is found: header, message number, and of an extended request the
/// name.
const FRONT_BYTES: usize = 64;
/// The object identifier of the StartTLS operation.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// BER tags.
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const EXTENDED_REQUEST: u8 = 0x77;
    pub(super) const REQUEST_NAME: u8 = 0x80;
}

crate::record! {
    /// The operations of an LDAP session.
    pub struct Record {
        /// Operations in order, each listed once: `bindRequest`, `searchResEntry`, … (RFC 4511 §4.2 to §4.13).
        operations: Vec<Cow<'static, str>>,
        /// Whether the client asked for TLS.
        starttls_requested: bool,
        /// Whether the stream became TLS; its handshake is in the struct `tls`.
        tls: bool,
    }
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Bytes of the present message that are still to be passed over.
    skip: u64,
    tls: bool,
    closed: bool,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Ldap {
    record: Record,
    sides: [Side; 2],
}

impl Dissect for Ldap {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        match input {
            // CLDAP: each datagram is a message.
            Input::Datagram(bytes) => {
                if let Ok(Some(front)) = Front::parse(bytes) {
                    self.message(&front);
                }
                Outcome::all(bytes)
            }
            Input::Stream(bytes) => self.stream(index, bytes),
            Input::Gap(length) => Outcome::none(self.gap(index, length)),
            Input::End => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.closed = true;
                }
                let closed = self.sides.iter().all(|side| side.closed);
                Outcome::none(if closed { Status::Done } else { Status::Need(0) })
            }
        }
    }

    fn confidence(&self) -> Confidence {
        Confidence::Payload
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Ldap {
            self.record.emit(sink);
        }
        protocol == Protocol::Ldap
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl Ldap {
    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let outcome = |status| Outcome { consumed, status };
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            if side.skip > 0 {
                let count = side.skip.min(rest.len() as u64);
                side.skip = side.skip.saturating_sub(count);
                consumed = consumed.saturating_add(count as usize);
                if side.skip > 0 {
                    return Outcome {
                        consumed,
                        status: Status::Need(0),
                    };
                }
                continue;
            }
            side.tls |= starttls::begins(rest) == Some(true);
            self.record.tls |= side.tls;
            if side.tls || starttls::begins(rest).is_none() {
                return outcome(Status::Need(0));
            }
            match Front::parse(rest) {
                Ok(Some(front)) => {
                    side.skip = front.message_bytes;
                    self.message(&front);
                }
                // A security layer of SASL has begun, or boundaries are lost.
                Ok(None) => return outcome(Status::Done),
                Err(Short) => return outcome(Status::Need(0)),
            }
        }
    }

    fn gap(&mut self, index: usize, length: u64) -> Status {
        let Some(side) = self.sides.get_mut(index) else {
            return Status::Need(0);
        };
        match side.skip.checked_sub(length) {
            Some(rest) => {
                side.skip = rest;
                Status::Need(0)
            }
            None => Status::GaveUp(Limit::Gap),
        }
    }

    fn message(&mut self, front: &Front) {
        self.record.starttls_requested |= front.start_tls;
        let operations = &mut self.record.operations;
        let name = Cow::Borrowed(front.operation);
        if operations.len() < MAX_OPERATIONS && !operations.contains(&name) {
            operations.push(name);
        }
    }
}

/// What the front of a message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Front {
    /// Of the whole message, header included.
    message_bytes: u64,
    operation: &'static str,
    start_tls: bool,
}

impl Front {
    /// `None` if the bytes are no message, an error if more of them are needed.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Short> {
        // Never more than what tells, so that the verdict does not depend on how much came at once.
        let seen = bytes.get(..FRONT_BYTES).unwrap_or(bytes);
        let mut cursor = Cursor::new(seen);
        if cursor.u8()? != tag::SEQUENCE {
            return Ok(None);
        }
        let Some(length) = ber_length(&mut cursor)? else {
            return Ok(None);
        };
        let header = seen.len().saturating_sub(cursor.len()) as u64;
        let message_bytes = header.saturating_add(length.into());
        if cursor.u8()? != tag::INTEGER {
            return Ok(None);
        }
        let number = cursor.u8()?;
        if !(1..=4).contains(&number) {
            return Ok(None);
        }
        cursor.skip(number.into())?;
        let kind = cursor.u8()?;
        let Some(operation) = operation(kind) else {
            return Ok(None);
        };
        // The message has to hold what was read of it.
        let read = seen.len().saturating_sub(cursor.len()) as u64;
        if message_bytes < read {
            return Ok(None);
        }
        let mut start_tls = false;
        if kind == tag::EXTENDED_REQUEST {
            let rest = u64::min(message_bytes, FRONT_BYTES as u64);
            if (bytes.len() as u64) < rest {
                return Err(Short);
            }
            // Not what stands behind the message, which may not have come yet.
            let left = message_bytes.saturating_sub(read) as usize;
            let inside = cursor.rest().get(..left).unwrap_or(cursor.rest());
            start_tls = requests_tls(Cursor::new(inside)).unwrap_or(false);
        }
        Ok(Some(Self {
            message_bytes,
            operation,
            start_tls,
        }))
    }
}

/// Whether an extended request, of which the tag was read, is StartTLS.
fn requests_tls(mut cursor: Cursor<'_>) -> Result<bool, Short> {
    ber_length(&mut cursor)?;
    if cursor.u8()? != tag::REQUEST_NAME {
        return Ok(false);
    }
    let length = cursor.u8()?;
    Ok(cursor.take(length.into())? == START_TLS)
}

/// A definite length of up to four bytes (X.690 §8.1.3); `None` for other forms.
fn ber_length(cursor: &mut Cursor<'_>) -> Result<Option<u32>, Short> {
    Ok(match cursor.u8()? {
        short @ 0..=0x7f => Some(short.into()),
        0x81 => Some(cursor.u8()?.into()),
        0x82 => Some(cursor.u16()?.into()),
        0x83 => Some(cursor.u24()?),
        0x84 => Some(cursor.u32()?),
        _ => None,
    })
}

/// The name of an operation (RFC 4511 appendix B).
fn operation(tag: u8) -> Option<&'static str> {
    Some(match tag {
        0x60 => "bindRequest",
        0x61 => "bindResponse",
        0x42 => "unbindRequest",
        0x63 => "searchRequest",
        0x64 => "searchResEntry",
        0x65 => "searchResDone",
        0x66 => "modifyRequest",
        0x67 => "modifyResponse",
        0x68 => "addRequest",
        0x69 => "addResponse",
        0x4a => "delRequest",
        0x6b => "delResponse",
        0x6c => "modDNRequest",
        0x6d => "modDNResponse",
        0x6e => "compareRequest",
        0x6f => "compareResponse",
        0x50 => "abandonRequest",
        0x73 => "searchResRef",
        0x77 => "extendedReq",
        0x78 => "extendedResp",
        0x79 => "intermediateResponse",
        _ => return None,
    })
}

/// A message with an operation of LDAP.
pub(super) fn identify(bytes: &[u8], hint: Hint) -> Verdict {
    match Front::parse(bytes) {
        Ok(Some(front)) if hint.stream || front.message_bytes <= bytes.len() as u64 => Verdict::Yes,
        Err(Short) => Verdict::More,
        Ok(_) => Verdict::No,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field, unhex};

    /// An extended request for StartTLS, message 1.
    pub(in crate::l7) fn start_tls() -> Vec<u8> {
        [unhex("301d 020101 7718 8016"), START_TLS.to_vec()].concat()
    }

    #[test]
    fn the_session_goes_on_in_tls() {
        let mut flow = Feeder::tcp(40_000, 389);
        flow.forward(&start_tls());
        flow.reverse(&unhex("300c 020101 7807 0a0100 0400 0400"));
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Ldap, Confidence::Payload))
        );
        let record = flow.record(Protocol::Ldap);
        assert_eq!(field(&record, "operations"), "[extendedReq,extendedResp]");
        assert_eq!(field(&record, "starttls_requested"), "true");
        assert_eq!(field(&record, "tls"), "true");
        assert_eq!(field(&flow.record(Protocol::Tls), "version"), "TLSv1.2");
    }

    #[test]
    fn content_is_passed_over() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        // A search result of 300 bytes, cut in two, then the end of the search.
        let entry = [unhex("3082012c 020102 64"), vec![0x16; 304 - 8]].concat();
        flow.reverse(entry.split_at(100).0);
        flow.reverse(entry.split_at(100).1);
        flow.reverse(&unhex("300c 020102 6507 0a0100 0400 0400"));
        assert_eq!(
            field(&flow.record(Protocol::Ldap), "operations"),
            "[searchResEntry,searchResDone]"
        );
        assert_eq!(flow.reverse(&[0, 0, 1, 0]), Status::Done, "a security layer");
    }

    #[test]
    fn a_large_result_hides_nothing_behind_it() {
        let entry = unhex("300f 020101 640a 0404636e3d78 3002 0400");
        let done = unhex("300c 020101 6507 0a0100 0400 0400");
        let removal = unhex("3009 020102 4a04 636e3d78");
        let expected = "[searchResEntry,searchResDone,delRequest]";
        let mut flow = Feeder::tcp(40_000, 389);
        flow.reverse(&[entry.repeat(70_000), done.clone()].concat());
        assert_eq!(flow.forward(&removal), Status::Need(0));
        assert_eq!(field(&flow.record(Protocol::Ldap), "operations"), expected);
        let mut flow = Feeder::udp(40_000, 389);
        for message in [vec![entry; 300], vec![done, removal]].concat() {
            flow.reverse(&message);
        }
        assert_eq!(field(&flow.record(Protocol::Ldap), "operations"), expected);
    }

    #[test]
    fn a_request_is_read_up_to_its_end() {
        // The length of the message is 4, which ends before the name of the operation.
        let request = [unhex("3004 020101 7718 8016"), START_TLS.to_vec()].concat();
        let mut whole = Feeder::tcp(40_000, 389);
        whole.forward(&request);
        let mut cut = Feeder::tcp(40_000, 389);
        for byte in &request {
            cut.forward(&[*byte]);
        }
        for flow in [whole, cut] {
            assert_eq!(field(&flow.record(Protocol::Ldap), "starttls_requested"), "false");
        }
    }

    #[test]
    fn datagrams_are_messages() {
        let mut flow = Feeder::udp(40_000, 389);
        flow.forward(&unhex("3008 020101 6303 040100"));
        flow.reverse(&unhex("300c 020101 6507 0a0100 0400 0400"));
        assert_eq!(
            field(&flow.record(Protocol::Ldap), "operations"),
            "[searchRequest,searchResDone]"
        );
    }

    #[test]
    fn gaps_inside_a_message_are_bridged() {
        use crate::flowkey::Direction::Reverse;
        let mut flow = Feeder::tcp(40_000, 389);
        flow.reverse(&[unhex("3082012c 020102 64").as_slice(), &[0; 20]].concat());
        assert_eq!(flow.gap(Reverse, 276), Status::Need(0));
        flow.reverse(&unhex("300c 020102 6507 0a0100 0400 0400"));
        assert_eq!(flow.gap(Reverse, 1), Status::GaveUp(Limit::Gap));
        assert_eq!(
            field(&flow.record(Protocol::Ldap), "operations"),
            "[searchResEntry,searchResDone]"
        );
    }
}
