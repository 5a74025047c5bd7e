"""Degradations, each provoked for real, relieved, and undone (design §6)."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

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
    """It began and it ended, in the log and as signed events."""
    for name in ("degradation_began", "degradation_ended"):
        assert any(detail.startswith(f"{degradation}: ") for detail in live.events(name)), name
        assert any(name in line and degradation in line for line in live.log().splitlines()), name


def test_a_full_flow_table_shortens_idle_timeouts(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, "--max-buffer-size-mb=128", "--flow-timeout-seconds=80") as live:
        capacity = int(live.endpoint.value("dpi_probe_flow_table_capacity_flows"))
        flows = int(capacity * 0.9)
        live.send((udp_frame(number) for number in range(flows)), per_second=30_000)
        wait_for(lambda: level(live, "flow_table") >= 1, "the flow table to be degraded")
        assert live.endpoint.value("dpi_probe_idle_timeout_seconds") < 80
        wait_for(lambda: level(live, "flow_table") == 0, "the degradation to be undone")
        assert live.endpoint.value("dpi_probe_idle_timeout_seconds") == 80
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

        def send() -> None:
            live.send((udp_frame(next(numbers)) for _ in range(1000)), per_second=5000)

        # There is no Core yet.
        keep_on(lambda: level(live, "storage") >= 1, send, "the spool to be degraded")
        assert live.endpoint.value("dpi_probe_compression_level") > 3
        assert live.endpoint.value("dpi_probe_seal_linger_seconds") > 0.02
        live.start_core()
        wait_for(lambda: level(live, "storage") == 0, "the degradation to be undone")
        assert live.endpoint.value("dpi_probe_compression_level") == 3
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "batches_spooled") == 0
        log = live.log()
        assert "degradation_began" in log
        assert "degradation_ended" in log


def test_a_capture_queue_that_fills_up_grows(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, "--max-buffer-size-mb=128") as live:

        def capacity() -> float:
            return live.endpoint.value("dpi_probe_capture_queue_capacity_bytes")

        ring = capacity()
        frames = [udp_frame(number, bytes(60_000)) for number in range(int(ring) // 60_000)]

        def fill_up() -> None:
            # As if it got no processor for a while: the kernel fills the ring, and nobody empties it.
            live.signal(signal.SIGSTOP)
            live.send(frames)
            live.signal(signal.SIGCONT)

        keep_on(
            lambda: level(live, "capture_queue") >= 1 and capacity() == 2 * ring, fill_up, "the capture queue to grow"
        )
        wait_for(lambda: level(live, "capture_queue") == 0, "the degradation to be undone")
        wait_for(lambda: capacity() == ring, "the queue to be as before")
        check_books(live.finish())
        check_told(live, "capture_queue")


def test_a_disk_that_hangs_makes_bigger_batches_and_never_holds_up_capture(tmp_path: Path, shared_pki: Path) -> None:
    # The sealing thread stores what it has signed: while it waits for the disk, batches wait for it.
    with (
        HangingDisk(tmp_path / "spool", 64) as disk,
        LiveProbe(tmp_path, shared_pki, "--flow-timeout-seconds=1", health_report_interval_seconds=3600) as live,
    ):
        numbers = iter(range(10**9))

        def send() -> None:
            live.send((udp_frame(next(numbers)) for _ in range(500)), per_second=1000)

        disk.hang()
        try:
            keep_on(lambda: level(live, "seal_queue") >= 1, send, "the signing queue to be degraded")
            wait_for(
                lambda: live.endpoint.value("dpi_probe_seal_linger_seconds") > 0.05,
                "batches to wait until they are big",
            )
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
