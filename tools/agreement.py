#!/usr/bin/env python3
"""Compare the probe with the reference meter (`tests/oracle`), statistic by statistic, over foreign captures.

    tools/agreement.py --corpus ../shared/corpus/visible [--count 200]

Every record of every chosen capture is read with profile `full` and compared in every column that the reference
computes. Which captures are chosen depends on their names alone: those with the smallest SHA-256 of their path below
the corpus, among those of at most `--max-bytes`, because the reference is slow.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
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

# Captures that are broken from their start are part of a corpus.
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


def chosen(corpus: pathlib.Path, count: int, max_bytes: int) -> list[pathlib.Path]:
    """The captures that are compared."""
    captures = [path for path in corpus.rglob("*") if path.suffix in SUFFIXES and path.stat().st_size <= max_bytes]
    captures.sort(key=lambda path: hashlib.sha256(str(path.relative_to(corpus)).encode()).digest())
    return captures[:count]


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


def main() -> int:
    """Return 0 when there is no difference, and enough was compared to say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--max-bytes", type=int, default=1 << 20)
    parser.add_argument("--lines", type=int, default=5, help="differences shown of each capture")
    args = parser.parse_args()
    captures = chosen(args.corpus, args.count, args.max_bytes)
    if not captures:
        print(f"{args.corpus}: no captures here; name a corpus with CORPUS=…", file=sys.stderr)
        return 2
    with multiprocessing.Pool() as pool:
        outcomes = pool.map(look, captures, chunksize=1)
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
    print(
        f"{len(outcomes)} captures, {records} records: {len(outcomes) - len(differing) - unreadable} agree in every "
        f"column, {len(differing)} do not, {unreadable} cannot be read"
    )
    compared = records > 0 and unreadable <= len(outcomes) * MOST_UNREADABLE
    if not compared:
        print(f"nothing can be said: more than {MOST_UNREADABLE:.0%} of the captures cannot be read", file=sys.stderr)
    return int(bool(differing) or not compared)


if __name__ == "__main__":
    sys.exit(main())
