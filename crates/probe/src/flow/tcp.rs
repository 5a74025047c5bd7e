//! TCP: sequence number analysis, handshake times, and when a connection is over.
//!
//! A passive probe sees what an endpoint may reject, and may miss what an endpoint got; so nothing here depends on a
//! connection being well-behaved. Sequence numbers are compared modulo 2³² (RFC 9293 §3.4).

use wire::decode::{Packet, Tcp};
use wire::flowkey::Direction;

use super::fragment::Part;
use super::state::{Basis, Flow, Handshake, Hot, Phase, Side};
use super::tcp_analysis::is_keep_alive;

/// FIN flag.
pub const FIN: u16 = 0x01;
/// SYN flag.
pub const SYN: u16 = 0x02;
/// RST flag.
pub const RST: u16 = 0x04;
/// ACK flag.
pub const ACK: u16 = 0x10;

/// What told the initiator, and whether it sent this first segment of a flow.
pub fn initiator(tcp: &Tcp) -> (Basis, bool) {
    match tcp.flags & (SYN | ACK) {
        SYN => (Basis::Syn, true),
        flags if flags == SYN | ACK => (Basis::SynAck, false),
        _ => (Basis::FirstPacket, true),
    }
}

/// How a segment changes its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It goes on.
    Continue,
    /// Both FINs have been seen now.
    Linger,
    /// Both FINs are acknowledged: it is over with this segment.
    Close,
    /// It is over with this RST.
    Reset,
}

/// Whether `a` lies after `b`.
#[inline]
pub fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Whether a segment with these flags is dropped in every state in which it could mean something: it has neither ACK nor
/// SYN nor RST (RFC 9293 §3.10.7.2 to §3.10.7.4).
#[inline]
pub const fn is_dropped(flags: u16) -> bool {
    flags & (ACK | SYN | RST) == 0
}

/// Whether a segment starts a new connection on the ports of a flow: a SYN with another initial sequence number than
/// the flow's, or the SYN-ACK to such a SYN, where the old connection is known to be over, or may be: it has ended, a
/// FIN was seen, or it has been silent for longer than [`super::LINGER_NS`] and had got beyond its SYNs. After a RST
/// there is no connection (RFC 9293 §3.10.7.4), so that any SYN asks for a new one, also with the old number. Nor is there
/// one where every receiver has discarded what came so far: who sent that must not decide direction and handshake.
pub fn is_new_connection(flow: &Flow<'_>, tcp: &Tcp, clock: i64) -> bool {
    let initial_sequence = match tcp.flags & (SYN | ACK | RST | FIN) {
        SYN => tcp.sequence,
        flags if flags == SYN | ACK => tcp.acknowledgement.wrapping_sub(1),
        _ => return false,
    };
    if flow.hot.is_disregarded_only() {
        return true;
    }
    let sides = &flow.hot.sides;
    if sides[0].is(Side::RESET) && tcp.flags & ACK == 0 {
        return true;
    }
    let over = flow.hot.phase != Phase::Open || sides.iter().any(|side| side.is(Side::FIN));
    let silent = clock.saturating_sub(flow.hot.seen) > super::LINGER_NS
        && sides.iter().all(|side| side.is(Side::BEGUN));
    if !over && !silent {
        return false;
    }
    flow.hot.basis == Basis::FirstPacket || flow.cold.initial_sequence != initial_sequence
}

/// Takes a segment into account.
#[inline]
pub fn observe(
    flow: &mut Flow<'_>,
    direction: Direction,
    packet: &Packet<'_>,
    tcp: &Tcp,
    time: i64,
) -> Transition {
    let number = usize::from(direction == Direction::Reverse);
    if tcp.flags & RST != 0 {
        return Transition::Reset;
    }
    if tcp.flags & SYN != 0 || flow.hot.is(Hot::AWAITS_ACK) {
        handshake(flow, direction, tcp, time);
    }
    if !flow.hot.sides[number].is(Side::BEGUN) {
        flow.cold.initial_windows[number] = tcp.window;
    }
    let [forward, reverse] = &mut flow.hot.sides;
    let (side, other) = match direction {
        Direction::Forward => (forward, reverse),
        Direction::Reverse => (reverse, forward),
    };
    sequence(side, other.is(Side::BEGUN), packet.payload_length, tcp);
    if tcp.flags & SYN != 0
        && let Some(announced) = tcp.maximum_segment_size.filter(|size| *size > 0)
    {
        flow.cold.maximum_segment_sizes[number] = announced;
    }
    if !(side.is(Side::FIN) || other.is(Side::FIN)) && tcp.flags & FIN == 0 {
        return Transition::Continue;
    }
    let both_before = side.is(Side::FIN) && other.is(Side::FIN);
    if tcp.flags & FIN != 0 {
        side.mark(Side::FIN);
    }
    if tcp.flags & ACK != 0 && other.is(Side::FIN) && !is_after(other.sequence_end, tcp.acknowledgement) {
        other.mark(Side::FIN_ACKNOWLEDGED);
    }
    match (
        side.is(Side::FIN) && other.is(Side::FIN),
        side.is(Side::FIN_ACKNOWLEDGED) && other.is(Side::FIN_ACKNOWLEDGED),
    ) {
        (true, true) => Transition::Close,
        (true, false) if !both_before => Transition::Linger,
        _ => Transition::Continue,
    }
}

/// Takes into account what further fragments add to a segment.
pub fn go_on(side: &mut Side, part: Part) {
    if side.is(Side::BEGUN) && is_after(part.end, side.sequence_end) {
        side.mark(Side::DATA);
        side.sequence_end = part.end;
    }
}

/// Retransmissions and gaps (columns `tcp_retransmissions_fwd`, `tcp_out_of_order_fwd`). A SYN in a connection that is open,
/// both sides having been heard, is answered and dropped (RFC 9293 §3.10.7.4): the stream stays where it stands.
#[inline]
fn sequence(side: &mut Side, is_other_heard: bool, payload_length: u32, tcp: &Tcp) {
    let occupied = payload_length
        .wrapping_add(u32::from(tcp.flags & SYN != 0))
        .wrapping_add(u32::from(tcp.flags & FIN != 0));
    let end = tcp.sequence.wrapping_add(occupied);
    let is_dropped = tcp.flags & SYN != 0 && is_other_heard && side.is(Side::BEGUN);
    if payload_length > 0 && !is_dropped {
        side.mark(Side::DATA);
    }
    if !side.is(Side::BEGUN) {
        // No system takes a SYN with a FIN: of what it is followed by the start is not known.
        side.mark(match tcp.flags & (SYN | FIN) {
            SYN => Side::BEGUN | Side::OPENED,
            _ => Side::BEGUN,
        });
        side.sequence_end = end;
    } else if occupied > 0 {
        if is_after(tcp.sequence, side.sequence_end) {
            side.out_of_order = side.out_of_order.saturating_add(1);
            if tcp.flags & SYN == 0 {
                side.mark(Side::DATA);
            }
        } else if !is_after(end, side.sequence_end) && !is_keep_alive(tcp, payload_length, side.sequence_end)
        {
            side.retransmissions = side.retransmissions.saturating_add(1);
        }
        if is_after(end, side.sequence_end) && !is_dropped {
            side.sequence_end = end;
        }
    }
}

/// Handshake times (columns `tcp_handshake_rtt_server_ns`, `tcp_handshake_rtt_client_ns`).
fn handshake(flow: &mut Flow<'_>, direction: Direction, tcp: &Tcp, time: i64) {
    let cold = &mut *flow.cold;
    let since = |earlier: i64| if time > earlier { time.abs_diff(earlier) } else { 0 };
    match (cold.handshake, direction, tcp.flags & (SYN | ACK)) {
        (Handshake::Unseen, Direction::Forward, SYN) if flow.hot.basis == Basis::Syn => {
            cold.initial_sequence = tcp.sequence;
            cold.handshake_time = time;
            cold.handshake = Handshake::Syn;
        }
        (Handshake::Unseen, Direction::Reverse, flags)
            if flags == SYN | ACK
                && flow.hot.basis == Basis::SynAck
                && !flow.hot.sides[1].is(Side::BEGUN) =>
        {
            cold.initial_sequence = tcp.acknowledgement.wrapping_sub(1);
        }
        (Handshake::Syn, Direction::Reverse, SYN) => flow.hot.mark(Hot::SIMULTANEOUS_OPEN, true),
        (Handshake::Syn, Direction::Reverse, flags) if flags == SYN | ACK => {
            cold.server_rtt = since(cold.handshake_time);
            cold.handshake_time = time;
            cold.handshake = Handshake::SynAck;
            flow.hot.mark(Hot::AWAITS_ACK, true);
        }
        (Handshake::SynAck, Direction::Forward, ACK) => {
            cold.handshake_time = i64::try_from(since(cold.handshake_time)).unwrap_or(i64::MAX);
            cold.handshake = Handshake::Complete;
            flow.hot.mark(Hot::AWAITS_ACK, false);
        }
        _ => {}
    }
}
