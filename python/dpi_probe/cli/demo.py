"""`dpi-probe demo`: the whole path on recorded traffic, then a flipped bit and how it is found."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpi_probe._counted import counted
from dpi_probe._throwaway import complaints, make_authority, run_command, running_core, work_folder
from dpi_probe.cli import _extras, _signals
from dpi_probe.cli._input import InputFile
from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import CaptureError, ConfigError, DpiProbeError

if TYPE_CHECKING:
    from rich.console import Console

    from dpi_probe._throwaway import RunningCore

# Exit statuses of `run` and `verify`.
CANNOT_BE_READ = 3
DOES_NOT_HOLD = 4
DEFAULT_CAPTURES = "tests/corpus/*/input.pcap*"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, type=InputFile())
@click.option("--keep", type=FilePath(path_type=Path, file_okay=False), help="Leave everything in this new folder.")
def command(files: tuple[Path, ...], keep: Path | None) -> None:
    """Make a throw-away authority and Core, run a probe over FILES, and show what the Core then knows.

    At the end one bit of an archived batch is flipped, and `dpi-probe verify` names what no longer holds. Without FILES
    the captures of a source checkout are taken.
    """
    from dpi_probe.cli._console import Console

    _extras.need("the demo", "core", *_extras.CORE)
    captures = list(files) or sorted(Path.cwd().glob(DEFAULT_CAPTURES))
    if not captures:
        msg = f"no captures: name some, or run the demo where {DEFAULT_CAPTURES} exists (a source checkout)"
        raise DpiProbeError(msg)
    if keep is not None and keep.exists():
        msg = f"--keep {keep}: it exists; the folder must be new"
        raise ConfigError(msg)
    console = Console(highlight=False)
    _signals.end_as_after_interrupt()
    with ExitStack() as stack:
        with writing(keep or tempfile.gettempdir()):
            folder = stack.enter_context(work_folder(keep, verb="demo"))
        is_whole = _show(console, folder, captures)
    console.print(f"[dim]everything is in {folder}[/dim]" if keep else "[dim]everything that was made is removed[/dim]")
    # Some of a checkout's captures are cut for a purpose.
    if files and not is_whole:
        sys.exit(CANNOT_BE_READ)


def _show(console: Console, folder: Path, captures: list[Path]) -> bool:
    """Show everything; whether all of the captures could be read.

    Raises:
        CaptureError: nothing of them could be read.
    """
    start = time.monotonic()
    console.rule("[bold]1. an authority, a Core, a probe", align="left")
    pki = folder / "pki"
    with console.status("making keys and certificates"):
        make_authority(pki, "demo")
    console.print(f"authority in {pki}: a Core certificate (P-256) and a probe certificate (RSA-4096)")
    # The demo waits for the index, so that must not stand back behind whatever else the machine does.
    with running_core(folder, pki, CORE_DATABASE_NICE="0") as core:
        console.print(f"Core on {core.url} (mutual TLS 1.3), queries on {core.admin_url}")
        report = folder / "report.json"
        with console.status("the probe reads, seals and delivers"):
            done = run_command(
                "run",
                *[argument for capture in captures for argument in ("-r", str(capture))],
                f"--core-api-url={core.url}",
                f"--buffer-dir={folder / 'spool'}",
                f"--probe-cert-path={pki / 'probes/demo.pem'}",
                f"--probe-key-path={pki / 'probes/demo.key'}",
                f"--ca-cert-path={pki / 'ca.pem'}",
                f"--report={report}",
                # A capture that is cut is metered up to there.
                statuses=(0, CANNOT_BE_READ),
            )
        books = json.loads(report.read_text())
        if done.returncode == CANNOT_BE_READ and not _sum(books, "frames_delivered"):
            raise CaptureError("\n".join(complaints(done)))
        for complaint in complaints(done):
            console.print(f"probe: {complaint}", style="yellow", markup=False)
        size = sum(capture.stat().st_size for capture in captures)
        console.print(
            f"probe: {counted(len(captures), 'capture')}, {size / 1e6:.1f} MB, "
            f"{counted(_sum(books, 'frames_delivered'), 'frame')}, "
            f"{counted(_sum(books, 'flows_exported'), 'flow record')}, "
            f"{counted(_sum(books, 'batches_sealed'), 'sealed batch', 'sealed batches')}, "
            f"{counted(_sum(books, 'batches_acknowledged'), 'receipt')}"
        )
        with console.status("waiting for the Core's index") as status:
            core.wait_until_indexed(lambda state: status.update(f"waiting for the Core's index: {state}"))
        _show_database(console, core, books)
    _show_flipped_bit(console, folder, pki)
    console.print(f"[dim]{time.monotonic() - start:.1f} s[/dim]")
    return done.returncode == 0


def _show_database(console: Console, core: RunningCore, books: list[dict[str, Any]]) -> None:
    console.rule("[bold]2. what the Core's database holds", align="left")
    applications = core.get("/v1/query/applications?limit=15")["applications"]
    _table(
        console,
        "flows by application",
        ("application", "flows", "packets", "bytes"),
        [(row["app"] or "not told", row["flows"], row["packets"], row["bytes"]) for row in applications],
    )
    if any(not row["app"] for row in applications):
        console.print(
            "[dim]not told: neither the payload nor the IP protocol or a port told the application, "
            "as of connections without payload[/dim]"
        )
    talkers = core.get("/v1/query/top-talkers?limit=8")["talkers"]
    _table(
        console,
        "top talkers",
        ("address", "bytes sent", "bytes received", "flows"),
        [(row["ip"], row["bytes_sent"], row["bytes_received"], row["flows"]) for row in talkers],
    )
    names = core.get("/v1/query/server-names?limit=200")["server_names"]
    _table(
        console,
        "TLS and QUIC server names",
        ("name", "application", "flows", "bytes"),
        [
            (row["server_name"], row["app"], row["flows"], row["bytes"])
            for row in names
            if row["app"] in ("tls", "quic")
        ][:12],
    )
    console.rule("[bold]3. the chain and the books", align="left")
    for probe in core.get("/v1/probes")["probes"]:
        for chain in probe["chains"]:
            console.print(
                f"probe [bold]{probe['probe']}[/bold], chain {chain['chain'][:8]}…: "
                f"{counted(chain['archived'], 'batch', 'batches')} archived, "
                f"{counted(chain['rows'], 'record')}, {chain['missing']} missing, {counted(chain['forks'], 'fork')}, "
                f"head {chain['head']['seq']} ({chain['head']['manifest'][:12]}…)"
            )
    flows = _sum(books, "flows_exported")
    console.print(
        f"[dim]{flows:,} of the records are flow records; the others are the probe's own: its ledger and events[/dim]"
    )
    accounts = (
        ("frames delivered", "frames_delivered"),
        ("  metered", "frames_metered"),
        ("  undecodable", "frames_undecodable"),
        ("flows opened", "flows_opened"),
        ("  exported", "flows_exported"),
        ("flow records sealed", "events_sealed"),
        ("flow records dropped", "events_dropped"),
        ("batches sealed", "batches_sealed"),
        ("  acknowledged", "batches_acknowledged"),
    )
    _table(console, "the probe's books", ("account", "count"), [(label, _sum(books, name)) for label, name in accounts])


def _show_flipped_bit(console: Console, folder: Path, pki: Path) -> None:
    from dpi_probe.core.archive import Located, iter_entries

    console.rule("[bold]4. one bit flipped in the archive", align="left")
    archive = folder / "core/archive"
    check = ("verify", str(archive), "--ca", str(pki / "ca.pem"), "--certificate", str(pki / "probes/demo.pem"))
    sound = run_command(*check)
    console.print(f"before: {sound.stdout.strip().splitlines()[-1]}")
    certificates = [_der(pki / "probes/demo.pem")]
    for item in iter_entries(archive):
        if isinstance(item, Located) and (flipped := _telling_flip(item.entry.body, certificates)) is not None:
            content = bytearray(item.path.read_bytes())
            at = content.find(item.entry.body, item.place.offset) + flipped
            content[at] ^= 0x01
            item.path.write_bytes(content)
            console.print(f"flipped the lowest bit of byte {at} in {item.path.name}; now `dpi-probe verify` says:")
            break
    else:
        console.print("there is no batch of flow records in which a bit could be flipped")
        return
    wrong = run_command(*check, statuses=(DOES_NOT_HOLD,))
    console.print(wrong.stdout.strip(), style="yellow", markup=False)
    console.print("[dim]the records that it counts are those of the batches that hold[/dim]")


def _telling_flip(batch: bytes, certificates: list[bytes]) -> int | None:
    """The offset of a byte of `batch` whose lowest bit changes one record and leaves the others readable.

    Most bytes lie in compressed column buffers, where a flipped bit takes the whole column with it; `verify` then names
    the column. This looks for one that shows a single record.
    """
    from dpi_probe import _native

    if _native.read_claims(batch)["claims"]["kind"] != "flow":
        return None
    for offset in range(len(batch) - 64, len(batch) // 4, -61):
        changed = bytearray(batch)
        changed[offset] ^= 0x01
        diagnosis = _native.diagnose_batch(bytes(changed), certificates)
        if len(diagnosis["altered_rows"]) == 1 and not diagnosis["undecodable_columns"]:
            return offset
    return None


def _der(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def _sum(books: list[dict[str, Any]], account: str) -> int:
    return sum(entry["value"] or 0 for entry in books if entry["account"] == account)


def _table(console: Console, title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 or name == "application" else "right")
    for row in rows:
        table.add_row(*[f"{value:,}" if isinstance(value, int) else str(value) for value in row])
    console.print(table)
