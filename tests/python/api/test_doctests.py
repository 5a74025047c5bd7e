"""The examples in the docstrings run as they stand."""

from __future__ import annotations

import doctest

import capture_files as captures
import dpi_probe
import pytest
from dpi_probe import _flows


@pytest.mark.parametrize("module", [dpi_probe, _flows], ids=lambda module: module.__name__)
def test_docstring_examples(module, tmp_path, monkeypatch):
    (tmp_path / "small.pcap").write_bytes(captures.pcap(captures.dns_frames()))
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(module, globs={"dpi_probe": dpi_probe})
    assert attempted > 0
    assert failed == 0
