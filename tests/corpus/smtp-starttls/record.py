"""swaks delivers three mails to aiosmtpd: in clear, after STARTTLS, and to a recipient that is refused."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.testbed import Authority, Testbed, apt_install, tools_python, version

SERVER = str(Path(__file__).parents[1] / "testbed" / "smtp_server.py")


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(swaks="swaks libnet-ssleay-perl")
    python = tools_python("aiosmtpd")
    with Testbed() as bed:
        certificate, key = Authority(bed.directory).issue("mail.example")
        bed.server.start([python, SERVER, "192.0.2.20", "25", str(certificate), str(key)], tcp_port=25)
        mail = ["swaks", "--server", "192.0.2.20", "--helo", "client.example", "--from", "alice@client.example",
                "--header", "Subject: hello", "--body", "Good morning.", "--silent", "2"]  # fmt: skip
        bed.client.run([*mail, "--to", "bob@mail.example"])
        bed.client.run([*mail, "--to", "bob@mail.example", "--tls"])
        bed.client.run([*mail, "--to", "nobody@mail.example"], check=False)
        bed.quiet()
    bed.save(output)
    return [
        version("swaks", "--version"),
        "aiosmtpd " + version(python, "-c", "import aiosmtpd; print(aiosmtpd.__version__)"),
    ]
