"""The books of an input for a reader: `dpi-probe read --summary`."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from dpi_probe import _native

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAMES = ("frames_metered", "frames_undecodable", "frames_waiting", "frames_lost")
_OF_FRAMES = (
    "packet_faults",
    "packets_disregarded",
    "fragments",
    "datagrams_reassembled",
    "datagrams_lost",
    "icmp_errors",
)
_FLOWS = (
    "flows_exported",
    "flows_active",
    "flows_lost",
    "sequences_refused",
    "features_refused",
    "tcp_analyses_refused",
    "link_paths_overflowed",
)
_SESSIONS_SHOWN = ("sessions_done", "sessions_malformed", "sessions_given_up")
_SESSIONS = (*_SESSIONS_SHOWN, "sessions_out_of_memory", "sessions_refused")
_WIDTH = 44
_COUNT = 14
_SPAN = "time span   "
# Where less than this is left beside a number, what its line means stands below it.
_NOTE_WIDTH = 36


def show(books: dict[str, Any], file: TextIO, *, as_json: bool) -> None:
    """Write the books as one JSON object on a line, or as a table for people."""
    if as_json:
        print(json.dumps(books, ensure_ascii=False), file=file)
    else:
        width = shutil.get_terminal_size().columns if file.isatty() else 0
        for line in _lines(books):
            print(_wrapped(line.rstrip(), width), file=file)


def _wrapped(line: str, width: int) -> str:
    """A line of the table with what it means on several lines, where it is longer than `width`; 0: never."""
    numbers, note = line[: _WIDTH + _COUNT], line[_WIDTH + _COUNT :].strip()
    if not width or len(line) <= width:
        return line
    if line.startswith(_SPAN):
        return textwrap.fill(line, width, subsequent_indent=" " * len(_SPAN), break_on_hyphens=False)
    if not note or not re.fullmatch(r"[ \d,]*\d", numbers[_WIDTH:]):
        return line
    beside = " " * (_WIDTH + _COUNT + 2)
    if width - len(beside) >= _NOTE_WIDTH:
        return textwrap.fill(note, width, initial_indent=f"{numbers}  ", subsequent_indent=beside)
    below = " " * 8
    return f"{numbers}\n{textwrap.fill(note, width, initial_indent=below, subsequent_indent=below)}"


def _lines(books: dict[str, Any]) -> Iterator[str]:
    accounts = books["accounts"]
    for number, name in enumerate(books["files"]):
        yield f"{'input' if number == 0 else '':<12}{name}"
    if books["first_time"] is None:
        yield f"{_SPAN}no frames"
    else:
        yield f"{_SPAN}{books['first_time']} to {books['last_time']} ({books['duration_seconds']:,.6f} s)"
    yield f"bytes read  {books['bytes_read']:,}"
    yield ""
    meanings = {(entry["name"], entry["reason"]): entry["reason_doc"] for entry in _native.account_table()}
    delivered = accounts["frames_delivered"]
    yield _row("frames", delivered + accounts["frames_filtered"])
    for link_type, frames in sorted(books["link_types"].items(), key=lambda item: -item[1]):
        yield _row(f"  {link_type}", frames)
    yield ""
    if accounts["frames_filtered"]:
        yield _row("passed over by the filter", accounts["frames_filtered"])
    yield _row("delivered", delivered)
    for account in _FRAMES:
        yield from _account(account, accounts, meanings, delivered, always=True)
    yield ""
    yield from _group(_OF_FRAMES, _OF_FRAMES, accounts, meanings)
    yield ""
    yield _row("flow records", accounts["flows_opened"])
    yield from _group(_FLOWS, ("flows_exported",), accounts, meanings)
    yield ""
    yield _row("flows looked at by layer 7", accounts["sessions_opened"])
    yield from _group(_SESSIONS, _SESSIONS_SHOWN, accounts, meanings)
    parts = sum(_total(accounts.get(account, 0)) for account in _FRAMES)
    yield ""
    yield "the books balance" if parts == delivered else f"the books do not balance: {parts:,} of {delivered:,} frames"
    for problem in books["problems"]:
        yield f"problem: {problem}"
    if books["bytes_skipped"]:
        yield f"{books['bytes_skipped']:,} bytes of broken records were passed over"


def _total(value: int | dict[str, int]) -> int:
    return value if isinstance(value, int) else sum(value.values())


def _group(
    shown: tuple[str, ...], always: tuple[str, ...], accounts: dict[str, Any], meanings: dict[tuple[str, str], str]
) -> Iterator[str]:
    """Accounts that are no part of the frames; those that are not in `always` only where they have something."""
    for account in shown:
        yield from _account(account, accounts, meanings, 0, always=account in always)


def _account(
    account: str,
    accounts: dict[str, Any],
    meanings: dict[tuple[str, str], str],
    whole: int,
    *,
    always: bool,
) -> Iterator[str]:
    """An account and its reasons that occur, each with what it means."""
    value = accounts.get(account, 0)
    total = _total(value)
    if not total and not always:
        return
    share = f"{100 * total / whole:6.2f} %" if whole else ""
    name = account.removeprefix("frames_").removeprefix("flows_").removeprefix("sessions_").replace("_", " ")
    yield _row(f"  {name}", total, share)
    if isinstance(value, dict):
        for reason, count in sorted(value.items(), key=lambda item: -item[1]):
            if count:
                yield _row(f"    {reason}", count, meanings.get((account, reason), ""))


def _row(name: str, value: int, note: str = "") -> str:
    return f"{name:<{_WIDTH}}{value:>{_COUNT},}  {note}"
