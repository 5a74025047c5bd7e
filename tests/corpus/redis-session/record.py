"""redis-cli sends commands to a Redis server: SET, GET, a missing key, an unknown command, and a pipeline of 20."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(redis_server="redis-server", redis_cli="redis-tools")
    with Testbed() as bed:
        bed.server.start(
            ["redis-server", "--port", "6379", "--protected-mode", "no", "--save", "", "--dir", str(bed.directory)],
            tcp_port=6379, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        to = ["redis-cli", "-h", "192.0.2.20"]
        for command in (["SET", "article:17", "lamp"], ["GET", "article:17"], ["GET", "missing"], ["NOSUCH", "x"]):
            bed.client.run([*to, *command])
        pipeline = b"".join(b"*2\r\n$4\r\nINCR\r\n$5\r\nvisit\r\n" for _ in range(20))
        bed.client.run([*to, "--pipe"], stdin=pipeline)
        bed.quiet()
    bed.save(output)
    return [version("redis-server", "--version")]
