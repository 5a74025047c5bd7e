//! Packets that every receiver discards: they are counted, and nothing else is made of them.
//!
//! Whoever wants to hide from a passive probe sends it what the endpoint does not take: a decoy request, a RST, an answer
//! with a wrong checksum or without ACK. Such packets must change neither the state of a connection nor what layer 7
//! learns. But a wrong checksum tells this only where the source says which checksums are left to hardware. In a file
//! what the host sent on which it was captured may have one, what receive offload put together, and what was edited
//! afterwards, for instance to hide addresses.

use wire::decode::{Packet, Tcp};
use wire::malformed::Fault;

use super::tcp;

const TCP: u8 = 6;

wire::reasons! {
    /// Why a packet is counted and not looked into.
    Disregard {
        /// Its IP or transport checksum is wrong; only live with AF_PACKET, outside tunnels, not of fragments, and as long as few are, because elsewhere hardware may have been to compute it.
        BadChecksum = "bad_checksum",
        /// A transport header field contradicts the packet: the TCP data offset; live, the UDP length.
        BadTransportHeader = "bad_transport_header",
        /// A TCP segment with neither ACK nor SYN nor RST (RFC 9293 §3.10.7).
        NoAcknowledgement = "no_acknowledgement",
    }
}

/// Of so many packets one with a wrong checksum is usual at most. Where more have one, the source does not tell what was left
/// to hardware: switches of virtual machines hand on what these left, without a word.
const USUAL: u64 = 16;
/// So many are no proof of that.
const FEW: u64 = 64;
/// Packets after which half of what was seen is forgotten.
const MEMORY: u64 = 1 << 16;

/// Whether a wrong checksum tells that the receiver has discarded the packet.
#[derive(Clone, Copy, Debug)]
pub struct ChecksumTrust {
    knows_offload: bool,
    /// Packets with a wrong checksum since `since` packets had been metered.
    wrong: u64,
    since: u64,
}

impl ChecksumTrust {
    /// `knows_offload` is as in [`super::Settings::knows_offload`].
    pub const fn new(knows_offload: bool) -> Self {
        Self {
            knows_offload,
            wrong: 0,
            since: 0,
        }
    }

    /// Whether the next wrong checksum is believed; `metered` packets came before it.
    fn believes(&mut self, metered: u64) -> bool {
        let seen = metered.saturating_sub(self.since);
        if seen > MEMORY {
            self.since = metered - seen / 2;
            self.wrong /= 2;
        }
        self.wrong += 1;
        self.knows_offload && self.wrong <= FEW + metered.saturating_sub(self.since) / USUAL
    }
}

/// Whether the receiver of a packet has discarded it, and why. `header` is its TCP header; `metered` packets came before it.
#[inline]
pub fn disregard(
    packet: &Packet<'_>,
    header: Option<&Tcp>,
    trust: &mut ChecksumTrust,
    metered: u64,
) -> Option<Disregard> {
    if header.is_some_and(|header| tcp::is_dropped(header.flags)) {
        return Some(Disregard::NoAcknowledgement);
    }
    if packet.faults == 0 {
        return None;
    }
    judge(packet, trust, metered)
}

#[cold]
fn judge(packet: &Packet<'_>, trust: &mut ChecksumTrust, metered: u64) -> Option<Disregard> {
    // The transport header of a fragment speaks of the datagram, and its checksum covers it.
    if packet.fragment.is_some() {
        return None;
    }
    // A file may have been edited, and who reads it wants to see what a datagram of a wrong length says.
    let is_edited = !trust.knows_offload && packet.key.ip_protocol != TCP;
    if packet.faults & Fault::BadTransportHeader.bit() != 0 && !is_edited {
        return Some(Disregard::BadTransportHeader);
    }
    // What the sender of a tunnel left to hardware says nothing of the packet inside.
    let may_tell = packet.faults & Fault::CHECKSUMS != 0 && packet.tunnels[0].is_none();
    (may_tell && trust.believes(metered)).then_some(Disregard::BadChecksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_checksums_are_believed_while_they_are_few() {
        let mut trust = ChecksumTrust::new(true);
        let mut believed = |from: u64, packets: u64, every: u64| {
            let wrong = (from..from + packets).filter(|metered| metered % every == 0);
            wrong.filter(|metered| trust.believes(*metered)).count() as u64
        };
        assert_eq!(believed(0, 1 << 20, 100), (1_u64 << 20).div_ceil(100));
        // A host that leaves checksums to hardware begins to send.
        let taken = believed(1 << 20, 1 << 20, 2);
        assert!(taken < 5_000, "{taken}");
        assert_eq!(believed(1 << 21, 1 << 20, 2), 0);
        // And ends.
        assert_eq!(believed(100 << 17, 1 << 20, 100), (1_u64 << 20).div_ceil(100));
        let mut of_file = ChecksumTrust::new(false);
        assert!(!of_file.believes(0));
    }
}
