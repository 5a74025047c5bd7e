"""Sending UDP datagrams between the hosts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.corpus.testbed.network import Testbed


def exchange(
    bed: Testbed,
    lengths: Iterable[int],
    *,
    port: int = 7000,
    answer: bool = True,
    prepare: Callable[[socket.socket], None] = lambda _: None,
    version: int = 4,
) -> None:
    """The client sends datagrams of these lengths; the server sends each back. `prepare` sets the client's options."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = "192.0.2.20" if version == 4 else "2001:db8:1::20"
    with (
        bed.client.open_socket(family, socket.SOCK_DGRAM) as client,
        bed.server.open_socket(family, socket.SOCK_DGRAM) as server,
    ):
        server.bind((address, port))
        prepare(client)
        for length in lengths:
            client.sendto(bytes(index % 251 for index in range(length)), (address, port))
            if answer:
                data, sender = server.recvfrom(65_536)
                server.sendto(data, sender)
                client.recvfrom(65_536)
        bed.quiet(0.1)
