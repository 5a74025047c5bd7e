//! Protocols of command lines: SMTP (RFC 5321), IMAP (RFC 9051), POP3 (RFC 1939) and FTP (RFC 959).
//!
//! Read are the server's greeting, the client's commands without their arguments, and where the stream becomes TLS.
//! Arguments, which hold names, passwords and mail, are not kept. Reading ends with the command that begins the content
//! (`DATA`, `FETCH`, …), or after so many lines that TLS will not come any more.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Outcome, Protocol, Status, Verdict, side_of,
    starttls,
};
use crate::column::{Sink, Value};
use crate::text;
use std::marker::PhantomData;

/// The longest line; RFC 5321 §4.5.3.1 has 512 bytes for commands, servers list capabilities in longer ones.
const MAX_LINE_BYTES: usize = 4096;
/// Lines of one direction that are read. An FTP welcome may have some fifty.
const MAX_LINES: u16 = 256;
/// Commands that are listed for one flow.
const MAX_COMMANDS: usize = 32;
/// Bytes that are kept of the greeting.
const MAX_GREETING_BYTES: usize = 256;
/// The longest first line by which a flow is identified.
const IDENTIFY_LINE_BYTES: usize = 512;

crate::record! {
    /// A session of command lines.
    pub struct Record {
        /// First line of the server without its end. Cut at 256 bytes.
        greeting: Option<String>,
        /// Commands of the client in order up to the first that begins content (`DATA`, `FETCH`, `RETR`, …), each listed once, without arguments; those that the protocol defines, at most 32.
        commands: Vec<&'static str>,
        /// Whether the stream became TLS; its handshake is in the struct `tls`.
        tls: bool,
    }
}

/// What is particular to one of the protocols.
pub(super) trait Grammar {
    /// The row of the table.
    const PROTOCOL: Protocol;
    /// Whether a line is one that a server begins with.
    fn is_greeting(line: &[u8]) -> bool;
    /// The command of a client's line.
    fn command(line: &[u8]) -> &[u8] {
        first_word(line)
    }
    /// Commands that are listed. Other lines may be credentials: what answers `AUTH` looks like a command, too.
    const COMMANDS: &'static [&'static str];
    /// Commands after which content comes, and TLS does not.
    const LAST: &'static [&'static str];
}

/// RFC 5321.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smtp;

impl Grammar for Smtp {
    const PROTOCOL: Protocol = Protocol::Smtp;
    const COMMANDS: &'static [&'static str] = &[
        "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "VRFY", "EXPN",
        "HELP", "NOOP", "QUIT", "ETRN",
    ];
    const LAST: &'static [&'static str] = &["DATA", "BDAT", "QUIT"];
    fn is_greeting(line: &[u8]) -> bool {
        is_reply(line)
    }
}

/// RFC 9051: each command stands behind a tag.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Imap;

impl Grammar for Imap {
    const PROTOCOL: Protocol = Protocol::Imap;
    const COMMANDS: &'static [&'static str] = &[
        "CAPABILITY",
        "NOOP",
        "LOGOUT",
        "STARTTLS",
        "AUTHENTICATE",
        "LOGIN",
        "ENABLE",
        "ID",
        "SELECT",
        "EXAMINE",
        "CREATE",
        "DELETE",
        "RENAME",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "LIST",
        "LSUB",
        "NAMESPACE",
        "STATUS",
        "APPEND",
        "IDLE",
        "CLOSE",
        "UNSELECT",
        "EXPUNGE",
        "SEARCH",
        "FETCH",
        "STORE",
        "COPY",
        "MOVE",
        "UID",
        "CHECK",
        "COMPRESS",
    ];
    const LAST: &'static [&'static str] = &["FETCH", "UID", "APPEND", "LOGOUT"];
    fn is_greeting(line: &[u8]) -> bool {
        line.starts_with(b"* ")
    }
    fn command(line: &[u8]) -> &[u8] {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        words.nth(1).unwrap_or_default()
    }
}

/// RFC 1939.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pop3;

impl Grammar for Pop3 {
    const PROTOCOL: Protocol = Protocol::Pop3;
    const COMMANDS: &'static [&'static str] = &[
        "USER", "PASS", "APOP", "AUTH", "CAPA", "STLS", "STAT", "LIST", "RETR", "DELE", "NOOP", "RSET",
        "TOP", "UIDL", "UTF8", "QUIT",
    ];
    const LAST: &'static [&'static str] = &["RETR", "TOP", "QUIT"];
    fn is_greeting(line: &[u8]) -> bool {
        line.starts_with(b"+OK") || line.starts_with(b"-ERR")
    }
}

/// RFC 959, RFC 4217: the control connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ftp;

impl Grammar for Ftp {
    const PROTOCOL: Protocol = Protocol::Ftp;
    const COMMANDS: &'static [&'static str] = &[
        "USER", "PASS", "ACCT", "CWD", "CDUP", "SMNT", "QUIT", "REIN", "PORT", "PASV", "TYPE", "STRU",
        "MODE", "RETR", "STOR", "STOU", "APPE", "ALLO", "REST", "RNFR", "RNTO", "ABOR", "DELE", "RMD", "MKD",
        "PWD", "LIST", "NLST", "SITE", "SYST", "STAT", "HELP", "NOOP", "AUTH", "ADAT", "PROT", "PBSZ", "CCC",
        "FEAT", "OPTS", "LANG", "EPRT", "EPSV", "MLSD", "MLST", "MDTM", "SIZE", "HOST",
    ];
    const LAST: &'static [&'static str] = &["QUIT"];
    fn is_greeting(line: &[u8]) -> bool {
        is_reply(line)
    }
}

/// Three digits, then a space, a minus or nothing (RFC 5321 §4.2, RFC 959 §4.2).
fn is_reply(line: &[u8]) -> bool {
    line.split_first_chunk::<3>().is_some_and(|(code, rest)| {
        code.iter().all(u8::is_ascii_digit) && matches!(rest.first(), None | Some(b' ' | b'-'))
    })
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b' ').next().unwrap_or_default()
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    lines: u16,
    /// Whether it comes from the server. Known once its first line was seen.
    server: bool,
    /// Its bytes are TLS from here.
    tls: bool,
    closed: bool,
}

/// The dissector.
#[derive(Clone, Debug)]
pub(super) struct Lines<G> {
    record: Record,
    sides: [Side; 2],
    /// Content comes, or so many lines came that nothing more is to be learned.
    finished: bool,
    grammar: PhantomData<G>,
}

impl<G> Default for Lines<G> {
    fn default() -> Self {
        Self {
            record: Record::default(),
            sides: <[Side; 2]>::default(),
            finished: false,
            grammar: PhantomData,
        }
    }
}

impl<G: Grammar> Dissect for Lines<G> {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes),
            // What follows a gap is looked at as a line: a half one is no known command.
            Input::Gap(_) => Outcome::none(Status::Need(0)),
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
        if self.record.greeting.is_some() && !self.record.commands.is_empty() {
            Confidence::Payload
        } else {
            Confidence::Handshake
        }
    }

    fn server_name(&self) -> Option<&str> {
        None
    }

    fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
        if protocol == G::PROTOCOL {
            self.record.emit(sink);
        }
        protocol == G::PROTOCOL
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl<G: Grammar> Lines<G> {
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
            let seen = rest.get(..MAX_LINE_BYTES).unwrap_or(rest);
            let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
                let status = if seen.len() == MAX_LINE_BYTES {
                    Status::GaveUp(Limit::MessageLength)
                } else {
                    Status::Need(0)
                };
                return Outcome { consumed, status };
            };
            consumed = consumed.saturating_add(end).saturating_add(1);
            let line = seen.get(..end).unwrap_or_default();
            self.line(index, line.strip_suffix(b"\r").unwrap_or(line));
            if self.finished {
                return Outcome {
                    consumed,
                    status: Status::Done,
                };
            }
        }
    }

    fn line(&mut self, index: usize, line: &[u8]) {
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        if side.lines == 0 {
            side.server = G::is_greeting(line);
            if side.server {
                self.record.greeting = Some(text::from_wire(line, MAX_GREETING_BYTES));
            }
        }
        side.lines = side.lines.saturating_add(1);
        self.finished |= side.lines >= MAX_LINES;
        if side.server {
            return;
        }
        let command = G::command(line);
        let known = |known: &&&str| known.as_bytes().eq_ignore_ascii_case(command);
        let Some(&command) = G::COMMANDS.iter().find(known) else {
            return;
        };
        self.finished |= G::LAST.contains(&command);
        let commands = &mut self.record.commands;
        if commands.len() < MAX_COMMANDS && !commands.contains(&command) {
            commands.push(command);
        }
    }
}

/// Whether the bytes, upper or lower case, begin with one of these; `More` while they may.
fn begins_with_any(bytes: &[u8], starts: &[&[u8]]) -> Verdict {
    let mut verdict = Verdict::No;
    for start in starts {
        let common = bytes.len().min(start.len());
        let matches = bytes
            .get(..common)
            .is_some_and(|front| front.eq_ignore_ascii_case(start.get(..common).unwrap_or_default()));
        match matches {
            true if common == start.len() => return Verdict::Yes,
            true => verdict = Verdict::More,
            false => {}
        }
    }
    verdict
}

/// The first line as far as identification looks at it; `None` while more of it may come.
fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let seen = bytes.get(..IDENTIFY_LINE_BYTES).unwrap_or(bytes);
    let line = seen.split(|&byte| byte == b'\n').next().unwrap_or_default();
    (line.len() < bytes.len()).then_some(line)
}

/// Whether a text holds another one, in upper or lower case.
fn holds(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len())
        .any(|window| window.eq_ignore_ascii_case(wanted))
}

/// Whether the first line, which begins with `start`, holds the word that names the protocol.
fn first_line_holds(bytes: &[u8], start: &[u8], word: &[u8]) -> Verdict {
    match begins_with_any(bytes, &[start]) {
        Verdict::Yes => {}
        other => return other,
    }
    match first_line(bytes) {
        Some(line) if !holds(line, word) => Verdict::No,
        None if !holds(bytes, word) => Verdict::More,
        // The capture may have cut the rest of the line.
        _ => Verdict::Yes,
    }
}

/// On a port of the protocol, whether the first line begins with one of these and does not name another protocol: bytes
/// decide, ports only hint (design D12).
fn begins_on_port(bytes: &[u8], starts: &[&[u8]], names_another: impl FnOnce(&[u8]) -> bool) -> Verdict {
    match begins_with_any(bytes, starts) {
        Verdict::Yes => {}
        other => return other,
    }
    match first_line(bytes) {
        Some(line) if names_another(line) => Verdict::No,
        Some(_) => Verdict::Yes,
        None => Verdict::More,
    }
}

/// Whether a greeting names FTP and not SMTP. A word with a dot is a host's name, which says nothing.
fn names_ftp(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace);
    words.any(|word| holds(word, b"FTP") && !word.contains(&b'.')) && !holds(line, b"SMTP")
}

/// The first verdict that is not `No`.
fn either(one: Verdict, other: impl FnOnce() -> Verdict) -> Verdict {
    if one == Verdict::No { other() } else { one }
}

/// The client's greeting, or a server's that says SMTP or comes on a port of it and does not say FTP.
pub(super) fn identify_smtp(bytes: &[u8], hint: Hint) -> Verdict {
    either(begins_with_any(bytes, &[b"EHLO ", b"HELO ", b"LHLO "]), || {
        let named = either(first_line_holds(bytes, b"220 ", b"SMTP"), || {
            first_line_holds(bytes, b"220-", b"SMTP")
        });
        either(named, || {
            if hint.port {
                begins_on_port(bytes, &[b"220 ", b"220-", b"554 ", b"421 "], names_ftp)
            } else {
                Verdict::No
            }
        })
    })
}

/// An untagged status (RFC 9051 §7.1), or on its ports a tagged command that opens a session.
pub(super) fn identify_imap(bytes: &[u8], hint: Hint) -> Verdict {
    const OPENING: [&[u8]; 6] = [
        b"CAPABILITY",
        b"LOGIN",
        b"STARTTLS",
        b"AUTHENTICATE",
        b"ID",
        b"NOOP",
    ];
    either(
        begins_with_any(bytes, &[b"* OK ", b"* PREAUTH ", b"* BYE "]),
        || {
            let seen = bytes.get(..IDENTIFY_LINE_BYTES).unwrap_or(bytes);
            let line = seen.split(|&byte| byte == b'\n').next().unwrap_or_default();
            if !hint.port || !line.first().is_some_and(u8::is_ascii_alphanumeric) {
                return Verdict::No;
            }
            let command = Imap::command(line.strip_suffix(b"\r").unwrap_or(line));
            if line.len() == bytes.len() {
                Verdict::More
            } else if OPENING.iter().any(|known| command.eq_ignore_ascii_case(known)) {
                Verdict::Yes
            } else {
                Verdict::No
            }
        },
    )
}

/// A greeting that says POP, or on its ports any greeting or opening command.
pub(super) fn identify_pop3(bytes: &[u8], hint: Hint) -> Verdict {
    if hint.port {
        const OPENING: &[&[u8]] = &[
            b"+OK", b"-ERR", b"CAPA\r", b"CAPA\n", b"USER ", b"AUTH", b"APOP ", b"STLS",
        ];
        begins_with_any(bytes, OPENING)
    } else {
        first_line_holds(bytes, b"+OK ", b"POP")
    }
}

/// A greeting that says FTP, or on its ports any greeting that does not say SMTP or an opening command; `AUTH TLS`
/// (RFC 4217 §4) on any port.
pub(super) fn identify_ftp(bytes: &[u8], hint: Hint) -> Verdict {
    either(
        begins_with_any(bytes, &[b"AUTH TLS\r\n", b"AUTH SSL\r\n"]),
        || {
            if hint.port {
                let greeting = begins_on_port(bytes, &[b"220 ", b"220-", b"530 ", b"421 "], |line| {
                    holds(line, b"SMTP")
                });
                either(greeting, || begins_with_any(bytes, &[b"USER ", b"FEAT\r"]))
            } else {
                either(first_line_holds(bytes, b"220 ", b"FTP"), || {
                    first_line_holds(bytes, b"220-", b"FTP")
                })
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

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
        assert_eq!(flow.reverse(&b"\n".repeat(usize::from(MAX_LINES))), Status::Done);
    }
}
