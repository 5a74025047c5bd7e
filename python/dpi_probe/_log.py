"""The log of the data plane, for what Python has to say."""

from __future__ import annotations

from dpi_probe import _native


def log(level: str, message: str) -> None:
    r"""Write a line; what in a file's name is not UTF-8 stands as `\udcNN`, as on standard output."""
    _native.log(level, message.encode("utf-8", "backslashreplace").decode())
