"""Records cases again: `python -m tests.corpus.record [CASE…]` (needs root, Debian and uv).

Each case's `record.py` defines `record(output: Path) -> list[str]`, which writes the capture and returns the programs
that took part, with their versions. Its docstring says what happens; the case's README.md is made of both.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def cases() -> list[Path]:
    """The directories of all cases."""
    return sorted(path.parent for path in HERE.glob("*/record.py"))


def readme(name: str, story: str, programs: list[str]) -> str:
    """The README.md of a case."""
    listed = "".join(f"- {program}\n" for program in programs)
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"# {name}\n\n{story.strip()}\n\n"
        f"Recorded on {today} with Linux {platform.release().split('-')[0]} and\n\n{listed}\n"
        f"Record again: `python -m tests.corpus.record {name}` (needs root).\n\n"
        "Origin and licence: our own recording, Apache-2.0.\n"
    )


def main(names: list[str]) -> None:
    """Record the named cases, or all."""
    known = {path.name: path for path in cases()}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are: {', '.join(known)}")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for name in names or list(known):
        before = time.monotonic()
        scenario = runpy.run_path(str(known[name] / "record.py"))
        output = known[name] / str(scenario.get("FILE", "input.pcap"))
        programs = scenario["record"](output)
        (known[name] / "README.md").write_text(readme(name, scenario["__doc__"], programs))
        print(f"{name}: {output.stat().st_size:,} bytes in {time.monotonic() - before:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
