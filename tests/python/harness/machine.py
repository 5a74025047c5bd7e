"""A machine with a physical network card, made by hand, for the checks of `doctor`.

None of this was recorded: there is no such card where the tests run. Paths, attribute names and forms are those of
Linux 6.x; the values are those that the documentation of the drivers ixgbe (Intel 82599) and mlx5 gives.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from dpi_probe.doctor.findings import Unseen
from dpi_probe.doctor.machine import ClockState, Machine
from dpi_probe.doctor.netlink import Link

if TYPE_CHECKING:
    from pathlib import Path

# The key of Microsoft's RSS verification suite, which drivers take where they make none up: not symmetric.
USUAL_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
SYMMETRIC_KEY = b"\x6d\x5a" * 20
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class MadeNetwork:
    """Answers as `netlink.Network` does, from what it was given."""

    def __init__(self, links: list[Link], ethtool: dict[str, dict[str, Any] | None], xdp: int | None = 0b1011) -> None:
        self.present = links
        self.answers = ethtool
        self.xdp = xdp
        # Addresses and ports, as most drivers begin.
        self.hashed = {"tcp4": 0xF0, "udp4": 0xF0, "tcp6": 0xF0, "udp6": 0xF0}
        self.refuses: dict[str, int] = {}
        """errno by name of what is set."""
        self.rounds: dict[str, int] = {}
        """What the driver makes of a value, by name."""
        self.calls: list[str] = []
        self.routed: set[int] = set()
        """Indexes of interfaces that the host has routes over."""

    def links(self) -> list[Link]:
        return list(self.present)

    def link(self, name: str) -> Link | None:
        return next((link for link in self.present if link.name == name), None)

    def has_route(self, index: int) -> bool:
        assert any(link.index == index for link in self.present)
        return index in self.routed

    def ethtool(self, index: int, what: str) -> dict[str, Any] | None:
        assert any(link.index == index for link in self.present)
        return self.answers.get(what)

    def hash_fields(self, name: str) -> dict[str, int]:
        assert any(link.name == name for link in self.present)
        return self.hashed

    def xdp_features(self, index: int) -> int | None:
        assert any(link.index == index for link in self.present)
        return self.xdp

    def set_ethtool(self, index: int, what: str, name: str, value: int | bool) -> None:
        assert any(link.index == index for link in self.present)
        self.calls.append(f"{what} {name} {value}")
        if name in self.refuses:
            raise OSError(self.refuses[name], os.strerror(self.refuses[name]))
        answer = self.answers[what]
        assert answer is not None
        if what == "features":
            answer["active"] = answer["active"] | {name} if value else answer["active"] - {name}
        else:
            answer[name] = self.rounds.get(name, value)


class MadeMachine(Machine):
    """A machine below a directory; some files may be forbidden."""

    def __init__(self, network: MadeNetwork, root: Path, files: dict[str, str]) -> None:
        super().__init__(network, root)  # type: ignore[arg-type]
        self.forbidden: set[str] = set()
        self.clock = ClockState(synchronised=True, error_seconds=0.004)
        for path, text in files.items():
            self.put(path, text)

    def put(self, path: str, text: str) -> None:
        """Write a file of the machine; one that is linked to, after `->`."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            place.symlink_to(text.removeprefix("->"))
        else:
            place.write_text(text + "\n")

    def text(self, path: str) -> str | None:
        if path in self.forbidden:
            raise Unseen(f"{path}: Permission denied")
        return super().text(path)

    def write(self, path: str, text: str) -> None:
        if path in self.forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        held = self.path(path).read_text()
        if "[" in held:
            # A choice of values, of which the chosen one is in brackets.
            values = held.replace("[", "").replace("]", "").split()
            assert text in values
            self.put(path, " ".join(f"[{value}]" if value == text else value for value in values))
        else:
            self.put(path, text)

    def clock_state(self) -> ClockState:
        return self.clock


def interrupts(*served: int) -> dict[str, str]:
    """Files of a card with one receive interrupt for each processor named, and one for other things."""
    lines = ["           CPU0       CPU1       CPU2       CPU3"]
    files = {}
    for at, processor in enumerate(served):
        lines.append(
            f" {64 + at}:      {at}00          0          0          0  IR-PCI-MSI 52428{at}-edge  eth0-TxRx-{at}"
        )
        files[f"/proc/irq/{64 + at}/smp_affinity_list"] = "0-3"
        files[f"/proc/irq/{64 + at}/effective_affinity_list"] = str(processor)
        files[f"/sys/class/net/eth0/device/msi_irqs/{64 + at}"] = "msix"
    lines.append(" 80:          3          0          0          0  IR-PCI-MSI 524300-edge  eth0")
    lines.append("NMI:          0          0          0          0  Non-maskable interrupts")
    files["/proc/interrupts"] = "\n".join(lines)
    return files


def default_card(root: Path) -> MadeMachine:
    """A 10 Gbit/s card as its driver sets it up, on the second of two nodes; two processors each; powersave."""
    files = {
        BOOT_ID: "0f6d5d54-9b1c-4c5c-9b5e-0c4f1f6a2b11",
        "/proc/self/status": "CapEff:\t0000000000003000\nCpus_allowed_list:\t0-3",
        "/proc/self/limits": "Limit    Soft Limit  Hard Limit  Units\nMax locked memory   8388608   8388608   bytes",
        "/proc/meminfo": "MemTotal: 16384000 kB\nMemAvailable: 12288000 kB\nHugePages_Total: 0\nHugepagesize: 2048 kB",
        "/proc/net/softnet_stat": "00000010 00000000 00000007\n00000010 00000003 00000000",
        "/proc/self/mountinfo": "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
        "/proc/1/comm": "systemd",
        "/proc/sys/net/core/netdev_max_backlog": "1000",
        "/proc/sys/net/core/netdev_budget": "300",
        "/proc/sys/net/core/bpf_jit_enable": "1",
        "/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet",
        "/sys/devices/system/clocksource/clocksource0/available_clocksource": "hpet tsc",
        "/sys/devices/system/cpu/online": "0-3",
        "/sys/devices/system/cpu/isolated": "",
        "/sys/devices/system/node/online": "0-1",
        "/sys/devices/system/node/node0/cpulist": "0-1",
        "/sys/devices/system/node/node1/cpulist": "2-3",
        "/sys/class/net/eth0/speed": "10000",
        "/sys/class/net/eth0/device/numa_node": "1",
        "/sys/class/net/eth0/device/driver": "->../../../bus/pci/drivers/ixgbe",
        "/sys/class/net/eth0/statistics/rx_missed_errors": "1200",
        "/sys/class/net/eth0/statistics/rx_fifo_errors": "0",
        **{f"/sys/devices/system/cpu/cpu{at}/cpufreq/scaling_governor": "powersave" for at in range(4)},
        **interrupts(0, 0, 0, 0),
    }
    link = Link(name="eth0", index=2, kind="", up=True, carrier=True, mtu=1500, addresses=0, master=None, xdp=None)
    ethtool: dict[str, dict[str, Any] | None] = {
        "rings": {"rx": 512, "rx_max": 8192, "tx": 512, "tx_max": 8192},
        "channels": {"combined_count": 4, "combined_max": 63, "other_count": 1, "other_max": 1},
        "rss": {"hfunc": 1, "hkey": USUAL_KEY, "indir": struct.pack("=128I", *[at % 2 for at in range(128)])},
        "features": {
            "active": {"rx-gro", "rx-lro", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"},
            "hw": {"rx-gro", "rx-lro", "tx-tcp-segmentation"},
        },
        "coalesce": {"rx_usecs": 0, "rx_max_frames": 0, "use_adaptive_rx": 0},
        "timestamping": {"timestamping": {"hardware-receive", "software-receive"}, "phc_index": 0},
    }
    return MadeMachine(MadeNetwork([link], ethtool), root, files)


def tuned_card(root: Path) -> MadeMachine:
    """The same card as one would set it up for capture."""
    machine = default_card(root)
    network: MadeNetwork = machine.network  # type: ignore[assignment]
    network.answers |= {
        "rings": {"rx": 4096, "rx_max": 8192},
        "channels": {"combined_count": 2, "combined_max": 63},
        "rss": {"hfunc": 1, "hkey": SYMMETRIC_KEY, "indir": struct.pack("=128I", *[at % 2 for at in range(128)])},
        "features": {"active": {"rx-checksum"}, "hw": {"rx-gro", "rx-lro"}},
        "coalesce": {"rx_usecs": 50, "rx_max_frames": 0, "use_adaptive_rx": 0},
    }
    network.hashed |= {"udp4": 0x30, "udp6": 0x30}
    files = {
        "/proc/self/status": "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3",
        "/proc/self/limits": "Max locked memory         unlimited            unlimited            bytes",
        "/proc/net/softnet_stat": "00000010 00000000 00000000",
        "/proc/sys/net/core/netdev_max_backlog": "10000",
        "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "/sys/class/net/eth0/statistics/rx_missed_errors": "0",
        **{f"/sys/devices/system/cpu/cpu{at}/cpufreq/scaling_governor": "performance" for at in range(4)},
        "/proc/irq/64/effective_affinity_list": "2",
        "/proc/irq/65/effective_affinity_list": "3",
        "/proc/irq/66/effective_affinity_list": "2",
        "/proc/irq/67/effective_affinity_list": "3",
    }
    for path, text in files.items():
        machine.put(path, text)
    return machine
