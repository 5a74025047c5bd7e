"""Write the vectors of `docs/formats/` anew: `python tests/vectors/make.py`.

Made from the text of the formats with pyarrow, cbor2, cryptography and hashlib alone, without the project's own code,
so that the Rust code and this file check each other. Keys and certificates in `pki/` are made if they are missing; they
are for tests only. Signatures are random by design (RSASSA-PSS, ECDSA): a new run gives other manifests and receipts.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import math
import struct
from pathlib import Path
from typing import Any

import cbor2
import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).parent
PKI = HERE / "pki"
NOW = 1_790_000_000
CHAIN = "000102030405060708090a0b0c0d0e0f"
BEFORE = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"


def b64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def digest(data: bytes) -> str:
    """SHA-256 in base64url."""
    return b64url(hashlib.sha256(data).digest())


# --- certificates ---------------------------------------------------------------------------------------------------


def certificate(name: str, key: Any, uri: str | None, usage: Any, issuer: tuple[Any, Any] | None, days: int) -> Any:
    """A certificate of the PKI profile, valid for `days` from 2026-01-01."""
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer_key, signer_name = (key, subject) if issuer is None else (issuer[1], issuer[0].subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), critical=True
        )
    )
    if uri is not None:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if usage == ExtendedKeyUsageOID.SERVER_AUTH:
            names += [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(signer_key, hashes.SHA256())


def write_pair(name: str, key: Any, made: Any) -> None:
    """A key and its certificate as files."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (PKI / f"{name}.key").write_bytes(pem)
    (PKI / f"{name}.key").chmod(0o600)
    (PKI / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def make_posing() -> None:
    """A certificate with the role of a probe, and all else of a Core: its host names, its usage, its kind of key."""
    ca_key = serialization.load_pem_private_key((PKI / "ca.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate((PKI / "ca.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    server = ExtendedKeyUsageOID.SERVER_AUTH
    write_pair("posing", key, certificate("probe-1", key, "urn:dpi-probe:probe:probe-1", server, (ca, ca_key), 36000))


def make_pki() -> None:
    """Keys and certificates for tests: a CA, a Core, two probes, an expired one, and strangers under another CA."""
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    for prefix in ("", "other-"):
        ca_key = ec.generate_private_key(ec.SECP384R1())
        ca = certificate(f"{prefix}test CA", ca_key, None, None, None, 36500)
        write_pair(f"{prefix}ca", ca_key, ca)
        core_key = ec.generate_private_key(ec.SECP256R1())
        core = certificate("core-1", core_key, "urn:dpi-probe:core:core-1", server, (ca, ca_key), 36500)
        write_pair(f"{prefix}core", core_key, core)
        probes = [("probe", "probe-1", 36500)]
        if not prefix:
            probes += [("probe2", "probe-2", 36500), ("expired", "probe-1", 1)]
        for file, name, days in probes:
            key = rsa.generate_private_key(65537, 4096)
            made = certificate(name, key, f"urn:dpi-probe:probe:{name}", client, (ca, ca_key), days)
            write_pair(prefix + file, key, made)


def load(name: str) -> tuple[Any, bytes]:
    """Key and certificate (DER) of the test PKI."""
    key = serialization.load_pem_private_key((PKI / f"{name}.key").read_bytes(), None)
    made = x509.load_pem_x509_certificate((PKI / f"{name}.pem").read_bytes())
    return key, made.public_bytes(serialization.Encoding.DER)


# --- formats --------------------------------------------------------------------------------------------------------


def jws(header: dict[str, Any], claims: dict[str, Any], key: Any) -> str:
    """A compact JWS, PS256 with an RSA key, ES256 with an EC key."""
    signing_input = ".".join(b64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(signing_input.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    else:
        r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signing_input}.{b64url(signature)}"


def column(field: pa.Field) -> list[Any]:
    """A column of the schema fingerprint."""
    kind = field.type
    if pa.types.is_list(kind):
        return [field.name, "list", field.nullable, column(kind.value_field)]
    if pa.types.is_struct(kind):
        return [field.name, "struct", field.nullable, *(column(kind.field(i)) for i in range(kind.num_fields))]
    return [field.name, str(kind), field.nullable]


def value(item: pa.Scalar) -> Any:
    """The value that goes into a leaf."""
    if not item.is_valid:
        return None
    if pa.types.is_timestamp(item.type):
        return item.value
    if pa.types.is_list(item.type):
        return [value(part) for part in item.values]
    if pa.types.is_struct(item.type):
        return [value(item[i]) for i in range(len(item.type))]
    return item.as_py()


def json_value(item: pa.Scalar) -> Any:
    """The value that goes into a proof."""
    made = value(item)
    if made is not None and pa.types.is_list(item.type):
        return [json_value(part) for part in item.values]
    if made is not None and pa.types.is_struct(item.type):
        return [json_value(item[i]) for i in range(len(item.type))]
    if made is not None and str(item.type) in {"timestamp[ns, tz=UTC]", "int64", "uint64"}:
        return str(made)
    if isinstance(made, bytes):
        return b64url(made)
    is_number = not isinstance(made, float) or math.isfinite(made)
    return made if is_number else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(made)]


def described(columns: list[list[Any]]) -> list[dict[str, Any]]:
    """Columns as a proof writes them."""
    return [
        {"name": name, "type": kind, "nullable": nullable} | ({"members": described(members)} if members else {})
        for name, kind, nullable, *members in columns
    ]


def tree(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def audit_path(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*audit_path(leaves[:split], index), tree(leaves[split:])]
    return [*audit_path(leaves[split:], index - split), tree(leaves[:split])]


def rows_cbor(batch: pa.RecordBatch) -> list[bytes]:
    """Each row's CBOR."""
    return [cbor2.dumps([value(col[row]) for col in batch.columns], canonical=True) for row in range(batch.num_rows)]


def leaves_of(batch: pa.RecordBatch) -> list[bytes]:
    """Each row's leaf hash."""
    return [hashlib.sha256(b"\x00" + row).digest() for row in rows_cbor(batch)]


def stream(batch: pa.RecordBatch, manifest: str) -> bytes:
    """The Arrow IPC stream with a manifest."""
    tags = base64.b64encode(b"".join(leaf[:2] for leaf in leaves_of(batch)))
    batch = batch.replace_schema_metadata({"dpi.row_tags": tags, "dpi.manifest": manifest})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def seal(batch: pa.RecordBatch, key: Any, der: bytes, **position: Any) -> tuple[bytes, str]:
    """A sealed batch and its manifest."""
    claims = {
        "v": 1,
        **position,
        "schema": digest(cbor2.dumps([column(field) for field in batch.schema], canonical=True)),
        "rows": batch.num_rows,
        "root": b64url(tree(leaves_of(batch))),
        "body": "A" * 43,
    }
    header = {"alg": "PS256", "typ": "dpi-manifest+jwt", "x5t#S256": digest(der)}
    # A letter that can be searched for; zeros could not be told from those around them.
    blank = b"~" * len(jws(header, claims, key))
    empty = stream(batch, blank.decode())
    assert empty.count(blank) == 1
    claims["body"] = digest(empty.replace(blank, bytes(len(blank))))
    manifest = jws(header, claims, key)
    return empty.replace(blank, manifest.encode()), manifest


def example() -> pa.RecordBatch:
    """Rows with a value of every type and the edges of each."""
    time = pa.timestamp("ns", tz="UTC")
    fields = [
        pa.field("flow_id", pa.uint64(), nullable=False),
        pa.field("start_time", time, nullable=False),
        pa.field("src_ip", pa.binary(16), nullable=False),
        pa.field("src_mac", pa.binary(6)),
        pa.field("ip_protocol", pa.uint8(), nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),
        pa.field("packets", pa.uint32()),
        pa.field("mean", pa.float64()),
        pa.field("offset", pa.int64()),
        pa.field("small", pa.int8()),
        pa.field("ambiguous", pa.bool_()),
        pa.field("app", pa.string()),
        pa.field("vlan_ids", pa.list_(pa.field("item", pa.uint16(), nullable=False))),
        pa.field(
            "tls",
            pa.struct([pa.field("sni", pa.string()), pa.field("alpn", pa.list_(pa.field("item", pa.string())))]),
        ),
    ]
    v4 = ipaddress.ip_address("::ffff:192.0.2.1").packed
    v6 = ipaddress.ip_address("2001:db8::1").packed
    rows = [
        [0, 0, v4, None, 6, 0, None, None, None, None, None, None, None, None],
        [2**64 - 1, NOW * 10**9 + 1, v6, bytes(range(6)), 17, 443, 23, 1.5, -1, -128, True, "tls", [], (None, None)],
        [24, -1, v4, b"\xff" * 6, 1, 24, 24, 1.1, -(2**63), 127, False, "", [1, 4095], ("grün.example", [])],
        [255, 1, v4, None, 255, 255, 255, 65504.0, 2**63 - 1, -1, True, "a\\xff", [23, 24], ("x", ["h2", None])],
        [256, 2, v6, None, 0, 256, 256, 100000.0, -24, 23, False, "d" * 24, [0] * 24, ("", ["http/1.1"])],
        [65535, 3, v6, None, 0, 65535, 65535, math.nan, -25, 24, True, "e" * 256, [], None],
        [65536, 4, v6, None, 0, 0, 65536, math.inf, -256, -24, None, "\U0001f600", None, None],
        [2**32, 5, v6, None, 0, 0, 2**32 - 1, -0.0, -257, -25, None, "\0", None, None],
        [2**32 - 1, 6, v6, None, 0, 0, 0, 5.960464477539063e-08, 0, 0, None, None, None, None],
        [1, 7, v6, None, 0, 0, 0, 3.4028234663852886e38, 0, 0, None, None, None, None],
        [1, 8, v6, None, 0, 0, 0, 5e-324, 0, 0, None, None, None, None],
    ]
    columns = []
    for index, field in enumerate(fields):
        items = [row[index] for row in rows]
        if field.name == "tls":
            items = [None if item is None else {"sni": item[0], "alpn": item[1]} for item in items]
        columns.append(pa.array(items, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def simple(rows: int) -> pa.RecordBatch:
    """Rows of one number."""
    return pa.RecordBatch.from_arrays(
        [pa.array(range(rows), pa.uint64())], schema=pa.schema([pa.field("n", pa.uint64(), nullable=False)])
    )


def plain_stream(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow IPC stream without a manifest."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def write(name: str, purpose: str, **content: Any) -> None:
    """Write one file of vectors, with its origin."""
    origin = (
        "tests/vectors/make.py, from docs/formats/ alone, with "
        f"pyarrow {pa.__version__}, cbor2 and cryptography; agreed by crates/probe (Rust)"
    )
    text = json.dumps({"purpose": purpose, "origin": origin, **content}, indent=1, ensure_ascii=True)
    (HERE / f"{name}.json").write_text(text + "\n")


def main() -> None:
    """Write everything."""
    PKI.mkdir(exist_ok=True)
    if not (PKI / "ca.pem").exists():
        make_pki()
    if not (PKI / "posing.pem").exists():
        make_posing()
    key, der = load("probe")
    core_key, core_der = load("core")

    batch = example()
    doubles = [0.0, -0.0, 1.5, 1.1, 65504.0, 65505.0, 1e300, 2.0**-24, 2.0**-25, 6.103515625e-05, math.inf, math.nan]
    write(
        "leaf",
        "deterministic CBOR and hash of rows; schema fingerprint",
        stream=base64.b64encode(plain_stream(batch)).decode(),
        fingerprint_cbor=cbor2.dumps([column(field) for field in batch.schema], canonical=True).hex(),
        fingerprint=digest(cbor2.dumps([column(field) for field in batch.schema], canonical=True)),
        rows=[{"cbor": cbor.hex(), "leaf": hashlib.sha256(b"\x00" + cbor).hexdigest()} for cbor in rows_cbor(batch)],
        doubles=[{"bits": struct.pack(">d", n).hex(), "cbor": cbor2.dumps(n, canonical=True).hex()} for n in doubles],
    )

    trees = []
    for size in (1, 2, 3, 4, 5, 7, 8, 9, 64, 65, 100):
        leaves = [hashlib.sha256(b"\x00" + bytes([index])).digest() for index in range(size)]
        indexes = sorted({0, size // 2, size - 1})
        paths = [{"row": index, "path": [h.hex() for h in audit_path(leaves, index)]} for index in indexes]
        trees.append({"leaves": [leaf.hex() for leaf in leaves], "root": tree(leaves).hex(), "paths": paths})
    write("tree", "RFC 9162 roots and audit paths", trees=trees)

    first, first_manifest = seal(
        batch, key, der, iss="probe-1/eth0", kind="flow", chain=CHAIN, seq=0,
        prev=digest(b"before"), prev_chain=BEFORE, prev_seq=41, iat=NOW,
    )  # fmt: skip
    second, second_manifest = seal(
        simple(100), key, der, iss="probe-1/eth0", kind="flow", chain=CHAIN, seq=1,
        prev=digest(first_manifest.encode()), iat=NOW + 1,
    )  # fmt: skip
    write(
        "sealed_batch",
        "two sealed batches of one chain, their manifests and certificate",
        certificate=base64.b64encode(der).decode(),
        batches=[
            {"batch": base64.b64encode(data).decode(), "manifest": manifest, "digest": digest(manifest.encode())}
            for data, manifest in ((first, first_manifest), (second, second_manifest))
        ],
    )

    leaves = leaves_of(batch)
    columns = described([column(field) for field in batch.schema])
    proofs = [
        {
            "type": "dpi-proof", "v": 1, "manifest": first_manifest, "row": row, "rows": batch.num_rows,
            "columns": columns, "values": [json_value(col[row]) for col in batch.columns],
            "path": [b64url(h) for h in audit_path(leaves, row)],
        }
        for row in range(batch.num_rows)
    ]  # fmt: skip
    write("proof", "inclusion proofs of every row of the first sealed batch", proofs=proofs)

    header = {"alg": "ES256", "typ": "dpi-receipt+jwt", "x5c": [base64.b64encode(core_der).decode()]}
    about = {"v": 1, "iss": "core-1", "probe": "probe-1/eth0", "chain": CHAIN}
    receipts = [
        {"claims": claims, "receipt": jws(header, claims, core_key)}
        for claims in (
            {**about, "seq": 0, "manifest": digest(first_manifest.encode()), "iat": NOW + 2, "status": "archived"},
            {
                **about,
                "seq": 1,
                "manifest": digest(second_manifest.encode()),
                "iat": NOW + 2,
                "status": "manifest_only",
            },
        )
    ]
    head = {**about, "seq": 1, "manifest": digest(second_manifest.encode()), "iat": NOW + 3}
    write(
        "receipt",
        "receipts and a chain head of the Core, and the CA",
        ca=base64.b64encode(load("ca")[1]).decode(),
        receipts=receipts,
        head={"claims": head, "head": jws({**header, "typ": "dpi-head+jwt"}, head, core_key)},
    )


if __name__ == "__main__":
    main()
