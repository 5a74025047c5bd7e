"""Whatever goes wrong with a command's arguments or output is one line and a status, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import capture_files as captures
import pytest
from dpi_probe._counted import counted
from dpi_probe._throwaway import run_command
from dpi_probe.bench import machine
from dpi_probe.cli import _output, main, read
from dpi_probe.errors import DpiProbeError

PKI = Path(__file__).parents[2] / "vectors" / "pki"


def run(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60} | settings
    return subprocess.run([sys.executable, "-m", "dpi_probe", *map(str, arguments)], check=False, **settings)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "small.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames()))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["read", "--summary", "CAPTURE"],
        ["read", "--format", "table", "CAPTURE"],
        ["read", "--format", "ndjson", "CAPTURE"],
        ["verify", "--json", "FOLDER"],
        ["verify", "FOLDER"],
        ["pki", "list", "--dir", "PKI"],
        ["--help"],
        ["doctor", "--json"],
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_one_line(command, capture, shared_pki, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    places = {"CAPTURE": capture, "FOLDER": folder, "PKI": shared_pki}
    with Path("/dev/full").open("w") as full:
        done = run(*[places.get(word, word) for word in command], stdout=full)
    assert done.returncode == 1, done.stderr
    output = "the output" if command[0] == "--help" else "standard output"
    assert done.stderr == f"dpi-probe: cannot write {output}: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["read", "--format", "table", "CAPTURE"], 0, ""),
        (["read", "--summary", "CAPTURE"], 0, ""),
        (["read", "--summary", "FOLDER/none.pcap"], 3, "none.pcap: no such file"),
        (["read", "FOLDER/none.pcap"], 3, "none.pcap: no such file"),
        (["read", "--bogus"], 2, "No such option '--bogus'"),
        (["verify", "FOLDER/none"], 3, ""),
        (["verify", "--json", "FOLDER/none"], 3, ""),
        (["verify", "FOLDER/altered.arrows"], 4, ""),
        (["doctor", "nosuchif0"], 3, "nosuchif0: there is no such interface"),
        (["doctor", "--json", "nosuchif0"], 3, "nosuchif0: there is no such interface"),
        (["tune", "lo"], 0, ""),
        (["tune", "--json", "lo"], 0, ""),
        (["pki", "list", "--dir", "PKI"], 0, ""),
        (["bench", "compare", "RESULT", "RESULT"], 0, ""),
        (["--help"], 0, ""),
        (["--version"], 0, ""),
        (["read", "--help"], 0, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_that_nobody_reads_changes_no_status(command, status, said, capture, shared_pki, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"kind": "stages", "stages": [], "machine": machine.fingerprint()}))
    if "altered" in command[-1]:
        (folder / "altered.arrows").write_bytes(b"\xff\xff\xff\xff" + bytes(60))
    places = {"CAPTURE": capture, "PKI": shared_pki, "RESULT": result}
    words = [places.get(word, word.replace("FOLDER", str(folder))) for word in command]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = run(*words, stdout=pipe)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == (1 if said else 0)
    if said:
        # Nor does anybody who reads the messages.
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            assert run(*words, stdout=pipe, stderr=pipe).returncode == status
        with Path("/dev/full").open("w") as full:
            assert run(*words, stderr=full).returncode == status


@pytest.mark.parametrize("how", ["full", "non-blocking"])
def test_messages_that_find_no_place_change_no_status(how, capture, tmp_path):
    if how == "full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stderr = os.pipe()
        os.set_blocking(stderr, False)
        with suppress(BlockingIOError):
            while os.write(stderr, bytes(4096)):
                pass
    try:
        # What the table says beside the flows, what cannot be read, and both.
        for files, status in (([capture], 0), ([tmp_path / "none"], 3), ([capture, tmp_path / "none"], 3)):
            assert run("read", "--format", "table", *files, stderr=stderr).returncode == status
    finally:
        os.close(stderr)
        if how != "full":
            os.close(reading)


def test_another_pipe_that_breaks_is_a_failure(monkeypatch, capsys):
    def break_off(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(read.command, "callback", break_off)
    monkeypatch.setattr("dpi_probe.cli._is_unread", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["read", "x"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "dpi-probe: Broken pipe\n"


@pytest.mark.parametrize("command", [["bench", "peers"], ["bench", "compare"], ["demo"]], ids=" ".join)
def test_a_file_that_is_not_there_is_status_3_with_every_verb(command, capture, tmp_path):
    files = [capture] if command[1:] == ["compare"] else []
    done = run(*command, *files, tmp_path / "none")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"dpi-probe: {tmp_path}/none: no such file; check the path\n"
    done = run(*command, *files, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"dpi-probe: {tmp_path}: is a directory; name the files in it\n"


@pytest.mark.parametrize("target", ["/nowhere/x", "/dev/full"])
def test_a_table_that_cannot_be_written_is_one_line(capture, target):
    done = run("read", "--format", "table", "-o", target, capture)
    no_directory = "there is no directory /nowhere; make it, or name another file"
    reason = no_directory if target == "/nowhere/x" else "No space left on device"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dpi-probe: cannot write {target}: {reason}\n"


def test_a_demo_goes_on_after_a_cut_capture(capture, tmp_path):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(capture.read_bytes()[:-1])
    done = run("demo", cut, capture, env={**os.environ, "COLUMNS": "400"})
    # As with every verb, of what was read only in part.
    assert (done.returncode, done.stderr) == (3, "")
    (said,) = [line for line in done.stdout.splitlines() if "cut short" in line]
    assert said.startswith(f"probe: {cut}: cut short ")
    assert "the others are the probe's own" in done.stdout
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    (flows,) = [row[2] for row in rows if row[:2] == ["flows", "opened"]]
    assert ["flow", "records", "sealed", flows] in rows


def test_a_command_that_failed_is_quoted_without_its_name_and_its_log(tmp_path):
    with pytest.raises(DpiProbeError) as caught:
        run_command("run", "-r", str(tmp_path / "none.pcap"), "--probe-cert-path", str(tmp_path / "none.pem"))
    assert str(caught.value).startswith(f"`dpi-probe run` ended with status 2, not 0: {tmp_path}/none.pem: ")


def test_a_demo_that_cannot_keep_its_folder_is_one_line(capture):
    done = run("demo", "--keep", "/proc/x", capture)
    assert done.returncode == 1
    assert done.stderr == "dpi-probe: cannot write /proc/x: No such file or directory\n"


def test_a_demo_keeps_out_of_a_folder_that_is_in_use(capture, tmp_path):
    done = run("demo", "--keep", tmp_path, capture)
    assert done.returncode == 2
    assert done.stderr == f"dpi-probe: --keep {tmp_path}: it exists; the folder must be new\n"
    assert list(tmp_path.iterdir()) == [capture]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "--bogus"], "No such option '--bogus' (see dpi-probe run --help)"),
        (
            ["read", "--workers", "x", "f"],
            "Invalid value for '--workers': 'x' is not a valid integer (see dpi-probe read",
        ),
        (["prove"], "Missing argument 'BATCH' (see dpi-probe prove --help)"),
        (["core", "export"], "Missing option '--out' (see dpi-probe core export --help)"),
        (["tune", "--apply", "--revert"], "--apply and --revert exclude each other (see dpi-probe tune --help)"),
        (["prove", "x", "--row", "9" * 23], f"{'9' * 23} is not in the range 0<=x<="),
        (["run", "-r", "x", "--backpressure-threshold", "9" * 23], "allowed: a whole number, at least 1, at most 9223"),
        (["top", "lo", "-d", "nan"], "'nan' is not a number (see dpi-probe top --help)"),
        (["top", "lo", "-d", "inf"], "inf is not in the range 0.1<=x<=3600"),
        (["nosuchverb"], "No such command 'nosuchverb' (see dpi-probe --help)"),
        (["pki", "init", "x", "--ip", "y"], "address 'y': not an IP address"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_and_status_2(command, said, tmp_path):
    done = run(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dpi-probe: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "read CAPTURE --format csv -o CAPTURE",
        "read - --format csv -o CAPTURE",
        "read - --format table -o LINK",
        "run -r CAPTURE --report CAPTURE",
        "run -r x -r CAPTURE --report LINK",
        "run -r - --report CAPTURE",
        "run -r x -C SETTINGS --report SETTINGS",
        "run -r x --probe-key-path KEY --report KEY",
        "prove CAPTURE --row 0 -o LINK",
        "bench peers CAPTURE --json CAPTURE",
        "bench compare SETTINGS CAPTURE --json CAPTURE",
        "bench compare CAPTURE SETTINGS --json CAPTURE",
    ],
)
def test_no_command_overwrites_what_it_reads(command, capture, tmp_path):
    places = {"CAPTURE": capture, **{word: tmp_path / word.lower() for word in ("SETTINGS", "KEY", "LINK")}}
    places["SETTINGS"].write_text("workers = 1\n")
    places["KEY"].write_text("a key")
    os.link(capture, places["LINK"])
    before = {path: path.read_bytes() for path in places.values()}
    words = [places.get(word, word) for word in command.split()]
    with capture.open("rb") as stdin:
        done = run(*words, cwd=tmp_path, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dpi-probe: {words[-1]}: is also an input; choose another output\n"
    assert {path: path.read_bytes() for path in places.values()} == before


def test_another_file_and_a_pipe_may_be_written(capture, tmp_path):
    out = tmp_path / "out.ndjson"
    with capture.open("rb") as stdin:
        assert run("read", "-", "-o", out, stdin=stdin).returncode == 0
    assert run("read", "-", "-o", out, input=capture.read_bytes(), text=False).returncode == 0
    assert len(out.read_text().splitlines()) == 1
    # A settings file that is to be none, and a report that nobody wants.
    done = run("run", "-r", capture, "--buffer-dir", tmp_path / "spool", "-C", "/dev/null", "--report", "/dev/null")
    assert "is also an input" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["verify", ""],
        ["verify", "--ca", "", "x"],
        ["verify", "--certificate", "", "x"],
        ["prove", "", "--row", "0"],
        ["prove", "x", "--row", "0", "-o", ""],
        ["read", ""],
        ["read", "x", "-o", ""],
        ["run", "-r", ""],
        ["run", "-r", "x", "-C", ""],
        ["run", "-r", "x", "--report", ""],
        ["run", "-r", "x", "--buffer-dir", ""],
        ["run", "-r", "x", "--probe-key-path", " "],
        ["core", "--data-dir", ""],
        ["core", "--pki", ""],
        ["core", "-C", ""],
        ["core", "export", "--out", ""],
        ["pki", "init", ""],
        ["pki", "list", "--dir", ""],
        ["doctor", "-C", ""],
        ["tune", "-C", ""],
        ["tune", "--undo-file", ""],
        ["demo", ""],
        ["demo", "--keep", ""],
        ["bench", "low", "--keep", ""],
        ["bench", "low", "--json", ""],
        ["bench", "peers", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_directory(words, tmp_path):
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "an empty path is not allowed" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["tune", "doctor"])
def test_an_unknown_interface_is_status_3(verb):
    done = run(verb, "nosuchif0")
    assert done.returncode == 3
    assert done.stderr == "dpi-probe: nosuchif0: there is no such interface in this network namespace\n"


def test_other_errors_of_the_system_name_their_file(capsys):
    with pytest.raises(DpiProbeError, match="cannot write there: Input/output error"), _output.writing("there"):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(DpiProbeError, match="cannot write there: Broken pipe"), _output.writing("there"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 batches"), (1, "1 batch"), (2, "2 batches"), (1_234, "1,234 batches")]
)
def test_counts_agree_with_their_nouns(count, words):
    assert counted(count, "batch", "batches") == words
    assert counted(1, "fault") == "1 fault"
    assert counted(3, "fault") == "3 faults"


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_bench_whose_result_could_not_be_written_does_not_begin(option: str) -> None:
    done = run("bench", "low", "--duration", "600", option, "/nowhere/x")
    assert done.returncode == 1
    assert done.stderr == "dpi-probe: cannot write /nowhere/x: No such file or directory\n"


def test_looking_whether_a_file_can_be_written_leaves_it_as_it_is(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_text("what was there")
    option = _output.OutputFile()
    for path in (kept, new):
        assert option.convert(str(path), None, None) == path
    assert kept.read_text() == "what was there"
    assert not new.exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_an_encoding_lacks_end_nothing(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    # To a pipe.
    done = run("tune", "lo", "--undo-file", tmp_path / "undo.json", env=environment, encoding="utf-8")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    # To a terminal.
    main, side = os.openpty()
    try:
        done = run("tune", "lo", "--undo-file", tmp_path / "undo.json", env=environment, stdout=side)
    finally:
        os.close(side)
        os.close(main)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


# Linux takes any bytes for a name; Python has these as half a surrogate pair, which UTF-8 does not know.
UNNAMEABLE = os.fsdecode(b"n\xff")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["verify", "FOLDER"], 4, "fault: FOLDER/altered.arrows: "),
        (["verify", "--json", "FOLDER"], 4, '"where": "FOLDER/altered.arrows"'),
        (["verify", "FOLDER/none"], 3, "fault: FOLDER/none: cannot be read: No such file or directory"),
        (["read", "--summary", "CAPTURE"], 0, "input       FOLDER/small.pcap\n"),
        (["read", "--summary", "--format", "ndjson", "CAPTURE"], 0, '"files": ["FOLDER/small.pcap"]'),
        (["pki", "init", "FOLDER/pki"], 0, "FOLDER/pki/ca.pem\n"),
        (["pki", "list", "--dir", "PKI"], 0, "  PKI/core.pem\n"),
        (["pki", "list", "--json", "--dir", "PKI"], 0, '"path": "PKI/core.pem"'),
        (["top", UNNAMEABLE], 1, "n\\udcff: there is no such interface here"),
        (["core", "--data-dir", "FOLDER", "--pki", "PKI"], 2, "cannot lie below a directory whose name is not UTF-8"),
    ],
    ids=lambda value: " ".join(value).replace(UNNAMEABLE, "name") if isinstance(value, list) else "",
)
def test_names_that_are_not_utf8(command, status, said, capture, shared_pki, tmp_path):
    folder = tmp_path / UNNAMEABLE
    folder.mkdir()
    (folder / "altered.arrows").write_bytes(b"\xff\xff\xff\xff" + bytes(60))
    (folder / "small.pcap").write_bytes(capture.read_bytes())
    pki = tmp_path / f"pki-{UNNAMEABLE}"
    pki.symlink_to(shared_pki)
    places = {"CAPTURE": folder / "small.pcap", "PKI": pki}
    done = run(*[places.get(word, word.replace("FOLDER", str(folder))) for word in command])
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    for word, place in {"FOLDER": folder, "PKI": pki}.items():
        said = said.replace(word, str(place).replace("\udcff", "\\udcff"))
    assert said in done.stdout + done.stderr
    if "--json" in command or "ndjson" in command:
        # Who reads the JSON has the name as it is.
        assert UNNAMEABLE in json.dumps(json.loads(done.stdout.splitlines()[0]), ensure_ascii=False)


def test_without_an_input_what_was_written_before_stays(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "flows.ndjson"
    assert run("read", capture, "-o", out).returncode == 0
    before = out.read_bytes()
    for files in ([tmp_path / "none.pcap"], [tmp_path, tmp_path / "none.pcap"]):
        done = run("read", *files, "-o", out)
        assert done.returncode == 3, done.stderr
        assert out.read_bytes() == before != b""
    # One that can be read is enough.
    assert run("read", tmp_path / "none.pcap", capture, "-o", out).returncode == 3
    assert out.read_bytes() == before


def test_a_dash_is_standard_output(capture: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dpi_probe", "read", capture, "-o", "-", "--format", "ndjson"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith("{")
    assert list(tmp_path.glob("-")) == []


@pytest.mark.parametrize(
    ("closed", "status", "said"),
    [
        (">&-", 1, "Bad file descriptor"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        (">&- 2>&- <&-", 1, ""),
    ],
)
@pytest.mark.parametrize("command", ["--version", "read {} --format ndjson"])
def test_closed_standard_streams(command: str, closed: str, status: int, said: str, capture: Path) -> None:
    line = f"{sys.executable} -m dpi_probe {command.format(capture)} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == len(said.splitlines())
    assert done.stderr.rstrip().endswith(said)


def test_no_file_takes_the_place_of_a_closed_standard_stream(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    line = f"{sys.executable} -m dpi_probe read {capture} {tmp_path / 'none.pcap'} -o {out} 2>&- >&-"
    done = subprocess.run(["sh", "-c", line], check=False, timeout=60)
    assert done.returncode == 3
    assert all(row.startswith("{") for row in out.read_text().splitlines())
