"""`dpi-probe prove`: one record's inclusion proof."""

from __future__ import annotations

from pathlib import Path

import click

from dpi_probe.cli._output import writing
from dpi_probe.cli._path import FilePath
from dpi_probe.errors import ConfigError, DpiProbeError, VerificationError

# What a place in a Merkle tree can be.
LAST_ROW = 2**64 - 1


@click.command()
@click.argument("batch", metavar="BATCH", type=FilePath(path_type=Path, readable=False))
@click.option(
    "--row", required=True, type=click.IntRange(0, LAST_ROW), metavar="N", help="Index of the record, from 0."
)
@click.option("-o", "--output", type=FilePath(path_type=Path, dir_okay=False), help="File; else standard output.")
def command(batch: Path, row: int, output: Path | None) -> None:
    r"""Write one record's inclusion proof as JSON.

    BATCH is a sealed batch (of a spool or an export). The proof holds the record, its place in the Merkle tree and the
    signed manifest: whoever has the probe's certificate checks it with `dpi-probe verify`, without the batch.

    \b
    dpi-probe prove BUFFER_DIR/pending/CHAIN-SEQ.arrows --row 7 > proof.json
    dpi-probe verify --certificate probe.pem proof.json
    """
    from dpi_probe import _native
    from dpi_probe._flows import refuse_overwrite
    from dpi_probe._verify.sources import is_batch, read

    if output is not None:
        refuse_overwrite(output, [batch])
    try:
        data = read(batch)
    except FileNotFoundError as error:
        raise _UnreadableError(f"{batch}: cannot be read: {error.strerror}; check the path") from error
    except OSError as error:
        raise _UnreadableError(f"{batch}: cannot be read: {error.strerror or error}") from error
    if not is_batch(batch, data):
        raise _UnreadableError(f"{batch}: is not a sealed batch (*.arrows)")
    try:
        proof = _native.prove(data, row)
    except VerificationError as error:
        if getattr(error, "check", None) == "row":
            raise ConfigError(f"--row {row}: {batch}: {error}") from error
        raise VerificationError(f"{batch}: {error}") from error
    if output is None:
        with writing():
            click.echo(proof)
        return
    with writing(output):
        output.write_text(proof + "\n")


class _UnreadableError(DpiProbeError):
    exit_status = 3
