"""The ways in which TCP connections begin and end, each with a server port of its own.

- 9001: refused: SYN, answered by RST.
- 9002: closed by both sides in turn; the last ACK ends it.
- 9003: half-closed: the client shuts down its side, the server still sends 3,000 bytes, then closes.
- 9004: reset by the client after data.
- 9005: reset by the server while the client's data is unread.
- 9006: both sides close at the same time (the wire holds both FINs back).
- 9007: left open: no FIN, no RST within the capture.
- 9008: the server never answers: four SYNs into a black hole.
- 9009: the client's last ACK is lost before the tap; the server's FIN comes again and its ACK is the last packet.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.corpus.testbed import AFTER, BEFORE, Frame, Testbed
from tests.corpus.testbed.streams import Connection, receive, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def refused(bed: Testbed) -> None:
    """Port 9001."""
    with bed.client.open_socket() as client, contextlib.suppress(ConnectionRefusedError):
        client.connect(("192.0.2.20", 9001))


def half_closed(bed: Testbed) -> None:
    """Port 9003."""
    connection = Connection(bed, port=9003)
    connection.ask()
    connection.client.shutdown(socket.SHUT_WR)
    connection.server.sendall(bytes(3000))
    receive(connection.client, 3000)
    connection.server.close()
    connection.client.recv(1)
    connection.client.close()


def unread(bed: Testbed) -> None:
    """Port 9005: closing a socket with unread data sends a RST."""
    connection = Connection(bed, port=9005)
    connection.ask()
    connection.client.sendall(b"never read")
    bed.quiet(0.1)
    connection.server.close()
    bed.quiet(0.1)
    connection.client.close()


def simultaneous_close(bed: Testbed) -> None:
    """Port 9006."""
    connection = Connection(bed, port=9006)
    connection.ask()
    bed.quiet(0.1)
    bed.wire.policy = lambda _: (0.02,)
    connection.client.close()
    connection.server.close()
    bed.quiet(0.1)
    bed.wire.policy = lambda _: (0.0,)


def unanswered(bed: Testbed) -> None:
    """Port 9008."""
    bed.wire.policy = lambda frame: () if frame.to_server else (0.0,)
    with bed.client.open_socket() as client, contextlib.suppress(OSError):
        client.settimeout(3.5)
        client.connect(("192.0.2.20", 9008))
    bed.wire.policy = lambda _: (0.0,)


def lost_last_ack(bed: Testbed) -> None:
    """Port 9009: what the client sends after the server's FIN is lost, and the tap sits behind the loss."""

    def policy() -> Callable[[Frame], Sequence[float]]:
        server_fins = 0

        def lose(frame: Frame) -> Sequence[float]:
            nonlocal server_fins
            if not frame.to_server and frame.ip_protocol == 6 and frame.data[47] & 0x01:
                server_fins += 1
            return () if frame.to_server and server_fins == 1 else (0.0,)

        return lose

    connection = Connection(bed, port=9009)
    connection.ask()
    bed.quiet(0.1)
    bed.wire.tap, bed.wire.policy = AFTER, policy()
    connection.close()
    bed.quiet(1.0)
    bed.wire.tap, bed.wire.policy = BEFORE, lambda _: (0.0,)


def record(output: Path) -> list[str]:
    """Run the scenario."""
    with Testbed() as bed:
        refused(bed)
        closed = Connection(bed, port=9002)
        closed.ask()
        closed.close()
        half_closed(bed)
        aborted = Connection(bed, port=9004)
        aborted.ask()
        reset(aborted.client)
        bed.quiet()
        unread(bed)
        simultaneous_close(bed)
        left_open = Connection(bed, port=9007)
        left_open.ask()
        bed.quiet()
        unanswered(bed)
        lost_last_ack(bed)
        bed.quiet()
        bed.wire.recording = False
        left_open.close()
    bed.save(output)
    return ["the testbed's own sender; Linux TCP"]
