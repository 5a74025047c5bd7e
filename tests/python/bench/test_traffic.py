"""The traffic of benches, as a capture file that this program reads."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dpi_probe
import pytest
from click.testing import CliRunner
from dpi_probe.cli.bench import command
from dpi_probe.errors import DpiProbeError
from harness.core import wait_for


def write(path: Path, *options: str) -> str:
    done = CliRunner().invoke(command, ["traffic", "--out", str(path), "--duration", "0.5", "--flows", "600", *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_applications_names_and_families_are_seen(tmp_path: Path) -> None:
    said = write(tmp_path / "t.pcap")
    flows = dpi_probe.read(tmp_path / "t.pcap")
    found = list(flows)
    apps = Counter(flow.app for flow in found)
    assert {"tls", "quic", "dns", "http", "ssh", "rtp"} <= set(apps), apps
    assert all(flow.server_name for flow in found if flow.app in ("tls", "quic", "http"))
    assert {flow.ip_version for flow in found} == {4, 6}
    accounts = flows.accounts
    assert f"{accounts['frames_metered']:,} frames" in said
    for fault in ("packet_faults", "frames_undecodable", "sessions_malformed"):
        counts = accounts[fault]
        assert isinstance(counts, dict)
        assert not any(counts.values()), (fault, counts)


def test_equal_options_give_equal_files_and_seeds_differ(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        write(tmp_path / name, "--frame-size", "imix", "--seed", seed)
    one, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == same
    assert one != other


def test_impossible_traffic_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(dpi_probe.errors.ConfigError, match="too few: handshakes"):
        CliRunner().invoke(
            command, ["traffic", "--out", str(tmp_path / "t"), "--flows", "100k"], catch_exceptions=False
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_file_that_is_not_whole_does_not_stay(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "long.pcap"
    arguments = ["bench", "traffic", "--out", str(path), "--duration", "300"]
    program = subprocess.Popen([sys.executable, "-m", "dpi_probe", *arguments], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: path.exists() and path.stat().st_size > 1 << 20, "the file to have begun")
    program.send_signal(number)
    _, said = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "writing some 3,750 MB" in said
    assert "Traceback" not in said
    assert not path.exists()


def test_a_disk_that_is_full_is_said_in_one_line() -> None:
    with pytest.raises(DpiProbeError, match=r"^/dev/full: cannot be written: No space left on device"):
        CliRunner().invoke(command, ["traffic", "--out", "/dev/full"], catch_exceptions=False)
    assert Path("/dev/full").exists()


def test_flows_without_a_frame_are_refused_before_they_are_prepared(tmp_path: Path) -> None:
    with pytest.raises(dpi_probe.errors.ConfigError, match="0 bytes a flow are too few"):
        CliRunner().invoke(
            command, ["traffic", "--out", str(tmp_path / "t"), "--rate", "1M", "--flows", "1000G"],
            catch_exceptions=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        "--duration=inf", "--duration=nan", "--duration=1e30", "--rate=1e30", "--rate=inf", "--rate=nan",
        "--flows=1001G", "--seed=-1", f"--seed={2**64}", "--ipv6-share=nan",
    ],
)  # fmt: skip
def test_a_number_without_bounds_is_a_usage_error(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["traffic", "--out", str(tmp_path / "t"), option])
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{option.split('=', maxsplit=1)[0]}'" in done.output
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("verb", ["low", "search", "reader"])
@pytest.mark.parametrize(
    "option",
    [
        "--duration=inf", "--duration=nan", "--warm-up=inf", "--warm-up=nan", "--flow-timeout=inf",
        "--flow-timeout=nan", "--seed=-1", f"--seed={2**64}", "--max-buffer-size-mb=99999999999999",
    ],
)  # fmt: skip
def test_a_run_without_bounds_is_a_usage_error(verb: str, option: str) -> None:
    done = CliRunner().invoke(command, [verb, option])
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{option.split('=', maxsplit=1)[0]}'" in done.output


def test_the_highest_seed_is_one(tmp_path: Path) -> None:
    write(tmp_path / "t", "--seed", str(2**64 - 1))
