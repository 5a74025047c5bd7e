"""Flows as a table for people, printed as they come.

Widths are chosen from the first flows and the width of the terminal. Where it is narrow, addresses and names are cut
with an ellipsis and the least useful columns left out, which is said; packets and bytes always stay. Text from the wire
is made harmless before a terminal sees it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from dpi_probe._counted import counted

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
    Column("time", lambda flow: f"{flow.start_time:%m-%d %H:%M:%S}", colour="bright_black"),
    Column("source", lambda flow: endpoint(flow.src_ip, flow.src_port)),
    Column("destination", lambda flow: endpoint(flow.dst_ip, flow.dst_port)),
    Column("ip", lambda flow: PROTOCOLS.get(flow.ip_protocol, str(flow.ip_protocol))),
    Column("app", lambda flow: harmless(flow.app or ""), longest=12, colour="cyan"),
    Column("server name", lambda flow: harmless(flow.server_name or ""), longest=60, colour="green"),
    Column("packets", lambda flow: quantity(flow.packets_fwd + flow.packets_rev), right=True),
    Column("bytes", lambda flow: quantity(flow.bytes_fwd + flow.bytes_rev), right=True),
    Column("duration", lambda flow: duration(flow.end_time_ns - flow.start_time_ns), right=True),
    Column("end", lambda flow: flow.end_reason, longest=14, colour="bright_black"),
)


@dataclass(frozen=True)
class Fitted:
    """A column of `COLUMNS` that is shown."""

    index: int
    width: int
    # It has less room than its cells would take: they are cut.
    shrunk: bool


@dataclass(frozen=True)
class Layout:
    """What is given up on a narrow terminal."""

    hidden: frozenset[str] = frozenset()
    # Least widths of addresses and of the server name; None: as wide as they are.
    address: int | None = None
    name: int | None = None


# Tried in this order. Packets and bytes always stay.
LAYOUTS = (
    Layout(),
    Layout(name=20),
    Layout(frozenset({"end"}), name=20),
    Layout(frozenset({"end", "time"}), name=20),
    # Any IPv4 address with its port is whole.
    Layout(frozenset({"end", "time"}), address=21, name=20),
    Layout(frozenset({"end", "time", "duration"}), address=21, name=20),
    Layout(frozenset({"end", "time", "duration"}), address=17, name=11),
    # Whole `192.0.2.10:50000`: cut in the middle, an address loses what tells hosts of one network apart.
    Layout(frozenset({"end", "time", "duration", "ip"}), address=17, name=11),
    Layout(frozenset({"end", "time", "duration", "ip"}), address=15, name=12),
    Layout(frozenset({"end", "time", "duration", "ip", "server name"}), address=15),
    Layout(frozenset({"end", "time", "duration", "ip", "server name", "app"}), address=8),
)
ADDRESSES = ("source", "destination")


def fit(columns: Sequence[Column], cells: Iterable[Sequence[str]], width: int) -> list[Fitted]:
    """The columns that fit into `width`, judged by sample cells."""
    widths = [len(column.title) for column in columns]
    for row in cells:
        for index, text in enumerate(row):
            longest = columns[index].longest
            widths[index] = max(widths[index], min(len(text), longest) if longest else len(text))
    for layout in LAYOUTS:
        least = {index: _least(columns[index].title, widths[index], layout) for index in range(len(columns))}
        least = {index: room for index, room in least.items() if columns[index].title not in layout.hidden}
        spare = width - sum(least.values()) - len(GAP) * (len(least) - 1)
        if spare >= 0:
            break
    # What is left over goes to the addresses, in equal parts, and then to the name.
    addresses = [index for index in least if columns[index].title in ADDRESSES]
    addresses.sort(key=lambda index: widths[index] - least[index])
    names = [index for index in least if columns[index].title == "server name"]
    for index, sharers in [*zip(addresses, (2, 1), strict=True), *((index, 1) for index in names)]:
        more = max(0, min(spare // sharers, widths[index] - least[index]))
        least[index] += more
        spare -= more
    return [Fitted(index, room, room < widths[index]) for index, room in least.items()]


def _least(title: str, width: int, layout: Layout) -> int:
    """How narrow a column may be."""
    floor = layout.address if title in ADDRESSES else layout.name if title == "server name" else None
    return width if floor is None else min(width, floor)


def hidden(columns: Sequence[Column], chosen: Sequence[Fitted]) -> list[str]:
    """Titles of the columns that are not shown."""
    shown = {fitted.index for fitted in chosen}
    return [column.title for index, column in enumerate(columns) if index not in shown]


def line(cells: Sequence[str], columns: Sequence[Fitted], *, coloured: bool, width: int = 0) -> str:
    """One row of the table. Cells longer than those of the sample are cut only if the row gets longer than `width`."""
    texts = [_cell(cells[fitted.index], fitted, cut=fitted.shrunk) for fitted in columns]
    if width and len(GAP.join(texts).rstrip()) > width:
        texts = [_cell(cells[fitted.index], fitted, cut=True) for fitted in columns]
    if coloured:
        colours = [COLUMNS[fitted.index].colour for fitted in columns]
        texts = [click.style(text, fg=colour) if colour else text for text, colour in zip(texts, colours, strict=True)]
    return GAP.join(texts).rstrip()


def _cell(text: str, fitted: Fitted, *, cut: bool) -> str:
    """A cell in its width. An address is cut in the middle: its port tells something."""
    column, room = COLUMNS[fitted.index], fitted.width
    if len(text) > room and column.title in ADDRESSES and cut:
        behind = room // 2
        text = f"{text[: room - 1 - behind]}…{text[len(text) - behind :]}"
    elif len(text) > room and (column.longest or cut):
        text = text[: room - 1] + "…"
    return text.rjust(room) if column.right else text.ljust(room)


def print_flows(reader: FlowReader, file: TextIO, progress: Bar | None) -> bool:
    """Print all flows, then totals on standard error; False if the reader of the output went away."""
    terminal = file.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns if terminal else WIDTH_WITHOUT_TERMINAL
    started = time.monotonic()
    chosen: list[Fitted] = []
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
            limit = width if terminal else 0
            file.writelines(line(cells, chosen, coloured=coloured, width=limit) + "\n" for cells in rows)
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
    counts = f"{counted(flows, 'flow')}, {counted(packets, 'packet')}"
    print(f"{counts}, {quantity(size)}B in {took:.1f} s", file=sys.stderr)
    if chosen and (missing := hidden(COLUMNS, chosen)):
        print(f"columns hidden, for want of width: {', '.join(missing)}; --format ndjson shows all", file=sys.stderr)
    return True
