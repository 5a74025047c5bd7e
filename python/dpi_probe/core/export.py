"""`dpi-probe core export`: what an auditor needs, without the Core (docs/formats/archive.md)."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote as percent_encode

from dpi_probe.core.archive import Damage, Entry, Item, Kind, Located, iter_entries
from dpi_probe.core.catalog import entry_manifest
from dpi_probe.core.manifest import ManifestError
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from pathlib import Path

    from dpi_probe.core.manifest import Manifest
    from dpi_probe.core.receipt import CoreSigner

logger = logging.getLogger(__name__)

_MAX_NAME_BYTES = 200


@dataclass
class Exported:
    """What was written."""

    batches: int = 0
    manifests: int = 0
    forks: int = 0
    chains: int = 0
    damaged: int = 0


def export(archive: Path, out: Path, signer: CoreSigner, *, probe: str | None = None) -> Exported:
    """Write the archive's batches, receipts and certificates, and signed chain heads, below `out`.

    Raises:
        ConfigError: `out` is not an empty directory.
        DpiProbeError: a file cannot be written, or one of the archive not be read.
        ArchiveError: the archive cannot be read.
    """
    exported = Exported()
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out}: is not empty; give an empty directory")
        heads: dict[tuple[str, bytes], Manifest] = {}
        for item in iter_entries(archive):
            manifest = _export_item(out, item, probe, exported)
            if manifest is not None:
                key = (manifest.iss, manifest.chain)
                if key not in heads or heads[key].seq < manifest.seq:
                    heads[key] = manifest
        stated = int(time.time())
        for manifest in heads.values():
            path = out / "heads" / _directory(manifest.iss) / f"{manifest.chain.hex()}.jwt"
            _create(path, signer.head(manifest, stated).encode())
        exported.chains = len(heads)
        for path in sorted((archive / "certificates").glob("*.pem")):
            _create(out / "certificates" / path.name, path.read_bytes())
        _create(out / "ca.pem", (archive / "ca.pem").read_bytes())
    except OSError as error:
        raise DpiProbeError(f"{error.filename or out}: {error.strerror or error}") from error
    return exported


def _export_item(out: Path, item: Item, probe: str | None, exported: Exported) -> Manifest | None:
    """Write what the archive holds at one place; returns the manifest if it is one of a chain."""
    if isinstance(item, Damage):
        exported.damaged += 1
        logger.error("archive %s: at offset %d: %s", item.path, item.offset, item.reason)
    if not isinstance(item, Located) or (probe is not None and item.entry.probe != probe):
        return None
    try:
        manifest = entry_manifest(item.entry)
    except ManifestError as error:
        exported.damaged += 1
        logger.error("archive %s: at offset %d: %s", item.path, item.place.offset, error)
        return None
    _write_entry(out, item.entry, exported)
    return manifest if item.entry.kind in (Kind.BATCH, Kind.MANIFEST) else None


def _write_entry(out: Path, entry: Entry, exported: Exported) -> None:
    directory = _directory(entry.probe)
    name = f"{entry.chain.hex()}-{entry.seq:016x}"
    suffix = "arrows" if entry.kind in (Kind.BATCH, Kind.FORK_BATCH) else "manifest"
    if entry.kind in (Kind.FORK_BATCH, Kind.FORK_MANIFEST):
        digest = entry.manifest_hash.hex()[:16]
        _create(out / "forks" / directory / f"{name}-{digest}.{suffix}", entry.body)
        exported.forks += 1
        return
    _create(out / "batches" / directory / f"{name}.{suffix}", entry.body)
    # A batch that followed its own manifest has two receipts; that of the batch says more.
    _create(out / "receipts" / directory / f"{name}.jwt", entry.receipt.encode("ascii"))
    if entry.kind is Kind.BATCH:
        exported.batches += 1
    else:
        exported.manifests += 1


def _directory(probe: str) -> str:
    """A probe id as one path component, which file systems take up to 255 bytes of."""
    encoded = percent_encode(probe, safe="")
    if len(encoded) > _MAX_NAME_BYTES:
        return f"{encoded[:_MAX_NAME_BYTES]}-{hashlib.sha256(probe.encode()).hexdigest()[:16]}"
    return encoded.replace(".", "%2E") if set(encoded) == {"."} else encoded


def _create(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
