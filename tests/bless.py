"""Rewrites what the golden tests expect: `python -m tests.bless [CASE…]` (`make bless`).

Every case's `expected.ndjson` is made anew with the installed package, and with it the table in
`tests/corpus/README.md`. The diff is to be read before it is committed: each changed line is a claim about what
happened on the wire.
"""

from __future__ import annotations

import sys

import dpi_probe

from tests.corpus.cases import DIRECTORY, Case, cases
from tests.oracle.capture import read

_TABLE = "<!-- made by python -m tests.bless -->"


def bless(case: Case) -> None:
    """Write what the probe makes of the case now."""
    dpi_probe.read(case.capture).write(case.expected, format="ndjson")


def table() -> str:
    """The README's table of all cases."""
    lines = ["| case | what happens | frames | records |", "|---|---|--:|--:|"]
    for case in cases():
        frames = sum(1 for _ in read(case.capture))
        records = len(case.expected.read_text().splitlines())
        lines.append(f"| [{case.name}]({case.name}/README.md) | {case.story} | {frames} | {records} |")
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Bless the named cases, or all."""
    known = {case.name: case for case in cases()}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}")
    for name in names or known:
        bless(known[name])
    readme = DIRECTORY / "README.md"
    before, _, _ = readme.read_text().partition(_TABLE)
    readme.write_text(f"{before}{_TABLE}\n\n{table()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
