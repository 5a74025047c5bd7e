"""Three QUIC connections: version 1 with ALPN h3, version 2 with ALPN hq-interop, and version 1 over IPv6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed
from tests.corpus.testbed.quic import Quic

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        quic = Quic(bed, "quic.example")
        quic.serve(443)
        quic.fetch(443, "v1", "h3")
        quic.fetch(443, "v2", "hq-interop")
        quic.serve(4443, address="2001:db8:1::20")
        quic.fetch(4443, "v1", "h3", address="2001:db8:1::20")
        bed.quiet()
    bed.save(output)
    return quic.programs()
