"""A client comes back with what it was given: a TLS 1.2 session ticket, a TLS 1.2 session id, and a TLS 1.3 ticket.

Each pair of connections goes to a server of its own port (4431, 4432, 4433); the second of each pair is resumed, so no
certificate is sent in it. The last one of port 4433 also sends early data (0-RTT).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, version

if TYPE_CHECKING:
    from pathlib import Path

# s_client ends on a line of its own that begins with Q; the pause lets the server's tickets arrive.
FETCH = "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.3; echo Q) | openssl s_client "


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        authority = Authority(bed.directory)
        certificate, key = authority.issue("resume.example")
        early = bed.write("early.txt", "GET /early HTTP/1.0\r\n\r\n")
        for port, server, client, second in (
            (4431, ["-www", "-tls1_2"], "-tls1_2", ""),
            (4432, ["-www", "-tls1_2", "-no_ticket"], "-tls1_2 -no_ticket", ""),
            (4433, ["-tls1_3", "-early_data"], "-tls1_3", f"-early_data {early}"),
        ):
            bed.server.start(
                ["openssl", "s_server", "-quiet", "-accept", str(port), *server,
                 "-cert", str(certificate), "-key", str(key)],
                tcp_port=port,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            session = bed.directory / f"{port}.session"
            to = f"-connect 192.0.2.20:{port} -servername resume.example -CAfile {authority.certificate}"
            for arguments in (f"-sess_out {session}", f"-sess_in {session} {second}"):
                bed.client.run(["sh", "-c", f"{FETCH} {to} {client} {arguments}"])
                bed.quiet()
    bed.save(output)
    return [version("openssl", "version")]
