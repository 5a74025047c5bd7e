"""Group commit: arrivals go to the archive together, with one append and one fsync, and only then get receipts.

In: verified batches and manifests, from any thread. Out: an outcome for each. Owns: the archive's writer and the
catalog's writing connection, both used by this one thread, so that of two arrivals of one key the second always sees
the first. Never: gives a receipt before the fsync returned.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dpi_probe.core.archive import (
    ArchiveError,
    ArchiveWriter,
    DamagedError,
    Durable,
    Entry,
    Kind,
    Place,
    read_entry,
    segment_name,
)
from dpi_probe.core.catalog import Catalog, CatalogError, Known, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dpi_probe.core.manifest import Manifest
    from dpi_probe.core.metrics import Metrics
    from dpi_probe.core.receipt import CoreSigner

logger = logging.getLogger(__name__)

GROUP_MAX_BATCHES = 64
GROUP_MAX_BYTES = 32 << 20
_FREE_SPACE = ": free space there, and they deliver them by themselves"
# The place of an entry of the group that is being committed: never read, since its receipt is at hand.
_THIS_GROUP = Place(-1, 0, 0)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch, or the manifest of a dropped one, that was verified."""

    manifest: Manifest
    body: bytes
    whole: bool
    """Whether `body` is the sealed batch; else it is the manifest."""
    outside_validity: bool = False
    """Whether it says that it was sealed at a time at which its certificate was not valid."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an arrival."""

    status: Literal["archived", "duplicate", "fork"]
    receipt: str


class CommitError(Exception):
    """The group could not be archived. The probe keeps its batch and tries again."""


class Committer(threading.Thread):
    """The thread that archives."""

    def __init__(
        self,
        data_dir: Path,
        signer: CoreSigner,
        metrics: Metrics,
        *,
        certificates: Mapping[str, Sequence[bytes]],
        segment_max_bytes: int,
        delay_s: float,
        on_durable: Callable[[Durable], None],
    ) -> None:
        """Open archive and catalog and bring them in step.

        `certificates` are those of each probe by its name (DER): what the catalog takes in again must be signed by one.
        `on_durable` is told, from this thread, how far the archive is on disk.

        Raises:
            ArchiveError: the archive cannot be read or written.
            CatalogError: the catalog cannot be written.
        """
        super().__init__(name="committer", daemon=True)
        self.directory = data_dir / "archive"
        self._signer = signer
        self._metrics = metrics
        self._delay_s = delay_s
        self._on_durable = on_durable
        self._queue: queue.SimpleQueue[tuple[Arrival, Future[Outcome]] | None] = queue.SimpleQueue()
        self._unrecorded: list[Stored] = []
        self._catalog = Catalog(data_dir / "catalog.sqlite", writable=True)
        self.lost = self._catalog.lost(self.directory) if self.directory.is_dir() else None
        if self.lost:
            logger.error("archive %s: acknowledged evidence is gone: %s", self.directory, self.lost)
        self._archive = ArchiveWriter(
            self.directory, segment_max_bytes=segment_max_bytes, known=self._catalog.covered()
        )
        if self._archive.torn is not None:
            torn = self._archive.torn
            logger.warning(
                "archive %s: took away %d bytes at offset %d, an append that a crash cut short",
                torn.path, torn.length, torn.offset,
            )  # fmt: skip
        self.damaged = self._catalog.catch_up(self.directory, certificates)
        metrics.archive_lost.set(self.lost is not None)
        metrics.archive_damage.set(self.damaged)
        self.failed: str | None = None
        """Why the last commit failed, or None."""

    @property
    def durable(self) -> Durable:
        """How far the archive is on disk."""
        return self._archive.end

    def submit(self, arrival: Arrival) -> Future[Outcome]:
        """Hand over an arrival; the future fails with CommitError if it cannot be archived now."""
        future: Future[Outcome] = Future()
        self._queue.put((arrival, future))
        return future

    def stop(self) -> None:
        """Archive what was handed over, then end and close."""
        self._queue.put(None)
        if self.ident is not None:
            self.join()
        self._archive.close()
        self._catalog.close()

    def run(self) -> None:
        """Commit group after group until stopped."""
        running = True
        while running:
            group = []
            first = self._queue.get()
            if first is None:
                return
            started = time.monotonic()
            group, size = [first], len(first[0].body)
            deadline = started + self._delay_s
            # While an fsync runs, the next group gathers in the queue by itself.
            while len(group) < GROUP_MAX_BATCHES and size < GROUP_MAX_BYTES:
                try:
                    following = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if following is None:
                    running = False
                    break
                group.append(following)
                size += len(following[0].body)
            self._commit_group(group)
            self._metrics.commit_seconds.observe(time.monotonic() - started)
            self._metrics.commit_batches.observe(len(group))

    def _commit_group(self, group: list[tuple[Arrival, Future[Outcome]]]) -> None:
        try:
            outcomes = self._commit([arrival for arrival, _ in group])
        except (ArchiveError, CatalogError) as error:
            self._metrics.commit_failures.inc()
            if self.failed is None:
                full = isinstance(error, ArchiveError) and error.code in (errno.ENOSPC, errno.EDQUOT)
                logger.error("%s; probes keep their batches%s", error, _FREE_SPACE if full else "")
            self.failed = str(error)
            for _, future in group:
                future.set_exception(CommitError(str(error)))
            return
        except Exception as error:
            # A bug must not end the thread that all probes wait for; they are told to try again.
            logger.exception("commit failed")
            self._metrics.commit_failures.inc()
            self.failed = repr(error)
            for _, future in group:
                future.set_exception(CommitError(repr(error)))
            return
        if self.failed is not None:
            logger.info("archive %s: takes batches again", self.directory)
        self.failed = None
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, CommitError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _commit(self, arrivals: list[Arrival]) -> list[Outcome | CommitError]:
        # What is on disk but not in the catalog would be archived twice; so it goes first.
        if self._unrecorded:
            self._record([])
        outcomes: list[Outcome | CommitError] = []
        entries: list[Entry] = []
        manifests: list[Manifest] = []
        fresh: dict[tuple[str, bytes, int], list[tuple[Known, str]]] = {}
        received_ns = time.time_ns()
        for arrival in arrivals:
            manifest = arrival.manifest
            key = (manifest.iss, manifest.chain, manifest.seq)
            local = fresh.setdefault(key, [])
            known = [*self._catalog.find(*key), *(entry for entry, _ in local)]
            receipts = {entry.manifest: receipt for entry, receipt in local}
            try:
                kind, outcome = self._decide(arrival, known, receipts, received_ns)
            except ArchiveError as error:
                # Its first copy cannot be read now. That is no matter of the others'.
                self._metrics.commit_failures.inc()
                logger.error("%s; its probe keeps the batch", error)
                outcomes.append(CommitError(str(error)))
                continue
            outcomes.append(outcome)
            if kind is None:
                continue
            entries.append(
                Entry(
                    kind,
                    self._archive.next_position + len(entries),
                    received_ns,
                    *key,
                    manifest.digest,
                    arrival.body,
                    outcome.receipt,
                )
            )
            manifests.append(manifest)
            local.append((Known(manifest.digest, kind, _THIS_GROUP), outcome.receipt))
        if entries:
            places = self._archive.append(entries)
            self._record(
                [
                    Stored(manifest, entry.kind, place, received_ns)
                    for manifest, entry, place in zip(manifests, entries, places, strict=True)
                ]
            )
        return outcomes

    def _decide(
        self, arrival: Arrival, known: list[Known], receipts: dict[bytes, str], received_ns: int
    ) -> tuple[Kind | None, Outcome]:
        """Whether an arrival goes to the archive, as what, and what its probe is told."""
        manifest = arrival.manifest
        accepted = [entry for entry in known if entry.kind in (Kind.BATCH, Kind.MANIFEST)]
        same = [entry for entry in accepted if entry.manifest == manifest.digest]
        if accepted and not same:
            self._metrics.forks.inc()
            logger.error(
                "fork: probe %s chain %s seq %d came with another manifest; kept as evidence",
                manifest.iss, manifest.chain.hex(), manifest.seq,
            )  # fmt: skip
            evidence = Kind.FORK_BATCH if arrival.whole else Kind.FORK_MANIFEST
            kept = any(entry.manifest == manifest.digest for entry in known)
            return (None if kept else evidence), Outcome("fork", "")
        # A batch that follows its own manifest is archived; so is one whose first copy cannot be read any more.
        if any(entry.kind is Kind.BATCH or not arrival.whole for entry in same):
            receipt = receipts.get(manifest.digest) or self._receipt_again(manifest, same)
            if receipt:
                self._metrics.duplicates.inc()
                return None, Outcome("duplicate", receipt)
        status: Literal["archived", "manifest_only"] = "archived" if arrival.whole else "manifest_only"
        receipt = self._signer.receipt(manifest, status, received_ns)
        return (Kind.BATCH if arrival.whole else Kind.MANIFEST), Outcome("archived", receipt)

    def _receipt_again(self, manifest: Manifest, same: list[Known]) -> str | None:
        """The receipt for what is archived, or None if no copy is left.

        Raises:
            ArchiveError: a copy cannot be read now; that is no reason to archive another.
        """
        for known in same:
            try:
                stored = self._read(manifest, known.place)
            except DamagedError as error:
                logger.error("%s; archived again", error)
            except ArchiveError as error:
                if error.code != errno.ENOENT:
                    raise
                logger.error("%s; archived again", error)
            else:
                if self._signer.is_of_this_certificate(stored.receipt):
                    return stored.receipt
                # A probe looks at the certificate as it is now: with one that has expired it would ask for ever.
                status: Literal["archived", "manifest_only"] = (
                    "archived" if stored.kind is Kind.BATCH else "manifest_only"
                )
                return self._signer.receipt(manifest, status, stored.received_ns)
        return None

    def _read(self, manifest: Manifest, place: Place) -> Entry:
        """What is archived at a place, if it is of this manifest."""
        stored = read_entry(self.directory, place)
        key = (manifest.iss, manifest.chain, manifest.seq, manifest.digest)
        if (stored.probe, stored.chain, stored.seq, stored.manifest_hash) != key:
            raise DamagedError(
                f"{self.directory / segment_name(place.segment)}: another record than was archived stands at offset "
                f"{place.offset}",
                errno.EIO,
            )
        return stored

    def _record(self, stored: list[Stored]) -> None:
        """Put entries that are on disk into the catalog, count them and tell; what fails is kept for the next time."""
        self._unrecorded += stored
        self._catalog.add(self._unrecorded, self._archive.end)
        for entry in self._unrecorded:
            manifest = entry.manifest
            self._metrics.archived.labels(manifest.kind, entry.kind.name.lower()).inc()
            if entry.kind is Kind.BATCH:
                self._metrics.archived_rows.labels(manifest.kind).inc(manifest.rows)
        self._unrecorded = []
        self._on_durable(self._archive.end)
