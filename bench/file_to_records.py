#!/usr/bin/env python3
"""What it costs to turn a capture file into records, against a bare C loop over the same file.

    bench/file_to_records.py FILE… [--pairs N] [--workers N] [--profile NAME]

Builds both programs, lets them take turns, and prints a line for each file: CPU nanoseconds a packet of each (the
median), their ratio (the median over the pairs), and the peak of resident memory. CPU time is user and system time of
all threads; start-up is not counted. The first pair warms the page cache and is thrown away.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def last_line(command: list[str]) -> dict[str, float]:
    """The JSON object in the last line that a program prints."""
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def bench_program() -> str:
    """Builds the bench and returns the path of its program."""
    command = ["cargo", "bench", "-p", "probe", "--bench", "file", "--no-run", "--message-format", "json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    programs = [message["executable"] for message in messages if message.get("executable")]
    return str(programs[-1])


def main() -> None:
    """Measure every file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--profile", default="standard")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        floor = str(Path(directory) / "floor")
        subprocess.run(["gcc", "-O3", "-march=native", "-o", floor, str(ROOT / "bench" / "floor.c")], check=True)
        probe = bench_program()
        settings = ["--workers", str(options.workers), "--profile", options.profile]
        for file in options.files:
            pairs = []
            for _ in range(options.pairs + 1):
                bare = last_line([floor, str(file)])
                ours = last_line([probe, str(file.resolve()), *settings])
                pairs.append((bare, ours))
            pairs = pairs[1:]
            per_packet = [
                median(run["cpu_seconds"] / run["packets"] * 1e9 for run in runs) for runs in zip(*pairs, strict=True)
            ]
            ratio = median(ours["cpu_seconds"] / bare["cpu_seconds"] for bare, ours in pairs)
            ours = pairs[-1][1]
            sys.stdout.write(
                f"{file.name}: bare loop {per_packet[0]:.1f} ns, records {per_packet[1]:.1f} ns a packet,"
                f" ratio {ratio:.2f}; {ours['records']:.0f} records, {ours['evicted']:.0f} evicted,"
                f" peak {ours['peak_rss_mib']:.0f} MiB\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
