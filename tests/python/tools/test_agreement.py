"""`tools/agreement.py` compares as many captures as it was asked to, or says that it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
READABLE = ("dns-dig", "icmp-ping", "vlan-tag")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for case in READABLE:
        shutil.copy(ROOT / "tests" / "corpus" / case / "input.pcap", tmp_path / f"{case}.pcap")
    for number in range(30):
        (tmp_path / f"broken-{number}.pcap").write_bytes(b"this is no capture")
    return tmp_path


def agreement(corpus: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "agreement.py", "--corpus", corpus, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_next_capture_takes_the_place_of_one_that_cannot_be_read(corpus: Path):
    done = agreement(corpus, "--count", str(len(READABLE)))
    assert done.returncode == 0, done.stderr
    assert f"{len(READABLE)} captures" in done.stdout
    assert f"{len(READABLE)} agree in every column, 0 do not" in done.stdout


def test_fewer_than_asked_for_are_a_failure(corpus: Path):
    done = agreement(corpus, "--count", str(len(READABLE) + 1))
    assert done.returncode == 1
    assert "3 captures can be compared, not 4" in done.stderr


def test_a_corpus_of_which_most_cannot_be_read_is_a_failure(corpus: Path):
    done = agreement(corpus, "--all")
    assert done.returncode == 1
    assert "more than 10% of the captures cannot be read" in done.stderr
    for broken in corpus.glob("broken-*"):
        broken.unlink()
    assert agreement(corpus, "--all").returncode == 0
