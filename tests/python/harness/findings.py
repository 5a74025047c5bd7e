"""What `verify` found, as tests look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpi_probe._verify import Report


def faults(report: Report) -> list[tuple[str, str]]:
    """Check and line of each fault."""
    return [(finding.check, str(finding)) for finding in report.faults]


def only(report: Report, check: str, *parts: str) -> None:
    """Fail unless there is one fault, in one line that names all of `parts`."""
    found = faults(report)
    assert [name for name, _ in found] == [check], found
    for part in parts:
        assert part in found[0][1], found
    assert "\n" not in found[0][1]
    assert report.exit_status == 4
