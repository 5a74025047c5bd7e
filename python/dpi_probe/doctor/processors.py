"""Checks of processors: interrupts, NUMA node, frequency governor, isolation."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from dpi_probe._cpulist import format_list, parse_list
from dpi_probe.doctor.findings import Change, Check, Outcome, Subject, inapplicable, ok, warning

if TYPE_CHECKING:
    from dpi_probe.doctor.machine import Machine

# Interrupts of a network device that do not announce received frames, by how drivers name them.
_OTHER_INTERRUPTS = re.compile(
    r"config|control|ctrl|async|misc|mgmt|fdir|cmd|pages|other|event|recovery|(^|[-.])tx([-.]?\d+)?$|output",
    re.IGNORECASE,
)


def receive_interrupts(subject: Subject) -> dict[int, str]:
    """The interrupts that announce received frames: number and name.

    Raises:
        Unseen: /proc/interrupts may not be read.
    """
    machine = subject.machine
    # Of a virtio device the PCI device above it has the interrupts.
    of_device = machine.names(f"{subject.sysfs}/device/msi_irqs") or machine.names(
        f"{subject.sysfs}/device/../msi_irqs"
    )
    numbers = {int(name) for name in of_device if name.isdigit()}
    found = {}
    for line in (machine.text("/proc/interrupts") or "").splitlines():
        number, colon, rest = line.strip().partition(":")
        name = rest.split()[-1] if rest.split() else ""
        if colon and number.isdigit() and int(number) in numbers and not _OTHER_INTERRUPTS.search(name):
            found[int(number)] = name
    return found


def local_processors(machine: Machine, sysfs: str) -> list[int]:
    """The processors of the interface's NUMA node that are online; all, where it has none."""
    online = parse_list(machine.text("/sys/devices/system/cpu/online") or "0")
    node = machine.number(f"{sysfs}/device/numa_node")
    if node is None or node < 0:
        return online
    local = parse_list(machine.text(f"/sys/devices/system/node/node{node}/cpulist") or "")
    return [processor for processor in local if processor in online] or online


def _irqbalance_runs(machine: Machine) -> bool:
    return any(machine.text(f"/proc/{name}/comm") == "irqbalance" for name in machine.names("/proc") if name.isdigit())


def _interrupts(subject: Subject) -> Outcome:
    machine, name = subject.machine, subject.interface.name
    interrupts = receive_interrupts(subject)
    if not interrupts:
        return inapplicable("no interrupts of its own: the sender's processor does the work")
    local = local_processors(machine, subject.sysfs)
    served: dict[int, list[int]] = {}
    for number in interrupts:
        text = machine.text(f"/proc/irq/{number}/effective_affinity_list") or machine.text(
            f"/proc/irq/{number}/smp_affinity_list"
        )
        served[number] = parse_list(text or "")
    load = Counter(processors[0] for processors in served.values() if processors)
    many = "interrupt" if len(interrupts) == 1 else "interrupts"
    said = f"{len(interrupts)} receive {many} on processors {format_list(list(load))}"
    faults = []
    if max(load.values(), default=0) > -(-len(interrupts) // len(local)):
        faults.append("unevenly spread")
    if any(processor not in local for processor in load):
        faults.append(f"not all on the interface's node ({format_list(local)})")
    if not faults:
        return ok(said)
    said = f"{said}: {', '.join(faults)}"
    if _irqbalance_runs(machine):
        # It would move them again within seconds.
        return warning(f"{said}; irqbalance moves them", "systemctl disable --now irqbalance")
    changes = [
        Change("file", f"/proc/irq/{number}/smp_affinity_list", str(local[at % len(local)]), interface=name)
        for at, number in enumerate(sorted(interrupts))
    ]
    return warning(said, f"dpi-probe tune --apply {name}", *changes)


def _numa(subject: Subject) -> Outcome:
    machine = subject.machine
    nodes = parse_list(machine.text("/sys/devices/system/node/online") or "0")
    if len(nodes) < 2:
        return inapplicable("the machine has one node")
    node = machine.number(f"{subject.sysfs}/device/numa_node")
    if node is None or node < 0:
        return inapplicable("the interface belongs to no node")
    local, allowed = local_processors(machine, subject.sysfs), machine.processors()
    said = f"the interface is on node {node} (processors {format_list(local)}) of {len(nodes)}"
    if set(local) & set(allowed):
        return ok(said)
    return warning(
        f"{said}; this process may run on {format_list(allowed)} only",
        f"numactl --cpunodebind={node} --membind={node} dpi-probe run -i {subject.interface.name} …",
    )


def _governor(subject: Subject) -> Outcome:
    machine = subject.machine
    online = parse_list(machine.text("/sys/devices/system/cpu/online") or "0")
    governors = {
        processor: governor
        for processor in online
        if (governor := machine.text(f"/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_governor"))
    }
    if not governors:
        return inapplicable("the kernel does not set the frequency here (a virtual machine, or the firmware does)")
    slow = [processor for processor, governor in governors.items() if governor != "performance"]
    if not slow:
        return ok("performance")
    kinds = ", ".join(sorted({governors[processor] for processor in slow}))
    changes = [
        Change("file", f"/sys/devices/system/cpu/cpu{processor}/cpufreq/scaling_governor", "performance")
        for processor in slow
    ]
    return warning(f"{kinds} on processors {format_list(slow)}", "cpupower frequency-set -g performance", *changes)


def _isolation(subject: Subject) -> Outcome:
    machine = subject.machine
    isolated = parse_list(machine.text("/sys/devices/system/cpu/isolated") or "")
    if not isolated:
        return ok("none isolated; they need to be only where other programs leave the probe too little time")
    allowed = machine.processors()
    if set(isolated) & set(allowed):
        return ok(f"{format_list(isolated)} isolated")
    return warning(
        f"{format_list(isolated)} isolated, but this process may run on {format_list(allowed)} only",
        f"taskset -c {format_list(isolated)} dpi-probe run …",
    )


CHECKS = (
    Check(
        "interrupts",
        "interface",
        "which processors serve the receive interrupts (/proc/interrupts, /proc/irq), and whether irqbalance runs",
        "A processor that serves several queues is the first to be full; one on another node reads every packet across "
        "the link between the nodes.",
        _interrupts,
    ),
    Check(
        "NUMA node",
        "interface",
        "the interface's node and the processors that this process may use (sysfs, /proc/self/status)",
        "Memory of another node costs about twice the time for each packet.",
        _numa,
    ),
    Check(
        "governor",
        "machine",
        "the frequency governor of each processor (sysfs)",
        "A processor that has slowed down loses the first packets of a burst while it wakes.",
        _governor,
    ),
    Check(
        "isolation",
        "machine",
        "isolated processors and those that this process may use (sysfs, /proc/self/status)",
        "Isolated processors run nothing but what is put there: of use only if the probe is.",
        _isolation,
    ),
)
