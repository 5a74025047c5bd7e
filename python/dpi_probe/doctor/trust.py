"""Checks of the probe's certificate, its key, and the CA of the Core."""

from __future__ import annotations

import os
import ssl
import time
from typing import TYPE_CHECKING

from dpi_probe import _native
from dpi_probe.doctor.findings import Check, Outcome, Subject, Unseen, ok, problem, warning
from dpi_probe.errors import VerificationError

if TYPE_CHECKING:
    from pathlib import Path

    from dpi_probe.config import ProbeSettings

_DAY = 86_400
SOON_DAYS = 30
# What a missing file means, whatever else the check is about.
_NOT_STARTED = "Without it the probe does not start."


class _Missing(Exception):  # noqa: N818 - becomes an outcome
    pass


def _der(path: Path | None, setting: str) -> bytes:
    """The certificate in the file.

    Raises:
        Unseen: this process may not read it.
        _Missing: there is none.
    """
    if path is None:
        raise _Missing(f"{setting} is not set")
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii"))
    except PermissionError as error:
        raise Unseen(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise _Missing(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise _Missing(f"{path}: not a certificate in PEM form") from error


def _validity(path: Path | None, facts: _native.CertificateFacts, command: str) -> Outcome:
    now, first, last = int(time.time()), facts["not_before"], facts["not_after"]
    until = time.strftime("%Y-%m-%d", time.gmtime(last))
    if now < first:
        return problem(f"{path}: valid only from {time.strftime('%Y-%m-%d %H:%M', time.gmtime(first))} UTC", "date -u")
    if now > last:
        return problem(f"{path}: expired on {until}", command)
    days = (last - now) // _DAY
    said = f"{path}: {facts['subject']}, valid until {until} ({days:,} days)"
    return warning(said, command) if days < SOON_DAYS else ok(said)


def _make(settings: ProbeSettings) -> str:
    """An authority, a certificate and its key, and the two where the probe looks for them."""
    certificate, key = settings.probe_cert_path, settings.probe_key_path
    if certificate is None or key is None:
        return (
            "dpi-probe pki init PKI --probe NAME && "
            "PROBE_CERT_PATH=PKI/probes/NAME.pem PROBE_KEY_PATH=PKI/probes/NAME.key dpi-probe run …"
        )
    return (
        "dpi-probe pki init PKI --probe NAME && "
        f"install -D -m 0644 PKI/probes/NAME.pem {certificate} && install -D -m 0600 PKI/probes/NAME.key {key}"
    )


def _renew(settings: ProbeSettings) -> str:
    """A new certificate and key in the place of those that there are; `cp` leaves them their owner and mode."""
    return (
        "dpi-probe pki issue NAME --renew --dir PKI && "
        f"cp PKI/probes/NAME.pem {settings.probe_cert_path} && cp PKI/probes/NAME.key {settings.probe_key_path}"
    )


def _certificate(subject: Subject) -> Outcome:
    path = subject.settings.probe_cert_path
    renew = _renew(subject.settings)
    try:
        der = _der(path, "PROBE_CERT_PATH")
        facts = _native.read_certificate(der)
    except _Missing as error:
        return problem(str(error), _make(subject.settings), matters=_NOT_STARTED)
    except (VerificationError, ValueError) as error:
        return problem(f"{path}: {error}", renew)
    if facts["probe"] is None:
        return problem(f"{path}: not a probe's certificate (no URI urn:dpi-probe:probe:NAME)", renew)
    outcome = _validity(path, facts, renew)
    if outcome.status in {"ok", "warning"}:
        try:
            authority = _der(subject.settings.ca_cert_path, "CA_CERT_PATH")
            _native.check_issued(der, authority, int(time.time()))
        except (_Missing, Unseen):
            return outcome  # the check of the CA says so
        except (VerificationError, ValueError) as error:
            return problem(f"{path}: {error}", renew)
    return outcome


def _key(subject: Subject) -> Outcome:
    path, certificate = subject.settings.probe_key_path, subject.settings.probe_cert_path
    # What mends a missing certificate makes its key too, and an authority is made once.
    has_certificate = certificate is not None and certificate.exists()
    if path is None:
        give = "PROBE_KEY_PATH=PKI/probes/NAME.key dpi-probe run …" if has_certificate else None
        return problem("PROBE_KEY_PATH is not set", give, matters=_NOT_STARTED)
    try:
        status = path.stat()
    except PermissionError as error:
        return Outcome("unknown", f"{path}: {error.strerror}")
    except OSError as error:
        give = f"install -D -m 0600 PKI/probes/NAME.key {path}" if has_certificate else None
        found = f"{path}: {error.strerror}" + ("" if has_certificate else "; it is made with the certificate")
        return problem(found, give, matters=_NOT_STARTED)
    mode = status.st_mode & 0o777
    if mode & 0o077:
        return problem(f"{path}: readable by others (mode {mode:04o})", f"chmod 600 {path}")
    if not os.access(path, os.R_OK):
        return Outcome("unknown", f"{path}: this user may not read it, as it should be for others than the probe")
    return (
        _pair(path, certificate, _renew(subject.settings))
        if certificate is not None and certificate.is_file()
        else ok(f"{path}: for its owner only")
    )


def _pair(path: Path, certificate: Path, renew: str) -> Outcome:
    """Whether the key belongs to the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # A password is asked for on the terminal unless one is given; an encrypted key is of no use to the probe.
        context.load_cert_chain(certificate, path, password=lambda: "")
    except PermissionError as error:
        return Outcome("unknown", f"{certificate}: {error.strerror}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return problem(f"{path}: no unencrypted key of {certificate} ({reason})", renew)
    return ok(f"{path}: for its owner only, and of the certificate")


def _authority(subject: Subject) -> Outcome:
    path = subject.settings.ca_cert_path
    command = f"install -D -m 0644 PKI/ca.pem {path}" if path else "CA_CERT_PATH=PKI/ca.pem dpi-probe run …"
    try:
        return _validity(path, _native.read_certificate(_der(path, "CA_CERT_PATH")), command)
    except _Missing as error:
        return problem(str(error), command)
    except (VerificationError, ValueError) as error:
        return problem(f"{path}: {error}", command)


CHECKS = (
    Check(
        "certificate",
        "machine",
        "PROBE_CERT_PATH: role, validity, and whether the CA issued it",
        "The Core refuses what an expired or foreign certificate signed: the probe then only spools.",
        _certificate,
    ),
    Check(
        "private key",
        "machine",
        "PROBE_KEY_PATH: who may read it, and whether it belongs to the certificate",
        "Whoever reads the key can sign records in the probe's name.",
        _key,
    ),
    Check(
        "CA",
        "machine",
        "CA_CERT_PATH: validity",
        "The probe delivers only to a Core of this CA, and accepts only its receipts.",
        _authority,
    ),
)
