"""Each kind of bad input of `dpi-probe run`: one clear line that names what, where and what to do."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from harness.books import check_books, total
from harness.programs import Authority, Core, Probe

CAPTURE = min((Path(__file__).parents[2] / "corpus").glob("http1-keep-alive/input.pcap*"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "pki", ["sensor", "other"])


def refused(probe: Probe, status: int, *parts: str) -> None:
    """The probe does not start: the status, and one line on standard error with all the parts."""
    assert probe.start().process is not None
    assert probe.process is not None
    assert probe.process.wait(60) == status, probe.log.read_text()
    lines = [line for line in probe.log.read_text().splitlines() if line.startswith("dpi-probe: ")]
    assert len(lines) == 1, probe.log.read_text()
    assert "Traceback" not in probe.log.read_text()
    for part in parts:
        assert part in lines[0]


def test_a_key_that_others_can_read_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = tmp_path / "loose.key"
    key.write_bytes((authority.directory / "probes/sensor.key").read_bytes())
    key.chmod(0o644)
    probe = Probe(authority, tmp_path / "spool", None, "-r", CAPTURE, f"--probe-key-path={key}")
    refused(probe, 2, str(key), "chmod 600")


def test_the_key_of_another_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = authority.directory / "probes/other.key"
    probe = Probe(authority, tmp_path / "spool", None, "-r", CAPTURE, f"--probe-key-path={key}")
    refused(probe, 2, "does not belong to the certificate")


def test_a_missing_certificate_is_named(authority: Authority, tmp_path: Path) -> None:
    probe = Probe(authority, tmp_path / "spool", None, "-r", CAPTURE, "--probe-cert-path=/nowhere/probe.pem")
    refused(probe, 2, "/nowhere/probe.pem", "pki issue")


def test_an_expired_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65_537, 4096)
    ca_key = serialization.load_pem_private_key((authority.directory / "ca.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate((authority.directory / "ca.pem").read_bytes())
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sensor")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(past)
        .not_valid_after(past + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:dpi-probe:probe:sensor")]), critical=False
        )
        .sign(ca_key, hashes.SHA384())  # type: ignore[arg-type]
    )
    (tmp_path / "old.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with os.fdopen(os.open(tmp_path / "old.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    probe = Probe(
        authority, tmp_path / "spool", None, "-r", CAPTURE,
        f"--probe-cert-path={tmp_path}/old.pem", f"--probe-key-path={tmp_path}/old.key",
    )  # fmt: skip
    refused(probe, 2, "expired", "pki issue")


def test_a_bad_setting_is_one_line(authority: Authority, tmp_path: Path) -> None:
    probe = Probe(authority, tmp_path / "spool", None, "-r", CAPTURE, "--max-buffer-size-mb=3")
    refused(probe, 2, "--max-buffer-size-mb='3'", "at least 128")


def test_an_unknown_interface_is_named(authority: Authority, tmp_path: Path) -> None:
    probe = Probe(authority, tmp_path / "spool", None, "-i", "nosuchif0")
    refused(probe, 3, "nosuchif0")


def test_nothing_to_capture_from(authority: Authority, tmp_path: Path) -> None:
    refused(Probe(authority, tmp_path / "spool", None), 2, "CAPTURE_IFACE")


def test_a_spool_that_another_probe_uses_is_refused(authority: Authority, tmp_path: Path) -> None:
    fifo = tmp_path / "endless"
    os.mkfifo(fifo)
    first = Probe(authority, tmp_path / "spool", None, "-r", fifo).start()
    with fifo.open("wb") as writer:
        writer.write(CAPTURE.read_bytes()[:24])
        writer.flush()
        second = Probe(authority, tmp_path / "spool", None, "-r", CAPTURE)
        second.report = tmp_path / "second.json"
        second.log = tmp_path / "second.log"
        refused(second, 1, "another probe uses this buffer directory")
    first.finish(3)


def test_broken_files_do_not_keep_the_others_from_being_delivered(authority: Authority, tmp_path: Path) -> None:
    text, cut, empty = tmp_path / "notes.txt", tmp_path / "cut.pcap", tmp_path / "empty.pcap"
    text.write_text("these are not packets\n" * 10)
    content = CAPTURE.read_bytes()
    cut.write_bytes(content[:-7])
    empty.touch()
    probe = Probe(
        authority, tmp_path / "spool", None, *[a for f in (text, empty, cut, CAPTURE) for a in ("-r", str(f))]
    )
    accounts = probe.start().finish(3)
    assert probe.process is not None
    assert probe.process.returncode == 3
    check_books(accounts)
    assert total(accounts, "events_sealed") > 0
    said = probe.log.read_text()
    for path in (text, empty, cut):
        assert str(path) in said


def test_a_core_of_another_authority_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    strange = Core(Authority(tmp_path / "strange"), tmp_path / "core").start()
    probe = Probe(authority, tmp_path / "spool", strange, "-r", CAPTURE, "--config", _impatient(tmp_path))
    accounts = probe.start().finish()
    check_books(accounts)
    assert total(accounts, "batches_acknowledged") == 0
    assert total(accounts, "batches_spooled") > 0
    assert "certificate" in probe.log.read_text()
    assert strange.get("/v1/probes")["probes"] == []
    assert strange.stop() == 0


def _impatient(folder: Path) -> Path:
    file = folder / "config.toml"
    file.write_text("shutdown_timeout_seconds = 1\n")
    return file
