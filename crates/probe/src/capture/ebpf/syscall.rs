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
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_LOOKUP_ELEM: libc::c_long = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
    pub(super) const LINK_CREATE: libc::c_long = 28;
}

/// `BPF_XDP` (`enum bpf_attach_type`).
const ATTACH_XDP: u32 = 37;

/// How much of the verifier's words is read.
const LOG_BYTES: usize = 1 << 20;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// Looks at packets of a socket.
    SocketFilter,
    /// Decides on frames in front of the network stack, each in one buffer.
    Xdp,
    /// The same, also for frames in several buffers.
    XdpFragments,
}

impl ProgramKind {
    /// The number (`enum bpf_prog_type`), where it is attached, and flags (`BPF_F_XDP_HAS_FRAGS`).
    const fn numbers(self) -> (u32, u32, u32) {
        match self {
            Self::SocketFilter => (1, 0, 0),
            Self::Xdp => (6, ATTACH_XDP, 0),
            Self::XdpFragments => (6, ATTACH_XDP, 1 << 5),
        }
    }
}

/// Where in its way a frame is given to an XDP program (`linux/if_link.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a packet of it.
    Native,
    /// After that.
    Generic,
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
    interface: u32,
    attach_type: u32,
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` needs.
#[repr(C)]
#[derive(Default)]
struct MapAttributes {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM` need.
#[repr(C)]
#[derive(Default)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` needs.
#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
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
        let (kind, attach_type, flags) = kind.numbers();
        let mut attributes = LoadAttributes {
            kind,
            attach_type,
            flags,
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

impl LoadedProgram {
    /// Attaches an XDP program to an interface, until what is returned is dropped or the process ends: the kernel detaches
    /// it when the descriptor is closed.
    pub fn attach(&self, interface: u32, mode: AttachMode) -> io::Result<Attachment> {
        let mut attributes = LinkAttributes {
            program: self.descriptor.as_raw_fd() as u32,
            interface,
            attach_type: ATTACH_XDP,
            flags: match mode {
                AttachMode::Generic => 1 << 1,
                AttachMode::Native => 1 << 2,
            },
        };
        // SAFETY: no addresses are passed.
        let attached = unsafe { bpf(command::LINK_CREATE, &mut attributes) }?;
        Ok(Attachment {
            _descriptor: owned(attached)?,
        })
    }
}

/// An XDP program at its place; it leaves it when this is dropped.
#[derive(Debug)]
pub struct Attachment {
    _descriptor: OwnedFd,
}

/// A map of AF_XDP sockets by receive queue (`BPF_MAP_TYPE_XSKMAP`).
#[derive(Debug)]
pub struct Map {
    descriptor: OwnedFd,
}

impl Map {
    /// Makes a map for the sockets of so many queues.
    pub fn of_sockets(queues: u32) -> io::Result<Self> {
        const XSKMAP: u32 = 17;
        Self::make(XSKMAP, 4, queues, "dpi_sockets")
    }

    /// Makes a map with 32-bit keys. `name` is what the system's tools show; at most 15 bytes of it.
    fn make(kind: u32, value_bytes: u32, entries: u32, name: &str) -> io::Result<Self> {
        let mut attributes = MapAttributes {
            kind,
            key_bytes: 4,
            value_bytes,
            entries,
            ..MapAttributes::default()
        };
        for (to, from) in attributes.name.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        // SAFETY: no addresses are passed.
        let made = unsafe { bpf(command::MAP_CREATE, &mut attributes) }?;
        Ok(Self {
            descriptor: owned(made)?,
        })
    }

    /// Enters the socket of a queue.
    pub fn set(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        let mut attributes = ElementAttributes {
            map: self.descriptor.as_raw_fd() as u32,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&socket) as u64,
            ..ElementAttributes::default()
        };
        // SAFETY: key and value are live for the call and of the sizes that the map was made with.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attributes) }.map(|_| ())
    }
}

/// A number that a program counts up and this process reads (`BPF_MAP_TYPE_ARRAY` of one).
#[derive(Debug)]
pub struct Counter {
    map: Map,
}

impl Counter {
    /// Makes one, which is zero.
    pub fn new(name: &str) -> io::Result<Self> {
        const ARRAY: u32 = 2;
        let map = Map::make(ARRAY, size_of::<u64>() as u32, 1, name)?;
        Ok(Self { map })
    }

    /// What it is now.
    pub fn read(&self) -> io::Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut attributes = ElementAttributes {
            map: self.map.descriptor.as_raw_fd() as u32,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_mut(&mut value) as u64,
            ..ElementAttributes::default()
        };
        // SAFETY: key and value are live for the call and of the sizes that the map was made with; nothing else looks at
        // `value` meanwhile.
        unsafe { bpf(command::MAP_LOOKUP_ELEM, &mut attributes) }?;
        Ok(value)
    }
}

impl AsRawFd for Counter {
    fn as_raw_fd(&self) -> RawFd {
        self.map.as_raw_fd()
    }
}

impl AsRawFd for Map {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsRawFd for LoadedProgram {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::self_test::{self, SelfTestError};
    use super::super::steering::Link;
    use super::*;

    #[test]
    fn the_self_test_says_that_a_program_cannot_be_run() {
        let no_program = LoadedProgram {
            descriptor: File::open("/dev/null").unwrap().into(),
        };
        let error = self_test::run(&no_program, Link::Ethernet, 2);
        assert!(matches!(error, Err(SelfTestError::NotRun(_))), "{error:?}");
    }
}
