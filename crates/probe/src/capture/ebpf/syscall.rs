//! The `bpf` system call: all unsafe code that deals with eBPF.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::assembler::Instruction;

/// Commands (`enum bpf_cmd`).
mod command {
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
}

/// How much of the verifier's words is read.
const LOG_BYTES: usize = 1 << 20;

/// What a program is for (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// Looks at packets of a socket.
    SocketFilter = 1,
}

/// A loaded program.
#[derive(Debug)]
pub struct LoadedProgram {
    descriptor: OwnedFd,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` needs.
#[repr(C)]
#[derive(Default)]
struct TestAttributes {
    descriptor: u32,
    result: u32,
    input_size: u32,
    output_size: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    context_input_size: u32,
    context_output_size: u32,
    context_input: u64,
    context_output: u64,
}

/// One call; `attributes` is the part of `union bpf_attr` that the command takes.
///
/// # Safety
///
/// Every address in `attributes` must be that of live memory of the size that stands beside it, which the kernel may
/// access as the command says.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: pointer and size describe `attributes`, which outlives the call; the rest is what the caller promises.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of the descriptor that a call returned.
fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel just opened this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

impl LoadedProgram {
    /// Verifies and loads a program. `name` is what the system's tools show; at most 15 bytes of it.
    pub fn load(kind: ProgramKind, instructions: &[Instruction], name: &str) -> io::Result<Self> {
        const LICENSE: &CStr = c"Apache-2.0";
        let mut attributes = LoadAttributes {
            kind: kind as u32,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            ..LoadAttributes::default()
        };
        for (to, from) in attributes.name.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        // SAFETY: instructions and licence are live for the call and the kernel only reads them.
        let loaded = unsafe { bpf(command::PROG_LOAD, &mut attributes) };
        let error = match loaded {
            Ok(loaded) => {
                return Ok(Self {
                    descriptor: owned(loaded)?,
                });
            }
            Err(error) => error,
        };
        if error.raw_os_error() == Some(libc::EPERM) {
            return Err(error);
        }
        // Once more, to hear what the verifier says.
        let mut log = vec![0_u8; LOG_BYTES];
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buffer = log.as_mut_ptr() as u64;
        // SAFETY: as above; the log is live for the call and as long as is said.
        let _ = unsafe { bpf(command::PROG_LOAD, &mut attributes) }.map(owned);
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let said = String::from_utf8_lossy(&log[..end]);
        let mut last: Vec<&str> = said.lines().rev().take(4).collect();
        last.reverse();
        Err(io::Error::other(format!("{error}: {}", last.join("; "))))
    }

    /// Runs the program on a frame, as if the frame had been received; returns what the program returns. A frame has at
    /// least 14 bytes.
    pub fn test_run(&self, frame: &[u8]) -> io::Result<u32> {
        let mut attributes = TestAttributes {
            descriptor: self.descriptor.as_raw_fd() as u32,
            input_size: frame.len() as u32,
            input: frame.as_ptr() as u64,
            repeat: 1,
            ..TestAttributes::default()
        };
        // SAFETY: the frame is live for the call and the kernel only reads it; no output is asked for.
        unsafe { bpf(command::PROG_TEST_RUN, &mut attributes) }?;
        Ok(attributes.result)
    }
}

impl AsRawFd for LoadedProgram {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}
