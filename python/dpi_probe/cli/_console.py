"""The console that commands print tables and colours to."""

from __future__ import annotations

import rich.console

from dpi_probe.cli._output import silence_stdout


class Console(rich.console.Console):
    """Standard output, whose reader may go away: the command goes on to its own exit status."""

    def on_broken_pipe(self) -> None:
        """Print no more; the base class would end the program with status 1."""
        self.quiet = True
        silence_stdout()
