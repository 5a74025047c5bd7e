"""The HTTP endpoint's listener and who asks it, without a probe."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from dpi_probe._control import MAX_CONNECTIONS, Address, Listener
from dpi_probe._loopback import user_of


def test_a_connection_whose_thread_cannot_start_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_start(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    with Listener(Address("127.0.0.1", 0)) as listener:
        for _ in range(MAX_CONNECTIONS + 1):
            with pytest.raises(RuntimeError):
                listener.process_request(None, ("127.0.0.1", 1))


@pytest.mark.parametrize(("listens", "connects"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "::1")])
def test_the_kernel_knows_whose_connection_it_is(listens: str, connects: str) -> None:
    try:
        server = socket.create_server(
            (listens, 0), family=socket.AF_INET6 if ":" in listens else socket.AF_INET, dualstack_ipv6=listens == "::"
        )
    except OSError as error:
        pytest.skip(str(error))
    with server, socket.create_connection((connects, server.getsockname()[1])):
        accepted, client = server.accept()
        with accepted:
            assert user_of(client, accepted.getsockname()) == os.geteuid()
            assert user_of((client[0], 1), accepted.getsockname()) is None


def test_who_has_closed_its_connection_is_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = socket.create_connection(server.getsockname())
        accepted, client = server.accept()
        with accepted:
            connection.sendall(b"a request")
            connection.close()
            assert accepted.recv(100) == b"a request"
            assert accepted.recv(100) == b"", "its end was seen"
            assert user_of(client, accepted.getsockname()) is None


def test_an_address_of_ipv4_on_a_socket_of_ipv6_is_known() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as connection,
    ):
        try:
            connection.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        except OSError as error:
            pytest.skip(str(error))
        accepted, client = server.accept()
        with accepted:
            assert user_of(client, accepted.getsockname()) == os.geteuid()
