"""How a command that starts processes and makes files ends early."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def end_as_after_interrupt() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: processes that were started go, and what was made is removed."""
    signal.signal(signal.SIGTERM, _interrupt)
    # The terminal was closed; `nohup` has it ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Another one, as when a service manager loses patience or both come, would break off what takes everything away.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
