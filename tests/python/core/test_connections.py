"""How many connections there may be, and how long one may be silent."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from dpi_probe.core import connections as module
from dpi_probe.core.connections import Connections, bounds, handshakes_at_once, request_came
from dpi_probe.core.metrics import Metrics
from harness.core import wait_for
from harness.sealing import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from harness.core import Core
    from harness.sealing import Client


def served(talk: Callable[[int, Metrics], Awaitable[None]]) -> None:
    """Run `talk` with the port of a server without TLS; a request for `/slow` takes 0.5 s."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(0.5 if request.path == "/slow" else 0)
        return web.Response(text="ok")

    async def run() -> None:
        application = web.Application(middlewares=[request_came])
        application.router.add_get("/{name}", answer)
        runner, metrics = web.AppRunner(application, access_log=None), Metrics()
        await runner.setup()
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(Connections(runner.server, metrics), "127.0.0.1", 0)
        try:
            await talk(server.sockets[0].getsockname()[1], metrics)
        finally:
            server.close()
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(run(), 60))


async def open_for(reader: asyncio.StreamReader) -> float:
    """How long the other side keeps the connection open."""
    begun = time.monotonic()
    while await reader.read(1 << 16):
        pass
    return time.monotonic() - begun


def opened(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("dpi_core_connections")


async def until_open(metrics: Metrics, count: int) -> None:
    await asyncio.to_thread(wait_for, lambda: opened(metrics) == count, f"{count} open connections")


def refused(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("dpi_core_connections_refused_total", {"reason": reason})


def test_a_connection_without_a_whole_request_head_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 3.0)

    async def talk(port: int, metrics: Metrics) -> None:
        for head in (b"", b"GET /quick HTTP/1.1\r\nHost: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            assert 0.2 < await open_for(reader) < 2.5
            writer.close()
        for path in ("quick", "slow"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await open_for(reader) > 2.5, "the time between requests is another"
            writer.close()
        await until_open(metrics, 0)

    served(talk)


def test_connections_are_bounded_in_all_and_of_one_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(port: int, metrics: Metrics) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until_open(metrics, 2)
        for reason, most in (("share", (9, 2)), ("limit", (2, 9))):
            monkeypatch.setattr(module, "bounds", lambda _, most=most: most)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionResetError):
                assert await open_for(reader) < 5
            writer.close()
            assert (refused(metrics, reason), opened(metrics)) == (1, 2)
        held.pop()[1].close()
        await until_open(metrics, 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        for _, one in (*held, (reader, writer)):
            one.close()

    served(talk)


@pytest.mark.parametrize(("descriptors", "expected"), [(64, 16), (1024, 64), (65536, 4096)])
def test_bound_of_handshakes_at_a_time(descriptors: int, expected: int) -> None:
    assert handshakes_at_once(descriptors) == expected
    assert handshakes_at_once(descriptors) + bounds(descriptors)[0] <= descriptors


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(100, (36, 16)), (1024, (768, 96)), (65536, (49152, 6144)), (64, (1, 16))],
)
def test_bounds_leave_descriptors_to_everything_else(descriptors: int, expected: tuple[int, int]) -> None:
    assert bounds(descriptors) == expected


def test_idle_connections_of_one_certificate_keep_nobody_out(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    assert core.process is not None
    resource.prlimit(core.process.pid, resource.RLIMIT_NOFILE, (100, 100))
    held: list[Client] = []
    try:
        held = [core.client("other") for _ in range(60)]
        wait_for(lambda: core.metric("dpi_core_connections_refused_total") == 44, "the others to be closed")
        assert core.metric("dpi_core_connections") == 16
        with core.client() as client:
            assert client.post("/v1/batches", probe.seal()).code == 201
        other = Probe("other", probe.pki)
        assert held[0].post("/v1/batches", other.seal()).code == 201
        core.indexed()
    finally:
        for client in held:
            client.socket.close()


def test_peers_that_never_finish_a_handshake_keep_nobody_out(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    assert core.process is not None
    resource.prlimit(core.process.pid, resource.RLIMIT_NOFILE, (150, 150))
    silent = [socket.create_connection(("127.0.0.1", core.port)) for _ in range(60)]
    try:
        for _ in range(3):
            with core.client() as client:
                assert client.post("/v1/batches", probe.seal()).code == 201
        core.indexed()
        wait_for(lambda: core.metric("dpi_core_connections_refused_total") >= 44, "the others")
    finally:
        for one in silent:
            one.close()
    assert "Traceback" not in core.log


def test_probes_that_come_back_together_are_all_served(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    assert core.process is not None
    resource.prlimit(core.process.pid, resource.RLIMIT_NOFILE, (400, 400))
    # More than handshakes may go on at a time, and less than the share of one certificate.
    assert handshakes_at_once(400) == 25
    with concurrent.futures.ThreadPoolExecutor(36) as pool:
        clients = list(pool.map(lambda _: core.client(), range(36)))
    for client in clients:
        with client:
            assert client.post("/v1/batches", probe.seal()).code == 201
    assert core.metric("dpi_core_connections_refused_total") == 0


def test_a_core_out_of_descriptors_says_so_once_and_goes_on(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    assert core.process is not None
    core.indexed()
    pid = core.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{pid}/fd").iterdir())), before[1]))
    held = socket.create_connection(("127.0.0.1", core.port))
    wait_for(lambda: "connections cannot be accepted: Too many open files" in core.log, "the message")
    time.sleep(3 * module.ACCEPT_PAUSE_SECONDS)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    with core.client() as client:
        assert client.post("/v1/batches", probe.seal()).code == 201
    held.close()
    assert core.log.count("cannot be accepted") == 1
    assert "Traceback" not in core.log
