"""Flag > environment > file > default; a bad value is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dpi_probe.core.settings import load_settings, redact
from dpi_probe.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('[core]\nadmin_port = 1\nlisten = "127.0.0.1:1"\nsegment_size_mb = 8\n[probe]\nwhat = 1\n')
    return path


def test_order_of_sources(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORE_ADMIN_PORT", "2")
    monkeypatch.setenv("CORE_LISTEN", "127.0.0.1:2")
    settings = load_settings({"listen": "127.0.0.1:3", "admin_port": None}, config)
    assert (settings.listen, settings.admin_port, settings.segment_size_mb) == ("127.0.0.1:3", 2, 8)
    assert settings.commit_delay_ms == 5


def test_paths_follow_the_directories() -> None:
    settings = load_settings({"pki": Path("p"), "data_dir": Path("/d"), "key_path": Path("k")})
    assert (settings.ca, settings.certificate, settings.key, settings.crl) == (
        Path("p/ca.pem"), Path("p/core.pem"), Path("k"), Path("p/crl.pem"),
    )  # fmt: skip
    assert settings.database_dsn == "chdb:///d/database"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"listen": "8443"}, ["CORE_LISTEN", "'8443'", "HOST:PORT"]),
        ({"listen": "h:99999"}, ["CORE_LISTEN", "65535"]),
        ({"listen": "[::g]:1"}, ["CORE_LISTEN"]),
        ({"admin_port": 70000}, ["CORE_ADMIN_PORT", "70000", "allowed: a whole number, at least 0, at most 65535"]),
        (
            {"query_timeout_seconds": "x"},
            ["CORE_QUERY_TIMEOUT_SECONDS", "'x'", "allowed: a number, more than 0, at most"],
        ),
        ({"database": "mysql://x"}, ["CORE_DATABASE", "'mysql://x'", "chdb:///PATH"]),
        ({"database": "clickhouse://h:99999/x"}, ["CORE_DATABASE", "'clickhouse://h:99999/x'", "0-65535"]),
        ({"database": "clickhouse://h:abc/x"}, ["CORE_DATABASE", "'clickhouse://h:abc/x'", "'abc'"]),
        ({"database": "http://[::1/x"}, ["CORE_DATABASE", "'http://[::1/x'", "IPv6"]),
        ({"commit_delay_ms": 51}, ["CORE_COMMIT_DELAY_MS", "51", "50"]),
        *(
            ({name: ""}, [f"CORE_{name.upper()} = ''", "an empty path is not allowed"])
            for name in ("data_dir", "pki", "ca_cert_path", "cert_path", "key_path", "crl_path")
        ),
    ],
)
def test_bad_value_is_one_line(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words), message


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORE_DATA_DIR", "")
    assert load_settings({}).data_dir == Path("/var/lib/dpi-probe/core")


@pytest.mark.parametrize("text", ["[core]\nnonsense = 1\n", "[core\n", "core = 1\n"])
def test_bad_file_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings({}, path)
    with pytest.raises(ConfigError, match="no such file"):
        load_settings({}, tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("data_dri", "did you mean data_dir?"), ("nonsense", "docs/reference/core-config.md lists the settings")],
)
def test_a_name_that_is_no_setting_gets_a_hint(tmp_path: Path, name: str, hint: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[core]\n{name} = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({}, path)
    assert str(caught.value).startswith(f"{path}: [core] {name}: there is no such setting; {hint}")


def test_secrets_stay_out_of_messages() -> None:
    assert redact("clickhouse://user:secret@host/db?password=x") == "clickhouse://host/db"
    with pytest.raises(ConfigError) as caught:
        load_settings({"database": "clickhouse://user:secret@host:99999/db"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a\udcffb"])
def test_a_directory_that_no_dsn_can_name_is_refused(name: str) -> None:
    settings = load_settings({"data_dir": Path("/x") / name})
    with pytest.raises(ConfigError, match=r"CORE_DATA_DIR = .*give another --data-dir, or --database"):
        _ = settings.database_dsn
    elsewhere = load_settings({"data_dir": Path("/x") / name, "database": "chdb:///y"})
    assert elsewhere.database_dsn == "chdb:///y"
    assert load_settings({"data_dir": Path("/x/a%41 b")}).database_dsn == "chdb:///x/a%41 b/database"
    with pytest.raises(ConfigError, match="CORE_DATABASE = 'chdb:///a#b': a path without # is allowed"):
        load_settings({"database": "chdb:///a#b"})
    with pytest.raises(ConfigError, match="text in UTF-8 is allowed"):
        load_settings({"database": "chdb:///a\udcffb"})
