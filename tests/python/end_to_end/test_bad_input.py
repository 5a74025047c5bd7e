"""Each kind of bad input of `dpi-probe run`: one clear line that names what, where and what to do."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import capture_files as captures
import dpi_probe
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dpi_probe._pki import Authority
from dpi_probe.config import load
from dpi_probe.errors import ConfigError
from harness.books import check_books, total
from harness.core import Core, wait_for
from harness.programs import Probe

if TYPE_CHECKING:
    from collections.abc import Callable

CAPTURE = min((Path(__file__).parents[2] / "corpus").glob("http1-keep-alive/input.pcap*"))


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


def test_a_key_that_others_can_read_is_refused(shared_pki: Path, tmp_path: Path) -> None:
    key = tmp_path / "loose.key"
    key.write_bytes((shared_pki / "probes/sensor.key").read_bytes())
    key.chmod(0o644)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, f"--probe-key-path={key}")
    refused(probe, 2, str(key), "chmod 600")


def test_the_key_of_another_certificate_is_refused(shared_pki: Path, tmp_path: Path) -> None:
    key = shared_pki / "probes/other.key"
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, f"--probe-key-path={key}")
    refused(probe, 2, "does not belong to the certificate")


def test_more_memory_than_there_is_is_refused(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "--max-buffer-size-mb=1048576")
    refused(probe, 2, "MAX_BUFFER_SIZE_MB=1048576", "more memory than this process can have")


def test_without_certificates_it_says_how_to_make_them(tmp_path: Path) -> None:
    settings = load({"buffer_dir": tmp_path}).model_copy(update={"probe_cert_path": None})
    with pytest.raises(ConfigError, match=r"are needed; `dpi-probe pki init PKI --probe NAME` makes"):
        dpi_probe.Probe(files=[CAPTURE], settings=settings).start()


def test_a_missing_certificate_is_named(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "--probe-cert-path=/nowhere/probe.pem")
    refused(probe, 2, "/nowhere/probe.pem", "pki init")


def issue(pki: Path, path: Path, uri: str, *, start: dt.datetime, days: int = 1, hosts: tuple[str, ...] = ()) -> Path:
    """A certificate of the authority that `dpi-probe pki` would not make, and its key beside it."""
    key = rsa.generate_private_key(65_537, 4096)
    ca_key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    names = [x509.UniformResourceIdentifier(uri), *map(x509.DNSName, hosts)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sensor")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA384())  # type: ignore[arg-type]
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path.with_suffix(".key"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(pem)
    return path


def with_certificate(certificate: Path) -> list[str]:
    return [f"--probe-cert-path={certificate}", f"--probe-key-path={certificate.with_suffix('.key')}"]


def test_an_expired_certificate_is_refused(shared_pki: Path, tmp_path: Path) -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    old = issue(shared_pki, tmp_path / "old.pem", "urn:dpi-probe:probe:sensor", start=past)
    refused(
        Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, *with_certificate(old)), 2, "expired", "pki issue"
    )


@pytest.mark.parametrize(
    ("flag", "content", "parts"),
    [
        ("--probe-cert-path", b"nonsense", ["not a certificate in PEM form"]),
        ("--probe-key-path", b"nonsense", ["private key"]),
        ("--ca-cert-path", b"nonsense", ["no certificate in PEM form"]),
        ("--ca-cert-path", None, ["CA certificate", "No such file"]),
        ("--probe-key-path", None, ["private key", "No such file"]),
    ],
)
def test_files_that_are_no_certificate_or_key(
    shared_pki: Path, tmp_path: Path, flag: str, content: bytes | None, parts: list[str]
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.touch(0o600)
        file.write_bytes(content)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, f"{flag}={file}")
    probe.command.append("--core-api-url=https://localhost:1")
    refused(probe, 2, str(file), *parts)


def test_a_bad_setting_is_one_line(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "--max-buffer-size-mb=3")
    refused(probe, 2, "--max-buffer-size-mb='3'", "at least 128")


def test_a_count_that_no_counter_holds_is_one_line(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "-c", "99999999999999999999")
    refused(probe, 2, "count: 99999999999999999999 is not allowed")


def test_an_unknown_interface_is_named(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "nosuchif0")
    refused(probe, 3, "nosuchif0")
    assert not probe.spool.exists()


def test_nothing_to_capture_from(shared_pki: Path, tmp_path: Path) -> None:
    refused(Probe(shared_pki, tmp_path / "spool", None), 2, "(-i, CAPTURE_IFACE)", "(-r)")


def test_a_spool_that_another_probe_uses_is_refused(shared_pki: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "endless"
    os.mkfifo(fifo)
    first = Probe(shared_pki, tmp_path / "spool", None, "-r", fifo).start()
    with fifo.open("wb") as writer:
        writer.write(CAPTURE.read_bytes()[:24])
        writer.flush()
        second = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE)
        second.report = tmp_path / "second.json"
        second.log = tmp_path / "second.log"
        refused(second, 1, "another probe uses this buffer directory")
    first.finish()


def test_a_spool_is_free_once_its_probe_has_ended(shared_pki: Path, tmp_path: Path) -> None:
    probes = []
    for _ in range(2):
        with dpi_probe.Probe(
            files=CAPTURE,
            buffer_dir=tmp_path,
            ca_cert_path=shared_pki / "ca.pem",
            probe_cert_path=shared_pki / "probes/sensor.pem",
            probe_key_path=shared_pki / "probes/sensor.key",
        ) as probe:
            probes.append(probe)
    assert [probe.is_running() for probe in probes] == [False, False]
    # The books of both can still be read.
    assert all(total(probe.accounts(), "batches_sealed") > 0 for probe in probes)


def test_the_spool_is_read_before_frames_can_wait_for_it(shared_pki: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("this is no directory")
    # The host uses this interface, so that AF_XDP refuses it once it is opened.
    lo = ("-i", "lo", "--capture", "af_xdp")
    refused(Probe(shared_pki, spool, None, *lo), 1, "cannot use the buffer directory")
    refused(Probe(shared_pki, tmp_path / "another", None, *lo), 3, "--dedicated")


@pytest.mark.parametrize("where", ["full disk", "broken pipe"])
def test_a_log_that_cannot_be_written_ends_nothing(where: str) -> None:
    if where == "full disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    lines = "_native.log_to_stderr('info'); [_native.log('error', 'x' * 9999) for _ in range(9)]"
    command = [sys.executable, "-c", f"from dpi_probe import _native; {lines}"]
    try:
        assert subprocess.run(command, stderr=stderr, check=False).returncode == 0
    finally:
        os.close(stderr)


def test_a_probe_that_reads_a_silent_pipe_ends_when_it_is_told(shared_pki: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "silent"
    os.mkfifo(fifo)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", fifo).start()
    with fifo.open("wb") as writer:
        writer.write(CAPTURE.read_bytes())
        writer.flush()
        wait_for((tmp_path / "spool" / "lock").exists, "the probe runs")
        assert probe.process is not None
        probe.process.terminate()
        accounts = probe.finish(0)
    check_books(accounts)


def test_broken_files_do_not_keep_the_others_from_being_delivered(shared_pki: Path, tmp_path: Path) -> None:
    text, cut, empty = tmp_path / "notes.txt", tmp_path / "cut.pcap", tmp_path / "empty.pcap"
    text.write_text("these are not packets\n" * 10)
    content = CAPTURE.read_bytes()
    cut.write_bytes(content[:-7])
    empty.touch()
    probe = Probe(
        shared_pki, tmp_path / "spool", None, *[a for f in (text, empty, cut, CAPTURE) for a in ("-r", str(f))]
    )
    accounts = probe.start().finish(3)
    assert probe.process is not None
    assert probe.process.returncode == 3
    check_books(accounts)
    assert total(accounts, "events_sealed") > 0
    said = probe.log.read_text()
    for path in (text, empty, cut):
        assert str(path) in said


def bad_text(path: Path) -> None:
    path.write_text("these are not packets\n" * 10)


def bad_program(path: Path) -> None:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200))


def bad_directory(path: Path) -> None:
    path.mkdir()


def bad_permission(path: Path) -> None:
    path.write_bytes(CAPTURE.read_bytes())
    path.chmod(0)


def bad_missing(path: Path) -> None:
    assert not path.exists()


def bad_empty(path: Path) -> None:
    path.touch()


def bad_truncated(path: Path) -> None:
    path.write_bytes(captures.pcap(captures.many_frames(3))[:-5])


def bad_link_type(path: Path) -> None:
    path.write_bytes(captures.pcap(captures.dns_frames(), link_type=147))


def bad_middle(path: Path) -> None:
    data, frames = captures.pcap(captures.many_frames(9)), 16 + len(captures.many_frames(1)[0][1])
    middle = 24 + 4 * frames
    path.write_bytes(data[:middle] + b"\xff" * 40 + data[middle:])


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (bad_text, ["not a capture"]),
        (bad_program, ["not a capture"]),
        (bad_directory, ["directory"]),
        (bad_permission, ["ermission"]),
        (bad_missing, ["o such file"]),
        (bad_empty, ["empty"]),
        (bad_truncated, ["cut"]),
        (bad_link_type, ["147"]),
        (bad_middle, ["broken record at byte", "40 bytes were passed over"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_file_is_one_line_and_the_others_are_delivered(
    shared_pki: Path, tmp_path: Path, make: Callable[[Path], None], parts: list[str]
) -> None:
    path = tmp_path / "bad.pcap"
    make(path)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", path, "-r", CAPTURE)
    if os.geteuid() == 0:
        # As for any other user: permissions of files count.
        probe.command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *probe.command]
    accounts = probe.start().finish(3)
    assert probe.process is not None
    assert probe.process.returncode == 3
    check_books(accounts)
    lines = [line for line in probe.log.read_text().splitlines() if line.startswith("dpi-probe: ")]
    assert len(lines) == 1, lines
    for part in (str(path), *parts):
        assert part in lines[0]
    alone = Probe(shared_pki, tmp_path / "spool2", None, "-r", CAPTURE).start().finish()
    assert total(accounts, "events_sealed") >= total(alone, "events_sealed") > 0


def test_files_with_little_in_them_are_no_error(shared_pki: Path, tmp_path: Path) -> None:
    none, cut = tmp_path / "none.pcap", tmp_path / "cut.pcap"
    none.write_bytes(captures.pcap([]))
    cut.write_bytes(captures.pcap(captures.dns_frames(), snaplen=42))
    accounts = Probe(shared_pki, tmp_path / "spool", None, "-r", none, "-r", cut).start().finish()
    check_books(accounts)
    assert total(accounts, "events_sealed") == 1


def refusals(probe: Probe) -> list[str]:
    """Lines that say why nothing is delivered."""
    said = probe.log.read_text().splitlines()
    return [line for line in said if "core_unreachable" in line or "delivery_refused" in line]


def kept(probe: Probe, accounts: list[dict[str, Any]]) -> None:
    """Everything is in the spool, and nothing was acknowledged."""
    check_books(accounts)
    assert total(accounts, "batches_acknowledged") == 0
    assert total(accounts, "batches_spooled") == total(accounts, "batches_sealed") > 0
    assert "Traceback" not in probe.log.read_text()


def test_a_core_of_another_authority_gets_nothing(shared_pki: Path, tmp_path: Path) -> None:
    Authority.init(tmp_path / "strange", probes=["sensor"])
    strange = Core(tmp_path / "core", tmp_path / "strange").start()
    probe = Probe(shared_pki, tmp_path / "spool", strange, "-r", CAPTURE, "--config", _impatient(tmp_path))
    kept(probe, probe.start().finish())
    (line,) = refusals(probe)
    assert "the Core's certificate is not accepted: it was not issued by" in line
    # The other way round: this side trusts the Core, which does not know the probe's authority.
    mixed = Probe(tmp_path / "strange", tmp_path / "spool2", strange, "-r", CAPTURE, "--config", _impatient(tmp_path),
                  f"--probe-cert-path={shared_pki}/probes/sensor.pem",
                  f"--probe-key-path={shared_pki}/probes/sensor.key")  # fmt: skip
    kept(mixed, mixed.start().finish())
    (line,) = refusals(mixed)
    assert "the Core refused the certificate of" in line
    assert strange.get("/v1/probes")["probes"] == []
    assert strange.stop() == 0


class Imposter(threading.Thread):
    """A TLS server with any certificate, which hangs up in the middle of each request."""

    def __init__(self, port: int, pki: Path, certificate: Path) -> None:
        super().__init__(daemon=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.context.load_verify_locations(pki / "ca.pem")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.listener = socket.create_server(("127.0.0.1", port))
        self.received: list[bytes] = []
        self.handshakes = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.handshakes += 1
                with self.context.wrap_socket(connection, server_side=True) as tls:
                    self.received.append(tls.recv(1000))

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()


def test_a_probe_that_poses_as_the_core_gets_nothing(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki)
    now = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    posing = issue(shared_pki, tmp_path / "posing.pem", "urn:dpi-probe:probe:other", start=now, hosts=("localhost",))
    imposter = Imposter(core.port, shared_pki, posing)
    imposter.start()
    probe = Probe(shared_pki, tmp_path / "spool", core, "-r", CAPTURE, "--config", _impatient(tmp_path))
    kept(probe, probe.start().finish())
    imposter.stop()
    assert imposter.handshakes > 0
    assert imposter.received == [], "refused in the handshake"
    (line,) = refusals(probe)
    assert f"{core.url}/v1" in line or core.url in line
    assert "it does not carry the Core role" in line


def test_a_core_that_is_down_or_goes_in_the_middle_of_a_request(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki)
    down = Probe(shared_pki, tmp_path / "spool", core, "-r", CAPTURE, "--config", _impatient(tmp_path))
    kept(down, down.start().finish())
    (line,) = refusals(down)
    assert core.url in line
    assert "the Core cannot be reached" in line

    gone = Imposter(core.port, shared_pki, shared_pki / "core.pem")
    gone.start()
    config = tmp_path / "patient.toml"
    config.write_text("shutdown_timeout_seconds = 100\n")
    probe = Probe(
        shared_pki, tmp_path / "spool", core, "-r", CAPTURE, "--config", config, beside=tmp_path / "second"
    ).start()
    wait_for(lambda: len(gone.received) >= 3, "a few tries")
    assert probe.process is not None
    assert probe.process.poll() is None
    gone.stop()
    core.start()
    accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "batches_spooled") == 0
    assert total(accounts, "batches_acknowledged") == total(accounts, "batches_sealed") + total(
        accounts, "spool_batches_found"
    )
    assert len(refusals(probe)) == 1
    assert [chain["missing"] for chain in core.get("/v1/probes")["probes"][0]["chains"]] == [0, 0]
    assert core.stop() == 0


def _impatient(folder: Path) -> Path:
    file = folder / "config.toml"
    file.write_text("shutdown_timeout_seconds = 1\n")
    return file
