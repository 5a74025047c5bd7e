"""Logging of the Core's processes: one line an event, on standard error."""

from __future__ import annotations

import logging
import sys
import time


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error, times in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiohttp.access", "clickhouse_connect", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
