//! What happens to an interface while it is captured from: rtnetlink(7) tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// A change of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It does not receive any more: it was set down, or its carrier is gone.
    Down,
    /// It receives again.
    Up,
    /// It was removed.
    Gone,
    /// There is an interface of its name again.
    Back,
    /// It has another name; capture goes on.
    Renamed {
        /// The new name.
        to: String,
    },
    /// Its largest packet changed.
    Mtu {
        /// Bytes before.
        from: u32,
        /// Bytes now.
        to: u32,
    },
    /// Messages about interfaces were lost: changes may be missing.
    Unknown,
}

impl LinkChange {
    /// Every kind, by the name that the books and events have.
    pub const NAMES: [&'static str; 7] = ["down", "up", "gone", "back", "renamed", "mtu", "unknown"];

    /// The name of its kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::Gone => "gone",
            Self::Back => "back",
            Self::Renamed { .. } => "renamed",
            Self::Mtu { .. } => "mtu",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    index: u32,
    name: String,
    mtu: u32,
    receives: bool,
}

/// Turns messages into changes of one interface.
#[derive(Debug)]
struct Tracker {
    interface: String,
    known: Option<Known>,
    was_known: bool,
}

/// `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if.h`.
mod netlink {
    pub(super) const HEADER: usize = 16;
    pub(super) const LINK_HEADER: usize = 16;
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DELETE_LINK: u16 = 17;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const REQUEST_DUMP: u16 = 0x301;
    pub(super) const LINK_GROUP: u32 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    /// Up and running: the operational state lets packets through.
    pub(super) const RECEIVES: u32 = 0x41;
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The messages or attributes in `bytes`, each padded to 4 bytes: its number and content. `wide`: messages.
fn parts(mut bytes: &[u8], wide: bool) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind, header) = if wide {
            (u32_at(bytes, 0)? as usize, u16_at(bytes, 4)?, netlink::HEADER)
        } else {
            (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?, 4)
        };
        let content = bytes.get(header..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

impl Tracker {
    fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            known: None,
            was_known: false,
        }
    }

    /// Takes what one receive gave.
    fn take(&mut self, bytes: &[u8]) -> Vec<LinkChange> {
        let mut changes = Vec::new();
        for (kind, message) in parts(bytes, true) {
            match kind {
                netlink::NEW_LINK => {
                    if let Some(now) = link(message) {
                        self.is(now, &mut changes);
                    }
                }
                netlink::DELETE_LINK => {
                    let index = u32_at(message, 4);
                    if self
                        .known
                        .as_ref()
                        .is_some_and(|known| Some(known.index) == index)
                    {
                        self.known = None;
                        changes.push(LinkChange::Gone);
                    }
                }
                _ => {}
            }
        }
        changes
    }

    fn is(&mut self, now: Known, changes: &mut Vec<LinkChange>) {
        match &self.known {
            Some(before) if before.index == now.index => {
                if before.name != now.name {
                    changes.push(LinkChange::Renamed { to: now.name.clone() });
                }
                if before.mtu != now.mtu {
                    changes.push(LinkChange::Mtu {
                        from: before.mtu,
                        to: now.mtu,
                    });
                }
                if before.receives != now.receives {
                    changes.push(if now.receives {
                        LinkChange::Up
                    } else {
                        LinkChange::Down
                    });
                }
            }
            Some(_) => return,
            None if now.name != self.interface => return,
            None if self.was_known => changes.push(LinkChange::Back),
            None => {}
        }
        self.was_known = true;
        self.known = Some(now);
    }
}

/// An interface as a message describes it.
fn link(message: &[u8]) -> Option<Known> {
    let mut known = Known {
        index: u32_at(message, 4)?,
        name: String::new(),
        mtu: 0,
        receives: u32_at(message, 8)? & netlink::RECEIVES == netlink::RECEIVES,
    };
    for (kind, content) in parts(message.get(netlink::LINK_HEADER..)?, false) {
        match kind {
            netlink::NAME => {
                let end = content
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(content.len());
                known.name = String::from_utf8_lossy(content.get(..end)?).into_owned();
            }
            netlink::MTU => known.mtu = u32_at(content, 0)?,
            _ => {}
        }
    }
    Some(known)
}

/// Listens to what happens to one interface.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    tracker: Tracker,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Listens from now on, in the network namespace of this thread.
    pub fn new(interface: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, netlink::LINK_GROUP))?;
        let watch = Self {
            socket,
            tracker: Tracker::new(interface),
            buffer: vec![0; 64 * 1024],
        };
        watch.ask()?;
        Ok(watch)
    }

    /// Asks for the state of all interfaces.
    fn ask(&self) -> io::Result<()> {
        let mut request = Vec::with_capacity(netlink::HEADER + netlink::LINK_HEADER);
        request.extend(((netlink::HEADER + netlink::LINK_HEADER) as u32).to_ne_bytes());
        request.extend(netlink::GET_LINK.to_ne_bytes());
        request.extend(netlink::REQUEST_DUMP.to_ne_bytes());
        request.extend([0; 8 + netlink::LINK_HEADER]);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for at most `timeout_ms` and returns what has changed.
    pub fn changes(&mut self, timeout_ms: u16) -> io::Result<Vec<LinkChange>> {
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(timeout_ms)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut changes = Vec::new();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    changes.extend(self.tracker.take(bytes));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(changes),
                // The kernel had no room for a message: what is now is asked for, what was between is not known.
                Err(Errno::ENOBUFS) => {
                    changes.push(LinkChange::Unknown);
                    self.ask()?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, index: u32, flags: u32, name: &str, mtu: u32) -> Vec<u8> {
        let mut content = vec![0, 0, 1, 0];
        content.extend(index.to_ne_bytes());
        content.extend(flags.to_ne_bytes());
        content.extend([0xff; 4]);
        content.extend([(5 + name.len()) as u8, 0, 3, 0]);
        content.extend(name.bytes());
        content.push(0);
        content.resize(content.len().next_multiple_of(4), 0);
        content.extend([8, 0, 4, 0]);
        content.extend(mtu.to_ne_bytes());
        let mut bytes = ((16 + content.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn tells_every_change_of_its_interface_and_of_no_other() {
        let mut tracker = Tracker::new("eth0");
        let new = |index, flags, name, mtu| message(netlink::NEW_LINK, index, flags, name, mtu);
        assert_eq!(tracker.take(&new(2, 0x41, "eth0", 1500)), []);
        assert_eq!(tracker.take(&new(3, 0x01, "eth1", 9000)), []);
        assert_eq!(tracker.take(&new(2, 0x01, "eth0", 1500)), [LinkChange::Down]);
        let both = [new(2, 0x41, "eth0", 1500), new(2, 0x41, "lan", 9000)].concat();
        let to = "lan".to_owned();
        assert_eq!(
            tracker.take(&both),
            [
                LinkChange::Up,
                LinkChange::Renamed { to },
                LinkChange::Mtu { from: 1500, to: 9000 }
            ]
        );
        assert_eq!(tracker.take(&message(netlink::DELETE_LINK, 3, 0, "eth1", 0)), []);
        assert_eq!(
            tracker.take(&message(netlink::DELETE_LINK, 2, 0, "lan", 0)),
            [LinkChange::Gone]
        );
        assert_eq!(tracker.take(&new(9, 0x41, "lan", 1500)), []);
        assert_eq!(tracker.take(&new(10, 0x41, "eth0", 1500)), [LinkChange::Back]);
    }

    #[test]
    fn every_kind_has_a_name() {
        let kinds = [
            LinkChange::Down,
            LinkChange::Up,
            LinkChange::Gone,
            LinkChange::Back,
            LinkChange::Renamed { to: String::new() },
            LinkChange::Mtu { from: 0, to: 0 },
            LinkChange::Unknown,
        ];
        assert_eq!(kinds.map(|kind| kind.name()), LinkChange::NAMES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Tracker::new("eth0").take(&bytes);
        }
    }
}
