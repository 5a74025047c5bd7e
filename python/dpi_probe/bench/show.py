"""A result on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dpi_probe._counted import counted
from dpi_probe.bench import machine

if TYPE_CHECKING:
    from rich.console import Console

    from dpi_probe.bench.verdict import Result

PLOT_LINES = 11
# Markers of plotext.
LINE, DOTS = "hd", "·"


def value(number: float | None, unit: str) -> str:
    """A figure as a person reads it."""
    if number is None:
        return "not measured"
    if math.isinf(number):
        return "beyond the last bucket"
    shown = {
        "ratio": f"{100 * number:.3g} %",
        "s": _seconds(number),
        "B": f"{number / (1 << 20):,.0f} MiB",
        # Of a hundred Mbit/s, a thousandth must show.
        "bit/s": f"{number / 1e9:,.{3 if number >= 1e9 else 4}f} Gbit/s",
        "1/s": f"{number:,.0f}/s",
    }
    return shown.get(unit, f"{number:,.0f} {unit}")


def _seconds(number: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 1e6:.3g} µs"


def target(criterion: dict[str, Any]) -> str:
    """What the measured value is held against."""
    return f"{criterion['relation']} {value(criterion['target'], criterion['unit'])}"


def measured(criterion: dict[str, Any]) -> str:
    """The measured value, or what is known of it."""
    number = criterion["value"]
    said = value(number, criterion["unit"])
    is_bound = criterion.get("value_is_upper_bound") and number is not None and math.isfinite(number)
    return f"<= {said}" if is_bound else said


def word(criterion: dict[str, Any]) -> str:
    """PASS, FAIL, or that a criterion does not apply or was not measured."""
    if not criterion["applies"]:
        return "n/a"
    return {True: "PASS", False: "FAIL", None: "not measured"}[criterion["passed"]]


def show(console: Console, result: Result) -> None:
    """Criteria, figures, limits and how it went over time."""
    plan, figures, traffic = result["plan"], result["figures"], result["traffic"]
    scenario = plan["scenario"]
    console.rule(
        f"[bold]{scenario['name']}[/bold]: {value(scenario['bits_per_second'], 'bit/s')}, "
        f"{scenario['flows_per_second']:,} new flows/s from {plan['source']}, mean frame "
        f"{traffic['mean_frame_bytes']:.0f} B, {plan['duration']:g} s",
        align="left",
    )
    console.print(f"[dim]{machine.one_line(result['machine'])}[/dim]")
    _criteria(console, result)
    for limit in result["limits"]:
        console.print(
            f"[yellow]{limit['criterion']}[/yellow]: limited by [bold]{limit['stage']}[/bold]; {limit['because']}"
        )
    for wrong in result["books"]["wrong"]:
        console.print(f"[red]the books do not balance:[/red] {wrong}", markup=True)
    subtracted = "taken off already" if plan["source"] == "memory" else "in a process of its own"
    console.print(
        f"probe [bold]{figures['probe_cores']:.2f}[/bold] core-seconds a second at "
        f"{value(figures['bits_per_second'], 'bit/s')} and {figures['frames_per_second']:,.0f} frames/s; "
        f"source {figures['source_cores']:.2f} ({subtracted}), Core with indexer {figures['core_cores']:.2f}, "
        f"machine {figures['machine_cores']:.2f} of {result['machine']['cpus']}"
    )
    threads = ", ".join(f"{name} {share:.2f}" for name, share in list(figures["probe_threads"].items())[:6])
    console.print(f"[dim]threads: {threads}[/dim]")
    console.print(
        f"records: {figures['records_per_second']:,.0f}/s ended, {figures['records_sealed_per_second']:,.0f}/s sealed; "
        f"{counted(result['books']['totals'].get('batches_sealed', 0), 'batch', 'batches')} sealed, "
        f"{result['books']['totals'].get('batches_acknowledged', 0):,} acknowledged in all; at most "
        f"{figures['flows_active_max']:,} flows at once"
    )
    for name, degraded in figures["degraded"].items():
        console.print(
            f"[yellow]degraded: {name} for {100 * degraded['share_of_time']:.0f} % of the time, up to level "
            f"{degraded['deepest_level']:.0f}[/yellow]"
        )
    if figures["shed_ratio"]:
        console.print(
            f"[yellow]statistics or layer 7 were left out for {100 * figures['shed_ratio']:.0f} % of the time[/yellow]"
        )
    _plots(console, result["series"])


def _criteria(console: Console, result: Result) -> None:
    from rich.table import Table

    table = Table(header_style="bold")
    for name, justify in (("criterion", "left"), ("target", "right"), ("measured", "right"), ("", "left")):
        table.add_column(name, justify="left" if justify == "left" else "right")
    colours = {"PASS": "green", "FAIL": "red", "n/a": "dim", "not measured": "yellow"}
    for criterion in result["criteria"]:
        said = word(criterion)
        table.add_row(
            criterion["what"],
            target(criterion),
            measured(criterion),
            f"[{colours[said]}]{said}[/{colours[said]}]",
        )
    console.print(table)


def _plots(console: Console, series: dict[str, list[Any]]) -> None:
    """Rate, drops and latency over time."""
    import plotext

    if len(series["time"]) < 2:
        return
    for title, names in (
        ("rate, Gbit/s: dots offered, line processed (0 s: measuring begins)", ("offered_gbps", "gbps")),
        ("dropped frames, %", ("drops_percent",)),
        ("packet latency, ms: dots p99, line mean", ("latency_p99_ms", "latency_mean_ms")),
    ):
        if names == ("drops_percent",) and not any(series["drops_percent"]):
            # Its axis would reach below zero.
            console.print("no frame was dropped at any time", justify="center", width=min(console.width, 100))
            continue
        figure = plotext.figure
        figure.clear()
        figure.plot_size(min(console.width, 100), PLOT_LINES)
        figure.title(title)
        # The title says which is which, for a legend would cover the warm-up.
        for name, marker in zip(names, (DOTS, LINE)[-len(names) :], strict=True):
            points = [
                (time, number) for time, number in zip(series["time"], series[name], strict=True) if number is not None
            ]
            if points:
                times, numbers = [time for time, _ in points], [number for _, number in points]
                figure.draw(figure.signal(times, numbers, marker=marker).lines())
        console.print(figure.build().string(colorless=True), markup=False, highlight=False)
