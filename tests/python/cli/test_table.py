"""The table for people: what fits, and how values look."""

from __future__ import annotations

import pytest
from dpi_probe.cli import _table

ROW = (
    "11-14 22:13:20",
    "192.0.2.1:50000",
    "[2001:db8::53]:53",
    "udp",
    "dns",
    "a-rather-long-name." * 4,
    "12",
    "3.4k",
    "1.5 s",
    "idle_timeout",
)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (12_345, "12k"), (3_400_000, "3.4M"), (2**63, "9223P")],
)
def test_quantities_are_short(number, shown):
    assert _table.quantity(number) == shown


@pytest.mark.parametrize(("nanoseconds", "shown"), [(0, "0 ms"), (1_500_000_000, "1.5 s"), (10**13, "10000 s")])
def test_durations_are_short(nanoseconds, shown):
    assert _table.duration(nanoseconds) == shown


def test_endpoints_are_unambiguous():
    assert _table.endpoint("2001:db8::1", 443) == "[2001:db8::1]:443"
    assert _table.endpoint("192.0.2.1", 0) == "192.0.2.1"


def test_control_characters_are_shown_not_sent():
    assert _table.harmless("grün\x1b[2J\x9b") == "grün\\x1b[2J\\x9b"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_rows_fit_the_terminal(width):
    columns = _table.fit(_table.COLUMNS, [ROW], width)
    shown = _table.line(ROW, columns, coloured=False)
    assert len(shown) <= width
    assert "192.0.2.1:50000" in shown, "addresses are never cut"
    assert "[2001:db8::53]:53" in shown


def test_a_wide_terminal_shows_everything():
    assert len(_table.fit(_table.COLUMNS, [ROW], 300)) == len(_table.COLUMNS)


def test_the_least_useful_column_goes_first():
    shown = [_table.COLUMNS[index].title for index, _ in _table.fit(_table.COLUMNS, [ROW], 100)]
    assert "end" not in shown
    assert {"source", "destination", "app", "server name"} <= set(shown)
