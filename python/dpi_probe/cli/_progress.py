"""A progress bar on standard error while a capture is read: only on a terminal, and only if it takes a while."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress


class Reading(Protocol):
    """What is read."""

    def progress(self) -> tuple[int, int | None, int]:
        """Bytes read as they are stored, of how many where that is known, and packets."""


DELAY_SECONDS = 0.5
INTERVAL_SECONDS = 0.1
WIDTH_WITH_SPEED = 76


class Bar:
    """The bar, drawn by a thread of its own while the main thread waits for the data plane."""

    def __init__(self, reader: Reading) -> None:
        self._reader = reader
        self._done = threading.Event()
        self._drawing = threading.Lock()
        self._progress: Progress | None = None
        self._thread = threading.Thread(target=self._run, name="dpi-progress", daemon=True)

    def start(self) -> None:
        """Show the bar after a moment."""
        self._thread.start()

    def stop(self) -> None:
        """Take the bar away for good."""
        self._done.set()
        self._thread.join()
        self.hide()

    def hide(self) -> None:
        """Take the bar away so that lines can be printed; it comes back by itself."""
        with self._drawing:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def _run(self) -> None:
        wait = DELAY_SECONDS
        while not self._done.wait(wait):
            wait = INTERVAL_SECONDS
            with self._drawing:
                self._draw()

    def _draw(self) -> None:
        read, total, frames = self._reader.progress()
        if self._progress is None:
            self._progress = _make(total)
            self._progress.start()
        task = self._progress.task_ids[0]
        self._progress.update(task, total=total, completed=read, frames=f"{frames:,}")


def _make(total: int | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    # A bar of one line: what is printed meanwhile takes its place.
    speed = [TransferSpeedColumn()] if console.width >= WIDTH_WITH_SPEED else []
    progress = Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        *speed,
        TextColumn("{task.fields[frames]} packets"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    progress.add_task("read", total=total, frames="0")
    return progress


@contextmanager
def shown(reader: Reading | None) -> Iterator[Bar | None]:
    """The bar around the block, where standard error is a terminal and there is something to read."""
    if reader is None or not sys.stderr.isatty():
        yield None
        return
    bar = Bar(reader)
    bar.start()
    try:
        yield bar
    finally:
        bar.stop()
