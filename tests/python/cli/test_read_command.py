"""`dpi-probe read`: formats, bad input, exit statuses."""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gzip
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, Any

import capture_files as captures
import pytest

COMMAND = [sys.executable, "-m", "dpi_probe", "read"]


def run(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": 60} | settings
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **settings)


def records(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames()))
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.pcap"
    path.write_bytes(captures.pcap(captures.many_frames(3_000)))
    return path


def test_a_pipe_gets_ndjson(small):
    done = run(small)
    (record,) = records(done)
    assert record["server_name"] == "example.org"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_gets_a_table(small):
    parent, child = pty.openpty()
    done = run(small, capture_output=False, stdout=child, stderr=subprocess.PIPE)
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "destination" in shown
    assert "192.0.2.53:53" in shown
    assert "\x1b[" in shown, "colours on a terminal"
    assert done.stderr.startswith("1 flow, 2 packets, ")


def test_no_color_is_honoured(small):
    parent, child = pty.openpty()
    run(small, capture_output=False, stdout=child, stderr=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"})
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "192.0.2.53:53" in shown
    assert "\x1b[" not in shown


def test_a_table_in_a_pipe_has_no_colours(small):
    done = run("--format", "table", small)
    title, row = done.stdout.splitlines()
    assert title.split()[:3] == ["time", "source", "destination"]
    assert "example.org" in row
    assert "\x1b" not in done.stdout


def test_text_from_the_wire_cannot_command_the_terminal(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames(name="a\x1b[2Jb")))
    done = run("--format", "table", path)
    assert "\x1b" not in done.stdout
    # Names of the DNS are written as RFC 1035, section 5.1 has it.
    assert "a\\027[2Jb" in done.stdout


def test_text_that_is_no_name_cannot_command_the_terminal_either(tmp_path):
    path = tmp_path / "a.pcap"
    request = b"GET / HTTP/1.1\r\nHost: a\x1b[2Jb\r\n\r\n"
    # Sequence 1, acknowledgment 1, five words of header, PSH and ACK.
    segment = struct.pack("!HHIIBBHHH", 50_000, 80, 1, 1, 5 << 4, 0x18, 65_535, 0, 0) + request
    packet = captures.ethernet(captures.ipv4("192.0.2.1", "192.0.2.80", 6, segment))
    path.write_bytes(captures.pcap([(captures.START, packet)]))
    done = run("--format", "table", path)
    assert "http" in done.stdout
    assert "\x1b" not in done.stdout
    assert "a\\x1b[2Jb" in done.stdout


@pytest.mark.parametrize("suffix", ["ndjson", "csv", "parquet", "arrow"])
def test_the_suffix_of_the_output_chooses_the_format(small, tmp_path, suffix):
    target = tmp_path / f"out.{suffix}"
    done = run("-o", target, small)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    start = {"ndjson": b"{", "csv": b"flow_id,", "parquet": b"PAR1", "arrow": b"ARROW1"}[suffix]
    assert target.read_bytes().startswith(start)


def test_an_arrow_stream_goes_through_a_pipe(small):
    import pyarrow as pa

    done = run("--format", "arrow", small, text=False)
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 1


def test_an_unknown_suffix_and_binary_on_a_terminal_are_refused(small, tmp_path):
    done = run("-o", tmp_path / "out.xlsx", small)
    assert done.returncode == 2
    assert "unknown suffix" in done.stderr
    parent, child = pty.openpty()
    done = run("--format", "parquet", small, capture_output=False, stdout=child, stderr=subprocess.PIPE)
    os.close(child)
    os.close(parent)
    assert done.returncode == 2
    assert "terminal" in done.stderr


def test_standard_input_is_read(small):
    done = subprocess.run([*COMMAND, "-"], input=gzip.compress(small.read_bytes()), capture_output=True, check=True)
    assert json.loads(done.stdout)["app"] == "dns"


def test_filter_count_and_workers(many):
    assert [r["server_name"] for r in records(run("-f", "host 10.0.0.9", many))] == ["host9.example"]
    assert len(records(run("-c", 20, many))) == 10
    assert run("--workers", 3, many).stdout == run(many).stdout


def test_timeouts_cut_flows(tmp_path):
    path = tmp_path / "a.pcap"
    second = 10**9
    frames = [f for n in range(3) for f in captures.dns_frames(at=captures.START + n * 100 * second)]
    path.write_bytes(captures.pcap(frames))
    assert len(records(run(path))) == 1
    assert len(records(run("--idle-timeout", 50, path))) == 3
    assert records(run("--idle-timeout", 150, "--active-timeout", 150, path))[0]["end_reason"] == "active_timeout"


def test_timeouts_go_on_in_files_that_are_out_of_time_order(tmp_path):
    second = 10**9
    # Three exchanges a file, each beyond the idle timeout of the one before.
    later, earlier = tmp_path / "later.pcap", tmp_path / "earlier.pcap"
    for path, start in ((earlier, captures.START), (later, captures.START + 100_000 * second)):
        frames = [f for n in range(3) for f in captures.dns_frames(at=start + n * 400 * second)]
        # Another pair of hosts lets time pass.
        frames += captures.dns_frames(client="192.0.2.77", at=start + 1_300 * second)
        path.write_bytes(captures.pcap(frames))
    outputs = [run("--workers", workers, later, earlier) for workers in (1, 2, 3)]
    assert {done.returncode for done in outputs} == {0}
    assert len({done.stdout for done in outputs}) == 1
    found = [(r["start_time"] > "2023-11-15T12", r["end_reason"]) for r in records(outputs[0])]
    assert found == [*[(True, "idle_timeout")] * 3, (True, "forced_end"), *[(False, "idle_timeout")] * 3,
                     (False, "forced_end")]  # fmt: skip
    # The parts of one capture go on from one file to the next.
    first, second_part = tmp_path / "1.pcap", tmp_path / "2.pcap"
    first.write_bytes(captures.pcap(captures.dns_frames()[:1]))
    second_part.write_bytes(captures.pcap(captures.dns_frames()[1:]))
    (record,) = records(run(first, second_part))
    assert (record["packets_fwd"], record["packets_rev"]) == (1, 1)


def test_the_summary_shows_the_books(small, many, tmp_path):
    text = run("--summary", small).stdout
    assert "LINKTYPE_ETHERNET (1)" in text
    assert re.search(r"delivered +2\n +metered +2 +100.00 %", text), text
    assert "the books balance" in text
    books = json.loads(run("--summary", "--format", "ndjson", "-f", "host 10.0.0.9", many).stdout)
    accounts = books["accounts"]
    assert (accounts["frames_delivered"], accounts["frames_metered"], accounts["frames_filtered"]) == (2, 2, 5_998)
    assert books["link_types"] == {"LINKTYPE_ETHERNET (1)": 6_000}
    assert books["first_time"] <= books["last_time"]
    assert books["problems"] == []
    # The flows as well, into a file.
    run("--summary", "-o", tmp_path / "flows.ndjson", small)
    assert json.loads((tmp_path / "flows.ndjson").read_text())["app"] == "dns"


def test_the_summary_of_hostile_input_names_each_reason(tmp_path):
    path = tmp_path / "a.pcap"
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    cut = bytes(12) + b"\x08\x00\x45"
    frames = [(captures.START, arp), (captures.START + 1, cut), *captures.dns_frames()]
    path.write_bytes(captures.pcap(frames) + bytes(7))
    done = run("--summary", "--format", "ndjson", path)
    assert done.returncode == 3
    books = json.loads(done.stdout)
    reasons = {reason: count for reason, count in books["accounts"]["frames_undecodable"].items() if count}
    assert reasons == {"not_ip": 1, "truncated_ip": 1}
    assert "cut short" in books["problems"][0]
    table = run("--summary", path).stdout
    assert "truncated_ip" in table
    assert "The captured bytes end inside the IP header." in table


def test_the_summary_tells_what_layer_7_gave_up(tmp_path):
    path = tmp_path / "a.pcap"
    # SSH whose first packet says that it is longer than any may be, and bytes of no protocol.
    banner_and_packet = b"SSH-2.0-x\r\n" + bytes.fromhex("ffffffff") + bytes(8)
    segment = struct.pack("!HHIIHHHH", 50_000, 22, 1, 1, 0x5018, 1000, 0, 0) + banner_and_packet
    damaged = captures.ethernet(captures.ipv4("192.0.2.1", "192.0.2.9", 6, segment))
    datagram = captures.udp(50_001, 9_999, b"\xa5" * 40)
    unknown = captures.ethernet(captures.ipv4("192.0.2.1", "192.0.2.9", 17, datagram))
    frames = [(captures.START + number, frame) for number, frame in enumerate([damaged, *[unknown] * 40])]
    path.write_bytes(captures.pcap(frames))
    accounts = json.loads(run("--summary", "--format", "ndjson", path).stdout)["accounts"]
    assert accounts["sessions_malformed"]["bad_length"] == 1
    assert accounts["sessions_given_up"]["unidentified"] == 1
    text = run("--summary", path).stdout
    assert re.search(r"layer 7 +2\n +done +0\n +malformed +1\n +bad_length +1 +\S", text), text
    assert re.search(r"given up +1\n +unidentified +1 +\S", text), text
    assert "refused" not in text


def test_the_flow_key_takes_tenants_apart(tmp_path):
    path = tmp_path / "a.pcap"

    def tagged(frame: bytes, vlan: int) -> bytes:
        return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]

    frames = [(time, tagged(frame, vlan)) for vlan in (5, 6) for time, frame in captures.dns_frames()]
    path.write_bytes(captures.pcap(frames))
    (together,) = records(run(path))
    assert (together["key_ambiguous"], together["packets_fwd"]) == (True, 2)
    apart = records(run("--flow-key", "vlan,tunnel", path))
    assert sorted(record["vlan_ids"] for record in apart) == [[5], [6]]
    assert not any(record["key_ambiguous"] for record in apart)
    refused = run("--flow-key", "mac", path)
    assert refused.returncode == 2
    assert "allowed are vlan, tunnel" in refused.stderr


def test_a_reader_that_goes_away_is_no_error(many):
    for form in ("ndjson", "csv", "table"):
        process = subprocess.Popen(
            [*COMMAND, "--format", form, str(many)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0
        process.stderr.close()


def wait_until_read(pipe: IO[bytes]) -> None:
    """Wait until nothing is left in a pipe that was written to."""
    left = array.array("i", [1])
    while left[0]:
        fcntl.ioctl(pipe, termios.FIONREAD, left)
        time.sleep(0.01)


@pytest.mark.parametrize("form", ["ndjson", "table"])
def test_an_interrupt_delivers_what_was_metered(tmp_path, small, form):
    # The pipe stays open: the reader is then in the middle of its input.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "--format", form, str(pipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with pipe.open("wb") as writer:
        writer.write(small.read_bytes())
        writer.flush()
        wait_until_read(writer)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "example.org" in out


@pytest.mark.parametrize("content", [None, b"", b"\xd4\xc3\xb2\xa1\x02\x00"])
def test_an_interrupt_ends_the_wait_for_a_silent_pipe(tmp_path, content):
    # Nobody writes to it; or somebody opens it and says nothing, or stops in the middle of the file's header.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen([*COMMAND, str(pipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    opened = Path(f"/proc/{process.pid}/fd")
    while not any(entry.exists() and entry.samefile(pipe) for entry in opened.iterdir()):
        time.sleep(0.01)
    with contextlib.ExitStack() as stack:
        if content is not None:
            writer = stack.enter_context(pipe.open("wb"))
            writer.write(content)
            writer.flush()
            wait_until_read(writer)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


# -- bad input: each kind one clear line, status 3, everything already metered delivered ------------------------------


def text(path: Path) -> None:
    path.write_text("This is not a capture.\n" * 10)


def directory(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def short(path: Path) -> None:
    path.write_bytes(captures.pcap([])[:10])


def compressed_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"This is not a capture.\n" * 10))


def missing(path: Path) -> None:
    assert not path.exists()


def unreadable(path: Path) -> None:
    path.write_bytes(captures.pcap(captures.dns_frames()))
    path.chmod(0)


def random_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 10)


BAD_INPUTS = [text, directory, empty, short, compressed_text, missing, unreadable, random_bytes]


def without_privilege() -> None:
    """Let file permissions count for root too: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2):
        prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize("make", BAD_INPUTS, ids=lambda make: make.__name__)
def test_an_input_that_cannot_be_read_is_one_clear_line(tmp_path, make):
    path = tmp_path / "bad.pcap"
    make(path)
    done = run(path, preexec_fn=without_privilege)
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("dpi-probe: ")
    assert str(path) in line


@pytest.mark.parametrize("make", BAD_INPUTS, ids=lambda make: make.__name__)
def test_the_other_files_are_read_all_the_same(tmp_path, small, make):
    path = tmp_path / "bad.pcap"
    make(path)
    done = run(path, small, preexec_fn=without_privilege)
    assert done.returncode == 3
    assert [record["server_name"] for record in records(done)] == ["example.org"]
    assert len(done.stderr.splitlines()) == 1


def test_a_truncated_file_delivers_everything_before(tmp_path):
    path = tmp_path / "cut.pcap"
    data = captures.pcap(captures.many_frames(50))
    for cut in (1, 20, 60):
        path.write_bytes(data[:-cut])
        done = run(path)
        assert done.returncode == 3
        assert len(records(done)) == 50
        (line,) = done.stderr.splitlines()
        assert "cut.pcap" in line


def test_a_capture_without_packets_is_no_error(tmp_path):
    path = tmp_path / "none.pcap"
    path.write_bytes(captures.pcap([]))
    done = run(path)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_snaplen_cut_capture_keeps_lengths_of_the_wire(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames(), snaplen=42))
    done = run(path)
    (record,) = records(done)
    assert done.returncode == 0
    assert record["bytes_fwd"] + record["bytes_rev"] == 130


def test_an_unknown_link_type_is_named(tmp_path):
    path = tmp_path / "link.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames(), link_type=147))
    done = run(path)
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "147" in line


def test_garbage_in_the_middle_is_told_and_passed_over(tmp_path):
    path = tmp_path / "hole.pcapng"
    frames = captures.many_frames(4)
    first, second = captures.pcapng(frames[:4]), captures.pcapng(frames[4:])
    path.write_bytes(first + b"\xff" * 64 + second)
    done = run(path)
    assert done.returncode == 3
    names = {record["server_name"] for record in records(done)}
    assert {"host0.example", "host1.example"} <= names
    assert "hole.pcapng" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "workers: 0 is not allowed"),
        (["--workers", "-1"], "workers: -1 is not allowed; give 1 to 256"),
        (["-c", "99999999999999999999"], "count: 99999999999999999999 is not allowed"),
        (["--idle-timeout", "0"], "idle_timeout: 0"),
        (["-f", "port port"], "syntax error"),
        (["--format", "xml"], "xml"),
        (["-c", "0"], "0"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(small, arguments, words):
    done = run(*arguments, small)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_file_is_a_usage_error():
    done = run()
    assert done.returncode == 2
    assert "FILE..." in done.stderr


def test_an_output_that_cannot_be_written_is_one_line(small, tmp_path):
    done = run("-o", tmp_path / "no" / "out.csv", small)
    assert done.returncode == 1
    said = f"there is no directory {tmp_path}/no; make it, or name another file"
    assert done.stderr == f"dpi-probe: cannot write {tmp_path}/no/out.csv: {said}\n"
    done = run("-o", "/dev/full", "--format", "ndjson", small)
    assert done.returncode == 1
    assert done.stderr == "dpi-probe: cannot write /dev/full: No space left on device\n"


def test_help_teaches_with_examples():
    done = run("--help")
    assert "dpi-probe read capture.pcap" in done.stdout
    assert "Exit status" in done.stdout
