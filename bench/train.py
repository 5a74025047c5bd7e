#!/usr/bin/env python3
"""What a profile-guided build is trained on; `maturin build --release --pgo` runs it with an instrumented build.

Generated traffic becomes records in each profile, and so do the captures of the tests in the usual one; the stages of a
probe do the rest up to the spool. Nothing is measured.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Literal

import dpi_probe
from dpi_probe import _native
from dpi_probe._throwaway import make_authority
from dpi_probe.bench.run import PROBE_NAME
from dpi_probe.bench.scenarios import make_traffic
from dpi_probe.errors import DpiProbeError

CAPTURES = Path(__file__).resolve().parents[1] / "tests" / "corpus"
# Frame size, bits and new flows a second: about what the scenarios have for each flow, but for the smallest frames.
TRAFFIC = (("imix", 10**9, 20_000), ("1000", 10**9, 10_000), ("64", 10**8, 40_000))
SECONDS = 1.0
STAGES_BYTES = 64 << 20


def read(capture: Path, records: Path, profile: Literal["minimal", "standard", "full"]) -> None:
    """Make records of a capture. What cannot be read is part of the work."""
    try:
        dpi_probe.read(capture, profile=profile).write(records)
    except DpiProbeError as error:
        sys.stderr.write(f"{error}\n")


def train(folder: Path, *, seconds: float = SECONDS, stages_bytes: int = STAGES_BYTES) -> None:
    """Do the work once, in an empty folder."""
    make_authority(folder / "pki", PROBE_NAME)
    records = folder / "records.arrow"
    for frame_size, bits, flows in TRAFFIC:
        capture = folder / f"{frame_size}.pcap"
        traffic = make_traffic(bits_per_second=bits, flows_per_second=flows, frame_size=frame_size)
        traffic.write(capture, seconds)
        for profile in ("standard", "standard", "minimal", "full"):
            read(capture, records, profile)
        capture.unlink()
    for capture in sorted(CAPTURES.glob("*/input.*")):
        read(capture, records, "standard")
    _native.measure_stages(
        make_traffic(bits_per_second=10**9, flows_per_second=10_000, frame_size="1000"),
        size=stages_bytes,
        memory_bytes=1 << 30,
        certificate=folder / f"pki/probes/{PROBE_NAME}.pem",
        key=folder / f"pki/probes/{PROBE_NAME}.key",
        probe_id=PROBE_NAME,
        spool_directory=folder / "spool",
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dpi-probe-train-") as name:
        train(Path(name))
