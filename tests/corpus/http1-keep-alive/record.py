"""curl sends five HTTP/1.1 requests over one kept-alive connection to nginx.

They are GET, HEAD, POST, a GET answered 404, and a GET answered with a chunked listing. A second curl then fetches one
page over IPv6. Both connections are opened and closed in the ordinary way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = """
server {
    listen 80; listen [::]:80;
    location / { }
    location /listing/ { autoindex on; }
    location /form { return 200 "thank you\\n"; }
}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        bed.write("www/listing/a.txt", "a\n")
        bed.write("www/listing/b.txt", "b\n")
        start_nginx(bed, SITE)
        resolve = ["--resolve", "shop.example:80:192.0.2.20", "--http1.1", "--silent"]
        base = "http://shop.example"
        bed.client.run(
            ["curl", *resolve, f"{base}/index.html",
             "--next", *resolve, "--head", f"{base}/index.html",
             "--next", *resolve, "--data", "article=17&amount=2", f"{base}/form",
             "--next", *resolve, f"{base}/missing?page=1",
             "--next", *resolve, f"{base}/listing/"]
        )  # fmt: skip
        bed.client.run(
            ["curl", "--silent", "--resolve", "v6.example:80:[2001:db8:1::20]", "http://v6.example/index.html"]
        )
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("nginx", "-v")]
