//! What `AF_PACKET` says of an interface.

use std::fs;
use std::io;

use wire::decode::LinkType;

use super::ring::{self, PacketSocket};
use super::this_program;
use crate::capture::CaptureError;
use crate::capture::ebpf::steering::Link;

/// How an interface's frames start: the link type, and whether the kernel must leave the link layer out because no
/// link type describes it.
pub(super) fn link_of(hardware: u16) -> (LinkType, bool) {
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => (LinkType::ETHERNET, false),
        libc::ARPHRD_IEEE80211 => (LinkType::IEEE802_11, false),
        libc::ARPHRD_IEEE80211_PRISM => (LinkType::IEEE802_11_PRISM, false),
        libc::ARPHRD_IEEE80211_RADIOTAP => (LinkType::IEEE802_11_RADIOTAP, false),
        _ => (LinkType::RAW, true),
    }
}

/// What the kernel says of the hardware type of an interface that is being removed; `ARPHRD_NETROM` too.
pub(super) const UNKNOWN_HARDWARE: u16 = 0;

/// A socket for an interface, not yet receiving, with the interface's index and hardware type.
pub(super) fn probe(interface: &str) -> Result<(PacketSocket, libc::c_int, u16), CaptureError> {
    let failed = |action: &'static str| {
        move |source: io::Error| CaptureError::Ring {
            interface: interface.to_owned(),
            action,
            source,
        }
    };
    let is_not_there = || CaptureError::NoSuchInterface {
        interface: interface.to_owned(),
        available: interfaces().unwrap_or_else(|error| format!("(not known: {error})")),
    };
    let index = ring::interface_index(interface).ok_or_else(is_not_there)?;
    let socket = PacketSocket::open(false).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => CaptureError::CapturePermission {
            interface: interface.to_owned(),
            program: this_program(),
        },
        _ => failed("opening a packet socket")(error),
    })?;
    socket
        .bind(index, 0)
        .map_err(failed("looking at the interface"))?;
    let (_, hardware) = socket.bound_to().map_err(failed("looking at the interface"))?;
    if hardware == UNKNOWN_HARDWARE && ring::interface_index(interface) != Some(index) {
        return Err(is_not_there());
    }
    Ok((socket, index, hardware))
}

/// Holds an interface in promiscuous mode; it takes no frame.
pub(in crate::capture) struct Promiscuity {
    _socket: PacketSocket,
}

impl Promiscuity {
    /// From now on, until it is dropped.
    pub(in crate::capture) fn new(interface: &str) -> io::Result<Self> {
        let index = ring::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
        let socket = PacketSocket::open(false)?;
        socket.join_promiscuous(index)?;
        Ok(Self { _socket: socket })
    }
}

/// The names of all interfaces, for a message.
pub(in crate::capture) fn interfaces() -> io::Result<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    Ok(names.join(", "))
}

/// The link type with which an interface's frames come: what a filter must be compiled for.
pub fn link_type(interface: &str) -> Result<LinkType, CaptureError> {
    let (_, _, hardware) = probe(interface)?;
    Ok(link_of(hardware).0)
}

/// `ARPHRD_RAWIP` and `ARPHRD_IP6GRE` (`linux/if_arp.h`).
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// How the steering program reads frames of an interface; `None` where it cannot. It sees them before the kernel leaves
/// the link layer out, and a frame that is sent begins with it: only where there is none do both directions meet.
pub(super) fn steering_link(hardware: u16) -> Option<Link> {
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Link::Ethernet),
        libc::ARPHRD_NONE
        | ARPHRD_RAWIP
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE => Some(Link::Ip),
        _ => None,
    }
}
