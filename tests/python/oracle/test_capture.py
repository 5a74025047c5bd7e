"""The oracle reads the variants of pcap of which the magic number does not tell them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.oracle import capture

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("magic", "extra"),
    [
        pytest.param(0xA1B2C3D4, 0, id="ordinary"),
        pytest.param(0xA1B2CD34, 8, id="patch of 1999-10-29"),
        pytest.param(0xA1B2CD34, 12, id="patch of 1999-09-15"),
        pytest.param(0xA1B2C3D4, 8, id="patch of 1999-04-17"),
        pytest.param(0xA1B2C3D4, 4, id="Nokia"),
    ],
)
def test_variants_of_pcap(tmp_path: Path, order: str, magic: int, extra: int) -> None:
    frames = [b"first", b"the second", b"3"]
    data = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, 1)
    for number, frame in enumerate(frames):
        data += struct.pack(order + "IIII", 1_600_000_000 + number, 5, len(frame), 60) + bytes(extra) + frame
    path = tmp_path / "variant.pcap"
    path.write_bytes(data)
    read = list(capture.read(path))
    assert [frame.data for frame in read] == frames
    assert [frame.time_ns for frame in read] == [(1_600_000_000 + n) * 10**9 + 5_000 for n in range(3)]


def test_a_captured_length_that_is_damaged_swallows_no_packets(tmp_path: Path) -> None:
    header = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    records = [struct.pack("<IIII", 1_600_000_000 + n, 5, 72, 72) + bytes([n % 250] * 72) for n in range(3000)]
    path = tmp_path / "damaged.pcap"
    for damaged in (72 | 1 << 17, 72 + 1000 * len(records[0])):
        records[1000] = records[1000][:8] + struct.pack("<I", damaged) + records[1000][12:]
        path.write_bytes(header + b"".join(records))
        times = [frame.time_ns // 10**9 - 1_600_000_000 for frame in capture.read(path)]
        assert times == [n for n in range(3000) if n != 1000]


def test_programs_that_write_more_bytes_than_a_frame_had_are_read(tmp_path: Path) -> None:
    data = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for number in range(5):
        # Days lie between them.
        data += struct.pack("<IIII", 1_600_000_000 + number * 300_000, 5, 64, 60) + bytes(64)
    path = tmp_path / "longer.pcap"
    path.write_bytes(data)
    assert [frame.wire_length for frame in capture.read(path)] == [64] * 5
