"""The two ends of the link to the database process, where something fails."""

from __future__ import annotations

import json
import socket

from dpi_probe.core.database_process import _Link


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
