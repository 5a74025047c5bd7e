"""The endpoint of a running probe: metrics, health, and what it does with what it is not made for."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dpi_probe import _control, _native
from dpi_probe._control import FIRST_PORT, MAX_CONNECTIONS, PORTS, Address, Listener, default_port
from dpi_probe.config import load
from dpi_probe.errors import ConfigError
from harness.books import check_books, total
from harness.core import wait_for
from harness.programs import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fed import Fed

CAPTURE = Path(__file__).parents[2] / "corpus" / "http1-keep-alive" / "input.pcap"


def test_every_declared_metric_is_shown_and_agrees_with_the_books(fed: Fed) -> None:
    fed.input.write(CAPTURE.read_bytes())
    fed.input.flush()
    shown = fed.endpoint.families()
    declared = {metric["name"]: metric for metric in _native.metric_table()}
    assert declared.keys() <= shown.keys()
    for name, metric in declared.items():
        assert shown[name].type == metric["kind"], name
        assert shown[name].documentation == metric["help"]
    assert all(name in declared or name.startswith("process_") for name in shown)
    assert fed.endpoint.value("dpi_probe_resident_memory_bytes") > 1 << 20
    assert fed.endpoint.value("dpi_probe_memory_budget_bytes") == 1024 << 20
    accounts = fed.finish()
    check_books(accounts)
    assert total(accounts, "frames_delivered") > 0
    assert not (fed.probe.spool / "metrics.json").exists(), "the address goes with the endpoint"


def test_counters_follow_the_frames(fed: Fed) -> None:
    delivered = "dpi_probe_frames_delivered_total"
    assert fed.endpoint.value(delivered) == 0
    content = CAPTURE.read_bytes()
    # More than a block, so that the probe need not wait for the end: the file's frames (after its header of 24 bytes)
    # over and over.
    fed.input.write(content + content[24:] * ((2 << 20) // len(content) + 1))
    fed.input.flush()
    wait_for(lambda: fed.endpoint.value(delivered, worker="0") > 0, "frames to be counted")
    accounts = fed.finish()
    check_books(accounts)


def test_health_says_whether_it_captures(fed: Fed) -> None:
    assert fed.endpoint.json("/healthz") == (200, {"status": "ok"})
    wait_for(lambda: fed.endpoint.json("/readyz") == (200, {"status": "capturing"}), "the probe to capture")
    status, body = fed.endpoint.json("/nothing")
    assert status == 404
    assert "/metrics" in body["error"]
    for method in ("PUT", "POST", "DELETE"):
        assert fed.endpoint.json("/metrics", method=method, body=b"x")[0] == 405
        assert fed.endpoint.json("/nothing", method=method, body=b"x")[0] == 404
    assert fed.endpoint.json("/v1/config", method="POST", body=b"{}")[0] == 405
    assert fed.endpoint.request("/healthz", method="HEAD") == (200, "")
    fed.finish(empty=True)


def test_hostile_clients_cost_nothing(fed: Fed) -> None:
    where = urllib.parse.urlsplit(fed.endpoint.url)
    address = (where.hostname, where.port)
    # Connections that say nothing: more of them than are served, and those that are too many are closed at once.
    idle = [socket.create_connection(address, timeout=30) for _ in range(MAX_CONNECTIONS + 4)]
    closed = [connection for connection in idle[MAX_CONNECTIONS:] if connection.recv(1) == b""]
    assert len(closed) == 4
    for connection in idle:
        connection.close()
    for request in (
        b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xff\x01" + bytes(200) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        b"PUT /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"PUT /v1/config HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}",
    ):

        def answered(request: bytes = request) -> bool:
            # All places may be taken for a moment by what came before.
            with socket.create_connection(address, timeout=30) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                try:
                    first = connection.recv(1)
                except ConnectionResetError:
                    return False
                return first != b""

        wait_for(answered, f"an answer to {request[:30]!r}", seconds=30)
    assert fed.endpoint.request("/healthz")[0] == 200
    fed.finish(empty=True)
    assert "Traceback" not in fed.probe.log.read_text()


class Silent:
    """In place of a probe: answers everything with nothing."""

    def answer(self, *_: str) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, "text/plain", b""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """An endpoint without a probe, whose connections may last 6 s."""
    monkeypatch.setattr(_control, "CONNECTION_SECONDS", 6.0)
    listener = Listener(Address("127.0.0.1", 0))
    monkeypatch.setattr(listener, "control", Silent(), raising=False)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield listener
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_client_that_sends_a_byte_now_and_then_is_put_out(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(listener.server_address[:2], timeout=5))
            for _ in range(MAX_CONNECTIONS)
        ]
        for connection in slow:
            connection.settimeout(0.05)

        def put_out() -> bool:
            try:
                for connection in slow:
                    connection.send(b"x")
                return slow[0].recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_for(put_out, "the end of their connections", seconds=20, pause=0.2)

        def answered() -> bool:
            connection = http.client.HTTPConnection(*listener.server_address[:2], timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/metrics")
                return connection.getresponse().status == 200
            return False

        wait_for(answered, "a place", seconds=20)


def test_a_client_that_asks_again_and_again_is_told_of_the_end(listener: Listener) -> None:
    connection = http.client.HTTPConnection(*listener.server_address[:2], timeout=5)
    with contextlib.closing(connection):
        # Every answer is whole, and the last one says that it is.
        for _ in range(100):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
            if answer.getheader("Connection") == "close":
                return
            time.sleep(0.1)
    pytest.fail("the connection may last for ever")


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path, shared_pki: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        probe = Probe(
            shared_pki, tmp_path / "spool", None,
            "-r", str(CAPTURE), f"--metrics-address=127.0.0.1:{port}",
        ).start()  # fmt: skip
        assert probe.process is not None
        assert probe.process.wait(60) == 2
    said = probe.log.read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("dpi-probe:")]
    assert line.startswith(f"dpi-probe: METRICS_ADDRESS=127.0.0.1:{port}: cannot listen there: Address already in use")
    assert line.endswith("give another address, or off")
    assert "Traceback" not in said
    assert not (tmp_path / "spool").exists(), "no chain was begun"


def test_an_address_that_cannot_be_written_keeps_no_probe_from_capturing(
    tmp_path: Path, shared_pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_ADDRESS", "127.0.0.1:0")
    # As on a full disk: neither can the file be written, nor what is in its place removed.
    in_its_place = tmp_path / "spool" / "metrics.json"
    in_its_place.mkdir(parents=True)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", str(CAPTURE)).start()
    assert total(probe.finish(), "frames_delivered") > 0
    said = probe.log.read_text()
    assert f"{in_its_place}: Is a directory; nothing that looks for the metrics there finds them" in said
    assert "Traceback" not in said
    assert not in_its_place.with_suffix(".tmp").exists()


def test_ports_are_the_interfaces_own() -> None:
    ports = {name: default_port(name) for name in ("eth0", "eth1", "ens3f0np0", "bond0.100")}
    assert len(set(ports.values())) == len(ports)
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in ports.values())
    assert ports["eth0"] == default_port("eth0")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("127.0.0.1:9", "127.0.0.1:9"), ("localhost:80", "127.0.0.1:80"), ("[::1]:65535", "[::1]:65535")],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "9", ":9", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "a.b:1", "127.0.0.1:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="metrics-address"):
        load({"metrics_address": text})


def test_an_http_1_1_client_may_ask_again_on_its_connection(fed: Fed) -> None:
    where = urllib.parse.urlsplit(fed.endpoint.url)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    for _ in range(2):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"status": "ok"}\n')
    connection.close()
    fed.finish(empty=True)
