"""aioquic as QUIC server and client of the testbed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.corpus.testbed.programs import Authority, tools_python, version

if TYPE_CHECKING:
    from tests.corpus.testbed.network import Testbed

_SCRIPT = str(Path(__file__).with_name("quic_peer.py"))


class Quic:
    """An echo server with a certificate of its own, and clients that talk to it."""

    def __init__(self, bed: Testbed, name: str) -> None:
        """Install aioquic and make the certificate."""
        self._bed, self._name = bed, name
        self._python = tools_python("aioquic")
        self._authority = Authority(bed.directory)
        self._certificate, self._key = self._authority.issue(name)

    def serve(self, port: int, *options: str, address: str = "192.0.2.20") -> None:
        """Start a server on a port."""
        self._bed.server.start(
            [self._python, _SCRIPT, "serve", address, str(port), str(self._certificate), str(self._key), *options],
            udp_port=port,
        )

    def fetch(self, port: int, quic_version: str, *alpn: str, address: str = "192.0.2.20") -> None:
        """One connection to a port."""
        self._bed.client.run(
            [self._python, _SCRIPT, "fetch", address, str(port), self._name, str(self._authority.certificate),
             quic_version, *alpn]
        )  # fmt: skip

    def programs(self) -> list[str]:
        """What takes part."""
        return ["aioquic " + version(self._python, "-c", "import aioquic; print(aioquic.__version__)")]
