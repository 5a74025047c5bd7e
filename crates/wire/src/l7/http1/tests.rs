use super::record::{MAX_TEXT_BYTES, MAX_TRANSACTIONS};
use super::*;
use crate::flowkey::Direction;
use crate::l7::tests::{Feeder, field};

fn transactions(flow: &Feeder) -> String {
    field(&flow.record(Protocol::Http), "transactions").to_owned()
}

#[test]
fn a_request_and_its_response() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    flow.forward(b"POST /form?x=1 HTTP/1.1\r\nHost: www.example.org:8080\r\nUser-Agent: curl/8.5.0\r\nReferer: http://example.net/\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nabc");
    flow.reverse(
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Http, Confidence::Payload))
    );
    assert_eq!(flow.session.server_name(), Some("www.example.org"));
    assert_eq!(
        transactions(&flow),
        "[{POST,www.example.org:8080,/form?x=1,curl/8.5.0,http://example.net/,200,nginx,text/plain,text/html,3,5}]"
    );
    assert_eq!(flow.end(), Status::Done);
}

#[test]
fn pipelined_requests_meet_their_responses() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"HEAD /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n");
    // The answer to HEAD has a length but no body; 304 has none either.
    flow.reverse(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n");
    let expected = "[{HEAD,null,/1,null,null,200,null,null,null,null,100},\
                    {GET,null,/2,null,null,304,null,null,null,null,null},\
                    {GET,null,/3,null,null,404,null,null,null,null,0}]";
    assert_eq!(transactions(&flow), expected);
}

#[test]
fn chunked_bodies_and_trailers_are_passed_over() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    flow.reverse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
    flow.reverse(b"5;name=value\r\nab\r\nc\r\n1F\r\nHTTP/1.1 999 not a status line\r\n\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1 201 Created\r\n\r\n");
    let record = flow.record(Protocol::Http);
    assert_eq!(field(&record, "transaction_count"), "2");
    assert!(transactions(&flow).contains("{GET,null,/2,null,null,201,"));
}

#[test]
fn lenient_lines() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"\r\nGET http://user@example.org/p HTTP/1.0\nUser-Agent : a\n\tb\nX: y\n\n");
    assert_eq!(
        transactions(&flow),
        "[{GET,example.org,/p,a b,null,null,null,null,null,null,null}]"
    );
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET http://one.test/ HTTP/1.1\r\nHost: two.test\r\n\r\n");
    assert_eq!(
        flow.session.server_name(),
        Some("two.test"),
        "the field overrules the target"
    );
}

#[test]
fn another_protocol_ends_it() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n");
    flow.reverse(b"HTTP/1.1 200 Connection established\r\n\r\n");
    for (direction, bytes) in crate::l7::tls::tests::conversation() {
        flow.bytes(direction, &bytes);
    }
    assert_eq!(flow.status, Status::Done);
    assert_eq!(field(&flow.record(Protocol::Http), "upgraded"), "true");
    assert_eq!(flow.session.server_name(), Some("example.org"));
    assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(
        flow.reverse(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        Status::Done
    );
    assert_eq!(field(&flow.record(Protocol::Http), "upgraded_to"), "websocket");
}

#[test]
fn a_tunnel_that_is_refused_stays_http() {
    let mut flow = Feeder::tcp(40_000, 3128);
    flow.forward(b"CONNECT one.test:443 HTTP/1.1\r\n\r\nCONNECT two.test:443 HTTP/1.1\r\n\r\n");
    flow.reverse(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno");
    flow.forward(b"\x16\x03\x01");
    let record = flow.record(Protocol::Http);
    assert_eq!(field(&record, "transaction_count"), "2");
    assert_eq!(field(&record, "upgraded"), "true", "the second tunnel is in use");
}

#[test]
fn tunnels_in_tunnels_are_followed_to_a_depth() {
    let mut flow = Feeder::tcp(40_000, 3128);
    for _ in 0..10 {
        flow.forward(b"CONNECT proxy.test:3128 HTTP/1.1\r\n\r\n");
        flow.reverse(b"HTTP/1.1 200 OK\r\n\r\n");
    }
    assert_eq!(flow.status, Status::Done);
}

#[test]
fn gaps_in_bodies_are_bridged() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    flow.reverse(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
    flow.gap(Direction::Reverse, 80);
    flow.reverse(b"0123456789HTTP/1.1 204 No Content\r\n\r\n");
    assert!(transactions(&flow).contains("{GET,null,/2,null,null,204,"));
}

#[test]
fn after_a_gap_the_next_start_line_is_found() {
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET /1 HTTP/1.1\r\nHost: a.test\r\n");
    flow.gap(Direction::Forward, 100);
    flow.forward(b"of a field\r\nX: y\r\n\r\nGET /2 HTTP/1.1\r\nHost: b.test\r\n\r\n");
    flow.gap(Direction::Reverse, 1000);
    flow.reverse(b"</html>HTTP/1.1 200 OK\r\n\r\n");
    let record = flow.record(Protocol::Http);
    assert_eq!(field(&record, "transaction_count"), "2");
    assert!(transactions(&flow).contains("b.test"));
    // Nothing that looks like a start line, on either side.
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET / HTTP/1.1\r\n");
    for direction in [Direction::Forward, Direction::Reverse] {
        flow.gap(direction, 10);
        for _ in 0..20 {
            flow.bytes(direction, &[b'x'; 16 * 1024]);
        }
    }
    assert_eq!(flow.status, Status::GaveUp(Limit::Gap));
}

#[test]
fn limits_hold() {
    let mut flow = Feeder::tcp(40_000, 80);
    for _ in 0..40 {
        flow.forward(b"GET / HTTP/1.1\r\n\r\n");
    }
    let record = flow.record(Protocol::Http);
    assert_eq!(field(&record, "transaction_count"), "40");
    assert_eq!(
        field(&record, "transactions").matches('{').count(),
        MAX_TRANSACTIONS
    );
    let mut flow = Feeder::tcp(40_000, 80);
    let long = [
        b"GET /".as_slice(),
        &[b'x'; 4000],
        b" HTTP/1.1\r\nUser-Agent: ",
        &[b'y'; 4000],
        b"\r\n\r\n",
    ]
    .concat();
    let binary = [
        b"GET /".as_slice(),
        &[0xff; 1000],
        b" HTTP/1.1\r\nReferer: ",
        &[0xff; 4000],
        b"\r\n\r\n",
    ]
    .concat();
    for _ in 0..16 {
        flow.forward(&long);
        flow.forward(&binary);
    }
    let record = flow.record(Protocol::Http);
    assert_eq!(field(&record, "transaction_count"), "32");
    assert!(
        field(&record, "transactions").len() < MAX_TEXT_BYTES + 16 * 1024,
        "text is bounded too"
    );
    // A field line without end stops its direction, an endless header section too.
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"GET / HTTP/1.1\r\nX: ");
    flow.forward(&[b'x'; MAX_LINE_BYTES]);
    flow.reverse(b"HTTP/1.1 200 OK\r\n");
    for _ in 0..=MAX_HEADER_BYTES / 10 {
        flow.reverse(b"X: 345678\r\n");
    }
    assert_eq!(flow.status, Status::GaveUp(Limit::MessageLength));
}

#[test]
fn ssdp_is_http_in_datagrams() {
    let mut flow = Feeder::udp(40_000, 1900);
    flow.forward(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: ssdp:all\r\n\r\n");
    flow.forward(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n");
    flow.reverse(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n");
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Ssdp, Confidence::Payload))
    );
    assert_eq!(field(&flow.record(Protocol::Http), "transaction_count"), "3");
    assert_eq!(flow.session.server_name(), Some("239.255.255.250"));
}

#[test]
fn other_protocols_are_not_taken_for_http() {
    for other in [
        b"OPTIONS rtsp://h/ RTSP/1.0\r\n".as_slice(),
        b"INVITE sip:a@b SIP/2.0\r\n",
        b"220 mail ESMTP\r\n",
        b"PRI * HTTP/2.0\r\n",
    ] {
        let mut flow = Feeder::tcp(40_000, 80);
        flow.forward(other);
        assert_ne!(
            flow.session.protocol().map(|(found, _)| found),
            Some(Protocol::Http)
        );
    }
}

#[test]
fn a_request_line_that_was_cut_short_identifies() {
    let mut flow = Feeder::tcp(40_000, 40_001);
    flow.forward(b"GET /a/long/path/that/the/capture/cu");
    flow.gap(Direction::Forward, 500);
    flow.reverse(b"HTTP/1.1 200 OK\r\nServer: x\r\n");
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Http, Confidence::Payload))
    );
    assert_eq!(field(&flow.record(Protocol::Http), "transaction_count"), "1");
}
