"""An answer of about 3,500 bytes: as IP fragments (EDNS), truncated and asked again over TCP, and over IPv6.

1. `+bufsize=4096` over IPv4: three fragments.
2. `+bufsize=1232`: truncated (TC), dig then asks over TCP.
3. `+bufsize=4096` over IPv6: three fragments with fragment headers.
4. As 1, but the wire delivers (and the tap sees) the last fragment first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, Frame, Testbed, version
from tests.corpus.testbed.dns import start_dnsmasq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def last_fragment_first(frame: Frame) -> Sequence[float]:
    """Delays the fragments of IPv4 datagrams that have further fragments behind them."""
    more = frame.data[12:14] == b"\x08\x00" and bool(frame.data[20] & 0x20)
    return (0.003 if frame.data[21] == 0 else 0.002,) if more else (0.0,)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_dnsmasq(bed, large_records=16)
        question = ["large.corpus.example", "TXT"]
        bed.client.run(["dig", "@192.0.2.20", "+bufsize=4096", *question])
        bed.client.run(["dig", "@192.0.2.20", "+bufsize=1232", *question])
        bed.client.run(["dig", "@2001:db8:1::20", "+bufsize=4096", *question])
        bed.quiet()
        bed.wire.tap, bed.wire.policy = AFTER, last_fragment_first
        bed.client.run(["dig", "@192.0.2.20", "+bufsize=4096", *question])
        bed.quiet()
    bed.save(output)
    return [version("dig", "-v"), version("dnsmasq", "--version")]
