"""The database process: owns ClickHouse, fills it from the archive, answers questions.

In and out: one JSON object a line over a socket that the service holds the other end of. Owns: the database.
Never: outlives the service (the end of the socket ends it), or, once it is up, takes the processor from ingest: it has
the lowest priority then.

Messages from the service: `{"durable": [segment, offset, position]}`; `{"id", "ask", "arguments", "deadline"}` with the
time of the monotonic clock from which nobody waits for the answer; `{"cancel": id}`.
Messages to it: `{"status": {…}}`; `{"id", "answer"}` or `{"id", "bad"}` or `{"id", "failed"}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dpi_probe.core.archive import Durable
from dpi_probe.core.log import set_up_logging
from dpi_probe.core.queries import MAX_ANSWER_BYTES, TOO_LARGE

logger = logging.getLogger(__name__)

QUERY_THREADS = 2
# The name of ClickHouse's error for a result above max_result_bytes.
_OVERFLOW = "TOO_MANY_ROWS_OR_BYTES"
_OTHERS = (
    "database %s: it also holds rows of other Cores (%s), which no answer of this one (%s) counts; where those are "
    "earlier names of this Core, stop it, empty the database (an embedded one: remove its directory) and run: "
    "dpi-probe core reindex"
)


class _Link:
    """The socket to the service; lines are written whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._reader = connection.makefile("rb")
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        data = _line(message)
        if len(data) > MAX_ANSWER_BYTES:
            # The service would give up the link, and with it this process.
            data = _line({"id": message["id"], "failed": TOO_LARGE})
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A service that is gone is noticed where the reader ends.
            self._connection.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        try:
            line = self._reader.readline()
        except ConnectionResetError:
            # The service ended before it had read everything.
            return None
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class _Answers:
    """Questions on a few threads, each with a client of its own."""

    def __init__(self, link: _Link, dsn: str, core: str, memory_bytes: int, query_seconds: float) -> None:
        self._link = link
        self._core = core
        self._options = (dsn, memory_bytes, query_seconds)
        self._asked: dict[int, Future[None]] = {}
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="query")
        self.open = threading.Event()

    def ask(self, message: dict[str, Any]) -> None:
        number = message["id"]
        self._asked[number] = future = self._pool.submit(self._answer, message)
        # Called at once where it is done already.
        future.add_done_callback(lambda _: self._asked.pop(number, None))

    def cancel(self, number: int) -> None:
        """Nobody waits for the answer: a question that is not being answered yet never will be."""
        future = self._asked.get(number)
        if future is not None and future.cancel():
            self._link.send({"id": number, "failed": "cancelled"})

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, message: dict[str, Any]) -> None:
        from clickhouse_connect.driver.exceptions import Error as ClickHouseError

        from dpi_probe.core.database import DatabaseError, connect
        from dpi_probe.core.queries import BadQueryError, Questions

        reply: dict[str, Any] = {"id": message["id"]}
        try:
            if time.monotonic() > message["deadline"]:
                reply["failed"] = "the database had no time for the question"
            elif not self.open.is_set():
                reply["failed"] = "the database is not open yet"
            else:
                if not hasattr(self._local, "questions"):
                    dsn, memory, seconds = self._options
                    client = connect(dsn, memory_bytes=memory, query_seconds=seconds, result_bytes=MAX_ANSWER_BYTES)
                    self._local.questions = Questions(client, self._core)
                reply["answer"] = self._local.questions.ask(message["ask"], message["arguments"])
        except BadQueryError as error:
            reply["bad"] = str(error)
        except (ClickHouseError, DatabaseError, OSError) as error:
            logger.warning("question %s: %s", message["ask"], error)
            reply["failed"] = TOO_LARGE if _OVERFLOW in str(error) else str(error).splitlines()[0][:500]
        except Exception as error:
            # Every question gets an answer, or its caller would wait for ever.
            logger.exception("question %s", message["ask"])
            reply["failed"] = repr(error)[:500]
        self._link.send(reply)


def lower_priority(nice: int) -> None:
    """Give every thread of this process at least this nice value; threads that they start later inherit it.

    Not SCHED_IDLE: on a busy machine it may get nothing, for ever. Nice 19 gets 15 parts to another thread's 1024.
    """
    lowered = True
    # A thread that was not lowered yet may have started another meanwhile: over once all that there are have it.
    while lowered:
        lowered = False
        for entry in Path("/proc/self/task").iterdir():
            thread = int(entry.name)
            # A thread may have ended since.
            with contextlib.suppress(ProcessLookupError):
                if os.getpriority(os.PRIO_PROCESS, thread) < nice:
                    os.setpriority(os.PRIO_PROCESS, thread, nice)
                    lowered = True


def fresh_temporary_directory(data_dir: Path) -> None:
    """Inserts pass through temporary files; a crash leaves some behind, which go away here."""
    directory = data_dir / "tmp"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(directory)


def main() -> None:
    """Serve until the service closes its end."""
    # A signal to the process group is the service's to act on: it closes the socket when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging()
    # ClickHouse makes its files for everybody to read.
    os.umask(0o077)
    link = _Link(socket.socket(fileno=int(sys.argv[1])))
    hello = link.receive()
    if hello is None:
        return
    data_dir, dsn, core = Path(hello["data_dir"]), str(hello["dsn"]), str(hello["core"])
    memory_bytes = int(hello["memory_bytes"])
    fresh_temporary_directory(data_dir)

    from dpi_probe.core.database import Index, connect, sole_writer
    from dpi_probe.core.indexer import Indexer, Status
    from dpi_probe.core.settings import redact

    answers = _Answers(link, dsn, core, memory_bytes, float(hello["query_seconds"]))

    resources = contextlib.ExitStack()

    def open_index() -> Index:
        resources.close()
        resources.enter_context(sole_writer(data_dir, dsn))
        index = Index(connect(dsn, memory_bytes=memory_bytes), core)
        if others := index.others():
            logger.warning(_OTHERS, redact(dsn), ", ".join(others), core)
        # Not before: a start that gets no processor looks like a database that does not work.
        lower_priority(int(hello["nice"]))
        answers.open.set()
        return index

    def tell(status: Status) -> None:
        link.send({"status": dataclasses.asdict(status)})

    indexer = Indexer(data_dir / "archive", core, open_index, tell)
    indexer.start()
    while (message := link.receive()) is not None:
        if "durable" in message:
            indexer.extend(Durable(*message["durable"]))
        elif "cancel" in message:
            answers.cancel(message["cancel"])
        else:
            answers.ask(message)
    answers.close()
    indexer.stop()
    logging.shutdown()
    # ClickHouse's own threads must not hold up the end: everything that was inserted is on disk.
    os._exit(0)


if __name__ == "__main__":
    main()
