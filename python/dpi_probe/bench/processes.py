"""What processes use, from /proc: CPU time by thread, and resident memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

NANOSECONDS = 1e9
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Use:
    """What a process has used since it started."""

    cpu_seconds: float = 0.0
    threads: dict[str, float] = field(default_factory=dict)
    """CPU seconds by thread name; threads of one name are summed."""
    resident_bytes: int = 0


def use_of(pid: int) -> Use:
    """The use of one process; nothing once it has ended."""
    threads: dict[str, float] = {}
    resident = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            name, seconds = _thread(task)
            if int(task.name) == pid:
                name = "main"
            threads[name] = threads.get(name, 0.0) + seconds
        resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        pass
    return Use(sum(threads.values()), threads, resident)


def _thread(task: Path) -> tuple[str, float]:
    try:
        # sched-stats.rst: time on the CPU in nanoseconds comes first.
        nanoseconds = int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return (task / "comm").read_text(encoding="utf-8", errors="replace").strip(), nanoseconds / NANOSECONDS
    except (OSError, IndexError, ValueError):
        return "", 0.0


def descendants(pid: int) -> list[int]:
    """The process and everything that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command's name is in parentheses and may hold anything.
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def tree_cpu_seconds(pid: int) -> float:
    """CPU seconds of the running processes below and with `pid`."""
    return sum(use_of(one).cpu_seconds for one in descendants(pid))


def machine_busy_seconds() -> float:
    """CPU seconds in which the machine was not idle, over all CPUs (proc(5), /proc/stat)."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        fields = [int(value) for value in stat.readline().split()[1:]]
    idle = fields[3] + fields[4]
    # Guest time is part of user time already.
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")
