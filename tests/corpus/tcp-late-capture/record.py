"""The capture starts late: three connections are under way, and their first packets are not in it.

- 9001: the first packet seen is a SYN-ACK;
- 9002: the first packet seen is data from the server;
- 9003: the first packet seen is the client's FIN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Frame, Testbed
from tests.corpus.testbed.streams import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.wire.recording = False
        early = [Connection(bed, port=port) for port in (9002, 9003)]
        for connection in early:
            connection.ask()
        bed.quiet(0.1)

        def start_at_syn_ack(frame: Frame) -> Sequence[float]:
            # The policy is asked before a frame that the tap sees near the receiver is recorded.
            if frame.ip_protocol == 6 and not frame.to_server:
                bed.wire.recording = True
            return (0.0,)

        bed.wire.tap, bed.wire.policy = "after", start_at_syn_ack
        handshake = Connection(bed, port=9001)
        handshake.ask()
        early[0].server.sendall(b"unasked\n")
        early[0].client.recv(100)
        early[0].ask()
        for connection in (handshake, *early):
            connection.close()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
