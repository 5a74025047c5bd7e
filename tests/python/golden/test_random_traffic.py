"""The probe and the reference meter agree on packets that meet every corner of metering."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dpi_probe
import pytest

from tests.corpus.random_traffic import Traffic
from tests.oracle.compare import compare, reference_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("seed", "packets"), [*((seed, 60) for seed in range(60)), *((seed, 1500) for seed in (60, 61))]
)
def test_probe_and_reference_agree(seed: int, packets: int, tmp_path: Path):
    capture = tmp_path / "random.pcap"
    capture.write_bytes(Traffic(seed).capture(packets))
    outputs = []
    for workers in (1, 3):
        output = tmp_path / f"{workers}.ndjson"
        dpi_probe.read(capture, workers=workers, profile="full").write(output, format="ndjson")
        outputs.append(output.read_text())
    assert outputs[0] == outputs[1]
    differences = compare([json.loads(line) for line in outputs[0].splitlines()], reference_of(capture, full=True))
    assert not differences, "\n".join(map(str, differences))
