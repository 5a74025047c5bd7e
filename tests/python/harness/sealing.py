"""Batches sealed as a probe does, and a client that sends over raw HTTP what a library would not."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native

if TYPE_CHECKING:
    from pathlib import Path

START_NS = 1_760_000_000_000_000_000


def address(text: str) -> bytes:
    """16 bytes, IPv4 as IPv4-mapped IPv6."""
    parsed = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed


def flow_table(count: int = 3, *, base: int = 0) -> pa.Table:
    """Flows with a `tls` struct on every second one, in the columns that the Core knows by name."""
    rows = range(base, base + count)
    tls = pa.array(
        [{"sni": f"host{row}.example.com", "version": None if row % 4 else "1.3"} if row % 2 else None for row in rows],
        pa.struct([("sni", pa.string()), ("version", pa.string())]),
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

    def restate(self, batch: bytes, iat: int) -> bytes:
        """The batch with another time of sealing, signed again: as one seals that started when that was allowed."""
        manifest = _native.read_claims(batch)["manifest"]
        head, payload, _ = manifest.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        parts = [head, _b64url(json.dumps({**claims, "iat": iat}, separators=(",", ":")).encode())]
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        parts.append(_b64url(key.sign(".".join(parts).encode(), pss, hashes.SHA256())))
        made = batch.replace(manifest.encode(), ".".join(parts).encode())
        assert len(made) == len(batch)
        return made


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


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
