"""The service's end of the database process: starts it, keeps it running, asks it questions.

In: how far the archive is on disk; questions. Out: answers; the indexer's status. Owns: the child process.
Never: lets a database that is slow, down or crashed hold up ingest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from dpi_probe.core.queries import MAX_ANSWER_BYTES, BadQueryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dpi_probe.core.archive import Durable
    from dpi_probe.core.metrics import Metrics

logger = logging.getLogger(__name__)

RESTART_SECONDS = (0.5, 30.0)
# Questions that the database process has not answered: it takes two at a time, so the last of them waits for long.
MAX_QUESTIONS = 16
# The database ends a query itself; this much longer is waited for a process that hangs.
_GRACE_SECONDS = 10
# An insert that is going on may finish; it fsyncs, so not at once.
STOP_SECONDS = 60.0


class DatabaseUnavailableError(Exception):
    """The database cannot answer now."""


class DatabaseLink:
    """The database process, started again whenever it ends."""

    def __init__(self, hello: Mapping[str, Any], metrics: Metrics, query_seconds: float) -> None:
        """`hello` is the first line that the process is told."""
        self._hello = dict(hello)
        self._metrics = metrics
        self._query_seconds = query_seconds
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._unanswered: set[int] = set()
        """Questions that the process still has, also those that nobody waits for any more."""
        self._behind: tuple[int, int] | None = None
        """The position of the oldest entry that is not in the database, and since when it has waited."""
        self._writer: asyncio.StreamWriter | None = None
        self._durable: Durable | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._seen = {"rows": 0, "failures": 0}
        self.status: dict[str, Any] = {"up": False, "position": 0, "error": "starting"}

    def start(self) -> None:
        """Start the process and keep it running."""
        self._task = asyncio.create_task(self._keep_running(), name="database")

    async def stop(self) -> None:
        """Let the process finish its insert, then end it."""
        self._stopping = True
        if self._writer is not None:
            self._writer.close()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._task, STOP_SECONDS)

    def extend(self, durable: Durable) -> None:
        """The archive is on disk up to here. Called on the event loop."""
        self._durable = durable
        self._update_lag()
        self._send({"durable": [durable.segment, durable.offset, durable.position]})

    async def ask(self, question: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the database.

        Raises:
            BadQueryError: the question cannot be asked of what is indexed.
            DatabaseUnavailableError: there is no answer now.
        """
        if self._writer is None:
            raise DatabaseUnavailableError(f"the database is not open: {self.status.get('error') or 'starting'}")
        if len(self._unanswered) >= MAX_QUESTIONS:
            raise DatabaseUnavailableError(f"{MAX_QUESTIONS} questions are being answered or wait; ask again later")
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._unanswered.add(number)
        patience = self._query_seconds + _GRACE_SECONDS
        deadline = time.monotonic() + patience
        self._send({"id": number, "ask": question, "arguments": dict(arguments), "deadline": deadline})
        try:
            reply = await asyncio.wait_for(future, patience)
        except TimeoutError as error:
            raise DatabaseUnavailableError("the database does not answer") from error
        finally:
            self._waiting.pop(number, None)
            if number in self._unanswered:
                # The caller is gone, or waits no longer.
                self._send({"cancel": number})
        if "bad" in reply:
            raise BadQueryError(reply["bad"])
        if "failed" in reply:
            raise DatabaseUnavailableError(reply["failed"])
        answer: dict[str, Any] = reply["answer"]
        return answer

    @property
    def lag_batches(self) -> int:
        """Archived entries that are not in the database yet."""
        return max(0, self._durable.position - int(self.status["position"])) if self._durable else 0

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest of them."""
        return max(0.0, (time.time_ns() - self._behind[1]) / 1e9) if self._behind else 0.0

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _update_lag(self) -> None:
        position, waiting = int(self.status["position"]), self.status.get("waiting_since_ns")
        if not self.lag_batches:
            self._behind = None
        elif self._behind is None or (self.status["up"] and position > self._behind[0]):
            self._behind = (position, waiting or time.time_ns())
        elif self.status["up"] and position == self._behind[0] and waiting is not None:
            self._behind = (position, waiting)
        # Else a process that was started again, or cannot open the database, knows less than is known here.
        self._metrics.index_lag_batches.set(self.lag_batches)
        self._metrics.index_lag_seconds.set(self.lag_seconds)

    async def _keep_running(self) -> None:
        delay = RESTART_SECONDS[0]
        while True:
            started = time.monotonic()
            try:
                outcome = f"ended with status {await self._run_once()}"
            except OSError as error:
                # No process, memory or descriptor was to be had; there may be one later.
                outcome = f"cannot be started: {error.strerror or error}"
            if self._stopping:
                return
            self._metrics.database_restarts.inc()
            self.status = {**self.status, "up": False, "error": f"the database process {outcome}"}
            self._metrics.database_up.set(0)
            if time.monotonic() - started > RESTART_SECONDS[1]:
                delay = RESTART_SECONDS[0]
            logger.error("database process %s; starting it again in %.1f s", outcome, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, RESTART_SECONDS[1])

    async def _run_once(self) -> int | None:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_failure:
            on_failure.enter_context(ours)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "dpi_probe.core.database_process",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_ANSWER_BYTES)
            on_failure.pop_all()
        self._seen = {"rows": 0, "failures": 0}
        self._send(self._hello)
        if self._durable is not None:
            self.extend(self._durable)
        if self._stopping:
            self._writer.close()
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except (ConnectionError, ValueError) as error:
            logger.error("database process: %s", error)
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            self._unanswered.clear()
            for future in self._waiting.values():
                if not future.done():
                    future.set_result({"failed": "the database process ended"})
        try:
            return await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            logger.error("database process %d does not end; killing it", process.pid)
            process.kill()
            return await process.wait()

    def _take(self, message: dict[str, Any]) -> None:
        if "status" in message:
            self.status = status = message["status"]
            self._metrics.database_up.set(bool(status["up"]))
            for name, counter in (("rows", self._metrics.index_rows), ("failures", self._metrics.index_failures)):
                counter.inc(max(0, status[name] - self._seen[name]))
                self._seen[name] = status[name]
            # A process that has not opened the database knows of none.
            if status["up"]:
                self._metrics.unindexed.set(status["unindexed"])
            self._update_lag()
            return
        self._unanswered.discard(message["id"])
        future = self._waiting.get(message["id"])
        if future is not None and not future.done():
            future.set_result(message)
