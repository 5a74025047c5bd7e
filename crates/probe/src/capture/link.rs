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
    /// It does not receive: it is down, or its carrier is gone.
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
    /// Not every message has it.
    mtu: Option<u32>,
    receives: bool,
}

/// A list of all interfaces that is on its way, and how it fits to what is known.
#[derive(Debug)]
struct List {
    sequence: u32,
    /// The known interface was in it, or was heard of since it began.
    present: bool,
    /// Another interface that has the name.
    namesake: Option<Known>,
}

/// Turns messages into changes of one interface.
#[derive(Debug)]
struct Tracker {
    interface: String,
    known: Option<Known>,
    was_known: bool,
    list: Option<List>,
    /// The list has to be asked for again.
    ask_again: bool,
}

/// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if.h`.
pub(super) mod netlink {
    pub(super) const HEADER: usize = 16;
    pub(super) const LINK_HEADER: usize = 16;
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    /// Something changed while the list was made: it may have a gap.
    pub(in crate::capture) const LIST_INTERRUPTED: u16 = 0x10;
    /// Of `ifinfomsg`. Messages of other families are about something of the interface: its place in a bridge, say.
    pub(super) const ANY_FAMILY: u8 = 0;
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

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
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

/// A message (`struct nlmsghdr`).
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) content: &'a [u8],
}

/// Takes a part of `length` bytes, padded to 4, and leaves out its header.
fn part<'a>(bytes: &mut &'a [u8], header: usize, length: usize) -> Option<&'a [u8]> {
    let content = bytes.get(header..length)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(content)
}

pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        Some(Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            content: part(&mut bytes, netlink::HEADER, length)?,
        })
    })
}

/// Attributes: number and content.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        Some((kind, part(&mut bytes, 4, usize::from(length))?))
    })
}

impl Tracker {
    fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            known: None,
            was_known: false,
            list: None,
            ask_again: false,
        }
    }

    /// A list was asked for under this number.
    fn asked(&mut self, sequence: u32) {
        self.ask_again = false;
        self.list = Some(List {
            sequence,
            present: false,
            namesake: None,
        });
    }

    fn receives(&self) -> Option<bool> {
        match &self.known {
            Some(known) => Some(known.receives),
            None => self.was_known.then_some(false),
        }
    }

    /// Takes what one receive gave.
    fn take(&mut self, bytes: &[u8]) -> Vec<LinkChange> {
        let mut changes = Vec::new();
        for message in messages(bytes) {
            let content = message.content;
            let listed = self
                .list
                .as_ref()
                .is_some_and(|list| list.sequence == message.sequence);
            if listed && message.flags & netlink::LIST_INTERRUPTED != 0 {
                self.ask_again = true;
            }
            match message.kind {
                netlink::DONE if listed => self.compare(&mut changes),
                netlink::ERROR if listed => {
                    // Of a list that was under way when this one was asked for, the end is missing.
                    let busy = u32_at(content, 0) == Some((-libc::EBUSY).cast_unsigned());
                    self.ask_again |= busy;
                    self.list = None;
                }
                netlink::NEW_LINK | netlink::DELETE_LINK if content.first() != Some(&netlink::ANY_FAMILY) => {
                }
                netlink::NEW_LINK => {
                    if let Some(now) = link(content) {
                        self.is(now, &mut changes);
                    }
                }
                netlink::DELETE_LINK => {
                    let index = u32_at(content, 4);
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

    /// A list has come to its end: an interface that is not in it is gone, though no message said so.
    fn compare(&mut self, changes: &mut Vec<LinkChange>) {
        let Some(list) = self.list.take() else { return };
        if self.ask_again || list.present || self.known.is_none() {
            return;
        }
        self.known = None;
        changes.push(LinkChange::Gone);
        if let Some(namesake) = list.namesake {
            self.is(namesake, changes);
        }
    }

    fn is(&mut self, mut now: Known, changes: &mut Vec<LinkChange>) {
        match &self.known {
            Some(before) if before.index == now.index => {
                now.mtu = now.mtu.or(before.mtu);
                if now.name.is_empty() {
                    now.name.clone_from(&before.name);
                }
                if before.name != now.name {
                    changes.push(LinkChange::Renamed { to: now.name.clone() });
                }
                if let (Some(from), Some(to)) = (before.mtu, now.mtu)
                    && from != to
                {
                    changes.push(LinkChange::Mtu { from, to });
                }
                if before.receives != now.receives {
                    changes.push(if now.receives {
                        LinkChange::Up
                    } else {
                        LinkChange::Down
                    });
                }
            }
            Some(_) => {
                if let Some(list) = &mut self.list
                    && now.name == self.interface
                {
                    list.namesake = Some(now);
                }
                return;
            }
            None if now.name != self.interface => return,
            None => {
                if self.was_known {
                    changes.push(LinkChange::Back);
                }
                if !now.receives {
                    changes.push(LinkChange::Down);
                }
            }
        }
        self.was_known = true;
        self.known = Some(now);
        if let Some(list) = &mut self.list {
            list.present = true;
        }
    }
}

/// An interface as a message describes it.
fn link(message: &[u8]) -> Option<Known> {
    let mut known = Known {
        index: u32_at(message, 4)?,
        name: String::new(),
        mtu: None,
        receives: u32_at(message, 8)? & netlink::RECEIVES == netlink::RECEIVES,
    };
    for (kind, content) in attributes(message.get(netlink::LINK_HEADER..)?) {
        match kind {
            netlink::NAME => {
                let end = content
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(content.len());
                known.name = String::from_utf8_lossy(content.get(..end)?).into_owned();
            }
            netlink::MTU => known.mtu = u32_at(content, 0),
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
    /// Of the latest request.
    sequence: u32,
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
        let mut watch = Self {
            socket,
            tracker: Tracker::new(interface),
            buffer: vec![0; 64 * 1024],
            sequence: 0,
        };
        watch.ask()?;
        Ok(watch)
    }

    /// Asks for the state of all interfaces.
    fn ask(&mut self) -> io::Result<()> {
        // Messages that nobody asked for have 0.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.tracker.asked(self.sequence);
        let mut request = Vec::with_capacity(netlink::HEADER + netlink::LINK_HEADER);
        request.extend(((netlink::HEADER + netlink::LINK_HEADER) as u32).to_ne_bytes());
        request.extend(netlink::GET_LINK.to_ne_bytes());
        request.extend(netlink::REQUEST_DUMP.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4 + netlink::LINK_HEADER]);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        Ok(())
    }

    /// Whether the interface is there and receives; none as long as nothing was heard of it.
    pub fn receives(&self) -> Option<bool> {
        self.tracker.receives()
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
                Err(Errno::EAGAIN) => {
                    // A list that was under way has come to its end by now.
                    if self.tracker.ask_again {
                        self.ask()?;
                    }
                    return Ok(changes);
                }
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
    fn tells_that_its_interface_is_down_when_it_sees_it_first() {
        let down = message(netlink::NEW_LINK, 2, 0x01, "eth0", 1500);
        let mut tracker = Tracker::new("eth0");
        assert_eq!(tracker.take(&down), [LinkChange::Down]);
        assert_eq!(tracker.take(&down), []);
        tracker.take(&message(netlink::DELETE_LINK, 2, 0x01, "eth0", 1500));
        assert_eq!(tracker.take(&down), [LinkChange::Back, LinkChange::Down]);
    }

    #[test]
    fn tells_every_change_of_its_interface_and_of_no_other() {
        let mut tracker = Tracker::new("eth0");
        let new = |index, flags, name, mtu| message(netlink::NEW_LINK, index, flags, name, mtu);
        assert_eq!(tracker.receives(), None);
        assert_eq!(tracker.take(&new(2, 0x41, "eth0", 1500)), []);
        assert_eq!(tracker.receives(), Some(true));
        assert_eq!(tracker.take(&new(3, 0x01, "eth1", 9000)), []);
        assert_eq!(tracker.take(&new(2, 0x01, "eth0", 1500)), [LinkChange::Down]);
        assert_eq!(tracker.receives(), Some(false));
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
        assert_eq!(tracker.receives(), Some(false));
        assert_eq!(tracker.take(&new(9, 0x41, "lan", 1500)), []);
        // It comes back up at once: what is up now is not the difference of `down` and `up`.
        assert_eq!(tracker.take(&new(10, 0x41, "eth0", 1500)), [LinkChange::Back]);
        assert_eq!(tracker.receives(), Some(true));
    }

    /// The message as part of a list.
    fn listed(mut message: Vec<u8>, sequence: u32, flags: u16) -> Vec<u8> {
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message
    }

    /// A message of a list's end (its status), or of an error.
    fn end(kind: u16, sequence: u32, status: i32) -> Vec<u8> {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(status.to_ne_bytes());
        listed(bytes, sequence, 2)
    }

    fn eth0(index: u32) -> Vec<u8> {
        message(netlink::NEW_LINK, index, 0x41, "eth0", 1500)
    }

    #[test]
    fn what_happens_to_a_port_of_a_bridge_is_no_change_of_the_interface() {
        const BRIDGE: u8 = 7;
        let mut tracker = Tracker::new("eth0");
        assert_eq!(tracker.take(&eth0(2)), []);
        for kind in [netlink::NEW_LINK, netlink::DELETE_LINK] {
            let mut of_bridge = message(kind, 2, 0x01, "eth0", 9000);
            of_bridge[netlink::HEADER] = BRIDGE;
            assert_eq!(tracker.take(&of_bridge), []);
        }
        // It is still known.
        let down = message(netlink::NEW_LINK, 2, 0x01, "eth0", 1500);
        assert_eq!(tracker.take(&down), [LinkChange::Down]);
    }

    #[test]
    fn a_message_without_a_value_keeps_the_value() {
        let mut tracker = Tracker::new("eth0");
        tracker.take(&eth0(2));
        let mut bare = message(netlink::NEW_LINK, 2, 0x01, "eth0", 0);
        // Without attributes: only flags are told.
        bare.truncate(netlink::HEADER + netlink::LINK_HEADER);
        let length = bare.len() as u32;
        bare[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(tracker.take(&bare), [LinkChange::Down]);
        let larger = message(netlink::NEW_LINK, 2, 0x01, "eth0", 9000);
        assert_eq!(tracker.take(&larger), [LinkChange::Mtu { from: 1500, to: 9000 }]);
    }

    #[test]
    fn an_interface_that_a_whole_list_lacks_is_gone() {
        let other = message(netlink::NEW_LINK, 1, 0x41, "lo", 65_536);
        let known = || {
            let mut tracker = Tracker::new("eth0");
            tracker.take(&eth0(2));
            tracker.asked(7);
            tracker
        };
        let mut tracker = known();
        assert_eq!(tracker.take(&listed(eth0(2), 7, 2)), []);
        assert_eq!(tracker.take(&end(netlink::DONE, 7, 0)), [], "it is in the list");
        let mut tracker = known();
        assert_eq!(tracker.take(&listed(other.clone(), 7, 2)), []);
        assert_eq!(
            tracker.take(&end(netlink::DONE, 6, 0)),
            [],
            "the end of another list"
        );
        assert_eq!(tracker.take(&end(netlink::DONE, 7, 0)), [LinkChange::Gone]);
        assert_eq!(tracker.take(&eth0(3)), [LinkChange::Back]);
        let mut tracker = known();
        assert_eq!(tracker.take(&listed(eth0(3), 7, 2)), []);
        assert_eq!(
            tracker.take(&end(netlink::DONE, 7, 0)),
            [LinkChange::Gone, LinkChange::Back],
            "made anew in the meantime"
        );
        // Made anew while the list was on its way.
        let mut tracker = known();
        tracker.take(&message(netlink::DELETE_LINK, 2, 0, "eth0", 0));
        tracker.take(&eth0(3));
        assert_eq!(tracker.take(&end(netlink::DONE, 7, 0)), []);
    }

    #[test]
    fn a_list_with_gaps_says_nothing_and_is_asked_for_again() {
        let mut tracker = Tracker::new("eth0");
        tracker.take(&eth0(2));
        tracker.asked(1);
        let lo = message(netlink::NEW_LINK, 1, 0x41, "lo", 65_536);
        tracker.take(&listed(lo, 1, 2 | netlink::LIST_INTERRUPTED));
        assert_eq!(tracker.take(&end(netlink::DONE, 1, 0)), []);
        assert!(tracker.ask_again);
        tracker.asked(2);
        assert_eq!(tracker.take(&end(netlink::ERROR, 2, -libc::EBUSY)), []);
        assert!(tracker.ask_again);
        tracker.asked(3);
        assert_eq!(tracker.take(&end(netlink::ERROR, 3, -libc::EPERM)), []);
        assert!(!tracker.ask_again, "this does not become better");
        tracker.asked(4);
        assert_eq!(tracker.take(&end(netlink::DONE, 4, 0)), [LinkChange::Gone]);
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
