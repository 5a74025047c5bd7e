"""curl lists a directory of vsftpd after AUTH TLS: the control and the data connection are encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
listen=YES
background=NO
anonymous_enable=YES
local_enable=NO
anon_root={root}
no_anon_password=YES
seccomp_sandbox=NO
secure_chroot_dir={root}
ssl_enable=YES
allow_anon_ssl=YES
require_ssl_reuse=NO
rsa_cert_file={certificate}
rsa_private_key_file={key}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(vsftpd="vsftpd", curl="curl")
    with Testbed() as bed:
        bed.directory.chmod(0o755)
        root = bed.directory / "files"
        root.mkdir(mode=0o555)
        certificate, key = Authority(bed.directory).issue("files.example")
        settings = bed.write("vsftpd.conf", SETTINGS.format(root=root, certificate=certificate, key=key))
        bed.server.start(["vsftpd", settings], tcp_port=21)
        bed.client.run(
            ["curl", "--silent", "--insecure", "--ssl-reqd", "--resolve", "files.example:21:192.0.2.20",
             "ftp://files.example/"]
        )  # fmt: skip
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), "vsftpd (Debian)"]
