"""The whole probe on a live interface of its own namespace: what was sent is what the Core's database holds."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dpi_probe import _native
from dpi_probe.doctor.netlink import Network
from harness.books import check_books, database_flows, total
from harness.core import Core, wait_for
from harness.live import udp_frame
from harness.programs import Probe

from tests.corpus.cases import cases
from tests.corpus.testbed import Record
from tests.python.end_to_end.netns import Link

# What does not depend on when, and by which clock, the frames came.
COLUMNS = [
    "src_ip", "src_port", "dst_ip", "dst_port", "ip_protocol", "packets_fwd", "packets_rev", "bytes_fwd", "bytes_rev",
    "wire_bytes_fwd", "wire_bytes_rev", "tcp_flags_fwd", "tcp_flags_rev", "app", "server_name", "vlan_ids",
]  # fmt: skip


def rows(spool: Path, columns: list[str]) -> list[dict[str, Any]]:
    """The flow records of a spool."""
    rows: list[dict[str, Any]] = []
    for path in sorted((spool / "pending").glob("*.arrows")):
        table = pa.ipc.open_stream(path.read_bytes()).read_all()
        if "flow_id" in table.column_names:
            rows += table.select(columns).to_pylist()
    return rows


def records(spool: Path, columns: list[str] = COLUMNS) -> list[str]:
    """The flow records of a spool as texts that can be compared."""
    return sorted(map(repr, rows(spool, columns)))


def capture(pki: Path, spool: Path, names: list[str], *flags: str) -> list[dict[str, Any]]:
    """Capture while `names` of the corpus are replayed; the final accounts."""
    with Link() as link:
        probe = Probe(pki, spool, None, "-i", link.interface, "-f", "ip or ip6", *flags)
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        for case in cases():
            if case.name in names:
                link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "source_frames_dropped") == 0
    return accounts


@pytest.mark.parametrize("name", ["http1-keep-alive", "ip-fragments"])
def test_live_flows_arrive_in_the_database(name: str, shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == name]
    core = Core(tmp_path / "core", shared_pki).start()
    with Link() as link:
        # The namespace has no way to the Core, which listens on the host's loopback: the probe spools here,
        # and a second start on the host delivers.
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "-f", "ip or ip6")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        sent = link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "source_frames_dropped") == 0
    assert 0 < total(accounts, "frames_delivered") <= sent + 20
    flows = total(accounts, "events_sealed")
    assert flows > 0
    Probe(shared_pki, tmp_path / "spool", core, "-r", case.capture).start().finish()
    core.indexed()
    live = [flow for flow in database_flows(core) if flow["probe"] == f"sensor/{link.interface}"]
    assert len(live) == flows
    assert core.stop() == 0


def cpus_of_workers(process: int) -> list[set[int]]:
    """The CPUs on which each worker's thread may run."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    names = {int(task.name): (task / "comm").read_text().strip() for task in tasks}
    return [os.sched_getaffinity(task) for task, name in names.items() if name.startswith("dpi-worker-")]


def test_several_workers_share_an_interface(shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == "many-connections"]
    cpus = os.sched_getaffinity(0)
    records = {}
    for workers in ("1", "2", "3"):
        spool = tmp_path / f"spool-{workers}"
        with Link() as link:
            probe = Probe(shared_pki, spool, None, "-i", link.interface, "-f", "ip or ip6", f"--workers={workers}")
            with link.host.entered():
                probe.start()
            wait_for(lambda log=probe.log: "a new chain begins" in log.read_text(), "the probe to capture")
            link.replay(case.capture, frames_per_second=2000)
            assert probe.process is not None
            places = cpus_of_workers(probe.process.pid)
            probe.process.send_signal(signal.SIGTERM)
            accounts = probe.finish()
        if 1 < int(workers) <= len(cpus):
            # A CPU of its own for each.
            assert [len(place) for place in places] == [1] * int(workers)
            assert len(set.union(*places)) == int(workers)
        else:
            # The scheduler's choice.
            assert places == [cpus] * int(workers)
        check_books(accounts)
        assert total(accounts, "source_frames_dropped") == 0
        assert {entry["worker"] for entry in accounts if entry["account"] == "source_frames_delivered"} == set(
            range(int(workers))
        )
        records[workers] = total(accounts, "flows_exported")
    assert records["3"] == records["2"] == records["1"] > 0


def test_missing_permission_names_the_capability_and_how_to_give_it(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "lo")
    # Root without the capability: execve cannot regain what is not in the bounding set.
    probe.command = ["setpriv", "--bounding-set=-net_raw,-net_admin", *probe.command]
    assert probe.start().process is not None
    assert probe.process is not None
    assert probe.process.wait(60) == 5
    said = probe.log.read_text()
    assert "CAP_NET_RAW" in said
    assert "setcap cap_net_raw" in said
    assert "Traceback" not in said


def test_several_workers_and_promiscuous_mode_need_two_capabilities(shared_pki: Path, tmp_path: Path) -> None:
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--workers=2")
        probe.command = ["setpriv", "--bounding-set=-all,+net_raw,+bpf", *probe.command]
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    workers = {entry["worker"] for entry in accounts if entry["account"] == "source_frames_delivered"}
    assert workers == {0, 1}


def capture_across_a_new_interface(shared_pki: Path, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Capture while the interface vanishes and comes back; the final accounts, with every frame that was sent."""
    (case,) = [case for case in cases() if case.name == "http1-keep-alive"]
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, *arguments)
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        sent = link.replay(case.capture, frames_per_second=2000)
        link.recreate()
        wait_for(lambda: "the interface is back" in probe.log.read_text(), "the probe to see the interface again")
        # The kernel drops what is sent before it has told the carrier, which takes a moment.
        show = ["ip", "-j", "link", "show", "feed0"]
        wait_for(lambda: b'"operstate":"UP"' in link.host.run(show).stdout, "the carrier")
        sent += link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    # The kernel's own neighbour messages come on top.
    assert sent <= total(accounts, "frames_delivered") <= sent + 40
    return accounts


def test_an_interface_that_vanishes_is_reported_and_captured_from_again(shared_pki: Path, tmp_path: Path) -> None:
    accounts = capture_across_a_new_interface(shared_pki, tmp_path, "--workers=2")
    assert total(accounts, "interface_changes", "gone") == 1
    assert total(accounts, "interface_changes", "back") == 1
    assert total(accounts, "source_frames_dropped") == 0


def test_every_mode_gives_the_same_records(shared_pki: Path, tmp_path: Path) -> None:
    names = ["http1-keep-alive", "ip-fragments", "vlan-qinq", "dns-dig"]
    found = {}
    for mode, way in (("af_packet", "af_packet"), ("pcap", "pcap"), ("af_xdp", "af_xdp_copy")):
        accounts = capture(shared_pki, tmp_path / mode, names, f"--capture={mode}")
        found[mode] = records(tmp_path / mode)
        known = {entry["account"] + "/" + entry["reason"]: entry["value"] for entry in accounts}
        ways = {name.removeprefix("source_mode/"): value for name, value in known.items() if "source_mode/" in name}
        assert [name for name, value in ways.items() if value] == [way]
        # What a mode cannot know is null.
        assert (known["source_ring_freezes/"] is None) == (mode != "af_packet")
        assert (known["source_frames_filtered/"] is None) == (mode != "af_xdp")
        assert (known["source_frames_dropped/left_in_ring"] is None) == (mode != "af_packet")
        assert (known["source_frames_dropped/no_buffer"] is None) == (mode != "af_xdp")
        assert (known["source_frames_dropped/no_socket"] is None) == (mode != "af_xdp")
        assert (known["source_fill_ring_empty/"] is None) == (mode != "af_xdp")
        # A veth has no clock of its own.
        assert known["source_frames_stamped/kernel"] == known["source_frames_delivered/"]
        assert known["source_frames_stamped/hardware"] == known["source_frames_stamped/probe"] == 0
    assert found["pcap"] == found["af_packet"] != []
    assert found["af_xdp"] == found["af_packet"]


def tagged(frame: bytes, *vlans: int) -> bytes:
    """The frame with IEEE 802.1Q tags, outer-most first."""
    return frame[:12] + b"".join(b"\x81\x00" + vlan.to_bytes(2, "big") for vlan in vlans) + frame[12:]


@pytest.mark.parametrize("mode", ["af_packet", "pcap", "af_xdp"])
@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("vlan 5", [[5], [5, 7]]),
        ("vlan 5 and udp", [[5]]),
        ("vlan and vlan 7", [[5, 7]]),
        ("udp and not vlan", [[]]),
    ],
)
def test_a_live_filter_sees_vlan_tags(
    expression: str, found: list[list[int]], mode: str, shared_pki: Path, tmp_path: Path
) -> None:
    tags = ((), (5,), (6,), (5, 7))
    frames = [tagged(udp_frame(number), *vlans) for number, vlans in enumerate(tags)]
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "-f", expression, f"--capture={mode}")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        link.send([Record(0, frame, len(frame)) for frame in frames], frames_per_second=100)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        check_books(probe.finish())
    flows = rows(tmp_path / "spool", ["src_port", "vlan_ids"])
    # The kernel's own neighbour messages come on top.
    assert sorted(flow["vlan_ids"] or [] for flow in flows if flow["src_port"] >= 40_000) == found


def test_frames_of_queues_that_an_interface_gets_later_are_counted(shared_pki: Path, tmp_path: Path) -> None:
    queues = ("numtxqueues", "4", "numrxqueues", "4")
    with Link() as link:
        ip = link.host.ip
        ip("link", "delete", "feed0")
        ip("link", "add", "feed0", *queues, "type", "veth", "peer", "name", link.interface, *queues)
        with link.host.entered():
            network = Network()
            far = network.link(link.interface)
            assert far is not None
            # Fewer than the other end has to send: a veth has no XDP of its own then, so that the kernel runs the
            # program, and runs it for every queue.
            network.set_ethtool(far.index, "channels", "rx_count", 1)
        for device in ("feed0", link.interface):
            ip("link", "set", device, "up")
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--capture=af_xdp")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        assert "AF_XDP in generic mode, with 1 receive queue(s)" in probe.log.read_text()
        with link.host.entered():
            network.set_ethtool(far.index, "channels", "rx_count", 4)
        # A flow for each, so that every queue gets some.
        sent = link.send([Record(0, frame, len(frame)) for frame in map(udp_frame, range(400))], frames_per_second=4000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    passed = total(accounts, "source_frames_dropped", "no_socket")
    assert 0 < passed < sent
    assert total(accounts, "frames_delivered") + passed == sent
    assert total(accounts, "source_frames_dropped") == passed
    assert "receive queues that it got after the capture began" in probe.log.read_text()


# Options of packet(7), and struct virtio_net_hdr of linux/virtio_net.h: the checksum is left out, and TCP is to be cut.
SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CHECKSUM, GSO_TCP4 = 1, 1


def tcp_frame(payload: int, sequence: int) -> bytes:
    """An Ethernet frame with a TCP segment of `payload` bytes; its checksum is that of the pseudo-header only."""
    addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + payload, 7, 0x4000, 64, 6, 0) + addresses
    words = struct.unpack("!10H", ip)
    folded = sum(words) % 0xFFFF
    ip = ip[:10] + struct.pack("!H", 0xFFFF - folded) + ip[12:]
    pseudo = sum(struct.unpack("!6H", addresses + struct.pack("!HH", 6, 20 + payload))) % 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", 40000, 9, sequence, 1, 0x50, 0x10, 512, pseudo, 0)
    return bytes.fromhex("020000000002020000000001 0800") + ip + tcp + bytes(payload)


@pytest.mark.parametrize("mode", ["af_packet", "af_xdp", "pcap"])
def test_super_frames_and_jumbo_frames_are_metered_to_the_byte(shared_pki: Path, tmp_path: Path, mode: str) -> None:
    # 60 KB that the sender leaves to a card to cut into segments of 1,448 bytes; frames of 9,000 bytes.
    sizes = [60_000] * 300 + [9_000 - 54] * 300
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, f"--capture={mode}")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        with link.host.entered():
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sender:
            sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sender.bind(("feed0", 0))
            sequence = 1
            for size in sizes:
                cut = GSO_TCP4 if size > 9_000 else 0
                offload = struct.pack("=BBHHHH", NEEDS_CHECKSUM, cut, 54, 1448 if cut else 0, 34, 16)
                sender.send(offload + tcp_frame(size, sequence))
                sequence += size
                time.sleep(0.001)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "source_frames_dropped") == 0
    # To a veth with an XDP program, the kernel sends no super-frames: it cuts them itself.
    cuts = [-(-size // 1448) if mode == "af_xdp" and size > 9_000 else 1 for size in sizes]
    assert total(accounts, "frames_metered") == sum(cuts)
    (record,) = records(tmp_path / "spool", ["packets_fwd", "bytes_fwd", "wire_bytes_fwd", "tcp_retransmissions_fwd"])
    ip_bytes = sum(sizes) + 40 * sum(cuts)
    assert record == repr(
        {
            "packets_fwd": sum(cuts),
            "bytes_fwd": ip_bytes,
            "wire_bytes_fwd": ip_bytes + 14 * sum(cuts),
            "tcp_retransmissions_fwd": 0,
        }
    )


def leave_to_the_kernel(link: Link, features: tuple[str, ...]) -> None:
    """Switch off what feed0 would leave to a card, so that the kernel does it before it sends."""
    with link.host.entered():
        network = Network()
        feed = network.link("feed0")
        assert feed is not None
        for feature in features:
            network.set_ethtool(feed.index, "features", feature, value=False)


@pytest.mark.parametrize("cut_by", ["nobody", "kernel"])
def test_no_byte_of_super_frames_is_lost_at_a_gigabit(shared_pki: Path, tmp_path: Path, cut_by: str) -> None:
    traffic = _native.Traffic(
        seed=1, bits_per_second=10**9, flows_per_second=250, frame_size="super", ipv6_share=0.3, vlan_share=0.1,
        cycle_bytes=16 << 20,
    )  # fmt: skip
    with Link() as link:
        # What is longer may be sent only if it is to be cut.
        for device in ("feed0", link.interface):
            link.host.ip("link", "set", device, "mtu", "1500")
        if cut_by == "kernel":
            leave_to_the_kernel(link, ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-checksum-ip-generic"))
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface)
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        with link.host.entered():
            sender = _native.TrafficSender("feed0", traffic)
        wait_for(lambda: sender.offer()["bytes_taken"] > 2 << 28, "half a gigabyte to be sent")
        assert sender.stop() == 0
        sent = sender.offer()
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    check_books(accounts)
    assert total(accounts, "source_frames_dropped") == 0
    # Every checksum is right, where the kernel has filled it in too; and each segment follows the one before.
    assert total(accounts, "packet_faults") == 0
    assert total(accounts, "stream_gaps") == 0
    directions = [f"{column}_{way}" for way in ("fwd", "rev") for column in ("wire_bytes", "packets")]
    flows = rows(tmp_path / "spool", [*directions, "packet_length_max", "vlan_ids"])
    assert any(flow["vlan_ids"] for flow in flows)
    wire_bytes = sum(flow["wire_bytes_fwd"] + flow["wire_bytes_rev"] for flow in flows)
    longest = max(flow["packet_length_max"] for flow in flows)
    if cut_by == "nobody":
        assert total(accounts, "frames_metered") == sent["frames_taken"]
        assert wire_bytes == sent["bytes_taken"]
        assert longest > 60_000
    else:
        # Each further segment has headers of its own: Ethernet with or without a tag, IP, and TCP with timestamps.
        further = total(accounts, "frames_metered") - sent["frames_taken"]
        assert 66 * further < wire_bytes - sent["bytes_taken"] < 90 * further
        assert longest == 1500


def test_af_xdp_leaves_no_program_behind_when_it_is_killed(shared_pki: Path, tmp_path: Path) -> None:
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--capture=af_xdp")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "capturing with AF_XDP in copy mode" in probe.log.read_text(), "the probe to capture")
        show = ["ip", "link", "show", link.interface]
        assert b"xdp" in link.host.run(show).stdout
        probe.kill()
        wait_for(lambda: b"xdp" not in link.host.run(show).stdout, "the kernel to detach the program")
    said = probe.log.read_text()
    assert "not zero-copy (opening a socket: Operation not supported" in said


def test_af_xdp_refuses_an_interface_that_the_host_uses(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "probe0", "--capture=af_xdp")
    with Link() as link:
        link.host.ip("address", "add", "198.51.100.1/24", "dev", link.interface)
        with link.host.entered():
            probe.start()
        assert probe.process is not None
        assert probe.process.wait(60) == 3
    said = probe.log.read_text()
    assert "the interface has an address (198.51.100.1); use --capture af_packet, or say --dedicated" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("capabilities", "status", "words"),
    [
        ("+net_raw,+net_admin,+bpf,+ipc_lock", 0, "in copy mode"),
        ("+net_raw,+net_admin,+bpf", 5, "AF_XDP locks"),
        ("+net_raw,+bpf,+ipc_lock", 5, "CAP_NET_ADMIN"),
    ],
)
def test_af_xdp_needs_three_capabilities_and_locked_memory(
    shared_pki: Path, tmp_path: Path, capabilities: str, status: int, words: str
) -> None:
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", link.interface, "--capture=af_xdp")
        limited = ["prlimit", "--memlock=65536:65536", "setpriv", f"--bounding-set=-all,{capabilities}"]
        probe.command = [*limited, *probe.command]
        with link.host.entered():
            probe.start()
        assert probe.process is not None
        if status == 0:
            wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
            probe.process.send_signal(signal.SIGTERM)
            check_books(probe.finish())
        else:
            assert probe.process.wait(60) == status
    assert words in probe.log.read_text()


def test_libpcap_captures_from_what_is_no_network_interface(shared_pki: Path, tmp_path: Path) -> None:
    with Link() as link:
        probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "any", "-f", "udp")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")
        (case,) = [case for case in cases() if case.name == "dns-dig"]
        link.replay(case.capture, frames_per_second=2000)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
    assert "capturing with libpcap" in probe.log.read_text()
    check_books(accounts)
    assert records(tmp_path / "spool")


def test_libpcap_has_one_worker_and_says_so(shared_pki: Path, tmp_path: Path) -> None:
    probe = Probe(shared_pki, tmp_path / "spool", None, "-i", "lo", "--capture=pcap", "--workers=2")
    assert probe.start().process is not None
    assert probe.process is not None
    assert probe.process.wait(60) == 2
    said = probe.log.read_text()
    assert "libpcap can have 1 worker(s) at most, not 2; set WORKERS=1" in said
    assert "Traceback" not in said


def test_an_interface_that_vanishes_is_captured_from_again_by_libpcap(shared_pki: Path, tmp_path: Path) -> None:
    capture_across_a_new_interface(shared_pki, tmp_path, "--capture=pcap")
