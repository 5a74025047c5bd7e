"""The whole probe on a live interface of its own namespace: what was sent is what the Core's database holds."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from harness.books import check_books, database_flows, total
from harness.core import Core, wait_for
from harness.programs import Probe

from tests.corpus.cases import cases
from tests.python.end_to_end.netns import Link

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["http1-keep-alive", "ip-fragments"])
def test_live_flows_arrive_in_the_database(name: str, shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == name]
    core = Core(tmp_path / "core", shared_pki).start()
    with Link() as link:
        # The namespace has no way to the Core, which listens on the host's loopback: the probe spools here,
        # and a second start on the host delivers.
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "-f", "ip or ip6")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        sent = link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "source_frames_dropped") == 0
    assert 0 < total(accounts, "frames_delivered") <= sent + 20
    flows = total(accounts, "events_sealed")
    assert flows > 0
    Probe(shared_pki, tmp_path / "spool", core, "-r", case.capture).start().finish()
    core.indexed()
    live = [flow for flow in database_flows(core) if flow["probe"] == f"sensor/{link.interface}"]
    assert len(live) == flows
    assert core.stop() == 0


def test_several_workers_share_an_interface(shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == "many-connections"]
    records = {}
    for workers in ("1", "3"):
        spool = tmp_path / f"spool-{workers}"
        with Link() as link:
            probe = Probe(shared_pki, spool, None, "-i", link.interface, "-f", "ip or ip6", f"--workers={workers}")
            with link.host.entered():
                probe.start()
            wait_for(lambda log=probe.log: "a new chain begins" in log.read_text(), "the probe to capture")
            link.replay(case.capture, frames_per_second=2000)
            assert probe.process is not None
            probe.process.send_signal(signal.SIGTERM)
            accounts = probe.finish()
        check_books(accounts)
        assert total(accounts, "source_frames_dropped") == 0
        assert {entry["worker"] for entry in accounts if entry["account"] == "source_frames_delivered"} == set(
            range(int(workers))
        )
        records[workers] = total(accounts, "flows_exported")
    assert records["3"] == records["1"] > 0


def test_missing_permission_names_the_capability_and_how_to_give_it(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "lo")
    # Root without the capability: execve cannot regain what is not in the bounding set.
    probe.command = ["setpriv", "--bounding-set=-net_raw,-net_admin", *probe.command]
    assert probe.start().process is not None
    assert probe.process is not None
    assert probe.process.wait(60) == 5
    said = probe.log.read_text()
    assert "CAP_NET_RAW" in said
    assert "setcap cap_net_raw" in said
    assert "Traceback" not in said


def test_several_workers_and_promiscuous_mode_need_two_capabilities(shared_pki: Path, tmp_path: Path) -> None:
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--workers=2")
        probe.command = ["setpriv", "--bounding-set=-all,+net_raw,+bpf", *probe.command]
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    workers = {entry["worker"] for entry in accounts if entry["account"] == "source_frames_delivered"}
    assert workers == {0, 1}


def test_an_interface_that_vanishes_is_reported_and_captured_from_again(shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == "http1-keep-alive"]
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--workers=2")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        sent = link.replay(case.capture, frames_per_second=2000)
        link.recreate()
        wait_for(lambda: "the interface is back" in probe.log.read_text(), "the probe to see the interface again")
        # The kernel drops what is sent before it has told the carrier, which takes a moment.
        show = ["ip", "-j", "link", "show", "feed0"]
        wait_for(lambda: b'"operstate":"UP"' in link.host.run(show).stdout, "the carrier")
        sent += link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "interface_changes", "gone") == 1
    assert total(accounts, "interface_changes", "back") == 1
    assert total(accounts, "source_frames_dropped") == 0
    # The kernel's own neighbour messages come on top.
    assert sent <= total(accounts, "frames_delivered") <= sent + 40
