"""What is public is exported, typed and documented; what is generated is up to date."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dpi_probe
from dpi_probe import _native, errors
from dpi_probe.doctor import system

ROOT = Path(__file__).resolve().parents[3]


def test_public_names_are_exported_and_nothing_else():
    own = {
        name
        for name, value in vars(dpi_probe).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("dpi_probe")
    }
    # Imported on first use.
    assert own | {"Probe", "__version__"} == set(dpi_probe.__all__)
    assert list(dpi_probe.__all__) == sorted(dpi_probe.__all__)
    for name in dpi_probe.__all__:
        assert getattr(dpi_probe, name) is not None


def test_every_public_object_has_a_docstring():
    for name in dpi_probe.__all__:
        value = getattr(dpi_probe, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name


def test_every_error_is_exported():
    public = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert public <= set(dpi_probe.__all__)


def test_versions_agree():
    assert dpi_probe.__version__ == _native.__version__ == version("dpi-probe")


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_stub_matches_the_native_module():
    done = run_module("mypy.stubtest", "dpi_probe._native")
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_files_are_up_to_date():
    done = run_module("dpi_probe._generate", "--check")
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("rich", "pydantic", "pyarrow", "polars", "pandas", "aiohttp", "numpy")
    script = f"import sys, dpi_probe.cli.read; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_schema_names_types_and_tables():
    columns = _native.schema()
    flow = {column["name"]: column for column in columns if column["table"] == "flow"}
    assert flow["src_ip"]["type"] == "address"
    assert flow["vlan_ids"] == flow["vlan_ids"] | {"type": "list", "nullable": True}
    assert flow["vlan_ids"]["item"]["type"] == "uint16"
    tables = {column["table"] for column in columns}
    assert {"flow", "tls", "dns", "http", "quic"} <= tables
    queries = next(column for column in columns if (column["table"], column["name"]) == ("dns", "queries"))
    assert [member["name"] for member in queries["item"]["members"]][:2] == ["name", "type"]
    for column in columns:
        assert column["doc"], column["name"]


def test_the_unit_grants_what_doctor_asks_for_and_lets_the_program_be_loaded():
    lines = (ROOT / "deploy/systemd/dpi-probe@.service").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    settings: dict[str, list[str]] = {}
    for name, value in pairs:
        settings.setdefault(name, []).extend(value.split())
    assert settings["AmbientCapabilities"] == settings["CapabilityBoundingSet"]
    assert set(settings["AmbientCapabilities"]) == set(system._CAPABILITIES)
    # bpf(2) is in systemd's @privileged, not in @system-service.
    assert settings["SystemCallFilter"] == ["@system-service", "bpf"]
    assert settings["SystemCallErrorNumber"] == ["EPERM"]
    assert {"AF_PACKET", "AF_NETLINK"} <= set(settings["RestrictAddressFamilies"])
