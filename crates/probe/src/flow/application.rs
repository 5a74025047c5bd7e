//! Application names where layer 7 has none: IP protocols and well-known ports.
//!
//! The names are the neutral ones of the protocol table in `wire`; a port is only ever a hint, marked as such by
//! `app_confidence=port`, and never overrules what the payload showed (design D12).

use wire::column::{Sink, Type, Value};

/// An application and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Application {
    /// Column `app`.
    pub name: &'static str,
    /// Column `category`.
    pub category: &'static str,
}

const fn application(name: &'static str, category: &'static str) -> Application {
    Application { name, category }
}

/// Column `app_confidence`: how the application was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppConfidence {
    /// By the payload, or by the IP protocol.
    Payload,
    /// By a handshake that more than one protocol begins with.
    Handshake,
    /// By the port.
    Port,
    /// Not at all.
    #[default]
    Unknown,
}

impl AppConfidence {
    /// The value of the column.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Handshake => "handshake",
            Self::Port => "port",
            Self::Unknown => "unknown",
        }
    }
}

impl Value for AppConfidence {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self.name());
    }
}

/// IP protocols that are themselves the application (IANA protocol numbers).
pub fn of_ip_protocol(ip_protocol: u8) -> Option<Application> {
    Some(match ip_protocol {
        1 => application("icmp", "network"),
        2 => application("igmp", "network"),
        4 | 41 | 94 => application("ipip", "tunnel"),
        8 => application("egp", "routing"),
        46 => application("rsvp", "routing"),
        47 => application("gre", "tunnel"),
        50 | 51 => application("ipsec", "vpn"),
        58 => application("icmp6", "network"),
        88 => application("eigrp", "routing"),
        89 => application("ospf", "routing"),
        103 => application("pim", "routing"),
        112 => application("vrrp", "routing"),
        113 => application("pgm", "network"),
        115 => application("l2tp", "tunnel"),
        132 => application("sctp", "network"),
        137 => application("mpls", "tunnel"),
        _ => return None,
    })
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Over which transports a port is assigned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    Udp,
    Both,
}

/// The application that IANA, or firm custom, assigns to a port; the responder's port is asked before the initiator's,
/// which is given only where the direction was guessed.
pub fn of_ports(ip_protocol: u8, responder: u16, initiator: Option<u16>) -> Option<Application> {
    [Some(responder), initiator]
        .into_iter()
        .flatten()
        .find_map(|port| {
            let found = NUMBERS.binary_search(&port).ok()?;
            let (_, over, application) = PORTS.get(found)?;
            let matches = match ip_protocol {
                TCP => *over != Over::Udp,
                UDP => *over != Over::Tcp,
                _ => false,
            };
            matches.then_some(*application)
        })
}

/// The ports of [`PORTS`] alone: a few cache lines to search in.
static NUMBERS: [u16; PORTS.len()] = {
    let mut numbers = [0; PORTS.len()];
    let mut place = 0;
    while place < numbers.len() {
        numbers[place] = PORTS[place].0;
        place += 1;
    }
    numbers
};

/// In the order of ports.
const PORTS: &[(u16, Over, Application)] = &[
    (21, Over::Tcp, application("ftp", "file_transfer")),
    (22, Over::Tcp, application("ssh", "remote_access")),
    (23, Over::Tcp, application("telnet", "remote_access")),
    (25, Over::Tcp, application("smtp", "mail")),
    (43, Over::Tcp, application("whois", "network")),
    (49, Over::Tcp, application("tacacs", "authentication")),
    (53, Over::Both, application("dns", "network")),
    (67, Over::Udp, application("dhcp", "network")),
    (68, Over::Udp, application("dhcp", "network")),
    (69, Over::Udp, application("tftp", "file_transfer")),
    (79, Over::Tcp, application("finger", "remote_access")),
    (80, Over::Tcp, application("http", "web")),
    (88, Over::Both, application("kerberos", "authentication")),
    (102, Over::Tcp, application("s7comm", "industrial")),
    (110, Over::Tcp, application("pop3", "mail")),
    (111, Over::Both, application("portmap", "rpc")),
    (119, Over::Tcp, application("nntp", "mail")),
    (123, Over::Udp, application("ntp", "network")),
    (135, Over::Tcp, application("dcerpc", "rpc")),
    (137, Over::Udp, application("netbios", "network")),
    (138, Over::Udp, application("netbios", "network")),
    (139, Over::Tcp, application("smb", "file_transfer")),
    (143, Over::Tcp, application("imap", "mail")),
    (161, Over::Udp, application("snmp", "management")),
    (162, Over::Udp, application("snmp", "management")),
    (179, Over::Tcp, application("bgp", "routing")),
    (194, Over::Tcp, application("irc", "messaging")),
    (319, Over::Udp, application("ptp", "network")),
    (320, Over::Udp, application("ptp", "network")),
    (389, Over::Both, application("ldap", "authentication")),
    (427, Over::Both, application("slp", "network")),
    (443, Over::Tcp, application("tls", "web")),
    (445, Over::Tcp, application("smb", "file_transfer")),
    (465, Over::Tcp, application("smtps", "mail")),
    (500, Over::Udp, application("ipsec", "vpn")),
    (502, Over::Tcp, application("modbus", "industrial")),
    (513, Over::Tcp, application("rlogin", "remote_access")),
    (514, Over::Udp, application("syslog", "management")),
    (515, Over::Tcp, application("lpd", "printing")),
    (520, Over::Udp, application("rip", "routing")),
    (546, Over::Udp, application("dhcpv6", "network")),
    (547, Over::Udp, application("dhcpv6", "network")),
    (554, Over::Tcp, application("rtsp", "media")),
    (587, Over::Tcp, application("smtp", "mail")),
    (623, Over::Udp, application("ipmi", "management")),
    (631, Over::Both, application("ipp", "printing")),
    (636, Over::Tcp, application("tls", "authentication")),
    (646, Over::Both, application("ldp", "routing")),
    (853, Over::Both, application("doh_dot", "network")),
    (873, Over::Tcp, application("rsync", "file_transfer")),
    (990, Over::Tcp, application("ftps", "file_transfer")),
    (993, Over::Tcp, application("imaps", "mail")),
    (995, Over::Tcp, application("pop3s", "mail")),
    (1080, Over::Tcp, application("socks", "proxy")),
    (1194, Over::Both, application("openvpn", "vpn")),
    (1433, Over::Tcp, application("tds", "database")),
    (1521, Over::Tcp, application("oracle", "database")),
    (1645, Over::Udp, application("radius", "authentication")),
    (1646, Over::Udp, application("radius", "authentication")),
    (1701, Over::Udp, application("l2tp", "tunnel")),
    (1723, Over::Tcp, application("pptp", "vpn")),
    (1812, Over::Udp, application("radius", "authentication")),
    (1813, Over::Udp, application("radius", "authentication")),
    (1883, Over::Tcp, application("mqtt", "iot")),
    (1900, Over::Udp, application("ssdp", "network")),
    (1935, Over::Tcp, application("rtmp", "media")),
    (1985, Over::Udp, application("hsrp", "routing")),
    (2049, Over::Both, application("nfs", "file_transfer")),
    (2055, Over::Udp, application("netflow", "management")),
    (2123, Over::Udp, application("gtp", "tunnel")),
    (2152, Over::Udp, application("gtp", "tunnel")),
    (2404, Over::Tcp, application("iec104", "industrial")),
    (3128, Over::Tcp, application("http", "proxy")),
    (3260, Over::Tcp, application("iscsi", "file_transfer")),
    (3306, Over::Tcp, application("mysql", "database")),
    (3389, Over::Both, application("rdp", "remote_access")),
    (3478, Over::Both, application("stun", "media")),
    (3702, Over::Udp, application("ws_discovery", "network")),
    (3784, Over::Udp, application("bfd", "routing")),
    (3868, Over::Both, application("diameter", "authentication")),
    (4500, Over::Udp, application("ipsec", "vpn")),
    (4739, Over::Both, application("netflow", "management")),
    (4789, Over::Udp, application("vxlan", "tunnel")),
    (5004, Over::Udp, application("rtp", "media")),
    (5060, Over::Both, application("sip", "media")),
    (5061, Over::Tcp, application("tls", "media")),
    (5222, Over::Tcp, application("xmpp", "messaging")),
    (5269, Over::Tcp, application("xmpp", "messaging")),
    (5353, Over::Udp, application("mdns", "network")),
    (5355, Over::Udp, application("llmnr", "network")),
    (5432, Over::Tcp, application("postgresql", "database")),
    (5671, Over::Tcp, application("amqp", "messaging")),
    (5672, Over::Tcp, application("amqp", "messaging")),
    (5683, Over::Udp, application("coap", "iot")),
    (5900, Over::Tcp, application("vnc", "remote_access")),
    (6081, Over::Udp, application("geneve", "tunnel")),
    (6343, Over::Udp, application("sflow", "management")),
    (6379, Over::Tcp, application("redis", "database")),
    (6653, Over::Tcp, application("openflow", "management")),
    (6667, Over::Tcp, application("irc", "messaging")),
    (8080, Over::Tcp, application("http", "web")),
    (8443, Over::Tcp, application("tls", "web")),
    (8883, Over::Tcp, application("mqtt", "iot")),
    (9042, Over::Tcp, application("cassandra", "database")),
    (9092, Over::Tcp, application("kafka", "messaging")),
    (11211, Over::Both, application("memcached", "database")),
    (20000, Over::Both, application("dnp3", "industrial")),
    (27017, Over::Tcp, application("mongodb", "database")),
    (44818, Over::Both, application("enip", "industrial")),
    (47808, Over::Udp, application("bacnet", "industrial")),
    (51820, Over::Udp, application("wireguard", "vpn")),
];

#[cfg(test)]
mod tests {
    use wire::l7::Protocol;

    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_ports() {
        assert!(PORTS.is_sorted_by(|(one, ..), (other, ..)| one < other));
    }

    #[test]
    fn names_that_layer_7_knows_have_its_category_on_their_first_port() {
        for protocol in Protocol::ALL {
            let Some((_, _, hint)) = PORTS.iter().find(|(.., hint)| hint.name == protocol.name()) else {
                continue;
            };
            assert_eq!(hint.category, protocol.category(), "{}", protocol.name());
        }
    }

    #[test]
    fn the_responders_port_comes_first_and_the_transport_counts() {
        let name = |protocol, responder, initiator| {
            of_ports(protocol, responder, initiator).map(|application| application.name)
        };
        assert_eq!(name(TCP, 22, Some(80)), Some("ssh"));
        assert_eq!(
            name(TCP, 40_000, Some(80)),
            Some("http"),
            "where the first packet came from the server"
        );
        assert_eq!(name(TCP, 40_000, None), None);
        assert_eq!(name(UDP, 22, Some(40_000)), None);
        assert_eq!(name(132, 80, Some(40_000)), None);
        assert_eq!(
            of_ip_protocol(50).map(|application| application.name),
            Some("ipsec")
        );
        assert_eq!(of_ip_protocol(UDP), None);
    }
}
