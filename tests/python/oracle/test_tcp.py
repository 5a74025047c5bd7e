"""TCP: every column of the probe against the reference on conversations that hypothesis makes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dpi_probe
from dpi_probe import _native
from hypothesis import HealthCheck, Phase, example, given, seed, settings

from tests.corpus.testbed import write_pcap
from tests.oracle.compare import compare, reference_of
from tests.python.oracle.conversations import ACK, CLIENT, PSH, RST, SERVER, SYN, Conversation, Segment, conversations

RAW_IP = 101
OPENED = [Segment(CLIENT, SYN), Segment(SERVER, SYN | ACK), Segment(CLIENT)]


def read(made: Conversation, directory: Path) -> list[dict[str, Any]]:
    """The probe's records of a conversation."""
    capture, output = directory / "made.pcap", directory / "made.ndjson"
    capture.write_bytes(write_pcap(made.records(), link_type=RAW_IP, nanoseconds=True))
    dpi_probe.read(capture, profile="full").write(output, format="ndjson")
    return [json.loads(line) for line in output.read_text().splitlines()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations())
@example(Conversation(4, [Segment(CLIENT, 0), *OPENED], 0))
@example(Conversation(4, [Segment(SERVER, PSH, 10), *OPENED[1:]], 0))
@example(Conversation(4, [Segment(CLIENT, 0), Segment(CLIENT), *OPENED], 0))
@example(Conversation(4, [Segment(CLIENT, 0), Segment(CLIENT, RST), *OPENED], 0))
def test_probe_and_reference_agree(made: Conversation):
    with TemporaryDirectory() as directory:
        ours = read(made, Path(directory))
        differences = compare(ours, reference_of(Path(directory) / "made.pcap", full=True))
    assert not differences, "\n".join(map(str, differences))


# 1,000 bytes are missed and known to be; what follows never fills them.
MISSED = [
    Segment(CLIENT, SYN),
    Segment(SERVER, SYN | ACK),
    Segment(CLIENT),
    Segment(CLIENT, ACK, 100),
    Segment(CLIENT, ACK, 100, at=1000),
    Segment(SERVER),
]


def test_what_comes_two_gigabytes_later_fills_no_gap(tmp_path: Path):
    """Half of the numbers later everything lies before the gap, modulo 2^32."""
    far = [Segment(CLIENT, ACK, 100, at=1 << 30), Segment(CLIENT, ACK, 100, at=(1 << 30) - 1350)]
    (record,) = read(Conversation(4, [*MISSED, *far, *[Segment(CLIENT, ACK, 100)] * 10], 0), tmp_path)
    assert record["tcp_missed_bytes_fwd"] == 1000


def test_a_number_across_half_of_the_space_is_no_gap_of_two_gigabytes(tmp_path: Path):
    again = Segment(CLIENT, SYN, 10, first=0x7FFF_FFF8)
    (record,) = read(Conversation(4, [Segment(CLIENT, SYN, first=0), again, Segment(SERVER, SYN | ACK)], 0), tmp_path)
    assert record["tcp_missed_bytes_fwd"] == 0


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
