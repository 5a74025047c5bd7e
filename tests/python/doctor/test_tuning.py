"""Plan, apply and revert on a made machine: idempotent, undone, and nothing set before it can be undone."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from dpi_probe.cli.tune import UNDO_FILE, _show, command
from dpi_probe.config import ProbeSettings
from dpi_probe.doctor import CHECKS, examine, tuning
from dpi_probe.doctor.findings import Change, Unseen
from dpi_probe.errors import DpiProbeError
from harness.machine import BOOT_ID, MadeMachine, default_card

BACKLOG = "/proc/sys/net/core/netdev_max_backlog"
PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


@pytest.fixture
def machine(tmp_path):
    return default_card(tmp_path / "root")


@pytest.fixture
def undo(tmp_path):
    return tmp_path / "state" / "undo.json"


def wanted(machine: MadeMachine):
    checks = [check for check in CHECKS if check.name not in {"spool space", "spool speed"}]
    return tuning.changes(examine(machine, ProbeSettings(), ["eth0"], checks))


def states(steps):
    return {str(step.change): step.state for step in steps}


def present(machine: MadeMachine) -> dict[str, object]:
    network = machine.network
    files = {path: machine.text(path) for path in (BACKLOG, PAGES, "/proc/irq/64/smp_affinity_list")}
    return (
        files
        | {name: str(network.answers[name]) for name in ("rings", "coalesce")}
        | {"features": sorted(network.answers["features"]["active"])}
    )


def test_the_plan_changes_nothing(machine, undo):
    before = present(machine)
    steps = states(tuning.plan(machine, wanted(machine)))
    assert steps[BACKLOG] == steps["eth0: features rx-gro"] == steps["eth0: coalesce rx_usecs"] == "planned"
    assert steps["eth0: rings rx"] == steps["eth0: features rx-lro"] == "interrupts"
    assert present(machine) == before
    assert not undo.parent.exists()


def test_apply_sets_what_is_safe_and_revert_undoes_it(machine, undo):
    before, changes = present(machine), wanted(machine)
    steps = states(tuning.apply(machine, changes, undo))
    assert steps["eth0: rings rx"] == "interrupts"
    assert steps[BACKLOG] == steps["eth0: features rx-gro"] == steps["/proc/irq/64/smp_affinity_list"] == "set"
    assert machine.text(BACKLOG) == "10000"
    assert machine.network.answers["coalesce"]["rx_usecs"] == 50
    assert "rx-gro" not in machine.network.answers["features"]["active"]
    assert "rx-lro" in machine.network.answers["features"]["active"]
    done = states(tuning.revert(machine, undo))
    assert set(done.values()) == {"undone"}
    assert present(machine) == before
    assert not undo.exists()
    assert tuning.revert(machine, undo) == []


def test_interrupting_changes_are_set_when_asked_for(machine, undo):
    steps = states(tuning.apply(machine, wanted(machine), undo, interrupting=True))
    assert steps["eth0: rings rx"] == steps["eth0: features rx-lro"] == "set"
    assert machine.network.answers["rings"]["rx"] == 4096
    tuning.revert(machine, undo, interrupting=True)
    assert machine.network.answers["rings"]["rx"] == 512


def test_what_interrupts_is_set_back_only_when_asked_for(machine, undo):
    machine.network.answers["features"]["active"].add("rx-gro-hw")
    machine.network.answers["features"]["hw"].add("rx-gro-hw")
    before = present(machine)
    tuning.apply(machine, wanted(machine), undo, interrupting=True)
    interrupting = {"eth0: rings rx", "eth0: features rx-lro", "eth0: features rx-gro-hw"}
    calls = len(machine.network.calls)
    steps = tuning.revert(machine, undo)
    assert {name for name, state in states(steps).items() if state == "interrupts"} == interrupting
    assert {step.state for step in steps} == {"interrupts", "undone"}
    (ring,) = [step for step in steps if step.change.kind == "rings"]
    assert (ring.before, ring.after, ring.to_dict()["interrupts"]) == ("4096", "512", True)
    assert sorted(machine.network.calls[calls:]) == ["coalesce rx_usecs 0", "features rx-gro True"]
    # It is asked again by another call, and the values from before are still known.
    assert set(states(tuning.apply(machine, wanted(machine), undo, interrupting=True)).values()) <= {"set", "unchanged"}
    assert set(states(tuning.revert(machine, undo, interrupting=True)).values()) == {"undone"}
    assert present(machine) == before
    assert not undo.exists()


def test_what_interrupts_but_need_not_be_set_back_leaves_the_file(machine, undo):
    tuning.apply(machine, wanted(machine), undo, interrupting=True)
    machine.network.answers["rings"]["rx"] = 1024
    machine.network.answers["features"]["active"].add("rx-lro")
    steps = states(tuning.revert(machine, undo))
    assert (steps["eth0: rings rx"], steps["eth0: features rx-lro"]) == ("left", "unchanged")
    assert not undo.exists()


def test_huge_pages_are_set_for_every_program_and_so_by_a_command_only(machine, undo):
    checks = [check for check in CHECKS if check.name == "huge pages"]
    (finding,) = examine(machine, ProbeSettings(), [], checks)
    assert finding.outcome.command == f"echo madvise > {PAGES}"
    assert "for every program of the machine" in finding.outcome.found
    tuning.apply(machine, wanted(machine), undo, interrupting=True)
    assert machine.text(PAGES) == "[always] madvise never"


def test_of_a_choice_the_chosen_one_is_the_value(machine, undo):
    # An undo file from when `tune` set huge pages is still good.
    assert states(tuning.apply(machine, [Change("file", PAGES, "madvise")], undo)) == {PAGES: "set"}
    assert machine.text(PAGES) == "always [madvise] never"
    assert states(tuning.revert(machine, undo)) == {PAGES: "undone"}
    assert machine.text(PAGES) == "[always] madvise never"


def test_a_second_apply_keeps_what_was_there_first(machine, undo):
    changes = wanted(machine)
    tuning.apply(machine, changes, undo)
    first, calls = undo.read_text(), list(machine.network.calls)
    assert set(states(tuning.apply(machine, changes, undo)).values()) == {"unchanged", "interrupts"}
    assert undo.read_text() == first
    assert machine.network.calls == calls
    machine.put(BACKLOG, "2000")
    tuning.apply(machine, changes, undo)
    tuning.revert(machine, undo)
    assert machine.text(BACKLOG) == "1000"


def test_how_to_undo_is_on_disk_before_anything_changes(machine, undo, monkeypatch):
    seen = []

    def look(path, text):
        entries = json.loads(undo.read_text())["changes"]
        seen.append(any(entry["target"] == path and entry["after"] == text for entry in entries))

    monkeypatch.setattr(machine, "write", look)
    tuning.apply(machine, wanted(machine), undo)
    assert len(seen) > 5
    assert all(seen)


def test_a_crash_while_setting_is_undone(machine, undo, monkeypatch):
    before, changes, write = present(machine), wanted(machine), machine.write

    def crash(path, text):
        if path == BACKLOG:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(machine, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        tuning.apply(machine, changes, undo)
    monkeypatch.setattr(machine, "write", write)
    assert set(states(tuning.revert(machine, undo)).values()) == {"undone", "unchanged"}
    assert present(machine) == before


def test_nothing_is_changed_if_it_could_not_be_undone(machine, tmp_path):
    (tmp_path / "file").write_text("in the way")
    before = present(machine)
    with pytest.raises(DpiProbeError, match="nothing was changed"):
        tuning.apply(machine, wanted(machine), tmp_path / "file" / "undo.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(DpiProbeError, match="nothing was changed"):
        tuning.apply(machine, wanted(machine), broken)
    assert present(machine) == before


def test_without_permission_to_write_how_to_undo_it_says_so_unless_there_is_nothing_to_set(machine, undo, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    before = present(machine)
    with pytest.raises(tuning.TuningPermissionError, match="nothing was changed: run it as root") as caught:
        tuning.apply(machine, wanted(machine), undo)
    assert caught.value.exit_status == 5
    assert present(machine) == before
    assert tuning.apply(machine, [], undo) == []
    steps = tuning.plan(machine, wanted(machine))
    as_it_is = [replace(step.change, wanted=str(step.before)) for step in steps]
    assert {step.state for step in tuning.apply(machine, as_it_is, undo)} == {"unchanged"}


def test_a_refusal_stops_nothing_else_and_is_not_kept(machine, undo):
    machine.forbidden.add(BACKLOG)
    machine.network.refuses["rx_usecs"] = errno.EOPNOTSUPP
    changes = wanted(default_card(machine.root.parent / "other"))
    steps = {str(step.change): step for step in tuning.apply(machine, changes, undo)}
    assert steps[BACKLOG].state == "refused"
    assert steps[BACKLOG].forbidden
    assert steps["eth0: coalesce rx_usecs"].reason == "Operation not supported"
    assert steps["eth0: features rx-gro"].state == "set"
    kept = {entry["target"] for entry in json.loads(undo.read_text())["changes"]}
    assert "rx-gro" in kept
    assert not kept & {"rx_usecs", BACKLOG}


def test_a_value_that_was_written_but_cannot_be_read_back_is_undone(machine, undo, monkeypatch):
    before, changes, text = present(machine), wanted(machine), machine.text
    written = []

    def write(path, value):
        MadeMachine.write(machine, path, value)
        written.append(path)

    def read(path):
        if path == BACKLOG and path in written:
            raise Unseen(f"{path}: Permission denied")
        return text(path)

    monkeypatch.setattr(machine, "write", write)
    monkeypatch.setattr(machine, "text", read)
    (step,) = [step for step in tuning.apply(machine, changes, undo) if str(step.change) == BACKLOG]
    assert (step.state, step.after) == ("set", "10000")
    assert "cannot be read back" in step.reason
    monkeypatch.undo()
    assert machine.text(BACKLOG) == "10000"
    assert states(tuning.revert(machine, undo))[BACKLOG] == "undone"
    assert present(machine) == before


@pytest.mark.parametrize("how", ["not permitted", "without effect", "crash"])
def test_a_second_apply_that_fails_still_undoes_the_first(machine, undo, monkeypatch, how):
    before, changes = present(machine), wanted(machine)
    tuning.apply(machine, changes, undo)

    def write(_path, _text):
        if how == "not permitted":
            raise PermissionError(errno.EACCES, "Permission denied")
        if how == "crash":
            raise KeyboardInterrupt

    monkeypatch.setattr(machine, "write", write)
    more = [Change("file", BACKLOG, "20000")]
    if how == "crash":
        with pytest.raises(KeyboardInterrupt):
            tuning.apply(machine, more, undo)
    else:
        assert states(tuning.apply(machine, more, undo)) == {BACKLOG: "refused"}
    monkeypatch.undo()
    assert set(states(tuning.revert(machine, undo)).values()) == {"undone"}
    assert present(machine) == before


def test_what_took_no_effect_at_first_is_undone_if_it_did_later(machine, undo, monkeypatch):
    before = machine.text(BACKLOG)
    monkeypatch.setattr(machine, "write", lambda _path, _text: None)
    assert states(tuning.apply(machine, [Change("file", BACKLOG, "20000")], undo)) == {BACKLOG: "refused"}
    monkeypatch.undo()
    machine.put(BACKLOG, "20000")
    assert states(tuning.revert(machine, undo)) == {BACKLOG: "undone"}
    assert machine.text(BACKLOG) == before


def test_what_a_driver_rounds_is_undone_too(machine, undo):
    machine.network.rounds["rx_usecs"] = 48
    (step,) = [s for s in tuning.apply(machine, wanted(machine), undo) if s.change.target == "rx_usecs"]
    assert step.after == "48"
    machine.network.rounds.clear()
    tuning.revert(machine, undo)
    assert machine.network.answers["coalesce"]["rx_usecs"] == 0


def test_what_somebody_changed_since_stays(machine, undo):
    tuning.apply(machine, wanted(machine), undo)
    machine.put(BACKLOG, "5000")
    (step,) = [step for step in tuning.revert(machine, undo) if str(step.change) == BACKLOG]
    assert step.state == "left"
    assert machine.text(BACKLOG) == "5000"
    assert not undo.exists()


@pytest.mark.parametrize("replacement", [None, 9])
def test_an_interface_that_is_gone_takes_its_values_with_it(machine, undo, replacement):
    tuning.apply(machine, wanted(machine), undo)
    (link,) = machine.network.present
    # The name may belong to another interface by then.
    machine.network.present = [] if replacement is None else [replace(link, index=replacement)]
    calls = list(machine.network.calls)
    steps = states(tuning.revert(machine, undo))
    assert steps["eth0: features rx-gro"] == steps["/proc/irq/64/smp_affinity_list"] == "gone"
    assert steps[BACKLOG] == "undone"
    assert machine.network.calls == calls
    assert machine.text("/proc/irq/64/smp_affinity_list") == "2"


def test_a_renamed_interface_is_still_the_same(machine, undo):
    tuning.apply(machine, wanted(machine), undo)
    machine.network.present = [replace(machine.network.present[0], name="capture0")]
    assert states(tuning.revert(machine, undo))["eth0: features rx-gro"] == "undone"
    assert "rx-gro" in machine.network.answers["features"]["active"]


def test_an_interface_of_another_network_namespace_is_left_alone(machine, undo):
    machine.put("/proc/self/ns/net", "->net:[4026531840]")
    tuning.apply(machine, wanted(machine), undo)
    machine.path("/proc/self/ns/net").unlink()
    machine.put("/proc/self/ns/net", "->net:[4026532000]")
    calls = list(machine.network.calls)
    # Its own interface there has the same index.
    done = {str(step.change): step for step in tuning.revert(machine, undo)}
    assert done["eth0: features rx-gro"].state == "refused"
    assert "another network namespace" in done["eth0: features rx-gro"].reason
    assert done[BACKLOG].state == "undone", "that is the machine's"
    assert machine.network.calls == calls
    machine.path("/proc/self/ns/net").unlink()
    machine.put("/proc/self/ns/net", "->net:[4026531840]")
    assert states(tuning.revert(machine, undo))["eth0: features rx-gro"] == "undone"
    assert not undo.exists()


def test_what_cannot_be_set_back_stays_in_the_file(machine, undo):
    tuning.apply(machine, wanted(machine), undo)
    machine.network.refuses["rx-gro"] = errno.EBUSY
    assert states(tuning.revert(machine, undo))["eth0: features rx-gro"] == "refused"
    assert [entry["target"] for entry in json.loads(undo.read_text())["changes"]] == ["rx-gro"]
    machine.network.refuses.clear()
    tuning.revert(machine, undo)
    assert not undo.exists()


def test_a_restart_of_the_machine_has_undone_everything(machine, undo):
    tuning.apply(machine, wanted(machine), undo)
    machine.put(BOOT_ID, "another")
    assert tuning.revert(machine, undo) == []
    assert not undo.exists()
    assert machine.text(BACKLOG) == "10000"


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (UNDO_FILE, "`dpi-probe tune --revert`"),
        (Path("/my [red]undo.json"), "`dpi-probe tune --revert --undo-file '/my [red]undo.json'`"),
    ],
)
def test_it_says_the_whole_command_that_undoes_it(capsys, file, command):
    _show([tuning.Step(Change("file", BACKLOG, "20000"), "set", "1000", "20000")], file, applied=True, reverted=False)
    assert command in capsys.readouterr().out
    ring = tuning.Step(Change("rings", "rx", "4096", interface="eth0"), "set", "512", "4096")
    _show([ring], file, applied=True, reverted=False)
    assert f"{command[:-1]} --interrupt`" in capsys.readouterr().out


def test_it_says_how_to_set_back_what_it_left(capsys):
    ring = tuning.Step(Change("rings", "rx", "4096", interface="eth0"), "interrupts", "4096", "512", "may take …")
    _show([ring], Path("/my undo.json"), applied=False, reverted=True)
    said = capsys.readouterr().out
    assert "everything that could safely be is set back" in said
    assert "`dpi-probe tune --revert --undo-file '/my undo.json' --interrupt` sets it back" in said


@pytest.mark.parametrize("options", [[], ["--interrupt"]])
def test_only_the_option_lets_revert_interrupt(options, undo, monkeypatch):
    asked = []

    def revert(_machine, _undo_file, *, interrupting):
        asked.append(interrupting)
        return []

    monkeypatch.setattr(tuning, "revert", revert)
    done = CliRunner().invoke(command, ["--revert", f"--undo-file={undo}", *options])
    assert (done.exit_code, done.output) == (0, "nothing to undo\n")
    assert asked == [bool(options)]


@pytest.mark.parametrize("kind", ["device", "pipe", "directory", "long", "deep"])
def test_what_is_no_undo_file_is_neither_read_to_its_end_nor_replaced(machine, undo, kind):
    undo.parent.mkdir()
    reason = "it is no regular file"
    if kind == "device":
        # It has no end. A link, so that the device itself stays whatever becomes of this test.
        undo.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(undo)
    elif kind == "directory":
        undo.mkdir()
        reason = "Is a directory"
    elif kind == "long":
        with undo.open("wb") as file:
            file.truncate(tuning.MAX_BYTES + 1)
        reason = "it is longer than 16 MiB"
    else:
        undo.write_text("[" * 1_000_000)
        reason = "recursion"
    before = present(machine), undo.lstat()
    for use in (lambda: tuning.revert(machine, undo), lambda: tuning.apply(machine, wanted(machine), undo)):
        with pytest.raises(DpiProbeError, match=reason) as caught:
            use()
        assert str(caught.value).startswith(f"{undo}: ")
    assert present(machine) == before[0]
    assert undo.lstat().st_ino == before[1].st_ino
