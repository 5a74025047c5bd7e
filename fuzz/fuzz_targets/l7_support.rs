//! What the layer-7 targets share: a flow made of the fuzzer's bytes, fed whole and byte by byte.

use wire::column::Sink;
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

/// The values of a record, to compare two runs by.
#[derive(Default)]
struct Values(String);

impl Sink for Values {
    fn null(&mut self) {
        self.0.push('-');
    }
    fn bool(&mut self, value: bool) {
        self.0 += &value.to_string();
    }
    fn unsigned(&mut self, value: u64) {
        self.0 += &value.to_string();
    }
    fn signed(&mut self, value: i64) {
        self.0 += &value.to_string();
    }
    fn double(&mut self, value: f64) {
        self.0 += &value.to_string();
    }
    fn text(&mut self, value: &str) {
        self.0 += value;
    }
    fn bytes(&mut self, value: &[u8]) {
        self.0 += &format!("{value:?}");
    }
    fn begin_list(&mut self, length: usize) {
        self.0 += &format!("[{length};");
    }
    fn end_list(&mut self) {
        self.0.push(']');
    }
    fn begin_struct(&mut self) {
        self.0.push('{');
    }
    fn end_struct(&mut self) {
        self.0.push('}');
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
    let mut values = Values(format!("{:?} {:?}", session.protocol(), session.server_name()));
    for &protocol in Protocol::ALL {
        session.emit(protocol, &mut values);
    }
    values.0
}

/// A flow of a protocol on `port`. Nothing panics; a stream gives the same record however it is cut.
pub fn check(data: &[u8], port: u16, stream: bool) {
    let whole = feed(data, port, stream, usize::MAX);
    if stream {
        assert_eq!(whole, feed(data, port, stream, 1), "byte by byte");
        assert_eq!(whole, feed(data, port, stream, 7), "in pieces");
    }
}
