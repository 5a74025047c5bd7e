//! The link types of capture files: which are read, and the names of those that are not.

/// A LINKTYPE number as in pcap and pcapng files (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkType(pub u32);

/// Declares the link types that are read, each with its LINKTYPE number and name, and the names of the others.
macro_rules! link_types {
    (
        $($(#[doc = $doc:literal])+ $constant:ident = $number:literal, $name:literal;)+
        unsupported: $($other:literal $other_name:literal,)+
    ) => {
        impl LinkType {
            $($(#[doc = $doc])+ pub const $constant: Self = Self($number);)+

            /// Every link type that is read.
            pub const SUPPORTED: &'static [Self] = &[$(Self::$constant,)+];

            /// Every link type that is registered and not read: it carries no IP, or none has been asked for.
            pub const UNSUPPORTED: &'static [Self] = &[$(Self($other),)+];

            /// Whether frames of this link type can be decoded.
            pub const fn is_supported(self) -> bool {
                matches!(self, $(Self::$constant)|+)
            }

            /// The registered name, without `LINKTYPE_`; `None` where the number is not registered.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($name),)+
                    $($other => Some($other_name),)+
                    _ => None,
                }
            }

            /// What a frame of this link type begins with; empty where it is not read.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$constant => concat!($($doc,)+),)+
                    _ => "",
                }
            }
        }
    };
}

impl std::fmt::Display for LinkType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(formatter, "LINKTYPE_{name} ({})", self.0),
            None => write!(formatter, "LINKTYPE {}", self.0),
        }
    }
}

link_types! {
    /// BSD loopback: the address family in the writer's byte order.
    NULL = 0, "NULL";
    /// Ethernet.
    ETHERNET = 1, "ETHERNET";
    /// IEEE 802.5 token ring.
    IEEE802_5 = 6, "IEEE802_5";
    /// ARCNET as in BSD.
    ARCNET_BSD = 7, "ARCNET_BSD";
    /// SLIP with a 16-byte header of the capturing library.
    SLIP = 8, "SLIP";
    /// PPP, with or without HDLC framing.
    PPP = 9, "PPP";
    /// FDDI.
    FDDI = 10, "FDDI";
    /// Raw IP, as some systems number it in files.
    DLT_RAW = 12, "RAW";
    /// Raw IP, as OpenBSD numbers it.
    DLT_RAW_OPENBSD = 14, "RAW";
    /// PPP in HDLC-like framing (RFC 1662), or Cisco HDLC.
    PPP_HDLC = 50, "PPP_HDLC";
    /// PPP over Ethernet, starting at its own header.
    PPP_ETHER = 51, "PPP_ETHER";
    /// ATM, LLC encapsulation (RFC 1483).
    ATM_RFC1483 = 100, "ATM_RFC1483";
    /// Raw IPv4 or IPv6.
    RAW = 101, "RAW";
    /// Cisco HDLC.
    C_HDLC = 104, "C_HDLC";
    /// IEEE 802.11.
    IEEE802_11 = 105, "IEEE802_11";
    /// Linux classical IP over ATM.
    ATM_CLIP = 106, "ATM_CLIP";
    /// Frame Relay.
    FRELAY = 107, "FRELAY";
    /// OpenBSD loopback: the address family in network order.
    LOOP = 108, "LOOP";
    /// OpenBSD encapsulated IP.
    ENC = 109, "ENC";
    /// Linux cooked capture.
    LINUX_SLL = 113, "LINUX_SLL";
    /// OpenBSD packet filter log.
    PFLOG = 117, "PFLOG";
    /// IEEE 802.11 behind a Prism header.
    IEEE802_11_PRISM = 119, "IEEE802_11_PRISM";
    /// IP over Fibre Channel (RFC 2625): the network header, then LLC.
    IP_OVER_FC = 122, "IP_OVER_FC";
    /// Solaris ATM: a header of 4 bytes, then LLC or an emulated LAN's frame.
    SUNATM = 123, "SUNATM";
    /// IEEE 802.11 behind a radiotap header.
    IEEE802_11_RADIOTAP = 127, "IEEE802_11_RADIOTAP";
    /// Tazmen Sniffer Protocol, then the frame that it names.
    TZSP = 128, "TZSP";
    /// ARCNET as in Linux.
    ARCNET_LINUX = 129, "ARCNET_LINUX";
    /// Apple IP over IEEE 1394: two addresses of 8 bytes, then an `EtherType`.
    APPLE_IP_OVER_IEEE1394 = 138, "APPLE_IP_OVER_IEEE1394";
    /// DOCSIS MAC frames: packet data units.
    DOCSIS = 143, "DOCSIS";
    /// IEEE 802.11 behind an AVS header.
    IEEE802_11_AVS = 163, "IEEE802_11_AVS";
    /// PPP whose address byte is a direction.
    PPP_PPPD = 166, "PPP_PPPD";
    /// Ethernet behind an Endace record header.
    ERF_ETH = 175, "ERF_ETH";
    /// PPP or Cisco HDLC behind an Endace record header.
    ERF_POS = 176, "ERF_POS";
    /// Ethernet behind Juniper's header.
    JUNIPER_ETHER = 178, "JUNIPER_ETHER";
    /// PPP behind Juniper's header.
    JUNIPER_PPP = 179, "JUNIPER_PPP";
    /// Frame Relay behind Juniper's header.
    JUNIPER_FRELAY = 180, "JUNIPER_FRELAY";
    /// Cisco HDLC behind Juniper's header.
    JUNIPER_CHDLC = 181, "JUNIPER_CHDLC";
    /// Per-packet information, then the link type that it names.
    PPI = 192, "PPI";
    /// An Endace record: Ethernet, PPP, Cisco HDLC or IP by its type.
    ERF = 197, "ERF";
    /// PPP behind a direction byte.
    PPP_WITH_DIR = 204, "PPP_WITH_DIR";
    /// Cisco HDLC behind a direction byte.
    C_HDLC_WITH_DIR = 205, "C_HDLC_WITH_DIR";
    /// Frame Relay behind a direction byte.
    FRELAY_WITH_DIR = 206, "FRELAY_WITH_DIR";
    /// MPLS, starting with a label.
    MPLS = 219, "MPLS";
    /// Solaris ipnet.
    IPNET = 226, "IPNET";
    /// Raw IPv4.
    IPV4 = 228, "IPV4";
    /// Raw IPv6.
    IPV6 = 229, "IPV6";
    /// Linux netfilter log.
    NFLOG = 239, "NFLOG";
    /// Ethernet behind netANALYZER's header of 4 bytes.
    NETANALYZER = 240, "NETANALYZER";
    /// Ethernet behind netANALYZER's header of 4 bytes, a preamble and the start of frame delimiter.
    NETANALYZER_TRANSPARENT = 241, "NETANALYZER_TRANSPARENT";
    /// IP over InfiniBand behind its routing header or what stands for it (RFC 4391).
    IPOIB = 242, "IPOIB";
    /// Apple's packet metadata, then the link type that it names.
    PKTAP = 258, "PKTAP";
    /// IEEE 802.3br mPackets: the whole frames among them.
    ETHERNET_MPACKET = 274, "ETHERNET_MPACKET";
    /// Linux cooked capture, version 2.
    LINUX_SLL2 = 276, "LINUX_SLL2";
    /// Ethernet with a Broadcom switch tag behind the addresses.
    DSA_TAG_BRCM = 281, "DSA_TAG_BRCM";
    /// Ethernet behind a Broadcom switch tag.
    DSA_TAG_BRCM_PREPEND = 282, "DSA_TAG_BRCM_PREPEND";
    /// Ethernet with a Marvell switch tag behind the addresses.
    DSA_TAG_DSA = 284, "DSA_TAG_DSA";
    /// Ethernet with a Marvell switch tag behind its own `EtherType`.
    DSA_TAG_EDSA = 285, "DSA_TAG_EDSA";

    unsupported:
    2 "EXP_ETHERNET", 3 "AX25", 4 "PRONET", 5 "CHAOS",
    99 "SYMANTEC_FIREWALL", 102 "SLIP_BSDOS", 103 "PPP_BSDOS", 110 "LANE8023", 111 "HIPPI", 112 "HDLC",
    114 "LTALK", 115 "ECONET", 116 "IPFILTER", 118 "CISCO_IOS", 120 "IEEE802_11_AIRONET", 121 "HHDLC",
    124 "RIO", 125 "PCI_EXP", 126 "AURORA",
    130 "JUNIPER_MLPPP", 131 "JUNIPER_MLFR", 132 "JUNIPER_ES", 133 "JUNIPER_GGSN", 134 "JUNIPER_MFR",
    135 "JUNIPER_ATM2", 136 "JUNIPER_SERVICES", 137 "JUNIPER_ATM1",
    139 "MTP2_WITH_PHDR", 140 "MTP2", 141 "MTP3", 142 "SCCP", 144 "LINUX_IRDA", 145 "IBM_SP", 146 "IBM_SN",
    147 "USER0", 148 "USER1", 149 "USER2", 150 "USER3", 151 "USER4", 152 "USER5", 153 "USER6", 154 "USER7",
    155 "USER8", 156 "USER9", 157 "USER10", 158 "USER11", 159 "USER12", 160 "USER13", 161 "USER14", 162 "USER15",
    164 "JUNIPER_MONITOR", 165 "BACNET_MS_TP", 167 "JUNIPER_PPPOE", 168 "JUNIPER_PPPOE_ATM", 169 "GPRS_LLC",
    170 "GPF_T", 171 "GPF_F", 172 "GCOM_T1E1", 173 "GCOM_SERIAL", 174 "JUNIPER_PIC_PEER", 177 "LINUX_LAPD",
    182 "MFR", 183 "JUNIPER_VP", 184 "A429", 185 "A653_ICM", 186 "USB_FREEBSD", 187 "BLUETOOTH_HCI_H4",
    188 "IEEE802_16_MAC_CPS", 189 "USB_LINUX", 190 "CAN20B", 191 "IEEE802_15_4_LINUX",
    193 "IEEE802_16_MAC_CPS_RADIO", 194 "JUNIPER_ISM", 195 "IEEE802_15_4_WITHFCS", 196 "SITA", 198 "RAIF1",
    199 "IPMB_KONTRON", 200 "JUNIPER_ST", 201 "BLUETOOTH_HCI_H4_WITH_PHDR", 202 "AX25_KISS", 203 "LAPD",
    207 "LAPB_WITH_DIR", 209 "IPMB_LINUX", 210 "FLEXRAY", 211 "MOST", 212 "LIN", 213 "X2E_SERIAL",
    214 "X2E_XORAYA", 215 "IEEE802_15_4_NONASK_PHY", 216 "LINUX_EVDEV", 217 "GSMTAP_UM", 218 "GSMTAP_ABIS",
    220 "USB_LINUX_MMAPPED", 221 "DECT", 222 "AOS", 223 "WIHART", 224 "FC_2", 225 "FC_2_WITH_FRAME_DELIMS",
    227 "CAN_SOCKETCAN", 230 "IEEE802_15_4_NOFCS", 231 "DBUS", 232 "JUNIPER_VS", 233 "JUNIPER_SRX_E2E",
    234 "JUNIPER_FIBRECHANNEL", 235 "DVB_CI", 236 "MUX27010", 237 "STANAG_5066_D_PDU", 238 "JUNIPER_ATM_CEMIC",
    243 "MPEG_2_TS", 244 "NG40", 245 "NFC_LLCP", 246 "PFSYNC", 247 "INFINIBAND", 248 "SCTP",
    249 "USBPCAP", 250 "RTAC_SERIAL", 251 "BLUETOOTH_LE_LL", 252 "WIRESHARK_UPPER_PDU", 253 "NETLINK",
    254 "BLUETOOTH_LINUX_MONITOR", 255 "BLUETOOTH_BREDR_BB", 256 "BLUETOOTH_LE_LL_WITH_PHDR", 257 "PROFIBUS_DL",
    259 "EPON", 260 "IPMI_HPM_2", 261 "ZWAVE_R1_R2", 262 "ZWAVE_R3", 263 "WATTSTOPPER_DLM", 264 "ISO_14443",
    265 "RDS", 266 "USB_DARWIN", 267 "OPENFLOW", 268 "SDLC", 269 "TI_LLN_SNIFFER", 270 "LORATAP", 271 "VSOCK",
    272 "NORDIC_BLE", 273 "DOCSIS31_XRA31", 275 "DISPLAYPORT_AUX", 277 "SERCOS_MONITOR", 278 "OPENVIZSLA",
    279 "EBHSCR", 280 "VPP_DISPATCH", 283 "IEEE802_15_4_TAP", 286 "ELEE", 287 "Z_WAVE_SERIAL", 288 "USB_2_0",
    289 "ATSC_ALP", 290 "ETW", 291 "NETANALYZER_NG", 292 "ZBOSS_NCP", 293 "USB_2_0_LOW_SPEED",
    294 "USB_2_0_FULL_SPEED", 295 "USB_2_0_HIGH_SPEED", 296 "AUERSWALD_LOG", 297 "ZWAVE_TAP",
    298 "SILABS_DEBUG_CHANNEL", 299 "FIRA_UCI", 300 "MDB", 301 "DECT_NR",
}

#[cfg(test)]
mod tests {
    use super::LinkType;

    #[test]
    fn every_number_is_declared_once_and_named() {
        let mut numbers: Vec<u32> = LinkType::SUPPORTED
            .iter()
            .chain(LinkType::UNSUPPORTED)
            .map(|link_type| link_type.0)
            .collect();
        let declared = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), declared);
        assert!(
            LinkType::SUPPORTED
                .iter()
                .all(|link| link.is_supported() && !link.description().is_empty())
        );
        assert!(
            LinkType::UNSUPPORTED
                .iter()
                .all(|link| !link.is_supported() && link.name().is_some())
        );
        // The registry from 99 on (below stand the numbers that BSDs gave); 208 is reserved.
        let unnamed: Vec<u32> = (99..=301)
            .filter(|number| LinkType(*number).name().is_none())
            .collect();
        assert_eq!(unnamed, [208]);
        assert_eq!(LinkType(271).to_string(), "LINKTYPE_VSOCK (271)");
        assert_eq!(LinkType(9999).to_string(), "LINKTYPE 9999");
        assert_eq!(LinkType::DLT_RAW.to_string(), "LINKTYPE_RAW (12)");
    }
}
