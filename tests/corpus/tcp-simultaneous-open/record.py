"""Two sockets connect to each other at the same time; the wire delays both SYNs by 20 ms, so that they cross.

There is no server: each side sends a SYN and answers the other's with a SYN-ACK (RFC 9293 §3.5). Then each side sends a
line, and the client closes.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.streams import receive

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.client.run(["ip", "neigh", "replace", "192.0.2.20", "lladdr", "02:00:00:00:00:20", "dev", "eth0"])
        bed.server.run(["ip", "neigh", "replace", "192.0.2.10", "lladdr", "02:00:00:00:00:10", "dev", "eth0"])
        bed.wire.policy = lambda _: (0.02,)
        with bed.client.open_socket() as left, bed.server.open_socket() as right:
            left.bind(("192.0.2.10", 41_000))
            right.bind(("192.0.2.20", 42_000))
            other = threading.Thread(target=right.connect, args=(("192.0.2.10", 41_000),))
            other.start()
            left.connect(("192.0.2.20", 42_000))
            other.join()
            left.sendall(b"hello\n")
            receive(right, 6)
            right.sendall(b"hello yourself\n")
            receive(left, 15)
            left.shutdown(socket.SHUT_WR)
            right.recv(1)
            right.shutdown(socket.SHUT_WR)
            left.recv(1)
        bed.quiet()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
