"""Fragments that come last first, come twice, or never: the tap sits near the receiver.

UDP datagrams of 4,000 bytes (three fragments), one at a time, from the client to the server:

1. in order;
2. last fragment first, first fragment last;
3. the middle fragment twice;
4. without the first fragment (its ports are never seen);
5. without the last fragment;
6. two datagrams whose fragments interleave.

Then one over IPv6 with the first fragment last, and a plain small datagram each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, Frame, Testbed
from tests.corpus.testbed.datagrams import exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

HEADERS = {b"\x08\x00": 20, b"\x86\xdd": 62}


def offset_of(frame: Frame) -> int | None:
    """Fragment offset in bytes of an IPv4 or IPv6 fragment, else None."""
    data = frame.data
    if data[12:14] == b"\x08\x00":
        field = int.from_bytes(data[20:22], "big")
        return (field & 0x1FFF) * 8 if field & 0x3FFF else None
    if data[12:14] == b"\x86\xdd" and data[20] == 44:
        return int.from_bytes(data[56:58], "big") & 0xFFF8
    return None


def by_offset(choose: Callable[[int], Sequence[float]]) -> Callable[[Frame], Sequence[float]]:
    """A policy for the client's fragments, by index in their datagram (0, 1, 2)."""

    def policy(frame: Frame) -> Sequence[float]:
        offset = offset_of(frame)
        return choose(offset // 1400) if frame.to_server and offset is not None else (0.0,)

    return policy


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.wire.tap = AFTER
        for port, choose in (
            (7001, lambda _: (0.0,)),
            (7002, lambda index: (0.006 - 0.003 * index,)),
            (7003, lambda index: (0.0, 0.003) if index == 1 else (0.0,)),
            (7004, lambda index: () if index == 0 else (0.0,)),
            (7005, lambda index: () if index == 2 else (0.0,)),
            (7006, lambda index: (0.004 * index,)),
        ):
            bed.wire.policy = by_offset(choose)
            exchange(bed, (4000, 4000) if port == 7006 else (4000,), port=port, answer=False)
            exchange(bed, (10,), port=port, answer=False)
        bed.wire.policy = by_offset(lambda index: (0.006 - 0.003 * index,))
        exchange(bed, (4000,), port=7007, answer=False, version=6)
        exchange(bed, (10,), port=7007, answer=False, version=6)
        bed.quiet()
    bed.save(output)
    return ["the testbed's own sender"]
