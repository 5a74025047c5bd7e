"""Whether a request's `Host` names this machine's loopback: what a web page under a name of its own cannot bring about.

A page may point its name at 127.0.0.1 (DNS rebinding), and the browser then lets it read what answers there; but the
browser sends that name as `Host`.
"""

from __future__ import annotations

import ipaddress
import urllib.parse


def is_loopback(host: str) -> bool:
    """Whether a Host header names the loopback."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
