"""A probe that seals, a client that speaks raw HTTP over mutual TLS, and a Core in processes of its own."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native

if TYPE_CHECKING:
    from collections.abc import Callable

START_NS = 1_760_000_000_000_000_000


def address(text: str) -> bytes:
    """16 bytes, IPv4 as IPv4-mapped IPv6."""
    parsed = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed


def flow_table(count: int = 3, *, base: int = 0) -> pa.Table:
    """Flows with a `tls` struct on every second one, in the columns that the Core knows by name."""
    rows = range(base, base + count)
    tls = pa.array(
        [{"sni": f"host{row}.example.com", "version": None if row % 4 else 772} if row % 2 else None for row in rows],
        pa.struct([("sni", pa.string()), ("version", pa.uint16())]),
    )
    columns = {
        "flow_id": pa.array([2**63 + row for row in rows], pa.uint64()),
        "community_id": pa.array([f"1:{row}=" for row in rows], pa.string()),
        "start_time": pa.array([START_NS + row for row in rows], pa.timestamp("ns", "UTC")),
        "src_ip": pa.array([address(f"192.0.2.{row % 250}") for row in rows], pa.binary(16)),
        "src_port": pa.array([40000 + row % 1000 for row in rows], pa.uint16()),
        "dst_ip": pa.array([address("2001:db8::1" if row % 3 else "198.51.100.7") for row in rows], pa.binary(16)),
        "dst_port": pa.array([443 if row % 2 else 53 for row in rows], pa.uint16()),
        "src_mac": pa.array([b"\x02\x00\x5e\x00\x53\xff" if row % 2 else None for row in rows], pa.binary(6)),
        "packets_fwd": pa.array([2 + row for row in rows], pa.uint64()),
        "packets_rev": pa.array([1] * count, pa.uint64()),
        "bytes_fwd": pa.array([100 + row for row in rows], pa.uint64()),
        "bytes_rev": pa.array([50] * count, pa.uint64()),
        "app": pa.array(["tls" if row % 2 else "dns" for row in rows], pa.string()),
        "server_name": pa.array([f"host{row}.example.com" if row % 2 else None for row in rows], pa.string()),
        "vlan_ids": pa.array([[row % 4096, 7] if row % 2 else None for row in rows], pa.list_(pa.uint16())),
        "tls": tls,
    }
    return pa.table(columns)


def stream(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream of one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    return sink.getvalue().to_pybytes()


@dataclass
class Probe:
    """Seals batches as a probe does, one chain at a time."""

    name: str
    pki: Path
    suffix: str = ""
    chain: str = field(default_factory=lambda: os.urandom(16).hex())
    seq: int = 0
    prev: str | None = None

    def __post_init__(self) -> None:
        self.certificate_path = self.pki / "probes" / f"{self.name}.pem"
        self.key_path = self.pki / "probes" / f"{self.name}.key"
        self.load()

    def load(self) -> None:
        self.key = self.key_path.read_bytes()
        self.der = x509.load_pem_x509_certificate(self.certificate_path.read_bytes()).public_bytes(Encoding.DER)

    def seal(self, table: pa.Table | None = None, *, kind: str = "flow", **claims: Any) -> bytes:
        """The next batch of the chain; `claims` replaces what it would say."""
        table = flow_table(3, base=3 * self.seq) if table is None else table
        stated = {
            "iss": self.name + self.suffix,
            "kind": kind,
            "chain": self.chain,
            "seq": self.seq,
            "prev": self.prev,
            "iat": int(time.time()),
        }
        batch = _native.seal_batch(stream(table), self.key, self.der, {**stated, **claims})
        self.seq += 1
        self.prev = _native.read_claims(batch)["manifest_digest"]
        return batch


@dataclass
class Answer:
    """What the Core said."""

    code: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def claims(self) -> dict[str, Any]:
        """The receipt's claims, not verified."""
        part = self.body["receipt"].split(".")[1]
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Client:
    """HTTP/1.1 over mutual TLS on one connection, by hand: tests send what a library would not."""

    def __init__(self, port: int, pki: Path, certificate: Path | None, key: Path | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(pki / "ca.pem")
        if certificate is not None:
            context.load_cert_chain(certificate, key or certificate.with_suffix(".key"))
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def post(self, path: str, body: bytes, *, headers: dict[str, str] | None = None) -> Answer:
        lines = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        self.socket.sendall(head.encode() + b"\r\n" + body)
        return self.answer()

    def answer(self) -> Answer:
        status = self.reader.readline()
        if not status:
            raise ConnectionError("the Core closed the connection")
        headers = {}
        while (line := self.reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self.reader.read(int(headers.get("content-length", 0)))
        return Answer(int(status.split()[1]), json.loads(body) if body else {}, headers)


@dataclass
class Core:
    """A Core in processes of its own."""

    data_dir: Path
    pki: Path
    options: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    admin: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def log_path(self) -> Path:
        return self.data_dir.with_suffix(".log")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def start(self) -> Self:
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        command = [
            str(Path(sys.executable).with_name("dpi-probe")),
            "core",
            "--data-dir",
            str(self.data_dir),
            "--pki",
            str(self.pki),
        ]
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", "127.0.0.1:0", "--admin-port", "0", *self.options],
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
                text=True,
            )

        def listening() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            for line in self.log[offset:].splitlines():
                if ": probes at " in line:
                    words = line.replace(",", "").split()
                    self.port = int(words[words.index("at") + 1].rpartition(":")[2])
                    self.admin = int(words[words.index("admin") + 2].rpartition(":")[2])
                    return True
            return False

        wait_for(listening, "the Core to listen")
        return self

    def kill(self) -> None:
        """kill -9 of the service and of the database process."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def client(self, probe: str = "sensor") -> Client:
        return Client(self.port, self.pki, self.pki / "probes" / f"{probe}.pem")

    def get(self, path: str) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                body = response.read()
                return response.status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def indexed(self) -> None:
        """Wait until the index has caught up."""
        wait_for(self._caught_up, "the index to catch up", seconds=60)

    def _caught_up(self) -> bool:
        _, health = self.get("/v1/health")
        return health["index"]["entries"] == health["archive"]["entries"] and health["status"] == "ok"

    def metric(self, name: str) -> float:
        _, text = self.get("/metrics")
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
