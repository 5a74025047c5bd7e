"""TCP: every column of the probe against the reference on conversations that hypothesis makes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dpi_probe
from dpi_probe import _native
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.corpus.testbed import write_pcap
from tests.oracle.compare import compare, reference_of
from tests.python.oracle.conversations import Conversation, conversations

RAW_IP = 101


def read(made: Conversation, directory: Path) -> list[dict[str, Any]]:
    """The probe's records of a conversation."""
    capture, output = directory / "made.pcap", directory / "made.ndjson"
    capture.write_bytes(write_pcap(made.records(), link_type=RAW_IP, nanoseconds=True))
    dpi_probe.read(capture, profile="full").write(output, format="ndjson")
    return [json.loads(line) for line in output.read_text().splitlines()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations())
def test_probe_and_reference_agree(made: Conversation):
    with TemporaryDirectory() as directory:
        ours = read(made, Path(directory))
        differences = compare(ours, reference_of(Path(directory) / "made.pcap", full=True))
    assert not differences, "\n".join(map(str, differences))


def tcp_columns() -> set[str]:
    """The columns of TCP, those among the features too."""
    tables = {"flow": "", "features": "features."}
    return {
        tables[column["table"]] + column["name"]
        for column in _native.schema()
        if column["table"] in tables and column["name"].startswith("tcp_")
    }


def told(record: dict[str, Any]) -> set[str]:
    """The columns of a record that say more than that there was nothing."""
    columns = record | {f"features.{name}": value for name, value in record["features"].items()}
    return {name for name, value in columns.items() if value}


def test_no_column_stays_at_zero(tmp_path: Path):
    """What never happens in the conversations is not compared."""
    seen: set[str] = set()
    versions: set[int] = set()

    @seed(0)
    @settings(max_examples=150, database=None, deadline=None, phases=[Phase.generate])
    @given(conversations())
    def look(made: Conversation) -> None:
        for record in read(made, tmp_path):
            seen.update(told(record))
            versions.add(record["ip_version"])

    look()
    assert len(tcp_columns()) >= 30
    assert tcp_columns() - seen == set()
    assert versions == {4, 6}
