"""The authority: what it makes, what it refuses, what it never overwrites."""

from __future__ import annotations

import errno
import os
import ssl
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from dpi_probe._pki import Authority, load_certificate, load_key, load_revocations, role_of
from dpi_probe.cli.pki import command
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki") / "pki"
    Authority.init(directory, core="core-1", dns=["core.example"], ip=["192.0.2.1"], probes=["sensor"])
    return directory


def revoked(directory: Path) -> set[int]:
    authority = load_certificate(directory / "ca.pem", "CA")
    return {entry.serial_number for entry in load_revocations(directory / "crl.pem", authority)}


def test_profile_of_the_certificates(made: Path) -> None:
    authority = load_certificate(made / "ca.pem", "CA")
    core = load_certificate(made / "core.pem", "Core")
    probe = load_certificate(made / "probes" / "sensor.pem", "probe")
    assert isinstance(authority.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(core.public_key().curve, ec.SECP256R1)
    assert isinstance(probe.public_key(), rsa.RSAPublicKey)
    assert probe.public_key().key_size == 4096
    assert (role_of(core), role_of(probe), role_of(authority)) == (("core", "core-1"), ("probe", "sensor"), None)
    names = core.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "core.example"]
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.1"]
    for certificate, usage in ((core, "serverAuth"), (probe, "clientAuth")):
        certificate.verify_directly_issued_by(authority)
        assert [oid._name for oid in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [
            usage
        ]
    for key, path in ((core, "core.key"), (probe, "probes/sensor.key")):
        assert load_key(made / path, "key").public_key() == key.public_key()


def test_openssl_accepts_them_strictly(made: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "core.pem", made / "core.key")
    context.load_verify_locations(made / "ca.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(made / "ca.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="core.example")
    for _ in range(4):
        for side in (client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client_side.getpeercert()["subject"] == ((("commonName", "core-1"),),)


def test_files_are_for_their_owner_alone(made: Path) -> None:
    for path in [made, *made.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_overwritten(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds an authority already; nothing was changed"):
        Authority.init(made)
    with pytest.raises(ConfigError, match="add --renew"):
        Authority(made).issue_probe("sensor")
    with pytest.raises(ConfigError, match="add --renew"):
        Authority(made).issue_core("core-1")
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}


def test_an_expired_certificate_makes_room_without_being_asked_to(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "pki")
    # It became valid an hour ago, and expired half an hour ago.
    authority.issue_core(renew=True, days=-1 / 48)
    assert sorted(entry.state for entry in authority.list()) == ["earlier", "expired"]
    authority.issue_core()
    assert sorted(entry.state for entry in authority.list()) == ["earlier", "expired", "valid"]
    with pytest.raises(ConfigError, match="exists and still holds"):
        authority.issue_core()


def test_a_renewal_that_was_cut_short_revokes_nothing_in_use(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "pki", probes=["a"])
    certificate = tmp_path / "pki/probes/a.pem"
    serial = load_certificate(certificate, "probe").serial_number
    # As far as a renewal had come when it was killed.
    (tmp_path / f"pki/earlier/a.{serial:040x}.pem").hardlink_to(certificate)
    with pytest.raises(ConfigError):
        authority.revoke("a", earlier_only=True)
    assert revoked(tmp_path / "pki") == set()
    assert authority.revoke("a") == [serial]


def test_renewal_keeps_the_earlier_certificate_and_revocation_takes_all(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "pki", probes=["a", "b"])
    first = load_certificate(tmp_path / "pki/probes/a.pem", "probe")
    authority.issue_probe("a", renew=True)
    second = load_certificate(tmp_path / "pki/probes/a.pem", "probe")
    assert first.serial_number != second.serial_number
    assert [(entry.name, entry.state) for entry in authority.list()] == [
        ("core", "valid"), ("a", "earlier"), ("a", "valid"), ("b", "valid"),
    ]  # fmt: skip
    assert authority.revoke("a", earlier_only=True) == [first.serial_number]
    assert revoked(tmp_path / "pki") == {first.serial_number}
    assert authority.revoke("a") == [second.serial_number]
    assert revoked(tmp_path / "pki") == {first.serial_number, second.serial_number}
    with pytest.raises(ConfigError, match="revoked already"):
        authority.revoke("a")
    with pytest.raises(ConfigError, match="no certificate of a probe"):
        authority.revoke("c")
    # A revoked certificate makes room without being asked to.
    authority.issue_probe("a")
    states = sorted(entry.state for entry in authority.list() if entry.name == "a")
    assert states == ["revoked", "revoked", "valid"]
    number = load_revocations(tmp_path / "pki/crl.pem", authority.certificate).extensions
    assert number.get_extension_for_class(x509.CRLNumber).value.crl_number == 3


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "ä", "a b", "x" * 65, "-f"])
def test_names_that_are_not_safe_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        Authority.init(tmp_path / "pki", probes=[name])
    assert not (tmp_path / "pki").exists()


def test_bad_addresses_and_directories(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'x': not an IP address"):
        Authority.init(tmp_path / "pki", ip=["x"])
    with pytest.raises(ConfigError, match="no authority here"):
        Authority(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DpiProbeError, match=r"cannot write .*file/pki: Not a directory") as caught:
        Authority.init(tmp_path / "file" / "pki")
    assert caught.value.exit_status == 1


def test_readable_authority_key_is_refused(tmp_path: Path) -> None:
    Authority.init(tmp_path / "pki")
    (tmp_path / "pki/ca.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Authority(tmp_path / "pki")


def test_command_line(tmp_path: Path) -> None:
    directory = str(tmp_path / "pki")
    runner = CliRunner()
    assert runner.invoke(command, ["init", directory, "--probe", "a"], catch_exceptions=False).exit_code == 0
    issued = runner.invoke(command, ["issue", "b", "--dir", directory], catch_exceptions=False)
    assert issued.stdout == f"{directory}/probes/b.pem\n"
    assert runner.invoke(command, ["revoke", "b", "--dir", directory]).exit_code == 0
    with pytest.raises(ConfigError, match=rf"; `dpi-probe pki list --dir {directory}` names those that there are$"):
        runner.invoke(command, ["revoke", "nobody", "--dir", directory], catch_exceptions=False)
    listed = runner.invoke(command, ["list", "--dir", directory, "--json"]).stdout
    assert '"name": "b", "role": "probe", "state": "revoked"' in listed
    assert runner.invoke(command, ["issue", "c", "--dir", directory, "--dns", "x"]).exit_code == 2
    renewed = runner.invoke(command, ["issue", "core", "--core", "--renew", "--dns", "x", "--dir", directory])
    assert renewed.exit_code == 0
    names = load_certificate(tmp_path / "pki/core.pem", "Core").extensions
    assert "x" in names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    "name",
    ["bad name", "", ".", "a..b", "a.", "-a", "a-", "a/b", "böse.example", "x" * 64, "a\n", ".".join(["abc"] * 64)],
)
def test_what_is_no_host_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(command, ["init", str(tmp_path / "pki"), "--dns", name])
    assert isinstance(done.exception, ConfigError)
    assert f"DNS name {name!r}: is none" in str(done.exception)
    assert not (tmp_path / "pki").exists()


def test_an_address_is_no_host_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give it by --ip"):
        Authority.init(tmp_path / "pki", dns=["192.0.2.1"])


def test_host_names_of_all_kinds(tmp_path: Path) -> None:
    names = ["core", "core.example.net", "*.example.net", "xn--bse-sna.example", "core_1.lan", "1.example", "x" * 63]
    Authority.init(tmp_path / "pki", dns=names)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets after how many files that were written the disk is full."""
    left: list[float] = [float("inf")]
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        if left[0] <= 0:
            os.ftruncate(descriptor, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        fsync(descriptor)

    def after(files: float) -> None:
        left[0] = files

    monkeypatch.setattr(os, "fsync", counted)
    return after


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("files", [0, 1])
def test_a_renewal_on_a_full_disk_changes_nothing(
    tmp_path: Path, full_disk: Callable[[float], None], files: int
) -> None:
    authority = Authority.init(tmp_path / "pki")
    before = contents(tmp_path)
    full_disk(files)
    with pytest.raises(DpiProbeError, match="No space left"):
        authority.issue_core(renew=True)
    assert contents(tmp_path) == before
    full_disk(float("inf"))
    authority.issue_core(renew=True)
    assert sorted(entry.state for entry in authority.list()) == ["earlier", "valid"]
    key = load_key(tmp_path / "pki/core.key", "key")
    assert key.public_key() == load_certificate(tmp_path / "pki/core.pem", "Core").public_key()


@pytest.mark.parametrize("files", [0, 1])
def test_a_first_certificate_on_a_full_disk_leaves_nothing(
    tmp_path: Path, full_disk: Callable[[float], None], files: int
) -> None:
    authority = Authority.init(tmp_path / "pki")
    before = contents(tmp_path)
    full_disk(files)
    with pytest.raises(DpiProbeError, match="No space left"):
        authority.issue_probe("sensor")
    assert contents(tmp_path) == before
    full_disk(float("inf"))
    authority.issue_probe("sensor")


@pytest.mark.parametrize("files", [0, 1, 2])
def test_an_authority_that_a_full_disk_kept_from_being_made_can_be_made(
    tmp_path: Path, full_disk: Callable[[float], None], files: int
) -> None:
    full_disk(files)
    with pytest.raises(DpiProbeError, match="No space left"):
        Authority.init(tmp_path / "pki")
    assert contents(tmp_path) == {}
    full_disk(float("inf"))
    assert [entry.state for entry in Authority.init(tmp_path / "pki").list()] == ["valid"]


def test_a_key_without_its_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/ca.key").touch()
    with pytest.raises(ConfigError, match=r"ca\.key: a key without its certificate, ca\.pem; nothing was changed"):
        Authority.init(tmp_path / "pki")
    (tmp_path / "pki/ca.key").unlink()
    authority = Authority.init(tmp_path / "pki")
    (tmp_path / "pki/probes/a.key").touch()
    with pytest.raises(ConfigError, match=r"a\.key: a key without its certificate"):
        authority.issue_probe("a")


def test_a_certificate_that_cannot_be_read_is_no_reason_not_to_revoke_another(tmp_path: Path) -> None:
    Authority.init(tmp_path / "pki", probes=["sensor"])
    (tmp_path / "pki/probes/x.pem").write_text("nonsense")
    done = CliRunner().invoke(command, ["revoke", "sensor", "--dir", str(tmp_path / "pki")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "probes/x.pem: not a PEM certificate; it is passed over" in done.stderr
    serial = load_certificate(tmp_path / "pki/probes/sensor.pem", "probe").serial_number
    assert revoked(tmp_path / "pki") == {serial}
