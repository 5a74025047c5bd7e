"""What the embedded database writes when it starts."""

from __future__ import annotations

import os
from threading import Event
from typing import TYPE_CHECKING

import pytest
from dpi_probe.core import database

if TYPE_CHECKING:
    from pathlib import Path

TRACE = b"""Cannot use cgroups reader: Code: 107. DB::Exception: Cannot find the memory file. (X), Stack trace:

0. ? @ 0x000000001d967133
1. ? @ 0x000000000e717b9e
 (version 26.9.2.1)
"""


def test_missing_control_groups_are_no_stack_trace_and_everything_else_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(database, "_engine_runs", Event())
    monkeypatch.setattr(database, "_CONTROL_GROUPS", (tmp_path / "memory",))

    def fail() -> None:
        with database._without_trace():
            os.write(2, b"before\n" + TRACE + b"behind\n")
            raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        fail()
    assert capfd.readouterr().err == "before\nbehind\n"
    with database._without_trace():
        os.write(2, b"a second try\n")
    assert capfd.readouterr().err == "a second try\n"
    with database._without_trace():
        os.write(2, TRACE)
        assert capfd.readouterr().err == TRACE.decode(), "once the engine runs, nothing is held back"
    monkeypatch.setattr(database, "_engine_runs", Event())
    (tmp_path / "memory").touch()
    with database._without_trace():
        os.write(2, TRACE)
        assert capfd.readouterr().err == TRACE.decode(), "nor where there are control groups"
