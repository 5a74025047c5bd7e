"""What all tests share: a throw-away authority, whose RSA-4096 keys take their time."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# pytest-xdist gives it to its workers, and what is tested is to be as wide here as it is without them.
os.environ.pop("COLUMNS", None)
# A shell has its background jobs ignore it, and the programs that tests start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with the probes `sensor` and `other`, whose certificates no test revokes."""
    from dpi_probe._pki import Authority

    directory: Path = tmp_path_factory.mktemp("pki") / "pki"
    Authority.init(directory, probes=["sensor", "other"])
    return directory
