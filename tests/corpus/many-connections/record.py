"""A scan: the client tries 300 TCP ports of the server (two are open) and sends a datagram to 20 closed UDP ports.

Every refused connection is a flow of two packets; the ICMP port-unreachable messages are one flow.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed, bed.server.listen(1080), bed.server.listen(1200):
        for port in range(1000, 1300):
            with bed.client.open_socket() as client, contextlib.suppress(ConnectionRefusedError):
                client.connect(("192.0.2.20", port))
        for port in range(2000, 2020):
            with bed.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"anybody?", ("192.0.2.20", port))
        bed.quiet()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
