"""The probes' connections: how many there may be, of all and of one certificate, and how long one may be silent.

In: connections as they come. Out: those that may stay, as aiohttp serves them. Owns: the count, and the handshakes.
Never: lets one certificate, or peers that say nothing, take the descriptors that the Core needs for everything else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import resource
from collections import Counter
from typing import TYPE_CHECKING, cast

from aiohttp import web

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from dpi_probe.core.metrics import Metrics

logger = logging.getLogger(__name__)

# From the handshake to the end of the first request head.
HEAD_SECONDS = 30.0
# From an answer to the end of the next request head. Probes close a connection 90 s after an answer: were it less than
# that, a request could meet the end of its connection.
KEEP_ALIVE_SECONDS = 120.0
# The peer's word at the end of a connection is waited for as long.
SHUTDOWN_SECONDS = 5.0
HANDSHAKE_SECONDS = 10.0
# A handshake that is younger is not ended: it may be a probe's, of many that come back together.
LEAST_HANDSHAKE_SECONDS = 0.5
BACKLOG = 128
# After an accept that failed, as for want of descriptors, none is tried for so long.
ACCEPT_PAUSE_SECONDS = 0.5
# Why is said at most so often.
SAY_AGAIN_SECONDS = 60.0
# For handshakes that go on, the archive, the catalog, the link to the database and the operators' door.
_RESERVED_DESCRIPTORS = 64
_LEAST_SHARE = 16
_LEAST_HANDSHAKES = 16


def bounds(descriptors: int) -> tuple[int, int]:
    """How many connections there may be in all and of one certificate, with so many descriptors."""
    everyone = max(1, descriptors - max(_RESERVED_DESCRIPTORS, descriptors // 4))
    return everyone, max(_LEAST_SHARE, everyone // 8)


def handshakes_at_once(descriptors: int) -> int:
    """How many handshakes there may be at a time, with so many descriptors: they are of those that are kept back."""
    return max(_LEAST_HANDSHAKES, descriptors // 16)


def _descriptors() -> int:
    # Asked each time, for it may be changed while the Core runs.
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return descriptors if descriptors != resource.RLIM_INFINITY else 1 << 20


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of the host.

    Raises:
        OSError: an address cannot be listened on.
    """
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        sockets = [listening.dup() for listening in server.sockets]
    finally:
        server.close()
    try:
        for listening in sockets:
            listening.listen(BACKLOG)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


class Handshakes:
    """Accepts connections and does their handshakes, a bounded number at a time.

    Where there are more, the oldest goes once it has had a while: a probe is done in no time, while a peer that says
    nothing never is. asyncio's own server has no bound, and writes a traceback for each accept that fails.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext,
        metrics: Metrics,
    ) -> None:
        """Accept from now on. `protocol` makes what serves a connection whose handshake is done."""
        self._sockets = sockets
        self._protocol = protocol
        self._tls = tls
        self._metrics = metrics
        # When each began, the oldest first.
        self._running: dict[asyncio.Task[None], float] = {}
        self._said = -math.inf
        self._accepting = [asyncio.ensure_future(self._accept(listening)) for listening in sockets]

    async def close(self) -> None:
        """Stop listening, and end the handshakes that go on."""
        tasks = [*self._accepting, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except ConnectionError:
                # The peer has gone already.
                continue
            except OSError as error:
                if loop.time() - self._said >= SAY_AGAIN_SECONDS:
                    logger.error("connections cannot be accepted: %s; tried again", error.strerror or error)
                    self._said = loop.time()
                self._metrics.connections_refused.labels("accept").inc()
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            # An accept that need not wait does not let others run by itself.
            await asyncio.sleep(0)
            await self._make_room()
            task = loop.create_task(self._shake_hands(connection))
            self._running[task] = loop.time()
            task.add_done_callback(lambda done: self._running.pop(done, None))

    async def _make_room(self) -> None:
        """Wait until another handshake may begin: what comes meanwhile is kept by the kernel."""
        loop = asyncio.get_running_loop()
        while len(self._running) >= handshakes_at_once(_descriptors()):
            oldest, began = next(iter(self._running.items()))
            left = began + LEAST_HANDSHAKE_SECONDS - loop.time()
            if left > 0:
                await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                # The callbacks of those that are done take them out.
                await asyncio.sleep(0)
                continue
            self._metrics.connections_refused.labels("handshake").inc()
            oldest.cancel()
            # It is as good as gone, and not to be chosen again.
            del self._running[oldest]

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as error:
            # What TLS refused it has counted and told; a peer that went away, or said nothing, has done nothing wrong.
            logger.debug("a handshake came to no end: %s", error)


class Connections:
    """Makes the protocol of each connection; counts those that are open."""

    def __init__(self, server: web.Server, metrics: Metrics) -> None:
        """`server` handles the requests."""
        self._server = server
        self._metrics = metrics
        self._open: Counter[str] = Counter()
        self._total = 0

    def __call__(self) -> Connection:
        """The protocol of a connection that was accepted."""
        return Connection(self._server, self)

    def admit(self, certificate: str) -> str | None:
        """Count a connection; if there may be no more, the reason instead."""
        everyone, share = bounds(_descriptors())
        if self._total >= everyone:
            return self._refuse("limit", f"{everyone} connections are open, as many as the Core has descriptors for")
        if self._open[certificate] >= share:
            return self._refuse("share", f"{share} connections of certificate {certificate[:16]}… are open: its share")
        self._open[certificate] += 1
        self._set(self._total + 1)
        return None

    def release(self, certificate: str) -> None:
        """A connection that was counted is closed."""
        self._open[certificate] -= 1
        if not self._open[certificate]:
            del self._open[certificate]
        self._set(self._total - 1)

    def _refuse(self, word: str, reason: str) -> str:
        self._metrics.connections_refused.labels(word).inc()
        return reason

    def _set(self, total: int) -> None:
        self._total = total
        self._metrics.connections.set(total)


class Connection(web.RequestHandler):
    """A connection of a probe."""

    def __init__(self, server: web.Server, connections: Connections) -> None:
        """Nothing is counted before the handshake is done."""
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        self._connections = connections
        self._counted_as: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        certificate = hashlib.sha256(der or b"").hexdigest()
        reason = self._connections.admit(certificate)
        if reason is not None:
            logger.warning("connection from %s closed: %s", transport.get_extra_info("peername"), reason)
            # Nothing of it must stay until the peer has answered.
            cast("asyncio.Transport", transport).abort()
            return
        self._counted_as = certificate
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.force_close)

    def head_came(self) -> None:
        """A request is being handled: from now on the time between requests counts."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed, by whichever side."""
        self.head_came()
        if self._counted_as is not None:
            self._connections.release(self._counted_as)
            self._counted_as = None
        super().connection_lost(exc)


@web.middleware
async def request_came(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell the connection that it has brought a request."""
    if isinstance(request.protocol, Connection):
        request.protocol.head_came()
    return await handler(request)
