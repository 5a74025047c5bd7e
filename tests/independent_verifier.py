"""A second verifier of sealed batches, from docs/formats/sealed-batch.md alone: PyJWT, cbor2, pyarrow and hashlib.

    python tests/independent_verifier.py CERTIFICATE.pem BATCH.arrows...

Prints one line for each batch; exit status 0 if all hold, else 4.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import sys
from pathlib import Path

import cbor2
import jwt
import pyarrow as pa


class InvalidError(Exception):
    """The batch does not hold."""


def require(condition, reason):
    if not condition:
        raise InvalidError(reason)


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def digest(data):
    return b64url(hashlib.sha256(data).digest())


def column(field):
    """A column as the schema fingerprint sees it (§2)."""
    kind = field.type
    if pa.types.is_list(kind):
        return [field.name, "list", field.nullable, column(kind.value_field)]
    if pa.types.is_struct(kind):
        return [field.name, "struct", field.nullable, *(column(kind.field(i)) for i in range(kind.num_fields))]
    return [field.name, str(kind), field.nullable]


def value(item):
    """A value as the leaf has it (§4)."""
    if not item.is_valid:
        return None
    if pa.types.is_timestamp(item.type):
        return item.value
    if pa.types.is_list(item.type):
        return [value(part) for part in item.values]
    if pa.types.is_struct(item.type):
        return [value(item[i]) for i in range(len(item.type))]
    return item.as_py()


def leaf(row):
    return hashlib.sha256(b"\x00" + cbor2.dumps([value(item) for item in row], canonical=True)).digest()


def tree(leaves):
    """RFC 9162 §2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def verify(data, certificates):
    """The claims of a sealed batch that holds; `certificates` maps fingerprints to keys and probe ids."""
    require(len(data) <= 900 * 1024, "too long")
    try:
        manifest = pa.ipc.open_stream(data).schema.metadata[b"dpi.manifest"]
    except (pa.ArrowException, KeyError, TypeError, OSError, ValueError) as error:
        raise InvalidError("not a sealed batch") from error
    require(data.count(manifest) == 1, "the manifest does not occur exactly once")
    try:
        token = manifest.decode("ascii")
        parts = token.split(".")
        canonical = all(b64url(base64.urlsafe_b64decode(part + "==")) == part for part in parts)
        require(len(parts) == 3 and canonical, "manifest is not canonical")
        header = jwt.get_unverified_header(token)
        require(set(header) == {"alg", "typ", "x5t#S256"} and header["typ"] == "dpi-manifest+jwt", "wrong header")
        require(header["x5t#S256"] in certificates, "unknown certificate")
        key, owners = certificates[header["x5t#S256"]]
        options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        claims = jwt.decode(token, key, algorithms=["PS256"], options=options)
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidError("signature does not hold") from error
    require(any(claims["iss"] == n or claims["iss"].startswith(n + "/") for n in owners), "issuer is another's")
    require(claims["v"] == 1, "unknown version")
    require(claims["body"] == digest(data.replace(manifest, bytes(len(manifest)))), "body was altered")
    require(data.endswith(b"\xff\xff\xff\xff\0\0\0\0"), "no end marker")
    try:
        batches = list(pa.ipc.open_stream(data))
        require(len(batches) == 1 and batches[0].num_rows == claims["rows"] <= 8192, "wrong number of rows")
        batches[0].validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidError("records cannot be decoded") from error
    fingerprint = digest(cbor2.dumps([column(field) for field in batches[0].schema], canonical=True))
    require(fingerprint == claims["schema"], "schema was altered")
    leaves = [leaf(row) for row in zip(*batches[0].columns, strict=True)]
    require(b64url(tree(leaves)) == claims["root"], "records were altered")
    return claims


def der(data):
    """The contents of the DER elements of `data`, by tag."""
    while data:
        tag, length, start = data[0], data[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[2:start], "big")
        yield tag, data[start : start + length]
        data = data[start + length :]


def load(pem):
    """A trusted certificate (RFC 5280 §4.1): its fingerprint, and its RSA key with the probe ids of its SAN."""
    whole = ssl.PEM_cert_to_DER_cert(pem.decode())
    fields = list(der(next(der(next(der(whole))[1]))[1]))
    _algorithm, (_, bits) = der(fields[6][1])  # after version, serial, signature, issuer, validity and subject
    modulus, exponent = (b64url(number.lstrip(b"\0")) for _, number in der(next(der(bits[1:]))[1]))
    extensions = [list(der(extension)) for _, extension in der(next(der(dict(fields)[0xA3]))[1])]
    names = next(extension[-1][1] for extension in extensions if extension[0][1] == b"\x55\x1d\x11")  # 2.5.29.17
    uris = [uri.decode() for tag, uri in der(next(der(names))[1]) if tag == 0x86]
    key = jwt.PyJWK({"kty": "RSA", "n": modulus, "e": exponent}, algorithm="PS256")
    return {digest(whole): (key, [uri.removeprefix("urn:dpi-probe:probe:") for uri in uris])}


def main(arguments):
    certificates = load(Path(arguments[0]).read_bytes())
    status = 0
    for name in arguments[1:]:
        try:
            claims = verify(Path(name).read_bytes(), certificates)
            print(f"{name}: holds: {claims['rows']} records, batch {claims['seq']} of chain {claims['chain']}")
        except InvalidError as error:
            status = 4
            print(f"{name}: does not hold: {error}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
