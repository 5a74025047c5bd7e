//! What ties an interface to its host: AF_XDP takes every frame away, so that the host must have no use for them (design
//! D13).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::capture::link::netlink::LIST_INTERRUPTED;
use crate::capture::link::{attributes, messages, u32_at};

/// How often a list is asked for that changes while it is made, before that is an error.
const ATTEMPTS: u32 = 20;

/// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`.
mod netlink {
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const GET_ADDRESS: u16 = 22;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const GET_ROUTE: u16 = 26;
    pub(super) const REQUEST_DUMP: u16 = 0x301;
    /// Sizes of `ifinfomsg`, `ifaddrmsg`, `rtmsg`.
    pub(super) const LINK_BYTES: usize = 16;
    pub(super) const ADDRESS_BYTES: usize = 8;
    pub(super) const ROUTE_BYTES: usize = 12;
    /// `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_LINK`, `IFLA_MASTER`.
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    /// `IFLA_LINKINFO`, and `IFLA_INFO_KIND` in it.
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const INFO_KIND: u16 = 1;
    /// `IFLA_LINK_NETNSID`: the index in `IFLA_LINK` is one of another network namespace.
    pub(super) const LINK_NAMESPACE: u16 = 37;
    /// Kinds of interfaces whose `IFLA_LINK` is the other end of a cable, and not what they stand on.
    pub(super) const CABLES: [&str; 2] = ["veth", "netkit"];
    /// `IFA_ADDRESS`, `IFA_LOCAL`.
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    /// `RTA_DST`, `RTA_OIF`, `RTA_MULTIPATH`.
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const OUT_INTERFACE: u16 = 4;
    pub(super) const MULTIPATH: u16 = 9;
    /// `RTN_UNICAST`: not one of those that an address brings with it.
    pub(super) const UNICAST: u8 = 1;
}

/// Why the host needs the frames of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// It is a port of a bridge, bond, or the like.
    Master,
    /// An interface of this name stands on it: a VLAN, a macvlan, or the like.
    Upper(String),
    /// It has an address.
    Address(IpAddr),
    /// The host sends by it.
    Route(IpAddr, u8),
}

impl fmt::Display for Tie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => formatter.write_str("a master (it is a port of a bridge, bond or the like)"),
            Self::Upper(name) => write!(
                formatter,
                "an interface on top of it ({name}: a VLAN, a macvlan or the like)"
            ),
            Self::Address(address) => write!(formatter, "an address ({address})"),
            Self::Route(destination, length) => write!(formatter, "a route ({destination}/{length})"),
        }
    }
}

/// What `AF_XDP` must know of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) mtu: u32,
    /// The first tie that was found.
    pub(super) tie: Option<Tie>,
}

/// An address as rtnetlink writes it.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|bytes| Ipv6Addr::from(bytes).into())
}

/// A text as rtnetlink writes it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Whether an address is one that every interface which is up has of itself: IPv6 link-local, or multicast.
fn is_of_itself(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

impl Host {
    /// Takes one message of a list.
    fn take(&mut self, interface: u32, kind: u16, content: &[u8]) {
        let find = |bytes: usize, wanted: u16| {
            attributes(content.get(bytes..).unwrap_or_default())
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, content)| content)
        };
        let number = |bytes, wanted| find(bytes, wanted).and_then(|content| u32_at(content, 0));
        let tie = match kind {
            netlink::NEW_LINK if u32_at(content, 4) == Some(interface) => {
                self.mtu = number(netlink::LINK_BYTES, netlink::MTU).unwrap_or(self.mtu);
                number(netlink::LINK_BYTES, netlink::MASTER).map(|_| Tie::Master)
            }
            netlink::NEW_LINK if number(netlink::LINK_BYTES, netlink::LINK) == Some(interface) => {
                let is_elsewhere = find(netlink::LINK_BYTES, netlink::LINK_NAMESPACE).is_some();
                let is_cable = find(netlink::LINK_BYTES, netlink::LINK_INFO)
                    .and_then(|info| attributes(info).find(|(kind, _)| *kind == netlink::INFO_KIND))
                    .is_some_and(|(_, kind)| netlink::CABLES.contains(&text(kind).as_str()));
                let name = find(netlink::LINK_BYTES, netlink::NAME).map(text);
                (!is_elsewhere && !is_cable).then(|| Tie::Upper(name.unwrap_or_default()))
            }
            netlink::NEW_ADDRESS if u32_at(content, 4) == Some(interface) => {
                find(netlink::ADDRESS_BYTES, netlink::LOCAL)
                    .or_else(|| find(netlink::ADDRESS_BYTES, netlink::ADDRESS))
                    .and_then(address)
                    .filter(|address| !is_of_itself(*address))
                    .map(Tie::Address)
            }
            netlink::NEW_ROUTE if content.get(7) == Some(&netlink::UNICAST) => {
                let single = number(netlink::ROUTE_BYTES, netlink::OUT_INTERFACE) == Some(interface);
                let among = find(netlink::ROUTE_BYTES, netlink::MULTIPATH)
                    .is_some_and(|hops| next_hops(hops).any(|hop| hop == interface));
                let is_ipv4 = content.first() == Some(&(libc::AF_INET as u8));
                let everything: IpAddr = if is_ipv4 {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                let destination = find(netlink::ROUTE_BYTES, netlink::DESTINATION)
                    .and_then(address)
                    .unwrap_or(everything);
                let length = content.get(1).copied().unwrap_or_default();
                ((single || among) && !is_of_itself(destination)).then_some(Tie::Route(destination, length))
            }
            _ => None,
        };
        self.tie = self.tie.take().or(tie);
    }
}

/// The interfaces of a route with several next hops (`struct rtnexthop`).
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let interface = u32_at(bytes, 4)?;
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?)).max(8);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(interface)
    })
}

/// Asks for a list and takes what is in it. False if something changed meanwhile, so that it may have a gap.
fn list(
    socket: &OwnedFd,
    sequence: u32,
    kind: u16,
    header: usize,
    take: &mut impl FnMut(u16, &[u8]),
) -> io::Result<bool> {
    let mut request = Vec::with_capacity(16 + header);
    request.extend((16 + header as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(netlink::REQUEST_DUMP.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request.resize(16 + header, 0);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; 64 * 1024];
    let mut is_whole = true;
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in messages(buffer.get(..length).unwrap_or_default()) {
            if message.sequence != sequence {
                continue;
            }
            is_whole &= message.flags & LIST_INTERRUPTED == 0;
            match message.kind {
                netlink::DONE => return Ok(is_whole),
                netlink::ERROR => {
                    let code = u32_at(message.content, 0).map_or(0, u32::cast_signed);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                kind => take(kind, message.content),
            }
        }
    }
}

/// Looks at an interface, in the network namespace of this thread.
pub(super) fn look(interface: u32) -> io::Result<Host> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut host = Host::default();
    let lists = [
        (netlink::GET_LINK, netlink::LINK_BYTES),
        (netlink::GET_ADDRESS, netlink::ADDRESS_BYTES),
        (netlink::GET_ROUTE, netlink::ROUTE_BYTES),
    ];
    let mut sequence = 0;
    for (kind, header) in lists {
        let mut attempts = 0..ATTEMPTS;
        host = loop {
            if attempts.next().is_none() {
                return Err(io::Error::other("the kernel's lists change all the time"));
            }
            sequence += 1;
            let mut with_list = host.clone();
            let is_whole = list(&socket, sequence, kind, header, &mut |kind, content| {
                with_list.take(interface, kind, content);
            })?;
            if is_whole {
                break with_list;
            }
        };
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + content.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        bytes.resize(16, 0);
        [bytes, attributes.concat()].concat()
    }

    fn address_of(index: u32, address: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        [bytes, attribute(netlink::ADDRESS, address)].concat()
    }

    fn route(family: libc::c_int, length: u8, kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![family as u8, length, 0, 0, 254, 3, 0, kind];
        bytes.resize(12, 0);
        [bytes, attributes.concat()].concat()
    }

    fn tie(kind: u16, content: &[u8]) -> Option<Tie> {
        let mut host = Host::default();
        host.take(7, kind, content);
        host.tie
    }

    #[test]
    fn a_master_an_address_and_a_route_tie_an_interface_to_its_host() {
        let own = attribute(netlink::MASTER, &9_u32.to_ne_bytes());
        assert_eq!(
            tie(netlink::NEW_LINK, &link(7, std::slice::from_ref(&own))),
            Some(Tie::Master)
        );
        assert_eq!(tie(netlink::NEW_LINK, &link(8, &[own])), None, "another's");
        let four = Tie::Address("192.0.2.1".parse().unwrap());
        assert_eq!(
            tie(netlink::NEW_ADDRESS, &address_of(7, &[192, 0, 2, 1])),
            Some(four)
        );
        assert_eq!(tie(netlink::NEW_ADDRESS, &address_of(8, &[192, 0, 2, 1])), None);
        let mut link_local = [0; 16];
        link_local[..2].copy_from_slice(&[0xfe, 0x80]);
        assert_eq!(tie(netlink::NEW_ADDRESS, &address_of(7, &link_local)), None);
        let by = |interface: u32| attribute(netlink::OUT_INTERFACE, &interface.to_ne_bytes());
        let to = attribute(netlink::DESTINATION, &[198, 51, 100, 0]);
        let unicast = |attributes: &[Vec<u8>]| route(libc::AF_INET, 24, netlink::UNICAST, attributes);
        let found = tie(netlink::NEW_ROUTE, &unicast(&[to.clone(), by(7)])).map(|tie| tie.to_string());
        assert_eq!(found.as_deref(), Some("a route (198.51.100.0/24)"));
        assert_eq!(tie(netlink::NEW_ROUTE, &unicast(&[to.clone(), by(8)])), None);
        // One of two next hops.
        let hop = |interface: u32| [&[8, 0, 0, 0][..], &interface.to_ne_bytes()].concat();
        let several = attribute(netlink::MULTIPATH, &[hop(3), hop(7)].concat());
        assert!(tie(netlink::NEW_ROUTE, &unicast(&[to, several])).is_some());
        let local = attribute(netlink::DESTINATION, &link_local);
        assert_eq!(
            tie(
                netlink::NEW_ROUTE,
                &route(libc::AF_INET6, 64, netlink::UNICAST, &[local, by(7)])
            ),
            None
        );
    }

    #[test]
    fn what_stands_on_an_interface_ties_it_to_its_host() {
        let on = |interface: u32| attribute(netlink::LINK, &interface.to_ne_bytes());
        let name = attribute(netlink::NAME, b"far.7\0");
        let of_kind = |kind: &[u8]| {
            attribute(
                netlink::LINK_INFO,
                &attribute(netlink::INFO_KIND, &[kind, &[0]].concat()),
            )
        };
        for kind in [&b"vlan"[..], b"macvlan", b"ipvlan", b"macsec"] {
            let upper = link(8, &[name.clone(), on(7), of_kind(kind)]);
            assert_eq!(
                tie(netlink::NEW_LINK, &upper),
                Some(Tie::Upper("far.7".to_owned()))
            );
        }
        // The kernel's own drivers (DSA ports) may have no kind.
        assert!(tie(netlink::NEW_LINK, &link(8, &[name.clone(), on(7)])).is_some());
        let others = [
            vec![name.clone(), on(6), of_kind(b"vlan")],
            vec![name.clone(), on(7), of_kind(b"veth")],
            vec![name.clone(), on(7), of_kind(b"netkit")],
            vec![
                name,
                on(7),
                of_kind(b"vlan"),
                attribute(netlink::LINK_NAMESPACE, &[0; 4]),
            ],
        ];
        for other in others {
            assert_eq!(tie(netlink::NEW_LINK, &link(8, &other)), None);
        }
    }

    #[test]
    fn the_mtu_is_told() {
        let mut host = Host::default();
        host.take(
            7,
            netlink::NEW_LINK,
            &link(7, &[attribute(netlink::MTU, &9000_u32.to_ne_bytes())]),
        );
        assert_eq!(host, Host { mtu: 9000, tie: None });
    }
}
