"""Segments that come after a connection has ended: the wire holds copies back and delivers them again later.

- 9001: a copy of a data segment comes 1 s after the closing handshake (a straggler).
- 9002: after a RST, the client's kernel still answers a late data segment with another RST.
- 9003: a copy of the SYN comes 1 s after the connection was closed (the same initial sequence number: a straggler).
- 9004: a copy of a data segment comes 7 s after the closing handshake, when nothing is remembered any more.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, Frame, Testbed
from tests.corpus.testbed.streams import Connection, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def again(matches: Callable[[Frame], bool], delay: float) -> Callable[[Frame], Sequence[float]]:
    """Delivers the first matching frame twice, the second time after a delay in seconds."""
    count = itertools.count()

    def policy(frame: Frame) -> Sequence[float]:
        return (0.0, delay) if matches(frame) and next(count) == 0 else (0.0,)

    return policy


def data_from_server(frame: Frame) -> bool:
    """A data segment of the server."""
    return not frame.to_server and frame.tcp_payload_length > 0


def opening(frame: Frame) -> bool:
    """A SYN of the client."""
    return frame.to_server and frame.ip_protocol == 6 and frame.data[47] == 0x02


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.wire.tap = AFTER
        for port, matches, delay in (
            (9001, data_from_server, 1.0),
            (9002, data_from_server, 1.0),
            (9003, opening, 1.0),
            (9004, data_from_server, 7.0),
        ):
            bed.wire.policy = again(matches, delay)
            connection = Connection(bed, port=port)
            connection.ask()
            if port == 9002:
                reset(connection.client)
            else:
                connection.close()
            bed.quiet(delay + 0.3)
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
