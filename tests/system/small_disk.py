"""Real file systems that fill up or hang. Need root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

CLONE_NEWNS = 0x00020000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class SmallDisk:
    """A tmpfs at `path` while the context lasts, in a mount namespace of its own.

    This thread and the programs that it starts see it, nobody else.
    """

    def __init__(self, path: Path, kibibytes: int) -> None:
        self.path, self.kibibytes = path, kibibytes

    def __enter__(self) -> Self:
        self.outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.folder = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        _checked(_LIBC.unshare(CLONE_NEWNS), "a mount namespace of the test's own")
        self.path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.kibibytes}k,mode=0700", "small-disk", self.path], check=True
        )
        return self

    def resize(self, kibibytes: int) -> None:
        """Make room, or take it."""
        subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", self.path], check=True)

    def free(self) -> int:
        """Bytes that are left."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    def __exit__(self, *_: object) -> None:
        # The namespace goes with the last process that is in it, and the file system with the namespace.
        _checked(_LIBC.setns(self.outside, CLONE_NEWNS), "back to the mount namespace of the others")
        os.fchdir(self.folder)
        os.close(self.folder)
        os.close(self.outside)


class HangingDisk:
    """An ext4 at `path` while the context lasts, which can be made to hang as storage does that answers no more."""

    def __init__(self, path: Path, mebibytes: int) -> None:
        self.path, self.mebibytes = path, mebibytes
        self.hangs = False

    def __enter__(self) -> Self:
        """Make the file system in a file beside it, and mount that."""
        self.path.mkdir(parents=True, exist_ok=True)
        image = self.path.with_suffix(".ext4")
        with image.open("wb") as file:
            file.truncate(self.mebibytes << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.path], check=True)
        self.path.chmod(0o700)
        return self

    def hang(self) -> None:
        """From now on writers wait."""
        subprocess.run(["fsfreeze", "--freeze", self.path], check=True)
        self.hangs = True

    def go_on(self) -> None:
        """Let them write."""
        if self.hangs:
            subprocess.run(["fsfreeze", "--unfreeze", self.path], check=True)
            self.hangs = False

    def __exit__(self, *_: object) -> None:
        self.go_on()
        subprocess.run(["umount", "--lazy", self.path], check=True)
