"""`dpi-probe run -i … -c N`: the probe ends by itself after exactly so many packets, with any number of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.books import total
from harness.core import wait_for
from harness.programs import Probe

from tests.corpus.cases import cases
from tests.python.end_to_end.netns import Link

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("workers", [1, 3])
def test_a_live_probe_ends_after_so_many_packets(workers: int, shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == "many-connections"]
    with Link() as link:
        probe = Probe(
            shared_pki, tmp_path / "spool", None, "-i", link.interface, "-f", "tcp", "-c", "100", f"--workers={workers}"
        )
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")

        def ended() -> bool:
            assert probe.process is not None
            link.replay(case.capture, frames_per_second=5000)
            return probe.process.poll() is not None

        wait_for(ended, "the probe to end by itself")
        accounts = probe.finish()
    assert total(accounts, "frames_delivered") == 100
    assert total(accounts, "source_frames_delivered") == 100
    assert total(accounts, "source_frames_stamped") == 100
    assert total(accounts, "events_sealed") > 0
