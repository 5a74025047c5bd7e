"""Receipts and chain heads: what the Core signs (docs/formats/receipt.md)."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from dpi_probe._pki import load_certificate, load_key, renewal, role_of
from dpi_probe.core.jose import b64url, sign_es256, unb64url
from dpi_probe.core.trust import is_issued
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

    from dpi_probe.core.manifest import Manifest


class CoreSigner:
    """The Core's certificate and key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load both and check that they fit and carry the Core role.

        Raises:
            ConfigError: a file cannot be used, or key and certificate are of different pairs.
        """
        self.certificate = load_certificate(certificate, "Core certificate")
        loaded = load_key(key, "Core key")
        role = role_of(self.certificate)
        if role is None or role[0] != "core":
            raise ConfigError(f"Core certificate {certificate}: carries no Core role (URI urn:dpi-probe:core:NAME)")
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
            raise ConfigError(f"Core key {key}: not an EC P-256 key, which receipts are signed with")
        if loaded.public_key() != self.certificate.public_key():
            raise ConfigError(f"Core key {key}: not the key of {certificate}")
        self.name = role[1]
        self._key = loaded
        self._x5c = base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode("ascii")

    def check_issued(self, authority: x509.Certificate, pki: Path) -> None:
        """Check that the authority issued the certificate, and that it holds now.

        `pki` is where the authority may be, for the command that renews it.

        Raises:
            ConfigError: whoever checks what it signs would refuse it.
        """
        if not is_issued(self.certificate, authority):
            raise ConfigError(
                "Core certificate: not issued by the CA certificate; probes and auditors would refuse what it signs "
                f"(CA: {authority.subject.rfc4514_string()}); give both of one authority: --pki, or CORE_CERT_PATH, "
                "CORE_KEY_PATH and CORE_CA_CERT_PATH"
            )
        if self.certificate.not_valid_after_utc.timestamp() < time.time():
            raise ConfigError(
                f"Core certificate: expired on {self.certificate.not_valid_after_utc:%Y-%m-%d}; "
                f"renew it with: {renewal(self.certificate, self.name, pki)}"
            )

    def is_of_this_certificate(self, receipt: str) -> bool:
        """Whether a receipt of this Core's carries the certificate that it has now."""
        try:
            header: Any = json.loads(unb64url(receipt.partition(".")[0]))
            return bool(header["x5c"] == [self._x5c])
        except (ValueError, KeyError, TypeError):
            return False

    def receipt(self, manifest: Manifest, status: Literal["archived", "manifest_only"], archived_ns: int) -> str:
        """The receipt for a batch, or for the manifest of a dropped one."""
        claims = {
            "v": 1,
            "iss": self.name,
            "probe": manifest.iss,
            "chain": manifest.chain.hex(),
            "seq": manifest.seq,
            "manifest": b64url(manifest.digest),
            "iat": archived_ns // 1_000_000_000,
            "status": status,
        }
        return sign_es256({"typ": "dpi-receipt+jwt", "x5c": [self._x5c]}, claims, self._key)

    def head(self, manifest: Manifest, stated_s: int) -> str:
        """A statement that this is the last manifest of its chain that the Core holds."""
        claims = {
            "v": 1,
            "iss": self.name,
            "probe": manifest.iss,
            "chain": manifest.chain.hex(),
            "seq": manifest.seq,
            "manifest": b64url(manifest.digest),
            "iat": stated_s,
        }
        return sign_es256({"typ": "dpi-head+jwt", "x5c": [self._x5c]}, claims, self._key)
