//! Connections of HTTP/2, frame by frame.

use super::*;
use crate::flowkey::Direction::{self, Forward, Reverse};
use crate::l7::tests::{Feeder, field, unhex};

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = &(body.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), body].concat()
}

fn settings() -> Vec<u8> {
    frame(frame::SETTINGS, 0, 0, &unhex("000300000064"))
}

/// `GET http://www.example.com/` of RFC 7541 appendix C.4.1.
const REQUEST: &str = "828684418cf1e3c2e5f23a6ba0ab90f4ff";
/// 200, then `server: x`.
const RESPONSE: &str = "88 7601 78";

/// A request in two frames, padded and with priority, and its response with a body.
pub(in crate::l7) fn conversation() -> Vec<(Direction, Vec<u8>)> {
    let block = unhex(REQUEST);
    let first = [&[2], [0; 5].as_slice(), &block[..4], &[0, 0]].concat();
    let flags = flag::PADDED | flag::PRIORITY;
    let client = [
        PREFACE.to_vec(),
        settings(),
        frame(frame::HEADERS, flags, 1, &first),
        frame(frame::CONTINUATION, flag::END_HEADERS, 1, &block[4..]),
    ];
    let server = [
        settings(),
        frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE)),
        frame(frame::DATA, 1, 1, &[b'x'; 300]),
    ];
    vec![(Forward, client.concat()), (Reverse, server.concat())]
}

fn transactions(flow: &Feeder) -> String {
    field(&flow.record(Protocol::Http), "transactions").to_owned()
}

#[test]
fn a_request_and_its_response() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    for (direction, bytes) in conversation() {
        flow.bytes(direction, &bytes);
    }
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Http2, Confidence::Payload))
    );
    assert_eq!(flow.session.server_name(), Some("www.example.com"));
    assert_eq!(
        transactions(&flow),
        "[{GET,www.example.com,/,null,null,200,x,null,null,null,null}]"
    );
    assert!(flow.session.kept_bytes() > 0);
}

/// HTTP/1.1 that becomes HTTP/2; the response is the answer to the request that asked for it.
pub(in crate::l7) fn upgrade() -> Vec<(Direction, Vec<u8>)> {
    let request = b"GET /a HTTP/1.1\r\nHost: b.test\r\nUpgrade: h2c\r\n\r\n".to_vec();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n".to_vec();
    let response = frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE));
    let next = frame(frame::HEADERS, flag::END_HEADERS, 3, &unhex(REQUEST));
    vec![
        (Forward, request),
        (Reverse, [switch, settings(), response].concat()),
        (Forward, [PREFACE, &next].concat()),
    ]
}

#[test]
fn an_upgrade_answers_the_request_that_asked_for_it() {
    let mut flow = Feeder::tcp(40_000, 80);
    for (direction, bytes) in upgrade() {
        flow.bytes(direction, &bytes);
    }
    assert_eq!(
        flow.session.protocol().map(|(found, _)| found),
        Some(Protocol::Http)
    );
    assert_eq!(field(&flow.record(Protocol::Http), "upgraded_to"), "h2c");
    assert_eq!(
        transactions(&flow),
        "[{GET,b.test,/a,null,null,200,x,null,null,null,null},{GET,www.example.com,/,null,null,null,null,null,null,null,null}]"
    );
}

#[test]
fn long_values_are_shown_as_far_as_they_are_kept() {
    let mut flow = Feeder::tcp(40_000, 80);
    // A path of 1,500 bytes into the table and from it again; a number that is no number where it was cut.
    let path = [unhex("82 44 7f dd0a").as_slice(), &[b'p'; 1500]].concat();
    let length = [unhex("82 bf 0f0d 7f cd07").as_slice(), &[b'0'; 1099], b"5"].concat();
    let headers = |stream, block: &[u8]| frame(frame::HEADERS, flag::END_HEADERS, stream, block);
    flow.forward(&[PREFACE, &headers(1, &path), &headers(3, &[0x82, 0xbe])].concat());
    flow.forward(&headers(5, &[unhex("4001610162").as_slice(), &length].concat()));
    let row = format!(
        "{{GET,null,{},null,null,null,null,null,null,null,null}}",
        "p".repeat(1024)
    );
    assert_eq!(transactions(&flow), format!("[{row},{row},{row}]"));
}

/// Of a request or a response of DNS: content-type is entry 31 of the static table.
fn dns_headers(stream: u32, fields: &str) -> Vec<u8> {
    let block = [unhex(fields).as_slice(), &unhex("5f 17"), DNS_MESSAGE].concat();
    frame(frame::HEADERS, flag::END_HEADERS, stream, &block)
}

/// Two queries under way, one of them in pieces, and the response to the second.
pub(in crate::l7) fn dns_conversation() -> Vec<(Direction, Vec<u8>)> {
    let query = dns::tests::query("a.test");
    let (first, last) = query.split_at(15);
    let padded = [&[3], first, &[0; 3]].concat();
    let client = [
        PREFACE.to_vec(),
        dns_headers(1, "83 86 84"),
        frame(frame::DATA, flag::PADDED, 1, &padded),
        dns_headers(3, "83 86 84"),
        frame(frame::DATA, flag::END_STREAM, 3, &dns::tests::query("b.test")),
        frame(frame::DATA, 0, 1, last),
        frame(frame::DATA, flag::END_STREAM, 1, &[]),
    ];
    let server = [
        settings(),
        dns_headers(3, "88"),
        frame(frame::DATA, 0, 3, &dns::tests::response("b.test", [192, 0, 2, 1])),
        // Trailers end it.
        frame(
            frame::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            3,
            &unhex("4001610162"),
        ),
    ];
    vec![(Forward, client.concat()), (Reverse, server.concat())]
}

#[test]
fn dns_over_https_is_dns_too() {
    let mut flow = Feeder::tcp(40_000, 80);
    for (direction, bytes) in dns_conversation() {
        flow.bytes(direction, &bytes);
    }
    let record = flow.record(Protocol::Dns);
    let queries = field(&record, "queries");
    assert!(
        queries.find("b.test") < queries.find("a.test"),
        "a query is read when it is whole: {queries}"
    );
    assert!(field(&record, "answers").contains("192.0.2.1"));
    assert_eq!(field(&record, "malformed_count"), "0");
}

#[test]
fn messages_of_dns_are_kept_within_limits() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(&[PREFACE, &dns_headers(1, "83 86 84")].concat());
    let before = flow.session.kept_bytes();
    flow.forward(&frame(frame::DATA, 0, 1, &[0; MAX_DNS_BYTES]));
    assert_eq!(
        flow.session.kept_bytes(),
        before + MAX_DNS_BYTES,
        "what is kept is counted"
    );
    flow.forward(&frame(frame::DATA, flag::END_STREAM, 1, &[0]));
    assert_eq!(flow.session.kept_bytes(), before, "too long to be read");
    assert!(flow.record(Protocol::Dns).is_empty());
    // Too many at once.
    for stream in 1..100 {
        flow.forward(&dns_headers(2 * stream + 1, "83 86 84"));
        flow.forward(&frame(frame::DATA, 0, 2 * stream + 1, &[0; MAX_DNS_BYTES]));
    }
    let room = before + MAX_KEPT_DNS_BYTES..before + 2 * MAX_KEPT_DNS_BYTES;
    assert!(room.contains(&flow.session.kept_bytes()));
    // One that comes whole needs no room, and without a body there is none.
    flow.forward(&dns_headers(301, "83 86 84"));
    flow.forward(&frame(frame::DATA, flag::END_STREAM, 301, &[]));
    assert!(flow.record(Protocol::Dns).is_empty());
    flow.forward(&dns_headers(303, "83 86 84"));
    flow.forward(&frame(
        frame::DATA,
        flag::END_STREAM,
        303,
        &dns::tests::query("a.test"),
    ));
    assert!(field(&flow.record(Protocol::Dns), "queries").contains("a.test"));
}

/// A request for `/` or a response with status 200 on each of these streams.
fn headers(block: &str, streams: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let frames = streams
        .into_iter()
        .map(|stream| frame(frame::HEADERS, flag::END_HEADERS, stream, &unhex(block)));
    frames.flatten().collect()
}

fn count(flow: &Feeder) -> String {
    field(&flow.record(Protocol::Http), "transaction_count").to_owned()
}

#[test]
fn any_number_of_streams_may_be_in_flight() {
    let all = || (0..200).map(|place| 2 * place + 1);
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(&[PREFACE, &headers("82 86 84", all())].concat());
    flow.reverse(&[settings(), headers("88", all())].concat());
    assert_eq!(count(&flow), "200");
    assert_eq!(transactions(&flow).matches(",200,").count(), 32);
    // A long one beside many short ones.
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(&[PREFACE, &headers("82 86 84", [1])].concat());
    flow.reverse(&settings());
    for stream in all().skip(1) {
        flow.forward(&headers("82 86 84", [stream]));
        flow.reverse(&headers("88", [stream]));
    }
    flow.reverse(&headers("89", [1]));
    assert_eq!(count(&flow), "200");
    let shown = transactions(&flow);
    assert!(shown.starts_with("[{GET,null,/,null,null,204,"), "{shown}");
    assert_eq!(shown.matches(",200,").count(), 31);
    // Of the server alone each response is a transaction, in any order; a push promise is a request.
    let mut flow = Feeder::tcp(40_000, 80);
    let promise = [&2_u32.to_be_bytes(), unhex("82 86 84").as_slice()].concat();
    let promise = frame(frame::PUSH_PROMISE, flag::END_HEADERS, 5, &promise);
    flow.reverse(&[settings(), promise, headers("88", [5, 2, 3, 1])].concat());
    assert_eq!(count(&flow), "4");
    assert_eq!(transactions(&flow).matches("{GET,").count(), 1);
}

#[test]
fn of_each_field_the_first_is_shown() {
    let mut flow = Feeder::tcp(40_000, 80);
    let block = unhex("82 83 86 84 85 0f0d 0131 0f0d 0132");
    flow.forward(&[PREFACE, &frame(frame::HEADERS, flag::END_HEADERS, 1, &block)].concat());
    assert_eq!(
        transactions(&flow),
        "[{GET,null,/,null,null,null,null,null,null,1,null}]"
    );
}

#[test]
fn faults_lose_a_direction() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(&[PREFACE, &frame(frame::HEADERS, flag::END_HEADERS, 1, &[0xff; 6])].concat());
    flow.reverse(&settings());
    let response = frame(frame::HEADERS, flag::END_HEADERS, 1, &unhex(RESPONSE));
    flow.reverse(&response);
    assert_eq!(
        transactions(&flow),
        "[{null,null,null,null,null,200,x,null,null,null,null}]"
    );
    flow.reverse(&frame(frame::DATA, 0, 1, &[0; 100])[..50]);
    assert_eq!(
        flow.gap(Reverse, 59),
        Status::Need(0),
        "inside a frame that is passed over"
    );
    flow.reverse(&response);
    assert_eq!(flow.gap(Reverse, 1), Status::GaveUp(Limit::Gap));
}

#[test]
fn other_bytes_are_another_protocol() {
    assert_eq!(identify(b"PRI * HTTP/2", hint()), Verdict::More);
    assert_eq!(identify(b"PRI * HTTP/1", hint()), Verdict::No);
    assert_eq!(identify(&settings(), hint()), Verdict::Yes);
    assert_eq!(
        identify(&frame(frame::SETTINGS, 0, 0, &unhex("00ff00000064")), hint()),
        Verdict::No
    );
    assert_eq!(identify(&unhex("000006040100000000"), hint()), Verdict::No);
}

fn hint() -> Hint {
    Hint {
        port: false,
        stream: true,
        direction: Forward,
    }
}
