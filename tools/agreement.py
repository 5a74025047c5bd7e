#!/usr/bin/env python3
"""Compare the probe with the reference meter (`tests/oracle`), statistic by statistic, over foreign captures.

    tools/agreement.py --corpus ../shared/corpus/visible [--count 200 | --all]

Every record of every chosen capture is read with profile `full` and compared in every column that the reference
computes. Which captures are chosen depends on their names alone: those with the smallest SHA-256 of their path below
the corpus, among those of at most `--max-bytes`, because the reference is slow. The next one takes the place of one
that cannot be read, so that as many are compared as were asked for.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import multiprocessing
import pathlib
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dpi_probe  # noqa: E402
from dpi_probe.errors import CaptureError, CaptureWarning  # noqa: E402

from tests.oracle.compare import compare, reference_of  # noqa: E402

# Captures that are broken from their start are part of a corpus; of a whole one no more than this.
MOST_UNREADABLE = 0.1
SUFFIXES = (".pcap", ".pcapng", ".cap", ".gz")


@dataclass
class Outcome:
    """What came of one capture."""

    name: str
    records: int = 0
    differences: list[tuple[str, str]] = field(default_factory=list)
    """Column and line."""
    unreadable: str = ""
    """Why the probe does not read it."""
    failure: str = ""
    """What went wrong in the comparison itself."""


def in_order(corpus: pathlib.Path, max_bytes: int) -> list[pathlib.Path]:
    """The captures in the order in which they are chosen."""
    captures = [path for path in corpus.rglob("*") if path.suffix in SUFFIXES and path.stat().st_size <= max_bytes]
    captures.sort(key=lambda path: hashlib.sha256(str(path.relative_to(corpus)).encode()).digest())
    return captures


def look(path: pathlib.Path) -> Outcome:
    """Compare one capture."""
    outcome = Outcome(path.name)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            output = pathlib.Path(scratch) / "flows.ndjson"
            with warnings.catch_warnings():
                # Damage is told by the command line and its tests; here both sides meet the same.
                warnings.simplefilter("ignore", CaptureWarning)
                dpi_probe.read(path, profile="full").write(output, format="ndjson")
            records = [json.loads(line) for line in output.read_text().splitlines()]
        outcome.records = len(records)
        found = compare(records, reference_of(path, full=True))
        outcome.differences = [(difference.column or "(record)", str(difference)) for difference in found]
    except CaptureError as error:
        outcome.unreadable = str(error)
    except Exception:  # noqa: BLE001 - whatever it is, the other captures are compared and this one is told
        outcome.failure = traceback.format_exc()
    return outcome


def look_at(captures: list[pathlib.Path], count: int) -> list[Outcome]:
    """Compare captures in their order until so many could be read."""
    outcomes: list[Outcome] = []
    left = iter(captures)
    with multiprocessing.Pool() as pool:
        while batch := list(itertools.islice(left, count - sum(not outcome.unreadable for outcome in outcomes))):
            outcomes += pool.map(look, batch, chunksize=1)
    return outcomes


def main() -> int:
    """Return 0 when there is no difference, and enough was compared to say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--count", type=int, default=200, help="compare so many captures, no less")
    number.add_argument("--all", action="store_true", help="compare all that can be read")
    parser.add_argument("--max-bytes", type=int, default=1 << 20)
    parser.add_argument("--lines", type=int, default=5, help="differences shown of each capture")
    args = parser.parse_args()
    captures = in_order(args.corpus, args.max_bytes)
    if not captures:
        print(f"{args.corpus}: no captures here; name a corpus with CORPUS=…", file=sys.stderr)
        return 2
    outcomes = look_at(captures, len(captures) if args.all else args.count)
    columns: collections.Counter[str] = collections.Counter()
    for outcome in outcomes:
        for line in [line for _, line in outcome.differences][: args.lines]:
            print(f"{outcome.name}: {line}")
        columns.update(column for column, _ in outcome.differences)
        if outcome.failure:
            print(f"{outcome.name}: {outcome.failure}")
    differing = [outcome for outcome in outcomes if outcome.differences or outcome.failure]
    for column, count in columns.most_common():
        print(f"  {count:6} {column}")
    unreadable = sum(bool(outcome.unreadable) for outcome in outcomes)
    records = sum(outcome.records for outcome in outcomes)
    compared = len(outcomes) - unreadable
    print(
        f"{compared} captures, {records} records: {compared - len(differing)} agree in every column, "
        f"{len(differing)} do not; {unreadable} more cannot be read"
    )
    if args.all:
        enough = unreadable <= len(outcomes) * MOST_UNREADABLE
        why = f"more than {MOST_UNREADABLE:.0%} of the captures cannot be read"
    else:
        enough = compared >= args.count
        why = f"{compared} captures can be compared, not {args.count}"
    enough = enough and records > 0
    if not enough:
        print(f"nothing can be said: {why if records else 'there are no records'}", file=sys.stderr)
    return int(bool(differing) or not enough)


if __name__ == "__main__":
    sys.exit(main())
