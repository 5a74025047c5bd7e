"""Hosts (network namespaces) and the testbed that joins two of them by a wire."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.corpus.testbed.capture_file import write_pcap
from tests.corpus.testbed.wire import Wire, open_tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

COMMAND_TIMEOUT_SECONDS = 60


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait for a condition, or fail saying what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


class Host:
    """A network namespace with one interface, `eth0`."""

    def __init__(self, name: str, ipv4: str, ipv6: str) -> None:
        """Make the namespace; addresses are given to `eth0` by :meth:`configure`."""
        self.name = name
        self.namespace = f"dpi-{name}-{secrets.token_hex(3)}"
        self.ipv4, self.ipv6 = ipv4, ipv6
        self._processes: list[subprocess.Popen[bytes]] = []
        _ip("netns", "add", self.namespace)
        self.ip("link", "set", "lo", "up")
        for key, value in {"accept_dad": 0, "accept_ra": 0, "router_solicitations": 0}.items():
            self.run(["sysctl", "-q", f"net.ipv6.conf.default.{key}={value}"])

    def ip(self, *arguments: str) -> None:
        """Run ip(8) in this namespace."""
        _ip("-n", self.namespace, *arguments)

    def configure(self, mac: str, device: str = "eth0") -> None:
        """Give a device its addresses and bring it up."""
        self.ip("link", "set", device, "address", mac)
        self.ip("addr", "add", f"{self.ipv4}/24", "dev", device)
        self.ip("addr", "add", f"{self.ipv6}/64", "dev", device, "nodad")
        self.ip("link", "set", device, "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread in this namespace: sockets made meanwhile stay in it."""
        inside_path = Path(f"/run/netns/{self.namespace}")
        with Path("/proc/thread-self/ns/net").open() as before, inside_path.open() as inside:
            self._setns(inside.fileno())
            try:
                yield
            finally:
                self._setns(before.fileno())

    @staticmethod
    def _setns(descriptor: int) -> None:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket in this namespace, with a timeout so that no recording hangs."""
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(COMMAND_TIMEOUT_SECONDS)
        return made

    def listen(self, port: int, family: int = socket.AF_INET, backlog: int = 16) -> socket.socket:
        """A TCP socket of this namespace that listens on a port of all addresses."""
        listener = self.open_socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(backlog)
        return listener

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in this namespace to its end; a failure shows what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_TIMEOUT_SECONDS,
            env={**os.environ, **(env or {})},
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout.decode(errors='replace')}")
        return done

    def start(
        self,
        command: Sequence[str],
        *,
        tcp_port: int | None = None,
        udp_port: int | None = None,
        env: dict[str, str] | None = None,
        **keywords: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a server in this namespace, and wait until it has the port bound."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command], env={**os.environ, **(env or {})}, **keywords
        )
        self._processes.append(process)
        for table, port, state in (("tcp", tcp_port, "0A"), ("udp", udp_port, "07")):
            if port is not None:
                wait_until(
                    lambda table=table, port=port, state=state: self._bound(table, port, state),  # type: ignore[misc]
                    f"{command[0]} to open {table} port {port}",
                )
        return process

    def _bound(self, table: str, port: int, state: str) -> bool:
        with self.entered():
            lines = [
                line
                for name in (table, table + "6")
                for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]
            ]
        return any(int(line.split()[1].rsplit(":", 1)[1], 16) == port and line.split()[3] == state for line in lines)

    def stop(self) -> None:
        """End what was started and remove the namespace."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _ip("netns", "del", self.namespace)


class Testbed:
    """Client, wire, server; with `router`, the server sits one hop behind the far end of the wire."""

    __test__ = False

    def __init__(self, *, router: bool = False, mtu_behind_router: int = 1500) -> None:
        """Make the namespaces and the devices, all up and able to reach each other."""
        self.directory = Path(tempfile.mkdtemp(prefix="dpi-testbed-"))
        self.client = Host("client", "192.0.2.10", "2001:db8:1::10")
        self.hosts = [self.client]
        if router:
            far = Host("router", "192.0.2.1", "2001:db8:1::1")
            self.server = Host("server", "198.51.100.20", "2001:db8:2::20")
            self.hosts += [far, self.server]
        else:
            far = self.server = Host("server", "192.0.2.20", "2001:db8:1::20")
            self.hosts.append(far)
        self.far = far
        descriptors = []
        for host, mac in ((self.client, "02:00:00:00:00:10"), (far, "02:00:00:00:00:20")):
            with host.entered():
                descriptors.append(open_tap("eth0"))
            host.configure(mac)
        if router:
            self._attach_behind_router(far, mtu_behind_router)
        self.wire = Wire(*descriptors)

    def _attach_behind_router(self, router: Host, mtu: int) -> None:
        _ip("-n", router.namespace, "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns",
            self.server.namespace)  # fmt: skip
        self.server.configure("02:00:00:00:00:30")
        router.ip("addr", "add", "198.51.100.1/24", "dev", "eth1")
        router.ip("addr", "add", "2001:db8:2::1/64", "dev", "eth1", "nodad")
        router.ip("link", "set", "eth1", "up", "mtu", str(mtu))
        router.run(["sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for host, v4, v6 in (
            (self.client, "192.0.2.1", "2001:db8:1::1"),
            (self.server, "198.51.100.1", "2001:db8:2::1"),
        ):
            host.ip("route", "add", "default", "via", v4)
            host.ip("route", "add", "default", "via", v6)

    def __enter__(self) -> Self:
        """Start the wire."""
        self.wire.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything; what was recorded stays."""
        for host in self.hosts:
            host.stop()
        self.wire.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def quiet(self, seconds: float = 0.2) -> None:
        """Wait until the wire has been silent for a while, so that closing handshakes are recorded whole."""
        count, since = len(self.wire.records), time.monotonic()
        deadline = since + 20
        while time.monotonic() - since < seconds:
            if time.monotonic() > deadline:
                raise TimeoutError("the wire does not fall silent")
            time.sleep(0.02)
            if len(self.wire.records) != count:
                count, since = len(self.wire.records), time.monotonic()

    def save(self, path: Path, *, nanoseconds: bool = False, snaplen: int = 262_144) -> None:
        """Write what the wire recorded."""
        records = [record.cut(snaplen) for record in self.wire.records]
        path.write_bytes(write_pcap(records, snaplen=snaplen, nanoseconds=nanoseconds))

    def write(self, name: str, text: str) -> str:
        """A file of the testbed's own directory, which is removed at the end; returns its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)
