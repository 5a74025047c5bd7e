"""`dpi-probe read`: the flows of capture files, as a table, as text or as a file."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dpi_probe import _flows, _native
from dpi_probe.cli._output import STANDARD_OUTPUT, silence_stdout, writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

INCOMPLETE = 3
INTERRUPTED = 130
FORMATS = ("table", "ndjson", "csv", "parquet", "arrow")


@click.command(
    "read",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  dpi-probe read capture.pcap                         a table on the terminal
  dpi-probe read capture.pcap | jq .server_name       NDJSON into a pipe
  dpi-probe read -f 'tcp port 443' -o tls.parquet *.pcapng.gz
  tcpdump -w - | dpi-probe read -                     from standard input
  dpi-probe read --summary big.pcap                   books instead of flows
  dpi-probe read --summary --format ndjson big.pcap   the same as JSON
  dpi-probe read --flow-key vlan,tunnel tenants.pcap  tenants apart

\b
Exit status:
  0  everything was read
  1  failure while running (the output cannot be written, …)
  2  bad usage or setting
  3  an input could not be read, or only in part; what could be was delivered
  130  interrupted; what was metered so far was delivered

The columns are described in docs/reference/records.md.""",
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FilePath(readable=False))
@click.option("-f", "--filter", "expression", metavar="BPF", help="Read only packets that match, as with tcpdump.")
@click.option("-o", "--output", metavar="OUT", type=FilePath(), help="Write to this file instead of standard output.")
@click.option(
    "--format",
    "chosen",
    type=click.Choice(FORMATS),
    help="Output format. Default: by the suffix of OUT; else table on a terminal, ndjson into a pipe.",
)
@click.option("--workers", metavar="N", type=int, default=1, show_default=True, help="Threads that meter.")
@click.option("-c", "--count", metavar="N", type=click.IntRange(min=1), help="Stop after N (matching) packets.")
@click.option(
    "--idle-timeout",
    metavar="SECONDS",
    type=float,
    default=300.0,
    show_default=True,
    help="End a flow after this time without a packet.",
)
@click.option(
    "--active-timeout",
    metavar="SECONDS",
    type=float,
    default=1800.0,
    show_default=True,
    help="Cut a flow that goes on into a record each time this has passed.",
)
@click.option(
    "--profile",
    type=click.Choice(("minimal", "standard", "full")),
    default="standard",
    show_default=True,
    help="How much is computed: identity and counters; statistics and layer 7 too; everything.",
)
@click.option(
    "--flow-key",
    metavar="PARTS",
    default="",
    help="What joins addresses, ports and protocol in the flow key: vlan, tunnel or vlan,tunnel.",
)
@click.option(
    "--summary",
    is_flag=True,
    help="Show the books of the input instead of its flows: link types, time span, frames metered and undecodable by "
    "reason, faults; with --format ndjson as JSON. With -o the flows are written too.",
)
def command(
    files: tuple[str, ...],
    expression: str | None,
    output: str | None,
    chosen: str | None,
    workers: int,
    count: int | None,
    idle_timeout: float,
    active_timeout: float,
    profile: Literal["minimal", "standard", "full"],
    flow_key: str,
    summary: bool,
) -> None:
    """Read capture files and print or write their flows.

    FILE is a pcap or pcapng file, also compressed with gzip or zstd; `-` is standard input. Several files are read one
    after another as one capture.
    """
    if output == "-":
        output = None
    form = output_format(chosen, output) if output is not None or not summary else summary_format(chosen)
    if output is not None:
        _flows.refuse_overwrite(output, files)
        folder = Path(output).parent
        if not folder.exists():
            message = f"cannot write {output}: there is no directory {folder}; make it, or name another file"
            raise DpiProbeError(message)
    reader = _flows.open_reader(
        files,
        filter=expression,
        workers=workers,
        idle_timeout=idle_timeout,
        active_timeout=active_timeout,
        profile=profile,
        flow_key=flow_key,
        # A fixed set of structs only where the format needs one: nulls cost time.
        fixed=form not in ("table", "ndjson"),
        count=count,
        keep_going=True,
    )
    try:
        with graceful_interrupt(reader) as interrupted:
            # Where there is no input, what was written before stays: a name may have been mistyped.
            is_wanted = not summary if output is None else any(map(_may_be_read, files))
            complete = deliver(reader, form, output) if is_wanted else drain(reader)
    finally:
        status = report(reader)
    if summary:
        from dpi_probe.cli import _summary

        books = _flows.summary_of(files, reader)
        with writing():
            _summary.show(books, sys.stdout, as_json=(chosen == "ndjson"))
    if not complete:
        silence_stdout()
    sys.exit(INTERRUPTED if interrupted.is_set() else status)


@contextmanager
def graceful_interrupt(reader: _native.FlowReader) -> Iterator[threading.Event]:
    """Within the block the first Ctrl-C ends the inputs, so that the flows so far are delivered; the second one raises.

    A KeyboardInterrupt in its place could come between a batch's arrival and its use, and the batch would be lost.
    """
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def end_inputs(number: int, frame: FrameType | None) -> None:
        del number, frame
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        reader.end_inputs()

    signal.signal(signal.SIGINT, end_inputs)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _may_be_read(file: str) -> bool:
    return file == "-" or (os.access(file, os.R_OK) and not Path(file).is_dir())


def output_format(chosen: str | None, output: str | None) -> str:
    """The format by option, by suffix, or by what standard output is."""
    if chosen is not None:
        if chosen in ("parquet", "arrow") and output is None and sys.stdout.isatty():
            raise ConfigError(
                f"--format {chosen}: is binary, and standard output is a terminal; give -o FILE or a pipe"
            )
        return chosen
    if output is not None:
        suffix = _native.format_of(output)
        if suffix is None:
            message = f"-o {output}: unknown suffix; use .ndjson, .csv, .parquet, .arrow, or give --format"
            raise ConfigError(message)
        return suffix
    return "table" if sys.stdout.isatty() else "ndjson"


def summary_format(chosen: str | None) -> str:
    """The format of the books, which are all that is wanted."""
    if chosen not in (None, "table", "ndjson"):
        raise ConfigError(
            f"--summary --format {chosen}: the books are shown as table or ndjson; give -o FILE for flows"
        )
    return chosen or "table"


def drain(reader: _native.FlowReader) -> bool:
    """Read everything for its books alone."""
    from dpi_probe.cli import _progress

    with _progress.shown(reader):
        reader.drain()
    return True


def deliver(reader: _native.FlowReader, form: str, output: str | None) -> bool:
    """Write everything; False if the reader of standard output went away."""
    from dpi_probe.cli import _progress

    with _progress.shown(reader) as progress:
        if form != "table":
            return reader.write(output, form) is not None
        from dpi_probe.cli import _table

        with writing(output or STANDARD_OUTPUT), ExitStack() as open_file:
            file = open_file.enter_context(Path(output).open("w", encoding="utf-8")) if output else sys.stdout
            return _table.print_flows(reader, file, progress)


def report(reader: _native.FlowReader) -> int:
    """Tell each problem on a line of its own; the exit status."""
    problems = reader.problems()
    for problem in problems:
        click.echo(f"dpi-probe: {problem}", err=True)
    return INCOMPLETE if problems else 0
