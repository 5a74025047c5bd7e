"""`dpi_probe.Probe` without a data plane: what the end of a run over files says of its batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dpi_probe import Probe
from dpi_probe.config import load
from dpi_probe.errors import ConfigError, SpoolError


def ended(*accounts: tuple[str, str, int], problems: tuple[str, ...] = ()) -> Probe:
    """A probe that has read a file, with these in its books: account, reason and value."""
    entries = [
        {"account": account, "reason": reason, "worker": None, "value": value} for account, reason, value in accounts
    ]
    pipeline = SimpleNamespace(is_finished=lambda: True, join=lambda: list(problems), accounts=lambda: entries)
    probe = Probe(files=["x.pcap"], settings=load({"buffer_dir": Path("/spool")}, are_arguments=True))
    probe._pipeline = cast("Any", pipeline)
    return probe


def said(probe: Probe) -> list[str]:
    with pytest.raises(SpoolError) as caught:
        probe.join()
    assert caught.value.exit_status == 1
    return str(caught.value).splitlines()


def test_nothing_is_said_of_what_was_delivered() -> None:
    ended(("batches_sealed", "", 4), ("batches_acknowledged", "", 4)).join()


def test_manifests_that_had_to_go_too_are_not_said_to_be_there() -> None:
    (line,) = said(ended(("batches_dropped", "spool_full", 391), ("manifests_lost", "", 138)))
    assert line.startswith("/spool: 391 batches could not be kept, of 253 of them the manifest is there; make space")
    (line,) = said(ended(("batches_dropped", "spool_full", 2), ("batches_lost", "disk_error", 1)))
    assert line.startswith("/spool: 3 batches could not be kept, of 2 of them the manifest is there;")
    (line,) = said(ended(("batches_dropped", "spool_full", 2), ("manifests_lost", "", 5)))
    assert line.startswith("/spool: 2 batches could not be kept; make space")


def test_a_batch_that_could_not_be_read_is_a_loss() -> None:
    (line,) = said(ended(("batches_rejected", "unreadable", 1)))
    assert line.startswith("/spool/rejected: 1 batch could not be read and will not be delivered; ")


def test_what_the_core_refused_for_good_is_no_success() -> None:
    told = said(ended(("batches_rejected", "refused", 3), ("batches_rejected", "unreadable", 1), problems=("x: cut",)))
    assert told[0] == "x: cut"
    assert told[1].startswith("/spool/rejected: 1 batch could not be read")
    assert told[2:] == [
        "/spool/rejected: the Core refused 3 batches for good; the .reason beside each says why",
    ]


def test_one_file_is_one_file() -> None:
    settings = load({}, are_arguments=True)
    assert Probe(files="abc.pcap", settings=settings).files == [Path("abc.pcap")]
    assert Probe(files=Path("abc.pcap"), settings=settings).files == [Path("abc.pcap")]
    assert Probe(files=["a.pcap", Path("b.pcap")], settings=settings).files == [Path("a.pcap"), Path("b.pcap")]
    for nameless in ("", ["a.pcap", ""]):
        with pytest.raises(ConfigError, match="files: an empty path is not allowed"):
            Probe(files=nameless, settings=settings)


@pytest.mark.parametrize(
    ("capture", "for_the_kernel"), [("auto", True), ("af_packet", True), ("pcap", True), ("af_xdp", False)]
)
def test_a_live_filter_is_compiled_for_whoever_runs_it(
    capture: str, for_the_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "_find_link_type", lambda *_: 1)
    settings = load({"capture_iface": "lo", "capture": capture, "capture_filter": "inbound"}, are_arguments=True)
    if for_the_kernel:
        assert Probe(settings=settings)._compiled_filter(settings)
    else:
        with pytest.raises(ConfigError, match="`inbound`"):
            Probe(settings=settings)._compiled_filter(settings)


def test_a_live_filter_that_stays_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_filter(expression: str, link_type: int, *, interface: str | None) -> list[tuple[int, int, int, int]]:
        compiled.append((expression, link_type, interface))
        return []

    monkeypatch.setattr(Probe, "_find_link_type", lambda *_: 1)
    monkeypatch.setattr("dpi_probe._bpf.compile_filter", compile_filter)
    settings = load({"capture_iface": "lo", "capture_filter": "vlan"}, are_arguments=True)
    probe = Probe(settings=settings)
    for expression in ("vlan", "vlan", "tcp", "vlan"):
        probe._compiled_filter(settings.model_copy(update={"capture_filter": expression}))
    assert compiled == [("vlan", 1, "lo"), ("tcp", 1, "lo"), ("vlan", 1, "lo")]


def test_a_probe_starts_once() -> None:
    with pytest.raises(ConfigError, match="make another Probe"):
        ended().start()


def test_a_block_reads_files_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "start", lambda _: None)
    stops: list[str] = []
    monkeypatch.setattr(Probe, "stop", lambda _: stops.append("stop"))
    with ended():
        pass
    assert stops == []
    with pytest.raises(KeyError), ended():
        raise KeyError
    assert stops == ["stop"]
