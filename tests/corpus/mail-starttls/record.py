"""curl reads mail from Dovecot over IMAP and POP3, each first in clear and then after STARTTLS (POP3: STLS)."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.corpus.testbed import Authority, Testbed, apt_install, version

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
base_dir = {directory}/run
log_path = {directory}/dovecot.log
first_valid_uid = 1
protocols = imap pop3
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
mail_location = maildir:~/mail
service imap-login {{
  inet_listener imap {{
    port = 143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = 110
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={directory}/home
}}
"""


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(dovecot="dovecot-imapd dovecot-pop3d", curl="curl")
    with Testbed() as bed:
        bed.directory.chmod(0o755)
        home = bed.directory / "home"
        home.mkdir()
        shutil.chown(home, "mail", "mail")
        certificate, key = Authority(bed.directory).issue("mail.example")
        values = {"directory": bed.directory, "certificate": certificate, "key": key}
        settings = bed.write("dovecot.conf", SETTINGS.format(**values))
        bed.server.start(["dovecot", "-F", "-c", settings], tcp_port=110)
        login = ["curl", "--silent", "--insecure", "--user", "alice:secret"]
        for options in ([], ["--ssl-reqd"]):
            for scheme, port in (("imap", 143), ("pop3", 110)):
                name = f"mail.example:{port}:192.0.2.20"
                bed.client.run([*login, *options, "--resolve", name, f"{scheme}://mail.example/"])
        bed.quiet()
    bed.save(output)
    return [version("curl", "--version"), "Dovecot " + version("dovecot", "--version")]
