"""A pcapng file of two sections: three interfaces with other link types and clocks, then one interface again.

First section: interface 0 is the wire (Ethernet, microseconds), interface 1 the same wire behind a tap that keeps raw
IP only (LINKTYPE_RAW, nanoseconds), interface 2 has its clock in units of 2^-20 s and an offset of 1,000 s. HTTP goes
to the first, DNS to the second and a ping to the third. Second section: one Ethernet interface; DNS again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.corpus.testbed import Interface, Record, Testbed, apt_install, version, write_pcapng
from tests.corpus.testbed.dns import start_dnsmasq
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "input.pcapng"
RAW = 101
IP_TYPES = (b"\x08\x00", b"\x86\xdd")


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(ping="iputils-ping")
    with Testbed() as bed:
        start_nginx(bed, "server { listen 80; }")
        start_dnsmasq(bed)
        commands = (
            ["curl", "--silent", "--resolve", "sections.example:80:192.0.2.20", "http://sections.example/"],
            ["dig", "@192.0.2.20", "www.corpus.example", "A"],
            ["ping", "-n", "-c", "2", "-i", "0.05", "192.0.2.20"],
            ["dig", "@2001:db8:1::20", "www.corpus.example", "AAAA"],
        )
        parts = []
        for command in commands:
            bed.wire.records = []
            bed.client.run(command)
            bed.quiet()
            parts.append(bed.wire.records)
    first = parts[0]
    first += [
        Record(frame.time_ns, frame.data[14:], frame.wire_length - 14, 1)
        for frame in parts[1]
        if frame.data[12:14] in IP_TYPES
    ]
    first += [Record(frame.time_ns, frame.data, frame.wire_length, 2) for frame in parts[2]]
    interfaces = [
        Interface(name="eth0"),
        Interface(link_type=RAW, resolution=9, name="tap1"),
        Interface(resolution=0x80 | 20, offset_seconds=1000, name="eth2"),
    ]
    output.write_bytes(write_pcapng([(interfaces, first), ([Interface(snaplen=65_535, name="eth0")], parts[3])]))
    return [
        version("curl", "--version"),
        version("dig", "-v"),
        version("ping", "-V"),
        "the testbed's own pcapng writer",
    ]
