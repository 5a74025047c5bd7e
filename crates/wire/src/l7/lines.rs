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
mod tests;
