"""Reading capture files: `read` and what it returns."""

from __future__ import annotations

import html
import operator
import os
import stat
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from dpi_probe import _native
from dpi_probe._key import key_parts
from dpi_probe.errors import CaptureWarning, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from dpi_probe._columns import Flow

    Programs = list[tuple[int, list[tuple[int, int, int, int]] | str]]

# Frames longer than this are cut before a filter sees them; 256 KiB is also libpcap's default.
SNAPLEN = 262_144
# What the data plane takes: `flow::MAX_WORKERS`, and any number of packets that it can count.
MAX_WORKERS = 256
MAX_COUNT = 2**64 - 1
_PREVIEW_PACKETS = 10_000
_PREVIEW_ROWS = 10
_PREVIEW_COLUMNS = (
    "start_time",
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "app",
    "server_name",
    "packets_fwd",
    "packets_rev",
    "bytes_fwd",
    "bytes_rev",
)


def compile_filter(expression: str) -> Programs:
    """The expression compiled for every link type that can be decoded, or why it does not fit that one.

    Raises ConfigError if it fits none, with the reason for Ethernet.
    """
    from dpi_probe import _bpf

    ethernet = 1
    programs: Programs = []
    refusals: dict[int, ConfigError] = {}
    link_types = _native.link_types()
    for link_type in link_types:
        try:
            programs.append((link_type, _bpf.compile_filter(expression, link_type, SNAPLEN)))
        except ConfigError as error:
            refusals[link_type] = error
            programs.append((link_type, str(error)))
    if len(refusals) == len(link_types):
        raise refusals[ethernet]
    return programs


def nanoseconds(setting: str, seconds: float) -> int:
    """A timeout in nanoseconds; ConfigError unless it is positive and at most a day."""
    # Which no value that is not finite is.
    if not 0 < seconds <= 86_400:
        raise ConfigError(f"{setting}: {seconds!r} is not allowed; give seconds above 0 and at most 86400 (a day)")
    return max(1, round(seconds * 1e9))


def check_whole(setting: str, number: int, most: int) -> None:
    """ConfigError unless the number is one from 1 to `most`: others the data plane could not even be told of."""
    try:
        is_allowed = 1 <= operator.index(number) <= most
    except TypeError:
        is_allowed = False
    if not is_allowed:
        raise ConfigError(f"{setting}: {number!r} is not allowed; give 1 to {most}")


def open_reader(
    paths: Sequence[str],
    *,
    filter: str | Programs | None = None,  # noqa: A002 - the name that users type
    workers: int = 1,
    idle_timeout: float = 300.0,
    active_timeout: float = 1800.0,
    profile: Literal["minimal", "standard", "full"] = "standard",
    flow_key: str | Sequence[str] = (),
    protocols: Sequence[str] | None = None,
    addresses: Literal["text", "binary"] = "text",
    fixed: bool = True,
    count: int | None = None,
    keep_going: bool = False,
) -> _native.FlowReader:
    """Check the settings and open the inputs.

    `fixed` gives every batch the same schema; without it a batch has only the protocol structs that occur in it.
    `keep_going` makes an input that cannot be opened a problem of the reader rather than an error.
    """
    idle, active = nanoseconds("idle_timeout", idle_timeout), nanoseconds("active_timeout", active_timeout)
    if idle > active:
        raise ConfigError(
            f"idle_timeout: {idle_timeout!r} is above active_timeout ({active_timeout!r}); give at most it"
        )
    check_whole("workers", workers, MAX_WORKERS)
    if count is not None:
        check_whole("count", count, MAX_COUNT)
    try:
        parts = key_parts(flow_key if isinstance(flow_key, str) else ",".join(flow_key))
    except ValueError as error:
        raise ConfigError(f"flow_key: {flow_key!r}: {error}") from None
    return _native.FlowReader(
        list(paths),
        filter=compile_filter(filter) if isinstance(filter, str) else filter,
        workers=workers,
        idle_timeout_ns=idle,
        active_timeout_ns=active,
        profile=profile,
        flow_key=parts,
        protocols=[protocols] if isinstance(protocols, str) else None if protocols is None else list(protocols),
        addresses=addresses,
        fixed=fixed,
        count=count,
        keep_going=keep_going,
    )


class Flows:
    """The flows of one or more capture files.

    Nothing is read until it is used, and each use reads the files again, as a stream: a capture of any size needs no
    more memory than its active flows. (`to_arrow`, `to_polars` and `to_pandas` return whole tables, which do.)

    It is an Arrow stream: pyarrow, polars, DuckDB and pandas take it as it is, without a copy.

    A file that is damaged gives all flows that can be read, then a `CaptureWarning`; `problems` says the same. Who
    takes the Arrow stream itself gets no warning: look at `problems` afterwards.

    A copy, also by pickle, reads the same files with the same settings, and has books of its own. What a process has
    read from a parent by `fork` cannot be read on there: its threads are the parent's.
    """

    def __init__(self, paths: Sequence[str], **settings: Any) -> None:
        self._paths = list(paths)
        self._settings = settings
        if isinstance(expression := settings.get("filter"), str):
            self._settings["filter"] = compile_filter(expression)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        # Opened at once, so that a missing file is told by `read` and not by the first use.
        self._opened: _native.FlowReader | None = self._open(fixed=True)
        self._latest = self._opened

    def __getstate__(self) -> dict[str, Any]:
        """What is read, and how: a reader has threads and open files."""
        return {"paths": list(self._paths), "settings": dict(self._settings)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files as `read` does."""
        self._paths, self._settings = state["paths"], state["settings"]
        self._begin()

    def _check_process(self) -> None:
        """Raise in a child of `fork`, where no thread reads on and the files' places are those of the parent."""
        if os.getpid() != self._process:
            raise RuntimeError(f"{self!r} belongs to another process; make another with read() in this process")

    def _open(self, **changes: Any) -> _native.FlowReader:
        self._check_process()
        return open_reader(self._paths, **{**self._settings, **changes})

    def _reader(self) -> _native.FlowReader:
        self._check_process()
        reader, self._opened = self._opened or self._open(fixed=True), None
        self._latest = reader
        return reader

    def _finish(self, reader: _native.FlowReader) -> None:
        """Raise what stopped the reader, or warn of what it could not read."""
        reader.check()
        for problem in reader.problems():
            warnings.warn(problem, CaptureWarning, stacklevel=3)

    def __iter__(self) -> Iterator[Flow]:
        """Each flow in order of its end.

        >>> for flow in dpi_probe.read("small.pcap"):
        ...     print(flow.src_ip, flow.app)
        192.0.2.1 dns
        """
        reader = self._reader()
        try:
            while (flows := reader.next_flows()) is not None:
                yield from flows
                self._check_process()
            self._finish(reader)
        finally:
            # Whoever leaves early needs no thread and no file any more; the books stay.
            if os.getpid() == self._process:
                reader.cancel()

    def __arrow_c_schema__(self) -> object:
        """The schema as an Arrow C data interface capsule."""
        return self._latest.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The flows as an Arrow C stream interface capsule."""
        return self._reader().arrow_stream_of_others()

    def to_arrow(self) -> pa.Table:
        """All flows as a pyarrow Table (needs the extra `arrow`).

        >>> dpi_probe.read("small.pcap").to_arrow().num_rows
        1
        """
        try:
            import pyarrow as pa
        except ImportError as error:
            raise _missing("to_arrow()", "pyarrow", "arrow") from error
        return cast("pa.Table", self._consume(pa.table))

    def to_polars(self) -> pl.DataFrame:
        """All flows as a polars DataFrame (needs the extra `polars`).

        >>> dpi_probe.read("small.pcap").to_polars()["dst_port"].to_list()
        [53]
        """
        try:
            import polars as pl
        except ImportError as error:
            raise _missing("to_polars()", "polars", "polars") from error
        return cast("pl.DataFrame", self._consume(pl.DataFrame))

    def to_pandas(self, **options: Any) -> pd.DataFrame:
        """All flows as a pandas DataFrame (needs the extra `pandas`).

        `options` are those of `pyarrow.Table.to_pandas`. Without any, the type of a column may depend on the capture:
        integers become floats where one is null. `types_mapper=pandas.ArrowDtype` keeps the type of every column as
        docs/reference/records.md has it.

        >>> dpi_probe.read("small.pcap").to_pandas().loc[0, "server_name"]
        'example.org'
        """
        try:
            import pandas as pd  # noqa: F401 - pyarrow makes the frame, and its own words do not name the extra
            import pyarrow as pa
        except ImportError as error:
            raise _missing("to_pandas()", "pandas and pyarrow", "pandas") from error
        return cast("pa.Table", self._consume(pa.table)).to_pandas(**options)

    def _consume(self, take: Callable[[_native.FlowReader], object]) -> object:
        reader = self._reader()
        try:
            table = take(reader)
        except Exception:
            # What stopped the reader in its own class: the consumer knows only its text.
            reader.check()
            raise
        self._finish(reader)
        return table

    def write(self, path: str | os.PathLike[str], format: str | None = None) -> int:  # noqa: A002 - the name that users type
        """Write all flows to a file and return their number, with no more than one batch in memory.

        `format` is `ndjson`, `csv`, `parquet` or `arrow`; by default the suffix of `path` decides. NDJSON and CSV are
        for people: addresses are text there, also with `addresses="binary"`.

        >>> dpi_probe.read("small.pcap").write("flows.parquet")
        1
        """
        target = os.fspath(path)
        chosen = format or _native.format_of(target)
        if chosen is None:
            raise ConfigError(f"{target}: unknown suffix; use .ndjson, .csv, .parquet, .arrow, or give format=")
        refuse_overwrite(target, self._paths)
        if chosen == "ndjson":
            # A line leaves out what is null, so that the structs that do not occur need not be made.
            reader = self._open(fixed=False, addresses="text")
        elif chosen == "csv" and self._settings.get("addresses") == "binary":
            reader = self._open(addresses="text")
        else:
            reader = self._reader()
        self._latest = reader
        rows = reader.write(target, chosen)
        self._finish(reader)
        return rows if rows is not None else 0

    @property
    def accounts(self) -> dict[str, int | dict[str, int]]:
        """The books of the latest use: frames delivered, metered and undecodable by reason, flows by end reason."""
        return self._latest.accounts()

    @property
    def summary(self) -> dict[str, Any]:
        """What the inputs of the latest use hold: files, time span, link types, bytes, accounts, problems.

        >>> flows = dpi_probe.read("small.pcap")
        >>> _ = list(flows)
        >>> flows.summary["link_types"]
        {'LINKTYPE_ETHERNET (1)': 2}
        """
        return summary_of(self._paths, self._latest)

    @property
    def problems(self) -> list[str]:
        """What could not be read in the latest use, one line each."""
        return self._latest.problems()

    def __repr__(self) -> str:
        """What is read, and with which settings."""
        paths = ", ".join(map(repr, self._paths[:3])) + (", …" if len(self._paths) > 3 else "")
        return f"<Flows of {paths}>"

    def _repr_html_(self) -> str:
        """The first flows as a table, for notebooks; at most 10,000 packets are read for it."""
        if "-" in self._paths:
            return html.escape(repr(self))
        reader = self._open(count=_PREVIEW_PACKETS, filter=self._settings.get("filter"), fixed=False)
        flows = (reader.next_flows() or [])[:_PREVIEW_ROWS]
        reader.cancel()
        head = "".join(f"<th>{column}</th>" for column in _PREVIEW_COLUMNS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(getattr(flow, column))}</td>" for column in _PREVIEW_COLUMNS) + "</tr>"
            for flow in flows
        )
        note = f"first flows among the first {_PREVIEW_PACKETS:,} packets"
        return f"<div>{html.escape(repr(self))}: {note}<table><tr>{head}</tr>{rows}</table></div>"


def summary_of(paths: Sequence[str], reader: _native.FlowReader) -> dict[str, Any]:
    """What a reader's inputs hold, as plain values."""
    inputs = reader.inputs()
    first, last = inputs["first_time_ns"], inputs["last_time_ns"]
    return {
        "files": list(paths),
        "first_time": None if first is None else _time_text(first),
        "last_time": None if last is None else _time_text(last),
        "duration_seconds": None if first is None else (last - first) / 1e9,
        "link_types": inputs["link_types"],
        "bytes_read": inputs["bytes_read"],
        "bytes_skipped": inputs["bytes_skipped"],
        "accounts": reader.accounts(),
        "problems": reader.problems(),
    }


def _time_text(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _cell(value: object) -> str:
    return "" if value is None else html.escape(str(value))


def _missing(call: str, package: str, extra: str) -> ImportError:
    return ImportError(f"{call} needs {package}: pip install 'dpi-probe[{extra}]'")


def refuse_overwrite(target: str | os.PathLike[str], paths: Iterable[str | os.PathLike[str] | None]) -> None:
    """ConfigError if the output is one of the inputs; None among them is no input, `-` standard input."""
    if any(path is not None and _is_same(path, target) for path in paths):
        raise ConfigError(f"{os.fspath(target)}: is also an input; choose another output")


def _is_same(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    try:
        written = Path(target).stat()
        given = os.fstat(0) if os.fspath(path) == "-" else Path(path).stat()
        # A terminal, a pipe or a device is not lost by being written to.
        return stat.S_ISREG(written.st_mode) and os.path.samestat(given, written)
    except OSError:
        # One of them is not there.
        return False


def read(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    filter: str | None = None,  # noqa: A002 - the name that users type
    workers: int = 1,
    idle_timeout: float = 300.0,
    active_timeout: float = 1800.0,
    profile: Literal["minimal", "standard", "full"] = "standard",
    flow_key: str | Sequence[str] = (),
    protocols: Sequence[str] | None = None,
    addresses: Literal["text", "binary"] = "text",
) -> Flows:
    """Read the flows of one or more capture files (pcap or pcapng, also gzip or zstd).

    Several files are read one after another as if they were one capture. `"-"` is standard input.

    Args:
        path: A path, or several.
        filter: A filter expression in tcpdump's language, such as `"tcp port 443"`; other packets are passed over.
        workers: Threads that meter. The result is the same with any number.
        idle_timeout: Seconds without a packet after which a flow ends.
        active_timeout: Seconds after which a flow that goes on is cut into another record.
        profile: How much is computed: `"minimal"` identity and counters, `"standard"` also statistics and layer 7,
            `"full"` also the struct `features` and the analysis of TCP. What is not computed is null.
        flow_key: What joins addresses, ports and protocol in the flow key: `"vlan"`, `"tunnel"` or both; by default
            nothing, and `key_ambiguous` marks flows whose packets differ in these.
        protocols: The protocol structs that the output has, such as `["tls", "dns"]`; by default all.
        addresses: `"text"` (`192.0.2.1`) or `"binary"` (16 bytes, IPv4 as IPv4-mapped IPv6, as they are sealed), the
            latter but for NDJSON and CSV.

    Raises:
        CaptureError: An input cannot be opened or is not a capture.
        ConfigError: A setting is not allowed.

    >>> flows = dpi_probe.read("small.pcap", filter="udp port 53")
    >>> [(flow.app, flow.server_name) for flow in flows]
    [('dns', 'example.org')]
    >>> flows.accounts["frames_delivered"]
    2
    """
    paths = [os.fspath(path)] if isinstance(path, (str, os.PathLike)) else [os.fspath(each) for each in path]
    if not paths:
        raise ConfigError("path: an empty list is not allowed; give at least one capture file")
    return Flows(
        paths,
        filter=filter,
        workers=workers,
        idle_timeout=idle_timeout,
        active_timeout=active_timeout,
        profile=profile,
        flow_key=flow_key,
        protocols=protocols,
        addresses=addresses,
    )
