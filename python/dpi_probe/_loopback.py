"""Who asks over this machine's loopback: a web page under a name of its own, or which user's program.

A page may point its name at 127.0.0.1 (DNS rebinding), and the browser then lets it read what answers there; but the
browser sends that name as `Host`.
"""

from __future__ import annotations

import ipaddress
import struct
import urllib.parse
from pathlib import Path
from typing import Any

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
# TCP_ESTABLISHED (linux/tcp_states.h).
_ESTABLISHED = "01"
_IPV4_BYTES = 4
# RFC 4291 §2.5.5.2.
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


def is_loopback(host: str) -> bool:
    """Whether a Host header names the loopback."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def address_of(end: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of an end of a connection, as `socket.getsockname` gives it; IPv4 on a socket of IPv6 is IPv4."""
    address = ipaddress.ip_address(end[0])
    return getattr(address, "ipv4_mapped", None) or address


def user_of(client: Any, server: Any) -> int | None:
    """The user id of the process that has a TCP connection open, as the kernel's tables have it (proc_pid_net(5)).

    `client`, `server`: the addresses of both ends, as `socket.getsockname` gives them. None if the tables have no such
    connection, or its process has closed it: it has no owner then, and the tables show root's number.
    """
    first = _owner(client, server)
    # A row is not made at once: it may have lost its owner between two of its columns.
    return first if first is not None and first == _owner(client, server) else None


def _owner(client: Any, server: Any) -> int | None:
    ends = [[_in_table(end, mapped=mapped) for end in (client, server)] for mapped in (False, True)]
    for table in _TABLES:
        try:
            text = table.read_text(encoding="ascii")
        except FileNotFoundError:
            # A kernel without IPv6.
            continue
        for line in text.splitlines()[1:]:
            columns = line.split()
            if columns[1:3] in ends and columns[3] == _ESTABLISHED and columns[9] != "0":
                return int(columns[7])
    return None


def _in_table(end: Any, *, mapped: bool) -> str:
    """An address and port as the kernel writes them: 32-bit words of the machine's byte order.

    `mapped`: as a socket of IPv6 has an address of IPv4.
    """
    packed = address_of(end).packed
    if mapped and len(packed) == _IPV4_BYTES:
        packed = _IPV4_MAPPED + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{end[1]:04X}"
