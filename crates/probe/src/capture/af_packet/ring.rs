//! The system calls and the shared memory of a packet socket: all unsafe code that deals with them.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::capture::bpf::Program;

/// Where `block_status` stands in a block: behind version and private offset (`struct tpacket_block_desc`).
const STATUS_OFFSET: usize = 8;

/// Turns the -1 of a system call into the error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The index of an interface, if there is one of this name.
pub(super) fn interface_index(name: &str) -> Option<libc::c_int> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a valid C string for the duration of the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    libc::c_int::try_from(index).ok().filter(|&index| index > 0)
}

/// A packet socket.
pub(super) struct PacketSocket {
    descriptor: OwnedFd,
}

/// What the kernel counted since it was last asked (`PACKET_STATISTICS`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    /// Frames that were put into the ring. Those that the filter refused are in neither count, and so are those that a fanout
    /// group gave to another socket.
    pub(super) received: u32,
    /// Frames that did not fit into the ring.
    pub(super) drops: u32,
    /// Times that the ring was full.
    pub(super) freezes: u32,
}

impl PacketSocket {
    /// A socket that receives nothing until it is bound. `cooked` leaves the link layer out.
    pub(super) fn open(cooked: bool) -> io::Result<Self> {
        let kind = if cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW };
        // SAFETY: no pointers are passed.
        let descriptor = checked(unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor })
    }

    fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Sets a socket option. `T` is the C structure that the option takes.
    fn set_option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: pointer and length describe `value`, which outlives the call; the kernel only reads it.
        let result = unsafe {
            libc::setsockopt(
                self.raw(),
                level,
                name,
                ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        checked(result).map(|_| ())
    }

    /// Reads a socket option into `value`, which the option fills wholly or in part.
    fn get_option<T>(&self, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
        let mut length = size_of::<T>() as libc::socklen_t;
        // SAFETY: pointer and length describe `value`; the kernel writes at most `length` bytes, and every `T` used
        // here is a C structure of integers, for which all bytes are valid.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                level,
                name,
                ptr::from_mut(value).cast(),
                &raw mut length,
            )
        };
        checked(result).map(|_| ())
    }

    /// Binds to an interface; `protocol` in host order, 0 to receive nothing.
    pub(super) fn bind(&self, index: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` is a C structure of integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = index;
        // SAFETY: pointer and length describe `address`, which outlives the call.
        let result = unsafe {
            libc::bind(
                self.raw(),
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        checked(result).map(|_| ())
    }

    /// Interface index and hardware type (ARPHRD) that the socket is bound to. The index is -1 once it is gone.
    pub(super) fn bound_to(&self) -> io::Result<(libc::c_int, u16)> {
        // SAFETY: `sockaddr_ll` is a C structure of integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: pointer and length describe `address`; the kernel writes at most `length` bytes of it.
        let result =
            unsafe { libc::getsockname(self.raw(), ptr::from_mut(&mut address).cast(), &raw mut length) };
        checked(result)?;
        Ok((address.sll_ifindex, address.sll_hatype))
    }

    /// Attaches a filter, in place of the one before.
    pub(super) fn attach(&self, program: &Program) -> io::Result<()> {
        let mut code = program.sock_filters();
        // The kernel copies the program while the option is set.
        let program = libc::sock_fprog {
            len: code.len() as libc::c_ushort,
            filter: code.as_mut_ptr(),
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Asks the interface to receive frames for other stations too, until the socket is closed.
    pub(super) fn join_promiscuous(&self, index: libc::c_int) -> io::Result<()> {
        // SAFETY: `packet_mreq` is a C structure of integers, for which zero is valid.
        let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
        request.mr_ifindex = index;
        request.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
        self.set_option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Takes the card's timestamp of a frame where there is one, else the kernel's.
    pub(super) fn take_hardware_stamps(&self) -> io::Result<()> {
        /// `PACKET_TIMESTAMP` (`linux/if_packet.h`) and `SOF_TIMESTAMPING_RAW_HARDWARE` (`linux/net_tstamp.h`).
        const TIMESTAMP: libc::c_int = 17;
        const RAW_HARDWARE: libc::c_int = 1 << 6;
        self.set_option(libc::SOL_PACKET, TIMESTAMP, &RAW_HARDWARE)
    }

    /// Leaves frames out that this host sends.
    pub(super) fn ignore_outgoing(&self) -> io::Result<()> {
        self.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)
    }

    /// Joins the fanout group `group` of an interface, or begins one with a number that the kernel chooses; returns the
    /// group's number. The program of [`Self::set_fanout_program`] then says which of the group's sockets gets a frame.
    pub(super) fn join_fanout(&self, group: Option<u16>, ignore_outgoing: bool) -> io::Result<u16> {
        /// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING`; the socket's own option does not hold for a group.
        const IGNORE_OUTGOING: u32 = 0x4000;
        let mut mode = libc::PACKET_FANOUT_EBPF;
        if ignore_outgoing {
            mode |= IGNORE_OUTGOING;
        }
        if group.is_none() {
            mode |= libc::PACKET_FANOUT_FLAG_UNIQUEID;
        }
        let value = u32::from(group.unwrap_or(0)) | mode << 16;
        self.set_option(libc::SOL_PACKET, libc::PACKET_FANOUT, &value)?;
        let mut joined = 0_u32;
        self.get_option(libc::SOL_PACKET, libc::PACKET_FANOUT, &mut joined)?;
        Ok(joined as u16)
    }

    /// Sets the program that shares out the frames of the socket's fanout group.
    pub(super) fn set_fanout_program(&self, program: &impl AsRawFd) -> io::Result<()> {
        self.set_option(libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program.as_raw_fd())
    }

    /// Reads the kernel's counts and sets them back to zero.
    pub(super) fn take_statistics(&self) -> io::Result<Statistics> {
        let mut counts = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        self.get_option(libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut counts)?;
        Ok(Statistics {
            // For version 3 the kernel adds the drops to the frames of the ring, which it counts under the lock under which
            // it puts them there.
            received: counts.tp_packets.wrapping_sub(counts.tp_drops),
            drops: counts.tp_drops,
            freezes: counts.tp_freeze_q_cnt,
        })
    }

    /// Reads the socket's error and clears it.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        let mut number: libc::c_int = 0;
        self.get_option(libc::SOL_SOCKET, libc::SO_ERROR, &mut number)?;
        Ok((number != 0).then(|| io::Error::from_raw_os_error(number)))
    }

    /// Waits until there is a block, an error, or the timeout is over. True where the socket reports an error.
    pub(super) fn wait(&self, timeout_ms: libc::c_int) -> io::Result<bool> {
        let mut descriptor = libc::pollfd {
            fd: self.raw(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        // SAFETY: one `pollfd` is passed and counted.
        match checked(unsafe { libc::poll(&raw mut descriptor, 1, timeout_ms) }) {
            Ok(_) => Ok(descriptor.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The receive ring of a socket, mapped into this process.
pub(super) struct Ring {
    memory: NonNull<u8>,
    block_bytes: usize,
    block_count: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is used through `&mut self` only.
unsafe impl Send for Ring {}

impl Ring {
    /// Sets up and maps a ring of `block_count` blocks, each of which is handed over when it is full or, with frames in
    /// it, after `timeout_ms`. `block_bytes` is a power of two and a multiple of the page size.
    pub(super) fn new(
        socket: &PacketSocket,
        block_bytes: usize,
        block_count: usize,
        timeout_ms: u32,
    ) -> io::Result<Self> {
        /// Ignored by version 3 but for its check.
        const FRAME_BYTES: usize = 2048;
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        socket.set_option(libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: block_bytes as libc::c_uint,
            tp_block_nr: block_count as libc::c_uint,
            tp_frame_size: FRAME_BYTES as libc::c_uint,
            tp_frame_nr: (block_bytes / FRAME_BYTES * block_count) as libc::c_uint,
            tp_retire_blk_tov: timeout_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a fresh mapping at an address that the kernel chooses, of the length that the ring was just given;
        // no existing memory is touched.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                block_bytes * block_count,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.raw(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory =
            NonNull::new(memory.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self {
            memory,
            block_bytes,
            block_count,
        })
    }

    /// How many blocks there are.
    pub(super) fn block_count(&self) -> usize {
        self.block_count
    }

    /// The start of a block.
    fn block(&self, index: usize) -> NonNull<u8> {
        let index = index % self.block_count;
        // SAFETY: `index` is below the number of blocks, so that the offset stays inside the mapping.
        unsafe { self.memory.add(index * self.block_bytes) }
    }

    /// The status word of a block.
    fn status(&self, index: usize) -> &AtomicU32 {
        let block = self.block(index);
        // SAFETY: the status is a 32-bit word of the mapping, aligned because blocks are page-aligned; the mapping
        // lives as long as `self`. The kernel and we both access it as one word.
        unsafe { AtomicU32::from_ptr(block.add(STATUS_OFFSET).cast().as_ptr()) }
    }

    /// Whether block `index` (counted on and on) holds frames that wait for us.
    pub(super) fn is_waiting(&self, index: usize) -> bool {
        self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Hands block `index` (counted on and on) to `take` if the kernel has filled it, and gives it back afterwards,
    /// also when `take` unwinds.
    pub(super) fn with_block<R>(&mut self, index: usize, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        struct GiveBack<'a>(&'a AtomicU32);
        impl Drop for GiveBack<'_> {
            fn drop(&mut self) {
                self.0.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            }
        }
        let block = self.block(index);
        let status = self.status(index);
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let give_back = GiveBack(status);
        // SAFETY: the block lies inside the mapping, and since its status says that it belongs to user space, the
        // kernel does not write to it until it is given back, which is after the last use of the slice. Nobody here
        // writes to it either: the one other reference is the atomic word above, which is stored to only then.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), self.block_bytes) };
        let result = take(bytes);
        drop(give_back);
        Some(result)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference into it can outlive `self`.
        let result =
            unsafe { libc::munmap(self.memory.as_ptr().cast(), self.block_bytes * self.block_count) };
        debug_assert_eq!(result, 0, "munmap of an own mapping cannot fail");
    }
}
