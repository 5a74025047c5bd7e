"""openssl s_client and s_server speak DTLS 1.2 with a cookie and small fragments, DTLS 1.2 with ALPN, and DTLS 1.0.

1. Port 4433: DTLS 1.2, a HelloVerifyRequest, an MTU of 300 bytes so that the certificate comes in fragments.
2. Port 4434: DTLS 1.2 with ALPN `coap`.
3. Port 4435: DTLS 1.0 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version

if TYPE_CHECKING:
    from pathlib import Path

OLD = ["-dtls1", "-cipher", "DEFAULT@SECLEVEL=0"]


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        certificate, key = Authority(bed.directory).issue("device.example", rsa=True)
        for port, server, client in (
            ("4433", ["-dtls1_2", "-mtu", "300", "-listen"], ["-dtls1_2", "-mtu", "300"]),
            ("4434", ["-dtls1_2", "-alpn", "coap"], ["-dtls1_2", "-alpn", "coap"]),
            ("4435", OLD, OLD),
        ):
            bed.server.start(
                [
                    "openssl",
                    "s_server",
                    "-accept",
                    port,
                    "-cert",
                    str(certificate),
                    "-key",
                    str(key),
                    "-quiet",
                    *server,
                ],
                udp_port=int(port),
                stdin=-1,
            )
            bed.client.run(
                ["openssl", "s_client", "-connect", f"192.0.2.20:{port}", "-servername", "device.example", *client],
                stdin=b"hello\nQ\n",
            )
        bed.quiet()
    bed.save(output)
    return [version("openssl", "version")]
