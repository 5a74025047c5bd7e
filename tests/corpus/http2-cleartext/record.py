"""curl speaks HTTP/2 without TLS to nginx, by prior knowledge: a page, then one that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = "server { listen 8080 http2; }"


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        start_nginx(bed, SITE, port=8080)
        curl = ["curl", "--silent", "--http2-prior-knowledge", "--resolve", "shop.example:8080:192.0.2.20"]
        page = "http://shop.example:8080/index.html"
        bed.client.run([*curl, page, "--referer", "http://news.example/"])
        bed.client.run([*curl, "http://shop.example:8080/missing"])
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("nginx", "-v")]
