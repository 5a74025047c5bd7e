//! SMTP, IMAP, POP3 and FTP line by line.

use super::*;
use crate::flowkey::Direction;
use crate::l7::tests::{Feeder, field};
use proptest::prelude::*;

fn record(flow: &Feeder, protocol: Protocol, name: &str) -> String {
    field(&flow.record(protocol), name).to_owned()
}

#[test]
fn smtp_goes_on_in_tls() {
    let mut flow = Feeder::tcp(40_000, 587);
    flow.reverse(b"220 mail.example ESMTP Postfix\r\n");
    flow.forward(b"EHLO client.example\r\nSTARTTLS\r\n");
    flow.reverse(b"250-mail.example\r\n250 STARTTLS\r\n220 ready\r\n");
    for (direction, bytes) in crate::l7::tls::tests::conversation() {
        flow.bytes(direction, &bytes);
    }
    assert_eq!(flow.status, Status::Done);
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Smtp, Confidence::Payload))
    );
    assert_eq!(flow.session.server_name(), Some("www.example.org"));
    assert_eq!(
        record(&flow, Protocol::Smtp, "greeting"),
        "220 mail.example ESMTP Postfix"
    );
    assert_eq!(record(&flow, Protocol::Smtp, "commands"), "[EHLO,STARTTLS]");
    assert_eq!(record(&flow, Protocol::Smtp, "tls"), "true");
    assert_eq!(record(&flow, Protocol::Tls, "version"), "TLSv1.2");
    assert!(flow.session.kept_bytes() > 0);
}

#[test]
fn one_direction_alone_goes_on_in_tls_too() {
    let mut flow = Feeder::tcp(40_000, 21);
    flow.forward(b"AUTH TLS\r\n");
    let (direction, hello) = crate::l7::tls::tests::conversation().swap_remove(0);
    flow.bytes(direction, &hello);
    assert_eq!(
        flow.session.protocol().map(|(found, _)| found),
        Some(Protocol::Ftp)
    );
    assert_eq!(record(&flow, Protocol::Tls, "sni"), "www.example.org");
}

#[test]
fn mail_and_credentials_are_not_read() {
    let mut login = Feeder::tcp(40_000, 587);
    login.forward(b"EHLO me\r\nAUTH LOGIN\r\nYWJj\r\nZGVm\r\n");
    assert_eq!(record(&login, Protocol::Smtp, "commands"), "[EHLO,AUTH]");
    let mut flow = Feeder::tcp(40_000, 25);
    flow.forward(b"HELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
    assert_eq!(flow.forward(b"DATA\r\nSECRET words\r\n"), Status::Done);
    assert_eq!(record(&flow, Protocol::Smtp, "commands"), "[HELO,MAIL,RCPT,DATA]");
}

#[test]
fn greetings_tell_the_protocols_apart() {
    let cases: [(&[u8], u16, Option<Protocol>); 15] = [
        (b"220 ftp.example FTP server ready\r\n", 9, Some(Protocol::Ftp)),
        (b"220-welcome\r\n220 x\r\n", 21, Some(Protocol::Ftp)),
        (b"220 hello\r\n", 25, Some(Protocol::Smtp)),
        (b"220 hello\r\n", 9, None),
        (
            b"220 ProFTPD 1.3.5 FTP Server ready.\r\n",
            2525,
            Some(Protocol::Ftp),
        ),
        (b"220-(vsFTPd 3.0.5)\r\n220 x\r\n", 587, Some(Protocol::Ftp)),
        (b"220 ftp.example.org ready\r\n", 25, Some(Protocol::Smtp)),
        (b"220 FTP and ESMTP\r\n", 25, Some(Protocol::Smtp)),
        (b"220 mx.example ESMTP Postfix\r\n", 21, Some(Protocol::Smtp)),
        (b"220 mx.example ESMTP, cut", 25, Some(Protocol::Smtp)),
        (b"* OK IMAP4rev1 ready\r\n", 9, Some(Protocol::Imap)),
        (b"a1 CAPABILITY\r\n", 143, Some(Protocol::Imap)),
        (b"+OK POP3 ready\r\n", 9, Some(Protocol::Pop3)),
        (b"+OK\r\n", 9, None),
        (b"+OK\r\n", 110, Some(Protocol::Pop3)),
    ];
    for (bytes, port, expected) in cases {
        let mut flow = Feeder::tcp(40_000, port);
        flow.reverse(bytes);
        let found = flow.session.protocol().map(|(found, _)| found);
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn limits_hold() {
    let mut flow = Feeder::tcp(40_000, 25);
    flow.forward(b"EHLO a\r\n");
    assert_eq!(
        flow.forward(&[b'x'; MAX_LINE_BYTES]),
        Status::GaveUp(Limit::MessageLength)
    );
    let mut flow = Feeder::tcp(40_000, 21);
    flow.reverse(b"220 FTP\r\n");
    let lines = b"NOOP\r\n".repeat(usize::from(MAX_LINES) - 1);
    assert_eq!(flow.forward(&lines), Status::Need(0));
    assert_eq!(flow.forward(b"NOOP\r\n"), Status::GaveUp(Limit::Transactions));
}

#[test]
fn long_answers_do_not_end_the_reading() {
    let mut flow = Feeder::tcp(40_000, 110);
    flow.reverse(b"+OK POP3 ready\r\n");
    flow.forward(b"UIDL\r\n");
    flow.reverse(&b"1 x\r\n".repeat(2 * usize::from(MAX_LINES)));
    flow.reverse(&[b'x'; 2 * MAX_LINE_BYTES]);
    assert_eq!(flow.forward(b"DELE 1\r\n"), Status::Need(0));
    assert_eq!(flow.forward(b"QUIT\r\n"), Status::Done);
    assert_eq!(record(&flow, Protocol::Pop3, "commands"), "[UIDL,DELE,QUIT]");
    // Also where the first line that is seen of the server is such a one.
    let mut flow = Feeder::tcp(40_000, 143);
    flow.forward(b"a1 NOOP\r\na2 SEARCH ALL\r\n");
    assert_eq!(flow.reverse(&[b'1'; 2 * MAX_LINE_BYTES]), Status::Need(0));
}

/// Whether the server's first line that is seen becomes the greeting.
fn greeting_of(
    port: u16,
    start: impl FnOnce(&mut Feeder),
    line: &[u8],
    protocol: Protocol,
) -> Option<String> {
    let mut flow = Feeder::tcp(40_000, port);
    start(&mut flow);
    flow.reverse(line);
    let found = record(&flow, protocol, "greeting");
    assert_ne!(found, "no such column", "not identified");
    (found != "null").then_some(found)
}

#[test]
fn a_greeting_opens_the_session() {
    let cases: [(u16, &[u8], Protocol); 5] = [
        (25, b"554 no service\r\n", Protocol::Smtp),
        (21, b"220-FTP\r\n220 x\r\n", Protocol::Ftp),
        (143, b"* PREAUTH x\r\n", Protocol::Imap),
        (143, b"* bye x\r\n", Protocol::Imap),
        (110, b"-ERR locked\r\n", Protocol::Pop3),
    ];
    for (port, line, protocol) in cases {
        let text = String::from_utf8_lossy(line);
        assert_eq!(
            greeting_of(port, |_| {}, line, protocol).as_deref(),
            text.lines().next(),
            "{text}"
        );
        // The greeting was not captured, or what would say so was not.
        let lost = |flow: &mut Feeder| {
            flow.gap(Direction::Reverse, 20);
        };
        assert_eq!(greeting_of(port, lost, line, protocol), None, "{text}");
        let late = |flow: &mut Feeder| flow.session.missed_start(Direction::Reverse);
        assert_eq!(greeting_of(port, late, line, protocol), None, "{text}");
    }
}

#[test]
fn replies_are_no_greetings() {
    let cases: [(u16, &[u8], &[u8], Protocol); 6] = [
        (25, b"EHLO me\r\n", b"250-mail.example\r\n", Protocol::Smtp),
        (
            25,
            b"EHLO me\r\n",
            b"554 <bob@example.org> denied\r\n",
            Protocol::Smtp,
        ),
        (
            21,
            b"USER alice\r\n",
            b"331 Password for alice.\r\n",
            Protocol::Ftp,
        ),
        (
            110,
            b"USER alice\r\n",
            b"+OK Password for alice.\r\n",
            Protocol::Pop3,
        ),
        (
            143,
            b"a7 NOOP\r\n",
            b"* 12 FETCH (ENVELOPE (x\r\n",
            Protocol::Imap,
        ),
        (143, b"a7 NOOP\r\n", b"a7 OK alice\r\n", Protocol::Imap),
    ];
    for (port, command, line, protocol) in cases {
        let start = |flow: &mut Feeder| {
            flow.forward(command);
        };
        let text = String::from_utf8_lossy(line);
        assert_eq!(greeting_of(port, start, line, protocol), None, "{text}");
    }
    // The greeting was ruled out before the client told the protocol.
    let mut flow = Feeder::tcp(40_000, 2526);
    flow.reverse(b"220 hello\r\n");
    flow.forward(b"EHLO me\r\n");
    flow.reverse(b"250-mail.example\r\n250 OK\r\n");
    assert_eq!(record(&flow, Protocol::Smtp, "greeting"), "null");
    assert_eq!(
        flow.session.protocol(),
        Some((Protocol::Smtp, Confidence::Payload))
    );
    // A code that opens no session.
    assert_eq!(greeting_of(21, |_| {}, b"530 bob\r\n", Protocol::Ftp), None);
}

#[test]
fn the_server_is_no_client() {
    let mut flow = Feeder::tcp(40_000, 143);
    flow.forward(b"a7 NOOP\r\n");
    flow.reverse(b"a7 OK done\r\n");
    flow.forward(b"a8 IDLE\r\n");
    flow.reverse(b"+ idling\r\n* SEARCH 1\r\n* LIST () \".\" x\r\n");
    assert_eq!(record(&flow, Protocol::Imap, "commands"), "[NOOP,IDLE]");
    // Its first line tells nothing, but the client has spoken.
    let mut flow = Feeder::tcp(40_000, 143);
    flow.forward(b"a7 NOOP\r\n");
    flow.reverse(b"Subject: x\r\nplease STORE it\r\n");
    flow.forward(b"a8 IDLE\r\n");
    assert_eq!(record(&flow, Protocol::Imap, "commands"), "[NOOP,IDLE]");
}

#[test]
fn literals_are_no_lines() {
    let commands = |turns: &[&[u8]]| {
        let mut flow = Feeder::tcp(40_000, 143);
        flow.reverse(b"* OK ready\r\n");
        for turn in turns {
            flow.forward(turn);
        }
        record(&flow, Protocol::Imap, "commands")
    };
    let login: [&[u8]; 3] = [b"a1 LOGIN {5}\r\n", b"alice {12}\r\n", b"my STORE pw x\r\n"];
    let with = |more: &'static [u8]| commands(&[&login[..], &[more]].concat());
    assert_eq!(with(b"a2 SELECT INBOX\r\n"), "[LOGIN,SELECT]");
    let names: &[u8] = b"a1 RENAME {10+}\r\nx LOGOUT y {0+}\r\n SELECT {2}\r\nx\n COPY x\r\na2 NOOP\r\n";
    assert_eq!(commands(&[names]), "[RENAME,NOOP]");
    assert_eq!(commands(&[b"a1 LOGIN x {5} y\r\na2 NOOP\r\n"]), "[LOGIN,NOOP]");
}

#[test]
fn gaps_in_literals_are_bridged() {
    let commands = |start: &[u8], gap, behind: &[u8]| {
        let mut flow = Feeder::tcp(40_000, 143);
        flow.forward(start);
        flow.gap(Direction::Forward, gap);
        flow.forward(behind);
        record(&flow, Protocol::Imap, "commands")
    };
    let (start, behind) = (b"a1 LOGIN {5}\r\na", b"\r\na2 NOOP\r\n");
    assert_eq!(commands(start, 4, behind), "[LOGIN,NOOP]");
    assert_eq!(commands(start, 3, b"x STORE y\r\na2 NOOP\r\n"), "[LOGIN,NOOP]");
    // What follows may be another literal.
    assert_eq!(
        commands(start, 11, b"my STORE pw x\r\na2 NOOP\r\n"),
        "[LOGIN,NOOP]"
    );
    assert_eq!(
        commands(b"a1 NOOP\r\na2 LOGIN ", 9, b"my STORE pw x\r\na3 LIST\r\n"),
        "[NOOP,LIST]"
    );
}

#[test]
fn tls_is_found_behind_gaps_and_literals() {
    let mut flow = Feeder::tcp(40_000, 143);
    flow.forward(b"a1 NOOP\r\na2 LIST {4}\r\n\x16\x03\x01x \x16\x03\x01\r\n");
    flow.reverse(b"a1 OK\r\n* LIST {4}\r\n\x16\x03\x01x\r\n* OK\r\n");
    assert_eq!(record(&flow, Protocol::Imap, "tls"), "false");
    flow.gap(Direction::Forward, 13);
    let (direction, hello) = crate::l7::tls::tests::conversation().swap_remove(0);
    flow.bytes(direction, &hello);
    assert_eq!(record(&flow, Protocol::Tls, "sni"), "www.example.org");
}

#[test]
fn lengths_of_literals_are_read_at_the_end_of_a_line() {
    let cases: [(&[u8], Option<u64>); 9] = [
        (b"a1 LOGIN {5}\r", Some(5)),
        (b"{5+}", Some(5)),
        (b"~{00000000000000000012+}\r", Some(12)),
        (b"{000000000000000000012}", None),
        (b"{99999999999999999999}", None),
        (b"{}", None),
        (b"5}", None),
        (b"{5} ", None),
        (b"", None),
    ];
    for (line, expected) in cases {
        assert_eq!(literal(line), expected, "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn telnet_commands_before_a_command_are_passed_over() {
    let mut flow = Feeder::tcp(40_000, 21);
    flow.reverse(b"220 FTP\r\n");
    flow.forward(b"USER a\r\n\xff\xf4\xff\xf2ABOR\r\n");
    flow.forward(b"\xff\xf4\xf2STAT\r\n\xff\xfd\x06NOOP\r\n");
    flow.forward(b"\xff\xf4\xffPWD\r\n");
    assert_eq!(
        record(&flow, Protocol::Ftp, "commands"),
        "[USER,ABOR,STAT,NOOP,PWD]"
    );
}

/// What the parts of a session look like, and parts that are cut or do not belong.
const PARTS: &[&[u8]] = &[
    b"* OK ready\r\n",
    b"220 x\r\n",
    b"+OK\r\n",
    b"a1 NOOP\r\n",
    b"EHLO me\r\n",
    b"USER a\r\n",
    b"a2 OK {3}\r\n",
    b"a3 LIST {12+}\r\n",
    b"STORE",
    b" STORE x",
    b"\r\n",
    b"\n",
    b"{2}",
    b"{",
    b"4}",
    b"000000000000000000000000",
    b"\x16",
    b"\x16\x03",
    b"\x16\x03\x01",
    b"\xff\xf4\xff\xf2ABOR\r\n",
];

proptest! {
    /// Wherever the stream is cut, also with gaps, the same is read.
    #[test]
    fn what_is_read_does_not_depend_on_cuts(
        port in prop::sample::select(vec![21_u16, 25, 110, 143]),
        turns in proptest::collection::vec((any::<bool>(), proptest::collection::vec(prop::sample::select(PARTS), 1..8), 0..40_u64), 1..20),
    ) {
        let feed = |step: usize| {
            let mut flow = Feeder::tcp(40_000, port);
            for (reverse, parts, gap) in &turns {
                let direction = if *reverse { Direction::Reverse } else { Direction::Forward };
                let bytes = parts.concat();
                for piece in bytes.chunks(step) {
                    flow.bytes(direction, piece);
                }
                if *gap < 10 {
                    flow.gap(direction, *gap);
                }
            }
            format!("{:?} {}", flow.status, flow.all())
        };
        let whole = feed(usize::MAX);
        prop_assert_eq!(&whole, &feed(1));
        prop_assert_eq!(&whole, &feed(7));
    }
}
