"""The Core's service: puts ingest, archive, database process and the two doors together, and takes them apart again.

Start: lock the data directory, load keys, bring archive and catalog in step, start the database process, listen.
End (SIGTERM, SIGINT): stop listening, answer what was received, archive it, let the database finish its insert.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Self

from aiohttp import web

from dpi_probe.core.admin import Admin
from dpi_probe.core.committer import Committer
from dpi_probe.core.connections import KEEP_ALIVE_SECONDS, Connections, Handshakes, listen, request_came
from dpi_probe.core.database_link import DatabaseLink
from dpi_probe.core.ingest import Ingest
from dpi_probe.core.lock import locked
from dpi_probe.core.metrics import Metrics
from dpi_probe.core.receipt import CoreSigner
from dpi_probe.core.settings import redact, split_listen
from dpi_probe.core.trust import Trust
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dpi_probe.core.archive import Durable
    from dpi_probe.core.settings import CoreSettings

logger = logging.getLogger(__name__)

ADMIN_HOST = "127.0.0.1"
SHUTDOWN_SECONDS = 30
# What may pass: another process holds the port, or the machine does not have the address yet, as at boot.
_NOT_NOW = {
    errno.EADDRINUSE: "the port is in use by another process; stop it or give another port",
    errno.EADDRNOTAVAIL: "this machine does not have the address now; bring it up or give another",
}


def tls_context(settings: CoreSettings, metrics: Metrics) -> ssl.SSLContext:
    """TLS 1.3 only, certificates on both sides, our authority only.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # Session tickets would let a client come back without its certificate being looked at again.
    context.num_tickets = 0
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"Core certificate {settings.certificate}, key {settings.key}: {error}") from error
    try:
        context.load_verify_locations(settings.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"CA certificate {settings.ca}: {error}") from error
    context.sslobject_class = _counting(metrics)
    return context


def _counting(metrics: Metrics) -> type[ssl.SSLObject]:
    """An SSLObject that counts and logs handshakes that fail, and tells the peer; asyncio drops them in silence."""

    class CountingSSLObject(ssl.SSLObject):
        _failure: ssl.SSLError | None = None

        def do_handshake(self) -> None:
            if self._failure is not None:
                raise self._failure
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                reason = getattr(error, "verify_message", None) or error.reason or "unknown"
                metrics.handshakes_failed.labels(str(reason).lower()).inc()
                logger.warning("TLS handshake failed: %s", reason)
                self._failure = error
                # asyncio throws away what OpenSSL has written when a handshake fails, and with it the alert that tells
                # the peer why; where more is to be read it is sent. The peer's next word, its end of the connection or
                # the time limit of handshakes ends it.
                raise ssl.SSLWantReadError(*error.args) from error

    return CountingSSLObject


class Service:
    """A running Core. `async with Service(settings) as service: ...`."""

    def __init__(self, settings: CoreSettings) -> None:
        """Load keys and bring the archive in step; nothing listens yet.

        Raises:
            ConfigError: a setting or a certificate cannot be used.
            ArchiveError: the archive cannot be read or written.
            CatalogError: the catalog cannot be written.
        """
        self._settings = settings
        dsn = settings.database_dsn
        self.metrics = Metrics()
        self._signer = CoreSigner(settings.certificate, settings.key)
        self._tls = tls_context(settings, self.metrics)
        archive = settings.data_dir / "archive"
        self.trust = Trust(
            settings.ca,
            settings.crl,
            archive / "certificates",
            [settings.pki / "probes", settings.pki / "earlier"],
            self.metrics,
        )
        self._signer.check_issued(self.trust.authority, settings.pki)
        self.name = self._signer.name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handshakes: Handshakes | None = None
        self._admin_server: asyncio.Server | None = None
        self.committer = Committer(
            settings.data_dir,
            self._signer,
            self.metrics,
            certificates=self.trust.by_name(),
            segment_max_bytes=settings.segment_size_mb << 20,
            delay_s=settings.commit_delay_ms / 1000,
            on_durable=self._on_durable,
        )
        self.database = DatabaseLink(
            {
                "data_dir": str(settings.data_dir),
                "dsn": dsn,
                "core": self._signer.name,
                "memory_bytes": settings.database_memory_mb << 20,
                "nice": settings.database_nice,
                "query_seconds": settings.query_timeout_seconds,
            },
            self.metrics,
            settings.query_timeout_seconds,
        )
        self.ingest = Ingest(settings, self.trust, self.committer, self.metrics)
        self.admin = Admin(
            settings.data_dir / "catalog.sqlite", self.committer, self.database, self.trust, self.metrics
        )
        self.listen_address = ("", 0)
        self.admin_address = ("", 0)

    def _on_durable(self, durable: Durable) -> None:
        if self._loop is not None:
            # The loop is closed only after the committer has ended.
            self._loop.call_soon_threadsafe(self.database.extend, durable)

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            ConfigError: an address cannot be listened on.
            DpiProbeError: it cannot be listened on now.
        """
        self._loop = asyncio.get_running_loop()
        host, port = split_listen(self._settings.listen)
        application = self.ingest.application()
        application.middlewares.append(request_came)
        self._ingest_runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS
        )
        self._admin_runner = web.AppRunner(
            self.admin.application(), access_log=None, handle_signals=False, shutdown_timeout=1,
            # A question of a caller that is gone is not worth its answer.
            handler_cancellation=True, keepalive_timeout=KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        try:
            await self._ingest_runner.setup()
            await self._admin_runner.setup()
            with _named("CORE_LISTEN", host, port):
                sockets = await listen(host, port)
            connections = Connections(_server(self._ingest_runner), self.metrics)
            self._handshakes = Handshakes(sockets, connections, self._tls, self.metrics)
            self.listen_address = sockets[0].getsockname()[:2]
            with _named("CORE_ADMIN_PORT", ADMIN_HOST, self._settings.admin_port):
                self._admin_server = await self._loop.create_server(
                    _server(self._admin_runner), ADMIN_HOST, self._settings.admin_port
                )
            self.admin_address = self._admin_server.sockets[0].getsockname()[:2]
        except BaseException:
            await self._close_doors()
            self.committer.stop()
            raise
        self.committer.start()
        self.database.start()
        self.database.extend(self.committer.durable)
        return self

    async def _close_doors(self) -> None:
        if self._handshakes is not None:
            await self._handshakes.close()
        if self._admin_server is not None:
            self._admin_server.close()

    async def __aexit__(self, *_: object) -> None:
        """Answer and archive what was received, let the database finish, close."""
        await self._close_doors()
        await self._ingest_runner.cleanup()
        await asyncio.to_thread(self.committer.stop)
        self.ingest.close()
        await self._admin_runner.cleanup()
        await self.database.stop()
        self.admin.close()


def _server(runner: web.AppRunner) -> web.Server:
    if runner.server is None:
        raise RuntimeError("the runner was not set up")
    return runner.server


@contextlib.contextmanager
def _named(setting: str, host: str, port: int) -> Iterator[None]:
    """Say of an address that cannot be listened on which setting it is of.

    Raises:
        ConfigError: it is none that can be listened on.
        DpiProbeError: it may be one that can, at another time.
    """
    try:
        yield
    except socket.gaierror as error:
        if error.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM):
            raise DpiProbeError(
                f"{setting} = {host}:{port}: the name cannot be resolved now: {error.strerror}"
            ) from error
        raise ConfigError(f"{setting} = {host}:{port}: there is no such name: {error.strerror}") from error
    except OSError as error:
        if error.errno in _NOT_NOW:
            raise DpiProbeError(f"{setting} = {host}:{port}: {_NOT_NOW[error.errno]}") from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{setting} = {host}:{port}: {reason}") from error


async def serve(settings: CoreSettings, ready: Callable[[Service], None]) -> None:
    """Run a Core until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting, a certificate or an address cannot be used.
        DpiProbeError: an address cannot be listened on now.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with locked(settings.data_dir):
        # What SQLite and ClickHouse make too is nobody else's to read. Directories above may be shared with others.
        os.umask(0o077)
        service = Service(settings)
        async with service:
            logger.info(
                "core %s: probes at %s:%d, admin at %s:%d, database %s",
                service.name, *service.listen_address, *service.admin_address, redact(settings.database_dsn),
            )  # fmt: skip
            ready(service)
            await stop.wait()
            logger.info("stopping: finishing what was received")
    logger.info("stopped")
