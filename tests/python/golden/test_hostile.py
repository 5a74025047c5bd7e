"""Hostile inputs end in records and one clear line, never in a traceback, a hang or silence."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.corpus.hostile.make import Hostile, make

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS = 60


@pytest.mark.parametrize("hostile", list(make()), ids=lambda hostile: hostile.name)
def test_hostile_input(hostile: Hostile, tmp_path: Path):
    path = tmp_path / hostile.name
    path.write_bytes(hostile.data)
    command = [sys.executable, "-m", "dpi_probe", "read", "--format", "ndjson", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    errors = done.stderr.decode()
    records = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert done.returncode == (3 if hostile.error else 0), errors
    assert "Traceback" not in errors
    if hostile.error:
        assert hostile.name in errors
        assert len(errors.splitlines()) == 1
    packets = sum(record["packets_fwd"] + record["packets_rev"] for record in records)
    if hostile.frames is not None:
        assert packets <= hostile.frames
    if not hostile.frames and hostile.error and hostile.frames is not None:
        assert records == []
