"""The server answers the first Initial with a Retry packet; the client comes back with the token and a new key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.quic import Quic

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        quic = Quic(bed, "retry.example")
        quic.serve(443, "retry")
        quic.fetch(443, "v1", "h3")
        bed.quiet()
    bed.save(output)
    return quic.programs()
