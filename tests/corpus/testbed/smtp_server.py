"""An SMTP server on aiosmtpd that offers STARTTLS: smtp_server.py ADDRESS PORT CERTIFICATE KEY."""

from __future__ import annotations

import ssl
import sys
import threading
from typing import TYPE_CHECKING

from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session


class Handler:
    """Takes every mail but those for `nobody`."""

    async def handle_RCPT(  # noqa: N802 - the name is aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Accept or refuse a recipient."""
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        """Take the mail and forget it."""
        return "250 Message accepted for delivery"


def main(address: str, port: str, certificate: str, key: str) -> None:
    """Serve until terminated."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    Controller(Handler(), hostname=address, port=int(port), tls_context=context).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
