"""TLS handshakes over a bad wire: certificate segments lost before the tap, reordered, and repeated.

1. TLS 1.2: the second data segment of the server (in the middle of its certificate) is missing at first.
2. TLS 1.2: the server's first data segment comes after the second.
3. TLS 1.3: every second data segment from the server arrives twice.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, Authority, Frame, Testbed, drop_numbers, version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def server_data(choose: Callable[[int], Sequence[float]]) -> Callable[[Frame], Sequence[float]]:
    """A policy for the server's data segments by their number from 1."""
    count = itertools.count(1)

    def policy(frame: Frame) -> Sequence[float]:
        return choose(next(count)) if not frame.to_server and frame.tcp_payload_length > 0 else (0.0,)

    return policy


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("lossy.example", *(f"host-{n}.lossy.example" for n in range(60)), rsa=True)
        bed.server.start(
            ["openssl", "s_server", "-quiet", "-www", "-accept", "443", "-cert", str(certificate), "-key", str(key)],
            tcp_port=443,
        )  # fmt: skip
        bed.wire.tap = AFTER
        for tls, policy in (
            ("-tls1_2", drop_numbers({2}, to_server=False)),
            ("-tls1_2", server_data(lambda number: (0.003,) if number == 1 else (0.0,))),
            ("-tls1_3", server_data(lambda number: (0.0, 0.001) if number % 2 == 0 else (0.0,))),
        ):
            bed.wire.policy = policy
            bed.client.run(
                ["openssl", "s_client", "-quiet", "-connect", "192.0.2.20:443", "-servername", "lossy.example",
                 "-alpn", "http/1.1", "-CAfile", str(authority.certificate), tls],
                stdin=b"GET / HTTP/1.0\r\n\r\n",
            )  # fmt: skip
            bed.quiet(0.5)
    bed.save(output)
    return [version("openssl", "version")]
