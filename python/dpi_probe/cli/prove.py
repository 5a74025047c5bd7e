"""`dpi-probe prove`: one record's inclusion proof."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("batch", metavar="BATCH", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--row", required=True, type=click.IntRange(min=0), help="Index of the record, from 0.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; else standard output.")
def command(batch: Path, row: int, output: Path | None) -> None:
    r"""Write one record's inclusion proof as JSON.

    BATCH is a sealed batch (of a spool or an export). The proof holds the record, its place in the Merkle tree and the
    signed manifest: whoever has the probe's certificate checks it with `dpi-probe verify`, without the batch.

    \b
    dpi-probe prove BUFFER_DIR/pending/CHAIN-SEQ.arrows --row 7 > proof.json
    dpi-probe verify --certificate probe.pem proof.json
    """
    from dpi_probe import _native
    from dpi_probe._verify.sources import read

    try:
        data = read(batch)
    except OSError as error:
        raise _Unreadable(f"{batch}: cannot be read: {error.strerror or error}") from error
    proof = _native.prove(data, row)
    if output is None:
        click.echo(proof)
        return
    try:
        output.write_text(proof + "\n")
    except OSError as error:
        raise click.ClickException(f"{output}: cannot be written: {error.strerror}") from error


class _Unreadable(click.ClickException):
    exit_code = 3
