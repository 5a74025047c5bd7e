"""Whom the Core trusts while files cannot be read."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from dpi_probe._pki import Authority, fingerprint, load_certificate
from dpi_probe.core import trust as module
from dpi_probe.core.metrics import Metrics
from dpi_probe.core.trust import Trust

if TYPE_CHECKING:
    import pytest


def test_a_revocation_list_that_could_not_be_read_once_is_read_again(
    own_pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = load_certificate(own_pki / "probes" / "sensor.pem", "certificate")
    trust = Trust(own_pki / "ca.pem", own_pki / "crl.pem", tmp_path / "certificates", [own_pki / "probes"], Metrics())
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.05)
    read_bytes = Path.read_bytes

    def without_descriptors(path: Path) -> bytes:
        if path.suffix == ".pem":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_bytes(path)

    Authority(own_pki).revoke("sensor")
    Authority(own_pki).issue_probe("later")
    later = x509.load_pem_x509_certificate((own_pki / "probes" / "later.pem").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", without_descriptors)
        for _ in range(3):
            assert not trust.is_revoked(certificate)
            assert trust.find("later", fingerprint(later)) is None
            time.sleep(0.1)
        assert "Too many open files" in (trust.problem or "")
    assert [record.levelname for record in caplog.records].count("ERROR") == 1, "said once"
    assert trust.is_revoked(certificate)
    assert trust.problem is None
    assert trust.find("later", fingerprint(later)) == later
