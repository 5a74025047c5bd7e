//! What the layer-7 targets share: a flow made of the fuzzer's bytes, fed whole and byte by byte.

use wire::column::{Items, Members, Sink};
use wire::flowkey::Direction;
use wire::l7::{Context, Crypto, Input, Protocol, Session, Status};

/// Primitives that let the fuzzer through: every tag is right and every mask is zero, so that it need not find keys.
struct Transparent;

impl Crypto for Transparent {
    fn sha256(&self, _: &[u8]) -> [u8; 32] {
        [0; 32]
    }
    fn md5(&self, _: &[u8]) -> [u8; 16] {
        [0; 16]
    }
    fn hmac_sha256(&self, _: &[u8], _: &[u8]) -> [u8; 32] {
        [0; 32]
    }
    fn aes128_header_mask(&self, _: &[u8; 16], _: &[u8; 16]) -> [u8; 5] {
        [0; 5]
    }
    fn aes128_gcm_open(&self, _: &[u8; 16], _: &[u8; 12], _: &[u8], data: &mut [u8]) -> Option<usize> {
        data.len().checked_sub(16)
    }
}

/// Writes the values of a record, to compare two runs by.
struct Values<'t>(&'t mut String);

/// A list or struct that is open, and what closes it.
struct Part<'t>(&'t mut String, char);

/// Writes each of these with `to_string`.
macro_rules! displayed {
    ($($method:ident $rust:ty;)+) => {$(
        fn $method(&mut self, value: $rust) {
            *self.0 += &value.to_string();
        }
    )+};
}

impl Sink for Values<'_> {
    type Members<'a> = Part<'a> where Self: 'a;
    type Items<'a> = Part<'a> where Self: 'a;
    displayed! {
        bool bool;
        u8 u8;
        u16 u16;
        u32 u32;
        u64 u64;
        i8 i8;
        i64 i64;
        f64 f64;
        time i64;
        text &str;
    }
    fn null(&mut self) {
        self.0.push('-');
    }
    fn address(&mut self, value: [u8; 16]) {
        *self.0 += &format!("{value:?}");
    }
    fn mac(&mut self, value: [u8; 6]) {
        *self.0 += &format!("{value:?}");
    }
    fn items(&mut self, length: usize) -> Part<'_> {
        *self.0 += &format!("[{length};");
        Part(self.0, ']')
    }
    fn members(&mut self) -> Part<'_> {
        self.0.push('{');
        Part(self.0, '}')
    }
}

impl Members for Part<'_> {
    type Member<'a> = Values<'a> where Self: 'a;
    fn next(&mut self) -> Values<'_> {
        Values(self.0)
    }
    fn end(self) {
        self.0.push(self.1);
    }
}

impl Items for Part<'_> {
    type Item<'a> = Values<'a> where Self: 'a;
    fn next(&mut self) -> Values<'_> {
        Values(self.0)
    }
    fn end(self) {
        self.0.push(self.1);
    }
}

/// Feeds `data` as a flow to `port`: each piece is a control byte (bit 0: direction, bits 1-3 all set: a gap), its
/// length in two bytes, and its bytes. Returns what the session shows.
fn feed(data: &[u8], port: u16, stream: bool, step: usize) -> String {
    let mut session = Session::default();
    let mut kept = [Vec::new(), Vec::new()];
    let mut status = Status::Need(0);
    let mut rest = data;
    while let ([control, high, low, tail @ ..], Status::Need(_)) = (rest, status) {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (piece, behind) = tail.split_at(length);
        rest = behind;
        let side = usize::from(control & 1);
        let direction = if side == 0 { Direction::Forward } else { Direction::Reverse };
        let context = Context { direction, time: 0, src_port: 40_000, dst_port: port, stream };
        if !stream {
            status = session.feed(Input::Datagram(piece), &context, &Transparent).status;
        } else if control & 0x0e == 0x0e {
            kept[side].clear();
            status = session.feed(Input::Gap(length as u64), &context, &Transparent).status;
            continue;
        } else {
            for bytes in piece.chunks(step) {
                kept[side].extend_from_slice(bytes);
                let outcome = session.feed(Input::Stream(&kept[side]), &context, &Transparent);
                kept[side].drain(..outcome.consumed);
                status = outcome.status;
                if !matches!(status, Status::Need(_)) {
                    break;
                }
            }
        }
    }
    let mut values = format!("{:?} {:?}", session.protocol(), session.server_name());
    for &protocol in Protocol::ALL {
        session.emit(protocol, &mut Values(&mut values));
    }
    values
}

/// A flow of a protocol on `port`. Nothing panics; a stream gives the same record however it is cut.
pub fn check(data: &[u8], port: u16, stream: bool) {
    let whole = feed(data, port, stream, usize::MAX);
    if stream {
        assert_eq!(whole, feed(data, port, stream, 1), "byte by byte");
        assert_eq!(whole, feed(data, port, stream, 7), "in pieces");
    }
}
