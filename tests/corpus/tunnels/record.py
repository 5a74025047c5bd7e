"""DNS queries in one encapsulation after another: each standard's figure around frames of dig and dnsmasq.

The kernel that records has none of these tunnels, so that the script puts them around recorded frames, byte by byte:
IP in IP (4in4, 6in4, 4in6), GRE with and without key, NVGRE, ERSPAN I to III, MPLS (IP, pseudowire with and without
control word, in IP and in UDP), VXLAN-GPE, Geneve with an option, GTP-U with an extension header, L2TPv2, L2TPv3 over
IP and UDP, PPTP, PPPoE, Teredo, LISP, CAPWAP, TZSP, WCCP, 802.1ah, AH, and two that nest. Every query has a source port
of its own, so that each encapsulation has a flow of its own.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tests.corpus.testbed import Record, Testbed, version, write_pcap
from tests.corpus.testbed.dns import start_dnsmasq
from tests.oracle.checksum import internet_checksum

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST_PORT = 41_000
ENDS = ("203.0.113.1", "203.0.113.2")
ENDS6 = ("2001:db8:3::1", "2001:db8:3::2")
MACS = (bytes.fromhex("020000000101"), bytes.fromhex("020000000102"))


def ethernet(kind: int, payload: bytes, *, back: bool) -> bytes:
    """A frame between the tunnel's ends."""
    source, destination = MACS[::-1] if back else MACS
    return destination + source + struct.pack("!H", kind) + payload


def ip(protocol: int, payload: bytes, *, back: bool, ends: tuple[str, str] = ENDS) -> bytes:
    """An IPv4 or IPv6 packet between the tunnel's ends, in a frame."""
    source, destination = (ip_address(end).packed for end in (ends[::-1] if back else ends))
    if len(source) == 16:
        header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination
        return ethernet(0x86DD, header + payload, back=back)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + source + destination
    header = header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]
    return ethernet(0x0800, header + payload, back=back)


def udp(port: int, payload: bytes, *, back: bool) -> bytes:
    """A datagram without checksum (RFC 768), sent to and answered from the tunnel's port, in a frame."""
    ports = (port, 50_000) if back else (50_000, port)
    return ip(17, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, back=back)


def label(number: int, *, bottom: bool) -> bytes:
    """An MPLS label stack entry (RFC 3032)."""
    return struct.pack("!I", number << 12 | bottom << 8 | 64)


def hx(text: str) -> bytes:
    """Bytes from their hexadecimal digits."""
    return bytes.fromhex(text)


def authenticated(frame: bytes, *, back: bool) -> bytes:
    """AH (RFC 4302) before the packet's own transport: next header, length in words less 2, SPI, sequence, ICV."""
    header = hx("11 04 0000 00000100 00000001") + bytes(12)
    ends = ("192.0.2.10", "192.0.2.20")
    return ip(51, header + frame[34:], back=back, ends=ends)


def tagged(frame: bytes) -> bytes:
    """The frame with an 802.1Q tag, VLAN 7."""
    return frame[:12] + hx("8100 0007") + frame[12:]


# A frame `f` (Ethernet) or its packet `f[14:]` (IPv4), and whether it goes back.
ENCAPSULATIONS: dict[str, Callable[[bytes, bool], bytes]] = {
    "4in4": lambda f, back: ip(4, f[14:], back=back),
    "4in6": lambda f, back: ip(4, f[14:], back=back, ends=ENDS6),
    "GRE": lambda f, back: ip(47, hx("0000 0800") + f[14:], back=back),
    "GRE with checksum, key and sequence number": lambda f, back: ip(
        47, hx("b000 0800 0000 0000 0000004d 00000001") + f[14:], back=back
    ),
    "Ethernet in GRE": lambda f, back: ip(47, hx("0000 6558") + f, back=back),
    # Subnet 0x1234; the flow id differs by direction.
    "NVGRE": lambda f, back: ip(47, hx("2000 6558 001234") + (b"\x02" if back else b"\x01") + f, back=back),
    "ERSPAN I": lambda f, back: ip(47, hx("0000 88be") + f, back=back),
    "ERSPAN II": lambda f, back: ip(47, hx("1000 88be 00000001 10010064 00000000") + f, back=back),
    "ERSPAN III": lambda f, back: ip(
        47, hx("1000 22eb 00000001 20010065 00000000 00000001 0000000000000000") + f, back=back
    ),
    "MPLS": lambda f, back: ethernet(0x8847, label(16, bottom=False) + label(100, bottom=True) + f[14:], back=back),
    "MPLS pseudowire": lambda f, back: ethernet(0x8847, label(101, bottom=True) + f, back=back),
    "MPLS pseudowire with control word": lambda f, back: ethernet(
        0x8847, label(102, bottom=True) + hx("00000007") + f, back=back
    ),
    "MPLS in IP": lambda f, back: ip(137, label(103, bottom=True) + f[14:], back=back),
    "MPLS in UDP": lambda f, back: udp(6635, label(104, bottom=True) + f[14:], back=back),
    "VXLAN-GPE": lambda f, back: udp(4790, hx("0c000001 00002b00") + f[14:], back=back),
    "Geneve with an option": lambda f, back: udp(6081, hx("0100 6558 00002c00 ffff0100") + f, back=back),
    # Each direction has a tunnel endpoint identifier of its own.
    "GTP-U with an extension header": lambda f, back: udp(
        2152,
        struct.pack("!BBHI", 0x34, 255, len(f) - 14 + 8, 8 if back else 9) + hx("00000085 01000900") + f[14:],
        back=back,
    ),
    "L2TPv2": lambda f, back: udp(
        1701, struct.pack("!HHHH", 0x4002, len(f) - 14 + 12, 1, 2) + hx("ff030021") + f[14:], back=back
    ),
    "L2TPv3 in IP": lambda f, back: ip(115, hx("00000003 40000001") + f, back=back),
    "L2TPv3 in UDP with a cookie": lambda f, back: udp(1701, hx("00030000 00000004 deadbeef 40000001") + f, back=back),
    "PPTP": lambda f, back: ip(
        47, struct.pack("!HHHHI", 0x3001, 0x880B, len(f) - 14 + 4, 5, 1) + hx("ff030021") + f[14:], back=back
    ),
    "PPPoE": lambda f, back: ethernet(
        0x8864, hx("1100 1234") + struct.pack("!H", len(f) - 14 + 2) + hx("0021") + f[14:], back=back
    ),
    "LISP": lambda f, back: udp(4341, hx("88010203 0000090f") + f[14:], back=back),
    "CAPWAP": lambda f, back: udp(5247, hx("00100200 00010000") + f, back=back),
    "TZSP": lambda f, back: udp(37008, hx("01000001 0a01d0 01") + f, back=back),
    "WCCP": lambda f, back: ip(47, hx("0000 883e 00000000") + f[14:], back=back),
    "802.1ah": lambda f, back: ethernet(0x88A8, hx("0064 88e7 00000309") + f, back=back),
    "AH": lambda f, back: authenticated(f, back=back),
    "VXLAN in GRE": lambda f, back: ip(
        47, hx("0000 0800") + udp(4789, hx("08000000 00002d00") + f, back=back)[14:], back=back
    ),
    "GRE over IPv6 on a VLAN": lambda f, back: tagged(ip(47, hx("0000 0800") + f[14:], back=back, ends=ENDS6)),
}

# The same for IPv6 inside.
ENCAPSULATIONS6: dict[str, Callable[[bytes, bool], bytes]] = {
    "6in4": lambda f, back: ip(41, f[14:], back=back),
    "Teredo": lambda f, back: udp(3544, f[14:], back=back),
    "Teredo with authentication and origin": lambda f, back: udp(
        3544, hx("0001 0000 0707070707070707 00 0000 010203040506") + f[14:], back=back
    ),
}


def record(output: Path) -> list[str]:
    """Run the scenario."""
    records: list[Record] = []
    with Testbed() as bed:
        start_dnsmasq(bed)
        cases = [(wrap, "192.0.2") for wrap in ENCAPSULATIONS.values()]
        cases += [(wrap, "2001:db8:1:") for wrap in ENCAPSULATIONS6.values()]
        for number, (wrap, network) in enumerate(cases):
            bed.wire.records = []
            client, server = (
                (f"{network}:10", f"{network}:20") if ":" in network else (f"{network}.10", f"{network}.20")
            )
            source = f"{client}#{FIRST_PORT + number}"
            bed.client.run(["dig", "-b", source, f"@{server}", f"t{number}.corpus.example", "A"])
            bed.quiet(0.05)
            for frame in bed.wire.records:
                kind, protocol = frame.data[12:14], 17
                upper = frame.data[23] if kind == b"\x08\x00" else frame.data[20] if kind == b"\x86\xdd" else 0
                if upper == protocol:
                    data = wrap(frame.data, frame.data[6:12] == b"\x02\x00\x00\x00\x00\x20")
                    records.append(Record(frame.time_ns, data, len(data)))
    output.write_bytes(write_pcap(records))
    return [version("dig", "-v"), "dnsmasq " + version("dnsmasq", "--version"), "the script itself, for the tunnels"]
