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
    # What these raise is told by whoever catches it, once and in the Core's own words; they would tell it at every try.
    # The level of urllib3 itself is set by clickhouse_connect, whenever it is imported.
    for told in ("clickhouse_connect", "urllib3.connectionpool"):
        logging.getLogger(told).setLevel(logging.ERROR)
    for noisy in ("aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
