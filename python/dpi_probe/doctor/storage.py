"""Checks of the spool's disk: room and speed."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe.doctor.findings import Check, Outcome, Subject, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEBIBYTE = 1 << 20
# The largest sealed batch (docs/formats/sealed-batch.md): what a burst writes at a time.
BATCH_BYTES = 900 << 10
BATCH_ROWS = 8192
# The write test ends at whichever comes first.
MOST_BATCHES = 24
MOST_SECONDS = 2.0
# Batches a second of 100,000 flows a second, the `high` scenario; and of 10,000, the `medium` one.
HIGH, MEDIUM = 100_000 / BATCH_ROWS, 10_000 / BATCH_ROWS
_IN_MEMORY = {"tmpfs", "ramfs"}


def _nearest(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    return next((path for path in (directory, *directory.parents) if path.is_dir()), Path("/"))


def _files(directory: Path) -> Iterator[os.stat_result]:
    for path in directory.rglob("*"):
        # A running probe deletes what is acknowledged.
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat()


def _filesystem(subject: Subject, directory: Path) -> str:
    """The type of the file system that holds the directory (/proc/self/mountinfo, proc(5))."""
    best, kind = "", "unknown"
    for line in (subject.machine.text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) > 4 and directory.is_relative_to(words[4]) and len(words[4]) >= len(best):
            best, kind = words[4], after.split()[0]
    return kind


def _space(subject: Subject) -> Outcome:
    directory, bound = subject.settings.spool_directory, subject.settings.max_spool_size_mb
    place = _nearest(directory.absolute())
    try:
        system = os.statvfs(place)
        used = sum(status.st_size for status in _files(directory)) // _MEBIBYTE if directory.is_dir() else 0
    except PermissionError as error:
        return Outcome("unknown", f"{directory}: {error.strerror}")
    free = system.f_bavail * system.f_frsize // _MEBIBYTE
    kind = _filesystem(subject, place.resolve())
    said = f"{place}: {free:,} MiB free ({kind}), the spool holds {used:,} of at most {bound:,} MiB"
    if free + used < bound:
        return problem(said, f"MAX_SPOOL_SIZE_MB={max(1, (free + used) * 9 // 10)} dpi-probe run …")
    if system.f_files and not system.f_favail:
        return problem(f"{said}; no inodes left", f"df -i {place}")
    if kind in _IN_MEMORY:
        return warning(f"{said}: it is lost with the power", "BUFFER_DIR=/var/lib/dpi-probe/IFACE dpi-probe run …")
    return ok(said)


def measure(directory: Path) -> list[float]:
    """Write batches of the largest size as the spool does, and return the seconds that each took; nothing stays.

    Raises:
        OSError: the directory cannot be written.
    """
    # The spool leaves names alone that are not its own.
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=directory))
    try:
        data = os.urandom(BATCH_BYTES)
        took: list[float] = []
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            started = time.monotonic()
            while len(took) < MOST_BATCHES and time.monotonic() - started < MOST_SECONDS:
                before = time.monotonic()
                temporary = folder / "batch.tmp"
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(folder / f"{len(took)}.arrows")
                os.fsync(parent)
                took.append(time.monotonic() - before)
        finally:
            os.close(parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return took


def _speed(subject: Subject) -> Outcome:
    place = _nearest(subject.settings.spool_directory.absolute())
    try:
        took = measure(place)
    except PermissionError:
        return Outcome("unknown", f"{place}: this user may not write there")
    except OSError as error:
        return problem(f"{place}: writing fails: {error.strerror}", f"df -h {place}; dmesg | tail")
    rate = len(took) / sum(took)
    said = (
        f"{place}: {rate:.0f} batches/s of 900 KiB ({rate * BATCH_ROWS:,.0f} records/s); "
        f"flushed in {statistics.median(took) * 1000:.1f} ms, the slowest in {max(took) * 1000:.0f} ms"
    )
    command = "BUFFER_DIR=/a/faster/disk dpi-probe run …"
    if rate < MEDIUM:
        return problem(said, command)
    return warning(said, command) if rate < HIGH else ok(said)


CHECKS = (
    Check(
        "spool space",
        "machine",
        "free space and type of the file system of BUFFER_DIR, and what the spool holds, against MAX_SPOOL_SIZE_MB",
        "While the Core is away evidence is kept there. A full disk drops batches before the bound is reached.",
        _space,
    ),
    Check(
        "spool speed",
        "machine",
        "batches written, flushed and renamed in BUFFER_DIR for at most 2 s and 24 files, which are removed again",
        "A disk slower than the flows end makes batches wait, and then drops them. 13 batches a second carry 100,000 "
        "flows a second.",
        _speed,
    ),
)
