"""Long-lived flows for the idle and active timeouts: the wire's clock runs 2,000 times faster than real time.

One real second is 2,000 recorded seconds, so ordinary delays between packets look like minutes.

- UDP to port 7001: a datagram and its answer; a pause of more than 300 s; the same pair of ports again (a second flow).
- UDP to port 7002: an exchange every 100 s for more than 5,000 s: cut by the active timeout into interim records.
- TCP to port 9001: the same, then closed.
- TCP to port 9002: silent for more than 300 s, then goes on (a second flow that starts in the middle).
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.streams import Connection

if TYPE_CHECKING:
    from pathlib import Path

SPEED = 2000


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with (
        Testbed() as bed,
        bed.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        bed.server.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        bed.server.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        start = time.time_ns()
        bed.wire.clock = lambda now: start + (now - start) * SPEED
        first.bind(("192.0.2.20", 7001))
        second.bind(("192.0.2.20", 7002))

        def talk(server: socket.socket, port: int) -> None:
            client.sendto(b"question", ("192.0.2.20", port))
            _, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            client.recv(100)

        talk(first, 7001)
        steady = Connection(bed, port=9001)
        silent = Connection(bed, port=9002)
        silent.ask()
        for _ in range(52):
            talk(second, 7002)
            steady.ask()
            time.sleep(100 / SPEED)
        talk(first, 7001)
        silent.ask()
        steady.close()
        silent.close()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
