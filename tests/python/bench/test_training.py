"""What a profile-guided build runs must run: it comes after twenty minutes of compiling."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_training_of_a_profile_guided_build_reaches_the_spool(tmp_path: Path) -> None:
    train = runpy.run_path(str(ROOT / "bench" / "train.py"))["train"]
    train(tmp_path, seconds=0.01, stages_bytes=1 << 20)
    assert (tmp_path / "records.arrow").stat().st_size > 0
    assert any(path.is_file() for path in (tmp_path / "spool").rglob("*"))
