"""The configuration of a running probe: changed by PUT /v1/config and SIGHUP, without losing a packet."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from harness.books import check_books, total
from harness.core import wait_for
from harness.live import LiveProbe, udp_frame

if TYPE_CHECKING:
    from pathlib import Path


def put(live: LiveProbe, changes: Any, **headers: str) -> tuple[int, Any]:
    return live.endpoint.json("/v1/config", method="PUT", body=json.dumps(changes).encode(), headers=headers)


def test_timeouts_and_filter_change_while_packets_come(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki, "--workers=2") as live:
        assert live.endpoint.json("/v1/config") == (
            200,
            {
                "flow_timeout_seconds": 300.0,
                "flow_active_timeout_seconds": 1800.0,
                "profile": "standard",
                "capture_filter": None,
            },
        )
        sent = live.send(udp_frame(number) for number in range(500))
        wait_for(lambda: live.endpoint.value("dpi_probe_frames_metered_total") >= sent, "the frames to be metered")
        assert live.endpoint.value("dpi_probe_flows_exported_total") == 0
        # A shorter timeout holds for the flows that are there.
        assert put(live, {"flow_timeout_seconds": 1})[0] == 200
        wait_for(lambda: live.endpoint.value("dpi_probe_flows_active") == 0, "the flows to end by the new timeout")
        assert live.endpoint.value("dpi_probe_flows_exported_total", reason="idle_timeout") == sent
        # A filter holds from the answer on, and frames that came before it are not lost.
        assert put(live, {"capture_filter": "udp port 9 and src net 10.0.0.0/32"})[0] == 200
        live.send(udp_frame(number) for number in range(16_000, 17_000))
        passing = 16_384 - 16_000
        wait_for(
            lambda: live.endpoint.value("dpi_probe_frames_metered_total") >= sent + passing, "the frames that pass"
        )
        assert put(live, {"capture_filter": None})[0] == 200
        last = live.send([udp_frame(99_999)])
        wait_for(
            lambda: live.endpoint.value("dpi_probe_frames_metered_total") >= sent + passing + last, "the last frame"
        )
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "frames_metered") == sent + passing + last
        assert total(accounts, "source_frames_dropped") == 0
        details = live.events("configuration_changed")
        assert details == [
            "PUT /v1/config by uid 0: flow_timeout_seconds 300.0 -> 1.0",
            "PUT /v1/config by uid 0: capture_filter none -> udp port 9 and src net 10.0.0.0/32",
            "PUT /v1/config by uid 0: capture_filter udp port 9 and src net 10.0.0.0/32 -> none",
        ]


def test_a_changed_filter_holds_when_the_interface_comes_back(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        assert put(live, {"capture_filter": "udp port 9 and src net 10.0.0.0/32"})[0] == 200
        live.link.recreate()
        wait_for(lambda: "the interface is back" in live.log(), "the probe to open the interface again")
        live.send(udp_frame(number) for number in range(16_000, 17_000))
        passing = 16_384 - 16_000
        wait_for(lambda: live.endpoint.value("dpi_probe_frames_metered_total") >= passing, "the frames that pass")
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "frames_metered") == passing
        assert total(accounts, "interface_changes", "back") == 1


def test_a_renamed_or_vanished_interface_does_not_stand_in_the_way(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        # A filter is in force, so that one is compiled for the interface with each change.
        assert put(live, {"capture_filter": "udp"})[0] == 200
        live.link.host.ip("link", "set", live.link.interface, "name", "other0")
        assert put(live, {"profile": "full"})[0] == 200
        assert put(live, {"capture_filter": "udp port 9"})[0] == 200
        sent = live.send(udp_frame(number) for number in range(10))
        wait_for(lambda: live.endpoint.value("dpi_probe_frames_metered_total") == sent, "the frames to be metered")
        assert live.endpoint.value("dpi_probe_interface_up") == 1
        live.link.host.ip("link", "delete", "feed0")
        wait_for(lambda: live.endpoint.json("/readyz")[0] == 503, "the probe to see that the interface is gone")
        assert live.endpoint.value("dpi_probe_interface_up") == 0
        assert put(live, {"capture_filter": None})[0] == 200
        accounts = live.finish()
        check_books(accounts)
        assert total(accounts, "interface_changes", "renamed") == total(accounts, "interface_changes", "gone") == 1
        assert live.events("interface_renamed") == [f"{live.link.interface} is other0 now"]
        assert live.events("interface_gone") == ["other0: gone"]


def test_a_bad_change_changes_nothing_and_says_why(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        before = live.endpoint.json("/v1/config")
        for changes, said in (
            (
                {"flow_timeout_seconds": 0},
                "flow_timeout_seconds=0 (PUT /v1/config by uid 0): allowed: a number, at least 0.001",
            ),
            ({"flow_timeout_seconds": True}, "flow_timeout_seconds=True (PUT /v1/config by uid 0): allowed: a number"),
            ({"flow_timeout_seconds": "soon"}, "flow_timeout_seconds='soon' (PUT /v1/config by uid 0)"),
            ({"flow_timeout_seconds": 2000}, "allowed: not below flow_timeout_seconds, which is 2000"),
            ({"FLOW_TIMEOUT_SECONDS": 60}, "did you mean flow_timeout_seconds"),
            ({"capture_filter": "no such thing"}, "no such thing"),
            ({"max_buffer_size_mb": 512}, "cannot be changed while the probe runs"),
            ({"flow_timeout_second": 1}, "did you mean flow_timeout_seconds"),
            ({"capture_filter": "host 192.0.2.1 or " * 300}, "allowed: at most 4096 characters"),
            ([1], "not a JSON object"),
        ):
            status, answer = put(live, changes)
            assert status == 400, changes
            assert said in answer["error"], changes
            assert "\n" not in answer["error"]
        assert live.endpoint.json("/v1/config", method="PUT", body=b"{")[0] == 400
        assert live.endpoint.json("/v1/config", method="PUT", body=b"[" * 60_000)[0] == 400
        assert put(live, {"flow_timeout_seconds": 1}, Host="attacker.example")[0] == 403
        assert live.endpoint.json("/metrics", headers={"Host": "attacker.example"})[0] == 403
        assert live.endpoint.json("/v1/config", headers={"Host": ""})[0] == 403
        assert put(live, {}, **{"Content-Length": "9" * 5000})[0] == 413
        assert live.endpoint.json("/v1/config", method="PUT", body=b" " * 100_000)[0] == 413
        assert live.endpoint.json("/v1/config") == before
        check_books(live.finish())
        assert live.events("configuration_changed") == []
        assert "Traceback" not in live.log()


def ask_from(
    live: LiveProbe, address: str, port: int, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, str]:
    """Ask the endpoint at an address of the namespace, which is then the peer's address too; status and body."""
    with live.link.host.entered():
        connection = http.client.HTTPConnection(address, port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.mark.parametrize(("listen", "address"), [("0.0.0.0:0", "198.51.100.7"), ("[::]:0", "2001:db8::7")])
def test_who_is_not_on_the_loopback_reads_metrics_but_no_configuration(
    tmp_path: Path, shared_pki: Path, listen: str, address: str
) -> None:
    live = LiveProbe(tmp_path, shared_pki, metrics_address=listen)
    live.link.host.run(["sysctl", "-q", "net.ipv6.conf.lo.disable_ipv6=0"])
    with live:
        live.link.host.ip("address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
        port = urllib.parse.urlsplit(live.endpoint.url).port
        assert port is not None
        change = json.dumps({"flow_timeout_seconds": 1}).encode()
        # Its own Host, and one that would do from the loopback: who asks decides.
        for host in (f"[{address}]:{port}" if ":" in address else f"{address}:{port}", "localhost"):
            for method, body in (("PUT", change), ("GET", b"")):
                status, said = ask_from(live, address, port, method, "/v1/config", body, Host=host)
                assert status == 403, (method, host)
                assert json.loads(said) == {"error": "/v1/config is for this machine's loopback only"}
        assert ask_from(live, address, port, "GET", "/metrics")[0] == 200
        loopback = "::1" if ":" in address else "127.0.0.1"
        status, said = ask_from(live, loopback, port, "GET", "/v1/config")
        assert (status, json.loads(said)["flow_timeout_seconds"]) == (200, 300.0)
        check_books(live.finish())
        assert live.events("configuration_changed") == []


def test_another_user_reads_the_configuration_and_changes_nothing(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        port = urllib.parse.urlsplit(live.endpoint.url).port
        assert port is not None
        answers = {}
        for method, body in (("GET", b""), ("PUT", b'{"capture_filter": "less 1"}')):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with live.link.host.entered(), contextlib.closing(connection):
                # A socket is its maker's.
                os.seteuid(65_534)
                try:
                    connection.connect()
                finally:
                    os.seteuid(0)
                connection.request(method, "/v1/config", body)
                answer = connection.getresponse()
                answers[method] = (answer.status, answer.read().decode())
        assert answers["GET"][0] == 200
        assert answers["PUT"][0] == 403
        assert "by root and by the probe's own user" in answers["PUT"][1]
        check_books(live.finish())
        assert live.events("configuration_changed") == []


def test_by_default_nobody_else_can_connect(tmp_path: Path, shared_pki: Path) -> None:
    with LiveProbe(tmp_path, shared_pki) as live:
        live.link.host.ip("address", "add", "198.51.100.7", "dev", "lo")
        port = urllib.parse.urlsplit(live.endpoint.url).port
        assert port is not None
        assert ask_from(live, "127.0.0.1", port, "GET", "/v1/config")[0] == 200
        with live.link.host.entered(), socket.create_connection(("127.0.0.1", port), 30) as simple:
            simple.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert simple.recv(12) == b"HTTP/1.1 200"
        with pytest.raises(ConnectionRefusedError):
            ask_from(live, "198.51.100.7", port, "PUT", "/v1/config", b"{}")
        check_books(live.finish())


def test_sighup_reads_the_file_again(tmp_path: Path, shared_pki: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text("flow_timeout_seconds = 60\n")
    with LiveProbe(tmp_path, shared_pki, f"--config={file}") as live:
        sent = live.send(udp_frame(number) for number in range(10))
        file.write_text("flow_timeout_seconds = 1\nhealth_report_interval_seconds = 30\n")
        live.signal(signal.SIGHUP)
        wait_for(lambda: live.endpoint.value("dpi_probe_flows_exported_total") == sent, "the new timeout")
        wait_for(lambda: "takes a restart" in live.log(), "what takes a restart to be named")
        assert "health_report_interval_seconds" in live.log()
        file.write_text("flow_timeout_seconds = -1\n")
        live.signal(signal.SIGHUP)
        wait_for(lambda: "the configuration stays as it was: flow_timeout_seconds=-1" in live.log(), "the refusal")
        file.write_text("flow_timeout_seconds = [\n")
        live.signal(signal.SIGHUP)
        wait_for(lambda: "is not TOML" in live.log(), "the refusal")
        assert live.endpoint.json("/v1/config")[1]["flow_timeout_seconds"] == 1.0
        check_books(live.finish())
        assert live.events("configuration_changed") == ["SIGHUP: flow_timeout_seconds 60.0 -> 1.0"]
