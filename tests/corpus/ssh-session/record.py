"""An OpenSSH client runs a command on an OpenSSH server with a key, then fails to log in as an unknown user."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.corpus.testbed import Testbed, apt_install, version


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(sshd="openssh-server", ssh="openssh-client")
    Path("/run/sshd").mkdir(exist_ok=True)
    with Testbed() as bed:
        keys = {name: str(bed.directory / name) for name in ("host", "user")}
        for path in keys.values():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        settings = bed.write(
            "sshd_config",
            f"HostKey {keys['host']}\nAuthorizedKeysFile {keys['user']}.pub\nPermitRootLogin prohibit-password\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile {bed.directory}/sshd.pid\n",
        )
        bed.server.start(["/usr/sbin/sshd", "-D", "-f", settings], tcp_port=22, stderr=subprocess.DEVNULL)
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
        bed.client.run(["ssh", "-q", "-F", "none", "-i", keys["user"], *options, "root@192.0.2.20", "uname -s"])
        bed.client.run(["ssh", "-q", "-F", "none", *options, "nobody-here@192.0.2.20", "true"], check=False)
        bed.quiet()
    bed.save(output)
    return [version("ssh", "-V")]
