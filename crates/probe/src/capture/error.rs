//! What can go wrong while capturing. Each message is one line: what, where, and what to do.

use std::io;

use thiserror::Error;
use wire::decode::LinkType;

use super::bpf::InvalidProgram;
use super::ebpf::self_test::SelfTestError;

/// Why frames cannot be had. A file's error ends that file only: what came before was delivered, and the source goes
/// on with the next file when it is asked again.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// There is no such file.
    #[error("{path}: no such file; check the path, or give - for standard input")]
    NotFound {
        /// The file as the user named it.
        path: String,
    },
    /// The path is a directory.
    #[error("{path}: is a directory; name the capture files in it")]
    Directory {
        /// The directory.
        path: String,
    },
    /// The file may not be read.
    #[error("{path}: permission denied; give this user read access to the file")]
    FilePermission {
        /// The file.
        path: String,
    },
    /// The file has no bytes.
    #[error("{path}: the file is empty; a capture has at least a file header")]
    Empty {
        /// The file.
        path: String,
    },
    /// The bytes are something else.
    #[error(
        "{path}: not a capture file, it looks like {looks_like}; pcap and pcapng are read, also with gzip or zstd"
    )]
    NotACapture {
        /// The file.
        path: String,
        /// What it looks like.
        looks_like: String,
    },
    /// A version of the format that is not known.
    #[error("{path}: {format} version {major}.{minor} is not supported; convert it with `editcap -F pcapng`")]
    UnsupportedVersion {
        /// The file.
        path: String,
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The file ends inside a record.
    #[error("{path}: cut short {}", cut(*offset))]
    Truncated {
        /// The file.
        path: String,
        /// Where the incomplete record starts, in the uncompressed file.
        offset: u64,
    },
    /// Broken records in the middle were passed over.
    #[error(
        "{path}: broken {}; {places} damaged place(s) with {skipped} bytes were passed over, all other packets were read",
        records_at(offsets, *places)
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where the first broken records start, in the uncompressed file.
        offsets: Vec<u64>,
        /// How many times reading had to find its way again.
        places: u64,
        /// Bytes that were passed over.
        skipped: u64,
    },
    /// A broken record behind which no further record was found.
    #[error(
        "{path}: broken record at byte {offset} and no intact one in the {searched} bytes behind it; the packets before it were read, the rest of the file was not"
    )]
    Lost {
        /// The file.
        path: String,
        /// Where the broken record starts, in the uncompressed file.
        offset: u64,
        /// How far was searched.
        searched: u64,
    },
    /// The operating system or the decompressor failed.
    #[error("{path}: reading failed at byte {offset}: {source}{}", if *offset == 0 { "" } else { "; every packet before it was read" })]
    Read {
        /// The file.
        path: String,
        /// Offset in the uncompressed file.
        offset: u64,
        /// What failed.
        source: io::Error,
    },
    /// No frame of the file can be decoded.
    #[error(
        "{path}: link type {link_types} is not supported; no packet of this file can be decoded (docs/reference/captures.md lists those that can)"
    )]
    UnsupportedLinkTypes {
        /// The file.
        path: String,
        /// Their names and numbers, with a comma between them.
        link_types: String,
    },
    /// The filter cannot be used for a link type in the file: no frame of it matches.
    #[error("{path}: the filter does not fit link type {link_type}, and passed over its packets: {message}")]
    Filter {
        /// The file.
        path: String,
        /// Its name and number.
        link_type: LinkType,
        /// The compiler's message.
        message: String,
    },
    /// A filter program that the kernel would refuse.
    #[error(transparent)]
    InvalidFilter(#[from] InvalidProgram),
    /// The filter of this source is what it was opened with.
    #[error("the filter cannot be changed while this input is read")]
    FilterFixed,
    /// There is no such interface.
    #[error("{interface}: no such network interface; there are: {available}")]
    NoSuchInterface {
        /// The name given.
        interface: String,
        /// The names that exist.
        available: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "{interface}: no permission to capture: CAP_NET_RAW is missing; run as root or as a service (docs/guides/install.md), or give every Python script raw sockets: setcap cap_net_raw+ep {program}"
    )]
    CapturePermission {
        /// The interface.
        interface: String,
        /// The program that needs the capability.
        program: String,
    },
    /// The interface vanished while capturing.
    #[error("{interface}: the interface is gone; every packet before that was read")]
    InterfaceGone {
        /// The interface.
        interface: String,
    },
    /// An interface that is down cannot be opened: by libpcap not at all, by several workers not before Linux 6.13, whose
    /// `fanout_add()` takes only sockets that receive.
    #[error("{interface}: the interface is down, and {why}; set it up (`ip link set {interface} up`)")]
    InterfaceDown {
        /// The interface.
        interface: String,
        /// Why that matters.
        why: &'static str,
    },
    /// The filter cannot be used for the frames that the interface has now.
    #[error(
        "{interface}: the interface's frames have link type {link_type} now, and the filter was compiled for {compiled_for}; start the probe again"
    )]
    FilterOfOtherLinkType {
        /// The interface.
        interface: String,
        /// What its frames have now.
        link_type: LinkType,
        /// What they had when the filter was compiled.
        compiled_for: LinkType,
    },
    /// The ring cannot be set up, or failed.
    #[error("{interface}: {action} failed: {source}")]
    Ring {
        /// The interface.
        interface: String,
        /// What was being done.
        action: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// libpcap cannot be loaded.
    #[error(
        "{interface}: --capture pcap needs libpcap, which cannot be loaded: `apt install libpcap0.8` or `pip install libpcap` ({reason})"
    )]
    NoLibpcap {
        /// The interface.
        interface: String,
        /// What the dynamic linker says.
        reason: String,
    },
    /// The host needs the frames of the interface.
    #[error(
        "{interface}: AF_XDP takes every frame away from this host, and the interface has {tie}; use --capture af_packet, or say --dedicated if the host may lose them"
    )]
    NotDedicated {
        /// The interface.
        interface: String,
        /// What the host needs it for.
        tie: super::af_xdp::Tie,
    },
    /// `AF_XDP` gives Ethernet frames only.
    #[error(
        "{interface}: frames with link type {link_type} cannot be captured by AF_XDP; use --capture af_packet"
    )]
    NotForXdp {
        /// The interface.
        interface: String,
        /// LINKTYPE number.
        link_type: u32,
    },
    /// The process may not load and attach the program that redirects frames.
    #[error(
        "{interface}: no permission for AF_XDP: CAP_NET_ADMIN or CAP_BPF is missing; run as root or as a service (docs/guides/install.md), or give every Python script these capabilities: setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep {program}"
    )]
    XdpPermission {
        /// The interface.
        interface: String,
        /// The program that needs the capabilities.
        program: String,
    },
    /// The memory of the sockets may not be locked.
    #[error(
        "{interface}: AF_XDP locks {bytes} bytes of memory, which is more than this process may; raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity), give it CAP_IPC_LOCK, or lower MAX_BUFFER_SIZE_MB"
    )]
    LockedMemory {
        /// The interface.
        interface: String,
        /// Bytes to lock.
        bytes: u64,
    },
    /// A capture mode in which there are not so many workers.
    #[error("{interface}: {mode} can have {most} worker(s) at most, not {workers}; set WORKERS={most}")]
    TooManyWorkers {
        /// The interface.
        interface: String,
        /// What the mode is called.
        mode: &'static str,
        /// Workers wanted.
        workers: usize,
        /// Workers that there can be.
        most: usize,
    },
    /// The process may not load the program that shares out frames.
    #[error(
        "{interface}: no permission to share frames out to {workers} workers: CAP_BPF is missing; run as root or as a service (docs/guides/install.md), set WORKERS=1, or give every Python script these capabilities: setcap cap_net_raw,cap_bpf+ep {program}"
    )]
    SteeringPermission {
        /// The interface.
        interface: String,
        /// Workers wanted.
        workers: usize,
        /// The program that needs the capability.
        program: String,
    },
    /// Frames of this interface cannot be shared out.
    #[error(
        "{interface}: frames of interfaces of hardware type {hardware} (linux/if_arp.h) cannot be shared out to several workers; set WORKERS=1"
    )]
    NotSteerable {
        /// The interface.
        interface: String,
        /// ARPHRD number.
        hardware: u16,
    },
    /// Frames cannot be shared out to several workers.
    #[error("{interface}: {action} failed: {source}; set WORKERS=1")]
    Steering {
        /// The interface.
        interface: String,
        /// What was being done.
        action: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// This kernel does not steer frames as it must. Nothing was captured.
    #[error("{interface}: the self-test of steering failed: {source}; set WORKERS=1")]
    SelfTest {
        /// The interface.
        interface: String,
        /// What went wrong.
        source: SelfTestError,
    },
    /// A core that does not exist or is not this process's to use.
    #[error("core {core} is not one that this process may use; these are: {available} (CAPTURE_CORES)")]
    NoSuchCore {
        /// The core.
        core: usize,
        /// The numbers of those that it may use.
        available: String,
    },
    /// More workers than cores for them.
    #[error("{workers} workers need a core each, and CAPTURE_CORES names {cores}")]
    TooFewCores {
        /// Workers wanted.
        workers: usize,
        /// Cores named.
        cores: usize,
    },
    /// A thread cannot be pinned.
    #[error("pinning a thread to core(s) {cores} failed: {source}")]
    Pin {
        /// The cores.
        cores: String,
        /// What failed.
        source: io::Error,
    },
    /// The memory for the ring is too small.
    #[error(
        "{interface}: {bytes} bytes are too little for a capture ring; at least {least} are needed (MAX_BUFFER_SIZE_MB)"
    )]
    RingTooSmall {
        /// The interface.
        interface: String,
        /// Bytes given.
        bytes: usize,
        /// Bytes needed.
        least: usize,
    },
}

/// Where a file is cut, and what that means: both formats begin with a header.
fn cut(offset: u64) -> String {
    if offset == 0 {
        "within its file header; there are no packets in it".to_owned()
    } else {
        format!("in the middle of a record at byte {offset}; every packet before it was read")
    }
}

/// Where broken records start, the first of `places`.
fn records_at(offsets: &[u64], places: u64) -> String {
    let listed: Vec<String> = offsets.iter().map(u64::to_string).collect();
    let listed = listed.join(", ");
    match places.saturating_sub(offsets.len() as u64) {
        0 if places == 1 => format!("record at byte {listed}"),
        0 => format!("records at bytes {listed}"),
        more => format!("records at bytes {listed} and {more} more"),
    }
}

impl CaptureError {
    /// Whether one worker alone may succeed where several do not.
    pub const fn is_of_steering(&self) -> bool {
        matches!(
            self,
            Self::SteeringPermission { .. }
                | Self::NotSteerable { .. }
                | Self::Steering { .. }
                | Self::SelfTest { .. }
        )
    }

    /// Whether another capture mode may succeed where packet sockets do not: there is no network interface of this name, or
    /// the system has no packet sockets.
    pub fn is_of_packet_sockets(&self) -> bool {
        match self {
            Self::NoSuchInterface { .. } => true,
            Self::Ring { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP)
            ),
            _ => false,
        }
    }

    /// Whether the process lacks the right to capture (exit status 5, `CapturePermissionError`).
    pub const fn is_capture_permission(&self) -> bool {
        matches!(
            self,
            Self::CapturePermission { .. }
                | Self::SteeringPermission { .. }
                | Self::XdpPermission { .. }
                | Self::LockedMemory { .. }
        )
    }
}
