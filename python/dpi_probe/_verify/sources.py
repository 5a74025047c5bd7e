"""What lies at a path: files, spools, archives, exports and proofs, taken apart into pieces of evidence."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dpi_probe.core.archive import Damage

MAX_FILE_BYTES = 8 << 20
"""Longer than any file but a segment may be; the native code knows the exact limits."""

_MAX_REASON_CHARACTERS = 1000
_CHAIN = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("[A-Za-z0-9_-]{43}")

PieceKind = Literal["batch", "manifest", "proof", "receipt", "head", "spool_head", "damage", "unreadable"]
Role = Literal["evidence", "fork", "refused", "skipped"]
Layout = Literal["plain", "spool", "archive", "export"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of evidence."""

    kind: PieceKind
    where: str
    data: bytes = b""
    stated: tuple[str, int] | None = None
    """Chain and position that its file name or record header says."""
    message: str = ""
    """What is wrong, for `damage` and `unreadable`; for others, what is wrong beside them."""
    receipt: str = ""
    """The receipt that lies with it."""
    note: str = ""
    """What should be known of it, whatever it proves."""
    role: Role = "evidence"
    """`fork`: refused by a Core for a fork, and kept; `refused`: put away by a probe; `skipped`: in a spool, of another
    owner, so that its probe may be unable to read it, and deliver others meanwhile."""


@dataclass(slots=True)
class Source:
    """One path that was given."""

    path: Path
    layout: Layout
    certificates: list[Path] = field(default_factory=list)
    """Certificates that lie with the evidence."""
    authority: Path | None = None
    """The CA certificate that lies with it."""

    def pieces(self) -> Iterator[Piece]:
        """Everything that is there, in order."""
        match self.layout:
            case "spool":
                yield from _spool(self.path)
            case "archive":
                yield from _archive(self.path)
            case "export":
                yield from _export(self.path)
            case "plain":
                yield from _plain(self.path)


def find_source(path: Path) -> Source:
    """Tell what lies at `path`.

    Raises:
        OSError: there is nothing, or it may not be looked at.
    """
    path.stat()
    if path.is_dir():
        names = {child.name for child in path.iterdir()}
        # What must be whole comes first: whoever holds an export could make it look like a spool, which need not be.
        if names & {"batches", "heads"}:
            return _with_certificates(Source(path, "export"), path)
        for directory in (path, path / "archive"):
            if directory.is_dir() and any(map(_is_segment, directory.iterdir())):
                return _with_certificates(Source(directory, "archive"), directory)
        return Source(path, "spool" if "pending" in names else "plain")
    source = Source(path, "archive" if path.suffix == ".dpa" else "plain")
    for directory in list(path.absolute().parents)[:3]:
        if (directory / "certificates").is_dir():
            return _with_certificates(source, directory)
    return source


def _is_segment(path: Path) -> bool:
    return path.name.startswith("segment-") and path.suffix == ".dpa"


def _with_certificates(source: Source, directory: Path) -> Source:
    files = sorted((directory / "certificates").glob("*.pem"))
    source.certificates = [file for file in files if not _is_special(file)]
    authority = directory / "ca.pem"
    source.authority = authority if authority.is_file() else None
    return source


def read(path: Path, most: int = MAX_FILE_BYTES, kind: str = "sealed batch or proof") -> bytes:
    """A file of a kind that is not longer than so many bytes; without these, evidence.

    Raises:
        OSError: it cannot be read, or is too long.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        message = f"it is longer than any {kind}"
        raise OSError(0, message)
    return data


def is_batch(path: Path, data: bytes) -> bool:
    """Whether a file is a sealed batch, or says by its name that it is one."""
    return data.startswith(b"\xff\xff\xff\xff") or path.suffix == ".arrows"


def stated_place(name: str) -> tuple[str, int] | None:
    """Chain and position in a file name CHAIN-SEQ[…].SUFFIX, if it is one."""
    chain, _, rest = name.partition(".")[0].partition("-")
    seq = rest.partition("-")[0]
    if len(chain) != 32 or len(seq) != 16:
        return None
    try:
        int(chain, 16)
        return chain, int(seq, 16)
    except ValueError:
        return None


def _file(path: Path, role: Role = "evidence") -> Piece:
    place = stated_place(path.name)
    try:
        data = read(path)
    except OSError as error:
        return _unreadable(path, error, place)
    if is_batch(path, data):
        return Piece("batch", str(path), data, place, role=role)
    if path.suffix == ".manifest":
        return Piece("manifest", str(path), data, place, role=role)
    if data.lstrip().startswith(b"{"):
        return Piece("proof", str(path), data)
    kind = _jose_type(data)
    if kind is None:
        return Piece("unreadable", str(path), message="is neither a sealed batch, a manifest, a receipt nor a proof")
    return Piece(kind, str(path), data.strip(), place)


def json_object(data: bytes) -> dict[str, object]:
    """A JSON object of a file that may hold anything; empty if there is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def whole_number(value: object, limit: int) -> int | None:
    """A number of a JSON object, if it is a whole one from 0 up to below `limit`: JSON has 1e999, true and -1 too."""
    return value if type(value) is int and 0 <= value < limit else None


def jws_part(token: bytes, index: int) -> bytes:
    """The header (0) or the payload (1) of a compact JWS, not verified; empty if it is none."""
    part = token.strip().split(b".", 2)[index : index + 1]
    try:
        return base64.urlsafe_b64decode(part[0] + b"=" * (-len(part[0]) % 4)) if part else b""
    except ValueError:
        return b""


def _jose_type(data: bytes) -> PieceKind | None:
    """What a compact JWS is, by its `typ`."""
    kinds: dict[str, PieceKind] = {
        "dpi-manifest+jwt": "manifest",
        "dpi-receipt+jwt": "receipt",
        "dpi-head+jwt": "head",
    }
    typ = json_object(jws_part(data, 0)).get("typ")
    return kinds.get(typ) if isinstance(typ, str) else None


def _plain(path: Path) -> Iterator[Piece]:
    if not path.is_dir():
        yield _file(path)
        return
    found = False
    for file in _below(path, ".arrows", ".manifest", ".dpa"):
        found = True
        if isinstance(file, Path) and file.suffix == ".dpa":
            yield from _archive(file)
        else:
            yield _piece(file)
    if not found:
        yield Piece("unreadable", str(path), message="holds no sealed batches (*.arrows), manifests or segments")


def _piece(file: Path | Piece) -> Piece:
    return file if isinstance(file, Piece) else _file(file)


def _below(directory: Path, *suffixes: str) -> list[Path | Piece]:
    """The files below a directory, in order, of these suffixes if any are named; what cannot be listed is a piece."""
    found: list[Path | Piece] = []

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            found.append(_unreadable(Path(error.filename or directory), error))

    for parent, _, names in os.walk(directory, onerror=refused):
        files = (Path(parent, name) for name in names)
        found += [file for file in files if (not suffixes or file.suffix in suffixes) and not _is_special(file)]
    return sorted(found, key=lambda item: item.where if isinstance(item, Piece) else str(item))


def _is_special(path: Path) -> bool:
    """Whether it is no regular file, such as a pipe, of which reading would not end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        # Reading it will say why.
        return False


def _unreadable(path: Path, error: OSError, stated: tuple[str, int] | None = None) -> Piece:
    return Piece("unreadable", str(path), stated=stated, message=f"cannot be read: {error.strerror or error}")


def _spool(path: Path) -> Iterator[Piece]:
    # A probe may be at work: what it seals from here on is newer than its note that was read.
    yield from _spool_note(path / "head.json")
    for file in _listed(path / "pending"):
        if isinstance(file, Piece):
            yield file
        elif file.suffix in {".arrows", ".manifest"} and stated_place(file.name):
            yield _file(file, "evidence" if _owner(file) == _owner(file.parent) else "skipped")
    for file in _listed(path / "rejected"):
        if isinstance(file, Piece):
            yield file
        elif file.suffix in {".arrows", ".manifest"} and stated_place(file.name):
            piece = _file(file, "refused")
            yield replace(piece, note=f"was refused: {_reason(file.with_name(f'{file.name}.reason'))}")


def _spool_note(head: Path) -> Iterator[Piece]:
    if _is_special(head):
        yield Piece("unreadable", str(head), message="cannot be read: it is no regular file")
        return
    try:
        yield Piece("spool_head", str(head), read(head))
    except FileNotFoundError:
        # docs/formats/spool.md §3: it may be missing.
        pass
    except OSError as error:
        yield _unreadable(head, error)


def _reason(path: Path) -> str:
    """Why a probe put a batch away: one line (docs/formats/spool.md)."""
    try:
        text = b"" if _is_special(path) else read(path)
    except OSError:
        text = b""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:_MAX_REASON_CHARACTERS] if lines else "no reason is known"


def _owner(path: Path) -> int | None:
    """The user that a file belongs to, if it is there."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def spool_head(data: bytes) -> tuple[str, int, str] | None:
    """Chain, position and digest that a spool's `head.json` names; None if it is damaged."""
    head = json_object(data)
    chain, seq, digest = head.get("chain"), whole_number(head.get("seq"), 1 << 64), head.get("manifest")
    if not isinstance(chain, str) or not isinstance(digest, str) or seq is None:
        return None
    return (chain, seq, digest) if _CHAIN.fullmatch(chain) and _DIGEST.fullmatch(digest) else None


def _listed(directory: Path) -> list[Path | Piece]:
    """What a directory of a spool holds; of one that cannot be read, that. A spool may lack one of its directories."""
    try:
        return [file for file in sorted(directory.iterdir()) if not _is_special(file)]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [_unreadable(directory, error)]


def _export(path: Path) -> Iterator[Piece]:
    receipts: dict[Path, Path] = {}
    all_listed = True
    for file in _below(path / "receipts", ".jwt"):
        if isinstance(file, Piece):
            all_listed = False
            yield file
        else:
            receipts[_stem(file, path / "receipts")] = file
    answered: set[Path] = set()
    for file in _below(path / "batches", ".arrows", ".manifest"):
        if isinstance(file, Piece):
            yield file
            continue
        stem = _stem(file, path / "batches")
        receipt = receipts.pop(stem, None)
        if receipt is not None:
            answered.add(stem)
        is_answered = stem in answered or not all_listed
        yield _file(file) if is_answered or file.suffix != ".manifest" else _without_receipt(_file(file))
        if receipt is not None:
            yield _of_kind(receipt, "receipt", "is no receipt")
    for receipt in sorted(receipts.values()):
        message = "is the receipt of a batch that is left out"
        yield Piece("damage", str(receipt), stated=stated_place(receipt.name), message=message)
    for file in _below(path / "forks"):
        yield file if isinstance(file, Piece) else _file(file, "fork")
    for file in _below(path / "heads", ".jwt"):
        yield file if isinstance(file, Piece) else _of_kind(file, "head", "is no chain head")


def _of_kind(file: Path, kind: PieceKind, otherwise: str) -> Piece:
    """A file of an export that by its place holds what a Core signed: another kind of evidence does not count there."""
    piece = _file(file)
    if piece.kind in {kind, "unreadable"}:
        return piece
    return Piece("damage", piece.where, stated=piece.stated, message=otherwise)


def _without_receipt(manifest: Piece) -> Piece:
    """A manifest of a Core's that has no receipt, which says whether that is all that was archived."""
    if manifest.kind != "manifest":
        return manifest
    return replace(manifest, message="its receipt is left out, so that nobody can tell whether the batch was dropped")


def _stem(file: Path, directory: Path) -> Path:
    """PROBE/CHAIN-SEQ of a file of an export, which a batch and its receipt have in common."""
    return file.relative_to(directory).with_suffix("")


def _archive(path: Path) -> Iterator[Piece]:
    from dpi_probe.core.archive import ArchiveError, Damage, Kind, TornTail, iter_entries

    expected: int | None = None
    first = True
    try:
        for item in iter_entries(path):
            if isinstance(item, TornTail):
                where = f"{item.path} at {item.offset}"
                yield Piece(
                    "damage", where, message="", note="ends with an unfinished record, for which no receipt exists"
                )
                continue
            if isinstance(item, Damage):
                yield _damaged(item)
                # Where the record's header is intact, exactly one record lies here; else nobody knows how many.
                expected = expected + 1 if expected is not None and item.header is not None else None
                first = False
                continue
            entry, where = item.entry, f"{item.path} at {item.place.offset}"
            if expected is not None and entry.position > expected:
                count = entry.position - expected
                yield Piece("damage", where, message=f"{count} archived records before this one are left out")
            elif expected is not None and entry.position < expected:
                message = (
                    f"reordered or repeated: record {entry.position} of the archive stands behind record {expected - 1}"
                )
                yield Piece("damage", where, message=message)
            elif first and entry.position > 0 and path.is_dir():
                yield Piece("damage", where, message=f"the archive's first {entry.position} records are left out")
            expected, first = entry.position + 1, False
            is_batch = entry.kind in {Kind.BATCH, Kind.FORK_BATCH}
            piece = Piece(
                "batch" if is_batch else "manifest",
                where,
                entry.body,
                (entry.chain.hex(), entry.seq),
                receipt=entry.receipt,
                role="fork" if entry.kind in {Kind.FORK_BATCH, Kind.FORK_MANIFEST} else "evidence",
            )
            yield _without_receipt(piece) if entry.kind == Kind.MANIFEST and not entry.receipt else piece
    except ArchiveError as error:
        yield Piece("unreadable", str(path), message=str(error))


_RECORD_HEADER_BYTES = 124


def _damaged(damage: Damage) -> Piece:
    """A record of an archive that does not match its digest; its batch, if it can be cut out, to be diagnosed."""
    where = f"{damage.path} at {damage.offset}"
    # docs/formats/archive.md, "Record": length of the probe id at 6, of the body at 24.
    with damage.path.open("rb") as file:
        file.seek(damage.offset)
        record = file.read(min(damage.length, MAX_FILE_BYTES))
    probe_length = int.from_bytes(record[6:8], "little")
    body_length = int.from_bytes(record[24:28], "little")
    start = _RECORD_HEADER_BYTES + probe_length
    body = record[start : start + body_length]
    if damage.header is None or len(body) != body_length or not body.startswith(b"\xff\xff\xff\xff"):
        return Piece("damage", where, stated=damage.header, message=damage.reason)
    return Piece("batch", where, body, damage.header, message=damage.reason)
