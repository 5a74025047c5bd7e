"""Small captures made by hand, byte for byte, for tests of the public API and the command line."""

from __future__ import annotations

import struct
from ipaddress import ip_address

ETHERNET = 1
START = 1_700_000_000_000_000_001
MILLISECOND = 1_000_000

Frame = tuple[int, bytes]


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    return bytes.fromhex("02005e005301 02005e005302") + struct.pack("!H", kind) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        0,
        0,
        64,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:] + payload


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    # A checksum of 0 says that there is none (RFC 768).
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def dns_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def dns_query(name: str) -> bytes:
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + dns_name(name) + struct.pack("!2H", 1, 1)


def dns_response(name: str, address: str) -> bytes:
    answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + ip_address(address).packed
    return struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0) + dns_name(name) + struct.pack("!2H", 1, 1) + answer


def dns_frames(
    name: str = "example.org", client: str = "192.0.2.1", port: int = 50_000, at: int = START
) -> list[Frame]:
    """A query and its answer."""
    server = "192.0.2.53"
    query = ethernet(ipv4(client, server, 17, udp(port, 53, dns_query(name))))
    response = ethernet(ipv4(server, client, 17, udp(53, port, dns_response(name, "198.51.100.7"))))
    return [(at, query), (at + 2 * MILLISECOND, response)]


def many_frames(flows: int) -> list[Frame]:
    """One query and answer for each of many flows."""
    return [
        frame
        for number in range(flows)
        for frame in dns_frames(
            f"host{number}.example",
            client=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            at=START + number * MILLISECOND,
        )
    ]


def pcap(frames: list[Frame], link_type: int = ETHERNET, snaplen: int = 262_144) -> bytes:
    """A little-endian pcap file with nanoseconds (magic a1b23c4d)."""
    data = bytearray(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, link_type))
    for time, frame in frames:
        seconds, rest = divmod(time, 10**9)
        data += struct.pack("<IIII", seconds, rest, min(len(frame), snaplen), len(frame)) + frame[:snaplen]
    return bytes(data)


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))


def pcapng(frames: list[Frame], link_type: int = ETHERNET) -> bytes:
    """A little-endian pcapng file with one interface of nanosecond resolution."""
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHI", link_type, 0, 0) + struct.pack("<HHB3xHH", 9, 1, 9, 0, 0))
    data = section + interface
    for time, frame in frames:
        head = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame))
        data += block(6, head + frame)
    return data
