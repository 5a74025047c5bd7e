"""Whose signatures count: certificates that were given, or that lie with the evidence, under one CA."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dpi_probe import _native
from dpi_probe._verify.sources import read
from dpi_probe.errors import ConfigError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
MAX_FILE_BYTES = 8 << 20
"""Of certificates: room for thousands."""
_KIND = "file of certificates"


def load_certificates(path: Path) -> list[bytes]:
    """The certificates (DER) of a PEM or DER file, or of all `*.pem` files below a directory.

    Raises:
        ConfigError: the path cannot be read or holds no certificate.
    """
    try:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*.pem")) if file.is_file()]
            found = [der for file in files for der in _parse(read(file, MAX_FILE_BYTES, _KIND))]
        else:
            data = read(path, MAX_FILE_BYTES, _KIND)
            found = _parse(data) or [data]
        for der in found:
            _native.read_certificate(der)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the certificate: {error.strerror or error}") from error
    except VerificationError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not found:
        raise ConfigError(f"{path}: holds no certificates (*.pem)")
    return found


def _parse(data: bytes) -> list[bytes]:
    """The blocks of a PEM file (RFC 7468), in one pass; what does not end is none."""
    blocks = (part.partition(_END) for part in data.split(_BEGIN)[1:])
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block, end, _ in blocks if end]
    except ValueError:
        return []


@dataclass(slots=True)
class Trust:
    """The certificates that may have signed, and the CA that must have issued them."""

    authority: bytes | None = None
    certificates: list[bytes] = field(default_factory=list)
    because: list[str] = field(default_factory=list)
    """What trust rests on, for people."""
    _by_fingerprint: dict[str, bytes] = field(default_factory=dict)
    _refused: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def given(cls, ca: Path | None, certificates: Sequence[Path]) -> Trust:
        """Trust in what the caller names.

        Raises:
            ConfigError: a file cannot be read.
        """
        trust = cls()
        if ca is not None:
            trust.authority = load_certificates(ca)[0]
            trust.because.append(f"the CA of {ca}")
        for path in certificates:
            trust.add(load_certificates(path))
            trust.because.append(f"the certificates of {path}")
        return trust

    def beside(self, ca: Path | None, certificates: Sequence[Path], unreadable: Callable[[Path, str], None]) -> Trust:
        """This trust, with what lies beside the evidence; `unreadable` is told of certificates that cannot be read.

        With certificates that were given and no CA, those alone count: nobody could say who issued the others.
        """
        if self.authority is None and self.certificates:
            return self
        wider = Trust(self.authority, list(self.certificates), list(self.because), dict(self._by_fingerprint))
        for path in certificates:
            try:
                wider.add(load_certificates(path))
            except ConfigError as error:
                unreadable(path, str(error).removeprefix(f"{path}: "))
        if certificates and self.authority is None:
            if ca is not None:
                try:
                    wider.authority = load_certificates(ca)[0]
                except ConfigError as error:
                    unreadable(ca, str(error).removeprefix(f"{ca}: "))
            shown = _native.read_certificate(wider.authority)["fingerprint"] if wider.authority else "none"
            wider.because.append(
                f"certificates that lie with the evidence itself (CA fingerprint {shown}, SHA-256, base64url): "
                "compare it with the one that you know, or give --ca"
            )
        return wider

    def add(self, certificates: Sequence[bytes]) -> None:
        """Let further certificates count."""
        for der in certificates:
            fingerprint = _native.read_certificate(der)["fingerprint"]
            if fingerprint not in self._by_fingerprint:
                self._by_fingerprint[fingerprint] = der
                self.certificates.append(der)

    def objection(self, fingerprint: str) -> str | None:
        """Why a certificate does not count at any time, or None."""
        if fingerprint not in self._refused:
            self._refused[fingerprint] = self._judge(self._by_fingerprint.get(fingerprint))
        return self._refused[fingerprint]

    def outside(self, fingerprint: str, at: int) -> str | None:
        """What is to be said if a certificate was not valid at a time, or None."""
        der = self._by_fingerprint.get(fingerprint)
        if der is None:
            return None
        facts = _native.read_certificate(der)
        if facts["not_before"] <= at <= facts["not_after"]:
            return None
        return f"it was sealed outside the validity of the certificate of {facts['subject']}"

    def _judge(self, der: bytes | None) -> str | None:
        if der is None or self.authority is None:
            return None
        try:
            # Whether it is this CA's. Whether it was valid is another question at each time of sealing.
            _native.check_issued(der, self.authority, _native.read_certificate(der)["not_after"])
        except VerificationError as error:
            return str(error)
        return None
