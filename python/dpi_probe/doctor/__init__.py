"""What `dpi-probe doctor` looks at, and what `dpi-probe tune` changes.

Each check is a small declared object (`findings.Check`): what is looked at, why it matters, and a function that returns
what it found. Nothing is changed here but by `tuning`, which takes the changes that the findings name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpi_probe.doctor import interface, processors, storage, system, trust
from dpi_probe.doctor.findings import Check, Finding, Outcome, Subject, Unseen, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dpi_probe.config import ProbeSettings
    from dpi_probe.doctor.machine import Machine
    from dpi_probe.doctor.netlink import Link

CHECKS: tuple[Check, ...] = (
    *interface.CHECKS,
    *processors.CHECKS,
    *system.CHECKS,
    *storage.CHECKS,
    *trust.CHECKS,
)


def examine(
    machine: Machine, settings: ProbeSettings, interfaces: Sequence[str], checks: Sequence[Check] = CHECKS
) -> Iterator[Finding]:
    """Look at the interfaces, then at the machine, and yield what each check found."""
    for name in interfaces:
        try:
            link = machine.network.link(name)
        except Unseen as error:
            link, reason = None, Outcome("unknown", str(error))
        else:
            reason = problem(
                "there is no such interface in this network namespace",
                "ip link",
                matters="There is nothing to capture from; the command lists the interfaces that there are.",
            )
        for check in checks:
            if check.scope != "interface":
                continue
            if link is None:
                yield Finding(check, name, reason)
                break
            yield Finding(check, name, _outcome(check, Subject(machine, settings, link)))
    for check in checks:
        if check.scope == "machine":
            yield Finding(check, None, _outcome(check, Subject(machine, settings)))


def unknown_interfaces(machine: Machine, names: Sequence[str]) -> list[str]:
    """Those of `names` that there are not; none if netlink cannot be used."""
    try:
        return [name for name in names if machine.network.link(name) is None]
    except Unseen:
        return []


def _outcome(check: Check, subject: Subject) -> Outcome:
    try:
        return check.examine(subject)
    except Unseen as error:
        return Outcome("unknown", str(error))


def default_interfaces(machine: Machine, settings: ProbeSettings) -> list[str]:
    """CAPTURE_IFACE, else the interfaces that have a device and are up; none if netlink cannot be used."""
    if settings.capture_iface is not None:
        return [settings.capture_iface]
    try:
        links: list[Link] = machine.network.links()
    except Unseen:
        return []
    return [link.name for link in links if link.up and machine.path(f"/sys/class/net/{link.name}/device").exists()]
