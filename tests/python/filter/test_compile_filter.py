"""Filters compile through libpcap, and a wrong one is one clear line."""

from __future__ import annotations

import pytest
from dpi_probe._bpf import compile_filter
from dpi_probe.errors import ConfigError

ETHERNET, RAW_IP = 1, 101


def test_a_program_ends_with_returns() -> None:
    program = compile_filter("udp port 53", ETHERNET)
    assert program[0][0] == 0x28, "it begins by loading the EtherType"
    assert [code for code, *_ in program[-2:]] == [0x06, 0x06]


def test_the_program_depends_on_the_link_type() -> None:
    assert compile_filter("ip", ETHERNET) != compile_filter("ip", RAW_IP)


def test_an_empty_filter_passes_everything() -> None:
    assert compile_filter("", ETHERNET) == [(0x06, 0, 0, 262_144)]


@pytest.mark.parametrize("expression", ["port", "tcp prot 80", "a\0b", "host " + "x" * 300])
def test_a_wrong_filter_is_one_line(expression: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_filter(expression, ETHERNET)
    assert "\n" not in str(caught.value)
