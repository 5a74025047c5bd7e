"""Writing what a command has to say: what goes wrong meanwhile names where it was to go."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe.cli._path import FilePath
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

STANDARD_OUTPUT = "standard output"


@contextmanager
def writing(name: object = STANDARD_OUTPUT) -> Iterator[None]:
    """Within the block `name` is written.

    That nobody reads standard output any more ends the block and is no failure; the exit status is for what comes after
    the block to say.

    Raises:
        DpiProbeError: it cannot be; the message names it.
    """
    try:
        yield
        if name == STANDARD_OUTPUT:
            sys.stdout.flush()
    except DpiProbeError:
        raise
    except OSError as error:
        if name == STANDARD_OUTPUT and isinstance(error, BrokenPipeError):
            silence_stdout()
            return
        raise DpiProbeError(f"cannot write {name}: {error.strerror or error}") from error


class OutputFile(FilePath):
    """A file to be written: what stands against it shows before the work whose result it is to take."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path, if it can be written. What is there stays as it is."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        is_new = not path.exists()
        if is_new or path.is_file():
            with writing(path):
                path.open("ab").close()
            if is_new:
                path.unlink()
        return path


def silence_stdout() -> None:
    """Keep Python from trying at exit to write what standard output does not take any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
