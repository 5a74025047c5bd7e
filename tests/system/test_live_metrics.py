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


def test_what_happens_to_the_interface_is_counted_and_signed(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        ip, interface = live.link.host.ip, live.link.interface

        def counted(reason: str, least: int = 1) -> bool:
            return live.endpoint.value("dpi_probe_interface_changes_total", reason=reason) >= least

        ip("link", "set", interface, "mtu", "9000")
        wait_for(lambda: counted("mtu"), "the MTU to be told")
        ip("link", "set", interface, "down")
        wait_for(lambda: counted("down"), "the interface to be told down")
        assert live.endpoint.value("dpi_probe_interface_up") == 0
        ip("link", "set", interface, "up")
        wait_for(lambda: counted("up"), "the interface to be told up")
        wait_for(lambda: live.endpoint.value("dpi_probe_interface_up") == 1, "the interface to be up")
        ip("link", "set", interface, "name", "other0")
        wait_for(lambda: counted("renamed"), "the new name to be told")
        live.link.recreate()
        wait_for(lambda: counted("back") and counted("up", 2), "the interface to be told back and up")
        accounts = live.finish()
        check_books(accounts)
        told = [(row["event"], row["detail"]) for row in live.rows("event") if row["event"].startswith("interface_")]
    # Others may come between: before an interface is removed, it is down for a moment.
    expected = [
        ("interface_mtu", "probe0: MTU 65535 is 9000 now"),
        ("interface_down", "probe0: down"),
        ("interface_up", "probe0: up"),
        ("interface_renamed", "probe0 is other0 now"),
        ("interface_gone", "other0: gone"),
        ("interface_back", "probe0: back"),
        ("interface_mtu", "probe0: MTU 1500 is 65535 now"),
        ("interface_up", "probe0: up"),
    ]
    rest = iter(told)
    assert all(one in rest for one in expected), told
    for reason in ("down", "up", "gone", "back", "renamed", "mtu"):
        signed = sum(event == f"interface_{reason}" for event, _ in told)
        assert total(accounts, "interface_changes", reason) == signed > 0, (reason, told)
    assert total(accounts, "interface_changes", "unknown") == total(accounts, "probe_events_lost") == 0


def test_an_interface_is_looked_after_by_whichever_of_its_names_it_was_given(tmp_path: Path, shared_pki: Path) -> None:
    live = LiveProbe(tmp_path, shared_pki, "-i", "mirror0")
    live.link.host.ip("link", "property", "add", "dev", live.link.interface, "altname", "mirror0")
    with live:
        endpoint = live.endpoint
        wait_for(lambda: endpoint.value("dpi_probe_interface_up") == 1, "the interface to be told up")
        live.link.host.ip("link", "set", live.link.interface, "down")
        wait_for(lambda: endpoint.value("dpi_probe_interface_up") == 0, "the interface to be told down")
        assert endpoint.request("/readyz")[0] == 503
        assert total(live.finish(), "interface_changes", "down") == 1


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
