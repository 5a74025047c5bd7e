"""curl fetches from nginx over TLS 1.2 and TLS 1.3, by several server names and with several ALPN offers.

1. TLS 1.2, ALPN http/1.1, `old.example`, ECDHE-RSA.
2. TLS 1.2, ALPN h2 and http/1.1 (h2 chosen), `shop.example`.
3. TLS 1.3, ALPN h2 and http/1.1 (h2 chosen), `shop.example`.
4. TLS 1.3, no ALPN, `news.example`, over IPv6.
5. TLS 1.3, no server name: the address is the URL's host.
6. TLS 1.1 only, which the server refuses with a protocol_version alert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = """
ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
server {{ listen 443 ssl http2; listen [::]:443 ssl http2; }}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("shop.example", "shop.example", "old.example", "news.example", rsa=True)
        start_nginx(bed, SITE.format(certificate=certificate, key=key), port=443)
        trust = ["curl", "--silent", "--cacert", str(authority.certificate)]
        for name, arguments in (
            ("old.example", ["--tls-max", "1.2", "--http1.1", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"]),
            ("shop.example", ["--tls-max", "1.2"]),
            ("shop.example", ["--tlsv1.3"]),
        ):
            bed.client.run([*trust, *arguments, "--resolve", f"{name}:443:192.0.2.20", f"https://{name}/index.html"])
        bed.client.run(
            [*trust, "--no-alpn", "--resolve", "news.example:443:[2001:db8:1::20]", "https://news.example/index.html"]
        )
        bed.client.run(["curl", "--silent", "--insecure", "https://192.0.2.20/index.html"])
        old = ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]
        refused = bed.client.run(["curl", "--silent", "--insecure", *old, "https://192.0.2.20/"], check=False)
        if refused.returncode == 0:
            raise RuntimeError("the server was to refuse TLS 1.1")
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("openssl", "version"), version("nginx", "-v")]
