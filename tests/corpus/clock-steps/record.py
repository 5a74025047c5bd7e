"""The capture machine's clock is set while it records: back by 2 s, then forward by 10 s, then back by 400 s.

Time stamps are therefore not in order. A step back counts as an inter-arrival time of 0; time-outs follow the greatest
time seen so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.datagrams import exchange
from tests.corpus.testbed.streams import Connection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECOND = 1_000_000_000


def stepped(seconds: int) -> Callable[[int], int]:
    """A clock that is so many seconds off."""
    return lambda now: now + seconds * SECOND


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        connection = Connection(bed)
        connection.ask()
        for step in (-2, 8, -392):
            bed.quiet(0.1)
            bed.wire.clock = stepped(step)
            connection.ask()
            exchange(bed, (100,), port=7000)
        connection.close()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
