"""The probe's HTTP endpoint: `/metrics`, `/healthz`, `/readyz` and `/v1/config`.

The standard library's server on threads of its own: a scrape every few seconds needs no more, and the data plane, which
never enters Python, does not notice. What a client may cost is bounded: a number of connections, a time, a body size.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import threading
import time
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from dpi_probe._log import log
from dpi_probe._loopback import address_of, is_loopback, user_of
from dpi_probe.config import CHANGEABLE
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self, TypeAlias

    from prometheus_client.metrics_core import Metric

    from dpi_probe._probe import Probe

    Answer: TypeAlias = tuple[HTTPStatus, str, bytes]

# Default ports, one for each interface name: below the range from which the kernel takes ports for clients.
FIRST_PORT = 20_000
PORTS = 1_000
# How many ports after the default one are tried when it is taken.
TRIES = 20
MAX_CONNECTIONS = 16
REQUEST_SECONDS = 10.0
# How long a connection may last, whatever comes on it: a byte now and then would keep a place for ever.
CONNECTION_SECONDS = 3 * REQUEST_SECONDS
# Beyond these a length is not even read.
_MAX_LENGTH_DIGITS = 10
# Where the address is written below the spool's directory, in the form that Prometheus reads (file_sd_configs).
ADDRESS_FILE = "metrics.json"
CONFIG_PATH = "/v1/config"
PATHS = ("/metrics", "/healthz", "/readyz", CONFIG_PATH)
MAX_BODY_BYTES = 64 * 1024


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `HOST:PORT`; a host in square brackets is IPv6."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not port.isdecimal() or int(port) > 65_535:
            raise ValueError(text)
        return cls(str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)), int(port))

    def __str__(self) -> str:
        """`HOST:PORT`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_port(interface: str) -> int:
    """The port of an interface's probe: the same after every start, and on every machine."""
    # A name may be any bytes to the kernel.
    return FIRST_PORT + zlib.crc32(os.fsencode(interface)) % PORTS


class ProbeCollector(Collector):
    """A probe's metrics for the Prometheus library."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known to be distinct, and a scrape must not be made to find that out."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now."""
        for family in self._probe.metrics():
            name, text, labels = family["name"], family["help"], family["labels"]
            if family["kind"] == "histogram":
                histogram = HistogramMetricFamily(name, text, labels=labels)
                for values, (buckets, total) in family["samples"]:
                    shown = [(_bound(bound), count) for bound, count in buckets]
                    histogram.add_metric(values, shown, total)
                yield histogram
                continue
            number = (CounterMetricFamily if family["kind"] == "counter" else GaugeMetricFamily)(
                name, text, labels=labels
            )
            for values, value in family["samples"]:
                number.add_metric(values, value)
            yield number


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else f"{seconds:.15g}"


class ControlServer:
    """Serves one probe."""

    def __init__(self, probe: Probe, listener: Listener, interface: str, directory: Path) -> None:
        """Serve on an address that is listened on."""
        self._probe = probe
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ProbeCollector(probe))
        ProcessCollector(registry=registry)
        self._registry = registry
        self._server = listener
        self._server.control = self
        self.address = listener.address
        self._file = directory / ADDRESS_FILE
        self._write_address(interface)
        self._thread = threading.Thread(target=self._server.serve_forever, name="dpi-control", daemon=True)
        self._thread.start()
        log("info", f"metrics are at http://{self.address}/metrics")

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._remove(self._file)

    def _write_address(self, interface: str) -> None:
        """Say in the spool's directory where the endpoint is; where that fails, as on a full disk, serve without."""
        entry = {"targets": [str(self.address)], "labels": {"interface": interface}}
        temporary = self._file.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps([entry]) + "\n", encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            # Capturing goes first.
            log(
                "warning",
                f"{self._file}: {error.strerror}; nothing that looks for the metrics there finds them: give Prometheus "
                f"and `dpi-probe top` {self.address}, or make space and start again",
            )
            # What an earlier probe left there may name a port that another program has now.
            self._remove(temporary)
            self._remove(self._file)

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            # At the end it must not hide what the probe has to say.
            log("warning", f"{file}: cannot be removed ({error.strerror}); it names no running probe any more")

    def answer(self, method: str, path: str, accept: str) -> Answer:
        """Status, content type and body of a request for anything but the configuration."""
        if path not in PATHS:
            return _json(HTTPStatus.NOT_FOUND, {"error": f"there is no {path}; there are {', '.join(PATHS)}"})
        if method not in ("GET", "HEAD"):
            return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{path} can be read only"})
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)
        if path == "/healthz":
            alive = self._probe.is_running()
            status = HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE
            return _json(status, {"status": "ok" if alive else "ended"})
        ready = self._probe.is_capturing()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"status": "capturing" if ready else "not capturing"})

    def configuration(self, change: bytes | None, origin: str = "") -> Answer:
        """What can be changed, as it is; or after `change`, a JSON object of some of it that `origin` asks for."""
        if change is not None:
            try:
                changes = json.loads(change)
            except RecursionError:
                return _json(HTTPStatus.BAD_REQUEST, {"error": "the body is nested too deeply"})
            except ValueError as error:
                return _json(HTTPStatus.BAD_REQUEST, {"error": f"the body is not JSON: {error}"})
            if not isinstance(changes, dict):
                return _json(HTTPStatus.BAD_REQUEST, {"error": "the body is not a JSON object"})
            try:
                self._probe.configure(changes, origin)
            except ConfigError as error:
                return _json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            except DpiProbeError as error:
                return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        settings = self._probe.settings
        return _json(HTTPStatus.OK, {name: getattr(settings, name) for name in CHANGEABLE})


def _json(status: HTTPStatus, body: dict[str, Any]) -> Answer:
    return status, "application/json", json.dumps(body).encode() + b"\n"


class Listener(ThreadingHTTPServer):
    """An address that is listened on; who connects waits until a `ControlServer` serves it."""

    daemon_threads = True
    block_on_close = False
    control: ControlServer

    def __init__(self, address: Address) -> None:
        """Listen on it."""
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)
        host, port = self.server_address[:2]
        self.address = Address(str(host), int(port))

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be started, which would have given the place back.
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(CONNECTION_SECONDS, _shut, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        # A client that went away or was too slow; the next request starts anew.
        log("debug", f"a request from {client_address[0]} broke off")


def _shut(connection: socket.socket) -> None:
    """Let whoever reads from the connection or writes to it find its end."""
    # It may have ended by itself just now.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    protocol_version = "HTTP/1.1"
    server_version = "dpi-probe"
    sys_version = ""
    timeout = REQUEST_SECONDS

    def setup(self) -> None:
        super().setup()
        self._last_from = time.monotonic() + CONNECTION_SECONDS / 3

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        # Not every body is read, so that the connection cannot go on.
        self.close_connection = True
        self._serve()

    do_POST = do_DELETE = do_PATCH = do_OPTIONS = do_PUT  # noqa: N815 - the library's names

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        try:
            if error := self._refusal(path):
                status, content_type, body = _json(HTTPStatus.FORBIDDEN, {"error": error})
            elif path == CONFIG_PATH:
                status, content_type, body = self._configuration()
            else:
                accept = self.headers.get("Accept", "")
                status, content_type, body = self.server.control.answer(self.command, path, accept)
        except (ConnectionError, TimeoutError):
            # The client went away, or was too slow with its body.
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client and the log hear of it
            log("error", f"{self.command} {path} failed, a bug: {error!r}")
            status, content_type, body = _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "a bug; the log has it"})
        self.send_response(status)
        if time.monotonic() > self._last_from:
            # A client that asks again and again is told in time, so that no answer is cut off.
            self.send_header("Connection", "close")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD, PUT" if path == CONFIG_PATH else "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refusal(self, path: str) -> str | None:
        """Why who asks gets no answer.

        What is for programs of this machine is not for web pages, which can make a browser on it ask under a name of
        their own (DNS rebinding).
        """
        address = self.server.address
        # Browsers always send one; simple health checks by HTTP/1.0 may not.
        host = self.headers.get("Host")
        if path == CONFIG_PATH and not (is_loopback(host or "") and address_of(self.client_address).is_loopback):
            return f"{CONFIG_PATH} is for this machine's loopback only"
        if is_loopback(str(address)) and host is not None and not is_loopback(host):
            return f"this is for programs of this machine, at http://{address}{path}"
        return None

    def _configuration(self) -> Answer:
        if self.command in ("GET", "HEAD"):
            return self.server.control.configuration(None)
        if self.command != "PUT":
            return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{CONFIG_PATH} can be read, and changed by PUT"})
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return _json(HTTPStatus.LENGTH_REQUIRED, {"error": "Content-Length is needed"})
        if len(length) > _MAX_LENGTH_DIGITS or int(length) > MAX_BODY_BYTES:
            return _json(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the body has more than {MAX_BODY_BYTES} bytes"}
            )
        user = user_of(self.client_address, self.request.getsockname())
        if user not in (0, os.geteuid()):
            return _json(
                HTTPStatus.FORBIDDEN, {"error": f"{CONFIG_PATH} can be changed by root and by the probe's own user"}
            )
        return self.server.control.configuration(self.rfile.read(int(length)), f"PUT {CONFIG_PATH} by uid {user}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        log("debug", f"{self.address_string()} {format % args}")


def listen(address: Address | None, interface: str) -> Listener:
    """Listen on the address; without one, on the interface's own port of the loopback, or a next one if it is taken.

    Raises:
        ConfigError: it cannot be listened on.
    """
    if address is not None:
        try:
            return Listener(address)
        except OSError as error:
            msg = f"METRICS_ADDRESS={address}: cannot listen there: {error.strerror}; give another address, or off"
            raise ConfigError(msg) from None
    first = default_port(interface)
    for port in range(first, first + TRIES):
        try:
            return Listener(Address("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror
    msg = f"no port of {first} to {first + TRIES - 1} on 127.0.0.1 can be listened on ({reason}); set METRICS_ADDRESS"
    raise ConfigError(msg)
