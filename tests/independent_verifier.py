"""A second verifier of sealed batches, from docs/formats/sealed-batch.md alone: PyJWT, cbor2, pyarrow and hashlib.

The certificate is read with what PyJWT itself needs for RSA (cryptography).

    python tests/independent_verifier.py CERTIFICATE.pem BATCH.arrows...

Prints one line for each batch; exit status 0 if all hold, else 4.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import cbor2
import jwt
import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


class InvalidError(Exception):
    """The batch does not hold."""


def require(condition, reason):
    if not condition:
        raise InvalidError(reason)


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def digest(data):
    return b64url(hashlib.sha256(data).digest())


def is_canonical(part):
    return b64url(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) == part


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


def leaf(batch, row):
    values = [value(column[row]) for column in batch.columns]
    return hashlib.sha256(b"\x00" + cbor2.dumps(values, canonical=True)).digest()


def tree(leaves):
    """RFC 9162 §2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def verify(data, certificates):
    """The claims of a sealed batch that holds; `certificates` maps fingerprints to X.509 certificates."""
    require(len(data) <= 900 * 1024, "too long")
    try:
        manifest = pa.ipc.open_stream(data).schema.metadata[b"dpi.manifest"]
    except (pa.ArrowException, KeyError, TypeError, OSError, ValueError) as error:
        raise InvalidError("not a sealed batch") from error
    require(data.count(manifest) == 1, "the manifest does not occur exactly once")
    try:
        token = manifest.decode("ascii")
        require(token.count(".") == 2 and all(map(is_canonical, token.split("."))), "manifest is not canonical")
        header = jwt.get_unverified_header(token)
        require(set(header) == {"alg", "typ", "x5t#S256"} and header["typ"] == "dpi-manifest+jwt", "wrong header")
        certificate = certificates.get(header["x5t#S256"])
        require(certificate is not None, "unknown certificate")
        options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        claims = jwt.decode(token, certificate.public_key(), algorithms=["PS256"], options=options)
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidError("signature does not hold") from error
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    owners = [
        uri.removeprefix("urn:dpi-probe:probe:") for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
    ]
    require(any(claims["iss"] == n or claims["iss"].startswith(n + "/") for n in owners), "issuer is another's")
    require(
        claims["v"] == 1 and claims["body"] == digest(data.replace(manifest, bytes(len(manifest)))), "body was altered"
    )
    require(data.endswith(b"\xff\xff\xff\xff\0\0\0\0"), "no end marker")
    try:
        batches = list(pa.ipc.open_stream(data))
        require(len(batches) == 1 and batches[0].num_rows == claims["rows"] <= 8192, "wrong number of rows")
        batches[0].validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidError("records cannot be decoded") from error
    fingerprint = digest(cbor2.dumps([column(field) for field in batches[0].schema], canonical=True))
    require(fingerprint == claims["schema"], "schema was altered")
    leaves = [leaf(batches[0], row) for row in range(batches[0].num_rows)]
    require(b64url(tree(leaves)) == claims["root"], "records were altered")
    return claims


def load(pem):
    """A certificate by its fingerprint."""
    certificate = x509.load_pem_x509_certificate(pem)
    return {digest(certificate.public_bytes(Encoding.DER)): certificate}


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
