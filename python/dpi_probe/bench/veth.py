"""A veth pair in a network namespace that lives as long as the bench's processes.

The namespace has no name: the bench enters it and everything that it starts is born into it. It goes with the last of
these processes, however they end, so that nothing is left behind after Ctrl-C or a kill.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from dpi_probe.errors import CapturePermissionError, DpiProbeError

CLONE_NEWNET = 0x4000_0000
FEED, PROBE = "feed0", "probe0"


def enter_namespace(mtu: int) -> None:
    """Put this process into a new network namespace with the loopback up and a veth pair.

    Raises:
        CapturePermissionError: this process may not make namespaces.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        reason = f"a network namespace cannot be made: {os.strerror(number)}"
        if number == errno.EPERM:
            msg = f"{reason}; --source veth needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW)"
            raise CapturePermissionError(msg)
        raise DpiProbeError(reason)
    # Neighbour discovery and router solicitations would be frames that nobody offered.
    for place in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{place}/disable_ipv6").write_text("1", encoding="ascii")
    _ip("link", "set", "lo", "up")
    _ip("link", "add", FEED, "type", "veth", "peer", "name", PROBE)
    set_mtu(mtu)
    for device in (FEED, PROBE):
        _ip("link", "set", device, "up")


def set_mtu(mtu: int) -> None:
    """Let frames with packets of so many bytes through the pair."""
    for device in (FEED, PROBE):
        _ip("link", "set", device, "mtu", str(mtu))


def received_frames() -> int:
    """Frames that came out of the pair on the probe's side."""
    # Not /sys/class/net, which shows the namespace of whoever mounted it.
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == PROBE:
            return int(counts.split()[1])
    return 0


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        msg = "--source veth needs the program ip (apt-get install iproute2)"
        raise DpiProbeError(msg) from None
    if done.returncode != 0:
        msg = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        raise DpiProbeError(msg)
