//! Tunnels: from an IP packet to the one inside it.
//!
//! A port number is only a hint, so that everything carried in UDP must look like its protocol in every bit that the
//! protocol fixes, and the packet inside must fit; else the outer packet is metered as what it is.

use crate::checksum;
use crate::link::{Announced, Header};
use crate::net::Network;

/// Generic routing encapsulation.
mod gre;
/// L2TP version 3.
mod l2tp;
/// Tunnels in UDP.
mod udp;

crate::malformed::reasons! {
    /// An encapsulation around an IP packet.
    Tunnel {
        /// IP in IP of any two versions (RFC 2003, 2473, 4213).
        IpInIp = "ipip",
        /// Generic routing encapsulation (RFC 2784, 2890).
        Gre = "gre",
        /// Network virtualization over GRE (RFC 7637).
        Nvgre = "nvgre",
        /// Enhanced GRE of PPTP (RFC 2637).
        Pptp = "pptp",
        /// Packets that a router redirects to a cache (draft-mclaggan-wccp-v2rev1).
        Wccp = "wccp",
        /// ERSPAN in GRE.
        Erspan = "erspan",
        /// VXLAN (RFC 7348) and VXLAN-GPE.
        Vxlan = "vxlan",
        /// Geneve (RFC 8926).
        Geneve = "geneve",
        /// GTP-U version 1 (3GPP TS 29.281) and version 0 (GSM 09.60).
        GtpU = "gtpu",
        /// Teredo (RFC 4380).
        Teredo = "teredo",
        /// L2TP version 2 (RFC 2661) and version 3 (RFC 3931).
        L2tp = "l2tp",
        /// Locator/ID separation (RFC 9300).
        Lisp = "lisp",
        /// CAPWAP data channel (RFC 5415).
        Capwap = "capwap",
        /// Tazmen Sniffer Protocol.
        Tzsp = "tzsp",
        /// Generic UDP encapsulation (draft-ietf-intarea-gue).
        Gue = "gue",
        /// Provider backbone bridge (IEEE 802.1ah).
        Pbb = "pbb",
        /// `PPPoE` session (RFC 2516).
        Pppoe = "pppoe",
        /// MPLS (RFC 3032), also in IP and UDP (RFC 4023, 7510).
        Mpls = "mpls",
        /// Ethernet in IP (RFC 3378, RFC 8986 §4.11, and in GRE).
        EtherIp = "etherip",
        /// PIM register message (RFC 7761 §4.9.3).
        PimRegister = "pim_register",
    }
}

impl Tunnel {
    /// Whether both directions carry the same identifier. TEIDs, L2TP sessions, PPTP call ids and MPLS labels are
    /// chosen by the receiver of each direction: they cannot be part of a bidirectional key.
    pub const fn has_symmetric_id(self) -> bool {
        !matches!(self, Self::GtpU | Self::L2tp | Self::Mpls | Self::Pptp)
    }
}

/// What is inside a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner<'a> {
    /// The encapsulation; `None` where its own header, which is read next, tells it (MPLS).
    pub(crate) tunnel: Option<Tunnel>,
    /// Its identifier.
    pub(crate) id: Option<u64>,
    /// The first header inside.
    pub(crate) header: Header,
    /// From the first header inside: a suffix of the outer packet's body.
    pub(crate) bytes: &'a [u8],
    /// What the packet inside must show to be believed.
    pub(crate) doubt: Doubt,
}

/// What the packet inside a tunnel must show to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing more: the IP protocol number announced the tunnel.
    None,
    /// Its length must fit into the outer packet: a port and a well-formed header announced the tunnel.
    Length,
    /// Its IPv4 header checksum must be right too: the tunnel's header is only half convincing.
    Checksum,
}

impl Doubt {
    /// Whether a packet with `room` bytes inside `outer` is to be believed.
    pub(crate) fn is_met(self, outer: &Network<'_>, inner: &Network<'_>, room: u32) -> bool {
        // Where the outer length is missing (segmentation offload), nothing can be compared.
        let fits = !outer.length_stated || (inner.length_stated && inner.length <= room);
        match self {
            Self::None => true,
            Self::Length => fits,
            Self::Checksum => fits && checksum::agrees(checksum::sum(inner.header)),
        }
    }
}

/// Whether a datagram between these ports may be a tunnel.
#[inline]
pub(crate) const fn is_udp_tunnel(source_port: u16, destination_port: u16) -> bool {
    udp::is_tunnel(source_port) || udp::is_tunnel(destination_port)
}

/// Looks into an IP packet. A fragment is never opened: its other fragments cannot be, and all must go one way.
#[inline]
pub(crate) fn open<'a>(outer: &Network<'a>) -> Option<Inner<'a>> {
    if outer.protocol == 6 || outer.fragment.is_some() || outer.chain_cut {
        return None;
    }
    match outer.protocol {
        17 => udp::udp(outer),
        // 4: IPv4, 41: IPv6, 94: the older IP within IP.
        4 | 41 | 94 => Some(plain(
            Some(Tunnel::IpInIp),
            Header::Ip(Announced::Either),
            outer.body,
        )),
        47 => gre::gre(outer.body).ok().flatten(),
        97 => {
            // RFC 3378 §3: version 3, the rest zero.
            let (header, bytes) = outer.body.split_first_chunk::<2>()?;
            (*header == [0x30, 0]).then(|| plain(Some(Tunnel::EtherIp), Header::Ethernet, bytes))
        }
        103 => {
            // PIM version 2, type 1; flags and reserved bits of 4 bytes.
            let (header, bytes) = outer.body.split_first_chunk::<8>()?;
            let [kind, ..] = *header;
            (kind == 0x21).then(|| plain(Some(Tunnel::PimRegister), Header::Ip(Announced::Either), bytes))
        }
        115 => l2tp::over_ip(outer.body),
        137 => Some(plain(None, Header::Mpls, outer.body)),
        143 => Some(plain(Some(Tunnel::EtherIp), Header::Ethernet, outer.body)),
        _ => None,
    }
}

fn plain(tunnel: Option<Tunnel>, header: Header, bytes: &[u8]) -> Inner<'_> {
    Inner {
        tunnel,
        id: None,
        header,
        bytes,
        doubt: Doubt::None,
    }
}
