"""A ClientHello of about 3 kB (a long list of ALPN names) that needs three Initial packets.

In the second connection the wire delivers the client's first datagram last, so CRYPTO data arrives out of order; in the
third the first datagram is lost behind the tap and its data sent again.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, BEFORE, Frame, Testbed, drop_numbers
from tests.corpus.testbed.quic import Quic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

UDP = 17
NAMES = ["h3", *(f"unused-application-protocol-number-{number:02}" for number in range(70))]


def first_datagram_last() -> Callable[[Frame], Sequence[float]]:
    """Holds back the client's first UDP datagram."""
    count = itertools.count(1)

    def policy(frame: Frame) -> Sequence[float]:
        return (0.005,) if frame.to_server and frame.ip_protocol == UDP and next(count) == 1 else (0.0,)

    return policy


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        quic = Quic(bed, "large.example")
        quic.serve(443)
        quic.fetch(443, "v1", *NAMES)
        bed.quiet()
        bed.wire.tap, bed.wire.policy = AFTER, first_datagram_last()
        quic.fetch(443, "v1", *NAMES)
        bed.quiet()
        bed.wire.tap, bed.wire.policy = (
            BEFORE,
            drop_numbers({1}, to_server=True, matches=lambda frame: frame.ip_protocol == UDP),
        )
        quic.fetch(443, "v1", *NAMES)
        bed.quiet()
    bed.save(output)
    return quic.programs()
