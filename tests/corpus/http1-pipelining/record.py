"""A small client sends four pipelined HTTP/1.1 requests in one segment, the last with `Connection: close`.

nginx answers all four in order and closes; the client had already half-closed its side.
"""

from __future__ import annotations

import platform
import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = b"".join(
    b"GET %s HTTP/1.1\r\nHost: pipeline.example\r\nUser-Agent: pipeliner/1.0\r\n%s\r\n" % (path, extra)
    for path, extra in (
        (b"/index.html", b""),
        (b"/one", b""),
        (b"/index.html?again", b""),
        (b"/two", b"Connection: close\r\n"),
    )
)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_nginx(bed, "server { listen 80; }")
        with bed.client.open_socket() as client:
            client.connect(("192.0.2.20", 80))
            client.sendall(REQUESTS)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65_536):
                pass
        bed.quiet()
    bed.save(output)
    return [f"Python {platform.python_version()} (client)", version("nginx", "-v")]
