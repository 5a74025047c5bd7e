"""Questions to the index: whatever is asked, the SQL is ours and the values are parameters."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re

import pytest
from dpi_probe.core.queries import BadQueryError, Filters, make_cursor, parse_range, parse_time
from hypothesis import given
from hypothesis import strategies as st

COLUMNS = dict.fromkeys(
    [
        "app",
        "category",
        "server_name",
        "probe",
        "community_id",
        "src_ip",
        "dst_ip",
        "src_port",
        "dst_port",
        "start_time",
    ],
    "",
)
NAMES = ["app", "category", "server_name", "probe", "community_id", "ip", "port", "since", "until", "limit", "cursor"]


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), st.text(max_size=40)))
def test_any_query_parses_or_is_refused_in_one_line(query: dict[str, str]) -> None:
    try:
        filters = Filters.parse(query)
    except BadQueryError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    clauses, parameters = filters.conditions(COLUMNS)
    where = " AND ".join(clauses)
    again = Filters.load(json.loads(json.dumps(filters.dump())))
    assert again == filters
    # Every value is in the parameters, and every placeholder has one.
    assert set(re.findall(r"\{(\w+):", where)) == set(parameters)
    for value in query.values():
        if len(value) > 20:
            assert value not in where


@given(st.text(min_size=1, max_size=60))
def test_text_never_reaches_the_sql(text: str) -> None:
    plain, _ = Filters.parse({"app": "x", "probe": "x"}).conditions(COLUMNS)
    where, parameters = Filters.parse({"app": text, "probe": text}).conditions(COLUMNS)
    assert where == plain
    assert set(parameters.values()) == {text}


@given(st.integers(-(1 << 62), 1 << 62), st.text(), st.text(), st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 31))
def test_cursor_round_trip(time: int, probe: str, chain: str, seq: int, row: int) -> None:
    seconds, nanoseconds = divmod(time, 10**9)
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    text = f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
    cursor = make_cursor({"start_time": text, "probe": probe, "chain": chain, "seq": seq, "row": row})
    if len(cursor) <= 512:
        assert Filters.parse({"cursor": cursor}).cursor == (time, probe, chain, seq, row)


@given(st.ip_addresses())
def test_range_of_one_address_is_itself(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    first, last = parse_range(str(address))
    assert first == last
    mapped = ipaddress.IPv6Address(first)
    assert (mapped.ipv4_mapped or mapped) == (address if address.version == 4 else (address.ipv4_mapped or address))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("1760000000.000000001", 1_760_000_000_000_000_001),
        ("9223372036.854775807", (1 << 63) - 1),
        ("-9223372036.854775808", -(1 << 63)),
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01 00:00:01.25", 1_250_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::%1/64", "1.2.3.4/33", ""])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="is allowed"):
        parse_range(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "1970-01-01T25:00:00Z", "9999-12-31", "1e9", "0001-01-01", "٣",
        "9999999999", "-9999999999", "9223372036.854775808", "99999999999.999999999",
    ],
)  # fmt: skip
def test_bad_times(text: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        parse_time(text)
