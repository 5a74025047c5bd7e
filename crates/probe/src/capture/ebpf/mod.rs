//! eBPF programs of the probe, assembled here and loaded by the `bpf` system call.

/// Instructions and labels.
pub mod assembler;
/// The program that steers frames to the sockets of a fanout group.
pub mod steering;
/// The program that gives frames to `AF_XDP` sockets.
pub mod redirect;
/// Whether the steering program does in this kernel what it should.
pub mod self_test;
/// The system call. All unsafe code that deals with eBPF.
mod syscall;

pub use syscall::{AttachMode, Attachment, Counter, LoadedProgram, Map, ProgramKind};
