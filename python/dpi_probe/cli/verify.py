"""`dpi-probe verify`: check evidence offline."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from dpi_probe._counted import counted
from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath

if TYPE_CHECKING:
    from dpi_probe._verify import Report


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…", type=FilePath(path_type=Path, readable=False))
@click.option(
    "--ca",
    envvar="CA_CERT_PATH",
    show_envvar=True,
    type=FilePath(path_type=Path),
    help="CA certificate (PEM) that must have issued every certificate.",
)
@click.option(
    "--certificate",
    "certificates",
    envvar="PROBE_CERT_PATH",
    show_envvar=True,
    multiple=True,
    type=FilePath(path_type=Path),
    help="Certificate of a probe (PEM), or a directory of them. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(paths: tuple[Path, ...], ca: Path | None, certificates: tuple[Path, ...], as_json: bool) -> None:
    r"""Check sealed batches, spools, archives, exports and proofs.

    Checks the signature, chain, Merkle root and every record, and prints which batch or record is wrong and how, one
    line each. Archives and exports bring their certificates; for all else name them. Without --ca only the certificates
    that are named count, or, where none is, those that the evidence brings. Receipts and chain heads are
    checked under a CA only: the one that is named, or else that of the evidence where no certificate is named.

    \b
    dpi-probe verify --certificate probe.pem BUFFER_DIR
    dpi-probe verify --ca ca.pem /var/lib/dpi-probe/core
    dpi-probe verify --ca ca.pem --certificate probe.pem proof.json

    Exit status: 0 everything holds, 3 something could not be read, 4 something does not hold.
    """
    from dpi_probe._verify import verify_paths

    with _Progress(sum(map(_size, paths)), shown=sys.stderr.isatty() and not as_json) as progress:
        report = verify_paths(paths, ca=ca, certificates=certificates, progress=progress.advance)
    with writing():
        if as_json:
            # In ASCII: a file name need not be UTF-8.
            click.echo(json.dumps(report.to_dict()))
        else:
            _print(report)
    sys.exit(report.exit_status)


def _size(path: Path) -> int:
    """Bytes at or below a path, as far as they may be seen: for the progress bar."""
    total = 0
    for file in [path, *(Path(parent, name) for parent, _, names in os.walk(path) for name in names)]:
        with suppress(OSError):
            total += file.stat().st_size
    return total


class _Progress:
    """A progress bar on a terminal, else nothing."""

    def __init__(self, total: int, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
        self._task = self._progress.add_task("verifying", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, count: int) -> None:
        """Note that so many bytes more were checked."""
        self._progress.advance(self._task, count)


def _print(report: Report) -> None:
    """Findings on stdout, one line each; what trust rests on, on stderr."""
    from rich.text import Text

    from dpi_probe.cli._console import Console

    console = Console(soft_wrap=True, highlight=False)
    for because in report.trusted:
        click.echo(f"trusting {because}", err=True)
    for finding in report.findings:
        style = "red" if finding.severity == "fault" else "yellow"
        console.print(Text.assemble((f"{finding.severity}: ", style), str(finding)))
    parts = [
        counted(*words)
        for words in (
            (report.batches, "batch", "batches"),
            (report.records, "record"),
            (report.manifests, "manifest of a dropped batch", "manifests of dropped batches"),
            (report.proofs, "proof"),
            (report.receipts, "receipt"),
            (report.heads, "chain head"),
            (len(report.chains), "chain"),
        )
        if words[0]
    ]
    if not parts and not report.faults:
        console.print(Text("nothing to check", "yellow"))
        return
    if report.faults:
        verdict, style = counted(len(report.faults), "fault"), "red"
    elif report.unchecked_receipts or report.unchecked_heads:
        verdict, style = "what could be checked holds", "yellow"
    else:
        verdict, style = "everything holds", "green"
    console.print(Text.assemble((verdict, style), f": {', '.join(parts) or 'nothing'} checked"))
