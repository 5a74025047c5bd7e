"""Flows as a table for people, printed as they come.

Widths are chosen from the first flows and the width of the terminal; columns that do not fit are left out, the least
useful first. Text from the wire is made harmless before a terminal sees it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dpi_probe._columns import Flow
    from dpi_probe._native import FlowReader
    from dpi_probe.cli._progress import Bar

SAMPLE = 1000
GAP = "  "
WIDTH_WITHOUT_TERMINAL = 160

PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmp6",
    89: "ospf",
    132: "sctp",
}


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    title: str
    text: Callable[[Flow], str]
    # Lower ones are left out first where the terminal is narrow.
    priority: int
    # Cells longer than this are cut with an ellipsis; 0: never.
    longest: int = 0
    right: bool = False
    colour: str | None = None


def harmless(text: str) -> str:
    """Text from the wire without control characters, which could command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def endpoint(address: str, port: int) -> str:
    """`192.0.2.1:443`, `[2001:db8::1]:443`, or the address alone where there is no port."""
    if port == 0:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def quantity(number: float) -> str:
    """A count in at most five characters: 999, 1.2k, 34M."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000 or unit == "P":
            break
        number /= 1000
    return f"{number:.0f}{unit}" if unit == "" or number >= 10 else f"{number:.1f}{unit}"


def duration(nanoseconds: int) -> str:
    """A duration in at most seven characters."""
    seconds = nanoseconds / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 1000 else f"{seconds:.0f} s"


COLUMNS = (
    Column("time", lambda flow: f"{flow.start_time:%m-%d %H:%M:%S}", priority=2, colour="bright_black"),
    Column("source", lambda flow: endpoint(flow.src_ip, flow.src_port), priority=9),
    Column("destination", lambda flow: endpoint(flow.dst_ip, flow.dst_port), priority=9),
    Column("ip", lambda flow: PROTOCOLS.get(flow.ip_protocol, str(flow.ip_protocol)), priority=7),
    Column("app", lambda flow: harmless(flow.app or ""), priority=8, longest=12, colour="cyan"),
    Column("server name", lambda flow: harmless(flow.server_name or ""), priority=8, longest=60, colour="green"),
    Column("packets", lambda flow: quantity(flow.packets_fwd + flow.packets_rev), priority=6, right=True),
    Column("bytes", lambda flow: quantity(flow.bytes_fwd + flow.bytes_rev), priority=5, right=True),
    Column("duration", lambda flow: duration(flow.end_time_ns - flow.start_time_ns), priority=4, right=True),
    Column("end", lambda flow: flow.end_reason, priority=1, longest=14, colour="bright_black"),
)


def fit(columns: Sequence[Column], cells: Iterable[Sequence[str]], width: int) -> list[tuple[int, int]]:
    """(index, width) of the columns that fit into `width`, judged by sample cells."""
    widths = [len(column.title) for column in columns]
    for row in cells:
        for index, text in enumerate(row):
            longest = columns[index].longest
            widths[index] = max(widths[index], min(len(text), longest) if longest else len(text))
    chosen = list(range(len(columns)))

    def needed() -> int:
        return sum(widths[index] + len(GAP) for index in chosen) - len(GAP)

    name = next(index for index, column in enumerate(columns) if column.title == "server name")
    for _ in columns:
        over = needed() - width
        if over <= 0:
            break
        # The name gives way first, down to what still tells something; then whole columns do.
        spare = max(0, widths[name] - 20)
        if name in chosen and 0 < over <= spare:
            widths[name] -= over
            break
        optional = [index for index in chosen if columns[index].priority < 9]
        if not optional:
            break
        chosen.remove(min(optional, key=lambda index: columns[index].priority))
    return [(index, widths[index]) for index in chosen]


def line(cells: Sequence[str], columns: Sequence[tuple[int, int]], *, coloured: bool) -> str:
    """One row of the table."""
    parts = []
    for index, width in columns:
        column, text = COLUMNS[index], cells[index]
        if column.longest and len(text) > width:
            text = text[: width - 1] + "…"
        text = text.rjust(width) if column.right else text.ljust(width)
        parts.append(click.style(text, fg=column.colour) if coloured and column.colour else text)
    return GAP.join(parts).rstrip()


def print_flows(reader: FlowReader, file: TextIO, progress: Bar | None) -> bool:
    """Print all flows, then totals on standard error; False if the reader of the output went away."""
    terminal = file.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns if terminal else WIDTH_WITHOUT_TERMINAL
    started = time.monotonic()
    chosen: list[tuple[int, int]] = []
    flows = packets = size = 0
    try:
        while (batch := reader.next_flows()) is not None:
            rows = [[column.text(flow) for column in COLUMNS] for flow in batch]
            if progress is not None:
                progress.hide()
            if not chosen:
                chosen = fit(COLUMNS, rows[:SAMPLE], width)
                titles = line([column.title for column in COLUMNS], chosen, coloured=False)
                file.write((click.style(titles, bold=True) if coloured else titles) + "\n")
            file.writelines(line(row, chosen, coloured=coloured) + "\n" for row in rows)
            file.flush()
            flows += len(batch)
            packets += sum(flow.packets_fwd + flow.packets_rev for flow in batch)
            size += sum(flow.bytes_fwd + flow.bytes_rev for flow in batch)
    except BrokenPipeError:
        reader.cancel()
        return False
    if progress is not None:
        progress.hide()
    took = time.monotonic() - started
    print(f"{flows:,} flows, {packets:,} packets, {quantity(size)}B in {took:.1f} s", file=sys.stderr)
    return True
