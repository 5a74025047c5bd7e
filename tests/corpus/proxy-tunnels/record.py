"""curl fetches through proxies: CONNECT through tinyproxy, a CONNECT that is refused, and SOCKS 5 through microsocks.

1. HTTPS through an HTTP proxy on port 8888 (CONNECT).
2. CONNECT to a port that the proxy refuses.
3. HTTPS through SOCKS 5, then plain HTTP through SOCKS 5 with a user name and a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, apt_install, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = """
ssl_certificate {certificate}; ssl_certificate_key {key};
server {{ listen 443 ssl; }} server {{ listen 80; }}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(tinyproxy="tinyproxy-bin", microsocks="microsocks")
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("shop.example")
        start_nginx(bed, SITE.format(certificate=certificate, key=key), port=443)
        settings = bed.write("tinyproxy.conf", "Port 8888\nConnectPort 443\nMaxClients 8\n")
        bed.server.start(["tinyproxy", "-d", "-c", settings], tcp_port=8888)
        bed.server.start(["microsocks", "-p", "1080"], tcp_port=1080)
        bed.server.start(["microsocks", "-p", "1081", "-u", "alice", "-P", "secret"], tcp_port=1081)
        curl = ["curl", "--silent", "--insecure", "--http1.1"]
        page = "https://192.0.2.20/index.html"
        bed.client.run([*curl, "--proxy", "http://192.0.2.20:8888", page])
        bed.client.run([*curl, "--proxy", "http://192.0.2.20:8888", "https://192.0.2.20:8443/"], check=False)
        bed.client.run([*curl, "--proxy", "socks5h://192.0.2.20:1080", page])
        bed.client.run([*curl, "--proxy", "socks5h://alice:secret@192.0.2.20:1081", "http://192.0.2.20/index.html"])
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("tinyproxy", "-v"), "microsocks (Debian)", version("nginx", "-v")]
