//! The program that gives every frame of an interface to AF_XDP sockets.
//!
//! It stamps a frame with the kernel's monotonic clock, in 16 bytes in front of it: a number that was drawn at random for
//! this run, which says that there is a stamp, and the time. Then it redirects the frame to the socket of its receive queue.
//! A frame of a queue without one goes on to the host, and is counted: a card may be given more queues than it had when
//! the capture began.

use std::io;
use std::os::fd::AsRawFd;

use super::assembler::Condition::{Equal, Greater, NotEqual};
use super::assembler::Operation::Add;
use super::assembler::Register::{R0, R1, R2, R3, R6, R7, R10};
use super::assembler::{Assembler, Instruction, Width};
use super::{Counter, LoadedProgram, Map, ProgramKind};

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 16;

/// Helpers (`enum bpf_func_id`).
mod helper {
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const KTIME_GET_NS: i32 = 5;
    pub(super) const REDIRECT_MAP: i32 = 51;
    pub(super) const XDP_ADJUST_META: i32 = 54;
}

/// Fields of `struct xdp_md`.
mod field {
    pub(super) const DATA: i16 = 0;
    pub(super) const DATA_META: i16 = 8;
    pub(super) const RX_QUEUE_INDEX: i16 = 16;
}

/// `XDP_PASS`: the frame is the host's.
const PASS: i32 = 2;

/// Assembles the program for the sockets in `map`, an XSKMAP by receive queue; `passed` counts the frames of others.
fn program(map: i32, passed: i32, mark: u64) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (unstamped, redirected, counted) = (code.label(), code.label(), code.label());
    code.set(R6, R1);
    code.call(helper::KTIME_GET_NS);
    code.set(R7, R0);
    code.set(R1, R6);
    code.set(R2, -(STAMP_BYTES as i32));
    code.call(helper::XDP_ADJUST_META);
    // Some drivers have no room there.
    code.jump_if(NotEqual, R0, 0, unstamped);
    code.load(Width::Word, R2, R6, field::DATA_META);
    code.load(Width::Word, R3, R6, field::DATA);
    code.set(R1, R2);
    code.operate(Add, R1, STAMP_BYTES as i32);
    code.jump_if(Greater, R1, R3, unstamped);
    code.set_wide(R1, mark);
    code.store(Width::Double, R2, 0, R1);
    code.store(Width::Double, R2, 8, R7);
    code.place(unstamped);
    code.load(Width::Word, R2, R6, field::RX_QUEUE_INDEX);
    code.set_map(R1, map);
    // What is to be done where the map has no socket.
    code.set(R3, PASS);
    code.call(helper::REDIRECT_MAP);
    code.jump_if(NotEqual, R0, PASS, redirected);
    code.store(Width::Word, R10, -4, 0);
    code.set_map(R1, passed);
    code.set(R2, R10);
    code.operate(Add, R2, -4);
    code.call(helper::MAP_LOOKUP_ELEM);
    // It is there, but the verifier wants to see the look.
    code.jump_if(Equal, R0, 0, counted);
    code.set(R1, 1);
    code.add_atomically(R0, 0, R1);
    code.place(counted);
    code.set(R0, PASS);
    code.place(redirected);
    code.exit();
    code.finish()
}

/// Assembles and loads the program. `passed` counts frames of queues without a socket, which the host gets. `in_fragments`:
/// also for frames that do not fit into one buffer (Linux 6.6).
pub fn load(map: &Map, passed: &Counter, mark: u64, in_fragments: bool) -> io::Result<LoadedProgram> {
    let kind = if in_fragments {
        ProgramKind::XdpFragments
    } else {
        ProgramKind::Xdp
    };
    let code = program(map.as_raw_fd(), passed.as_raw_fd(), mark);
    LoadedProgram::load(kind, &code, "dpi_redirect")
}
