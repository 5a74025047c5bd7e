use super::record::{MAX_TEXT_BYTES, MAX_TRANSACTIONS};
use super::*;
use crate::flowkey::Direction;
use crate::l7::tests::{Feeder, field};

fn transactions(flow: &Feeder) -> String {
    field(&flow.record(Protocol::Http), "transactions").to_owned()
}

/// Path and status of each transaction.
fn pairs(flow: &Feeder) -> String {
    let transactions = transactions(flow);
    let listed = transactions.trim_matches(['[', ']']).split_terminator('}');
    let pairs: Vec<_> = listed
        .map(|transaction| {
            let fields: Vec<_> = transaction.trim_start_matches([',', '{']).split(',').collect();
            format!("{}={}", fields[2], fields[5])
        })
        .collect();
    pairs.join(" ")
}

/// What a client and a server say, one letter each: a request `q` and a response `r` with a number; `Q` and `R` where
/// it is missing, which is known when the next one comes.
fn exchange(flow: &mut Feeder, messages: &str) {
    let mut missing = [false; 2];
    for message in messages.split(' ') {
        let (kind, number) = message.split_at(1);
        let (side, direction) = match kind {
            "q" | "Q" => (0, Direction::Forward),
            _ => (1, Direction::Reverse),
        };
        if matches!(kind, "Q" | "R") {
            missing[side] = true;
            continue;
        }
        if std::mem::take(&mut missing[side]) {
            flow.gap(direction, 100);
        }
        match kind {
            "q" => flow.forward(format!("GET /{number} HTTP/1.1\r\n\r\n").as_bytes()),
            _ => flow.reverse(
                format!("HTTP/1.1 40{number} No\r\nServer: s\r\nContent-Length: 2\r\n\r\nhi").as_bytes(),
            ),
        };
    }
}

/// The pairs of a whole connection.
fn exchanged(messages: &str) -> String {
    let mut flow = Feeder::tcp(40_000, 80);
    exchange(&mut flow, messages);
    flow.end();
    let shown = transactions(&flow);
    assert_eq!(
        shown.matches(",40").count(),
        shown.matches(",s,").count(),
        "{messages}: what a response says comes and goes with its status"
    );
    pairs(&flow)
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
    flow.forward(b"GET / HTTP/1.1\r\nHost:\r\n one.test\r\nHost: two.test\r\n three.test\r\n\r\n");
    assert_eq!(
        transactions(&flow),
        "[{GET,one.test,/,null,null,null,null,null,null,null,null}]",
        "the first of several"
    );
}

#[test]
fn the_target_decides_where_a_request_goes() {
    for (start, host) in [
        ("GET http://one.test:81/ HTTP/1.1", "one.test:81"),
        ("CONNECT one.test:443 HTTP/1.1", "one.test:443"),
        // One that names no host does not.
        ("GET http:///x HTTP/1.1", "two.test"),
    ] {
        let mut flow = Feeder::tcp(40_000, 80);
        flow.forward(format!("{start}\r\nHost: two.test\r\n\r\n").as_bytes());
        let shown = transactions(&flow);
        assert!(shown.contains(&format!(",{host},")), "{start}: {shown}");
    }
}

#[test]
fn parameters_of_a_media_type_may_be_folded() {
    for (field, media_type) in [
        ("multipart/form-data;\r\n boundary=x", "multipart/form-data"),
        (
            "multipart/form-data;\r\n a=x;\r\n\tboundary=x\r\n y",
            "multipart/form-data",
        ),
        (
            "multipart/form-data\r\n ; boundary=x\r\n y",
            "multipart/form-data",
        ),
        ("\r\n text/html;\r\n charset=x", "text/html"),
        (";\r\n text/html", ""),
    ] {
        let mut flow = Feeder::tcp(40_000, 80);
        flow.forward(format!("POST / HTTP/1.1\r\nContent-Type: {field}\r\n\r\n").as_bytes());
        assert_eq!(
            transactions(&flow),
            format!("[{{POST,null,/,null,null,null,null,{media_type},null,null,null}}]")
        );
    }
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

/// CONNECT of a client that goes on before it is answered.
pub(in crate::l7) fn early_tunnel() -> Vec<(Direction, Vec<u8>)> {
    let connect = b"GET http://a.test/ HTTP/1.1\r\n\r\nCONNECT b.test:443 HTTP/1.1\r\n\r\n";
    let responses = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi\
                      HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Connection established\r\n\r\n";
    let mut turns = crate::l7::tls::tests::conversation();
    turns.insert(0, (Direction::Forward, connect.to_vec()));
    turns.insert(2, (Direction::Reverse, responses.to_vec()));
    turns
}

#[test]
fn a_tunnel_may_be_used_before_it_is_answered() {
    let mut flow = Feeder::tcp(40_000, 3128);
    for (direction, bytes) in early_tunnel() {
        flow.bytes(direction, &bytes);
    }
    assert_eq!(flow.status, Status::Done);
    assert_eq!(pairs(&flow), "/=200 b.test:443=200");
    let record = flow.record(Protocol::Tls);
    assert_eq!(
        (field(&record, "sni"), field(&record, "version")),
        ("www.example.org", "TLSv1.2")
    );
    // The response was not captured.
    let mut flow = Feeder::tcp(40_000, 3128);
    for (place, (direction, bytes)) in early_tunnel().into_iter().enumerate() {
        let bytes = if place == 2 { b"" } else { bytes.as_slice() };
        flow.bytes(direction, bytes);
    }
    assert_eq!(field(&flow.record(Protocol::Tls), "version"), "TLSv1.2");
    let mut flow = Feeder::tcp(40_000, 3128);
    for (place, (direction, bytes)) in early_tunnel().into_iter().enumerate() {
        if place == 2 {
            flow.gap(direction, 100);
        } else {
            flow.bytes(direction, &bytes);
        }
    }
    assert_eq!(field(&flow.record(Protocol::Tls), "version"), "TLSv1.2");
}

#[test]
fn a_tunnel_that_is_used_and_refused_is_none() {
    let mut flow = Feeder::tcp(40_000, 3128);
    flow.forward(b"CONNECT one.test:443 HTTP/1.1\r\n\r\n\x16\x03\x01");
    assert_eq!(field(&flow.record(Protocol::Http), "upgraded"), "true");
    flow.reverse(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(field(&flow.record(Protocol::Http), "upgraded"), "false");
    assert_eq!(pairs(&flow), "one.test:443=502");
    assert!(!matches!(flow.end(), Status::Need(_)));
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
    assert_eq!(pairs(&flow), "/1=null /2=200");
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
fn a_missing_message_shifts_no_status() {
    for (messages, expected) in [
        ("q0 r0 q1 R1 q2 r2 q3 r3", "/0=400 /1=null /2=402 /3=403"),
        ("q0 R0 q1 R1 q2 r2 q3 r3", "/0=null /1=null /2=402 /3=403"),
        ("q0 r0 Q1 r1 q2 r2 q3 r3", "/0=400 null=401 /2=402 /3=403"),
        ("q0 r0 Q1 R1 q2 r2 q3 r3", "/0=400 /2=402 /3=403"),
        ("q0 r0 q1 R1 Q2 R2 q3 r3 q4 r4", "/0=400 /1=null /3=403 /4=404"),
        ("q0 r0 q1 R1 q2 r2 Q3 r3 q4 r4", "/0=400 /1=null /2=null /4=404"),
        (
            "q0 r0 q1 R1 q2 r2 q3 r3 Q4 r4 q5 r5",
            "/0=400 /1=null /2=402 /3=403 /5=405",
        ),
        // No further request was seen that would tell that none is missing.
        ("q0 r0 q1 R1 q2 r2", "/0=400 /1=null /2=null"),
        // The response comes while the request before the missing one waits.
        ("q0 r0 q1 R1 Q2 r2 q3 r3 q4 r4", "/0=400 /1=null /3=403 /4=404"),
        ("q0 r0 q1 R1 Q2 r2 Q3 r3 q4 r4", "/0=400 /1=null null=403 /4=404"),
    ] {
        assert_eq!(exchanged(messages), expected, "{messages}");
    }
}

/// A connection of which the capture has those messages whose bit is set in `seen`. As streams are put together, a gap
/// is known once something behind it was seen and the other side acknowledges it: with its next message, or at once if
/// the capture has its bare acknowledgements.
fn captured(messages: &str, seen: u32, acknowledged_at_once: bool) -> Feeder {
    #[derive(Default)]
    struct Stream<'a> {
        sent: usize,
        acknowledged: usize,
        fed: usize,
        early: Vec<(usize, &'a str)>,
    }
    fn settle(flow: &mut Feeder, stream: &mut Stream<'_>) {
        for (place, message) in std::mem::take(&mut stream.early) {
            if place > stream.acknowledged.max(stream.fed) {
                stream.early.push((place, message));
                continue;
            }
            let missing = message.to_uppercase();
            let gap = if place > stream.fed { missing.as_str() } else { "" };
            exchange(flow, format!("{gap} {message}").trim());
            stream.fed = place + 1;
        }
    }
    let mut flow = Feeder::tcp(40_000, 80);
    let mut streams = <[Stream<'_>; 2]>::default();
    for (index, message) in messages.split(' ').enumerate() {
        let [client, server] = &mut streams;
        let (own, peer) = if message.starts_with('q') {
            (client, server)
        } else {
            (server, client)
        };
        if seen & 1 << index != 0 {
            peer.acknowledged = peer.sent;
            settle(&mut flow, peer);
            own.early.push((own.sent, message));
            settle(&mut flow, own);
        }
        own.sent += 1;
        if acknowledged_at_once {
            own.acknowledged = own.sent;
            settle(&mut flow, own);
        }
    }
    for stream in &mut streams {
        stream.acknowledged = stream.sent;
        settle(&mut flow, stream);
    }
    flow.end();
    flow
}

/// Asserts that no pair is wrong; how many responses were matched to a request.
fn matched(messages: &str, seen: u32, pairs: &str) -> usize {
    let is_seen = |message: String| {
        let place = messages.split(' ').position(|other| other == message);
        place.is_some_and(|place| seen & 1 << place != 0)
    };
    let mut matched = 0;
    for pair in pairs.split(' ') {
        let right = match pair.split_once('=') {
            Some((_, "null")) => true,
            Some(("null", status)) => !is_seen(format!("q{}", &status[2..])),
            Some((path, status)) => {
                matched += 1;
                path[1..] == status[2..]
            }
            None => false,
        };
        assert!(right, "{pair} in {pairs} of {messages}, seen: {seen:b}");
    }
    matched
}

#[test]
fn whatever_is_missing_of_a_client_that_waits_no_status_is_wrong() {
    const MESSAGES: &str = "q0 r0 q1 r1 q2 r2 q3 r3 q4 r4";
    const ALL: u32 = (1 << 10) - 1;
    for (seen, at_once) in (1..=ALL).flat_map(|seen| [(seen, false), (seen, true)]) {
        let pairs = pairs(&captured(MESSAGES, seen, at_once));
        let matched = matched(MESSAGES, seen, &pairs);
        if seen.count_ones() >= 9 {
            let whole = (0..5).filter(|number| seen >> (2 * number) & 3 == 3).count();
            // Behind a missing response the last one may be that to a further request that is missing too.
            let doubtful = usize::from(seen == ALL - (1 << 7));
            assert_eq!(matched, whole - doubtful, "{pairs}, seen: {seen:b}");
        }
    }
}

#[test]
fn one_missing_message_of_a_client_that_pipelines_makes_no_status_wrong() {
    for messages in [
        "q0 q1 q2 q3 r0 r1 r2 r3 q4 r4",
        "q0 r0 q1 q2 q3 r1 r2 r3 q4 r4",
        "q0 q1 r0 q2 r1 q3 r2 q4 r3 r4",
    ] {
        // The first is not missing: what is before it is not known of.
        for (missing, at_once) in (1..10).flat_map(|missing| [(missing, false), (missing, true)]) {
            let seen = (1 << 10) - 1 - (1 << missing);
            matched(messages, seen, &pairs(&captured(messages, seen, at_once)));
        }
        let all = (1 << 10) - 1;
        assert_eq!(matched(messages, all, &pairs(&captured(messages, all, false))), 5);
    }
}

#[test]
fn behind_a_gap_pipelined_requests_have_no_status() {
    for (messages, expected) in [
        // Seen before the gap: the response may answer any of those that wait.
        (
            "q0 q1 q2 r0 R1 r2 q3 r3 q4 r4",
            "/0=400 /1=null /2=null /3=null /4=null",
        ),
        ("q0 q1 r0 r1 Q2 q3 r2 r3 q4 r4", "/0=400 /1=401 /3=null /4=null"),
        ("q0 q1 r0 r1 q2 Q3 q4 r2 r3 r4", "/0=400 /1=401 /2=402 /4=null"),
        // One that waits alone is the one that is answered.
        ("q0 q1 r0 r1 q2 R9 r2 q3 r3", "/0=400 /1=401 /2=402 /3=403"),
        // Seen behind the gap: what was matched is taken back.
        ("q0 q1 q2 R0 r1 r2", "/0=null /1=null /2=null"),
        ("q0 q1 q2 R0 r1 r2 q3 r3", "/0=null /1=null /2=null /3=403"),
        (
            "q0 q1 q2 R0 r1 q3 q4 r2 r3 q5 r5",
            "/0=null /1=null /2=null /3=null /4=null /5=null",
        ),
        ("q0 r0 Q1 q2 r1 r2", "/0=400 /2=null"),
        ("q0 r0 Q1 q2 q3 r1 r2 r3", "/0=400 /2=null /3=null"),
    ] {
        assert_eq!(exchanged(messages), expected, "{messages}");
    }
}

#[test]
fn a_missing_response_does_not_lend_its_framing() {
    // That to HEAD has a length and no body, and would make a start line of the next one's body.
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"HEAD /0 HTTP/1.1\r\n\r\n");
    flow.forward(b"GET /1 HTTP/1.1\r\n\r\n");
    flow.gap(Direction::Reverse, 100);
    flow.reverse(b"HTTP/1.1 401 No\r\nContent-Length: 6\r\n\r\nA body");
    exchange(&mut flow, "q2 r2");
    assert_eq!(pairs(&flow), "/0=null /1=401 /2=402");
    // That to CONNECT would end HTTP.
    let mut flow = Feeder::tcp(40_000, 80);
    flow.forward(b"CONNECT a.test:1 HTTP/1.1\r\n\r\n");
    flow.gap(Direction::Forward, 100);
    flow.forward(b"GET /1 HTTP/1.1\r\n\r\n");
    flow.gap(Direction::Reverse, 100);
    exchange(&mut flow, "r1 q2 r2");
    assert_eq!(pairs(&flow), "a.test:1=null /1=401 /2=402");
}

#[test]
fn a_response_that_is_taken_back_says_nothing_more() {
    let mut flow = Feeder::tcp(40_000, 80);
    exchange(&mut flow, "q0 R0 q1");
    flow.gap(Direction::Reverse, 100);
    flow.reverse(b"HTTP/1.1 401 No\r\n");
    flow.gap(Direction::Forward, 100);
    flow.reverse(b"Server: s\r\nContent-Length: 0\r\n\r\n");
    exchange(&mut flow, "q3 r3");
    assert_eq!(pairs(&flow), "/0=null /1=null /3=403");
    assert_eq!(transactions(&flow).matches(",s,").count(), 1);
}

#[test]
fn a_tunnel_is_found_where_no_response_is_matched() {
    let mut flow = Feeder::tcp(40_000, 80);
    exchange(&mut flow, "q0 q1 q2 r0 R1 r2");
    flow.forward(b"CONNECT a.test:1 HTTP/1.1\r\n\r\n");
    exchange(&mut flow, "q3");
    flow.forward(b"CONNECT a.test:2 HTTP/1.1\r\n\r\n\x16\x03\x01");
    let record = flow.record(Protocol::Http);
    assert_eq!(
        (field(&record, "transaction_count"), field(&record, "upgraded")),
        ("6", "true")
    );
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
fn responses_of_ssdp_come_from_any_port() {
    let found = |bytes: &[u8]| {
        let mut flow = Feeder::udp(40_123, 50_001);
        flow.forward(bytes);
        flow.session.protocol().map(|(found, _)| found)
    };
    let response =
        b"HTTP/1.1 200 OK\r\nServer: x\r\nSt: upnp:rootdevice\r\nusn: uuid:1::upnp:rootdevice\r\n\r\n";
    assert_eq!(found(response), Some(Protocol::Ssdp));
    for other in [
        b"HTTP/1.1 200 OK\r\nST: a\r\n\r\nUSN: b\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nUSN: b\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nST: a\r\nUSN: b\r\n\r\n",
        b"HTTP/1.1 200 OK",
    ] {
        assert_eq!(found(other), None, "{}", String::from_utf8_lossy(other));
    }
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
