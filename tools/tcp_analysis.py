#!/usr/bin/env python3
"""TShark's `tcp.analysis` beside the probe's TCP columns: the table of docs/decisions/metering.md.

    tools/tcp_analysis.py CAPTURE_OR_FOLDER ... [--differences COLUMN]

Both directions between two pairs of address and port are compared over a whole capture: the sum of a column over their
records (profile `full`) with the number of TShark's frames that carry one of the flags. Where a column does not count
segments, only whether there is anything is compared. What only one of the two has is not compared, which is of tunnels,
fragments and damage (docs/decisions/metering.md). The `tshark` of the search path is used.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import ipaddress
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass

import dpi_probe
from dpi_probe.errors import CaptureError, CaptureWarning

SUFFIXES = (".pcap", ".pcapng", ".cap", ".gz")
FLAG = "tcp.analysis."

Direction = tuple[str, int, str, int]
"""Source, its port, destination, its port."""
Counts = collections.Counter[str]


@dataclass(frozen=True)
class Line:
    """What is compared."""

    column: str
    """Ours, without the direction."""
    flags: tuple[str, ...]
    """Theirs: a frame with one of them counts."""
    of_connection: bool = False
    """The column has no directions: the one that began counts."""
    of_peer: bool = False
    """Their frames are the other direction's, which acknowledge."""
    is_kind: bool = False
    """Only whether there is anything is compared."""


LINES = (
    Line("tcp_zero_windows", ("zero_window",)),
    Line("tcp_window_probes", ("zero_window_probe",)),
    Line("tcp_keep_alives", ("keep_alive",)),
    Line("tcp_out_of_order", ("lost_segment",)),
    Line("tcp_ports_reused", ("reused_ports",), of_connection=True),
    Line("tcp_retransmissions", ("retransmission", "out_of_order")),
    Line("tcp_missed_bytes", ("ack_lost_segment",), of_peer=True, is_kind=True),
    Line("tcp_duplicate_acks", ("duplicate_ack",)),
)
FLAGS = tuple(dict.fromkeys(flag for line in LINES for flag in line.flags))
FIELDS = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "icmp.type", "icmpv6.type")


def written_alike(address: str) -> str:
    """An address as both sides write it."""
    return str(ipaddress.ip_address(address))


def ours(capture: pathlib.Path) -> dict[Direction, Counts]:
    """The probe's counts."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # Damage is told by the command line and its tests.
        warnings.simplefilter("ignore", CaptureWarning)
        output = pathlib.Path(scratch) / "flows.ndjson"
        dpi_probe.read(capture, profile="full").write(output, format="ndjson")
        records = [json.loads(line) for line in output.read_text().splitlines()]
    found: dict[Direction, Counts] = collections.defaultdict(collections.Counter)
    for record in records:
        if record["ip_protocol"] != 6:
            continue
        ends = [(written_alike(record[f"{end}_ip"]), record[f"{end}_port"]) for end in ("src", "dst")]
        for suffix, (source, destination) in (("fwd", ends), ("rev", ends[::-1])):
            counts = found[*source, *destination]
            for line in LINES:
                if not line.of_connection:
                    counts[line.column] += record.get(f"{line.column}_{suffix}", 0)
                elif suffix == "fwd" and not record["interim_number"]:
                    counts[line.column] += record.get(line.column, False)
    return found


def theirs(capture: pathlib.Path) -> dict[Direction, Counts]:
    """TShark's counts."""
    fields = [part for field in (*FIELDS, *(FLAG + flag for flag in FLAGS)) for part in ("-e", field)]
    command = ["tshark", "-n", "-r", str(capture), "-Y", "tcp", "-T", "fields", "-E", "occurrence=l", *fields]
    # Its status tells of damage too; what it has read is on its output.
    said = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    found: dict[Direction, Counts] = collections.defaultdict(collections.Counter)
    for frame in said.splitlines():
        values = dict(zip((*FIELDS, *FLAGS), frame.split("\t"), strict=True))
        source, destination = (values[f"ip.{end}"] or values[f"ipv6.{end}"] for end in ("src", "dst"))
        # An ICMP error quotes a segment, which is none.
        if not source or not values["tcp.srcport"] or values["icmp.type"] or values["icmpv6.type"]:
            continue
        one = written_alike(source), int(values["tcp.srcport"])
        other = written_alike(destination), int(values["tcp.dstport"])
        counts, of_peer = found[*one, *other], found[*other, *one]
        for line in LINES:
            (of_peer if line.of_peer else counts)[line.column] += any(values[flag] for flag in line.flags)
    return found


def look(capture: pathlib.Path) -> dict[Direction, tuple[Counts, Counts]]:
    """The directions that both have, with both counts."""
    try:
        mine, other = ours(capture), theirs(capture)
    except CaptureError:
        return {}
    return {direction: (mine[direction], other[direction]) for direction in mine.keys() & other.keys()}


def captures_of(places: list[pathlib.Path]) -> list[pathlib.Path]:
    """The captures at and below some places."""
    below = (sorted(place.rglob("*")) if place.is_dir() else [place] for place in places)
    return [path for paths in below for path in paths if path.is_file() and path.suffix in SUFFIXES]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", type=pathlib.Path, nargs="+", metavar="CAPTURE_OR_FOLDER")
    parser.add_argument("--differences", metavar="COLUMN", help="name the directions that differ in this column")
    args = parser.parse_args()
    if shutil.which("tshark") is None:
        print("there is no tshark here: apt-get install tshark", file=sys.stderr)
        return 2
    captures = captures_of(args.places)
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(zip(captures, pool.map(look, captures), strict=True))
    directions = sum(len(both) for _, both in found)
    if not directions:
        print("there are no TCP segments here", file=sys.stderr)
        return 2
    print(f"{directions:,} directions of TCP connections in {sum(bool(both) for _, both in found):,} captures\n")
    print(f"| ours | `{FLAG}` | the same | we | they |\n|---|---|---|---|---|")
    for line in LINES:
        same = total = other_total = 0
        for capture, both in found:
            for direction, (mine, other) in both.items():
                we, they = mine[line.column], other[line.column]
                if line.is_kind:
                    we, they = int(bool(we)), int(bool(they))
                same, total, other_total = same + (we == they), total + we, other_total + they
                if we != they and line.column == args.differences:
                    print(f"{capture}: {direction}: we {we}, they {they}", file=sys.stderr)
        name = f"`{line.column}{'' if line.of_connection else '_*'}`{' above 0' if line.is_kind else ''}"
        flags = ", ".join(f"`{flag}`" for flag in line.flags)
        print(f"| {name} | {flags} | {same:,} | {total:,} | {other_total:,} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
