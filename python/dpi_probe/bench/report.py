"""Results as one self-contained HTML page with charts: no scripts, no other files."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from dpi_probe.bench import machine
from dpi_probe.bench.show import measured, target, value, word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dpi_probe.bench.verdict import Result

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 30
# Where the ground of the warm-up is narrower, its name has no room.
WARM_UP_WIDTH = 70
COLOURS = ("#1f6feb", "#d4660d", "#1a7f37")

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #1f2328; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
.meta { color: #59636e; } table { border-collapse: collapse; margin: .6rem 0; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #d1d9e0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.PASS { color: #1a7f37; font-weight: 600; } .FAIL { color: #cf222e; font-weight: 600; } .na { color: #818b98; }
.not-measured { color: #9a6700; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .2rem; } svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: #59636e; } .legend span { margin-right: 1rem; }
pre { background: #f6f8fa; padding: .6rem; overflow-x: auto; } ul { margin: .3rem 0; }
"""

CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Rate, Gbit/s", (("offered_gbps", "offered"), ("gbps", "processed"))),
    ("Dropped frames, %", (("drops_percent", "dropped"),)),
    ("Packet latency from offer to processed, ms", (("latency_p99_ms", "p99"), ("latency_mean_ms", "mean"))),
    ("Resident memory, MiB", (("resident_mb", "probe"),)),
    ("CPU, cores (the source on the probe's thread included)", (("probe_cores", "probe"),)),
    ("Records ended, 1/s", (("records_per_second", "records"),)),
    ("Flows at once", (("flows_active", "flows"),)),
)


def page(results: Sequence[Result]) -> str:
    """One page for all results."""
    parts = [_section(result) for result in results]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>dpi-probe bench</title>"
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _text(content: object) -> str:
    return html.escape(str(content))


def _planned(criterion: dict[str, Any]) -> str:
    """Beside a limit that lies below what was planned: the plan."""
    return f" of {_text(value(criterion['planned'], criterion['unit']))}" if "planned" in criterion else ""


def _section(result: Result) -> str:
    plan, figures = result["plan"], result["figures"]
    scenario = plan["scenario"]
    rows = "".join(
        f"<tr><td>{_text(criterion['what'])}</td>"
        f"<td>{_text(target(criterion))}{_planned(criterion)}</td><td>{_text(measured(criterion))}</td>"
        f"<td class='{word(criterion).replace('/', '').replace(' ', '-')}'>{word(criterion)}</td></tr>"
        for criterion in result["criteria"]
    )
    limits = "".join(
        f"<li><b>{_text(limit['criterion'])}</b>: limited by <b>{_text(limit['stage'])}</b>; "
        f"{_text(limit['because'])}</li>"
        for limit in result["limits"]
    )
    wrong = "".join(f"<li class='FAIL'>{_text(line)}</li>" for line in result["books"]["wrong"])
    charts = "".join(_chart(title, lines, result["series"]) for title, lines in CHARTS)
    threads = "".join(
        f"<tr><td>{_text(name)}</td><td>{share:.2f}</td></tr>" for name, share in figures["probe_threads"].items()
    )
    return f"""
<h1>{_text(scenario["name"])}: {_text(value(scenario["bits_per_second"], "bit/s"))},
{scenario["flows_per_second"]:,} new flows/s</h1>
<div class='meta'>source {_text(plan["source"])}, mean frame {result["traffic"]["mean_frame_bytes"]:.0f} B,
{plan["duration"]:g} s measured after {plan["warm_up"]:g} s, idle timeout {plan["flow_timeout"]:g} s<br>
{_text(machine.one_line(result["machine"]))}, dpi-probe {_text(result["machine"]["dpi_probe"])}
{_text(result["machine"]["commit"] or "")}</div>
<pre>{_text(result["command"])}</pre>
<table><tr><th>criterion</th><th>target</th><th>measured</th><th></th></tr>{rows}</table>
<ul>{limits}{wrong}</ul>
<p>The probe took <b>{figures["probe_cores"]:.2f}</b> core-seconds a second, the source {figures["source_cores"]:.2f},
the Core with its indexer {figures["core_cores"]:.2f}; the whole machine {figures["machine_cores"]:.2f} of
{result["machine"]["cpus"]}.</p>
<div class='charts'>{charts}</div>
<h2>Threads of the probe</h2><table><tr><th>thread</th><th>cores</th></tr>{threads}</table>
"""


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = int(low / step)
    return [number * step for number in range(first, int(high / step) + 2) if low - step / 2 <= number * step <= high]


def _chart(title: str, lines: Sequence[tuple[str, str]], series: dict[str, list[Any]]) -> str:
    """A line chart as SVG; the measured part has a white ground."""
    times = series["time"]
    known = [number for name, _ in lines for number in series[name] if number is not None]
    if len(times) < 2 or not known:
        return ""
    low, high = times[0], times[-1]
    top = max(known) * 1.08 or 1.0

    def x(time: float) -> float:
        return float(LEFT + (time - low) / (high - low) * (WIDTH - LEFT - RIGHT))

    def y(number: float) -> float:
        return HEIGHT - BOTTOM - float(number / top) * (HEIGHT - TOP - BOTTOM)

    ground = f"width='{max(x(0) - LEFT, 0):.1f}' height='{HEIGHT - TOP - BOTTOM}' fill='#f0f2f4'"
    marks = [f"<rect x='{LEFT}' y='{TOP}' {ground}/>"]
    if x(0) - LEFT > WARM_UP_WIDTH:
        marks.append(f"<text x='{LEFT + 6}' y='{TOP + 14}'>warm-up</text>")
    for number in _ticks(0, top):
        at = f"{y(number):.1f}"
        marks += [
            f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at}' y2='{at}' stroke='#e3e7eb'/>",
            f"<text x='{LEFT - 6}' y='{y(number) + 4:.1f}' text-anchor='end'>{number:,.6g}</text>",
        ]
    foot = HEIGHT - BOTTOM
    for time in _ticks(low, high):
        # Rounding may set one a little beside the picture.
        at = f"{min(max(x(time), LEFT), WIDTH - RIGHT):.1f}"
        marks += [
            f"<line x1='{at}' x2='{at}' y1='{foot}' y2='{foot + 5}' stroke='#59636e'/>",
            f"<text x='{at}' y='{foot + 18}' text-anchor='middle'>{time:g} s</text>",
        ]
    for colour, (name, _) in zip(COLOURS, lines, strict=False):
        points = " ".join(
            f"{x(time):.1f},{y(number):.1f}"
            for time, number in zip(times, series[name], strict=True)
            if number is not None
        )
        marks.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.6'/>")
    legend = "".join(
        f"<span style='color:{colour}'>&#9644; {_text(label)}</span>"
        for colour, (_, label) in zip(COLOURS, lines, strict=False)
    )
    return (
        f"<figure><figcaption>{_text(title)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{_text(title)}'>{''.join(marks)}</svg>"
        f"<div class='legend'>{legend}</div></figure>"
    )
