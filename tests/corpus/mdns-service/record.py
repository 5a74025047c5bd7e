"""Two python-zeroconf programs: one announces a printer over mDNS, the other looks for printers and finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, tools_python, version

if TYPE_CHECKING:
    from pathlib import Path

ANNOUNCE = """
import socket, sys, threading
from zeroconf import IPVersion, ServiceInfo, Zeroconf
zeroconf = Zeroconf(interfaces=["192.0.2.20"], ip_version=IPVersion.V4Only)
name = "Drucker B\\u00fcro._ipp._tcp.local."
zeroconf.register_service(ServiceInfo("_ipp._tcp.local.", name, port=631, properties={"ty": "Laser"},
                                      addresses=[socket.inet_aton("192.0.2.20")], server="printer.local."))
threading.Event().wait()
"""

SEARCH = """
import sys, threading
from zeroconf import IPVersion, ServiceBrowser, Zeroconf
zeroconf, found = Zeroconf(interfaces=["192.0.2.10"], ip_version=IPVersion.V4Only), threading.Event()
class Listener:
    def add_service(self, zeroconf, kind, name):
        zeroconf.get_service_info(kind, name)
        found.set()
    update_service = remove_service = lambda *_: None
ServiceBrowser(zeroconf, "_ipp._tcp.local.", Listener())
sys.exit(0 if found.wait(20) else 1)
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    python = tools_python("zeroconf")
    with Testbed() as bed:
        for host in (bed.client, bed.server):
            host.ip("route", "add", "224.0.0.0/4", "dev", "eth0")
        bed.server.start([python, "-c", ANNOUNCE], udp_port=5353)
        bed.client.run([python, "-c", SEARCH])
        bed.quiet()
    bed.save(output)
    return ["python-zeroconf " + version(python, "-c", "import zeroconf; print(zeroconf.__version__)")]
