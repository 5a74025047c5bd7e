"""`dpi-probe tune`: set what is safe to set, and take it back."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dpi_probe.doctor.tuning import Step

UNDO_FILE = Path("/var/lib/dpi-probe/tune-undo.json")
# state -> word and style.
WORDS = {
    "planned": ("would set", "yellow"),
    "set": ("set", "green"),
    "unchanged": ("as it is", "bright_black"),
    "refused": ("refused", "bold red"),
    "interrupts": ("not safe", "magenta"),
    "undone": ("undone", "green"),
    "gone": ("gone", "bright_black"),
    "left": ("left", "yellow"),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("interfaces", nargs=-1, metavar="[IFACE]…")
@click.option("--apply", "applied", is_flag=True, help="Set what the plan says and is safe.")
@click.option("--revert", "reverted", is_flag=True, help="Take back what --apply set.")
@click.option(
    "--interrupt",
    "interrupting",
    is_flag=True,
    help="Also set, or set back, what may take the link down for a moment (rings, LRO, hardware GRO).",
)
@click.option(
    "--undo-file",
    type=FilePath(path_type=Path, dir_okay=False),
    default=UNDO_FILE,
    show_default=True,
    help="Where --apply writes how to undo it, before it changes anything.",
)
@click.option(
    "-C",
    "--config",
    "config_file",
    metavar="TOML",
    type=FilePath(path_type=Path),
    help="Settings file of the probe.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the steps as JSON.")
def command(
    interfaces: tuple[str, ...],
    applied: bool,
    reverted: bool,
    interrupting: bool,
    undo_file: Path,
    config_file: Path | None,
    as_json: bool,
) -> None:
    r"""Set what `dpi-probe doctor` finds wrong with IFACE and the machine, as far as that is safe.

    Alone it shows the plan and changes nothing. `--apply` sets what loses no packet and takes nothing from the host's
    own traffic; what may take the link down for a moment needs `--interrupt` besides. Everything lasts until the
    machine restarts. Doing it twice does nothing more. `--revert` sets back what still has the value that was set, with
    `--interrupt` also what may take the link down.

    \b
    dpi-probe tune eth0
    dpi-probe tune --apply eth0
    dpi-probe tune --revert

    Exit status: 0 done, or nothing to do; 1 something was refused; 2 bad usage or setting; 3 no such interface;
    5 missing permission.
    """
    from dpi_probe.config import load
    from dpi_probe.doctor import CHECKS, default_interfaces, examine, tuning, unknown_interfaces
    from dpi_probe.doctor.machine import Machine
    from dpi_probe.doctor.netlink import Network

    if applied and reverted:
        raise click.UsageError("--apply and --revert exclude each other")
    if reverted and interfaces:
        raise click.UsageError("--revert takes back everything that was set: name no interface")
    machine = Machine(Network())
    if reverted:
        steps = tuning.revert(machine, undo_file, interrupting=interrupting)
    else:
        settings = load({"capture_iface": interfaces[0] if len(interfaces) == 1 else None}, config_file)
        names = list(interfaces) or default_interfaces(machine, settings)
        if missing := unknown_interfaces(machine, names):
            raise CaptureError(f"{missing[0]}: there is no such interface in this network namespace")
        # What changes nothing need not be looked at: the spool's disk is not measured here.
        checks = [check for check in CHECKS if check.name not in {"spool space", "spool speed"}]
        wanted = tuning.changes(examine(machine, settings, names, checks))
        if applied:
            steps = tuning.apply(machine, wanted, undo_file, interrupting=interrupting)
        else:
            steps = tuning.plan(machine, wanted, interrupting=interrupting)
    if as_json:
        with writing():
            click.echo(json.dumps({"undo_file": str(undo_file), "steps": [step.to_dict() for step in steps]}))
    else:
        _show(steps, undo_file, applied=applied, reverted=reverted)
    refused = [step for step in steps if step.state == "refused"]
    sys.exit(5 if any(step.forbidden for step in refused) else 1 if refused else 0)


def _show(steps: Sequence[Step], undo_file: Path, *, applied: bool, reverted: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from dpi_probe.cli.doctor import console

    out = console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for step in steps:
        word, style = WORDS[step.state]
        values = Text(f"{step.before} → {step.after}" if step.after not in {None, step.before} else step.before or "")
        if step.reason:
            values.append(f" ({step.reason})" if values else step.reason, style="bright_black")
        table.add_row(Text(word, style=style), str(step.change), values)
    if steps:
        out.print(table)
    states = {step.state for step in steps}
    elsewhere = "" if undo_file == UNDO_FILE else f" --undo-file {shlex.quote(str(undo_file.absolute()))}"
    revert = f"dpi-probe tune --revert{elsewhere}"
    if reverted:
        safely = "safely " if "interrupts" in states else ""
        said = f"everything that could {safely}be is set back" if steps else "nothing to undo"
    elif not states - {"unchanged"}:
        said = "nothing to set"
    elif applied:
        done = [step for step in steps if step.state == "set"]
        interrupting = " --interrupt" if any(step.change.interrupts for step in done) else ""
        said = f"`{revert}{interrupting}` undoes it, as {undo_file} says" if done else "nothing was set"
    else:
        said = "nothing was changed; add --apply to set this" if "planned" in states else "nothing that is safe to set"
    # A command must stay in one line, so that it can be copied, and brackets in a path are no markup.
    out.print(said, soft_wrap=True, markup=False)
    if "interrupts" in states:
        command = f"it is left as it is; `{revert} --interrupt` sets it back" if reverted else "--interrupt sets it too"
        out.print(f"what is not safe may take the link down for a moment; {command}", soft_wrap=True, markup=False)
