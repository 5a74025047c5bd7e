"""The live link of the tests carries frames unchanged, all of them, and nothing else."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.corpus.cases import cases
from tests.corpus.testbed import read_frames
from tests.python.end_to_end.netns import Link

ETH_P_ALL = 0x0003


@pytest.mark.parametrize("name", ["http1-keep-alive", "ip-fragments", "tcp-loss-and-reordering"])
def test_replayed_frames_arrive_unchanged(name: str):
    (case,) = [case for case in cases() if case.name == name]
    _, records = read_frames(case.capture.read_bytes())
    records = [record for record in records if len(record.data) == record.wire_length]
    arrived: list[bytes] = []
    with Link() as link:
        with link.host.entered():
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with receiver:
            receiver.bind((link.interface, ETH_P_ALL))
            receiver.settimeout(20)

            def receive() -> None:
                while len(arrived) < len(records):
                    arrived.append(receiver.recv(70_000))

            reader = threading.Thread(target=receive)
            reader.start()
            assert link.send(records, frames_per_second=5000) == len(records)
            reader.join(30)
    assert arrived == [record.data for record in records]


def test_cut_and_foreign_captures_are_refused():
    by_name = {case.name: case.capture for case in cases()}
    with Link() as link:
        with pytest.raises(ValueError, match="cut short"):
            link.replay(by_name["snaplen-cut"])
        with pytest.raises(ValueError, match="link type 101"):
            link.replay(by_name["raw-ip-tun"])
