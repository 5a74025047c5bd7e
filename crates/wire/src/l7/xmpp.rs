//! XMPP (RFC 6120): the opening of the stream in XML, and where it becomes TLS (§5).
//!
//! The stream is read tag by tag, without an XML parser: what is wanted stands in the opening tags. Reading ends when
//! the session is authenticated or after so many tags that TLS will not come any more.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Outcome, Protocol, Status, Verdict, find_byte,
    side_of, starttls,
};
use crate::column::{Sink, Value};
use crate::text;

/// The longest tag with the text before it.
const MAX_TAG_BYTES: usize = 8 * 1024;
/// Tags of one direction that are read. Features before TLS have some twenty; a session in the clear has any number.
const MAX_TAGS: u16 = 4096;
/// Bytes that are kept of a domain.
const MAX_DOMAIN_BYTES: usize = 256;
/// Bytes in which the stream's opening must be found.
const IDENTIFY_BYTES: usize = 512;

crate::record! {
    /// The opening of an XMPP stream.
    pub struct Record {
        /// Domain that the initiating side addresses: attribute `to` of its stream; `from` of the answer where that was seen first. Cut at 256 bytes.
        domain: Option<String>,
        /// Namespace of the stream's content: `jabber:client`, `jabber:server`, ….
        namespace: Option<String>,
        /// Whether the stream became TLS; its handshake is in the struct `tls`. Not known, and false, where more than 4,096 tags of a direction come before.
        tls: bool,
    }
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    tags: u16,
    /// Bytes of the unconsumed tag that were already searched for its end.
    searched: usize,
    tls: bool,
    closed: bool,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Xmpp {
    record: Record,
    sides: [Side; 2],
    finished: bool,
}

impl Dissect for Xmpp {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes),
            // What follows a gap is looked at as text before a tag.
            Input::Gap(_) => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.searched = 0;
                }
                Outcome::none(Status::Need(0))
            }
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
        if self.record.domain.is_some() {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        self.record.domain.as_deref()
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == Protocol::Xmpp {
            self.record.emit(sink);
        }
        protocol == Protocol::Xmpp
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl Xmpp {
    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut consumed: usize = 0;
        loop {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            side.tls |= starttls::begins(rest) == Some(true);
            self.record.tls |= side.tls;
            if side.tls || starttls::begins(rest).is_none() {
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            }
            let seen = rest.get(..MAX_TAG_BYTES).unwrap_or(rest);
            let searched = side.searched.min(seen.len());
            let end = find_byte(seen.get(searched..).unwrap_or_default(), b'>');
            let Some(end) = end.map(|end| end.saturating_add(searched)) else {
                side.searched = seen.len();
                let status = if seen.len() == MAX_TAG_BYTES {
                    Status::GaveUp(Limit::MessageLength)
                } else {
                    Status::Need(0)
                };
                return Outcome { consumed, status };
            };
            consumed = consumed.saturating_add(end).saturating_add(1);
            side.searched = 0;
            side.tags = side.tags.saturating_add(1);
            let over = side.tags >= MAX_TAGS;
            let tag = seen.get(..end).unwrap_or_default();
            let start = tag.iter().rposition(|&byte| byte == b'<').unwrap_or(tag.len());
            self.tag(tag.get(start..).unwrap_or_default());
            let status = match (self.finished, over) {
                (true, _) => Status::Done,
                (false, true) => Status::GaveUp(Limit::Transactions),
                (false, false) => continue,
            };
            return Outcome { consumed, status };
        }
    }

    /// A tag from its opening bracket, without the closing one.
    fn tag(&mut self, tag: &[u8]) {
        let text = |value: &[u8]| text::from_wire(value, MAX_DOMAIN_BYTES);
        if tag.starts_with(b"<stream:stream") {
            // Both sides open a stream, and the first that is seen may be the answer: its receiver is a user, its sender the
            // domain. RFC 6120 §4.7.3: it has an id, which the initiating side's must not have.
            let domain: &[u8] = if attribute(tag, b"id").is_some() {
                b"from"
            } else {
                b"to"
            };
            let (domain, namespace) = (attribute(tag, domain), attribute(tag, b"xmlns"));
            self.record.domain = self.record.domain.take().or(domain.map(text));
            self.record.namespace = self.record.namespace.take().or(namespace.map(text));
        } else {
            // RFC 6120 §6: after authentication there is no TLS to come.
            self.finished |= tag.starts_with(b"<success");
        }
    }
}

/// The value of an attribute, in either kind of quotes.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = tag.windows(name.len().saturating_add(2)).position(|window| {
        window.first().is_some_and(u8::is_ascii_whitespace)
            && window
                .get(1..)
                .is_some_and(|rest| rest.strip_prefix(name) == Some(b"="))
    })?;
    let (quote, rest) = tag
        .get(at.checked_add(name.len())?.checked_add(2)?..)?
        .split_first()?;
    let end = rest.iter().position(|byte| byte == quote)?;
    (matches!(quote, b'"' | b'\'')).then_some(rest.get(..end)?)
}

/// An opening stream tag, with or without the XML declaration before it.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    const STREAM: &[u8] = b"<stream:stream";
    const DECLARATION: &[u8] = b"<?xml";
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if !begins(STREAM) && !begins(DECLARATION) {
        return Verdict::No;
    }
    let seen = bytes.get(..IDENTIFY_BYTES).unwrap_or(bytes);
    if seen.windows(STREAM.len()).any(|window| window == STREAM) {
        Verdict::Yes
    } else if seen.len() < IDENTIFY_BYTES {
        Verdict::More
    } else {
        Verdict::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

    #[test]
    fn the_stream_goes_on_in_tls() {
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(b"<?xml version='1.0'?><stream:stream to=\"chat.example\" xmlns='jabber:client'>");
        flow.reverse(
            b"<stream:stream from='chat.example' id='1'><stream:features><starttls/></stream:features>",
        );
        flow.forward(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        flow.reverse(b"<proceed/>");
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        assert_eq!(flow.session.server_name(), Some("chat.example"));
        let record = flow.record(Protocol::Xmpp);
        assert_eq!(field(&record, "domain"), "chat.example");
        assert_eq!(field(&record, "namespace"), "jabber:client");
        assert_eq!(field(&record, "tls"), "true");
        assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    }

    #[test]
    fn an_answer_names_the_domain_as_its_sender() {
        // RFC 6120 §4.7: the answer names the user in `to`.
        let answer =
            b"<?xml version='1.0'?><stream:stream from='im.example.com' id='t7AMCin9zjMNwQKDnplntZPIDEI=' \
            to='juliet@im.example.com' version='1.0' xml:lang='en' xmlns='jabber:client' \
            xmlns:stream='http://etherx.jabber.org/streams'>";
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.reverse(answer);
        assert_eq!(flow.session.server_name(), Some("im.example.com"));
        let record = flow.record(Protocol::Xmpp);
        assert_eq!(field(&record, "domain"), "im.example.com");
        assert_eq!(field(&record, "namespace"), "jabber:client");
        // One without a sender says nothing; the opening says it when it is seen later.
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.reverse(b"<stream:stream id='1' to='juliet@im.example.com'>");
        assert_eq!(flow.session.server_name(), None);
        flow.forward(b"<stream:stream from='juliet@im.example.com' to='im.example.com'>");
        assert_eq!(flow.session.server_name(), Some("im.example.com"));
    }

    #[test]
    fn other_xml_is_another_protocol() {
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(&[b"<?xml version='1.0'?>".as_slice(), &[b' '; IDENTIFY_BYTES]].concat());
        assert_eq!(flow.session.protocol(), None);
        assert_eq!(attribute(b"<a to=x", b"to"), None);
    }

    #[test]
    fn authentication_ends_it() {
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(b"<stream:stream to='a'>");
        assert_eq!(flow.reverse(b"<success/>"), Status::Done);
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(b"<stream:stream to='a'>");
        assert_eq!(
            flow.forward(&[b'x'; MAX_TAG_BYTES]),
            Status::GaveUp(Limit::MessageLength)
        );
    }

    #[test]
    fn tags_without_end_are_given_up_and_counted() {
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(b"<stream:stream to='a'>");
        let (most, last) = (usize::from(MAX_TAGS).saturating_sub(2), b"<a>");
        assert_eq!(flow.forward(&last.repeat(most)), Status::Need(0));
        assert_eq!(flow.forward(last), Status::GaveUp(Limit::Transactions));
        let mut flow = Feeder::tcp(40_000, 5222);
        flow.forward(b"<stream:stream to='a'>");
        flow.forward(&last.repeat(most));
        assert_eq!(flow.forward(b"<success/>"), Status::Done);
    }

    #[test]
    fn no_byte_of_a_tag_is_searched_twice() {
        let context = Context {
            direction: crate::flowkey::Direction::Forward,
            time: 0,
            src_port: 40_000,
            dst_port: 5222,
            stream: true,
        };
        let mut xmpp = Xmpp::default();
        let mut feed = |input| {
            let outcome = xmpp.feed(input, &context, &crate::l7::tests::TestCrypto);
            (
                outcome.consumed,
                outcome.status,
                xmpp.sides.map(|side| side.searched),
            )
        };
        assert_eq!(feed(Input::Stream(b"<st")), (0, Status::Need(0), [3, 0]));
        assert_eq!(feed(Input::Stream(b"<start")), (0, Status::Need(0), [6, 0]));
        assert_eq!(feed(Input::Stream(b"<start><")), (7, Status::Need(0), [1, 0]));
        // What was searched is gone behind a gap.
        assert_eq!(feed(Input::Gap(5)), (0, Status::Need(0), [0, 0]));
        assert_eq!(feed(Input::Stream(b">")), (1, Status::Need(0), [0, 0]));
    }
}
