"""How much memory there is for this process: that of the machine, less where a control group allows less."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Memory:
    """In MiB."""

    total: int
    """What this process could have at most."""
    available: int
    """What it could have now, before others are swapped out or killed."""


def _read_text(path: str) -> str | None:
    """The content of a file of /proc or /sys, or None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def memory(text: Callable[[str], str | None] = _read_text) -> Memory | None:
    """What /proc/meminfo and the limits of the control groups (cgroup v2, `memory.max`) tell; None if nothing does.

    `text` gives the content of a file, or None.
    """
    fields = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", text("/proc/meminfo") or "", re.MULTILINE))
    if fields.keys() != {"MemTotal", "MemAvailable"}:
        return None
    total, available = (int(fields[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for group in _control_groups(text("/proc/self/cgroup") or ""):
        limit = (text(f"{group}/memory.max") or "").strip()
        if limit.isdecimal():
            used = (text(f"{group}/memory.current") or "").strip()
            total = min(total, int(limit))
            available = min(available, max(0, int(limit) - (int(used) if used.isdecimal() else 0)))
    return Memory(total // _MEBIBYTE, available // _MEBIBYTE)


def _control_groups(membership: str) -> Iterator[str]:
    """The directories of the control group of cgroups(7) that `membership` names, and of those around it."""
    found = re.search(r"^0::(/.*)$", membership, re.MULTILINE)
    path = Path(found[1]) if found else Path("/")
    for group in (path, *path.parents):
        yield f"/sys/fs/cgroup{group}".rstrip("/")
