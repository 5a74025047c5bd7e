"""`dpi-probe core` as a user meets it: what goes wrong at start, export, reindex."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native
from dpi_probe._pki import Authority, load_certificate
from dpi_probe.core import receipt, service
from dpi_probe.core.database import DatabaseError, connect
from dpi_probe.core.receipt import CoreSigner
from dpi_probe.errors import ConfigError, DpiProbeError
from harness.sealing import Probe, flow_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.core import Core

PROGRAM = str(Path(sys.executable).with_name("dpi-probe"))


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def refused(*arguments: str | Path, status: int = 2, **environment: str) -> str:
    """The one line that the command ends with."""
    done = run("core", "--listen", "127.0.0.1:0", "--admin-port", "0", *arguments, **environment)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    return done.stderr.splitlines()[-1]


def test_starts_without_importing_the_collector() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import dpi_probe.cli.core, dpi_probe.cli.pki"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not [
        name for name in ("aiohttp", "chdb", "pyarrow", "cryptography", "pydantic") if f" {name}\n" in done.stderr
    ]


def test_an_expired_certificate_is_renewed_by_the_command_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki = tmp_path / "my pki"
    hosts = {"dns": ["core.example"], "ip": ["192.0.2.1"]}
    authority = Authority.init(pki, **hosts)

    def check() -> None:
        signer = CoreSigner(pki / "core.pem", pki / "core.key")
        signer.check_issued(load_certificate(pki / "ca.pem", "CA certificate"), pki)

    names = load_certificate(pki / "core.pem", "Core certificate").extensions
    check()
    in_three_years = time.time() + 3 * 365 * 86_400
    monkeypatch.setattr(receipt.time, "time", lambda: in_three_years)
    with pytest.raises(ConfigError, match="expired on") as caught:
        check()
    told = str(caught.value).partition("renew it with: ")[2]
    (pki / "ca.key").rename(tmp_path / "ca.key")
    with pytest.raises(
        ConfigError, match=r"--dir PKI .* \(PKI is where ca.key is\), and install core.pem and core.key"
    ):
        check()
    (tmp_path / "ca.key").rename(pki / "ca.key")
    monkeypatch.undo()
    done = run(*shlex.split(told)[1:])
    assert done.returncode == 0, done.stderr
    renewed = load_certificate(pki / "core.pem", "Core certificate").extensions
    kind = x509.SubjectAlternativeName
    assert set(renewed.get_extension_for_class(kind).value) == set(names.get_extension_for_class(kind).value)
    assert len(authority.list()) == 2


def test_wrong_certificates_are_one_clear_line(own_pki: Path, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data", "--pki", own_pki)
    line = refused("--data-dir", tmp_path / "data", "--pki", tmp_path / "none")
    assert f"Core certificate {tmp_path}/none/core.pem: No such file" in line
    assert f"dpi-probe pki init {tmp_path}/none --dns NAME" in line
    key = own_pki / "core.key"
    key.chmod(0o644)
    assert f"run: chmod 600 {key}" in refused(*data)
    key.chmod(0o600)
    Authority.init(tmp_path / "foreign")
    foreign = tmp_path / "foreign"
    assert "not the key of" in refused(*data, CORE_KEY_PATH=str(foreign / "core.key"))
    pair = {"CORE_CERT_PATH": str(foreign / "core.pem"), "CORE_KEY_PATH": str(foreign / "core.key")}
    assert "not issued by the CA certificate" in refused(*data, **pair)
    assert "carries no Core role" in refused(
        *data, CORE_CERT_PATH=str(own_pki / "probes/sensor.pem"), CORE_KEY_PATH=str(own_pki / "probes/sensor.key")
    )
    assert "not signed by" in refused(*data, CORE_CRL_PATH=str(foreign / "crl.pem"))
    (own_pki / "core.pem").write_text("nonsense")
    assert "not a PEM certificate" in refused(*data)


def test_ports_and_directories_in_use(core: Core, shared_pki: Path, tmp_path: Path) -> None:
    assert "another Core is running on it; stop that one, or give another --data-dir" in refused(
        "--data-dir", core.data, "--pki", shared_pki
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused("--data-dir", tmp_path / "x", "--pki", shared_pki, "--admin-port", str(port), status=1)
        assert f"CORE_ADMIN_PORT = 127.0.0.1:{port}: the port is in use" in line
        line = refused("--data-dir", tmp_path / "x", "--pki", shared_pki, "--listen", f"127.0.0.1:{port}", status=1)
    assert f"CORE_LISTEN = 127.0.0.1:{port}: the port is in use" in line
    # Of documentation (RFC 5737): no machine has it. At boot the next start may find it.
    line = refused("--data-dir", tmp_path / "x", "--pki", shared_pki, "--listen", "192.0.2.1:8443", status=1)
    assert "CORE_LISTEN = 192.0.2.1:8443: this machine does not have the address now" in line
    (tmp_path / "file").write_text("")
    assert "CORE_DATA_DIR" in refused("--data-dir", tmp_path / "file" / "data", "--pki", shared_pki)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (socket.EAI_AGAIN, 1, "the name cannot be resolved now: no answer"),
        (socket.EAI_NONAME, 2, "there is no such name: no answer"),
    ],
)
def test_a_name_that_may_be_known_later_is_no_wrong_setting(code: int, status: int, words: str) -> None:
    with pytest.raises(DpiProbeError) as caught, service._named("CORE_LISTEN", "core.example.net", 8443):
        raise socket.gaierror(code, "no answer")
    assert str(caught.value) == f"CORE_LISTEN = core.example.net:8443: {words}"
    assert caught.value.exit_status == status


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_root_writes_nothing_among_the_files_of_a_core_of_another_user(
    make_core: Callable[..., Core], probe: Probe
) -> None:
    core = make_core()
    assert core.stop() == 0
    os.chown(core.data / "lock", 65534, 65534)
    done = run("core", "reindex", "--data-dir", core.data, "--pki", core.pki)
    assert done.returncode == 2, done.stderr
    assert "run the command with: sudo -u nobody" in done.stderr
    # A Core itself may have been another user's before, as in a container of root's.
    core.start()
    assert core.stop() == 0


@pytest.mark.parametrize("dsn", ["clickhouse://user:secret@127.0.0.1:{}/flows", "http://127.0.0.1:{}/flows"])
def test_a_server_that_is_down_is_one_short_line(dsn: str) -> None:
    with socket.socket() as silent:
        # Bound, but nobody listens.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseError) as caught:
            connect(dsn.format(port), memory_bytes=1 << 30)
    assert str(caught.value) == f"ClickHouse at 127.0.0.1:{port} cannot be reached: Connection refused"


def test_what_the_core_keeps_is_nobody_elses_to_read(core: Core, probe: Probe, tmp_path: Path) -> None:
    with core.client() as client:
        assert client.post("/v1/batches", probe.seal()).code == 201
    core.indexed()
    second = tmp_path / "second" / "database"
    arguments = ("core", "reindex", "--data-dir", core.data, "--pki", core.pki, "--database", f"chdb://{second}")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    made = [path for directory in (core.data, second) for path in (directory, *directory.rglob("*"))]
    assert len([path for path in made if path.name == "columns.txt"]) > 2, "ClickHouse has made its files"
    open_to_others = [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o077]
    assert open_to_others == []


def test_a_damaged_certificate_keeps_nothing_else_from_being_indexed_again(
    make_core: Callable[..., Core], probe: Probe
) -> None:
    core = make_core()
    for name in ("sensor", "other"):
        with core.client(name) as client:
            assert client.post("/v1/batches", Probe(name, probe.pki).seal()).code == 201
    assert core.stop() == 0
    path = core.data / "archive" / "certificates" / f"{hashlib.sha256(probe.der).hexdigest()}.pem"
    path.write_text("damaged")
    done = run("core", "reindex", "--data-dir", core.data, "--pki", core.pki)
    assert done.returncode == 4, done.stderr
    assert f"{path}: not a PEM certificate; what it signed cannot be verified" in done.stderr
    assert "1 entry of the archive could not be indexed" in done.stderr


def test_authority_of_an_archive_cannot_be_changed(make_core: Callable[..., Core], tmp_path: Path) -> None:
    core = make_core()
    assert core.stop() == 0
    Authority.init(tmp_path / "foreign")
    assert "not the authority of the archive" in refused("--data-dir", core.data, "--pki", tmp_path / "foreign")


@pytest.mark.parametrize("dsn", ["clickhouse://127.0.0.1:99999/x", "clickhouse://127.0.0.1/x?port=abc"])
def test_what_is_no_port_of_a_server_is_one_line(dsn: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        connect(dsn, memory_bytes=1 << 30)
    assert str(caught.value).startswith("database clickhouse://127.0.0.1")
    assert len(str(caught.value).splitlines()) == 1


def test_export_of_a_probe_whose_name_is_too_long_for_a_file(
    make_core: Callable[..., Core], shared_pki: Path, tmp_path: Path
) -> None:
    core = make_core()
    # With the same first 200 bytes.
    names = ["/" * 84, "/" * 83 + "x"]
    with core.client() as client:
        for name in names:
            assert client.post("/v1/batches", Probe("sensor", shared_pki, suffix=name).seal()).code == 201
    out = tmp_path / "evidence"
    done = run("core", "export", "--data-dir", core.data, "--pki", core.pki, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    cut = ("sensor" + "%2F" * 84)[:200]
    digests = [hashlib.sha256(f"sensor{name}".encode()).hexdigest()[:16] for name in names]
    for part in ("batches", "receipts", "heads"):
        assert {path.name for path in (out / part).iterdir()} == {f"{cut}-{digest}" for digest in digests}
    assert run("verify", "--ca", shared_pki / "ca.pem", out).returncode == 0


def test_export_holds_everything_and_verifies(make_core: Callable[..., Core], probe: Probe, tmp_path: Path) -> None:
    core = make_core()
    batches = [probe.seal() for _ in range(3)]
    fork = Probe("sensor", probe.pki, chain=probe.chain).seal(flow_table(2))
    with core.client() as client:
        receipts = [client.post("/v1/batches", batch).body["receipt"] for batch in batches[:2]]
        manifest = _native.read_claims(batches[2])["manifest"].encode()
        assert client.post("/v1/manifests", manifest).code == 201
        assert client.post("/v1/batches", fork).code == 409
    out = tmp_path / "evidence"
    done = run("core", "export", "--data-dir", core.data, "--pki", core.pki, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 batches, 1 manifest of a dropped batch, 1 fork, 1 chain head" in done.stdout
    name = f"sensor/{probe.chain}"
    for seq in range(2):
        assert (out / "batches" / f"{name}-{seq:016x}.arrows").read_bytes() == batches[seq]
        assert (out / "receipts" / f"{name}-{seq:016x}.jwt").read_text() == receipts[seq]
    assert (out / "batches" / f"{name}-{2:016x}.manifest").read_bytes() == manifest
    assert [path.read_bytes() for path in (out / "forks" / "sensor").iterdir()] == [fork]
    ca = x509.load_pem_x509_certificate((out / "ca.pem").read_bytes()).public_bytes(Encoding.DER)
    head = _native.verify_head((out / "heads" / f"{name}.jwt").read_text(), ca, int(time.time()))
    assert (head["seq"], head["manifest"]) == (2, probe.prev)
    assert len(list((out / "certificates").glob("*.pem"))) == 1
    again = run("core", "export", "--data-dir", core.data, "--pki", core.pki, "--out", out)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_export_signs_no_heads_that_an_auditor_would_refuse(
    make_core: Callable[..., Core], own_pki: Path, tmp_path: Path
) -> None:
    core = make_core(pki=own_pki)
    with core.client() as client:
        assert client.post("/v1/batches", Probe("sensor", own_pki).seal()).code == 201
    assert core.stop() == 0
    foreign = tmp_path / "foreign"
    Authority.init(foreign)
    out = tmp_path / "evidence"
    arguments = ("core", "export", "--data-dir", core.data, "--out", out)
    pair = {"CORE_CERT_PATH": str(foreign / "core.pem"), "CORE_KEY_PATH": str(foreign / "core.key")}
    sound = run(*arguments, "--pki", own_pki)
    assert sound.returncode == 0, sound.stderr
    assert run("verify", "--ca", own_pki / "ca.pem", out).returncode == 0
    shutil.rmtree(out)
    Authority(own_pki).issue_core("core", renew=True, days=0)
    for told, pki, environment in (
        ("not the authority of the archive", foreign, {}),
        ("not issued by the CA certificate; probes and auditors would refuse what it signs", own_pki, pair),
        (f"renew it with: dpi-probe pki issue core --core --renew --dir {own_pki}", own_pki, {}),
    ):
        done = run(*arguments, "--pki", pki, **environment)
        assert done.returncode == 2
        assert told in done.stderr
        assert not out.exists()


def test_reindex_into_another_database_while_the_core_runs(core: Core, probe: Probe, tmp_path: Path) -> None:
    with core.client() as client:
        for _ in range(3):
            assert client.post("/v1/batches", probe.seal()).code == 201
    arguments = ("core", "reindex", "--data-dir", core.data, "--pki", core.pki)
    done = run(*arguments, "--database", f"chdb://{tmp_path}/second")
    assert (done.returncode, done.stdout) == (0, "indexed 3 batches, 13 rows\n"), done.stderr
    core.indexed()
    done = run(*arguments)
    assert done.returncode == 1
    assert "another process writes to it; stop the Core" in done.stderr
    assert core.stop() == 0
    # Again and in place: the same, not twice.
    for _ in range(2):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (0, "indexed 3 batches, 13 rows\n"), done.stderr
    core.start()
    core.indexed()
    answer = core.get("/v1/query/applications")
    assert sum(row["flows"] for row in answer["applications"]) == 9


def test_reindex_names_what_does_not_verify(make_core: Callable[..., Core], probe: Probe) -> None:
    core = make_core()
    with core.client() as client:
        for _ in range(2):
            assert client.post("/v1/batches", probe.seal()).code == 201
    assert core.stop() == 0
    (segment,) = (core.data / "archive").glob("*.dpa")
    content = bytearray(segment.read_bytes())
    content[-2000] ^= 4
    segment.write_bytes(content)
    done = run("core", "reindex", "--data-dir", core.data, "--pki", core.pki)
    assert done.returncode == 4
    assert "does not match its digest" in done.stderr
    assert "indexed 1 batch," in done.stdout or "1 entry of the archive could not be indexed" in done.stderr


@pytest.mark.parametrize("verb", ["export", "reindex"])
def test_no_archive_is_one_clear_line(verb: str, shared_pki: Path, tmp_path: Path) -> None:
    extra = ("--out", tmp_path / "out") if verb == "export" else ()
    done = run("core", verb, "--data-dir", tmp_path / "none", "--pki", shared_pki, *extra)
    assert done.returncode == 2
    assert "no archive here" in done.stderr
