"""What the demo says while it waits, and where it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dpi_probe import _throwaway
from dpi_probe.errors import DpiProbeError
from harness.core import WAIT_SECONDS, wait_for
from harness.programs import dpi_probe


def core_that_says(monkeypatch: pytest.MonkeyPatch, health: dict[str, Any]) -> _throwaway.RunningCore:
    """A Core whose health is always this; nobody waits for it."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    monkeypatch.setattr(_throwaway.RunningCore, "get", lambda *_: health)
    monkeypatch.setattr(_throwaway, "WAIT_SECONDS", 0.0)
    return _throwaway.RunningCore("", "", process, Path())  # type: ignore[arg-type]


def test_waiting_in_vain_says_what_the_core_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"archive": {"entries": 11}, "index": {"entries": 3}, "problems": ["database: starting"]}
    core = core_that_says(monkeypatch, health)
    told: list[str] = []
    with pytest.raises(DpiProbeError, match="3 of 11 batches are indexed; database: starting"):
        core.wait_until_indexed(told.append)
    assert told[0] == "3 of 11 batches are indexed; database: starting"
    with pytest.raises(DpiProbeError, match="the Core's database to open: database: starting"):
        core.wait_until_open()


def test_what_is_no_capture_is_told_as_by_read(tmp_path: Path) -> None:
    text = tmp_path / "passwd"
    text.write_text("root:x:0:0:root:/root:/bin/bash\n" * 10)
    done = dpi_probe("demo", text, check=False)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dpi-probe: {text}: ")
    assert "top talkers" not in done.stdout
    assert dpi_probe("read", text, check=False).stderr.splitlines()[-1] == line


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_no_private_key(how: signal.Signals, tmp_path: Path) -> None:
    # Whoever runs the tests under nohup ignores SIGHUP, and so would the demo.
    heard = (
        "import runpy, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "runpy.run_module('dpi_probe', run_name='__main__')"
    )
    capture = Path(__file__).parents[2] / "corpus/dns-dig/input.pcap"
    demo = subprocess.Popen(
        [sys.executable, "-c", heard, "demo", capture],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.rglob("core.log")) or demo.poll() is not None, "its Core")
        assert list(tmp_path.rglob("*.key"))
        demo.send_signal(how)
        assert demo.wait(WAIT_SECONDS) == 130
    finally:
        demo.kill()
        demo.wait()
    assert list(tmp_path.iterdir()) == []
