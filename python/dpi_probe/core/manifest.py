"""A manifest's claims as the Core uses them (docs/formats/sealed-batch.md §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from dpi_probe import _native
from dpi_probe.core.jose import unb64url
from dpi_probe.errors import VerificationError

Kind = Literal["flow", "ledger", "event"]
MAX_MANIFEST_BYTES = 4096
# What every JSON reader keeps exactly; sums and the position behind it fit in the catalog's signed 64-bit integers.
MAX_SEQ = (1 << 53) - 1
MAX_PROBE_CHARACTERS = 255


class ManifestError(ValueError):
    """The manifest does not have the form that the format asks for."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a probe signed about one batch. Nothing in it is verified by reading it."""

    token: str
    """The compact JWS."""
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

    def belongs_to(self, name: str) -> bool:
        """Whether `iss` is of the probe whose certificate carries `name`."""
        return self.iss == name or self.iss.startswith(f"{name}/")


def manifest_of(data: bytes) -> Manifest:
    """The manifest of a sealed batch, or of its own ASCII bytes.

    Raises:
        ManifestError: there is none of version 1, or it says what the Core cannot keep.
    """
    try:
        signed = _native.read_claims(data)
    except VerificationError as error:
        raise ManifestError(str(error)) from error
    claims = signed["claims"]
    if max(claims["seq"], claims["prev_seq"] or 0) > MAX_SEQ:
        raise ManifestError(f"seq is above {MAX_SEQ}")
    if not 0 < len(claims["iss"]) <= MAX_PROBE_CHARACTERS or not claims["iss"].isprintable():
        raise ManifestError(f"iss is not printable text of 1 to {MAX_PROBE_CHARACTERS} characters")
    if claims["iat"] < 0:
        raise ManifestError("iat is before 1970")
    return Manifest(
        token=signed["manifest"],
        digest=unb64url(signed["manifest_digest"]),
        certificate=unb64url(signed["certificate"]),
        iss=claims["iss"],
        kind=cast("Kind", claims["kind"]),
        chain=bytes.fromhex(claims["chain"]),
        seq=claims["seq"],
        prev=None if claims["prev"] is None else unb64url(claims["prev"]),
        prev_chain=None if claims["prev_chain"] is None else bytes.fromhex(claims["prev_chain"]),
        prev_seq=claims["prev_seq"],
        iat=claims["iat"],
        rows=claims["rows"],
    )
