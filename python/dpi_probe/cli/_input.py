"""What a command is to read: a file that is not there is told as `read` tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe.cli._path import FilePath
from dpi_probe.errors import CaptureError

if TYPE_CHECKING:
    import click


class InputFile(FilePath):
    """A file to be read: what stands against it shows before anything is begun, as an input that cannot be read."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path, if it can be read.

        Raises:
            CaptureError: it cannot.
        """
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            path.stat()
        except FileNotFoundError:
            raise CaptureError(f"{path}: no such file; check the path") from None
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror or error}") from None
        if path.is_dir():
            raise CaptureError(f"{path}: is a directory; name the files in it")
        if not os.access(path, os.R_OK):
            raise CaptureError(f"{path}: permission denied; give this user read access to the file")
        return path
