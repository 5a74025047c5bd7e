"""`dpi-probe core reindex`: the database again, from the archive alone; every batch is verified first."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from dpi_probe import _native
from dpi_probe.core.archive import Durable, Located, read_segment, segments
from dpi_probe.core.catalog import Catalog, CatalogError
from dpi_probe.core.database import DatabaseError, Index, connect, sole_writer
from dpi_probe.core.indexer import Indexer, Status
from dpi_probe.core.lock import HeldError, locked
from dpi_probe.core.trust import authority_of, probe_certificate
from dpi_probe.errors import ConfigError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography import x509

logger = logging.getLogger(__name__)


def reindex(
    data_dir: Path, core: str, dsn: str, *, ca: Path, memory_bytes: int, on_progress: Callable[[int, int], None]
) -> Status:
    """Drop what the database holds of this Core and put in what the archive holds.

    `ca` is the certificate of the authority that issued those of the probes. `on_progress` is told how many entries of
    how many are done. The status returned counts rows, and entries that could not be indexed because they do not
    verify.

    Raises:
        ConfigError: there is no archive, or the authority is not the one that it was begun with.
        ArchiveError: it cannot be read.
        CatalogError: a Core is running, and its catalog cannot be read.
        DatabaseError: the database cannot be opened or written, or another process writes to it.
    """
    archive = data_dir / "archive"
    if not archive.is_dir() or not segments(archive):
        raise ConfigError(f"CORE_DATA_DIR = {str(data_dir)!r}: no archive here")
    trusted = _certificates(archive, authority_of(ca, archive))
    end = _end(data_dir)
    latest = Status(up=False, position=0)
    done = threading.Event()

    def on_status(status: Status) -> None:
        nonlocal latest
        latest = status
        on_progress(status.position, end.position)
        if status.error is not None or status.waiting_since_ns is None:
            done.set()

    def check(located: Located) -> str | None:
        entry = located.entry
        try:
            _native.verify_batch(entry.body, trusted.get(entry.probe.partition("/")[0], []))
        except VerificationError as error:
            return f"does not verify: {error}"
        return None

    with sole_writer(data_dir, dsn):
        index = Index(connect(dsn, memory_bytes=memory_bytes), core)
        index.drop()
        indexer = Indexer(archive, core, lambda: index, on_status, check)
        indexer.extend(end)
        indexer.start()
        done.wait()
        indexer.stop()
    if latest.error is not None:
        raise DatabaseError(latest.error)
    return latest


def _end(data_dir: Path) -> Durable:
    """How far the archive is on disk.

    Only a running Core knows what it has yet to make durable: then its catalog says. Else everything that is whole
    counts, for of what was acknowledged a power cut may have taken the last transactions from the catalog.
    """
    try:
        # Not for longer: a Core that starts meanwhile would take this for another one.
        with locked(data_dir):
            pass
    except HeldError:
        return _covered(data_dir) or Durable(0, 0, 0)
    try:
        known = _covered(data_dir)
    except CatalogError as error:
        logger.warning("%s; the archive is read without it", error)
        known = None
    return _whole_end(data_dir / "archive", known)


def _covered(data_dir: Path) -> Durable | None:
    with contextlib.closing(Catalog(data_dir / "catalog.sqlite")) as catalog:
        return catalog.covered()


def _whole_end(archive: Path, known: Durable | None) -> Durable:
    """The point behind the last whole record, which is no earlier than what is known."""
    for number, path in reversed(segments(archive)):
        if known is not None and number < known.segment:
            break
        start = known.offset if known is not None and number == known.segment else 0
        # A torn tail or damage ends nothing: the last whole record does.
        last: Located | None = None
        for item in read_segment(path, number, newest=True, start=start):
            if isinstance(item, Located):
                last = item
        if last is not None:
            return Durable(number, last.place.end, last.entry.position + 1)
    return known or Durable(0, 0, 0)


def _certificates(archive: Path, authority: x509.Certificate) -> dict[str, list[bytes]]:
    """The certificates of each probe by its name. Revoked ones too: what was archived before stays valid."""
    found: dict[str, list[bytes]] = {}
    for path in sorted((archive / "certificates").glob("*.pem")):
        try:
            named = probe_certificate(path, authority)
        except ConfigError as error:
            logger.error("%s; what it signed cannot be verified", error)
            continue
        if named is not None:
            name, certificate = named
            found.setdefault(name, []).append(certificate.public_bytes(Encoding.DER))
    return found
