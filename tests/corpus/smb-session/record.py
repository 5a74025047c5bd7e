"""smbclient lists a share of a Samba server, downloads, uploads and misses a file over SMB 3.1.1."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.corpus.testbed import Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(smbd="samba", smbclient="smbclient")
    with Testbed() as bed:
        bed.directory.chmod(0o755)
        bed.write("public/report.txt", "Quarterly report.\n" * 200)
        (bed.directory / "public").chmod(0o777)
        folders = ("lock", "state", "cache", "private", "pid")
        for folder in folders:
            (bed.directory / folder).mkdir()
        settings = bed.write(
            "smb.conf",
            "[global]\nserver role = standalone server\nmap to guest = Bad User\ndisable netbios = yes\n"
            "smb ports = 445\nlog level = 0\nload printers = no\nprintcap name = /dev/null\n"
            f"lock directory = {bed.directory}/lock\nstate directory = {bed.directory}/state\n"
            f"cache directory = {bed.directory}/cache\nprivate dir = {bed.directory}/private\n"
            f"pid directory = {bed.directory}/pid\nncalrpc dir = {bed.directory}/lock/ncalrpc\n"
            f"[public]\npath = {bed.directory}/public\nguest ok = yes\nread only = no\n",
        )
        bed.server.start(
            ["smbd", "--foreground", "--debug-stdout", f"--configfile={settings}"],
            tcp_port=445, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        upload = bed.write("upload.txt", "Minutes of the meeting.\n" * 50)
        client = ["smbclient", "//192.0.2.20/public", "--no-pass", f"--configfile={settings}", "--command"]
        bed.client.run([*client, f"ls; get report.txt {bed.directory}/copy.txt; put {upload} minutes.txt; ls"])
        bed.client.run([*client, "get missing.txt /dev/null"], check=False)
        bed.quiet()
    bed.save(output)
    return [f"Samba {version('smbd', '--version').removeprefix('Version ')} (smbd and smbclient)"]
