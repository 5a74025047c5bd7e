"""One client port (40000) connects to one server port (9000) four times in a row: the same 5-tuple, new connections.

1. closed in the ordinary way by the server first, then at once again;
2. reset by the client, then at once again;
3. reset by the server, then at once again;
4. closed in the ordinary way.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.streams import Connection, reset

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        first = Connection(bed, client_port=40_000)
        first.ask()
        first.server.shutdown(socket.SHUT_WR)
        first.client.recv(1)
        first.client.close()
        first.server.recv(1)
        first.server.close()
        bed.quiet(0.05)
        second = Connection(bed, client_port=40_000)
        second.ask(b"second\n", b"two\n")
        reset(second.client)
        bed.quiet(0.05)
        third = Connection(bed, client_port=40_000)
        third.ask(b"the third\n", b"three\n")
        reset(third.server)
        with contextlib.suppress(ConnectionResetError):
            third.client.recv(1)
        third.client.close()
        bed.quiet(0.05)
        fourth = Connection(bed, client_port=40_000)
        fourth.ask(b"the fourth\n", b"four\n")
        fourth.close()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
