"""`dpi-probe top`: a running probe at a glance."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpi_probe.cli._number import Number
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from dpi_probe._scrape import Between

LATENCIES = (
    ("capture to processed", "dpi_probe_packet_latency_seconds", 0.010),
    ("flow end to record", "dpi_probe_export_latency_seconds", 0.100),
    ("record to wire", "dpi_probe_wire_latency_seconds", 0.050),
    ("sealing a batch", "dpi_probe_seal_duration_seconds", None),
    ("RSA signature", "dpi_probe_sign_duration_seconds", None),
    ("request to receipt", "dpi_probe_receipt_latency_seconds", None),
)
BAR = 10
# The widest that each table becomes, so that no number is ever cut off: that would say nothing.
LATENCY_WIDTH = 44
QUEUE_WIDTH = 41
# Of the applications' numbers, without and with the total.
RATE_WIDTH = 19
TOTAL_WIDTH = 27
# What an application's name has at least.
NAME = 14
# Between tables side by side.
GAP = 2
# From so many columns on all tables stand side by side; below the other bound, one stands under the other.
WIDE = LATENCY_WIDTH + QUEUE_WIDTH + NAME + TOTAL_WIDTH + 2 * GAP
NARROW = LATENCY_WIDTH + NAME + RATE_WIDTH + GAP
# Above this share a queue is degraded.
FULL = 0.8


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("probe", required=False, metavar="[PROBE]")
@click.option(
    "-d", "--interval", type=Number(0.1, 3600), default=1.0, show_default=True, metavar="S",
    help="Seconds between two looks; rates and latencies are of that time.",
)  # fmt: skip
@click.option(
    "-n", "--count", type=click.IntRange(1), metavar="N",
    help="End after so many looks; 1 where standard output is not a terminal, or one that cannot be redrawn.",
)  # fmt: skip
def command(probe: str | None, interval: float, count: int | None) -> None:
    r"""Show the rates, losses, queues, latencies and applications of a running probe.

    PROBE is the interface of a probe on this machine, or the address of its endpoint (METRICS_ADDRESS). Without it the
    only probe that runs here is taken. `q` or Ctrl-C ends it; if the probe goes away, it waits for it to come back.

    \b
    dpi-probe top eth0
    dpi-probe top http://127.0.0.1:20123
    dpi-probe top eth0 -d 10 -n 1 > now.txt
    """
    from dpi_probe._scrape import Between, NoAnswerError, Scrape, find_endpoint
    from dpi_probe.cli._console import Console

    console = Console(highlight=False)
    try:
        base = find_endpoint(probe)
        before = Scrape.of(base)
    except NoAnswerError as error:
        raise DpiProbeError(f"{_advice(probe)} ({error})") from None
    except DpiProbeError as error:
        if probe is None:
            raise
        raise DpiProbeError(f"{error}; give the URL of a probe, which `dpi-probe run` prints at its start") from None
    if not console.is_terminal or console.is_dumb_terminal:
        for _ in range(count or 1):
            time.sleep(interval)
            now = Scrape.of(base)
            console.print(screen(Between(before, now), console, base))
            if console.quiet:
                # Nobody reads it any more.
                return
            before = now
        return
    # Its way to end, as `q` is: nothing was broken off.
    with suppress(KeyboardInterrupt):
        _watch(console, base, Between(before, before), interval, count)


def _advice(probe: str | None) -> str:
    """What to do where no probe answers."""
    from dpi_probe._scrape import url_of

    url = "its URL, which `dpi-probe run` prints at its start"
    if probe is None or url_of(probe) is not None:
        return f"no probe answers there: start one with `dpi-probe run`, or give {url}"
    if not Path("/sys/class/net", probe).exists():
        return f"{probe}: there is no such interface here, and no probe on it answers; give another one, or {url}"
    return f"{probe}: no probe of it answers: start one with `dpi-probe run -i {probe}`, or give {url}"


def _watch(console: Console, base: str, last: Between, interval: float, count: int | None) -> None:
    from rich.live import Live

    from dpi_probe._scrape import Between, Scrape

    trouble = ""
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        shown = 0
        while count is None or shown < count:
            live.update(screen(last, console, base, trouble, waiting=shown == 0), refresh=True)
            if pressed(interval):
                return
            try:
                now = Scrape.of(base)
            except DpiProbeError as error:
                trouble = trouble or f"since {time.strftime('%H:%M:%S')}: {error}"
            else:
                last, trouble = Between(last.now, now), ""
            shown += 1
        live.update(screen(last, console, base, trouble), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits for so many seconds, and says whether `q` was pressed meanwhile."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    if not sys.stdin.isatty():
        yield _sleep
        return
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda seconds: _is_quit(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_quit(descriptor: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            key = os.read(descriptor, 16)
            if key == b"" or b"q" in key.lower():
                return True
    return False


def screen(last: Between, console: Console, base: str, trouble: str = "", *, waiting: bool = False) -> RenderableType:
    """Everything: two tables side by side, or all of them where there is room, or each below the other."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    wide, narrow = console.width >= WIDE, console.width < NARROW
    rates, queues, latencies = _rates(last), _queues(last), _latencies(last)
    beside_it = LATENCY_WIDTH + GAP + QUEUE_WIDTH + GAP if wide else 0 if narrow else LATENCY_WIDTH + GAP
    # What is left of the screen beside and below the other tables.
    applications = _applications(last, console.width - beside_it, console.height - (6 if wide else 18))

    def beside(*tables: RenderableType) -> Table:
        row = Table.grid(padding=(0, GAP), expand=False)
        row.add_row(*tables)
        return row

    if wide:
        tables: list[RenderableType] = [beside(Group(rates, Text(""), latencies), queues, applications)]
    elif narrow:
        tables = [rates, Text(""), queues, Text(""), latencies, Text(""), applications]
    else:
        tables = [beside(rates, queues), Text(""), beside(latencies, applications)]
    foot = _line(trouble, "bold red") if trouble else _state(last, base)
    if waiting and not trouble:
        foot = _line("rates and latencies show after the first interval", "dim")
    return Group(_title(last, wide=wide), foot, Text(""), *tables)


def _title(last: Between, *, wide: bool) -> RenderableType:
    from rich.text import Text

    now = last.now
    info = {label: now.label("dpi_probe_info", label) for label in ("version", "probe", "interface")}
    up = max(0, int(time.time() - now.sum("dpi_probe_start_time_seconds")))
    hours, rest = divmod(up, 3600)
    parts = [f"dpi-probe {info['version']}", info["probe"], f"up {hours}:{rest // 60:02}:{rest % 60:02}"]
    if wide and info["interface"] and not info["probe"].endswith(f"/{info['interface']}"):
        parts.insert(2, f"interface {info['interface']}")
    cores = last.rate("process_cpu_seconds_total")
    parts.append(f"{cores:.2f} cores")
    return Text(" · ".join(part for part in parts if part), style="bold", no_wrap=True, overflow="ellipsis")


def _state(last: Between, base: str) -> RenderableType:
    now = last.now
    if "dpi_probe_interface_up" in now.samples and not now.sum("dpi_probe_interface_up"):
        return _line("the interface is down or gone: nothing is captured", "bold red")
    suffers = [
        f"{name} (level {level:.0f})"
        for name, level in now.by("dpi_probe_degradation_level", "degradation").items()
        if level
    ]
    if suffers:
        return _line("degraded: " + ", ".join(suffers), "bold yellow")
    if now.sum("dpi_probe_delivery_refused"):
        return _line("the Core does not trust this probe", "bold red")
    if now.sum("dpi_probe_backpressure"):
        return _line("under back-pressure: the Core is slow or down, or there is none", "bold yellow")
    if not now.sum("dpi_probe_capturing"):
        return _line("not capturing: its log says why", "bold yellow")
    return _line(f"capturing; {base}", "green")


def _line(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _rates(last: Between) -> Table:
    table = _table("per second", "now", "total")
    for text, name in (
        ("packets captured", "dpi_probe_frames_delivered_total"),
        ("flow records begun", "dpi_probe_flows_opened_total"),
        ("flow records out", "dpi_probe_flows_exported_total"),
        ("records signed", "dpi_probe_events_sealed_total"),
        ("records sent", "dpi_probe_events_transmitted_total"),
        ("receipts (batches)", "dpi_probe_batches_acknowledged_total"),
    ):
        table.add_row(text, _number(last.rate(name)), _number(last.now.sum(name)))
    for text, names in (
        ("packets dropped", ("dpi_probe_source_frames_dropped_total",)),
        ("records lost", ("dpi_probe_events_dropped_total", "dpi_probe_flows_lost_total")),
        ("batches lost", ("dpi_probe_batches_dropped_total", "dpi_probe_batches_lost_total")),
    ):
        total = sum(last.now.sum(name) for name in names)
        rate = sum(last.rate(name) for name in names)
        table.add_row(text, _number(rate), _number(total), style="red" if rate > 0 else None)
    return table


def _queues(last: Between) -> Table:
    now = last.now
    table = _table("full", "", "of")
    for text, used, capacity, show in (
        ("capture queue", "capture_queue_used_bytes", "capture_queue_capacity_bytes", _bytes),
        ("flow table", "flow_table_used_flows", "flow_table_capacity_flows", _number),
        ("seal queue", "batches_waiting", "seal_queue_capacity_batches", _number),
        ("no receipt yet", "events_outstanding", "backpressure_threshold_events", _number),
        ("spool", "spool_used_bytes", "spool_capacity_bytes", _bytes),
        ("memory", "resident_memory_bytes", "memory_budget_bytes", _bytes),
    ):
        limit = now.sum(f"dpi_probe_{capacity}")
        held = now.sum(f"dpi_probe_{used}")
        share = held / limit if limit else 0.0
        full = min(BAR, round(share * BAR))
        style = "yellow" if share > FULL else None
        # Of what waits for receipts already a small share tells something: how many there are.
        bar = _number(held) if used == "events_outstanding" else "█" * full + "░" * (BAR - full)
        table.add_row(text, f"{bar} {share:4.0%}", show(limit) if limit else "", style=style)
    table.add_row("idle timeout", "", _seconds(now.sum("dpi_probe_idle_timeout_seconds")))
    table.add_row("wait for batches", "", _seconds(now.sum("dpi_probe_seal_linger_seconds")))
    return table


def _latencies(last: Between) -> Table:
    table = _table("latency", "mean", "p50", "p99")
    for text, name, budget in LATENCIES:
        mean, middle, high = last.mean(name), last.quantile(name, 0.5), last.quantile(name, 0.99)
        late = budget is not None and high is not None and high > budget
        shown = ["" if value is None else _seconds(value) for value in (mean, middle, high)]
        table.add_row(text, *shown, style="yellow" if late else None)
    return table


def _applications(last: Between, width: int, lines: int) -> Table:
    has_total = width >= NAME + TOTAL_WIDTH
    table = _table("application", "records/s", "bytes/s", *(["records"] if has_total else []))
    table.columns[0].max_width = max(NAME, width - (TOTAL_WIDTH if has_total else RATE_WIDTH))
    flows = last.rates("dpi_probe_application_flows_total", "app")
    sizes = last.rates("dpi_probe_application_bytes_total", "app")
    totals = last.now.by("dpi_probe_application_flows_total", "app")
    order = sorted(totals, key=lambda app: (sizes.get(app, 0), totals[app]), reverse=True)
    for app in order[: max(3, lines)]:
        shown = [_number(flows.get(app, 0)), _bytes(sizes.get(app, 0)), _number(totals[app])]
        table.add_row(app or "(none)", *shown[: len(table.columns) - 1])
    return table


def _number(value: float) -> str:
    """At most six places: `999,999`, `12.3 M`."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    if value < 1e6:
        return f"{value:,.0f}"
    for unit, size in (("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if value < size * 1000:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1e}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _seconds(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f} s"
    if value >= 1:
        return f"{value:.3g} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs"
