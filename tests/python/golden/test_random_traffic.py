"""The probe and the reference meter agree on packets that meet every corner of metering."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dpi_probe
import pytest
from dpi_probe import _native

from tests.corpus.random_traffic import Traffic
from tests.oracle.compare import compare, reference_of

if TYPE_CHECKING:
    from pathlib import Path


CAPTURES = [*((seed, 60) for seed in range(60)), *((seed, 1500) for seed in (60, 61))]


@pytest.mark.parametrize(("seed", "packets"), CAPTURES)
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


def test_no_column_of_tcp_stays_at_zero(tmp_path: Path):
    """What never happens in the traffic is not compared."""
    seen = set()
    for seed, packets in CAPTURES:
        capture, output = tmp_path / "random.pcap", tmp_path / "random.ndjson"
        capture.write_bytes(Traffic(seed).capture(packets))
        dpi_probe.read(capture, profile="full").write(output, format="ndjson")
        for record in map(json.loads, output.read_text().splitlines()):
            seen |= {name for name, value in (record | record["features"]).items() if value}
    columns = {column["name"] for column in _native.schema() if column["table"] in ("flow", "features")}
    assert {name for name in columns if name.startswith("tcp_")} - seen == set()
