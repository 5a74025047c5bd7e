"""Compact JWS, strictly: what docs/formats/sealed-batch.md and receipt.md allow and nothing else.

Common JOSE libraries accept base64url that is not canonical. Here that would let the same manifest go by several
digests, so every part is decoded, encoded again and compared.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# RFC 7518 §3.4: r and s of P-256, each in 32 bytes.
P256_BYTES = 32


class JoseError(ValueError):
    """Not a JWS of the expected form, or its signature does not hold."""


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Decode canonical base64url without padding.

    Raises:
        JoseError: it has other characters, padding, or unused bits that are not zero.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise JoseError("not base64url") from error
    if b64url(data) != text:
        raise JoseError("base64url is not canonical")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JoseError("a JSON member occurs twice")
    return members


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(unb64url(text).decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise JoseError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise JoseError(f"{what} is not a JSON object")
    return value


def parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Split a compact JWS into header, claims, signing input and signature, none of them checked further.

    Raises:
        JoseError: it is not a compact JWS in canonical form.
    """
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise JoseError("not a compact JWS")
    header, claims, signature = parts
    return _object(header, "header"), _object(claims, "claims"), f"{header}.{claims}".encode(), unb64url(signature)


def verify_ps256(signing_input: bytes, signature: bytes, certificate: Certificate) -> None:
    """Check RSASSA-PSS with SHA-256 and a salt of 32 bytes (RFC 7518 §3.5).

    Raises:
        JoseError: the key is not RSA or the signature does not hold.
    """
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise JoseError("the certificate's key is not RSA")
    try:
        key.verify(signature, signing_input, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    except InvalidSignature as error:
        raise JoseError("the signature does not hold") from error


def sign_es256(header: dict[str, Any], claims: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """Make a compact JWS with ES256 (RFC 7518 §3.4); `alg` is added to the header."""
    signing_input = ".".join(
        b64url(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "ES256", **header}, claims)
    )
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signing_input}.{b64url(r.to_bytes(P256_BYTES) + s.to_bytes(P256_BYTES))}"
