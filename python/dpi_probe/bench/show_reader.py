"""The result of `bench reader` on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpi_probe._counted import counted
from dpi_probe.bench import machine

if TYPE_CHECKING:
    from rich.console import Console


def show(console: Console, result: dict[str, Any]) -> None:
    """A table of all sizes and receivers, and what limited the probe."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    setting = result["setting"]
    console.print(f"[dim]{machine.one_line(result['machine'])}[/dim]")
    if result["no_bare_ring"]:
        console.print(f"[yellow]no bare ring: {result['no_bare_ring']}; compared with {result['base']}[/yellow]")
    cpus = (
        f"the sender on CPU {setting['sender_cpus'][0]}, the receivers on {_list(setting['receiver_cpus'])}"
        if setting["sender_cpus"]
        else "sender and receivers share one CPU"
    )
    console.print(f"ratio: of the frames/s of the {result['base']}; target {100 * result['target']:.0f} %")
    console.print(f"median of {counted(setting['repeat'], 'turn')} of {setting['duration']:g} s; {cpus}")
    # Narrow, so that all of it stands on a terminal of 80 columns.
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=0, show_edge=False)
    headings = ("receiver", "sent\nk/s", "received\nk/s", "Gbit/s", "dropped", "flows/s", "cores", "ratio", "")
    for name in headings:
        table.add_column(name, justify="left" if name in ("receiver", "") else "right", vertical="bottom")
    for row in result["sizes"]:
        table.add_row(f"[bold]{row['frame_size']} ({row['receivers'][0]['mean_frame_bytes']:.0f} B)[/bold]")
        for number, line in enumerate(row["receivers"]):
            table.add_row(
                line["receiver"] + (", af_xdp" if line["capture"] == "af_xdp" else ""),
                f"{line['sent_frames_per_second'] / 1e3:,.1f}",
                f"{line['frames_per_second'] / 1e3:,.1f}",
                f"{line['bits_per_second'] / 1e9:.2f}",
                _percent(line["drop_ratio"]),
                "" if line["flows_per_second"] is None else f"{line['flows_per_second']:,.0f}",
                f"{line['cores']:.2f}",
                "-" if line["ratio"] is None else f"{100 * line['ratio']:.0f} %",
                _word(line),
                end_section=number == len(row["receivers"]) - 1,
            )
    console.print(table)
    lines = [line for row in result["sizes"] for line in row["receivers"]]
    if any(line["frames_per_second"] > line["sent_frames_per_second"] for line in lines):
        console.print(
            "received may be a little above sent: sender and receiver are sampled each at its own times, and what "
            "waited in the ring when measuring began is received too"
        )
    for row in result["sizes"]:
        for line in row["receivers"]:
            if "limit" in line:
                way = ", ".join(line["ways"])
                console.print(f"[yellow]{row['frame_size']}, {way}[/yellow]: limited by {line['limit']}", markup=True)
            for fault in dict.fromkeys(line["wrong"]):
                console.print(f"[red]the books do not balance:[/red] {fault}", markup=True)


def _percent(ratio: float) -> str:
    return "<0.01 %" if 0 < ratio < 0.0001 else f"{100 * ratio:.2f} %"


def _word(line: dict[str, Any]) -> str:
    if "passed" not in line:
        return ""
    if line["passed"] is None and line["capture"] != "af_packet":
        return "[dim]n/a[/dim]"
    return {True: "[green]PASS[/green]", False: "[red]FAIL[/red]", None: "[yellow]not shown[/yellow]"}[line["passed"]]


def _list(cpus: list[int]) -> str:
    return ", ".join(map(str, cpus))
