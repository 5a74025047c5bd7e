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

    from dpi_probe.core.archive import Durable
    from harness.sealing import Probe


def committer_of(
    directory: Path, pki: Path, told: list[Durable], *, delay_s: float = 0.0, metrics: Metrics | None = None
) -> Committer:
    """One on a data directory, which tells how far the archive is on disk."""
    signer = CoreSigner(pki / "core.pem", pki / "core.key")
    return Committer(
        directory, signer, metrics or Metrics(), certificates={}, segment_max_bytes=1 << 20, delay_s=delay_s,
        on_durable=told.append,
    )  # fmt: skip


def arrival(batch: bytes) -> Arrival:
    return Arrival(manifest_of(batch), batch, whole=True)


def test_a_copy_that_cannot_be_read_now_is_no_matter_of_the_others(
    tmp_path: Path, shared_pki: Path, probe: Probe
) -> None:
    # All that is handed over before the start is one group.
    committer = committer_of(tmp_path, shared_pki, [], delay_s=1.0)
    again, fresh = arrival(probe.seal()), arrival(probe.seal())
    first = committer.submit(again)
    committer.start()
    assert first.result(30).status == "archived"
    (segment,) = (tmp_path / "archive").glob("segment-*")
    aside = segment.rename(segment.with_suffix(".aside"))
    # Every open of it fails, as without descriptors; for writing it is open.
    segment.symlink_to(segment.name)
    outcomes = [committer.submit(one) for one in (again, fresh)]
    with pytest.raises(CommitError, match="segment"):
        outcomes[0].result(30)
    assert outcomes[1].result(30).status == "archived"
    assert committer.failed is None
    aside.rename(segment)
    assert committer.submit(again).result(30) == committer.submit(again).result(30)
    assert committer.submit(again).result(30).status == "duplicate"
    committer.stop()
