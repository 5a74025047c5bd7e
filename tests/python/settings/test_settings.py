"""Precedence and error lines of the probe's settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from dpi_probe import Probe, _generate
from dpi_probe.cli import run
from dpi_probe.config import ProbeSettings, allowed, load
from dpi_probe.core.settings import CoreSettings
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOW_TIMEOUT_SECONDS", "MAX_BUFFER_SIZE_MB", "CAPTURE_IFACE", "BUFFER_DIR", "PROMISCUOUS"):
        monkeypatch.delenv(name, raising=False)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "probe.toml"
    file.write_text(
        "flow_timeout_seconds = 10\nmax_buffer_size_mb = 200\ncapture_iface = 'eth7'\n[core]\nlisten = 'x'\n"
    )
    monkeypatch.setenv("FLOW_TIMEOUT_SECONDS", "20")
    monkeypatch.setenv("MAX_BUFFER_SIZE_MB", "300")
    settings = load({"flow_timeout_seconds": "30", "max_spool_size_mb": None}, file)
    assert settings.flow_timeout_seconds == 30
    assert settings.max_buffer_size_mb == 300
    assert settings.capture_iface == "eth7"
    assert settings.max_spool_size_mb == 4096


def test_cores_are_a_list_of_numbers_and_ranges() -> None:
    assert load({"capture_cores": "4-6, 2"}).cores == [4, 5, 6, 2]
    assert load({}).cores == []


def test_the_example_file_is_right_when_all_of_it_is_uncommented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = _generate.config_page().partition("```toml\n")[2].partition("```")[0]
    lines = re.findall(r"^# (\w+ = .*)$", example, re.MULTILINE)
    names = [line.partition(" = ")[0] for line in lines]
    assert names == list(ProbeSettings.model_fields)
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    file = tmp_path / "probe.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    settings = load({}, file)
    assert settings.model_fields_set == set(names)
    assert settings.workers == len(settings.cores)


def test_a_setting_without_default_and_example_has_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProbeSettings.model_fields["buffer_dir"], "examples", None)
    with pytest.raises(ValueError, match="buffer_dir has neither a default nor an example"):
        _generate.config_page()


@pytest.mark.parametrize("text", ["", " ", "1,", "1,,2", "-1", "x", "8192", "1-8192", "3-1", "1-2-3", "²"])
def test_a_core_list_has_no_gaps_and_no_other_characters(text: str) -> None:
    with pytest.raises(ConfigError, match="as in 2-5,8"):
        load({"capture_cores": text})


def test_default_paths_name_the_interface() -> None:
    assert load({"capture_iface": "eth1"}).spool_directory == Path("/var/lib/dpi-probe/eth1")


@pytest.mark.parametrize(
    ("flags", "environment", "file", "parts"),
    [
        ({"max_buffer_size_mb": "3"}, {}, "", ["--max-buffer-size-mb='3'", "command line", "at least 128"]),
        ({}, {"FLOW_TIMEOUT_SECONDS": "abc"}, "", ["FLOW_TIMEOUT_SECONDS='abc'", "environment", "at most 86400"]),
        ({}, {"FLOW_TIMEOUT_SECONDS": "nan"}, "", ["FLOW_TIMEOUT_SECONDS='nan'", "at least 0.001"]),
        ({"probe_id": ""}, {}, "", ["--probe-id=''", "allowed: a name such as probe-1.example/eth0"]),
        ({}, {}, "flow_timeout_seconds = true", ["flow_timeout_seconds=True", "probe.toml", "allowed: a number"]),
        ({}, {}, "Flow_Timeout_Seconds = -1", ["flow_timeout_seconds=-1", "probe.toml"]),
        ({"flow_timeout_seconds": "5000"}, {}, "", ["flow_active_timeout_seconds=1800", "default", "which is 5000"]),
        ({}, {}, "spool_fsync = 'x'", ["spool_fsync='x'", "probe.toml", "batch, never"]),
        ({}, {}, "flow_timout_seconds = 3", ["flow_timout_seconds", "no such", "did you mean flow_timeout_seconds?"]),
        ({}, {}, "x =", ["probe.toml is not TOML"]),
        ({"buffer_dir": ""}, {}, "", ["--buffer-dir=''", "command line", "an empty path is not allowed"]),
        ({}, {}, "buffer_dir = ''", ["buffer_dir=''", "probe.toml", "an empty path is not allowed"]),
        ({}, {"PROBE_CERT_PATH": " "}, "", ["PROBE_CERT_PATH=' '", "environment", "an empty path is not allowed"]),
        ({}, {}, "probe_key_path = ''", ["probe_key_path=''", "an empty path is not allowed"]),
        ({}, {}, "ca_cert_path = ''", ["ca_cert_path=''", "an empty path is not allowed"]),
        ({"core_api_url": "http://core"}, {}, "", ["--core-api-url='http://core'", "https://HOST[:PORT]"]),
        ({}, {"CAPTURE_IFACE": "eth0/../x"}, "", ["CAPTURE_IFACE='eth0/../x'", "interface name"]),
        ({}, {"CAPTURE_CORES": "3-1"}, "", ["CAPTURE_CORES='3-1'", "as in 2-5,8"]),
        ({}, {"CAPTURE_CORES": "2,1-3"}, "", ["CAPTURE_CORES='2,1-3'", "named once"]),
        ({"workers": "0"}, {}, "", ["--workers='0'", "at least 1"]),
        ({"workers": "257"}, {}, "", ["--workers='257'", "at most 256"]),
        ({"seal_threads": "2"}, {"MAX_BUFFER_SIZE_MB": "511"}, "", ["--seal-threads='2'", "at most 1, one for"]),
        ({}, {"PROMISCUOUS": "maybe"}, "", ["PROMISCUOUS='maybe'", "true, false"]),
        ({}, {"workers": "0"}, "", ["workers='0'", "environment", "at least 1"]),
        ({}, {"WORKERS": ""}, "workers = 0", ["workers=0", "probe.toml"]),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line_that_names_all(
    flags: dict[str, str],
    environment: dict[str, str],
    file: str,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "probe.toml"
    path.write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load(flags, path)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("model", [ProbeSettings, CoreSettings])
def test_every_number_has_bounds_that_the_data_plane_can_hold(model: type[BaseSettings]) -> None:
    numbers = [name for name in model.model_fields if "number" in allowed(name, model)]
    assert len(numbers) > 5
    assert [name for name in numbers if "at most" not in allowed(name, model)] == []
    with pytest.raises(ConfigError, match=r"at least 1, at most 9223372036854775807$"):
        load({"backpressure_threshold": str(2**63)})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: No such file or directory"):
        load({}, tmp_path / "nowhere.toml")


def test_every_setting_is_a_flag_of_run_that_names_its_variable() -> None:
    helps = {option.name: option.help or "" for option in run.command.params if isinstance(option, click.Option)}
    for name in ProbeSettings.model_fields:
        assert f"[{name.upper()}]" in helps.get(name, ""), name


def test_an_argument_of_python_is_no_flag() -> None:
    with pytest.raises(ConfigError, match=r"^workers=0 \(argument\): allowed: a whole number, at least 1"):
        Probe("lo", workers=0)
    with pytest.raises(ConfigError, match=r"^buffer_dir='' \(argument\): an empty path is not allowed"):
        Probe("lo", buffer_dir="")
    with pytest.raises(ConfigError, match=r"^wrkers \(argument\): there is no such setting; did you mean workers"):
        Probe("lo", wrkers=2)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUFFER_DIR", "PROBE_CERT_PATH", "CORE_API_URL", "WORKERS"):
        monkeypatch.setenv(name, "")
    settings = load({"capture_iface": "eth0"})
    assert (settings.buffer_dir, settings.core_api_url, settings.workers) == (None, None, None)
    assert settings.spool_directory == Path("/var/lib/dpi-probe/eth0")
    assert settings.probe_cert_path == Path("/etc/dpi-probe/probe.pem")


def test_a_path_may_be_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"sp\xff")
    assert load({"buffer_dir": name}).spool_directory == Path(name)
    monkeypatch.setenv("BUFFER_DIR", name)
    assert load({}).spool_directory == Path(name)
