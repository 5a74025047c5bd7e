use super::*;
use crate::l7::tests::{Feeder, field};

/// A name in wire format.
fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// id 0x1234, flags, counts.
fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    [0x1234, flags, questions, answers, 0, 0]
        .iter()
        .flat_map(|value: &u16| value.to_be_bytes())
        .collect()
}

/// A query for an A record.
pub(in crate::l7) fn query(name: &str) -> Vec<u8> {
    [header(0x0100, 1, 0), wire_name(name), vec![0, 1, 0, 1]].concat()
}

/// Its response.
pub(in crate::l7) fn response(name: &str, address: [u8; 4]) -> Vec<u8> {
    let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4];
    [
        header(0x8180, 1, 1),
        wire_name(name),
        vec![0, 1, 0, 1],
        answer.to_vec(),
        address.to_vec(),
    ]
    .concat()
}

/// A response with other flags, which may make it something else.
fn response_with_flags(name: &str, flags: u16) -> Vec<u8> {
    let mut message = response(name, [192, 0, 2, 1]);
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message
}

#[test]
fn netbios_names_are_decoded() {
    // A registration: flags of opcode 5, broadcast; an additional record that is not listed.
    let question = b"\x20EPEGEGEJEDEFCACACACACACACACACACA\0\0\x20\0\x01";
    let mut flow = Feeder::udp(137, 137);
    flow.forward(&[header(0x2910, 1, 0), question.to_vec()].concat());
    let answer = [
        b"\x20EPEGEGEJEDEFCACACACACACACACACACA\0\0\x20\0\x01".as_slice(),
        &[0, 0, 0, 60, 0, 6, 0, 0, 192, 0, 2, 20],
    ]
    .concat();
    flow.reverse(&[header(0x8500, 0, 1), answer].concat());
    assert_eq!(
        flow.session.protocol().map(|(found, _)| found),
        Some(Protocol::Netbios)
    );
    assert_eq!(flow.session.server_name(), Some("OFFICE<20>"));
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "queries"), "[{OFFICE<20>,NB,IN,null}]");
    assert_eq!(field(&record, "answers"), "[{OFFICE<20>,NB,60,192.0.2.20}]");
    assert_eq!(field(&record, "opcode"), "REGISTRATION");
    let mut other = Feeder::udp(137, 137);
    other.forward(&query("www.example.org"));
    assert_ne!(
        other.session.protocol().map(|(found, _)| found),
        Some(Protocol::Netbios)
    );
}

#[test]
fn types_of_netbios_are_read_as_such_in_its_messages_only() {
    // Type 33 is SRV in DNS and the status of a node in NetBIOS; type 32 is not read in DNS.
    let name = [b"OFFICE          ".as_slice(), &[4, 0]].concat();
    let status = [&[2], name.repeat(2).as_slice()].concat();
    let owners = [0x60, 0, 192, 0, 2, 20].repeat(1000);
    let service = [0, 1, 0, 2, 0, 53, 1, b'a', 0];
    let data = |kind: u16, data: &[u8], dialect| {
        let length = (data.len() as u16).to_be_bytes();
        let record = [&[0], &kind.to_be_bytes()[..], &[0, 1, 0, 0, 0, 60], &length, data].concat();
        let mut cursor = Cursor::new(&record);
        let mut texts = ResourceTexts::default();
        Resource::parse(&record, &mut cursor, dialect, &mut texts).map(|_| texts.data)
    };
    let data = |kind, bytes: &[u8], dialect| data(kind, bytes, dialect).unwrap_or_default();
    assert_eq!(data(33, &status, Dialect::Netbios), "OFFICE<20> OFFICE<20>");
    assert_eq!(data(33, &service, Dialect::Dns), "1 2 53 a");
    assert_eq!(data(33, &service, Dialect::Multicast), "1 2 53 a");
    let shown = data(32, &owners, Dialect::Netbios);
    assert_eq!(shown.split(' ').count(), 85, "512 bytes of 6 each");
    assert!(data(32, &owners, Dialect::Dns).starts_with("\\# 6000 6000c0000214"));
    assert_eq!(
        data(33, &[2], Dialect::Netbios),
        "\\# 1 02",
        "a status that is cut is no service"
    );
}

/// Messages as on TCP.
pub(in crate::l7) fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| [&(message.len() as u16).to_be_bytes(), message.as_slice()].concat())
        .collect()
}

/// A response to `name` whose answer has this type and data.
fn answered(kind: u16, data: &[u8]) -> Feeder {
    let mut message = [
        header(0x8180, 1, 1),
        wire_name("q.test"),
        kind.to_be_bytes().to_vec(),
        vec![0, 1],
    ]
    .concat();
    message.extend_from_slice(&[0xc0, 12]);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    message.extend_from_slice(&(data.len() as u16).to_be_bytes());
    message.extend_from_slice(data);
    let mut flow = Feeder::udp(40_000, 53);
    flow.reverse(&message);
    flow
}

#[test]
fn a_query_and_its_response() {
    let mut flow = Feeder::udp(40_000, 40_001);
    flow.forward(&query("www.example.org"));
    flow.reverse(&response("www.example.org", [192, 0, 2, 7]));
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Dns, Confidence::Payload)),
        "on any port"
    );
    assert_eq!(flow.session.server_name(), Some("www.example.org"));
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "queries"), "[{www.example.org,A,IN,null}]");
    assert_eq!(field(&record, "answers"), "[{www.example.org,A,3600,192.0.2.7}]");
    assert_eq!(field(&record, "rcode"), "NOERROR");
    assert_eq!(field(&record, "opcode"), "QUERY");
    assert_eq!(
        (field(&record, "query_count"), field(&record, "response_count")),
        ("1", "1")
    );
    assert_eq!(field(&record, "recursion_desired"), "true");
    assert_eq!(
        flow.addresses,
        [("www.example.org".to_owned(), Address::v4([192, 0, 2, 7]))]
    );
}

#[test]
fn data_in_presentation_form() {
    let cases: [(u16, &[u8], &str); 11] = [
        (5, b"\x01a\xc0\x0c", "{q.test,CNAME,60,a.q.test}"),
        (15, b"\x00\x0a\x02mx\xc0\x0c", "{q.test,MX,60,10 mx.q.test}"),
        (16, b"\x03one\x03two", "{q.test,TXT,60,\"one\" \"two\"}"),
        (28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "{q.test,AAAA,60,2001:db8::1}"),
        (16, b"\x00\x01a", "{q.test,TXT,60,\"\" \"a\"}"),
        (16, b"\x02ab\x05cd", "{q.test,TXT,60,\\# 6 026162056364}"),
        (33, b"\x00\x01\x00\x02\x01\xbb\x00", "{q.test,SRV,60,1 2 443 .}"),
        (
            6,
            b"\x01m\xc0\x0c\x01r\xc0\x0c\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x05",
            "{q.test,SOA,60,m.q.test r.q.test 1 2 3 4 5}",
        ),
        // Priority 1, target ".", alpn h2 and h3, port 8443, ech.
        (
            65,
            b"\x00\x01\x00\x00\x01\x00\x06\x02h2\x02h3\x00\x03\x00\x02\x20\xfb\x00\x05\x00\x01x",
            "{q.test,HTTPS,60,1 . alpn=h2,h3 port=8443 ech}",
        ),
        (4711, b"\x01\x02", "{q.test,TYPE4711,60,\\# 2 0102}"),
        (1, b"\x01\x02", "{q.test,A,60,\\# 2 0102}"),
    ];
    for (kind, data, expected) in cases {
        let record = answered(kind, data).record(Protocol::Dns);
        assert_eq!(field(&record, "answers"), format!("[{expected}]"));
        assert_eq!(field(&record, "malformed_count"), "0");
    }
}

#[test]
fn edns_raises_the_response_code() {
    // BADVERS is 16: upper bits 1 in the OPT record, lower bits 0 in the header.
    let mut message = header(0x8180, 0, 0);
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
    let mut flow = Feeder::udp(40_000, 53);
    flow.reverse(&message);
    let record = flow.record(Protocol::Dns);
    assert_eq!(
        (field(&record, "rcode"), field(&record, "error_count")),
        ("BADVERS", "1")
    );
}

#[test]
fn mdns_and_llmnr_share_the_record() {
    // RFC 6762 §5.4: a question that asks for a unicast response.
    let mut question = query("printer.local");
    let last = question.len() - 2;
    question[last] = 0x80;
    let mut flow = Feeder::udp(5353, 5353);
    flow.forward(&question);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Mdns, Confidence::Payload))
    );
    assert_eq!(
        field(&flow.record(Protocol::Dns), "queries"),
        "[{printer.local,A,IN,null}]"
    );
    assert!(flow.record(Protocol::Mdns).is_empty());
    let mut flow = Feeder::udp(40_000, 5355);
    flow.forward(&query("host"));
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Llmnr, Confidence::Payload))
    );
}

#[test]
fn several_messages_on_tcp() {
    let mut flow = Feeder::tcp(40_000, 53);
    let both = framed(&[query("a.test"), query("b.test"), query("a.test")]);
    flow.forward(&both[..20]);
    flow.forward(&both[20..]);
    let record = flow.record(Protocol::Dns);
    assert_eq!(
        field(&record, "queries"),
        "[{a.test,A,IN,null},{b.test,A,IN,null}]",
        "each once"
    );
    assert_eq!(field(&record, "query_count"), "3");
    assert_eq!(
        flow.gap(crate::flowkey::Direction::Forward, 10),
        Status::Need(0),
        "the other side goes on"
    );
    assert_eq!(
        flow.gap(crate::flowkey::Direction::Reverse, 10),
        Status::GaveUp(Limit::Gap)
    );
}

#[test]
fn a_gap_within_a_message_takes_that_message_only() {
    let bytes = framed(&[
        query("a.test"),
        query("lost.test"),
        query("b.test"),
        query("c.test"),
    ]);
    let second = 2 + query("a.test").len();
    let third = second + 2 + query("lost.test").len();
    for (from, to) in [
        (second + 5, second + 9),
        (second + 5, third),
        (second + 2, third - 1),
    ] {
        let mut flow = Feeder::tcp(40_000, 53);
        assert_eq!(
            flow.forward(&bytes[..from]),
            Status::Need(0),
            "every segment is shown"
        );
        assert_eq!(
            flow.gap(crate::flowkey::Direction::Forward, (to - from) as u64),
            Status::Need(0)
        );
        // The rest of the message that was cut comes in pieces.
        flow.forward(&bytes[to..=to]);
        flow.forward(&bytes[to + 1..]);
        let record = flow.record(Protocol::Dns);
        assert_eq!(
            field(&record, "queries"),
            "[{a.test,A,IN,null},{b.test,A,IN,null},{c.test,A,IN,null}]",
            "a gap from {from} to {to}"
        );
        assert_eq!(field(&record, "malformed_count"), "1");
    }
    // One byte more, and a length is lost.
    let mut flow = Feeder::tcp(40_000, 53);
    flow.forward(&bytes[..second + 5]);
    flow.gap(
        crate::flowkey::Direction::Forward,
        (third + 1 - second - 5) as u64,
    );
    flow.forward(&bytes[third + 1..]);
    assert_eq!(
        field(&flow.record(Protocol::Dns), "queries"),
        "[{a.test,A,IN,null}]"
    );
}

#[test]
fn addresses_are_learned_from_answers_to_questions_only() {
    let with_flags = |flags| response_with_flags("a.test", flags);
    let mut flow = Feeder::udp(40_000, 53);
    // A query that holds an answer, and a dynamic update (RFC 2136) with a condition, and its response.
    flow.forward(&with_flags(0x0100));
    flow.forward(&with_flags(0x2800));
    flow.reverse(&with_flags(0xa800));
    assert_eq!(flow.addresses, []);
    flow.reverse(&with_flags(0x8180));
    assert_eq!(
        flow.addresses,
        [("a.test".to_owned(), Address::v4([192, 0, 2, 1]))]
    );
}

#[test]
fn data_is_not_read_beyond_its_length() {
    // A condition of an update (RFC 2136 §2.4): no data; behind it stands what could be taken for some.
    let mut message = [header(0x2800, 0, 2), b"\x01a\0\0\x05\0\xfe\0\0\0\0\0\0".to_vec()].concat();
    message.extend_from_slice(b"\x01b\0\0\x05\0\x01\0\0\0\x3c\0\x03\x01c\0");
    let mut flow = Feeder::udp(40_000, 53);
    flow.forward(&message);
    assert_eq!(
        field(&flow.record(Protocol::Dns), "answers"),
        "[{a,CNAME,0,\\# 0 },{b,CNAME,60,c}]"
    );
    // A name that goes on behind the length, and more of a service than its length says.
    for (kind, data, end) in [
        (2, b"\x03one\0".as_slice(), 3),
        (33, b"\0\x01\0\x02\0\x35\x01a\0", 7),
    ] {
        let mut message = [header(0x8180, 0, 1), vec![0, 0, kind, 0, 1, 0, 0, 0, 60, 0, end]].concat();
        message.extend_from_slice(data);
        let mut flow = Feeder::udp(40_000, 53);
        flow.reverse(&message);
        assert!(field(&flow.record(Protocol::Dns), "answers").contains(&format!("\\# {end} ")));
    }
}

#[test]
fn what_stands_behind_the_records_that_are_read_is_counted() {
    let record = |index: u16| {
        let [high, low] = index.to_be_bytes();
        [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, high, low]
    };
    let mut message = [header(0x8180, 1, 2000), wire_name("a.test"), vec![0, 252, 0, 1]].concat();
    message[11] = 1;
    for index in 0..2000 {
        message.extend_from_slice(&record(index));
    }
    // EDNS behind all of them: BADVERS.
    message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
    let mut flow = Feeder::tcp(40_000, 53);
    flow.reverse(&framed(&[message]));
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "answers_omitted"), "1936");
    assert_eq!(field(&record, "rcode"), "BADVERS");
    assert_eq!(field(&record, "malformed_count"), "0");
    let mut message = header(0x0100, 1030, 0);
    message.extend_from_slice(&b"\x01a\0\0\x01\0\x01".repeat(1030));
    let mut flow = Feeder::udp(40_000, 53);
    flow.forward(&message);
    let record = flow.record(Protocol::Dns);
    assert_eq!(
        (
            field(&record, "queries"),
            field(&record, "queries_omitted"),
            field(&record, "malformed_count")
        ),
        ("[{a,A,IN,null}]", "6", "0")
    );
}

#[test]
fn flags_and_codes_go_by_the_protocol() {
    let with_flags = |flags| response_with_flags("host", flags);
    // RFC 4795 §2.1.1: conflict, tentative.
    let mut flow = Feeder::udp(40_000, 5355);
    flow.forward(&with_flags(0x0100));
    flow.reverse(&with_flags(0x8580));
    let record = flow.record(Protocol::Dns);
    for name in ["authoritative", "recursion_desired", "recursion_available"] {
        assert_eq!(field(&record, name), "false", "{name}");
    }
    // RFC 1002 §4.2.6: a registration that is refused, since another has the name.
    let refused = [
        header(0xad86, 0, 1),
        b"\x20EPEGEGEJEDEFCACACACACACACACACACA\0\0\x20\0\x01".to_vec(),
        vec![0, 0, 0, 0, 0, 6, 0, 0, 192, 0, 2, 20],
    ]
    .concat();
    let mut flow = Feeder::udp(137, 137);
    flow.reverse(&refused);
    assert_eq!(field(&flow.record(Protocol::Dns), "rcode"), "ACT_ERR");
}

#[test]
fn damaged_messages_are_counted_and_read_as_far_as_they_go() {
    let mut message = response("a.test", [192, 0, 2, 1]);
    message.truncate(message.len() - 2);
    let mut flow = Feeder::udp(40_000, 53);
    flow.reverse(&message);
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "queries"), "[{a.test,A,IN,null}]");
    assert_eq!(
        (field(&record, "answers"), field(&record, "malformed_count")),
        ("[]", "1")
    );
}

#[test]
fn lists_are_bounded() {
    let mut flow = Feeder::udp(40_000, 53);
    let mut expected = Vec::new();
    for index in 0..300_u16 {
        expected.extend(vec![
            (
                format!("host{index}.test"),
                Address::v4([192, 0, 2, index as u8])
            );
            2
        ]);
        // What is listed is found again, whether the list is short or long.
        for _ in 0..2 {
            flow.reverse(&response(&format!("host{index}.test"), [192, 0, 2, index as u8]));
        }
    }
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "queries").matches('{').count(), MAX_QUERIES);
    assert_eq!(field(&record, "answers").matches('{').count(), MAX_ANSWERS);
    assert_eq!(
        (
            field(&record, "queries_omitted"),
            field(&record, "answers_omitted")
        ),
        ("88", "472")
    );
    assert_eq!(flow.addresses, expected, "learned whether or not they are listed");
    assert_eq!(flow.omitted, 0);
}

/// A response to `name` with so many addresses, which are different ones.
fn addresses_of(name: &str, count: u16) -> Vec<u8> {
    let mut message = [header(0x8180, 1, count), wire_name(name), vec![0, 1, 0, 1]].concat();
    for index in 0..count {
        let [high, low] = index.to_be_bytes();
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, high, low]);
    }
    message
}

#[test]
fn addresses_are_learned_however_many_come_at_once() {
    let message = |index: u16| {
        let [high, low] = index.to_be_bytes();
        response(&format!("host{index}.test"), [10, 0, high, low])
    };
    let mut whole = Feeder::tcp(40_000, 53);
    whole.reverse(&framed(&(0..1500).map(message).collect::<Vec<_>>()));
    let mut single = Feeder::tcp(40_000, 53);
    for index in 0..1500 {
        single.reverse(&framed(&[message(index)]));
    }
    assert_eq!(whole.addresses.len(), 1500);
    assert_eq!((whole.addresses, whole.omitted), (single.addresses, 0));
    // Those of one message are bounded, with the same one counted once.
    let mut flow = Feeder::udp(40_000, 53);
    let mut message = addresses_of("many.test", 70);
    let twice = message.len() - 3;
    message[twice..].copy_from_slice(&[0, 0, 0]);
    flow.reverse(&message);
    assert_eq!((flow.addresses.len(), flow.omitted), (MAX_ADDRESSES, 5));
}

#[test]
fn addresses_are_learned_through_a_proxy_too() {
    let mut flow = Feeder::tcp(50_000, 1080);
    flow.forward(&[5, 1, 0]);
    flow.reverse(&[5, 0]);
    flow.forward(&[5, 1, 0, 1, 192, 0, 2, 53, 0, 53]);
    flow.reverse(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    flow.forward(&framed(&[query("www.example.test")]));
    let before = flow.session.kept_bytes();
    for index in 0..100 {
        flow.reverse(&framed(&[response("www.example.test", [192, 0, 2, index])]));
    }
    assert_eq!((flow.addresses.len(), flow.omitted), (100, 0));
    assert!(flow.session.kept_bytes() < before + 16 * 1024);
}

#[test]
fn addresses_behind_what_is_read_of_a_message_are_counted() {
    let mut flow = Feeder::udp(40_000, 53);
    let long = format!("{0}.{0}.{0}.test", "\u{7f}".repeat(60));
    let mut message = [header(0x8180, 1, 41), wire_name(&long), vec![0, 1, 0, 1]].concat();
    for _ in 0..40 {
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12]);
    }
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    flow.reverse(&message);
    assert_eq!((flow.addresses.len(), flow.omitted), (0, 1));
}

#[test]
fn addresses_take_memory_until_they_are_taken() {
    let mut dns = Dns::default();
    for index in 0..MAX_QUERIES {
        dns.message(&query(&format!("host{index}.test")), Dialect::Dns);
    }
    let kept = dns.kept_bytes();
    let answers = dns.record.heap_bytes();
    dns.message(&addresses_of("unlisted.test", 2), Dialect::Dns);
    let answers = dns.record.heap_bytes() - answers;
    assert!(dns.kept_bytes() >= kept + answers + 2 * size_of::<(Asked, Address)>() + "unlisted.test".len());
    let mut names = Vec::new();
    let omitted = dns.take_addresses(&mut |name, _| names.push(name.to_owned()));
    assert_eq!((names, omitted), (vec!["unlisted.test".to_owned(); 2], 0));
    assert_eq!(dns.kept_bytes(), kept + answers, "all is given back");
    // Who never takes them has a bounded loss.
    let kept = dns.kept_bytes();
    let messages = 2000;
    for index in 0..messages {
        dns.message(&addresses_of(&format!("{index}.test"), 64), Dialect::Dns);
    }
    assert!(dns.kept_bytes() <= kept + 2 * MAX_WAITING_BYTES + 4096);
    let mut taken = 0;
    let omitted = dns.take_addresses(&mut |_, _| taken += 1);
    assert!(taken > 10_000 && omitted > 0);
    assert_eq!(taken + omitted, messages * 64);
}

#[test]
fn other_datagrams_are_not_taken_for_dns() {
    let ntp = [vec![0x23], vec![0; 47]].concat();
    // A STUN binding request: type, length, magic cookie, transaction id.
    let stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
    let trailing = [query("a.test"), vec![0]].concat();
    for other in [ntp.as_slice(), stun, &trailing, &[0; 64], &[0xff; 64]] {
        let mut flow = Feeder::udp(40_000, 40_001);
        flow.forward(other);
        assert_eq!(flow.session.protocol(), None, "{other:02x?}");
    }
}

#[test]
fn a_client_that_asks_from_the_port_of_a_relative_still_asks_dns() {
    for port in [MDNS_PORT, LLMNR_PORT, NETBIOS_PORT] {
        let mut flow = Feeder::udp(port, 53);
        // A class that mDNS would read as another one.
        let mut question = query("a.test");
        let class = question.len() - 2;
        question[class] = 0x80;
        flow.forward(&question);
        flow.reverse(&response_with_flags("a.test", 0x8586));
        assert_eq!(
            flow.session.protocol(),
            Some((Protocol::Dns, Confidence::Payload))
        );
        let record = flow.record(Protocol::Dns);
        for name in ["authoritative", "recursion_desired", "recursion_available"] {
            assert_eq!(field(&record, name), "true", "{name} from {port}");
        }
        assert_eq!(field(&record, "rcode"), "YXDOMAIN");
        assert!(field(&record, "queries").starts_with("[{a.test,A,CLASS32769,null}"));
    }
}

/// An announcement of mDNS: records without a question.
fn announcement(count: u16) -> Vec<u8> {
    let mut message = [header(0x8400, 0, count), wire_name("_http._tcp.local")].concat();
    for index in 0..count {
        if index > 0 {
            message.extend_from_slice(&[0xc0, 12]);
        }
        message.extend_from_slice(&[
            0,
            12,
            0,
            1,
            0,
            0,
            0,
            120,
            0,
            4,
            1,
            b'a' + (index % 26) as u8,
            0xc0,
            12,
        ]);
    }
    message
}

#[test]
fn long_announcements_are_identified() {
    for count in [1, 64, 65, 80] {
        let mut flow = Feeder::udp(5353, 5353);
        flow.reverse(&announcement(count));
        assert_eq!(
            flow.session.protocol().map(|(protocol, _)| protocol),
            Some(Protocol::Mdns),
            "{count} records"
        );
        assert_eq!(field(&flow.record(Protocol::Dns), "malformed_count"), "0");
    }
    // More than it has room for.
    let mut flow = Feeder::udp(5353, 5353);
    let mut message = announcement(2);
    message[7] = 65;
    flow.reverse(&message);
    assert_eq!(flow.session.protocol(), None);
    // The second message of a zone's transfer, before all of it is there.
    let mut flow = Feeder::tcp(40_000, 53);
    flow.reverse(&framed(&[announcement(500)])[..100]);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Dns, Confidence::Payload))
    );
}

#[test]
fn strings_are_cut_where_the_data_is() {
    let string = |length: u8, byte: u8| [vec![length], vec![byte; length.into()]].concat();
    let shown = |data: &[u8]| field(&answered(16, data).record(Protocol::Dns), "answers").to_owned();
    // 201 + 201 + 1 bytes are in front of the third string's.
    let data = [string(200, b'a'), string(200, b'b'), string(200, b'c')].concat();
    let text = format!(
        "\"{}\" \"{}\" \"{}\"",
        "a".repeat(200),
        "b".repeat(200),
        "c".repeat(109)
    );
    assert_eq!(shown(&data), format!("[{{q.test,TXT,60,{text}}}]"));
    // Nothing is seen of the third but its length.
    let data = [string(255, b'a'), string(254, b'b'), string(9, b'c')].concat();
    let text = format!("\"{}\" \"{}\"", "a".repeat(255), "b".repeat(254));
    assert_eq!(shown(&data), format!("[{{q.test,TXT,60,{text}}}]"));
}

#[test]
fn names_of_a_message_are_read_up_to_a_limit() {
    // 249 bytes on the wire, 987 as text.
    let label = |length: u8| [vec![length], vec![0xff; length.into()]].concat();
    let name = [label(62), label(62), label(62), label(60), vec![0]].concat();
    let mut message = [header(0x0100, 200, 0), name.clone(), vec![0, 1, 0, 1]].concat();
    for kind in 2..=200 {
        message.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1]);
    }
    let mut flow = Feeder::udp(40_000, 53);
    flow.forward(&message);
    let record = flow.record(Protocol::Dns);
    assert_eq!(field(&record, "queries").matches('{').count(), 5);
    assert_eq!(
        (
            field(&record, "queries_omitted"),
            field(&record, "malformed_count")
        ),
        ("195", "0")
    );
    // Names in data count too, and those of data that is not shown in the end: an SOA without its numbers.
    for (kind, data, read) in [
        (5, vec![0xc0, 12], 8),
        (6, vec![0xc0, 12, 0xc0, 12], 6),
        (16, vec![0], 16),
    ] {
        let mut message = [header(0x8180, 1, 80), name.clone(), vec![0, 1, 0, 1]].concat();
        message[11] = 1;
        for ttl in 0..80 {
            message.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, ttl, 0, data.len() as u8]);
            message.extend_from_slice(&data);
        }
        message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
        let mut flow = Feeder::udp(40_000, 53);
        flow.reverse(&message);
        let record = flow.record(Protocol::Dns);
        assert_eq!(field(&record, "answers").matches('{').count(), 1, "all the same");
        assert_eq!(
            field(&record, "answers_omitted"),
            (80 - read).to_string(),
            "{kind}"
        );
        assert_eq!(field(&record, "rcode"), "BADVERS", "what follows is read");
        assert_eq!(field(&record, "malformed_count"), "0");
    }
}

#[test]
fn names_are_shown_and_kept_exactly() {
    let question = |name: &[u8]| [header(0x0100, 1, 0), name.to_vec(), vec![0, 1, 0, 1]].concat();
    let mut flow = Feeder::udp(40_000, 53);
    for name in [
        b"\0".as_slice(),
        b"\x04fl\xefz\x01a\0",
        b"\x05a.b\\\n\0",
        b"\x18<Unknown extended label>\0",
        b"\x01x\x80",
    ] {
        flow.forward(&question(name));
    }
    let record = flow.record(Protocol::Dns);
    assert_eq!(
        field(&record, "queries"),
        concat!(
            "[{<Root>,A,IN,.},{fl\u{fffd}z.a,A,IN,fl\\239z.a},{a.b\\\\n,A,IN,a\\.b\\\\\\010},",
            "{<Unknown extended label>,A,IN,<Unknown extended label>},{<Unknown extended label>,null,null,null}]"
        )
    );
    assert_eq!(field(&record, "malformed_count"), "1");
    assert_eq!(
        flow.session.server_name(),
        Some("fl\\239z.a"),
        "of what can be told"
    );
}

#[test]
fn a_name_that_loops_does_not_hide_what_follows() {
    // Two questions: one whose pointer leads to itself at byte 12, and a good one.
    let message = [
        header(0x0100, 2, 0),
        vec![0xc0, 12, 0, 28, 0, 1],
        wire_name("a.test"),
        vec![0, 1, 0, 1],
    ]
    .concat();
    let mut flow = Feeder::udp(40_000, 53);
    flow.forward(&message);
    let record = flow.record(Protocol::Dns);
    assert_eq!(
        field(&record, "queries"),
        "[{<Name contains a pointer that loops>,AAAA,IN,null},{a.test,A,IN,null}]"
    );
    assert_eq!(field(&record, "malformed_count"), "1");
    assert_eq!(flow.session.server_name(), Some("a.test"));
}

#[test]
fn service_bindings_are_cut() {
    // Priority 1, target ".", port 443, then addresses beyond 512 bytes.
    let hints = [vec![0, 4, 0x04, 0], [192, 0, 2, 1].repeat(256)].concat();
    let data = [b"\x00\x01\x00\x00\x03\x00\x02\x01\xbb".to_vec(), hints].concat();
    let record = answered(65, &data).record(Protocol::Dns);
    assert_eq!(field(&record, "answers"), "[{q.test,HTTPS,60,1 . port=443}]");
    let short = &data[..data.len() - 700];
    let record = answered(65, short).record(Protocol::Dns);
    assert!(
        field(&record, "answers").contains("\\# "),
        "a length beyond the data"
    );
}
