//! The system calls and the shared memory of an AF_XDP socket: all unsafe code that deals with them.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::capture::ebpf::redirect::STAMP_BYTES;

/// Nothing is sent: the ring that the kernel insists on is as small as can be.
const COMPLETIONS: u32 = 2;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Shared memory.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps a ring of `socket`, or without one fresh memory.
    fn new(bytes: usize, socket: Option<(RawFd, libc::off_t)>) -> io::Result<Self> {
        let (descriptor, offset) = socket.unwrap_or((-1, 0));
        let sharing = if socket.is_some() {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
        };
        // SAFETY: a fresh mapping at an address that the kernel chooses; no existing memory is touched.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_POPULATE,
                descriptor,
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference into it can outlive `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of an own mapping cannot fail");
    }
}

/// A ring of `T` between the kernel and us (`Documentation/networking/af_xdp.rst`).
struct Ring<T> {
    mapping: Mapping,
    offsets: libc::xdp_ring_offset,
    entries: u32,
    /// Our own counter, as it was last published.
    own: u32,
    of: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn new(
        socket: RawFd,
        page_offset: libc::off_t,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let bytes = offsets.desc as usize + entries as usize * size_of::<T>();
        Ok(Self {
            mapping: Mapping::new(bytes, Some((socket, page_offset)))?,
            offsets,
            entries,
            own: 0,
            of: std::marker::PhantomData,
        })
    }

    /// A word of the ring's head.
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the offsets are the kernel's own for this mapping, of aligned 32-bit words in it; both sides access them
        // as atomic words, and the mapping lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.mapping.start.add(offset as usize).cast().as_ptr()) }
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    /// Where entry `index` (counted on and on) is.
    fn entry(&self, index: u32) -> NonNull<T> {
        // `entries` is a power of two.
        let at = self.offsets.desc as usize + (index & (self.entries - 1)) as usize * size_of::<T>();
        // SAFETY: the masked index is below `entries`, so that the entry lies inside the mapping.
        unsafe { self.mapping.start.add(at).cast() }
    }
}

/// Memory for frames, in chunks of which each has one owner: the kernel, or we.
struct Chunks {
    mapping: Mapping,
    bytes: u32,
}

impl Chunks {
    /// The chunk in which `address` lies.
    fn of(&self, address: u64) -> u64 {
        address & !u64::from(self.bytes - 1)
    }

    /// Where the kernel says that bytes are; none where they are not in one chunk.
    fn find(&self, address: u64, length: u32) -> Option<NonNull<u8>> {
        let end = address.checked_add(u64::from(length))?;
        if end > self.mapping.bytes as u64 || end > self.of(address) + u64::from(self.bytes) {
            return None;
        }
        // SAFETY: `address` is not beyond the end of the mapping.
        Some(unsafe { self.mapping.start.add(address as usize) })
    }

    /// Takes the stamp in front of `address`: its mark is removed, so that it can never be taken for another frame's.
    ///
    /// # Safety
    ///
    /// The chunk of `address` is ours, and nobody has a reference into it.
    unsafe fn take_stamp(&mut self, address: u64, mark: u64) -> Option<u64> {
        if address - self.of(address) < STAMP_BYTES as u64 {
            return None;
        }
        let stamp = self
            .find(address - STAMP_BYTES as u64, STAMP_BYTES as u32)?
            .cast::<[u64; 2]>();
        // SAFETY: the bytes lie in a chunk that is ours, by the caller's promise, where nobody else reads or writes.
        unsafe {
            let [found, time] = stamp.read_unaligned();
            if found != mark {
                return None;
            }
            stamp.write_unaligned([0, 0]);
            Some(time)
        }
    }
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    /// The card writes frames straight into the chunks; else the kernel copies them.
    pub(super) zero_copy: bool,
    /// Frames may be larger than a chunk.
    pub(super) in_fragments: bool,
}

/// Memory of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes of a chunk: 2,048 or 4,096.
    pub(super) chunk_bytes: u32,
    /// How many, a power of two.
    pub(super) chunks: u32,
}

/// A part of a frame.
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// When the program saw the frame, in nanoseconds of the monotonic clock; in the first piece.
    pub(super) stamp: Option<u64>,
    /// Whether another piece of the same frame follows.
    pub(super) continues: bool,
}

/// What the kernel counts (`struct xdp_statistics`), since the socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Frames without a free chunk, or larger than can be received.
    pub(super) dropped: u64,
    /// Frames that found the receive ring full.
    pub(super) ring_full: u64,
    /// Times that the fill ring was found empty.
    pub(super) fill_ring_empty: u64,
}

/// The socket of one receive queue.
pub(super) struct Queue {
    descriptor: OwnedFd,
    receive: Ring<libc::xdp_desc>,
    fill: Ring<u64>,
    chunks: Chunks,
    mark: u64,
    /// Descriptors that point outside the chunks. Any is a bug.
    damaged: u64,
}

impl Queue {
    /// Opens a socket with memory of its own and binds it to receive queue `queue` of an interface. `mark`: what a stamp
    /// begins with.
    pub(super) fn open(
        interface: u32,
        queue: u32,
        binding: Binding,
        size: Size,
        mark: u64,
    ) -> io::Result<Self> {
        let Size { chunk_bytes, chunks } = size;
        // Before the socket, so that the memory outlives it also where something below fails.
        let mapping = Mapping::new(chunk_bytes as usize * chunks as usize, None)?;
        // SAFETY: no pointers are passed.
        let descriptor =
            checked(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let socket = descriptor.as_raw_fd();
        let region = libc::xdp_umem_reg {
            addr: mapping.start.as_ptr() as u64,
            len: mapping.bytes as u64,
            chunk_size: chunk_bytes,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set_option(socket, libc::XDP_UMEM_REG, &region)?;
        set_option(socket, libc::XDP_UMEM_FILL_RING, &chunks)?;
        set_option(socket, libc::XDP_UMEM_COMPLETION_RING, &COMPLETIONS)?;
        set_option(socket, libc::XDP_RX_RING, &chunks)?;
        // SAFETY: a C structure of integers, for which zero is valid.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        get_option(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
        let receive = Ring::new(socket, libc::XDP_PGOFF_RX_RING as libc::off_t, offsets.rx, chunks)?;
        let page = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let mut opened = Self {
            fill: Ring::new(socket, page, offsets.fr, chunks)?,
            receive,
            descriptor,
            chunks: Chunks {
                mapping,
                bytes: chunk_bytes,
            },
            mark,
            damaged: 0,
        };
        for chunk in 0..chunks {
            opened.give(u64::from(chunk) * u64::from(chunk_bytes));
        }
        opened.publish_given();
        let mut flags = libc::XDP_USE_NEED_WAKEUP;
        flags |= if binding.zero_copy {
            libc::XDP_ZEROCOPY
        } else {
            libc::XDP_COPY
        };
        if binding.in_fragments {
            flags |= libc::XDP_USE_SG;
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: pointer and length describe `address`, which outlives the call.
        checked(unsafe {
            libc::bind(
                socket,
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        })?;
        Ok(opened)
    }

    /// Gives a chunk to the kernel, once it is published. There is an entry for each chunk, so that one is always free.
    fn give(&mut self, chunk: u64) {
        // SAFETY: entries from `own` on are ours until they are published, and the chunk is nobody's but ours.
        unsafe { self.fill.entry(self.fill.own).write(chunk) };
        self.fill.own = self.fill.own.wrapping_add(1);
    }

    fn publish_given(&self) {
        // The entries are written before they are published.
        self.fill.producer().store(self.fill.own, Ordering::Release);
    }

    /// Frames that wait, and as many as can: in pieces.
    pub(super) fn waiting(&self) -> (u32, u32) {
        let produced = self.receive.producer().load(Ordering::Acquire);
        (produced.wrapping_sub(self.receive.own), self.receive.entries)
    }

    pub(super) fn chunk_bytes(&self) -> u32 {
        self.chunks.bytes
    }

    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Hands over up to `most` pieces and gives their chunks back to the kernel. Returns how many.
    pub(super) fn receive(&mut self, most: u32, mut take: impl FnMut(Piece<'_>)) -> u32 {
        let count = self.waiting().0.min(most);
        if count == 0 {
            return 0;
        }
        for _ in 0..count {
            let entry = self.receive.entry(self.receive.own);
            // So that no chunk can be given back twice, also when `take` unwinds.
            self.receive.own = self.receive.own.wrapping_add(1);
            // SAFETY: the kernel has published the entry (loaded with acquire in `waiting`) and does not write to it again
            // before it is released below.
            let descriptor: libc::xdp_desc = unsafe { entry.read() };
            let Some(start) = self.chunks.find(descriptor.addr, descriptor.len) else {
                self.damaged += 1;
                continue;
            };
            // SAFETY: an entry of the receive ring makes its chunk ours, until it is given back below. No reference into it
            // exists yet.
            let stamp = unsafe { self.chunks.take_stamp(descriptor.addr, self.mark) };
            // SAFETY: the bytes lie in one chunk, which is ours; nobody writes to it before it is given back, after the
            // last use of the slice.
            let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), descriptor.len as usize) };
            take(Piece {
                bytes,
                stamp,
                continues: descriptor.options & libc::XDP_PKT_CONTD != 0,
            });
            self.give(self.chunks.of(descriptor.addr));
        }
        self.receive.consumer().store(self.receive.own, Ordering::Release);
        self.publish_given();
        if self.fill.word(self.fill.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0 {
            // What can go wrong with the interface shows when it is waited for.
            // SAFETY: no buffer is passed.
            unsafe {
                libc::recvfrom(
                    self.descriptor.as_raw_fd(),
                    ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
        }
        count
    }

    /// What the kernel has counted.
    pub(super) fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: a C structure of integers, for which zero is valid.
        let mut counts: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        get_option(self.descriptor.as_raw_fd(), libc::XDP_STATISTICS, &mut counts)?;
        Ok(Statistics {
            dropped: counts.rx_dropped,
            ring_full: counts.rx_ring_full,
            fill_ring_empty: counts.rx_fill_ring_empty_descs,
        })
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Sets an option of `AF_XDP`. `T` is the C structure that it takes.
fn set_option<T>(socket: RawFd, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_XDP,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result).map(|_| ())
}

/// Reads an option of `AF_XDP` into `value`, which it fills wholly or in part.
fn get_option<T>(socket: RawFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; the kernel writes at most `length` bytes, and every `T` used here is a C
    // structure of integers, for which all bytes are valid.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            name,
            ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    checked(result).map(|_| ())
}
