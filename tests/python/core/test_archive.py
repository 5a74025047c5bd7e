"""The archive's format: what goes in comes out, and nothing that was acknowledged goes away."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dpi_probe.core import archive
from dpi_probe.core.archive import (
    ArchiveError,
    ArchiveWriter,
    Damage,
    Durable,
    Entry,
    Kind,
    Located,
    TornTail,
    iter_entries,
    read_entry,
)
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENT = 1 << 20


def entry(position: int, body: bytes = b"body", receipt: str = "receipt") -> Entry:
    digest = hashlib.sha256(body).digest()
    return Entry(
        Kind.BATCH, position, 1_000 + position, "sensor/eth0", bytes(range(16)), position, digest, body, receipt
    )


def located(directory: Path) -> list[Entry]:
    return [item.entry for item in iter_entries(directory) if isinstance(item, Located)]


def filled(directory: Path, groups: list[list[bytes]], *, segment: int = SEGMENT) -> Durable:
    writer = ArchiveWriter(directory, segment_max_bytes=segment)
    for group in groups:
        writer.append([entry(writer.next_position + at, body) for at, body in enumerate(group)])
    end = writer.end
    writer.close()
    return end


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "archive"


bodies = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), min_size=1, max_size=5)


def test_bytes_are_those_of_the_format(directory: Path) -> None:
    filled(directory, [[b"B"]])
    data = (directory / "segment-0000000000.dpa").read_bytes()
    magic, version, zero, number, position, _, crc = struct.unpack_from("<8sHHIqQI", data)
    assert (magic, version, zero, number, position, crc) == (b"DPIARCHV", 1, 0, 0, 0, zlib.crc32(data[:32]))
    record = data[36:]
    fields = struct.unpack_from("<4sBBHQqII16sQ32s32sI", record)
    assert fields[:8] == (b"DPIR", 1, 1, 11, 0, 1000, 1, 7)
    assert fields[8:11] == (bytes(range(16)), 0, hashlib.sha256(b"B").digest())
    assert record[124:] == b"sensor/eth0Breceipt"
    assert fields[11] == hashlib.sha256(record[:88] + record[124:]).digest()
    assert fields[12] == zlib.crc32(record[:120])


@given(bodies, st.sampled_from([200, 1000, SEGMENT]))
@settings(deadline=None)
def test_what_goes_in_comes_out(groups: list[list[bytes]], segment: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        end = filled(Path(name), groups, segment=segment)
        flat = [body for group in groups for body in group]
        found = located(Path(name))
        assert [item.body for item in found] == flat
        assert [item.position for item in found] == list(range(len(flat)))
        assert end.position == len(flat)
        for item in iter_entries(Path(name)):
            assert isinstance(item, Located)
            assert read_entry(Path(name), item.place) == item.entry


@given(bodies, st.data())
@settings(deadline=None)
def test_torn_write_loses_nothing_that_was_durable(groups: list[list[bytes]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        durable = filled(directory, groups)
        torn = b"".join(entry(durable.position + at, body).encode() for at, body in enumerate([b"x" * 50, b"y" * 90]))
        cut = data.draw(st.integers(0, len(torn)))
        zeros = data.draw(st.integers(0, 40))
        path = directory / "segment-0000000000.dpa"
        path.write_bytes(path.read_bytes() + torn[:cut] + bytes(zeros))
        known = data.draw(st.sampled_from([durable, None]))
        for item in iter_entries(directory):
            assert not isinstance(item, Damage) or item.offset >= durable.offset
        writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT, known=known)
        flat = [body for group in groups for body in group]
        # Whole records behind what is known may have been acknowledged: they stay.
        kept = located(directory)[len(flat) :]
        assert [item.body for item in kept] in ([], [b"x" * 50], [b"x" * 50, b"y" * 90])
        writer.append([entry(writer.next_position, b"next")])
        writer.close()
        found = located(directory)
        assert [item.body for item in found] == [*flat, *(item.body for item in kept), b"next"]
        assert len({item.position for item in found}) == len(found)
        if known is not None or zeros == 0:
            # Without a catalog, bytes that could be a damaged record are left for `verify` to report.
            assert not [item for item in iter_entries(directory) if not isinstance(item, Located)]


@given(st.data())
@settings(deadline=None)
def test_flipped_bit_is_reported_and_costs_one_record(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        durable = filled(directory, [[b"a" * 100, b"b" * 200], [b"c" * 300]])
        path = directory / "segment-0000000000.dpa"
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        items = list(iter_entries(directory))
        damaged = [item for item in items if isinstance(item, Damage)]
        assert len(damaged) == 1
        assert damaged[0].offset <= at < damaged[0].offset + damaged[0].length
        assert len([item for item in items if isinstance(item, Located)]) == (3 if at < 36 else 2)
        # The Core starts on it, keeps every byte, and goes on.
        writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT, known=durable)
        writer.append([entry(writer.next_position, b"next")])
        writer.close()
        assert path.read_bytes()[: len(content)] == content
        found = located(directory)
        assert found[-1].body == b"next"
        assert found[-1].position == 3


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_reader_is_total(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "segment-0000000000.dpa"
        path.write_bytes(content)
        for item in iter_entries(Path(name)):
            assert isinstance(item, Damage | TornTail)


def test_record_within_a_damaged_record_is_not_taken_for_one(directory: Path) -> None:
    inner = entry(77, b"inner").encode()
    filled(directory, [[inner, b"after"]])
    path = directory / "segment-0000000000.dpa"
    content = bytearray(path.read_bytes())
    content[content.index(b"sensor/eth0")] ^= 1
    path.write_bytes(content)
    assert [item.body for item in located(directory)] == [b"after"]


def test_record_within_a_record_that_a_crash_cut_short_is_not_taken_for_one(directory: Path) -> None:
    durable = filled(directory, [[b"first"]])
    torn = entry(1, b"before" + entry(1_000_000, b"inner").encode() + b"behind" * 100).encode()[:-300]
    path = directory / "segment-0000000000.dpa"
    path.write_bytes(path.read_bytes() + torn)
    assert [type(item) for item in iter_entries(directory)] == [Located, TornTail]
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT, known=durable)
    assert (writer.torn.length, writer.end) == (len(torn), durable)
    writer.close()


def test_a_segment_whose_header_never_reached_the_disk_is_begun_again(directory: Path) -> None:
    durable = filled(directory, [[b"first"]])
    (directory / "segment-0000000001.dpa").write_bytes(bytes(36))
    assert [type(item) for item in iter_entries(directory)] == [Located, TornTail]
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT, known=durable)
    assert writer.torn is not None
    assert writer.end == Durable(1, 36, 1)
    writer.append([entry(1, b"next")])
    writer.close()
    assert [item.entry.body for item in iter_entries(directory) if isinstance(item, Located)] == [b"first", b"next"]
    assert len(list(iter_entries(directory))) == 2, "there is no damage"


def test_reader_sees_an_unfinished_record_of_a_live_archive_as_torn(directory: Path) -> None:
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT)
    writer.append([entry(0)])
    path = directory / "segment-0000000000.dpa"
    with path.open("ab") as file:
        file.write(entry(1).encode()[:130])
    items = list(iter_entries(directory))
    assert [type(item) for item in items] == [Located, TornTail]
    writer.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_full_disk_leaves_nothing_of_the_group(directory: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT)
    writer.append([entry(0)])
    size = (directory / "segment-0000000000.dpa").stat().st_size
    real = getattr(os, call)
    written = os.pwrite

    def full(descriptor: int, *arguments: object) -> int:
        if call == "pwrite":
            written(descriptor, arguments[0][:10], arguments[1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive.os, call, full)
    with pytest.raises(ArchiveError, match="No space left") as caught:
        writer.append([entry(1), entry(2)])
    assert caught.value.code == errno.ENOSPC
    monkeypatch.setattr(archive.os, call, real)
    assert (directory / "segment-0000000000.dpa").stat().st_size == size
    writer.append([entry(1)])
    writer.close()
    assert [item.position for item in located(directory)] == [0, 1]


def test_writer_refuses_to_go_on_when_the_cut_back_fails(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT)

    def broken(*_: object) -> Iterator[None]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(archive.os, "fdatasync", broken)
    monkeypatch.setattr(archive.os, "ftruncate", broken)
    with pytest.raises(ArchiveError, match="Input/output"):
        writer.append([entry(0)])
    monkeypatch.undo()
    with pytest.raises(ArchiveError, match="restart the Core"):
        writer.append([entry(0)])


def test_last_record_known_to_be_durable_is_never_taken_away(directory: Path) -> None:
    durable = filled(directory, [[b"first"], [b"last"]])
    path = directory / "segment-0000000000.dpa"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    writer = ArchiveWriter(directory, segment_max_bytes=SEGMENT, known=durable)
    assert writer.torn is None
    writer.append([entry(writer.next_position, b"next")])
    writer.close()
    assert path.read_bytes() == bytes(content)
    assert [type(item) for item in iter_entries(directory)] == [Located, Damage, Located]


def test_missing_archive_is_one_clear_line(directory: Path) -> None:
    with pytest.raises(ArchiveError, match=r"archive .*: No such file or directory"):
        list(iter_entries(directory / "segment-0000000000.dpa"))


def test_headers_made_to_overlap_take_a_time_that_grows_with_the_file(directory: Path) -> None:
    # Each says that it is nearly as long as the file, and that no record follows it: it would be read for each.
    count = 1000
    headers = []
    for position in range(count):
        body = (count - position - 1) * archive.RECORD_HEADER_BYTES + 61
        head = archive._RECORD.pack(
            archive.RECORD_MAGIC, archive.VERSION, Kind.BATCH, 0, position, 0, body, 0, bytes(16), 0, bytes(32),
            bytes(32), 0,
        )[:-4]  # fmt: skip
        headers.append(head + struct.pack("<I", zlib.crc32(head)))
    filled(directory, [])
    (path,) = directory.glob("segment-*")
    path.write_bytes(path.read_bytes() + b"".join(headers) + bytes(300))
    items = list(iter_entries(directory))
    assert all(isinstance(item, Damage) for item in items)
    assert len(items) < 10
    last = items[-1]
    assert isinstance(last, Damage)
    assert last.offset + last.length == path.stat().st_size


def test_records_that_each_lost_bytes_are_told_one_by_one(directory: Path) -> None:
    filled(directory, [[bytes([at]) * 500 for at in range(50)]])
    (path,) = directory.glob("segment-*")
    entries = [item.entry.encode() for item in iter_entries(path) if isinstance(item, Located)]
    cut = [record[:-7] for record in entries[:-1]]
    path.write_bytes(path.read_bytes()[: archive.SEGMENT_HEADER_BYTES] + b"".join([*cut, entries[-1]]))
    items = list(iter_entries(directory))
    assert [item.header[1] for item in items if isinstance(item, Damage) and item.header] == list(range(49))
    assert isinstance(items[-1], Located)
