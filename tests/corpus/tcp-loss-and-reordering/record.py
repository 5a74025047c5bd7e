"""Downloads of 60 kB while the wire loses, delays, repeats and reorders segments.

1. Lost behind the tap (port 9001): the capture holds the segment and its retransmission.
2. Lost before the tap (port 9002): the capture shows a hole, then the retransmission.
3. Reordered (port 9003): every seventh data segment comes 3 ms late.
4. Repeated by the network (port 9004): every fifth data segment arrives twice.
5. The SYN, the SYN-ACK and the final FIN are lost once each behind the tap (port 9005).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, BEFORE, Frame, Testbed, drop_numbers
from tests.corpus.testbed.streams import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SYN, FIN = 0x02, 0x01


def every(step: int, late: Sequence[float]) -> Callable[[Frame], Sequence[float]]:
    """Treats every n-th data segment from the server in its own way."""
    count = itertools.count(1)

    def policy(frame: Frame) -> Sequence[float]:
        chosen = not frame.to_server and frame.tcp_payload_length > 0 and next(count) % step == 0
        return late if chosen else (0.0,)

    return policy


def lose_control_segments() -> Callable[[Frame], Sequence[float]]:
    """Loses the first SYN and the first FIN of each direction."""
    seen: set[tuple[bool, int]] = set()

    def policy(frame: Frame) -> Sequence[float]:
        if frame.ip_protocol == 6 and frame.data[12:14] == b"\x08\x00":
            flags = frame.data[14 + 20 + 13]
            for flag in (SYN, FIN):
                if flags & flag and (frame.to_server, flag) not in seen:
                    seen.add((frame.to_server, flag))
                    return ()
        return (0.0,)

    return policy


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        for port, tap, policy in (
            (9001, BEFORE, drop_numbers({3, 4, 11}, to_server=False)),
            (9002, AFTER, drop_numbers({3, 4, 11}, to_server=False)),
            (9003, AFTER, every(7, (0.003,))),
            (9004, AFTER, every(5, (0.0, 0.001))),
            (9005, BEFORE, lose_control_segments()),
        ):
            bed.wire.tap, bed.wire.policy = tap, policy
            connection = Connection(bed, port=port)
            connection.ask()
            connection.download(60_000 if port != 9005 else 2_000)
            connection.close()
            bed.quiet(1.5)
    records = [record.cut(200) for record in bed.wire.records]
    bed.wire.records = records
    bed.save(output, snaplen=200)
    return ["the testbed's own sender; Linux TCP"]
