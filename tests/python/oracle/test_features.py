"""Features: the probe against the reference on packets that hypothesis makes, and both against values made by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dpi_probe
import pytest
from dpi_probe import _native
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.corpus.testbed import Record, write_pcap
from tests.oracle.compare import compare, reference_of
from tests.python.oracle.test_oracle import ACK, CLIENT, FIN, RST, SECOND, SERVER, SYN, ipv4, tcp, udp

RAW_IP = 101
FWD, REV = True, False
MILLISECOND = 1_000_000
YEARS = 10 * 365 * 86_400 * SECOND


@dataclass(frozen=True)
class Train:
    """Packets that are alike, each so much later than the one before."""

    count: int
    step: int
    forward: bool
    protocol: int
    payload: int
    flags: int = ACK

    def packet(self) -> bytes:
        ports = (40_000, 80) if self.forward else (80, 40_000)
        payload = bytes(self.payload)
        body = tcp(*ports, self.flags, 1000, 1000, payload) if self.protocol == 6 else udp(*ports, payload)
        return ipv4(*((CLIENT, SERVER) if self.forward else (SERVER, CLIENT)), self.protocol, body)


def frames(trains: list[Train]) -> list[Record]:
    time, records = 1_700_000_000 * SECOND, []
    for train in trains:
        for _ in range(train.count):
            time += train.step
            packet = train.packet()
            records.append(Record(time, packet, len(packet)))
    return records


def compared(records: list[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    """The probe's records, and where the reference differs."""
    with TemporaryDirectory() as directory:
        capture, output = Path(directory) / "made.pcap", Path(directory) / "made.ndjson"
        capture.write_bytes(write_pcap(records, link_type=RAW_IP, nanoseconds=True))
        dpi_probe.read(capture, profile="full").write(output, format="ndjson")
        ours = [json.loads(line) for line in output.read_text().splitlines()]
        return ours, [str(difference) for difference in compare(ours, reference_of(capture, full=True))]


around = [0, 1, 15, 16, 17, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 1023, 1024, 1448, 9000]
steps = st.one_of(
    st.sampled_from([0, 1, SECOND - 1, SECOND, SECOND + 1, 5 * SECOND, 5 * SECOND + 1, -1, -SECOND, 301 * SECOND]),
    st.sampled_from(around).map(lambda value: value * MILLISECOND),
    st.integers(0, 2 * SECOND),
)
trains = st.builds(
    Train,
    count=st.one_of(st.integers(1, 6), st.integers(1, 25)),
    step=steps,
    forward=st.booleans(),
    protocol=st.sampled_from([6, 6, 17]),
    payload=st.one_of(st.sampled_from(around), st.integers(0, 1448)),
    flags=st.one_of(st.just(ACK), st.integers(0, 0x1FF), st.sampled_from([SYN, SYN | ACK, FIN | ACK, RST])),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trains, min_size=1, max_size=12))
@example([Train(3, number % 2 * 2 * SECOND, FWD, 17, 100 + number) for number in range(40)])
@example([Train(200, MILLISECOND, FWD, 17, 1448), Train(1, 0, FWD, 17, 1447), Train(200, 3, REV, 17, 1448)])
@example([Train(1, 0, number % 2 == 0, 6, 65_000) for number in range(30)])
@example([Train(1, 0, FWD, 17, 1), Train(1, -YEARS, REV, 17, 1), Train(1, YEARS, REV, 17, 1), Train(1, 1, FWD, 17, 1)])
def test_probe_and_reference_agree(made: list[Train]):
    ours, differences = compared(frames(made))
    assert ours
    assert not differences, "\n".join(differences)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Train, st.just(1), steps, st.booleans(), st.just(17), st.integers(0, 1448)), max_size=60))
def test_probe_and_reference_agree_packet_by_packet(made: list[Train]):
    _, differences = compared(frames(made))
    assert not differences, "\n".join(differences)


def test_every_feature_is_compared():
    (record,), differences = compared(frames([Train(3, 6 * SECOND, FWD, 6, 5), Train(3, 1, REV, 6, 9)]))
    assert not differences
    declared = {column["name"] for column in _native.schema() if column["table"] == "features"}
    assert declared == set(record["features"])


def test_a_wrong_feature_is_named(tmp_path: Path):
    capture = tmp_path / "made.pcap"
    capture.write_bytes(write_pcap(frames([Train(5, 1, FWD, 17, 5)]), link_type=RAW_IP, nanoseconds=True))
    reference = reference_of(capture, full=True)
    ours = dict(reference[0].record)
    ours["features"] = ours["features"] | {"bulks_fwd": 2}
    (difference,) = compare([ours], reference)
    assert (difference.column, difference.ours, difference.reference) == ("features.bulks_fwd", 2, 1)


def test_values_by_hand():
    """A request, an answer in five packets, 6 s of nothing, and the end."""
    made = [
        Train(1, 0, FWD, 6, 0, SYN),
        Train(1, MILLISECOND, REV, 6, 0, SYN | ACK),
        Train(1, MILLISECOND, FWD, 6, 100),
        Train(5, 20 * MILLISECOND, REV, 6, 1000),
        Train(1, 6 * SECOND, FWD, 6, 0, RST),
    ]
    (record,), differences = compared(frames(made))
    found = record["features"]
    assert not differences
    assert (found["payload_packets_fwd"], found["payload_packets_rev"]) == (1, 5)
    assert (found["bulks_fwd"], found["bulks_rev"], found["bulk_bytes_rev"]) == (0, 1, 5000)
    assert found["bulk_duration_rev_ns"] == 80 * MILLISECOND
    assert (found["bursts_rev"], found["burst_packets_rev"], found["burst_starts_rev_ns"]) == (
        1,
        [5],
        [22 * MILLISECOND],
    )
    assert found["payload_length_histogram_rev"] == [0, 0, 0, 0, 0, 0, 5, 0]
    assert found["payload_interval_histogram_rev"] == [0, 4, 0, 0, 0, 0, 0, 0]
    assert (found["subflows"], found["idle_periods"], found["idle_max_ns"]) == (2, 1, 6 * SECOND)
    assert (found["active_min_ns"], found["active_max_ns"]) == (0, 102 * MILLISECOND)
    assert (found["tcp_syn_packets_fwd"], found["tcp_syn_packets_rev"], found["tcp_rst_packets_fwd"]) == (1, 1, 1)
    assert found["payload_length_switching_ratio"] == pytest.approx(3 / 8)
    assert found["splt_tcp_flags"][:3] == [SYN, SYN | ACK, ACK]
    assert found["header_length_min_fwd"] == 40


def test_only_the_full_profile_has_the_column(tmp_path: Path):
    capture = tmp_path / "made.pcap"
    capture.write_bytes(write_pcap(frames([Train(2, 1, FWD, 17, 5)]), link_type=RAW_IP, nanoseconds=True))
    for profile in ("minimal", "standard"):
        flows = dpi_probe.read(capture, profile=profile)
        assert [flow.features for flow in flows] == [None]
        assert "features" not in flows.to_polars().columns
    (flow,) = dpi_probe.read(capture, profile="full")
    assert flow.features is not None
    assert flow.features.payload_length_max == 5
    table = dpi_probe.read(capture, profile="full", protocols=[]).to_polars()
    assert table.columns[-1] == "features"
