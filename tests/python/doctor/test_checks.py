"""What the checks find on a physical card (made by hand, see harness.machine), tuned and not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dpi_probe._cpulist import format_list, parse_list
from dpi_probe.cli.doctor import show
from dpi_probe.config import ProbeSettings
from dpi_probe.doctor import CHECKS, examine, netlink, storage
from dpi_probe.doctor.findings import Finding, Unseen
from dpi_probe.doctor.interface import is_symmetric
from dpi_probe.doctor.machine import ClockState
from dpi_probe.doctor.trust import _renew
from harness.machine import SYMMETRIC_KEY, USUAL_KEY, MadeMachine, MadeNetwork, default_card, tuned_card
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

PKI = Path(__file__).resolve().parents[2] / "vectors" / "pki"
DISK_AND_KEYS = {"spool space", "spool speed", "certificate", "private key", "CA"}


def settings(tmp_path: Path, **named: object) -> ProbeSettings:
    return ProbeSettings(buffer_dir=tmp_path / "spool", **named)


def findings(machine: MadeMachine, tmp_path: Path, *interfaces: str, **named: object) -> dict[str, Finding]:
    checks = [check for check in CHECKS if check.name not in DISK_AND_KEYS]
    return {
        finding.check.name: finding
        for finding in examine(machine, settings(tmp_path, **named), interfaces or ("eth0",), checks)
    }


def statuses(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.status for name, finding in found.items()}


def test_a_tuned_card_has_nothing_wrong(tmp_path):
    assert set(statuses(findings(tuned_card(tmp_path), tmp_path)).values()) <= {"ok", "not-applicable"}


def test_a_card_as_its_driver_leaves_it(tmp_path):
    found = findings(default_card(tmp_path), tmp_path)
    assert statuses(found) == {
        "link": "ok",
        "receive ring": "problem",
        "channels": "ok",
        "RSS": "warning",
        "GRO": "warning",
        "LRO": "problem",
        "TSO": "not-applicable",
        "coalescing": "warning",
        "XDP": "ok",
        "time stamps": "ok",
        "interrupts": "warning",
        "NUMA node": "ok",
        "governor": "warning",
        "isolation": "ok",
        "memory": "ok",
        "huge pages": "warning",
        "memlock": "not-applicable",
        "backlog": "problem",
        "softirq budget": "warning",
        "BPF compiler": "ok",
        "clock source": "problem",
        "time": "ok",
        "capabilities": "warning",
    }
    commands = {name: finding.outcome.command for name, finding in found.items()}
    assert commands["receive ring"] == "ethtool -G eth0 rx 4096"
    assert commands["RSS"] == (
        f"ethtool -X eth0 equal 4 && ethtool -X eth0 hkey {':'.join(['6d:5a'] * 20)}"
        " && ethtool -N eth0 rx-flow-hash udp4 sd && ethtool -N eth0 rx-flow-hash udp6 sd"
    )
    assert commands["LRO"] == "ethtool -K eth0 rx-lro off"
    assert commands["coalescing"] == "ethtool -C eth0 rx-usecs 50"
    assert commands["clock source"] == "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert "1,200 frames found no room" in found["receive ring"].outcome.found
    assert "3 frames dropped" in found["backlog"].outcome.found
    assert "ran out 7 times" in found["softirq budget"].outcome.found
    assert "unevenly spread, not all on the interface's node (2-3)" in found["interrupts"].outcome.found


def test_each_interrupt_would_get_a_processor_of_the_node(tmp_path):
    (outcome,) = [
        f.outcome for f in findings(default_card(tmp_path), tmp_path).values() if f.check.name == "interrupts"
    ]
    assert [(change.target, change.wanted) for change in outcome.changes] == [
        ("/proc/irq/64/smp_affinity_list", "2"),
        ("/proc/irq/65/smp_affinity_list", "3"),
        ("/proc/irq/66/smp_affinity_list", "2"),
        ("/proc/irq/67/smp_affinity_list", "3"),
    ]


@pytest.mark.parametrize(
    ("has_clock", "wanted", "status", "says"),
    [
        (True, "kernel", "ok", "the kernel's are used (TIMESTAMPS=kernel)"),
        (True, "hardware", "ok", "(clock /dev/ptp0), and does (TIMESTAMPS=hardware)"),
        (False, "kernel", "not-applicable", "the kernel's are used"),
        (False, "hardware", "warning", "has no hardware time stamps"),
    ],
)
def test_which_clock_stamps_frames_is_said(tmp_path, has_clock, wanted, status, says):
    machine = tuned_card(tmp_path)
    network: MadeNetwork = machine.network
    if not has_clock:
        network.answers["timestamping"] = {"timestamping": {"software-receive"}}
    found = findings(machine, tmp_path, timestamps=wanted)["time stamps"]
    assert found.status == status
    assert says in found.outcome.found


def test_irqbalance_would_undo_what_is_set(tmp_path):
    machine = default_card(tmp_path)
    machine.put("/proc/812/comm", "irqbalance")
    outcome = findings(machine, tmp_path)["interrupts"].outcome
    assert not outcome.changes
    assert outcome.command == "systemctl disable --now irqbalance"


@pytest.mark.parametrize("tie", [{"addresses": 1}, {"master": 3}, {"uppers": ("eth0.10",)}, "a route"])
def test_an_interface_that_the_host_uses_keeps_its_offloads(tie, tmp_path):
    machine = default_card(tmp_path)
    network: MadeNetwork = machine.network
    (link,) = network.present
    if tie == "a route":
        network.routed = {link.index}
    else:
        network.present = [replace(link, **tie)]
    found = findings(machine, tmp_path)
    assert found["GRO"].status == "warning"
    assert not found["GRO"].outcome.changes
    assert found["TSO"].status == "warning"
    assert found["TSO"].outcome.command == "ethtool -K eth0 tso off gso off"


def test_of_a_veth_the_other_end_decides_how_large_frames_are(tmp_path):
    machine = default_card(tmp_path)
    network: MadeNetwork = machine.network
    card = network.present[0]
    veth = replace(card, kind="veth", peer=7)
    network.present = [veth, replace(card, name="feed0", index=7, kind="veth", peer=2)]
    outcome = findings(machine, tmp_path)["TSO"].outcome
    assert outcome.status == "warning"
    assert outcome.found.startswith("on at feed0, the other end")
    assert outcome.command == "ethtool -K feed0 tso off gso off"
    network.present[0] = replace(veth, addresses=1)
    outcome = findings(machine, tmp_path)["TSO"].outcome
    assert outcome.command == "ethtool -K feed0 tso off gso off && ethtool -K eth0 tso off gso off"
    network.present = [replace(veth, peer=None)]
    assert findings(machine, tmp_path)["TSO"].status == "unknown"


@pytest.mark.parametrize(
    ("name", "change", "status", "says"),
    [
        ("link", {"up": False}, "problem", "down"),
        ("link", {"carrier": False}, "warning", "no carrier"),
        ("XDP", {"xdp": "native"}, "warning", "a program is attached (native)"),
    ],
)
def test_states_of_the_link(name, change, status, says, tmp_path):
    machine = tuned_card(tmp_path)
    machine.network.present = [replace(machine.network.present[0], **change)]
    finding = findings(machine, tmp_path)[name]
    assert finding.status == status
    assert says in finding.outcome.found


def test_of_a_program_that_is_attached_it_is_asked_whose_it_is(tmp_path):
    # It may be the host's network or its filter, which a command that takes it off would end.
    machine = tuned_card(tmp_path)
    machine.network.present = [replace(machine.network.present[0], xdp="native")]
    outcome = findings(machine, tmp_path)["XDP"].outcome
    assert outcome.command == "bpftool net show dev eth0"
    assert "only whoever attached it should take it off" in outcome.found


@pytest.mark.parametrize(
    ("features", "status", "says"),
    [
        (0b1011, "ok", "AF_XDP without copies"),
        (0b0011, "ok", "AF_XDP with copies"),
        (0b0001, "not-applicable", "ixgbe has no native XDP"),
        (None, "unknown", "Linux 6.3"),
    ],
)
def test_what_a_driver_can_do_with_xdp(features, status, says, tmp_path):
    machine = tuned_card(tmp_path)
    machine.network.xdp = features
    finding = findings(machine, tmp_path)["XDP"]
    assert finding.status == status
    assert says in finding.outcome.found


@pytest.mark.parametrize(
    ("coalesce", "status"),
    [
        ({"rx_usecs": 0, "rx_max_frames": 1}, "warning"),
        ({"rx_usecs": 0, "rx_max_frames": 64}, "ok"),
        ({"rx_usecs": 1000}, "ok"),
        ({"rx_usecs": 1001}, "warning"),
        ({"rx_usecs": 5000, "use_adaptive_rx": 1}, "ok"),
        ({}, "not-applicable"),
    ],
)
def test_coalescing(coalesce, status, tmp_path):
    machine = tuned_card(tmp_path)
    machine.network.answers["coalesce"] = coalesce
    assert findings(machine, tmp_path)["coalescing"].status == status


def test_a_hypervisor_decides_about_interrupts_of_its_card(tmp_path):
    machine = default_card(tmp_path)
    machine.path("/sys/class/net/eth0/device/driver").unlink()
    machine.put("/sys/class/net/eth0/device/driver", "->../virtio/drivers/virtio_net")
    assert findings(machine, tmp_path)["coalescing"].status == "not-applicable"


@pytest.mark.parametrize(
    ("rss", "expected"),
    [
        ({"hfunc": 1, "hkey": SYMMETRIC_KEY}, True),
        ({"hfunc": 1, "hkey": USUAL_KEY}, False),
        ({"hfunc": 1, "hkey": USUAL_KEY, "input_xfrm": 1}, True),
        ({"hfunc": 1, "hkey": USUAL_KEY, "input_xfrm": 2}, True),
        ({"hfunc": 2, "hkey": USUAL_KEY}, None),
        ({"hfunc": 1}, None),
    ],
)
def test_symmetry_of_the_hash(rss, expected):
    assert is_symmetric(rss) is expected


def test_ports_in_the_hash_part_fragments_from_their_flow(tmp_path):
    machine = tuned_card(tmp_path)
    assert "no ports of UDP in it" in findings(machine, tmp_path)["RSS"].outcome.found
    machine.network.hashed["udp6"] = 0xF0
    found = findings(machine, tmp_path)["RSS"].outcome
    assert found.status == "warning"
    assert "ports are hashed (udp6): fragments" in found.found
    assert found.command == "ethtool -N eth0 rx-flow-hash udp6 sd"
    machine.network.hashed.clear()
    found = findings(machine, tmp_path)["RSS"].outcome
    assert (found.status, "does not tell whether ports" in found.found) == ("ok", True)


def test_the_kernel_is_asked_for_the_hash_by_ioctl(monkeypatch):
    def answer(_socket, request, argument):
        assert request == 0x8946
        name, pointer = struct.unpack("16sP16x", argument)
        assert name.rstrip(b"\0") == b"eth0"
        command, flow_type, _ = struct.unpack("=IIQ", ctypes.string_at(pointer, 16))
        assert command == 0x29
        if flow_type > 2:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        ctypes.memmove(pointer + 8, struct.pack("=Q", 0xF0 if flow_type == 1 else 0), 8)

    monkeypatch.setattr(netlink.fcntl, "ioctl", answer)
    assert netlink.Network().hash_fields("eth0") == {"tcp4": 0xF0}


def test_what_has_no_hash_says_nothing_of_it():
    assert netlink.Network().hash_fields("lo") == {}
    with pytest.raises(Unseen, match="No such device"):
        netlink.Network().hash_fields("no-such-device")


def test_a_card_with_one_queue_could_use_more(tmp_path):
    machine = tuned_card(tmp_path)
    machine.network.answers["channels"] = {"rx_count": 1, "rx_max": 8}
    found = findings(machine, tmp_path)
    assert found["channels"].outcome.command == "ethtool -L eth0 rx 2"
    assert found["RSS"].status == "not-applicable"


def test_a_process_kept_away_from_the_node_and_from_isolated_processors(tmp_path):
    machine = tuned_card(tmp_path)
    machine.put("/proc/self/status", "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-1")
    machine.put("/sys/devices/system/cpu/isolated", "2-3")
    found = findings(machine, tmp_path)
    assert found["NUMA node"].status == "warning"
    assert found["isolation"].status == "warning"
    assert found["isolation"].outcome.command == "taskset -c 2-3 dpi-probe run …"
    assert found["capabilities"].status == "problem"
    assert "CAP_NET_RAW is missing" in found["capabilities"].outcome.found
    assert "run as root or by the systemd unit" in found["capabilities"].outcome.found
    assert "to every Python script" in found["capabilities"].outcome.found


@pytest.mark.parametrize(
    ("capture", "timestamps", "wanted"),
    [
        ("af_packet", "kernel", "cap_net_raw,cap_bpf"),
        ("af_packet", "hardware", "cap_net_raw,cap_bpf,cap_net_admin"),
        ("af_xdp", "kernel", "cap_net_raw,cap_bpf,cap_net_admin,cap_ipc_lock"),
        ("af_xdp", "hardware", "cap_net_raw,cap_bpf,cap_net_admin,cap_ipc_lock"),
    ],
)
def test_no_check_takes_away_the_capabilities_that_another_gives(capture, timestamps, wanted, tmp_path):
    # setcap sets all of a file's capabilities at once: whichever command is the last must name them all.
    machine = tuned_card(tmp_path)
    machine.put("/proc/self/status", "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-3")
    found = findings(machine, tmp_path, capture=capture, timestamps=timestamps)
    given = [found["capabilities"], *([found["time stamps"]] if timestamps == "hardware" else [])]
    for finding in given:
        assert finding.outcome.command == f"setcap {wanted}=ep {Path(sys.executable).resolve()}"
        assert "gives its capabilities to every Python script" in finding.outcome.found


def test_what_may_not_be_looked_at_is_said(tmp_path):
    machine = tuned_card(tmp_path)
    machine.forbidden = {"/proc/interrupts", "/sys/devices/system/cpu/online"}
    found = findings(machine, tmp_path)
    assert found["interrupts"].status == found["governor"].status == "unknown"
    assert found["interrupts"].outcome.found == "/proc/interrupts: Permission denied"
    assert found["link"].status == "ok"


def test_an_interface_that_does_not_exist_is_one_problem(tmp_path):
    found = list(examine(tuned_card(tmp_path), settings(tmp_path), ["eth7"], CHECKS[:12]))
    assert [(f.check.name, f.status) for f in found if f.interface == "eth7"] == [("link", "problem")]
    assert "is down" not in found[0].matters


@pytest.mark.parametrize(("missing", "named"), [([], True), (["eth0"], False)])
def test_tune_is_recommended_for_interfaces_that_there_are(missing, named, tmp_path, capsys):
    shown = list(examine(default_card(tmp_path), settings(tmp_path), ["eth0"], CHECKS[:12]))
    assert any(finding.outcome.changes for finding in shown)
    show(shown, missing)
    assert ("shows what it would set" in capsys.readouterr().out) is named


def test_what_mends_a_missing_key_and_certificate_makes_them_where_the_probe_looks(tmp_path):
    pem, key, pki = tmp_path / "etc/probe.pem", tmp_path / "etc/probe.key", tmp_path / "pki"
    chosen = settings(tmp_path, probe_cert_path=pem, probe_key_path=key, ca_cert_path=pki / "ca.pem")
    machine = tuned_card(tmp_path / "root")
    found = [outcome(name, machine, chosen) for name in ("certificate", "private key")]
    assert [one.status for one in found] == ["problem", "problem"]
    assert {one.matters for one in found} == {"Without it the probe does not start."}
    command, again = (one.command for one in found)
    assert again is None, "a second `pki init` would be refused"
    assert "it is made with the certificate" in found[1].found
    program = Path(sys.executable).with_name("dpi-probe")
    # The renewal mends as well.
    for shown in (command, _renew(chosen)):
        line = shown.replace("dpi-probe pki", f"{program} pki").replace("PKI", str(pki)).replace("NAME", "sensor")
        subprocess.run(["sh", "-ec", line], check=True, capture_output=True)
        assert [outcome(name, machine, chosen).status for name in ("certificate", "private key", "CA")] == ["ok"] * 3
    key.unlink()
    line = str(outcome("private key", machine, chosen).command)
    line = line.replace("PKI", str(pki)).replace("NAME", "sensor")
    subprocess.run(["sh", "-ec", line], check=True, capture_output=True)
    assert outcome("private key", machine, chosen).status == "ok"


@pytest.mark.parametrize("columns", ["30", "80", "200"])
def test_a_command_is_one_line_that_can_be_pasted(columns, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("dpi_probe.cli.doctor.WIDTH_WITHOUT_TERMINAL", int(columns))
    chosen = settings(tmp_path, probe_cert_path=tmp_path / "none/probe.pem")
    checks = [check for check in CHECKS if check.name in {"certificate", "capabilities", "memory"}]
    shown = list(examine(tuned_card(tmp_path), chosen, [], checks))
    (command,) = [one.outcome.command for one in shown if one.check.name == "certificate"]
    assert len(command) > 100
    show(shown)
    lines = capsys.readouterr().out.splitlines()
    assert f"$ {command}" in [line.strip() for line in lines]
    assert [line for line in lines if line != line.rstrip()] == []
    assert max(len(line) for line in lines if "$" not in line and "`" not in line) <= max(int(columns), 60)


def test_memory_must_suffice_for_the_bound(tmp_path):
    finding = findings(tuned_card(tmp_path), tmp_path, max_buffer_size_mb=20_000)["memory"]
    assert finding.status == "problem"
    assert finding.outcome.command == "MAX_BUFFER_SIZE_MB=6000 dpi-probe run …"


def test_a_control_group_bounds_memory(tmp_path):
    machine = tuned_card(tmp_path)
    machine.put("/proc/self/cgroup", "0::/system.slice/probe.service")
    machine.put("/sys/fs/cgroup/system.slice/memory.max", "1073741824")
    machine.put("/sys/fs/cgroup/system.slice/memory.current", "536870912")
    machine.put("/sys/fs/cgroup/system.slice/probe.service/memory.max", "max")
    finding = findings(machine, tmp_path, max_buffer_size_mb=1024)["memory"]
    assert finding.status == "problem"
    assert finding.outcome.found == "512 of 1,024 MiB available; the probe may use 1,024 MiB"


@pytest.mark.parametrize(
    ("clock", "status"),
    [
        (ClockState(synchronised=False, error_seconds=16), "problem"),
        (ClockState(synchronised=True, error_seconds=0.5), "warning"),
        (ClockState(synchronised=True, error_seconds=0.01), "ok"),
    ],
)
def test_time(clock, status, tmp_path):
    machine = tuned_card(tmp_path)
    machine.clock = clock
    assert findings(machine, tmp_path)["time"].status == status


def outcome(name: str, machine: MadeMachine, chosen: ProbeSettings):
    checks = [check for check in CHECKS if check.name == name]
    (finding,) = examine(machine, chosen, [], checks)
    return finding.outcome


def test_spool_space(tmp_path):
    machine = tuned_card(tmp_path / "root")
    assert outcome("spool space", machine, settings(tmp_path, max_spool_size_mb=1)).status == "ok"
    full = outcome("spool space", machine, settings(tmp_path, max_spool_size_mb=1_000_000_000))
    assert full.status == "problem"
    machine.put(
        "/proc/self/mountinfo", f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:9 / {tmp_path} rw - tmpfs tmp rw"
    )
    assert "lost with the power" in outcome("spool space", machine, settings(tmp_path, max_spool_size_mb=1)).found


def test_the_write_test_is_bounded_and_leaves_nothing(tmp_path):
    took = storage.measure(tmp_path)
    assert 1 <= len(took) <= storage.MOST_BATCHES
    assert all(seconds > 0 for seconds in took)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("each", "status"), [(0.01, "ok"), (0.2, "warning"), (1.0, "problem")])
def test_spool_speed_is_judged_by_batches_a_second(each, status, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "measure", lambda _: [each] * 4)
    assert outcome("spool speed", tuned_card(tmp_path / "root"), settings(tmp_path)).status == status


def key_of(tmp_path: Path, name: str, mode: int = 0o600) -> Path:
    path = tmp_path / f"{name}.key"
    path.write_bytes((PKI / f"{name}.key").read_bytes())
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("certificate", "key", "ca", "expected"),
    [
        ("probe", "probe", "ca", ("ok", "ok", "ok")),
        ("expired", "expired", "ca", ("problem", "ok", "ok")),
        ("other-probe", "other-probe", "ca", ("problem", "ok", "ok")),
        ("probe", "other-probe", "ca", ("ok", "problem", "ok")),
        ("core", "core", "ca", ("problem", "ok", "ok")),
        ("missing", "probe", "missing", ("problem", "ok", "problem")),
    ],
)
def test_certificate_key_and_ca(certificate, key, ca, expected, tmp_path):
    chosen = settings(
        tmp_path,
        probe_cert_path=PKI / f"{certificate}.pem",
        probe_key_path=key_of(tmp_path, key),
        ca_cert_path=PKI / f"{ca}.pem",
    )
    machine = tuned_card(tmp_path / "root")
    assert tuple(outcome(name, machine, chosen).status for name in ("certificate", "private key", "CA")) == expected


def test_a_key_that_others_may_read(tmp_path):
    key = key_of(tmp_path, "probe", 0o644)
    chosen = settings(tmp_path, probe_cert_path=PKI / "probe.pem", probe_key_path=key, ca_cert_path=PKI / "ca.pem")
    found = outcome("private key", tuned_card(tmp_path / "root"), chosen)
    assert found.status == "problem"
    assert found.command == f"chmod 600 {key}"


def test_lists_of_processors():
    assert parse_list("0-2,5,7-8") == [0, 1, 2, 5, 7, 8]
    assert parse_list("") == []
    assert format_list([8, 7, 0, 1, 2, 5]) == "0-2,5,7-8"


def test_answers_of_the_kernel_are_decoded(monkeypatch):
    key, table = os.urandom(40), struct.pack("=4I", 0, 1, 2, 3)
    message = netlink._ReceiveSideScaling()
    header = {"attrs": [["ETHTOOL_A_HEADER_DEV_INDEX", 2]]}
    message["attrs"] = [
        ["ETHTOOL_A_RSS_HEADER", header],
        ["ETHTOOL_A_RSS_HFUNC", 1],
        ["ETHTOOL_A_RSS_INDIR", table],
        ["ETHTOOL_A_RSS_HKEY", key],
    ]
    message.encode()
    answer = netlink._ReceiveSideScaling(message.data)
    answer.decode()
    monkeypatch.setattr(netlink, "_ask", lambda *_, **__: [answer])
    assert netlink.Network().ethtool(2, "rss") == {"hfunc": 1, "indir": table, "hkey": key}


def link_message(index: int, name: str, *attributes: tuple[str, object], kind: str | None = None):
    message = ifinfmsg()
    message["index"], message["flags"], message["ifi_type"] = index, 1, 1
    info = [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})] if kind else []
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_MTU", 1500), *info, *attributes]
    message.encode()
    decoded = ifinfmsg(message.data)
    decoded.decode()
    return decoded


def route_message(*attributes: tuple[str, object], family: int = socket.AF_INET, kind: int = 1):
    message = rtmsg()
    message["family"], message["type"] = family, kind
    message["attrs"] = list(attributes)
    message.encode()
    decoded = rtmsg(message.data)
    decoded.decode()
    return decoded


class MadeRoutes:
    """In place of pyroute2's socket."""

    def __init__(self, links=(), routes=()):
        self.links, self.routes = links, routes

    def __call__(self):
        return contextlib.nullcontext(self)

    def get_addr(self):
        return []

    def get_links(self):
        return iter(self.links)

    def get_routes(self):
        return iter(self.routes)


def test_what_stands_on_an_interface_is_told_from_cables_and_from_other_namespaces(monkeypatch):
    on_eth0 = ("IFLA_LINK", 2)
    links = [
        link_message(2, "eth0", ("IFLA_LINK", 2)),
        link_message(3, "eth0.10", on_eth0, kind="vlan"),
        link_message(4, "container0", on_eth0, kind="macvlan"),
        # The kernel's own drivers (DSA ports) may have no kind.
        link_message(5, "lan0", on_eth0),
        link_message(6, "cable0", on_eth0, kind="veth"),
        link_message(7, "cable1", on_eth0, kind="netkit"),
        link_message(8, "far.10", on_eth0, ("IFLA_LINK_NETNSID", 0), kind="vlan"),
        link_message(9, "eth1.10", ("IFLA_LINK", 10), kind="vlan"),
    ]
    monkeypatch.setattr(netlink, "IPRoute", MadeRoutes(links))
    found = {link.name: link for link in netlink.Network().links()}
    assert found.pop("eth0").uppers == ("eth0.10", "container0", "lan0")
    assert {link.uppers for link in found.values()} == {()}
    assert found["cable0"].peer == 2
    assert found["far.10"].peer is None


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (route_message(("RTA_DST", "198.51.100.0"), ("RTA_OIF", 2)), True),
        (route_message(("RTA_OIF", 2)), True),
        (route_message(("RTA_MULTIPATH", [{"oif": 3}, {"oif": 2}])), True),
        (route_message(("RTA_DST", "2001:db8::"), ("RTA_OIF", 2), family=socket.AF_INET6), True),
        (route_message(("RTA_OIF", 2), family=socket.AF_INET6), True),
        (route_message(("RTA_DST", "198.51.100.0"), ("RTA_OIF", 3)), False),
        (route_message(("RTA_DST", "192.0.2.1"), ("RTA_OIF", 2), kind=2), False),
        (route_message(("RTA_DST", "fe80::"), ("RTA_OIF", 2), family=socket.AF_INET6), False),
        (route_message(("RTA_DST", "ff00::"), ("RTA_OIF", 2), family=socket.AF_INET6), False),
    ],
)
def test_which_routes_make_an_interface_the_hosts(route, expected, monkeypatch):
    monkeypatch.setattr(netlink, "IPRoute", MadeRoutes(routes=[route]))
    assert netlink.Network().has_route(2) is expected


def test_lists_that_change_while_they_are_made_are_not_taken_for_whole(monkeypatch):
    class Interrupted(MadeRoutes):
        def get_routes(self):
            raise NetlinkDumpInterrupted

        get_links = get_routes

    monkeypatch.setattr(netlink, "IPRoute", Interrupted())
    with pytest.raises(Unseen, match="routes: dump interrupted"):
        netlink.Network().has_route(2)
    with pytest.raises(Unseen, match="netlink: dump interrupted"):
        netlink.Network().links()


@pytest.mark.parametrize("number", [95, 2, 22])
def test_what_a_driver_lacks_is_no_fault(number, monkeypatch):
    def refuse(*_args, **_named):
        raise NetlinkError(number)

    monkeypatch.setattr(netlink, "_ask", refuse)
    assert netlink.Network().ethtool(2, "rings") is None
    assert netlink.Network().xdp_features(2) is None


def test_what_the_kernel_refuses_to_tell_is_unknown(monkeypatch):
    def refuse(*_args, **_named):
        raise NetlinkError(1)

    monkeypatch.setattr(netlink, "_ask", refuse)
    with pytest.raises(Unseen, match="Operation not permitted"):
        netlink.Network().ethtool(2, "rings")


def test_several_are_several(tmp_path, capsys):
    found = findings(default_card(tmp_path), tmp_path)
    show([found["RSS"], found["GRO"], found["LRO"], found["link"]])
    assert "\n1 ok, 2 warnings, 1 problem\n" in capsys.readouterr().out


def test_every_check_says_what_and_why():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.matters.endswith(".")
        assert check.looks_at
