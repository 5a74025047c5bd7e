"""`tools/corpus.py`: a capture whose books do not balance is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dpi_probe
import pytest

from tools import corpus

ROOT = Path(__file__).resolve().parents[3]
CASES = ("dns-dig", "icmp-errors", "ip-fragments")

# A probe that tells one frame more than there was of the capture whose name it finds in its last argument.
WRONG_PROBE = """\
#!{python}
import json, subprocess, sys
done = subprocess.run([sys.executable, "-m", "dpi_probe", *sys.argv[1:]], capture_output=True, text=True)
books = json.loads(done.stdout)
books["accounts"]["frames_delivered"] += "icmp-errors" in sys.argv[-1]
print(json.dumps(books))
"""


# What the corpus brings along, on a side that was run and scored already.
RUN = """\
import shutil, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
shutil.copy(arguments["--side"] + "/flows.ndjson", arguments["--out"])
print("slowest: dns-dig.pcap 0.1 s")
"""
SCORE = """\
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
lines = {lines!r}
sources = {{source: {{}} for source, _ in lines}}
for source, line in lines:
    sources[source][line] = {{"rate": 1.0, "of": 3}}
pathlib.Path(arguments["--json"]).write_text(json.dumps({{"sources": sources}}))
"""


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and beside its captures what `run.py` writes of them."""
    folder = tmp_path_factory.mktemp("corpus") / "side"
    folder.mkdir()
    lines = [*((source, line) for source, line, _ in corpus.THRESHOLDS), *corpus.PEERS]
    (folder.parent / "run.py").write_text(RUN)
    (folder.parent / "score.py").write_text(SCORE.format(lines=lines))
    (folder / "captures").mkdir()
    for case in CASES:
        shutil.copy(ROOT / "tests" / "corpus" / case / "input.pcap", folder / "captures" / f"{case}.pcap")
    captures = [f"{case}.pcap" for case in CASES]
    (folder / "captures.ndjson").write_text("".join(json.dumps({"capture": name}) + "\n" for name in captures))
    with (folder / "flows.ndjson").open("w") as out:
        for name in captures:
            for flow in dpi_probe.read(folder / "captures" / name):
                packets = flow.packets_fwd + flow.packets_rev
                out.write(json.dumps({"capture": name, "packets": packets}) + "\n")
            out.write(json.dumps({"capture": name, "processed": True}) + "\n")
    return folder


def probe_that_is(folder: Path, script: str) -> str:
    path = folder / "probe"
    path.write_text(script.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def test_the_books_of_captures_balance(side: Path):
    assert corpus.unbalanced(side, str(Path(sys.executable).with_name("dpi-probe")), side / "flows.ndjson") == (3, [])


def test_the_capture_whose_books_do_not_balance_is_named(side: Path, tmp_path: Path):
    balanced, (line,) = corpus.unbalanced(side, probe_that_is(tmp_path, WRONG_PROBE), side / "flows.ndjson")
    assert balanced == 2
    assert line.startswith("icmp-errors.pcap: frames_delivered = ")


def test_books_that_do_not_balance_fail_the_run(
    side: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(corpus, "SAMPLE", len(CASES))
    monkeypatch.setattr(corpus, "read_with", lambda *_: (0, b""))
    good, bad = str(Path(sys.executable).with_name("dpi-probe")), probe_that_is(tmp_path, WRONG_PROBE)
    for probe, status, told in ((good, 0, "PASS  3 of 3 captures balance"), (bad, 1, "FAIL  2 of 3 captures balance")):
        monkeypatch.setattr(sys, "argv", ["corpus.py", "--corpus", str(side), "--probe", probe])
        assert corpus.main() == status
        assert told in capsys.readouterr().out


def test_a_probe_without_books_is_told(side: Path, tmp_path: Path):
    balanced, lines = corpus.unbalanced(side, probe_that_is(tmp_path, "#!/bin/sh\nexit 7\n"), side / "flows.ndjson")
    assert (balanced, len(lines)) == (0, 3)
    assert "no books, status 7" in lines[0]


def books_of(capture: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "dpi_probe", "read", "--summary", "--format", "ndjson", capture]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_each_account_is_checked(side: Path):
    capture = side / "captures" / "icmp-errors.pcap"
    books, flows = books_of(capture), list(dpi_probe.read(capture))
    written = len(flows), sum(flow.packets_fwd + flow.packets_rev for flow in flows)
    assert corpus.imbalances(books, *written) == []
    assert "records were written" in corpus.imbalances(books, written[0] - 1, written[1])[0]
    assert "packets were written" in corpus.imbalances(books, written[0], written[1] + 1)[0]
    for account in (*corpus.EQUATIONS, *(part for parts in corpus.EQUATIONS.values() for part in parts), *corpus.ZERO):
        value = books["accounts"][account]
        changed = {**value, next(iter(value)): 9_999} if isinstance(value, dict) else value + 1
        wrong = corpus.imbalances(books | {"accounts": books["accounts"] | {account: changed}}, *written)
        assert any(account in line for line in wrong), account
    more = books | {"link_types": dict.fromkeys(books["link_types"], 1)}
    assert "have a link type" in corpus.imbalances(more, *written)[0]
