"""The traffic of benches, as a capture file that this program reads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import dpi_probe
import pytest
from click.testing import CliRunner
from dpi_probe.cli.bench import command

if TYPE_CHECKING:
    from pathlib import Path


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
        CliRunner().invoke(command, ["traffic", "--out", str(tmp_path / "t"), "--flows", "1M"], catch_exceptions=False)
