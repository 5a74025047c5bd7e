"""Whom the Core trusts: its authority, the revocation list as it is now, the certificates of each probe.

In: the DER of a peer's certificate, as TLS handed it over. Out: which probe it is, or why it is refused.
Owns: `archive/certificates/`. Never: trusts a certificate that its authority did not issue, or that is revoked now.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from dpi_probe._pki import fingerprint, load_certificate, load_revocations, role_of
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dpi_probe.core.metrics import Metrics

logger = logging.getLogger(__name__)

# For a certificate that is not known the directories are looked into again, at most so often; so is a revocation list
# that could not be used.
SCAN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a peer may not deliver."""

    code: Literal[401, 403]
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A probe that may deliver."""

    name: str
    certificate: x509.Certificate


def is_issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority issued the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def authority_of(ca: Path, archive: Path) -> x509.Certificate:
    """The authority in the file `ca`, which must be the one that the archive was begun with.

    Raises:
        ConfigError: it is another, or a file cannot be used.
    """
    authority = load_certificate(ca, "CA certificate")
    beside = archive / "ca.pem"
    try:
        kept = beside.read_bytes()
    except FileNotFoundError:
        return authority
    except OSError as error:
        raise ConfigError(f"{beside}: {error.strerror}") from error
    if kept != authority.public_bytes(Encoding.PEM):
        raise ConfigError(
            f"CA certificate {ca}: not the authority of the archive ({beside}); "
            "give the Core the one it was begun with, or another --data-dir"
        )
    return authority


def probe_certificate(path: Path, authority: x509.Certificate) -> tuple[str, x509.Certificate] | None:
    """The name of the probe whose certificate is in the file, and the certificate; None if it is not a probe's.

    Raises:
        ConfigError: it cannot be read, or the authority did not issue it.
    """
    certificate = load_certificate(path, "certificate")
    if not is_issued(certificate, authority):
        raise ConfigError(f"certificate {path}: not issued by {authority.subject.rfc4514_string()}")
    role = role_of(certificate)
    return (role[1], certificate) if role is not None and role[0] == "probe" else None


class Trust:
    """Certificates and revocations; safe to use from several threads."""

    def __init__(self, ca: Path, crl: Path, store: Path, extra: Iterable[Path], metrics: Metrics) -> None:
        """Load the authority and its list, and the certificates in `store` and in the directories `extra`.

        Raises:
            ConfigError: a file cannot be used.
        """
        self.authority = authority_of(ca, store.parent)
        self._crl = crl
        self._store = store
        self._metrics = metrics
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._revoked: frozenset[int] = frozenset()
        self._unusable: str | None = None
        self._tried = 0.0
        self._probes: dict[str, dict[bytes, x509.Certificate]] = {}
        self._directories = (store, *extra)
        self._looked_at: dict[Path, tuple[int, int, int]] = {}
        self._unread: set[Path] = set()
        self._kept: set[bytes] = set()
        self._unkept: str | None = None
        self._scanned = 0.0
        self._load_revocations(first=True)
        try:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            store.mkdir(mode=0o700, exist_ok=True)
            beside = store.parent / "ca.pem"
            if not beside.exists():
                _write(beside, self.authority.public_bytes(Encoding.PEM))
        except OSError as error:
            raise ConfigError(f"{error.filename or store}: {error.strerror}") from error
        with self._lock:
            self._scan()

    def _scan(self) -> None:
        """Learn the certificates in the directories, of files that have changed since they were looked at."""
        self._scanned = time.monotonic()
        for directory in self._directories:
            for path in sorted(directory.glob("*.pem")):
                try:
                    status = path.stat()
                except OSError:
                    # A renewal took it away meanwhile.
                    continue
                stamp = (status.st_ctime_ns, status.st_size, status.st_ino)
                if self._looked_at.get(path) != stamp and self._learn_file(path):
                    self._looked_at[path] = stamp

    def _learn_file(self, path: Path) -> bool:
        """Learn a certificate; False if its file could not be read now."""
        try:
            found = probe_certificate(path, self.authority)
        except ConfigError as error:
            if isinstance(error.__cause__, OSError):
                if path not in self._unread:
                    logger.warning("%s; tried again", error)
                self._unread.add(path)
                return False
            logger.warning("%s; ignored", error)
            return True
        self._unread.discard(path)
        if found is not None:
            name, certificate = found
            digest = fingerprint(certificate)
            self._probes.setdefault(name, {})[digest] = certificate
            if path == self._kept_at(digest):
                self._kept.add(digest)
        return True

    def identify(self, der: bytes | None) -> Peer | Refused:
        """Which probe the peer is. The handshake has checked that the authority issued the certificate."""
        if der is None:
            return Refused(401, "no_certificate", "no client certificate was presented")
        try:
            certificate = x509.load_der_x509_certificate(der)
            role = role_of(certificate)
        except ValueError:
            return Refused(401, "bad_certificate", "the client certificate cannot be read")
        if role is None or role[0] != "probe" or not is_issued(certificate, self.authority):
            return Refused(401, "not_a_probe", "the client certificate carries no probe role of this authority")
        name = role[1]
        if self.is_revoked(certificate):
            return Refused(403, "revoked", f"the certificate of probe {name} is revoked; ask for a new one")
        # A connection may outlive the certificate that opened it.
        if certificate.not_valid_after_utc < dt.datetime.now(dt.UTC):
            return Refused(401, "expired", f"the certificate of probe {name} has expired; ask for a new one")
        # What its own certificate signed may come after the next renewal. What is not kept now is at the next request.
        with contextlib.suppress(OSError):
            self.remember(name, certificate)
        return Peer(name, certificate)

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Whether the revocation list, as it is now on disk, names the certificate."""
        self._load_revocations(first=False)
        return certificate.serial_number in self._revoked

    def find(self, name: str, digest: bytes) -> x509.Certificate | None:
        """The certificate of a probe with this fingerprint, present or earlier, expired and revoked ones included.

        One that was laid into the directories meanwhile, as by a renewal, is found too.
        """
        with self._lock:
            known = self._probes.get(name, {}).get(digest)
            if known is None and time.monotonic() - self._scanned >= SCAN_SECONDS:
                self._scan()
                known = self._probes.get(name, {}).get(digest)
            return known

    def by_name(self) -> dict[str, list[bytes]]:
        """Every certificate (DER) of each probe that is known, revoked ones included: what was archived stays valid."""
        with self._lock:
            return {
                name: [certificate.public_bytes(Encoding.DER) for certificate in known.values()]
                for name, known in self._probes.items()
            }

    def remember(self, name: str, certificate: x509.Certificate) -> None:
        """Keep a certificate of a probe beside the archive, for those who verify what it signed.

        Raises:
            OSError: it cannot be written.
        """
        digest = fingerprint(certificate)
        path = self._kept_at(digest)
        with self._lock:
            self._probes.setdefault(name, {})[digest] = certificate
            if digest in self._kept and path.exists():
                return
            try:
                _write(path, certificate.public_bytes(Encoding.PEM))
            except OSError as error:
                message = f"{error.filename or path}: {error.strerror or error}"
                if message != self._unkept:
                    logger.error("%s; probes keep what this certificate signed", message)
                self._unkept = message
                raise
            self._kept.add(digest)
            self._unkept = None

    def _kept_at(self, digest: bytes) -> Path:
        return self._store / f"{digest.hex()}.pem"

    @property
    def problem(self) -> str | None:
        """Why the revocation list in force is not the one on disk, or None."""
        return self._unusable

    def _load_revocations(self, *, first: bool) -> None:
        """Read the list again if the file has changed.

        One that cannot be used leaves the list before in force, and is tried again: what hinders it may pass, as do too
        many open files.
        """
        try:
            status = self._crl.stat()
            stamp = (status.st_ctime_ns, status.st_size, status.st_ino)
        except OSError as error:
            if first:
                raise ConfigError(f"revocation list {self._crl}: {error.strerror}") from error
            stamp = (0, 0, 0)
        if stamp == self._stamp and self._unusable is None:
            return
        with self._lock:
            if self._unusable is not None and time.monotonic() - self._tried < SCAN_SECONDS:
                return
            self._tried = time.monotonic()
            try:
                entries = load_revocations(self._crl, self.authority)
            except ConfigError as error:
                if first:
                    raise
                if str(error) != self._unusable:
                    logger.error("%s; the list that was read before stays in force", error)
                self._unusable = str(error)
                self._metrics.revocations_stale.set(1)
                return
            self._revoked = frozenset(entry.serial_number for entry in entries)
            self._stamp, self._unusable = stamp, None
            self._metrics.revocations_stale.set(0)
            if not first:
                logger.info("revocation list %s: read again, %d entries", self._crl, len(self._revoked))


def _write(path: Path, data: bytes) -> None:
    """Make a file appear whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
