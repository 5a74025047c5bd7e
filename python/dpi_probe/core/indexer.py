"""The indexer: from the archive into the database, many batches an insert, each once.

In: how far the archive is on disk. Out: rows in the database; a status for whoever shows the lag.
Owns: nothing that a crash could hurt: how far it has come is in the database itself. Never: reads beyond what is
durable in the archive, or skips an entry in silence.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpi_probe.core.archive import (
    ArchiveError,
    Damage,
    DamagedError,
    Durable,
    Kind,
    Located,
    read_entry,
    read_segment,
    segments,
)
from dpi_probe.core.catalog import entry_manifest
from dpi_probe.core.database import DatabaseError, Decoded, Index, Indexed, RefusedError
from dpi_probe.core.manifest import ManifestError
from dpi_probe.core.schema import Batch, UnsupportedBatchError, read_batch, rows_of, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

GROUP_MAX_ENTRIES = 256
# An insert costs a part in each table and an fsync of each, however few its rows: between two, batches gather for as
# long, unless a whole group is there before.
INSERT_INTERVAL_SECONDS = 1.0
# Of sealed batches; and of the rows that they decode to.
GROUP_MAX_BYTES = 16 << 20
GROUP_MAX_DECODED_BYTES = 128 << 20
RETRY_SECONDS = (0.5, 30.0)
# How often an entry alone may take more memory than an insert may, before it is passed over.
TRIES_OF_SIZE = 3
_NS_A_DAY = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Status:
    """What the indexer is at."""

    up: bool
    position: int
    """The next entry to be indexed."""
    waiting_since_ns: int | None = None
    """When the oldest entry that waits was archived, or None if none waits."""
    rows: int = 0
    """Rows put in since start."""
    failures: int = 0
    unindexed: int = 0
    """Entries up to here whose records could not become rows, and since start those that are damaged."""
    error: str | None = None


class MismatchError(Exception):
    """The database belongs to another archive, or is ahead of this one."""


class Indexer(threading.Thread):
    """The thread that fills the database."""

    def __init__(
        self,
        archive: Path,
        core: str,
        open_index: Callable[[], Index],
        on_status: Callable[[Status], None],
        check: Callable[[Located], str | None] | None = None,
    ) -> None:
        """`open_index` connects; `check` may say why an entry must not be indexed."""
        super().__init__(name="indexer", daemon=True)
        self._archive = archive
        self._core = core
        self._open_index = open_index
        self._on_status = on_status
        self._check = check
        self._wake = threading.Condition()
        self._durable: Durable | None = None
        self._stopping = False
        self._next = (0, 0)
        self._position = 0
        self._not_before = time.monotonic()
        self._doubt_until = self._alone_until = 0
        self._rows = self._failures = self._unindexed = 0
        self._reported: set[tuple[str, int]] = set()
        self._too_large = (-1, 0)
        """Position of the entry that took too much memory last, and how often in a row."""
        self._waiting: tuple[int, int] | None = None
        """Position of the oldest entry that waits, and since when."""
        self._last_received_ns = 0

    def extend(self, durable: Durable) -> None:
        """The archive is on disk up to here."""
        with self._wake:
            self._durable = durable
            self._wake.notify_all()

    def stop(self) -> None:
        """End after the insert that is going on."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """Index until stopped; failures are reported, waited out and tried again."""
        delay = RETRY_SECONDS[0]
        index: Index | None = None
        while not self._stopping:
            try:
                if index is None:
                    opened = self._open_index()
                    # Until it is known where the index stands, nothing may go in.
                    self._resume(opened)
                    index = opened
                    self._say()
                self._work(index)
                delay = RETRY_SECONDS[0]
            except MismatchError as error:
                logger.error("%s", error)
                self._say(error=str(error))
                return
            except (DatabaseError, ArchiveError) as error:
                logger.error("%s; trying again in %.1f s", error, delay)
                delay = self._wait_out(index is not None, str(error), delay)
            except Exception as error:
                # A bug must neither end the thread in silence nor skip what it stumbled over.
                logger.exception("indexer; trying again in %.1f s", delay)
                delay = self._wait_out(index is not None, repr(error), delay)

    def _wait_out(self, up: bool, error: str, delay: float) -> float:
        """Report a failure, after which it is not known what was inserted; returns the next delay."""
        self._failures += 1
        # Where positions are missing, a group may reach farther than its number of entries.
        self._doubt_until = max(self._doubt_until, self._position + GROUP_MAX_ENTRIES)
        self._say(up=up, error=error)
        self._pause(delay)
        return min(2 * delay, RETRY_SECONDS[1])

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, timeout=seconds)

    def _resume(self, index: Index) -> None:
        """Go on where the database says that it is, if it is this archive's."""
        progress = index.progress()
        if progress is None:
            # Whatever rows are left would be inserted again, beyond those that are looked for in doubt.
            index.clear()
            self._next, self._position = (0, 0), 0
        else:
            try:
                entry = read_entry(self._archive, progress.place)
            except ArchiveError as error:
                if not isinstance(error, DamagedError) and error.code != errno.ENOENT:
                    raise
                raise MismatchError(_MISMATCH.format(error)) from error
            if (entry.position, entry.manifest_hash) != (progress.position, progress.manifest):
                raise MismatchError(_MISMATCH.format("its last batch is not at its place in the archive"))
            self._next, self._position = (progress.place.segment, progress.place.end), progress.position + 1
            self._unindexed = progress.unindexed
        self._doubt_until = self._position + GROUP_MAX_ENTRIES

    def _work(self, index: Index) -> None:
        """Wait for a group, and index it."""
        durable = self._await_group()
        if durable is None:
            return
        self._not_before = time.monotonic() + INSERT_INTERVAL_SECONDS
        group, following = self._gather(durable)
        if group:
            self._say(waiting=group[0].entry.received_ns)
            if group[0].entry.position < self._alone_until:
                following = (group[0].place.segment, group[0].place.end)
                del group[1:]
                self._not_before = time.monotonic()
            try:
                following = self._put_in(index, group) or following
            except RefusedError as error:
                self._alone_until = group[-1].entry.position + 1
                self._doubt_until = max(self._doubt_until, self._alone_until)
                if not error.of_data and not error.of_size:
                    raise
                if len(group) > 1:
                    logger.warning("%s; the %d entries of this insert go in one by one", error, len(group))
                    self._not_before = time.monotonic()
                    return
                if error.of_size and self._is_tried_again(error):
                    return
                self._pass_over(index, group[0], str(error))
        self._next = following
        self._say()

    def _is_tried_again(self, error: RefusedError) -> bool:
        """Whether the entry that alone took too much memory may yet go in; waits before the next try."""
        position, tries = self._too_large
        self._too_large = (self._position, tries + 1 if position == self._position else 1)
        if self._too_large[1] >= TRIES_OF_SIZE:
            return False
        self._failures += 1
        delay = RETRY_SECONDS[0] * self._too_large[1]
        logger.warning("%s; trying again in %.1f s", error, delay)
        self._pause(delay)
        return True

    def _put_in(self, index: Index, group: list[Located]) -> tuple[int, int] | None:
        """Decode and insert as many of the group as fit in memory; returns the point behind them if not all did."""
        doubt = self._position < self._doubt_until
        decoded, whole = self._decode_group(index, group, singly=doubt)
        if not decoded:
            return None
        last = self._insert(index, decoded, doubt)
        return None if whole else (last.place.segment, last.place.end)

    def _insert(self, index: Index, decoded: list[Decoded], doubt: bool) -> Located:
        """Insert and count; returns the last entry."""
        self._rows += index.insert(decoded, in_doubt=doubt)
        entries = [entry for one in decoded for entry in one.entries]
        self._unindexed += sum(entry.error != "" for entry in entries)
        last = entries[-1].located
        self._position = last.entry.position + 1
        self._last_received_ns = last.entry.received_ns
        return last

    def _pass_over(self, index: Index, located: Located, reason: str) -> None:
        """Keep of an entry that the database refuses only the reason: those behind it must not wait for ever."""
        indexed = self._refused(Indexed(located, entry_manifest(located.entry)), reason)
        index.withdraw(indexed)
        self._insert(index, [Decoded([indexed], [])], doubt=True)

    def _await_group(self) -> Durable | None:
        """How far to read once it is time for an insert; None at the stop."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._behind())
            self._wake.wait_for(
                lambda: self._stopping or self._group_is_whole(), timeout=self._not_before - time.monotonic()
            )
            return None if self._stopping else self._durable

    def _group_is_whole(self) -> bool:
        if self._durable is None:
            return False
        segment, offset = self._next
        return (
            self._durable.segment > segment
            or self._durable.offset - offset >= GROUP_MAX_BYTES
            or self._durable.position - self._position >= GROUP_MAX_ENTRIES
        )

    def _behind(self) -> bool:
        return self._durable is not None and self._next < (self._durable.segment, self._durable.offset)

    def _gather(self, durable: Durable) -> tuple[list[Located], tuple[int, int]]:
        """The next group, and where the one after it begins. A group lies within one day: one part in each table."""
        group: list[Located] = []
        size = 0
        following = self._next
        for item, end in self._items(durable):
            if isinstance(item, Located):
                if group and (
                    len(group) >= GROUP_MAX_ENTRIES
                    or size + item.place.length > GROUP_MAX_BYTES
                    or item.entry.received_ns // _NS_A_DAY != group[0].entry.received_ns // _NS_A_DAY
                ):
                    return group, following
                group.append(item)
                size += item.place.length
            elif isinstance(item, Damage):
                self._report_damage(item)
            following = end
        return group, following

    def _items(self, durable: Durable) -> Iterator[tuple[Located | Damage | None, tuple[int, int]]]:
        """Items from `_next` to `durable`, each with the point behind it."""
        start_segment, start = self._next
        for number, path in segments(self._archive):
            if not start_segment <= number <= durable.segment:
                continue
            limit = durable.offset if number == durable.segment else None
            offset = start if number == start_segment else 0
            for item in read_segment(path, number, newest=False, start=offset, end=limit):
                if isinstance(item, Located):
                    yield item, (number, item.place.end)
                elif isinstance(item, Damage):
                    yield item, (number, item.offset + item.length)
            if number < durable.segment:
                yield None, (number + 1, 0)
        yield None, (durable.segment, durable.offset)

    def _report_damage(self, damage: Damage) -> None:
        key = (str(damage.path), damage.offset)
        if key not in self._reported:
            self._reported.add(key)
            self._unindexed += 1
            logger.error("archive %s: at offset %d: %s; not indexed", damage.path, damage.offset, damage.reason)

    def _decode_group(self, index: Index, group: list[Located], *, singly: bool) -> tuple[list[Decoded], bool]:
        """The rows of the group's entries, or of as many as fit in memory; and whether those are all.

        Batches of one shape that follow one another are taken together, for their columns cost more than their rows;
        `singly` says not to.
        """
        read: list[tuple[Indexed, Batch | None]] = []
        size = taken = 0
        for located in group:
            if size > GROUP_MAX_DECODED_BYTES:
                break
            taken += 1
            entry, batch = self._read(located)
            if entry is not None:
                read.append((entry, batch))
            if batch is not None:
                size += batch.row_bytes
        decoded = [decoded for run in _runs(read, singly) for decoded in self._decode(index, run)]
        return decoded, taken == len(group)

    def _read(self, located: Located) -> tuple[Indexed | None, Batch | None]:
        """The entry and its records; an entry that gives none says why, in the log and in the table `batches`."""
        entry = located.entry
        try:
            manifest = entry_manifest(entry)
        except ManifestError as error:
            self._report_damage(Damage(located.path, located.place.offset, located.place.length, str(error)))
            return None, None
        indexed = Indexed(located, manifest)
        if entry.kind is not Kind.BATCH:
            return indexed, None
        reason = self._check(located) if self._check else None
        try:
            if reason is None:
                return indexed, read_batch(entry.body, manifest, entry.received_ns)
        except UnsupportedBatchError as error:
            reason = str(error)
        return self._refused(indexed, reason), None

    def _decode(self, index: Index, run: list[tuple[Indexed, Batch | None]]) -> list[Decoded]:
        """The rows of batches of one shape; where one of them cannot become rows, each by itself."""
        entries = [entry for entry, _ in run]
        batches = [batch for _, batch in run if batch is not None]
        if not batches:
            return [Decoded(entries, [])]
        try:
            rows = rows_of(batches, self._core)
            index.prepare(rows)
        except UnsupportedBatchError as error:
            if len(run) > 1:
                return [decoded for one in run for decoded in self._decode(index, [one])]
            return [Decoded([self._refused(entries[0], str(error))], [])]
        return [Decoded(entries, rows)]

    def _refused(self, indexed: Indexed, reason: str) -> Indexed:
        located = indexed.located
        logger.error(
            "archive %s: at offset %d: chain %s seq %d: not indexed: %s",
            located.path, located.place.offset, located.entry.chain.hex(), located.entry.seq, reason,
        )  # fmt: skip
        return Indexed(located, indexed.manifest, reason)

    def _say(self, *, up: bool = True, waiting: int | None = None, error: str | None = None) -> None:
        if waiting is not None:
            self._waiting = (self._position, waiting)
        elif not self._behind():
            self._waiting = None
        elif self._waiting is None:
            self._waiting = (self._position, time.time_ns())
        elif self._waiting[0] != self._position:
            # The next is not read yet; it was archived no earlier than the last that went in.
            self._waiting = (self._position, self._last_received_ns or time.time_ns())
        waiting = self._waiting[1] if self._waiting else None
        self._on_status(Status(up, self._position, waiting, self._rows, self._failures, self._unindexed, error))


def _runs(read: list[tuple[Indexed, Batch | None]], singly: bool) -> Iterator[list[tuple[Indexed, Batch | None]]]:
    """The entries in their order, cut where the shape of their batches changes, or after each."""
    run: list[tuple[Indexed, Batch | None]] = []
    last: tuple[object, ...] | None = None
    for item in read:
        shape = None if item[1] is None else shape_of(item[1])
        if run and (singly or shape != last):
            yield run
            run = []
        run.append(item)
        last = shape
    if run:
        yield run


_MISMATCH = (
    "the database does not belong to this archive ({}); nothing more is indexed: "
    "rebuild it with: dpi-probe core reindex"
)
