//! The system calls of a packet socket and the mapped ring: the only `unsafe` of the project (see `SAFETY.md`).

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::capture::bpf::Instruction;

/// Where the status word stands in a block (`struct tpacket_block_desc`: version, offset, then `struct tpacket_hdr_v1`).
const STATUS_OFFSET: usize = 8;
/// Nominal frame size; `TPACKET_V3` packs frames of any size into a block, but the kernel wants one that divides it.
const FRAME_BYTES: usize = 2048;

/// The kernel's index of an interface, or `None` if there is no such interface.
pub fn interface_index(name: &str) -> Option<i32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    i32::try_from(index).ok().filter(|index| *index > 0)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A packet socket. Until it is bound it receives nothing.
#[derive(Debug)]
pub struct PacketSocket {
    descriptor: OwnedFd,
}

impl PacketSocket {
    /// Opens a raw packet socket with protocol 0.
    pub fn open() -> io::Result<Self> {
        // SAFETY: a system call without pointers.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(descriptor)?;
        // SAFETY: `descriptor` was just opened and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor })
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live `T`, and the length is that of a `T`; the kernel reads at most so much.
        check(unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })
    }

    fn get<T: Default>(&self, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
        let mut value = T::default();
        let mut length = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is a live `T` of `length` bytes. Every `T` used here consists of integers, for which any bytes
        // that the kernel writes are valid.
        check(unsafe {
            libc::getsockopt(
                self.descriptor.as_raw_fd(),
                level,
                option,
                std::ptr::from_mut(&mut value).cast(),
                &raw mut length,
            )
        })?;
        Ok(value)
    }

    /// The ARPHRD number of an interface.
    pub fn hardware_type(&self, interface: &str) -> io::Result<u16> {
        // SAFETY: `ifreq` consists of integers and a union of such: all zeros is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let name = interface.as_bytes();
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        // SAFETY: `request` is a live `ifreq` with a NUL-terminated name; this request writes into it and nowhere else.
        check(unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                libc::SIOCGIFHWADDR as _,
                &raw mut request,
            )
        })?;
        // SAFETY: SIOCGIFHWADDR has filled `ifru_hwaddr`.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
    }

    /// Chooses `TPACKET_V3`.
    pub fn use_version_3(&self) -> io::Result<()> {
        self.set(
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V3 as libc::c_int),
        )
    }

    /// Leaves out the packets that this host sends: on the loopback interface each comes back as a received one.
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        self.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &on)
    }

    /// Lets the kernel run a classic BPF program.
    pub fn attach_filter(&self, program: &[Instruction]) -> io::Result<()> {
        let mut filter: Vec<libc::sock_filter> = program
            .iter()
            .map(|i| libc::sock_filter {
                code: i.code,
                jt: i.jump_true,
                jf: i.jump_false,
                k: i.operand,
            })
            .collect();
        let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // `filter` outlives the call, which copies the program into the kernel.
        let program = libc::sock_fprog {
            len: length,
            filter: filter.as_mut_ptr(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Puts the interface into promiscuous mode for as long as the socket lives.
    pub fn join_promiscuous(&self, index: i32) -> io::Result<()> {
        let membership = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
    }

    /// Starts receiving from one interface.
    pub fn bind(&self, index: i32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a live `sockaddr_ll` and the length is its own.
        check(unsafe {
            libc::bind(
                self.descriptor.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
    }

    /// Packets, drops and ring freezes since the last call.
    pub fn take_statistics(&self) -> io::Result<(u32, u32, u32)> {
        // struct tpacket_stats_v3: three 32-bit integers.
        let [packets, drops, freezes] = self.get::<[u32; 3]>(libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok((packets, drops, freezes))
    }

    /// Waits until a block may be ready. An error of the socket (ENETDOWN when the interface goes) is returned once.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut request = libc::pollfd {
            fd: self.descriptor.as_raw_fd(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        let milliseconds = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one live `pollfd`, and the count says one.
        match check(unsafe { libc::poll(&raw mut request, 1, milliseconds) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        if request.revents & libc::POLLERR != 0 {
            let error: libc::c_int = self.get(libc::SOL_SOCKET, libc::SO_ERROR)?;
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        Ok(())
    }
}

/// The ring, mapped into this process.
#[derive(Debug)]
pub struct Ring {
    start: NonNull<u8>,
    block_bytes: usize,
    blocks: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; `Ring` has no interior aliasing: shared access only reads
// status words atomically and blocks that are ours, and only one thread holds the `Ring` at a time.
unsafe impl Send for Ring {}

impl Ring {
    /// Asks the kernel for `blocks` blocks of `block_bytes` (a multiple of the page size) and maps them.
    pub fn map(
        socket: &PacketSocket,
        block_bytes: usize,
        blocks: usize,
        timeout_ms: u32,
    ) -> io::Result<Self> {
        let too_large = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let length = block_bytes
            .checked_mul(blocks)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let request = libc::tpacket_req3 {
            tp_block_size: u32::try_from(block_bytes).map_err(too_large)?,
            tp_block_nr: u32::try_from(blocks).map_err(too_large)?,
            tp_frame_size: FRAME_BYTES as u32,
            tp_frame_nr: u32::try_from(length / FRAME_BYTES).map_err(too_large)?,
            tp_retire_blk_tov: timeout_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice, of the length that PACKET_RX_RING reserved.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.descriptor.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self {
            start,
            block_bytes,
            blocks,
        })
    }

    /// How many blocks the ring has.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Memory of the ring in bytes.
    pub fn bytes(&self) -> usize {
        self.block_bytes * self.blocks
    }

    fn status(&self, block: usize) -> &AtomicU32 {
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        // SAFETY: `block` is inside the mapping, which lives as long as `self`. The status word is aligned (a block starts at
        // a page) and both this process and the kernel access it as one 32-bit word.
        unsafe {
            AtomicU32::from_ptr(
                self.start
                    .as_ptr()
                    .add(block * self.block_bytes + STATUS_OFFSET)
                    .cast(),
            )
        }
    }

    /// Whether the kernel has handed the block over.
    pub fn is_ours(&self, block: usize) -> bool {
        // Acquire: what the kernel wrote into the block before the status is visible after it.
        self.status(block).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The bytes of a block that is ours. Panics if it is not: that would be a race with the kernel.
    pub fn block(&self, block: usize) -> &[u8] {
        assert!(self.is_ours(block), "block {block} belongs to the kernel");
        // SAFETY: the block is inside the mapping and ours: the kernel does not write to it until `give_back`, which takes
        // `&mut self` and so cannot be called while this borrow lives.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().add(block * self.block_bytes),
                self.block_bytes,
            )
        }
    }

    /// Hands a block back to the kernel.
    pub fn give_back(&mut self, block: usize) {
        // Release: everything read from the block was read before.
        self.status(block)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and nobody can hold a borrow of it any more. A failure
        // leaves the mapping in place, which is harmless.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.block_bytes * self.blocks) };
    }
}
