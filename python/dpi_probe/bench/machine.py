"""What a result was measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def fingerprint() -> dict[str, Any]:
    """The machine, its kernel and this program. `id` is equal on equal hardware and kernel, whatever runs beside."""
    hardware = {
        "cpu": _first_field("/proc/cpuinfo", "model name") or platform.machine(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads_per_core": _threads_per_core(),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))),
        "memory_mb": int((_first_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        "hypervisor": _hypervisor(),
        "kernel": platform.release(),
    }
    identity = hashlib.sha256(repr(sorted(hardware.items())).encode()).hexdigest()[:12]
    return {
        "id": identity,
        **hardware,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_before": list(os.getloadavg()),
        "python": sys.version.split()[0],
        "dpi_probe": version("dpi-probe"),
        "commit": _commit(),
    }


def one_line(machine: dict[str, Any]) -> str:
    """The machine for a person."""
    virtual = f", virtual ({machine['hypervisor']})" if machine["hypervisor"] else ""
    load = machine["load_before"][0]
    return (
        f"{machine['cpus']} x {machine['cpu']}{virtual}, {machine['memory_mb'] / 1024:.0f} GiB, "
        f"Linux {machine['kernel']}, load before {load:.1f} [{machine['id']}]"
    )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _first_field(path: str, name: str) -> str | None:
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _threads_per_core() -> int:
    siblings = _read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    return len(re.split(r"[,-]", siblings)) if siblings else 1


def _hypervisor() -> str | None:
    if "hypervisor" not in (_first_field("/proc/cpuinfo", "flags") or ""):
        return None
    return _read("/sys/class/dmi/id/sys_vendor") or "unknown"


def _commit() -> str | None:
    """The commit of a source checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None
