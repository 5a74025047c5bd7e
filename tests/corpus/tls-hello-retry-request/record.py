"""The client's first key share (X25519) is not to the server's taste, which asks for P-384 by a HelloRetryRequest.

The flow holds two ClientHello messages with the same server name. A second connection to the same server offers P-384
at once and needs no retry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("retry.example")
        bed.server.start(
            ["openssl", "s_server", "-quiet", "-www", "-accept", "443", "-tls1_3", "-groups", "P-384",
             "-cert", str(certificate), "-key", str(key)],
            tcp_port=443,
        )  # fmt: skip
        for groups in ("X25519:P-256:P-384", "P-384"):
            bed.client.run(
                ["openssl", "s_client", "-quiet", "-connect", "192.0.2.20:443", "-servername", "retry.example",
                 "-alpn", "http/1.1", "-groups", groups, "-CAfile", str(authority.certificate)],
                stdin=b"GET / HTTP/1.0\r\n\r\n",
            )  # fmt: skip
            bed.quiet()
    bed.save(output)
    return [version("openssl", "version")]
