"""`dpi-probe top` on a terminal, watching a probe that runs."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest
from harness.core import COMMAND

if TYPE_CHECKING:
    from harness.fed import Fed

WIDTH, HEIGHT = 80, 24
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
HOME = "\x1b[H"


class Terminal:
    """A terminal, the command that runs on it, and everything that the command wrote."""

    def __init__(self, *command: str) -> None:
        self.ours, self.its = pty.openpty()
        termios.tcsetwinsize(self.its, (HEIGHT, WIDTH))
        self.before = termios.tcgetattr(self.its)
        self.written = b""
        sizes = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        # So that Ctrl-C reaches it: the terminal must be its own.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=self.its, stdout=self.its, stderr=self.its,
            env={**sizes, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def read(self, seconds: float = 0.1) -> None:
        while select.select([self.ours], [], [], seconds)[0]:
            self.written += os.read(self.ours, 1 << 16)
            seconds = 0

    @property
    def text(self) -> str:
        return self.written.decode(errors="replace")

    def wait_for(self, pattern: str) -> None:
        until = time.monotonic() + 60
        while not re.search(pattern, self.text):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < until, self.text
            self.read()

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def ends_with(self) -> int:
        """The exit status, once all is read: a command that nobody reads from might never end."""
        until = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < until, self.text
            self.read()
        self.read()
        return self.process.returncode

    def screens(self) -> list[list[str]]:
        """The lines of each picture, without colours."""
        inside = self.text.partition(ENTER_SCREEN)[2].rpartition(LEAVE_SCREEN)[0]
        plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture) for picture in inside.split(HOME)]
        return [picture.replace("\r", "").rstrip("\n").split("\n") for picture in plain if picture.strip()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.its)


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_it_shows_its_tables_ends_by_a_key_and_gives_the_terminal_back(fed: Fed, key: bytes) -> None:
    terminal = Terminal(COMMAND, "top", fed.endpoint.url, "-d", "0.2")
    try:
        # Twice: the first picture has no rates yet.
        terminal.wait_for("(?s)packets captured.*packets captured")
        local = 3
        during = termios.tcgetattr(terminal.its)
        assert not during[local] & (termios.ICANON | termios.ECHO), "a key is heard at once and not shown"
        assert during[local] & termios.ISIG, "Ctrl-C is heard"
        terminal.press(key)
        assert terminal.ends_with() == 0, terminal.text
        assert termios.tcgetattr(terminal.its) == terminal.before
    finally:
        terminal.close()
    said = terminal.text
    assert said.count(ENTER_SCREEN) == said.count(LEAVE_SCREEN) == 1
    assert said.rfind(SHOW_CURSOR) > said.rfind(HIDE_CURSOR) >= 0
    assert "Traceback" not in said
    pictures = terminal.screens()
    assert len(pictures) >= 2
    for lines in pictures:
        assert len(lines) <= HEIGHT
        assert max(map(len, lines)) <= WIDTH
        shown = "\n".join(lines)
        for words in ("sensor", "packets captured", "flow table", "latency", "application"):
            assert words in shown
    assert "rates and latencies show after the first interval" in "\n".join(pictures[0])
    assert "capturing; http" in "\n".join(pictures[-1])
    # What it leaves on the main screen: nothing, or where the terminal shows a key, that.
    assert said.rpartition(LEAVE_SCREEN)[2].replace(SHOW_CURSOR, "").strip() in ("", "^C")
    fed.finish(empty=True)
