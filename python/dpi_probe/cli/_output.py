"""Writing what a command has to say: what goes wrong meanwhile names where it was to go."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_OUTPUT = "standard output"


@contextmanager
def writing(name: object = STANDARD_OUTPUT) -> Iterator[None]:
    """Within the block `name` is written.

    Raises:
        DpiProbeError: it cannot be; the message names it.
        BrokenPipeError: nobody reads it any more, which is no failure.
    """
    try:
        yield
        if name == STANDARD_OUTPUT:
            sys.stdout.flush()
    except (BrokenPipeError, DpiProbeError):
        raise
    except OSError as error:
        raise DpiProbeError(f"cannot write {name}: {error.strerror or error}") from error


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 flow`, `2,000 flows`; `many` where it is not `one` and an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def silence_stdout() -> None:
    """Keep Python from trying at exit to write what standard output does not take any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
