"""Samba's nmbd registers its NetBIOS names; nmblookup finds one, asks for its status, and misses another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
[global]
netbios name = OFFICE
workgroup = CORPUS
interfaces = eth0
bind interfaces only = yes
lock directory = {directory}
state directory = {directory}
cache directory = {directory}
private directory = {directory}
pid directory = {directory}
ncalrpc dir = {directory}/rpc
log file = {directory}/log
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(nmbd="samba", nmblookup="samba-common-bin")
    with Testbed() as bed:
        settings = bed.write("smb.conf", SETTINGS.format(directory=bed.directory))
        bed.server.start(["nmbd", "--foreground", "--no-process-group", "-s", settings], udp_port=137)
        look = ["nmblookup", "-s", settings, "-B", "192.0.2.255"]
        bed.client.run([*look, "OFFICE"], check=False)
        bed.client.run(["nmblookup", "-s", settings, "-A", "192.0.2.20"], check=False)
        bed.client.run([*look, "NOBODY"], check=False)
        bed.quiet()
    bed.save(output)
    return [version("nmblookup", "--version")]
