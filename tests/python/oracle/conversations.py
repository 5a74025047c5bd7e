"""TCP conversations that hypothesis makes: what two ends would say, and what no end should.

A conversation is a list of segments, each placed relative to what was sent before it, so that sequence and
acknowledgement numbers mean something wherever hypothesis cuts or joins. Single segments are as odd as can be; episodes
(a handshake, a lost segment, a closed window, …) make the events for which chance alone would seldom do.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.corpus.testbed import Record
from tests.oracle.checksum import internet_checksum

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND, MILLISECOND = 1_000_000_000, 1_000_000
START = 1_700_000_000 * SECOND
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NONCE = (1 << bit for bit in range(9))
CLIENT, SERVER = 0, 1
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
PORTS = (40_000, 80)


@dataclass(frozen=True)
class Segment:
    """A TCP segment of one end, by what was sent before."""

    sender: int
    flags: int = ACK
    payload: int = 0
    at: int = 0
    """Its sequence number, from the one after the highest that its sender has sent."""
    acknowledges: int = 0
    """Its acknowledgement number, from the one after the highest that the other end has sent."""
    first: int | None = None
    """Its sequence number, from where the numbers of the conversation lie: those of its sender begin anew."""
    window: int = 1000
    scale: int | None = None
    segment_size: int | None = None
    ttl: int = 64
    step: int = MILLISECOND
    """How much later than the one before it, in nanoseconds."""
    port: int = PORTS[0]
    """The client's port."""
    bad_checksum: bool = False


@dataclass
class Conversation:
    """Segments of one version of IP."""

    version: int
    segments: list[Segment]
    base: int
    """Where the numbers of both ends lie, and begin if no segment says it."""

    def records(self) -> list[Record]:
        """The packets, as raw IP."""
        ends: dict[int, Ends] = {}
        time, records = START, []
        for segment in self.segments:
            time += segment.step
            packet = ends.setdefault(segment.port, Ends(self.base)).packet(segment, self.version)
            records.append(Record(time, packet, len(packet)))
        return records


@dataclass
class Ends:
    """Both ends of a connection: the number after the highest that each has sent."""

    base: int
    following: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing was sent yet."""
        self.following = [self.base, self.base]

    def packet(self, segment: Segment, version: int) -> bytes:
        """The segment as an IP packet."""
        sender, receiver = segment.sender, 1 - segment.sender
        sequence = self.following[sender] + segment.at if segment.first is None else self.base + segment.first
        acknowledgement = self.following[receiver] + segment.acknowledges if segment.flags & ACK else 0
        length = segment.payload + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        # A RST says nothing of what follows, and neither does the number of a segment that is empty.
        if not segment.flags & RST and length:
            end = sequence + length
            is_highest = segment.first is not None or end > self.following[sender]
            self.following[sender] = end if is_highest else self.following[sender]
        options = b""
        if segment.segment_size is not None:
            options += struct.pack("!BBH", 2, 4, segment.segment_size)
        if segment.scale is not None:
            options += struct.pack("!BBBB", 1, 3, 3, segment.scale)
        ports = (segment.port, PORTS[1])
        tcp = struct.pack(
            "!HHIIHHHH",
            ports[sender],
            ports[receiver],
            sequence % (1 << 32),
            acknowledgement % (1 << 32),
            (20 + len(options)) // 4 << 12 | segment.flags,
            segment.window,
            0,
            0,
        )
        body = tcp + options + bytes(segment.payload)
        source, destination = (ipaddress.ip_address(ADDRESSES[version][end]).packed for end in (sender, receiver))
        checksum = internet_checksum(source + destination + struct.pack("!II", len(body), 6) + body)
        body = body[:16] + struct.pack("!H", checksum ^ segment.bad_checksum) + body[18:]
        if version == 6:
            return struct.pack("!IHBB", 6 << 28, len(body), 6, segment.ttl) + source + destination + body
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, segment.ttl, 6, 0) + source + destination
        return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + body


# What segments are made of: few values, so that they meet each other again.

senders = st.sampled_from((CLIENT, SERVER))
steps = st.one_of(
    st.sampled_from((MILLISECOND,) * 8 + (0, 1, SECOND, 5 * SECOND, 5 * SECOND + 1, -1, -SECOND, 301 * SECOND)),
    st.integers(0, 50 * MILLISECOND),
)
windows = st.sampled_from((1000, 1000, 0, 1, 65_535))
segment_sizes = st.sampled_from((None, 0, 536, 1220, 1460, 65_535))
scales = st.sampled_from((None, 0, 7, 14))
ttls = st.sampled_from((64, 64, 63, 1, 255))
payloads = st.sampled_from((0, 0, 1, 1, 2, 10, 100, 1448))
lengths = st.sampled_from((1, 2, 10, 100, 1448))
# Sequence numbers are compared modulo 2^32, which means something only while all that are compared lie within half of
# that; no window is larger than a quarter (RFC 7323 §2.3).
bases = st.sampled_from((0, 1000, 0x7FFF_FFF8, 0xFFFF_FFF0, 0xFFFF_FFFF))
initials = st.sampled_from((0, 1, 1000, 70_000))
offsets = st.sampled_from((0,) * 6 + (-1, -1, 1, -2, 2, -10, 10, -100, 100, -1448, 1448, -100_000, 100_000))
acknowledged = st.one_of(offsets, offsets, offsets, st.sampled_from((1 << 30, (1 << 30) + 1, -1 << 30)))
congestion = st.sampled_from((0, 0, ECE, CWR, ECE | CWR, URG, NONCE))
flags = st.one_of(
    st.sampled_from((ACK,) * 6 + (ACK | PSH, SYN, SYN | ACK, FIN | ACK, FIN, RST, RST | ACK, SYN | FIN, 0)),
    st.integers(0, 0x1FF),
)

singles = st.builds(
    Segment,
    sender=senders,
    flags=flags,
    payload=payloads,
    at=offsets,
    acknowledges=acknowledged,
    first=st.one_of(st.none(), st.none(), st.none(), initials),
    window=windows,
    scale=scales,
    segment_size=segment_sizes,
    ttl=ttls,
    step=steps,
    bad_checksum=st.sampled_from((False,) * 9 + (True,)),
)


@st.composite
def handshakes(draw: Callable, *, reset: bool | None = None) -> list[Segment]:
    """A connection begins, with the options and the flags of RFC 3168 §6.1.1; perhaps on ports that were used."""
    client, server = draw(initials), draw(initials)
    opening = {"window": draw(windows), "segment_size": draw(segment_sizes), "scale": draw(scales), "ttl": draw(ttls)}
    answer = opening | {"segment_size": draw(segment_sizes), "window": draw(windows)}
    asks = draw(st.sampled_from((0, ECE | CWR)))
    syn = Segment(CLIENT, SYN | asks, first=client, step=draw(steps), **opening)
    syn_ack = Segment(SERVER, SYN | ACK | asks & ECE, first=server, step=draw(steps), **answer)
    kind = draw(st.sampled_from(("usual", "usual", "usual", "simultaneous", "repeated", "refused", "late", "data")))
    if kind == "simultaneous":  # RFC 9293 §3.5, figure 7
        other = replace(syn, sender=SERVER, first=server, payload=draw(payloads), step=draw(steps))
        return [syn, other, replace(syn_ack, sender=CLIENT, first=client), replace(syn_ack, acknowledges=0)]
    if kind == "repeated":
        return [syn, replace(syn, step=SECOND), syn_ack, replace(syn_ack, step=SECOND), Segment(CLIENT)]
    if kind == "refused":
        return [syn, Segment(SERVER, RST | ACK, first=0, window=0), draw(st.sampled_from((syn, syn_ack)))]
    if kind == "late":
        return [syn_ack, Segment(CLIENT, first=client)]
    data = draw(lengths) if kind == "data" else 0  # RFC 7413
    return [replace(syn, payload=data), syn_ack, Segment(CLIENT, step=draw(steps))]


@st.composite
def exchanges(draw: Callable) -> list[Segment]:
    """Data and its acknowledgement, perhaps with congestion experienced."""
    sender, length = draw(senders), draw(lengths)
    data = Segment(sender, ACK | PSH | draw(congestion), length, window=draw(windows), step=draw(steps))
    return [data, Segment(1 - sender, ACK | draw(congestion), window=draw(windows), ttl=draw(ttls))]


@st.composite
def losses(draw: Callable) -> list[Segment]:
    """Segments that are repeated, overtaken or never seen, and what the other end says of it."""
    sender, length = draw(senders), draw(lengths)
    data, answer = Segment(sender, ACK, length), Segment(1 - sender, window=draw(windows))
    kind = draw(st.sampled_from(("overtaken", "repeated", "unseen", "duplicates")))
    if kind == "overtaken":
        return [data, replace(data, at=length), replace(data, at=-2 * length), answer]
    if kind == "repeated":
        return [data, replace(data, at=-length, step=draw(steps)), answer]
    if kind == "unseen":
        return [data, replace(data, at=length), replace(answer, acknowledges=draw(st.sampled_from((0, 0, length))))]
    known = replace(answer, acknowledges=-2 * length)
    return [data, replace(data, at=length), replace(data, step=1), *[known] * draw(st.integers(1, 4))]


@st.composite
def recoveries(draw: Callable) -> list[Segment]:
    """What is sent again while more is outstanding, once or twice, and answers that are not its end (RFC 6582)."""
    sender, length = draw(senders), draw(lengths)
    data, answer = Segment(sender, ACK, length), Segment(1 - sender)
    said = [data] * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(1, 3))):
        back = draw(st.integers(0, 4)) * length
        said += draw(
            st.sampled_from(
                (
                    [replace(data, at=-back)],
                    [data, replace(data, at=-back)],
                    [replace(answer, acknowledges=-back)],
                    [replace(answer, acknowledges=-1)],
                )
            )
        )
    return [*said, replace(answer, acknowledges=draw(st.sampled_from((0, -length)))), answer]


@st.composite
def holes(draw: Callable) -> list[Segment]:
    """More gaps than are remembered, of which some are filled, and some acknowledged."""
    sender, length = draw(senders), draw(lengths)
    count = draw(st.integers(2, 7))
    passed = [Segment(sender, ACK, length, at=length)] * count
    back = draw(st.integers(0, 2 * count)) * length
    late = Segment(sender, ACK, draw(st.sampled_from((length, 2 * length))), at=-back)
    return [Segment(sender, ACK, length), *passed, late, Segment(1 - sender, acknowledges=-draw(st.integers(0, back)))]


@st.composite
def closed_windows(draw: Callable) -> list[Segment]:
    """The window closes, is probed (RFC 9293 §3.8.6.1), and perhaps opens."""
    sender = draw(senders)
    shut = Segment(1 - sender, window=0, step=draw(steps))
    probe = Segment(sender, ACK, 1, at=0, step=draw(steps))
    refused = replace(shut, acknowledges=-1, step=draw(steps))
    probes = [part for _ in range(draw(st.integers(1, 3))) for part in (replace(probe, at=0), refused)]
    return [shut, *probes, Segment(1 - sender, window=draw(windows))]


@st.composite
def keep_alives(draw: Callable) -> list[Segment]:
    """RFC 9293 §3.8.4, with or without a byte, and the answer."""
    sender = draw(senders)
    alive = Segment(sender, ACK, draw(st.sampled_from((0, 1))), at=-1, step=draw(steps), window=draw(windows))
    return [alive, Segment(1 - sender, window=draw(windows))] * draw(st.integers(1, 3))


@st.composite
def endings(draw: Callable) -> list[Segment]:
    """Both ends close, or one resets; something may come late, or the ports be used again."""
    sender = draw(senders)
    if draw(st.booleans()):
        over = [Segment(sender, RST | draw(st.sampled_from((0, ACK))), step=draw(steps))]
    else:
        over = [Segment(sender, FIN | ACK, draw(payloads)), Segment(1 - sender, FIN | ACK), Segment(sender)]
        over = over[: draw(st.integers(1, 3))]
    late = [replace(segment, at=-1) for segment in over if draw(st.booleans())]
    return over + late + (draw(handshakes()) if draw(st.booleans()) else [])


episodes = st.one_of(
    handshakes(), exchanges(), losses(), recoveries(), holes(), closed_windows(), keep_alives(), endings()
)


@st.composite
def conversations(draw: Callable) -> Conversation:
    """A conversation, now and then on two ports of the client."""
    said = draw(handshakes()) if draw(st.booleans()) else []
    for part in draw(st.lists(st.one_of(episodes, episodes, st.lists(singles, min_size=1, max_size=3)), max_size=8)):
        port = PORTS[0] + draw(st.sampled_from((0,) * 6 + (1,)))
        said = [*said, *(replace(segment, port=port) for segment in part)]
    return Conversation(draw(st.sampled_from((4, 6))), said, draw(bases))
