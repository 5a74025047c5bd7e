"""`dpi-probe doctor`: what is right on this machine, what is wrong, why it matters, and what mends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.text import Text

    from dpi_probe.doctor.findings import Finding

WIDTH_WITHOUT_TERMINAL = 140
# What the text has at least, on however narrow a terminal.
LEAST_WIDTH = 20
# status -> word and style.
WORDS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "bold red"),
    "not-applicable": ("n/a", "bright_black"),
    "unknown": ("unknown", "magenta"),
}
# Words that take an s where there are several.
COUNTED = {"warning", "problem"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("interfaces", nargs=-1, metavar="[IFACE]…")
@click.option(
    "-C",
    "--config",
    "config_file",
    metavar="TOML",
    type=FilePath(path_type=Path),
    help="Settings file of the probe; what is checked depends on it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(interfaces: tuple[str, ...], config_file: Path | None, as_json: bool) -> None:
    r"""Say what is right and wrong for capturing on IFACE, why it matters, and the command that mends it.

    Looks at the interface (rings, queues, offloads, XDP, interrupts), the machine (processors, memory, kernel limits,
    clock, capabilities), the spool's disk and the certificates, and changes nothing: the spool's disk is measured with
    at most 24 files that are removed again. Without IFACE, CAPTURE_IFACE is taken, or else every interface that has a
    device and is up. Works without root, and then says what it could not look at.

    \b
    dpi-probe doctor eth0
    dpi-probe doctor --json eth0 | jq '.findings[] | select(.status == "problem")'

    Exit status: 0 no problem was found (there may be warnings), 1 there are problems, 2 bad usage or setting, 3 no such
    interface.
    """
    from dpi_probe.config import load
    from dpi_probe.doctor import default_interfaces, examine, unknown_interfaces
    from dpi_probe.doctor.machine import Machine
    from dpi_probe.doctor.netlink import Network

    settings = load({"capture_iface": interfaces[0] if len(interfaces) == 1 else None}, config_file)
    machine = Machine(Network())
    names = list(interfaces) or default_interfaces(machine, settings)
    if not names and not as_json:
        click.echo("no interface is named, and none that has a device is up: only the machine is looked at", err=True)
    findings = list(examine(machine, settings, names))
    missing = unknown_interfaces(machine, names)
    if as_json:
        count = {status: sum(finding.status == status for finding in findings) for status in WORDS}
        with writing():
            click.echo(json.dumps({"count": count, "findings": [finding.to_dict() for finding in findings]}))
    else:
        show(findings, missing)
    if missing:
        # Every other one was examined, and what was found is shown.
        raise CaptureError(
            "\n".join(f"{name}: there is no such interface in this network namespace" for name in missing)
        )
    sys.exit(any(finding.status == "problem" for finding in findings))


def console() -> Console:
    """A console as wide as the terminal; wide enough for most lines where there is none."""
    from dpi_probe.cli._console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def show(findings: Sequence[Finding], missing: Sequence[str] = ()) -> None:
    """Print what was found on each interface and the machine, and the sum; `missing` are interfaces that are not."""
    from rich.text import Text

    out = console()
    scopes = list(dict.fromkeys(finding.interface for finding in findings))
    for scope in scopes:
        own = [finding for finding in findings if finding.interface == scope]
        words = max(len(WORDS[finding.status][0]) for finding in own) + 2
        names = max(len(finding.check.name) for finding in own) + 2
        out.print(Text(f"interface {scope}" if scope else "this machine", style="bold"))
        for finding in own:
            word, style = WORDS[finding.status]
            head = Text.assemble((word.ljust(words), style), finding.check.name.ljust(names))
            for line in _lines(finding, out, words + names):
                out.print(head + line, soft_wrap=True)
                head = Text(" " * (words + names))
        out.print()
    parts = [
        Text(f"{count} {word}{'s' if count > 1 and word in COUNTED else ''}", style=style)
        for status, (word, style) in WORDS.items()
        if (count := sum(finding.status == status for finding in findings))
    ]
    out.print(Text(", ").join(parts))
    shown = [scope for scope in scopes if scope is not None and scope not in missing]
    # Of interfaces that are not `tune` could show nothing, and without names it takes others.
    if any(finding.outcome.changes for finding in findings) and (shown or not missing):
        command = " ".join(["dpi-probe tune", *shown])
        out.print(Text.assemble("`", (command, "cyan"), "` shows what it would set of this"), soft_wrap=True)


def _lines(finding: Finding, out: Console, indent: int) -> Iterator[Text]:
    """What was found and, where something is wrong, why it matters and what mends it; a command is never broken."""
    from rich.text import Text

    outcome = finding.outcome
    texts = [Text(outcome.found, style="bright_black" if outcome.status == "not-applicable" else "")]
    is_wrong = outcome.status in {"warning", "problem"}
    if is_wrong:
        texts.append(Text(finding.matters, style="bright_black"))
    for text in texts:
        for line in text.wrap(out, max(LEAST_WIDTH, out.width - indent), overflow="fold"):
            line.rstrip()
            yield line
    if is_wrong and outcome.command:
        yield Text.assemble(("$ ", "bright_black"), (outcome.command, "cyan"))
