"""tcpdump on the loopback device: frames up to 65,549 bytes (segmentation offload) with unfinished TCP checksums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.cooked import tcpdump
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_nginx(bed, "server { listen 80; }")
        bed.write("www/large.html", "0123456789abcdef" * 20_000)
        with tcpdump(bed.server, output, ["-i", "lo", "-s", "200"]):
            bed.server.run(["curl", "--silent", "--output", "/dev/null", "http://127.0.0.1/large.html"])
            bed.quiet()
    return [version("tcpdump", "--version"), version("curl", "--version"), version("nginx", "-v")]
