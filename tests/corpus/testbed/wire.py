"""The wire between two hosts: a thread that carries, impairs and records frames."""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import select
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.corpus.testbed.capture_file import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000

BEFORE: Final = "before"
"""The tap sits near the sender: what is lost behind it is still recorded."""
AFTER: Final = "after"
"""The tap sits near the receiver: it sees only what arrives, when it arrives."""


@dataclass(frozen=True)
class Frame:
    """A frame on the wire."""

    number: int
    """Counted from 1 in its direction."""
    to_server: bool
    data: bytes

    @property
    def ip_protocol(self) -> int | None:
        """The protocol field of an untagged IPv4 or IPv6 frame."""
        kind = self.data[12:14]
        if kind == b"\x08\x00":
            return self.data[23]
        return self.data[20] if kind == b"\x86\xdd" else None

    @property
    def tcp_payload_length(self) -> int:
        """Bytes of TCP payload in an untagged IPv4 frame, else 0."""
        if self.data[12:14] != b"\x08\x00" or self.data[23] != 6:
            return 0
        header = (self.data[14] & 0x0F) * 4
        (total,) = struct.unpack_from("!H", self.data, 16)
        return int(total) - header - (self.data[14 + header + 12] >> 4) * 4


def drop_numbers(
    numbers: Collection[int],
    *,
    to_server: bool,
    matches: Callable[[Frame], bool] = lambda frame: frame.tcp_payload_length > 0,
) -> Callable[[Frame], Sequence[float]]:
    """A policy that loses the n-th matching frames (from 1) of a direction and delivers all else at once."""
    counter = itertools.count(1)

    def policy(frame: Frame) -> Sequence[float]:
        if frame.to_server == to_server and matches(frame) and next(counter) in numbers:
            return ()
        return (0.0,)

    return policy


def open_tap(name: str) -> int:
    """Create a tap device in the calling thread's network namespace and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TAP_NO_PI))
    return descriptor


class Wire:
    """Carries frames between two tap devices; every attribute may be changed while it runs."""

    def __init__(self, client: int, server: int) -> None:
        """Take over the descriptors of both ends."""
        self._ends = (client, server)
        self._stopping, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._numbers = [0, 0]
        self._pending: list[tuple[float, int, int, bytes, bool]] = []
        self._tie = itertools.count()
        self.records: list[Record] = []
        self.recording = True
        self.tap = BEFORE
        self.policy: Callable[[Frame], Sequence[float]] = lambda _: (0.0,)
        """Seconds after which each copy of a frame is delivered; no copy at all loses it."""
        self.tags = b""
        """VLAN tags that the recorded frames carry (the wire is a trunk; both hosts sit on access ports)."""
        self.clock: Callable[[int], int] = lambda now: now
        """From real time to the time that is recorded, in UTC nanoseconds."""

    def start(self) -> None:
        """Begin to carry frames."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver nothing more, and close both ends."""
        os.write(self._stop, b"x")
        self._thread.join()
        for descriptor in (*self._ends, self._stopping, self._stop):
            os.close(descriptor)

    def _record(self, data: bytes) -> None:
        if self.recording:
            tagged = data[:12] + self.tags + data[12:]
            self.records.append(Record(self.clock(time.time_ns()), tagged, len(tagged)))

    def _deliver(self, end: int, data: bytes, record: bool) -> None:
        if record:
            self._record(data)
        os.write(self._ends[end], data)

    def _run(self) -> None:
        while True:
            timeout = max(0.0, self._pending[0][0] - time.monotonic()) if self._pending else None
            readable, _, _ = select.select([*self._ends, self._stopping], [], [], timeout)
            if self._stopping in readable:
                return
            for end in (0, 1):
                if self._ends[end] in readable:
                    self._carry(end, os.read(self._ends[end], 65_536))
            while self._pending and self._pending[0][0] <= time.monotonic():
                _, _, end, data, record = heapq.heappop(self._pending)
                self._deliver(end, data, record)

    def _carry(self, end: int, data: bytes) -> None:
        self._numbers[end] += 1
        near_sender = self.tap == BEFORE
        if near_sender:
            self._record(data)
        for delay in self.policy(Frame(self._numbers[end], end == 0, data)):
            if delay <= 0:
                self._deliver(1 - end, data, not near_sender)
            else:
                due = time.monotonic() + delay
                heapq.heappush(self._pending, (due, next(self._tie), 1 - end, data, not near_sender))
