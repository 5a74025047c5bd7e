"""Checks of the kernel and of what it grants: memory, limits of the network stack, clock, capabilities."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dpi_probe import _native
from dpi_probe._memory import memory
from dpi_probe.doctor.findings import Change, Check, Outcome, Subject, inapplicable, ok, problem, warning

_MEBIBYTE = 1 << 20
BACKLOG = 10_000
BUDGET = 600
# Clock sources that are read without leaving the processor.
_FAST_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource", "timebase"}
_SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "pit"}
# Numbers of include/uapi/linux/capability.h, and what each is for.
_CAPABILITIES = {
    "CAP_NET_RAW": (13, "open packet sockets"),
    "CAP_BPF": (39, "load the program that shares packets out to several workers"),
}
# AF_XDP takes these too.
_CAPABILITIES_OF_XDP = {
    "CAP_NET_ADMIN": (12, "attach the program of AF_XDP"),
    "CAP_IPC_LOCK": (14, "lock the memory of AF_XDP beyond the memlock limit"),
}
# And so does TIMESTAMPS=hardware, of a card that has them.
_CAPABILITY_OF_CARD_CLOCKS = "CAP_NET_ADMIN"
_NEEDED = "CAP_NET_RAW"
GIVEN_TO_SCRIPTS = (
    "run as root or by the systemd unit (docs/guides/install.md), as the command below gives its capabilities to every "
    "Python script"
)


def _memory(subject: Subject) -> Outcome:
    bound = subject.settings.max_buffer_size_mb
    there_is = memory(subject.machine.text)
    if there_is is None:
        return Outcome("unknown", "/proc/meminfo does not tell")
    said = f"{there_is.available:,} of {there_is.total:,} MiB available; the probe may use {bound:,} MiB"
    if there_is.available < bound:
        return problem(said, f"MAX_BUFFER_SIZE_MB={max(128, there_is.available // 2)} dpi-probe run …")
    return ok(said)


def _huge_pages(subject: Subject) -> Outcome:
    text = subject.machine.text("/proc/meminfo") or ""
    numbers = dict(re.findall(r"^(HugePages_\w+|Hugepagesize):\s*(\d+)", text, re.MULTILINE))
    mode = re.search(r"\[(\w+)\]", subject.machine.text("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    if "HugePages_Total" not in numbers and mode is None:
        return inapplicable("the kernel has none")
    said = (
        f"{numbers.get('HugePages_Total', '0')} reserved of {int(numbers.get('Hugepagesize', '0'))} KiB, "
        f"transparent: {mode[1] if mode else 'none'}"
    )
    if mode is not None and mode[1] == "always":
        # No change for `tune`: other programs of the machine may live by it.
        return warning(
            f"{said}; the command changes it for every program of the machine",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return ok(f"{said}; the probe reserves none")


def _memlock(subject: Subject) -> Outcome:
    if subject.settings.capture != "af_xdp":
        return inapplicable("only CAPTURE=af_xdp locks memory")
    limits = subject.machine.text("/proc/self/limits") or ""
    found = re.search(r"^Max locked memory\s+(\S+)", limits, re.MULTILINE)
    if found is None:
        return Outcome("unknown", "/proc/self/limits does not tell")
    if found[1] == "unlimited":
        return ok("unlimited")
    budget = subject.settings.max_buffer_size_mb
    limit, needed = int(found[1]) // _MEBIBYTE, _native.capture_ring_bytes(budget * _MEBIBYTE) // _MEBIBYTE
    said = f"{limit:,} MiB; AF_XDP at MAX_BUFFER_SIZE_MB={budget} locks {needed} MiB"
    if limit >= needed:
        return ok(said)
    if "CAP_IPC_LOCK" in held(subject):
        return ok(f"{limit:,} MiB, and CAP_IPC_LOCK lifts the limit")
    return warning(said, f"ulimit -l {needed * 1024}")


def _softnet(subject: Subject) -> tuple[int, int]:
    """Frames dropped because a processor's backlog was full, and times that the budget ran out, since boot."""
    dropped = squeezed = 0
    for line in (subject.machine.text("/proc/net/softnet_stat") or "").splitlines():
        columns = [int(word, 16) for word in line.split()[:3]]
        if len(columns) == 3:
            dropped, squeezed = dropped + columns[1], squeezed + columns[2]
    return dropped, squeezed


def _sysctl(subject: Subject, name: str) -> int | None:
    return subject.machine.number(f"/proc/sys/net/core/{name}")


def _backlog(subject: Subject) -> Outcome:
    size, (dropped, _) = _sysctl(subject, "netdev_max_backlog"), _softnet(subject)
    if size is None:
        return inapplicable("not set in this network namespace")
    said = f"net.core.netdev_max_backlog={size}; {dropped:,} frames dropped there since boot"
    if size >= BACKLOG:
        return ok(said)
    change = Change("file", "/proc/sys/net/core/netdev_max_backlog", str(BACKLOG))
    return (problem if dropped else warning)(said, f"sysctl -w net.core.netdev_max_backlog={BACKLOG}", change)


def _budget(subject: Subject) -> Outcome:
    size, (_, squeezed) = _sysctl(subject, "netdev_budget"), _softnet(subject)
    if size is None:
        return inapplicable("not set in this network namespace")
    said = f"net.core.netdev_budget={size}; it ran out {squeezed:,} times since boot"
    if size >= BUDGET or not squeezed:
        return ok(said)
    change = Change("file", "/proc/sys/net/core/netdev_budget", str(BUDGET))
    return warning(said, f"sysctl -w net.core.netdev_budget={BUDGET}", change)


def _bpf_compiler(subject: Subject) -> Outcome:
    value = _sysctl(subject, "bpf_jit_enable")
    if value is None:
        return inapplicable("not set in this network namespace")
    if value:
        return ok(f"net.core.bpf_jit_enable={value}")
    change = Change("file", "/proc/sys/net/core/bpf_jit_enable", "1")
    return problem("net.core.bpf_jit_enable=0", "sysctl -w net.core.bpf_jit_enable=1", change)


def _clock_source(subject: Subject) -> Outcome:
    directory = "/sys/devices/system/clocksource/clocksource0"
    source = subject.machine.text(f"{directory}/current_clocksource")
    if source is None:
        return Outcome("unknown", "the kernel does not tell")
    available = (subject.machine.text(f"{directory}/available_clocksource") or "").split()
    if source in _FAST_CLOCKS:
        return ok(source)
    if source in _SLOW_CLOCKS:
        better = next((name for name in available if name in _FAST_CLOCKS), None)
        hint = f"echo {better} > {directory}/current_clocksource" if better else "dmesg | grep -i clocksource"
        return problem(f"{source}; available: {' '.join(available)}", hint)
    return ok(f"{source} (how fast it is read is not known here)")


def _time(subject: Subject) -> Outcome:
    state = subject.machine.clock_state()
    if not state.synchronised:
        return problem("the clock is not synchronised", "systemctl enable --now chronyd")
    said = f"synchronised, error at most {state.error_seconds * 1000:.1f} ms"
    return warning(said, "chronyc sources") if state.error_seconds > 0.1 else ok(said)


def held(subject: Subject) -> set[str]:
    """The capabilities of the probe's lists that this process has (CapEff of /proc/self/status)."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", subject.machine.text("/proc/self/status") or "", re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    every = _CAPABILITIES | _CAPABILITIES_OF_XDP
    return {name for name, (number, _) in every.items() if bits >> number & 1}


def _wanted_for(subject: Subject) -> dict[str, tuple[int, str]]:
    return _CAPABILITIES | (_CAPABILITIES_OF_XDP if subject.settings.capture == "af_xdp" else {})


def setcap(subject: Subject) -> str:
    """The command that gives Python what all settings together take: setcap takes away what it does not name."""
    wanted = dict.fromkeys(_wanted_for(subject))
    if subject.settings.timestamps == "hardware":
        wanted[_CAPABILITY_OF_CARD_CLOCKS] = None
    return f"setcap {','.join(wanted).lower()}=ep {Path(sys.executable).resolve()}"


def _capabilities(subject: Subject) -> Outcome:
    have = held(subject)
    wanted_for = _wanted_for(subject)
    lacking = [name for name in wanted_for if name not in have]
    if not lacking:
        return ok(", ".join(wanted_for))
    said = "; ".join(f"{name} is missing, which it takes to {wanted_for[name][1]}" for name in lacking)
    return (problem if _NEEDED in lacking else warning)(f"{said}; {GIVEN_TO_SCRIPTS}", setcap(subject))


CHECKS = (
    Check(
        "memory",
        "machine",
        "memory available (/proc/meminfo, control groups) against MAX_BUFFER_SIZE_MB",
        "A probe that has to share its memory with the swap loses packets.",
        _memory,
    ),
    Check(
        "huge pages",
        "machine",
        "reserved and transparent huge pages (/proc/meminfo, sysfs)",
        "With `always` the kernel rounds memory up to huge pages, which counts against MAX_BUFFER_SIZE_MB.",
        _huge_pages,
    ),
    Check(
        "memlock",
        "machine",
        "RLIMIT_MEMLOCK of this process against what CAPTURE=af_xdp locks",
        "The memory of AF_XDP sockets is locked; the other modes lock none.",
        _memlock,
    ),
    Check(
        "backlog",
        "machine",
        "net.core.netdev_max_backlog and frames dropped there (/proc/net/softnet_stat)",
        "Frames of veth and loopback interfaces, and those that RPS moves, wait in it; what finds it full is lost.",
        _backlog,
    ),
    Check(
        "softirq budget",
        "machine",
        "net.core.netdev_budget and how often it ran out (/proc/net/softnet_stat)",
        "When it runs out with frames still waiting the receive ring fills meanwhile.",
        _budget,
    ),
    Check(
        "BPF compiler",
        "machine",
        "net.core.bpf_jit_enable",
        "The filter and the steering program run for every packet; interpreted they cost several times as much.",
        _bpf_compiler,
    ),
    Check(
        "clock source",
        "machine",
        "the kernel's clock source (sysfs)",
        "Every packet is stamped; a slow source costs about a microsecond each time.",
        _clock_source,
    ),
    Check(
        "time",
        "machine",
        "whether the clock is synchronised, and its greatest error (adjtimex)",
        "Records of two probes can be put in order only if their clocks agree, and the Core refuses batches from the "
        "future.",
        _time,
    ),
    Check(
        "capabilities",
        "machine",
        "the effective capabilities of this process (/proc/self/status)",
        "Without CAP_NET_RAW there is no live capture; without the others some modes are missing.",
        _capabilities,
    ),
)
