//! Why a frame could not be read, or only in part.
//!
//! A malformed packet is data, not a fault: the reason indexes a counter and nothing is logged per packet.

/// A set of reasons, each of which is a counter.
pub trait Reason: Copy + Eq + 'static {
    /// Every reason, in declaration order.
    const EVERY: &'static [Self];
    /// Its place in [`Reason::EVERY`].
    fn index(self) -> usize;
    /// The name in counters and records.
    fn label(self) -> &'static str;
    /// What it means, for the generated reference.
    fn meaning(self) -> &'static str;
}

/// Declares a fieldless enum of reasons with the name under which each is counted.
#[macro_export]
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every reason, in declaration order: `ALL[reason as usize] == reason`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in counters and records.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, for the generated reference.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }
        }

        impl $crate::malformed::Reason for $name {
            const EVERY: &'static [Self] = Self::ALL;
            fn index(self) -> usize {
                self as usize
            }
            fn label(self) -> &'static str {
                self.name()
            }
            fn meaning(self) -> &'static str {
                self.doc()
            }
        }
    };
}
pub(crate) use reasons;

reasons! {
    /// Why a frame has no flow: it was delivered to the probe and not metered.
    Undecodable {
        /// The link type of the interface is not supported.
        UnsupportedLinkType = "unsupported_link_type",
        /// The link layer carries something other than IP (ARP, LLDP, STP, …).
        NotIp = "not_ip",
        /// The captured bytes end inside the link-layer header.
        TruncatedLink = "truncated_link",
        /// The captured bytes end inside the IP header.
        TruncatedIp = "truncated_ip",
        /// The IP version field is neither 4 nor 6, or differs from what the link layer announced.
        BadIpVersion = "bad_ip_version",
        /// The IPv4 header length is below 20 bytes or beyond the packet.
        BadIpHeaderLength = "bad_ip_header_length",
        /// More nested headers than the depth limit.
        TooManyHeaders = "too_many_headers",
    }
}

reasons! {
    /// Faults that do not keep a packet from being metered. Each is a bit of a packet's faults and a counter.
    Fault {
        /// The IPv4 header checksum is wrong.
        BadIpChecksum = "bad_ip_checksum",
        /// The TCP, UDP, ICMP or SCTP checksum is wrong (only checked where every byte was captured).
        BadTransportChecksum = "bad_transport_checksum",
        /// The captured bytes end before the transport header does: metered without ports or with ports only.
        TruncatedTransport = "truncated_transport",
        /// A transport header field contradicts the packet (TCP data offset, UDP length).
        BadTransportHeader = "bad_transport_header",
        /// The IP total length is larger than the frame on the wire.
        IpLongerThanFrame = "ip_longer_than_frame",
    }
}

impl Fault {
    /// The bits of wrong checksums.
    pub const CHECKSUMS: u8 = Self::BadIpChecksum.bit() | Self::BadTransportChecksum.bit();

    /// Its bit in a packet's faults.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}
