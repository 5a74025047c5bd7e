"""Comparing a program's NDJSON with the reference, column by column.

`python -m tests.oracle.compare OURS.ndjson CAPTURE` names every flow, column and both values that differ. Where records
have features (profile `full`), each of them is compared, as the column `features.NAME`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.oracle.capture import read
from tests.oracle.meter import Ended, Meter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Record = dict[str, Any]

NOT_COVERED = frozenset({"flow_id", "app", "app_confidence", "category", "server_name", "shed"})
"""Columns that the reference does not compute; structs other than features are left out too."""

RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Difference:
    """One column of one flow, or a flow that only one side has (then the column is empty)."""

    flow: str
    column: str
    ours: object
    reference: object

    def __str__(self) -> str:
        """One line."""
        if not self.column:
            return f"{self.flow}: {'only ours' if self.reference is None else 'missing from ours'}"
        return f"{self.flow}: {self.column}: ours {self.ours!r}, reference {self.reference!r}"


def name_of(record: Record) -> str:
    """A flow as a reader would name it."""
    ends = [f"[{record[f'{side}_ip']}]:{record[f'{side}_port']}" for side in ("src", "dst")]
    return f"{ends[0]} -> {ends[1]} protocol {record['ip_protocol']} from {record['start_time']}"


def _identity(record: Record) -> tuple[object, ...]:
    """What both sides must agree on for two records to be compared at all; direction is not among it."""
    ends = sorted((record[f"{side}_ip"], record[f"{side}_port"]) for side in ("src", "dst"))
    return record["ip_version"], record["ip_protocol"], *ends, record["start_time"]


def _equal(ours: object, reference: object) -> bool:
    if isinstance(ours, float) or isinstance(reference, float):
        if not isinstance(ours, int | float) or not isinstance(reference, int | float):
            return False
        return math.isclose(ours, reference, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    return type(ours) is type(reference) and ours == reference


def _columns(record: Record) -> Record:
    columns = {name: value for name, value in record.items() if name not in NOT_COVERED and not isinstance(value, dict)}
    return columns | {f"features.{name}": value for name, value in record.get("features", {}).items()}


def compare(ours: Iterable[Record], reference: Sequence[Ended]) -> list[Difference]:
    """Every difference, and whether ours came in the order of the reference's export times."""
    waiting: defaultdict[tuple[object, ...], list[Ended]] = defaultdict(list)
    for ended in reference:
        waiting[_identity(ended.record)].append(ended)
    differences = []
    latest: tuple[int, int] | None = None
    for record in ours:
        candidates = waiting[_identity(record)]
        if not candidates:
            differences.append(Difference(name_of(record), "", record, None))
            continue
        match = candidates.pop(0)
        differences += _compare_columns(name_of(match.record), record, match.record)
        if latest is not None and match.order < latest:
            differences.append(Difference(name_of(match.record), "(order)", match.order, latest))
        latest = match.order if latest is None else max(latest, match.order)
    differences += [
        Difference(name_of(ended.record), "", None, ended.record) for left in waiting.values() for ended in left
    ]
    return differences


def _compare_columns(flow: str, ours: Mapping[str, Any], reference: Mapping[str, Any]) -> list[Difference]:
    mine, other = _columns(dict(ours)), _columns(dict(reference))
    return [
        Difference(flow, column, mine.get(column), other.get(column))
        for column in sorted(mine.keys() | other.keys())
        if not _equal(mine.get(column), other.get(column))
    ]


def reference_of(path: Path, *, full: bool = False) -> list[Ended]:
    """The reference's records of a capture, by export time; with `full`, those of that profile."""
    meter = Meter(full=full)
    meter.run(read(path))
    return meter.ended


def main(ours: str, capture: str) -> int:
    """Print the differences; 1 where there are any."""
    with Path(ours).open() as lines:
        records = [json.loads(line) for line in lines]
    full = any("features" in record for record in records)
    differences = compare(records, reference_of(Path(capture), full=full))
    for difference in differences:
        print(difference)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
