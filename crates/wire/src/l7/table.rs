//! The table of protocols: each is declared once, here.
//!
//! A row gives the name, the category, the transports, the ports that make it an early candidate, the function that
//! recognises its first bytes, the dissector, and the columns of its record. From the rows come the enum, static
//! dispatch (no `dyn`, one box a flow), the order of candidates and the order of the structs in a batch.

use super::{Confidence, Context, Crypto, Dissect, Hint, Input, Outcome, Verdict};
use super::{adb, dns, http1, http2, ldap, lines, mysql, postgresql, quic, socks, ssh, tls, xmpp};
use crate::column::{Column, Sink};

/// Which transports a protocol runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transports {
    Stream,
    Datagram,
    Both,
}

impl Transports {
    const fn include(self, stream: bool) -> bool {
        match self {
            Self::Stream => stream,
            Self::Datagram => !stream,
            Self::Both => true,
        }
    }
}

macro_rules! protocols {
    ($($(#[doc = $doc:literal])+ $variant:ident {
        name: $name:literal,
        category: $category:literal,
        transports: $transports:ident,
        ports: [$($port:literal),*],
        identify: $identify:path,
        dissector: $dissector:ty,
        columns: $columns:expr,
    })+) => {
        /// A protocol of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Protocol { $($(#[doc = $doc])+ $variant,)+ }

        impl Protocol {
            /// Every protocol in table order, which is also the order of the protocol structs in a batch.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The neutral lower-case name: value of `app`, name of the struct column and of the Core's table.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The group of applications it belongs to (column `category`).
            pub const fn category(self) -> &'static str {
                match self { $(Self::$variant => $category,)+ }
            }

            /// What it is, for the generated reference.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }

            /// The ports that make it an early candidate; they never decide.
            pub const fn ports(self) -> &'static [u16] {
                match self { $(Self::$variant => &[$($port,)*],)+ }
            }

            /// The members of its record struct; empty where it shares another protocol's struct (mDNS and LLMNR fill
            /// that of DNS, SSDP that of HTTP), and then there is no struct column of its name.
            pub const fn columns(self) -> &'static [Column] {
                match self { $(Self::$variant => $columns,)+ }
            }

            /// Whether it may come over streams, or over datagrams.
            pub(super) const fn comes_over(self, stream: bool) -> bool {
                match self { $(Self::$variant => Transports::$transports,)+ }.include(stream)
            }

            fn identify(self, bytes: &[u8], hint: Hint) -> Verdict {
                match self { $(Self::$variant => $identify(bytes, hint),)+ }
            }
        }

        /// The dissector of an identified flow.
        #[derive(Clone, Debug)]
        pub(super) enum Dissector { $($variant(Box<$dissector>),)+ }

        impl Dissector {
            pub(super) fn new(protocol: Protocol) -> Self {
                match protocol { $(Protocol::$variant => Self::$variant(Box::default()),)+ }
            }

            pub(super) fn protocol(&self) -> Protocol {
                match self { $(Self::$variant(_) => Protocol::$variant,)+ }
            }
        }

        impl Dissect for Dissector {
            fn feed(&mut self, input: Input<'_>, context: &Context, crypto: &dyn Crypto) -> Outcome {
                match self { $(Self::$variant(inner) => inner.feed(input, context, crypto),)+ }
            }
            fn missed_start(&mut self, side: usize) {
                match self { $(Self::$variant(inner) => inner.missed_start(side),)+ }
            }
            fn confidence(&self) -> Confidence {
                match self { $(Self::$variant(inner) => inner.confidence(),)+ }
            }
            fn server_name(&self) -> Option<&str> {
                match self { $(Self::$variant(inner) => inner.server_name(),)+ }
            }
            fn emit<S: Sink>(&self, protocol: Protocol, sink: &mut S) -> bool {
                match self { $(Self::$variant(inner) => inner.emit(protocol, sink),)+ }
            }
            fn release(&mut self) {
                match self { $(Self::$variant(inner) => inner.release(),)+ }
            }
            fn kept_bytes(&self) -> usize {
                match self {
                    $(Self::$variant(inner) => size_of::<$dissector>().saturating_add(inner.kept_bytes()),)+
                }
            }
            fn handed_over(&self, side: usize) -> bool {
                match self { $(Self::$variant(inner) => inner.handed_over(side),)+ }
            }
        }

        impl Dissector {
            pub(super) fn show_to(&self, visitor: &mut impl super::Visitor) {
                match self { $(Self::$variant(inner) => visitor.visit(&**inner),)+ }
            }
        }
    };
}

protocols! {
    /// Transport Layer Security and SSL over TCP.
    Tls {
        name: "tls",
        category: "web",
        transports: Stream,
        ports: [443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 5061, 8443],
        identify: tls::identify,
        dissector: tls::Tls,
        columns: tls::Record::COLUMNS,
    }
    /// Datagram Transport Layer Security; its handshake is in the struct `tls`.
    Dtls {
        name: "dtls",
        category: "web",
        transports: Datagram,
        ports: [443, 853, 4433, 5061, 5349, 5684],
        identify: tls::identify_datagram,
        dissector: tls::Dtls,
        columns: &[],
    }
    /// QUIC; the TLS hellos inside are in the struct `tls`.
    Quic {
        name: "quic",
        category: "web",
        transports: Datagram,
        ports: [443, 853, 8443],
        identify: quic::identify,
        dissector: quic::Quic,
        columns: quic::Record::COLUMNS,
    }
    /// HTTP/2 in the clear; its transactions are in the struct `http`.
    Http2 {
        name: "http2",
        category: "web",
        transports: Stream,
        ports: [80, 8080, 50051],
        identify: http2::identify,
        dissector: http2::Http2,
        columns: &[],
    }
    /// HTTP/1.0 and HTTP/1.1.
    Http {
        name: "http",
        category: "web",
        transports: Stream,
        ports: [80, 591, 3128, 8000, 8008, 8080, 8888],
        identify: http1::identify,
        dissector: http1::Http,
        columns: http1::Record::COLUMNS,
    }
    /// Simple Service Discovery Protocol (`UPnP` Device Architecture §1): HTTP messages in datagrams; they are in the struct `http`.
    Ssdp {
        name: "ssdp",
        category: "network",
        transports: Datagram,
        ports: [1900],
        identify: http1::identify_datagram,
        dissector: http1::Http,
        columns: &[],
    }
    /// The Domain Name System over UDP and TCP.
    Dns {
        name: "dns",
        category: "network",
        transports: Both,
        ports: [53],
        identify: dns::identify,
        dissector: dns::Dns,
        columns: dns::Record::COLUMNS,
    }
    /// Multicast DNS (RFC 6762); its messages are in the struct `dns`.
    Mdns {
        name: "mdns",
        category: "network",
        transports: Datagram,
        ports: [5353],
        identify: dns::identify_by_port,
        dissector: dns::Dns,
        columns: &[],
    }
    /// Link-Local Multicast Name Resolution (RFC 4795); its messages are in the struct `dns`.
    Llmnr {
        name: "llmnr",
        category: "network",
        transports: Both,
        ports: [5355],
        identify: dns::identify_by_port,
        dissector: dns::Dns,
        columns: &[],
    }
    /// NetBIOS name service (RFC 1002); its messages are in the struct `dns`.
    Netbios {
        name: "netbios",
        category: "network",
        transports: Datagram,
        ports: [137],
        identify: dns::identify_netbios,
        dissector: dns::Dns,
        columns: &[],
    }
    /// Secure Shell.
    Ssh {
        name: "ssh",
        category: "remote_access",
        transports: Stream,
        ports: [22, 2222],
        identify: ssh::identify,
        dissector: ssh::Ssh,
        columns: ssh::Record::COLUMNS,
    }
    /// Simple Mail Transfer Protocol.
    Smtp {
        name: "smtp",
        category: "mail",
        transports: Stream,
        ports: [25, 587, 2525],
        identify: lines::identify_smtp,
        dissector: lines::Lines<lines::Smtp>,
        columns: lines::Record::COLUMNS,
    }
    /// Internet Message Access Protocol.
    Imap {
        name: "imap",
        category: "mail",
        transports: Stream,
        ports: [143],
        identify: lines::identify_imap,
        dissector: lines::Lines<lines::Imap>,
        columns: lines::Record::COLUMNS,
    }
    /// Post Office Protocol, version 3.
    Pop3 {
        name: "pop3",
        category: "mail",
        transports: Stream,
        ports: [110],
        identify: lines::identify_pop3,
        dissector: lines::Lines<lines::Pop3>,
        columns: lines::Record::COLUMNS,
    }
    /// File Transfer Protocol: the control connection.
    Ftp {
        name: "ftp",
        category: "file_transfer",
        transports: Stream,
        ports: [21],
        identify: lines::identify_ftp,
        dissector: lines::Lines<lines::Ftp>,
        columns: lines::Record::COLUMNS,
    }
    /// Extensible Messaging and Presence Protocol.
    Xmpp {
        name: "xmpp",
        category: "messaging",
        transports: Stream,
        ports: [5222, 5269],
        identify: xmpp::identify,
        dissector: xmpp::Xmpp,
        columns: xmpp::Record::COLUMNS,
    }
    /// Lightweight Directory Access Protocol.
    Ldap {
        name: "ldap",
        category: "authentication",
        transports: Both,
        ports: [389, 3268],
        identify: ldap::identify,
        dissector: ldap::Ldap,
        columns: ldap::Record::COLUMNS,
    }
    /// PostgreSQL.
    Postgresql {
        name: "postgresql",
        category: "database",
        transports: Stream,
        ports: [5432],
        identify: postgresql::identify,
        dissector: postgresql::Postgresql,
        columns: postgresql::Record::COLUMNS,
    }
    /// MySQL and MariaDB.
    Mysql {
        name: "mysql",
        category: "database",
        transports: Stream,
        ports: [3306],
        identify: mysql::identify,
        dissector: mysql::Mysql,
        columns: mysql::Record::COLUMNS,
    }
    /// SOCKS 4, 4a and 5.
    Socks {
        name: "socks",
        category: "proxy",
        transports: Stream,
        ports: [1080, 1081, 9050, 9150],
        identify: socks::identify,
        dissector: socks::Socks,
        columns: socks::Record::COLUMNS,
    }
    /// Android debug bridge.
    Adb {
        name: "adb",
        category: "remote_access",
        transports: Stream,
        ports: [5555],
        identify: adb::identify,
        dissector: adb::Adb,
        columns: adb::Record::COLUMNS,
    }
}

/// A set of protocols: a bit for each, in table order.
type Set = u32;

/// The protocols over streams, or over datagrams.
const fn over(stream: bool) -> Set {
    let (mut set, mut rest): (Set, _) = (0, Protocol::ALL);
    while let [first, behind @ ..] = rest {
        if first.comes_over(stream) {
            set |= 1 << (*first as u32);
        }
        rest = behind;
    }
    set
}

/// Pairs of a port and a protocol in the table.
const HINTS: usize = {
    let (mut count, mut rest) = (0_usize, Protocol::ALL);
    while let [first, behind @ ..] = rest {
        count = count.saturating_add(first.ports().len());
        rest = behind;
    }
    count
};

/// Every port with the set of the protocols that it hints at, in the order of ports. A port of several protocols stands
/// there as often; each time with all of them.
const PORTS: [(u16, Set); HINTS] = sorted_ports();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated when it is compiled"
)]
const fn sorted_ports() -> [(u16, Set); HINTS] {
    let mut sorted = [(0, 0); HINTS];
    let (mut filled, mut protocol) = (0, 0);
    while protocol < Protocol::ALL.len() {
        let ports = Protocol::ALL[protocol].ports();
        let mut port = 0;
        while port < ports.len() {
            let mut place = filled;
            while place > 0 && sorted[place - 1].0 > ports[port] {
                sorted[place] = sorted[place - 1];
                place -= 1;
            }
            sorted[place] = (ports[port], 1 << protocol);
            filled += 1;
            port += 1;
        }
        protocol += 1;
    }
    let mut one = 0;
    while one < HINTS {
        let mut other = 0;
        while other < HINTS {
            if sorted[one].0 == sorted[other].0 {
                sorted[one].1 |= sorted[other].1;
            }
            other += 1;
        }
        one += 1;
    }
    sorted
}

/// The protocols that a port hints at.
fn hinted_by(port: u16) -> Set {
    PORTS
        .binary_search_by_key(&port, |(port, _)| *port)
        .ok()
        .and_then(|place| PORTS.get(place))
        .map_or(0, |(_, set)| *set)
}

impl Protocol {
    /// The protocol of a direction's first bytes: candidates whose port matches come first, then the others, each in
    /// table order. The first that is not `No` decides, so that the answer does not depend on how many bytes came at once.
    pub(super) fn find(bytes: &[u8], context: &Context) -> (Verdict, Option<Self>) {
        const OVER: [Set; 2] = [over(false), over(true)];
        let [datagram, stream] = OVER;
        let possible = if context.stream { stream } else { datagram };
        let hinted = hinted_by(context.src_port) | hinted_by(context.dst_port);
        let hint = |port| Hint {
            port,
            stream: context.stream,
            direction: context.direction,
        };
        for (port, candidates) in [(true, possible & hinted), (false, possible & !hinted)] {
            let hint = hint(port);
            let mut left = candidates;
            while let Some(&protocol) = Self::ALL.get(left.trailing_zeros() as usize) {
                left &= left.wrapping_sub(1);
                match protocol.identify(bytes, hint) {
                    Verdict::Yes => return (Verdict::Yes, Some(protocol)),
                    Verdict::More if context.stream => return (Verdict::More, None),
                    Verdict::More | Verdict::No => {}
                }
            }
        }
        // Last, so that the text that may stand before an SSH server's own line keeps no other protocol waiting.
        if context.stream && hinted & (1 << (Self::Ssh as u32)) != 0 {
            let verdict = ssh::identify_behind_lines(bytes, hint(true));
            return (verdict, (verdict == Verdict::Yes).then_some(Self::Ssh));
        }
        (Verdict::No, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_transports_hint_at_the_protocols_that_declare_them() {
        for (place, protocol) in Protocol::ALL.iter().enumerate() {
            assert_eq!(*protocol as usize, place);
            for stream in [false, true] {
                let included = over(stream) & (1 << place) != 0;
                assert_eq!(included, protocol.comes_over(stream));
            }
        }
        for port in 0..=u16::MAX {
            let declared = Protocol::ALL
                .iter()
                .filter(|protocol| protocol.ports().contains(&port))
                .fold(0, |set, protocol| set | 1 << (*protocol as u32));
            assert_eq!(hinted_by(port), declared, "{port}");
        }
    }
}
