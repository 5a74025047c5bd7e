"""Every case of the corpus gives the records that are written down for it, whatever the number of workers."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import dpi_probe
import pytest

from tests.corpus.cases import Case, cases
from tests.corpus.testbed import Interface, read_frames, write_pcap, write_pcapng
from tests.oracle.compare import compare, reference_of

if TYPE_CHECKING:
    from pathlib import Path

CASES = cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def ndjson(path: Path, output: Path, **settings: object) -> str:
    dpi_probe.read(path, **settings).write(output, format="ndjson")
    return output.read_text()


def test_there_are_cases():
    assert len(CASES) > 40


@each_case
def test_records_are_those_written_down(case: Case, tmp_path: Path):
    assert ndjson(case.capture, tmp_path / "ours.ndjson").splitlines() == case.expected.read_text().splitlines()


@each_case
def test_reference_meter_agrees(case: Case, tmp_path: Path):
    lines = ndjson(case.capture, tmp_path / "ours.ndjson").splitlines()
    differences = compare([json.loads(line) for line in lines], reference_of(case.capture))
    assert not differences, "\n".join(map(str, differences))


@each_case
def test_reference_meter_agrees_on_profile_full(case: Case, tmp_path: Path):
    lines = ndjson(case.capture, tmp_path / "ours.ndjson", profile="full").splitlines()
    records = [json.loads(line) for line in lines]
    assert all("features" in record for record in records)
    differences = compare(records, reference_of(case.capture, full=True))
    assert not differences, "\n".join(map(str, differences))


@each_case
def test_profile_full_has_all_of_standard(case: Case, tmp_path: Path):
    full = [json.loads(line) for line in ndjson(case.capture, tmp_path / "full.ndjson", profile="full").splitlines()]
    standard = [json.loads(line) for line in case.expected.read_text().splitlines()]
    assert [{name: ours.get(name) for name in plain} for ours, plain in zip(full, standard, strict=True)] == standard


@each_case
def test_number_of_workers_changes_nothing(case: Case, tmp_path: Path):
    one = ndjson(case.capture, tmp_path / "1.ndjson", workers=1)
    assert ndjson(case.capture, tmp_path / "2.ndjson", workers=2) == one
    assert ndjson(case.capture, tmp_path / "3.ndjson", workers=3) == one


@each_case
def test_books_balance(case: Case):
    flows = dpi_probe.read(case.capture)
    records = sum(1 for _ in flows)
    accounts = flows.accounts
    undecodable = accounts["frames_undecodable"]
    exported = accounts["flows_exported"]
    assert isinstance(undecodable, dict)
    assert isinstance(exported, dict)
    assert accounts["frames_delivered"] == accounts["frames_metered"] + sum(undecodable.values())
    assert sum(exported.values()) == records


def test_command_line_prints_the_same(tmp_path: Path):
    case = next(case for case in CASES if case.name == "http1-keep-alive")
    command = [sys.executable, "-m", "dpi_probe", "read", "--format", "ndjson"]
    from_file = subprocess.run([*command, str(case.capture)], capture_output=True, check=True)
    assert from_file.stdout.decode() == case.expected.read_text()
    with case.capture.open("rb") as stream:
        from_input = subprocess.run([*command, "-"], stdin=stream, capture_output=True, check=True)
    assert from_input.stdout.decode() == case.expected.read_text()


def dialects(data: bytes) -> dict[str, bytes]:
    """The same frames in every dialect of the two file formats."""
    link_type, records = read_frames(data)
    interfaces = [Interface(link_type=link_type, resolution=9)]
    return {
        "microseconds-big.pcap": write_pcap(records, link_type=link_type, order=">"),
        "nanoseconds-little.pcap": write_pcap(records, link_type=link_type, nanoseconds=True),
        "nanoseconds-big.pcap": write_pcap(records, link_type=link_type, nanoseconds=True, order=">"),
        "little.pcapng": write_pcapng([(interfaces, records)]),
        "big.pcapng": write_pcapng([(interfaces, records)], order=">"),
        "offset.pcapng": write_pcapng([([Interface(link_type, resolution=6, offset_seconds=-5)], records)]),
        "compressed.pcap.gz": gzip.compress(data, mtime=0),
    }


@pytest.mark.parametrize(
    "name", ["http1-keep-alive", "ip-fragments-out-of-order", "tcp-endings", "timeouts", "vlan-qinq"]
)
def test_dialect_of_the_file_changes_nothing(name: str, tmp_path: Path):
    (case,) = [case for case in CASES if case.name == name]
    expected = ndjson(case.capture, tmp_path / "plain.ndjson")
    for dialect, data in dialects(case.capture.read_bytes()).items():
        path = tmp_path / dialect
        path.write_bytes(data)
        assert ndjson(path, tmp_path / f"{dialect}.ndjson") == expected, dialect
