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


LONG = (
    ROW[0],
    "[2001:db8:1111:2222:3333:4444:5555:6666]:50000",
    "[2001:db8:1111:2222:3333:4444:5555:7777]:443",
    *ROW[3:],
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


def titles(width, row=ROW):
    return [_table.COLUMNS[fitted.index].title for fitted in _table.fit(_table.COLUMNS, [row], width)]


@pytest.mark.parametrize("width", [36, 60, 80, 100, 120, 160, 200])
@pytest.mark.parametrize("row", [ROW, LONG], ids=["short", "long"])
def test_rows_fit_the_terminal_and_tell_packets_and_bytes(width, row):
    columns = _table.fit(_table.COLUMNS, [row], width)
    shown = _table.line(row, columns, coloured=False)
    assert len(shown) <= width
    assert shown.split()[-2:] == ["12", "3.4k"] or "  12   3.4k  " in shown
    assert {"source", "destination", "packets", "bytes"} <= set(titles(width, row))


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_short_addresses_stay_whole(width):
    shown = _table.line(ROW, _table.fit(_table.COLUMNS, [ROW], width), coloured=False)
    assert "192.0.2.1:50000" in shown
    assert "[2001:db8::53]:53" in shown


def test_hosts_of_one_network_can_be_told_apart_on_80_columns():
    row = (ROW[0], "192.0.2.10:43376", "192.0.2.20:59276", "icmp6", "postgresql", *ROW[5:])
    columns = _table.fit(_table.COLUMNS, [row, LONG], 80)
    shown = _table.line(row, columns, coloured=False, width=80)
    assert shown.split()[:2] == ["192.0.2.10:43376", "192.0.2.20:59276"]
    assert len(shown) <= 80
    assert {"app", "server name"} <= {_table.COLUMNS[fitted.index].title for fitted in columns}


def test_a_long_address_is_cut_in_the_middle():
    shown = _table.line(LONG, _table.fit(_table.COLUMNS, [LONG], 80), coloured=False)
    source = shown.split()[0]
    assert source.startswith("[2001:d")
    assert "…" in source
    assert source.endswith("]:50000"), "the port stays"


def test_a_later_longer_address_is_cut_only_where_the_row_does_not_fit():
    columns = _table.fit(_table.COLUMNS, [ROW], 80)
    later = (ROW[0], LONG[1], *ROW[2:])
    assert LONG[1] in _table.line(later, columns, coloured=False)
    assert len(_table.line(later, columns, coloured=False, width=80)) <= 80
    narrow = (ROW[0], "192.0.2.100:50000", *ROW[2:5], "short", *ROW[6:])
    wide = _table.fit(_table.COLUMNS, [ROW], 120)
    assert "192.0.2.100:50000" in _table.line(narrow, wide, coloured=False, width=130)


def test_a_wide_terminal_shows_everything():
    columns = _table.fit(_table.COLUMNS, [LONG], 300)
    assert len(columns) == len(_table.COLUMNS)
    assert _table.hidden(_table.COLUMNS, columns) == []


def test_the_least_useful_column_goes_first():
    assert "end" not in titles(100)
    assert {"source", "destination", "app", "server name", "duration"} <= set(titles(100))
    columns = _table.fit(_table.COLUMNS, [LONG], 60)
    assert _table.hidden(_table.COLUMNS, columns) == ["time", "ip", "server name", "duration", "end"]
