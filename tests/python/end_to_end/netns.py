"""A live interface for tests: a namespace with a veth pair, into one end of which captures are replayed.

    with Link() as link:
        probe = link.host.start(["dpi-probe", "run", "-i", link.interface, ...])
        link.replay(capture, frames_per_second=2000)

Needs root. The namespace has no addresses and no IPv6, so that only what is replayed is ever on the link.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Self

from tests.corpus.testbed import ETHERNET, Host, read_frames

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.corpus.testbed import Record

LARGEST_MTU = 65_535
# Sending in small bursts keeps the pace exact where sleeping for a single frame's time would not.
BURST_SECONDS = 0.002


class Link:
    """A veth pair in a namespace of its own: frames go in at `feed0` and come out at `probe0`."""

    interface = "probe0"
    """Where to capture."""

    def __init__(self) -> None:
        """Make the namespace and both devices, and bring them up."""
        self.host = Host("link", "192.0.2.99", "2001:db8::99")
        self.host.run(["sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1"])
        self._make()

    def _make(self) -> None:
        self.host.ip("link", "add", "feed0", "type", "veth", "peer", "name", self.interface)
        for device in ("feed0", self.interface):
            self.host.ip("link", "set", device, "mtu", str(LARGEST_MTU), "up")

    def recreate(self) -> None:
        """Remove the pair and make another one of the same names."""
        self.host.ip("link", "delete", "feed0")
        self._make()

    def __enter__(self) -> Self:
        """The link is up already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was started in the namespace and remove it."""
        self.host.stop()

    def replay(self, capture: Path, *, frames_per_second: float = 1000, times: int = 1) -> int:
        """Send the frames of an Ethernet pcap file at an even pace, as they are, and return how many.

        Time stamps of the file are not kept. Frames that were cut by the snap length cannot be sent.
        """
        link_type, records = read_frames(capture.read_bytes())
        if link_type != ETHERNET:
            raise ValueError(f"{capture}: link type {link_type} cannot be sent on Ethernet")
        if any(len(record.data) != record.wire_length for record in records):
            raise ValueError(f"{capture}: its frames are cut short")
        return self.send(records * times, frames_per_second=frames_per_second)

    def send(self, records: list[Record], *, frames_per_second: float = 1000) -> int:
        """Send frames at an even pace and return how many."""
        with self.host.entered():
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sender:
            sender.bind(("feed0", 0))
            start = time.monotonic()
            for number, record in enumerate(records):
                ahead = number / frames_per_second - (time.monotonic() - start)
                if ahead > BURST_SECONDS:
                    time.sleep(ahead)
                sender.send(record.data)
        return len(records)
