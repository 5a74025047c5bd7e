"""Checks of one interface: link, rings, queues, offloads, coalescing, XDP."""

from __future__ import annotations

import struct
from typing import Any

from dpi_probe._counted import counted
from dpi_probe.doctor.findings import (
    Change,
    Check,
    Outcome,
    Subject,
    inapplicable,
    ok,
    problem,
    warning,
)
from dpi_probe.doctor.netlink import HASHED_PORTS, XDP_BASIC, XDP_REDIRECT, XDP_ZERO_COPY
from dpi_probe.doctor.processors import local_processors
from dpi_probe.doctor.system import GIVEN_TO_SCRIPTS, held, setcap

# More descriptors take bursts of some milliseconds at 10 Gbps; beyond that they only cost cache.
RING = 4096
# An interrupt held back longer than this is a good part of the 10 ms in which a packet should be processed.
LONGEST_COALESCING_US = 1000
COALESCING_US = 50
# Receive counters of struct rtnl_link_stats64 that mean: the interface had no room for the frame.
_LOST = ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors")
# RXH_XFRM_SYM_XOR and RXH_XFRM_SYM_OR_XOR of include/uapi/linux/ethtool.h.
_SYMMETRIC_TRANSFORM = 0b11
_TOEPLITZ = 1
# Interrupts of these are sent by a hypervisor, which decides how long they wait.
_PARAVIRTUAL = {"virtio_net", "xen-netfront", "hv_netvsc"}


def _driver(subject: Subject) -> str:
    """The driver's name, or the kind of virtual interface."""
    return subject.machine.link_name(f"{subject.sysfs}/device/driver") or subject.interface.kind or "virtual"


def _lacks(subject: Subject, what: str) -> Outcome:
    return inapplicable(f"{_driver(subject)} has no {what}")


def _lost(subject: Subject) -> int:
    return sum(subject.machine.number(f"{subject.sysfs}/statistics/{name}") or 0 for name in _LOST)


def _link(subject: Subject) -> Outcome:
    link = subject.interface
    speed = subject.machine.number(f"{subject.sysfs}/speed")
    parts = [_driver(subject), f"MTU {link.mtu}"]
    if speed is not None and speed > 0:
        parts.insert(1, f"{speed:,} Mb/s")
    said = ", ".join(parts)
    if not link.up:
        return problem(f"{said}; the interface is down", f"ip link set dev {link.name} up")
    if not link.carrier:
        return warning(f"{said}; no carrier: nothing is plugged in, or the other end is down")
    return ok(said)


def _ring(subject: Subject) -> Outcome:
    rings = subject.machine.network.ethtool(subject.interface.index, "rings")
    if rings is None or not rings.get("rx_max"):
        return _lacks(subject, "receive ring")
    size, largest, lost = rings["rx"], rings["rx_max"], _lost(subject)
    wanted = min(largest, RING)
    said = f"{size} of at most {largest} descriptors"
    if lost:
        said += f"; {lost:,} frames found no room since the driver was loaded"
    if size >= wanted:
        return warning(said) if lost else ok(said)
    name = subject.interface.name
    change = Change("rings", "rx", str(wanted), interface=name)
    return (problem if lost else warning)(said, f"ethtool -G {name} rx {wanted}", change)


def _queues(subject: Subject) -> tuple[int, int, str]:
    """Receive queues: how many, the most, and what ethtool calls them; 0, 0 where the driver has no channels."""
    channels = subject.machine.network.ethtool(subject.interface.index, "channels") or {}
    if channels.get("combined_max"):
        return channels.get("combined_count", 0) + channels.get("rx_count", 0), channels["combined_max"], "combined"
    return channels.get("rx_count", 0), channels.get("rx_max", 0), "rx"


def _channels(subject: Subject) -> Outcome:
    count, most, kind = _queues(subject)
    if not most:
        return _lacks(subject, "channels")
    processors = len(local_processors(subject.machine, subject.sysfs))
    said = f"{count} of at most {most} receive queues, {counted(processors, 'processor')} near the interface"
    wanted = min(most, processors)
    if count == 1 and wanted > 1 and subject.machine.names(f"{subject.sysfs}/device"):
        return warning(said, f"ethtool -L {subject.interface.name} {kind} {wanted}")
    return ok(said)


def _rss(subject: Subject) -> Outcome:
    count, _, _ = _queues(subject)
    if count <= 1:
        return inapplicable("one receive queue: nothing to spread")
    rss = subject.machine.network.ethtool(subject.interface.index, "rss")
    if rss is None:
        return _lacks(subject, "receive-side scaling")
    name, faults, commands = subject.interface.name, [], []
    if "indir" in rss:
        table = struct.unpack(f"={len(rss['indir']) // 4}I", rss["indir"])
        used = len(set(table))
        if used < count:
            faults.append(f"the indirection table uses {used} of {count} queues")
            commands.append(f"ethtool -X {name} equal {count}")
    symmetric = is_symmetric(rss)
    if symmetric is False:
        faults.append("the hash is not symmetric: both directions of a flow reach different queues")
        key = ":".join(["6d:5a"] * (len(rss["hkey"]) // 2))
        commands.append(f"ethtool -X {name} hkey {key}")
    hashed = subject.machine.network.hash_fields(name)
    # TCP is hardly ever in fragments, and many cards cannot hash it without ports.
    datagrams = {flow_type: fields for flow_type, fields in hashed.items() if flow_type.startswith("udp")}
    if with_ports := [flow_type for flow_type, fields in datagrams.items() if fields & HASHED_PORTS]:
        faults.append(
            f"ports are hashed ({', '.join(with_ports)}): fragments, which have none, reach other queues than the rest "
            "of their flow"
        )
        commands += [f"ethtool -N {name} rx-flow-hash {flow_type} sd" for flow_type in with_ports]
    if faults:
        return warning("; ".join(faults), " && ".join(commands))
    ports = "no ports of UDP in it" if datagrams else "the driver does not tell whether ports are in it"
    if symmetric is None:
        return ok(f"{count} queues; the driver does not tell its hash; {ports}")
    return ok(f"{count} queues, all used, symmetric hash, {ports}")


def is_symmetric(rss: dict[str, Any]) -> bool | None:
    """Whether both directions of a flow get the same hash; None where the driver tells too little.

    A Toeplitz key that repeats after 16 bits hashes source and destination alike, because exchanging them moves the
    input by a multiple of 16 bits.
    """
    if rss.get("input_xfrm", 0) & _SYMMETRIC_TRANSFORM:
        return True
    key = rss.get("hkey")
    if not key or rss.get("hfunc", _TOEPLITZ) != _TOEPLITZ:
        return None
    return all(key[at : at + 2] == key[:2] for at in range(0, len(key) - 1, 2))


def _features(subject: Subject) -> tuple[set[str], set[str]]:
    """Features that are on, and those that can be changed."""
    features = subject.machine.network.ethtool(subject.interface.index, "features") or {}
    return features.get("active", set()), features.get("hw", set())


def _gro(subject: Subject) -> Outcome:
    active, changeable = _features(subject)
    on = [name for name in ("rx-gro", "rx-gro-hw") if name in active]
    if not on:
        return ok("off")
    name, said = subject.interface.name, f"on ({', '.join(on)})"
    command = f"ethtool -K {name} gro off" + (" rx-gro-hw off" if "rx-gro-hw" in on else "")
    if not subject.dedicated:
        # The host's own connections need it: only the user can weigh that.
        return warning(f"{said}; the host itself uses this interface and gains by it", command)
    changes = [
        Change("features", feature, "off", interface=name)
        for feature in on
        if feature == "rx-gro" or feature in changeable
    ]
    return warning(said, command, *changes)


def _lro(subject: Subject) -> Outcome:
    active, changeable = _features(subject)
    if "rx-lro" not in active:
        return ok("off") if "rx-lro" in changeable else _lacks(subject, "LRO")
    name = subject.interface.name
    change = Change("features", "rx-lro", "off", interface=name)
    return problem("on", f"ethtool -K {name} rx-lro off", change)


def _segmentation(subject: Subject) -> Outcome:
    link = subject.interface
    # Those of which capture sees the frames as they were sent: this host's own, and a veth's peer's.
    senders = [] if subject.dedicated else [(link, "on")]
    if link.kind == "veth":
        peer = next((other for other in subject.machine.network.links() if other.index == link.peer), None)
        if peer is None:
            return Outcome(
                "unknown",
                "the other end of the cable is in another network namespace, and its setting counts, for its frames "
                "arrive as they were sent: `ethtool -k` shows it there",
            )
        senders.insert(0, (peer, f"on at {peer.name}, the other end, whose frames arrive as they were sent"))
    if not senders:
        return inapplicable("this host sends nothing here")
    said, commands = [], []
    for sender, where in senders:
        active, _ = _features(Subject(subject.machine, subject.settings, sender))
        on = [
            name
            for name in (
                "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "tx-udp-segmentation",
            )
            if name in active
        ]  # fmt: skip
        if on:
            # ethtool's short names: tso is all of tx-tcp*, gso is tx-generic-segmentation.
            short = {"tx-generic-segmentation": "gso", "tx-udp-segmentation": "tx-udp-segmentation"}
            switches = dict.fromkeys(short.get(feature, "tso") for feature in on)
            said.append(f"{where} ({', '.join(on)})")
            commands.append(f"ethtool -K {sender.name} {' '.join(f'{switch} off' for switch in switches)}")
    return warning("; ".join(said), " && ".join(commands)) if said else ok("off")


def _coalescing(subject: Subject) -> Outcome:
    coalesce = subject.machine.network.ethtool(subject.interface.index, "coalesce")
    if not coalesce or "rx_usecs" not in coalesce:
        return _lacks(subject, "interrupt coalescing that can be read")
    usecs, frames = coalesce["rx_usecs"], coalesce.get("rx_max_frames", 0)
    if usecs == 0 and _driver(subject) in _PARAVIRTUAL:
        return inapplicable(f"{_driver(subject)} leaves it to the hypervisor")
    if coalesce.get("use_adaptive_rx"):
        return ok(f"adaptive, {usecs} µs at present")
    said = f"{usecs} µs" + (f" or {frames} frames" if frames else "")
    name = subject.interface.name
    command = f"ethtool -C {name} rx-usecs {COALESCING_US}"
    change = Change("coalesce", "rx_usecs", str(COALESCING_US), interface=name)
    if usecs > LONGEST_COALESCING_US:
        return warning(f"{said}: that long a packet waits before it is seen", command, change)
    if usecs == 0 and frames <= 1:
        return warning(f"{said}: one interrupt for each packet", command, change)
    return ok(said)


def _xdp(subject: Subject) -> Outcome:
    link = subject.interface
    if link.xdp is not None:
        return warning(
            f"a program is attached ({link.xdp}); what it drops or redirects is never captured; the command shows "
            "which one: the host's network or its filter may be in it, so only whoever attached it should take it off",
            f"bpftool net show dev {link.name}",
        )
    features = subject.machine.network.xdp_features(link.index)
    if features is None:
        return Outcome("unknown", "this kernel does not tell what the driver supports (Linux 6.3 and later do)")
    if not features & XDP_BASIC or not features & XDP_REDIRECT:
        return inapplicable(f"{_driver(subject)} has no native XDP; AF_PACKET is the mode for it")
    return ok("native" + (", AF_XDP without copies" if features & XDP_ZERO_COPY else ", AF_XDP with copies"))


def _timestamps(subject: Subject) -> Outcome:
    wanted = subject.settings.timestamps == "hardware"
    told = subject.machine.network.ethtool(subject.interface.index, "timestamping")
    if told is None or "hardware-receive" not in told.get("timestamping", set()):
        if wanted:
            return warning(
                f"{_driver(subject)} has no hardware time stamps; the kernel's are used", "TIMESTAMPS=kernel"
            )
        if told is None:
            return _lacks(subject, "time stamps of its own; the kernel's are used")
        return inapplicable(f"{_driver(subject)} has no hardware time stamps; the kernel's are used")
    clock = told.get("phc_index")
    said = "the hardware can stamp received frames" + ("" if clock is None else f" (clock /dev/ptp{clock})")
    if not wanted:
        return ok(f"{said}; the kernel's are used (TIMESTAMPS=kernel)")
    if "CAP_NET_ADMIN" not in held(subject):
        return warning(
            f"{said}, but without CAP_NET_ADMIN it cannot be told to; the kernel's are used; {GIVEN_TO_SCRIPTS}",
            setcap(subject),
        )
    return ok(f"{said}, and does (TIMESTAMPS=hardware)")


CHECKS = (
    Check(
        "link",
        "interface",
        "state, carrier, driver, speed and MTU (rtnetlink, sysfs)",
        "An interface that is down delivers nothing.",
        _link,
    ),
    Check(
        "receive ring",
        "interface",
        "descriptors in use and at most (ethtool), frames that found no room (sysfs statistics)",
        "The ring takes bursts while the kernel is busy. What finds no room is lost before the probe sees it.",
        _ring,
    ),
    Check(
        "channels",
        "interface",
        "receive queues in use and at most (ethtool), processors of the interface's node",
        "One queue is served by one processor: above some 1.5 million packets a second it is what limits capture.",
        _channels,
    ),
    Check(
        "RSS",
        "interface",
        "indirection table, hash key and function, input transformation, and whether ports of UDP are hashed (ethtool)",
        "AF_XDP gets each queue apart, so both directions must hash alike, and fragments like the rest of their flow. "
        "AF_PACKET steers by itself; there it costs cache misses only.",
        _rss,
    ),
    Check(
        "GRO",
        "interface",
        "whether received segments are merged (ethtool features rx-gro, rx-gro-hw)",
        "Merged segments reach capture as one frame, larger than any on the wire: sizes and times of single packets "
        "are lost. It saves work at high rates.",
        _gro,
    ),
    Check(
        "LRO",
        "interface",
        "whether the hardware merges received segments (ethtool feature rx-lro)",
        "LRO rewrites headers when it merges; the original packets cannot be told again.",
        _lro,
    ),
    Check(
        "TSO",
        "interface",
        "whether frames that this host sends are cut by the hardware (ethtool features tx-*-segmentation)",
        "Capture sees what the host sends before it is cut: frames larger than any on the wire.",
        _segmentation,
    ),
    Check(
        "coalescing",
        "interface",
        "how long and for how many frames an interrupt is held back (ethtool)",
        "Too long delays every packet; none at all costs an interrupt for each.",
        _coalescing,
    ),
    Check(
        "XDP",
        "interface",
        "what the driver supports (netdev family), and whether a program is attached (rtnetlink)",
        "A program runs before capture and can take packets away. AF_XDP needs native support to be fast.",
        _xdp,
    ),
    Check(
        "time stamps",
        "interface",
        "whether the hardware can stamp received frames (ethtool), and which clock TIMESTAMPS asks for",
        "The kernel stamps a frame when it takes it from the ring, up to the coalescing time after it arrived.",
        _timestamps,
    ),
)
