"""`dpi-probe run` on files: what ends it, what it shows, and what it says at the end."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import capture_files as captures
import pyarrow as pa
import pytest
from dpi_probe.bench.peers import SHORTEST
from harness.books import total
from harness.core import wait_for
from harness.programs import Probe, dpi_probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedWriter

CORPUS = Path(__file__).parents[2] / "corpus"
CAPTURE = CORPUS / "http1-keep-alive/input.pcap"


def wait_until_read(pipe: BufferedWriter) -> None:
    """Until the reader has taken everything that is in the pipe."""
    left = array.array("i", [1])
    while left[0]:
        fcntl.ioctl(pipe, termios.FIONREAD, left)
        time.sleep(0.01)


def said(probe: Probe) -> list[str]:
    """The lines in which the program says what went wrong."""
    return [line for line in probe.log.read_text().splitlines() if line.startswith("dpi-probe: ")]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_count_ends_the_probe_after_so_many_packets(workers: str, shared_pki: Path, tmp_path: Path) -> None:
    files = ["-r", CAPTURE, "-r", CORPUS / "dns-dig/input.pcap", f"--workers={workers}"]
    for count, expected in ((5, 5), (40, 40)):
        probe = Probe(shared_pki, tmp_path / f"spool{count}", None, *files, "-c", str(count))
        accounts = probe.start().finish()
        assert total(accounts, "source_frames_delivered") == expected
        assert total(accounts, "frames_delivered") == expected
    # Those that the filter passes.
    probe = Probe(shared_pki, tmp_path / "filtered", None, *files, "-c", "3", "-f", "udp")
    accounts = probe.start().finish()
    assert total(accounts, "frames_delivered") == 3
    assert total(accounts, "source_frames_filtered") > 3


@pytest.mark.parametrize("workers", ["1", "2"])
def test_records_of_a_pipe_that_falls_silent_do_not_wait_for_its_end(
    workers: str, shared_pki: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", pipe, f"--workers={workers}").start()
    with pipe.open("wb") as writer:
        # Nothing more comes, and nothing ends: many connections are over by the time of the last packet.
        writer.write((CORPUS / "many-connections/input.pcap").read_bytes())
        writer.flush()

        def sealed() -> bool:
            schemas = [pa.ipc.open_stream(path.read_bytes()).schema for path in probe.pending()]
            return any("flow_id" in schema.names for schema in schemas)

        wait_for(sealed, "a batch of flow records")
        assert probe.process is not None
        assert probe.process.poll() is None
    accounts = probe.finish()
    assert total(accounts, "events_sealed") > 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupt_keeps_what_was_metered_and_says_how_far_it_came(
    number: signal.Signals, status: int, shared_pki: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "-r", pipe, "-r", tmp_path / "none").start()
    with pipe.open("wb") as writer:
        content = CAPTURE.read_bytes()
        writer.write(content)
        writer.flush()
        wait_until_read(writer)
        assert probe.process is not None
        probe.process.send_signal(number)
        accounts = probe.finish(status)
    assert total(accounts, "flows_exported") > 0
    assert total(accounts, "batches_spooled") == len(probe.pending()) > 0
    assert (
        probe.log.read_text().count(f"no Core is set (CORE_API_URL): sealed batches stay in the spool, {tmp_path}") == 1
    )
    kept = f"dpi-probe: interrupted: {2 * len(content):,} bytes read; the records so far are sealed and kept"
    assert said(probe) == ([kept] if number == signal.SIGINT else [])


def test_files_go_before_an_interface_of_environment_or_settings(
    shared_pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "probe.toml"
    settings.write_text('capture_iface = "nosuchif0"\n')
    accounts = Probe(shared_pki, tmp_path / "one", None, "-r", CAPTURE, "-C", settings).start().finish()
    assert total(accounts, "frames_delivered") > 0
    monkeypatch.setenv("CAPTURE_IFACE", "nosuchif0")
    accounts = Probe(shared_pki, tmp_path / "two", None, "-r", CAPTURE).start().finish()
    assert total(accounts, "frames_delivered") > 0
    # Two flags contradict each other.
    probe = Probe(shared_pki, tmp_path / "three", None, "-r", CAPTURE, "-i", "nosuchif0").start()
    assert probe.process is not None
    assert probe.process.wait(60) == 2
    (line,) = said(probe)
    assert "from interface nosuchif0 or from files, not both" in line


def test_a_report_that_cannot_be_written_is_refused_at_once(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "--report", "/nowhere/x.json").start()
    assert probe.process is not None
    assert probe.process.wait(60) == 1
    assert probe.log.read_text() == "dpi-probe: cannot write /nowhere/x.json: No such file or directory\n"
    assert not probe.spool.exists()


def test_a_report_that_cannot_be_written_at_the_end_is_told_behind_the_books(shared_pki: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pcap"
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "-r", missing, "--report", "/dev/full").start()
    assert probe.process is not None
    assert probe.process.wait(60) == 1
    lines = probe.log.read_text().splitlines()
    assert "1 batch" in lines[-3] or "batches sealed" in lines[-3]
    assert str(missing) in lines[-2]
    assert lines[-1] == "dpi-probe: cannot write /dev/full: No space left on device"


def test_every_bad_file_has_a_line_of_its_own(shared_pki: Path, tmp_path: Path) -> None:
    bad = [tmp_path / name for name in ("one.pcap", "two.pcap", "three.pcap")]
    bad[1].touch()
    bad[2].write_bytes(captures.pcap(captures.dns_frames())[:10])
    files = [word for path in (*bad, CAPTURE) for word in ("-r", path)]
    probe = Probe(shared_pki, tmp_path / "spool", None, *files)
    accounts = probe.start().finish(3)
    assert total(accounts, "events_sealed") > 0
    assert [line.partition(".pcap")[0] for line in said(probe)] == [
        f"dpi-probe: {path.with_suffix('')}" for path in bad
    ]
    assert "cut short within its file header" in said(probe)[2]


def test_a_loss_is_told_beside_what_could_not_be_read_and_weighs_more(shared_pki: Path, tmp_path: Path) -> None:
    # Records of four batches and more do not fit into a spool of a MiB.
    many, missing = tmp_path / "many.pcap", tmp_path / "missing.pcap"
    (time, query), _ = captures.dns_frames()
    # Another source address each; their checksums are wrong then, which is no reason to drop them.
    frames = [(time, query[:26] + number.to_bytes(4, "big") + query[30:]) for number in range(1, 50_000)]
    many.write_bytes(captures.pcap(frames))
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", missing, "-r", many, "--max-spool-size-mb=1")
    accounts = probe.start().finish(1)
    assert total(accounts, "batches_dropped") > 0
    unread, loss = said(probe)
    assert str(missing) in unread
    assert f"{probe.spool}: " in loss
    assert "could not be kept" in loss


def test_nobody_else_reads_what_lies_in_the_spool(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE)
    probe.start().finish()
    assert (probe.spool / "lock").exists()
    for path in [probe.spool, *probe.spool.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of 100 columns."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.set_blocking(parent, False)
    yield parent, child
    os.close(parent)
    os.close(child)


def test_a_terminal_shows_how_far_it_is(shared_pki: Path, tmp_path: Path, terminal: tuple[int, int]) -> None:
    parent, child = terminal
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE, "-r", fifo)
    # Written to as well as read, so that opening it waits for nobody.
    with fifo.open("r+b", buffering=0) as writer:
        probe.process = subprocess.Popen(probe.command, stdout=child, stderr=child, text=True, start_new_session=True)
        writer.write(CAPTURE.read_bytes())
        shown = b""

        def shows_progress() -> bool:
            nonlocal shown
            try:
                shown += os.read(parent, 65_536)
            except BlockingIOError:
                return False
            return b"reading" in shown and b"packets" in shown

        wait_for(shows_progress, "a progress bar")
    probe.finish()
    shown += os.read(parent, 65_536)
    assert b"batches sealed" in shown
    # The last thing is the books, on a line that nothing else is left on.
    last = shown.decode().rstrip().rsplit("\n", 1)[1]
    assert "reading" not in last


def test_without_a_terminal_nothing_is_drawn(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-r", CAPTURE)
    probe.start().finish()
    assert "\x1b" not in probe.log.read_text()
    assert "\r" not in probe.log.read_text()


def test_several_sealing_threads_make_one_chain(
    shared_pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More records than fit one batch, and ledgers among them.
    capture = tmp_path / "flows.pcap"
    traffic = ("bench", "traffic", "--out", capture, "--rate=100M", "--flows=50k", "--duration=0.4", "--frame-size=64")
    assert dpi_probe(*traffic).returncode == 0
    monkeypatch.setenv("SEAL_THREADS", "3")
    monkeypatch.setenv("HEALTH_REPORT_INTERVAL_SECONDS", "0.1")
    accounts = Probe(shared_pki, tmp_path / "spool", None, "-r", capture).start().finish()
    assert total(accounts, "events_sealed") == total(accounts, "events_exported") > 0
    batches = int(total(accounts, "batches_sealed"))
    certificate = shared_pki / "probes/sensor.pem"
    verified = dpi_probe("verify", tmp_path / "spool", "--certificate", certificate)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # The last ledger was sealed after these accounts, if at all.
    assert batches >= 5
    assert "1 chain checked" in verified.stdout + verified.stderr


def test_without_a_certificate_it_says_what_makes_one(tmp_path: Path) -> None:
    capture = tmp_path / "one.pcap"
    capture.write_bytes(b"")
    done = dpi_probe("run", "-r", capture, "--buffer-dir", tmp_path / "spool", "--probe-cert-path", tmp_path / "none",
                     check=False)  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path}/none: cannot read the certificate: No such file or directory; `dpi-probe pki init " in line


def test_the_books_of_one_of_each_say_so(shared_pki: Path, tmp_path: Path) -> None:
    capture = tmp_path / "one.pcap"
    capture.write_bytes(SHORTEST)
    done = dpi_probe(
        "run", "-r", capture, "--buffer-dir", tmp_path / "spool",
        "--probe-cert-path", shared_pki / "probes/sensor.pem", "--probe-key-path", shared_pki / "probes/sensor.key",
        "--ca-cert-path", shared_pki / "ca.pem",
    )  # fmt: skip
    assert "\n1 frame, 1 flow record, 2 batches sealed, " in done.stderr


def test_the_spool_may_have_a_name_that_is_not_utf8(shared_pki: Path, tmp_path: Path) -> None:
    spool = tmp_path / os.fsdecode(b"sp\xff")
    probe = Probe(shared_pki, spool, None, "-r", CAPTURE, "--metrics-address=127.0.0.1:0")
    probe.start().finish()
    assert probe.pending()
    assert "sealed batches stay in the spool, " + str(spool).replace("\udcff", "\\udcff") in probe.log.read_text()
