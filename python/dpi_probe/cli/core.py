"""`dpi-probe core`: run the Core, or rebuild and export what it holds."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpi_probe._counted import counted
from dpi_probe.cli import _extras
from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dpi_probe.core.settings import CoreSettings

PATH = FilePath(path_type=Path)


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every verb of `core` has."""
    for option in (
        click.option("--pki", type=PATH, help="Directory of `dpi-probe pki init`.  [env: CORE_PKI; default: pki]"),
        click.option(
            "--database",
            help="Index: chdb:///PATH or clickhouse://HOST/DB.  [env: CORE_DATABASE; default: in the data directory]",
        ),
        click.option(
            "--data-dir",
            type=PATH,
            help="Archive, catalog, database.  [env: CORE_DATA_DIR; default: /var/lib/dpi-probe/core]",
        ),
        click.option("-C", "--config", type=PATH, help="TOML file with a table [core].  [env: DPI_PROBE_CONFIG]",
                     envvar="DPI_PROBE_CONFIG"),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_common
@click.option("--listen", help="HOST:PORT for probes.  [env: CORE_LISTEN; default: 127.0.0.1:8443]")
@click.option(
    "--admin-port", type=int, help="Loopback port for queries and metrics.  [env: CORE_ADMIN_PORT; default: 8444]"
)
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> None:
    r"""Receive sealed batches, verify, archive and index them.

    \b
    dpi-probe pki init pki --probe sensor1
    dpi-probe core --pki pki --listen 0.0.0.0:8443
    curl 'http://127.0.0.1:8444/v1/flows?app=tls'
        queries; also /v1/probes, /v1/health, /metrics
    dpi-probe core export --out evidence/
        sealed batches, receipts, certificates, chain heads
    dpi-probe core reindex
        the database again, from the archive

    SIGTERM ends it cleanly. Every setting also has an environment name CORE_… and a place in the table [core];
    docs/reference/core-config.md lists them.
    """
    if context.invoked_subcommand is not None:
        context.obj = flags
        return
    settings = _settings(flags, {})
    import asyncio

    from dpi_probe.core.log import set_up_logging
    from dpi_probe.core.service import serve

    set_up_logging()
    asyncio.run(serve(settings, lambda _: None))


@command.command()
@_common
@click.option("--out", type=PATH, required=True, help="An empty directory.")
@click.option("--probe", help="Only this probe's.")
@click.pass_obj
def export(parent: dict[str, Any], /, out: Path, probe: str | None, **flags: Any) -> None:
    """Write sealed batches and all that proves them to a directory.

    That is receipts, certificates and signed chain heads.

    The Core may be running. `dpi-probe verify DIRECTORY` checks the result without it.
    """
    settings = _settings(parent, flags)
    from dpi_probe.core.export import export as write
    from dpi_probe.core.log import set_up_logging
    from dpi_probe.core.receipt import CoreSigner
    from dpi_probe.core.trust import authority_of

    set_up_logging()
    archive = settings.data_dir / "archive"
    if not archive.is_dir():
        raise ConfigError(f"CORE_DATA_DIR = {str(settings.data_dir)!r}: no archive here")
    signer = CoreSigner(settings.certificate, settings.key)
    signer.check_issued(authority_of(settings.ca, archive), settings.pki)
    done = write(archive, out, signer, probe=probe)
    with writing():
        click.echo(
            f"{out}: {counted(done.batches, 'batch', 'batches')}, "
            f"{counted(done.manifests, 'manifest of a dropped batch', 'manifests of dropped batches')}, "
            f"{counted(done.forks, 'fork')}, {counted(done.chains, 'chain head')}"
        )
    if done.damaged:
        places = counted(done.damaged, "damaged place")
        click.echo(f"dpi-probe: left out of the export: {places} of the archive", err=True)
        sys.exit(4)


@command.command()
@_common
@click.pass_obj
def reindex(parent: dict[str, Any], /, **flags: Any) -> None:
    """Rebuild the database from the archive.

    Every batch is verified again.

    With `--database` of another database, a running Core is not disturbed.
    """
    settings = _settings(parent, flags)
    from dpi_probe._pki import load_certificate, role_of
    from dpi_probe.core.lock import check_owner
    from dpi_probe.core.log import set_up_logging
    from dpi_probe.core.reindex import reindex as rebuild

    check_owner(settings.data_dir)
    set_up_logging()
    # ClickHouse makes its files for everybody to read.
    os.umask(0o077)
    role = role_of(load_certificate(settings.certificate, "Core certificate"))
    if role is None or role[0] != "core":
        raise ConfigError(f"Core certificate {settings.certificate}: carries no Core role")
    shown = sys.stderr.isatty()

    def on_progress(done: int, total: int) -> None:
        if shown:
            click.echo(f"\rindexed {done} of {total} batches", err=True, nl=False)

    status = rebuild(
        settings.data_dir,
        role[1],
        settings.database_dsn,
        ca=settings.ca,
        memory_bytes=settings.database_memory_mb << 20,
        on_progress=on_progress,
    )
    if shown:
        click.echo(err=True)
    with writing():
        click.echo(f"indexed {counted(status.position, 'batch', 'batches')}, {counted(status.rows, 'row')}")
    if status.unindexed:
        entries = counted(status.unindexed, "entry", "entries")
        click.echo(f"dpi-probe: {entries} of the archive could not be indexed; see above", err=True)
        sys.exit(4)


def _settings(parent: dict[str, Any], flags: dict[str, Any]) -> CoreSettings:
    """The settings; a flag behind the verb goes before one in front of it."""
    given = {**parent, **{name: value for name, value in flags.items() if value is not None}}
    config = given.pop("config", None)
    _extras.need("the Core", "core", *_extras.CORE)
    from dpi_probe.core.settings import load_settings

    settings = load_settings(given, config)
    if settings.cert_path is None and not (settings.pki / "ca.pem").exists() and not settings.certificate.exists():
        raise ConfigError(
            f"Core certificate {settings.certificate}: No such file or directory; "
            f"make an authority with: dpi-probe pki init {shlex.quote(str(settings.pki))} --dns NAME"
        )
    return settings
