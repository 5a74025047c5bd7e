"""nginx asks for a client certificate: curl shows `alice` over TLS 1.2 (visible) and over TLS 1.3 (encrypted).

A third curl has none: the handshake succeeds and nginx answers 400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version
from tests.corpus.testbed.nginx import start_nginx

if TYPE_CHECKING:
    from pathlib import Path

SITE = """
server {{
    listen 443 ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_client_certificate {authority}; ssl_verify_client on;
}}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("mutual.example")
        alice, alice_key = authority.issue("alice")
        start_nginx(bed, SITE.format(certificate=certificate, key=key, authority=authority.certificate), port=443)
        shown = ["--cert", str(alice), "--key", str(alice_key)]
        for arguments in (["--tls-max", "1.2", *shown], ["--tlsv1.3", *shown], ["--tlsv1.3"]):
            bed.client.run(
                ["curl", "--silent", "--cacert", str(authority.certificate), "--http1.1", *arguments,
                 "--resolve", "mutual.example:443:192.0.2.20", "https://mutual.example/index.html"]
            )  # fmt: skip
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), version("openssl", "version"), version("nginx", "-v")]
