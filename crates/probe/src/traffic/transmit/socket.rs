//! A packet socket that sends: all unsafe code of sending.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Frames that one system call sends at most.
pub(super) const BATCH: usize = 64;

/// How long a system call waits at most for the interface to take a frame: so that an interface that takes none any more
/// does not keep the sender from its end.
const PATIENCE_MICROSECONDS: libc::suseconds_t = 100_000;

/// Turns the -1 of a system call into the error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A packet socket bound to an interface, which receives nothing.
pub(super) struct SendSocket {
    descriptor: OwnedFd,
}

impl SendSocket {
    /// Opens a socket and binds it to the interface of that name. `offload`: each frame that is sent begins with a
    /// `struct virtio_net_hdr`.
    pub(super) fn open(interface: &str, offload: bool) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: `name` is a valid C string for the duration of the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers are passed. Protocol 0 receives nothing.
        let descriptor =
            checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: `sockaddr_ll` is a C structure of integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_ifindex = libc::c_int::try_from(index).unwrap_or(libc::c_int::MAX);
        // SAFETY: pointer and length describe `address`, which outlives the call.
        checked(unsafe {
            libc::bind(
                descriptor.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        let patience = libc::timeval {
            tv_sec: 0,
            tv_usec: PATIENCE_MICROSECONDS,
        };
        // SAFETY: pointer and length describe `patience`, which outlives the call; the kernel only reads it.
        checked(unsafe {
            libc::setsockopt(
                descriptor.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDTIMEO,
                ptr::from_ref(&patience).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        })?;
        if offload {
            let on: libc::c_int = 1;
            // SAFETY: pointer and length describe `on`, which outlives the call; the kernel only reads it.
            checked(unsafe {
                libc::setsockopt(
                    descriptor.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_VNET_HDR,
                    ptr::from_ref(&on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            })?;
        }
        Ok(Self { descriptor })
    }

    /// Sends up to [`BATCH`] frames, each in two parts; returns how many the interface took, one at least. Of the kind
    /// [`io::ErrorKind::WouldBlock`] is the error if it took none for a tenth of a second.
    pub(super) fn send<'a>(&self, frames: impl Iterator<Item = [&'a [u8]; 2]>) -> io::Result<usize> {
        let mut parts = [[libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        }; 2]; BATCH];
        let mut count = 0;
        for (parts, frame) in parts.iter_mut().zip(frames) {
            for (part, bytes) in parts.iter_mut().zip(frame) {
                part.iov_base = bytes.as_ptr().cast_mut().cast();
                part.iov_len = bytes.len();
            }
            count += 1;
        }
        // SAFETY: `mmsghdr` is a C structure of integers and pointers, for which zero is valid.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (message, parts) in messages.iter_mut().zip(&mut parts).take(count) {
            message.msg_hdr.msg_iovlen = parts.len() as _;
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
        }
        // SAFETY: `messages` holds `count` headers, each with its two parts; the parts and the frames that they point to
        // outlive the call (the frames by `'a`), and the kernel only reads the frames.
        let sent = checked(unsafe {
            libc::sendmmsg(
                self.descriptor.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        })?;
        Ok(sent as usize)
    }
}
