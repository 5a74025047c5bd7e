"""What the endpoint of a probe shows of a live interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe.bench.stages_of_threads import STAGES
from harness.books import check_books, total
from harness.core import wait_for
from harness.live import LiveProbe, udp_frame

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_latencies_and_gauges_of_a_live_interface(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, "--flow-timeout-seconds=1", core=True) as live:
        live.start_core()
        sent = live.send(udp_frame(number) for number in range(3000))
        endpoint = live.endpoint
        wait_for(lambda: endpoint.value("dpi_probe_application_flows_total") >= sent, "the flows to be exported")
        wait_for(lambda: endpoint.value("dpi_probe_batches_spooled") == 0, "the receipts")
        assert endpoint.value("dpi_probe_packet_latency_seconds_count", worker="0") >= sent
        assert endpoint.value("dpi_probe_export_latency_seconds_count", worker="0") >= sent
        assert endpoint.value("dpi_probe_application_packets_total") >= sent
        sealed = endpoint.value("dpi_probe_batches_sealed_total")
        assert 0 < endpoint.value("dpi_probe_wire_latency_seconds_count") <= sealed
        assert endpoint.value("dpi_probe_receipt_latency_seconds_count") > 0
        assert endpoint.value("dpi_probe_seal_duration_seconds_count") >= sealed
        assert (
            0
            < endpoint.value("dpi_probe_sign_duration_seconds_sum")
            < endpoint.value("dpi_probe_seal_duration_seconds_sum")
        )
        assert endpoint.value("dpi_probe_capture_queue_capacity_bytes", worker="0") > 1 << 20
        assert endpoint.value("dpi_probe_flow_table_capacity_flows") > 10_000
        wait_for(lambda: endpoint.value("dpi_probe_frame_drop_ratio") == 0, "the drop rate")
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "source_frames_dropped") == 0


def thread_names(process: int) -> Iterator[str]:
    for task in Path(f"/proc/{process}/task").iterdir():
        yield "main" if int(task.name) == process else (task / "comm").read_text().strip()


def test_every_stage_of_a_probe_has_its_threads(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, core=True) as live:
        assert live.probe.process is not None
        names = list(thread_names(live.probe.process.pid))
        assert [begin for begin, _ in STAGES if not any(name.startswith(begin) for name in names)] == []
        # A thread without a name has that of the thread that started it.
        assert names.count("dpi-supervisor") == 1
