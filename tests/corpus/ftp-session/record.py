"""curl downloads a file from vsftpd in passive mode (EPSV) and in active mode (PORT), and lists a directory.

Control connections on port 21; the data connections go to a port of the server, or from its port 20 to the client.
"""

from __future__ import annotations

from pathlib import Path

from tests.corpus.testbed import Testbed, apt_install, version


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(vsftpd="vsftpd", curl="curl")
    Path("/var/run/vsftpd/empty").mkdir(parents=True, exist_ok=True)
    with Testbed() as bed:
        bed.directory.chmod(0o755)
        bed.write("public/report.txt", "Quarterly report.\n" * 200)
        settings = bed.write(
            "vsftpd.conf",
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nconnect_from_port_20=YES\n"
            f"anon_root={bed.directory}/public\nseccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\nftp_username=daemon\n",
        )
        bed.server.start(["vsftpd", settings], tcp_port=21)
        base = ["curl", "--silent", "--show-error"]
        bed.client.run([*base, "ftp://192.0.2.20/report.txt"])
        bed.client.run([*base, "--ftp-port", "192.0.2.10", "--disable-eprt", "ftp://192.0.2.20/report.txt"])
        bed.client.run([*base, "ftp://192.0.2.20/"])
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), "vsftpd 3.0.3"]
