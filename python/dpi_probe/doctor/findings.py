"""What a check is, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpi_probe.config import ProbeSettings
    from dpi_probe.doctor.machine import Machine
    from dpi_probe.doctor.netlink import Link

Status = Literal["ok", "warning", "problem", "not-applicable", "unknown"]
Scope = Literal["interface", "machine"]


# Hardware features of which the driver may take the link down to switch them; software GRO is a flag of the kernel's.
_INTERRUPTING_FEATURES = frozenset({"rx-lro", "rx-gro-hw"})


class Unseen(Exception):  # noqa: N818 - it is no error of the program: the check says what it could not look at
    """Something that this process may not look at, and why."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that `tune` can set and put back."""

    kind: Literal["file", "rings", "coalesce", "features"]
    target: str
    """A file below /proc or /sys, or the attribute or feature of `interface`."""
    wanted: str
    interface: str | None = None
    """The interface that the value belongs to, also where it is a file: once it is gone there is nothing to undo."""

    @property
    def interrupts(self) -> bool:
        """Whether the driver may take the link down for a moment, which loses packets, here and on the way back."""
        return self.kind == "rings" or (self.kind == "features" and self.target in _INTERRUPTING_FEATURES)

    def __str__(self) -> str:
        """What is set, for people."""
        return self.target if self.kind == "file" else f"{self.interface}: {self.kind} {self.target}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    status: Status
    found: str
    command: str | None = None
    """The command that mends it."""
    changes: tuple[Change, ...] = ()
    """What `tune` would set for the same end."""
    matters: str | None = None
    """Why this very thing matters, where it is not what the check says."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined."""

    machine: Machine
    settings: ProbeSettings
    link: Link | None = None
    """The interface; None for checks of the machine."""

    @property
    def interface(self) -> Link:
        """The interface of a check of interfaces."""
        if self.link is None:
            raise ValueError("a check of interfaces needs one")
        return self.link

    @property
    def dedicated(self) -> bool:
        """Whether the interface serves capture alone: the host has nothing that AF_XDP would call a tie, no loopback.

        That is no address, no port of a bridge or bond, nothing that stands on it, and no route over it.

        Raises:
            Unseen: the routes cannot be looked at.
        """
        link = self.link
        if link is None or link.kind == "loopback" or link.addresses or link.master is not None or link.uppers:
            return False
        return not self.machine.network.has_route(link.index)

    @property
    def sysfs(self) -> str:
        """The interface's directory."""
        return f"/sys/class/net/{self.interface.name}"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at."""

    name: str
    scope: Scope
    looks_at: str
    matters: str
    """Why it matters, in one or two sentences."""
    examine: Callable[[Subject], Outcome]


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and what it found on one interface or on the machine."""

    check: Check
    interface: str | None
    outcome: Outcome

    @property
    def status(self) -> Status:
        """The outcome's status."""
        return self.outcome.status

    @property
    def matters(self) -> str:
        """Why it matters."""
        return self.outcome.matters or self.check.matters

    def to_dict(self) -> dict[str, object]:
        """The finding for JSON."""
        return {
            "check": self.check.name,
            "interface": self.interface,
            "status": self.status,
            "found": self.outcome.found,
            "looks_at": self.check.looks_at,
            "matters": self.matters,
            "command": self.outcome.command,
        }


def ok(found: str) -> Outcome:
    """All right."""
    return Outcome("ok", found)


def inapplicable(why: str) -> Outcome:
    """There is no such thing here."""
    return Outcome("not-applicable", why)


def warning(found: str, command: str | None = None, *changes: Change) -> Outcome:
    """It works, but not as well as it could."""
    return Outcome("warning", found, command, changes)


def problem(found: str, command: str | None = None, *changes: Change, matters: str | None = None) -> Outcome:
    """Capture, delivery or the numbers suffer."""
    return Outcome("problem", found, command, changes, matters)
