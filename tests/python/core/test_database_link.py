"""The two ends of the link to the database process, where something fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from dpi_probe.core import database, database_link
from dpi_probe.core.archive import Durable
from dpi_probe.core.database_link import MAX_QUESTIONS, DatabaseLink, DatabaseUnavailableError
from dpi_probe.core.database_process import _Answers, _Link
from dpi_probe.core.metrics import Metrics
from harness.core import wait_for


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


class Sent:
    """In the place of the writer to the database process: the messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        self.messages += [json.loads(line) for line in data.splitlines()]


def linked() -> tuple[DatabaseLink, Sent]:
    """A link whose process never answers by itself."""
    link, sent = DatabaseLink({}, Metrics(), query_seconds=1), Sent()
    link._writer = sent  # type: ignore[assignment]
    return link, sent


def test_questions_that_wait_are_bounded_and_abandoned_ones_are_cancelled() -> None:
    async def run() -> None:
        link, sent = linked()
        asked = [asyncio.create_task(link.ask("flows", {})) for _ in range(MAX_QUESTIONS)]
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailableError, match="16 questions"):
            await link.ask("flows", {})
        assert len(sent.messages) == MAX_QUESTIONS
        assert all(time.monotonic() < message["deadline"] < time.monotonic() + 12 for message in sent.messages)
        asked[3].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked[3]
        number = sent.messages[3]["id"]
        assert sent.messages[-1] == {"cancel": number}
        # It counts until the process has let go of it.
        with pytest.raises(DatabaseUnavailableError, match="16 questions"):
            await link.ask("flows", {})
        link._take({"id": number, "failed": "cancelled"})
        again = asyncio.create_task(link.ask("flows", {}))
        await asyncio.sleep(0)
        asked[3] = again
        for message in [message for message in sent.messages if "ask" in message]:
            link._take({"id": message["id"], "answer": {"of": message["id"]}})
        answers = await asyncio.gather(*asked)
        assert len({answer["of"] for answer in answers}) == MAX_QUESTIONS
        assert [message for message in sent.messages if "cancel" in message] == [{"cancel": number}]

    asyncio.run(run())


class Told:
    """In the place of the process's end of the link."""

    def __init__(self) -> None:
        self.replies: dict[int, dict[str, Any]] = {}

    def send(self, message: dict[str, Any]) -> None:
        self.replies[message["id"]] = message


def test_what_nobody_waits_for_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    hold, asked = threading.Event(), []

    class Slow:
        def __init__(self, _: object, core: str) -> None:
            assert core == "core"

        def ask(self, name: str, _: object) -> dict[str, Any]:
            asked.append(name)
            hold.wait(20)
            return {}

    monkeypatch.setattr("dpi_probe.core.queries.Questions", Slow)
    monkeypatch.setattr(database, "connect", lambda *_, **__: None)
    told = Told()
    answers = _Answers(told, "", "core", 0, 0)  # type: ignore[arg-type]
    answers.open.set()
    soon, later = time.monotonic() + 0.2, time.monotonic() + 100
    for number, deadline in enumerate((later, later, soon, later, later)):
        answers.ask({"id": number, "ask": str(number), "arguments": {}, "deadline": deadline})
    wait_for(lambda: len(asked) == 2, "two questions on two threads")
    answers.cancel(0)
    answers.cancel(3)
    assert told.replies == {3: {"id": 3, "failed": "cancelled"}}
    time.sleep(0.3)
    hold.set()
    wait_for(lambda: len(told.replies) == 5, "the others")
    answers.close()
    assert sorted(asked) == ["0", "1", "4"]
    assert told.replies[2] == {"id": 2, "failed": "the database had no time for the question"}


def test_the_lag_grows_over_tries_and_starts_and_ends_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000
    monkeypatch.setattr(database_link.time, "time_ns", lambda: now * 10**9)
    link = DatabaseLink({}, Metrics(), query_seconds=1)

    def told(position: int, waiting: int | None, *, up: bool = True) -> float:
        since = None if waiting is None else waiting * 10**9
        counts = {"rows": 0, "failures": 0, "unindexed": 0}
        link._take({"status": {"up": up, "position": position, "waiting_since_ns": since, **counts}})
        return link.lag_seconds

    assert told(5, None) == 0
    link.extend(Durable(0, 100, 7))
    now = 1_010
    assert told(5, None) == 10
    # A process that was started again and has no database knows neither position nor time.
    now = 1_020
    link.status = {**link.status, "up": False}
    link._update_lag()
    assert told(0, 1_020, up=False) == 20
    assert told(0, 1_020) == 20
    link.extend(Durable(0, 120, 7))
    assert told(5, 995) == 25, "from before this service"
    assert told(6, 1_019) == 1, "the next in line"
    assert told(7, None) == 0
    now = 1_030
    link.extend(Durable(0, 200, 8))
    assert link.lag_seconds == 0
    now = 1_031
    assert link.lag_seconds == 1
