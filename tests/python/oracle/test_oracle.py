"""The reference meter against what others say: published vectors, other definitions, hand-made packets."""

from __future__ import annotations

import ipaddress
import statistics
import struct
from typing import TYPE_CHECKING

import pytest
from dpi_probe import _native
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.cases import Case, cases
from tests.oracle.capture import Frame, read
from tests.oracle.checksum import crc32c, internet_checksum
from tests.oracle.community_id import community_id
from tests.oracle.compare import compare, reference_of
from tests.oracle.decode import NoFlowError, decode
from tests.oracle.link import LINK_TYPES
from tests.oracle.meter import SECOND, Meter, later
from tests.oracle.statistics import summary

if TYPE_CHECKING:
    from pathlib import Path

SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04


def ipv4(
    source: str, destination: str, protocol: int, body: bytes, *, identification: int = 0, fragment: int = 0
) -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), identification, fragment, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + body


def tcp(
    source: int, destination: int, flags: int, sequence: int, acknowledgement: int = 0, payload: bytes = b""
) -> bytes:
    return (
        struct.pack("!HHIIHHHH", source, destination, sequence, acknowledgement, 0x5000 | flags, 1000, 0, 0) + payload
    )


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def meter(*packets: tuple[float, bytes], full: bool = False) -> list[dict[str, object]]:
    """Meter raw IP packets at times in seconds."""
    frames = [
        Frame(number, round(seconds * SECOND), 101, packet, len(packet))
        for number, (seconds, packet) in enumerate(packets, 1)
    ]
    return Meter(full=full).run(frames)


CLIENT, SERVER = "192.0.2.1", "192.0.2.2"


def to_server(flags: int, sequence: int, acknowledgement: int = 0, payload: bytes = b"") -> bytes:
    return ipv4(CLIENT, SERVER, 6, tcp(40_000, 80, flags, sequence, acknowledgement, payload))


def to_client(flags: int, sequence: int, acknowledgement: int = 0, payload: bytes = b"") -> bytes:
    return ipv4(SERVER, CLIENT, 6, tcp(80, 40_000, flags, sequence, acknowledgement, payload))


# https://github.com/corelight/community-id-spec, baseline of seed 0.
@pytest.mark.parametrize(
    ("expected", "protocol", "source", "destination", "ports", "icmp"),
    [
        ("1:LQU9qZlK+B5F3KDmev6m5PMibrg=", 6, "128.232.110.120", "66.35.250.204", (34855, 80), False),
        ("1:LQU9qZlK+B5F3KDmev6m5PMibrg=", 6, "66.35.250.204", "128.232.110.120", (80, 34855), False),
        ("1:d/FP5EW3wiY1vCndhwleRRKHowQ=", 17, "192.168.1.52", "8.8.8.8", (54585, 53), False),
        ("1:X0snYXpgwiv9TZtqg64sgzUn6Dk=", 1, "192.168.0.89", "192.168.0.1", (8, 0), True),
        ("1:X0snYXpgwiv9TZtqg64sgzUn6Dk=", 1, "192.168.0.1", "192.168.0.89", (0, 0), True),
    ],
)
def test_community_id_vectors(expected, protocol, source, destination, ports, icmp):
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    assert community_id(protocol, *ends, *ports, icmp=icmp) == expected


def test_crc32c_vector():
    assert crc32c(b"123456789") == 0xE3069283


@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=50))
def test_summary_agrees_with_the_standard_library(values):
    low, mean, high, deviation = summary(values)
    assert (low, high) == (min(values), max(values))
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert deviation == pytest.approx(statistics.pstdev(values), rel=1e-9)
    assert summary([*values, 1 << 48])[3] is None


@given(st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 31) - 1))
def test_sequence_numbers_wrap(sequence, distance):
    assert later((sequence + distance) % (1 << 32), sequence)
    assert not later(sequence, (sequence + distance) % (1 << 32))


def test_link_types_are_those_that_the_probe_reads():
    assert set(LINK_TYPES) == set(_native.link_types())


@given(st.binary(max_size=200), st.sampled_from([*LINK_TYPES, 147]))
def test_decoding_noise_gives_a_packet_or_no_flow(data, link_type):
    try:
        packet = decode(Frame(1, 0, link_type, data, len(data)))
    except NoFlowError:
        return
    assert packet.version in (4, 6)


def test_connection_ends_with_the_ack_of_the_second_fin():
    records = meter(
        (0.0, to_server(SYN, 99)),
        (0.1, to_client(SYN | ACK, 499, 100)),
        (0.3, to_server(ACK, 100, 500)),
        (0.4, to_server(ACK, 100, 500, b"hello")),
        (0.5, to_server(ACK, 100, 500, b"hello")),
        (0.6, to_client(ACK, 510, 105, b"late")),
        (0.7, to_client(FIN | ACK, 514, 105)),
        (0.8, to_server(FIN | ACK, 105, 515)),
        (0.9, to_client(ACK, 515, 106)),
        (1.0, to_client(ACK, 515, 106)),
    )
    assert [record["end_reason"] for record in records] == ["end_of_flow", "straggler"]
    first = records[0]
    assert first["direction_basis"] == "syn"
    assert (first["packets_fwd"], first["packets_rev"]) == (5, 4)
    assert (first["payload_bytes_fwd"], first["payload_bytes_rev"]) == (10, 4)
    assert first["tcp_handshake_rtt_server_ns"] == 100_000_000
    assert first["tcp_handshake_rtt_client_ns"] == 200_000_000
    assert (first["tcp_retransmissions_fwd"], first["tcp_out_of_order_rev"]) == (1, 1)
    assert records[1]["packets_rev"] == 1


def test_connection_ends_five_seconds_after_the_second_fin():
    records = meter(
        (0.0, to_server(FIN | ACK, 100, 500)),
        (1.0, to_client(FIN | ACK, 500, 101)),
        (6.0, to_client(ACK, 501, 101)),
        (6.5, to_client(ACK, 501, 101)),
        (30.0, to_client(ACK, 501, 101)),
    )
    assert [(record["end_reason"], record["packets_rev"]) for record in records] == [
        ("end_of_flow", 2),
        ("straggler", 1),
        ("forced_end", 0),
    ]
    assert records[2]["src_ip"] == SERVER


def test_reset_and_port_reuse():
    records = meter(
        (0.0, to_server(SYN, 99)),
        (0.1, to_client(RST | ACK, 0, 100)),
        (0.2, to_client(RST, 0)),
        (0.3, to_server(SYN, 7777)),
    )
    assert [record["end_reason"] for record in records] == ["reset", "straggler", "forced_end"]


def test_idle_timeout_is_exact():
    question, answer = ipv4(CLIENT, SERVER, 17, udp(5000, 53, b"?")), ipv4(SERVER, CLIENT, 17, udp(53, 5000, b"!"))
    assert len(meter((0, question), (300, answer))) == 1
    assert [record["end_reason"] for record in meter((0, question), (300.000000001, answer))] == [
        "idle_timeout",
        "forced_end",
    ]


def test_active_timeout_cuts_interim_records():
    question = ipv4(CLIENT, SERVER, 17, udp(5000, 53, b"?"))
    records = meter(*[(second, question) for second in range(0, 4000, 100)])
    assert [(record["interim_number"], record["packets_fwd"], record["end_reason"]) for record in records] == [
        (0, 19, "active_timeout"),
        (1, 19, "active_timeout"),
        (2, 2, "forced_end"),
    ]


def test_fragments_count_for_their_datagram():
    datagram = udp(5000, 53, bytes(40))
    parts = [
        ipv4(CLIENT, SERVER, 17, datagram[:16], identification=7, fragment=0x2000),
        ipv4(CLIENT, SERVER, 17, datagram[16:32], identification=7, fragment=0x2002),
        ipv4(CLIENT, SERVER, 17, datagram[32:], identification=7, fragment=0x0004),
    ]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        (record,) = meter(*[(moment, parts[index]) for moment, index in enumerate(order)])
        assert (record["dst_port"], record["packets_fwd"], record["fragments"]) == (53, 3, 3)
        assert record["payload_bytes_fwd"] == 40
    (record,) = meter((0, parts[1]))
    assert (record["dst_port"], record["end_reason"]) == (0, "forced_end")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1)])
@pytest.mark.parametrize("flags", [ACK, ACK | FIN])
def test_a_tcp_segment_in_fragments_is_one_segment(order: tuple[int, ...], flags: int):
    segment = tcp(40_000, 80, flags, 101, 501, bytes(100))
    cuts = ((0, 48), (48, 80), (80, 120))
    parts = [
        ipv4(CLIENT, SERVER, 6, segment[start:end], identification=7, fragment=start // 8 | (end < 120) << 13)
        for start, end in cuts
    ]
    last = 201 + bool(flags & FIN)
    (record,) = meter(
        (0, to_server(SYN, 100)),
        (1, to_client(SYN | ACK, 500, 101)),
        (2, to_server(ACK, 101, 501)),
        *[(3 + moment, parts[index]) for moment, index in enumerate(order)],
        (6, to_client(ACK, 501, last)),
        (7, to_server(ACK, last, 501, b"next")),
        full=True,
    )
    counts = ("payload_bytes_fwd", "tcp_out_of_order_fwd", "tcp_retransmissions_fwd", "tcp_missed_bytes_fwd")
    assert [record[name] for name in counts] == [104, 0, 0, 0]


def test_time_that_steps_back_counts_as_no_time():
    question = ipv4(CLIENT, SERVER, 17, udp(5000, 53, b"?"))
    (record,) = meter((10, question), (8, question), (11, question))
    assert record["splt_times_ns"] == [0, 0, SECOND]
    assert record["inter_arrival_max_ns"] == SECOND


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_reference_agrees_with_itself_and_loses_nothing(case: Case):
    reference = reference_of(case.capture)
    assert compare([ended.record for ended in reference], reference) == []
    counted = sum(ended.record["packets_fwd"] + ended.record["packets_rev"] for ended in reference)
    assert counted == sum(1 for frame in read(case.capture) if has_ip(frame))


def has_ip(frame: Frame) -> bool:
    try:
        decode(frame)
    except NoFlowError:
        return False
    return True


def test_comparison_names_flow_and_column(tmp_path: Path):
    reference = reference_of(next(case.capture for case in cases() if case.name == "vlan-tag"))
    ours = [dict(ended.record) for ended in reference]
    ours[0]["packets_fwd"] += 1
    ours[1]["packet_length_mean"] *= 1.0000001
    del ours[2]
    differences = compare(ours, reference)
    assert {difference.column for difference in differences} == {"packets_fwd", "packet_length_mean", ""}
    assert "missing from ours" in "\n".join(map(str, differences))
