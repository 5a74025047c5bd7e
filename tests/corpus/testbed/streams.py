"""TCP connections between the hosts, driven step by step from one thread."""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.corpus.testbed.network import Testbed


class Connection:
    """An established connection with both its sockets."""

    def __init__(self, bed: Testbed, *, port: int = 9000, client_port: int = 0, receive_buffer: int = 0) -> None:
        """Connect the client to a listener of the server that lives only for this."""
        self.bed = bed
        with bed.server.listen(port) as listener:
            if receive_buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.client = bed.client.open_socket()
            if client_port:
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.client.bind(("192.0.2.10", client_port))
            self.client.connect(("192.0.2.20", port))
            self.server, _ = listener.accept()
        for side in (self.client, self.server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            side.settimeout(30)

    def ask(self, request: bytes = b"ping\n", answer: bytes = b"pong\n") -> None:
        """The client sends, the server answers."""
        self.client.sendall(request)
        receive(self.server, len(request))
        self.server.sendall(answer)
        receive(self.client, len(answer))

    def download(self, length: int) -> None:
        """The server sends so many bytes, the client reads them."""
        data = bytes(index * 7 % 256 for index in range(length))
        sender = threading.Thread(target=self.server.sendall, args=(data,))
        sender.start()
        if receive(self.client, length) != data:
            raise RuntimeError("the stream was damaged")
        sender.join()

    def close(self) -> None:
        """The client closes first, the server after it."""
        self.client.shutdown(socket.SHUT_WR)
        if self.server.recv(1):
            raise RuntimeError("data after the end")
        self.server.close()
        self.client.recv(1)
        self.client.close()
        self.bed.quiet(0.1)


def receive(side: socket.socket, length: int) -> bytes:
    """Exactly so many bytes."""
    parts = b""
    while len(parts) < length:
        part = side.recv(length - len(parts))
        if not part:
            raise RuntimeError(f"the stream ended after {len(parts)} of {length} bytes")
        parts += part
    return parts


def reset(side: socket.socket) -> None:
    """Close with a RST."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()
