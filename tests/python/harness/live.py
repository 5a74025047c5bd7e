"""A probe on a live interface of a namespace of its own, with its endpoint. Needs root."""

from __future__ import annotations

import json
import signal
import struct
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from dpi_probe.core.archive import Kind, Located, iter_entries

from harness.core import Core, wait_for
from harness.metrics import Endpoint
from harness.programs import Probe
from tests.corpus.testbed import Record
from tests.python.end_to_end.netns import Link

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    import pyarrow.compute as pc


def udp_frame(number: int, payload: bytes = b"") -> bytes:
    """An Ethernet frame of the `number`th UDP flow: 10.0.0.0 and 16,384 ports, then the next address."""
    address, port = divmod(number, 16_384)
    length = 8 + len(payload)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0,
        struct.pack("!I", 0x0A000000 + address), bytes([10, 255, 255, 1]),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    udp = struct.pack("!HHHH", 40_000 + port % 16_384, 9, length, 0)
    return b"\x02\x00\x5e\x00\x53\x01\x02\x00\x5e\x00\x53\x02\x08\x00" + header + udp + payload


class LiveProbe:
    """A link, a probe that captures from it, and where it tells of itself."""

    def __init__(
        self, directory: Path, pki: Path, *arguments: str, core: bool = False, **settings: float | str
    ) -> None:
        """`settings` are those for which there is no flag."""
        self.directory = directory
        self.link = Link()
        self.core = Core(directory / "core", pki) if core else None
        self.probe = Probe(
            pki, directory / "spool", self.core, "-i", self.link.interface, *arguments,
            *self._config(settings),
        )  # fmt: skip
        self.endpoint = Endpoint(directory / "spool", self.link.host.entered)

    def _config(self, settings: dict[str, float | str]) -> list[str]:
        if not settings:
            return []
        file = self.directory / "settings.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        return [f"--config={file}"]

    def __enter__(self) -> Self:
        """Start the probe and wait until it captures."""
        try:
            self.link.host.run(["ip", "link", "set", "lo", "up"])
            with self.link.host.entered():
                self.probe.start()
            wait_for(self._captures, "the probe to capture")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _captures(self) -> bool:
        assert self.probe.process is not None
        assert self.probe.process.poll() is None, self.log()
        return self.endpoint.is_there() and self.endpoint.request("/readyz")[0] == 200

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs, and remove the link."""
        if self.probe.process is not None and self.probe.process.poll() is None:
            self.probe.kill()
        if self.core is not None and self.core.process is not None:
            self.core.stop()
        self.link.__exit__(kind, error, trace)

    def start_core(self) -> None:
        """Start the Core in the namespace, where the probe can reach it."""
        assert self.core is not None
        with self.link.host.entered():
            self.core.start()

    def send(self, frames: Iterable[bytes], *, per_second: float = 20_000) -> int:
        """Send frames at an even pace, and return how many."""
        records = [Record(time_ns=0, data=frame, wire_length=len(frame)) for frame in frames]
        return self.link.send(records, frames_per_second=per_second)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the probe."""
        assert self.probe.process is not None
        self.probe.process.send_signal(number)

    def finish(self) -> list[dict[str, Any]]:
        """SIGTERM, and the final accounts."""
        self.signal(signal.SIGTERM)
        return self.probe.finish()

    def log(self) -> str:
        """What the probe has said."""
        return self.probe.log.read_text()

    def _batches(self) -> Iterator[bytes]:
        if self.core is not None:
            for item in iter_entries(self.core.data / "archive"):
                assert isinstance(item, Located), item
                if item.entry.kind is Kind.BATCH:
                    yield item.entry.body
        for path in self.probe.pending():
            yield path.read_bytes()

    def rows(self, column: str, only: pc.Expression | None = None) -> list[dict[str, Any]]:
        """The rows of those batches in the Core's archive and the spool that have the column.

        `event`, `account` or `flow_id` tell batches of events, ledgers and flows.
        """
        rows: list[dict[str, Any]] = []
        for batch in self._batches():
            with pa.ipc.open_stream(batch) as reader:
                if column in reader.schema.names:
                    table = reader.read_all()
                    table = table.select([name for name in reader.schema.names if name != "time"])
                    rows += (table if only is None else table.filter(only)).to_pylist()
        return rows

    def events(self, name: str) -> list[str]:
        """The details of the events of this name that were sealed."""
        return [row["detail"] for row in self.rows("event") if row["event"] == name]
