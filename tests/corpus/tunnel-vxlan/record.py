"""A VXLAN of two tenants between two hosts, made by the kernel: pings in both, with the same addresses inside.

Each host has two VXLAN devices over the same wire, VNI 42 and VNI 43 (UDP port 4789). The tenants have the same inner
addresses, one after the other, as overlapping tenants do. ping runs over IPv4 in each, and over IPv6 in the first. The
IPv4 flow is marked `key_ambiguous`, unless the tunnel joins the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path

TENANTS = (42, 43)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(ping="iputils-ping")
    with Testbed() as bed:
        for host, remote, last in ((bed.client, bed.server, 1), (bed.server, bed.client, 2)):
            for vni in TENANTS:
                host.ip("link", "add", f"vx{vni}", "type", "vxlan", "id", str(vni), "dstport", "4789", "dev", "eth0",
                        "local", host.ipv4, "remote", remote.ipv4)  # fmt: skip
                host.ip("link", "set", f"vx{vni}", "address", f"02:00:00:00:{vni:02x}:0{last}", "up")
        for vni in TENANTS:
            # One tenant after the other has the addresses: each host has one routing table.
            for host, last in ((bed.client, 1), (bed.server, 2)):
                host.ip("addr", "add", f"10.42.0.{last}/24", "dev", f"vx{vni}")
                host.ip("addr", "add", f"2001:db8:42::{last}/64", "dev", f"vx{vni}", "nodad")
            bed.client.run(["ping", "-n", "-c", "3", "-i", "0.05", "10.42.0.2"])
            if vni == TENANTS[0]:
                bed.client.run(["ping", "-n", "-c", "2", "-i", "0.05", "2001:db8:42::2"])
            for host in (bed.client, bed.server):
                host.ip("addr", "flush", "dev", f"vx{vni}")
        bed.quiet()
    bed.save(output)
    return [version("ping", "-V"), "the kernel's VXLAN device"]
