"""The two ends of the link to the database process, where something fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dpi_probe.core import database_link
from dpi_probe.core.database_link import DatabaseLink
from dpi_probe.core.database_process import _Link
from dpi_probe.core.metrics import Metrics

if TYPE_CHECKING:
    import pytest


def test_a_service_that_ended_with_something_unread_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    link = _Link(theirs)
    ours.sendall(json.dumps({"durable": [0, 36, 0]}).encode() + b"\n")
    assert link.receive() == {"durable": [0, 36, 0]}
    link.send({"status": {}})
    ours.close()
    # The kernel says so once, as a reset; then as the end.
    assert link.receive() is None
    link.send({"status": {}})
    assert link.receive() is None
    theirs.close()


def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    open_at: list[int] = []

    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    async def run() -> DatabaseLink:
        enough = asyncio.Event()

        async def no_process(*_: object, **__: object) -> NoReturn:
            open_at.append(descriptors())
            if len(open_at) == 4:
                enough.set()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        monkeypatch.setattr(asyncio, "create_subprocess_exec", no_process)
        link = DatabaseLink({}, Metrics(), query_seconds=1)
        link.start()
        await asyncio.wait_for(enough.wait(), 20)
        await link.stop()
        return link

    monkeypatch.setattr(database_link, "RESTART_SECONDS", (0.01, 0.02))
    link = asyncio.run(run())
    assert link.status["error"] == f"the database process cannot be started: {os.strerror(errno.EAGAIN)}"
    # Something of another test may be closed meanwhile.
    assert open_at[-1] <= open_at[0], "descriptors are left open"
