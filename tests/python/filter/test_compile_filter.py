"""Filters compile through libpcap, and a wrong one is one clear line."""

from __future__ import annotations

import pytest
from dpi_probe._bpf import compile_filter
from dpi_probe._flows import compile_filter as compile_for_files
from dpi_probe.errors import ConfigError

ETHERNET, RAW_IP, LINUX_SLL, IEEE802_11, IEEE802_11_RADIOTAP = 1, 101, 113, 105, 127


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


@pytest.mark.parametrize("expression", ["inbound", "tcp and outbound", "ifindex 2"])
def test_what_only_the_kernel_knows_is_no_filter_of_bytes(expression: str) -> None:
    with pytest.raises(ConfigError, match="ask the kernel"):
        compile_filter(expression, ETHERNET)
    assert compile_filter(expression, ETHERNET, interface="lo")


def test_vlan_is_looked_for_where_the_frame_is_looked_at() -> None:
    assert (0x28, 0, 0, 12) in compile_filter("vlan", ETHERNET), "a file's frames have the tag in them"
    try:
        program = compile_filter("vlan", ETHERNET, interface="lo")
    except ConfigError as error:
        pytest.skip(str(error))
    # SKF_AD_VLAN_TAG_PRESENT (linux/filter.h).
    assert (0x30, 0, 0, 2**32 - 0x1000 + 48) in program


def test_vlan_on_an_interface_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match="cannot open nobody0: ") as caught:
        compile_filter("vlan 7", ETHERNET, interface="nobody0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "fits"), [("outbound", LINUX_SLL), ("type mgt", IEEE802_11), ("vlan 5", ETHERNET)]
)
def test_a_filter_of_files_need_fit_one_link_type_only(expression: str, fits: int) -> None:
    programs = dict(compile_for_files(expression))
    assert isinstance(programs[fits], list)
    assert isinstance(programs[RAW_IP], str)


def test_a_filter_that_is_too_long_for_one_link_type_holds_for_the_others() -> None:
    # The headers of 802.11 have no fixed length, so that each test of a host begins at the start.
    expression = " or ".join(f"host 10.0.0.{number}" for number in range(60))
    programs = dict(compile_for_files(expression))
    assert isinstance(programs[ETHERNET], list)
    message = str(programs[IEEE802_11_RADIOTAP])
    assert "link type 127 is a program of" in message
    assert "4,096 are allowed" in message
    with pytest.raises(ConfigError) as caught:
        compile_filter(expression, IEEE802_11_RADIOTAP)
    assert str(caught.value) == message


def test_a_filter_of_files_that_fits_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"link type 1\): can't parse"):
        compile_for_files("tcp prot 80")
