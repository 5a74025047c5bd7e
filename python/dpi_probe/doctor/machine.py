"""The machine as checks see it: files below /proc and /sys, netlink, the clock. Tests give another root and network."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe._cpulist import parse_list
from dpi_probe.doctor.findings import Unseen

if TYPE_CHECKING:
    from dpi_probe.doctor.netlink import Network


@dataclass(frozen=True)
class ClockState:
    """What adjtimex(2) tells."""

    synchronised: bool
    error_seconds: float
    """Greatest error of the clock as the kernel estimates it."""


class Machine:
    """Reads this machine. Paths are absolute; `root` is what they are below."""

    def __init__(self, network: Network, root: Path = Path("/")) -> None:
        """Nothing is read yet."""
        self.network = network
        self.root = root

    def path(self, path: str) -> Path:
        """Where `path` really lies."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """The file's content without white space around it, or None if there is no such file or it has no value.

        Raises:
            Unseen: this process may not read it.
        """
        try:
            return self.path(path).read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise Unseen(f"{path}: {error.strerror}") from error
        except OSError:
            # Attributes of interfaces that are down, or that a driver does not implement, answer EINVAL or EOPNOTSUPP.
            return None

    def number(self, path: str) -> int | None:
        """The file's content as a number, or None where there is none."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def names(self, path: str) -> list[str]:
        """The names in a directory in order; none if it does not exist.

        Raises:
            Unseen: this process may not read it.
        """
        try:
            return sorted(entry.name for entry in self.path(path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError as error:
            raise Unseen(f"{path}: {error.strerror}") from error

    def link_name(self, path: str) -> str | None:
        """The last part of what a symbolic link points to, or None."""
        try:
            return Path(self.path(path).readlink()).name
        except OSError:
            return None

    def write(self, path: str, text: str) -> None:
        """Write a value to a file of /proc or /sys.

        Raises:
            OSError: the kernel refuses.
        """
        descriptor = os.open(self.path(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{text}\n".encode())
        finally:
            os.close(descriptor)

    def clock_state(self) -> ClockState:
        """Whether the clock is synchronised.

        Raises:
            Unseen: the kernel refuses to tell.
        """
        state = _Timex()
        result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
        if result < 0:
            raise Unseen(f"adjtimex: {os.strerror(ctypes.get_errno())}")
        # TIME_ERROR of adjtimex(2): the clock is not synchronised to a reliable server.
        return ClockState(synchronised=result != 5, error_seconds=state.maximum_error / 1e6)

    def processors(self) -> list[int]:
        """The processors that this process may use (Cpus_allowed_list of /proc/self/status)."""
        found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", self.text("/proc/self/status") or "", re.MULTILINE)
        return parse_list(found[1]) if found else []


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2): the fields that are read, and room for the rest. All zero: nothing is set."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )
