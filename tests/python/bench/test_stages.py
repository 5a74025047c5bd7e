"""`dpi-probe bench stages` over little traffic: every stage has its cost; how high it is is not asserted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from dpi_probe.bench import compare
from dpi_probe.bench.verdict import FORMAT
from harness.programs import dpi_probe

if TYPE_CHECKING:
    from pathlib import Path

STAGES = ["decode", "flow", "layer 7", "record", "seal", "spool"]


def test_every_stage_has_a_cost_in_the_table_and_in_the_result(tmp_path: Path) -> None:
    file = tmp_path / "stages.json"
    done = dpi_probe(
        "bench", "stages", "--size-mb", "8", "--repeat", "3", "--max-buffer-size-mb", "128", "--json", file
    )  # fmt: skip
    result: dict[str, Any] = json.loads(file.read_text())
    assert (result["format"], result["kind"]) == (FORMAT, "stages")
    # As many frames as come to 8 MiB; each conversation to its end.
    assert (8 << 20) / result["traffic"]["mean_frame_bytes"] <= result["frames"] < 100_000
    assert result["flows"] > 500
    assert result["batches"] > 0
    assert [stage["stage"] for stage in result["stages"]] == STAGES
    assert [stage["clock"] for stage in result["stages"]] == ["cpu"] * 5 + ["wall"]
    # Of each row the name, nanoseconds a packet and a flow, the range and the clock.
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[0] for row in rows] == STAGES
    for stage, row in zip(result["stages"], rows, strict=True):
        runs = stage["runs_ns_per_packet"]
        assert len(runs) == 3
        assert stage["ns_per_packet"] == sorted(runs)[1] > 0, stage
        assert stage["ns_per_flow"] * result["flows"] == pytest.approx(stage["ns_per_packet"] * result["frames"])
        assert row[1:3] == [f"{stage['ns_per_packet']:,.1f}", f"{stage['ns_per_flow']:,.0f}"]
    assert f"{result['frames']:,} frames" in done.stdout
    assert {line["verdict"] for line in compare.compare(result, result)} == {"no difference shown"}
