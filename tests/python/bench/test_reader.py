"""What `dpi-probe bench reader` makes of its runs."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from dpi_probe.bench import compare, machine, reader, show_reader, veth
from dpi_probe.bench.processes import Use
from dpi_probe.bench.reader import ALONE, BARE, WHOLE, Receiver, Setting
from dpi_probe.cli.bench import command
from rich.console import Console

if TYPE_CHECKING:
    from pathlib import Path

SETTING = Setting(
    duration=1, warm_up=1, repeat=3, memory_mb=256, flow_timeout=1, flows_per_second=None, seed=1,
    sender_cpus={0}, receiver_cpus={1},
)  # fmt: skip
RECEIVERS = [Receiver(BARE), Receiver(ALONE), Receiver(WHOLE)]


def run(receiver: Receiver, frames: float, *, dropped: float = 0.0, wrong: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "receiver": receiver.what, "capture": receiver.capture, "frames_per_second": frames,
        "bits_per_second": frames * 8000, "mean_frame_bytes": 1000.0, "drop_ratio": dropped,
        "sent_frames_per_second": frames / (1 - dropped), "flows_per_second": None,
        "shed_ratio": 0.0, "cores": 0.5, "sender_cores": 0.6,
        "threads": {"dpi-worker-0": 0.4, "seal": 0.1}, "wrong": list(wrong), "ways": ["af_packet"],
        "frames_sent": 0, "frames_unaccounted": 0,
    }  # fmt: skip


def row(turns: list[tuple[float, float, float]], receiver: Receiver = RECEIVERS[2], **probe: Any) -> dict[str, Any]:
    """The row of turns of bare ring, capture alone and whole probe."""
    receivers = [*RECEIVERS[:2], receiver]
    runs = [
        run(one, frames, **probe if one is receiver else {})
        for turn in turns
        for one, frames in zip(receivers, turn, strict=True)
    ]
    return reader._row("1000", 10**9, SETTING, receivers[0], receivers, runs)


def test_the_ratio_is_the_median_over_turns_not_over_all_runs() -> None:
    # The machine was slow for the second turn, for all of them.
    result = row([(1000, 1000, 900), (100, 90, 95), (1000, 1000, 900)], dropped=0.1)
    bare, alone, whole = result["receivers"]
    assert (bare["ratio"], alone["ratio"], whole["ratio"]) == (1, 1, 0.9)
    assert whole["passed"] is True
    assert "passed" not in bare
    assert whole["limit"].startswith("capture, decode, flow, layer 7, record: 40 % of a CPU, of 50 %")
    assert result["offered_flows_per_second"] == 10_000


@pytest.mark.parametrize(
    ("frames", "dropped", "wrong", "passed"),
    [
        (851, 0.1, (), True),
        (849, 0.1, (), False),
        (1000, 0.0, (), True),
        # Nothing more came, so that nothing was shown.
        (500, 0.0, (), None),
        (1000, 0.0, ("frames_lost = 1, a bug",), False),
    ],
)
def test_the_verdict(frames: float, dropped: float, wrong: tuple[str, ...], *, passed: bool | None) -> None:
    result = row([(1000, 1000, frames)], dropped=dropped, wrong=wrong)
    assert result["receivers"][-1]["passed"] is passed
    assert reader._all_passed([result]) is passed


@pytest.mark.parametrize(
    ("came", "wrong"),
    [
        (90, ()),
        (88, ("frames sent that neither came nor were counted as dropped: 2",)),
        (93, ("frames that came or were dropped, but were not sent: 3",)),
    ],
)
def test_frames_that_nobody_accounts_for_are_wrong(came: int, wrong: tuple[str, ...]) -> None:
    def count(time: float, frames: int) -> dict[str, float]:
        return {"time": time, "frames": frames, "dropped": 10}

    def offer(time: float, frames: int) -> dict[str, Any]:
        return {"time": time, "offer": {"frames_taken": frames, "bytes_taken": 1000 * frames}}

    receiver: Any = SimpleNamespace(samples=[count(0.0, 0), count(1.0, came)])
    sender: Any = SimpleNamespace(samples=[offer(0.0, 0), offer(1.0, 105)])
    # Five found no room in the cable: they were not sent.
    sent = {**offer(1.0, 105), "refused": 5}
    figures = reader._figures(RECEIVERS[0], (0.0, 1.0), receiver, count(1.0, came), sender, sent, (Use(), Use()))
    assert figures["wrong"] == list(wrong)
    assert figures["frames_unaccounted"] == 90 - came
    totals = {"frames_delivered": came, "source_frames_dropped": 10}
    final = {
        "time": 1.0,
        "totals": totals,
        "books": [{"account": "worker_panics", "reason": "", "worker": None, "value": 1}],
    }
    figures = reader._figures(RECEIVERS[2], (0.0, 1.0), receiver, final, sender, sent, (Use(), Use()))
    assert figures["wrong"] == ["worker_panics = 1, a bug", *wrong]


@pytest.mark.parametrize("receiver", [*RECEIVERS, Receiver(ALONE, "af_xdp")])
def test_nothing_passes_where_a_receivers_books_are_off(receiver: Receiver) -> None:
    result = row([(1000, 1000, 900), (1000, 1000, 900)])
    assert reader._all_passed([result]) is True
    receivers = [*RECEIVERS, Receiver(ALONE, "af_xdp")]
    runs = [run(one, 1000.0, wrong=("off",) if one == receiver else ()) for one in receivers]
    result = reader._row("1000", 10**9, SETTING, RECEIVERS[0], receivers, runs)
    assert reader._all_passed([result]) is False


def test_work_left_out_in_one_turn_of_three_is_no_pass() -> None:
    result = row([(1000, 1000, 1000)] * 3)
    assert result["receivers"][-1]["passed"] is True
    result["runs"][-1]["shed_ratio"] = 0.25
    (whole,) = reader._row("1000", 10**9, SETTING, RECEIVERS[2], RECEIVERS[2:], result["runs"])["receivers"]
    assert whole["passed"] is False
    assert "left out for 25 % of a turn" in whole["limit"]


def test_a_sender_that_was_slowed_down_is_told() -> None:
    line = row([(1000, 1000, 500)])["receivers"][-1]
    assert "the sender had only 60 % of it" in line["limit"]


@pytest.mark.parametrize(("frames", "dropped"), [(500, 0.1), (1000, 0.0)])
def test_af_xdp_is_shown_but_not_judged_on_a_veth_pair(frames: float, dropped: float) -> None:
    result = row([(1000, 1000, frames)], Receiver(WHOLE, "af_xdp"), dropped=dropped)
    assert result["receivers"][-1]["passed"] is None
    assert show_reader._word(result["receivers"][-1]) == "[dim]n/a[/dim]"
    # Nothing was judged, so that nothing passed.
    assert reader._all_passed([result]) is None
    for judged, passed in ((900, True), (500, False)):
        assert reader._all_passed([result, row([(1000, 1000, judged)], dropped=0.1)]) is passed


def test_books_must_balance_by_af_xdp_too() -> None:
    result = row([(1000, 1000, 500)], Receiver(WHOLE, "af_xdp"), wrong=("frames_lost = 1, a bug",))
    assert result["receivers"][-1]["passed"] is False
    assert reader._all_passed([result]) is False


@pytest.mark.parametrize(
    ("captures", "frames", "status", "said"),
    [
        (["af_xdp"], 1000, 1, "dpi-probe: nothing was judged"),
        (["af_packet"], 1000, 0, ""),
        (["af_packet"], 500, 1, ""),
        # The table says of which size nothing was shown.
        ([], None, 1, ""),
    ],
)
def test_the_exit_status_says_whether_what_is_judged_passed(
    captures: list[str], frames: float | None, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Receiver(WHOLE, captures[0] if captures else "af_packet")
    sizes = [row([(1000, 1000, frames or 500)], whole, dropped=0.1 if frames else 0.0)]
    result = {"passed": reader._all_passed(sizes)}
    monkeypatch.setattr(veth, "enter_namespace", lambda _mtu: None)
    monkeypatch.setattr(reader, "measure", lambda *_arguments, **_options: result)
    monkeypatch.setattr(show_reader, "show", lambda _console, _result: None)
    done = CliRunner().invoke(command, ["reader", *(f"--capture={one}" for one in captures)])
    assert done.exit_code == status, done.output
    assert done.stderr.startswith(said)
    assert ("judged" in done.stderr) == bool(said)


def test_the_table_names_rates_verdict_and_limit(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "machine": machine.fingerprint(),
        "target": 0.85, "base": BARE, "no_bare_ring": "no C compiler was found", "passed": False,
        "setting": {"repeat": 1, "duration": 1, "sender_cpus": [0], "receiver_cpus": [1]},
        "sizes": [row([(1_000_000, 990_000, 500_000)], dropped=0.5)],
    }  # fmt: skip
    show_reader.show(Console(width=160, highlight=False), result)
    shown = capsys.readouterr().out
    for text in (
        "no C compiler",
        "sender on CPU 0, the receivers on 1",
        "1,000.0",
        "500.0",
        "50 %",
        "FAIL",
        "limited by",
    ):
        assert text in shown


@pytest.mark.parametrize(("dropped", "shown"), [(0.0, "0.00 %"), (0.00001, "<0.01 %"), (0.5, "50.00 %")])
def test_the_table_is_whole_on_a_terminal_of_80_columns(
    dropped: float, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [
        row([(1_234_567, 990_000, 1_240_000)], receiver, dropped=dropped)
        for receiver in (RECEIVERS[2], Receiver(WHOLE, "af_xdp"))
    ]
    for number, passed in enumerate((False, None)):
        sizes[number]["receivers"][0]["sent_frames_per_second"] -= 0.0 if dropped else 10.0
        sizes[number]["receivers"][-1] |= {"flows_per_second": 123_456.0, "passed": passed, "capture": "af_packet"}
    sizes[1]["receivers"][0]["capture"] = "af_xdp"
    result = {
        "machine": machine.fingerprint(), "target": 0.85, "base": BARE, "no_bare_ring": None, "passed": False,
        "setting": {"repeat": 3, "duration": 1, "sender_cpus": [0], "receiver_cpus": [1]}, "sizes": sizes,
    }  # fmt: skip
    show_reader.show(Console(width=80, highlight=False), result)
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    for text in ("FAIL", "not shown", "1,234.6", "1,240.0", "received", "dropped", "flows/s", "123,456", shown):
        assert text in said
    assert ("received may be a little above sent" in said) == (dropped == 0)


def test_results_are_compared_receiver_by_receiver_and_size_by_size() -> None:
    def result(frames: float, duration: float = 4) -> dict[str, Any]:
        small = row([(1000, 900, frames), (1010, 910, frames + 10), (990, 890, frames - 10)])
        large = {**row([(500, 400, 300)]), "frame_size": "9000"}
        setting = {"duration": duration}
        idle = {**machine.fingerprint(), "load_before": [0.0, 0.0, 0.0]}
        return {"kind": "reader", "sizes": [small, large], "machine": idle, "setting": setting}

    before, after = result(800), result(400)
    lines = compare.compare(before, after)
    assert [line["what"] for line in lines] == [
        f"{receiver} by af_packet, frames of {size}, frames/s"
        for size in ("1000", "9000")
        for receiver in (BARE, ALONE, WHOLE)
    ]
    assert [line["verdict"] for line in lines[:3]] == ["no difference shown", "no difference shown", "worse"]
    assert (lines[2]["before"], lines[2]["after"]) == (800, 400)
    assert lines[3]["verdict"] == "cannot be told", "one turn has no interval"
    assert "the settings differ (duration 4 and 1)" in compare.warnings(before, result(800, duration=1))
    after["sizes"].pop()
    assert len(compare.compare(before, after)) == 3


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    program, reason = reader.compile_bare_ring(tmp_path)
    assert program is None
    assert "apt-get install gcc" in reason


def test_the_bare_ring_compiles_and_says_what_it_needs(tmp_path: Path) -> None:
    program, reason = reader.compile_bare_ring(tmp_path)
    assert program is not None, reason
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)


def test_a_capture_mode_needs_an_interface() -> None:
    done = CliRunner().invoke(command, ["low", "--capture", "af_xdp"])
    assert done.exit_code != 0
    assert "--source veth" in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["low", "--source", "veth", "--capture", "af_xdp", "--frame-size", "super"],
        ["reader", "--capture", "af_xdp", "--frame-size", "super"],
    ],
)
def test_super_frames_are_not_sent_to_where_the_kernel_cuts_them(arguments: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code != 0
    assert "take --capture af_packet" in str(done.exception)
