"""What becomes of arrivals that are committed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from dpi_probe.core.committer import Arrival, CommitError, Committer
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.metrics import Metrics
from dpi_probe.core.receipt import CoreSigner

if TYPE_CHECKING:
    from pathlib import Path

    from harness.sealing import Probe


def test_a_copy_that_cannot_be_read_now_is_no_matter_of_the_others(
    tmp_path: Path, shared_pki: Path, probe: Probe
) -> None:
    committer = Committer(
        tmp_path,
        CoreSigner(shared_pki / "core.pem", shared_pki / "core.key"),
        Metrics(),
        segment_max_bytes=1 << 20,
        # All that is handed over before the start is one group.
        delay_s=1.0,
        on_durable=lambda _: None,
    )
    again, fresh = (Arrival(manifest_of(body), body, whole=True) for body in (probe.seal(), probe.seal()))
    first = committer.submit(again)
    committer.start()
    assert first.result(30).status == "archived"
    (segment,) = (tmp_path / "archive").glob("segment-*")
    aside = segment.rename(segment.with_suffix(".aside"))
    # Every open of it fails, as without descriptors; for writing it is open.
    segment.symlink_to(segment.name)
    outcomes = [committer.submit(arrival) for arrival in (again, fresh)]
    with pytest.raises(CommitError, match="segment"):
        outcomes[0].result(30)
    assert outcomes[1].result(30).status == "archived"
    assert committer.failed is None
    aside.rename(segment)
    assert committer.submit(again).result(30) == committer.submit(again).result(30)
    assert committer.submit(again).result(30).status == "duplicate"
    committer.stop()
