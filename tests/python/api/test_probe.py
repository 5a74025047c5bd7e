"""What a probe says of its own books."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from dpi_probe import Probe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("books", "told"),
    [
        ({("batches_rejected", "refused"): 4, ("batches_acknowledged", ""): 9}, None),
        ({("batches_dropped", "spool_full"): 3}, "3 batches could not be kept, of 3 of them the manifest is there; "),
        (
            {("batches_dropped", "spool_full"): 3, ("manifests_lost", ""): 2, ("batches_lost", "vanished"): 1},
            "4 batches could not be kept, of 1 of them the manifest is there; ",
        ),
        ({("batches_rejected", "unreadable"): 1}, "1 batch could not be kept; "),
    ],
)
def test_a_batch_of_a_file_that_will_not_be_delivered_is_told(
    books: dict[tuple[str, str], int], told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(files=["capture.pcap"], buffer_dir=tmp_path)
    entries = [
        {"account": account, "reason": reason, "worker": None, "value": value}
        for (account, reason), value in books.items()
    ]
    monkeypatch.setattr(probe, "accounts", lambda: entries)
    loss = probe._loss()
    if told is None:
        assert loss is None
    else:
        assert loss is not None
        assert told in loss
