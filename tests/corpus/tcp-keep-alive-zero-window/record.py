"""Keep-alive probes on an idle connection (port 9001), and a receiver that does not read (port 9002).

On port 9001 the client's kernel sends three keep-alive probes, one a second: segments without data one byte below the
next sequence number. On port 9002 the receive window falls to zero; the sender probes it; then the receiver reads on.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.streams import Connection, receive

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = 120_000


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        idle = Connection(bed, port=9001)
        idle.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        idle.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        idle.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle.ask()
        full = Connection(bed, port=9002, receive_buffer=4096)
        sender = threading.Thread(target=full.client.sendall, args=(bytes(LENGTH),))
        sender.start()
        time.sleep(3.3)
        receive(full.server, LENGTH)
        sender.join()
        idle.close()
        full.close()
    bed.save(output, snaplen=200)
    return ["the testbed's own sender; Linux TCP"]
