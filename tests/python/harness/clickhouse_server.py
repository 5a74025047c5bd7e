"""ClickHouse's HTTP interface in front of the current engine (chdb), for tests of `clickhouse://`.

    python -m harness.clickhouse_server --port 18123 --path DIR --user core --password secret

Nothing ships a current server binary that tests could install, so the engine that chdb embeds is put behind the HTTP
interface as the manual describes it: the query in `query` and in the body, settings and `param_…` as parameters, Basic
authentication, `X-ClickHouse-…` headers, exceptions with their code, statements without a session, inserts that go on
when their client is gone. One thing the engine cannot do is stood in for: it gives its queries ids of its own, so
`system.processes` is answered from the requests that are running.

`--delay-inserts SECONDS` waits between the last byte of an insert and its execution: a busy server.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import re
import tempfile
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chdb

# Parameters of the interface itself, which are not settings.
TRANSPORT = {
    "query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "quota_key",
    "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role", "buffer_size", "user", "password",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "enable_http_compression", "close_session",
}  # fmt: skip
INSERT = re.compile(rb"\s*(INSERT\s+INTO\s.+?)\s+FORMAT\s+(\w+)[ \t]*(?:\n|$)", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
CODE = re.compile(r"Code:\s*(\d+)")
AUTHENTICATION_FAILED = 516
STATUS = {60: 404, 81: 404, 62: 400, 516: 403}


class Server(ThreadingHTTPServer):
    """One engine and the requests that are running."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", options.port), Handler)
        self.options = options
        self.token = base64.b64encode(f"{options.user}:{options.password}".encode()).decode()
        self.running: dict[str, None] = {}
        self.lock = threading.Lock()
        # The first handle opens the engine; it stays open with it.
        self.first = chdb.connect(str(options.path))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """`/ping`, and queries that change nothing."""
        if urllib.parse.urlsplit(self.path).path == "/ping":
            self.reply(200, b"Ok.\n", {})
        else:
            self.handle_query({"readonly": "2"})

    def do_POST(self) -> None:
        """A query."""
        self.handle_query({})

    def handle_query(self, settings: dict[str, str]) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        if len(body) < length:
            # The client went away in the middle of its query.
            self.close_connection = True
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))
        query_id = parameters.get("query_id") or str(uuid.uuid4())
        headers = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Timezone": "UTC"}
        if self.headers.get("Authorization") != f"Basic {self.server.token}":
            text = f"Code: {AUTHENTICATION_FAILED}. DB::Exception: Authentication failed (AUTHENTICATION_FAILED)"
            self.fail(text, headers)
            return
        settings |= {
            name: value for name, value in parameters.items() if name not in TRANSPORT and not name.startswith("param_")
        }
        values = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
        statement = b"\n".join(part for part in (parameters.get("query", "").encode(), body) if part)
        with self.server.lock:
            self.server.running[query_id] = None
        try:
            format_name, result = self.execute(
                statement, parameters.get("database", "default"), settings, values, parameters.get("default_format")
            )
        except RuntimeError as error:
            self.fail(str(error), headers)
            return
        finally:
            with self.server.lock:
                self.server.running.pop(query_id, None)
        headers["X-ClickHouse-Summary"] = json.dumps({"written_rows": "0", "read_rows": "0"})
        if format_name:
            headers["X-ClickHouse-Format"] = format_name
        self.reply(200, result, headers)

    def execute(
        self, statement: bytes, database: str, settings: dict[str, str], values: dict[str, str], default: str | None
    ) -> tuple[str, bytes]:
        """Format and bytes of the result."""
        # A handle for each request: over HTTP nothing of a statement lasts, unless a session is asked for.
        with contextlib.closing(chdb.connect(str(self.server.options.path))) as engine:
            engine.query(f"USE {identifier(database)}")
            for name, value in settings.items():
                engine.query(f"SET {identifier(name)} = {literal(value)}")
            insert = INSERT.match(statement)
            if insert is None:
                text = statement.decode()
                named = FORMAT.search(text)
                format_name = named[1] if named else default or "TabSeparated"
                return format_name, engine.query(self.processes(text), format_name, params=values).bytes()
            if self.server.options.delay_inserts:
                time.sleep(self.server.options.delay_inserts)
            with tempfile.NamedTemporaryFile(dir=self.server.options.path.parent) as file:
                file.write(statement[insert.end() :])
                file.flush()
                engine.query(f"{insert[1].decode()} FROM INFILE {literal(file.name)} FORMAT {insert[2].decode()}")
            return "", b""

    def processes(self, text: str) -> str:
        """The statement with `system.processes` replaced by the requests that are running."""
        with self.server.lock:
            running = ", ".join(literal(query_id) for query_id in self.server.running)
        return text.replace(
            "system.processes", f"(SELECT arrayJoin(CAST([{running}], 'Array(String)')) AS query_id) AS processes"
        )

    def chunks(self) -> bytes:
        """A body in chunks (RFC 9112 §7.1)."""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def fail(self, text: str, headers: dict[str, str]) -> None:
        found = CODE.search(text)
        code = int(found[1]) if found else 1002
        self.reply(STATUS.get(code, 500), text.encode() + b"\n", {**headers, "X-ClickHouse-Exception-Code": str(code)})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


def literal(text: str) -> str:
    """A string as SQL writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def identifier(text: str) -> str:
    """A name as SQL writes it."""
    escaped = text.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--user", default="default")
    parser.add_argument("--password", default="")
    parser.add_argument("--delay-inserts", type=float, default=0)
    parser.add_argument("--create", action="append", default=[], help="Databases to make.")
    options = parser.parse_args()
    server = Server(options)
    for database in options.create:
        server.first.query(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
    server.serve_forever()


if __name__ == "__main__":
    main()
