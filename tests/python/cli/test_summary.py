"""The books of an input for a reader: on any terminal no line is longer than it is wide, and no word is broken."""

from __future__ import annotations

import pytest
from dpi_probe.cli import _summary

MEANING = "The input ended, time in it began anew, or the probe was stopped (IPFIX flowEndReason 4)."
LINE = f"{'    forced_end':<44}{7:>14}  {MEANING}"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_meaning_is_wrapped_between_its_words(width):
    lines = _summary._wrapped(LINE, width).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()) == f"forced_end 7 {MEANING}"
    if width >= 100:
        assert all(line.startswith(" " * 60) for line in lines[1:]), "under each other"


@pytest.mark.parametrize("width", [60, 80])
def test_a_time_is_never_broken(width):
    first, last = "2026-11-27T20:01:04.123456789Z", "2026-11-27T20:03:05.123456789Z"
    lines = _summary._wrapped(f"time span   {first} to {last} (121.000000 s)", width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"time span   {first}")
    assert any(last in line for line in lines)
    assert all(line.startswith(" " * 12) and line[12] != " " for line in lines[1:])


def test_elsewhere_lines_stay_as_they_are():
    assert _summary._wrapped(LINE, 0) == LINE
    for line in ("the books balance", "problem: /a/b.pcap: " + "cut " * 40, f"{'frames':<44}{77:>14}"):
        assert _summary._wrapped(line, 60) == line
