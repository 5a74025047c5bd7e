"""The archive: append-only segment files that hold every sealed batch byte for byte, with its receipt.

In: entries that were verified. Out: their places, once they are on disk. Owns: `DIR/segment-*.dpa`.
Never: changes a byte that was written, or takes away anything but a torn tail that no receipt was given for.

The format is docs/formats/archive.md, byte for byte. Readers need no lock: they may read while the Core writes, and
see an unfinished last record as `TornTail`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, BinaryIO

from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SEGMENT_MAGIC = b"DPIARCHV"
RECORD_MAGIC = b"DPIR"
VERSION = 1
# magic, version, reserved, segment number, position of its first record, time made (ns), CRC-32 of what precedes
_SEGMENT = struct.Struct("<8sHHIQqI")
# magic, version, kind, length of the probe id, position, time received (ns), lengths of body and receipt, chain, seq,
# manifest digest, SHA-256 of record with this field and the CRC left out, CRC-32 of the header up to here
_RECORD = struct.Struct("<4sBBHQqII16sQ32s32sI")
SEGMENT_HEADER_BYTES = _SEGMENT.size
RECORD_HEADER_BYTES = _RECORD.size
_DIGEST_OFFSET = RECORD_HEADER_BYTES - 36
# No batch, manifest or receipt is near this; a header that says more is damaged.
MAX_PART_BYTES = 16 << 20
MAX_PROBE_BYTES = 512
_SEGMENT_NAME = re.compile(r"segment-([0-9]{10})\.dpa")
_SCAN_BYTES = 1 << 20
# How many times a segment's bytes are read on behalf of damaged records that no other follows. Where bytes were lost in
# each of them, it is once.
_MAX_OVERLAP = 4


class ArchiveError(DpiProbeError):
    """The archive cannot be read or written. `code` is the `errno` behind it, if there is one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        """Keep the message and the system's reason."""
        super().__init__(message)
        self.code = code


class DamagedError(ArchiveError):
    """A record could be read, and is not what was written."""


class Kind(IntEnum):
    """What a record holds."""

    BATCH = 1
    """A sealed batch that was accepted."""
    MANIFEST = 2
    """The manifest of a batch that its probe had to drop."""
    FORK_BATCH = 3
    """A sealed batch that was refused because another manifest is archived under its key: evidence."""
    FORK_MANIFEST = 4
    """A manifest that was refused for the same reason."""


_KINDS = frozenset(int(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies."""

    segment: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind the record."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the archive, its digest checked."""

    kind: Kind
    position: int
    """Number of the record since the archive began, from 0."""
    received_ns: int
    """When the Core archived it: UTC nanoseconds since 1970."""
    probe: str
    chain: bytes
    seq: int
    manifest_hash: bytes
    body: bytes
    """The sealed batch, or the manifest in ASCII."""
    receipt: str
    """The receipt that was given; empty for a fork."""

    def encode(self) -> bytes:
        """The record's bytes."""
        probe = self.probe.encode()
        receipt = self.receipt.encode("ascii")
        if len(probe) > MAX_PROBE_BYTES or max(len(self.body), len(receipt)) > MAX_PART_BYTES:
            raise ValueError("a part of the record is longer than the format allows")
        head = _RECORD.pack(
            RECORD_MAGIC, VERSION, self.kind, len(probe), self.position, self.received_ns, len(self.body),
            len(receipt), self.chain, self.seq, self.manifest_hash, bytes(32), 0,
        )[:_DIGEST_OFFSET]  # fmt: skip
        digest = hashlib.sha256(head)
        for part in (probe, self.body, receipt):
            digest.update(part)
        head += digest.digest()
        return b"".join((head, struct.pack("<I", zlib.crc32(head)), probe, self.body, receipt))


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that hold no valid record."""

    path: Path
    offset: int
    length: int
    reason: str
    header: tuple[str, int] | None = None
    """Chain (hexadecimal) and seq of the damaged record, if its header is intact."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """An unfinished record at the end of the newest segment: being written, or cut off by a crash."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Located:
    """A valid record and its place."""

    entry: Entry
    path: Path
    place: Place


Item = Located | Damage | TornTail


@dataclass(frozen=True, slots=True)
class Durable:
    """A point of the archive: everything before it is on disk."""

    segment: int
    offset: int
    position: int
    """The position of the next record."""


def segment_name(number: int) -> str:
    """The file name of segment `number`."""
    return f"segment-{number:010d}.dpa"


def segments(directory: Path) -> list[tuple[int, Path]]:
    """Number and path of each segment in order.

    Raises:
        ArchiveError: the directory cannot be listed.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError as error:
        raise _archive_error(error, directory) from error
    return sorted((int(match[1]), directory / match[0]) for match in map(_SEGMENT_NAME.fullmatch, names) if match)


def is_archive(path: Path) -> bool:
    """Whether `path` is a segment file or a directory that holds one."""
    if path.is_dir():
        return bool(segments(path))
    return _SEGMENT_NAME.fullmatch(path.name) is not None


def iter_entries(path: Path) -> Iterator[Item]:
    """Everything that an archive directory or one segment file holds, in order; damage is reported, never raised.

    May run while a Core writes. After damage the reader goes on at the next intact record header.

    Raises:
        ArchiveError: a file cannot be opened or read.
    """
    if path.is_dir():
        files = segments(path)
        for index, (number, segment) in enumerate(files):
            yield from read_segment(segment, number, newest=index == len(files) - 1)
    else:
        match = _SEGMENT_NAME.fullmatch(path.name)
        yield from read_segment(path, int(match[1]) if match else 0, newest=True)


def read_segment(path: Path, number: int, *, newest: bool, start: int = 0, end: int | None = None) -> Iterator[Item]:
    """The records of one segment from offset `start` up to `end`.

    Only in the `newest` segment is an unfinished record at the end a `TornTail`; in others it is `Damage`.

    Raises:
        ArchiveError: the file cannot be read.
    """
    try:
        # Opening a pipe would not end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArchiveError(f"archive {path}: is no regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield from _read_records(file, path, number, newest, start, size if end is None else min(end, size))
    except OSError as error:
        raise _archive_error(error, path) from error


def _read_records(file: BinaryIO, path: Path, number: int, newest: bool, start: int, size: int) -> Iterator[Item]:
    offset = start
    if offset == 0:
        header = file.read(SEGMENT_HEADER_BYTES)
        # A crash while the segment was begun leaves it short, or with zeros where the header had not reached the disk.
        if newest and (len(header) < SEGMENT_HEADER_BYTES or (size == SEGMENT_HEADER_BYTES and not any(header))):
            yield TornTail(path, 0, len(header))
            return
        reason = _check_segment_header(header, number)
        if reason:
            yield Damage(path, 0, SEGMENT_HEADER_BYTES, reason)
        offset = SEGMENT_HEADER_BYTES
    overlapping = 0
    while offset < size:
        found = _read_record(file, offset, size)
        if isinstance(found, tuple):
            entry, length = found
            yield Located(entry, path, Place(number, offset, length))
            offset += length
            continue
        # A record whose header is intact says itself where the next one is: a header within it is no record.
        stated_end = offset + found.length
        if found.header is not None and found.unfinished:
            # It says that it passes the end: nothing was written behind it, whatever its body looks like.
            following = None
        elif found.length and (stated_end == size or _has_header(file, stated_end, size)):
            following = stated_end if stated_end < size else None
        else:
            # What it says that it is long was read and will be again: headers made to overlap would take for ever.
            overlapping += found.length
            is_made_up = overlapping > _MAX_OVERLAP * size
            following = None if is_made_up else _next_header(file, offset + 1, size)
        if following is None:
            if newest and found.unfinished:
                yield TornTail(path, offset, size - offset)
            else:
                yield Damage(path, offset, size - offset, found.reason, found.header)
            return
        yield Damage(path, offset, following - offset, found.reason, found.header)
        offset = following


@dataclass(frozen=True, slots=True)
class _Bad:
    reason: str
    unfinished: bool = False
    length: int = 0
    header: tuple[str, int] | None = None


def _check_segment_header(header: bytes, number: int) -> str | None:
    if len(header) < SEGMENT_HEADER_BYTES:
        return "segment header is cut"
    magic, version, _, stated, _, _, crc = _SEGMENT.unpack(header)
    if magic != SEGMENT_MAGIC or crc != zlib.crc32(header[:-4]):
        return "segment header is damaged"
    if version != VERSION:
        return f"segment version {version} is not known"
    if stated != number:
        return f"segment says that its number is {stated}"
    return None


def _parse_header(header: bytes) -> tuple[int, int, int, int, int, int, bytes, int, bytes, bytes] | None:
    """The fields of an intact record header, or None."""
    if len(header) < RECORD_HEADER_BYTES:
        return None
    magic, version, kind, probe, position, received, body, receipt, chain, seq, manifest, digest, crc = _RECORD.unpack(
        header
    )
    if magic != RECORD_MAGIC or version != VERSION or crc != zlib.crc32(header[:-4]):
        return None
    if probe > MAX_PROBE_BYTES or body > MAX_PART_BYTES or receipt > MAX_PART_BYTES or kind not in _KINDS:
        return None
    return kind, probe, position, received, body, receipt, chain, seq, manifest, digest


def _read_record(file: BinaryIO, offset: int, size: int) -> tuple[Entry, int] | _Bad:
    file.seek(offset)
    header = file.read(min(RECORD_HEADER_BYTES, size - offset))
    fields = _parse_header(header)
    if fields is None:
        cut = len(header) < RECORD_HEADER_BYTES
        # A crash of the machine may leave zeros where data had not yet reached the disk.
        return _Bad("record header is cut" if cut else "record header is damaged", cut or not any(header))
    kind, probe_length, position, received, body_length, receipt_length, chain, seq, manifest, digest = fields
    length = RECORD_HEADER_BYTES + probe_length + body_length + receipt_length
    named = (chain.hex(), seq)
    if offset + length > size:
        return _Bad("record is cut", unfinished=True, header=named)
    payload = file.read(length - RECORD_HEADER_BYTES)
    if len(payload) < length - RECORD_HEADER_BYTES:
        return _Bad("record is cut", unfinished=True, header=named)
    actual = hashlib.sha256(header[:_DIGEST_OFFSET])
    actual.update(payload)
    if actual.digest() != digest:
        return _Bad("record does not match its digest", length=length, header=named)
    try:
        probe = payload[:probe_length].decode()
        receipt = payload[probe_length + body_length :].decode("ascii")
    except UnicodeDecodeError:
        return _Bad("record holds text that is not UTF-8", length=length, header=named)
    body = payload[probe_length : probe_length + body_length]
    return Entry(Kind(kind), position, received, probe, chain, seq, manifest, body, receipt), length


def _has_header(file: BinaryIO, offset: int, size: int) -> bool:
    if offset + RECORD_HEADER_BYTES > size:
        return False
    file.seek(offset)
    return _parse_header(file.read(RECORD_HEADER_BYTES)) is not None


def _next_header(file: BinaryIO, offset: int, size: int) -> int | None:
    """The offset of the next intact record header at or behind `offset`."""
    while offset < size:
        file.seek(offset)
        chunk = file.read(min(_SCAN_BYTES, size - offset))
        at = chunk.find(RECORD_MAGIC)
        while at >= 0:
            if _has_header(file, offset + at, size):
                return offset + at
            at = chunk.find(RECORD_MAGIC, at + 1)
        if len(chunk) < len(RECORD_MAGIC):
            return None
        # A magic may lie across the border of two chunks.
        offset += len(chunk) - (len(RECORD_MAGIC) - 1)
        if offset + len(RECORD_MAGIC) > size:
            return None
    return None


def read_entry(directory: Path, place: Place) -> Entry:
    """Read the record at `place`.

    Raises:
        DamagedError: the record there is damaged.
        ArchiveError: the segment cannot be read.
    """
    path = directory / segment_name(place.segment)
    for item in read_segment(path, place.segment, newest=False, start=place.offset, end=place.end):
        if isinstance(item, Located):
            return item.entry
        break
    raise DamagedError(f"{path}: the record at offset {place.offset} is damaged", errno.EIO)


class ArchiveWriter:
    """Appends to the newest segment. One writer at a time: the Core's data directory is locked."""

    def __init__(self, directory: Path, *, segment_max_bytes: int, known: Durable | None = None) -> None:
        """Open the archive, or begin one, and take away a torn tail.

        `known` is what the catalog knows to be on disk: nothing before it is taken for a torn tail.

        Raises:
            ArchiveError: the directory cannot be made, read or written, or nothing is left of what is known.
        """
        self.directory = directory
        self.segment_max_bytes = segment_max_bytes
        self.torn: TornTail | Damage | None = None
        """The torn tail that was taken away at the start."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            existing = segments(directory)
            self._descriptor, self._number, self._size = -1, -1, 0
            self.next_position = known.position if known else 0
            if existing:
                self._recover(*existing[-1], known)
            elif known is not None and known.position > 0:
                raise ArchiveError(
                    f"archive {directory}: holds no segment, but {known.position} records that lay there were "
                    f"acknowledged; is its volume mounted? If they are lost for good, move {directory.parent} away and "
                    "begin anew"
                )
            else:
                self._begin_segment()
        except OSError as error:
            raise _archive_error(error, directory) from error

    @property
    def end(self) -> Durable:
        """Behind the last record that is on disk."""
        return Durable(self._number, self._size, self.next_position)

    def append(self, entries: Sequence[Entry]) -> list[Place]:
        """Write the entries with one append and one fsync; they are on disk when this returns.

        Positions must follow on `next_position`. After an error nothing of the group is in the archive.

        Raises:
            ArchiveError: the disk is full or failed.
        """
        if self._descriptor < 0:
            raise ArchiveError(f"archive {self.directory}: closed after a failed write; restart the Core", errno.EIO)
        if self._size >= self.segment_max_bytes:
            try:
                self._begin_segment()
            except OSError as error:
                raise _archive_error(error, self.directory) from error
        places, records, offset = [], [], self._size
        for entry in entries:
            record = entry.encode()
            places.append(Place(self._number, offset, len(record)))
            records.append(record)
            offset += len(record)
        try:
            view = memoryview(b"".join(records))
            while view:
                view = view[os.pwrite(self._descriptor, view, offset - len(view)) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._undo()
            raise _archive_error(error, self.directory) from error
        self._size = offset
        self.next_position += len(entries)
        return places

    def close(self) -> None:
        """Close the newest segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _undo(self) -> None:
        """After a failed write, cut the segment back to what is known to be on disk.

        After a failed fsync the kernel may have dropped the pages and report success the next time, so nothing is
        written behind them: if the cut cannot be made durable either, the writer refuses to go on.
        """
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError:
            self.close()

    def _begin_segment(self) -> None:
        number = self._number + 1
        path = self.directory / segment_name(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, _segment_header(number, self.next_position, path))
            os.fsync(descriptor)
            _sync_directory(self.directory)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor, self._number, self._size = descriptor, number, SEGMENT_HEADER_BYTES

    def _recover(self, number: int, path: Path, known: Durable | None) -> None:
        """Open the newest segment and take away its torn tail.

        Only bytes that follow the last valid record, and that were never known to be on disk, can be a torn tail:
        receipts are given after the fsync. Other damage stays where it is, for `verify` to report, and the archive
        goes on in a new segment.
        """
        valid_end = SEGMENT_HEADER_BYTES
        last: Item | None = None
        for last in read_segment(path, number, newest=True):
            if isinstance(last, Located):
                valid_end = last.place.end
                self.next_position = max(self.next_position, last.entry.position + 1)
        known_end = known.offset if known and known.segment == number else 0
        if known and known.segment > number:
            # Segments that the catalog knows are gone; their numbers are not given again.
            self._number = known.segment
            self._begin_segment()
            return
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._number, self._size = number, os.fstat(self._descriptor).st_size
        if isinstance(last, TornTail) and last.offset == 0 and known_end == 0:
            # The machine stopped while the segment was being made: it never held a record.
            self.torn = last
            self.next_position = max(self.next_position, self._position_before(number))
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _segment_header(number, self.next_position, path), 0)
            os.fsync(self._descriptor)
            self._size = SEGMENT_HEADER_BYTES
            return
        header = os.pread(self._descriptor, SEGMENT_HEADER_BYTES, 0)
        if _check_segment_header(header, number) is None:
            self.next_position = max(self.next_position, int(_SEGMENT.unpack(header)[4]))
        torn = last if isinstance(last, TornTail) or (isinstance(last, Damage) and known is not None) else None
        if torn is not None and valid_end >= known_end and self._size > valid_end:
            self.torn = torn
            os.ftruncate(self._descriptor, valid_end)
            os.fsync(self._descriptor)
            self._size = valid_end
        elif self._size != valid_end or self._size < known_end:
            self._begin_segment()

    def _position_before(self, newest: int) -> int:
        """The position behind the last record of the segments before `newest`."""
        for number, path in reversed([entry for entry in segments(self.directory) if entry[0] < newest]):
            positions = [
                item.entry.position for item in read_segment(path, number, newest=False) if isinstance(item, Located)
            ]
            if positions:
                return positions[-1] + 1
        return 0


def _segment_header(number: int, position: int, path: Path) -> bytes:
    made_ns = path.stat().st_mtime_ns
    head = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, 0, number, position, made_ns, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _archive_error(error: OSError, path: Path) -> ArchiveError:
    return ArchiveError(f"archive {error.filename or path}: {error.strerror}", error.errno)
