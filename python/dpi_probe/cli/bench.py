"""`dpi-probe bench`: what this machine sustains, against the budgets of the performance model."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpi_probe._counted import counted
from dpi_probe.cli import _extras, _signals
from dpi_probe.cli._input import InputFile
from dpi_probe.cli._number import Number
from dpi_probe.cli._output import OutputFile, writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import CaptureError, ConfigError, DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.status import Status

# As dpi_probe.bench.scenarios has them; `--help` must not load the data plane.
SCENARIOS = {
    "low": "100 Mbit/s and 1,000 new flows/s",
    "medium": "1 Gbit/s and 10,000 new flows/s",
    "high": "10 Gbit/s and 100,000 new flows/s",
    "peak": "40 Gbit/s and 400,000 new flows/s; drops are allowed",
}
FRAME_SIZES = ("64", "imix", "1000", "9000", "super")
CAPTURES = ("auto", "af_packet", "af_xdp")
# Cores that something else took: as much spoils a measurement.
BUSY = 0.2
CONTEXT = {"help_option_names": ["-h", "--help"]}
FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9}
HIGHEST_RATE = 10**12
# In seconds: a week.
LONGEST = 7 * 86_400
# As the settings FLOW_TIMEOUT_SECONDS and MAX_BUFFER_SIZE_MB allow.
LONGEST_TIMEOUT, LARGEST_BUFFER_MB = 86_400, 1_048_576


class Rate(click.ParamType[int]):
    """A number with k, M or G."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("bps").removesuffix("bit/s")
        factor = FACTORS.get(text[-1:], 1)
        try:
            number = round(float(text.rstrip("kmg")) * factor)
        except (OverflowError, ValueError):
            self.fail(f"{value!r} is not a rate such as 500M or 10G", param, ctx)
        if number <= 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        if number > HIGHEST_RATE:
            self.fail(f"{value!r} is more than 1000G", param, ctx)
        return number


RATE = Rate()
SEED = click.IntRange(0, 2**64 - 1)
MEMORY_MB = click.IntRange(128, LARGEST_BUFFER_MB)
OUTPUT = OutputFile()


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that scenarios and the search share."""
    options = (
        click.option("--source", type=click.Choice(["memory", "veth"]), default="memory", show_default=True,
                     help="Offer frames from memory, or send them over a veth pair in a namespace of its own (root)."),
        click.option("--capture", type=click.Choice(CAPTURES), default="auto", show_default=True,
                     help="How frames are taken from the veth pair."),
        click.option("--frame-size", type=click.Choice(FRAME_SIZES), default="1000", show_default=True,
                     help="Smallest frames, IMIX, 1000 B on average, jumbo frames, or super-frames of 64 KB."),
        click.option("--warm-up", type=Number(0, LONGEST), metavar="S",
                     help="Seconds before measuring; default: the flow timeout and 3."),
        click.option("--flow-timeout", type=Number(0.1, LONGEST_TIMEOUT), default=5.0, show_default=True, metavar="S",
                     help="Idle timeout of the probe; it takes as long until as many flows end as begin."),
        click.option("--max-buffer-size-mb", type=MEMORY_MB, default=1024, show_default=True,
                     help="The probe's bound of resident memory."),
        click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True,
                     help="Workers of the probe."),
        click.option("--seed", type=SEED, default=1, show_default=True, help="Another seed, other traffic."),
        click.option("--without-core", is_flag=True, help="Seal and spool only."),
        click.option("--json", "json_file", type=OUTPUT, help="Write the result to this file."),
        click.option("--keep", type=FilePath(path_type=Path, file_okay=False),
                     help="Leave keys, spool and archive in this new folder."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings=CONTEXT)
def command() -> None:
    r"""Measure the probe on this machine.

    \b
    dpi-probe bench low                         the whole path at 100 Mbit/s
    dpi-probe bench high --html report.html     10 Gbit/s, with charts
    dpi-probe bench search                      the highest rate without loss
    dpi-probe bench reader                      beside a bare capture ring
    dpi-probe bench stages                      where the time goes
    dpi-probe bench compare before.json after.json
    dpi-probe bench peers capture.pcap          beside other tools
    dpi-probe bench traffic --out t.pcap        the traffic as a file

    A scenario ends with status 1 if a criterion was not met or not measured, or the books do not balance.
    """
    _signals.end_as_after_interrupt()


def _scenario(name: str) -> click.Command:
    load, *_ = SCENARIOS[name].partition(";")

    @click.command(
        name,
        context_settings=CONTEXT,
        help=f"The whole path at {SCENARIOS[name]}.",
        short_help=f"The whole path at {load}.",
    )
    @click.option("--duration", type=Number(0.5, LONGEST), default=10.0, show_default=True, metavar="S",
                  help="Seconds that are measured.")  # fmt: skip
    @click.option("--html", "html_file", type=OUTPUT, help="Write a report with charts to this file.")
    @_common
    def run(json_file: Path | None, html_file: Path | None, keep: Path | None, **options: Any) -> None:
        from dpi_probe.bench import report, show
        from dpi_probe.bench.scenarios import SCENARIOS as LOADS

        # Its charts are drawn at the end.
        _need("plotext")
        plan = _plan(LOADS[name], options)
        result = _run(plan, keep)
        with _keeping((json_file, _json(result)), (html_file, report.page([result]))):
            show.show(_console(), result)
        unmeasured = [one["what"] for one in result["criteria"] if one["applies"] and one["passed"] is None]
        if unmeasured:
            said = f"not measured, so not shown to hold: {', '.join(unmeasured)}; --duration measures longer"
            click.echo(f"dpi-probe: {said}", err=True)
        if result["passed"] is not True:
            sys.exit(1)

    return run


for _name in SCENARIOS:
    command.add_command(_scenario(_name))


@command.command("traffic", context_settings=CONTEXT)
@click.option("--out", required=True, type=OUTPUT, help="The pcap file to write.")
@click.option("--rate", type=RATE, default="100M", show_default=True, help="Bits of frames a second.")
@click.option("--flows", type=RATE, default="1k", show_default=True, help="New flows a second.")
@click.option(
    "--frame-size", type=click.Choice(FRAME_SIZES), default="1000", show_default=True, help="As of a scenario."
)
@click.option("--duration", type=Number(0.001, LONGEST), default=10.0, show_default=True, metavar="S",
              help="Seconds in which flows begin; each goes on to its end.")  # fmt: skip
@click.option("--seed", type=SEED, default=1, show_default=True, help="Another seed, other traffic.")
@click.option("--ipv6-share", type=Number(0, 1), default=0.3, show_default=True, help="Flows over IPv6.")
@click.option("--vlan-share", type=Number(0, 1), default=0.1, show_default=True, help="Flows with a VLAN tag.")
def traffic_command(out: Path, rate: int, flows: int, frame_size: str, duration: float, **shares: Any) -> None:
    """Write the traffic of a bench to a capture file.

    Equal options give equal files. Conversations are real as far as a probe can see: TLS 1.2 and 1.3 and QUIC
    handshakes (QUIC with its real encryption), DNS, HTTP/1.1, SSH, RTP and unknown TCP, over IPv4 and IPv6, with valid
    checksums.
    """
    from dpi_probe.bench.scenarios import CYCLE_BYTES, make_traffic

    # A whole file of different conversations where it is not too long; then they come again with other clients.
    cycle = min(max(round(rate / 8 * duration), 1 << 20), 16 * CYCLE_BYTES)
    made = make_traffic(
        bits_per_second=rate, flows_per_second=flows, frame_size=frame_size, cycle_bytes=cycle, **shares
    )
    shape = made.shape()
    what = f"writing some {rate / 8 * duration / 1e6:,.0f} MB"
    with _progress() as progress:
        frames, size = made.write(out, duration, lambda written: progress(what, min(written / duration, 1)))
    click.echo(
        f"{out}: {frames:,} frames, {size / 1e6:,.1f} MB, mean {shape['mean_frame_bytes']:.0f} B, "
        f"{shape['flows_per_second']:,.0f} new flows/s",
        err=True,
    )


@command.command("search", context_settings=CONTEXT)
@click.option("--low", type=RATE, default="100M", show_default=True, help="Lowest rate to try.")
@click.option("--high", type=RATE, default="40G", show_default=True, help="Highest rate to try.")
@click.option(
    "--tolerance",
    type=Number(0.001, 1),
    default=0.05,
    show_default=True,
    help="How near, as a share of the rate.",
)
@click.option(
    "--duration",
    type=Number(0.5, LONGEST),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds that each rate is measured.",
)
@_common
def search_command(
    low: int, high: int, tolerance: float, json_file: Path | None, keep: Path | None, **options: Any
) -> None:
    """Find the highest rate without loss, by bisection.

    New flows grow with the rate as in the scenarios: one for 12.5 KB. A rate holds if no frame and no record was
    dropped and the books balance; one that lost less than 1 % is tried again.
    """
    from dpi_probe._throwaway import work_folder
    from dpi_probe.bench.scenarios import SCENARIOS as LOADS
    from dpi_probe.bench.search import Trial, search
    from dpi_probe.bench.show import value

    if low >= high:
        msg = f"--low {low:,} is not below --high {high:,}"
        raise ConfigError(msg)
    plan = _plan(LOADS["low"], options)
    _need_for(plan)
    with work_folder(keep) as folder, _progress() as progress:

        def tell(trial: Trial) -> None:
            progress.say(f"{value(trial.bits_per_second, 'bit/s')}: {'held' if trial.held else 'lost'}")

        result = search(
            plan, folder, progress, low=low, high=high, tolerance=tolerance, command=_command_line(), tell=tell
        )
    with _keeping((json_file, _json(result))):
        _show_search(_console(), result, low=low, high=high)
    if result["highest_bits_per_second"] is None:
        sys.exit(1)


def _show_search(console: Console, result: dict[str, Any], *, low: int, high: int) -> None:
    from dpi_probe.bench import machine
    from dpi_probe.bench.show import value

    console.print(f"[dim]{machine.one_line(result['machine'])}[/dim]")
    for trial in result["trials"]:
        said = "[green]held[/green]" if trial["held"] else "[red]lost[/red]"
        unsent = "" if not trial["unsent_ratio"] else f", not sent {value(trial['unsent_ratio'], 'ratio')}"
        records = f", {counted(trial['records_dropped'], 'record')}" if trial["records_dropped"] else ""
        others = "" if trial["other_cores"] < BUSY else f", [yellow]others {trial['other_cores']:.2f} cores[/yellow]"
        console.print(
            f"{value(trial['bits_per_second'], 'bit/s'):>16}  {said}  dropped {value(trial['drop_ratio'], 'ratio')}"
            f"{records}{unsent}, probe {trial['probe_cores']:.2f} cores, "
            f"latency p99 {value(trial['latency_p99'], 's')}{others}"
        )
    if any(trial["other_cores"] >= BUSY for trial in result["trials"]):
        console.print("[yellow]something else ran on the machine: without it the rate is higher[/yellow]")
    best = result["highest_bits_per_second"]
    if result["limit"] is not None:
        at = value(result["limited_at_bits_per_second"], "bit/s")
        console.print(f"at {at} limited by [bold]{result['limit']}[/bold]")
    if best is None:
        console.print(f"[red]{value(low, 'bit/s')} is too much for this machine[/red]")
    elif best >= high:
        console.print(
            f"even --high, [bold]{value(best, 'bit/s')}[/bold], was without loss: the highest rate lies above it; "
            "give a higher one"
        )
    else:
        within = f"(within {100 * result['tolerance']:g} %)"
        console.print(f"highest rate without loss: [bold]{value(best, 'bit/s')}[/bold] {within}")


@command.command("reader", context_settings=CONTEXT)
@click.option("--frame-size", "sizes", type=click.Choice(FRAME_SIZES), multiple=True,
              help="As of a scenario; may be given several times; default: all (AF_XDP: but super).")  # fmt: skip
@click.option("--capture", "captures", type=click.Choice(("af_packet", "af_xdp")), multiple=True,
              default=("af_packet",), show_default=True,
              help="How the probe takes frames; both may be given. AF_XDP is shown, but not judged.")  # fmt: skip
@click.option(
    "--flows",
    type=RATE,
    help="New flows a second; default: one for 12.5 KB, as in the scenarios, or 500 KB with super-frames.",
)
@click.option("--duration", type=Number(0.5, LONGEST), default=4.0, show_default=True, metavar="S",
              help="Seconds that each run is measured.")  # fmt: skip
@click.option("--warm-up", type=Number(0, LONGEST), metavar="S",
              help="Seconds before the probe is measured; default: the flow timeout and 3.")  # fmt: skip
@click.option("--flow-timeout", type=Number(0.1, LONGEST_TIMEOUT), default=2.0, show_default=True, metavar="S",
              help="Idle timeout of the probe.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True, help="Turns; the median counts.")
@click.option("--max-buffer-size-mb", type=MEMORY_MB, default=1024, show_default=True,
              help="The probe's bound of resident memory; all receivers have the ring that goes with it.")  # fmt: skip
@click.option("--seed", type=SEED, default=1, show_default=True, help="Another seed, other traffic.")
@click.option("--json", "json_file", type=OUTPUT, help="Write the result to this file.")
def reader_command(
    sizes: tuple[str, ...],
    captures: tuple[str, ...],
    flows: int | None,
    duration: float,
    warm_up: float | None,
    flow_timeout: float,
    repeat: int,
    max_buffer_size_mb: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """Compare the whole probe with a bare capture ring (root).

    The sender sends over a veth pair as fast as it can, on a CPU of its own where there are two. In turns receive: a
    TPACKET_V3 ring whose frames are counted and nothing else (a C program, for which a C compiler is needed), the
    probe's capture alone, and the whole probe without a Core. The probe is to reach 85 % of the frames that the bare
    ring reaches; ends with status 1 if it does not, or if that was not shown.
    """
    from dpi_probe._throwaway import work_folder
    from dpi_probe.bench import reader, show_reader, veth
    from dpi_probe.bench.scenarios import MTU

    if not sizes:
        sizes = tuple(size for size in FRAME_SIZES if size != "super" or "af_xdp" not in captures)
    _refuse_super_frames_by_af_xdp(sizes, captures)
    sender_cpus, receiver_cpus = reader.share_cpus()
    setting = reader.Setting(
        duration=duration,
        warm_up=flow_timeout + 3 if warm_up is None else warm_up,
        repeat=repeat,
        memory_mb=max_buffer_size_mb,
        flow_timeout=flow_timeout,
        flows_per_second=flows,
        seed=seed,
        sender_cpus=sender_cpus,
        receiver_cpus=receiver_cpus,
    )
    _need()
    veth.enter_namespace(MTU[sizes[0]])
    with work_folder() as folder, _progress() as progress:
        result = reader.measure(sizes, captures, setting, folder, progress, command=_command_line())
    with _keeping((json_file, _json(result))):
        show_reader.show(_console(), result)
    if result["passed"] is None and "af_packet" not in captures:
        said = "nothing was judged: on a veth pair AF_XDP has no card's help; --capture af_packet, beside it, is judged"
        click.echo(f"dpi-probe: {said}", err=True)
    if result["passed"] is not True:
        sys.exit(1)


@command.command("stages", context_settings=CONTEXT)
@click.option(
    "--frame-size", type=click.Choice(FRAME_SIZES), default="1000", show_default=True, help="As of a scenario."
)
@click.option("--rate", type=RATE, default="1G", show_default=True, help="Bits of frames a second.")
@click.option("--flows", type=RATE, default="10k", show_default=True, help="New flows a second.")
@click.option("--size-mb", type=click.IntRange(1, 4096), default=256, show_default=True, help="Frames to run over.")
@click.option("--repeat", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs; the median counts.")
@click.option(
    "--max-buffer-size-mb",
    type=MEMORY_MB,
    default=1024,
    show_default=True,
    help="Bound of memory, as of a probe, which gives flows their share of it.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Another seed, other traffic.")
@click.option("--json", "json_file", type=OUTPUT, help="Write the result to this file.")
def stages_command(
    frame_size: str,
    rate: int,
    flows: int,
    size_mb: int,
    repeat: int,
    max_buffer_size_mb: int,
    seed: int,
    json_file: Path | None,
) -> None:
    """Show what each stage costs for a packet and for a flow.

    All stages run over the same frames on one thread; the cost of a stage is what a run with it takes longer than a run
    without. CPU time, but for the spool, which waits for the disk.
    """
    from dpi_probe._throwaway import make_authority, work_folder
    from dpi_probe.bench import stages
    from dpi_probe.bench.run import PROBE_NAME
    from dpi_probe.bench.scenarios import make_traffic

    _need()
    traffic = make_traffic(bits_per_second=rate, flows_per_second=flows, frame_size=frame_size, seed=seed)
    with work_folder() as folder, _progress() as progress:
        pki = folder / "pki"
        make_authority(pki, PROBE_NAME)
        result = stages.measure(
            traffic, folder, pki, progress,
            size=size_mb << 20, repeat=repeat, memory_mb=max_buffer_size_mb, command=_command_line(),
        )  # fmt: skip
    with _keeping((json_file, _json(result))):
        _show_stages(_console(), result, repeat)


def _show_stages(console: Console, result: dict[str, Any], repeat: int) -> None:
    from rich.table import Table

    from dpi_probe.bench import machine

    console.print(f"[dim]{machine.one_line(result['machine'])}[/dim]")
    console.print(
        f"{result['frames']:,} frames of {result['traffic']['mean_frame_bytes']:.0f} B on average, "
        f"{counted(result['flows'], 'flow record')}, {counted(result['batches'], 'batch', 'batches')}; "
        f"median of {repeat}"
    )
    table = Table(header_style="bold")
    for name in ("stage", "ns a packet", "ns a flow", "range of ns a packet", "clock"):
        table.add_column(name, justify="left" if name in ("stage", "clock") else "right")
    for stage in result["stages"]:
        runs = stage["runs_ns_per_packet"]
        table.add_row(
            stage["stage"], f"{stage['ns_per_packet']:,.1f}", f"{stage['ns_per_flow']:,.0f}",
            f"{min(runs):,.1f} to {max(runs):,.1f}", stage["clock"],
        )  # fmt: skip
    console.print(table)


@command.command("compare", context_settings=CONTEXT)
@click.argument("before", type=InputFile())
@click.argument("after", type=InputFile())
@click.option("--json", "json_file", type=OUTPUT, help="Write the comparison to this file.")
def compare_command(before: Path, after: Path, json_file: Path | None) -> None:
    """Compare two results that were written with --json.

    For each figure: the means, and the interval of the ratio at a confidence of 95 %. Where the interval holds 1, no
    difference was shown.
    """
    from dpi_probe._flows import refuse_overwrite
    from dpi_probe.bench import compare

    if json_file is not None:
        refuse_overwrite(json_file, [before, after])
    one, other = _load(before), _load(after)
    try:
        lines, doubts = compare.compare(one, other), compare.warnings(one, other)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except (AttributeError, KeyError, TypeError) as error:
        msg = f"{before} or {after}: not a whole result of a bench ({error!r}); write one with --json"
        raise ConfigError(msg) from None
    with _keeping((json_file, _json(lines))):
        _show_comparison(_console(), lines, doubts, (before.name, after.name))


def _show_comparison(console: Console, lines: list[dict[str, Any]], doubts: list[str], names: tuple[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for warning in doubts:
        console.print(f"[yellow]warning:[/yellow] {warning}")
    console.print(f"before: {names[0]}, after: {names[1]}", markup=False)
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("figure", "before", "after", "ratio", ""):
        is_text = name in ("figure", "")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for line in lines:
        ratio = line["ratio"]
        table.add_row(
            line["what"],
            *("-" if line[side] is None else _figure(line[side]) for side in ("before", "after")),
            "-" if ratio is None else f"{ratio[0]:.3f} to {ratio[1]:.3f}",
            line["verdict"],
        )
    console.print(table)


@command.command("peers", context_settings=CONTEXT)
@click.argument("capture", metavar="FILE", type=InputFile())
@click.option("--repeat", type=click.IntRange(3, 100), default=3, show_default=True, help="Runs; the median counts.")
@click.option(
    "--only", multiple=True, metavar="TOOL", help="Only this tool, and ourselves; may be given several times."
)
@click.option("--json", "json_file", type=OUTPUT, help="Write the result to this file.")
def peers_command(capture: Path, repeat: int, only: tuple[str, ...], json_file: Path | None) -> None:
    """Run the tools of the field over FILE, and ourselves, in turn.

    Tools: nfstream, ndpireader, softflowd, argus, tshark, mercury, ipfixprobe. What each needs to start (over a single
    packet) is taken off its CPU time. Tools that are not installed are named with how to install them. The environment
    variable DPI_PROBE_PEER_NAME says where one is.
    """
    from dpi_probe._flows import refuse_overwrite
    from dpi_probe.bench import peers

    if json_file is not None:
        refuse_overwrite(json_file, [capture])
    known = {peer.name for peer in peers.PEERS}
    if unknown := [name for name in only if name not in known]:
        msg = f"--only {unknown[0]}: there are {', '.join(sorted(known))}"
        raise ConfigError(msg)
    with _progress() as progress:
        result = peers.compare(capture, progress, repeat=repeat, only=only, command=_command_line())
    with _keeping((json_file, _json(result))):
        _show_peers(_console(), result)


def _show_peers(console: Console, result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from dpi_probe.bench import machine, peers

    console.print(f"[dim]{machine.one_line(result['machine'])}[/dim]")
    # Narrow, so that no word is cut on a terminal of 80 columns.
    table = Table(
        title=f"{result['capture']['name']}: {result['capture']['packets']:,} packets, median of {result['repeat']}",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    headings = ("tool", "does", "packets a\nCPU second", "peak\nmemory", "flows", "we are\nfaster by")
    for name in headings:
        table.add_column(
            name, justify="left" if name in headings[:2] else "right", no_wrap=name != "does", vertical="top"
        )
    for tool in sorted(result["tools"], key=lambda tool: -(tool["packets_per_cpu_second"] or 0)):
        if tool["failure"]:
            table.add_row(tool["name"], tool["does"], "failed", "", "", "")
            continue
        table.add_row(
            tool["name"],
            tool["does"],
            f"{tool['packets_per_cpu_second']:,.0f}" if tool["packets_per_cpu_second"] else "-",
            f"{tool['peak_bytes'] / (1 << 20):,.0f} MiB",
            f"{tool['flows']:,}" if tool["flows"] is not None else "not told" if tool["makes_flows"] else "makes none",
            f"{tool['ratio']:.2f}x" if tool["ratio"] else "-",
        )
    console.print(table)
    if unsure := [tool["name"] for tool in result["tools"] if tool["within_noise"]]:
        console.print(
            f"[yellow]warning:[/yellow] what {', '.join(unsure)} took for the packets is too little beside the start, "
            "or differs too much from run to run, to tell anything; "
            f"take a capture of {peers.LEAST_PACKETS:,} packets or more"
        )
    for tool in result["tools"]:
        if tool["failure"]:
            console.print(f"[red]{tool['name']}[/red]: {tool['failure']}", markup=True)
    for one in result["missing"]:
        console.print(f"{one['name']} is not installed: {one['install']}")


def _load(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise CaptureError(msg) from None
    except ValueError:
        # What is wrong with it as JSON helps nobody who has named another file.
        result = None
    if not isinstance(result, dict) or "kind" not in result:
        msg = f"{path}: not a result of a bench; write one with --json"
        raise ConfigError(msg)
    return result


def _plan(scenario: Any, options: dict[str, Any]) -> Any:
    """The plan of the common options."""
    from dpi_probe.bench.scenarios import Plan

    if options["capture"] != "auto" and options["source"] == "memory":
        msg = f"--capture {options['capture']} needs --source veth: frames from memory are not captured"
        raise ConfigError(msg)
    _refuse_super_frames_by_af_xdp((options["frame_size"],), (options["capture"],))
    return Plan(
        scenario=scenario,
        source=options["source"],
        capture=options["capture"],
        frame_size=options["frame_size"],
        duration=options["duration"],
        warm_up=options["warm_up"],
        seed=options["seed"],
        with_core=not options["without_core"],
        flow_timeout=options["flow_timeout"],
        memory_mb=options["max_buffer_size_mb"],
        workers=options["workers"],
    )


def _refuse_super_frames_by_af_xdp(sizes: tuple[str, ...], captures: tuple[str, ...]) -> None:
    if "super" in sizes and "af_xdp" in captures:
        msg = (
            "--frame-size super does not go with --capture af_xdp: the kernel cuts super-frames before such a program "
            "sees them, so that what is received cannot be compared with what was sent; take --capture af_packet"
        )
        raise ConfigError(msg)


def _run(plan: Any, keep: Path | None) -> dict[str, Any]:
    """Run a plan and judge it."""
    from dpi_probe._throwaway import work_folder
    from dpi_probe.bench import verdict
    from dpi_probe.bench.run import observe

    _need_for(plan)
    with work_folder(keep) as folder, _progress() as progress:
        observation = observe(plan, folder, progress)
    return verdict.judge(observation, _command_line())


def _need(*modules: str) -> None:
    """Check that the packages are there by which keys and certificates are made, and these."""
    _extras.need("the bench", "bench", *dict.fromkeys(("cryptography", *modules)))


def _need_for(plan: Any) -> None:
    """Check what is needed before anything is made; enter the namespace of a veth pair."""
    # Without a Core keys and certificates are made all the same.
    _need(*(_extras.CORE if plan.with_core else ()))
    if plan.source == "veth":
        from dpi_probe.bench import veth
        from dpi_probe.bench.scenarios import MTU

        veth.enter_namespace(MTU[plan.frame_size])


def _command_line() -> str:
    return " ".join(["dpi-probe", *sys.argv[1:]])


def _figure(number: float) -> str:
    """Four places, and as many as it has before the point."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _json(result: Any) -> str:
    return json.dumps(result, indent=1) + "\n"


@contextmanager
def _keeping(*files: tuple[Path | None, str]) -> Iterator[None]:
    """Write what is to be kept; within the block it is shown, and what could not be written is told after that.

    Raises:
        DpiProbeError: a file could not be written.
    """
    failures = []
    # Before it is shown: the terminal may have gone away meanwhile.
    for path, content in files:
        if path is None:
            continue
        try:
            with writing(path):
                path.write_text(content, encoding="utf-8", errors="backslashreplace")
        except DpiProbeError as error:
            failures.append(str(error))
    try:
        yield
    finally:
        if failures:
            raise DpiProbeError("\n".join(failures))


def _console() -> Console:
    from dpi_probe.cli._console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A file or a pipe: wide enough for every table.
        console.width = 120
    return console


class _Progress:
    """Tells on standard error what happens: in place on a terminal, else a line for each step."""

    def __init__(self, console: Console, status: Status | None) -> None:
        self._console, self._status = console, status
        self._said = ""

    def __call__(self, what: str, share: float) -> None:
        """What is being done, and which share of it is."""
        if self._status is not None:
            self._status.update(f"{what} {100 * share:.0f} %" if share else what)
        elif what != self._said:
            self._said = what
            self._console.print(what)

    def say(self, what: str) -> None:
        """What has come out; it stays."""
        self._console.print(what)


@contextmanager
def _progress() -> Iterator[_Progress]:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Progress(console, None)
        return
    with console.status("starting") as status:
        yield _Progress(console, status)
