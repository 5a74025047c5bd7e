"""The locks of the data directory: one Core writes to it (docs/formats/archive.md), one process to each database."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shlex
import tempfile
from typing import TYPE_CHECKING

from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class HeldError(ConfigError):
    """Another process holds the data directory: a Core is running on it."""


def take(path: Path) -> int:
    """A descriptor that holds a lock file, until it is closed.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory.

    Raises:
        HeldError: another process holds it.
        ConfigError: it cannot be made.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = take(data_dir / "lock")
    except BlockingIOError as error:
        raise HeldError(
            f"CORE_DATA_DIR = {str(data_dir)!r}: another Core is running on it; stop that one, or give another "
            "--data-dir"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"CORE_DATA_DIR = {str(data_dir)!r}: {error.strerror}; give a directory that this user may write"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def check_owner(data_dir: Path) -> None:
    """Refuse to leave files of root's among those of a Core that runs as another user: it could not use them.

    Raises:
        ConfigError: root is asked to.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = (data_dir / "lock").stat().st_uid
        with tempfile.TemporaryFile(dir=data_dir) as made:
            # A file system of another machine may have an owner of its own for what root makes.
            is_usable = os.fstat(made.fileno()).st_uid == owner
    except OSError:
        # What cannot be written will say so.
        return
    if not is_usable:
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise ConfigError(
            f"CORE_DATA_DIR = {str(data_dir)!r}: is of a Core that runs as user {name}, which could not use what root "
            f"writes there; run the command with: sudo -u {shlex.quote(name)} (or, if it is to be root's from now "
            f"on: chown -R root: {shlex.quote(str(data_dir))})"
        )
