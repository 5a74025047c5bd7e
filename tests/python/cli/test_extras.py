"""A command whose packages are not installed says so in one line, before it does anything."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from dpi_probe.bench import report, show
from dpi_probe.cli import bench

if TYPE_CHECKING:
    from pathlib import Path

# To Python a module that is None is not there.
PROGRAM = "import sys; sys.modules[sys.argv.pop(1)] = None; from dpi_probe.cli import main; main()"


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [
        ("cryptography", "core", ["pki", "init", "FOLDER/pki"]),
        ("cryptography", "core", ["pki", "list"]),
        ("cryptography", "core", ["demo", __file__]),
        ("chdb", "core", ["demo", __file__]),
        ("aiohttp", "core", ["core"]),
        ("plotext", "bench", ["bench", "low", "--json", "FOLDER/result.json"]),
        ("cryptography", "bench", ["bench", "low", "--without-core"]),
        ("cryptography", "bench", ["bench", "stages"]),
        ("aiohttp", "bench", ["bench", "search"]),
    ],
)
def test_what_is_missing_is_said_first(module: str, extra: str, command: list[str], tmp_path: Path) -> None:
    done = run_without(module, *(part.replace("FOLDER", str(tmp_path)) for part in command))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"({module}): pip install 'dpi-probe[{extra}]'" in line
    assert not list(tmp_path.iterdir())


def test_help_needs_no_extra() -> None:
    assert run_without("cryptography", "pki", "init", "--help").returncode == 0


def test_results_are_kept_before_they_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(bench, "_run", lambda *_: {"passed": True, "criteria": []})
    monkeypatch.setattr(report, "page", lambda _: "page")
    monkeypatch.setattr(show, "show", fail)
    result, page = tmp_path / "result.json", tmp_path / "result.html"
    CliRunner().invoke(bench.command, ["low", "--json", str(result), "--html", str(page)])
    assert result.exists()
    assert page.read_text() == "page"
