"""What a command takes for a path."""

from __future__ import annotations

import os

import click


class FilePath(click.Path):
    """A path; an empty one, as of a shell's variable that is not set, would mean the current directory."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path, if it is one."""
        if not os.fspath(value):
            self.fail("an empty path is not allowed", param, ctx)
        return super().convert(value, param, ctx)
