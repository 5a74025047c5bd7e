//! The protocol of the Android debug bridge
//! (<https://android.googlesource.com/platform/packages/modules/adb/+/refs/heads/main/protocol.txt>): who connects, and
//! where the stream becomes TLS.

use super::{
    Confidence, Context, Crypto, Dissect, Hint, Input, Limit, Malformed, Outcome, Protocol, Status, Verdict,
    side_of, starttls,
};
use crate::column::{Sink, Value};
use crate::cursor::{Cursor, Short};
use crate::text;

/// Messages of one direction that are read; TLS comes with the second.
const MAX_MESSAGES: u8 = 16;
/// Bytes of a message's header.
const HEADER_BYTES: usize = 24;
/// Bytes that are kept of an identity, and waited for.
const MAX_IDENTITY_BYTES: usize = 1024;

crate::record! {
    /// Who connects over the Android debug bridge.
    pub struct Record {
        /// Identity of the host: `host::features=…`. Cut at 1,024 bytes.
        host_identity: Option<String>,
        /// Identity of the device: `device::ro.product.name=…`. Cut at 1,024 bytes.
        device_identity: Option<String>,
        /// Whether the stream became TLS; its handshake is in the struct `tls`.
        tls: bool,
    }
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    messages: u8,
    /// Bytes of the present message that are still to be passed over.
    skip: u64,
    tls: bool,
    closed: bool,
}

/// The dissector.
#[derive(Clone, Debug, Default)]
pub(super) struct Adb {
    record: Record,
    sides: [Side; 2],
}

impl Dissect for Adb {
    fn feed(&mut self, input: Input<'_>, context: &Context, _: &dyn Crypto) -> Outcome {
        let index = side_of(context.direction);
        match input {
            Input::Stream(bytes) | Input::Datagram(bytes) => self.stream(index, bytes),
            Input::Gap(_) => Outcome::none(Status::GaveUp(Limit::Gap)),
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
        if protocol == Protocol::Adb {
            self.record.emit(sink);
        }
        protocol == Protocol::Adb
    }

    fn release(&mut self) {}

    fn kept_bytes(&self) -> usize {
        self.record.heap_bytes()
    }

    fn handed_over(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.tls)
    }
}

impl Adb {
    fn stream(&mut self, index: usize, bytes: &[u8]) -> Outcome {
        let mut cursor = Cursor::new(bytes);
        loop {
            let rest = cursor.rest();
            let consumed = bytes.len().saturating_sub(rest.len());
            let outcome = |status| Outcome { consumed, status };
            let Some(side) = self.sides.get_mut(index) else {
                return Outcome::all(bytes);
            };
            if side.skip > 0 && !rest.is_empty() {
                let count = side.skip.min(rest.len() as u64);
                side.skip = side.skip.saturating_sub(count);
                cursor = Cursor::new(rest.get(count as usize..).unwrap_or_default());
                continue;
            }
            side.tls |= starttls::begins(rest) == Some(true);
            self.record.tls |= side.tls;
            if side.tls || starttls::begins(rest).is_none() {
                return outcome(Status::Need(0));
            }
            match Message::parse(&mut cursor) {
                Ok(Some(message)) => {
                    side.skip = message.left;
                    side.messages = side.messages.saturating_add(1);
                    let over = side.messages >= MAX_MESSAGES;
                    self.record.add(&message);
                    if over {
                        return outcome(Status::Done);
                    }
                }
                Ok(None) => return outcome(Status::Malformed(Malformed::BadValue)),
                Err(Short) => return outcome(Status::Need(0)),
            }
        }
    }
}

impl Record {
    fn add(&mut self, message: &Message<'_>) {
        let identity = message.identity.strip_suffix(b"\0").unwrap_or(message.identity);
        let text = || Some(text::from_wire(identity, MAX_IDENTITY_BYTES));
        if identity.starts_with(b"host:") {
            self.host_identity = text();
        } else if !identity.is_empty() {
            self.device_identity = text();
        }
    }
}

/// A message of which the header is there, and of a connection the identity too.
struct Message<'a> {
    /// Data of `CNXN`; empty for other commands.
    identity: &'a [u8],
    /// Bytes of data that were not read.
    left: u64,
}

impl<'a> Message<'a> {
    /// `None` if the bytes are no message.
    fn parse(cursor: &mut Cursor<'a>) -> Result<Option<Self>, Short> {
        let mut rest = *cursor;
        let command = rest.array::<4>()?;
        rest.skip(8)?; // two arguments
        let length = u32::from_le_bytes(rest.array()?);
        rest.skip(4)?; // checksum
        let magic = rest.array::<4>()?;
        if !COMMANDS.contains(&&command) || command.map(|byte| !byte) != magic {
            return Ok(None);
        }
        let read = if command == *b"CNXN" {
            (length as usize).min(MAX_IDENTITY_BYTES)
        } else {
            0
        };
        let identity = rest.take(read)?;
        *cursor = rest;
        let left = u64::from(length).saturating_sub(read as u64);
        Ok(Some(Self { identity, left }))
    }
}

const COMMANDS: [&[u8; 4]; 8] = [
    b"SYNC", b"CNXN", b"STLS", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE",
];

/// A message that opens a connection; its magic repeats the command.
pub(super) fn identify(bytes: &[u8], _: Hint) -> Verdict {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if !begins(b"CNXN") {
        return Verdict::No;
    }
    match bytes.get(..HEADER_BYTES) {
        None => Verdict::More,
        Some(header) if header.ends_with(&b"CNXN".map(|byte| !byte)) => Verdict::Yes,
        Some(_) => Verdict::No,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::l7::tests::{Feeder, field};

    pub(in crate::l7) fn message(command: [u8; 4], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_le_bytes();
        let magic = command.map(|byte| !byte);
        [command.as_slice(), &[0; 8], &length, &[0; 4], &magic, data].concat()
    }

    #[test]
    fn the_stream_goes_on_in_tls() {
        let mut flow = Feeder::tcp(40_000, 40_001);
        flow.forward(&message(*b"CNXN", b"host::features=shell_v2"));
        flow.reverse(&message(*b"STLS", b""));
        flow.forward(&message(*b"STLS", b""));
        for (direction, bytes) in crate::l7::tls::tests::conversation() {
            flow.bytes(direction, &bytes);
        }
        assert_eq!(flow.status, Status::Done);
        let record = flow.record(Protocol::Adb);
        assert_eq!(field(&record, "host_identity"), "host::features=shell_v2");
        assert_eq!(field(&record, "tls"), "true");
        assert_eq!(field(&flow.record(Protocol::Tls), "sni"), "www.example.org");
    }

    #[test]
    fn data_is_passed_over_and_limits_hold() {
        let mut flow = Feeder::tcp(40_000, 5555);
        flow.forward(&message(*b"CNXN", b"host::\0"));
        flow.reverse(&message(*b"CNXN", &[b'd'; 2 * MAX_IDENTITY_BYTES]));
        let write = message(*b"WRTE", &[0x16; 5000]);
        let last = (0..MAX_MESSAGES).map(|_| flow.forward(&write)).last();
        assert_eq!(last, Some(Status::Done));
        let identity = "d".repeat(MAX_IDENTITY_BYTES);
        assert_eq!(field(&flow.record(Protocol::Adb), "device_identity"), identity);
        let mut flow = Feeder::tcp(40_000, 5555);
        flow.forward(&message(*b"CNXN", b""));
        assert_eq!(flow.forward(&[b'x'; 24]), Status::Malformed(Malformed::BadValue));
    }
}
