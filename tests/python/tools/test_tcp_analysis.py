"""`tools/tcp_analysis.py`: a column is compared with the frames that say the same, of the direction that it is of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.corpus.testbed import write_pcap
from tests.python.oracle.conversations import ACK, ADDRESSES, CLIENT, SERVER, SYN, Conversation, Segment
from tools import tcp_analysis

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[3]
# The server's segment says that the capture missed 100 bytes of the client; the client's window is closed.
SEGMENTS = [
    Segment(CLIENT, SYN),
    Segment(SERVER, SYN | ACK),
    Segment(CLIENT, window=0),
    Segment(SERVER, acknowledges=100),
]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "captures" / "a.pcap"
    path.parent.mkdir()
    path.write_bytes(write_pcap(Conversation(6, SEGMENTS, 0).records(), link_type=101, nanoseconds=True))
    return path


def frame(sender: int, flags: Iterable[str] = (), *, icmp: bool = False) -> str:
    """What TShark prints of a frame."""
    ports = (40_000, 80)
    values = {
        "ipv6.src": ADDRESSES[6][sender],
        "ipv6.dst": ADDRESSES[6][1 - sender],
        "tcp.srcport": str(ports[sender]),
        "tcp.dstport": str(ports[1 - sender]),
        "icmpv6.type": "1" * icmp,
        **dict.fromkeys(flags, "1"),
    }
    return "\t".join(values.get(field, "") for field in (*tcp_analysis.FIELDS, *tcp_analysis.FLAGS))


def analysis(tmp_path: Path, frames: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The tool with a TShark that prints these frames."""
    (tmp_path / "said").write_text("".join(f"{line}\n" for line in frames))
    tshark = tmp_path / "tshark"
    tshark.write_text(f'#!/bin/sh\nexec /bin/cat "{tmp_path / "said"}"\n')
    tshark.chmod(0o755)
    command = [sys.executable, ROOT / "tools" / "tcp_analysis.py", *arguments]
    environment = {"PATH": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def row(done: subprocess.CompletedProcess[str], column: str) -> list[str]:
    """The last cells of a line of the table: the same, we, they."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"| `{column}")]
    return [cell.strip() for cell in line.split("|")[3:6]]


def test_what_says_the_same_is_the_same(capture: Path, tmp_path: Path):
    frames = [frame(CLIENT), frame(SERVER), frame(CLIENT, ["zero_window"]), frame(SERVER, ["ack_lost_segment"])]
    done = analysis(tmp_path, frames, capture.parent)
    assert done.returncode == 0, done.stderr
    assert "2 directions of TCP connections in 1 captures" in done.stdout
    for line in tcp_analysis.LINES:
        count = "1" if line.column in ("tcp_zero_windows", "tcp_missed_bytes") else "0"
        assert row(done, line.column) == ["2", count, count], line


def test_differences_are_named(capture: Path, tmp_path: Path):
    """The wrong direction, a kind where we have none, and what an ICMP error quotes, which does not count."""
    frames = [frame(CLIENT), frame(SERVER, ["zero_window"]), frame(CLIENT, ["keep_alive"], icmp=True)]
    done = analysis(tmp_path, frames, capture, "--differences", "tcp_zero_windows")
    assert row(done, "tcp_zero_windows") == ["0", "1", "1"]
    assert row(done, "tcp_missed_bytes") == ["1", "1", "0"]
    assert row(done, "tcp_keep_alives") == ["2", "0", "0"]
    client = repr((ADDRESSES[6][CLIENT], 40_000, ADDRESSES[6][SERVER], 80))
    assert f"{capture}: {client}: we 1, they 0" in done.stderr


def test_without_tshark_it_says_what_to_do(capture: Path, tmp_path: Path):
    command = [sys.executable, ROOT / "tools" / "tcp_analysis.py", capture]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "apt-get install tshark" in done.stderr
