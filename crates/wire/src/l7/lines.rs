//! Protocols of command lines: SMTP (RFC 5321), IMAP (RFC 9051), POP3 (RFC 1939) and FTP (RFC 959).
//!
//! Read are the server's greeting, the client's commands without their arguments, and where the stream becomes TLS.
//! Arguments, which hold names, passwords and mail, are not kept, nor are replies, which repeat them: a line is the
//! greeting only where it opens a session and stands first. Reading ends with the command that begins the content
//! (`DATA`, `FETCH`, …), or after so many lines of the client. The server's lines behind its first are passed over
//! without being kept; only TLS is looked for where one begins.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Outcome, Protocol, Status, Verdict, find_byte,
    side_of, starttls,
};
use crate::column::{Sink, Value};
use crate::text;
use std::marker::PhantomData;

/// The longest line; RFC 5321 §4.5.3.1 has 512 bytes for commands, servers list capabilities in longer ones.
const MAX_LINE_BYTES: usize = 4096;
/// Lines of the client that are read: a session of FTP has three or so for each file.
const MAX_LINES: u16 = 4096;
/// Bytes at a line's end in which the length of a literal stands: `{`, 20 digits, `+}` and the carriage return.
const LITERAL_BYTES: usize = 24;
/// Commands that are listed for one flow.
const MAX_COMMANDS: usize = 32;
/// Bytes that are kept of the greeting.
const MAX_GREETING_BYTES: usize = 256;
/// The longest first line by which a flow is identified.
const IDENTIFY_LINE_BYTES: usize = 512;

crate::record! {
    /// A session of command lines.
    pub struct Record {
        /// First line of the server without its end, if it opens a session (SMTP: `220`, `554`, `421`; FTP: `220`, `120`, `421`; IMAP: `* OK`, `* PREAUTH`, `* BYE`; POP3: `+OK`, `-ERR`), came before any command, and the capture missed nothing before it; else null. Cut at 256 bytes.
        greeting: Option<String>,
        /// Commands of the client in order up to the first that begins content (`DATA`, `FETCH`, `RETR`, …), each listed once, without arguments; those that the protocol defines, at most 32. Of the client's lines the first 4096 are read.
        commands: Vec<&'static str>,
        /// Whether the stream became TLS; its handshake is in the struct `tls`.
        tls: bool,
    }
}

/// What is particular to one of the protocols.
pub(super) trait Grammar {
    /// The row of the table.
    const PROTOCOL: Protocol;
    /// Whether a line of which the sender is not known is the server's.
    fn is_reply(line: &[u8]) -> bool;
    /// Whether a line of the server opens a session.
    fn is_greeting(line: &[u8]) -> bool;
    /// Whether a line may end in the length of a literal, behind which it goes on (RFC 9051 §4.3).
    const LITERALS: bool = false;
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
    fn is_reply(line: &[u8]) -> bool {
        is_coded(line)
    }
    fn is_greeting(line: &[u8]) -> bool {
        [b"220", b"554", b"421"]
            .iter()
            .any(|code| line.starts_with(*code))
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
    fn is_reply(line: &[u8]) -> bool {
        // What has a tag is the end of an answer (RFC 9051 §7.1).
        matches!(first_word(line), b"*" | b"+") || is_one_of(Self::command(line), &["OK", "NO", "BAD"])
    }
    fn is_greeting(line: &[u8]) -> bool {
        first_word(line) == b"*" && is_one_of(Self::command(line), &["OK", "PREAUTH", "BYE"])
    }
    const LITERALS: bool = true;
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
    fn is_reply(line: &[u8]) -> bool {
        Self::is_greeting(line) || first_word(line) == b"+"
    }
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
    fn is_reply(line: &[u8]) -> bool {
        is_coded(line)
    }
    fn is_greeting(line: &[u8]) -> bool {
        [b"220", b"120", b"421"]
            .iter()
            .any(|code| line.starts_with(*code))
    }
    fn command(line: &[u8]) -> &[u8] {
        first_word(without_telnet(line))
    }
}

/// Three digits, then a space, a minus or nothing (RFC 5321 §4.2, RFC 959 §4.2).
fn is_coded(line: &[u8]) -> bool {
    line.split_first_chunk::<3>().is_some_and(|(code, rest)| {
        code.iter().all(u8::is_ascii_digit) && matches!(rest.first(), None | Some(b' ' | b'-'))
    })
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b' ').next().unwrap_or_default()
}

/// Whether a word is one of these, in upper or lower case.
fn is_one_of(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(word))
}

/// The line behind Telnet commands (RFC 854): before `ABOR` an interrupt and a data mark are sent (RFC 959 §4.1.3), the
/// mark's first byte perhaps as urgent data, which may be missing.
fn without_telnet(mut line: &[u8]) -> &[u8] {
    const IAC: u8 = 255;
    /// WILL, WONT, DO, DONT: an option stands behind them.
    const NEGOTIATION: std::ops::RangeInclusive<u8> = 251..=254;
    loop {
        line = match line {
            [IAC, negotiation, _, rest @ ..] if NEGOTIATION.contains(negotiation) => rest,
            [IAC, 0x80..=0xff, rest @ ..] | [0x80..=0xff, rest @ ..] => rest,
            _ => return line,
        }
    }
}

/// The length of the literal that a line announces at its end: `{n}`, or `{n+}` if the client does not wait for the server
/// (RFC 9051 §4.3). Looks at no more than the last [`LITERAL_BYTES`].
fn literal(line: &[u8]) -> Option<u64> {
    const MAX_DIGITS: usize = 20;
    let front = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let front = front.strip_suffix(b"+").unwrap_or(front);
    let count = front.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let (front, digits) = front.split_at_checked(front.len().checked_sub(count.count())?)?;
    if front.last() != Some(&b'{') || digits.len() > MAX_DIGITS {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Bytes of the first lines of which nothing is to be learned: none announces a literal, and TLS begins behind none but the
/// last. A download may be long.
fn plain_lines(bytes: &[u8], literals: bool) -> usize {
    let mut passed: usize = 0;
    let mut rest = bytes;
    while let Some((line, behind)) = find_byte(rest, b'\n').and_then(|end| rest.split_at_checked(end)) {
        if literals && matches!(line, [.., b'}'] | [.., b'}', b'\r']) {
            break;
        }
        passed = passed.saturating_add(line.len()).saturating_add(1);
        rest = behind.get(1..).unwrap_or_default();
        if starttls::begins(rest) != Some(false) {
            break;
        }
    }
    passed
}

/// Who sends a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Unknown,
    Client,
    Server,
}

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// At its front.
    #[default]
    Front,
    /// Behind a gap: at its front, or in it, or in a literal. It is passed over.
    Lost,
    /// In the midst of one that is passed over.
    Within,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Lines that were read, and of the client those that were passed over.
    lines: u16,
    role: Role,
    place: Place,
    /// Bytes of the present literal that are still to be passed over.
    skip: u64,
    /// What comes first is not what the stream began with.
    missed: bool,
    /// Its bytes are TLS from here.
    tls: bool,
    closed: bool,
}

/// The dissector.
#[derive(Clone, Debug)]
pub(super) struct Lines<G> {
    record: Record,
    sides: [Side; 2],
    /// Whether a line of the server was seen.
    answered: bool,
    /// Content comes.
    finished: bool,
    grammar: PhantomData<G>,
}

impl<G> Default for Lines<G> {
    fn default() -> Self {
        Self {
            record: Record::default(),
            sides: <[Side; 2]>::default(),
            answered: false,
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
            Input::Gap(length) => {
                if let Some(side) = self.sides.get_mut(index) {
                    side.gap(length, G::LITERALS);
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

    fn missed_start(&mut self, side: usize) {
        if let Some(side) = self.sides.get_mut(side) {
            side.missed = true;
        }
    }

    fn confidence(&self) -> Confidence {
        if self.answered && !self.record.commands.is_empty() {
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

impl Side {
    /// Passes over bytes that are missing.
    fn gap(&mut self, length: u64, literals: bool) {
        self.missed = true;
        match self.skip.checked_sub(length) {
            // In a literal it is known where the line goes on.
            Some(rest) if self.skip > 0 => self.skip = rest,
            _ => {
                self.skip = 0;
                // Without literals, half a line is no known command.
                self.place = if literals { Place::Lost } else { Place::Front };
            }
        }
    }

    /// Passes over what there is of a literal.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let count = self.skip.min(bytes.len() as u64);
        self.skip = self.skip.saturating_sub(count);
        count as usize
    }

    /// Whether its present line is not read.
    fn passes_over(&self) -> bool {
        self.place != Place::Front || self.role == Role::Server && self.lines > 0
    }

    /// Notes the end of a line, of which at least the last [`LITERAL_BYTES`] are here.
    fn end_line(&mut self, line: &[u8], literals: bool) {
        let literal = if literals { literal(line) } else { None };
        self.skip = literal.unwrap_or_default();
        self.place = if literal.is_some() {
            Place::Within
        } else {
            Place::Front
        };
    }
}

impl<G: Grammar> Lines<G> {
    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut consumed: usize = 0;
        loop {
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            consumed = consumed.saturating_add(side.skip(bytes.get(consumed..).unwrap_or_default()));
            let rest = bytes.get(consumed..).unwrap_or_default();
            if side.place != Place::Within {
                side.tls |= starttls::begins(rest) == Some(true);
                self.record.tls |= side.tls;
            }
            let undecided = side.place != Place::Within && starttls::begins(rest).is_none();
            if side.tls || undecided || rest.is_empty() {
                return Outcome {
                    consumed,
                    status: Status::Need(0),
                };
            }
            let passes_over = side.passes_over();
            if passes_over && side.role == Role::Server {
                let passed = plain_lines(rest, G::LITERALS);
                if passed > 0 {
                    consumed = consumed.saturating_add(passed);
                    side.place = Place::Front;
                    continue;
                }
            }
            let seen = match rest.get(..MAX_LINE_BYTES) {
                Some(seen) if !passes_over => seen,
                _ => rest,
            };
            let Some(end) = find_byte(seen, b'\n') else {
                if seen.len() == MAX_LINE_BYTES && side.role == Role::Server && !passes_over {
                    side.lines = 1;
                    continue;
                }
                let (passed, status) = if passes_over {
                    // What may be the length of a literal waits for the line's end.
                    let kept = if G::LITERALS { LITERAL_BYTES } else { 0 };
                    (rest.len().saturating_sub(kept), Status::Need(0))
                } else if seen.len() == MAX_LINE_BYTES {
                    (0, Status::GaveUp(Limit::MessageLength))
                } else {
                    (0, Status::Need(0))
                };
                if passed > 0 {
                    side.place = Place::Within;
                }
                return Outcome {
                    consumed: consumed.saturating_add(passed),
                    status,
                };
            };
            consumed = consumed.saturating_add(end).saturating_add(1);
            let line = seen.get(..end).unwrap_or_default();
            side.end_line(line, G::LITERALS);
            if !passes_over {
                self.line(index, line.strip_suffix(b"\r").unwrap_or(line));
            }
            let status = self.count(index, passes_over);
            if !matches!(status, Status::Need(_)) {
                return Outcome { consumed, status };
            }
        }
    }

    /// Counts a line; how to go on.
    fn count(&mut self, index: usize, passed_over: bool) -> Status {
        let Some(side) = self.sides.get_mut(index) else {
            return Status::Done;
        };
        let server = side.role == Role::Server;
        if !(server && passed_over) {
            side.lines = side.lines.saturating_add(1);
        }
        if self.finished {
            Status::Done
        } else if !server && side.lines >= MAX_LINES {
            Status::GaveUp(Limit::Transactions)
        } else {
            Status::Need(0)
        }
    }

    fn line(&mut self, index: usize, line: &[u8]) {
        let commanded = self.sides.iter().any(|side| side.role == Role::Client);
        let Some(side) = self.sides.get_mut(index) else {
            return;
        };
        if side.role != Role::Client && G::is_reply(line) {
            side.role = Role::Server;
            self.answered = true;
            if side.lines == 0 && !side.missed && !commanded && G::is_greeting(line) {
                self.record.greeting = Some(text::from_wire(line, MAX_GREETING_BYTES));
            }
        }
        if side.role == Role::Server {
            return;
        }
        let command = G::command(line);
        let known = |known: &&&str| known.as_bytes().eq_ignore_ascii_case(command);
        let Some(&command) = G::COMMANDS.iter().find(known) else {
            return;
        };
        side.role = Role::Client;
        let peer = self.sides.get_mut(1_usize.saturating_sub(index));
        if let Some(peer) = peer.filter(|peer| peer.role == Role::Unknown) {
            peer.role = Role::Server;
        }
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
}
