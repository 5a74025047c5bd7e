//! What a network device is asked through ioctl(2): all unsafe code that does.
//!
//! `SAFETY.md` of this crate states the invariants that the blocks below rest on.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GCHANNELS` (`linux/ethtool.h`).
const GET_CHANNELS: u32 = 0x3c;

/// Timestamps of a card (`linux/net_tstamp.h`).
mod stamps {
    /// `SIOCGHWTSTAMP`, `SIOCSHWTSTAMP`.
    pub(super) const GET: libc::Ioctl = 0x89b1;
    pub(super) const SET: libc::Ioctl = 0x89b0;
    /// `HWTSTAMP_FILTER_ALL`.
    pub(super) const EVERY_FRAME: i32 = 1;
}

/// `struct hwtstamp_config`.
#[repr(C)]
#[derive(Default)]
struct StampConfig {
    flags: i32,
    transmit: i32,
    receive: i32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_receive: u32,
    max_transmit: u32,
    max_other: u32,
    max_combined: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// An interface that can be asked.
pub(super) struct Device {
    socket: OwnedFd,
    name: [c_char; libc::IFNAMSIZ],
}

impl Device {
    /// The interface of this name in the network namespace of this thread.
    pub(super) fn new(interface: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let mut name = [0; libc::IFNAMSIZ];
        // The last byte stays zero.
        for (to, from) in name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as c_char;
        }
        Ok(Self { socket, name })
    }

    /// One request; `T` is the C structure that it takes.
    fn ask<T>(&self, request: libc::Ioctl, data: &mut T) -> io::Result<()> {
        let mut packet = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: ptr::from_mut(data).cast(),
            },
        };
        // SAFETY: `packet` is the structure that these requests take, its name is a C string, and its pointer is that of
        // `data`, which is of the type that the request reads and writes and outlives the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request, &raw mut packet) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Has the card stamp every frame that it receives. What it does with frames that are sent stays as it is, so that a
    /// card whose setting cannot be read is left alone. It goes on after this process ends, because others may have asked
    /// for it too.
    pub(super) fn stamp_received(&self) -> io::Result<()> {
        let mut config = StampConfig::default();
        self.ask(stamps::GET, &mut config).map_err(|error| {
            let said = format!("what it stamps now cannot be read, and is left as it is: {error}");
            io::Error::new(error.kind(), said)
        })?;
        if config.receive == stamps::EVERY_FRAME {
            return Ok(());
        }
        config.receive = stamps::EVERY_FRAME;
        self.ask(stamps::SET, &mut config)?;
        if config.receive == stamps::EVERY_FRAME {
            Ok(())
        } else {
            Err(io::Error::other("it stamps only some frames"))
        }
    }

    /// Whether it is set up; what is plugged in does not matter.
    pub(super) fn is_up(&self) -> io::Result<bool> {
        let mut packet = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
        };
        // SAFETY: `packet` is the structure that this request takes, and its name is a C string; the kernel writes the flags
        // into it.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCGIFFLAGS as libc::Ioctl,
                &raw mut packet,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the field is an integer, for which any bytes are valid.
        let flags = unsafe { packet.ifr_ifru.ifru_flags };
        Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
    }

    /// How many receive queues are in use; none where the driver does not tell.
    pub(super) fn receive_queues(&self) -> Option<u32> {
        let mut channels = Channels {
            command: GET_CHANNELS,
            ..Channels::default()
        };
        self.ask(libc::SIOCETHTOOL as libc::Ioctl, &mut channels).ok()?;
        Some(channels.receive + channels.combined).filter(|&queues| queues > 0)
    }
}

/// Whether there is an interface of this name, and it is not set up.
pub(super) fn is_down(interface: &str) -> bool {
    Device::new(interface)
        .and_then(|device| device.is_up())
        .is_ok_and(|is_up| !is_up)
}
