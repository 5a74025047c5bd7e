"""A small network to record captures in: two hosts, each a network namespace, joined by a wire that is a program.

The wire carries frames between two tap devices and keeps a copy with a timestamp. Because it is ours, it can lose,
delay, repeat and reorder chosen frames, put VLAN tags around them, or start recording late; no kernel module is needed.

    with Testbed() as bed:
        bed.server.start(["nginx", "-c", configuration])
        bed.client.run(["curl", "http://192.0.2.20/"])
    bed.save(path)
"""

from tests.corpus.testbed.capture_file import ETHERNET, Interface, Record, read_frames, write_pcap, write_pcapng
from tests.corpus.testbed.network import Host, Testbed
from tests.corpus.testbed.programs import Authority, apt_install, tools_python, version
from tests.corpus.testbed.wire import AFTER, BEFORE, Frame, Wire, drop_numbers

__all__ = [
    "AFTER",
    "BEFORE",
    "ETHERNET",
    "Authority",
    "Frame",
    "Host",
    "Interface",
    "Record",
    "Testbed",
    "Wire",
    "apt_install",
    "drop_numbers",
    "read_frames",
    "tools_python",
    "version",
    "write_pcap",
    "write_pcapng",
]
