"""A throw-away installation, and a running Core for each test that asks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness.core import Core
from harness.sealing import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def own_pki(tmp_path: Path, shared_pki: Path) -> Path:
    """A copy of it that the test may change."""
    return Path(shutil.copytree(shared_pki, tmp_path / "pki"))


@pytest.fixture
def make_core(tmp_path: Path, shared_pki: Path) -> Iterator[Callable[..., Core]]:
    """Start a Core with options; it ends with the test."""
    cores: list[Core] = []

    def make(*options: str, pki: Path | None = None, start: bool = True, **environment: str) -> Core:
        core = Core(tmp_path / "core", pki or shared_pki, *options, **environment)
        cores.append(core)
        return core.start() if start else core

    yield make
    for core in cores:
        if core.process is not None and core.process.poll() is None:
            core.kill()


@pytest.fixture
def core(make_core: Callable[..., Core]) -> Core:
    """A running Core."""
    return make_core()


@pytest.fixture
def probe(shared_pki: Path) -> Probe:
    """A probe that seals as `sensor`."""
    return Probe("sensor", shared_pki)


@pytest.fixture(scope="module")
def lasting_core(tmp_path_factory: pytest.TempPathFactory, shared_pki: Path) -> Iterator[Core]:
    """A Core for all tests of a module, which keep apart by their chains."""
    core = Core(tmp_path_factory.mktemp("lasting") / "core", shared_pki).start()
    yield core
    assert core.stop() == 0, core.log
