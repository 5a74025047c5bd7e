"""`dpi-probe top` on a recorded pair of scrapes, and against endpoints that are none."""

from __future__ import annotations

import http.server
import io
import os
import socketserver
import subprocess
import threading
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dpi_probe import _scrape
from dpi_probe._control import TRIES, default_port
from dpi_probe._scrape import Between, NoAnswerError, Scrape, find_endpoint
from dpi_probe._throwaway import RunningCore
from dpi_probe.cli import top
from dpi_probe.errors import DpiProbeError
from harness.core import COMMAND
from harness.programs import dpi_probe
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator


def scrape(moment: float, **samples: float | dict[tuple[tuple[str, str], ...], float]) -> Scrape:
    made = Scrape(
        moment, {"dpi_probe_info": [({"version": "1.2.3", "probe": "sensor/eth0", "interface": "eth0"}, 1.0)]}
    )
    for name, value in samples.items():
        values = value if isinstance(value, dict) else {(): value}
        made.samples[f"dpi_probe_{name}"] = [(dict(labels), number) for labels, number in values.items()]
    return made


def buckets(*counts: float) -> dict[tuple[tuple[str, str], ...], float]:
    return {(("le", bound),): count for bound, count in zip(("0.001", "0.01", "+Inf"), counts, strict=True)}


BEFORE = scrape(
    100.0, frames_delivered_total=1000, packet_latency_seconds_bucket=buckets(5, 5, 5),
    packet_latency_seconds_sum=0.1, packet_latency_seconds_count=5,
)  # fmt: skip
AFTER = scrape(
    102.0,
    frames_delivered_total=4000,
    packet_latency_seconds_bucket=buckets(55, 105, 105),
    packet_latency_seconds_sum=0.3,
    packet_latency_seconds_count=105,
    flow_table_used_flows={(("worker", "0"),): 90, (("worker", "1"),): 80},
    flow_table_capacity_flows={(("worker", "0"),): 100, (("worker", "1"),): 100},
    application_flows_total={(("app", "tls"),): 12, (("app", ""),): 3},
    application_bytes_total={(("app", "tls"),): 4096, (("app", ""),): 10},
    degradation_level={(("degradation", "flow_table"),): 2, (("degradation", "storage"),): 0},
    capturing=1,
)


def test_rates_and_quantiles_are_of_the_time_between() -> None:
    between = Between(BEFORE, AFTER)
    assert between.rate("dpi_probe_frames_delivered_total") == 1500
    assert between.mean("dpi_probe_packet_latency_seconds") == pytest.approx(0.002)
    assert between.quantile("dpi_probe_packet_latency_seconds", 0.5) == pytest.approx(0.001)
    assert between.quantile("dpi_probe_packet_latency_seconds", 0.99) == pytest.approx(0.00982)
    assert between.quantile("dpi_probe_export_latency_seconds", 0.5) is None
    again = Between(AFTER, scrape(103.0, frames_delivered_total=7))
    assert again.rate("dpi_probe_frames_delivered_total") == 7, "a probe that was started again began at 0"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_the_screen_fits(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    with console.capture() as capture:
        console.print(top.screen(Between(BEFORE, AFTER), console, "http://127.0.0.1:1"))
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "sensor/eth0" in text
    assert "1,500" in text
    assert "85%" in text
    assert "tls" in text
    assert "degraded: flow_table (level 2)" in text
    assert "9.82 ms" in text


@pytest.mark.parametrize("width", [44, 78, 79, 80, 100, 110, 119, 120, 129, 130, 140, 160])
def test_no_number_is_cut_off_at_any_width(width: int) -> None:
    long = {
        f"{name.removeprefix('dpi_probe_')}_{kind}": value
        for _, name, _ in top.LATENCIES
        for kind, value in (("sum", 111.0), ("count", 100.0), ("bucket", buckets(55, 105, 105)))
    }
    apps = {(("app", "tls"),): 999_999.0, (("app", "netbios-ns"),): 123_456.0}
    now = scrape(
        101.0, **long, frames_delivered_total=123.4e9, flows_opened_total=999_999, idle_timeout_seconds=86_400,
        application_flows_total=apps, application_bytes_total=dict.fromkeys(apps, 1023.0 * 2 ** 20),
        capture_queue_used_bytes=1023 << 20, capture_queue_capacity_bytes=1023 << 20,
        backpressure_threshold_events=999_999, events_outstanding=999_999,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=width, height=60, highlight=False)
    with console.capture() as capture:
        console.print(top.screen(Between(scrape(100.0), now), console, "http://127.0.0.1:1"))
    title, *lines = capture.get().splitlines()
    assert title.count("eth0") <= 1
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for number in ("123.4 G", "999,999", "86,400 s", "1023 MiB", "1.11 s", "netbios-ns"):
        assert number in text


@pytest.mark.parametrize(("width", "height"), [(60, 15), (44, 60), (20, 4)])
def test_a_small_terminal_shows_less_and_cuts_no_number(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    with console.capture() as capture:
        console.print(top.screen(Between(BEFORE, AFTER), console, "http://127.0.0.1:1"))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    # What does not fit is cut off below, so the first lines must say what matters.
    assert lines[0].startswith("dpi-probe 1.2.3")
    assert lines[1].startswith("degraded")
    if width >= 44:
        assert next(line for line in lines if "packets captured" in line).split() == [
            "packets", "captured", "1,500", "4,000",
        ]  # fmt: skip
        assert next(line for line in lines if "flow table" in line).split()[-3:] == ["████████░░", "85%", "200"]
        assert any("9.82 ms" in line for line in lines)


def test_records_without_a_receipt_are_counted() -> None:
    now = scrape(103.0, events_outstanding=12, backpressure_threshold_events=250_000)
    console = Console(file=io.StringIO(), width=80, height=24, highlight=False)
    with console.capture() as capture:
        console.print(top.screen(Between(now, now), console, "http://127.0.0.1:1"))
    (line,) = [line for line in capture.get().splitlines() if "no receipt yet" in line]
    assert line.partition("no receipt yet")[2].split() == ["12", "0%", "250,000"]


def test_an_interface_that_is_away_goes_before_everything_else() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, highlight=False)
    for up, said in ((0, "the interface is down or gone"), (1, "capturing; http://127.0.0.1:1")):
        now = scrape(103.0, capturing=up, interface_up=up)
        with console.capture() as capture:
            console.print(top.screen(Between(now, now), console, "http://127.0.0.1:1"))
        assert said in capture.get()


def probe_of(interface: str) -> bytes:
    return f'dpi_probe_info{{version="1",probe="sensor/{interface}",interface="{interface}"}} 1\n'.encode()


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is no probe; below /eth7 and /eth8 it answers as probes do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {
                "/binary/metrics": b"\xff\xfe{", "/other/metrics": b"up 1\n",
                "/eth7/metrics": probe_of("eth7"), "/eth8/metrics": probe_of("eth8"),
            }.get(self.path)  # fmt: skip
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("path", "said"),
    [("", "answers 404"), ("/binary", "does not answer with metrics"), ("/other", "is not a probe's endpoint")],
)
def test_what_is_no_probe(stranger: str, path: str, said: str) -> None:
    done = dpi_probe("top", stranger + path, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert line.endswith("give the URL of a probe, which `dpi-probe run` prints at its start")


@pytest.fixture
def greeter() -> Iterator[str]:
    """A server that speaks first, and no HTTP, as SSH does."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"SSH-2.0-none\r\n")
            self.rfile.readline()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_speaks_no_http_is_one_clear_line(greeter: str) -> None:
    done = dpi_probe("top", greeter, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"http://{greeter}/metrics does not answer with metrics" in line


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9 9", "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:x", "ftp://127.0.0.1"]
)
def test_what_is_no_url_is_one_clear_line(url: str) -> None:
    with pytest.raises(DpiProbeError) as caught:
        Scrape.of(url)
    assert str(caught.value) == f"{url}/metrics: an address like http://127.0.0.1:20123 is expected"
    with pytest.raises(DpiProbeError, match="does not answer with metrics"):
        Scrape.of("http://127.0.0.1:1/a b")


def test_a_proxy_for_the_way_out_is_not_asked_for_a_probe(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DpiProbeError, match="is not a probe's endpoint"):
        Scrape.of(stranger + "/other")
    with subprocess.Popen(["true"]) as process, pytest.raises(urllib.error.HTTPError) as caught:
        RunningCore("", stranger, process, Path()).get("/health")
    caught.value.close()
    assert caught.value.code == 404


def test_it_ends_when_nobody_reads_it_any_more(stranger: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [COMMAND, "top", f"{stranger}/eth7", "-d", "0.1", "-n", "10000"], stdout=pipe, timeout=60, check=False
        )
    assert done.returncode == 0


def test_a_probe_that_is_not_there_is_one_clear_line() -> None:
    done = dpi_probe("top", "127.0.0.1:1", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "dpi-probe: no probe answers there: start one with `dpi-probe run`, or give its URL, which `dpi-probe run` "
        "prints at its start (no answer from http://127.0.0.1:1/metrics: Connection refused)\n"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [("nosuch", "nosuch: there is no such interface here"), ("lo", "start one with `dpi-probe run -i lo`")],
)
def test_an_interface_without_a_probe_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, said: str
) -> None:
    # Where nobody listens.
    (tmp_path / "metrics.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {}}]')
    monkeypatch.setenv("BUFFER_DIR", str(tmp_path))
    done = dpi_probe("top", name, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "its URL, which `dpi-probe run` prints" in line


def test_without_an_argument_it_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_scrape, "STATE_DIRECTORY", tmp_path)
    with pytest.raises(DpiProbeError, match=f"none below {tmp_path}; give its interface, or its URL, which"):
        find_endpoint(None)
    for name in ("eth0", "eth1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").touch()
    with pytest.raises(DpiProbeError, match=f"eth0, eth1 below {tmp_path}"):
        find_endpoint(None)


def test_where_a_probe_is(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("BUFFER_DIR", str(tmp_path))
    assert find_endpoint("http://10.0.0.1:9/metrics") == "http://10.0.0.1:9"
    assert find_endpoint("127.0.0.1:9") == "http://127.0.0.1:9"
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DpiProbeError, match="not what a probe writes"):
        find_endpoint("eth7")


@pytest.mark.parametrize(("places", "found"), [(["", "/other", "/eth8", "/eth7"], 3), (["/eth7", "/eth8"], 0)])
def test_an_interface_is_asked_for_until_its_own_probe_answers(
    stranger: str, monkeypatch: pytest.MonkeyPatch, places: list[str], found: int
) -> None:
    monkeypatch.setattr(_scrape, "_places_written", lambda _: [stranger + place for place in places])
    assert find_endpoint("eth7") == stranger + places[found]


def test_the_next_ports_are_asked_as_the_probe_takes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BUFFER_DIR", raising=False)
    monkeypatch.setattr(_scrape, "STATE_DIRECTORY", tmp_path)
    (tmp_path / "eth7").mkdir()
    # Of a probe that was killed.
    (tmp_path / "eth7/metrics.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {}}]')
    first = default_port("eth7")
    of = {1: "eth8", first: "eth8", first + TRIES - 1: "eth7", first + TRIES: "eth7"}
    asked = []

    def answer(base: str) -> Scrape:
        port = int(base.rpartition(":")[2])
        asked.append(port)
        if port not in of:
            raise NoAnswerError(f"no answer from {base}")
        return Scrape(0.0, {"dpi_probe_info": [({"probe": f"s/{of[port]}", "interface": of[port]}, 1.0)]})

    monkeypatch.setattr(_scrape.Scrape, "of", answer)
    assert find_endpoint("eth7") == f"http://127.0.0.1:{first + TRIES - 1}"
    assert asked == [1, *range(first, first + TRIES)]
    del of[first + TRIES - 1]
    with pytest.raises(NoAnswerError, match=f"at http://127.0.0.1:{first} is the probe s/eth8 of eth8"):
        find_endpoint("eth7")


def test_what_answers_instead_of_the_probe_is_told_with_what_to_do(
    stranger: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = stranger.removeprefix("http://")
    (tmp_path / "metrics.json").write_text(f'[{{"targets": ["{place}/eth8"], "labels": {{}}}}]')
    monkeypatch.setenv("BUFFER_DIR", str(tmp_path))
    done = dpi_probe("top", "lo", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "lo: no probe of it answers: start one with `dpi-probe run -i lo`, or give its URL" in line
    assert f"at {stranger}/eth8 is the probe sensor/eth8 of eth8" in line


def test_the_help_names_its_argument_as_it_describes_it() -> None:
    help_text = dpi_probe("top", "--help").stdout
    assert help_text.startswith("Usage: dpi-probe top [OPTIONS] [PROBE]\n")
    assert "PROBE is the interface" in help_text
