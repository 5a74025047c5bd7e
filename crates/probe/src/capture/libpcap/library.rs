//! libpcap, loaded at run time: all unsafe code that deals with it.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::error::Error as _;
use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_uint};
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libloading::Library as Loaded;

use crate::capture::bpf::Program;

/// `PCAP_ERRBUF_SIZE`.
const ERROR_BYTES: usize = 256;

/// `PCAP_TSTAMP_PRECISION_NANO`.
const NANOSECONDS: c_int = 1;

/// What `pcap_activate` returns (`pcap/pcap.h`).
pub(super) mod status {
    use std::ffi::c_int;

    pub const NO_SUCH_DEVICE: c_int = -5;
    pub const PERMISSION_DENIED: c_int = -8;
    pub const INTERFACE_NOT_UP: c_int = -9;
    pub const PROMISCUOUS_PERMISSION_DENIED: c_int = -11;
}

/// `pcap_t`.
#[repr(C)]
struct Capture {
    _opaque: [u8; 0],
}

/// `struct pcap_pkthdr`.
#[repr(C)]
struct PacketHeader {
    time: libc::timeval,
    captured_length: u32,
    wire_length: u32,
}

/// `struct bpf_program`; its instructions have the layout of the kernel's.
#[repr(C)]
struct FilterProgram {
    length: c_uint,
    instructions: *mut libc::sock_filter,
}

/// `struct pcap_stat` as it is on Linux.
#[repr(C)]
#[derive(Default)]
struct Statistics {
    received: c_uint,
    dropped: c_uint,
    dropped_by_interface: c_uint,
}

/// Declares the functions of the library: their names and types as in `pcap/pcap.h`.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// The functions that are used.
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
        }

        impl Functions {
            fn find(library: &Loaded) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: `pcap/pcap.h` declares the function with this type, which has not changed since
                        // libpcap 1.5; the copied pointer is used only as long as `library` is loaded.
                        $name: unsafe { *library.get(concat!(stringify!($name), "\0").as_bytes())? },
                    )+
                })
            }
        }
    };
}

functions! {
    pcap_lib_version: fn() -> *const c_char;
    pcap_create: fn(*const c_char, *mut c_char) -> *mut Capture;
    pcap_set_snaplen: fn(*mut Capture, c_int) -> c_int;
    pcap_set_promisc: fn(*mut Capture, c_int) -> c_int;
    pcap_set_timeout: fn(*mut Capture, c_int) -> c_int;
    pcap_set_buffer_size: fn(*mut Capture, c_int) -> c_int;
    pcap_set_tstamp_precision: fn(*mut Capture, c_int) -> c_int;
    pcap_activate: fn(*mut Capture) -> c_int;
    pcap_get_tstamp_precision: fn(*mut Capture) -> c_int;
    pcap_datalink: fn(*mut Capture) -> c_int;
    pcap_setnonblock: fn(*mut Capture, c_int, *mut c_char) -> c_int;
    pcap_get_selectable_fd: fn(*mut Capture) -> c_int;
    pcap_setfilter: fn(*mut Capture, *mut FilterProgram) -> c_int;
    pcap_next_ex: fn(*mut Capture, *mut *mut PacketHeader, *mut *const c_uchar) -> c_int;
    pcap_stats: fn(*mut Capture, *mut Statistics) -> c_int;
    pcap_geterr: fn(*mut Capture) -> *mut c_char;
    pcap_statustostr: fn(c_int) -> *const c_char;
    pcap_close: fn(*mut Capture);
}

/// The library.
pub(super) struct Library {
    functions: Functions,
    /// What the pointers point into.
    _loaded: Loaded,
}

/// A text that the library owns.
///
/// # Safety
///
/// `text` is null or a C string that lives until this returns.
unsafe fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Library {
    /// Loads the first of `candidates` that can be used; else says what is wrong with each.
    pub(super) fn load(candidates: &[PathBuf]) -> Result<Self, String> {
        let mut wrong = Vec::new();
        for candidate in candidates {
            // SAFETY: loading runs the initialisers of the library and of those that it links, which nothing here can check.
            // It is relied on that the candidates are libpcap as the system or the Python package installed it: names that
            // the dynamic linker looks up in its own directories, and a path inside the package. Whoever can replace those
            // files can replace this program.
            let loaded = unsafe { Loaded::new(candidate) };
            match loaded.and_then(|loaded| Ok((Functions::find(&loaded)?, loaded))) {
                Ok((functions, loaded)) => {
                    return Ok(Self {
                        functions,
                        _loaded: loaded,
                    });
                }
                // What the dynamic linker said stands in the source of the error.
                Err(error) => wrong.push(match error.source() {
                    Some(said) => said.to_string(),
                    None => error.to_string(),
                }),
            }
        }
        Err(wrong.join("; "))
    }

    /// Name and version.
    pub(super) fn version(&self) -> String {
        // SAFETY: the function takes nothing and returns a constant C string.
        unsafe { text_at((self.functions.pcap_lib_version)()) }
    }
}

/// How a capture is opened.
pub(super) struct Wishes {
    pub(super) snaplen: u32,
    pub(super) promiscuous: bool,
    pub(super) buffer_bytes: usize,
    /// After this time frames are handed over though there is room for more.
    pub(super) timeout_ms: c_int,
}

/// What the library says when something fails: a status and words.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: c_int,
    pub(super) message: String,
}

/// A frame's header.
pub(super) struct Header {
    /// UTC nanoseconds.
    pub(super) time: i64,
    pub(super) wire_length: u32,
}

/// A capture that is going on.
pub(super) struct Handle {
    libpcap: Arc<Library>,
    capture: NonNull<Capture>,
    /// Nanoseconds in a unit of its timestamps.
    unit: i64,
}

// SAFETY: a `pcap_t` is bound to no thread, and every function but `pcap_breakloop` (which is not used) is called through
// one `Handle` at a time: they are called through `&mut self`, and those through `&self` are not `Sync`.
unsafe impl Send for Handle {}

impl Handle {
    /// Opens an interface and starts to capture, without ever blocking. What the library warns of is logged.
    pub(super) fn open(library: &Arc<Library>, interface: &str, wishes: &Wishes) -> Result<Self, Failure> {
        let functions = &library.functions;
        let name = CString::new(interface).map_err(|_| Failure {
            status: status::NO_SUCH_DEVICE,
            message: "its name contains a NUL character".to_owned(),
        })?;
        let mut error = [0 as c_char; ERROR_BYTES];
        // SAFETY: `name` is a C string and `error` has the size that the library asks for.
        let capture = unsafe { (functions.pcap_create)(name.as_ptr(), error.as_mut_ptr()) };
        let Some(capture) = NonNull::new(capture) else {
            return Err(Failure {
                status: 0,
                // SAFETY: the library left a C string there.
                message: unsafe { text_at(error.as_ptr()) },
            });
        };
        // From here on it is closed when it is dropped.
        let mut handle = Self {
            libpcap: Arc::clone(library),
            capture,
            unit: 1000,
        };
        let capture = capture.as_ptr();
        // SAFETY: `capture` is a live `pcap_t` that is not activated yet, which is when these may be called.
        let activated = unsafe {
            (functions.pcap_set_snaplen)(capture, wishes.snaplen as c_int);
            (functions.pcap_set_promisc)(capture, c_int::from(wishes.promiscuous));
            (functions.pcap_set_timeout)(capture, wishes.timeout_ms);
            let bytes = c_int::try_from(wishes.buffer_bytes).unwrap_or(c_int::MAX);
            (functions.pcap_set_buffer_size)(capture, bytes);
            // Refused where a device stamps in microseconds only; asked for below.
            (functions.pcap_set_tstamp_precision)(capture, NANOSECONDS);
            (functions.pcap_activate)(capture)
        };
        if activated < 0 {
            return Err(handle.failure(activated));
        }
        if activated > 0 {
            let warning = handle.failure(activated).message;
            tracing::warn!(interface, "libpcap: {warning}");
        }
        // SAFETY: `capture` is activated.
        if unsafe { (functions.pcap_get_tstamp_precision)(capture) } == NANOSECONDS {
            handle.unit = 1;
        }
        // SAFETY: `capture` is activated; `error` has the size that the library asks for.
        if unsafe { (functions.pcap_setnonblock)(capture, 1, error.as_mut_ptr()) } < 0 {
            return Err(Failure {
                status: 0,
                // SAFETY: the library left a C string there.
                message: unsafe { text_at(error.as_ptr()) },
            });
        }
        Ok(handle)
    }

    /// What the library says of a status, and of this capture.
    fn failure(&mut self, status: c_int) -> Failure {
        // SAFETY: the function takes any number and returns a C string that lives until it is called again.
        let meaning = unsafe { text_at((self.libpcap.functions.pcap_statustostr)(status)) };
        // SAFETY: `capture` is live, and so is its error message.
        let detail = unsafe { text_at((self.libpcap.functions.pcap_geterr)(self.capture.as_ptr())) };
        let message = match (meaning.as_str(), detail.is_empty()) {
            (_, true) => meaning,
            // "Generic error": the detail says all.
            ("Generic error" | "Generic warning", false) => detail,
            // Some say it in the same words.
            (said, false) if said == detail => detail,
            (_, false) => format!("{meaning}: {detail}"),
        };
        Failure { status, message }
    }

    /// What frames start with: the library's own number (`DLT_`).
    pub(super) fn link_type(&mut self) -> c_int {
        // SAFETY: `capture` is activated.
        unsafe { (self.libpcap.functions.pcap_datalink)(self.capture.as_ptr()) }
    }

    /// Attaches a filter, in place of the one before. For a moment no frame passes, which no count tells.
    pub(super) fn set_filter(&mut self, program: &Program) -> Result<(), Failure> {
        let mut code = program.sock_filters();
        let mut program = FilterProgram {
            length: code.len() as c_uint,
            instructions: code.as_mut_ptr(),
        };
        // SAFETY: `capture` is activated; the library copies the program before it returns, and `code` lives until then.
        let set = unsafe { (self.libpcap.functions.pcap_setfilter)(self.capture.as_ptr(), &raw mut program) };
        if set < 0 { Err(self.failure(set)) } else { Ok(()) }
    }

    /// Hands over the next frame, if there is one.
    pub(super) fn next<R>(&mut self, take: impl FnOnce(Header, &[u8]) -> R) -> Result<Option<R>, Failure> {
        let (mut header, mut bytes) = (ptr::null_mut::<PacketHeader>(), ptr::null::<c_uchar>());
        // SAFETY: `capture` is activated; both pointers are the library's to set.
        let got = unsafe {
            (self.libpcap.functions.pcap_next_ex)(self.capture.as_ptr(), &raw mut header, &raw mut bytes)
        };
        match got {
            1 if !header.is_null() && !bytes.is_null() => {
                // SAFETY: after 1 the library has set `header` to the frame's header and `bytes` to as many bytes as it
                // says; both stay as they are until the next call, which takes `&mut self`.
                let (header, bytes) = unsafe {
                    let header = &*header;
                    (
                        header,
                        std::slice::from_raw_parts(bytes, header.captured_length as usize),
                    )
                };
                let time = header.time.tv_sec.saturating_mul(1_000_000_000);
                let header = Header {
                    time: time.saturating_add(header.time.tv_usec.saturating_mul(self.unit)),
                    wire_length: header.wire_length,
                };
                Ok(Some(take(header, bytes)))
            }
            0 | 1 => Ok(None),
            status => Err(self.failure(status)),
        }
    }

    /// Waits until there may be a frame, or the timeout is over. Where the device cannot be waited for, that is the timeout
    /// of the library's own buffer.
    pub(super) fn wait(&mut self, timeout_ms: c_int) {
        // SAFETY: `capture` is activated.
        let descriptor = unsafe { (self.libpcap.functions.pcap_get_selectable_fd)(self.capture.as_ptr()) };
        let mut descriptor = libc::pollfd {
            // A negative one is passed over (poll(2)).
            fd: descriptor,
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout_ms = if descriptor.fd < 0 { 1 } else { timeout_ms };
        // SAFETY: one `pollfd` is passed and counted. Why it returned shows at the next frame.
        unsafe { libc::poll(&raw mut descriptor, 1, timeout_ms) };
    }

    /// Frames that were dropped for want of room, modulo 2³²; none where the device does not count them.
    pub(super) fn dropped(&mut self) -> Result<u32, Failure> {
        let mut statistics = Statistics::default();
        // SAFETY: `capture` is activated; the library fills the structure, of which all values are valid.
        let asked =
            unsafe { (self.libpcap.functions.pcap_stats)(self.capture.as_ptr(), &raw mut statistics) };
        if asked < 0 {
            Err(self.failure(asked))
        } else {
            Ok(statistics.dropped)
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: `capture` is live, and nobody else has it.
        unsafe { (self.libpcap.functions.pcap_close)(self.capture.as_ptr()) };
    }
}
