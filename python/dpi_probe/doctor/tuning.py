"""Applying what the findings would change, and undoing it.

What is needed to undo is on disk, whole, before the first value is set. Undoing takes back only what still has the
value that was set here: what somebody changed since stays, and an interface that is gone takes its values with it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import os
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from dpi_probe.doctor.findings import Change, Finding, Unseen
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from dpi_probe.doctor.machine import Machine
    from dpi_probe.doctor.netlink import Link

VERSION = 1
# Far more than the values of all interfaces of a machine take.
MAX_BYTES = 16 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NAMESPACE = "/proc/self/ns/net"
_INTERRUPTS = "may take the link down for a moment"

State = Literal["planned", "set", "unchanged", "refused", "interrupts", "undone", "gone", "left"]


class TuningPermissionError(DpiProbeError):
    """The process may not write how to undo what it would set."""

    exit_status = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One change and what became of it."""

    change: Change
    state: State
    before: str | None
    after: str | None
    """What it is set to, or would be."""
    reason: str = ""
    """Why it was refused, or left."""
    forbidden: bool = False
    """Whether it was refused for want of permission."""

    def to_dict(self) -> dict[str, object]:
        """The step for JSON."""
        change = self.change
        return {
            "what": str(change),
            "kind": change.kind,
            "target": change.target,
            "interface": change.interface,
            "interrupts": change.interrupts,
            "state": self.state,
            "before": self.before,
            "after": self.after,
            "reason": self.reason or None,
        }


@dataclass(slots=True)
class Entry:
    """One line of the file that says how to undo."""

    kind: Literal["file", "rings", "coalesce", "features"]
    target: str
    interface: str | None
    index: int | None
    """Interface index: it stays when the interface is renamed, and is not given to another that takes the name."""
    before: str
    after: str
    earlier: str | None = None
    """What an earlier call had set, until it is known that the present one set `after`."""
    namespace: str | None = None
    """Network namespace of the interface: another one has interfaces of the same indexes."""

    @property
    def change(self) -> Change:
        """The change that was made."""
        return Change(self.kind, self.target, self.after, interface=self.interface)

    def is_same(self, change: Change, links: _Links) -> bool:
        """Whether the entry is about the same value."""
        place = (change.kind, change.target, links.index(change.interface), links.namespace_of(change.interface))
        return (self.kind, self.target, self.index, self.namespace) == place


def changes(findings: Iterable[Finding]) -> list[Change]:
    """The changes that the findings name, each once."""
    return list(dict.fromkeys(change for finding in findings for change in finding.outcome.changes))


def plan(machine: Machine, wanted: Sequence[Change], *, interrupting: bool = False) -> list[Step]:
    """What `apply` would do."""
    links = _Links(machine)
    return [_planned(machine, links, change, interrupting=interrupting) for change in wanted]


def apply(machine: Machine, wanted: Sequence[Change], undo_file: Path, *, interrupting: bool = False) -> list[Step]:
    """Set the values, those that interrupt traffic only if `interrupting`, and keep in `undo_file` how to undo it.

    Values that are as wanted already are not touched, and the file keeps what was there before the first of several
    calls.

    Raises:
        TuningPermissionError: this process may not use `undo_file`; nothing was changed.
        DpiProbeError: `undo_file` cannot be used; nothing was changed.
    """
    steps = plan(machine, wanted, interrupting=interrupting)
    if not any(step.state == "planned" for step in steps):
        return steps
    links = _Links(machine)
    with _locked(undo_file):
        # Somebody else may have set something since.
        steps = [_planned(machine, links, change, interrupting=interrupting) for change in wanted]
        entries = _load(machine, undo_file)
        for step in steps:
            if step.state == "planned" and step.before is not None:
                index = links.index(step.change.interface)
                old = next((entry for entry in entries if entry.is_same(step.change, links)), None)
                if old is not None:
                    old.after, old.earlier = step.change.wanted, old.after
                else:
                    change = step.change
                    entry = Entry(change.kind, change.target, change.interface, index, step.before, change.wanted)
                    entry.namespace = links.namespace_of(change.interface)
                    entries.append(entry)
        _save(machine, undo_file, entries)
        done = []
        for step in steps:
            if step.state != "planned":
                done.append(step)
                continue
            index = links.index(step.change.interface)
            (entry,) = [entry for entry in entries if entry.is_same(step.change, links)]
            result = _set(machine, step.change, index, step.before)
            done.append(result)
            if result.state == "set":
                # Drivers round to what the hardware can do.
                entry.after = result.after or entry.after
            elif entry.earlier is not None:
                entry.after = entry.earlier
            elif result.after is None:
                entries.remove(entry)
            entry.earlier = None
        _save(machine, undo_file, entries)
    return done


def revert(machine: Machine, undo_file: Path, *, interrupting: bool = False) -> list[Step]:
    """Set back what `apply` changed, the newest first; what interrupts traffic only if `interrupting`.

    What cannot be set back, or was not, stays in the file.

    Raises:
        DpiProbeError: `undo_file` cannot be used.
    """
    if not undo_file.exists():
        return []
    links = _Links(machine)
    steps: list[Step] = []
    remaining: list[Entry] = []
    with _locked(undo_file):
        for entry in reversed(_load(machine, undo_file)):
            step = _elsewhere(links, entry) or _undone(machine, links, entry, interrupting=interrupting)
            steps.append(step)
            if step.state in {"refused", "interrupts"}:
                remaining.insert(0, entry)
        _save(machine, undo_file, remaining)
    return steps


def _elsewhere(links: _Links, entry: Entry) -> Step | None:
    """The refusal to undo what was set for an interface of another network namespace."""
    if entry.namespace == links.namespace_of(entry.interface):
        return None
    reason = "it was set in another network namespace: revert it there, or remove its entry once that is gone"
    return Step(entry.change, "refused", None, entry.before, reason)


def _undone(machine: Machine, links: _Links, entry: Entry, *, interrupting: bool) -> Step:
    change, index = entry.change, entry.index
    if index is not None and not links.exists(index):
        return Step(change, "gone", entry.after, entry.before, "the interface is gone")
    try:
        present = current(machine, change, index)
    except Unseen as error:
        return Step(change, "refused", None, entry.before, str(error))
    if (nothing := _nothing_to_undo(entry, present)) is not None:
        return nothing
    if change.interrupts and not interrupting:
        return Step(change, "interrupts", present, entry.before, _INTERRUPTS)
    back = _set(machine, Change(entry.kind, entry.target, entry.before, interface=entry.interface), index, present)
    return back if back.state == "refused" else Step(change, "undone", present, back.after)


def _nothing_to_undo(entry: Entry, present: str | None) -> Step | None:
    if present == entry.before:
        return Step(entry.change, "unchanged", present, entry.before)
    if present is None:
        return Step(entry.change, "gone", None, entry.before, "there is no such value any more")
    if present not in {entry.after, entry.earlier}:
        return Step(entry.change, "left", present, entry.before, f"somebody else set it to {present} since")
    return None


def current(machine: Machine, change: Change, index: int | None) -> str | None:
    """The present value, or None if there is none.

    Raises:
        Unseen: this process may not look at it.
    """
    if change.kind == "file":
        text = machine.text(change.target)
        # Files with a choice of values show the chosen one in brackets.
        return text.partition("[")[2].partition("]")[0] if text is not None and "[" in text else text
    if index is None:
        return None
    told: dict[str, Any] = machine.network.ethtool(index, change.kind) or {}
    if change.kind == "features":
        return ("on" if change.target in told["active"] else "off") if "active" in told else None
    return str(told[change.target]) if change.target in told else None


def _planned(machine: Machine, links: _Links, change: Change, *, interrupting: bool) -> Step:
    try:
        present = current(machine, change, links.index(change.interface))
    except Unseen as error:
        return Step(change, "refused", None, change.wanted, str(error), forbidden=True)
    if present is None:
        return Step(change, "refused", None, change.wanted, "there is no such value here")
    if present == change.wanted:
        return Step(change, "unchanged", present, change.wanted)
    if change.interrupts and not interrupting:
        return Step(change, "interrupts", present, change.wanted, _INTERRUPTS)
    return Step(change, "planned", present, change.wanted)


def _set(machine: Machine, change: Change, index: int | None, before: str | None) -> Step:
    """Write the value and look what came of it. `after` of the step is None only if nothing was written."""
    try:
        if change.kind == "file":
            machine.write(change.target, change.wanted)
        elif index is not None:
            value = change.wanted == "on" if change.kind == "features" else int(change.wanted)
            machine.network.set_ethtool(index, change.kind, change.target, value)
    except OSError as error:
        forbidden = error.errno in {errno.EPERM, errno.EACCES}
        return Step(change, "refused", before, None, error.strerror or str(error), forbidden=forbidden)
    try:
        after = current(machine, change, index)
    except (OSError, Unseen) as error:
        return Step(change, "set", before, change.wanted, f"taken, but it cannot be read back: {error}")
    if after is None:
        return Step(change, "set", before, change.wanted, "taken, but it is gone since")
    if after == before:
        # A feature that the driver needs for another, for example, is taken but not switched.
        return Step(change, "refused", before, after, "the driver took it without effect")
    return Step(change, "set", before, after)


class _Links:
    """The interfaces at one moment."""

    def __init__(self, machine: Machine) -> None:
        self._namespace = machine.link_name(_NAMESPACE)
        try:
            self._links: list[Link] = machine.network.links()
        except Unseen as error:
            raise DpiProbeError(f"interfaces cannot be looked at: {error}") from error

    def index(self, name: str | None) -> int | None:
        return next((link.index for link in self._links if link.name == name), None)

    def namespace_of(self, interface: str | None) -> str | None:
        """The network namespace that a value of an interface is of; None for values of the whole machine."""
        return None if interface is None else self._namespace

    def exists(self, index: int) -> bool:
        return any(link.index == index for link in self._links)


@contextlib.contextmanager
def _locked(undo_file: Path) -> Iterator[None]:
    """One change at a time, whichever process makes it."""
    try:
        undo_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(undo_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        message = f"{undo_file.parent}: {error.strerror}; nothing was changed: run it as root"
        raise TuningPermissionError(message) from error
    except OSError as error:
        raise DpiProbeError(f"{undo_file.parent}: {error.strerror}; nothing was changed") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _load(machine: Machine, undo_file: Path) -> list[Entry]:
    """What the file holds; nothing if it is of an earlier start of the machine, whose settings went with it."""
    try:
        held = json.loads(_read(undo_file))
        if held["version"] != VERSION:
            raise DpiProbeError(f"{undo_file}: version {held['version']}, which this release does not know")
        return [Entry(**entry) for entry in held["changes"]] if held["boot_id"] == machine.text(_BOOT_ID) else []
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DpiProbeError(f"{undo_file}: {error.strerror}; nothing was changed") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DpiProbeError(
            f"{undo_file}: not a file of `dpi-probe tune` ({error}); nothing was changed: move it away to go on"
        ) from error


def _read(undo_file: Path) -> bytes:
    """The file's content.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than any that was written here, or no file at all: a device or a pipe may have no end.
    """
    # A pipe would keep whoever opens it waiting.
    with open(undo_file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES >> 20} MiB")
    return content


def _save(machine: Machine, undo_file: Path, entries: list[Entry]) -> None:
    """Put the file there whole, or remove it when there is nothing to undo; it is on disk when this returns."""
    held = {
        "version": VERSION,
        "made": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "boot_id": machine.text(_BOOT_ID),
        "changes": [asdict(entry) for entry in entries],
    }
    temporary = undo_file.with_name(f".{undo_file.name}.tmp")
    try:
        if entries:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(held, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(undo_file)
        else:
            undo_file.unlink(missing_ok=True)
        directory = os.open(undo_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise DpiProbeError(f"{undo_file}: {error.strerror}") from error
