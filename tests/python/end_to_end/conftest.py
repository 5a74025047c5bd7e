"""What tests with whole programs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.fed import Fed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fed(tmp_path: Path, shared_pki: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fed]:
    monkeypatch.setenv("METRICS_ADDRESS", "127.0.0.1:0")
    fed = Fed(tmp_path, shared_pki)
    yield fed
    if fed.probe.process is not None and fed.probe.process.poll() is None:
        fed.probe.kill()
    fed.input.close()
