"""What verification found, one line each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

Severity = Literal["fault", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`fault`), or that should be known (`note`)."""

    severity: Severity
    check: str
    """One word for programs: `signature`, `body`, `gap`, `fork`, …; `unreadable` for what could not be read at all."""
    where: str
    """File and, within it, the batch."""
    message: str

    def __str__(self) -> str:
        """The finding as one line: what a file says of itself cannot begin another, or move a terminal's cursor."""
        return _printable(f"{self.where}: {self.message}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(slots=True)
class Chain:
    """One chain of a probe, as far as it is there."""

    probe: str
    chain: str
    first: int
    last: int
    batches: int
    manifests: int
    records: int


@dataclass(slots=True)
class Report:
    """The result of a verification."""

    batches: int = 0
    manifests: int = 0
    records: int = 0
    proofs: int = 0
    receipts: int = 0
    heads: int = 0
    unchecked_receipts: int = 0
    """Those that nobody could judge, for want of a CA."""
    unchecked_heads: int = 0
    chains: list[Chain] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    """What trust rests on, for people."""

    @property
    def faults(self) -> list[Finding]:
        """The findings that make the evidence unsound or incomplete."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    @property
    def exit_status(self) -> int:
        """0: everything holds; 3: something could not be read, the rest holds; 4: something does not hold."""
        checks = {finding.check for finding in self.faults}
        return 4 if checks - {"unreadable"} else 3 if checks else 0

    def fault(self, check: str, where: str, message: str) -> None:
        """Add a fault."""
        self.findings.append(Finding("fault", check, where, message))

    def note(self, check: str, where: str, message: str) -> None:
        """Add a note."""
        self.findings.append(Finding("note", check, where, message))

    def to_dict(self) -> dict[str, object]:
        """The report for JSON."""
        return {"ok": not self.faults, **asdict(self)}
