//! An interface whose frames a test writes itself. Needs root and `/dev/net/tun`.

use std::fs::{File, OpenOptions};
use std::io::{Error, Write as _};
use std::os::fd::AsRawFd as _;

use crate::namespace::ip;

/// `linux/if_tun.h`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETLINK: libc::Ioctl = 0x4004_54cd;

/// An interface whose frames a test writes.
pub struct Tap(File);

impl Tap {
    /// Makes it, and sets it up.
    pub fn new(name: &str) -> Self {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let tap = Self(file.expect("the kernel has it"));
        // `struct ifreq`: the name, then flags.
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&((libc::IFF_TAP | libc::IFF_NO_PI) as u16).to_ne_bytes());
        // SAFETY: the request takes a `struct ifreq`, which `request` is as long as; it lives until the call returns.
        let made = unsafe { libc::ioctl(tap.0.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(made, 0, "{}", Error::last_os_error());
        ip(&format!("link set {name} up"));
        tap
    }

    /// Gives it another hardware type, which it must be down for.
    pub fn set_hardware(&self, hardware: u16) {
        // SAFETY: the request takes a number.
        let set = unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(hardware)) };
        assert_eq!(set, 0, "{}", Error::last_os_error());
    }

    /// The interface receives a frame.
    pub fn receive(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).expect("it is up"), frame.len());
    }
}
