//! Packets that every receiver discards: they are counted, and nothing else is made of them.
//!
//! Whoever wants to hide from a passive probe sends it what the endpoint does not take: a decoy request, a RST, an answer
//! with a wrong checksum or without ACK. Such packets must change neither the state of a connection nor what layer 7
//! learns. But a wrong checksum tells this only where the source says which checksums are left to hardware. In a file
//! what the host sent on which it was captured may have one, what receive offload put together, and what was edited
//! afterwards, for instance to hide addresses. A packet longer than its frame, which nobody takes either, is in a file often
//! one that was cut when it was captured: some files do not tell how long its frame was.

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
        /// Its IP length is larger than its frame was on the wire; only live, outside tunnels, and as long as few are, because a mirror port may cut what it sends.
        IpLongerThanFrame = "ip_longer_than_frame",
        /// A TCP segment with neither ACK nor SYN nor RST (RFC 9293 §3.10.7).
        NoAcknowledgement = "no_acknowledgement",
    }
}

/// Of so many packets one with a fault is usual at most. Where more have one, the source does not tell the truth: switches
/// of virtual machines hand on packets whose checksums were left to hardware, and mirror ports cut frames, without a word.
const USUAL: u64 = 16;
/// So many are no proof of that.
const FEW: u64 = 64;
/// Packets after which half of what was seen is forgotten.
const MEMORY: u64 = 1 << 16;

/// What one kind of fault has been seen of.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Packets with the fault since `since` packets had been metered.
    faulty: u64,
    since: u64,
}

impl Share {
    /// Whether the next fault is believed; `metered` packets came before it.
    fn is_small(self, metered: u64) -> bool {
        self.faulty < FEW + metered.saturating_sub(self.since) / USUAL
    }

    /// Takes note of a fault; `metered` packets came before it.
    fn add(&mut self, metered: u64) {
        let seen = metered.saturating_sub(self.since);
        if seen > MEMORY {
            self.since = metered - seen / 2;
            self.faulty /= 2;
        }
        self.faulty += 1;
    }
}

/// Whether a fault tells that the receiver has discarded the packet.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    knows_offload: bool,
    checksums: Share,
    lengths: Share,
}

impl Trust {
    /// `knows_offload` is as in [`super::Settings::knows_offload`].
    pub fn new(knows_offload: bool) -> Self {
        Self {
            knows_offload,
            checksums: Share::default(),
            lengths: Share::default(),
        }
    }

    /// Whether a packet is longer than its frame, and its receiver has therefore discarded it; `metered` packets came
    /// before it.
    #[inline]
    pub fn is_beyond_frame(&self, packet: &Packet<'_>, metered: u64) -> bool {
        packet.faults & Fault::IpLongerThanFrame.bit() != 0
            && self.knows_offload
            && packet.tunnels[0].is_none()
            && self.lengths.is_small(metered)
    }
}

/// Whether the receiver of a packet has discarded it, and why. `header` is its TCP header; `metered` packets came before it.
#[inline]
pub fn disregard(
    packet: &Packet<'_>,
    header: Option<&Tcp>,
    trust: &mut Trust,
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
fn judge(packet: &Packet<'_>, trust: &mut Trust, metered: u64) -> Option<Disregard> {
    // Each fragment has an IP header of its own.
    let is_beyond_frame = trust.is_beyond_frame(packet, metered);
    if packet.faults & Fault::IpLongerThanFrame.bit() != 0 {
        trust.lengths.add(metered);
    }
    if is_beyond_frame {
        return Some(Disregard::IpLongerThanFrame);
    }
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
    if packet.faults & Fault::CHECKSUMS == 0 || packet.tunnels[0].is_some() {
        return None;
    }
    let believed = trust.knows_offload && trust.checksums.is_small(metered);
    trust.checksums.add(metered);
    believed.then_some(Disregard::BadChecksum)
}

#[cfg(test)]
mod tests {
    use wire::decode::{Decoder, FrameMeta, LinkType};

    use super::*;
    use crate::flow::meter::tests::Frame;

    #[test]
    fn what_was_cut_when_it_was_captured_is_not_longer_than_its_frame() {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 1, 0, 0, 0, 0]);
        let meta = |wire_length| FrameMeta {
            link_type: LinkType::ETHERNET,
            wire_length,
            stripped_vlan: None,
            checksum_offloaded: true,
        };
        let disregarded = |wire_length| {
            let packet = Decoder::default().decode(&frame, &meta(wire_length)).unwrap();
            disregard(&packet, None, &mut Trust::new(true), 0)
        };
        assert_eq!(disregarded(74), None);
        assert_eq!(disregarded(73), Some(Disregard::IpLongerThanFrame));
    }

    #[test]
    fn faults_are_believed_while_they_are_few() {
        for fault in [Fault::BadTransportChecksum, Fault::IpLongerThanFrame] {
            let frame = Frame {
                faults: fault.bit(),
                ..Frame::tcp(tcp::ACK, 1, 1)
            };
            let mut trust = Trust::new(true);
            let mut believed = |from: u64, packets: u64, every: u64| {
                let faulty = (from..from + packets).filter(|metered| metered % every == 0);
                let mut disregarded =
                    |metered| disregard(&frame.packet(), None, &mut trust, metered).is_some();
                faulty.filter(|metered| disregarded(*metered)).count() as u64
            };
            assert_eq!(believed(0, 1 << 20, 100), (1_u64 << 20).div_ceil(100));
            // A host that leaves checksums to hardware, or a port that cuts frames, begins to send.
            let taken = believed(1 << 20, 1 << 20, 2);
            assert!(taken < 5_000, "{fault:?}: {taken}");
            assert_eq!(believed(1 << 21, 1 << 20, 2), 0);
            // And ends.
            assert_eq!(believed(100 << 17, 1 << 20, 100), (1_u64 << 20).div_ceil(100));
            let mut of_file = Trust::new(false);
            assert_eq!(disregard(&frame.packet(), None, &mut of_file, 0), None);
        }
    }
}
