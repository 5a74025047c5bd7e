"""Degradations, each provoked for real, relieved, and undone (design §6)."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Self

import pyarrow.compute as pc
from dpi_probe import _native
from harness.books import check_books, total
from harness.core import wait_for
from harness.live import LiveProbe, udp_frame

from tests.system.small_disk import HangingDisk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def level(live: LiveProbe, degradation: str) -> float:
    return live.endpoint.value("dpi_probe_degradation_level", degradation=degradation)


def keep_on(condition: Callable[[], bool], act: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    """Act again and again until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain for {what}"
        act()


def check_told(live: LiveProbe, degradation: str) -> None:
    """It began, went to the deepest level, came back and ended: in the log and as signed events."""
    for name, change in (
        ("degradation_began", "level 0 -> 1"),
        ("degradation_deepened", "level 1 -> 2"),
        ("degradation_deepened", "level 2 -> 3"),
        ("degradation_eased", "level 3 -> 2"),
        ("degradation_eased", "level 2 -> 1"),
        ("degradation_ended", "level 1 -> 0"),
    ):
        told = [detail for detail in live.events(name) if detail.startswith(f"{degradation}: ")]
        assert any(detail.endswith(change) for detail in told), (name, change, told)
        said = [line for line in live.log().splitlines() if name in line and degradation in line]
        assert any(change in line for line in said), (name, change, said)


def test_a_full_flow_table_shortens_idle_timeouts_level_by_level(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, "--max-buffer-size-mb=128", "--flow-timeout-seconds=240") as live:
        capacity = int(live.endpoint.value("dpi_probe_flow_table_capacity_flows"))
        numbers = iter(range(10**9))

        def send(flows: int) -> None:
            live.send((udp_frame(next(numbers)) for _ in range(flows)), per_second=30_000)

        send(int(capacity * 0.9))
        # New flows keep it full while the older ones time out earlier and earlier.
        keep_on(lambda: level(live, "flow_table") == 3, lambda: send(2000), "the flow table to be degraded", 180)
        assert live.endpoint.value("dpi_probe_idle_timeout_seconds") == 30
        wait_for(lambda: level(live, "flow_table") == 0, "the degradation to be undone")
        assert live.endpoint.value("dpi_probe_idle_timeout_seconds") == 240
        # A table that was full stays resident, within the bound, and is no reason to compress harder.
        assert live.endpoint.value("dpi_probe_resident_memory_bytes") < 128 << 20
        assert level(live, "storage") == 0
        assert live.endpoint.value("dpi_probe_degradations_total", degradation="flow_table") >= 1
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "flows_exported", "idle_timeout") > 0
        check_told(live, "flow_table")


def test_a_stop_keeps_every_open_flow(tmp_path: Path, shared_pki: Path) -> None:
    # More records at once than may wait for a signature: when nothing more is captured, they may take their time.
    flows = 60_000
    with LiveProbe(tmp_path, shared_pki, "--max-buffer-size-mb=128") as live:
        live.send((udp_frame(number) for number in range(flows)), per_second=30_000)
        wait_for(
            lambda: live.endpoint.value("dpi_probe_frames_metered_total", worker="0") >= flows,
            "every frame to be metered",
        )
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "flows_exported", "forced_end") >= flows
        assert total(accounts, "events_dropped") == 0


def test_a_spool_that_fills_up_is_compressed_harder_until_the_core_is_back(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(
        tmp_path,
        shared_pki,
        "--flow-timeout-seconds=1",
        "--max-spool-size-mb=1",
        core=True,
        health_report_interval_seconds=3600,
    ) as live:
        numbers = iter(range(10**9))
        capacity = live.endpoint.value("dpi_probe_spool_capacity_bytes")

        def send() -> None:
            before = live.endpoint.value("dpi_probe_events_sealed_total")
            sent = live.send((udp_frame(next(numbers)) for _ in range(500)), per_second=5000)
            wait_for(
                lambda: live.endpoint.value("dpi_probe_events_sealed_total") >= before + sent,
                "the records to be sealed",
            )

        # There is no Core yet. Never so full that a batch is dropped, for events are batches too.
        keep_on(
            lambda: live.endpoint.value("dpi_probe_spool_used_bytes") > 0.8 * capacity, send, "the spool to fill up"
        )
        wait_for(lambda: level(live, "storage") == 3, "the spool to be degraded")
        assert live.endpoint.value("dpi_probe_compression_level") == 12
        assert live.endpoint.value("dpi_probe_seal_linger_seconds") == 1.6
        live.start_core()
        wait_for(lambda: level(live, "storage") == 0, "the degradation to be undone")
        assert live.endpoint.value("dpi_probe_compression_level") == 1
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "batches_spooled") == total(accounts, "batches_dropped") == 0
        # The Core has the events.
        check_told(live, "storage")


class Starved:
    """While the context lasts the probe gets the processor for a twentieth of the time."""

    def __init__(self, live: LiveProbe) -> None:
        self.live = live
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.is_set():
            self.live.signal(signal.SIGSTOP)
            self.over.wait(0.06)
            self.live.signal(signal.SIGCONT)
            self.over.wait(0.003)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


class Flood:
    """Frames of 60 bytes as fast as the link takes them, while the context lasts.

    Some hundred for each flow, so that the flows leave memory for the capture queue to grow into.
    """

    def __init__(self, live: LiveProbe) -> None:
        traffic = _native.Traffic(
            seed=1, bits_per_second=10**9, flows_per_second=20_000, frame_size="64", ipv6_share=0.3, vlan_share=0.1,
            cycle_bytes=8 << 20,
        )  # fmt: skip
        with live.link.host.entered():
            self.sender = _native.TrafficSender("feed0", traffic, flat_out=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.stop()


def test_a_capture_queue_that_fills_up_grows_then_statistics_then_layer_7_are_shed(
    tmp_path: Path, shared_pki: Path
) -> None:
    with LiveProbe(tmp_path, shared_pki, "--max-buffer-size-mb=192") as live:

        def capacity() -> float:
            return live.endpoint.value("dpi_probe_capture_queue_capacity_bytes")

        ring = capacity()
        with Starved(live), Flood(live):
            wait_for(lambda: level(live, "capture_queue") == 3, "the capture queue to be degraded")
            # As far as the bound of memory leaves room for it.
            wait_for(lambda: ring < capacity() <= 2 * ring, "the queue to have grown")
        wait_for(lambda: level(live, "capture_queue") == 0, "the degradation to be undone")
        wait_for(lambda: capacity() == ring, "the queue to be as before")
        live.send([udp_frame(0, bytes(100))])
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "work_shed", "statistics") >= total(accounts, "work_shed", "layer7") > 0
        check_told(live, "capture_queue")
        (after,) = live.rows("flow_id", pc.field("bytes_fwd") == 128)
        assert (after["shed"], after["packet_length_mean"]) == (None, 128)
        for shed in ("statistics", "statistics,layer7"):
            (left_out, *_) = live.rows("flow_id", pc.field("shed") == shed)
            assert left_out["packet_length_mean"] is None


def test_a_disk_that_hangs_makes_bigger_batches_and_holds_up_neither_capture_nor_relief(
    tmp_path: Path, shared_pki: Path
) -> None:
    # A sealing thread stores what it has signed before the next turn: while it waits for the disk, batches wait, and in
    # the end the thread that seals ledgers and events waits too.
    with (
        HangingDisk(tmp_path / "spool", 64) as disk,
        LiveProbe(tmp_path, shared_pki, "--flow-timeout-seconds=1", health_report_interval_seconds=1) as live,
    ):
        numbers = iter(range(10**9))

        def send() -> None:
            live.send((udp_frame(next(numbers)) for _ in range(500)), per_second=1000)

        disk.hang()
        try:
            keep_on(lambda: level(live, "seal_queue") == 3, send, "the signing queue to be degraded")
            wait_for(
                lambda: live.endpoint.value("dpi_probe_seal_linger_seconds") == 1.6,
                "batches to wait until they are big",
            )
            assert live.endpoint.value("dpi_probe_compression_level") == 1
            metered = live.endpoint.value("dpi_probe_frames_metered_total", worker="0")
            keep_on(
                lambda: live.endpoint.value("dpi_probe_frames_metered_total", worker="0") > metered,
                send,
                "capture to go on",
            )
        finally:
            disk.go_on()
        wait_for(lambda: level(live, "seal_queue") == 0, "the degradation to be undone")
        assert live.endpoint.value("dpi_probe_seal_linger_seconds") < 0.05
        accounts = live.finish()
        check_books(accounts)
        check_told(live, "seal_queue")
