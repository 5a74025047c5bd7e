"""Questions to the index: what a caller may ask, and the SQL for it. Values are parameters, never part of the SQL.

In: the query string of a request (parsed where it arrives) or its parsed form (in the database process).
Out: rows ready for JSON: addresses and times as text, IPv4 as IPv4.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ipaddress
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from dpi_probe.core.columns import KEY_COLUMNS, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clickhouse_connect.driver.client import Client

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
# What the link from the database carries in one piece.
MAX_ANSWER_BYTES = 64 << 20
TOO_LARGE = f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB; ask for fewer flows"
_MAX_TEXT = 512
_NS = 1_000_000_000
_MAC_BYTES = 6
# What an analyst reads first; the rest of a row follows in the table's order.
_HIDDEN = ("core",)


class BadQueryError(ValueError):
    """A question that cannot be asked; one sentence says why."""


def parse_parameters(query: Mapping[str, str], parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of the parameters of a request.

    Raises:
        BadQueryError: a parameter is not known, or its value is not allowed.
    """
    parsed: dict[str, Any] = {}
    for name, value in query.items():
        if name not in parsers:
            raise BadQueryError(f"parameter {name[:40]!r} is not known; known are {', '.join(parsers)}")
        if len(value) > _MAX_TEXT:
            raise BadQueryError(f"parameter {name}: longer than {_MAX_TEXT} characters")
        try:
            parsed[name] = parsers[name](value)
        except ValueError as error:
            raise BadQueryError(f"parameter {name}: {error}") from error
    return parsed


@dataclass(frozen=True, slots=True)
class Filters:
    """Which flows. Every field that is not None narrows them down."""

    app: str | None = None
    category: str | None = None
    server_name: str | None = None
    """A name, or `*.example.com` for all below it."""
    probe: str | None = None
    community_id: str | None = None
    ip: tuple[str, str] | None = None
    """First and last address of a range, as IPv6: either side of the flow is in it."""
    port: int | None = None
    """Either side's."""
    since: int | None = None
    """Flows that began at or after this: UTC nanoseconds."""
    until: int | None = None
    """Flows that began before this."""
    limit: int = DEFAULT_LIMIT
    cursor: tuple[int, str, str, int, int] | None = None
    """Start time and key of the last flow of the page before."""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filters:
        """From the parameters of a request.

        Raises:
            BadQueryError: a parameter is not known, or its value is not allowed.
        """
        return cls(**parse_parameters(query, {field.name: _PARSERS.get(field.name, str) for field in fields(cls)}))

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Filters:
        """From `dump()` after JSON, where tuples became lists."""
        loaded: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**loaded)

    def dump(self) -> dict[str, Any]:
        """As a dictionary that JSON can carry."""
        return asdict(self)

    def conditions(  # noqa: C901 - one clause for each filter
        self, columns: Mapping[str, str]
    ) -> tuple[list[str], dict[str, Any]]:
        """What a row of a table with `columns` has to fulfil, in SQL, and its parameters.

        Raises:
            BadQueryError: the table has no such column.
        """
        clauses: list[str] = []
        parameters: dict[str, Any] = {}

        def add(needed: tuple[str, ...], clause: str, **values: Any) -> None:
            for name in needed:
                if name not in columns:
                    raise BadQueryError(f"no batch with a column {name} has been indexed")
            clauses.append(clause)
            parameters.update(values)

        for name in ("app", "category", "probe", "community_id"):
            value = getattr(self, name)
            if value is not None:
                add((name,), f"{name} = {{{name}:String}}", **{name: value})
        if self.server_name is not None:
            suffix = self.server_name.startswith("*.")
            clause = "endsWith(server_name, {name:String})" if suffix else "server_name = {name:String}"
            add(("server_name",), clause, name=self.server_name[1:] if suffix else self.server_name)
        if self.ip is not None:
            add(
                ("src_ip", "dst_ip"),
                "(src_ip BETWEEN {first:IPv6} AND {last:IPv6} OR dst_ip BETWEEN {first:IPv6} AND {last:IPv6})",
                first=self.ip[0],
                last=self.ip[1],
            )
        if self.port is not None:
            add(("src_port", "dst_port"), "(src_port = {port:UInt16} OR dst_port = {port:UInt16})", port=self.port)
        for name, operator, moment in (("since", ">=", self.since), ("until", "<", self.until)):
            if moment is not None:
                clause = f"start_time {operator} fromUnixTimestamp64Nano({{{name}:Int64}}, 'UTC')"
                add(("start_time",), clause, **{name: moment})
        if self.cursor is not None:
            time, probe, chain, seq, row = self.cursor
            add(
                ("start_time",),
                "(start_time, probe, chain, seq, row) < (fromUnixTimestamp64Nano({c_time:Int64}, 'UTC'), "
                "{c_probe:String}, {c_chain:String}, {c_seq:UInt64}, {c_row:UInt32})",
                c_time=time,
                c_probe=probe,
                c_chain=chain,
                c_seq=seq,
                c_row=row,
            )
        return clauses, parameters


def parse_time(text: str) -> int:
    """RFC 3339 or seconds since 1970, as UTC nanoseconds.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(r"-?[0-9]{1,11}(\.[0-9]{1,9})?", text):
        whole, _, fraction = text.partition(".")
        nanoseconds = int(fraction.ljust(9, "0") or 0)
        return _in_range(int(whole) * _NS + (-nanoseconds if whole.startswith("-") else nanoseconds))
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        text += "T00:00:00"
    refusal = "RFC 3339 (2026-01-31T12:00:00Z) or seconds since 1970 are allowed"
    match = re.fullmatch(r"([0-9-]{10}[Tt ][0-9:]{8})(?:\.([0-9]{1,9}))?(Z|z|[+-][0-9]{2}:[0-9]{2})?", text)
    if match is None:
        raise ValueError(refusal)
    try:
        moment = dt.datetime.fromisoformat(match[1] + (match[3] or "Z").upper())
        seconds = int((moment - dt.datetime.fromtimestamp(0, dt.UTC)).total_seconds())
    except (ValueError, OverflowError) as error:
        raise ValueError(refusal) from error
    return _in_range(seconds * _NS + int((match[2] or "").ljust(9, "0")))


def _in_range(nanoseconds: int) -> int:
    # ClickHouse wraps what does not fit, and says nothing.
    if not -(1 << 63) <= nanoseconds < 1 << 63:
        raise ValueError("years from 1678 to 2261 are allowed")
    return nanoseconds


def parse_range(text: str) -> tuple[str, str]:
    """An address or a network in CIDR notation as a range of IPv6 addresses; IPv4 is IPv4-mapped.

    Raises:
        ValueError: it is neither.
    """
    refusal = "an IP address or a network (192.0.2.0/24) is allowed"
    if "%" in text:
        # Python takes the zone of an address (RFC 4007 §11); a flow has none, and the database knows none.
        raise ValueError(refusal)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(refusal) from error
    prefix = "::ffff:" if network.version == 4 else ""
    return f"{prefix}{network.network_address}", f"{prefix}{network.broadcast_address}"


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"an integer from {low} to {high} is allowed")
        return int(text)

    return parse


def _parse_cursor(text: str) -> tuple[int, str, str, int, int]:
    try:
        time, probe, chain, seq, row = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise ValueError("give back `next` of the page before") from error
    if not (isinstance(probe, str) and isinstance(chain, str) and {type(time), type(seq), type(row)} == {int}):
        raise ValueError("give back `next` of the page before")
    if not (-(1 << 63) <= time < 1 << 63 and 0 <= seq < 1 << 64 and 0 <= row < 1 << 32):
        raise ValueError("give back `next` of the page before")
    return time, probe, chain, seq, row


parse_limit = _integer(1, MAX_LIMIT)
_PARSERS: dict[str, Callable[[str], Any]] = {
    "ip": parse_range,
    "port": _integer(0, 65535),
    "since": parse_time,
    "until": parse_time,
    "limit": parse_limit,
    "cursor": _parse_cursor,
}


def make_cursor(row: Mapping[str, Any]) -> str:
    """The cursor behind a row of `flows`."""
    key = [parse_time(row["start_time"]), row["probe"], row["chain"], row["seq"], row["row"]]
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).rstrip(b"=").decode()


class Questions:
    """Answers over one client, in the database process."""

    def __init__(self, client: Client, core: str) -> None:
        """Use `client` for every question; only rows of `core` count."""
        self._client = client
        self._core = core

    def ask(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the question `name`.

        Raises:
            BadQueryError: there is no such question, or it cannot be asked of what is indexed.
            clickhouse_connect.driver.exceptions.Error: the database refuses.
        """
        if name == "books":
            return {"accounts": self._books(arguments["first"], arguments["last"])}
        filters = Filters.load(arguments)
        if name == "flows":
            return self._flows(filters)
        if name == "applications":
            return {"applications": self._applications(filters)}
        if name == "top-talkers":
            return {"talkers": self._top_talkers(filters)}
        if name == "server-names":
            return {"server_names": self._server_names(filters)}
        if name == "tables":
            return {"tables": self._table_sizes()}
        raise BadQueryError(f"there is no question {name!r}")

    def _flows(self, filters: Filters) -> dict[str, Any]:
        columns = self._columns("flows")
        if not columns:
            return {"flows": [], "next": None}
        where, parameters = self._where(filters, columns)
        shown = (_shown(name, kind) for name, kind in columns.items() if name not in _HIDDEN)
        chosen = ", ".join(column for column in shown if column is not None)
        rows = self._rows(
            f"SELECT {chosen} FROM flows {where} ORDER BY start_time DESC, probe DESC, chain DESC, seq DESC, row DESC "
            f"LIMIT {filters.limit + 1}",
            parameters,
            columns,
        )
        more = len(rows) > filters.limit
        rows = rows[: filters.limit]
        return {"flows": rows, "next": make_cursor(rows[-1]) if more else None}

    def _applications(self, filters: Filters) -> list[dict[str, Any]]:
        return self._sums(filters, "ifNull(app, '') AS app", "app")

    def _server_names(self, filters: Filters) -> list[dict[str, Any]]:
        return self._sums(filters, "server_name, ifNull(app, '') AS app", "server_name, app", "server_name != ''")

    def _sums(self, filters: Filters, what: str, group: str, extra: str = "") -> list[dict[str, Any]]:
        columns = self._columns("flows")
        if not columns:
            return []
        where, parameters = self._where(filters, columns)
        if extra:
            where = f"{where} AND {extra}"
        return self._rows(
            f"SELECT {what}, countIf({_begins(columns)}) AS flows, count() AS records, "
            f"sum(packets_fwd + packets_rev) AS packets, sum(bytes_fwd + bytes_rev) AS bytes "
            f"FROM flows {where} GROUP BY {group} ORDER BY bytes DESC, {group} LIMIT {filters.limit}",
            parameters,
            {},
        )

    def _top_talkers(self, filters: Filters) -> list[dict[str, Any]]:
        columns = self._columns("flows")
        if not columns:
            return []
        where, parameters = self._where(filters, columns)
        return self._rows(
            "SELECT ip, sum(sent) AS bytes_sent, sum(received) AS bytes_received, sum(record AND begins) AS flows, "
            "sum(record) AS records FROM ("
            f"SELECT src_ip AS ip, bytes_fwd AS sent, bytes_rev AS received, 1 AS record, {_begins(columns)} AS begins "
            f"FROM flows {where} UNION ALL "
            # A flow from an address to itself is one of its flows, though it sent and received everything.
            "SELECT dst_ip AS ip, bytes_rev AS sent, bytes_fwd AS received, src_ip != dst_ip AS record, "
            f"{_begins(columns)} AS begins FROM flows {where}) "
            f"GROUP BY ip ORDER BY bytes_sent + bytes_received DESC, ip LIMIT {filters.limit}",
            parameters,
            {"ip": "IPv6"},
        )

    def _books(self, first: str, last: str) -> list[dict[str, Any]]:
        """Of each probe's newest chain that has a ledger, every account as it stood last; of a range of probe ids."""
        if not self._columns("ledger"):
            return []
        where = "WHERE core = {core:String} AND probe BETWEEN {first:String} AND {last:String}"
        return self._rows(
            "SELECT probe, chain, account, reason, worker, argMax(value, (seq, row)) AS value, max(time) AS time "
            f"FROM ledger {where} AND (probe, chain) IN ("
            f"SELECT probe, argMax(chain, (received, seq)) FROM ledger {where} GROUP BY probe) "
            "GROUP BY probe, chain, account, reason, worker ORDER BY probe, account, reason, worker",
            {"core": self._core, "first": first, "last": last},
            {"time": "DateTime64"},
        )

    def _table_sizes(self) -> list[dict[str, Any]]:
        return self._rows(
            "SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table",
            {},
            {},
        )

    def _where(self, filters: Filters, columns: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """The WHERE clause over a table with `columns`, and its parameters."""
        clauses, parameters = filters.conditions(columns)
        return f"WHERE {' AND '.join(['core = {core:String}', *clauses])}", {"core": self._core, **parameters}

    def _columns(self, table: str) -> dict[str, str]:
        result = self._client.query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
            "ORDER BY position",
            parameters={"table": table},
        )
        return {str(name): str(kind) for name, kind in result.result_rows}

    def _rows(self, sql: str, parameters: dict[str, Any], columns: Mapping[str, str]) -> list[dict[str, Any]]:
        answer = self._client.raw_query(
            f"{sql} SETTINGS output_format_json_quote_64bit_integers = 0", parameters=parameters, fmt="JSONEachRow"
        )
        # Nothing before has seen whether text is UTF-8; one value that is not must not take away all others.
        lines = (line.decode(errors="replace") for line in answer.splitlines() if line)
        return [_readable(json.loads(line), columns) for line in lines]


def _begins(columns: Mapping[str, str]) -> str:
    """The condition that a record is the first of its flow: as many flows there are.

    Distinct ids would count a flow again in each window of time that it reaches into, and take 50 MB for a million.
    """
    return "ifNull(interim_number, 0) = 0" if "interim_number" in columns else "true"


def _shown(name: str, kind: str) -> str | None:
    """A column in a SELECT: bytes as hexadecimal digits, since JSON cannot carry them. None if it cannot be shown."""
    column = quote(name)
    if "FixedString(" not in kind:
        return column
    if kind.startswith(("Nullable(FixedString(", "FixedString(")):
        return f"lower(hex({column})) AS {column}"
    if kind.startswith("Array(Nullable(FixedString("):
        return f"arrayMap(x -> lower(hex(x)), {column}) AS {column}"
    return None


def _readable(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row as people write it: IPv4 addresses, RFC 3339 times, MAC addresses. Nulls are left out."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if value is not None:
            out[name] = _readable_value(value, columns.get(name, KEY_COLUMNS.get(name, ("", ""))[0]))
    return out


def _readable_value(value: Any, kind: str) -> Any:
    """A value of a scalar type, or each of a list of those."""
    if isinstance(value, str):
        return _readable_text(value, kind)
    # Of what is in a tuple the type says nothing for all.
    if isinstance(value, list) and "Tuple(" not in kind:
        return [_readable_value(one, kind) for one in value]
    return value


def _readable_text(value: str, kind: str) -> str:
    if "IPv6" in kind:
        return value.removeprefix("::ffff:")
    if "DateTime" in kind:
        return value.replace(" ", "T") + "Z"
    if f"FixedString({_MAC_BYTES})" in kind:
        return ":".join(value[at : at + 2] for at in range(0, len(value), 2))
    return value
