"""A manifest's claims, parsed strictly (docs/formats/sealed-batch.md §3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, cast

from dpi_probe.core.jose import JoseError, parse, unb64url

Kind = Literal["flow", "ledger", "event"]
MAX_MANIFEST_BYTES = 4096
DIGEST_BYTES = 32
CHAIN_BYTES = 16
# The catalog and the database keep it in a signed 64-bit integer.
MAX_SEQ = (1 << 63) - 1
MAX_PROBE_CHARACTERS = 255


class ManifestError(ValueError):
    """The manifest does not have the form that the format asks for."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a probe signed about one batch. Nothing in it is verified by parsing it."""

    token: str
    digest: bytes
    """SHA-256 of the token's ASCII bytes."""
    certificate: bytes
    """SHA-256 of the DER of the certificate that is said to have signed it."""
    iss: str
    kind: Kind
    chain: bytes
    seq: int
    prev: bytes | None
    prev_chain: bytes | None
    prev_seq: int | None
    iat: int
    rows: int
    signing_input: bytes
    signature: bytes

    def belongs_to(self, name: str) -> bool:
        """Whether `iss` is of the probe whose certificate carries `name`."""
        return self.iss == name or self.iss.startswith(f"{name}/")

    @classmethod
    def parse(cls, token: str) -> Manifest:
        """Parse a compact JWS.

        Raises:
            ManifestError: it is not a manifest of version 1.
        """
        if len(token) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"manifest is longer than {MAX_MANIFEST_BYTES} bytes")
        try:
            header, claims, signing_input, signature = parse(token)
            if set(header) != {"alg", "typ", "x5t#S256"} or header["alg"] != "PS256":
                raise ManifestError("manifest header is not that of version 1")
            if header["typ"] != "dpi-manifest+jwt" or type(claims.get("v")) is not int or claims["v"] != 1:
                raise ManifestError("not a manifest of version 1")
            kind = claims.get("kind")
            if kind not in ("flow", "ledger", "event"):
                raise ManifestError("claim kind is not flow, ledger or event")
            seq = _integer(claims, "seq", MAX_SEQ)
            prev = None if claims.get("prev") is None else _digest(claims, "prev")
            first = seq == 0 and prev is not None
            if seq > 0 and prev is None:
                raise ManifestError("claim prev is missing")
            for name in ("schema", "root", "body"):
                _digest(claims, name)
            return cls(
                token=token,
                digest=hashlib.sha256(token.encode("ascii")).digest(),
                certificate=_digest(header, "x5t#S256"),
                iss=_probe(claims),
                kind=cast("Kind", kind),
                chain=_chain(claims, "chain"),
                seq=seq,
                prev=prev,
                prev_chain=_chain(claims, "prev_chain") if first else None,
                prev_seq=_integer(claims, "prev_seq", MAX_SEQ) if first else None,
                iat=_integer(claims, "iat", 1 << 40),
                rows=_integer(claims, "rows", 1 << 31),
                signing_input=signing_input,
                signature=signature,
            )
        except JoseError as error:
            raise ManifestError(str(error)) from error


def manifest_of(batch: bytes) -> Manifest:
    """The manifest in the schema metadata of a sealed batch.

    Raises:
        ManifestError: it is no Arrow IPC stream or holds no manifest of version 1.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(batch) as stream:
            metadata = stream.schema.metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ManifestError("not an Arrow IPC stream") from error
    try:
        return Manifest.parse(metadata[b"dpi.manifest"].decode("ascii"))
    except KeyError as error:
        raise ManifestError("the Arrow schema holds no dpi.manifest") from error
    except UnicodeDecodeError as error:
        raise ManifestError("dpi.manifest is not ASCII") from error


def _integer(claims: dict[str, Any], name: str, most: int) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ManifestError(f"claim {name} is not an integer from 0 to {most}")
    return value


def _digest(claims: dict[str, Any], name: str) -> bytes:
    value = claims.get(name)
    digest = unb64url(value) if isinstance(value, str) else b""
    if len(digest) != DIGEST_BYTES:
        raise ManifestError(f"{name} is not a digest")
    return digest


def _chain(claims: dict[str, Any], name: str) -> bytes:
    value = claims.get(name)
    if not isinstance(value, str) or len(value) != 2 * CHAIN_BYTES or set(value) - set("0123456789abcdef"):
        raise ManifestError(f"claim {name} is not 32 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _probe(claims: dict[str, Any]) -> str:
    value = claims.get("iss")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PROBE_CHARACTERS or not value.isprintable():
        raise ManifestError(f"claim iss is not printable text of 1 to {MAX_PROBE_CHARACTERS} characters")
    return value
