"""HTTP to probes and Cores: straight, whatever proxy the environment names for the way out of the network."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.client import HTTPResponse

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, seconds: float) -> HTTPResponse:
    """The answer to a GET, which is to come within so many seconds.

    Raises:
        OSError: no answer, or one that is an error (urllib.error.HTTPError).
    """
    answer: HTTPResponse = _OPENER.open(url, timeout=seconds)
    return answer
