"""TLS, HTTP and DNS captured with a snap length of 96 bytes: headers are whole, most payload is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version
from tests.corpus.testbed.dns import start_dnsmasq
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = "server {{ listen 80; listen 443 ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; }}"


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("cut.example")
        start_nginx(bed, SITE.format(certificate=certificate, key=key), port=443)
        start_dnsmasq(bed)
        bed.client.run(["dig", "@192.0.2.20", "www.corpus.example", "A"])
        bed.client.run(["curl", "--silent", "--resolve", "cut.example:80:192.0.2.20", "http://cut.example/"])
        bed.client.run(
            ["curl", "--silent", "--cacert", str(authority.certificate), "--resolve", "cut.example:443:192.0.2.20",
             "https://cut.example/"]
        )  # fmt: skip
        bed.quiet()
    bed.save(output, snaplen=96)
    return [version("curl", "--version"), version("nginx", "-v"), version("dig", "-v")]
